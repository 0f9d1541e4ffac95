"""The steps of one attempt at a workflow's run: answered from the journal while it lasts, recorded before they return.

A step's row is written when it begins (output NULL) and again when it ends, so that the record says at any moment which
step is executed. Position n is the nth step of the run; its `call` is -1, its output {"value": …} or {"failed": …}. What
has to be decided before it can end stands in its row too, and is decided as for a tool.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import uuid5

import pydantic
import structlog

from cirkelline.agents.journaling import JournalDiverged, OutcomeUnknown, Recorder, waits_of
from cirkelline.agents.steps import Parked
from cirkelline.configs import wording
from cirkelline.configs.effects import Effects, OnUnknown
from cirkelline.runtime import planning
from cirkelline.runtime.planning import BadStep, Planned, Work
from cirkelline.state import jsonb, transactions
from cirkelline.state.journal import Kind, Step
from cirkelline.state.parking import For, Verdict
from cirkelline.tools import failures
from cirkelline.tools.contract import ToolContext
from cirkelline.tools.execution import Executor, ToolResult, ToolTimedOut
from cirkelline.tools.workflows import StepCall, StepFailed

LONGEST_NAME: Final = 100  # characters
_VALUE: Final = "value"
_FAILED: Final = "failed"

log = structlog.get_logger(__name__)


class Stepper:
    """One attempt's steps, one after the other; `context` is kept with the first unless `recorded` begins with one."""

    def __init__(
        self, recorder: Recorder, executor: Executor, ctx: ToolContext, *, context: Step, recorded: Sequence[Step]
    ) -> None:
        self._recorder = recorder
        self._executor = executor
        self._ctx = ctx
        self._recorded = {step.position: step for step in recorded if step.kind == Kind.STEP}
        self._unwritten = [] if recorded else [context]
        self._names: set[str] = set()
        self._busy: str | None = None
        self._fault: Exception | None = None

    @property
    def taken(self) -> int:
        """How many steps the workflow has asked for."""
        return len(self._names)

    async def take(self, call: StepCall) -> Any:
        """Return what a step gave, now or in an earlier attempt. Raises: StepFailed; what ends the run for anything else."""
        try:
            self._admit(call)
            self._busy = call.name
            try:
                return await self._take(planning.plan(self.taken, call))
            finally:
                self._busy = None
        except StepFailed:
            raise
        except Exception as fault:
            self._fault = self._fault or fault
            raise

    def raise_fault(self) -> None:
        """Raise what must end the run, although the workflow may have caught it."""
        if self._fault is not None:
            raise self._fault

    def settle(self) -> None:
        """Say that the workflow has returned. Raises: JournalDiverged when more of its steps are on record."""
        if left := next((step for position, step in sorted(self._recorded.items()) if position > self.taken), None):
            raise self._diverged(f"returned before step {left.position}, {left.name!r}, which is on record")

    def _admit(self, call: StepCall) -> None:
        self.raise_fault()
        if self._busy is not None:
            raise BadStep(
                f"step {call.name!r} was begun while {self._busy!r} runs: a run takes its steps one after the other;"
                " do several things at once inside of one step"
            )
        name = call.name
        if not isinstance(name, str) or not name.strip() or not name.isprintable() or len(name) > LONGEST_NAME:  # pyright: ignore[reportUnnecessaryIsInstance] - an author's code
            raise BadStep(f"{wording.shown(name)} cannot be a step's name: use at most {LONGEST_NAME} plain characters")
        if name in self._names:
            raise BadStep(
                f"this run has a step {name!r} already: a step's name is used once, so write what tells them apart into"
                f' it (f"{name} {{n}}")'
            )
        self._names.add(name)

    async def _take(self, planned: Planned) -> Any:
        found = self._recorded.get(planned.position)
        if found is not None:
            self._compare(found, planned)
            if found.output is None:
                found = await self._go_on(planned, found)
            if found is not None:
                self._ctx.state.replay(found.operations or ())  # type: ignore[arg-type]  # as they were written
                return self._replayed(planned, found)
        elif planned.tool is not None and planned.tool.approval:
            within = planned.tool.approve_within
            until = None if within is None else datetime.now(UTC) + timedelta(seconds=within)
            raise await self._park(planned, {"for": For.APPROVAL, "arguments": planned.shown}, until)
        return await self._do(planned)

    async def _do(self, planned: Planned) -> Any:
        await self._write(planned.step(None))
        if planned.effects is Effects.TRANSACTIONAL:
            return _outcome(planned, await self._transact(planned))
        work = Work(planned)
        result = await self._call(planned, work)
        if work.wait is not None:
            raise await self._park(planned, waits_of(work.wait), work.wait.until, operations=result.operations or None)
        ended = self._ended(planned, work, result)
        await self._write(ended)
        return _outcome(planned, ended, work.failure)

    async def _go_on(self, planned: Planned, found: Step) -> Step | None:
        """Return how a step ended that an earlier attempt began or parked, None where it has to be done (again)."""
        if found.waits is None:
            await self._after_a_crash(planned, found)
            return None
        if found.decision is None:
            raise _parked(found)
        waited, verdict = For(found.waits["for"]), Verdict(found.decision["verdict"])
        if verdict in {Verdict.APPROVE, Verdict.RETRY}:
            return None
        output = _decided(planned, found, waited, verdict)
        ended = planned.step(output, error=_FAILED in output, operations=found.operations)
        await self._write(ended)
        return ended

    async def _after_a_crash(self, planned: Planned, found: Step) -> None:
        """Let a step be done again that was in flight when its process died, if it may be; else ask what happened."""
        repeatable = planned.effects is not Effects.ONCE or planned.on_unknown is OnUnknown.RETRY
        if repeatable and not found.error:
            return
        if planned.on_unknown is OnUnknown.FAIL:
            raise OutcomeUnknown(
                f"nobody knows whether step {planned.call.name!r} happened: it had begun when an earlier attempt was cut"
                " off, and it must not run twice; look, and if everything may be done again:"
                f" `cirkelline tasks retry {self._ctx.task_id} --from-start`"
            )
        approved = {"decided": found.decision} if found.decision else {}
        raise await self._park(planned, {"for": For.OUTCOME, "arguments": planned.shown} | approved)

    async def _park(
        self, planned: Planned, waits: Mapping[str, Any], until: datetime | None = None, **more: Any
    ) -> Parked:
        step = planned.step(None, waits=waits, until=until, **more)
        await self._write(step)
        return _parked(step)

    def _replayed(self, planned: Planned, found: Step) -> Any:
        try:
            return _outcome(planned, found)
        except pydantic.ValidationError:
            raise self._diverged(f"reads what step {found.name!r} gave as another type than it was") from None

    async def _call(self, planned: Planned, work: Work, connection: object | None = None) -> ToolResult:
        key = str(uuid5(self._ctx.task_id, f"step {planned.call.name} {planned.digest.hex()}"))
        ctx = replace(self._ctx, idempotency_key=key, lent=connection)
        return await self._executor.call(work.tool, {}, ctx)

    def _ended(self, planned: Planned, work: Work, result: ToolResult) -> Step:
        if result.failure is None:
            return planned.step({_VALUE: work.value}, ms=result.ms, operations=result.operations or None)
        self._discard(result)
        work.failure = result.failure
        return planned.step(_failure(result.failure), error=True, ms=result.ms)

    async def _transact(self, planned: Planned) -> Step:
        """Take a step inside a transaction with its record, again while it only collides with somebody else's."""
        began = time.perf_counter()
        for pause in (*transactions.PAUSES, None):
            work, result = Work(planned), None
            try:
                async with self._recorder.transaction(plain=not work.tool.is_async) as transaction:
                    result = await self._call(planned, work, transaction.connection)
                    ended = self._ended(planned, work, result)
                    if result.failure is None:
                        kept = await transaction.commit(ended)
                        return kept if kept is ended else self._earlier(result, kept)
                    if isinstance(result.failure, ToolTimedOut):
                        transaction.abandon()
                failure: Exception = result.failure
            except transactions.LeftTransaction:
                # What it did is done, and nobody can say how much: begun, and never by itself again.
                await self._write(planned.step(None, error=True))
                raise
            except Exception as error:
                if not (transactions.passes(error) or isinstance(error, transactions.TransactionFailed)):
                    raise
                self._discard(result)
                failure = error
            if pause is None or not transactions.passes(failure):
                break
            log.info("step.collided", step=planned.call.name, error=type(failure).__name__, seconds=pause)
            await asyncio.sleep(pause)
        ended = planned.step(_failure(failure), error=True, ms=round((time.perf_counter() - began) * 1000))
        await self._write(ended)
        return ended

    def _earlier(self, result: ToolResult, kept: Step) -> Step:
        """Return what a commit of ours had kept whose answer was lost."""
        self._discard(result)
        self._ctx.state.replay(kept.operations or ())  # type: ignore[arg-type]  # as they were written
        return kept

    def _discard(self, result: ToolResult | None) -> None:
        if result is not None:
            self._ctx.state.discard({operation["at"] for operation in result.operations})

    def _compare(self, found: Step, planned: Planned) -> None:
        if found.name != planned.call.name:
            raise self._diverged(f"came to step {planned.call.name!r} where {found.name!r} is on record")
        if found.format != planning.FORMAT:
            log.warning("journal.other_format", recorded=found.format, ours=planning.FORMAT)
        elif found.input_hash != planned.digest:
            raise self._diverged(f"calls step {found.name!r} with other arguments than those on record")

    def _diverged(self, how: str) -> JournalDiverged:
        return JournalDiverged(
            f"this run {how}, so it cannot go on from there (was its code changed?):"
            f" `cirkelline tasks retry {self._ctx.task_id} --from-start` forgets the record and begins again"
        )

    async def _write(self, step: Step) -> None:
        await self._recorder.write([*self._unwritten, step])
        self._unwritten = []


def _parked(step: Step) -> Parked:
    return Parked(f"step {step.name!r} waits for {(step.waits or {}).get('for')}")


def _decided(planned: Planned, found: Step, waited: For, verdict: Verdict) -> dict[str, Any]:
    """Return what a step came to by a decision."""
    value = (found.decision or {}).get("value")
    reason = f": {jsonb.clean_text(str(value))}" if value else ""
    match waited, verdict:
        case _, Verdict.FAIL:
            output = _failed("Failed", f"it failed, as was decided{reason}")
        case For.APPROVAL, Verdict.REJECT:
            output = _failed("Rejected", f"it was not approved{reason}")
        case For.APPROVAL | For.ANSWER, Verdict.EXPIRED:
            output = _failed("Expired", f"nobody {'approved it' if waited is For.APPROVAL else 'answered'} in time")
        case For.TIME, _:
            output = {_VALUE: (found.waits or {}).get("result")}
        case _:
            output = {_VALUE: value}
    try:
        if _VALUE in output:
            planned.read(output[_VALUE])
    except pydantic.ValidationError:
        return _failed("ResultUnusable", "the result that was given is not what its function says it returns")
    return output


def _failure(failure: BaseException) -> dict[str, Any]:
    return _failed(type(failure).__name__, failures.told(failure).removeprefix("error: "))


def _failed(kind: str, message: str) -> dict[str, Any]:
    return {_FAILED: {"type": kind, "message": jsonb.clean_text(message)}}


def _outcome(planned: Planned, step: Step, cause: Exception | None = None) -> Any:
    """Return a recorded step's value. Raises: StepFailed."""
    output = step.output or {}
    match output.get(_FAILED):
        case {"type": str(kind), "message": str(message)}:
            raise StepFailed(planned.call.name, kind, message) from cause
        case _:
            return planned.read(output.get(_VALUE))
