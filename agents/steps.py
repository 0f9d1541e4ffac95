"""The two doors of a run: each model call and each tool call passes here, counted, put right and announced.

Nothing here knows agno: its loop calls `Steps.answer` and `Steps.use_tool`, and a journal wraps the two `around_*` seams.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol
from uuid import UUID, uuid5

from cirkelline.agents import events
from cirkelline.agents.chat_model import ChatMessage, ChatModel, Delta, ToolCall, ToolSchema, Usage
from cirkelline.configs import errors, wording
from cirkelline.tools import contract, execution


class StepLimit(errors.CirkellineError):
    """A run asked for one model call more than its definition allows."""


class Parked(errors.CirkellineError):
    """A tool's result is still to come: the run ends, and another one goes on when it is there."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One whole answer of a model; its tool calls have ids that are unique in the conversation."""

    text: str
    tool_calls: tuple[ToolCall, ...] = ()
    usage: Usage = dataclasses.field(default_factory=Usage)


@dataclass(frozen=True, slots=True)
class ModelCall:
    """A model call about to be made: the `position`th of its run (from 1), and all that the model will see."""

    position: int
    messages: tuple[ChatMessage, ...]
    tools: tuple[ToolSchema, ...]


@dataclass(frozen=True, slots=True)
class ToolUse:
    """A tool call about to be made: the `index`th (from 0) that the answer at `position` asked for.

    `tool` is None where the model named one that the agent does not have.
    """

    position: int
    index: int
    call: ToolCall
    tool: contract.Tool | None = dataclasses.field(default=None, compare=False, repr=False)


class UseTool(Protocol):
    """How a tool call is made; `connection` is lent to the tool as its `ctx.connection`."""

    def __call__(self, *, connection: object | None = None) -> Awaitable[execution.ToolResult]:
        """Make the call. Raises: EndRun."""
        ...


AroundModelCall = Callable[[ModelCall, Callable[[], Awaitable[Answer]]], Awaitable[Answer]]
AroundToolCall = Callable[[ToolUse, UseTool], Awaitable[execution.ToolResult]]


async def call_model(_call: ModelCall, proceed: Callable[[], Awaitable[Answer]]) -> Answer:
    """Just call the model: the seam without a journal."""
    return await proceed()


async def call_tool(_use: ToolUse, proceed: UseTool) -> execution.ToolResult:
    """Just call the tool: the seam without a journal."""
    return await proceed()


@dataclass(kw_only=True, slots=True)
class Steps:
    """One run's model and tool calls, and what they added up to so far."""

    model: ChatModel
    tools: Mapping[str, contract.Tool]
    context: contract.ToolContext
    executor: execution.Executor
    limit: int
    emit: events.Emit = events.ignore
    around_model_call: AroundModelCall = call_model
    around_tool_call: AroundToolCall = call_tool

    taken: int = 0
    usage: Usage = dataclasses.field(default_factory=Usage)
    failure: Exception | None = None
    """Why the run must end; set by a model call or a tool, raised by the next model call."""
    _text: str = ""
    _earlier_text: str = ""
    _asked: int = 0

    @property
    def output(self) -> str:
        """What the model has answered so far: its latest text that was not empty, whole or not."""
        return self._text or self._earlier_text

    async def answer(self, messages: Sequence[ChatMessage]) -> Answer:
        """Ask the model; raises ModelError, StepLimit, or the failure that a tool of the last answer left behind."""
        if self.failure is None:
            try:
                return await self._answer(tuple(messages))
            except Exception as error:  # noqa: BLE001 - kept for the run to judge: agno reduces what is raised to a text
                self.failure = error
        raise self.failure

    async def _answer(self, messages: tuple[ChatMessage, ...]) -> Answer:
        if self.taken >= self.limit:
            raise StepLimit(
                f"the run used all its {self.limit} steps without finishing; raise limits.steps or make the task smaller"
            )
        self.taken += 1
        call = ModelCall(self.taken, messages, tuple(schema(tool) for tool in self.tools.values()))
        self._earlier_text, self._text = self.output, ""
        answer = await self.around_model_call(call, functools.partial(self._ask, call))
        if self._asked < call.position and answer.text:  # not from the model: an earlier attempt has it on record
            self.emit(events.TextDelta(answer.text))
        self._text = answer.text
        self.usage += answer.usage
        return answer

    async def _ask(self, call: ModelCall) -> Answer:
        self._asked = call.position
        deltas = self.model.stream(call.messages, call.tools)
        calls: list[ToolCall] = []
        usage = Usage()
        try:
            async for delta in deltas:
                if delta.text:
                    self._text += delta.text
                    self.emit(events.TextDelta(delta.text))
                calls.extend(delta.tool_calls)
                usage += delta.usage or Usage()
        except BaseException:
            self.usage += usage  # a failed answer was paid for too; a whole one is counted with its Answer
            raise
        finally:
            await _close(deltas)
        return Answer(self._text, identified(calls, call.messages), usage)

    def uses(self, calls: Sequence[ToolCall]) -> list[ToolUse]:
        """Return the calls that the last answer asks for, as they are to be made."""
        return [ToolUse(self.taken, index, call, self.tools.get(call.name)) for index, call in enumerate(calls)]

    async def use_tool(self, use: ToolUse) -> execution.ToolResult:
        """Call a tool for the model; what ends the run is kept for the next model call, when all tools have settled."""
        self.emit(events.ToolStarted(use.call.name, use.call.arguments, use.call.id))
        try:
            result = await self.around_tool_call(use, functools.partial(self._execute, use))
        except Parked as parked:
            self.failure = self.failure or parked
            self.emit(events.ToolParked(use.call.name, use.call.id))
            return execution.ToolResult(text=str(parked), error=False, ms=0)
        except Exception as error:  # noqa: BLE001 - EndRun, or our own fault: either ends the run, after its siblings
            if self.failure is None or isinstance(self.failure, Parked):  # a run that fails waits for nothing
                self.failure = error
            result = execution.ToolResult(text=str(error), error=True, ms=0)
        self.emit(events.ToolFinished(use.call.name, not result.error, result.ms, use.call.id))
        return result

    async def _execute(self, use: ToolUse, *, connection: object | None = None) -> execution.ToolResult:
        if use.tool is None:
            return execution.ToolResult(text=_unknown_tool(use.call.name, self.tools), error=True, ms=0)
        key = idempotency_key(self.context.task_id, use)
        context = dataclasses.replace(self.context, idempotency_key=key, lent=connection)
        return await self.executor.call(use.tool, use.call.arguments, context)


def schema(tool: contract.Tool) -> ToolSchema:
    """Return a tool as a model sees it."""
    return ToolSchema(tool.name, tool.description, tool.parameters)


def idempotency_key(task_id: UUID, use: ToolUse) -> str:
    """Return the key of one call of one task: the same in every attempt that makes this very call, else another.

    The arguments are part of it, as a task that was begun from its start again may make another call at the same place.
    """
    call = json.dumps([use.position, use.index, use.call.name, use.call.arguments])
    return str(uuid5(task_id, call))


def identified(calls: Sequence[ToolCall], messages: Sequence[ChatMessage]) -> tuple[ToolCall, ...]:
    """Give every call an id that nothing else in the conversation has; the same conversation gives the same ids.

    Providers leave ids out or count from zero in every answer, and agno would fill the gap with random ones.
    """
    taken = {call.id for message in messages for call in message.tool_calls}
    unique: list[ToolCall] = []
    for index, call in enumerate(calls):
        identity = call.id or f"call_{len(messages)}_{index}"
        while identity in taken:
            identity += "x"
        taken.add(identity)
        unique.append(call if identity == call.id else dataclasses.replace(call, id=identity))
    return tuple(unique)


def _unknown_tool(name: str, tools: Mapping[str, contract.Tool]) -> str:
    there = ", ".join(tools) or "none"
    return f"there is no tool named {wording.shown(name)}{wording.did_you_mean(name, list(tools))} (tools: {there})"


async def _close(deltas: AsyncIterator[Delta]) -> None:
    # AsyncIterator promises no aclose, but an async generator has it and must not wait for the garbage collector.
    close = getattr(deltas, "aclose", None)
    if close is not None:
        await close()
