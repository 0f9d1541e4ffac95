"""A run made once more from its record alone: no model is asked, no tool is called, nothing is written.

The very loop of a live run drives it, so what it says to the model at each step is what the model was told.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from cirkelline.agents import models, run
from cirkelline.agents.chat_model import ChatMessage, Delta, ToolSchema
from cirkelline.agents.hashing import hash_call, hash_conversation
from cirkelline.agents.journaling import FORMAT, answer_of, result_of
from cirkelline.agents.run import RunOutcome, RunRequest
from cirkelline.agents.steps import Answer, ModelCall, ToolUse, UseTool
from cirkelline.configs import errors, wording
from cirkelline.configs.schema import ModelSpec
from cirkelline.state import journal
from cirkelline.state.journal import ANSWER, CONTEXT, Step
from cirkelline.tools.execution import ToolResult

_WALL: Final = 3600.0  # seconds; the run's own limit was for models and tools that took their time


class RecordEnds(errors.CirkellineError):
    """The run goes on where the record does not."""


class Differs(errors.CirkellineError):
    """The run came to another step than the one on record."""


@dataclass(frozen=True, slots=True)
class Difference:
    """Where a run made once more is not the one on record; `step` is `position` or `position.call`."""

    step: str
    expected: str
    came: str


@dataclass(slots=True)
class Replay:
    """A run made once more: how far it came, what it said to the model on the way, and where it differed, if it did.

    `ends_at` is the step, if any, to which the run went on where the record ended.
    """

    recorded: Sequence[Step]
    calls: list[ModelCall] = field(default_factory=list[ModelCall])
    seen: set[tuple[int, int]] = field(default_factory=set[tuple[int, int]])
    difference: Difference | None = None
    ends_at: str | None = None
    other_formats: int = 0
    outcome: RunOutcome | None = None

    async def make(self, request: RunRequest) -> Replay:
        """Run the request against the record."""
        spec = request.spec.model_copy(update={"limits": request.spec.limits.model_copy(update={"wall": _WALL})})
        offline = dataclasses.replace(
            request, spec=spec, around_model_call=self._around_model_call, around_tool_call=self._around_tool_call
        )
        self.outcome = await run.run(offline, model_pool=_Offline({}))
        return self

    @property
    def unseen(self) -> list[Step]:
        """The steps on record that the run did not come to."""
        return [step for step in self.recorded if step.position > CONTEXT and _key(step) not in self.seen]

    async def _around_model_call(self, call: ModelCall, _proceed: Callable[[], Awaitable[Answer]]) -> Answer:
        self.calls.append(call)
        step = self._step(call.position, ANSWER, "another model call")
        said = f"another conversation, of {len(call.messages)} messages, the last {_last(call.messages)}"
        self._compare(step, hash_conversation(call.messages), f"the conversation that {step.name} answered", said)
        return answer_of(step)

    async def _around_tool_call(self, use: ToolUse, _proceed: UseTool) -> ToolResult:
        came = f"{use.call.name}({wording.shown(use.call.arguments)})"
        step = self._step(use.position, use.index, came)
        self._compare(step, hash_call(use.call), f"the call of {step.name} on record", came)
        return result_of(step)

    def _step(self, position: int, call: int, came: str) -> Step:
        self.seen.add((position, call))
        step = next((each for each in self.recorded if _key(each) == (position, call)), None)
        if step is None or step.output is None:
            self.ends_at = self.ends_at or f"step {journal.label(position, call)}, {came}"
            raise RecordEnds(f"step {journal.label(position, call)}, {came}, is not on record")
        return step

    def _compare(self, step: Step, digest: bytes, expected: str, came: str) -> None:
        if step.format != FORMAT:
            self.other_formats += 1
        elif step.input_hash != digest:
            # The first only: every conversation after it is another one too.
            self.difference = self.difference or Difference(journal.label(step.position, step.call), expected, came)
            raise Differs(f"step {journal.label(step.position, step.call)}: expected {expected}, came {came}")


def _key(step: Step) -> tuple[int, int]:
    return step.position, step.call


def _last(messages: Sequence[ChatMessage]) -> str:
    return f"{messages[-1].role}'s {wording.shown(messages[-1].content)}" if messages else "nothing"


class _Offline(models.ModelPool):
    """Models that are there whatever this machine lacks, as nobody will ask them anything."""

    async def get(self, spec: ModelSpec) -> _Silent:
        return _Silent(spec.label)


@dataclass(frozen=True, slots=True)
class _Silent:
    label: str

    def stream(
        self, messages: Sequence[ChatMessage], tools: Sequence[ToolSchema], *, must_call: bool = False
    ) -> AsyncIterator[Delta]:
        del messages, tools, must_call
        raise RecordEnds("a replay asks no model")


def as_json(message: ChatMessage) -> dict[str, object]:
    """Return a message as a document shows it; what is empty is left out."""
    calls = [{"id": each.id, "name": each.name, "arguments": _parsed(each.arguments)} for each in message.tool_calls]
    shown: dict[str, object] = {
        "role": message.role,
        "content": message.content,
        "tool_calls": calls,
        "tool_call_id": message.tool_call_id,
        "tool_name": message.tool_name,
        "tool_error": message.tool_error or None,
    }
    return {key: value for key, value in shown.items() if value not in (None, []) or key == "content"}


def _parsed(arguments: str) -> object:
    try:
        return json.loads(arguments or "{}")
    except ValueError:
        return arguments
