"""One question to a model, answered through a tool's arguments: for programs that need a decision and not a text."""

from __future__ import annotations

from typing import Any, Final

from cirkelline.agents.chat_model import ChatMessage, ToolCall
from cirkelline.agents.models import ModelPool
from cirkelline.agents.steps import schema
from cirkelline.configs import models
from cirkelline.configs.errors import CirkellineError
from cirkelline.configs.schema import ModelSpec
from cirkelline.tools import contract
from cirkelline.tools.contract import ArgumentsInvalid, Tool

TRIES: Final = 2


class NoDecision(CirkellineError):
    """A model did not answer in the form that it was asked for."""


async def ask(pool: ModelPool, label: str, instructions: str, question: str, tool: Tool) -> dict[str, Any]:
    """Return the arguments with which a model calls the one tool that it is offered. Raises: NoDecision, ModelError."""
    model = await pool.get(ModelSpec.model_validate(models.read(label, None)))
    messages = [ChatMessage("system", instructions), ChatMessage("user", question)]
    problem = "it called no tool"
    for _ in range(TRIES):
        calls: list[ToolCall] = []
        async for delta in model.stream(messages, [schema(tool)]):
            calls += delta.tool_calls
        for call in calls:
            try:
                return contract.validate(tool, call.arguments)
            except ArgumentsInvalid as error:
                problem = str(error)
    raise NoDecision(f"{label} gave no decision that could be read: {problem}")
