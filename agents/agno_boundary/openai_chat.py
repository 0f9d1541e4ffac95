# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# (the annotations of agno and the SDKs are partial)
"""Any server of the OpenAI chat completions protocol as our ChatModel, through agno's class for it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import openai
from agno.models.message import Message
from agno.models.openai import OpenAIChat
from agno.models.response import ModelResponse
from openai.types.chat import ChatCompletionChunk
from openai.types.chat.chat_completion_chunk import ChoiceDeltaToolCall

from cirkelline.agents.access import OPENAI_HOME, Access
from cirkelline.agents.agno_boundary import answers, failures
from cirkelline.agents.agno_boundary.answers import ProvidedModel
from cirkelline.agents.chat_model import ToolCall

_CONNECT_SECONDS = 10.0
_SILENCE_SECONDS = 600.0  # between two chunks; a large prompt on a small machine takes minutes to its first word


class OpenAIServer:
    """A server's models, over one pool of connections; `close` ends it. `hooks` are httpx's, told of every request."""

    def __init__(self, access: Access, *, hooks: Mapping[str, Any] | None = None) -> None:
        self._access = access
        self._client = openai.AsyncOpenAI(
            api_key=access.key or "none",  # the SDK insists on one; servers without keys ignore it
            base_url=access.address,
            timeout=openai.Timeout(_SILENCE_SECONDS, connect=_CONNECT_SECONDS),
            max_retries=0,  # the SDK's own two retries would be invisible to limits, journal and log
            http_client=openai.DefaultAsyncHttpxClient(event_hooks=dict(hooks)) if hooks else None,
        )

    def model(self, label: str, name: str, temperature: float | None, max_tokens: int | None) -> ProvidedModel:
        """Return one of the server's models with its settings."""
        # OpenAI's newer models know only the second name, everybody else's servers only the first.
        completion = self._access.address == OPENAI_HOME
        chat = _Chat(
            id=name,
            async_client=self._client,
            temperature=temperature,
            max_completion_tokens=max_tokens if completion else None,
            max_tokens=None if completion else max_tokens,
        )
        return ProvidedModel(chat, failures.Provider(label, self._access), assemble, must_call="required")

    async def names(self) -> list[str]:
        """Return the names of the models the server offers, in its order; raises ModelError."""
        try:
            return [model.id async for model in self._client.models.list(timeout=_CONNECT_SECONDS)]
        except Exception as error:  # noqa: BLE001 - whatever the SDK raises has to become one of our errors
            failure = failures.explain(error, failures.Provider("the list of models", self._access))
        raise failure

    async def close(self) -> None:
        """End the connections; the models answer no more."""
        await self._client.close()


class _Chat(OpenAIChat):
    """agno's class, which drops the finish reason, renames tool call ids and calls the system `developer`."""

    default_role_map = {"system": "system", "user": "user", "assistant": "assistant", "tool": "tool"}  # noqa: RUF012 - a dataclass's constant, as agno has it

    def get_async_client(self) -> openai.AsyncOpenAI:
        # agno replaces a closed client by one with the environment's key, at OpenAI's address: never that.
        assert self.async_client is not None  # noqa: S101 (given by OpenAIServer)
        return self.async_client

    def _format_all_messages(
        self, messages: list[Message], compress_tool_results: bool = False
    ) -> list[dict[str, Any]]:
        # Ours are unique already; agno would prefix foreign ones with call_, which Mistral's servers refuse.
        return [self._format_message(message, compress_tool_results) for message in messages]

    def _parse_provider_response_delta(self, response_delta: ChatCompletionChunk) -> ModelResponse:
        response = super()._parse_provider_response_delta(response_delta)
        for choice in (response_delta.choices or ())[:1]:
            # Compatible servers leave the delta out of the last chunk, whatever its type says.
            if choice.delta and choice.delta.refusal:
                response.extra = {answers.FINISH: answers.REFUSED}
            elif choice.finish_reason:
                response.extra = {answers.FINISH: choice.finish_reason}
        return response


def assemble(fragments: Sequence[ChoiceDeltaToolCall]) -> list[ToolCall]:
    """Return whole calls from streamed fragments.

    A call begins with a new index; and, for servers that give every call index 0, with another id, or with a second
    name once the arguments so far are whole.
    """
    open_calls: list[_Open] = []
    for fragment in fragments:
        current = next((call for call in reversed(open_calls) if call.index == fragment.index), None)
        if current is None or current.is_over(fragment):
            current = _Open(fragment.index)
            open_calls.append(current)
        current.add(fragment)
    return [ToolCall(call.id, call.name, call.arguments) for call in open_calls]


class _Open:
    """A call whose fragments are still coming."""

    def __init__(self, index: int | None) -> None:
        self.index = index
        self.id = ""
        self.name = ""
        self.arguments = ""

    def is_over(self, fragment: ChoiceDeltaToolCall) -> bool:
        if fragment.id and self.id:
            return fragment.id != self.id
        has_more = bool(fragment.function and fragment.function.name and fragment.function.arguments)
        return has_more and bool(self.name) and _is_object(self.arguments)

    def add(self, fragment: ChoiceDeltaToolCall) -> None:
        self.id = fragment.id or self.id
        if fragment.function is not None:
            self.name = fragment.function.name or self.name
            self.arguments += fragment.function.arguments or ""


def _is_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except ValueError:
        return False
