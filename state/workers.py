"""Worker rows: who is alive, by a lease that the database's clock judges."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

import psycopg
from psycopg.rows import class_row

from cirkelline.state.connection import Conn


@dataclass(frozen=True, slots=True)
class Worker:
    """A worker's row and how many tasks it holds; `alive` while its lease has not lapsed."""

    id: UUID
    host: str
    pid: int
    release: str
    slots: int
    session_id: UUID | None
    started: datetime
    seen: datetime
    waiting: bool
    draining: bool
    alive: bool
    running: int


REGISTER: Final = """
INSERT INTO runtime.workers (id, host, pid, release, slots, session_id, lease)
VALUES (%(id)s::uuid, %(host)s::text, %(pid)s::integer, %(release)s::text, %(slots)s::integer, %(session)s::uuid,
        %(lease)s::interval)
"""


async def register(
    conn: Conn,
    worker: UUID,
    *,
    host: str,
    pid: int,
    release: str,
    slots: int,
    lease: float,
    session: UUID | None = None,
) -> None:
    """Say that a worker is here; its tasks are taken over when it has not beaten for `lease` seconds."""
    await conn.execute(
        REGISTER,
        {
            "id": worker,
            "host": host,
            "pid": pid,
            "release": release,
            "slots": slots,
            "session": session,
            "lease": timedelta(seconds=lease),
        },
    )


BEAT: Final = "UPDATE runtime.workers SET seen = clock_timestamp() WHERE id = %(id)s::uuid RETURNING draining"
TO_CANCEL: Final = "SELECT task_id FROM runtime.claims WHERE worker = %(id)s::uuid AND cancelled"


@dataclass(frozen=True, slots=True)
class Beat:
    """What the database answers a heartbeat; `known` is False when the worker was declared dead meanwhile."""

    known: bool
    draining: bool
    to_cancel: frozenset[UUID]


class Heartbeat:
    """A plain blocking connection of its own, for a thread that beats whatever the event loop is doing."""

    def __init__(self, url: str) -> None:
        self._conn = psycopg.connect(url, autocommit=True, prepare_threshold=None, connect_timeout=5)

    def beat(self, worker: UUID) -> Beat:
        """Renew the worker's lease. Raises: psycopg.OperationalError when the server is away."""
        row = self._conn.execute(BEAT, {"id": worker}).fetchone()
        cancelled = self._conn.execute(TO_CANCEL, {"id": worker}).fetchall()
        return Beat(
            known=row is not None,
            draining=bool(row and row[0]),
            to_cancel=frozenset(UUID(str(task_id)) for (task_id,) in cancelled),
        )

    def close(self) -> None:
        """Close the connection."""
        self._conn.close()


SET_WAITING: Final = "UPDATE runtime.workers SET waiting = %(waiting)s::boolean WHERE id = %(id)s::uuid"


async def set_waiting(conn: Conn, worker: UUID, *, waiting: bool) -> None:
    """Say whether this worker wants to be notified of new tasks; claim once more after saying yes."""
    await conn.execute(SET_WAITING, {"id": worker, "waiting": waiting})


DRAIN: Final = "UPDATE runtime.workers SET draining = TRUE WHERE id = %(id)s::uuid RETURNING id"


async def drain(conn: Conn, worker: UUID) -> bool:
    """Ask a worker to claim nothing more and stop when it is done; False when there is no such worker."""
    return await (await conn.execute(DRAIN, {"id": worker})).fetchone() is not None


DEREGISTER: Final = "DELETE FROM runtime.workers WHERE id = %(id)s::uuid"
RELEASE_ALL: Final = """
SELECT runtime.release_tasks(%(id)s::uuid, ARRAY(SELECT task_id FROM runtime.claims WHERE worker = %(id)s::uuid),
                             'its worker stopped')
"""


async def deregister(conn: Conn, worker: UUID) -> None:
    """Leave: what is still claimed goes back in line at once, without waiting for the lease to lapse."""
    async with conn.transaction():
        # The worker's row first, like a takeover: one of the two waits for the other instead of both for ever.
        await conn.execute(DEREGISTER, {"id": worker})
        await conn.execute(RELEASE_ALL, {"id": worker})


FIND: Final = """
SELECT w.id, w.host, w.pid, w.release, w.slots, w.session_id, w.started, w.seen, w.waiting, w.draining,
       w.seen >= clock_timestamp() - w.lease AS alive,
       (SELECT count(*) FROM runtime.claims c WHERE c.worker = w.id)::integer AS running
  FROM runtime.workers w ORDER BY w.started
"""


async def find(conn: Conn) -> list[Worker]:
    """Return every worker, oldest first."""
    async with conn.cursor(row_factory=class_row(Worker)) as cursor:
        await cursor.execute(FIND)
        return await cursor.fetchall()


ALIVE_FOR_ANYONE: Final = """
SELECT EXISTS (SELECT FROM runtime.workers
                WHERE session_id IS NULL AND NOT draining AND seen >= clock_timestamp() - lease)
"""


async def any_alive(conn: Conn) -> bool:
    """Whether a daemon is alive (a chat's own worker, which serves one session only, does not count)."""
    row = await (await conn.execute(ALIVE_FOR_ANYONE)).fetchone()
    return bool(row and row[0])


MAY_TAKE_OVER: Final = """
SELECT clock_timestamp() - pg_postmaster_start_time() > w.lease AND w.seen >= clock_timestamp() - w.lease
  FROM runtime.workers w WHERE w.id = %(id)s::uuid
"""


async def may_take_over(conn: Conn, worker: UUID) -> bool:
    """Whether this worker may judge the others: its own lease holds, and after a restart all had time to beat again."""
    row = await (await conn.execute(MAY_TAKE_OVER, {"id": worker})).fetchone()
    return bool(row and row[0])
