"""What a local model gives to a run, whatever the engine gives to it."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import pytest

from cirkelline.agents import local, weights
from cirkelline.agents.chat_model import AnswerTruncated, ChatMessage, Delta, ToolCall, ToolSchema, Usage
from cirkelline.agents.local import LocalChatModel
from cirkelline.agents.local_engine import CONTEXT, Engine, Order
from cirkelline.agents.local_prompt import CALLS_PER_TURN

TOOL = ToolSchema("look", "Look something up.", {"type": "object", "properties": {"n": {"type": "integer"}}})
USER = ChatMessage("user", "What is it?")
REPLY, CALL = '{"action": "reply"}', '{"action": "look", "arguments": {"n": 1}}'


class _Engine:
    """Gives one prepared answer after another, in pieces of three characters, and keeps what it was asked."""

    order = Order(Path("/x.gguf"), 1)

    def __init__(self, *answers: str, finish: str = "stop", tokens: tuple[int, int] = (10, 2)) -> None:
        self.asked: list[Mapping[str, Any]] = []
        self._answers, self._finish, self._tokens = list(answers), finish, tokens

    async def chat(self, request: Mapping[str, Any]) -> AsyncGenerator[Mapping[str, Any]]:
        self.asked.append(request)
        answer = self._answers.pop(0)
        yield {"choices": [{"finish_reason": None, "delta": {"role": "assistant", "content": None}}]}
        for at in range(0, len(answer), 3):
            yield {"choices": [{"finish_reason": None, "delta": {"content": answer[at : at + 3]}}]}
        yield {"choices": [{"finish_reason": self._finish, "delta": {}}]}
        yield {"choices": [], "usage": {"prompt_tokens": self._tokens[0], "completion_tokens": self._tokens[1]}}


def _model(engine: _Engine, max_tokens: int | None = None) -> LocalChatModel:
    return LocalChatModel("local:x", cast("Engine", engine), max_tokens=max_tokens)


async def _all(deltas: AsyncGenerator[Delta]) -> list[Delta]:
    return [delta async for delta in deltas]


async def _answer(engine: _Engine, messages: Sequence[ChatMessage], tools: Sequence[ToolSchema]) -> list[Delta]:
    return await _all(_model(engine).stream(messages, tools))


def _called(*arguments: str) -> list[ChatMessage]:
    """A turn in which the tool was called with each of these."""
    asked = [(ToolCall(f"call-{n}", "look", each), each) for n, each in enumerate(arguments, 1)]
    pairs = [(ChatMessage("assistant", "", (call,)), ChatMessage("tool", "4", tool_name="look")) for call, _ in asked]
    return [USER, *(message for pair in pairs for message in pair)]


def _is_decision(request: Mapping[str, Any]) -> bool:
    return "response_format" in request


async def test_plain_text_is_handed_out_as_it_comes_with_its_usage_last() -> None:
    engine = _Engine("Hello you")
    assert await _answer(engine, [USER], []) == [Delta("Hel"), Delta("lo "), Delta("you"), Delta(usage=Usage(10, 2))]
    assert "response_format" not in engine.asked[0]


async def test_a_reply_is_decided_on_and_then_streamed_in_plain_words() -> None:
    engine = _Engine(REPLY, "Hello you")
    deltas = await _answer(engine, [USER], [TOOL])
    assert deltas == [Delta("Hel"), Delta("lo "), Delta("you"), Delta(usage=Usage(20, 4))]
    assert [_is_decision(request) for request in engine.asked] == [True, False]


async def test_a_tool_call_comes_whole_and_with_an_id_of_its_own() -> None:
    deltas = await _answer(_Engine(CALL), _called('{"n": 7}', '{"n": 8}'), [TOOL])
    assert deltas == [Delta(tool_calls=(ToolCall("call-3", "look", '{"n": 1}'),)), Delta(usage=Usage(10, 2))]


async def test_a_call_that_repeats_one_of_the_turn_is_not_made_and_a_reply_is_asked_for() -> None:
    engine = _Engine(CALL, "It is 4.")
    deltas = await _answer(engine, _called('{"n":1}'), [TOOL])
    assert not any(delta.tool_calls for delta in deltas)
    assert "".join(delta.text for delta in deltas) == "It is 4."
    assert deltas[-1].usage == Usage(20, 4)  # both were paid for


async def test_the_same_call_in_a_later_turn_is_made() -> None:
    deltas = await _answer(_Engine(CALL), [*_called('{"n": 1}'), ChatMessage("assistant", "4."), USER], [TOOL])
    assert deltas[0].tool_calls


@pytest.mark.parametrize(("made", "decides"), [(CALLS_PER_TURN - 1, True), (CALLS_PER_TURN, False)])
async def test_a_turn_of_many_calls_gets_only_a_reply(made: int, decides: bool) -> None:
    engine = _Engine(REPLY, "Yes.") if decides else _Engine("Yes.")
    await _answer(engine, _called(*(f'{{"n": {n}}}' for n in range(100, 100 + made))), [TOOL])
    assert _is_decision(engine.asked[0]) == decides


@pytest.mark.parametrize(("written", "tools"), [("It is", []), (CALL[:30], [TOOL])])
async def test_an_answer_cut_at_its_limit_is_no_answer(written: str, tools: list[ToolSchema]) -> None:
    with pytest.raises(AnswerTruncated, match=r"cut at 55 tokens; raise max_tokens"):
        await _all(_model(_Engine(written, finish="length"), max_tokens=55).stream([USER], tools))


async def test_an_answer_cut_where_the_context_ends_says_so() -> None:
    with pytest.raises(AnswerTruncated, match="shorten its history"):
        await _answer(_Engine("x", finish="length", tokens=(CONTEXT - 3, 3)), [USER], [])


@pytest.mark.parametrize("written", ['{"action": "look", "arguments": {', "", '{"action": "look"}'])
async def test_json_that_is_no_answer_is_an_error_and_no_call(written: str) -> None:
    with pytest.raises(AnswerTruncated, match="gave no usable answer"):
        await _answer(_Engine(written), [USER], [TOOL])


async def test_a_model_that_goes_round_in_circles_is_stopped_long_before_its_limit() -> None:
    said: list[str] = []

    async def listen() -> None:
        async for delta in _model(_Engine("and " * 10_000)).stream([USER], []):
            said.append(delta.text)  # noqa: PERF401 - what was said before the error counts

    with pytest.raises(AnswerTruncated, match="went round in circles"):
        await listen()
    assert len("".join(said)) < 500


async def test_arguments_with_lone_surrogates_are_still_json() -> None:
    deltas = await _answer(_Engine('{"action": "look", "arguments": {"n": "\\ud83d"}}'), [USER], [TOOL])
    assert json.loads(deltas[0].tool_calls[0].arguments.encode()) == {"n": "\ud83d"}


async def test_the_models_own_settings_reach_the_engine() -> None:
    engine = _Engine("x", "x")
    for model in (_model(engine), LocalChatModel("l", cast("Engine", engine), temperature=0.0, max_tokens=7, seed=3)):
        await _all(model.stream([USER], []))
    assert [(r["temperature"], r["max_tokens"], r.get("seed")) for r in engine.asked] == [
        (local.TEMPERATURE, local.MAX_TOKENS, None),
        (0.0, 7, 3),
    ]


def test_a_model_that_cannot_run_says_why_and_what_to_do(tmp_path: Path) -> None:
    assert "cirkelline models pull qwen2.5-coder-0.5b-instruct" in str(
        local.unavailable_reason(weights.SMALL, tmp_path)
    )
    assert "no local model is named 'nonesuch'" in str(local.unavailable_reason("nonesuch", tmp_path))
    mine = tmp_path / "mine.gguf"
    assert "cannot be read" in str(local.unavailable_reason(str(mine), tmp_path))
    mine.write_bytes(b"not a model")
    assert "is not a GGUF model file" in str(local.unavailable_reason(str(mine), tmp_path))
    mine.write_bytes(b"GGUF and more")
    assert local.unavailable_reason(str(mine), tmp_path) is None


async def test_a_model_that_must_call_calls_whatever_was_called_before_and_writes_its_arguments_alone() -> None:
    engine = _Engine('{"n": 1}')
    made = _called(*(f'{{"n": {n}}}' for n in range(CALLS_PER_TURN + 1)))
    deltas = await _all(_model(engine).stream(made, [TOOL], must_call=True))
    assert deltas == [Delta(tool_calls=(ToolCall("call-10", "look", '{"n": 1}'),)), Delta(usage=Usage(10, 2))]
    assert len(engine.asked) == 1


async def test_one_word_is_the_argument_of_a_tool_that_takes_one_of_some_words() -> None:
    choice = {"type": "object", "properties": {"answer": {"enum": ["yes", "no"]}}, "required": ["answer"]}
    stream = _model(_Engine('"no"')).stream([USER], [ToolSchema("judge", "Judge.", choice)], must_call=True)
    assert (await _all(stream))[0].tool_calls[0].arguments == '{"answer": "no"}'
