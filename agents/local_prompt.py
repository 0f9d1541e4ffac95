"""What a small model is told: a short list of actions, one JSON object per answer, and a schema that allows nothing else.

Small models call no tools by themselves, and ask for one for ever once they may. An answer therefore names one action,
of which replying is one like the others: of 22 questions this made the default model choose rightly 21 times, where
`{"reply": …}` beside `{"tool": …}` reached 15 and the model's own tool format 11 (docs/decisions/005-embedded-model.md).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from cirkelline.agents import local_actions
from cirkelline.agents.chat_model import ChatMessage, ToolCall, ToolSchema
from cirkelline.agents.local_answer import Call

CALLS_PER_TURN: Final = 8
"""Tool calls after which a turn may only be replied to."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """What the engine gets: its messages, and the schema of the answer, None for plain text.

    `reply` is the name of the action that answers; no tool of this prompt has it.
    """

    messages: list[dict[str, str]]
    schema: dict[str, Any] | None
    reply: str


def compose(messages: Sequence[ChatMessage], tools: Sequence[ToolSchema], *, may_call: bool = True) -> Prompt:
    """Return the prompt for the next answer; without `may_call` the tools are described but only a reply is allowed.

    A conversation that has used tools goes on in the same form when none are offered: a model repeats what it sees.
    """
    framed = bool(tools) or any(message.tool_calls for message in messages)
    reply = _reply_name(tools)
    system = [message.content for message in messages if message.role == "system"]
    if framed:
        system.append(local_actions.described(tools, reply))
    told = [{"role": "system", "content": "\n\n".join(filter(None, system))}] if any(system) else []
    for message in messages:
        if message.role != "system":
            _tell(told, message, reply if framed else None)
    return Prompt(told, local_actions.schema(tools if may_call else (), reply) if framed else None, reply)


def turn(messages: Sequence[ChatMessage]) -> tuple[ToolCall, ...]:
    """Return the tool calls made since the user last spoke."""
    calls: list[ToolCall] = []
    for message in messages:
        calls = [] if message.role == "user" else [*calls, *message.tool_calls]
    return tuple(calls)


def is_repeated(call: Call, calls: Sequence[ToolCall]) -> bool:
    """Tell whether a model asks for what it has already been given in this turn."""
    return any(call.name == made.name and call.arguments == _parsed(made.arguments) for made in calls)


def _parsed(arguments: str) -> object:
    try:
        return json.loads(arguments)
    except ValueError:
        return arguments


def _reply_name(tools: Sequence[ToolSchema]) -> str:
    name, taken = "reply", {tool.name for tool in tools}
    while name in taken:
        name += "_"
    return name


def _tell(told: list[dict[str, str]], message: ChatMessage, reply: str | None) -> None:
    """Add a message in the form of its time; two of one role in a row become one, as many chat templates insist."""
    role = "assistant" if message.role == "assistant" else "user"
    for content in _contents(message, reply):
        if told and told[-1]["role"] == role:
            told[-1]["content"] += "\n\n" + content
        else:
            told.append({"role": role, "content": content})


def _contents(message: ChatMessage, reply: str | None) -> list[str]:
    if message.role == "tool":
        # As the user's words, not with the role `tool`: most templates of small models do not know it.
        name = message.tool_name or "the action"
        return [f"{name} failed: {message.content}" if message.tool_error else f"Result of {name}: {message.content}"]
    if message.role == "user" or reply is None:
        return [message.content]
    said = [_dumped({"action": reply, "text": message.content})] if message.content and not message.tool_calls else []
    return said + [_dumped({"action": call.name, "arguments": _parsed(call.arguments)}) for call in message.tool_calls]


def _dumped(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)
