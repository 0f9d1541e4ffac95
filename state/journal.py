"""The journal: one row per step of a run, written by whoever holds the task's claim and read by its next attempt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any, Final, LiteralString
from uuid import UUID

from psycopg.rows import class_row

from cirkelline.state import jsonb
from cirkelline.state.connection import Conn

CONTEXT: Final = 0
"""The position of the context; the model calls of a run count from 1."""
ANSWER: Final = -1
"""The `call` of the context and of a model's answer; tool calls count from 0."""
LOST: Final = -1
"""Below it, at `LOST - attempt`, stands what an attempt paid at a position without getting an answer."""


def label(position: int, call: int) -> str:
    """Return how people call a step: `2` for the second model call, `2.0` for the first tool call of its answer."""
    return str(position) if call <= ANSWER else f"{position}.{call}"


class Kind(StrEnum):
    """What a step was."""

    CONTEXT = "context"
    MODEL = "model"
    TOOL = "tool"
    STEP = "step"  # of a workflow


class Written(StrEnum):
    """What became of a write: LOST, the task is somebody else's by now; THERE, a step had ended already and stays."""

    WRITTEN = "written"
    LOST = "lost"
    THERE = "there"


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One step, keyed by (position, call). `output` is None while it is begun and not known to have ended.

    `kind` is one of `Kind`; `format` says how `input_hash` was made and `output` is written; `operations` are a tool's
    on its agent's state and, those that are `of` the session, on its session's; `citations` are the numbers it gave.
    `waits` is what the call waits for (`state.parking` says in which words), `until` when the clock decides about it.
    `decision`, `attempt` and `begun` are set by the database.
    """

    position: int
    call: int
    kind: str
    name: str
    format: int
    input_hash: bytes | None = None
    output: Mapping[str, Any] | None = None
    operations: Sequence[Mapping[str, Any]] | None = None
    citations: Sequence[Mapping[str, Any]] | None = None
    error: bool = False
    ms: int | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    cost: Decimal | None = None
    waits: Mapping[str, Any] | None = None
    until: datetime | None = None
    decision: Mapping[str, Any] | None = None
    attempt: int = 0
    begun: datetime | None = None

    @property
    def ended(self) -> bool:
        """Whether its output is known."""
        return self.output is not None


def as_json(step: Step) -> dict[str, Any]:
    """Return a step as `runtime.write_journal` and `runtime.finish_tasks` read it; what is empty is left out."""
    written: dict[str, Any] = {
        "position": step.position,
        "call": step.call,
        "kind": step.kind,
        "name": step.name,
        "format": step.format,
        "input_hash": step.input_hash.hex() if step.input_hash is not None else None,
        "output": step.output,
        "operations": list(step.operations) if step.operations else None,
        "citations": list(step.citations) if step.citations else None,
        "error": step.error or None,
        "ms": step.ms,
        "input_tokens": step.input_tokens,
        "output_tokens": step.output_tokens,
        "cost": str(step.cost) if step.cost is not None else None,
        "waits": step.waits,
        "until": step.until.isoformat() if step.until is not None else None,
    }
    return {key: value for key, value in written.items() if value is not None}


# The text of a completed task's last answer stands in its result alone.
READ: Final = """
SELECT j.position, j.call, j.kind, j.name, j.format, j.input_hash,
       CASE WHEN j.output ? 'in_result' THEN jsonb_build_object('text', t.result -> 'output') ELSE j.output END AS output,
       j.operations, j.citations, j.error, j.ms, j.input_tokens, j.output_tokens, j.cost, j.waits, j.until,
       j.decision, j.attempt, j.begun
  FROM runtime.journal j LEFT JOIN runtime.tasks t ON t.id = j.task_id
 WHERE j.task_id = %(task)s::uuid AND (j.call >= -1 OR %(lost)s::boolean)
 ORDER BY j.position, j.call >= -1, CASE WHEN j.call < -1 THEN j.attempt ELSE j.call END
"""


async def read(conn: Conn, task_id: UUID, *, lost: bool = False) -> list[Step]:
    """Return a task's steps in order; with `lost` also the model calls that were paid for and gave no answer."""
    async with conn.cursor(row_factory=class_row(Step)) as cursor:
        await cursor.execute(READ, {"task": task_id, "lost": lost})
        return await cursor.fetchall()


WRITE: Final = """
SELECT runtime.write_journal(%(worker)s::uuid, %(task)s::uuid, %(attempt)s::integer, %(steps)s::jsonb)
"""
WRITE_CITING: Final = """
SELECT runtime.write_citing(%(worker)s::uuid, %(task)s::uuid, %(attempt)s::integer, %(steps)s::jsonb)
"""


@dataclass(frozen=True, slots=True)
class Fence:
    """Who may write: the worker that claimed a task, at the attempt it claimed."""

    worker: UUID
    task: UUID
    attempt: int


def statement(steps: Sequence[Step]) -> LiteralString:
    """Return WRITE, or WRITE_CITING where the steps give numbers that their session is to remember."""
    return WRITE_CITING if any(step.citations for step in steps) else WRITE


def parameters(fence: Fence, steps: Sequence[Step]) -> dict[str, Any]:
    """Return what either takes, for whoever runs it on a connection of another kind."""
    return {
        "worker": fence.worker,
        "task": fence.task,
        "attempt": fence.attempt,
        "steps": jsonb.dumps([as_json(step) for step in steps]),
    }


async def write(conn: Conn, fence: Fence, steps: Sequence[Step]) -> Written:
    """Write these steps, all or none; a step that had only begun is replaced, one that had ended never."""
    row = await (await conn.execute(statement(steps), parameters(fence, steps))).fetchone()
    return Written(row[0]) if row else Written.LOST
