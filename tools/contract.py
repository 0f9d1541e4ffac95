"""What makes a Python function a tool: its name, its typed arguments, and the context it may ask for."""

from __future__ import annotations

import inspect
import re
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from enum import StrEnum
from types import FunctionType, SimpleNamespace
from typing import Any, Final, Literal, TypeGuard, TypeVar, overload
from uuid import UUID

import structlog
from structlog.typing import FilteringBoundLogger

from cirkelline.configs import durations, wording
from cirkelline.configs import effects as words
from cirkelline.configs.effects import Effects, OnUnknown
from cirkelline.configs.errors import CirkellineError, UsageError
from cirkelline.tools import arguments as tool_arguments
from cirkelline.tools import docstrings
from cirkelline.tools.arguments import Arguments, ArgumentsInvalid, Parameter
from cirkelline.tools.citations import Numbers
from cirkelline.tools.library import Library
from cirkelline.tools.remembering import Memories
from cirkelline.tools.state import State

__all__ = [
    "ArgumentsInvalid",
    "Effects",
    "EndRun",
    "NoConnection",
    "NoKnowledge",
    "NoMemories",
    "NoSession",
    "OnUnknown",
    "Tool",
    "ToolContext",
    "ToolDefinitionError",
    "marked",
    "tool",
    "tool_from_function",
    "validate",
]

NAME: Final = re.compile(r"[a-zA-Z_][a-zA-Z0-9_-]{0,63}")  # what every provider of models accepts
_MARK: Final = "__cirkelline_tool__"

Function = TypeVar("Function", bound=Callable[..., Any])


class ToolDefinitionError(UsageError):
    """A function cannot be a tool as it is written; the sentence says where it is and what to write instead."""


class EndRun(CirkellineError):
    """Raised by a tool to end the run as failed with this message; every other exception goes back to the model."""


class NoConnection(CirkellineError):
    """A tool asked for a connection that its run does not lend it."""


class NoKnowledge(CirkellineError):
    """A tool asked for documents where there are none to ask for."""


class NoMemories(CirkellineError):
    """A tool asked for memories of a user, and its task has none."""


class NoSession(CirkellineError):
    """A tool asked for the state of a session, and its task is no turn of one."""


def _utc_now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolContext:
    """What a tool that has a parameter `ctx: ToolContext` is given; the model neither sees nor fills it.

    `state` is kept for the agent and shared by all its users: nothing personal belongs there. `session_state` belongs to
    the session, and with it to one user. `attempt` counts from 1. `numbers` gives passages those that an answer cites.
    `idempotency_key` belongs to this one call and stays the same when the call is made again after a crash: hand it to
    the service that is called, so that it does the work once.
    """

    state: State
    agent: str
    task_id: UUID
    session_id: UUID | None = None
    user_id: UUID | None = None
    attempt: int = 1
    idempotency_key: str = ""
    lent: Any = field(default=None, repr=False)
    held: State | None = field(default=None, repr=False)
    library: Library | None = field(default=None, repr=False)
    remembered: Memories | None = field(default=None, repr=False)
    numbers: Numbers = field(default_factory=Numbers, repr=False)
    log: FilteringBoundLogger = field(default_factory=structlog.get_logger, repr=False)
    clock: Callable[[], datetime] = field(default=_utc_now, repr=False)

    def now(self) -> datetime:
        """Return the time, with its zone; ask here and not the operating system, so that a run can be replayed."""
        return self.clock()

    @property
    def session_state(self) -> State:
        """What is kept for this session alone, to be used like `state`. Raises: NoSession."""
        if self.held is None:
            raise NoSession(
                "ctx.session_state is there in the turns of a session of the user's own, and this task is none;"
                " keep what belongs to the agent in ctx.state"
            )
        return self.held

    @property
    def knowledge(self) -> Library:
        """The documents of the user whom the run works for, and the shared ones. Raises: NoKnowledge."""
        if self.library is None:
            raise NoKnowledge(
                "ctx.knowledge is there in a task that a worker runs; a test gives its own: ToolContext(library=...)"
            )
        return self.library

    @property
    def memories(self) -> Memories:
        """What is remembered of the user whom the run works for. Raises: NoMemories."""
        if self.remembered is None:
            raise NoMemories(
                "ctx.memories is there in a task on behalf of a user that a worker runs; a test gives its own:"
                " ToolContext(remembered=...)"
            )
        return self.remembered

    @property
    def connection(self) -> Any:
        """The psycopg connection of a `transactional` tool, inside its transaction: async in an async tool, else plain.

        The transaction is committed with the record that the tool ended; a tool that raises has done nothing. Raises:
        NoConnection.
        """
        if self.lent is None:
            raise NoConnection(
                'ctx.connection is there for tools marked @tool(effects="transactional"), in a task that a worker runs'
            )
        return self.lent


@dataclass(frozen=True, slots=True)
class Tool:
    """One function an agent can call; `parameters` is a plain JSON Schema object, `timeout` is in seconds.

    `effects` and `on_unknown` are what holds, `transactional` whether the code works through `ctx.connection`. With
    `approval` a person has to approve each call, in `approve_within` seconds where it is given.
    """

    name: str
    description: str
    parameters: Mapping[str, Any]
    timeout: float | None
    function: Callable[..., Any] = field(repr=False)
    is_async: bool
    wants_context: bool
    arguments: Arguments = field(repr=False)
    effects: Effects = words.DEFAULT
    on_unknown: OnUnknown = words.DEFAULT_ON_UNKNOWN
    transactional: bool = False
    approval: bool = False
    approve_within: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Said:
    """What `@tool(…)` was given, as it was given."""

    name: str | None = None
    description: str | None = None
    timeout: str | float | None = None
    effects: str | None = None
    on_unknown: str | None = None
    approval: bool = False
    approve_within: str | float | None = None


EffectsWord = Literal["read", "idempotent", "transactional", "once"]
OnUnknownWord = Literal["ask", "retry", "fail"]


@overload
def tool(function: Function, /) -> Function: ...
@overload
def tool(
    *,
    name: str | None = None,
    description: str | None = None,
    timeout: str | float | None = None,
    effects: EffectsWord | None = None,
    on_unknown: OnUnknownWord | None = None,
    approval: bool = False,
    approve_within: str | float | None = None,
) -> Callable[[Function], Function]: ...
def tool(
    function: Callable[..., Any] | None = None,
    /,
    *,
    name: str | None = None,
    description: str | None = None,
    timeout: str | float | None = None,
    effects: EffectsWord | None = None,
    on_unknown: OnUnknownWord | None = None,
    approval: bool = False,
    approve_within: str | float | None = None,
) -> Callable[..., Any]:
    """Mark a function as a tool; it stays an ordinary function, to be called and tested as before.

    `timeout` is a duration ("30s") or seconds. `effects` says what a second execution would do, and so what happens to a
    call that was running when the process died: `read` and `idempotent` run again, `transactional` (all its work is SQL
    through `ctx.connection`) happens exactly once, `once` (the default) does not run again, and `on_unknown` says what
    happens instead. With `approval` every call waits until a person has approved it, `approve_within` a duration. Raises
    ToolDefinitionError when the function cannot be a tool.
    """
    said = _Said(
        name=name,
        description=description,
        timeout=timeout,
        effects=effects,
        on_unknown=on_unknown,
        approval=approval,
        approve_within=approve_within,
    )

    def mark(function: Function) -> Function:
        setattr(function, _MARK, _build(function, said))
        return function

    return mark if function is None else mark(function)


def tool_from_function(function: Callable[..., Any]) -> Tool:
    """Return the tool that a function is, marked or not; ToolDefinitionError says why it cannot be one."""
    found = marked(function)
    return found if found is not None else _build(function, _Said())


def marked(function: object) -> Tool | None:
    """Return the tool that `@tool` made of this very function, also through decorators put over it, else None."""
    if not _is_function(function):
        return None
    found = function.__dict__.get(_MARK)
    if not isinstance(found, Tool):
        return None
    if found.function is function:
        return found
    # functools.wraps copied the mark from the function inside: what is called must be the wrapper.
    return replace(found, function=function, is_async=inspect.iscoroutinefunction(function))


def validate(tool: Tool, arguments: object) -> dict[str, Any]:
    """Return the arguments a tool's function is called with (JSON text or a mapping in); ArgumentsInvalid if wrong."""
    return tool.arguments.validate(arguments)


def _build(function: object, said: _Said) -> Tool:
    _refuse_other_than_functions(function)
    assert _is_function(function)  # noqa: S101 (told to the type checkers; refused with a sentence above)
    try:
        called = _checked_name(said.name or function.__name__)
        described = docstrings.describe(function.__doc__)
        signature = inspect.signature(function).parameters
        arguments = tool_arguments.build(called, _parameters(function, signature, described.arguments))
        return Tool(
            name=called,
            description=said.description or described.text or called.replace("_", " "),
            parameters=arguments.schema,
            timeout=_seconds("timeout", said.timeout),
            **_approval(said),
            function=function,
            is_async=inspect.iscoroutinefunction(function),
            wants_context="ctx" in signature,
            arguments=arguments,
            **_effects(said, wants_context="ctx" in signature),
        )
    except (_Refused, tool_arguments.TypeUnusable) as refused:
        code = function.__code__
        place = f"{code.co_filename}:{code.co_firstlineno}"
        raise ToolDefinitionError(f"{place}: tool {function.__name__!r}: {refused}") from None


class _Refused(Exception):
    """Why a function cannot be a tool, before its place is known."""


def _is_function(value: object) -> TypeGuard[FunctionType]:
    return inspect.isfunction(value)


def _refuse_other_than_functions(function: object) -> None:
    if inspect.isclass(function):
        raise ToolDefinitionError(f"{function.__name__} is a class, not a tool; write a function that uses it")
    if not inspect.isfunction(function):
        raise ToolDefinitionError(
            f"{wording.shown(repr(function))} is a {type(function).__name__}, not a tool; write a function with def"
        )
    if function.__name__ == "<lambda>":
        raise ToolDefinitionError(
            "a lambda has no name and no types, so it cannot be a tool; write a function with def"
        )
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise ToolDefinitionError(f"tool {function.__name__!r} yields; return the whole result at once")


def _checked_name(name: str) -> str:
    if not NAME.fullmatch(name):
        raise _Refused(
            f"the name {wording.shown(name)} is not one a model can call; use at most 64 of the letters a-z and A-Z, "
            "digits, _ and -, and begin with a letter or _"
        )
    return name


def _seconds(what: str, given: str | float | None) -> float | None:
    seconds = durations.parse(given) if isinstance(given, str) else given
    if given is not None and not (seconds and 0 < seconds < float("inf")):
        raise _Refused(f"the {what} {given!r} is not a duration; write {durations.EXAMPLES}")
    return seconds


def _approval(said: _Said) -> dict[str, Any]:
    if said.approve_within is not None and not said.approval:
        raise _Refused("approve_within is for tools with approval=True; add that, or remove approve_within")
    return {"approval": said.approval, "approve_within": _seconds("approve_within", said.approve_within)}


def _effects(said: _Said, *, wants_context: bool) -> dict[str, Any]:
    effects = Effects(_word("effects", said.effects, Effects, words.DEFAULT))
    on_unknown = OnUnknown(_word("on_unknown", said.on_unknown, OnUnknown, words.DEFAULT_ON_UNKNOWN))
    if said.on_unknown is not None and effects is not Effects.ONCE:
        raise _Refused(f"on_unknown is for effects='once', and this one is {effects.value!r}; remove on_unknown")
    if effects is Effects.TRANSACTIONAL and not wants_context:
        raise _Refused("effects='transactional' is for tools that work through ctx.connection; take ctx: ToolContext")
    return {"effects": effects, "on_unknown": on_unknown, "transactional": effects is Effects.TRANSACTIONAL}


def _word(what: str, given: object, choices: type[StrEnum], default: StrEnum) -> str:
    known = [choice.value for choice in choices]
    if given is None:
        return default.value
    if given not in known:
        raise _Refused(f"{what} is one of {wording.listed(known, 'or')}, not {given!r}")
    return str(given)


def _parameters(
    function: FunctionType, signature: Mapping[str, inspect.Parameter], descriptions: Mapping[str, str]
) -> list[Parameter]:
    """Return what the model fills: every parameter but `ctx`."""
    for parameter in signature.values():
        _refuse_kind(parameter)
    types = _types(function, signature)
    if types.pop("ctx", ToolContext) is not ToolContext:
        raise _Refused(
            "the parameter 'ctx' is for the run's context; write ctx: ToolContext "
            "(from cirkelline.tools import ToolContext) or give the parameter another name"
        )
    for name, annotation in types.items():
        if annotation is ToolContext:
            raise _Refused(f"the run's context is given as 'ctx'; call the parameter {name!r} that")
    return [
        Parameter(name, annotation, signature[name].default, descriptions.get(name))
        for name, annotation in types.items()
    ]


def _refuse_kind(parameter: inspect.Parameter) -> None:
    match parameter.kind:
        case inspect.Parameter.VAR_POSITIONAL | inspect.Parameter.VAR_KEYWORD:
            raise _Refused(f"{parameter} takes any arguments, so a model cannot know them; name each one with its type")
        case inspect.Parameter.POSITIONAL_ONLY:
            raise _Refused(
                f"parameter {parameter.name!r} is positional only; models give arguments by name: remove the /"
            )
        case _ if parameter.annotation is inspect.Parameter.empty:
            wanted = "ToolContext" if parameter.name == "ctx" else "str"
            raise _Refused(f"parameter {parameter.name!r} has no type; write {parameter.name}: {wanted}, or what it is")
        case _:
            pass


def _types(function: FunctionType, signature: Mapping[str, inspect.Parameter]) -> dict[str, Any]:
    """Return the parameters' types in their order; what the function returns need not be known."""
    written = SimpleNamespace(__annotations__={name: each.annotation for name, each in signature.items()})
    inner = inspect.unwrap(function)  # annotations are written where the innermost function is
    try:
        found = typing.get_type_hints(written, inner.__globals__, include_extras=True)
    except (NameError, AttributeError, TypeError, SyntaxError) as error:
        raise _Refused(
            f"its parameters' types cannot be read: {error}; import or define them at the top of the module, "
            "outside 'if TYPE_CHECKING'"
        ) from None
    return {name: found[name] for name in signature}
