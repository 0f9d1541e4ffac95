"""A run that is begun again with what an earlier attempt recorded asks nothing twice and ends as it would have ended."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
from agent_runs import TASK, Script, ask
from structlog.testing import capture_logs

from cirkelline.agents import hashing, journaling, run
from cirkelline.agents.chat_model import ChatMessage, ToolCall, Usage
from cirkelline.agents.events import RunEvent, TextDelta
from cirkelline.agents.journaling import Journal, Transaction
from cirkelline.configs.schema import ModelSpec
from cirkelline.state.journal import Step
from cirkelline.tools.contract import EndRun, ToolContext, tool
from cirkelline.tools.state import State


class CutOff(Exception):
    """Stands for the end of the process."""


class Memory:
    """A recorder that keeps steps as long as it is told to, then is cut off as by a kill."""

    def __init__(self, *, writes: int = 1000) -> None:
        self.steps: dict[tuple[int, int], Step] = {}
        self.writes = writes

    async def write(self, steps: Sequence[Step]) -> None:
        if self.writes == 0:
            raise CutOff
        self.writes -= 1
        self.steps |= {(step.position, step.call): step for step in steps}

    @asynccontextmanager
    async def transaction(self, *, plain: bool) -> AsyncIterator[Transaction]:
        raise NotImplementedError(plain)
        yield


CONTEXT = Step(position=0, call=-1, kind="context", name="tester", format=journaling.FORMAT, output={"clock": "now"})


async def attempt(
    memory: Memory, model: ModelSpec, tools: Sequence[Callable[..., Any]], input: str = "go", **more: Any
) -> tuple[run.RunOutcome, list[RunEvent], State]:
    """Run once over what `memory` has recorded."""
    state = State({"n": 100})
    recorded = [memory.steps[key] for key in sorted(memory.steps)]
    journal = Journal(memory, task_id=TASK, model="m", state=state, context=CONTEXT, recorded=recorded)
    request = dataclasses.replace(
        ask(model, input, tools=tools, state=state, **more),
        around_model_call=journal.around_model_call,
        around_tool_call=journal.around_tool_call,
    )
    seen: list[RunEvent] = []
    outcome = await run.run(request, emit=seen.append)
    if outcome.status is run.RunStatus.COMPLETED:
        memory.steps |= {(step.position, step.call): step for step in journal.unwritten}
    return outcome, seen, state


class Calls:
    """Tools that count how often they run, and do things to the state that depend on their order."""

    def __init__(self) -> None:
        self.made: list[str] = []
        self.second_first = asyncio.Event()

    def tools(self) -> list[Callable[..., Any]]:
        @tool(effects="read")
        async def slow(ctx: ToolContext, name: str) -> str:
            self.made.append(name)
            await self.second_first.wait()
            ctx.state["last"] = name
            return f"{name} {ctx.state.increment('n')}"

        @tool(effects="read")
        async def fast(ctx: ToolContext, name: str) -> str:
            self.made.append(name)
            ctx.state["last"] = name
            self.second_first.set()
            return f"{name} {ctx.state.increment('n')}"

        return [slow, fast]


TWO_AT_ONCE = [
    {
        "text": "Both.",
        "calls": [{"tool": "slow", "arguments": {"name": "a"}}, {"tool": "fast", "arguments": {"name": "b"}}],
    },
    {"tool": "fast", "arguments": {"name": "c"}},
    {"text": "last: {{last_tool}}"},
]


@pytest.mark.parametrize("writes", range(7))
async def test_a_run_cut_off_at_any_step_ends_as_if_it_had_not_been(script: Script, writes: int) -> None:
    model = script(TWO_AT_ONCE)
    whole, _, kept = await attempt(Memory(), model, Calls().tools())
    memory, calls = Memory(writes=writes), Calls()
    first, _, _ = await attempt(memory, model, calls.tools())
    memory.writes = 1000
    again, _, state = await attempt(memory, model, calls.tools())
    assert again.status is run.RunStatus.COMPLETED
    assert (first.status is run.RunStatus.COMPLETED) == (writes >= 5)
    assert (again.output, again.usage, again.steps) == (whole.output, whole.usage, whole.steps)
    assert dict(state) == dict(kept) == {"n": 103, "last": "c"}


async def test_what_ran_at_the_same_time_is_put_back_in_the_order_in_which_it_happened(script: Script) -> None:
    memory = Memory(writes=3)  # the answer and its two tools
    await attempt(memory, script(TWO_AT_ONCE), Calls().tools())
    seen: list[Any] = []

    @tool(effects="read")
    async def fast(ctx: ToolContext, name: str) -> str:
        seen.append(dict(ctx.state))
        return name

    memory.writes = 10
    await attempt(memory, script(TWO_AT_ONCE), [fast])
    assert seen == [{"n": 102, "last": "a"}]  # call 0 wrote last, as it did the first time


async def test_a_recorded_answer_is_told_in_one_piece_and_its_tools_are_announced(script: Script) -> None:
    memory = Memory()
    turns = [{"text": "one two three", "tool": "fast", "arguments": {"name": "x"}}, {"text": "four five"}]
    calls = Calls()
    await attempt(memory, script(turns), calls.tools())
    _, seen, _ = await attempt(memory, script(turns), calls.tools())
    assert [event.text for event in seen if isinstance(event, TextDelta)] == ["one two three", "four five"]
    assert [type(event).__name__ for event in seen] == ["TextDelta", "ToolStarted", "ToolFinished", "TextDelta"]
    assert calls.made == ["x"]


@pytest.mark.parametrize("ids", [("", ""), ("same", "same"), ("call_0_0", "call_0_0")])
async def test_calls_without_an_id_or_with_one_twice_are_told_apart(script: Script, ids: tuple[str, str]) -> None:
    asked = [
        {"tool": "fast", "arguments": {"name": name}, **({"id": given} if given else {})}
        for name, given in zip("ab", ids, strict=True)
    ]
    turns = [{"calls": asked}, {"calls": asked}, {"text": "{{last_tool}}"}]
    memory, calls = Memory(writes=5), Calls()
    await attempt(memory, script(turns), calls.tools())
    memory.writes = 100
    outcome, _, _ = await attempt(memory, script(turns), calls.tools())
    assert outcome.output == "b 104"
    assert sorted(calls.made[:4]) == ["a", "a", "b", "b"]
    identities = [call["id"] for step in memory.steps.values() for call in (step.output or {}).get("calls", ())]
    assert len(set(identities)) == 4


async def test_a_recorded_signature_goes_back_with_its_call(script: Script) -> None:
    memory = Memory()
    call = {"id": "c", "name": "fast", "arguments": '{"name": "x"}', "signature": "c2ln"}
    digest = None
    seen: list[tuple[ToolCall, ...]] = []

    async def around(call_: Any, _proceed: Any) -> Any:
        nonlocal digest
        digest = hashing.hash_conversation(call_.messages)
        raise CutOff

    model = script([{"tool": "fast"}, {"text": "end"}])
    await run.run(dataclasses.replace(ask(model, "go"), around_model_call=around))
    memory.steps = {
        (0, -1): CONTEXT,
        (1, -1): dataclasses.replace(
            CONTEXT, position=1, kind="model", input_hash=digest, output={"text": "", "calls": [call]}
        ),
    }
    state = State()
    journal = Journal(
        memory, task_id=TASK, model="m", state=state, context=CONTEXT, recorded=list(memory.steps.values())
    )

    async def watch(model_call: Any, proceed: Any) -> Any:
        seen.append(tuple(each for message in model_call.messages for each in message.tool_calls))
        return await journal.around_model_call(model_call, proceed)

    request = ask(model, "go", tools=Calls().tools(), state=state)
    await run.run(dataclasses.replace(request, around_model_call=watch, around_tool_call=journal.around_tool_call))
    assert seen[-1] == (ToolCall("c", "fast", '{"name": "x"}', signature="c2ln"),)


async def test_another_conversation_than_the_recorded_one_fails_the_run_and_says_how_to_begin_again(
    script: Script,
) -> None:
    memory = Memory()
    model = script([{"tool": "fast", "arguments": {"name": "x"}}, {"text": "end"}])
    await attempt(memory, model, Calls().tools())
    outcome, _, _ = await attempt(memory, model, Calls().tools(), input="something else")
    assert outcome.error is not None
    assert outcome.error.type == "JournalDiverged"
    assert f"cirkelline tasks retry {TASK} --from-start" in outcome.error.message


async def test_a_record_of_another_format_is_taken_as_it_is_with_one_warning(script: Script) -> None:
    memory = Memory()
    model = script([{"tool": "fast", "arguments": {"name": "x"}}, {"text": "end"}])
    calls = Calls()
    await attempt(memory, model, calls.tools())
    memory.steps = {key: dataclasses.replace(step, format=0, input_hash=b"?") for key, step in memory.steps.items()}
    with capture_logs() as logs:
        outcome, _, _ = await attempt(memory, model, calls.tools(), instructions="Rendered in another way.")
    assert (outcome.status, outcome.output) == (run.RunStatus.COMPLETED, "end")
    assert [line["event"] for line in logs].count("journal.other_format") == 1
    assert calls.made == ["x"]


async def test_text_that_the_database_would_change_does_not_make_the_run_diverge(script: Script) -> None:
    @tool(effects="read")
    def odd() -> str:
        return "a\x00b"

    memory = Memory()
    model = script([{"text": "x", "tool": "odd"}, {"text": "{{last_tool}}"}])
    first, _, _ = await attempt(memory, model, [odd])
    again, _, _ = await attempt(memory, model, [odd])
    assert first.output == again.output == "a\ufffdb"
    assert again.error is None


async def test_a_tool_that_ended_the_run_ends_it_again(script: Script) -> None:
    ran: list[int] = []

    @tool(effects="once")
    def stop() -> str:
        ran.append(1)
        raise EndRun("enough")

    memory = Memory()
    for _ in range(2):
        outcome, _, _ = await attempt(memory, script([{"tool": "stop"}, {"text": "never"}]), [stop])
        assert outcome.error == run.RunError("EndRun", "enough")
    assert ran == [1]


async def test_recorded_tokens_count_as_if_they_had_just_been_spent(script: Script) -> None:
    turns = [
        {"tool": "fast", "arguments": {"name": "x"}, "usage": {"input": 10, "output": 1}},
        {"text": "end", "usage": {"input": 20, "output": 2}},
    ]
    memory = Memory()
    calls = Calls()
    await attempt(memory, script(turns), calls.tools())
    outcome, _, _ = await attempt(memory, script(turns), calls.tools())
    assert outcome.usage == Usage(30, 3)


def test_the_hash_of_a_conversation_belongs_to_its_format() -> None:
    # If this fails, conversations are hashed otherwise than before: count journaling.FORMAT up, then change the bytes.
    conversation = [
        ChatMessage("system", "Be brief."),
        ChatMessage("user", "1 + 1?"),
        ChatMessage("assistant", "", (ToolCall("id", "add", '{"a": 1}'),)),
        ChatMessage("tool", "2", tool_call_id="id", tool_name="add"),
    ]
    assert (journaling.FORMAT, hashing.hash_conversation(conversation).hex()) == (
        1,
        "4e1e0c6de28286e8799e420f366fddf4",
    )
    renamed = [
        *conversation[:2],
        ChatMessage("assistant", "", (ToolCall("other", "add", '{"a": 1}'),)),
        conversation[3],
    ]
    assert hashing.hash_conversation(renamed) == journaling.hash_conversation(conversation)
