"""How fast documents are taken in, and where the time goes: `python tests/bench/ingest_rate.py --documents 200`.

Documents of about 600 words each (three or four chunks), half of them Markdown, the rest HTML and PDF, embedded by MiniLM on
this machine and once more by a server that answers at once, which leaves what is ours: reading, cutting, storing. Then the
same again unchanged, and with one document in ten changed. Prints one JSON line each; stages are seconds, and overlap. It
works on DATABASE_URL's server, or on the embedded one, in a database of its own.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[1] / "runtime"))

from embedding_server import EmbeddingServer
from fpdf import FPDF
from journal_kills import workplace

WORDS = 600


def fill(folder: Path, amount: int, chance: random.Random) -> None:
    """Write documents of three kinds."""
    folder.mkdir(exist_ok=True)
    for number in range(amount):
        write(folder, number, chance)


def write(folder: Path, number: int, chance: random.Random) -> None:
    """Write one document, another one each time."""
    vocabulary = [
        f"{syllable}{ending}" for syllable in ("mar", "ten", "lo", "vi", "sun") for ending in ("", "a", "is", "er")
    ]
    paragraphs = [" ".join(chance.choices(vocabulary, k=100)) + "." for _ in range(WORDS // 100)]
    if number % 4 == 0:
        paper = FPDF()
        paper.set_font("Helvetica", size=11)
        for paragraph in paragraphs:
            paper.add_page()
            paper.multi_cell(0, text=paragraph)
        (folder / f"{number}.pdf").write_bytes(bytes(paper.output()))
    elif number % 4 == 1:
        body = "".join(f"<h2>Part {part}</h2><p>{each}</p>" for part, each in enumerate(paragraphs))
        (folder / f"{number}.html").write_text(f"<html><body>{body}</body></html>")
    else:
        text = "\n\n".join(f"## Part {part}\n\n{each}" for part, each in enumerate(paragraphs))
        (folder / f"{number}.md").write_text(text)


def added(url: str, folder: Path, environ: dict[str, str]) -> dict[str, Any]:
    """Add the folder by a command of its own, and return what it says and how long the whole command took."""
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "cirkelline", "knowledge", "add", str(folder), "--json"],
        env={**os.environ, "DATABASE_URL": url, "CIRKELLINE_USER": "bench", **environ},
        capture_output=True,
        check=True,
    )
    said = json.loads(done.stdout)
    return {
        "documents": said["documents"],
        "verdicts": said["verdicts"],
        "chunks": said["chunks"],
        "s": said["seconds"],
        "command_s": round(time.monotonic() - began, 2),
        "documents_per_s": round(said["documents"] / said["seconds"], 1),
        "chunks_per_s": round(said["chunks"] / said["seconds"], 1),
        "stages": said["stages"],
    }


async def measured(embedder: str, amount: int, environ: dict[str, str]) -> None:
    """Add, add again, change some and add."""
    chance = random.Random(1)  # noqa: S311 - to be repeated
    async with workplace() as place:
        folder = place.folder / "documents"
        fill(folder, amount, chance)
        for what in ("new", "unchanged", "a tenth changed"):
            if what == "a tenth changed":
                for number in range(0, amount, 10):
                    write(folder, number, chance)
            figures = await asyncio.to_thread(added, place.db.url, folder, environ)
            print(json.dumps({"ingest_rate": {"embedder": embedder, "what": what, **figures}}), flush=True)  # noqa: T201 - its result


async def both(amount: int) -> None:
    """Measure with both embedders."""
    with EmbeddingServer() as server:
        await measured("a server that answers at once", amount, server.environ)
    await measured("minilm", amount, {})


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--documents", type=int, default=200)
    asyncio.run(both(parser.parse_args().documents))


if __name__ == "__main__":
    main()
