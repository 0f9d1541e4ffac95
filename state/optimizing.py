"""Memories as a run of memory_optimization reads and changes them, and takes its changes back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from psycopg.rows import class_row

from cirkelline.state import jsonb
from cirkelline.state.connection import Conn
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
    lasting: bool = False
    """It says how one thing is, as far as a rule can tell."""


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
       i.valid_from AS since, i.session_id, i.message, i.lasting
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


# Of two the earlier one goes on, also one that is in line again after a crash: it does not read anew who else is there.
ANOTHER: Final = """
SELECT o.id FROM runtime.tasks t JOIN runtime.tasks o ON o.agent_id = t.agent_id AND o.user_id = t.user_id
 WHERE t.id = %(task_id)s::uuid AND o.id <> t.id AND o.sequence < t.sequence
   AND o.status IN ('pending', 'running', 'waiting')
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


FILED: Final = """
SELECT count(*)::integer FROM ai.agno_memories_archive a
 WHERE a.optimization_run_id = %(run)s::text AND a.reason = 'changed'
"""


async def filed(door: Tenant, run: str) -> int:
    """Return how many memories that were there a run has given other topics."""
    row = await (await door.conn.execute(FILED, {"run": run})).fetchone()
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


# By itself --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Due:
    """A user with so many memories that no run has gone through."""

    user_id: UUID
    new: int


@dataclass(frozen=True, slots=True)
class GoneThrough:
    """How far a user's memories have been gone through: `new` came since the last run; None of a run when there was none."""

    new: int
    run: UUID | None
    at: datetime | None
    status: str | None


THROUGH: Final = """
INSERT INTO ai.memory_upkeep AS k (user_id, through, run, at)
SELECT %(user_id)s::uuid, coalesce(max(i.id), 0), %(run)s::uuid, clock_timestamp() FROM ai.memory_index i
ON CONFLICT (user_id) DO UPDATE SET through = excluded.through, run = excluded.run, at = excluded.at
"""


async def gone_through(door: Tenant, run: UUID) -> None:
    """Note that a run goes through all that a user has now."""
    await door.conn.execute(THROUGH, {"user_id": door.user_id, "run": run})


HIGHEST: Final = "SELECT coalesce(max(i.id), 0) FROM ai.memory_index i"


async def highest(conn: Conn) -> int:
    """Return the highest id of all memories."""
    row = await (await conn.execute(HIGHEST)).fetchone()
    return int(row[0]) if row else 0


DUE: Final = (
    "SELECT u.user_id, u.amount AS new FROM runtime.users_to_optimize(%(least)s::integer, %(since)s::integer) u"
)


async def due(conn: Conn, *, least: int, since: int = 0) -> list[Due]:
    """Return who has at least so many new memories, one of them with an id over `since`; nobody who is switched off."""
    async with conn.cursor(row_factory=class_row(Due)) as cursor:
        await cursor.execute(DUE, {"least": least, "since": since})
        return await cursor.fetchall()


BEGIN: Final = """
SELECT runtime.begin_optimization(%(user_id)s::uuid, %(agent_id)s::uuid, %(given)s::jsonb, %(least)s::integer)
"""


async def begin(conn: Conn, user_id: UUID, *, agent_id: UUID, given: Mapping[str, Any], least: int) -> UUID | None:
    """Put a run in line and return its id; None when there is one, too little is new, or the user is switched off."""
    parameters = {"user_id": user_id, "agent_id": agent_id, "given": jsonb.dumps(dict(given)), "least": least}
    row = await (await conn.execute(BEGIN, parameters)).fetchone()
    return UUID(str(row[0])) if row and row[0] else None


IN_LINE: Final = """
SELECT t.id, t.status = 'pending' AND coalesce(t.attempt, 0) = 0 AS waits FROM runtime.tasks t
 WHERE t.agent_id = %(agent_id)s::uuid AND t.user_id = %(user_id)s::uuid AND t.status IN ('pending', 'running', 'waiting')
 ORDER BY t.sequence
"""


async def in_line(conn: Conn, user_id: UUID, agent_id: UUID) -> list[tuple[UUID, bool]]:
    """Return the runs of a user's that have not ended, each with whether it has not begun yet either."""
    rows = await (await conn.execute(IN_LINE, {"user_id": user_id, "agent_id": agent_id})).fetchall()
    return [(UUID(str(run)), bool(waits)) for run, waits in rows]


STANDING: Final = """
SELECT runtime.new_memories(u.id) AS new, k.run, k.at, t.status
  FROM (SELECT %(user_id)s::uuid AS id) u
  LEFT JOIN ai.memory_upkeep k ON k.user_id = u.id LEFT JOIN runtime.tasks t ON t.id = k.run
"""


async def standing(conn: Conn, user_id: UUID) -> GoneThrough:
    """Return how far a user's memories have been gone through."""
    async with conn.cursor(row_factory=class_row(GoneThrough)) as cursor:
        await cursor.execute(STANDING, {"user_id": user_id})
        return await cursor.fetchone() or GoneThrough(0, None, None, None)


@dataclass(frozen=True, slots=True)
class Overall:
    """Of everybody: how many memories of how many owners there are, and whose last run failed."""

    memories: int
    owners: int
    failed: int


OVERALL: Final = """
SELECT (SELECT count(*) FROM ai.agno_memories) AS memories,
       (SELECT count(DISTINCT m.user_id) FROM ai.agno_memories m) AS owners,
       (SELECT count(*) FROM ai.memory_upkeep k JOIN runtime.tasks t ON t.id = k.run AND t.status = 'failed') AS failed
"""


async def overall(conn: Conn) -> Overall:
    """Return how memories stand in the whole database."""
    async with conn.cursor(row_factory=class_row(Overall)) as cursor:
        await cursor.execute(OVERALL)
        return await cursor.fetchone() or Overall(0, 0, 0)
