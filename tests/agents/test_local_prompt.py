"""A small model is told in few words what it may answer, and held to exactly that."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from typing import Any

import jsonschema
import pytest

from cirkelline.agents import local_actions, local_prompt
from cirkelline.agents.chat_model import NOTED, ChatMessage, ToolCall, ToolSchema
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


def _schema(*tools: ToolSchema) -> dict[str, Any]:
    return local_actions.schema(tools, local_prompt.reply_action(tools))


def test_without_tools_a_conversation_goes_out_as_it_is() -> None:
    said = [ChatMessage("system", "Be brief."), USER, ChatMessage("assistant", "Much."), USER]
    assert local_prompt.to_reply(said, []) == [{"role": each.role, "content": each.content} for each in said]


def test_a_decision_is_to_reply_or_one_of_the_tools_with_its_arguments() -> None:
    schema = _schema(ADD)
    assert _allowed(schema, {"action": "reply"})
    assert _allowed(schema, {"action": "add", "arguments": {"left": 1, "right": 2}})
    refused: list[Any] = [
        {"action": "reply", "text": "four"},
        {"action": "add"},
        {"action": "add", "arguments": {"right": 2}},
        {"action": "add", "arguments": {"left": "one"}},
        {"action": "add", "arguments": {"left": 1, "middle": 2}},
        {"action": "subtract", "arguments": {"left": 1}},
        "four",
    ]
    assert [answer for answer in refused if _allowed(schema, answer)] == []


def test_the_tools_are_described_after_the_agents_own_instructions() -> None:
    system = local_prompt.to_decide([ChatMessage("system", "Be brief."), USER], [ADD])[0]
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
    content = local_prompt.to_decide([USER], [_tool("look", {"x": schema}, "x")])[0]["content"]
    assert f"- look({words})" in content


WRONG = ChatMessage("tool", "no such number", tool_call_id="2", tool_name="add", tool_error=True)
TWO_TURNS = [USER, ASKED, TOLD, ChatMessage("assistant", 'It is "4".'), USER, ASKED, WRONG]


def test_what_was_done_is_told_as_actions_where_an_action_is_asked_for() -> None:
    assert [message["content"] for message in local_prompt.to_decide(TWO_TURNS, [ADD])[1:]] == [
        "How much?",
        '{"action": "add", "arguments": {"left": 1}}',
        "Result of add: 4",
        '{"action": "reply", "text": "It is \\"4\\"."}',
        "How much?",
        '{"action": "add", "arguments": {"left": 1}}',
        "add failed: no such number",
    ]


def test_where_a_reply_is_asked_for_what_the_tools_found_stands_under_the_question() -> None:
    _, first, answer, second = local_prompt.to_reply(TWO_TURNS, [ADD])
    assert first["content"].startswith("How much?\n\nResult of add: 4\n\n")
    assert answer == {"role": "assistant", "content": 'It is "4".'}
    assert "add failed: no such number" in second["content"]
    assert not any("{" in message["content"] for message in (first, second))


@pytest.mark.parametrize("asked", [local_prompt.to_decide, local_prompt.to_reply])
def test_what_was_told_once_is_told_the_same_way_later(asked: Callable[..., local_prompt.Told]) -> None:
    # Else the engine reads the whole conversation again at every turn.
    before, after = asked(TWO_TURNS[:3], [ADD]), asked(TWO_TURNS, [ADD])
    assert after[: len(before)] == before


@pytest.mark.parametrize("asked", [local_prompt.to_decide, local_prompt.to_reply])
def test_what_answers_a_note_of_ours_is_not_shown_as_a_manner_of_speaking(
    asked: Callable[..., local_prompt.Told],
) -> None:
    note = [ChatMessage("user", "Lives in Aarhus"), ChatMessage("assistant", NOTED)]
    (_, told) = asked([*note, USER], [ADD])
    assert told == {"role": "user", "content": "Lives in Aarhus\n\nHow much?"}


@pytest.mark.parametrize("asked", [local_prompt.to_decide, local_prompt.to_reply])
def test_no_two_messages_in_a_row_are_of_one_side(asked: Callable[..., local_prompt.Told]) -> None:
    twice = ChatMessage("assistant", "", (CALL, CALL))
    roles = [message["role"] for message in asked([USER, USER, twice, TOLD, TOLD, USER], [ADD])]
    assert roles[0] == "system"
    assert all(one != other for one, other in itertools.pairwise(roles))


def test_a_tool_that_is_called_reply_can_still_be_told_from_replying() -> None:
    tools = [_tool("reply", {})]
    action = local_prompt.reply_action(tools)
    assert action != "reply"
    assert f"- {action}(text: string)" in local_prompt.to_decide([USER], tools)[0]["content"]
    schema = _schema(*tools)
    assert _allowed(schema, {"action": "reply", "arguments": {}})
    assert _allowed(schema, {"action": action})


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
    schema = _schema(_tool("t", fields))
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


CHOICE = _tool("judge", {"answer": {"enum": ["both", "replaced"], "type": "string"}}, "answer")


def test_arguments_that_must_be_given_are_asked_for_with_no_word_of_actions_and_earlier_calls_are_examples() -> None:
    system, *said = local_prompt.to_fill([ChatMessage("system", "Add."), *TWO_TURNS], ADD)
    assert system["content"] == 'Add.\n\nAnswer with one JSON object: {"left": integer, "right": integer}'
    assert {"role": "assistant", "content": '{"left": 1}'} in said
    assert not any("action" in message["content"] or "Result of" in message["content"] for message in [system, *said])
    assert _allowed(local_actions.filled(ADD), {"left": 1})
    assert not any(_allowed(local_actions.filled(ADD), each) for each in ({"right": 1}, {"action": "reply"}, "one"))


def test_one_choice_is_answered_with_the_choice_alone() -> None:
    made = ToolCall("1", "judge", '{"answer": "both"}')
    told = local_prompt.to_fill([USER, ChatMessage("assistant", "", (made,)), USER], CHOICE)
    assert told[0]["content"] == 'Answer with one of: "both", "replaced"'
    assert told[2] == {"role": "assistant", "content": '"both"'}
    assert [each for each in ("both", "maybe", {"answer": "both"}) if _allowed(local_actions.filled(CHOICE), each)] == [
        "both"
    ]


def test_what_was_wrong_with_arguments_is_told_before_they_are_asked_for_again() -> None:
    failed = ChatMessage("tool", "left is too small", tool_call_id="1", tool_name="add", tool_error=True)
    assert local_prompt.to_fill([USER, ASKED, failed], ADD)[-1]["content"] == "add failed: left is too small"


def test_of_several_tools_one_must_be_chosen_and_replying_is_none_of_them() -> None:
    told = local_prompt.to_decide([USER], [ADD, CHOICE], must_call=True)
    assert "reply" not in told[0]["content"]
    assert not _allowed(local_actions.schema([ADD, CHOICE], None), {"action": "reply"})
