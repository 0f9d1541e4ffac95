"""A run that goes on where an earlier attempt was cut off: its recorded steps answer until they run out.

It stands at the two seams of `steps`: every model call and every tool call passes here, is answered from the record
while that lasts, and is recorded before the next one begins. How rows are written is the runtime's (`Recorder`).
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, Final, Protocol
from uuid import UUID

import structlog

from cirkelline.agents.chat_model import ToolCall, Usage
from cirkelline.agents.hashing import hash_call, hash_conversation
from cirkelline.agents.steps import Answer, ModelCall, Parked, ToolUse, UseTool
from cirkelline.configs import errors, wording
from cirkelline.configs.effects import Effects, OnUnknown
from cirkelline.configs.prices import Price
from cirkelline.state import journal, jsonb, transactions
from cirkelline.state.journal import ANSWER, CONTEXT, Kind, Step
from cirkelline.state.parking import For, Verdict
from cirkelline.tools import contract, failures
from cirkelline.tools.contract import EndRun
from cirkelline.tools.execution import ToolResult, ToolTimedOut
from cirkelline.tools.state import Placed, State
from cirkelline.tools.waiting import Wait

FORMAT: Final = 1
"""Of `input_hash` and `output`. Count it up with any change to how a conversation is built or hashed: unfinished runs
of an earlier format are then resumed with a warning, instead of failing as diverged."""

SESSION: Final = "session"
"""What an operation is `of` that was done to `ctx.session_state`; those without are the agent's."""

log = structlog.get_logger(__name__)


class JournalDiverged(errors.CirkellineError):
    """A run came to another step than the one on record."""


class OutcomeUnknown(errors.CirkellineError):
    """A tool that must not run twice had begun, nobody knows whether it ended, and it says to fail then."""


class ClaimLost(errors.CirkellineError):
    """The task is another worker's by now: this run must not do anything any more."""


class Transaction(Protocol):
    """A transaction in which a tool works; rolled back unless committed."""

    @property
    def connection(self) -> object:
        """What the tool is lent."""
        ...

    def abandon(self) -> None:
        """Keep the connection from ever being used again."""
        ...

    async def commit(self, step: Step) -> Step:
        """Commit the tool's work together with its step; return the step that is on record now. Raises: ClaimLost."""
        ...


class Recorder(Protocol):
    """Where steps are kept."""

    async def write(self, steps: Sequence[Step]) -> None:
        """Keep these steps, all or none; returns when they are safe. Raises: ClaimLost."""
        ...

    def transaction(self, *, plain: bool) -> AbstractAsyncContextManager[Transaction]:
        """Open a transaction for a tool, on a blocking connection where `plain`."""
        ...


class Journal:
    """One attempt's record: what earlier attempts came to, and what this one adds.

    `context` is position 0 as this attempt sees it; it is kept with the first step, unless `recorded` begins with one.
    `lost` is what earlier attempts paid for without an answer.
    """

    def __init__(
        self,
        recorder: Recorder,
        *,
        task_id: UUID,
        model: str,
        state: State,
        session_state: State | None = None,
        context: Step,
        attempt: int = 1,
        price: Price | None = None,
        recorded: Sequence[Step] = (),
        lost: Sequence[Step] = (),
    ) -> None:
        self._recorder = recorder
        self._task_id = task_id
        self._attempt = attempt
        self._model = model
        self._price = price
        self._state = state
        self._session_state = session_state
        self._recorded = {(step.position, step.call): step for step in recorded}
        self._unwritten = [] if recorded else [context]
        self._passed = Usage()
        self._paid = sum(map(_usage, [*recorded, *lost]), Usage())
        self._warned = False

    @property
    def unwritten(self) -> Sequence[Step]:
        """The steps that go with the run's end: its last answer, for which nothing has to be written before."""
        return self._unwritten if any(step.position > CONTEXT for step in self._unwritten) else ()

    @property
    def paid(self) -> Usage:
        """What the task has paid for until now, each answer once, whichever attempt asked for it."""
        return self._paid

    def lost(self, usage: Usage, position: int, reason: str) -> Step | None:
        """Return the step for what a run with this usage paid without getting an answer, or None if it did not.

        The last model call, the `position`th, was cut off, failed or was stopped for this `reason`. No attempt goes on
        from such a step; it is there to be seen and counted.
        """
        missing = usage - self._passed
        if missing.tokens <= 0:
            return None
        self._paid += missing
        return Step(
            position=position,
            call=journal.LOST - self._attempt,
            kind=Kind.MODEL,
            name=self._model,
            format=FORMAT,
            output={"lost": reason},
            error=True,
            input_tokens=missing.input_tokens,
            output_tokens=missing.output_tokens,
            cost=self._cost(missing),
        )

    def _cost(self, usage: Usage) -> Decimal | None:
        return self._price.cost(usage.input_tokens, usage.output_tokens) if self._price is not None else None

    async def around_model_call(self, call: ModelCall, proceed: Callable[[], Awaitable[Answer]]) -> Answer:
        """Answer from the record, or ask and record."""
        digest = hash_conversation(call.messages)
        step = self._recorded.get((call.position, ANSWER))
        if step is not None and step.output is not None:
            self._compare(step, digest)
            self._replay_operations(call.position)
            self._passed += _usage(step)
            return answer_of(step)
        began = time.perf_counter()
        answer = _storable(await proceed())
        step = Step(
            position=call.position,
            call=ANSWER,
            kind=Kind.MODEL,
            name=self._model,
            format=FORMAT,
            input_hash=digest,
            output=_answer_output(answer),
            ms=_since(began),
            input_tokens=answer.usage.input_tokens,
            output_tokens=answer.usage.output_tokens,
            cost=self._cost(answer.usage),
        )
        self._passed += answer.usage
        self._paid += answer.usage
        self._unwritten.append(step)
        if answer.tool_calls:
            await self._write()
        return answer

    async def around_tool_call(self, use: ToolUse, proceed: UseTool) -> ToolResult:
        """Answer from the record, or use the tool as its effects allow, and record. Raises: Parked."""
        step = self._recorded.get((use.position, use.index))
        if step is not None:
            self._compare(step, hash_call(use.call))
            if step.output is not None:
                return result_of(step)
        try:
            return await (self._begin(use, proceed) if step is None else self._go_on(use, step, proceed))
        except EndRun as end:
            await self._write(_tool_step(use, {"end": jsonb.clean_text(str(end))}, error=True))
            raise

    async def _begin(self, use: ToolUse, proceed: UseTool) -> ToolResult:
        tool = use.tool
        if tool is not None and tool.approval and _fits(tool, use.call):
            within = None if tool.approve_within is None else timedelta(seconds=tool.approve_within)
            until = within and datetime.now(UTC) + within
            raise await self._park(_tool_step(use, None, waits=_asked(For.APPROVAL, use), until=until))
        return await self._use(use, proceed)

    async def _go_on(self, use: ToolUse, step: Step, proceed: UseTool) -> ToolResult:
        """Go on with a call that an earlier attempt began or parked, as it was decided."""
        if step.waits is None:
            return await self._after_a_crash(use, step, proceed)
        if step.decision is None:
            raise _parked(step)
        waited, verdict = For(step.waits["for"]), Verdict(step.decision["verdict"])
        if verdict in {Verdict.APPROVE, Verdict.RETRY}:
            return await self._use(use, proceed)
        if verdict is Verdict.FAIL:
            raise EndRun(_reason(step, f"{use.call.name} failed, as was decided"))
        told, error = _told(use, step, waited, verdict)
        ended = dataclasses.replace(_tool_step(use, {"text": told}), error=error, operations=step.operations)
        await self._write(ended)
        return ToolResult(told, error, 0)

    async def _after_a_crash(self, use: ToolUse, step: Step, proceed: UseTool) -> ToolResult:
        """Use a tool again that was running when its process died, if it may; else ask what happened."""
        tool = use.tool
        if tool is None or tool.effects in {Effects.READ, Effects.IDEMPOTENT} or tool.on_unknown is OnUnknown.RETRY:
            return await self._use(use, proceed)
        if tool.on_unknown is OnUnknown.FAIL:
            raise OutcomeUnknown(
                f"nobody knows whether {use.call.name}({wording.shown(use.call.arguments)}) happened: it had begun when an"
                " earlier attempt was cut off, and it must not run twice; look, and if everything may be done again:"
                f" `cirkelline tasks retry {self._task_id} --from-start`"
            )
        approved = {"decided": step.decision} if step.decision else {}
        raise await self._park(_tool_step(use, None, waits=_asked(For.OUTCOME, use) | approved))

    async def _park(self, step: Step) -> Parked:
        await self._write(step)
        return _parked(step)

    async def _use(self, use: ToolUse, proceed: UseTool) -> ToolResult:
        tool = use.tool
        if tool is not None and tool.effects is Effects.ONCE:
            await self._write(_tool_step(use, None))
        if tool is not None and tool.transactional:
            return await self._transact(use, proceed, plain=not tool.is_async)
        result = _readable(await proceed())
        if result.wait is not None:
            raise await self._park(_waiting_step(use, result, result.wait))
        await self._write(_ended_step(use, result))
        return result

    async def _transact(self, use: ToolUse, proceed: UseTool, *, plain: bool) -> ToolResult:
        """Use a tool inside a transaction with its record, again while it only collides with somebody else's."""
        done, failure = None, None
        for pause in (*transactions.PAUSES, None):
            done, failure = await self._try(use, proceed, plain=plain)
            if done is not None and failure is None:
                return done
            if pause is None or not transactions.passes(failure):
                break
            log.info("tool.collided", tool=use.call.name, error=type(failure).__name__, seconds=pause)
            await asyncio.sleep(pause)
        result = done or ToolResult(failures.told(failure or TimeoutError()), error=True, ms=0)
        result = dataclasses.replace(_readable(result), operations=(), session_operations=())
        await self._write(_ended_step(use, result))
        return result

    async def _try(
        self, use: ToolUse, proceed: UseTool, *, plain: bool
    ) -> tuple[ToolResult | None, BaseException | None]:
        """Return a result that is on record, or the failure after which nothing of the call is left."""
        result: ToolResult | None = None
        parked: Step | None = None
        try:
            async with self._recorder.transaction(plain=plain) as transaction:
                result = _readable(await proceed(connection=transaction.connection))
                if result.failure is None:
                    wait = result.wait
                    wanted = _ended_step(use, result) if wait is None else _waiting_step(use, result, wait)
                    kept = await transaction.commit(wanted)
                    if kept.output is not None:
                        return (result if kept is wanted else self._earlier(result, kept)), None
                    parked = kept
                if isinstance(result.failure, ToolTimedOut):
                    transaction.abandon()
        except transactions.LeftTransaction:
            # What it did is done, and nobody can say how much: never by itself again.
            await self._write(_tool_step(use, None))
            raise
        except Exception as error:
            if not (transactions.passes(error) or isinstance(error, transactions.TransactionFailed)):
                raise
            self._discard(result)
            return None, error
        if parked is not None:
            raise _parked(parked)
        self._discard(result)
        return result, result.failure

    def _earlier(self, result: ToolResult, kept: Step) -> ToolResult:
        """Return what a commit of ours had kept whose answer was lost."""
        self._discard(result)
        self._replay([kept])
        return result_of(kept)

    def _discard(self, result: ToolResult | None) -> None:
        if result is not None:
            self._state.discard({operation["at"] for operation in result.operations})
            if self._session_state is not None:
                self._session_state.discard({operation["at"] for operation in result.session_operations})

    def _compare(self, step: Step, digest: bytes) -> None:
        if step.format != FORMAT:
            if not self._warned:
                log.warning("journal.other_format", recorded=step.format, ours=FORMAT)
            self._warned = True
        elif step.input_hash != digest:
            what = f"the answer of {step.name}" if step.kind == Kind.MODEL else f"the call of {step.name}"
            raise JournalDiverged(
                f"this run came to another {'conversation' if step.kind == Kind.MODEL else 'call'} at step"
                f" {step.position} than the one for which {what} is on record, so it cannot go on from there:"
                f" `cirkelline tasks retry {self._task_id} --from-start` forgets the record and begins again"
            )

    def _replay_operations(self, position: int) -> None:
        # All of one answer's calls together: they ran at the same time, and their operations say in which order.
        self._replay([step for (at, call), step in self._recorded.items() if at == position and call != ANSWER])

    def _replay(self, steps: Sequence[Step]) -> None:
        operations = [operation for step in steps for operation in step.operations or ()]
        self._state.replay([_placed(each) for each in operations if each.get("of") != SESSION])
        if self._session_state is not None:
            self._session_state.replay([_placed(each) for each in operations if each.get("of") == SESSION])

    async def _write(self, *steps: Step) -> None:
        pending = [*self._unwritten, *steps]
        await self._recorder.write(pending)
        self._unwritten = [step for step in self._unwritten if step not in pending]


def _answer_output(answer: Answer) -> dict[str, Any]:
    calls = [
        {"id": call.id, "name": call.name, "arguments": call.arguments}
        | ({"signature": call.signature} if call.signature is not None else {})
        for call in answer.tool_calls
    ]
    return {"text": answer.text, **({"calls": calls} if calls else {})}


def answer_of(step: Step) -> Answer:
    """Return the answer that is on record."""
    output = step.output or {}
    calls = tuple(ToolCall(**call) for call in output.get("calls", ()))
    return Answer(str(output.get("text", "")), calls, _usage(step))


def _usage(step: Step) -> Usage:
    return Usage(step.input_tokens or 0, step.output_tokens or 0)


def _storable(answer: Answer) -> Answer:
    """Return an answer as the database keeps it, so that a run that is resumed reads what this one does."""
    text, calls = jsonb.clean_text(answer.text), tuple(map(_storable_call, answer.tool_calls))
    return answer if (text, calls) == (answer.text, answer.tool_calls) else Answer(text, calls, answer.usage)


def _storable_call(call: ToolCall) -> ToolCall:
    clean = [jsonb.clean_text(text) for text in (call.id, call.name, call.arguments)]
    if clean == [call.id, call.name, call.arguments]:
        return call
    return dataclasses.replace(call, id=clean[0], name=clean[1], arguments=clean[2])


def _readable(result: ToolResult) -> ToolResult:
    text = jsonb.clean_text(result.text)
    return result if text == result.text else dataclasses.replace(result, text=text)


def _tool_step(use: ToolUse, output: Mapping[str, Any] | None, **more: Any) -> Step:
    return Step(
        position=use.position,
        call=use.index,
        kind=Kind.TOOL,
        name=use.call.name,
        format=FORMAT,
        input_hash=hash_call(use.call),
        output=output,
        **more,
    )


def _ended_step(use: ToolUse, result: ToolResult) -> Step:
    return _tool_step(
        use,
        {"text": result.text},
        error=result.error,
        ms=result.ms,
        operations=_operations(result) or None,
        citations=result.citations or None,
    )


def _operations(result: ToolResult) -> list[Mapping[str, Any]]:
    return [*result.operations, *({**operation, "of": SESSION} for operation in result.session_operations)]


def _asked(what: For, use: ToolUse) -> dict[str, Any]:
    try:
        arguments = json.loads(use.call.arguments or "{}")
    except ValueError:
        arguments = use.call.arguments
    return {"for": what, "arguments": arguments}


def _waiting_step(use: ToolUse, result: ToolResult, wait: Wait) -> Step:
    operations = _operations(result) or None
    return _tool_step(use, None, waits=waits_of(wait), until=wait.until, ms=result.ms, operations=operations)


def waits_of(wait: Wait) -> dict[str, Any]:
    """Return what stands in the journal for a result that is still to come."""
    if not wait.question:
        return {"for": For.TIME, "result": jsonb.clean_text(wait.result)}
    choices = [jsonb.clean_text(choice) for choice in wait.choices]
    question = {"for": For.ANSWER, "question": jsonb.clean_text(wait.question)}
    return question | ({"choices": choices} if choices else {})


def _parked(step: Step) -> Parked:
    return Parked(f"{step.name} waits for {(step.waits or {}).get('for')}")


def _fits(tool: contract.Tool, call: ToolCall) -> bool:
    """Whether a call can run at all: nobody is asked to approve one that cannot."""
    try:
        contract.validate(tool, call.arguments)
    except contract.ArgumentsInvalid:
        return False
    return True


def _told(use: ToolUse, step: Step, waited: For, verdict: Verdict) -> tuple[str, bool]:
    """Return what the model reads of a decision, and whether it is an error."""
    value = (step.decision or {}).get("value")
    match waited, verdict:
        case For.APPROVAL, Verdict.REJECT:
            return _reason(step, f"{use.call.name} was not approved, so it did not run"), True
        case For.APPROVAL, _:
            return f"nobody approved {use.call.name} in time, so it did not run", True
        case For.ANSWER, Verdict.EXPIRED:
            return "nobody answered in time", True
        case For.TIME, _:
            return str((step.waits or {}).get("result") or "the time has come"), False
        case _:
            return jsonb.clean_text(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)), False


def _reason(step: Step, sentence: str) -> str:
    reason = (step.decision or {}).get("value")
    return f"{sentence}: {jsonb.clean_text(str(reason))}" if reason else sentence


def result_of(step: Step) -> ToolResult:
    """Return the tool's result that is on record. Raises: EndRun, if it ended the run."""
    output = step.output or {}
    if "end" in output:
        raise EndRun(str(output["end"]))
    return ToolResult(str(output.get("text", "")), step.error, step.ms or 0)


def _placed(operation: Mapping[str, Any]) -> Placed:
    return {"op": operation["op"], "key": operation["key"], "value": operation["value"], "at": operation["at"]}


def _since(began: float) -> int:
    return round((time.perf_counter() - began) * 1000)
