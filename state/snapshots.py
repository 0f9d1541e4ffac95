"""Snapshots: the versions of an agent's state, `{"work": what its tools keep, "stats": …}`, one per ended task."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from psycopg.rows import class_row

from cirkelline.configs.errors import UsageError
from cirkelline.state.connection import Conn


class SnapshotNotFound(UsageError):
    """An agent has no such version of its state."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One version of an agent's state."""

    version: int
    state: dict[str, Any]
    timestamp: datetime | None


LATEST: Final = """
SELECT version, runtime.as_snapshot(state) AS state, timestamp FROM runtime.agent_states
 WHERE agent_id = %(agent_id)s::uuid AND version IS NOT NULL
 ORDER BY version DESC NULLS LAST LIMIT 1
"""


async def latest(conn: Conn, agent_id: UUID) -> Snapshot | None:
    """Return an agent's newest snapshot, or None before its first ended task."""
    async with conn.cursor(row_factory=class_row(Snapshot)) as cursor:
        await cursor.execute(LATEST, {"agent_id": agent_id})
        return await cursor.fetchone()


GET: Final = """
SELECT version, runtime.as_snapshot(state) AS state, timestamp FROM runtime.agent_states
 WHERE agent_id = %(agent_id)s::uuid AND version = %(version)s::integer LIMIT 1
"""


async def get(conn: Conn, agent_id: UUID, version: int) -> Snapshot:
    """Return one version of an agent's state. Raises: SnapshotNotFound."""
    async with conn.cursor(row_factory=class_row(Snapshot)) as cursor:
        await cursor.execute(GET, {"agent_id": agent_id, "version": version})
        snapshot = await cursor.fetchone()
    if snapshot is None:
        raise SnapshotNotFound(f"there is no state version {version} (`cirkelline states list AGENT` shows them)")
    return snapshot


FIND: Final = """
SELECT version, runtime.as_snapshot(state) AS state, timestamp FROM runtime.agent_states
 WHERE agent_id = %(agent_id)s::uuid AND version IS NOT NULL
 ORDER BY version DESC NULLS LAST LIMIT %(limit)s::integer
"""


async def find(conn: Conn, agent_id: UUID, *, limit: int = 50) -> list[Snapshot]:
    """Return an agent's newest snapshots."""
    async with conn.cursor(row_factory=class_row(Snapshot)) as cursor:
        await cursor.execute(FIND, {"agent_id": agent_id, "limit": limit})
        return await cursor.fetchall()


ROLLBACK: Final = "SELECT runtime.roll_back_state(%(agent_id)s::uuid, %(version)s::integer)"


async def roll_back(conn: Conn, agent_id: UUID, version: int) -> int:
    """Make an older version's `work` the newest snapshot (the counters stay); return the new version.

    Raises: SnapshotNotFound.
    """
    row = await (await conn.execute(ROLLBACK, {"agent_id": agent_id, "version": version})).fetchone()
    if row is None or row[0] is None:
        raise SnapshotNotFound(f"there is no state version {version} (`cirkelline states list AGENT` shows them)")
    return int(row[0])
