"""An agent that looks before it speaks: a turn begins with a search for what was said, which no model has to ask for.

Small models seldom search by themselves, and answer from memory what the documents tell.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator, Sequence

from cirkelline.agents.chat_model import ChatMessage, ChatModel, Delta, ToolCall, ToolSchema
from cirkelline.configs.schema import LONGEST_QUERY, SEARCHES_KNOWLEDGE


class SearchesFirst:
    """A model whose first answer to a message is a search for its words; what follows is the model's own."""

    def __init__(self, model: ChatModel) -> None:
        self._model = model
        self.label = model.label

    def stream(
        self, messages: Sequence[ChatMessage], tools: Sequence[ToolSchema], *, must_call: bool = False
    ) -> AsyncIterator[Delta]:
        """Answer as the model does, but for a turn's beginning; that costs no tokens and no call."""
        said = messages[-1].content.strip() if messages[-1].role == "user" else ""
        if said and any(tool.name == SEARCHES_KNOWLEDGE for tool in tools):
            return _search(said[:LONGEST_QUERY], sum(len(message.tool_calls) for message in messages))
        return self._model.stream(messages, tools, must_call=must_call)


async def _search(words: str, calls: int) -> AsyncGenerator[Delta]:
    # The same id whenever the conversation is replayed, and none that its other calls have.
    yield Delta(tool_calls=(ToolCall(f"first-{calls + 1}", SEARCHES_KNOWLEDGE, json.dumps({"query": words})),))
