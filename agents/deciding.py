"""A run that is there for one decision: its model must call the one tool that it has, and the run ends with that."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from typing import Final

from cirkelline.agents.chat_model import ChatMessage, ChatModel, Delta, ToolSchema

DONE: Final = "done"
"""What such a run says at its end."""


def is_open(messages: Sequence[ChatMessage]) -> bool:
    """Whether the decision is still to come: nothing was called yet, or what was called could not be read."""
    return messages[-1].role != "tool" or messages[-1].tool_error


class Decides:
    """A model that is held to a decision; once it is made nobody is asked anything more."""

    def __init__(self, model: ChatModel) -> None:
        self._model = model
        self.label = model.label

    def stream(
        self,
        messages: Sequence[ChatMessage],
        tools: Sequence[ToolSchema],
        *,
        must_call: bool = True,  # noqa: ARG002 - it always must
    ) -> AsyncIterator[Delta]:
        """Have the model call its tool, or end the run where that has been done."""
        if is_open(messages):
            return self._model.stream(messages, tools, must_call=True)
        return _end()


async def _end() -> AsyncGenerator[Delta]:
    yield Delta(text=DONE)
