"""Runs of workflows that only the process which was started for them may execute: put in line, and found again.

Such a run's task is `beside` itself: a worker that serves the session of that id claims this one task and no other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from psycopg.rows import class_row

from cirkelline.state import jsonb
from cirkelline.state.connection import Conn
from cirkelline.state.workflows import TASK_TYPE

SUBMIT: Final = """
INSERT INTO runtime.tasks (id, agent_id, task_type, payload, user_id, beside)
VALUES (%(id)s::uuid, %(agent_id)s::uuid, %(task_type)s::text, %(payload)s::jsonb, %(user_id)s::uuid, %(id)s)
"""


async def submit(conn: Conn, run_id: UUID, agent_id: UUID, given: Any, *, user_id: UUID | None) -> None:
    """Put a run in line with this input; doing so twice under one id is a mistake."""
    await conn.execute(
        SUBMIT,
        {
            "id": run_id,
            "agent_id": agent_id,
            "task_type": TASK_TYPE,
            "payload": jsonb.dumps({"input": given}),
            "user_id": user_id,
        },
    )


@dataclass(frozen=True, slots=True)
class Unended:
    """A run that has not ended: `held` while a living worker has it, the process `pid` of `host`.

    `fresh` while whoever has just put it in line is likely to be about to take it.
    """

    id: UUID
    given: Any
    user_id: UUID | None
    status: str
    deaths: int
    host: str | None
    pid: int | None
    held: bool
    fresh: bool


UNENDED: Final = """
SELECT t.id, t.payload -> 'input' AS given, t.user_id, t.status, coalesce(t.deaths, 0) AS deaths, w.host, w.pid,
       coalesce(w.seen >= clock_timestamp() - w.lease, FALSE) AS held,
       t.status = 'pending' AND coalesce(t.attempt, 0) = 0 AND t.submitted_at > clock_timestamp() - interval '10 s' AS fresh
  FROM runtime.tasks t
  LEFT JOIN runtime.claims c ON c.task_id = t.id
  LEFT JOIN runtime.workers w ON w.id = c.worker
 WHERE t.agent_id = %(agent_id)s::uuid AND t.beside = t.id AND t.status IN ('pending', 'running', 'waiting')
 ORDER BY t.sequence DESC NULLS LAST LIMIT 1000
"""


async def unended(conn: Conn, agent_id: UUID) -> list[Unended]:
    """Return a workflow's runs that have not ended, the newest first."""
    async with conn.cursor(row_factory=class_row(Unended)) as cursor:
        await cursor.execute(UNENDED, {"agent_id": agent_id})
        return await cursor.fetchall()
