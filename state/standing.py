"""Where a task stands: what the claim would look at, read for a person who asks why it is not running."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

from psycopg.rows import class_row

from cirkelline.state.connection import Conn
from cirkelline.state.sessions import SessionNotFound


@dataclass(frozen=True, slots=True)
class Standing:
    """A task's place in line. `later`: its time has not come; `earlier_turn` of its session has to end first.

    `attempts` is how often its agent's definition lets it be tried; `held` is why its model is on hold.
    """

    queued: bool
    run_at: datetime | None
    later: bool
    ahead: int
    earlier_turn: UUID | None
    cap: int | None
    busy: int
    asked_to_stop: bool
    attempts: int
    held: str | None
    held_until: datetime | None


STANDING: Final = """
SELECT q.task_id IS NOT NULL AS queued, q.run_at, coalesce(q.run_at > clock_timestamp(), FALSE) AS later,
       (SELECT count(*) FROM runtime.queue o
         WHERE o.agent_id = q.agent_id
           AND (o.priority > q.priority
                OR o.priority = q.priority AND o.person = q.person AND o.sequence < q.sequence))::integer AS ahead,
       coalesce(
           (SELECT c.task_id FROM runtime.claims c
             WHERE c.session_id = t.session_id AND c.task_id <> t.id LIMIT 1),
           (SELECT e.task_id FROM runtime.queue e
             WHERE e.session_id = q.session_id AND e.sequence < q.sequence ORDER BY e.sequence LIMIT 1)
       ) AS earlier_turn,
       h.cap, (SELECT count(*) FROM runtime.claims c WHERE c.agent_id = t.agent_id)::integer AS busy,
       EXISTS (SELECT FROM runtime.claims c WHERE c.task_id = t.id AND c.cancelled) AS asked_to_stop,
       coalesce((SELECT (d.spec #>> '{retry,attempts}')::integer FROM runtime.definitions d
                  WHERE d.agent_id = a.id AND d.version = coalesce(t.definition_version, a.definition_version)), 1)
           AS attempts,
       m.reason AS held, m.until AS held_until
  FROM runtime.tasks t
  LEFT JOIN runtime.agents a ON a.id = t.agent_id
  LEFT JOIN runtime.definitions d ON d.agent_id = a.id AND d.version = a.definition_version
  LEFT JOIN runtime.model_holds m ON m.model = concat(
       d.model ->> 'provider', ':' || (d.model ->> 'name'), ' at ' || (d.model ->> 'base_url'),
       ' with ' || (d.model ->> 'api_key_env'))
  LEFT JOIN runtime.queue q ON q.task_id = t.id
  LEFT JOIN runtime.agent_heads h ON h.agent_id = t.agent_id
 WHERE t.id = %(id)s::uuid
"""


async def of(conn: Conn, task_id: UUID) -> Standing | None:
    """Return where a task stands, or None when there is no such task."""
    async with conn.cursor(row_factory=class_row(Standing)) as cursor:
        await cursor.execute(STANDING, {"id": task_id})
        return await cursor.fetchone()


WAITING_BY_AGENT: Final = "SELECT count(*) FROM runtime.queue WHERE agent_id = %(agent_id)s::uuid"


async def in_line(conn: Conn, agent_id: UUID) -> int:
    """Return how many tasks of an agent wait in line."""
    row = await (await conn.execute(WAITING_BY_AGENT, {"agent_id": agent_id})).fetchone()
    return int(row[0]) if row else 0


SESSION: Final = """
SELECT DISTINCT session_id FROM runtime.tasks
 WHERE session_id BETWEEN rpad(%(digits)s::text, 32, '0')::uuid AND rpad(%(digits)s::text, 32, 'f')::uuid LIMIT 2
"""


async def session(conn: Conn, reference: str) -> UUID:
    """Return the one session with tasks whose id starts with `reference`. Raises: SessionNotFound."""
    digits = reference.strip().lower().replace("-", "")
    rows: list[tuple[UUID]] = []
    if digits and len(digits) <= 32 and all(digit in "0123456789abcdef" for digit in digits):  # noqa: PLR2004 - a UUID's digits
        rows = await (await conn.execute(SESSION, {"digits": digits})).fetchall()
    if len(rows) != 1:
        problem = "more than one session with tasks starts" if rows else "no session with tasks starts"
        raise SessionNotFound(f"{problem} with {reference!r} (`cirkelline sessions list` shows them)")
    return UUID(str(rows[0][0]))
