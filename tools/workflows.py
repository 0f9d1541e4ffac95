"""What makes a Python function a workflow: its typed input, and the run through which it does its steps.

@workflow
async def digest(run: WorkflowRun, folder: str) -> dict:
    pages = await run.step("fetch", fetch, folder)
    return await run.step("summarize", summarize, pages)
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import FunctionType
from typing import Any, Final, Protocol, TypeVar, overload
from uuid import UUID, uuid4

import structlog
from structlog.typing import FilteringBoundLogger

from cirkelline.configs import durations, wording
from cirkelline.configs.effects import Effects, OnUnknown
from cirkelline.configs.errors import CirkellineError, UsageError
from cirkelline.tools import arguments as tool_arguments
from cirkelline.tools import docstrings
from cirkelline.tools.arguments import Arguments, Parameter
from cirkelline.tools.contract import EffectsWord, OnUnknownWord, ToolContext
from cirkelline.tools.state import State

WALL: Final = 3600.0
"""Seconds that one attempt at a run may take unless `@workflow(wall=…)` says something else."""

_MARK: Final = "__cirkelline_workflow__"

Result = TypeVar("Result")
Function = TypeVar("Function", bound=Callable[..., Any])


class WorkflowDefinitionError(UsageError):
    """A function cannot be a workflow as it is written; the sentence says where it is and what to write instead."""


class StepFailed(CirkellineError):
    """A step raised: `step` is its name, `kind` the name of the exception's class.

    A workflow that catches it goes on, and finds it there again when it is resumed.
    """

    def __init__(self, step: str, kind: str, message: str) -> None:
        super().__init__(f"step {step!r} failed: {message}")
        self.step = step
        self.kind = kind


@dataclass(frozen=True, slots=True)
class StepCall:
    """One step as its workflow asks for it; None where it says nothing."""

    name: str
    function: Callable[..., Any]
    arguments: tuple[Any, ...] = ()
    keywords: Mapping[str, Any] = field(default_factory=dict[str, Any])
    effects: Effects | None = None
    on_unknown: OnUnknown | None = None
    timeout: float | None = None


class TakeStep(Protocol):
    """Where steps are taken: by a worker with its journal, or just so."""

    def __call__(self, step: StepCall, /) -> Awaitable[Any]:
        """Answer from the record, or call the function and record what it gave."""
        ...


def wants_context(function: Callable[..., Any]) -> bool:
    """Whether a step's function has a parameter `ctx`."""
    return _place_of_context(function) is not None


def call(step: StepCall, ctx: ToolContext) -> Any:
    """Call a step's function, with `ctx` in its place where it wants one; return what it gives, awaitable or not."""
    place = _place_of_context(step.function)
    if place is None:
        return step.function(*step.arguments, **step.keywords)
    if place < len(step.arguments):
        return step.function(*step.arguments[:place], ctx, *step.arguments[place:], **step.keywords)
    return step.function(*step.arguments, **step.keywords, ctx=ctx)


def _place_of_context(function: Callable[..., Any]) -> int | None:
    try:
        parameters = inspect.signature(function).parameters
    except ValueError:  # some builtins have none
        return None
    if "ctx" not in parameters:
        return None
    is_keyword = parameters["ctx"].kind is inspect.Parameter.KEYWORD_ONLY
    return len(parameters) if is_keyword else list(parameters).index("ctx")


async def just_call(step: StepCall) -> Any:
    """Call a step's function and return what it gives: the way without a worker, for tests of a workflow."""
    given = call(step, ToolContext(state=State(), agent="workflow:test", task_id=uuid4()))
    return await given if inspect.isawaitable(given) else given


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkflowRun:
    """What a workflow does its steps through. `id` is the run's and its task's; `began` is when its first attempt did.

    Between its steps a workflow must do the same in every attempt: ask `began` for the time, and let everything that is
    slow, random or has an effect be a step. `WorkflowRun()` is one for tests: it calls the functions and keeps nothing.
    """

    id: UUID = field(default_factory=uuid4)
    workflow: str = "test"
    user_id: UUID | None = None
    attempt: int = 1
    began: datetime = field(default_factory=lambda: datetime.now(UTC))
    log: FilteringBoundLogger = field(default_factory=structlog.get_logger, repr=False)
    take: TakeStep = field(default=just_call, repr=False)

    @overload
    async def step(
        self,
        name: str,
        function: Callable[..., Awaitable[Result]],
        /,
        *arguments: Any,
        effects: EffectsWord | None = None,
        on_unknown: OnUnknownWord | None = None,
        timeout: str | float | None = None,  # noqa: ASYNC109 - the executor's, which gives a thread up
        **keywords: Any,
    ) -> Result: ...
    @overload
    async def step(
        self,
        name: str,
        function: Callable[..., Result],
        /,
        *arguments: Any,
        effects: EffectsWord | None = None,
        on_unknown: OnUnknownWord | None = None,
        timeout: str | float | None = None,  # noqa: ASYNC109 - as above
        **keywords: Any,
    ) -> Result: ...
    async def step(
        self,
        name: str,
        function: Callable[..., Any],
        /,
        *arguments: Any,
        effects: EffectsWord | None = None,
        on_unknown: OnUnknownWord | None = None,
        timeout: str | float | None = None,  # noqa: ASYNC109 - as above
        **keywords: Any,
    ) -> Any:
        """Do one step and return what its function gave, read back as the type that the function says it returns.

        `name` is used once in a run. The function is async, or a plain one that gets a thread; with a parameter `ctx` it
        is given a ToolContext. `effects` is what a second execution would do, as for tools: `idempotent` unless the
        function is a @tool that says something else. `timeout` is a duration or seconds.

        Raises: StepFailed for whatever the function raised.
        """
        step = StepCall(
            name,
            function,
            arguments,
            keywords,
            _word("effects", effects, Effects),
            _word("on_unknown", on_unknown, OnUnknown),
            _seconds("timeout", timeout),
        )
        return await self.take(step)


@dataclass(frozen=True, slots=True)
class Workflow:
    """One workflow; `arguments` is what its input must be, `wall` the seconds that an attempt may take."""

    name: str
    description: str
    function: Callable[..., Awaitable[Any]] = field(repr=False)
    arguments: Arguments = field(repr=False)
    wall: float = WALL

    def validate(self, given: object) -> dict[str, Any]:
        """Return the arguments of its function. Raises: InputInvalid."""
        try:
            return self.arguments.validate({} if given is None else given)
        except tool_arguments.ArgumentsInvalid as error:
            raise InputInvalid(str(error).replace(" was not called: ", " cannot run: ", 1)) from None


class InputInvalid(UsageError):
    """The input of a run is not what its workflow takes."""


@overload
def workflow(function: Function, /) -> Function: ...
@overload
def workflow(*, description: str | None = None, wall: str | float | None = None) -> Callable[[Function], Function]: ...
def workflow(
    function: Callable[..., Any] | None = None, /, *, description: str | None = None, wall: str | float | None = None
) -> Callable[..., Any]:
    """Mark an async function as a workflow; it stays an ordinary function, to be called in a test with `WorkflowRun()`.

    Its first parameter is `run: WorkflowRun`, and the others are its input. `wall` is the time that one attempt may take,
    by default an hour. Raises: WorkflowDefinitionError.
    """

    def mark(function: Function) -> Function:
        setattr(function, _MARK, _build(function, description, _seconds("wall", wall) or WALL))
        return function

    return mark if function is None else mark(function)


def marked(function: object) -> Workflow | None:
    """Return the workflow that `@workflow` made of this very function, else None."""
    found = getattr(function, _MARK, None) if isinstance(function, FunctionType) else None
    return found if isinstance(found, Workflow) and found.function is function else None


def _build(function: Callable[..., Any], description: str | None, wall: float) -> Workflow:
    if not isinstance(function, FunctionType) or not inspect.iscoroutinefunction(function):
        raise WorkflowDefinitionError(
            f"{wording.shown(getattr(function, '__name__', repr(function)))} cannot be a workflow:"
            " write async def NAME(run: WorkflowRun, …)"
        )
    code = function.__code__
    place = f"{code.co_filename}:{code.co_firstlineno}: workflow {function.__name__!r}"
    described = docstrings.describe(function.__doc__)
    try:
        parameters = _parameters(function, described.arguments)
        arguments = tool_arguments.build(function.__name__, parameters)
    except (_Refused, tool_arguments.TypeUnusable) as refused:
        raise WorkflowDefinitionError(f"{place}: {refused}") from None
    return Workflow(function.__name__, description or described.text, function, arguments, wall)


class _Refused(Exception):
    """Why a function cannot be a workflow, before its place is known."""


def _parameters(function: FunctionType, descriptions: Mapping[str, str]) -> list[Parameter]:
    try:
        run, *others = inspect.signature(function, eval_str=True).parameters.values()
    except ValueError:
        raise _Refused("it takes no parameter; write run: WorkflowRun as its first") from None
    except (NameError, AttributeError, TypeError, SyntaxError) as error:
        raise _Refused(
            f"its types cannot be read: {error}; import or define them at the top of the module, outside"
            " 'if TYPE_CHECKING'"
        ) from None
    if run.annotation is not WorkflowRun:
        raise _Refused(
            f"its first parameter is {run}; write run: WorkflowRun (from cirkelline.tools import WorkflowRun)"
        )
    for each in others:
        if each.kind not in {inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY}:
            raise _Refused(f"{each} takes arguments without a name; name each one with its type")
        if each.annotation is inspect.Parameter.empty:
            raise _Refused(f"parameter {each.name!r} has no type; write {each.name}: str, or what it is")
    return [Parameter(each.name, each.annotation, each.default, descriptions.get(each.name)) for each in others]


def _seconds(what: str, given: str | float | None) -> float | None:
    seconds = durations.parse(given) if isinstance(given, str) else given
    if given is not None and not (seconds and 0 < seconds < float("inf")):
        raise WorkflowDefinitionError(f"the {what} {given!r} is not a duration; write {durations.EXAMPLES}")
    return seconds


Word = TypeVar("Word", Effects, OnUnknown)


def _word(what: str, given: str | None, kind: type[Word]) -> Word | None:
    if given is None:
        return None
    try:
        return kind(given)
    except ValueError:
        known = wording.listed([each.value for each in kind], "or")
        raise WorkflowDefinitionError(f"{what} is one of {known}, not {given!r}") from None
