"""One run of one agent: from its definition, its history and an input to an outcome, whatever model and tools do."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from types import ModuleType
from typing import Final

import structlog

from cirkelline.agents import chat_model, events, models, prompts, steps
from cirkelline.agents.chat_model import ChatMessage, ChatModel, Usage
from cirkelline.agents.deciding import Decides
from cirkelline.agents.events import RunEvent, TextDelta, ToolFinished, ToolParked, ToolStarted
from cirkelline.agents.searching import SearchesFirst
from cirkelline.configs import durations, errors
from cirkelline.configs.schema import AgentSpec, ModelSpec
from cirkelline.tools import failures
from cirkelline.tools.contract import Tool, ToolContext
from cirkelline.tools.execution import Executor

__all__ = [
    "ModelAway",
    "RunError",
    "RunEvent",
    "RunOutcome",
    "RunRequest",
    "RunStatus",
    "TextDelta",
    "ToolFinished",
    "ToolParked",
    "ToolStarted",
    "WallLimit",
    "run",
]

log = structlog.get_logger(__name__)

_LOOP: Final = "cirkelline.agents.agno_boundary.loop"
LAST_WORDS: Final = 5.0
"""Seconds a stopped run has to let go of its model and its tools; one that does not is left behind."""


class WallLimit(errors.CirkellineError):
    """A run took longer than its definition allows; the next attempt goes on behind what this one recorded."""

    passing = True


class RunStatus(StrEnum):
    """How a run ended, or that it is parked (WAITING); the words of the tasks table."""

    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    WAITING = "waiting"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRequest:
    """All that one run depends on.

    `model` is resolved (never `auto`). `messages` is the conversation before `input`, without a system prompt.
    The two `around_*` are where a journal stands: each gets the call and how to make it, and returns what it gave.
    `clock` is the moment that the model is told, by default the present one. `about` is what it is told of the user.
    A run that `decides` is there for one call of its tool, and ends with that.
    """

    spec: AgentSpec
    model: ModelSpec
    input: str
    ctx: ToolContext
    messages: tuple[ChatMessage, ...] = ()
    tools: Sequence[Tool] = ()
    around_model_call: steps.AroundModelCall = steps.call_model
    around_tool_call: steps.AroundToolCall = steps.call_tool
    clock: datetime | None = None
    about: str | None = None
    decides: bool = False


@dataclass(frozen=True, slots=True)
class ModelAway:
    """The model failed for everybody, not this run: nothing passes by itself if it `refused` us (key, quota)."""

    refused: bool
    retry_after: float | None = None


@dataclass(frozen=True, slots=True)
class RunError:
    """Why a run failed: the kind (`StepLimit`, `ModelRateLimited`, `EndRun`, …) and one sentence, without secrets.

    `passing` says that the same run may succeed another time, `away` that it was the model's failure and not the run's.
    """

    type: str
    message: str
    passing: bool = False
    away: ModelAway | None = None


@dataclass(frozen=True, slots=True)
class RunOutcome:
    """How a run ended; `output` is the answer, or as much of it as there was. `steps` counts the model calls."""

    status: RunStatus
    output: str
    error: RunError | None
    usage: Usage
    steps: int


async def run(
    request: RunRequest,
    *,
    emit: events.Emit = events.ignore,
    model_pool: models.ModelPool | None = None,
    executor: Executor | None = None,
    cancel: asyncio.Event | None = None,
) -> RunOutcome:
    """Run an agent to its outcome; whatever goes wrong is in it, nothing but asyncio's own cancellation is raised.

    `emit` is told what happens, on this loop. Setting `cancel` ends the run as cancelled; cancelling the task that awaits
    this stops the model and the tools as promptly and then raises, as ever. A worker gives its own `model_pool` and
    `executor`, which its runs share; without them the run opens and closes its own.
    """
    progress = _Progress()
    driver = asyncio.create_task(_drive(request, emit, model_pool, executor, progress), name="agent-run")
    stopped = await _until_over(driver, cancel, request.spec.limits.wall)
    if stopped is not None:
        status, error = stopped
    elif driver.cancelled():  # by whom, if not by us: a tool or a hook that cancels its own task
        status, error = RunStatus.FAILED, RunError("Cancelled", "something inside the run cancelled it")
    else:
        raised = driver.exception()
        error = None if isinstance(raised, steps.Parked) else _told(raised, request)
        status = RunStatus.FAILED if error else RunStatus.WAITING if raised else RunStatus.COMPLETED
    done = progress.steps
    if done is None:
        return RunOutcome(status, "", error, Usage(), 0)
    return RunOutcome(status, done.output, error, done.usage, done.taken)


@dataclass(slots=True)
class _Progress:
    """What a driver has come to, for whoever stops it."""

    steps: steps.Steps | None = None


async def _drive(
    request: RunRequest,
    emit: events.Emit,
    model_pool: models.ModelPool | None,
    executor: Executor | None,
    progress: _Progress,
) -> None:
    async with contextlib.AsyncExitStack() as stack:
        if model_pool is None:
            model_pool = await stack.enter_async_context(models.ModelPool(os.environ))
        if executor is None:
            executor = await stack.enter_async_context(Executor())
        model = await model_pool.get(request.model)
        progress.steps = steps.Steps(
            model=_held(model, request),
            tools=_by_name(request.tools),
            context=request.ctx,
            executor=executor,
            limit=request.spec.limits.steps,
            emit=emit,
            around_model_call=request.around_model_call,
            around_tool_call=request.around_tool_call,
        )
        now = request.clock or request.ctx.now()
        system = ChatMessage("system", prompts.system_prompt(request.spec, now, request.about))
        # agno takes a second to import: in a thread, the first time. Later no thread, as an author's tools may hold them all.
        loop = _agno_loop() if _LOOP in sys.modules else await asyncio.to_thread(_agno_loop)
        await loop.drive(progress.steps, [system, *request.messages, ChatMessage("user", request.input)])


def _held(model: ChatModel, request: RunRequest) -> ChatModel:
    if request.decides:
        return Decides(model)
    return SearchesFirst(model) if request.spec.knowledge.search_first else model


def _agno_loop() -> ModuleType:
    from cirkelline.agents.agno_boundary import loop  # noqa: PLC0415

    return loop


def _by_name(tools: Sequence[Tool]) -> dict[str, Tool]:
    named = {tool.name: tool for tool in tools}
    if len(named) < len(tools):
        twice = next(tool.name for tool in tools if named[tool.name] is not tool)
        raise errors.UsageError(f"two of the agent's tools are called '{twice}'; give one of them another name")
    return named


async def _until_over(
    driver: asyncio.Task[None], cancel: asyncio.Event | None, wall: float
) -> tuple[RunStatus, RunError | None] | None:
    """Wait for a run to end; return how it was stopped, or None when it ended by itself."""
    told = asyncio.create_task(cancel.wait()) if cancel is not None else None
    try:
        if cancel is None or not cancel.is_set():
            await asyncio.wait({driver, told} if told else {driver}, timeout=wall, return_when=asyncio.FIRST_COMPLETED)
        if driver.done():
            return None
        if cancel is not None and cancel.is_set():
            return RunStatus.CANCELLED, None
        limit = WallLimit(
            f"the run took longer than {durations.render(wall)}; raise limits.wall or make the task smaller"
        )
        return RunStatus.FAILED, RunError(type(limit).__name__, str(limit), passing=True)
    finally:
        if told is not None:
            told.cancel()
        await _stop(driver)


async def _stop(driver: asyncio.Task[None]) -> None:
    if driver.done():
        return
    driver.cancel()
    done, _ = await asyncio.wait({driver}, timeout=LAST_WORDS)
    if not done:  # a tool that swallows its cancellation must not keep the worker's slot as well
        log.warning("run.left_behind", seconds=LAST_WORDS)
    elif not driver.cancelled() and (error := driver.exception()) is not None:
        log.info("run.failed_while_stopping", type=type(error).__name__)


def _told(error: BaseException | None, request: RunRequest) -> RunError | None:
    if error is None:
        return None
    message = failures.masked(str(error)) or type(error).__name__
    if not isinstance(error, errors.CirkellineError):
        # Written out here: structlog's own rendering of a traceback shows every local variable, prompts and keys too.
        trace = failures.masked("".join(traceback.format_exception(error)))
        log.error("run.broke", agent=request.spec.name, task_id=str(request.ctx.task_id), exception=trace)
    passing = error.passing if isinstance(error, errors.CirkellineError) else True
    return RunError(type(error).__name__, message, passing, _away(error))


def _away(error: BaseException) -> ModelAway | None:
    match error:
        case chat_model.ModelRateLimited():
            return ModelAway(refused=False, retry_after=error.retry_after)
        case chat_model.ModelRefused():
            return ModelAway(refused=True)
        case chat_model.ModelTimedOut():  # a question may be too long for any answer in time, and no other one be
            return None
        case chat_model.ModelUnavailable():
            return ModelAway(refused=False)
        case _:
            return None
