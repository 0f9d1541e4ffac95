"""A waiting worker's offer to take the next task that would be alone in line, and the task that is handed to it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final
from uuid import UUID, uuid4

from cirkelline.state import jsonb, wakeups
from cirkelline.state.claims import Claim
from cirkelline.state.connection import Conn


def own_channel() -> str:
    """Return a new name for the channel on which one worker is handed tasks; nobody can guess it."""
    return f"cirkelline_{uuid4().hex}"


# An offer is made anew and never changed: nobody waits for a submit that is about to take the old one. It need not last.
MAKE: Final = """
WITH old AS (
    DELETE FROM runtime.offers WHERE id = ANY (ARRAY(
        SELECT o.id FROM runtime.offers o
         WHERE o.worker = %(worker)s::uuid OR NOT EXISTS (SELECT FROM runtime.workers w WHERE w.id = o.worker)
           FOR UPDATE SKIP LOCKED))
    RETURNING worker
), made AS (
    INSERT INTO runtime.offers (worker, channel, agents)
    SELECT w.id, %(channel)s::text, %(agents)b::uuid[]
      FROM set_config('synchronous_commit', 'off', TRUE), runtime.workers w
     WHERE w.id = %(worker)s::uuid AND NOT w.draining AND cardinality(%(agents)b::uuid[]) > 0
)
SELECT EXISTS (SELECT FROM old WHERE worker = %(worker)s::uuid)
       OR NOT EXISTS (SELECT FROM runtime.workers w WHERE w.id = %(worker)s::uuid)
"""


async def make(conn: Conn, worker: UUID, channel: str, agents: Sequence[UUID]) -> bool:
    """Offer to take a task of one of these agents instead of what was offered before; False when that did not stand any more.

    No agents: offer nothing. One who was declared dead offers nothing, and its offers were not taken but removed: True.
    """
    given = {"worker": worker, "channel": channel, "agents": list(agents)}
    row = await (await conn.execute(MAKE, given, prepare=True)).fetchone()
    return bool(row and row[0])


def handed(payload: str) -> tuple[UUID, Claim] | None:
    """Return what was told on a worker's own channel: the worker that it was told to, and the claim that it has now."""
    told = wakeups.heard(payload)
    if told is None:
        return None
    try:
        claim = Claim(
            id=UUID(str(told["id"])),
            agent_id=UUID(str(told["agent_id"])),
            task_type=told["task_type"],
            payload=jsonb.loads(told["payload"]),
            session_id=None,
            user_id=UUID(str(told["user_id"])) if told["user_id"] else None,
            attempt=1,
            definition_version=int(told["definition_version"]),
        )
        return UUID(str(told["worker"])), claim
    except (KeyError, TypeError, ValueError):
        return None
