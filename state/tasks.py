"""Tasks as anybody sees them: submit, look, search, cancel, retry. Claiming and finishing are in `claims`."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Final
from uuid import UUID

from psycopg.rows import class_row

from cirkelline.configs.errors import CirkellineError, UsageError
from cirkelline.state import jsonb, submitting
from cirkelline.state.connection import Conn
from cirkelline.state.submitting import NewTask


class TaskStatus(StrEnum):
    """Where a task is on its way; `waiting` is parked with nothing held."""

    PENDING = "pending"
    RUNNING = "running"
    WAITING = "waiting"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


ENDED: Final = frozenset({TaskStatus.COMPLETED, TaskStatus.FAILED, TaskStatus.CANCELLED})


class TaskNotFound(UsageError):
    """No task has that id."""


class TaskNotRetryable(CirkellineError):
    """Only a task that failed or was cancelled can be tried again."""


@dataclass(frozen=True, slots=True)
class Task:
    """A row of `runtime.tasks`; `agent` is its agent's handle, or its name where it has none."""

    id: UUID
    agent_id: UUID | None
    agent: str | None
    task_type: str | None
    status: str | None
    payload: Any
    result: Any
    created_at: datetime | None
    completed_at: datetime | None
    session_id: UUID | None
    user_id: UUID | None
    priority: int | None
    run_at: datetime | None
    key: str | None
    capabilities: list[str] | None
    attempt: int | None
    deaths: int | None
    failures: int | None
    worker: UUID | None
    error: str | None
    state_version: int | None
    definition_version: int | None
    submitted_at: datetime | None
    started_at: datetime | None
    finished_at: datetime | None
    adopted: bool | None

    @property
    def ended(self) -> bool:
        """Whether nothing will change about it any more by itself."""
        return self.status in ENDED


async def submit(
    conn: Conn,
    *,
    agent_id: UUID,
    payload: Any,
    task_type: str = "task",
    session_id: UUID | None = None,
    user_id: UUID | None = None,
    task_id: UUID | None = None,
) -> UUID:
    """Put one task in line for an agent and return its id; `submitting` can do more.

    Raises: TaskTypeRefused.
    """
    new = NewTask(
        agent_id=agent_id, payload=payload, task_type=task_type, session_id=session_id, user_id=user_id, id=task_id
    )
    return (await submitting.submit(conn, new)).id


TASKS: Final = """
SELECT t.id, t.agent_id, coalesce(a.handle, a.name) AS agent, t.task_type, t.status, t.payload, t.result, t.created_at,
       t.completed_at, t.session_id, t.user_id, t.priority, t.run_at, t.key, t.capabilities, t.attempt, t.deaths, t.failures, t.worker, t.error,
       t.state_version, t.definition_version, t.submitted_at, t.started_at, t.finished_at, t.adopted
  FROM runtime.tasks t LEFT JOIN runtime.agents a ON a.id = t.agent_id
"""

GET: Final = (
    TASKS
    + """ WHERE t.id = %(id)s::uuid
"""
)


async def get(conn: Conn, task_id: UUID) -> Task:
    """Return one task. Raises: TaskNotFound."""
    async with conn.cursor(row_factory=class_row(Task)) as cursor:
        await cursor.execute(GET, {"id": task_id})
        task = await cursor.fetchone()
    if task is None:
        raise TaskNotFound(f"no task {task_id} (`cirkelline tasks list` shows them)")
    return task


BY_PREFIX: Final = """
SELECT id FROM runtime.tasks
 WHERE id BETWEEN rpad(%(digits)s::text, 32, '0')::uuid AND rpad(%(digits)s::text, 32, 'f')::uuid
 ORDER BY id LIMIT 2
"""


async def resolve(conn: Conn, reference: str) -> UUID:
    """Return the id of the one task whose id starts with `reference`. Raises: TaskNotFound."""
    digits = reference.strip().lower().replace("-", "")
    if not digits or len(digits) > 32 or any(digit not in "0123456789abcdef" for digit in digits):  # noqa: PLR2004 - a UUID's digits
        raise TaskNotFound(f"{reference!r} is not a task id: it looks like 5f0c7d1e or the whole id")
    rows = await (await conn.execute(BY_PREFIX, {"digits": digits})).fetchall()
    if not rows:
        raise TaskNotFound(f"no task's id starts with {reference} (`cirkelline tasks list` shows them)")
    if len(rows) > 1:
        raise TaskNotFound(f"more than one task's id starts with {reference}: give more of it")
    return UUID(str(rows[0][0]))


FIND: Final = (
    TASKS
    + """ WHERE (%(status)s::text IS NULL OR t.status = %(status)s)
   AND (%(agent_id)s::uuid IS NULL OR t.agent_id = %(agent_id)s)
   AND (%(session_id)s::uuid IS NULL OR t.session_id = %(session_id)s)
 ORDER BY t.created_at DESC NULLS LAST, t.sequence DESC NULLS LAST
 LIMIT %(limit)s::integer
"""
)


async def find(
    conn: Conn,
    *,
    status: str | None = None,
    agent_id: UUID | None = None,
    session_id: UUID | None = None,
    limit: int = 50,
) -> list[Task]:
    """Return the newest tasks that fit every filter given."""
    async with conn.cursor(row_factory=class_row(Task)) as cursor:
        await cursor.execute(FIND, {"status": status, "agent_id": agent_id, "session_id": session_id, "limit": limit})
        return await cursor.fetchall()


SEARCH: Final = (
    TASKS
    + """ WHERE runtime.task_words(t.task_type, t.payload) @@ to_tsquery('simple', %(query)s::text)
 ORDER BY t.created_at DESC NULLS LAST, t.sequence DESC NULLS LAST
 LIMIT %(limit)s::integer
"""
)


async def search(conn: Conn, words: str, *, limit: int = 50) -> list[Task]:
    """Return the newest tasks whose type or input holds every word (each word may be a beginning)."""
    query = prefix_query(words)
    if not query:
        return []
    async with conn.cursor(row_factory=class_row(Task)) as cursor:
        await cursor.execute(SEARCH, {"query": query, "limit": limit})
        return await cursor.fetchall()


def prefix_query(words: str) -> str:
    """Return a tsquery that wants every word of `words` as a beginning; empty when there is no word in it."""
    return " & ".join(filter(None, map(_beginning, jsonb.clean_text(words).split())))


def _beginning(word: str) -> str:
    """A word as the parser reads it in a text (an email or a version number is one word there), or its parts."""
    parts = "".join(character if character.isalnum() else " " for character in word).split()
    if not parts:
        return ""
    quoted = word.replace("\\", "\\\\").replace("'", "''")
    return f"('{quoted}':* | ({' & '.join(f'{part}:*' for part in parts)}))"


COUNT_BY_STATUS: Final = """
SELECT coalesce(status, 'none') AS status, count(*) AS amount FROM runtime.tasks GROUP BY status ORDER BY status
"""


async def count_by_status(conn: Conn) -> dict[str, int]:
    """Return how many tasks there are of each status ('none' where another program left it NULL)."""
    rows = await (await conn.execute(COUNT_BY_STATUS)).fetchall()
    return {str(status): int(amount) for status, amount in rows}


CANCEL: Final = "SELECT runtime.cancel_task(%(id)s::uuid)"


async def cancel(conn: Conn, task_id: UUID) -> str:
    """Cancel a task: 'cancelled' at once, or 'asked' when a worker runs it, or the status it had ended with.

    Raises: TaskNotFound.
    """
    row = await (await conn.execute(CANCEL, {"id": task_id})).fetchone()
    if row is None or row[0] is None:
        raise TaskNotFound(f"no task {task_id} (`cirkelline tasks list` shows them)")
    return str(row[0])


# What the journal holds was made with the definition the task began with. A step that ended the run is done again; one of
# a workflow that failed and was followed by another did not end it.
RETRY: Final = """
WITH retried AS (
    UPDATE runtime.tasks t
       SET status = 'pending', result = NULL, error = NULL, completed_at = NULL, finished_at = NULL, deaths = 0,
           failures = NULL, run_at = NULL, state_version = NULL,
           tokens_counted = CASE WHEN NOT %(from_start)s::boolean THEN t.tokens_counted END,
           definition_version = CASE WHEN NOT %(from_start)s AND EXISTS (
               SELECT FROM runtime.journal j WHERE j.task_id = t.id AND j.call >= -1) THEN t.definition_version END
     WHERE t.id = %(id)s::uuid AND t.status IN ('failed', 'cancelled') AND t.adopted IS NOT TRUE
    RETURNING t.id
), over AS (
    SELECT j.task_id, j.position, j.call, NOT %(from_start)s AND coalesce(j.waits ->> 'for' = 'outcome', FALSE) AS unknown
      FROM runtime.journal j JOIN retried ON j.task_id = retried.id
     WHERE %(from_start)s OR j.output ? 'end' OR j.output ? 'failed' AND NOT EXISTS (
           SELECT FROM runtime.journal later WHERE later.task_id = j.task_id AND later.position > j.position)
), asked AS (
    UPDATE runtime.journal j SET output = NULL, decision = NULL, error = FALSE FROM over o
     WHERE o.unknown AND (j.task_id, j.position, j.call) = (o.task_id, o.position, o.call)
), forgotten AS (
    DELETE FROM runtime.journal j USING over o
     WHERE NOT o.unknown AND (j.task_id, j.position, j.call) = (o.task_id, o.position, o.call)
)
SELECT id FROM retried
"""


async def retry(conn: Conn, task_id: UUID, *, from_start: bool = False) -> None:
    """Put a failed or cancelled task back in line: it goes on after its last recorded step, as its definition was then.

    A call of which nobody knows whether it happened is asked about again. With `from_start`, or where there is no step, it begins again with its agent's current definition; tools that had
    run are then run again.

    Raises: TaskNotFound, TaskNotRetryable.
    """
    if await (await conn.execute(RETRY, {"id": task_id, "from_start": from_start})).fetchone() is None:
        task = await get(conn, task_id)
        held = " and was here before cirkelline (`cirkelline db adopt`)" if task.adopted else ""
        raise TaskNotRetryable(f"task {task_id} is {task.status}{held}: only failed and cancelled tasks can be retried")
