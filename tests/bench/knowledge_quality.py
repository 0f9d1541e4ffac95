"""How good search is on real text: `python tests/bench/knowledge_quality.py [--sweep] [SET ...]`.

Sets: `faq` (Python's FAQ out of Debian's package python3.11-doc, which is fetched with apt-get if it is not installed),
`docstrings` (400 of the standard library), `danish` (danish.yaml, with the language set to danish). Each goes through the
real thing: read, cut, embedded by MiniLM, stored for a user and searched by SQL, on DATABASE_URL's server or an embedded
one. Prints recall@5 and MRR@10 of each mode with the settings as they are by default; with `--sweep` also what other
saturations would give.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from uuid import UUID, uuid4

import knowledge_sets
import psycopg
from knowledge_sets import QualitySet
from psycopg import conninfo

from cirkelline.state import embedded, knowledge, knowledge_settings, migrations, searching, users
from cirkelline.state.connection import Database
from cirkelline.state.knowledge_settings import KnowledgeSettings
from cirkelline.state.searching import Mode
from cirkelline.state.tenant import tenant
from cirkelline.tools.embedding import Embedder, EmbedderPool

ALLOWED: Final = 0.02  # how far hybrid may fall below the better of its arms
SATURATIONS: Final = (1, 2, 3, 5, 7, 10, 15, 20, 30, 50, 100)
EVERYTHING: Final = 1000


@dataclass(frozen=True, slots=True)
class Found:
    """What one question found: by mode the passages in order, and every hit with both its scores."""

    wanted: int
    passages: dict[Mode, list[int]]
    scored: list[tuple[int, float, float]]  # passage, cosine, BM25


@contextmanager
def server() -> Iterator[str]:
    if url := os.environ.get("DATABASE_URL"):
        yield url.replace("postgresql+psycopg://", "postgresql://")
        return
    with tempfile.TemporaryDirectory(prefix="ckl-") as home:
        running = embedded.ensure(Path(home))
        try:
            yield running.url()
        finally:
            running.release()
            embedded.stop(Path(home))


@asynccontextmanager
async def database(url: str) -> AsyncIterator[Database]:
    """A database of the benchmark's own."""
    name = f"cirkelline_quality_{uuid4().hex[:12]}"
    with psycopg.connect(url, autocommit=True) as conn:
        conn.execute(f'CREATE DATABASE "{name}"')  # type: ignore[call-overload]
    own = conninfo.make_conninfo(url, dbname=name)
    try:
        await migrations.migrate(own)
        async with Database.open(own) as db:
            yield db
    finally:
        with psycopg.connect(url, autocommit=True) as conn:
            conn.execute(f'DROP DATABASE "{name}" WITH (FORCE)')  # type: ignore[call-overload]


async def stored(db: Database, which: QualitySet, embedder: Embedder) -> UUID:
    """Store a set as somebody's documents, one a passage, named by its number."""
    async with db.transaction() as conn:
        await knowledge_settings.change(conn, language=which.language)
        owner = (await users.ensure(conn, "reader@example.com")).id
    for number, pieces in enumerate(which.passages):
        vectors = await embedder.embed([piece.embedded for piece in pieces])
        chunks = [
            knowledge.NewChunk(
                text=piece.text, embedding=vector, page=piece.page, offset=piece.offset, heading=piece.heading
            )
            for piece, vector in zip(pieces, vectors, strict=True)
        ]
        document = knowledge.NewDocument(
            source=f"/passages/{number}", name=str(number), file_name=None, content_type=None,
            document_type="text", content_hash=str(number),
        )  # fmt: skip
        async with tenant(db, owner) as door:
            await knowledge.store(door, document, chunks, embedder=embedder.label)
    return owner


async def asked(db: Database, owner: UUID, which: QualitySet, embedder: Embedder) -> list[Found]:
    vectors = await embedder.embed([question for question, _ in which.questions], query=True)
    found: list[Found] = []
    for (question, wanted), vector in zip(which.questions, vectors, strict=True):
        async with tenant(db, owner) as door:
            hits = {
                mode: await searching.search(
                    door, question, embedding=vector, embedder=embedder.label, limit=10, mode=mode
                )
                for mode in Mode
            }
            every = await searching.search(
                door, question, embedding=vector, embedder=embedder.label, limit=EVERYTHING, mode=Mode.HYBRID
            )
        found.append(
            Found(
                wanted,
                {mode: [int(hit.document) for hit in each] for mode, each in hits.items()},
                [(int(hit.document), hit.similarity or 0.0, hit.bm25 or 0.0) for hit in every],
            )
        )
    return found


def judged(ranked: Sequence[tuple[int, Sequence[int]]]) -> tuple[float, float]:
    """Return recall@5 and MRR@10 of (wanted passage, passages in order)."""
    places = [next((place for place, each in enumerate(order, 1) if each == wanted), 0) for wanted, order in ranked]
    recall = sum(1 for place in places if 0 < place <= 5) / len(places)
    return recall, sum(1 / place for place in places if place) / len(places)


def fused(found: Found, score: Callable[[float, float], float]) -> list[int]:
    """Return the passages of the ten best hits by another score."""
    best = sorted(found.scored, key=lambda hit: -score(hit[1], hit[2]))[:10]
    return [passage for passage, _, _ in best]


def report(which: QualitySet, found: Sequence[Found], settings: KnowledgeSettings, *, sweep: bool) -> bool:
    pieces = sum(map(len, which.passages))
    say(f"{which.name}: {len(found)} questions, {len(which.passages)} passages in {pieces} chunks, in {which.language}")
    figures = {mode: judged([(each.wanted, each.passages[mode]) for each in found]) for mode in Mode}
    for mode, (recall, mrr) in figures.items():
        say(f"  {mode.value:<8} recall@5 {recall:.3f}  MRR@10 {mrr:.3f}")
    better = max(figures[Mode.VECTOR][1], figures[Mode.WORDS][1])
    fair = figures[Mode.HYBRID][1] >= better - ALLOWED
    say(
        f"  hybrid against the better of its arms: {figures[Mode.HYBRID][1] - better:+.3f} ({'ok' if fair else 'TOO LOW'})"
    )
    if sweep:
        for saturation in SATURATIONS:
            recall, mrr = judged([(each.wanted, fused(each, weighing(settings, saturation))) for each in found])
            say(f"    saturation {saturation:>3}  recall@5 {recall:.3f}  MRR@10 {mrr:.3f}  {mrr - better:+.3f}")
    return fair


def weighing(settings: KnowledgeSettings, saturation: float) -> Callable[[float, float], float]:
    vector, words = settings.vector_weight, settings.word_weight
    return lambda cosine, bm25: vector * cosine + words * bm25 / (bm25 + saturation)


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


async def gathered(names: Sequence[str], embedder: Embedder) -> AsyncIterator[QualitySet]:
    if "faq" in names:
        if folder := knowledge_sets.faq_folder():
            yield await knowledge_sets.faq(folder, embedder)
        else:
            say(f"Python FAQ: left out, as the package {knowledge_sets.FAQ_PACKAGE} is neither here nor to be fetched")
    if "docstrings" in names:
        yield knowledge_sets.docstrings(embedder)
    if "danish" in names:
        yield knowledge_sets.danish(embedder)


async def measured(url: str, names: Sequence[str], *, sweep: bool) -> bool:
    fair = True
    async with EmbedderPool(os.environ) as pool:
        embedder = await pool.get("minilm")
        async for which in gathered(names, embedder):
            async with database(url) as db:
                owner = await stored(db, which, embedder)
                found = await asked(db, owner, which, embedder)
                async with db.transaction() as conn:
                    settings = await knowledge_settings.read(conn)
            fair = report(which, found, settings, sweep=sweep) and fair
    return fair


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("sets", nargs="*", metavar="SET", help="faq, docstrings, danish; by default all")
    parser.add_argument("--sweep", action="store_true", help="show other saturations too")
    given = parser.parse_args()
    with server() as url:
        fair = asyncio.run(measured(url, given.sets or ("faq", "docstrings", "danish"), sweep=given.sweep))
    sys.exit(0 if fair else 1)


if __name__ == "__main__":
    main()
