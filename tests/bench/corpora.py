"""Users with documents, for the benchmarks of searching: made of numbers, and read back as numbers."""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID, uuid4

import numpy as np
import numpy.typing as npt
import psycopg
from psycopg import conninfo, sql

from cirkelline.state import embedded, migrations
from cirkelline.state.connection import Database

DIMENSIONS = 768
EMBEDDER = "bench:numbers"
TOPICS, TOPICS_OF_ONE = 400, 8
PER_DOCUMENT = 20
BATCH = 2_000

Matrix = npt.NDArray[np.float32]


@asynccontextmanager
async def database() -> AsyncIterator[str]:
    """The URL of a migrated database of its own, on DATABASE_URL's server or an embedded one."""
    given = os.environ.get("DATABASE_URL")
    server = None if given else await asyncio.to_thread(embedded.ensure, Path(tempfile.mkdtemp(prefix="search")))
    url = given or (server.url() if server else "")
    name = f"cirkelline_search_{uuid4().hex[:12]}"
    with psycopg.connect(url, autocommit=True) as conn:
        conn.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    fields = conninfo.conninfo_to_dict(url)
    host = str(fields.get("host") or "localhost")
    place = f"/{name}?host={host}" if host.startswith("/") else f"{host}:{fields.get('port') or 5432}/{name}"
    login = str(fields.get("user") or "") + (f":{fields['password']}" if fields.get("password") else "")
    own = f"postgresql://{login}@{place}"
    try:
        await migrations.migrate(own)
        yield own
    finally:
        with psycopg.connect(url, autocommit=True) as conn:
            conn.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))
        if server:
            await asyncio.to_thread(server.release)


@asynccontextmanager
async def alone(url: str) -> AsyncIterator[Database]:
    """A pool of one connection, so that one backend's processor time is all there is."""
    async with Database.open(url, connections=1) as db:
        yield db


def processor_ms(backend: int) -> float:
    """What a backend has taken of the processor so far. The server has to be on this machine."""
    return int(Path(f"/proc/{backend}/schedstat").read_text(encoding="ascii").split()[0]) / 1e6


@dataclass(frozen=True, slots=True)
class Owner:
    """A user with so many chunks about a few topics; `ids` and `texts` are its chunks' in the order of `embeddings`."""

    id: UUID
    topics: npt.NDArray[np.int64]
    embeddings: Matrix
    ids: list[int]
    texts: list[str]


class Space:
    """Topics in 768 dimensions, and points around them: a chunk's cosine with its topic is about 0.7."""

    def __init__(self, seed: int) -> None:
        self.random = np.random.default_rng(seed)
        self.topics = self._unit(self.random.normal(size=(TOPICS, DIMENSIONS)))

    def around(self, topics: npt.NDArray[np.int64]) -> Matrix:
        """A point near each of these topics."""
        noise = self._unit(self.random.normal(size=(len(topics), DIMENSIONS)))
        return self._unit(self.topics[topics] + noise)

    def some_topics(self, amount: int, *, but: Sequence[int] = ()) -> npt.NDArray[np.int64]:
        """Topics by chance."""
        left = np.setdiff1d(np.arange(TOPICS), np.asarray(but, dtype=np.int64))
        return self.random.choice(left, size=min(amount, len(left)), replace=False)

    @staticmethod
    def _unit(rows: npt.NDArray[np.float64]) -> Matrix:
        return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def sentences(random: np.random.Generator, amount: int, words: int = 120, vocabulary: int = 20_000) -> list[str]:
    """Texts of words that are as unevenly frequent as those of a language, less its stop words (Zipf and Mandelbrot)."""
    weights = 1 / np.arange(50, vocabulary + 50)
    chosen = random.choice(vocabulary, size=(amount, words), p=weights / weights.sum())
    names = np.array([f"w{number:x}q" for number in range(vocabulary)])
    return [" ".join(row) for row in names[chosen]]


def fill(url: str, space: Space, sizes: Sequence[int], *, words: int = 0) -> list[Owner]:
    """Give each size a user; documents of 20 chunks come in an order of chance, as they do when many users add them.

    The documents' vector index is dropped first: making it afterwards, for who wants it, takes a tenth of the time.
    """
    owners = [_owner(space, size) for size in sizes]
    pieces = [(owner, start) for owner in owners for start in range(0, len(owner.embeddings), PER_DOCUMENT)]
    space.random.shuffle(pieces)  # type: ignore[arg-type]
    with psycopg.connect(url) as conn:
        conn.execute("DROP INDEX ai.idx_vectors_embedding")
        for owner in owners:
            conn.execute("INSERT INTO runtime.users (id, email) VALUES (%s, %s)", [owner.id, f"{owner.id}@bench"])
        _load(conn, space, pieces, words)
        conn.commit()
        conn.autocommit = True
        conn.execute("VACUUM ANALYZE")
    return owners


def _owner(space: Space, size: int) -> Owner:
    topics = space.some_topics(TOPICS_OF_ONE)
    return Owner(uuid4(), topics, space.around(space.random.choice(topics, size=size)), [0] * size, [""] * size)


def _load(conn: psycopg.Connection, space: Space, pieces: list[tuple[Owner, int]], words: int) -> None:
    documents = "COPY ai.agno_knowledge (id, name, metadata) FROM STDIN"
    with conn.cursor().copy(documents) as copy:
        for number, (owner, _) in enumerate(pieces, 1):
            copy.write_row((number, f"document {number}", f'{{"user_id": "{owner.id}", "document_type": "text"}}'))
    chunk, per_batch = 0, BATCH // PER_DOCUMENT
    for begin in range(0, len(pieces), per_batch):
        batch = pieces[begin : begin + per_batch]
        texts = _texts(space, sum(len(o.embeddings[s : s + PER_DOCUMENT]) for o, s in batch), words)
        statement = "COPY ai.cirkelline_knowledge_vectors (id, embedding, chunk_text, document_id, metadata) FROM STDIN"
        with conn.cursor().copy(statement) as copy:
            for number, (owner, start) in enumerate(batch, begin + 1):
                for index, row in enumerate(owner.embeddings[start : start + PER_DOCUMENT], start):
                    chunk += 1
                    owner.ids[index], owner.texts[index] = chunk, next(texts)
                    metadata = f'{{"user_id": "{owner.id}", "embedder": "{EMBEDDER}"}}'
                    copy.write_row(
                        (chunk, "[" + ",".join(map(str, row.tolist())) + "]", owner.texts[index], number, metadata)
                    )


def _texts(space: Space, amount: int, words: int) -> Iterator[str]:
    return iter(sentences(space.random, amount, words) if words else ["text"] * amount)
