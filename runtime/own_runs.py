"""Runs of workflows that a command executes itself, because only its machine has what they work on.

Such a run is a run like any other: a task with journaled steps and a row in `ai.workflow_runs`. But no daemon has its code,
and the worker inside the command claims this one run. Cut off, it stays in line for the next command that goes on with it.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID, uuid4

import psutil

from cirkelline.agents.models import ModelPool
from cirkelline.configs.errors import CirkellineError, UsageError
from cirkelline.runtime.composition import Opened
from cirkelline.runtime.patience import until_answered
from cirkelline.runtime.registry import Registry, Unservable
from cirkelline.runtime.worker import Worker
from cirkelline.runtime.workflows import PreparedWorkflow
from cirkelline.state import agents, own_runs, parking, tasks
from cirkelline.state import workflows as records
from cirkelline.state.claims import DEATHS_ALLOWED
from cirkelline.state.own_runs import Unended
from cirkelline.state.parking import Decided
from cirkelline.state.tasks import Task, TaskStatus
from cirkelline.tools.execution import Executor
from cirkelline.tools.toolbox import Toolbox
from cirkelline.tools.workflows import Workflow

HOST: Final = "host"
"""The key of a run's input that says which machine's files it is about."""

_FIRST_LOOK: Final = 0.02
_LONGEST_LOOK: Final = 0.25


class RunPaused(UsageError):
    """The workflow is paused, so that no run of it goes on."""


class RunFailed(CirkellineError):
    """A run that a command executed itself has failed or was cancelled; `task` is its row."""

    def __init__(self, message: str, task: Task) -> None:
        super().__init__(message)
        self.task = task


@dataclass(frozen=True, slots=True)
class OwnRun:
    """A run to be carried out here; `begun` when an earlier process had begun it."""

    id: UUID
    agent_id: UUID
    given: Mapping[str, Any]
    user_id: UUID | None
    begun: bool = False


async def submit(opened: Opened, label: str, given: Mapping[str, Any], *, user_id: UUID | None) -> OwnRun:
    """Put a run in line that this process is about to carry out. Raises: RunPaused."""
    agent_id = await _ready(opened, label)
    run = OwnRun(uuid4(), agent_id, {**given, HOST: socket.gethostname()}, user_id)
    async with opened.db.connection() as conn:
        await own_runs.submit(conn, run.id, agent_id, run.given, user_id=user_id)
    return run


async def interrupted(
    opened: Opened, label: str, fits: Callable[[Mapping[str, Any], UUID | None], bool]
) -> OwnRun | None:
    """Return the newest run of this machine that was cut off and fits, ready to be carried out; None if there is none.

    One that another living process carries out is left to it. Raises: RunPaused.
    """
    agent_id = await _ready(opened, label)
    async with opened.db.connection() as conn:
        for found in await own_runs.unended(conn, agent_id):
            if _is_left(found) and fits(found.given, found.user_id):
                return OwnRun(found.id, agent_id, found.given, found.user_id, begun=True)
    return None


def _is_left(run: Unended) -> bool:
    """Whether nobody carries a run of this machine out; a killed process's lease says the contrary for some seconds."""
    if not isinstance(run.given, dict) or run.given.get(HOST) != socket.gethostname():  # pyright: ignore[reportUnknownMemberType]
        return False
    if run.status == TaskStatus.WAITING:
        return run.deaths >= DEATHS_ALLOWED
    if run.fresh:
        return False
    return not run.held or (run.host == socket.gethostname() and run.pid is not None and not _lives(run.pid))


def _lives(pid: int) -> bool:
    return psutil.pid_exists(pid)


async def _ready(opened: Opened, label: str) -> UUID:
    agent_id = await records.ensure(opened.db, label)
    async with opened.db.connection() as conn:
        status = (await agents.get(conn, str(agent_id))).status
    if status in {"paused", "retired"}:
        raise RunPaused(f"workflow {label} is {status}: `cirkelline agents resume {records.handle(label)}` lets it run")
    return agent_id


async def carry_out(opened: Opened, run: OwnRun, label: str, workflow: Workflow) -> Task:
    """Execute a run to its end and return its task; cancelled, it gives the run back to go on another time.

    Raises: RunFailed.
    """
    registry = _OneWorkflow(opened, PreparedWorkflow(run.agent_id, 1, label, workflow))
    async with (
        Executor() as executor,
        ModelPool({}) as model_pool,
        Worker(opened.db, opened.settings, registry, executor, model_pool, slots=1, session=run.id) as worker,
    ):
        serving = asyncio.create_task(worker.serve(), name="own-run")
        ended = asyncio.create_task(_ended(opened, run.id), name="own-run-end")
        try:
            await asyncio.wait({serving, ended}, return_when=asyncio.FIRST_COMPLETED)
            if serving.done():  # asked to drain, or broken
                serving.result()
                raise CirkellineError("the worker of this command was asked to stop: the same command goes on")
            task = ended.result()
        finally:
            ended.cancel()
            worker.stop_at_once()
            await asyncio.wait({serving, ended})
    if task.status != TaskStatus.COMPLETED:
        raise RunFailed(f"run {str(task.id)[:8]} {task.status}: {task.error or 'no reason was kept'}", task)
    return task


async def _ended(opened: Opened, run_id: UUID) -> Task:
    async def look() -> Task:
        async with opened.db.connection() as conn:
            return await tasks.get(conn, run_id)

    async def go_on() -> Decided:
        async with opened.db.connection() as conn:
            limit = opened.settings.state_limit
            return await parking.decide_deaths(conn, run_id, again=True, reason="", state_limit=limit)

    pause, may_go_on = _FIRST_LOOK, True
    while not (task := await until_answered(look, "see the end of a run")).ended:
        if task.status == TaskStatus.WAITING:
            # Parked because processes died in it: whoever gave the command again has decided that it goes on.
            if not may_go_on:
                break
            may_go_on = False
            await until_answered(go_on, "go on with a run")
        await asyncio.sleep(pause)
        pause = min(_LONGEST_LOOK, pause * 1.5)
    return task


class _OneWorkflow(Registry):
    """What the worker of one run can serve: its workflow, and no agent or tool of anybody."""

    def __init__(self, opened: Opened, prepared: PreparedWorkflow) -> None:
        super().__init__(opened.db, Toolbox(None), {})
        self._own = prepared

    @property
    def servable(self) -> list[UUID]:
        return [self._own.agent_id]

    @property
    def refused(self) -> dict[str, str]:
        return {}

    def name(self, agent_id: UUID) -> str:
        del agent_id
        return self._own.name

    async def refresh(self, *, again: bool = False, tools_changed: bool = False, unchecked: bool = True) -> bool:
        del again, tools_changed, unchecked
        return False

    async def get(self, agent_id: UUID, version: int) -> PreparedWorkflow:
        if agent_id != self._own.agent_id:
            raise Unservable("this worker executes one run of a workflow, and nothing else")
        return PreparedWorkflow(agent_id, version, self._own.label, self._own.workflow)
