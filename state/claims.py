"""The hot path: claim tasks, finish them with their snapshots in one fenced transaction, take over dead workers' ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal
from uuid import UUID

from psycopg.rows import class_row

from cirkelline.state import journal, jsonb
from cirkelline.state.connection import Conn
from cirkelline.state.journal import Step

DEATHS_ALLOWED: Final = 5


@dataclass(frozen=True, slots=True)
class Claim:
    """A task that this worker owns until it finishes, releases or loses it; (worker, attempt) is its fence."""

    id: UUID
    agent_id: UUID
    task_type: str | None
    payload: Any
    session_id: UUID | None
    user_id: UUID | None
    attempt: int
    definition_version: int


@dataclass(frozen=True, slots=True)
class Finish:
    """How a run ended, or that it is parked (`waiting`). `operations` are the JSON operations on the agent's state, kept only when it completed.

    `result` is `{"output": …}` or `{"error": {"type", "message"}}`; `messages` go to the task's session, and `steps` to
    its journal. `tokens` is what the task has paid for in all its attempts; its agent's stats get what they lack of it.
    `session` is what is kept for the session besides: `operations` on its state, a `summary` that was made (`{"after",
    "covers", "text"}`), or `summarize` where one is wanted.
    """

    task_id: UUID
    attempt: int
    status: Literal["completed", "failed", "cancelled", "waiting"]
    result: Any = None
    error: str | None = None
    tokens: int = 0
    operations: Sequence[Any] = ()
    messages: Sequence[tuple[str, str]] = field(default=())
    steps: Sequence[Step] = field(default=())
    session: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def as_json(self) -> str:
        """Return the run as `runtime.finish_tasks` reads it. Raises: TypeError, ValueError for what is not JSON."""
        more: dict[str, Any] = {"steps": [journal.as_json(step) for step in self.steps]} if self.steps else {}
        if self.session:
            more["session"] = self.session
        return jsonb.dumps(
            {
                "task": str(self.task_id),
                "attempt": self.attempt,
                "status": self.status,
                "result": self.result,
                "error": self.error,
                "tokens": self.tokens,
                "operations": list(self.operations),
                "messages": [{"role": role, "content": content} for role, content in self.messages],
                **more,
            }
        )


@dataclass(frozen=True, slots=True)
class Finished:
    """What the database wrote for a run; a task missing from the answer had been lost to another worker."""

    id: UUID
    status: str
    state_version: int | None
    error: str | None


# Nobody waits for the disk here (docs/decisions/026-claims-off-the-disk.md): whatever is kept of the run takes its claim along.
CLAIM: Final = """
SELECT id, agent_id, task_type, payload, session_id, user_id, attempt, definition_version
  FROM set_config('synchronous_commit', 'off', TRUE),
       runtime.claim_tasks(%(worker)s::uuid, %(agents)b::uuid[], %(slots)s::integer, %(session)s::uuid)
"""


async def claim(
    conn: Conn, worker: UUID, agents: Sequence[UUID], *, slots: int, session: UUID | None = None
) -> list[Claim]:
    """Claim up to `slots` tasks of these agents, highest priority first; with `session`, only that session's."""
    async with conn.cursor(row_factory=class_row(Claim)) as cursor:
        await cursor.execute(
            CLAIM, {"worker": worker, "agents": list(agents), "slots": slots, "session": session}, prepare=True
        )
        return await cursor.fetchall()


CLAIM_TURNS: Final = """
SELECT id, agent_id, task_type, payload, session_id, user_id, attempt, definition_version
  FROM set_config('synchronous_commit', 'off', TRUE),
       runtime.claim_turns(%(worker)s::uuid, %(agents)b::uuid[], %(slots)s::integer)
"""


async def claim_turns(conn: Conn, worker: UUID, agents: Sequence[UUID], *, slots: int) -> list[Claim]:
    """Claim up to `slots` turns of conversations with these agents, and nothing else."""
    async with conn.cursor(row_factory=class_row(Claim)) as cursor:
        await cursor.execute(CLAIM_TURNS, {"worker": worker, "agents": list(agents), "slots": slots})
        return await cursor.fetchall()


FINISH: Final = """
SELECT id, status, state_version, error
  FROM runtime.finish_tasks(%(worker)s::uuid, %(runs)s::jsonb, %(state_limit)s::integer)
"""


async def finish(conn: Conn, worker: UUID, runs: Sequence[str], *, state_limit: int) -> list[Finished]:
    """Write these ended runs (each `Finish.as_json()`) in one transaction and return what was written.

    Raises: psycopg.Error for the whole batch when one of them cannot be stored.
    """
    async with conn.cursor(row_factory=class_row(Finished)) as cursor:
        await cursor.execute(
            FINISH, {"worker": worker, "runs": "[" + ",".join(runs) + "]", "state_limit": state_limit}, prepare=True
        )
        return await cursor.fetchall()


@dataclass(frozen=True, slots=True)
class Turned:
    """What one round trip wrote of the ended runs, and what it claimed in their place."""

    finished: list[Finished]
    claimed: list[Claim]


# One transaction and one fsync for both. An Append runs its parts in order, so what was finished makes room first.
FINISH_AND_CLAIM: Final = """
SELECT id, status, state_version, error,
       NULL::uuid, NULL::text, NULL::jsonb, NULL::uuid, NULL::uuid, NULL::integer, NULL::integer
  FROM runtime.finish_tasks(%(worker)s::uuid, %(runs)s::jsonb, %(state_limit)s::integer)
 UNION ALL
SELECT id, NULL, NULL, NULL, agent_id, task_type, payload, session_id, user_id, attempt, definition_version
  FROM runtime.claim_tasks(%(worker)s::uuid, %(agents)b::uuid[], %(slots)s::integer, %(session)s::uuid)
"""


async def finish_and_claim(
    conn: Conn,
    worker: UUID,
    runs: Sequence[str],
    agents: Sequence[UUID],
    *,
    slots: int,
    state_limit: int,
    session: UUID | None = None,
) -> Turned:
    """Do `finish` and then `claim` in one round trip and one transaction: both or neither.

    Raises: psycopg.Error for the whole batch when one of the runs cannot be stored; nothing is claimed then.
    """
    parameters = {
        "worker": worker,
        "runs": "[" + ",".join(runs) + "]",
        "state_limit": state_limit,
        "agents": list(agents),
        "slots": slots,
        "session": session,
    }
    turned = Turned([], [])
    async for row in await conn.execute(FINISH_AND_CLAIM, parameters, prepare=True):
        if row[1] is None:
            turned.claimed.append(Claim(row[0], *row[4:]))
        else:
            turned.finished.append(Finished(*row[:4]))
    return turned


RELEASE: Final = "SELECT runtime.release_tasks(%(worker)s::uuid, %(tasks)s::uuid[], %(reason)s::text)"


async def release(conn: Conn, worker: UUID, tasks: Sequence[UUID], *, reason: str) -> int:
    """Give claimed tasks back unfinished, in their old place in line; return how many were still ours."""
    row = await (await conn.execute(RELEASE, {"worker": worker, "tasks": list(tasks), "reason": reason})).fetchone()
    return int(row[0]) if row else 0


HELD: Final = "SELECT task_id FROM runtime.claims WHERE worker = %(worker)s::uuid"


async def held(conn: Conn, worker: UUID) -> list[UUID]:
    """Return the tasks that a worker owns."""
    return [UUID(str(task_id)) for (task_id,) in await (await conn.execute(HELD, {"worker": worker})).fetchall()]


TAKE_OVER: Final = "SELECT runtime.take_over(%(deaths)s::integer)"


async def take_over(conn: Conn) -> int:
    """Put the tasks of workers whose lease has lapsed back in line; return how many.

    One on which `DEATHS_ALLOWED` workers in a row died without a new step is parked instead.
    """
    row = await (await conn.execute(TAKE_OVER, {"deaths": DEATHS_ALLOWED})).fetchone()
    return int(row[0]) if row else 0


OUTSTANDING: Final = """
SELECT count(*) FROM (
    SELECT task_id FROM runtime.queue
     WHERE agent_id = ANY (%(agents)s::uuid[]) AND (run_at IS NULL OR run_at <= clock_timestamp())
    UNION ALL
    SELECT task_id FROM runtime.claims WHERE agent_id = ANY (%(agents)s::uuid[])
    UNION ALL
    SELECT u.task_id FROM runtime.unrouted u
     WHERE (u.run_at IS NULL OR u.run_at <= clock_timestamp()) AND EXISTS (
           SELECT FROM runtime.agents a WHERE a.id = ANY (%(agents)s::uuid[]) AND a.capabilities @> u.capabilities)
) work
"""


async def outstanding(conn: Conn, agents: Sequence[UUID]) -> int:
    """Return how many due tasks are in line for these agents or could be given to one, plus how many of theirs any worker runs."""
    row = await (await conn.execute(OUTSTANDING, {"agents": list(agents)})).fetchone()
    return int(row[0]) if row else 0
