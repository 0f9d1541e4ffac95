"""The steps of one attempt at a workflow's run: answered from the journal while it lasts, recorded before they return.

A step's row is written when it begins (output NULL) and again when it ends, so that the record says at any moment which
step is executed. Position n is the nth step of the run; its `call` is -1, its output {"value": …} or {"failed": …}.
"""

from __future__ import annotations

import asyncio
import hashlib
import inspect
import json
import time
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final
from uuid import uuid5

import pydantic
import pydantic_core
import structlog
from pydantic.errors import PydanticSchemaGenerationError, PydanticUndefinedAnnotation

from cirkelline.agents.journaling import JournalDiverged, OutcomeUnknown, Recorder
from cirkelline.configs import scalars, wording
from cirkelline.configs.effects import Effects, OnUnknown
from cirkelline.configs.errors import CirkellineError
from cirkelline.state import jsonb, transactions
from cirkelline.state.journal import ANSWER, Kind, Step
from cirkelline.tools import arguments as tool_arguments
from cirkelline.tools import contract, failures, workflows
from cirkelline.tools.contract import EndRun, Tool, ToolContext
from cirkelline.tools.execution import Executor, ToolResult, ToolTimedOut
from cirkelline.tools.workflows import StepCall, StepFailed

FORMAT: Final = 1
"""Of a step's `input_hash` and `output`; counted up with any change to how they are made."""
DEFAULT: Final = Effects.IDEMPOTENT
"""A workflow is written to be resumed: what was in flight runs again unless its author says that it must not."""
LONGEST_NAME: Final = 100  # characters
LARGEST: Final = 8 * 1024 * 1024  # bytes of JSON that a step may give
_PAUSES: Final = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0)
"""Seconds before a transaction that met another one is tried again."""
_NO_ARGUMENTS: Final = tool_arguments.build("step", [])
_VALUE: Final = "value"
_FAILED: Final = "failed"

log = structlog.get_logger(__name__)


class BadStep(CirkellineError):
    """A workflow asks for a step that cannot be one."""


@dataclass(frozen=True, slots=True)
class _Planned:
    """A step about to be taken: its place, the hash of what was asked, and how it may be repeated."""

    position: int
    call: StepCall
    digest: bytes
    effects: Effects
    on_unknown: OnUnknown
    returns: pydantic.TypeAdapter[Any] | None

    def step(self, output: Mapping[str, Any] | None, **more: Any) -> Step:
        return Step(
            position=self.position,
            call=ANSWER,
            kind=Kind.STEP,
            name=self.call.name,
            format=FORMAT,
            input_hash=self.digest,
            output=output,
            **more,
        )

    def read(self, value: Any) -> Any:
        """Return a recorded value as the type that the function says it returns."""
        return value if self.returns is None else self.returns.validate_json(jsonb.dumps(value))


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
                return await self._take(_planned(self.taken, call))
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

    async def _take(self, planned: _Planned) -> Any:
        found = self._recorded.get(planned.position)
        if found is not None:
            self._compare(found, planned)
            if found.output is not None:
                self._ctx.state.replay(found.operations or ())  # type: ignore[arg-type]  # as they were written
                return self._replayed(planned, found)
            self._decide(found, planned)
        await self._write(planned.step(None))
        if planned.effects is Effects.TRANSACTIONAL:
            return _outcome(planned, await self._transact(planned))
        work = _Work(planned)
        ended = self._ended(planned, work, await self._call(planned, work))
        await self._write(ended)
        return _outcome(planned, ended, work.failure)

    def _replayed(self, planned: _Planned, found: Step) -> Any:
        try:
            return _outcome(planned, found)
        except pydantic.ValidationError:
            raise self._diverged(f"reads what step {found.name!r} gave as another type than it was") from None

    async def _call(self, planned: _Planned, work: _Work, connection: object | None = None) -> ToolResult:
        key = str(uuid5(self._ctx.task_id, f"step {planned.call.name} {planned.digest.hex()}"))
        ctx = replace(self._ctx, idempotency_key=key, lent=connection)
        try:
            result = await self._executor.call(work.tool, {}, ctx)
        except EndRun as end:
            result = ToolResult("", error=True, ms=0, failure=end)
        return result

    def _ended(self, planned: _Planned, work: _Work, result: ToolResult) -> Step:
        if result.failure is None:
            return planned.step({_VALUE: work.value}, ms=result.ms, operations=result.operations or None)
        self._ctx.state.discard({operation["at"] for operation in result.operations})
        work.failure = result.failure
        return planned.step(_failure(result.failure), error=True, ms=result.ms)

    async def _transact(self, planned: _Planned) -> Step:
        """Take a step inside a transaction with its record, again while it only collides with somebody else's."""
        began = time.perf_counter()
        for pause in (*_PAUSES, None):
            work = _Work(planned)
            try:
                async with self._recorder.transaction(plain=not work.tool.is_async) as transaction:
                    result = await self._call(planned, work, transaction.connection)
                    ended = self._ended(planned, work, result)
                    if result.failure is None:
                        return await transaction.commit(ended)
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
                failure = error
            if pause is None or not transactions.passes(failure):
                break
            log.info("step.collided", step=planned.call.name, error=type(failure).__name__, seconds=pause)
            await asyncio.sleep(pause)
        ended = planned.step(_failure(failure), error=True, ms=round((time.perf_counter() - began) * 1000))
        await self._write(ended)
        return ended

    def _decide(self, found: Step, planned: _Planned) -> None:
        """Let a step run that an earlier attempt had begun, or not: the one place where a run could wait for a word."""
        repeatable = planned.effects is not Effects.ONCE or planned.on_unknown is OnUnknown.RETRY
        if repeatable and not found.error:
            return
        raise OutcomeUnknown(
            f"nobody knows whether step {planned.call.name!r} happened: it had begun when an earlier attempt was cut off,"
            " and it must not run twice; look, and if everything may be done again:"
            f" `cirkelline tasks retry {self._ctx.task_id} --from-start`"
        )

    def _compare(self, found: Step, planned: _Planned) -> None:
        if found.name != planned.call.name:
            raise self._diverged(f"came to step {planned.call.name!r} where {found.name!r} is on record")
        if found.format != FORMAT:
            log.warning("journal.other_format", recorded=found.format, ours=FORMAT)
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


class _Work:
    """A step's function as the executor calls it: `value` is what it gave, as the journal keeps it."""

    def __init__(self, planned: _Planned) -> None:
        self._planned = planned
        self.value: Any = None
        self.failure: Exception | None = None
        is_async = inspect.iscoroutinefunction(planned.call.function)
        self.tool = Tool(
            name=planned.call.name,
            description="",
            parameters={},
            timeout=planned.call.timeout,
            function=self._await if is_async else self._call,
            is_async=is_async,
            wants_context=True,
            arguments=_NO_ARGUMENTS,
        )

    def _call(self, ctx: ToolContext) -> Awaitable[None] | None:
        given = workflows.call(self._planned.call, ctx)
        if inspect.isawaitable(given):
            return self._finish(given)
        self._keep(given)
        return None

    async def _await(self, ctx: ToolContext) -> None:
        await self._finish(workflows.call(self._planned.call, ctx))

    async def _finish(self, given: Awaitable[Any]) -> None:
        self._keep(await given)

    def _keep(self, given: Any) -> None:
        # Here, in the function's own thread: a value may be large, and what cannot be kept is the step's failure.
        value = kept(given, f"what step {self._planned.call.name!r} gave")
        try:
            self._planned.read(value)
        except pydantic.ValidationError as error:
            first = error.errors(include_url=False)[0]
            raise BadStep(
                f"it gave something else than its function says it returns: {first['msg']}"
                f" (got {wording.shown(first['input'])})"
            ) from None
        self.value = value


def _planned(position: int, call: StepCall) -> _Planned:
    tool = contract.marked(call.function)
    if tool is not None and getattr(tool, "approval", False):
        raise BadStep(
            f"step {call.name!r} calls {tool.name}, which a person has to approve; no workflow can wait for that"
        )
    effects = call.effects or (tool.effects if tool is not None else DEFAULT)
    if call.on_unknown is not None and effects is not Effects.ONCE:
        raise BadStep(f"step {call.name!r} says on_unknown, which is for effects='once', and is {effects.value!r}")
    if effects is Effects.TRANSACTIONAL and not workflows.wants_context(call.function):
        raise BadStep(
            f"step {call.name!r} is transactional, and its function has no parameter ctx: ToolContext: its SQL goes through"
            " ctx.connection"
        )
    on_unknown = call.on_unknown or (tool.on_unknown if tool is not None else OnUnknown.ASK)
    return _Planned(position, call, _digest(call), effects, on_unknown, _returns(call))


def _digest(call: StepCall) -> bytes:
    what = f"an argument of step {call.name!r}"
    given = [call.name, [kept(each, what) for each in call.arguments], kept(dict(call.keywords), what)]
    return hashlib.blake2b(json.dumps(given, sort_keys=True).encode(), digest_size=16).digest()


def kept(value: object, what: str) -> Any:
    """Return a value as it is read back from jsonb, the order of its keys included. Raises: BadStep."""
    try:
        text = jsonb.dumps(pydantic_core.to_jsonable_python(value))
    except (pydantic_core.PydanticSerializationError, TypeError, ValueError, RecursionError) as error:
        raise BadStep(
            f"{what} cannot be written as JSON ({error}): use text, numbers, lists, dicts, dataclasses or pydantic models,"
            " and bind anything else to the function (a method, functools.partial)"
        ) from None
    if len(text) > LARGEST:
        raise BadStep(
            f"{what} is {len(text):,} bytes of JSON, over the limit of {LARGEST:,}: keep it elsewhere by a name"
        )
    return _ordered(json.loads(text))


def _ordered(value: Any) -> Any:
    # jsonb orders keys by length, then by bytes. A workflow may go through them, and must do the same when it resumes.
    if scalars.is_mapping(value):
        return {key: _ordered(value[key]) for key in sorted(value, key=lambda key: (len(key.encode()), key.encode()))}
    return [_ordered(item) for item in value] if scalars.is_list(value) else value


def _returns(call: StepCall) -> pydantic.TypeAdapter[Any] | None:
    """Return what reads a step's value back as the type that its function says it returns; None for plain JSON."""
    try:
        said = inspect.signature(call.function, eval_str=True).return_annotation
        plain = any(said is each for each in (inspect.Signature.empty, Any, object))
        return None if plain else pydantic.TypeAdapter(said)
    except ValueError:  # a builtin, which says nothing
        return None
    except (PydanticSchemaGenerationError, PydanticUndefinedAnnotation, NameError, TypeError, SyntaxError) as error:
        name = getattr(call.function, "__name__", "its function")
        raise BadStep(
            f"step {call.name!r}: what {name} says it returns cannot be read back from the record"
            f" ({str(error).splitlines()[0]}): return text, numbers, lists, dicts, dataclasses or pydantic models, and have"
            " their types at the top of the module"
        ) from None


def _failure(failure: BaseException) -> dict[str, Any]:
    message = failures.told(failure).removeprefix("error: ")
    return {_FAILED: {"type": type(failure).__name__, "message": jsonb.clean_text(message)}}


def _outcome(planned: _Planned, step: Step, cause: Exception | None = None) -> Any:
    """Return a recorded step's value. Raises: StepFailed."""
    output = step.output or {}
    match output.get(_FAILED):
        case {"type": str(kind), "message": str(message)}:
            raise StepFailed(planned.call.name, kind, message) from cause
        case _:
            return planned.read(output.get(_VALUE))
