"""A tool call ends in a result the model can read, whatever the tool does, or ends the run because it was asked to."""

from __future__ import annotations

import asyncio
import contextvars
import dataclasses
import enum
import functools
import json
import subprocess
import sys
import textwrap
import threading
import weakref
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

import pytest
from pydantic import BaseModel
from structlog.testing import capture_logs

from cirkelline.tools import execution
from cirkelline.tools.contract import EndRun, ToolContext, tool, tool_from_function
from cirkelline.tools.execution import Executor, ToolResult
from cirkelline.tools.state import State

variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")


def context() -> ToolContext:
    return ToolContext(state=State(), agent="tester", task_id=uuid4())


async def call(function: Callable[..., Any], arguments: object = None, **options: Any) -> ToolResult:
    async with Executor(**options) as executor:
        return await executor.call(tool_from_function(function), arguments, context())


class Hanging:
    """A plain function that waits until it is let go; what it did and saw is kept for the test."""

    def __init__(self) -> None:
        self.started = threading.Event()
        self.release = threading.Event()
        self.failure: BaseException | None = None

    def tool(self, timeout: float | None) -> Any:
        @tool(timeout=timeout)
        def hang(ctx: ToolContext) -> str:
            self.started.set()
            self.release.wait()
            try:
                ctx.state.increment("late")
            except BaseException as failure:
                self.failure = failure
                raise
            return "too late"

        return tool_from_function(hang)

    async def end(self, executor: Executor) -> None:
        """Let it go, and wait until its thread is free again."""
        self.release.set()
        async with asyncio.timeout(30):
            while executor.busy:  # noqa: ASYNC110 - what is waited for is that nothing is told
                await asyncio.sleep(0)


@pytest.fixture
def hanging() -> Iterator[Hanging]:
    hanging = Hanging()
    yield hanging
    hanging.release.set()


async def test_calls_in_turn_share_a_thread_and_nothing_of_the_first_is_left_in_it() -> None:
    class Big(dict[str, int]):
        """Something that can be looked for."""

    kept: list[weakref.ref[Big]] = []
    threads: list[int] = []

    def make() -> str:
        big = Big()
        kept.append(weakref.ref(big))
        threads.append(threading.get_ident())
        return "made"

    made = tool_from_function(make)
    async with Executor() as executor:
        for _ in range(3):
            assert (await executor.call(made, None, context())).text == "made"
        assert len(set(threads)) == 1
        assert [each() for each in kept] == [None, None, None]


async def test_a_plain_function_runs_in_a_named_thread_of_its_own() -> None:
    def where() -> str:
        return f"{threading.current_thread().name} {threading.current_thread() is threading.main_thread()}"

    assert (await call(where)).text == "tool-where-1 False"


async def test_an_async_function_runs_on_the_loop() -> None:
    loop = asyncio.get_running_loop()

    async def same() -> bool:
        return asyncio.get_running_loop() is loop

    assert (await call(same)).text == "true"


async def test_the_callers_context_variables_reach_both_kinds() -> None:
    def plain() -> str:
        return variable.get()

    async def awaited() -> str:
        return variable.get()

    variable.set("run 7")
    assert [(await call(plain)).text, (await call(awaited)).text] == ["run 7", "run 7"]


async def test_the_context_given_is_the_runs_and_its_writes_are_kept() -> None:
    def remember(ctx: ToolContext, word: str) -> str:
        ctx.state["word"] = word
        return f"{ctx.agent} {ctx.now().tzinfo}"

    ctx = context()
    async with Executor() as executor:
        result = await executor.call(tool_from_function(remember), '{"word": "x"}', ctx)
    assert (result.text, result.error, ctx.state["word"]) == ("tester UTC", False, "x")


async def test_wrong_arguments_are_told_and_the_tool_does_not_run() -> None:
    ran: list[int] = []

    def count(number: int) -> None:
        ran.append(number)

    result = await call(count, '{"number": "many"}')
    assert result.error
    assert result.text.startswith("error: count was not called: argument 'number' should be a valid integer")
    assert ran == []


async def test_a_plain_function_that_returns_an_awaitable_is_awaited() -> None:
    def audited(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            return function(*args, **kwargs)

        return wrapper

    @audited
    async def inner(word: str) -> str:
        await asyncio.sleep(0)
        return word

    result = await call(inner, {"word": "x"})
    assert (result.text, result.error) == ("x", False)


@dataclasses.dataclass
class Point:
    x: int
    at: datetime


class Model(BaseModel):
    name: str


class Color(enum.StrEnum):
    RED = "red"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("as it is\n", "as it is\n"),
        ("", ""),
        (None, "done"),
        (True, "true"),
        (3, "3"),
        ({"a": [1, None]}, '{"a":[1,null]}'),
        (Point(1, datetime(2026, 1, 2, tzinfo=UTC)), '{"x":1,"at":"2026-01-02T00:00:00Z"}'),
        ([Model(name="é")], '[{"name":"é"}]'),
        (Color.RED, "red"),
        (UUID(int=1), '"00000000-0000-0000-0000-000000000001"'),
        (Decimal("1.10"), '"1.10"'),
        ((1, 2), "[1,2]"),
        (float("nan"), '"NaN"'),
        ("a\ud800b", "a?b"),
        ({"a\ud800": "\udfff"}, '{"a?": "?"}'),
        ("\x00", "\x00"),
    ],
)
async def test_a_result_is_written_as_text(value: object, text: str) -> None:
    def give() -> Any:
        return value

    async def give_async() -> Any:
        return value

    for function in (give, give_async):
        result = await call(function)
        assert (result.text, result.error) == (text, False)


circle: list[Any] = []
circle.append(circle)


@pytest.mark.parametrize(
    ("value", "said"),
    [(object(), "cannot be written as JSON"), (circle, "Circular reference"), (b"\xff", "cannot be written as JSON")],
)
async def test_a_result_that_is_no_json_is_an_error_that_says_so(value: object, said: str) -> None:
    def give() -> Any:
        return value

    result = await call(give)
    assert result.error
    assert said in result.text


@pytest.mark.parametrize("letter", ["x", "é", "\N{GRINNING FACE}"])
async def test_a_huge_result_is_cut_to_the_limit_and_says_so(letter: str) -> None:
    def huge() -> str:
        return letter * 100_000

    result = await call(huge)
    size = len((letter * 100_000).encode())
    assert len(result.text.encode()) <= execution.RESULT_LIMIT
    assert len(result.text.encode()) > execution.RESULT_LIMIT - 4
    assert result.text.endswith(f"\n[cut: the result has {size:,} bytes, at most 32,768 are shown]")
    assert set(result.text.partition("\n")[0]) == {letter}


async def test_a_result_of_exactly_the_limit_is_whole() -> None:
    def exact() -> str:
        return "x" * 100

    assert (await call(exact, result_limit=100)).text == "x" * 100
    assert "[cut:" in (await call(exact, result_limit=99)).text


class Unprintable(Exception):
    def __str__(self) -> str:
        raise RuntimeError


@pytest.mark.parametrize(
    ("failure", "text"),
    [
        (ValueError("no such card"), "error: ValueError: no such card"),
        (ValueError(), "error: ValueError"),
        (KeyError("x"), "error: KeyError: 'x'"),
        (StopIteration(), "error: StopIteration"),
        (StopAsyncIteration(1), "error: StopAsyncIteration: 1"),
        (SystemExit(3), "error: SystemExit: 3"),
        (TimeoutError("the server"), "error: TimeoutError: the server"),
        (Unprintable(), "error: Unprintable: its message cannot be read"),
        (
            ExceptionGroup("both", [ValueError("a"), ExceptionGroup("more", [KeyError("b")])]),
            "error: ValueError: a; KeyError: 'b'",
        ),
        (
            RuntimeError("worker said:\nTraceback (most recent call last):\n  File x"),
            "error: RuntimeError: worker said:",
        ),
    ],
)
async def test_an_exception_is_told_by_kind_and_message_without_traceback(failure: BaseException, text: str) -> None:
    def fail() -> None:
        raise failure

    async def fail_async() -> None:
        raise failure

    told = (await call(fail), await call(fail_async))
    assert all(result.error for result in told)
    assert told[0].text == text
    assert told[1].text == text or isinstance(failure, StopIteration)  # Python itself renames it in a coroutine


async def test_a_keyboard_interrupt_raised_in_a_thread_does_not_end_the_worker() -> None:
    def fail() -> None:
        raise KeyboardInterrupt

    assert (await call(fail)).text == "error: KeyboardInterrupt"


async def test_endless_recursion_is_an_error_of_the_tool() -> None:
    def again() -> None:
        again()

    assert (await call(again)).text.startswith("error: RecursionError: ")


async def test_a_long_message_is_shortened() -> None:
    def fail() -> None:
        raise ValueError("x" * 1_000_000)

    result = await call(fail)
    assert len(result.text) < 2100
    assert result.text.endswith("… (1,000,012 characters)")


async def test_secrets_of_the_environment_are_hidden_in_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BILLING_API_KEY", "value-one")
    monkeypatch.setenv("BILLING_API_KEY_OLD_TOKEN", "value-one-and-more")
    monkeypatch.setenv("QUEUE_ADDRESS", "redis://me:p%40ss%2Fword@host/0")
    monkeypatch.setenv("PLAIN_SETTING", "harmless")

    def fail() -> None:
        raise ValueError("value-one value-one-and-more p%40ss%2Fword p@ss/word harmless")

    with capture_logs() as logs:
        result = await call(fail)
    assert result.text == "error: ValueError: *** *** *** *** harmless"
    assert "value-one" not in json.dumps(logs)


async def test_a_failure_is_logged_as_an_event() -> None:
    def fail() -> None:
        raise ValueError("no")

    with capture_logs() as logs:
        await call(fail)
    assert [(entry["event"], entry["tool"], entry["error"], entry["agent"]) for entry in logs] == [
        ("tool.failed", "fail", "error: ValueError: no", "tester")
    ]


async def test_end_run_leaves_the_call_from_every_kind_of_tool(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CARD_SECRET", "4242-4242")

    def plain() -> None:
        raise EndRun("card 4242-4242 is stolen")

    async def awaited() -> None:
        plain()

    async def grouped() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(awaited())

    for function in (plain, awaited, grouped):
        with pytest.raises(EndRun, match=r"^card \*\*\* is stolen$"):
            await call(function)


async def test_an_async_tool_past_its_time_is_stopped() -> None:
    stopped = asyncio.Event()

    @tool(timeout=0.01)
    async def wait() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()

    result = await call(wait)
    assert result.text == "error: wait took longer than 10ms and was stopped"
    assert result.error
    assert stopped.is_set()


async def test_an_async_tool_that_cancels_itself_does_not_cancel_the_run() -> None:
    async def odd() -> None:
        raise asyncio.CancelledError

    assert (await call(odd)).text == "error: the tool cancelled itself"


async def test_an_async_tool_that_will_not_stop_is_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(execution, "LAST_WORDS", 0.01)
    release = asyncio.Event()
    ended = asyncio.Event()

    @tool(timeout=0.01)
    async def stubborn() -> None:
        while not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                continue
        ended.set()

    async with Executor() as executor:
        with capture_logs() as logs:
            result = await executor.call(tool_from_function(stubborn), None, context())
        assert result.error
        assert [entry["event"] for entry in logs] == ["tool.abandoned", "tool.failed"]
        release.set()
        await ended.wait()


async def test_a_hanging_thread_is_given_up_and_keeps_its_slot_until_it_ends(hanging: Hanging) -> None:
    async with Executor(size=2) as executor:
        with capture_logs() as logs:
            result = await executor.call(hanging.tool(timeout=0.05), None, context())
        assert result.text == "error: hang took longer than 50ms and was given up; what it began may still happen"
        assert (executor.busy, executor.abandoned) == (1, 1)
        assert logs[0] == {"event": "tool.abandoned", "log_level": "warning", "tool": "hang", "busy": 1, "abandoned": 1}
        with capture_logs() as logs:
            await hanging.end(executor)
        assert (executor.busy, executor.abandoned) == (0, 0)
        assert [entry["event"] for entry in logs] == ["tool.ended_late"]


async def test_what_a_thread_does_to_the_state_after_it_was_given_up_does_not_count(hanging: Hanging) -> None:
    ctx = context()
    async with Executor() as executor:
        await executor.call(hanging.tool(timeout=0.05), None, ctx)
        await hanging.end(executor)
    assert "the call of hang is over" in str(hanging.failure)
    assert ctx.state.operations == []


async def test_when_every_thread_hangs_the_next_call_says_so_and_is_not_made(hanging: Hanging) -> None:
    ran: list[str] = []

    @tool(timeout=0.02)
    def other() -> None:
        ran.append("x")

    async with Executor(size=1) as executor:
        await executor.call(hanging.tool(timeout=0.02), None, context())
        result = await executor.call(tool_from_function(other), None, context())
        assert result.text == (
            "error: other was not called: no thread for it became free in 20ms "
            "(all 1 are busy, 1 with calls that were given up)"
        )
        await hanging.end(executor)
        assert ran == []
        patient = dataclasses.replace(tool_from_function(other), timeout=None)
        assert not (await executor.call(patient, None, context())).error
    assert ran == ["x"]


async def test_plain_functions_run_at_the_same_time_up_to_the_size() -> None:
    barrier = threading.Barrier(4, timeout=30)

    def meet() -> int:
        return barrier.wait()

    async with Executor(size=4) as executor:
        made = tool_from_function(meet)
        results = await asyncio.gather(*(executor.call(made, None, context()) for _ in range(4)))
    assert sorted(result.text for result in results) == ["0", "1", "2", "3"]


async def test_more_calls_than_threads_wait_their_turn() -> None:
    running: list[int] = []
    most: list[int] = []

    def work() -> None:
        running.append(1)
        most.append(len(running))
        running.pop()

    async with Executor(size=2) as executor:
        made = tool_from_function(work)
        results = await asyncio.gather(*(executor.call(made, None, context()) for _ in range(40)))
        assert executor.busy == 0
    assert not any(result.error for result in results)
    assert max(most) <= 2


async def test_cancelling_a_run_does_not_wait_for_a_thread(hanging: Hanging) -> None:
    async with Executor() as executor:
        run = asyncio.create_task(executor.call(hanging.tool(timeout=None), None, context()))
        await asyncio.to_thread(hanging.started.wait)
        run.cancel()
        with pytest.raises(asyncio.CancelledError):
            await run
        assert (executor.busy, executor.abandoned) == (1, 1)
        await hanging.end(executor)
        assert (executor.busy, executor.abandoned) == (0, 0)


async def test_cancelling_a_run_stops_its_async_tool_and_lets_it_clean_up() -> None:
    started, cleaned = asyncio.Event(), asyncio.Event()

    async def wait() -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            cleaned.set()

    async with Executor() as executor:
        run = asyncio.create_task(executor.call(tool_from_function(wait), None, context()))
        await started.wait()
        run.cancel()
        with pytest.raises(asyncio.CancelledError):
            await run
        assert cleaned.is_set()


async def test_cancelling_a_call_that_waits_for_a_thread_gives_no_slot_away(hanging: Hanging) -> None:
    def quick() -> str:
        return "ran"

    async with Executor(size=1) as executor:
        first = asyncio.create_task(executor.call(hanging.tool(timeout=None), None, context()))
        await asyncio.to_thread(hanging.started.wait)
        waiting = asyncio.create_task(executor.call(tool_from_function(quick), None, context()))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        hanging.release.set()
        assert (await first).text == "too late"
        assert (await executor.call(tool_from_function(quick), None, context())).text == "ran"
        assert executor.busy == 0


def test_a_hanging_thread_does_not_keep_the_process_alive() -> None:
    script = """
        import asyncio, threading, uuid
        from cirkelline.tools.contract import ToolContext, tool, tool_from_function
        from cirkelline.tools.execution import Executor
        from cirkelline.tools.state import State

        @tool(timeout=0.05)
        def hang() -> None:
            threading.Event().wait()

        async def main() -> None:
            ctx = ToolContext(state=State(), agent="a", task_id=uuid.uuid4())
            async with Executor() as executor:
                print((await executor.call(tool_from_function(hang), None, ctx)).error)

        asyncio.run(main())
    """
    ended = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, timeout=60, check=False
    )
    assert ended.returncode == 0, ended.stderr
    assert "True" in ended.stdout.splitlines()
