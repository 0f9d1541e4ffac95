# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# (the annotations of agno and the SDKs are partial)
"""One streamed answer of an agno model class as our deltas, whole or an error."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Any, Final, cast

from agno.models.base import Model
from agno.models.message import Message
from agno.models.response import ModelResponse

from cirkelline.agents import chat_model
from cirkelline.agents.agno_boundary import failures, translation
from cirkelline.agents.chat_model import ChatMessage, Delta, ToolCall, ToolSchema, Usage

FINISH: Final = "cirkelline_finish"
"""The key of agno's `ModelResponse.extra` under which our parsers put why the answer ended; agno drops the reason."""
REFUSED: Final = "refusal"
BLOCKED_PROMPT: Final = "blocked prompt"

_WHOLE: Final = frozenset({"stop", "tool_calls", "function_call", "end_turn", "tool_use", "eos"})
_CUT: Final = frozenset({"length", "max_tokens", "model_length"})
_BLOCKED: Final = frozenset(
    {REFUSED, BLOCKED_PROMPT, "content_filter", "safety", "recitation", "blocklist", "prohibited_content", "spii"}
    | {"language", "model_armor"}
)


class ProvidedModel:
    """An agno model class as our ChatModel; `assemble` makes whole calls of the pieces that its provider streams.

    `must_call` is the provider's word for an answer that has to be a call.
    """

    def __init__(
        self,
        model: Model,
        provider: failures.Provider,
        assemble: Callable[[Sequence[Any]], Sequence[ToolCall]],
        *,
        must_call: str,
    ) -> None:
        self.label = provider.label
        self._model = model
        self._provider = provider
        self._assemble = assemble
        self._must_call = must_call

    def __repr__(self) -> str:
        return f"ProvidedModel({self.label})"

    async def stream(
        self, messages: Sequence[ChatMessage], tools: Sequence[ToolSchema], *, must_call: bool = False
    ) -> AsyncGenerator[Delta, None]:
        """Yield the text as it comes, then the usage, then the tool calls; ModelError unless the answer is whole."""
        finish: str | None = None
        usage: Usage | None = None
        pieces: list[Any] = []
        failure: chat_model.ModelError | None = None
        responses = _ask(self._model, messages, tools, self._must_call if must_call and tools else None)
        try:
            async for response in responses:
                if finish not in _BLOCKED:  # a refusal is followed by an ordinary stop
                    finish = (response.extra or {}).get(FINISH) or finish
                usage = _usage(response) or usage  # the last counts: some servers repeat a growing sum in every chunk
                pieces.extend(response.tool_calls or ())
                if response.content:
                    yield Delta(text=response.content)
        except Exception as error:  # noqa: BLE001 - whatever the SDKs raise has to become one of our errors
            failure = failures.explain(error, self._provider)
        finally:
            await responses.aclose()
        if failure is not None:  # raised here, outside `except`: it must not carry the request, with its headers, along
            raise failure
        if usage is not None:
            yield Delta(usage=usage)
        calls = tuple(self._assemble(pieces))
        _require_whole(finish, calls, self._provider)
        if calls:
            yield Delta(tool_calls=calls)


def _ask(
    model: Model, messages: Sequence[ChatMessage], tools: Sequence[ToolSchema], choice: str | None
) -> AsyncGenerator[ModelResponse, None]:
    responses = model.ainvoke_stream(
        messages=translation.for_provider(messages),
        assistant_message=Message(role="assistant"),
        tools=[translation.tool_for_provider(tool) for tool in tools] or None,
        tool_choice=choice,
    )
    return cast("AsyncGenerator[ModelResponse, None]", responses)


def _usage(response: ModelResponse) -> Usage | None:
    metrics = response.response_usage
    return Usage(metrics.input_tokens, metrics.output_tokens) if metrics is not None else None


def _require_whole(finish: str | None, calls: Sequence[ToolCall], provider: failures.Provider) -> None:
    if finish in _WHOLE:
        return
    if finish is None:
        raise chat_model.AnswerTruncated(
            f"the answer of {provider.label} broke off before its end; the connection or the server failed, try again"
        )
    if finish in _CUT:
        if calls and all(_is_json(call.arguments) for call in calls):
            return  # the calls are whole, and what was cut off after them the model can say next time
        raise chat_model.AnswerTruncated(
            f"the answer of {provider.label} reached its token limit before it was whole; raise max_tokens or ask for less"
        )
    if finish in _BLOCKED:
        raise chat_model.AnswerBlocked(
            f"the content filter of {provider.label} withheld the answer ({finish}); rephrase the task"
        )
    raise chat_model.AnswerMalformed(
        f"{provider.label} ended its answer for a reason that is no proper end ({finish}); try again"
    )


def _is_json(text: str) -> bool:
    try:
        json.loads(text or "{}")
    except ValueError:
        return False
    return True
