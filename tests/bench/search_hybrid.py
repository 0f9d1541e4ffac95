"""What a search by meaning and words costs, beside agno's on the same chunks: `python tests/bench/search_hybrid.py`.

A user with 1,000 chunks and one with 10,000, among 20,000 of others. A question is a few words of one of the user's chunks
and a point near its embedding. `cpu_ms` is the backend's processor time for a whole search through the tenant's door, its
transaction included. agno's PgVector (hybrid, as it comes) has the user's chunks in a table of its own with nobody else's,
and is measured by its own backend; both take turns. `bm25_difference` is the largest between our word scores and those of
bm25s (method lucene, k1 1.2, b 0.75) on the same words, over every chunk that is found.

agno's database part comes from the package index into a virtual environment that is thrown away (--peer 0 leaves it out).
Prints JSON lines; works on DATABASE_URL's server (on this machine), or on an embedded one.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import tempfile
import time
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

import bm25s
import numpy as np
import psycopg
from corpora import EMBEDDER, Matrix, Owner, Space, alone, database, fill, processor_ms

from cirkelline.state import searching
from cirkelline.state.connection import Database
from cirkelline.state.searching import Hit, Mode
from cirkelline.state.tenant import tenant

SIZES = (1_000, 10_000)
OTHERS = [2_000] * 5 + [40] * 250
K = 10
PEER = (f"agno=={metadata.version('agno')}", "sqlalchemy", "pgvector", "psycopg[binary]", "numpy")

# What a user of agno writes, in the environment where it is.
PEER_SEARCH = """
import json, sys
from pathlib import Path
import numpy as np
from agno.knowledge.document import Document
from agno.knowledge.embedder.base import Embedder
from agno.vectordb.pgvector import PgVector
from agno.vectordb.search import SearchType
from sqlalchemy import create_engine, text

url, folder, table, amount = sys.argv[1], Path(sys.argv[2]), sys.argv[3], int(sys.argv[4])
texts, questions = json.loads((folder / "texts.json").read_text()), json.loads((folder / "questions.json").read_text())
rows, asked = np.load(folder / "rows.npy"), np.load(folder / "asked.npy")
known = dict(zip(texts, rows.tolist())) | dict(zip(questions, asked.tolist()))

class Known(Embedder):
    dimensions = 768
    def get_embedding(self, text):
        return known[text]
    def get_embedding_and_usage(self, text):
        return known[text], None

engine = create_engine(url, pool_size=1, max_overflow=0)
store = PgVector(table, db_engine=engine, embedder=Known(dimensions=768), search_type=SearchType.hybrid)
if not store.exists():
    store.create()
    store.insert("all", [Document(content=each, name=str(n), id=str(n)) for n, each in enumerate(texts)], user_id="ann")
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as conn:
        conn.execute(text("VACUUM ANALYZE"))

with engine.connect() as conn:
    backend = conn.execute(text("SELECT pg_backend_pid()")).scalar()

def spent():
    return int(Path(f"/proc/{backend}/schedstat").read_text().split()[0]) / 1e6

found = store.search(questions[0], limit=10, user_id="ann")
assert found, "agno found nothing"
began = spent()
for question in questions[:amount]:
    store.search(question, limit=10, user_id="ann")
print(json.dumps((spent() - began) / amount))
"""


@contextmanager
def peer() -> Iterator[Path]:
    """A Python that has agno with its database part, for as long as it is needed."""
    with tempfile.TemporaryDirectory(prefix="peer") as folder:
        venv.create(folder, with_pip=True)
        python = Path(folder) / "bin" / "python"
        subprocess.run([python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *PEER], check=True)
        yield python


def questions(space: Space, owner: Owner, amount: int) -> tuple[list[str], Matrix]:
    """A few words of a chunk each, and a point near it."""
    chosen = space.random.choice(len(owner.ids), size=amount, replace=False)
    said = []
    for index in chosen:
        words = sorted(set(owner.texts[index].split()))
        said.append(" ".join(space.random.choice(words, size=5, replace=False)))
    noise = space.around(space.some_topics(amount))
    near = owner.embeddings[chosen] + noise
    return said, (near / np.linalg.norm(near, axis=1, keepdims=True)).astype(np.float32)


class Side:
    """One user's chunks and questions, and what each side took for them."""

    def __init__(self, space: Space, owner: Owner, amount: int) -> None:
        self.owner = owner
        self.said, self.near = questions(space, owner, amount)
        self.spent: dict[str, list[float]] = {}

    def note(self, what: str, milliseconds: float) -> None:
        self.spent.setdefault(what, []).append(milliseconds)

    def cost(self, what: str) -> float:
        """The mean over the turns."""
        return sum(self.spent[what]) / len(self.spent[what])

    async def ask(self, db: Database, question: int, mode: Mode, limit: int = K) -> list[Hit]:
        async with tenant(db, self.owner.id) as door:
            return await searching.search(
                door,
                self.said[question],
                embedding=None if mode is Mode.WORDS else self.near[question].tolist(),
                embedder=EMBEDDER,
                limit=limit,
                mode=mode,
            )

    async def ours(self, db: Database) -> None:
        """Ask every question once in each mode."""
        async with db.connection() as conn:
            backend = conn.info.backend_pid
        for mode in Mode:
            await self.ask(db, 0, mode)
            began = processor_ms(backend)
            for question in range(len(self.said)):
                await self.ask(db, question, mode)
            self.note(mode.value, (processor_ms(backend) - began) / len(self.said))

    def theirs(self, python: Path, url: str, amount: int) -> None:
        """Let agno answer some of the same questions."""
        with tempfile.TemporaryDirectory() as folder:
            place = Path(folder)
            (place / "texts.json").write_text(json.dumps(self.owner.texts))
            (place / "questions.json").write_text(json.dumps(self.said))
            np.save(place / "rows.npy", self.owner.embeddings)
            np.save(place / "asked.npy", self.near)
            their_url = url.replace("postgresql://", "postgresql+psycopg://")
            arguments = [python, "-c", PEER_SEARCH, their_url, folder, f"peer_{len(self.owner.ids)}", str(amount)]
            self.note("agno", float(subprocess.check_output(arguments).splitlines()[-1]))

    async def bm25_difference(self, db: Database, url: str) -> float:
        """The largest difference to what bm25s says."""
        lexemes = await asyncio.to_thread(tokens, url, self.owner.texts)
        scorer = bm25s.BM25(method="lucene", k1=1.2, b=0.75, dtype="float64")
        scorer.index(lexemes, show_progress=False)
        index = {chunk: place for place, chunk in enumerate(self.owner.ids)}
        worst = 0.0
        for question, asked in enumerate(await asyncio.to_thread(tokens, url, self.said)):
            scores = scorer.get_scores(asked)
            hits = await self.ask(db, question, Mode.WORDS, limit=searching.MOST_HITS)
            best = sorted(scores[scores > 0], reverse=True)[: len(hits)]
            worst = max([worst, *(abs((hit.bm25 or 0) - scores[index[hit.chunk_id]]) for hit in hits)])
            worst = max([worst, *(abs((hit.bm25 or 0) - score) for hit, score in zip(hits, best, strict=True))])
        return float(worst)


TOKENS = """
SELECT array(SELECT lexeme FROM unnest(to_tsvector('english', text)) AS said (lexeme, positions, weights), unnest(positions))
  FROM unnest(%s::text[]) WITH ORDINALITY AS given (text, place) ORDER BY place
"""


def tokens(url: str, texts: list[str]) -> list[list[str]]:
    """The words that PostgreSQL sees in each text."""
    with psycopg.connect(url) as conn:
        return [row[0] for row in conn.execute(TOKENS, [texts]).fetchall()]


async def run(amount: int, rounds: int, peer_questions: int) -> None:
    space = Space(5)
    async with database() as url:
        owners = await asyncio.to_thread(fill, url, space, [*SIZES, *OTHERS], words=120)
        sides = [Side(space, owner, amount) for owner in owners[: len(SIZES)]]
        async with alone(url) as db:
            if peer_questions:
                with peer() as python:
                    for _ in range(rounds):
                        for side in sides:
                            await side.ours(db)
                            await asyncio.to_thread(side.theirs, python, url, peer_questions)
            else:
                for side in sides * rounds:
                    await side.ours(db)
            for side in sides:
                show(line(side) | {"bm25_difference": await side.bm25_difference(db, url)})
    show({"asked": {"hybrid_ms": [8, 30], "times_agno_at_1000": 20, "bm25_difference": 1e-6}})


def line(side: Side) -> dict[str, Any]:
    """What both took for one size of user."""
    costs = {f"{what}_ms": round(side.cost(what), 2) for what in side.spent}
    ratio = {"agno_times_ours": round(side.cost("agno") / side.cost("hybrid"), 1)} if "agno" in side.spent else {}
    return {"chunks": len(side.owner.ids), **costs, **ratio}


def show(said: dict[str, Any]) -> None:
    print(json.dumps(said), flush=True)  # noqa: T201 - its result


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--peer", type=int, default=5, help="how many of the questions agno gets; 0: none")
    given = parser.parse_args()
    began = time.monotonic()
    asyncio.run(run(given.questions, given.rounds, given.peer))
    show({"seconds": round(time.monotonic() - began)})


if __name__ == "__main__":
    main()
