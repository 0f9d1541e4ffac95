"""One claimed task from its claim to its written end; whatever happens in between stays here."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from uuid import UUID

import structlog

from cirkelline.agents import events
from cirkelline.agents.models import ModelPool
from cirkelline.agents.run import RunError
from cirkelline.agents.run import run as run_agent
from cirkelline.runtime import invoking
from cirkelline.runtime.finishing import Finishing
from cirkelline.runtime.patience import first_line, until_answered
from cirkelline.runtime.recording import Recording
from cirkelline.runtime.registry import Prepared, Registry, Unservable
from cirkelline.runtime.streaming import Telling
from cirkelline.runtime.workflow_attempt import Attempt
from cirkelline.runtime.workflows import PreparedWorkflow
from cirkelline.state import claims
from cirkelline.state.claims import Claim, Finish, Finished
from cirkelline.state.connection import Database
from cirkelline.state.journal import Fence
from cirkelline.state.transactions import ToolConnections
from cirkelline.tools.execution import Executor

log = structlog.get_logger(__name__)


@dataclass(slots=True, eq=False)
class Run:
    """One attempt at a task by this worker; `owner` is the id it was claimed under.

    `ended` once the agent is done, `written` once its end is in the database: the task is not held any more then.
    """

    claim: Claim
    owner: UUID
    cancel: asyncio.Event = field(default_factory=asyncio.Event)
    ended: bool = False
    written: bool = False
    task: asyncio.Task[None] | None = None


@dataclass(frozen=True, slots=True)
class Runner:
    """What all runs of a worker share."""

    db: Database
    registry: Registry
    model_pool: ModelPool
    executor: Executor
    finishing: Finishing
    connections: ToolConnections

    async def run(self, run: Run) -> None:
        """Run a claimed task to its end and write it; raises nothing but cancellation."""
        structlog.contextvars.bind_contextvars(task_id=run.claim.id)
        began = time.monotonic()
        async with self._telling(run.claim) as telling:
            finish = await self._finish(run, telling.emit if telling else events.ignore)
            run.ended = True
            if finish is None:
                return
            finished = await self.finishing.write(run.owner, finish)
            if telling is not None:
                await telling.done()
        _report(finish, finished, round((time.monotonic() - began) * 1000))

    @asynccontextmanager
    async def _telling(self, claim: Claim) -> AsyncGenerator[Telling | None]:
        if claim.task_type != invoking.CHAT:
            yield None
            return
        async with Telling(self.db, claim.id, claim.attempt) as telling:
            yield telling

    async def _finish(self, run: Run, emit: events.Emit) -> Finish | None:
        """Return what is to be written, or None when the task was given back."""
        claim = run.claim
        try:
            prepared = await until_answered(lambda: self.registry.get(claim.agent_id, claim.definition_version), "run")
            structlog.contextvars.bind_contextvars(agent=prepared.name)
            log.info("task.started", type=run.claim.task_type, attempt=run.claim.attempt, definition=prepared.version)
            recording = self._recording(run)
            if isinstance(prepared, PreparedWorkflow):
                return await Attempt(self.db, self.executor, recording, run.claim, prepared).run(run.cancel)
            return await self._invoke(run, prepared, recording, emit)
        except Unservable as reason:
            await self._give_back(run, str(reason))
            return None
        except Exception as error:  # the task's boundary: whatever broke, the worker and its other tasks go on
            log.exception("task.broke")
            return invoking.failed(claim.id, claim.attempt, RunError(type(error).__name__, first_line(error)))

    def _recording(self, run: Run) -> Recording:
        fence = Fence(run.owner, run.claim.id, run.claim.attempt)
        return Recording(self.db, self.connections, fence, user_id=run.claim.user_id)

    async def _invoke(self, run: Run, prepared: Prepared, recording: Recording, emit: events.Emit) -> Finish:
        claim = run.claim
        begun = await until_answered(lambda: invoking.begin(self.db, claim, prepared, recording), "run")
        if begun.resumed:
            log.info("task.resumed", steps=begun.resumed)
        outcome = await run_agent(
            begun.request, emit=emit, model_pool=self.model_pool, executor=self.executor, cancel=run.cancel
        )
        return invoking.finish(claim, prepared, begun, outcome)

    async def _give_back(self, run: Run, reason: str) -> None:
        self.registry.hold_back(run.claim.agent_id, reason)
        log.warning("task.released", reason=reason)

        async def release() -> int:
            async with self.db.connection() as conn:
                return await claims.release(conn, run.owner, [run.claim.id], reason=reason)

        await until_answered(release, "give a task back")


def _report(finish: Finish, finished: Finished | None, ms: int) -> None:
    if finished is None:
        # Another worker took it over, or the answer to a flush was lost with the connection after it had been written.
        log.warning("task.not_ours_any_more", ms=ms)
    elif finished.status == "failed":
        log.warning("task.finished", status=finished.status, ms=ms, error=finished.error, state=finished.state_version)
    elif finish.status == "waiting":
        log.info("task.parked", status=finished.status, ms=ms)
    else:
        log.info("task.finished", status=finished.status, ms=ms, tokens=finish.tokens, state=finished.state_version)
