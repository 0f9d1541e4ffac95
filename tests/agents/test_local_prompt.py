"""A small model is told in few words what it may answer, and held to exactly that."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest

from cirkelline.agents import local_prompt
from cirkelline.agents.chat_model import ChatMessage, ToolCall, ToolSchema
from cirkelline.agents.local_answer import Call


def _tool(name: str, properties: dict[str, Any], *required: str) -> ToolSchema:
    parameters = {"type": "object", "properties": properties, "required": list(required), "additionalProperties": False}
    return ToolSchema(name, f"What {name} does.", parameters)


ADD = _tool(
    "add", {"left": {"type": "integer", "minimum": 0}, "right": {"type": "integer", "description": "the other"}}, "left"
)
USER = ChatMessage("user", "How much?")
CALL = ToolCall("1", "add", '{"left": 1}')
ASKED = ChatMessage("assistant", "", (CALL,))
TOLD = ChatMessage("tool", "4", tool_call_id="1", tool_name="add")


def _allowed(schema: object, answer: object) -> bool:
    assert isinstance(schema, dict)
    return jsonschema.Draft202012Validator(schema).is_valid(answer)


def test_without_tools_a_conversation_goes_out_as_it_is() -> None:
    said = [ChatMessage("system", "Be brief."), USER, ChatMessage("assistant", "Much."), USER]
    prompt = local_prompt.compose(said, [])
    assert prompt.schema is None
    assert prompt.messages == [{"role": each.role, "content": each.content} for each in said]


def test_with_tools_an_answer_is_a_reply_or_one_of_them_with_its_arguments() -> None:
    schema = local_prompt.compose([USER], [ADD]).schema
    assert _allowed(schema, {"action": "reply", "text": "four"})
    assert _allowed(schema, {"action": "add", "arguments": {"left": 1, "right": 2}})
    refused: list[Any] = [
        {"action": "reply", "text": ""},
        {"action": "reply", "arguments": {}},
        {"action": "add", "arguments": {"right": 2}},
        {"action": "add", "arguments": {"left": "one"}},
        {"action": "add", "arguments": {"left": 1, "middle": 2}},
        {"action": "add", "text": "four"},
        {"action": "subtract", "arguments": {"left": 1}},
        "four",
    ]
    assert [answer for answer in refused if _allowed(schema, answer)] == []


def test_the_tools_are_described_after_the_agents_own_instructions() -> None:
    system = local_prompt.compose([ChatMessage("system", "Be brief."), USER], [ADD]).messages[0]
    assert system["role"] == "system"
    assert system["content"].startswith("Be brief.\n\n")
    assert "- add(left: integer, right?: integer): What add does. right: the other" in system["content"]


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ({"enum": ["c", "f"]}, 'x: "c"|"f"'),
        ({"type": "array", "items": {"type": "string"}}, "x: string[]"),
        ({"anyOf": [{"type": "integer"}, {"type": "null"}]}, "x: integer"),
        ({"type": ["string", "null"]}, "x: string|null"),
        ({}, "x: any"),
    ],
)
def test_a_parameters_type_is_told_in_a_word(schema: dict[str, Any], words: str) -> None:
    content = local_prompt.compose([USER], [_tool("look", {"x": schema}, "x")]).messages[0]["content"]
    assert f"- look({words})" in content


def test_when_only_a_reply_is_allowed_the_tools_are_still_described() -> None:
    free, bound = (local_prompt.compose([USER], [ADD], may_call=may) for may in (True, False))
    assert bound.messages == free.messages  # so that what the engine has read of it is not read again
    assert _allowed(bound.schema, {"action": "reply", "text": "four"})
    assert not _allowed(bound.schema, {"action": "add", "arguments": {"left": 1}})


def test_what_was_done_is_told_in_the_form_that_is_asked_for() -> None:
    wrong = ChatMessage("tool", "no such number", tool_call_id="2", tool_name="add", tool_error=True)
    said = [USER, ASKED, TOLD, ChatMessage("assistant", 'It is "4".'), USER, ASKED, wrong]
    assert [message["content"] for message in local_prompt.compose(said, [ADD]).messages[1:]] == [
        "How much?",
        '{"action": "add", "arguments": {"left": 1}}',
        "Result of add: 4",
        '{"action": "reply", "text": "It is \\"4\\"."}',
        "How much?",
        '{"action": "add", "arguments": {"left": 1}}',
        "add failed: no such number",
    ]


def test_two_messages_of_one_side_in_a_row_become_one() -> None:
    twice = ChatMessage("assistant", "", (CALL, CALL))
    roles = [message["role"] for message in local_prompt.compose([USER, USER, twice, TOLD, TOLD], [ADD]).messages]
    assert roles == ["system", "user", "assistant", "user"]


def test_a_conversation_that_used_tools_keeps_its_form_when_they_are_withheld() -> None:
    prompt = local_prompt.compose([USER, ASKED, TOLD], [])
    assert _allowed(prompt.schema, {"action": "reply", "text": "four"})
    assert not _allowed(prompt.schema, {"action": "add", "arguments": {"left": 1}})


def test_a_tool_that_is_called_reply_can_still_be_told_from_replying() -> None:
    prompt = local_prompt.compose([USER], [_tool("reply", {})])
    assert prompt.reply != "reply"
    assert _allowed(prompt.schema, {"action": "reply", "arguments": {}})
    assert _allowed(prompt.schema, {"action": prompt.reply, "text": "four"})


def test_bounds_and_patterns_are_left_to_the_tools_own_validation() -> None:
    fields = {
        "day": {"type": "string", "pattern": r"^\d+(?=x)", "format": "date", "maxLength": 5000},
        "list": {"type": "array", "items": {"type": "integer", "exclusiveMinimum": 3}, "maxItems": 100_000},
        "nested": {
            "type": "object",
            "properties": {"x": {"oneOf": [{"const": 1}, {"const": 2}]}},
            "additionalProperties": False,
        },
        "free": {"type": "object", "additionalProperties": {"type": "integer", "maximum": 3}},
    }
    schema = local_prompt.compose([USER], [_tool("t", fields)]).schema
    dumped = json.dumps(schema)
    assert [
        word for word in ("pattern", "format", "maxLength", "Minimum", "maxItems", "maximum") if word in dumped
    ] == []
    assert _allowed(schema, {"action": "t", "arguments": {"nested": {"x": 2}, "list": [1], "free": {"a": 1}}})
    assert not _allowed(schema, {"action": "t", "arguments": {"nested": {"x": 3}}})
    assert not _allowed(schema, {"action": "t", "arguments": {"free": {"a": "one"}}})


def test_a_turn_begins_where_the_user_last_spoke() -> None:
    other = ToolCall("2", "add", '{"left": 2}')
    said = [USER, ASKED, TOLD, USER, ChatMessage("assistant", "", (other,)), TOLD]
    assert local_prompt.turn(said) == (other,)
    assert local_prompt.turn([*said, USER]) == ()


def test_a_call_is_a_repeat_when_name_and_arguments_are_the_same_however_written() -> None:
    made = [ToolCall("1", "add", '{"right":2,  "left":1}'), ToolCall("2", "add", "broken")]
    assert local_prompt.is_repeated(Call("add", {"left": 1, "right": 2}), made)
    assert not local_prompt.is_repeated(Call("add", {"left": 1}), made)
    assert not local_prompt.is_repeated(Call("sub", {"left": 1, "right": 2}), made)
