"""agno drives the loop and nothing else: it says nothing of its own, keeps nothing, sends nothing, hides nothing."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from agent_runs import NOW, TASK, Script, ask, tool_results, watched
from structlog.testing import capture_logs

from cirkelline.agents import run, steps
from cirkelline.agents.agno_boundary import loop
from cirkelline.agents.chat_model import ChatMessage, Delta, ToolCall, ToolSchema, Usage
from cirkelline.configs.schema import LimitsSpec
from cirkelline.tools.contract import Tool, ToolContext, tool_from_function
from cirkelline.tools.execution import Executor, ToolResult
from cirkelline.tools.state import State


def add(a: int, b: int = 1) -> int:
    """Add two numbers.

    Args:
        a: the first
    """
    return a + b


class Recorder:
    """A model that answers each call with the next of its answers, and keeps what it was asked."""

    label = "recorder"

    def __init__(self, *answers: Sequence[Delta]) -> None:
        self.answers = list(answers)
        self.asked: list[tuple[tuple[ChatMessage, ...], tuple[ToolSchema, ...]]] = []

    async def stream(
        self, messages: Sequence[ChatMessage], tools: Sequence[ToolSchema], *, must_call: bool = False
    ) -> AsyncIterator[Delta]:
        del must_call
        self.asked.append((tuple(messages), tuple(tools)))
        for delta in self.answers.pop(0):
            yield delta


async def drive(model: Recorder, conversation: Sequence[ChatMessage], *tools: Tool) -> steps.Steps:
    """Let agno drive a model of the test's own."""
    async with Executor() as executor:
        taken = steps.Steps(
            model=model,
            tools={tool.name: tool for tool in tools},
            context=ToolContext(state=State(), agent="tester", task_id=TASK),
            executor=executor,
            limit=5,
        )
        await loop.drive(taken, conversation)
    return taken


def calls(*calls: ToolCall) -> list[Delta]:
    return [Delta(tool_calls=calls)]


async def test_the_model_sees_exactly_our_messages_and_tools_and_nothing_of_agnos() -> None:
    asked = ToolCall("call_9", "add", '{"a": 1}', signature="c2ln")
    conversation = [
        ChatMessage("system", "You are {name}. {{input}} <instructions>${HOME}"),
        ChatMessage("user", "What is 1 + 1, {session_id}?"),
        ChatMessage("assistant", "Let me see.", (asked,)),
        ChatMessage("tool", "2", tool_call_id="call_9", tool_name="add"),
        ChatMessage("assistant", "It is 2."),
        ChatMessage("user", ""),
    ]
    tool = tool_from_function(add)
    model = Recorder(calls(ToolCall("call_1", "add", '{"a": 1}')), [Delta("Two.")])
    await drive(model, conversation, tool)
    schema = ToolSchema("add", tool.description, tool.parameters)
    assert model.asked[0] == (tuple(conversation), (schema,))
    assert model.asked[1][0] == (
        *conversation,
        ChatMessage("assistant", "", (ToolCall("call_1", "add", '{"a": 1}'),)),
        ChatMessage("tool", "2", tool_call_id="call_1", tool_name="add"),
    )


async def test_the_system_prompt_is_name_description_instructions_and_day(script: Script) -> None:
    model = script([{"text": "ok"}])
    request = ask(
        model, "hi", instructions="Count {things}.", messages=[ChatMessage("user", "a"), ChatMessage("assistant", "b")]
    )
    _, [call] = await watched(request)
    assert call.messages == (
        ChatMessage("system", "You are tester.\n\nCount {things}.\n\nToday is Monday, 2026-03-02."),
        ChatMessage("user", "a"),
        ChatMessage("assistant", "b"),
        ChatMessage("user", "hi"),
    )
    assert NOW.strftime("%A") == "Monday"


async def test_missing_and_repeated_ids_are_replaced_by_the_same_ones_each_time() -> None:
    history = [
        ChatMessage("assistant", "", (ToolCall("call_0", "add", "{}"),)),
        ChatMessage("tool", "1", tool_call_id="call_0", tool_name="add"),
        ChatMessage("user", "again"),
    ]
    first = calls(*(ToolCall(given, "add", '{"a": 1}') for given in ("", "call_0", "mine", "mine", "call_3_0")))
    second = calls(ToolCall("mine", "add", '{"a": 1}'))
    seen: list[list[str]] = []
    for _ in range(2):
        model = Recorder(first, second, [Delta("done")])
        await drive(model, history, tool_from_function(add))
        seen.append([call.id for message in model.asked[2][0] for call in message.tool_calls])
        answers = [message.tool_call_id for message in model.asked[2][0] if message.role == "tool"]
        assert answers == seen[-1]
    assert seen[0] == seen[1]
    assert len(set(seen[0])) == len(seen[0])
    assert seen[0][0] == "call_0"
    assert "mine" in seen[0]


async def test_what_agno_trips_over_is_an_error_and_not_an_answer() -> None:
    broken = ToolCall(7, "add", "{}")  # type: ignore[arg-type]  # no id agno accepts
    with pytest.raises(loop.LoopFailed, match="agno ended the run as ERROR"):
        await drive(Recorder(calls(broken), [Delta("never")]), [ChatMessage("user", "hi")], tool_from_function(add))


async def test_the_models_own_exception_comes_out_whole() -> None:
    with pytest.raises(IndexError, match="pop from empty list"):
        await drive(Recorder(), [ChatMessage("user", "hi")])


async def test_an_answer_without_text_or_calls_is_an_empty_answer() -> None:
    taken = await drive(Recorder([]), [ChatMessage("user", "hi")])
    assert (taken.output, taken.taken) == ("", 1)


async def test_the_output_is_the_last_answer_and_not_what_was_said_before_the_tools() -> None:
    first = [Delta("Let me see."), Delta(tool_calls=(ToolCall("", "add", '{"a": 1}'),))]
    said = await drive(
        Recorder(first, [Delta("It is "), Delta("2.")]), [ChatMessage("user", "hi")], tool_from_function(add)
    )
    assert said.output == "It is 2."
    silent = await drive(Recorder(first, []), [ChatMessage("user", "hi")], tool_from_function(add))
    assert silent.output == "Let me see."


async def test_a_journal_can_answer_for_the_model_and_for_tools(script: Script) -> None:
    stored = iter(
        [steps.Answer("", (ToolCall("call_1", "add", '{"a": 1}'),), Usage(5, 6)), steps.Answer("from before")]
    )
    uses: list[steps.ToolUse] = []

    async def model(_call: steps.ModelCall, _proceed: Any) -> steps.Answer:
        return next(stored)

    async def tool(use: steps.ToolUse, _proceed: Any) -> ToolResult:
        uses.append(use)
        return ToolResult("2", error=False, ms=3)

    request = ask(script([{"text": "asked"}]), around_model_call=model, around_tool_call=tool)
    outcome = await run.run(request)
    assert (outcome.output, outcome.usage, outcome.steps) == ("from before", Usage(5, 6), 2)
    assert uses == [steps.ToolUse(1, 0, ToolCall("call_1", "add", '{"a": 1}'))]


async def test_a_journal_sees_every_call_with_its_place(script: Script) -> None:
    turn = {"calls": [{"tool": "add", "arguments": {"a": 1}}, {"tool": "add", "arguments": {"a": 2}}]}
    uses: list[tuple[int, int, str]] = []

    async def tool(use: steps.ToolUse, proceed: Any) -> ToolResult:
        uses.append((use.position, use.index, use.call.arguments))
        result: ToolResult = await proceed()
        return result

    request = ask(script([{**turn, "repeat": 2}, {"text": "ok"}]), tools=[add], around_tool_call=tool)
    _, model_calls = await watched(request)
    assert sorted(uses) == [(1, 0, '{"a": 1}'), (1, 1, '{"a": 2}'), (2, 0, '{"a": 1}'), (2, 1, '{"a": 2}')]
    assert [call.position for call in model_calls] == [1, 2, 3]


async def test_a_journal_that_fails_ends_the_run_with_its_error(script: Script) -> None:
    async def tool(_use: steps.ToolUse, _proceed: Any) -> ToolResult:
        raise ConnectionError("the database is gone")

    model = script([{"tool": "add", "arguments": {"a": 1}}, {"text": "never"}])
    with capture_logs():
        outcome = await run.run(ask(model, tools=[add], around_tool_call=tool))
    assert outcome.error == run.RunError("ConnectionError", "the database is gone", passing=True)
    assert outcome.steps == 1


async def test_many_runs_at_once_keep_apart(script: Script) -> None:
    model = script([{"tool": "add", "arguments": {"a": 1, "b": 2}}, {"text": "{{input}} {{last_tool}}"}])
    outcomes = await asyncio.gather(*(run.run(ask(model, f"run {number}", tools=[add])) for number in range(20)))
    assert [outcome.output for outcome in outcomes] == [f"run {number} 3" for number in range(20)]


async def test_a_tool_without_arguments_is_called_however_the_model_writes_none(script: Script) -> None:
    def ping() -> str:
        """Answer."""
        return "pong"

    turns = [{"calls": [{"tool": "ping", "arguments": text} for text in (" ", "{}", "null")]}, {"text": "ok"}]
    results = await tool_results(ask(script(turns), tools=[ping]))
    assert results == [("ping", "pong", False)] * 3


async def test_no_limit_of_agnos_stops_a_run_before_ours(script: Script) -> None:
    model = script([{"tool": "add", "arguments": {"a": 1}, "repeat": 60}, {"text": "ok"}])
    outcome = await run.run(ask(model, tools=[add], limits=LimitsSpec(steps=100)))
    assert (outcome.output, outcome.steps) == ("ok", 61)


def test_importing_run_imports_neither_agno_nor_a_provider() -> None:
    script = "import sys, cirkelline.agents.run; print(sorted({name.split('.')[0] for name in sys.modules}))"
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    heavy = {"agno", "google", "openai", "xllamacpp", "httpx", "httpx2"}
    assert heavy.isdisjoint(found.replace("'", "").strip("[]\n").split(", "))


GUARDED = """
import asyncio, json, os, sys
touched = []
watching = False
def watch(event, arguments):
    if not watching or event not in ("open", "socket.connect", "socket.getaddrinfo", "subprocess.Popen", "os.mkdir"):
        return
    if event == "open" and not (isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)):
        return
    touched.append(event + " " + str(arguments[0]))
sys.addaudithook(watch)
sys.dont_write_bytecode = True
sys.path.insert(0, sys.argv[1])
import pathlib, agent_runs, structlog
structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
from cirkelline.agents import run
from cirkelline.agents.agno_boundary import loop
def add(a: int) -> int:
    "Add."
    return a
def bad(a: int) -> int:
    "Fail."
    raise ValueError("sk-secret1234567890")
async def main():
    good = agent_runs.write_script(pathlib.Path(sys.argv[2]) / "a.yaml", [
        {"calls": [{"tool": "add", "arguments": {"a": 1}}, {"tool": "bad", "arguments": {"a": 1}}, {"tool": "none"}]},
        {"text": "done"}])
    failing = agent_runs.write_script(pathlib.Path(sys.argv[2]) / "b.yaml", [{"text": "x", "error": "auth"}])
    global watching
    watching = True
    outcomes = [await run.run(agent_runs.ask(model, tools=[add, bad])) for model in (good, failing)]
    watching = False
    return [outcome.status for outcome in outcomes]
statuses = asyncio.run(main())
reporting = [name for name in sys.modules if name.startswith("agno.api.")]  # its telemetry, sent by a thread of its own
print(json.dumps({"statuses": statuses, "touched": touched, "reporting": reporting}))
"""


def test_a_run_writes_nothing_sends_nothing_and_prints_nothing_even_when_agno_is_told_to(tmp_path: Path) -> None:
    told = {**os.environ, "AGNO_TELEMETRY": "true", "AGNO_DEBUG": "true", "HOME": str(tmp_path)}
    command = [sys.executable, "-c", GUARDED, str(Path(__file__).parent), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=told, cwd=tmp_path)
    [line] = done.stdout.splitlines()  # nothing but ours
    assert json.loads(line) == {"statuses": ["completed", "failed"], "touched": [], "reporting": []}
