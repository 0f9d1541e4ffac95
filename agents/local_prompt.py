"""What a small model is told: first, which action it takes; then, when that is to reply, to speak.

Small models call no tools by themselves, and ask for one for ever once they may. So the first answer is one JSON object
that names an action, of which replying is one like the others, and a schema allows nothing else. The reply itself is
asked for in plain words, with no JSON in sight: inside a JSON string these models write no code, no lists, no second
paragraph. Both were measured: docs/decisions/005-embedded-model.md.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from typing import Final

from cirkelline.agents import local_actions
from cirkelline.agents.chat_model import NOTED, ChatMessage, ToolCall, ToolSchema
from cirkelline.agents.local_answer import Call
from cirkelline.configs import scalars

CALLS_PER_TURN: Final = 8
"""Tool calls after which a turn may only be replied to."""
_USE_IT: Final = "Answer my question with that, in a few words of your own."

Told = list[dict[str, str]]


def reply_action(tools: Sequence[ToolSchema]) -> str:
    """Return what the action that answers is called: `reply`, or something that no tool is called."""
    name, taken = "reply", {tool.name for tool in tools}
    while name in taken:
        name += "_"
    return name


def to_decide(messages: Sequence[ChatMessage], tools: Sequence[ToolSchema], *, must_call: bool = False) -> Told:
    """Return the messages that ask for the next action: what was said and done so far as actions, in JSON."""
    reply = None if must_call else reply_action(tools)
    told = _instructions(messages, local_actions.described(tools, reply))
    for message in _said(messages):
        match message.role:
            case "assistant":
                for action in _actions(message, reply or "reply"):
                    _tell(told, "assistant", json.dumps(action, ensure_ascii=False))
            case "tool":
                # As the user's words, not with the role `tool`: most templates of small models do not know it.
                _tell(told, "user", _result(message))
            case "user":
                _tell(told, "user", message.content)
            case "system":
                pass
    return told


def to_fill(messages: Sequence[ChatMessage], tool: ToolSchema) -> Told:
    """Return the messages that ask for one tool's arguments, and nothing else: earlier calls of it are examples."""
    told, choice = _instructions(messages, local_actions.form(tool)), local_actions.only_choice(tool)
    for message in _said(messages):
        if message.role == "assistant":
            for call in message.tool_calls:
                given = _parsed(call.arguments)
                chosen = given[choice[0]] if choice and scalars.is_mapping(given) and choice[0] in given else given
                _tell(told, "assistant", json.dumps(chosen, ensure_ascii=False))
        elif message.role == "user" or message.tool_error:
            _tell(told, "user", _result(message) if message.role == "tool" else message.content)
    return told


def to_reply(messages: Sequence[ChatMessage], tools: Sequence[ToolSchema]) -> Told:
    """Return the messages that ask for a reply in plain words: what the tools found stands under the user's question."""
    able = ", ".join(tool.name.replace("_", " ") for tool in tools)
    told = _instructions(messages, f"Besides talking you can: {able}." if able else "")
    said = _said(messages)
    for message, following in itertools.zip_longest(said, said[1:]):
        if message.role == "tool":
            _tell(told, "user", _result(message))
            if following is None or following.role != "tool":
                _tell(told, "user", _USE_IT)
        elif message.role != "system" and not message.tool_calls:
            _tell(told, message.role, message.content)
    return told


def turn(messages: Sequence[ChatMessage]) -> tuple[ToolCall, ...]:
    """Return the tool calls made since the user last spoke."""
    calls: list[ToolCall] = []
    for message in messages:
        calls = [] if message.role == "user" else [*calls, *message.tool_calls]
    return tuple(calls)


def is_repeated(call: Call, calls: Sequence[ToolCall]) -> bool:
    """Tell whether a model asks for what it has already been given in this turn."""
    return any(call.name == made.name and call.arguments == _parsed(made.arguments) for made in calls)


def _said(messages: Sequence[ChatMessage]) -> list[ChatMessage]:
    """Leave out what answers our notes, which a small model takes for a manner of speaking: a note opens the next message."""
    return [message for message in messages if message.role != "assistant" or message.content != NOTED]


def _parsed(arguments: str) -> object:
    try:
        return json.loads(arguments)
    except ValueError:
        return arguments


def _instructions(messages: Sequence[ChatMessage], ours: str) -> Told:
    parts = [*(message.content for message in messages if message.role == "system"), ours]
    text = "\n\n".join(filter(None, parts))
    return [{"role": "system", "content": text}] if text else []


def _tell(told: Told, role: str, content: str) -> None:
    """Add a message; two of one role in a row become one, as many chat templates insist."""
    if told and told[-1]["role"] == role:
        told[-1]["content"] += "\n\n" + content
    else:
        told.append({"role": role, "content": content})


def _actions(message: ChatMessage, reply: str) -> list[dict[str, object]]:
    if message.tool_calls:
        return [{"action": call.name, "arguments": _parsed(call.arguments)} for call in message.tool_calls]
    return [{"action": reply, "text": message.content}]


def _result(message: ChatMessage) -> str:
    name = message.tool_name or "the action"
    return f"{name} failed: {message.content}" if message.tool_error else f"Result of {name}: {message.content}"
