"""Removing what is old: ended tasks, records of workflow runs and the snapshots of agents, a small batch at a time."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from psycopg.rows import class_row

from cirkelline.state.connection import Conn


@dataclass(frozen=True, slots=True)
class Ages:
    """How long things are kept; None for ever. `versions` is how many snapshots of an agent are kept at most."""

    completed: timedelta | None
    failed: timedelta | None
    states: timedelta | None
    versions: int | None
    runs: timedelta | None = None


@dataclass(frozen=True, slots=True)
class Walked:
    """A batch: how many tasks were looked at and removed, and where the next one begins."""

    seen: int
    removed: int
    last: datetime | None
    last_id: UUID | None


REMOVE_TASKS: Final = """
SELECT seen, removed, last, last_id
  FROM runtime.remove_old_tasks(%(after)s::timestamp, %(after_id)s::uuid, %(completed)s::interval, %(failed)s::interval,
                                %(batch)s::integer, %(dry)s::boolean)
"""


async def remove_tasks(conn: Conn, ages: Ages, after: Walked | None, *, batch: int, dry: bool) -> Walked:
    """Look at the next batch of tasks and remove the old ones; the walk is over when none was seen."""
    parameters = {
        "after": after.last if after else None,
        "after_id": after.last_id if after else None,
        "completed": ages.completed,
        "failed": ages.failed,
        "batch": batch,
        "dry": dry,
    }
    async with conn.cursor(row_factory=class_row(Walked)) as cursor:
        await cursor.execute(REMOVE_TASKS, parameters)
        return await cursor.fetchone() or Walked(0, 0, None, None)


REMOVE_STATES: Final = """
SELECT runtime.remove_old_states(%(agent)s::uuid, %(age)s::interval, %(most)s::integer, %(batch)s::integer, %(dry)s::boolean)
"""


async def remove_states(conn: Conn, agent: UUID, ages: Ages, *, batch: int, dry: bool) -> int:
    """Remove up to `batch` old snapshots of an agent; return how many. Its newest one stays."""
    parameters = {"agent": agent, "age": ages.states, "most": ages.versions, "batch": batch, "dry": dry}
    row = await (await conn.execute(REMOVE_STATES, parameters)).fetchone()
    return int(row[0]) if row else 0


REMOVE_RUNS: Final = """
SELECT runtime.remove_old_runs(%(age)s::interval, %(completed)s::interval, %(failed)s::interval, %(batch)s::integer,
                               %(dry)s::boolean)
"""


async def remove_runs(conn: Conn, ages: Ages, *, batch: int, dry: bool) -> int:
    """Remove up to `batch` old records of workflow runs whose tasks are gone; return how many."""
    parameters = {
        "age": ages.runs,
        "completed": ages.completed,
        "failed": ages.failed,
        "batch": batch,
        "dry": dry,
    }
    row = await (await conn.execute(REMOVE_RUNS, parameters)).fetchone()
    return int(row[0]) if row else 0


AGENTS: Final = "SELECT id FROM runtime.agents ORDER BY id"


async def agents(conn: Conn) -> list[UUID]:
    """Return every row of `agents`."""
    return [UUID(str(agent)) for (agent,) in await (await conn.execute(AGENTS)).fetchall()]
