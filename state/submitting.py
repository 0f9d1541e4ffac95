"""Putting tasks in line: one, one for a key whoever asks how often, or many with one statement."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from psycopg.pq import TransactionStatus

from cirkelline.configs.errors import CirkellineError, UsageError
from cirkelline.state import jsonb
from cirkelline.state.connection import Conn

LONGEST_TYPE: Final = 100
LONGEST_KEY: Final = 255
PRIORITIES: Final = (-1000, 1000)
_NO_ROW: Final = "the database took the task but kept no row: look for a rule on runtime.tasks"


class TaskTypeRefused(UsageError):
    """A task's type does not fit its column."""


class SubmissionRefused(UsageError):
    """A task's key, priority or time cannot be kept."""


class KeyTaken(UsageError):
    """A key stands for a task that asks for something else."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NewTask:
    """A task to put in line; `payload` is any JSON, usually `{"input": …}`.

    With no agent its `capabilities` find one. It runs from `run_at` on, or `delay` seconds from now by the database's clock, or at once. Of several with one `key`
    for one agent, or for the same capabilities, only the first becomes a task.
    """

    agent_id: UUID | None
    payload: Any
    task_type: str = "task"
    session_id: UUID | None = None
    user_id: UUID | None = None
    id: UUID | None = None
    priority: int = 0
    run_at: datetime | None = None
    delay: float | None = None
    key: str | None = None
    capabilities: Sequence[str] = ()

    def columns(self) -> dict[str, Any]:
        """Return what a statement is given. Raises: TaskTypeRefused, SubmissionRefused; ValueError for what is not JSON."""
        return {
            "id": self.id,
            "agent_id": self.agent_id,
            "capabilities": sorted({*self.capabilities}) or None,
            "payload": jsonb.dumps(self.payload),
            "session_id": self.session_id,
            "user_id": self.user_id,
            "run_at": self.run_at,
            **self._plain(),
        }

    def as_json(self) -> dict[str, Any]:
        """Return one of many as JSON has it. Raises: TaskTypeRefused, SubmissionRefused."""
        return {
            "agent_id": str(self.agent_id) if self.agent_id else None,
            "payload": self.payload,
            "user_id": str(self.user_id) if self.user_id else None,
            "run_at": self.run_at.isoformat() if self.run_at else None,
            **self._plain(),
        }

    def _plain(self) -> dict[str, Any]:
        _check(self)
        return {"task_type": self.task_type, "priority": self.priority, "delay": self.delay, "key": self.key}


@dataclass(frozen=True, slots=True)
class Entered:
    """A task in line; not `new` when its key had named it before."""

    id: UUID
    new: bool


def _check(task: NewTask) -> None:
    if len(task.task_type) > LONGEST_TYPE or jsonb.clean_text(task.task_type) != task.task_type:
        raise TaskTypeRefused(
            f"{task.task_type[:40]!r}… cannot be a task's type: give at most {LONGEST_TYPE} plain characters"
        )
    if task.key is not None and not (task.key.isprintable() and 0 < len(task.key) <= LONGEST_KEY):
        raise SubmissionRefused(
            f"{task.key[:40]!r} cannot be a task's key: give 1 to {LONGEST_KEY} characters that can be shown"
        )
    if not PRIORITIES[0] <= task.priority <= PRIORITIES[1]:
        raise SubmissionRefused(f"a priority is from {PRIORITIES[0]} to {PRIORITIES[1]}, not {task.priority}")
    if task.run_at is not None and task.run_at.tzinfo is None:
        raise SubmissionRefused(f"the time {task.run_at} has no zone, so nobody knows when it is: give it one")
    if (task.agent_id is None) is not bool(task.capabilities):
        raise SubmissionRefused("name an agent or the capabilities that it needs to have, one of the two")
    if task.run_at is not None and task.delay is not None:
        raise SubmissionRefused("give the time a task runs at or how long it waits, not both")


# A worker that waits may be handed the task (docs/decisions/027-handed-over.md), unless more is to be done before the commit.
SUBMIT: Final = """
INSERT INTO runtime.tasks (id, agent_id, task_type, payload, session_id, user_id, priority, run_at, capabilities)
SELECT coalesce(%(id)s::uuid, gen_random_uuid()), %(agent_id)s::uuid, %(task_type)s::text, %(payload)s::jsonb,
       %(session_id)s::uuid, %(user_id)s::uuid, %(priority)s::integer,
       coalesce(%(run_at)s::timestamptz, clock_timestamp() + make_interval(secs => %(delay)s::double precision)),
       %(capabilities)s::text[]
  FROM set_config('cirkelline.hand_over', %(hand_over)s::text, TRUE)
RETURNING id
"""


async def submit(conn: Conn, task: NewTask) -> Entered:
    """Put one task in line. Raises: TaskTypeRefused, SubmissionRefused, KeyTaken."""
    if task.key is not None:
        return await _submit_once(conn, task)
    is_whole = conn.autocommit and conn.info.transaction_status == TransactionStatus.IDLE
    given = {**task.columns(), "hand_over": "on" if is_whole else "off"}
    row = await (await conn.execute(SUBMIT, given, prepare=True)).fetchone()
    if row is None:  # a rule or a trigger of somebody else swallowed the row
        raise CirkellineError(_NO_ROW)
    return Entered(UUID(str(row[0])), new=True)


SUBMIT_ONCE: Final = """
INSERT INTO runtime.tasks (id, agent_id, task_type, payload, session_id, user_id, priority, run_at, key, capabilities)
VALUES (coalesce(%(id)s::uuid, gen_random_uuid()), %(agent_id)s::uuid, %(task_type)s::text, %(payload)s::jsonb,
        %(session_id)s::uuid, %(user_id)s::uuid, %(priority)s::integer,
        coalesce(%(run_at)s::timestamptz, clock_timestamp() + make_interval(secs => %(delay)s::double precision)),
        %(key)s::text, %(capabilities)s::text[])
ON CONFLICT DO NOTHING
RETURNING id
"""
KEYED: Final = """
SELECT t.id, (t.payload, t.task_type, t.user_id)
             IS NOT DISTINCT FROM (%(payload)s::jsonb, %(task_type)s::text, %(user_id)s::uuid)
  FROM runtime.tasks t
 WHERE t.key = %(key)s::text AND (t.agent_id = %(agent_id)s::uuid AND t.capabilities IS NULL
                                  OR t.capabilities = %(capabilities)s::text[])
"""


async def _submit_once(conn: Conn, task: NewTask) -> Entered:
    columns = task.columns()
    for _ in range(10):
        # Who loses a race waits here for the winner's transaction; the next statement then sees its task.
        row = await (await conn.execute(SUBMIT_ONCE, columns, prepare=True)).fetchone()
        if row is not None:
            return Entered(UUID(str(row[0])), new=True)
        found = await (await conn.execute(KEYED, columns)).fetchone()
        if found is not None:
            if not found[1]:
                raise KeyTaken(
                    f"the key {task.key!r} is that of task {found[0]}, which asks for something else:"
                    " give the same input, type and user, or another key"
                )
            return Entered(UUID(str(found[0])), new=False)
        # It has been removed in between, which makes the key free again.
    raise CirkellineError(_NO_ROW)


SUBMIT_MANY: Final = """
INSERT INTO runtime.tasks (agent_id, task_type, payload, user_id, priority, run_at, key)
SELECT n.agent_id, n.task_type, n.payload, n.user_id, n.priority,
       coalesce(n.run_at, clock_timestamp() + make_interval(secs => n.delay)), n.key
  FROM ROWS FROM (jsonb_to_recordset(%(tasks)s::jsonb) AS (
       agent_id UUID, task_type TEXT, payload JSONB, user_id UUID, priority INTEGER, run_at TIMESTAMPTZ,
       delay DOUBLE PRECISION, key TEXT)) WITH ORDINALITY AS n
 ORDER BY n.ordinality
ON CONFLICT (agent_id, key) WHERE key IS NOT NULL AND capabilities IS NULL DO NOTHING
"""
KEYED_OTHERWISE: Final = """
SELECT n.ordinality - 1, t.id
  FROM ROWS FROM (jsonb_to_recordset(%(tasks)s::jsonb) AS (
       agent_id UUID, task_type TEXT, payload JSONB, user_id UUID, key TEXT)) WITH ORDINALITY AS n
  JOIN runtime.tasks t ON t.agent_id = n.agent_id AND t.key = n.key AND t.capabilities IS NULL
 WHERE (t.payload, t.task_type, t.user_id) IS DISTINCT FROM (n.payload, n.task_type, n.user_id)
 ORDER BY n.ordinality LIMIT 1
"""


class OneKeyTaken(KeyTaken):
    """One of many tasks has a key that stands for something else; `index` says which, and `task_id` is that other task."""

    def __init__(self, index: int, key: str | None, task_id: UUID) -> None:
        super().__init__(f"the key {key!r} is that of task {task_id}, which asks for something else: give another key")
        self.index = index


async def submit_many(conn: Conn, tasks: Sequence[NewTask]) -> int:
    """Put these tasks in line in their order, and return how many are new; the others' keys had named them before.

    Call it in a transaction: it raises after it has written. Raises: as `submit`, and OneKeyTaken.
    """
    text = {"tasks": jsonb.dumps([task.as_json() for task in tasks])}
    cursor = await conn.execute(SUBMIT_MANY, text)
    if cursor.rowcount < len(tasks):
        other = await (await conn.execute(KEYED_OTHERWISE, text)).fetchone()
        if other is not None:
            raise OneKeyTaken(int(other[0]), tasks[other[0]].key, UUID(str(other[1])))
    return cursor.rowcount
