"""Memories as a run of memory_optimization reads and changes them, and takes its changes back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

from psycopg.rows import class_row

from cirkelline.state import jsonb
from cirkelline.state.tenant import Tenant


@dataclass(frozen=True, slots=True)
class Listed:
    """A memory that is in force."""

    id: int
    memory: str
    topics: list[str]
    since: datetime
    session_id: UUID | None
    message: int | None


@dataclass(frozen=True, slots=True)
class Pair:
    """Two memories that are near each other; `same` when they say exactly the same."""

    one: int
    other: int
    similarity: float
    same: bool


LISTED: Final = """
SELECT m.id, m.memory, CASE WHEN jsonb_typeof(m.topics) = 'array' THEN
           ARRAY(SELECT t.value FROM jsonb_array_elements_text(m.topics) AS t (value)) ELSE '{}' END AS topics,
       i.valid_from AS since, i.session_id, i.message
  FROM ai.agno_memories m JOIN ai.memory_index i ON i.id = m.id
 WHERE i.user_id = ANY ((SELECT runtime.tenant_names())::text[]) AND i.superseded_by IS NULL ORDER BY m.id
"""


async def listed(door: Tenant) -> list[Listed]:
    """Return a user's memories that are in force."""
    async with door.conn.cursor(row_factory=class_row(Listed)) as cursor:
        await cursor.execute(LISTED)
        return await cursor.fetchall()


PAIRS: Final = """
WITH mine AS MATERIALIZED (
    SELECT i.id, i.embedder, i.embedding, i.digest, i.stems FROM ai.memory_index i
     WHERE i.user_id = ANY ((SELECT runtime.tenant_names())::text[]) AND i.superseded_by IS NULL
), near AS (
    SELECT a.id AS one, b.id AS other, a.digest = b.digest AS equal, a.stems @> b.stems AND b.stems @> a.stems AS alike,
           CASE WHEN a.embedder = b.embedder THEN runtime.similarity(a.embedding, b.embedding) END AS similarity
      FROM mine a JOIN mine b ON b.id > a.id
)
SELECT n.one, n.other, coalesce(n.similarity, 1) AS similarity,
       n.equal OR coalesce(n.similarity > 0.97 AND n.alike, FALSE) AS same
  FROM near n WHERE n.equal OR n.similarity > %(above)s::float8
"""


async def pairs(door: Tenant, *, above: float) -> list[Pair]:
    """Return which of a user's memories that are in force are near each other."""
    async with door.conn.cursor(row_factory=class_row(Pair)) as cursor:
        await cursor.execute(PAIRS, {"above": above})
        return await cursor.fetchall()


# Of two that run the earlier one goes on: a claim commits before its run reads anything.
ANOTHER: Final = """
SELECT o.id FROM runtime.tasks t JOIN runtime.tasks o ON o.agent_id = t.agent_id AND o.user_id = t.user_id
 WHERE t.id = %(task_id)s::uuid AND o.id <> t.id AND o.sequence < t.sequence AND o.status IN ('running', 'waiting')
 ORDER BY o.sequence LIMIT 1
"""


async def another(door: Tenant, task_id: UUID) -> UUID | None:
    """Return an earlier run for the same user that has not ended."""
    row = await (await door.conn.execute(ANOTHER, {"task_id": task_id})).fetchone()
    return UUID(str(row[0])) if row else None


ARCHIVED_BY: Final = """
SELECT count(*)::integer FROM ai.agno_memories_archive a
 WHERE a.optimization_run_id = %(run)s::text AND (a.original ->> 'id')::integer = ANY (%(ids)s::integer[])
   AND a.reason <> 'changed'
"""


async def archived_by(door: Tenant, run: str, ids: Sequence[int]) -> int:
    """Return how many of these a run has moved into the archive."""
    row = await (await door.conn.execute(ARCHIVED_BY, {"run": run, "ids": list(ids)})).fetchone()
    return int(row[0]) if row else 0


DATE: Final = "UPDATE ai.memory_index SET valid_from = %(since)s::timestamptz WHERE id = %(id)s::integer"


async def date(door: Tenant, memory_id: int, since: datetime) -> None:
    """Let a memory count as told at that time."""
    await door.conn.execute(DATE, {"id": memory_id, "since": since})


FILE: Final = "SELECT runtime.file_memory(%(id)s::integer, %(topics)s::jsonb, %(run)s::text)"


async def file(door: Tenant, memory_id: int, topics: Sequence[str], run: str) -> int:
    """Give a memory other topics; how it was before is in the archive under the run, unless the run has made it itself."""
    row = await (
        await door.conn.execute(FILE, {"id": memory_id, "topics": jsonb.dumps(list(topics)), "run": run})
    ).fetchone()
    return int(row[0]) if row else 0


_SHORTEST: Final = 8  # digits of a run's id; fewer are a memory's
RUN: Final = """
SELECT DISTINCT a.optimization_run_id FROM ai.agno_memories_archive a
 WHERE starts_with(a.optimization_run_id, %(beginning)s::text) AND a.original IS NOT NULL LIMIT 2
"""
UNDO: Final = "SELECT runtime.undo_optimization(%(run)s::text)"


async def undo(door: Tenant, reference: str) -> int | None:
    """Put back all that a run changed, exactly as it was, and take away what it made; return how many memories came back.

    None when no one run of this user's begins so.
    """
    beginning = jsonb.clean_text(reference.strip().lower())
    found = (
        await (await door.conn.execute(RUN, {"beginning": beginning})).fetchall() if len(beginning) >= _SHORTEST else []
    )
    if len(found) != 1:
        return None
    row = await (await door.conn.execute(UNDO, {"run": found[0][0]})).fetchone()
    return int(row[0]) if row else 0
