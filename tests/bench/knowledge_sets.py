"""Questions whose answers are known, over real text: what search is judged by."""

from __future__ import annotations

import importlib
import inspect
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import yaml

from cirkelline.tools import reading
from cirkelline.tools.embedding import Embedder
from cirkelline.tools.reading import Block, Parsed, Piece

FAQ_PACKAGE: Final = "python3.11-doc"
FAQ_FOLDER: Final = "usr/share/doc/python3.11/html/faq"
DOCSTRINGS: Final = 400
SEED: Final = 7
_SHORTEST: Final = 15  # words of a docstring without its summary
_DANISH: Final = Path(__file__).with_name("danish.yaml")
# Packages whose import does something, or needs what a server has not.
_LEFT_ALONE: Final = frozenset({"antigravity", "this", "idlelib", "lib2to3", "tkinter", "turtle", "turtledemo", "test"})


@dataclass(frozen=True, slots=True)
class QualitySet:
    """Passages, each in pieces, and questions with the passage that answers them."""

    name: str
    language: str
    passages: Sequence[Sequence[Piece]]
    questions: Sequence[tuple[str, int]] = field(repr=False)


async def faq(folder: Path, embedder: Embedder) -> QualitySet:
    """Python's FAQ: each question is asked, and only its answer is stored, without the question."""
    passages: list[Sequence[Piece]] = []
    questions: list[tuple[str, int]] = []
    for source in reading.find([str(folder)]):
        if source.name == "index.html":
            continue
        parsed = await reading.parse(await reading.fetch(source))
        for question, answer in _sections(parsed):
            questions.append((question, len(passages)))
            passages.append(reading.chunk(answer, embedder))
    return QualitySet("Python FAQ", "english", passages, questions)


def _sections(parsed: Parsed) -> Iterator[tuple[str, Parsed]]:
    """Yield each heading that has a text of its own, and that text."""
    titles = [block for block in parsed.blocks if block.title]
    for title in titles:
        own = tuple(
            Block(block.text, None, block.offset, None, block.rows)
            for block in parsed.blocks
            if not block.title and block.heading == title.heading
        )
        if own:
            yield title.text, Parsed(text=parsed.text, document_type="html", content_type="text/html", blocks=own)


def faq_folder() -> Path | None:
    """Return the FAQ of Debian's package: installed, or downloaded into a folder of its own; None where there is none."""
    if (installed := Path("/") / FAQ_FOLDER).is_dir():
        return installed
    kept = Path(tempfile.gettempdir()) / f"cirkelline-{FAQ_PACKAGE}"
    if not (kept / FAQ_FOLDER).is_dir():
        kept.mkdir(exist_ok=True)
        try:
            subprocess.run(["apt-get", "download", FAQ_PACKAGE], cwd=kept, check=True, capture_output=True)
            [package] = kept.glob("*.deb")
            subprocess.run(["dpkg-deb", "-x", package, kept], check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError, ValueError):
            return None
    return kept / FAQ_FOLDER


def docstrings(embedder: Embedder) -> QualitySet:
    """The standard library's docstrings: the summary is asked, the rest is stored. 400 of them, the same each time."""
    found = sorted(_documented())
    chosen = random.Random(SEED).sample(found, DOCSTRINGS)  # noqa: S311 - not a secret
    passages = [reading.chunk(_prose(rest), embedder) for _, rest in chosen]
    return QualitySet(
        "stdlib docstrings", "english", passages, [(summary, place) for place, (summary, _) in enumerate(chosen)]
    )


def _documented() -> set[tuple[str, str]]:
    """Return summary and rest of every docstring that has both."""
    found: dict[str, str] = {}
    for name in sorted(sys.stdlib_module_names - _LEFT_ALONE):
        if name.startswith("_"):
            continue
        try:
            module = importlib.import_module(name)
        except Exception:  # noqa: BLE001, S112 - another system's module
            continue
        for thing in _things(module):
            summary, _, rest = (inspect.getdoc(thing) or "").partition("\n\n")
            summary = " ".join(summary.split())
            if len(rest.split()) >= _SHORTEST and 3 <= len(summary.split()) <= 40:
                found.setdefault(summary, rest)
    unique = {rest: summary for summary, rest in found.items()}
    return {(summary, rest) for rest, summary in unique.items()}


def _things(module: Any) -> Iterator[Any]:
    for _, thing in inspect.getmembers(module):
        if getattr(thing, "__module__", None) != module.__name__:
            continue
        if inspect.isroutine(thing):
            yield thing
        elif inspect.isclass(thing):
            yield thing
            yield from (each for each in vars(thing).values() if inspect.isroutine(each))


def danish(embedder: Embedder) -> QualitySet:
    """Passages as a Danish office has them, and questions in other words than theirs."""
    documents: list[dict[str, Any]] = yaml.safe_load(_DANISH.read_text(encoding="utf-8"))
    passages = [reading.chunk(_prose(document["text"]), embedder) for document in documents]
    questions = [(asked, place) for place, document in enumerate(documents) for asked in document["questions"]]
    return QualitySet("Danish", "danish", passages, questions)


def _prose(text: str) -> Parsed:
    text = text.strip()
    return Parsed(text=text, document_type="text", content_type="text/plain", blocks=(Block(text, None, 0),))
