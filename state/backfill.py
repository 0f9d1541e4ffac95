"""Taking in what other programs stored before the triggers stood: in batches, so that it waits for nobody for long."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from psycopg.rows import class_row

from cirkelline.state.connection import Conn

COUNTED: Final = 10_000  # how far a batch counts what remains behind it
BACKFILL: Final = "SELECT runtime.backfill_knowledge(%(limit)s::integer)"


async def backfill(conn: Conn, limit: int) -> int:
    """Make the next rows searchable, at most `limit` of each kind; return how many remain (counted up to COUNTED).

    Each call is a transaction of its own and goes on where the last one stopped. Rows that another program is just
    writing remain for a later call, so the number may stop falling for a while.
    """
    row = await (await conn.execute(BACKFILL, {"limit": limit})).fetchone()
    return int(row[0]) if row else 0


@dataclass(frozen=True, slots=True)
class Standing:
    """What can be searched, how many rows remain to be taken in, and how many could not be: `problem` says why of one.

    `indexed` is whether the first schema document's own vector index is there; our searches do not look at it.
    """

    documents: int
    chunks: int
    remaining: int
    failed: int
    problem: str | None
    indexed: bool


STANDING: Final = """
SELECT (SELECT count(*) FROM ai.knowledge_documents) AS documents, (SELECT count(*) FROM ai.knowledge_chunks) AS chunks,
       runtime.knowledge_remaining(9223372036854775807) AS remaining, count(f.*) AS failed,
       min(format('%%s %%s: %%s', f.kind, f.subject, f.problem)) AS problem,
       to_regclass('ai.idx_vectors_embedding') IS NOT NULL AS indexed
  FROM ai.knowledge_failures f WHERE f.tries >= 3
"""


async def standing(conn: Conn) -> Standing:
    """Return how far everything is. It counts: of a million chunks, for a second."""
    async with conn.cursor(row_factory=class_row(Standing)) as cursor:
        await cursor.execute(STANDING, {})
        found = await cursor.fetchone()
    if found is None:
        raise RuntimeError("a count returned no row")
    return found
