"""One attempt at a claimed run of a workflow: from its last recorded step to an outcome."""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Awaitable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final

import structlog

from cirkelline.agents import asking
from cirkelline.agents.models import ModelPool
from cirkelline.agents.run import RunError
from cirkelline.agents.steps import Parked
from cirkelline.configs import durations
from cirkelline.configs.errors import CirkellineError
from cirkelline.runtime import invoking, planning
from cirkelline.runtime.patience import until_answered
from cirkelline.runtime.recording import Recording
from cirkelline.runtime.stepping import Stepper
from cirkelline.runtime.workflows import PreparedWorkflow
from cirkelline.state import journal, snapshots
from cirkelline.state import workflows as records
from cirkelline.state.claims import Claim, Finish
from cirkelline.state.connection import Database
from cirkelline.state.journal import ANSWER, CONTEXT, Kind, Step
from cirkelline.state.snapshots import SnapshotNotFound
from cirkelline.tools import failures
from cirkelline.tools.contract import ToolContext
from cirkelline.tools.execution import Executor
from cirkelline.tools.library import Embedders
from cirkelline.tools.remembering import UserMemories
from cirkelline.tools.state import State
from cirkelline.tools.workflows import Workflow, WorkflowRun

LAST_WORDS: Final = 5.0
"""Seconds that a stopped workflow has to let go of its step; one that does not is left behind."""

log = structlog.get_logger(__name__)


class WallLimit(CirkellineError):
    """An attempt at a run took longer than its workflow allows."""


class NoRun(CirkellineError):
    """A task of a workflow is not of the type that makes it a run."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt at a claimed run."""

    db: Database
    executor: Executor
    recording: Recording
    claim: Claim
    prepared: PreparedWorkflow
    embedders: Embedders | None = None
    model_pool: ModelPool | None = None

    async def run(self, cancel: asyncio.Event) -> Finish:
        """Run the workflow from its last recorded step to an outcome; raises nothing but cancellation."""
        claim = self.claim
        ctx, context, recorded = await until_answered(self._begin, "run")
        stepper = Stepper(self.recording, self.executor, ctx, context=context, recorded=recorded)
        if recorded:
            log.info("workflow.resumed", steps=sum(step.ended for step in recorded) - 1)
        run = WorkflowRun(
            id=claim.id,
            workflow=self.prepared.label,
            user_id=claim.user_id,
            attempt=claim.attempt,
            began=_clock(context),
            log=structlog.get_logger("cirkelline.workflow").bind(workflow=self.prepared.label, task_id=claim.id),
            take=stepper.take,
        )
        try:
            output = await _within(self._output(run, stepper), cancel, self.prepared.workflow)
        except _Cancelled:
            result = {"error": {"type": "Cancelled", "message": "cancelled"}, "steps": stepper.taken}
            return Finish(claim.id, claim.attempt, "cancelled", result, error="cancelled")
        except Parked:
            return Finish(claim.id, claim.attempt, "waiting")
        except Exception as error:  # noqa: BLE001 - the boundary to an author's code: whatever it raises is the outcome
            return invoking.failed(claim.id, claim.attempt, self._told(error), facts={"steps": stepper.taken})
        result = {"output": output, "steps": stepper.taken}
        return Finish(claim.id, claim.attempt, "completed", result, operations=ctx.state.operations)

    async def _output(self, run: WorkflowRun, stepper: Stepper) -> Any:
        if self.claim.task_type != records.TASK_TYPE:
            raise NoRun(
                f"a task of a workflow has the type {records.TASK_TYPE!r}, not {self.claim.task_type!r}:"
                f" `cirkelline workflows run {self.prepared.label}` makes one"
            )
        workflow = self.prepared.workflow
        payload = self.claim.payload
        given = payload.get("input") if isinstance(payload, dict) else payload  # pyright: ignore[reportUnknownVariableType, reportUnknownMemberType]
        try:
            output = await workflow.function(run, **workflow.validate(given))
        finally:
            stepper.raise_fault()
        stepper.settle()
        return planning.kept(output, f"what workflow {workflow.name!r} returned")

    async def _begin(self) -> tuple[ToolContext, Step, list[Step]]:
        """Return what the steps are given, the context of the first attempt, and what earlier ones recorded."""
        claim = self.claim
        async with self.db.connection() as conn:
            recorded = await journal.read(conn, claim.id) if claim.attempt > 1 else []
            version = (recorded[0].output or {}).get("state") if recorded else None
            snapshot = None if recorded and version is None else await snapshots.latest(conn, claim.agent_id)
            if version is not None and snapshot is not None and snapshot.version != version:
                try:
                    snapshot = await snapshots.get(conn, claim.agent_id, version)
                except SnapshotNotFound:
                    log.warning("task.state_gone", version=version, instead="the latest one")
        context = recorded[0] if recorded else self._context(snapshot.version if snapshot else None)
        ctx = ToolContext(
            state=State(snapshot.state["work"] if snapshot else {}),
            agent=self.prepared.name,
            task_id=claim.id,
            user_id=claim.user_id,
            remembered=self._remembered(),
            attempt=claim.attempt,
            log=structlog.get_logger("cirkelline.tool").bind(workflow=self.prepared.label, task_id=claim.id),
        )
        return ctx, context, recorded

    def _remembered(self) -> UserMemories | None:
        if self.claim.user_id is None:
            return None
        ask = partial(asking.ask, self.model_pool) if self.model_pool is not None else None
        return UserMemories(self.db, self.embedders, self.claim.user_id, self.claim.id, ask=ask)

    def _context(self, state: int | None) -> Step:
        clock = datetime.now(UTC).isoformat()
        output = {"definition": self.claim.definition_version, "state": state, "clock": clock}
        name = self.prepared.label
        return Step(position=CONTEXT, call=ANSWER, kind=Kind.CONTEXT, name=name, format=planning.FORMAT, output=output)

    def _told(self, error: Exception) -> RunError:
        message = failures.told(error).removeprefix("error: ")
        if not isinstance(error, CirkellineError):
            # Written out here: structlog's own rendering of a traceback shows every local variable.
            trace = failures.masked("".join(traceback.format_exception(error)))
            log.error("workflow.broke", workflow=self.prepared.label, task_id=str(self.claim.id), exception=trace)
        return RunError(type(error).__name__, message)


class _Cancelled(Exception):
    """Somebody cancelled the run."""


def _clock(context: Step) -> datetime:
    return datetime.fromisoformat((context.output or {})["clock"])


async def _within(working: Awaitable[Any], cancel: asyncio.Event, workflow: Workflow) -> Any:
    """Return what a workflow returns, or stop it. Raises: _Cancelled, WallLimit, and what the workflow raises."""
    driver = asyncio.ensure_future(working)
    told = asyncio.create_task(cancel.wait())
    try:
        await asyncio.wait({driver, told}, timeout=workflow.wall, return_when=asyncio.FIRST_COMPLETED)
        if driver.done():
            return _result(driver)
        if cancel.is_set():
            raise _Cancelled
        raise WallLimit(
            f"the run took longer than {durations.render(workflow.wall)} in one attempt: `cirkelline tasks retry` goes on"
            " after its last step, and @workflow(wall=…) gives it more time"
        )
    finally:
        told.cancel()
        await _stop(driver)


def _result(driver: asyncio.Future[Any]) -> Any:
    if driver.cancelled():  # by whom, if not by us
        raise CirkellineError("something inside the workflow cancelled it")
    return driver.result()


async def _stop(driver: asyncio.Future[Any]) -> None:
    if driver.done():
        return
    driver.cancel()
    done, _ = await asyncio.wait({driver}, timeout=LAST_WORDS)
    if not done:
        log.warning("workflow.left_behind", seconds=LAST_WORDS)
    elif not driver.cancelled() and (error := driver.exception()) is not None:
        log.info("workflow.failed_while_stopping", type=type(error).__name__)
