"""`scripted:` models: which turn comes next, what it plays, and what is wrong with a script."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Sequence
from pathlib import Path

import pytest

from cirkelline.agents import chat_model, script_file, scripted
from cirkelline.agents.chat_model import ChatMessage, Delta, ToolCall, Usage

DOCUMENT = Path(__file__).parents[2] / "docs" / "scripted-models.md"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "s.yaml"


def load(file: Path, text: str) -> scripted.ScriptedModel:
    file.write_text(text, encoding="utf-8")
    return scripted.load(file)


async def play(model: scripted.ScriptedModel, *messages: ChatMessage | str) -> list[Delta]:
    conversation = [ChatMessage("user", each) if isinstance(each, str) else each for each in messages]
    return [delta async for delta in model.stream(conversation, ())]


def said(deltas: Sequence[Delta]) -> str:
    return "".join(delta.text for delta in deltas)


def called(deltas: Sequence[Delta]) -> list[tuple[str, str, str]]:
    return [(call.id, call.name, call.arguments) for delta in deltas for call in delta.tool_calls]


def asking(name: str = "t") -> ChatMessage:
    return ChatMessage("assistant", "", (ToolCall("c", name, "{}"),))


def result(text: str) -> ChatMessage:
    return ChatMessage("tool", text, tool_call_id="c", tool_name="t")


async def test_text_streams_word_by_word_and_adds_up_to_itself(file: Path) -> None:
    text = "  One,\n\n  two   three \n"
    deltas = await play(load(file, json.dumps([{"text": text}])), "hi")
    assert [delta.text for delta in deltas if delta.text] == ["  One,\n\n  ", "two   ", "three \n"]
    assert said(deltas) == text


async def test_the_next_turn_is_read_off_the_conversation(file: Path) -> None:
    model = load(file, "[{text: a, tool: t}, {text: b, tool: t}, {text: c}]")
    before: list[ChatMessage | str] = [
        ChatMessage("system", "s"),
        "old",
        ChatMessage("assistant", "x"),
        ChatMessage("assistant", "y"),
    ]
    assert said(await play(model, *before, "hi")) == "a"
    assert said(await play(model, *before, "hi", asking(), result("1"))) == "b"
    assert said(await play(model, *before, "hi", asking(), result("1"), asking(), result("2"))) == "c"
    assert said(await play(model, *before, "hi")) == "a"  # nothing was remembered


async def test_a_conversation_without_a_user_message_begins_at_the_first_turn(file: Path) -> None:
    assert said(await play(load(file, "[{text: 'a{{input}}'}]"), ChatMessage("system", "s"))) == "a"


async def test_a_repeated_turn_is_played_so_many_times(file: Path) -> None:
    model = load(file, "[{text: a, tool: t, repeat: 2}, {text: b}]")
    assert [said(await play(model, "hi", *[asking()] * answered)) for answered in range(3)] == ["a", "a", "b"]
    forever = load(file, "[{text: a, tool: t, repeat: forever}]")
    assert said(await play(forever, "hi", *[asking()] * 500)) == "a"


async def test_after_the_last_turn_the_script_says_that_it_is_over(file: Path) -> None:
    model = load(file, "[{tool: t}]")
    with pytest.raises(scripted.ScriptMismatch, match=r"has no turn 2 for the input 'hi'"):
        await play(model, "hi", asking(), result("1"))


async def test_calls_have_json_arguments_and_stable_ids(file: Path) -> None:
    text = """
- calls:
    - {tool: a, arguments: {n: 3, x: 1.5, yes: true, no: null, list: [1, "2", w], deep: {k: "{{input}}"}, text: "3"}}
    - {tool: b, id: mine, arguments: '{"broken": {{input}}'}
    - {tool: c}
    - {tool: d, arguments: }
"""
    first, second, third, fourth = called(await play(load(file, text), 'say "hi"'))
    assert (first[:2], json.loads(first[2])) == (
        ("call_0_0", "a"),
        {"n": 3, "x": 1.5, "yes": True, "no": None, "list": [1, "2", "w"], "deep": {"k": 'say "hi"'}, "text": "3"},
    )
    assert second == ("mine", "b", '{"broken": say "hi"')
    assert (third, fourth) == (("call_0_2", "c", "{}"), ("call_0_3", "d", "{}"))


async def test_templates_stand_for_the_input_and_the_last_tools_result(file: Path) -> None:
    model = load(file, "[{tool: t}, {text: 'In: {{input}}, out: {{ last_tool }}, {other}'}]")
    deltas = await play(model, "a {{last_tool}}", asking(), result("one"), result("two"))
    assert said(deltas) == "In: a {{last_tool}}, out: two, {other}"


async def test_the_first_conversation_that_matches_the_last_user_message_is_played(file: Path) -> None:
    model = load(file, "{conversations: [{match: '(?i)^wea', turns: [{text: sun}]}, {turns: [{text: else}]}]}")
    assert said(await play(model, "no", "Weather?")) == "sun"
    assert said(await play(model, "Weather?", "no")) == "else"


async def test_an_input_that_no_conversation_matches_fails_clearly(file: Path) -> None:
    model = load(file, "{turns: [{text: sun}], match: weather}")
    with pytest.raises(scripted.ScriptMismatch, match=r"no conversation of .*s\.yaml matches the input 'hello'"):
        await play(model, "hello")


async def test_an_expectation_that_is_not_met_fails_clearly(file: Path) -> None:
    model = load(file, "[{text: a, expect: order 7}]")
    assert said(await play(model, "about order 7")) == "a"
    with pytest.raises(
        scripted.ScriptMismatch, match=r"turn 1 of .*s\.yaml expects 'order 7' in the last user message, which is 'x'"
    ):
        await play(model, "x")


@pytest.mark.parametrize(
    ("kind", "type"),
    [
        ("rate_limit", chat_model.ModelRateLimited),
        ("auth", chat_model.ModelRefused),
        ("quota", chat_model.ModelRefused),
        ("rejected", chat_model.ModelRequestRejected),
        ("connection", chat_model.ModelUnavailable),
        ("server", chat_model.ModelUnavailable),
        ("truncated", chat_model.AnswerTruncated),
        ("blocked", chat_model.AnswerBlocked),
    ],
)
async def test_an_error_comes_after_its_text_and_names_its_place(file: Path, kind: str, type: type[Exception]) -> None:
    model = load(file, json.dumps([{"text": "Half an", "error": kind}]))
    stream = model.stream([ChatMessage("user", "hi")], ())
    assert said([await anext(stream), await anext(stream), await anext(stream)]) == "Half an"
    with pytest.raises(type, match=rf"turn 1 of .*s\.yaml is an error of kind {kind}"):
        await anext(stream)


async def test_a_rate_limit_carries_its_advice(file: Path) -> None:
    with pytest.raises(chat_model.ModelRateLimited, match=r"^slow down$") as caught:
        await play(load(file, "[{error: rate_limit, retry_after: 2m, message: slow down}]"), "hi")
    assert caught.value.retry_after == 120.0


async def test_usage_is_what_the_turn_says_or_the_words(file: Path) -> None:
    assert (await play(load(file, "[{text: a b c, usage: {input: 9, output: 2}}]"), "hi"))[-1].usage == Usage(9, 2)
    assert (await play(load(file, "[{text: a b c}]"), "one two"))[-1].usage == Usage(2, 3)


async def test_pauses_can_be_left_at_any_moment(file: Path) -> None:
    stream = load(file, "[{text: one two, delay: 0s, pace: 1h}]").stream([ChatMessage("user", "hi")], ())
    assert (await anext(stream)).text == "one "
    waiting = asyncio.ensure_future(anext(stream))
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "1:1: this script is empty: write a list of turns"),
        ("# nothing\n", "1:1: this script is empty"),
        ("- text: a\n---\n- text: b", "3:1: a script is one document"),
        ("hello", "1:1: this must be a list such as [{text: Hello}]"),
        ("turns:\n", "1:1: turns has no value"),
        ("turns: []", "1:8: turns must have at least one entry"),
        ("[]", "1:1: this must have at least one entry"),
        ("conversations: []", "1:16: conversations must have at least one entry"),
        ("- hello", "1:3: this must be a mapping such as {text: Hello}"),
        ("- {}", "1:3: this says nothing"),
        ("- txt: hi", "1:3: unknown key 'txt'; did you mean 'text'?"),
        ("- text: hi\n  colour: red", "2:3: unknown key 'colour'; the keys here are text, tool, arguments"),
        ("- calls: [{tol: a}]", "1:12: unknown key 'tol'; did you mean 'tool'?"),
        ("- calls: [{tool: a, arguments: [1]}]", "1:32: arguments must be a mapping"),
        ("- calls: [{id: a}]", "1:11: tool is missing"),
        ("- calls: a", "1:10: calls must be a list"),
        ("turn:\n  - text: a", "1:1: unknown key 'turn'; did you mean 'turns'?"),
        ("conversation:\n  - text: a", "1:1: unknown key 'conversation'; did you mean 'conversations'?"),
        ("conversations: [{turn: [{text: a}]}]", "1:18: unknown key 'turn'; did you mean 'turns'?"),
        ("- text: 3", "1:9: text must be text, but 3 without quotes is a number"),
        ("- text: 'hi {{inputs}}'", "1:9: text uses {{inputs}}; did you mean 'input'?"),
        ("- {tool: a, arguments: {k: ['{{x}}']}}", "1:24: arguments uses {{x}}, but there are only"),
        ("- text: {{input}}", "1:10: "),
        ("- error: rate-limit", "1:10: error must be one of rate_limit, auth"),
        ("- error: explode", "1:10: error must be one of"),
        ("- {text: a, delay: soon}", "1:20: delay must be a duration"),
        ("- {text: a, delay: 2h}", "1:20: delay must be between 0s and 1h"),
        ("- {text: a, repeat: 0}", "1:21: repeat must be a whole number"),
        ("- {text: a, repeat: always}", "1:21: repeat must be a whole number"),
        ("- {text: a, arguments: {b: 1}}", "1:24: arguments belongs to tool:"),
        ("- {tool: a, calls: [{tool: b}]}", "1:3: this says tool: and calls:"),
        ("- {tool: a, error: auth}", "1:3: this has an error and tool calls"),
        ("- {text: a, retry_after: 1s}", "1:26: retry_after belongs to error: rate_limit"),
        ("- {text: a, message: b}", "1:22: message belongs to error:"),
        ("- {text: a, usage: {inputs: 1}}", "1:21: unknown key 'inputs'; did you mean 'input'?"),
        ("- {text: a, usage: {input: -1}}", "1:28: input must be a whole number"),
        ("- text: a\n- text: b", "2:3: this can never be reached: the turn before it calls no tool"),
        (
            "- {tool: a, repeat: forever}\n- text: b",
            "2:3: this can never be reached: the turn before it repeats forever",
        ),
        ("- error: auth\n- text: b", "2:3: this can never be reached"),
        ("conversations: [{turns: [{text: a}]}, {match: x, turns: [{text: b}]}]", "1:39: this can never be reached"),
        ("conversations: [{match: '[a', turns: [{text: a}]}]", "1:25: match must be a regular expression"),
        ("{turns: [{text: a}], text: b}", "1:22: unknown key 'text'"),
        ("- text: a\n  text: b", "2:3: the key 'text' stands here twice"),
        ("- &a {text: a}", "1:3: anchors (&a) are not supported"),
        ("- text: a\n\t- text: b", "2:1: "),
    ],
)
def test_a_bad_script_is_refused_where_it_is_wrong(file: Path, text: str, message: str) -> None:
    with pytest.raises(scripted.ScriptError) as caught:
        load(file, text)
    assert str(caught.value).startswith(f"{file}:{message}"), str(caught.value)
    assert "\n" not in str(caught.value)


def test_of_several_faults_the_first_is_told_and_the_others_counted(file: Path) -> None:
    with pytest.raises(scripted.ScriptError, match=r":1:4: unknown key 'a'.* \(and 2 more\)$"):
        load(file, "- {a: 1, b: 2, text: 3}")


def test_a_script_that_is_not_there_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(scripted.ScriptError, match=r"gone\.yaml:1:1: there is no such file"):
        scripted.load(tmp_path / "gone.yaml")


def test_every_script_in_the_document_can_be_played(file: Path) -> None:
    blocks = re.findall(r"```yaml\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL)
    scripts = [block for block in blocks if "instructions:" not in block]
    assert len(scripts) == 2
    for script in scripts:
        load(file, script)


def test_the_document_names_every_key_and_every_kind_of_error() -> None:
    document = DOCUMENT.read_text(encoding="utf-8")
    known = [*script_file.Turn.model_fields, *script_file.Call.model_fields, *script_file.ERROR_KINDS]
    assert [word for word in known if not re.search(rf"`[^`]*\b{word}\b[^`]*`", document)] == []
