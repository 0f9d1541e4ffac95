"""The runtime from Python: submit tasks, wait for their results, look at agents, and perhaps work on them here.

async with Runtime.open() as rt:
    task = await rt.submit("researcher", "Who wrote this?")
    print((await task.result(timeout=60)).output)
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

import structlog

from cirkelline.configs import loading, scalars
from cirkelline.configs.errors import CirkellineError, UsageError
from cirkelline.configs.schema import KnowledgeSpec
from cirkelline.configs.settings import Settings, load_settings
from cirkelline.runtime import accounts, applying, composition, deciding, logs, workflows
from cirkelline.runtime.applying import Applied
from cirkelline.runtime.composition import Opened
from cirkelline.state import agents, parking, submitting, tasks, users
from cirkelline.state import workflows as records
from cirkelline.state.agents import Agent
from cirkelline.state.connection import Conn, Database
from cirkelline.state.parking import Waiting
from cirkelline.state.submitting import NewTask
from cirkelline.state.tasks import Task, TaskStatus
from cirkelline.state.users import User
from cirkelline.state.workflows import WorkflowRun
from cirkelline.tools.embedding import EmbedderPool
from cirkelline.tools.library import Embedders, Found, UserLibrary, Wanted
from cirkelline.tools.toolbox import Toolbox

if TYPE_CHECKING:
    from cirkelline.runtime.ingest.adding import Added

_FIRST_LOOK: Final = 0.02
_LONGEST_LOOK: Final = 0.5


class TaskFailed(CirkellineError):
    """The task ended without a result; `task` is its row."""

    def __init__(self, message: str, task: Task) -> None:
        super().__init__(message)
        self.task = task


class TaskCancelled(TaskFailed):
    """The task was cancelled."""


class TaskUnfinished(CirkellineError, TimeoutError):
    """The task did not end within the time that was given; it goes on."""

    exit_code = 3


class BadAgentFiles(CirkellineError):
    """Some agent files are wrong; nothing was applied."""

    exit_code = 2


@dataclass(frozen=True, slots=True)
class Result:
    """What a completed task gave; `state_version` is the snapshot it left, `task` its row."""

    output: str
    state_version: int | None
    task: Task


@dataclass(frozen=True, slots=True)
class Submitted:
    """A task on its way."""

    id: UUID
    _db: Database = field(repr=False)

    async def get(self) -> Task:
        """Return the task's row as it is now."""
        async with self._db.connection() as conn:
            return await tasks.get(conn, self.id)

    async def result(self, timeout: float | None = None) -> Result:  # noqa: ASYNC109 - the task goes on without us
        """Wait for the end and return the result; a parked task ends when somebody has decided (`Tasks.waiting`).

        Raises: TaskFailed, TaskCancelled; TaskUnfinished after `timeout` s.
        """
        try:
            async with asyncio.timeout(timeout):
                task = await self._ended()
        except TimeoutError:
            raise TaskUnfinished(
                f"task {self.id} has not ended within {timeout:g} s (`cirkelline tasks show {self.id}`)"
            ) from None
        return _result(task)

    async def cancel(self) -> str:
        """Cancel the task: 'cancelled' at once, 'asked' when a worker runs it, or the status it had ended with."""
        async with self._db.connection() as conn:
            return await tasks.cancel(conn, self.id)

    async def _ended(self) -> Task:
        pause = _FIRST_LOOK
        while not (task := await self.get()).ended:
            await asyncio.sleep(pause)
            pause = min(_LONGEST_LOOK, pause * 1.5)
        return task


@dataclass(frozen=True, slots=True)
class SubmittedRun(Submitted):
    """A run of a workflow on its way; its id is its task's."""

    async def record(self) -> WorkflowRun:
        """Return the run's row in `ai.workflow_runs` as it is now."""
        async with self._db.connection() as conn:
            return await records.get(conn, str(self.id))

    async def output(self, timeout: float | None = None) -> Any:  # noqa: ASYNC109 - as `result`
        """Wait for the end and return what the workflow returned, as JSON. Raises: as `result`."""
        return _output((await self.result(timeout)).task)


def _output(task: Task) -> Any:
    return task.result.get("output") if scalars.is_mapping(task.result) else task.result


def _result(task: Task) -> Result:
    if task.status == TaskStatus.COMPLETED:
        output = _output(task)
        return Result(str(output if output is not None else ""), task.state_version, task)
    kind = TaskCancelled if task.status == TaskStatus.CANCELLED else TaskFailed
    raise kind(f"task {task.id} {task.status}: {task.error or 'no reason was kept'}", task)


@dataclass(frozen=True, slots=True)
class Tasks:
    """The tasks of the database."""

    _db: Database = field(repr=False)

    async def get(self, task_id: UUID | str) -> Task:
        """Return one task by its id, or the beginning of it. Raises: TaskNotFound."""
        async with self._db.connection() as conn:
            return await tasks.get(conn, await _task_id(conn, task_id))

    async def find(self, *, agent: str | None = None, status: str | None = None, limit: int = 50) -> list[Task]:
        """Return the newest tasks that fit. Raises: AgentNotFound."""
        async with self._db.connection() as conn:
            agent_id = (await agents.get(conn, agent)).id if agent is not None else None
            return await tasks.find(conn, agent_id=agent_id, status=status, limit=limit)

    async def waiting(self, task_id: UUID | str) -> list[Waiting]:
        """Return what a parked task waits for. Raises: TaskNotFound."""
        async with self._db.connection() as conn:
            return await parking.find(conn, await _task_id(conn, task_id))

    async def approve(self, task_id: UUID | str, *, call: str | None = None, by: str | None = None) -> None:
        """Let a call run that waits for approval; `call` says which, where several wait. Raises: NotAsked, WhichCall."""
        async with self._db.connection() as conn:
            await deciding.approve(conn, await _task_id(conn, task_id), call=call, by=by)

    async def reject(
        self, task_id: UUID | str, reason: str | None = None, *, call: str | None = None, by: str | None = None
    ) -> None:
        """Refuse a call that waits for approval; the model reads the reason. Raises: NotAsked, WhichCall."""
        async with self._db.connection() as conn:
            await deciding.reject(conn, await _task_id(conn, task_id), reason=reason, call=call, by=by)

    async def answer(self, task_id: UUID | str, text: str, *, call: str | None = None, by: str | None = None) -> None:
        """Answer what an agent asks a person. Raises: NotAsked, WhichCall, NoSuchChoice."""
        async with self._db.connection() as conn:
            await deciding.answer(conn, await _task_id(conn, task_id), text, call=call, by=by)

    def follow(self, task_id: UUID) -> Submitted:
        """Return a task that somebody submitted, to wait for it or to cancel it."""
        return Submitted(task_id, self._db)


@dataclass(frozen=True, slots=True)
class Agents:
    """The agents of the database."""

    _opened: Opened = field(repr=False)
    _environ: Mapping[str, str] = field(repr=False)
    _toolbox: Toolbox = field(repr=False)

    async def find(self) -> list[Agent]:
        """Return every agent."""
        async with self._opened.db.connection() as conn:
            return await agents.find(conn)

    async def get(self, name: str) -> Agent:
        """Return one agent by its name or id. Raises: AgentNotFound."""
        async with self._opened.db.connection() as conn:
            return await agents.get(conn, name)

    async def apply(self, paths: Sequence[Path | str]) -> list[Applied]:
        """Apply agent files, all or none, and say what that did. Raises: BadAgentFiles."""
        loaded = await asyncio.to_thread(self._load, [Path(path) for path in paths])
        plan = await applying.plan(self._opened.db, loaded, self._environ, resolve_auto=True)
        if plan.problems:
            raise BadAgentFiles("\n".join(str(problem) for problem in plan.problems))
        return await applying.apply(self._opened.db, plan)

    def _load(self, paths: Sequence[Path]) -> loading.Loaded:
        return applying.check(loading.load(paths, self._environ), self._toolbox, self._environ)


@dataclass(frozen=True, slots=True)
class Runtime:
    """An open runtime; get one from `Runtime.open()`."""

    opened: Opened
    tasks: Tasks
    agents: Agents
    toolbox: Toolbox = field(repr=False)
    embedders: Embedders = field(repr=False)
    _environ: Mapping[str, str] = field(repr=False, default_factory=lambda: os.environ)

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        settings: Settings | None = None,
        *,
        worker: bool = False,
        tools: Path | str | None = None,
        migrate: bool = True,
        environ: Mapping[str, str] = os.environ,
    ) -> AsyncGenerator[Runtime]:
        """Open the database of the settings (by default the environment's); with `worker`, run tasks here as well.

        `tools` is the folder of Python tools. Raises: DatabaseUnavailable, MigrationError, UsageError.
        """
        chosen = settings or load_settings(environ)
        if not structlog.is_configured():  # a program that logs in its own way has done so before
            logs.configure(chosen, environ)
        async with composition.open_database(chosen, migrate=migrate) as opened:
            toolbox = Toolbox(composition.tools_folder(None, Path(tools) if tools else None), chosen.tool_modules)
            async with (
                EmbedderPool(environ) as embedders,
                _working(opened, toolbox, environ) if worker else contextlib.nullcontext(),
            ):
                yield cls(opened, Tasks(opened.db), Agents(opened, environ, toolbox), toolbox, embedders, environ)

    async def user(self, token: str) -> User:
        """Return the user whom a token of `cirkelline users login` stands for; `str(user.id)` is a `user=`.

        Raises: LoginRefused.
        """
        return await accounts.by_token(self.opened.db, token)

    async def submit(
        self,
        agent: str | None,
        input: Any,
        *,
        user: str | None = None,
        type: str = "task",
        capabilities: Sequence[str] = (),
        priority: int = 0,
        at: datetime | None = None,
        delay: float | None = None,
        key: str | None = None,
    ) -> Submitted:
        """Put a task in line for an agent, or (None) for whichever has these capabilities; `input` is text, or any JSON.

        It runs from `at` on, or after `delay` seconds, those of a higher priority first. With a `key` the same submission is
        the same task, however often it is made. Raises: AgentNotFound, UserInactive, SubmissionRefused, KeyTaken.
        """
        async with self.opened.db.connection() as conn:
            agent_id = (await agents.answering(conn, agent)).id if agent is not None else None
            user_id = (await users.ensure(conn, user)).id if user is not None else None
            new = NewTask(
                agent_id=agent_id,
                payload={"input": input},
                task_type=type,
                user_id=user_id,
                priority=priority,
                run_at=at,
                delay=delay,
                key=key,
                capabilities=capabilities,
            )
            return Submitted((await submitting.submit(conn, new)).id, self.opened.db)

    async def submit_workflow(
        self, name: str, input: Mapping[str, Any] | None = None, *, user: str | None = None
    ) -> SubmittedRun:
        """Put a run of a workflow in line; `name` is a shipped one's, `module:function`, or the function's alone.

        Raises: WorkflowNotFound, InputInvalid.
        """
        db = self.opened.db
        run_id, _ = await workflows.submit(db, self.toolbox, name, input, user=user)
        return SubmittedRun(run_id, db)

    async def run_workflow(
        self,
        name: str,
        input: Mapping[str, Any] | None = None,
        *,
        user: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109 - the run goes on without us
    ) -> Any:
        """Submit a run, wait for its end and return what the workflow returned, as JSON.

        Raises: WorkflowNotFound, InputInvalid; TaskFailed, TaskCancelled; TaskUnfinished after `timeout` seconds.
        """
        return await (await self.submit_workflow(name, input, user=user)).output(timeout)

    async def add_knowledge(
        self,
        sources: Sequence[Path | str],
        *,
        user: str | None = None,
        shared: bool = False,
        tags: Sequence[str] = (),
        sync: bool = False,
    ) -> Added:
        """Bring the documents of files, folders and addresses up to date, for a user or with `shared` for everybody.

        `sync` removes those whose files are gone from the folders. Cancelled, the same call goes on. What was refused or
        failed is in `bad` of what it returns. Raises: UsageError, EmbedderUnavailable, TenantsUnprotected.
        """
        from cirkelline.runtime.ingest import adding  # noqa: PLC0415 - a program without documents does without readers

        if (user is None) is not shared:
            raise UsageError("documents belong to somebody: give add_knowledge either user=… or shared=True")
        given = [str(source) for source in sources]
        return await adding.add_for(self.opened, self._environ, given, user=user, tags=tags, sync=sync)

    async def search_knowledge(
        self,
        query: str,
        *,
        user: str | None = None,
        wanted: Wanted | None = None,
        limit: int = 6,
        mode: str = "hybrid",
        threshold: float | None = None,
    ) -> Found:
        """Return the passages that fit a query best, of a user's documents and the shared ones, or of these alone.

        Raises: UserNotFound, UserInactive, NoSuchDocument; ValueError for a mode or threshold that there is not.
        """
        spec = KnowledgeSpec.model_validate({"mode": mode, "threshold": threshold})
        user_id = None
        if user is not None:
            async with self.opened.db.connection() as conn:
                user_id = (await users.acting(conn, user)).id
        return await UserLibrary(self.opened.db, self.embedders, user_id, spec).search(query, wanted, limit=limit)

    async def cancel(self, task_id: UUID | str) -> str:
        """Cancel a task: 'cancelled' at once, 'asked' when a worker runs it, or the status it had ended with."""
        async with self.opened.db.connection() as conn:
            return await tasks.cancel(conn, await _task_id(conn, task_id))


async def _task_id(conn: Conn, reference: UUID | str) -> UUID:
    return reference if isinstance(reference, UUID) else await tasks.resolve(conn, reference)


@asynccontextmanager
async def _working(opened: Opened, toolbox: Toolbox, environ: Mapping[str, str]) -> AsyncGenerator[None]:
    async with composition.open_worker(opened, toolbox, environ) as worker:
        serving = asyncio.create_task(worker.serve(), name="worker")
        try:
            yield
        finally:
            worker.stop_at_once()
            await serving
