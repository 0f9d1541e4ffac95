"""Workflows in the database: the row of `agents` that stands for one, and its runs in `ai.workflow_runs`.

A run is a task of that row. Triggers keep its record right in the transactions that change the task or its journal.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Final
from uuid import UUID

from psycopg.rows import class_row

from cirkelline.configs.errors import UsageError
from cirkelline.state import agents, jsonb
from cirkelline.state.agents import WORKFLOW, NewDefinition
from cirkelline.state.connection import Conn, Database

TASK_TYPE: Final = "workflow"
"""Of every task that is a run; a task of a workflow's row with another type has no record and is refused."""

KEY: Final = "workflow"
"""The one key of a workflow's definition besides name and type: the label under which a worker finds its code."""


class RunStatus(StrEnum):
    """Where a run is, in the words of the first schema document; a cancelled one FAILED."""

    PENDING = "PENDING"
    RUNNING = "RUNNING"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"


class RunNotFound(UsageError):
    """No workflow run has that id."""


class WorkflowTaken(UsageError):
    """A workflow's handle belongs to an agent."""


@dataclass(frozen=True, slots=True)
class WorkflowRun:
    """A row of `ai.workflow_runs`."""

    run_id: str
    workflow_name: str
    user_id: str | None
    status: str
    started_at: datetime | None
    completed_at: datetime | None
    current_step: str | None
    steps_completed: Any
    input_data: Any
    output_data: Any
    error_message: str | None
    metrics: Any

    @property
    def task_id(self) -> UUID | None:
        """Its task; None for a run of another program, which has an id of another kind."""
        try:
            return UUID(self.run_id)
        except ValueError:
            return None

    @property
    def ended(self) -> bool:
        """Whether nothing will change about it any more by itself."""
        return self.status not in {RunStatus.PENDING, RunStatus.RUNNING}


def handle(label: str) -> str:
    """Return the handle of the row that stands for a workflow."""
    return WORKFLOW + label


def label_in(spec: Mapping[str, Any]) -> str | None:
    """Return the label of the workflow that a stored definition is, None for an agent's."""
    found = spec.get(KEY)
    return found if isinstance(found, str) else None


READY: Final = """
SELECT a.id FROM runtime.agents a JOIN runtime.agent_heads h ON h.agent_id = a.id
 WHERE a.handle = %(handle)s::text AND a.definition_version IS NOT NULL AND a.config ->> 'workflow' = %(label)s::text
"""


async def ready(conn: Conn, label: str) -> UUID | None:
    """Return the row that stands for a workflow, None when there is none that workers would serve."""
    row = await (await conn.execute(READY, {"handle": handle(label), "label": label})).fetchone()
    return UUID(str(row[0])) if row else None


async def ensure(db: Database, label: str) -> UUID:
    """Return the row that stands for a workflow, made or put right at first use. Raises: WorkflowTaken."""
    async with db.connection() as conn:
        found = await ready(conn, label)
    if found is not None:
        return found
    spec = {"name": handle(label), "type": TASK_TYPE, KEY: label}
    new = NewDefinition(
        name=handle(label), type=TASK_TYPE, capabilities=(), spec=spec, hash=label, model={}, cap=None, source=None
    )
    async with db.transaction() as conn:
        await agents.lock_definitions(conn)
        there = await agents.by_handle(conn, handle(label))
        if there is None:
            return await agents.create(conn, new)
        if there.type != TASK_TYPE:
            raise WorkflowTaken(
                f"the handle {handle(label)!r} belongs to an agent of type {there.type!r}, so no workflow can have it:"
                f" give that agent another handle (UPDATE runtime.agents SET handle = NULL WHERE id = '{there.id}')"
            )
        await agents.update(conn, there.id, new)
        return there.id


KNOWN: Final = """
SELECT substr(a.handle, length('workflow:') + 1) AS label FROM runtime.agents a
 WHERE starts_with(a.handle, 'workflow:') ORDER BY 1
"""


async def known(conn: Conn) -> list[str]:
    """Return the labels of all workflows that have ever been submitted."""
    return [str(label) for (label,) in await (await conn.execute(KNOWN)).fetchall()]


RUNS: Final = """
SELECT r.run_id, r.workflow_name, r.user_id, r.status, r.started_at, r.completed_at, r.current_step,
       r.steps_completed, r.input_data, r.output_data, r.error_message, r.metrics
  FROM ai.workflow_runs r
"""
GET: Final = RUNS + " WHERE r.run_id = %(id)s::text"


async def get(conn: Conn, run_id: str) -> WorkflowRun:
    """Return one run. Raises: RunNotFound."""
    async with conn.cursor(row_factory=class_row(WorkflowRun)) as cursor:
        await cursor.execute(GET, {"id": run_id})
        run = await cursor.fetchone()
    if run is None:
        raise RunNotFound(f"no workflow run {run_id} (`cirkelline workflows list` shows them)")
    return run


BEGINNING: Final = """
SELECT r.run_id FROM ai.workflow_runs r WHERE starts_with(r.run_id, %(text)s::text)
 ORDER BY length(r.run_id), r.run_id LIMIT 2
"""


async def resolve(conn: Conn, reference: str) -> str:
    """Return the id of the one run whose id is `reference`, or else begins with it. Raises: RunNotFound."""
    text = jsonb.clean_text(reference.strip())
    rows = await (await conn.execute(BEGINNING, {"text": text})).fetchall() if text else []
    if not rows:
        raise RunNotFound(f"no workflow run's id starts with {reference!r} (`cirkelline workflows list` shows them)")
    if len(rows) > 1 and rows[0][0] != text:
        raise RunNotFound(f"more than one workflow run's id starts with {reference!r}: give more of it")
    return str(rows[0][0])


FIND: Final = (
    RUNS
    + """ WHERE (%(status)s::text IS NULL OR r.status = %(status)s)
   AND (%(workflow)s::text IS NULL OR r.workflow_name = %(workflow)s
        OR split_part(r.workflow_name, ':', 2) = %(workflow)s)
 ORDER BY r.id DESC LIMIT %(limit)s::integer
"""
)


async def find(
    conn: Conn, *, status: str | None = None, workflow: str | None = None, limit: int = 50
) -> list[WorkflowRun]:
    """Return the newest runs that fit; `workflow` is a name, or the function's alone."""
    async with conn.cursor(row_factory=class_row(WorkflowRun)) as cursor:
        await cursor.execute(FIND, {"status": status, "workflow": workflow, "limit": limit})
        return await cursor.fetchall()
