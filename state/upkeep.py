"""What there is to do besides tasks, seen in one look: a worker that has nothing to do asks for it every second."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from psycopg.rows import class_row

from cirkelline.state.connection import Conn


@dataclass(frozen=True, slots=True)
class Seen:
    """What is waiting for whom looks after it, as far as one look can tell; each of these is asked again before it is done.

    `lost`: tasks of dead workers, dead workers, or answers that did not come in time. `held`: a model. `due`: a schedule.
    `unrouted`: a task without an agent. `unchecked`: an agent that came by plain SQL.
    """

    lost: bool = True
    held: bool = True
    due: bool = True
    unrouted: bool = True
    unchecked: bool = True


# now() and not clock_timestamp(): only a stable one finds its row by an index, and this statement is its own transaction.
LOOK: Final = """
SELECT EXISTS (SELECT FROM runtime.workers w WHERE w.seen < now() - w.lease)
       OR EXISTS (SELECT FROM runtime.claims c
                   WHERE NOT EXISTS (SELECT FROM runtime.workers w WHERE w.id = c.worker))
       OR EXISTS (SELECT FROM runtime.journal j WHERE j.until <= now()) AS lost,
       EXISTS (SELECT FROM runtime.model_holds) AS held,
       EXISTS (SELECT FROM runtime.schedules s
                WHERE NOT s.paused AND (s.next_at IS NULL OR s.next_at <= now())) AS due,
       EXISTS (SELECT FROM runtime.unrouted) AS unrouted,
       EXISTS (SELECT FROM runtime.agents a
                WHERE a.definition_version IS NULL AND a.problem IS NULL) AS unchecked
"""


async def look(conn: Conn) -> Seen:
    """Look whether anything is to be done."""
    async with conn.cursor(row_factory=class_row(Seen)) as cursor:
        await cursor.execute(LOOK, {}, prepare=True)
        return await cursor.fetchone() or Seen()
