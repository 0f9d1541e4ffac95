"""Exchanging the embedder of a database: new vectors are staged, and take the old ones' places in one transaction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from psycopg.rows import class_row

from cirkelline.state import knowledge_settings
from cirkelline.state.connection import Conn
from cirkelline.state.tenant import Door

HOLD: Final = "SELECT runtime.hold_embedder()"


async def hold_embedder(door: Door) -> str | None:
    """Keep the database's embedder as it is until this transaction ends, and return it.

    Whoever stores vectors calls this first, in the same transaction: a switch waits for it, or has been.
    """
    row = await (await door.conn.execute(HOLD)).fetchone()
    return str(row[0]) if row and row[0] is not None else None


LOCK: Final = "SELECT pg_advisory_xact_lock(hashtext('cirkelline'), hashtext('embedder'))"


@dataclass(frozen=True, slots=True)
class Amount:
    """What is to be embedded: chunks, their documents, and characters."""

    chunks: int
    documents: int
    characters: int


# Of another embedder; those that name none are another program's and stay out unless they were asked for.
_OTHERS: Final = """
  FROM ai.cirkelline_knowledge_vectors v
 WHERE v.metadata ->> 'embedder' IS DISTINCT FROM %(embedder)s::text
   AND (%(adopted)s::boolean OR v.metadata ->> 'embedder' IS NOT NULL)
   AND v.chunk_text IS NOT NULL
"""
AMOUNT: Final = (
    "SELECT count(*) AS chunks, count(DISTINCT v.document_id) AS documents,"
    " coalesce(sum(length(v.chunk_text)), 0)::bigint AS characters" + _OTHERS
)


async def amount(conn: Conn, embedder: str, *, adopted: bool) -> Amount:
    """Return how much has vectors of another embedder than this one."""
    async with conn.cursor(row_factory=class_row(Amount)) as cursor:
        await cursor.execute(AMOUNT, {"embedder": embedder, "adopted": adopted})
        found = await cursor.fetchone()
    return found or Amount(0, 0, 0)


@dataclass(frozen=True, slots=True)
class Chunk:
    """A chunk to be embedded; `digest` is of its text."""

    id: int
    text: str
    heading: str | None
    digest: str


_UNSTAGED: Final = (
    _OTHERS
    + """   AND NOT EXISTS (SELECT FROM runtime.reindexed r
                    WHERE r.embedder = %(embedder)s AND r.chunk = v.id AND r.digest = md5(v.chunk_text))
"""
)
LEFT: Final = "SELECT count(*)" + _UNSTAGED
NEXT: Final = (
    "SELECT v.id, v.chunk_text AS text, v.metadata ->> 'heading' AS heading, md5(v.chunk_text) AS digest"
    + _UNSTAGED
    + " ORDER BY v.id LIMIT %(limit)s::integer"
)


async def left(conn: Conn, embedder: str, *, adopted: bool) -> int:
    """Return how many chunks have neither a vector of this embedder nor one staged."""
    row = await (await conn.execute(LEFT, {"embedder": embedder, "adopted": adopted})).fetchone()
    return int(row[0]) if row else 0


async def next_chunks(conn: Conn, embedder: str, *, adopted: bool, limit: int) -> list[Chunk]:
    """Return the next chunks to embed."""
    async with conn.cursor(row_factory=class_row(Chunk)) as cursor:
        await cursor.execute(NEXT, {"embedder": embedder, "adopted": adopted, "limit": limit})
        return await cursor.fetchall()


STAGE: Final = """
INSERT INTO runtime.reindexed (embedder, chunk, digest, embedding)
VALUES (%(embedder)s::text, %(chunk)s::bigint, %(digest)s::text, %(embedding)s::real[])
ON CONFLICT (embedder, chunk) DO UPDATE SET digest = excluded.digest, embedding = excluded.embedding
"""


async def stage(conn: Conn, embedder: str, chunks: Sequence[Chunk], vectors: Sequence[Sequence[float]]) -> None:
    """Put new vectors aside."""
    rows = [
        {"embedder": embedder, "chunk": chunk.id, "digest": chunk.digest, "embedding": list(vector)}
        for chunk, vector in zip(chunks, vectors, strict=True)
    ]
    async with conn.transaction(), conn.cursor() as cursor:
        await cursor.executemany(STAGE, rows)


# The cast to the vector type is the assignment's. What was changed since it was embedded keeps its old label, so that it
# is compared with nothing, and is embedded again.
SWAP: Final = """
UPDATE ai.cirkelline_knowledge_vectors v
   SET embedding = r.embedding,
       metadata = coalesce(v.metadata, '{}') || jsonb_build_object('embedder', r.embedder)
  FROM runtime.reindexed r
 WHERE r.embedder = %(embedder)s::text AND r.chunk = v.id AND r.digest = md5(v.chunk_text)
   AND v.metadata ->> 'embedder' IS DISTINCT FROM r.embedder
"""
# A document is of an embedder when all of its chunks are.
RELABEL: Final = """
UPDATE ai.agno_knowledge d SET metadata = d.metadata || jsonb_build_object('embedder', %(embedder)s::text)
 WHERE d.metadata ->> 'embedder' <> %(embedder)s
   AND NOT EXISTS (SELECT FROM ai.cirkelline_knowledge_vectors v
                    WHERE v.document_id = d.id AND v.metadata ->> 'embedder' IS DISTINCT FROM %(embedder)s)
"""
FORGET: Final = "DELETE FROM runtime.reindexed"


async def switch(conn: Conn, embedder: str, *, adopted: bool, allowed: int) -> int | None:
    """Let staged vectors take the old ones' places and this embedder come into force, in one transaction.

    Return how many chunks changed; None, and nothing has, when more than `allowed` chunks have no new vector yet.
    """
    async with conn.transaction():
        await conn.execute(LOCK)
        if await left(conn, embedder, adopted=adopted) > allowed:
            return None
        changed = (await conn.execute(SWAP, {"embedder": embedder})).rowcount
        await conn.execute(RELABEL, {"embedder": embedder})
        await conn.execute(FORGET)
        await knowledge_settings.change(conn, embedder=embedder)
    return changed
