"""Schedules: what is due by the clock, locked while it is fired."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

from psycopg.rows import class_row

from cirkelline.configs.errors import UsageError
from cirkelline.state import jsonb
from cirkelline.state.connection import Conn


class ScheduleNotFound(UsageError):
    """No schedule goes by that name."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """A schedule of an agent; `now` is when it was read, by the database's clock."""

    id: UUID
    agent_id: UUID
    agent: str
    name: str
    cron: str
    tz: str
    user_name: str | None
    input: str
    paused: bool
    agent_status: str | None
    since: datetime
    next_at: datetime | None
    last_at: datetime | None
    last_task: UUID | None
    problem: str | None
    now: datetime

    @property
    def label(self) -> str:
        """The name to address it by: its agent's and its own."""
        return f"{self.agent}/{self.name}"


SCHEDULES: Final = """
SELECT s.id, s.agent_id, coalesce(a.handle, a.id::text) AS agent, s.name, s.cron, s.tz, s.user_name, s.input, s.paused,
       a.status AS agent_status, s.since, s.next_at, s.last_at, s.last_task, s.problem,
       coalesce(%(now)s::timestamptz, clock_timestamp()) AS now
  FROM runtime.schedules s JOIN runtime.agents a ON a.id = s.agent_id
"""
FIND: Final = SCHEDULES + " ORDER BY agent, s.name"


async def find(conn: Conn) -> list[Schedule]:
    """Return every schedule, by agent and name."""
    async with conn.cursor(row_factory=class_row(Schedule)) as cursor:
        await cursor.execute(FIND, {"now": None})
        return await cursor.fetchall()


_IS_DUE: Final = """
 WHERE NOT s.paused AND a.definition_version IS NOT NULL AND coalesce(a.status, 'idle') NOT IN ('paused', 'retired')
   AND (s.next_at IS NULL OR s.next_at <= coalesce(%(now)s::timestamptz, clock_timestamp()))
"""
ANY_DUE: Final = (
    "SELECT EXISTS (SELECT FROM runtime.schedules s JOIN runtime.agents a ON a.id = s.agent_id" + _IS_DUE + ")"
)


async def any_due(conn: Conn, now: datetime | None = None) -> bool:
    """Whether `due` would find one, as far as no other worker is at it: one statement and no transaction."""
    row = await (await conn.execute(ANY_DUE, {"now": now})).fetchone()
    return bool(row and row[0])


DUE: Final = SCHEDULES + _IS_DUE + " ORDER BY s.next_at NULLS FIRST, s.id LIMIT 1 FOR UPDATE OF s SKIP LOCKED"


async def due(conn: Conn, now: datetime | None = None) -> Schedule | None:
    """Return one schedule that is due, or whose next time nobody has worked out, locked for this transaction."""
    async with conn.cursor(row_factory=class_row(Schedule)) as cursor:
        await cursor.execute(DUE, {"now": now})
        return await cursor.fetchone()


PLAN: Final = (
    "UPDATE runtime.schedules SET next_at = %(next)s::timestamptz, problem = %(problem)s::text WHERE id = %(id)s::uuid"
)


async def plan(conn: Conn, schedule: Schedule, next_at: datetime, *, problem: str | None) -> None:
    """Write when a schedule is due next, and what kept it from being fired."""
    kept = jsonb.clean_text(problem) if problem else None
    await conn.execute(PLAN, {"id": schedule.id, "next": next_at, "problem": kept})


FIRED: Final = """
UPDATE runtime.schedules
   SET next_at = %(next)s::timestamptz, last_at = %(at)s::timestamptz, last_task = %(task)s::uuid, problem = NULL
 WHERE id = %(id)s::uuid
"""


async def fired(conn: Conn, schedule: Schedule, at: datetime, task: UUID, next_at: datetime) -> None:
    """Write that a schedule was fired for a time, and when it is due next."""
    await conn.execute(FIRED, {"id": schedule.id, "at": at, "task": task, "next": next_at})


async def get(conn: Conn, reference: str) -> Schedule:
    """Return the schedule called `AGENT/NAME`, or an agent's only one by the agent. Raises: ScheduleNotFound."""
    found = [each for each in await find(conn) if reference in {each.label, each.agent}]
    if len(found) != 1:
        problem = "has more than one schedule: give AGENT/NAME" if found else "is no schedule"
        raise ScheduleNotFound(f"{reference!r} {problem} (`cirkelline schedules list` shows them)")
    return found[0]


# What was due while it was paused is not caught up on.
SET_PAUSED: Final = """
UPDATE runtime.schedules
   SET paused = %(paused)s::boolean, since = CASE WHEN paused AND NOT %(paused)s THEN clock_timestamp() ELSE since END,
       next_at = CASE WHEN paused AND NOT %(paused)s THEN NULL ELSE next_at END
 WHERE id = %(id)s::uuid
"""


async def set_paused(conn: Conn, schedule: Schedule, *, paused: bool) -> None:
    """Stop firing a schedule, or fire it again from now on."""
    await conn.execute(SET_PAUSED, {"id": schedule.id, "paused": paused})


PAUSE_OF: Final = """
UPDATE runtime.schedules s SET paused = TRUE WHERE NOT s.paused AND runtime.is_called(%(user_id)s::uuid, s.user_name)
"""


async def pause_of(conn: Conn, user_id: UUID) -> int:
    """Stop firing what is done on a user's behalf; return how many schedules that stopped."""
    return (await conn.execute(PAUSE_OF, {"user_id": user_id})).rowcount


# What a person has set up at a workflow. It goes on from now where it was at other times before, and is not paused any more.
KEEP: Final = """
INSERT INTO runtime.schedules AS s (agent_id, name, cron, tz, user_name, input)
VALUES (%(agent_id)s::uuid, %(name)s::text, %(cron)s::text, %(tz)s::text, %(name)s, %(input)s::text)
ON CONFLICT (agent_id, name) DO UPDATE
   SET since = clock_timestamp(), next_at = NULL, cron = excluded.cron, tz = excluded.tz, input = excluded.input,
       user_name = excluded.user_name, paused = FALSE, problem = NULL
"""


async def keep(conn: Conn, agent_id: UUID, user: str, *, cron: str, tz: str, given: str) -> Schedule:
    """Let a workflow be run for a user by the clock, in place of what was said before."""
    await conn.execute(KEEP, {"agent_id": agent_id, "name": user, "cron": cron, "tz": tz, "input": given})
    (kept,) = await of_user(conn, agent_id, user)
    return kept


OF_USER: Final = SCHEDULES + " WHERE s.agent_id = %(agent_id)s::uuid AND s.name = %(name)s::text"


async def of_user(conn: Conn, agent_id: UUID, user: str) -> list[Schedule]:
    """Return the schedule by which a workflow is run for a user, if there is one."""
    async with conn.cursor(row_factory=class_row(Schedule)) as cursor:
        await cursor.execute(OF_USER, {"now": None, "agent_id": agent_id, "name": user})
        return await cursor.fetchall()


DROP: Final = "DELETE FROM runtime.schedules WHERE agent_id = %(agent_id)s::uuid AND name = %(name)s::text"


async def drop(conn: Conn, agent_id: UUID, user: str) -> bool:
    """Run a workflow for a user by the clock no more; return whether it was."""
    return (await conn.execute(DROP, {"agent_id": agent_id, "name": user})).rowcount > 0
