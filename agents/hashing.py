"""What a step was asked, as a few bytes by which a later attempt recognizes it; `journaling.FORMAT` counts the ways."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

from cirkelline.agents.chat_model import ChatMessage, ToolCall, ToolSchema


def hash_conversation(messages: Sequence[ChatMessage]) -> bytes:
    """Return 16 bytes for all that a model sees: roles, contents, and the tools' names and arguments."""
    return _hash(
        [
            [each.role, each.content, [[call.name, call.arguments] for call in each.tool_calls], each.tool_name]
            for each in messages
        ]
    )


def hash_tools(tools: Sequence[ToolSchema]) -> str:
    """Return 16 digits for what a model is told about its tools."""
    return _hash([[each.name, each.description, each.parameters] for each in tools]).hex()[:16]


def hash_call(call: ToolCall) -> bytes:
    """Return 16 bytes for a tool call: its name and arguments."""
    return _hash([call.name, call.arguments])


def _hash(value: object) -> bytes:
    return hashlib.blake2b(json.dumps(value).encode(), digest_size=16).digest()
