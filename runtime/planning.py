"""A step about to be taken: what it is asked with, how its value is written, and how it is read back."""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import json
from collections.abc import Awaitable, Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import pydantic
import pydantic_core
from pydantic.errors import PydanticSchemaGenerationError, PydanticUndefinedAnnotation

from cirkelline.configs import scalars, wording
from cirkelline.configs.effects import Effects, OnUnknown
from cirkelline.configs.errors import CirkellineError
from cirkelline.state import jsonb
from cirkelline.state.journal import ANSWER, Kind, Step
from cirkelline.tools import arguments as tool_arguments
from cirkelline.tools import contract, workflows
from cirkelline.tools.contract import EndRun, Tool, ToolContext
from cirkelline.tools.waiting import Wait
from cirkelline.tools.workflows import StepCall

FORMAT: Final = 1
"""Of a step's `input_hash` and `output`; counted up with any change to how they are made."""
DEFAULT: Final = Effects.IDEMPOTENT
"""A workflow is written to be resumed: what was in flight runs again unless its author says that it must not."""
LARGEST: Final = 8 * 1024 * 1024  # bytes of JSON that a step may give
_NO_ARGUMENTS: Final = tool_arguments.build("step", [])


class BadStep(CirkellineError):
    """A workflow asks for a step that cannot be one."""


class StepEnded(CirkellineError):
    """A step's function raised EndRun."""


@dataclass(frozen=True, slots=True)
class Planned:
    """A step about to be taken: its place, what it is asked with, and how it may be repeated."""

    position: int
    call: StepCall
    given: Sequence[Any]
    effects: Effects
    on_unknown: OnUnknown
    tool: Tool | None
    returns: pydantic.TypeAdapter[Any] | None

    @property
    def digest(self) -> bytes:
        """What tells this step from one that was asked for otherwise."""
        whole = json.dumps([self.call.name, *self.given], sort_keys=True)
        return hashlib.blake2b(whole.encode(), digest_size=16).digest()

    @property
    def shown(self) -> Any:
        """Its arguments, for a person who decides about it."""
        positional, named = self.given
        return {**dict(zip(_names(self.call.function, len(positional)), positional, strict=False)), **named}

    def step(self, output: Mapping[str, Any] | None, **more: Any) -> Step:
        """Return its row: with `output` None as it begins or waits, else as it ended."""
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


def plan(position: int, call: StepCall) -> Planned:
    """Return a step as it is going to be taken. Raises: BadStep."""
    tool = contract.marked(call.function)
    effects = call.effects or (tool.effects if tool is not None else DEFAULT)
    if call.on_unknown is not None and effects is not Effects.ONCE:
        raise BadStep(f"step {call.name!r} says on_unknown, which is for effects='once', and is {effects.value!r}")
    if effects is Effects.TRANSACTIONAL and not workflows.wants_context(call.function):
        raise BadStep(
            f"step {call.name!r} is transactional, and its function has no parameter ctx: ToolContext: its SQL goes through"
            " ctx.connection"
        )
    on_unknown = call.on_unknown or (tool.on_unknown if tool is not None else OnUnknown.ASK)
    what = f"an argument of step {call.name!r}"
    given = [[kept(each, what) for each in call.arguments], kept(dict(call.keywords), what)]
    return Planned(position, call, given, effects, on_unknown, tool, _returns(call))


@contextlib.contextmanager
def _no_end_of_run() -> Generator[None]:
    """Let EndRun be a failure of the step as any other: whether the run ends is the workflow's to say."""
    try:
        yield
    except EndRun as end:
        raise StepEnded(str(end)) from end


def _names(function: Any, amount: int) -> list[str]:
    """Return what a function calls its first arguments; their numbers where it does not say."""
    try:
        names = [name for name in inspect.signature(function).parameters if name != "ctx"]
    except ValueError:
        names = []
    return [*names, *(str(n + 1) for n in range(len(names), amount))]


class Work:
    """A step's function as the executor calls it: `value` is what it gave, as the journal keeps it."""

    def __init__(self, planned: Planned) -> None:
        self._planned = planned
        self.value: Any = None
        self.wait: Wait | None = None
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
        with _no_end_of_run():
            given = workflows.call(self._planned.call, ctx)
        if inspect.isawaitable(given):
            return self._finish(given)
        self._keep(given)
        return None

    async def _await(self, ctx: ToolContext) -> None:
        await self._finish(workflows.call(self._planned.call, ctx))

    async def _finish(self, given: Awaitable[Any]) -> None:
        with _no_end_of_run():
            value = await given
        self._keep(value)

    def _keep(self, given: Any) -> None:
        if isinstance(given, Wait):
            if self._planned.effects is Effects.TRANSACTIONAL:
                raise BadStep("a transactional step cannot wait: let a step of its own ask or sleep")
            self.wait = given
            return
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
        plain = any(said is each for each in (inspect.Signature.empty, Any, object, Wait))
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
