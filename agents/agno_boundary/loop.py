# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# (the annotations of agno and the SDKs are partial)
"""agno's loop over our steps: it asks the model and runs the tools in turn, and adds no word of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any, NoReturn

from agno.models.base import Model
from agno.models.message import Message
from agno.models.response import ModelResponse
from agno.run import RunStatus
from agno.tools.function import Function, FunctionCall

from cirkelline.agents import steps
from cirkelline.agents.agno_boundary import quiet, translation
from cirkelline.agents.chat_model import ChatMessage
from cirkelline.configs import errors


class LoopFailed(errors.CirkellineError):
    """agno ended a run early for a reason of its own."""


class _ToolFailed(Exception):
    """How a tool tells agno that its text is an error: agno marks the message and goes on."""


async def drive(run: steps.Steps, conversation: Sequence[ChatMessage]) -> None:
    """Let agno alternate model and tools until the model answers without a tool call.

    `conversation` is everything the model shall see, system prompt first. Raises what ended the run early.
    """
    agent = quiet.QuietAgent(
        model=_StepsModel(run),
        # Messages go in whole, as input: agno would add extras to texts it builds, and fill {placeholders} in them.
        build_context=False,
        build_user_context=False,
        resolve_in_context=False,
    )
    result = await agent.arun(input=[translation.to_agno(each, _Unwritten) for each in conversation], stream=False)
    # arun raises nothing: it reduces an error to a text and a status. Ours was kept whole.
    if run.failure is not None:
        raise run.failure
    if result.status is not RunStatus.completed:
        raise LoopFailed(f"agno ended the run as {result.status.value}: {result.content}")


class _Unwritten(Message):
    """A message of the input; at a run's end agno writes all of it as JSON, for a file that nobody asked for."""

    def to_dict(self) -> dict[str, Any]:
        return {}


class _StepsModel(Model):
    """What agno takes for a model: every call goes through `Steps`, where it is counted and announced."""

    def __init__(self, run: steps.Steps) -> None:
        super().__init__(id=run.model.label, name="cirkelline", provider="cirkelline", retries=0)
        self._run = run

    async def ainvoke(self, *_args: object, messages: list[Message], **_options: object) -> ModelResponse:
        answer = await self._run.answer([translation.from_agno(message) for message in messages])
        return ModelResponse(
            role="assistant",
            content=answer.text,
            tool_calls=[translation.tool_call_to_agno(call) for call in answer.tool_calls],
        )

    def get_function_calls_to_run(
        self,
        assistant_message: Message,
        messages: list[Message],
        functions: dict[str, Function] | None = None,
    ) -> list[FunctionCall]:
        """Turn an answer's calls into agno's, arguments untouched, one per call and in order.

        agno's own version evaluates Python literals, turns the texts "none" and "true" into None and True, and answers
        an unknown tool out of turn; in ours the tool contract judges exactly what the model wrote.
        """
        del messages, functions
        calls = translation.from_agno(assistant_message).tool_calls
        return [self._function_call(use) for use in self._run.uses(calls)]

    def _function_call(self, use: steps.ToolUse) -> FunctionCall:
        async def entrypoint() -> str:
            result = await self._run.use_tool(use)
            if result.error:
                raise _ToolFailed(result.text)
            return result.text

        # Without parameters and without processing there is nothing for agno to inject, validate or reword.
        function = Function(name=use.call.name, entrypoint=entrypoint, skip_entrypoint_processing=True)
        return FunctionCall(function=function, call_id=use.call.id)

    def invoke(self, *_args: object, **_options: object) -> NoReturn:
        raise NotImplementedError

    def invoke_stream(self, *_args: object, **_options: object) -> Iterator[ModelResponse]:
        raise NotImplementedError

    def ainvoke_stream(self, *_args: object, **_options: object) -> AsyncIterator[ModelResponse]:
        raise NotImplementedError

    def _parse_provider_response(self, response: Any, **_options: object) -> NoReturn:
        raise NotImplementedError

    def _parse_provider_response_delta(self, response: Any) -> NoReturn:
        raise NotImplementedError
