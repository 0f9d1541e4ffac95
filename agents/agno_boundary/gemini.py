# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# (the annotations of agno and the SDKs are partial)
"""Gemini as our ChatModel, through agno's class for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from agno.metrics import MessageMetrics
from agno.models.google import Gemini
from agno.models.response import ModelResponse
from google import genai
from google.genai import types

from cirkelline.agents.access import Access
from cirkelline.agents.agno_boundary import answers, failures, translation
from cirkelline.agents.agno_boundary.answers import ProvidedModel
from cirkelline.agents.chat_model import ToolCall


class GeminiServer:
    """Google's models, over one pool of connections; `close` ends it. `hooks` are httpx's, told of every request."""

    def __init__(self, access: Access, *, hooks: Mapping[str, Any] | None = None) -> None:
        self._access = access
        self._client = genai.Client(
            vertexai=False,  # else GOOGLE_GENAI_USE_VERTEXAI would send the conversation elsewhere, under another account
            api_key=access.key or "none",
            http_options=types.HttpOptions(
                base_url=access.address,
                # One attempt; and said so, as the SDK by itself sleeps up to ten seconds and tries a lost connection again.
                retry_options=types.HttpRetryOptions(attempts=1),
                async_client_args={"event_hooks": dict(hooks)} if hooks else None,
            ),
        )

    def model(self, label: str, name: str, temperature: float | None, max_tokens: int | None) -> ProvidedModel:
        """Return one of the models with its settings."""
        chat = _Chat(
            id=name,
            client=self._client,
            temperature=temperature,
            max_output_tokens=max_tokens,
            retry_with_guidance=False,  # agno would add a message of its own to the conversation and ask again
        )
        return ProvidedModel(chat, failures.Provider(label, self._access), _assemble, must_call="any")

    async def close(self) -> None:
        """End the connections; the models answer no more."""
        await self._client.aio.aclose()
        self._client.close()


def _assemble(calls: Sequence[dict[str, Any]]) -> list[ToolCall]:
    return [translation.tool_call_from_agno(call) for call in calls]


class _Chat(Gemini):
    """agno's class, which drops the finish reason, makes up tool call ids and rewords schemas."""

    def get_request_params(
        self,
        system_message: str | None = None,
        response_format: Any = None,
        tools: list[dict[str, Any]] | None = None,
        tool_choice: Any = None,
    ) -> dict[str, Any]:
        parameters = super().get_request_params(system_message, response_format, None, tool_choice)
        config = parameters.setdefault("config", types.GenerateContentConfig())
        config.automatic_function_calling = types.AutomaticFunctionCallingConfig(disable=True)
        if tools:
            # agno's conversion loses anyOf, bounds and defaults; the API takes JSON Schema as it is.
            declarations = [_declaration(tool["function"]) for tool in tools]
            config.tools = [types.Tool(function_declarations=declarations)]
        return parameters

    # agno's own class breaks its base's signature in the same way, hence the ignore.
    def _parse_provider_response_delta(  # type: ignore[override]
        self, response_delta: types.GenerateContentResponse, **kwargs: Any
    ) -> ModelResponse:
        chunk = response_delta
        made = super()._parse_provider_response_delta(chunk, **kwargs)
        feedback = chunk.prompt_feedback
        if feedback is not None and feedback.block_reason is not None:
            made.extra = {answers.FINISH: answers.BLOCKED_PROMPT}
        for candidate in (chunk.candidates or ())[:1]:
            parts = candidate.content.parts if candidate.content else None
            asked = [part.function_call for part in parts or () if part.function_call is not None]
            for call, shape in zip(asked, made.tool_calls, strict=True):
                shape["id"] = call.id or ""  # agno puts a random one where Gemini gave none: a replay would differ
            if candidate.finish_reason is not None:
                made.extra = {answers.FINISH: candidate.finish_reason.value.lower()}
        return made

    def _get_metrics(self, response_usage: types.GenerateContentResponseUsageMetadata) -> MessageMetrics:
        metrics = super()._get_metrics(response_usage)
        metrics.output_tokens += metrics.reasoning_tokens  # Google counts, and bills, thoughts as output
        return metrics


def _declaration(function: dict[str, Any]) -> types.FunctionDeclaration:
    return types.FunctionDeclaration(
        name=function["name"], description=function["description"], parameters_json_schema=function["parameters"]
    )
