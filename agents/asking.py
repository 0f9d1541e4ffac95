"""One question to a model, answered through a tool's arguments: for programs that need a decision and not a text."""

from __future__ import annotations

import json
from typing import Any, Final

from cirkelline.agents.chat_model import ChatMessage, ToolCall
from cirkelline.agents.models import ModelPool
from cirkelline.agents.steps import identified, schema
from cirkelline.configs import models
from cirkelline.configs.errors import CirkellineError
from cirkelline.configs.schema import ModelSpec
from cirkelline.tools import contract
from cirkelline.tools.contract import ArgumentsInvalid, Tool
from cirkelline.tools.remembering import Examples

TRIES: Final = 2


class NoDecision(CirkellineError):
    """A model did not answer in the form that it was asked for."""


async def ask(
    pool: ModelPool, label: str, instructions: str, question: str, tool: Tool, *, examples: Examples = ()
) -> dict[str, Any]:
    """Return the arguments with which a model calls the one tool that it has to call. Raises: NoDecision, ModelError.

    `examples` are other questions with the arguments that answer them; small models learn more from them than from words.
    """
    model = await pool.get(_soberly(ModelSpec.model_validate(models.read(label, None))))
    messages = [ChatMessage("system", instructions), *answered(examples, tool.name), ChatMessage("user", question)]
    problem = "it called no tool"
    for _ in range(TRIES):
        answer = model.stream(messages, [schema(tool)], must_call=True)
        calls = identified([call async for delta in answer for call in delta.tool_calls], messages)
        for call in calls:
            try:
                return contract.validate(tool, call.arguments)
            except ArgumentsInvalid as error:
                problem = str(error)
        if calls:
            messages += [ChatMessage("assistant", "", calls), *(_result(call, problem, failed=True) for call in calls)]
    raise NoDecision(f"{label} gave no decision that could be read: {problem}")


def _soberly(spec: ModelSpec) -> ModelSpec:
    """Let a model on this machine say what it holds most likely; some of the hosted ones refuse to be told so."""
    return spec.model_copy(update={"temperature": 0.0}) if spec.provider == "local" else spec


def answered(examples: Examples, name: str) -> list[ChatMessage]:
    """Return examples as a conversation in which a tool of this name was called for each question."""
    messages: list[ChatMessage] = []
    for number, (question, arguments) in enumerate(examples, 1):
        call = ToolCall(f"example-{number}", name, json.dumps(arguments, ensure_ascii=False))
        messages += [ChatMessage("user", question), ChatMessage("assistant", "", (call,)), _result(call, "ok")]
    return messages


def _result(call: ToolCall, text: str, *, failed: bool = False) -> ChatMessage:
    return ChatMessage("tool", text, tool_call_id=call.id, tool_name=call.name, tool_error=failed)
