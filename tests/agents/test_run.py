"""A run from a script to its outcome, with tools, through agno."""

from __future__ import annotations

import asyncio
import contextlib

import pytest
from agent_runs import Script, ask, tool_results, watched
from structlog.testing import capture_logs

from cirkelline.agents import run, steps
from cirkelline.agents.chat_model import Usage
from cirkelline.agents.events import RunEvent, TextDelta, ToolFinished, ToolStarted
from cirkelline.configs.schema import LimitsSpec
from cirkelline.tools.contract import EndRun, ToolContext
from cirkelline.tools.execution import Executor
from cirkelline.tools.state import State


def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


def remember(ctx: ToolContext, word: str) -> str:
    """Keep a word."""
    ctx.state.append("words", word)
    return f"kept {word}"


async def test_a_plain_answer_completes_with_its_text_usage_and_one_step(script: Script) -> None:
    model = script([{"text": "Hello there, {{input}}!", "usage": {"input": 11, "output": 3}}])
    outcome = await run.run(ask(model, "Ivo"))
    assert outcome == run.RunOutcome(run.RunStatus.COMPLETED, "Hello there, Ivo!", None, Usage(11, 3), 1)


async def test_words_and_tools_are_announced_as_they_happen(script: Script) -> None:
    model = script([{"text": "Wait a", "tool": "add", "arguments": {"a": 1, "b": 2}}, {"text": "It is {{last_tool}}"}])
    seen: list[RunEvent] = []
    outcome = await run.run(ask(model, tools=[add]), emit=seen.append)
    assert [
        event if not isinstance(event, ToolFinished) else (event.name, event.ok, event.call_id) for event in seen
    ] == [
        TextDelta("Wait "),
        TextDelta("a"),
        ToolStarted("add", '{"a": 1, "b": 2}', "call_0_0"),
        ("add", True, "call_0_0"),
        TextDelta("It "),
        TextDelta("is "),
        TextDelta("3"),
    ]
    assert (outcome.output, outcome.steps) == ("It is 3", 2)


async def test_usage_is_the_sum_of_all_model_calls(script: Script) -> None:
    model = script(
        [
            {"tool": "add", "arguments": {"a": 1, "b": 2}, "usage": {"input": 10, "output": 1}},
            {"text": "3", "usage": {"input": 20, "output": 2}},
        ]
    )
    assert (await run.run(ask(model, tools=[add]))).usage == Usage(30, 3)


async def test_what_a_tool_does_to_the_state_is_in_the_requests_operations(script: Script) -> None:
    state = State({"words": ["a"]})
    model = script([{"tool": "remember", "arguments": {"word": "b"}}, {"text": "{{last_tool}}"}])
    outcome = await run.run(ask(model, tools=[remember], state=state))
    assert outcome.output == "kept b"
    assert state.operations == [{"op": "append", "key": "words", "value": "b"}]


async def test_sync_and_async_tools_of_one_answer_run_at_the_same_time_and_answer_in_order(script: Script) -> None:
    met = asyncio.Barrier(2)
    loop = asyncio.get_running_loop()

    async def first(ctx: ToolContext) -> str:
        await met.wait()
        return f"first {ctx.agent}"

    def second() -> str:
        asyncio.run_coroutine_threadsafe(met.wait(), loop).result()  # it would wait for ever for a turn of its own
        return "second"

    model = script([{"calls": [{"tool": "first"}, {"tool": "second"}]}, {"text": "both"}])
    results = await tool_results(ask(model, tools=[first, second]))
    assert results == [("first", "first tester", False), ("second", "second", False)]


async def test_a_tools_exception_goes_back_to_the_model_and_the_run_goes_on(script: Script) -> None:
    def charge() -> str:
        """Charge a card."""
        raise ValueError("the card has expired")

    model = script([{"tool": "charge"}, {"text": "Sorry: {{last_tool}}"}])
    seen: list[RunEvent] = []
    outcome = await run.run(ask(model, tools=[charge]), emit=seen.append)
    assert outcome.status is run.RunStatus.COMPLETED
    assert outcome.output == "Sorry: error: ValueError: the card has expired"
    assert [event.ok for event in seen if isinstance(event, ToolFinished)] == [False]


async def test_end_run_fails_the_run_with_its_message_after_the_other_tools_of_the_answer_settled(
    script: Script,
) -> None:
    ended, settled = asyncio.Event(), asyncio.Event()

    async def stop() -> str:
        ended.set()
        raise EndRun("the account is closed")

    async def slow() -> str:
        await ended.wait()
        settled.set()
        return "done"

    model = script([{"calls": [{"tool": "stop"}, {"tool": "slow"}]}, {"text": "never said"}])
    outcome = await run.run(ask(model, tools=[stop, slow]))
    assert settled.is_set()
    assert outcome.status is run.RunStatus.FAILED
    assert outcome.error == run.RunError("EndRun", "the account is closed")
    assert (outcome.output, outcome.steps) == ("", 1)


async def test_an_unknown_tool_is_explained_to_the_model(script: Script) -> None:
    model = script(
        [{"calls": [{"tool": "ad"}, {"tool": "add", "arguments": {"a": 1, "b": 1}}]}, {"text": "{{last_tool}}"}]
    )
    results = await tool_results(ask(model, tools=[add]))
    assert results == [
        ("ad", "there is no tool named 'ad'; did you mean 'add'? (tools: add)", True),
        ("add", "2", False),
    ]


@pytest.mark.parametrize("broken", ['{"a": 1,', "[1, 2]", '"text"', "not json", "{'a': 1, 'b': 2}"])
async def test_arguments_that_are_no_json_object_are_explained_to_the_model(script: Script, broken: str) -> None:
    model = script([{"tool": "add", "arguments": broken}, {"text": "ok"}])
    [(name, told, error)] = await tool_results(ask(model, tools=[add]))
    assert (name, error) == ("add", True)
    assert "JSON" in told


async def test_words_such_as_none_and_true_reach_a_tool_as_words(script: Script) -> None:
    def echo(text: str) -> str:
        """Say it again."""
        return repr(text)

    model = script(
        [{"calls": [{"tool": "echo", "arguments": {"text": word}} for word in ("none", "true", " x ")]}, {"text": "ok"}]
    )
    results = await tool_results(ask(model, tools=[echo]))
    assert [told for _, told, _ in results] == ["'none'", "'true'", "' x '"]


@pytest.mark.parametrize("name", ["think", "analyze", "get_user_input", "ask_user"])
async def test_names_that_agno_treats_specially_are_tools_like_any_other(script: Script, name: str) -> None:
    def tool(title: str, thought: str, questions: list[str]) -> str:
        """Take what agno's own tools of these names take."""
        return f"{title} {thought} {questions}"

    tool.__name__ = name
    arguments = {"title": "t", "thought": "h", "questions": ["q"]}
    model = script([{"tool": name, "arguments": arguments}, {"text": "{{last_tool}}"}])
    outcome = await run.run(ask(model, tools=[tool]))
    assert (outcome.status, outcome.output) == (run.RunStatus.COMPLETED, "t h ['q']")


async def test_the_step_limit_fails_the_run_and_says_what_to_raise(script: Script) -> None:
    calls: list[str] = []

    def again() -> str:
        """Do it again."""
        calls.append("again")
        return "done"

    model = script([{"text": "once more", "tool": "again", "repeat": "forever"}])
    outcome = await run.run(ask(model, tools=[again], limits=LimitsSpec(steps=3)))
    assert outcome.status is run.RunStatus.FAILED
    assert outcome.error is not None
    assert outcome.error.type == "StepLimit"
    assert "all its 3 steps" in outcome.error.message
    assert "limits.steps" in outcome.error.message
    assert (outcome.steps, len(calls), outcome.output) == (3, 3, "once more")


async def test_a_run_may_use_exactly_as_many_steps_as_its_limit(script: Script) -> None:
    model = script([{"tool": "add", "arguments": {"a": 1, "b": 2}, "repeat": 2}, {"text": "3"}])
    outcome = await run.run(ask(model, tools=[add], limits=LimitsSpec(steps=3)))
    assert (outcome.status, outcome.steps) == (run.RunStatus.COMPLETED, 3)


async def test_the_wall_limit_fails_the_run_with_what_was_said_so_far(script: Script) -> None:
    model = script([{"text": "I begin and", "pace": "1h"}])
    outcome = await run.run(ask(model, limits=LimitsSpec(wall=0.2)))
    assert outcome.status is run.RunStatus.FAILED
    assert outcome.error is not None
    assert outcome.error.type == "WallLimit"
    assert "200ms" in outcome.error.message
    assert "limits.wall" in outcome.error.message
    assert "I begin".startswith(outcome.output)  # the rest takes an hour


async def test_setting_cancel_ends_the_run_as_cancelled_with_what_was_said_so_far(script: Script) -> None:
    cancel = asyncio.Event()

    def emit(event: RunEvent) -> None:
        if event == TextDelta("and "):
            cancel.set()

    model = script([{"text": "I begin and never end", "pace": "1ms"}])
    outcome = await run.run(ask(model), emit=emit, cancel=cancel)
    assert (outcome.status, outcome.error) == (run.RunStatus.CANCELLED, None)
    assert outcome.output.startswith("I begin and ")


async def test_a_run_that_is_cancelled_before_it_begins_asks_no_model(script: Script) -> None:
    cancel = asyncio.Event()
    cancel.set()
    outcome, calls = await watched(ask(script([{"text": "hello"}])), cancel=cancel)
    assert (outcome.status, outcome.output, calls) == (run.RunStatus.CANCELLED, "", [])


async def test_something_that_ignores_its_cancellation_is_left_behind(
    script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "LAST_WORDS", 0.01)
    cancel, over, ended = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def stubborn(_call: steps.ModelCall, _proceed: object) -> steps.Answer:
        cancel.set()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        await over.wait()
        ended.set()
        return steps.Answer("too late")

    outcome = await run.run(ask(script([{"text": "hello"}]), around_model_call=stubborn), cancel=cancel)
    assert (outcome.status, outcome.output) == (run.RunStatus.CANCELLED, "")
    over.set()
    await ended.wait()


async def test_a_cancelled_run_does_not_wait_for_an_async_tool(script: Script) -> None:
    cancel, stopped = asyncio.Event(), asyncio.Event()

    async def wait() -> str:
        cancel.set()
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()
        return "never"

    outcome = await run.run(ask(script([{"tool": "wait"}, {"text": "never"}]), tools=[wait]), cancel=cancel)
    assert outcome.status is run.RunStatus.CANCELLED
    assert stopped.is_set()


async def test_cancelling_the_awaiting_task_stops_the_model_and_is_not_swallowed(script: Script) -> None:
    began, stopped = asyncio.Event(), asyncio.Event()

    async def wait() -> str:
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()
        return "never"

    model = script([{"tool": "wait"}, {"text": "never"}])
    task = asyncio.create_task(run.run(ask(model, tools=[wait])))
    await began.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert stopped.is_set()


async def test_a_tool_that_cancels_its_own_task_does_not_look_like_the_operators_wish(script: Script) -> None:
    async def fold() -> str:
        raise asyncio.CancelledError

    outcome = await run.run(ask(script([{"tool": "fold"}, {"text": "went on: {{last_tool}}"}]), tools=[fold]))
    assert outcome.status is not run.RunStatus.CANCELLED


async def test_a_run_that_was_cancelled_from_within_has_failed(script: Script) -> None:
    async def fold(_call: steps.ModelCall, _proceed: object) -> steps.Answer:
        raise asyncio.CancelledError

    outcome = await run.run(ask(script([{"text": "hello"}]), around_model_call=fold))
    assert outcome.status is run.RunStatus.FAILED
    assert outcome.error == run.RunError("Cancelled", "something inside the run cancelled it")


@pytest.mark.parametrize(
    ("kind", "type", "away", "passing"),
    [
        ("rate_limit", "ModelRateLimited", True, True),
        ("auth", "ModelRefused", True, False),
        ("connection", "ModelUnavailable", True, True),
        ("server", "ModelUnavailable", True, True),
        ("truncated", "AnswerTruncated", False, True),
        ("blocked", "AnswerBlocked", False, False),
        ("rejected", "ModelRequestRejected", False, False),
    ],
)
async def test_a_models_error_fails_the_run_with_its_kind_and_the_text_so_far(
    script: Script, kind: str, type: str, away: bool, passing: bool
) -> None:
    outcome = await run.run(ask(script([{"text": "Half an", "error": kind, "message": "it went wrong"}])))
    assert outcome.status is run.RunStatus.FAILED
    assert outcome.error is not None
    assert (outcome.error.type, outcome.error.message) == (type, "it went wrong")
    assert (outcome.error.away is not None, outcome.error.passing) == (away, passing)
    assert (outcome.output, outcome.steps) == ("Half an", 1)


async def test_a_failed_answer_is_paid_for_too(script: Script) -> None:
    model = script([{"text": "Half an", "error": "truncated", "usage": {"input": 7, "output": 2}}])
    assert (await run.run(ask(model))).usage == Usage(7, 2)


async def test_a_fault_of_ours_fails_the_run_by_name_and_leaves_its_traceback_to_the_log(script: Script) -> None:
    def emit(_event: RunEvent) -> None:
        raise ZeroDivisionError("division by zero")

    with capture_logs() as logged:
        outcome = await run.run(ask(script([{"text": "hello"}])), emit=emit)
    assert outcome.status is run.RunStatus.FAILED
    assert outcome.error == run.RunError("ZeroDivisionError", "division by zero", passing=True)
    [entry] = [entry for entry in logged if entry["event"] == "run.broke"]
    assert "in emit" in entry["exception"]
    assert entry["exception"].endswith("ZeroDivisionError: division by zero\n")


async def test_a_secret_of_the_environment_is_masked_in_whatever_failed(
    script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BILLING_TOKEN", "tok-31415926")

    def emit(_event: RunEvent) -> None:
        raise RuntimeError("cannot log in with tok-31415926")

    with capture_logs() as logged:
        outcome = await run.run(ask(script([{"text": "hello"}])), emit=emit)
    assert outcome.error == run.RunError("RuntimeError", "cannot log in with ***", passing=True)
    assert "tok-31415926" not in str(logged)


async def test_a_model_that_cannot_be_opened_fails_the_run(script: Script) -> None:
    model = script([{"txt": "hello"}])
    outcome = await run.run(ask(model))
    assert outcome.status is run.RunStatus.FAILED
    assert outcome.error is not None
    assert outcome.error.type == "ScriptError"
    assert outcome.error.message.startswith(f"{model.name}:1:")
    assert outcome.steps == 0


async def test_two_tools_of_one_name_fail_the_run_before_any_model_is_asked(script: Script) -> None:
    outcome = await run.run(ask(script([{"text": "hello"}]), tools=[add, add]))
    assert outcome.error is not None
    assert "two of the agent's tools are called 'add'" in outcome.error.message


async def test_runs_share_an_executor_that_outlives_them(script: Script) -> None:
    model = script([{"tool": "add", "arguments": {"a": 1, "b": 2}}, {"text": "{{last_tool}}"}])
    async with Executor() as executor:
        outcomes = await asyncio.gather(*(run.run(ask(model, tools=[add]), executor=executor) for _ in range(8)))
    assert {outcome.output for outcome in outcomes} == {"3"}
