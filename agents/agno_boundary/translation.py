# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# (the annotations of agno and the SDKs are partial)
"""Our messages as agno's, and back."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from agno.models.message import Message

from cirkelline.agents.chat_model import ChatMessage, Role, ToolCall, ToolSchema

# agno's own name for what Gemini wants back with a call; its other providers ignore it.
_SIGNATURE = "thought_signature"


def to_agno(message: ChatMessage, kind: type[Message] = Message) -> Message:
    """Return a message as agno keeps it."""
    return kind(
        role=message.role,
        content=message.content,
        tool_calls=[tool_call_to_agno(call) for call in message.tool_calls] or None,
        tool_call_id=message.tool_call_id,
        tool_name=message.tool_name,
        tool_call_error=message.tool_error if message.role == "tool" else None,
    )


def from_agno(message: Message) -> ChatMessage:
    """Return an agno message as ours; what is not text (we never send any) is left out."""
    return ChatMessage(
        role=role_from_agno(message.role),
        content=message.get_content_string(),
        tool_calls=tuple(tool_call_from_agno(call) for call in message.tool_calls or ()),
        tool_call_id=message.tool_call_id,
        tool_name=message.tool_name,
        tool_error=bool(message.tool_call_error),
    )


def role_from_agno(role: str) -> Role:
    """Return one of our four roles; agno calls a system message `developer` here and there."""
    match role:
        case "user" | "assistant" | "tool":
            return role
        case _:
            return "system"


def tool_call_to_agno(call: ToolCall) -> dict[str, Any]:
    """Return a call in the shape agno shares with OpenAI."""
    shape: dict[str, Any] = {
        "id": call.id,
        "type": "function",
        "function": {"name": call.name, "arguments": call.arguments},
    }
    if call.signature is not None:
        shape[_SIGNATURE] = call.signature
    return shape


def tool_call_from_agno(shape: Mapping[str, Any]) -> ToolCall:
    """Return one of agno's calls as ours; what the provider left out is empty."""
    function = shape.get("function") or {}
    return ToolCall(
        id=shape.get("id") or "",
        name=function.get("name") or "",
        arguments=function.get("arguments") or "",
        signature=shape.get(_SIGNATURE),
    )


def for_provider(messages: Sequence[ChatMessage]) -> list[Message]:
    """Return a conversation that any provider accepts: one system message, calls whose arguments are JSON objects.

    A model that broke its own arguments has been told so in the tool's result; sent back as they were, they make some
    servers refuse the whole conversation.
    """
    system = "\n\n".join(message.content for message in messages if message.role == "system")
    translated = [Message(role="system", content=system)] if system else []
    for message in messages:
        if message.role == "system":
            continue
        one = to_agno(message)
        if message.role == "assistant" and not message.content:
            one.content = None  # Gemini refuses empty text; agno's OpenAI class writes it where that protocol wants it
        for shape in one.tool_calls or ():
            shape["function"]["arguments"] = _as_object(shape["function"]["arguments"])
        translated.append(one)
    return translated


def _as_object(arguments: str) -> str:
    try:
        return arguments if isinstance(json.loads(arguments), dict) else "{}"
    except ValueError:
        return "{}"


def tool_for_provider(tool: ToolSchema) -> dict[str, Any]:
    """Return a tool in the shape of the OpenAI protocol."""
    return {
        "type": "function",
        "function": {"name": tool.name, "description": tool.description, "parameters": dict(tool.parameters)},
    }
