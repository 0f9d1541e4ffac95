"""Tasks that are tried again: put off after a failure, put back when the failure was not theirs, and what went wrong so far."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

from psycopg.rows import class_row

from cirkelline.state import journal, jsonb
from cirkelline.state.connection import Conn
from cirkelline.state.journal import Fence, Step


@dataclass(frozen=True, slots=True)
class Backoff:
    """How often a task is tried in all, and the pause in seconds: after the first failure, and the longest one."""

    attempts: int
    first: float
    longest: float


@dataclass(frozen=True, slots=True)
class Failure:
    """An attempt that failed; `again` is when the next one was to begin."""

    attempt: int
    at: datetime
    type: str | None
    message: str | None
    again: datetime | None


PUT_OFF: Final = """
SELECT runtime.put_off(%(worker)s::uuid, %(task)s::uuid, %(attempt)s::integer, %(steps)s::jsonb, %(kind)s::text,
                       %(reason)s::text, %(attempts)s::integer, %(first)s::double precision,
                       %(longest)s::double precision)
"""


async def put_off(
    conn: Conn, fence: Fence, steps: Sequence[Step], *, kind: str, reason: str, backoff: Backoff
) -> datetime | None:
    """Put a task that just failed back in line after a pause; return when it is due.

    None when its attempts are used up, it is no longer this worker's, or it was to be cancelled: then it is to be finished.
    """
    parameters = {
        "worker": fence.worker,
        "task": fence.task,
        "attempt": fence.attempt,
        "steps": jsonb.dumps([journal.as_json(step) for step in steps]),
        "kind": kind,
        "reason": jsonb.clean_text(reason),
        "attempts": backoff.attempts,
        "first": backoff.first,
        "longest": backoff.longest,
    }
    row = await (await conn.execute(PUT_OFF, parameters)).fetchone()
    return row[0] if row else None


FAILURES: Final = """
SELECT f.attempt, f.at, f.type, f.message, f.again FROM runtime.failures f
 WHERE f.task_id = %(task)s::uuid ORDER BY f.attempt
"""


async def failures(conn: Conn, task_id: UUID) -> list[Failure]:
    """Return the attempts at a task that failed, the first one first."""
    async with conn.cursor(row_factory=class_row(Failure)) as cursor:
        await cursor.execute(FAILURES, {"task": task_id})
        return await cursor.fetchall()
