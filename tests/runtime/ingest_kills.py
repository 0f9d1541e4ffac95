"""`knowledge add` killed at random while documents change and embedding fails now and then, with a searcher beside it."""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from embedding_server import EmbeddingServer, now_and_then, vector
from workplace import Workplace

from cirkelline.state import searching, users
from cirkelline.state.searching import Filter
from cirkelline.state.tenant import tenant

USER = "reader@example.com"
FAULTS = 0.04
PATIENCE = 60.0
_MARK = re.compile(r"\bd(\d+)v(\d+)\b")

# One statement, so one moment: every chunk of every document, as any outsider may read them.
STORED = """
SELECT k.id, v.chunk_text, v.metadata ->> 'chunk_total'
  FROM ai.agno_knowledge k LEFT JOIN ai.cirkelline_knowledge_vectors v ON v.document_id = k.id
"""


class Library:
    """A folder of documents; each has a number, and each of its versions says so in every few words."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder = folder
        self.versions: dict[int, int] = {}
        self._chance = random.Random(seed)  # noqa: S311 - to be repeated
        folder.mkdir()

    def write(self, number: int) -> None:
        """Write a document's next version, of another length, as an editor does: whole or not at all."""
        version = self.versions.get(number, 0) + 1
        paragraphs = [self._paragraph(number, version) for _ in range(self._chance.randint(1, 6))]
        self.versions[number] = version
        kind = ("md", "txt", "html")[number % 3]
        text = "\n\n".join(f"<p>{each}</p>" if kind == "html" else each for each in paragraphs)
        place = self.folder / f"document {number}.{kind}"
        draft = self.folder / ".draft"
        draft.write_text(f"<html><body>{text}</body></html>" if kind == "html" else text)
        draft.replace(place)

    def _paragraph(self, number: int, version: int) -> str:
        words = [f"word{self._chance.randint(0, 300)}" for _ in range(160)]
        return " ".join(f"d{number}v{version}" if place % 4 == 0 else word for place, word in enumerate(words)) + "."

    def change(self, share: float) -> None:
        """Change some documents."""
        for number in list(self.versions):
            if self._chance.random() < share:
                self.write(number)


@dataclass
class Searcher:
    """Looks at the database again and again; `faults` are the moments at which something was not as promised."""

    place: Workplace
    library: Library
    looks: int = 0
    swaps: int = 0
    faults: list[str] = field(default_factory=list[str])
    seen: dict[int, int] = field(default_factory=dict[int, int])

    async def look(self) -> None:
        """Read all chunks in one statement, then search one document through the door of its user."""
        self.looks += 1
        found: dict[int, list[tuple[str, str]]] = defaultdict(list)
        for document, text, total in await self.place.rows(STORED):
            found[document].append((text, total))
        for document, chunks in found.items():
            self._check(document, chunks)
        self.faults += [f"document {gone} is gone" for gone in self.seen.keys() - found.keys()]
        if self.seen:
            await self._search(random.choice(list(self.seen)))  # noqa: S311 - any of them

    def _check(self, document: int, chunks: list[tuple[str, str]]) -> None:
        marks = {mark for text, _ in chunks for mark in _MARK.findall(text or "")}
        if len(marks) != 1:
            self.faults.append(f"document {document} is a mix of {sorted(marks)}")
            return
        number, version = map(int, next(iter(marks)))
        if {total for _, total in chunks} != {str(len(chunks))}:
            self.faults.append(f"document {document} has {len(chunks)} chunks of {chunks[0][1]}")
        if version < self.seen.get(document, 0) or version > self.library.versions[number]:
            self.faults.append(f"document {document} went to version {version}")
        self.swaps += version != self.seen.get(document)
        self.seen[document] = version

    async def _search(self, document: int) -> None:
        async with self.place.db.connection() as conn:
            user = await users.ensure(conn, USER)
        async with tenant(self.place.db, user.id) as door:
            hits = await searching.search(
                door,
                "word1 word2 word3",
                embedding=vector("word1 word2 word3"),
                embedder="gemini:gemini-embedding-001",
                limit=50,
                filter=Filter(documents=[document]),
            )
        marks = {mark for hit in hits for mark in _MARK.findall(hit.text)}
        if len(marks) != 1 or len(hits) != min(50, hits[0].total or 0):
            self.faults.append(f"a search of document {document} found {len(hits)} chunks of {sorted(marks)}")


@asynccontextmanager
async def searching_all_along(searcher: Searcher) -> AsyncIterator[None]:
    """Look again and again until the block ends."""

    async def go_on() -> None:
        while True:
            await searcher.look()
            await asyncio.sleep(0.05)

    looking = asyncio.create_task(go_on())
    try:
        yield
    finally:
        looking.cancel()
        outcome = (await asyncio.gather(looking, return_exceptions=True))[0]
        if not isinstance(outcome, asyncio.CancelledError):
            searcher.faults.append(f"the searcher broke: {outcome!r}")


def command(place: Workplace, server: EmbeddingServer, *arguments: str) -> subprocess.Popen[bytes]:
    """Start a command as the user whose documents these are."""
    environ = {
        **os.environ,
        **server.environ,
        "DATABASE_URL": place.db.url,
        "CIRKELLINE_USER": USER,
        "CIRKELLINE_LEASE": "0.5",
        "CIRKELLINE_POLL": "0.2",
    }
    return subprocess.Popen(
        [sys.executable, "-m", "cirkelline", *arguments, "--json"],
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=place.folder,
    )


@dataclass(frozen=True)
class Outcome:
    """What all that came to."""

    killed: int
    looks: int
    swaps: int
    stored_before_the_last: int
    faults: list[str]
    verdicts: dict[str, int]
    runs: dict[str, int]


async def killed_again_and_again(
    place: Workplace, server: EmbeddingServer, *, documents: int, kills: int, seed: int
) -> Outcome:
    """Add a folder while processes are killed, then once to the end; return what was wrong at any moment."""
    chance, library = random.Random(seed), Library(place.folder / "library", seed)  # noqa: S311 - as above
    for number in range(documents // 2):
        library.write(number)
    searcher = Searcher(place, library)
    killed = 0
    server.fault = now_and_then(seed, FAULTS)
    async with searching_all_along(searcher):
        while killed < kills:
            process = command(place, server, "knowledge", "add", str(library.folder))
            await _comes_to(process, server, chance.randint(0, len(library.versions)), chance)
            if process.poll() is None:
                await _kill(process, searcher)
                killed += 1
            process.communicate()
            library.change(0.3)
            if len(library.versions) < documents:
                library.write(len(library.versions))
        swaps = searcher.swaps
        server.fault = lambda _number, _texts: None
        last = await _to_its_end(place, server, library)
        searcher.faults += await _faults_at_the_end(place, library, last)
        before = server.texts
        again = await _to_its_end(place, server, library)
        if again["verdicts"] != {"unchanged": len(library.versions)} or server.texts != before:
            searcher.faults.append(f"unchanged documents cost something: {again['verdicts']}")
    runs = await place.rows("SELECT status, count(*) FROM ai.workflow_runs GROUP BY status")
    return Outcome(
        killed,
        searcher.looks,
        searcher.swaps,
        swaps,
        searcher.faults,
        last["verdicts"],
        {str(one): count for one, count in runs},
    )


async def _comes_to(
    process: subprocess.Popen[bytes], server: EmbeddingServer, wanted: int, chance: random.Random
) -> None:
    """Wait for a place in a command's work: just after one of its requests for embeddings; 0 is while it starts."""
    if wanted == 0:
        await asyncio.sleep(chance.uniform(0.2, 3.0))
        return
    before, deadline = server.requests, time.monotonic() + PATIENCE
    while server.requests < before + wanted and process.poll() is None and time.monotonic() < deadline:  # noqa: ASYNC110 - in another thread
        await asyncio.sleep(0.002)
    await asyncio.sleep(chance.uniform(0, 0.15))


async def _kill(process: subprocess.Popen[bytes], searcher: Searcher) -> None:
    """Kill a process as a power cut does, and see to it that those it had started end with it."""
    children = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGKILL)
    process.wait()
    _, alive = await asyncio.to_thread(psutil.wait_procs, children, 10)
    searcher.faults += [f"a child of a killed process lives on: {child}" for child in alive]


async def _to_its_end(place: Workplace, server: EmbeddingServer, library: Library) -> Any:
    process = command(place, server, "knowledge", "add", str(library.folder))
    out, err = await asyncio.to_thread(process.communicate, None, 120)
    assert process.returncode == 0, err.decode()
    return json.loads(out)


async def _faults_at_the_end(place: Workplace, library: Library, last: Any) -> list[str]:
    """Return what is not as it should be when all is done: each document once, in its newest version."""
    newest: dict[int, set[tuple[str, ...]]] = defaultdict(set)
    for document, text, _ in await place.rows(STORED):
        newest[document] |= set(_MARK.findall(text))
    wanted = sorted((str(number), str(version)) for number, version in library.versions.items())
    found = sorted(mark for marks in newest.values() for mark in marks)
    faults = [] if found == wanted else [f"at the end there is {found} instead of {wanted}"]
    if last["documents"] != len(library.versions):
        faults.append(f"the last run speaks of {last['documents']} documents")
    return faults
