"""Taking in what other programs stored before the triggers stood: in batches, so that it waits for nobody for long."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from psycopg.rows import class_row

from cirkelline.state.connection import Conn

BACKFILL: Final = "SELECT runtime.backfill_knowledge(%(limit)s::integer)"


async def backfill(conn: Conn, limit: int) -> int:
    """Make the next rows searchable, at most `limit` of each kind; return how many remain (counted up to 10,000).

    Each call is a transaction of its own and goes on where the last one stopped. Rows that another program is just
    writing remain for a later call, so the number may stop falling for a while.
    """
    row = await (await conn.execute(BACKFILL, {"limit": limit})).fetchone()
    return int(row[0]) if row else 0


@dataclass(frozen=True, slots=True)
class Standing:
    """How far it is. `failed` rows could not be taken in, `problem` says why of one of them."""

    remaining: int
    failed: int
    problem: str | None


STANDING: Final = """
SELECT runtime.knowledge_remaining(9223372036854775807)::bigint AS remaining, count(f.*) AS failed,
       min(format('%%s %%s: %%s', f.kind, f.subject, f.problem)) AS problem
  FROM ai.knowledge_failures f WHERE f.tries >= 3
"""


async def standing(conn: Conn) -> Standing:
    """Return how many rows remain to be taken in, and what could not be."""
    async with conn.cursor(row_factory=class_row(Standing)) as cursor:
        await cursor.execute(STANDING, {})
        return await cursor.fetchone() or Standing(0, 0, None)
