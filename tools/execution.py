"""Runs one tool call to its end, whatever the tool does: too long, too much, an exception, sys.exit or never returning."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import inspect
import itertools
import json
import time
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Any, Final, Self, cast

import pydantic_core
import structlog

from cirkelline.configs import durations
from cirkelline.configs.errors import CirkellineError
from cirkelline.state.citations import Citation
from cirkelline.tools import contract, failures
from cirkelline.tools.contract import EndRun, Tool, ToolContext
from cirkelline.tools.state import Placed
from cirkelline.tools.threads import ToolThread
from cirkelline.tools.waiting import Wait

THREADS: Final = 32
RESULT_LIMIT: Final = 32 * 1024  # bytes of UTF-8; a model reads a page, not a database
LAST_WORDS: Final = 1.0  # seconds a stopped async tool has for its own cleaning up

log = structlog.get_logger(__name__)


class ToolTimedOut(CirkellineError):
    """A tool did not return within its time."""


class ResultUnusable(CirkellineError):
    """What a tool returned cannot be written down for the model."""


@dataclass(frozen=True, slots=True)
class ToolResult:
    """What goes back to the model: the result, or with `error` what went wrong; `ms` is the time it took.

    `operations` is what the call did to `ctx.state`, `session_operations` what it did to `ctx.session_state`, `citations`
    the numbers that it gave; `failure` is what was raised, for whoever may try again; `wait` stands for a text that is
    still to come.
    """

    text: str
    error: bool
    ms: int
    operations: tuple[Placed, ...] = field(default=(), compare=False, repr=False)
    session_operations: tuple[Placed, ...] = field(default=(), compare=False, repr=False)
    citations: Sequence[Citation] = field(default=(), compare=False, repr=False)
    failure: Exception | None = field(default=None, compare=False, repr=False)
    wait: Wait | None = None


@dataclass(frozen=True, slots=True)
class _Ended:
    """How a function ended. Never as a future's exception: a StopIteration cannot be one, a SystemExit stops the loop."""

    text: str = ""
    wait: Wait | None = None
    failure: BaseException | None = None
    unfinished: Awaitable[Any] | None = None  # a plain function gave an awaitable: an async one is inside it


class Executor:
    """Calls tools: async ones on the loop, the others each in a thread of at most `size`.

    The threads are this executor's own and daemons. A thread cannot be stopped: one that outlives its call keeps its slot
    until it ends, but neither the loop's other work nor the end of the process waits for it.
    """

    def __init__(self, *, size: int = THREADS, result_limit: int = RESULT_LIMIT) -> None:
        self._size = size
        self._result_limit = result_limit
        self._slots = asyncio.Semaphore(size)
        self._numbers = itertools.count(1)
        self._idle: list[ToolThread] = []  # touched on the loop alone, as all that counts threads
        self._closed = False
        self._busy = 0
        self._abandoned = 0
        self._strays: set[asyncio.Future[_Ended]] = set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for stray in list(self._strays):
            stray.cancel()
        self._closed = True
        for thread in self._idle:
            thread.let_go()
        self._idle.clear()
        if self._busy:
            log.warning("tool.left_running", threads=self._busy)

    @property
    def busy(self) -> int:
        """Return how many threads are running a tool, those that were given up on included."""
        return self._busy

    @property
    def abandoned(self) -> int:
        """Return how many of the busy threads belong to calls that were given up on."""
        return self._abandoned

    async def call(self, tool: Tool, arguments: object, ctx: ToolContext) -> ToolResult:
        """Call a tool with what the model sent (JSON text or a mapping) and return what the model is to read.

        Everything a tool does wrong is a result with `error`, but EndRun, which is raised, and cancellation. After the
        call the tool's `ctx.state` refuses writes, so that a thread nobody waits for cannot change a finished run; so does its
        `ctx.session_state`.
        """
        began = time.perf_counter()
        state = ctx.state.view()
        held = ctx.held.view() if ctx.held is not None else None
        numbers = ctx.numbers.view()
        failed: Exception | None = None
        wait: Wait | None = None
        try:
            ended = await self._run(tool, arguments, replace(ctx, state=state, held=held, numbers=numbers))
            text, wait = ended.text, ended.wait
        except Exception as failure:  # the boundary to anybody's code: what it raises goes back to the model
            if end := _ending(failure):
                raise EndRun(failures.masked(str(end))) from failure
            text, failed = failures.told(failure), failure
            log.info("tool.failed", tool=tool.name, error=text, agent=ctx.agent, task_id=str(ctx.task_id))
        finally:
            for view in (state, held):
                if view is not None:
                    view.close(f"the call of {tool.name} is over")
        ms = round((time.perf_counter() - began) * 1000)
        text = _fitting(text, self._result_limit)
        own = tuple(held.own) if held is not None else ()
        cited = numbers.own if failed is None else ()  # a model that reads of a failure has seen none of them
        return ToolResult(text, failed is not None, ms, tuple(state.own), own, cited, failed, wait)

    async def _run(self, tool: Tool, arguments: object, ctx: ToolContext) -> _Ended:
        given = contract.validate(tool, arguments)
        if tool.wants_context:
            given["ctx"] = ctx
        if tool.is_async:
            ended = await self._settled(tool, self._task(tool, tool.function(**given)))
        else:
            ended = await self._settled(tool, await self._thread(tool, given))
            if ended.unfinished is not None:
                ended = await self._settled(tool, self._task(tool, ended.unfinished))
        if ended.failure is not None:
            raise ended.failure
        return ended

    async def _settled(self, tool: Tool, running: asyncio.Future[_Ended]) -> _Ended:
        """Wait for the end of a call, or give it up when its time is over or the run is cancelled."""
        try:
            done, _ = await asyncio.wait({running}, timeout=tool.timeout)
        except asyncio.CancelledError:
            await self._give_up(tool, running)
            raise
        if not done:
            await self._give_up(tool, running)
            late = "stopped" if isinstance(running, asyncio.Task) else "given up; what it began may still happen"
            raise ToolTimedOut(f"{tool.name} took longer than {_time(tool)} and was {late}")
        return _Ended(failure=CirkellineError("the tool cancelled itself")) if running.cancelled() else running.result()

    async def _give_up(self, tool: Tool, running: asyncio.Future[_Ended]) -> None:
        running.cancel()
        if not isinstance(running, asyncio.Task):
            self._abandoned += 1
        else:
            self._strays.add(running)
            running.add_done_callback(self._strays.discard)
            if (await asyncio.wait({running}, timeout=LAST_WORDS))[0]:
                return
        log.warning("tool.abandoned", tool=tool.name, busy=self._busy, abandoned=self._abandoned)

    def _task(self, tool: Tool, awaitable: Awaitable[Any]) -> asyncio.Future[_Ended]:
        return asyncio.create_task(self._awaited(awaitable), name=f"tool-{tool.name}")

    async def _awaited(self, awaitable: Awaitable[Any]) -> _Ended:
        try:
            return _ended(await awaitable, self._result_limit)
        except (Exception, SystemExit) as failure:  # noqa: BLE001 (told to the model by `call`; sys.exit is no better)
            return _Ended(failure=_raisable(failure))

    async def _thread(self, tool: Tool, given: dict[str, Any]) -> asyncio.Future[_Ended]:
        await self._slot(tool)
        loop = asyncio.get_running_loop()
        future: asyncio.Future[_Ended] = loop.create_future()
        context = contextvars.copy_context()

        thread = self._idle.pop() if self._idle else ToolThread()

        def work() -> None:
            ended = context.run(self._called, tool, given)
            try:
                loop.call_soon_threadsafe(self._released, tool, thread, future, ended)
            except RuntimeError:  # the loop is closed, nobody waits any more
                thread.let_go()
                log.warning("tool.ended_late", tool=tool.name)

        try:
            thread.do(work, f"tool-{tool.name}-{next(self._numbers)}")
        except RuntimeError:  # the operating system gives no more threads
            self._slots.release()
            raise
        self._busy += 1
        return future

    async def _slot(self, tool: Tool) -> None:
        try:
            async with asyncio.timeout(tool.timeout):
                await self._slots.acquire()
        except TimeoutError:
            raise ToolTimedOut(
                f"{tool.name} was not called: no thread for it became free in {_time(tool)} (all {self._size} are busy, "
                f"{self._abandoned} with calls that were given up)"
            ) from None

    def _called(self, tool: Tool, given: dict[str, Any]) -> _Ended:
        try:
            value = tool.function(**given)
            if inspect.isawaitable(value):
                return _Ended(unfinished=value)
            return _ended(value, self._result_limit)
        except BaseException as failure:  # noqa: BLE001 (told to the model by `call`; nothing above this frame would see it)
            return _Ended(failure=_raisable(failure))

    def _released(self, tool: Tool, thread: ToolThread, future: asyncio.Future[_Ended], ended: _Ended) -> None:
        self._busy -= 1
        self._slots.release()
        if self._closed:
            thread.let_go()
        else:
            self._idle.append(thread)
        if not future.cancelled():
            future.set_result(ended)
            return
        self._abandoned -= 1
        if inspect.iscoroutine(ended.unfinished):
            ended.unfinished.close()
        log.info("tool.ended_late", tool=tool.name)


def _ending(failure: Exception) -> EndRun | None:
    """Return the EndRun that a failure is, or that a task group of the tool wrapped."""
    if isinstance(failure, ExceptionGroup):
        members = cast("ExceptionGroup[Exception]", failure).exceptions
        return next((end for member in members if (end := _ending(member))), None)
    return failure if isinstance(failure, EndRun) else None


def _raisable(failure: BaseException) -> Exception:
    """Return a failure that a coroutine may raise: sys.exit must not end the worker, Python refuses a StopIteration."""
    if isinstance(failure, Exception) and not isinstance(failure, StopIteration):
        return failure
    return CirkellineError(f"{type(failure).__name__}: {failure}".rstrip(": "))


def _ended(value: object, limit: int) -> _Ended:
    return _Ended(wait=value) if isinstance(value, Wait) else _Ended(_written(value, limit))


def _written(value: object, limit: int) -> str:
    """Write a result as text, here and not on the loop: a result may be large and its types an author's own."""
    if value is None:
        return "done"
    return _fitting(value if isinstance(value, str) else _json(value), limit)


def _json(value: object) -> str:
    try:
        return pydantic_core.to_json(value, inf_nan_mode="strings").decode()
    except pydantic_core.PydanticSerializationError as error:
        with contextlib.suppress(TypeError, ValueError):  # json writes lone surrogates, which `_fitting` replaces
            return json.dumps(value, ensure_ascii=False, default=pydantic_core.to_jsonable_python)
        raise ResultUnusable(f"the tool did its work, but its result cannot be written as JSON: {error}") from error


def _fitting(text: str, limit: int) -> str:
    """Return valid Unicode of at most `limit` bytes, saying what was left out."""
    encoded = text.encode("utf-8", "replace")
    if len(encoded) <= limit:
        return encoded.decode()
    note = f"\n[cut: the result has {len(encoded):,} bytes, at most {limit:,} are shown]"
    return encoded[: max(0, limit - len(note))].decode("utf-8", "ignore") + note


def _time(tool: Tool) -> str:
    return durations.render(tool.timeout or 0)
