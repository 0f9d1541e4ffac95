"""One claimed task from its claim to its written end; whatever happens in between stays here."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial
from typing import Final
from uuid import UUID

import structlog

from cirkelline.agents import events
from cirkelline.agents.models import ModelPool
from cirkelline.agents.run import RunError
from cirkelline.agents.run import run as run_agent
from cirkelline.runtime import citing, ending, invoking
from cirkelline.runtime.finishing import Finishing
from cirkelline.runtime.holding import Holding
from cirkelline.runtime.patience import first_line, until_answered
from cirkelline.runtime.recording import Recording
from cirkelline.runtime.registry import Prepared, Registry, Unservable
from cirkelline.runtime.streaming import Telling
from cirkelline.runtime.workflow_attempt import Attempt
from cirkelline.runtime.workflows import PreparedWorkflow
from cirkelline.state import claims, retrying
from cirkelline.state.claims import Claim, Finish, Finished
from cirkelline.state.connection import Database
from cirkelline.state.journal import Fence
from cirkelline.state.retrying import Backoff
from cirkelline.state.transactions import ToolConnections
from cirkelline.tools.execution import Executor
from cirkelline.tools.library import Embedders

LAST_WRITES: Final = 5.0
"""Seconds that a stopping worker tries to write what has ended and to give back what has not."""

_CLEANING_UP: Final = LAST_WRITES + 1.0
"""Seconds that a stopped run has to let go of its model and its tools, before it is stopped once more."""

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
    probe: str | None = None
    """The model on hold that this run tries for everybody, until it has answered."""
    task: asyncio.Task[None] | None = None

    @property
    def fence(self) -> Fence:
        """What nobody else can have while this run holds its task."""
        return Fence(self.owner, self.claim.id, self.claim.attempt)

    def probed(self) -> None:
        """Remember that the model has answered, and that nothing is left to be tried."""
        self.probe = None


async def end(runs: Collection[Run]) -> None:
    """Stop the agents that still run; let what has ended be written."""
    await ending.end([run.task for run in runs if run.task is not None and not run.ended], again=_CLEANING_UP)
    writing = {run.task for run in runs if run.task is not None}
    if writing:
        await asyncio.wait(writing, timeout=LAST_WRITES)
        await ending.end(writing, again=_CLEANING_UP)


@dataclass(frozen=True, slots=True)
class Runner:
    """What all runs of a worker share."""

    db: Database
    registry: Registry
    model_pool: ModelPool
    executor: Executor
    finishing: Finishing
    connections: ToolConnections
    holding: Holding
    embedders: Embedders | None = None

    async def run(self, run: Run) -> None:
        """Run a claimed task to its end and write it; raises nothing but cancellation."""
        structlog.contextvars.bind_contextvars(task_id=run.claim.id)
        began = time.monotonic()
        async with self._telling(run.claim) as telling:
            finish = await self._finish(run, telling.emit if telling else events.ignore)
            run.ended = True
            if run.probe is not None:
                await self.holding.gave_nothing(run.owner, run.probe)
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
        """Return what is to be written, or None when the task was given back or put off."""
        claim = run.claim
        try:
            prepared = await until_answered(lambda: self.registry.get(claim.agent_id, claim.definition_version), "run")
            structlog.contextvars.bind_contextvars(agent=prepared.name)
            log.info("task.started", type=run.claim.task_type, attempt=run.claim.attempt, definition=prepared.version)
            recording = self._recording(run)
            if isinstance(prepared, PreparedWorkflow):
                attempt = Attempt(
                    self.db, self.executor, recording, run.claim, prepared, self.embedders, self.model_pool
                )
                return await attempt.run(run.cancel)
            return await self._invoke(run, prepared, recording, emit)
        except Unservable as reason:
            await self._give_back(run, str(reason))
            return None
        except Exception as error:  # the task's boundary: whatever broke, the worker and its other tasks go on
            log.exception("task.broke")
            return invoking.failed(claim.id, claim.attempt, RunError(type(error).__name__, first_line(error)))

    def _recording(self, run: Run) -> Recording:
        return Recording(self.db, self.connections, run.fence, user_id=run.claim.user_id)

    async def _invoke(self, run: Run, prepared: Prepared, recording: Recording, emit: events.Emit) -> Finish | None:
        claim = run.claim
        begin = partial(invoking.begin, self.db, claim, prepared, recording, self.embedders)
        begun = await until_answered(begin, "run")
        if begun.resumed:
            log.info("task.resumed", steps=begun.resumed)
        request = begun.request
        if run.probe is not None:
            seam = self.holding.lifting(run.probe, request.around_model_call, run.probed)
            request = replace(request, around_model_call=seam)
        outcome = await run_agent(
            request, emit=emit, model_pool=self.model_pool, executor=self.executor, cancel=run.cancel
        )
        run.ended = True
        cited = await until_answered(
            lambda: citing.check(self.db, begun.request, outcome), "check what an answer cites"
        )
        finish = invoking.finish(claim, prepared, begun, outcome, cited)
        if outcome.error is not None and await self._again(run, prepared, outcome.error, finish):
            return None
        return finish

    async def _again(self, run: Run, prepared: Prepared, error: RunError, finish: Finish) -> bool:
        """Put a failed task back in line, where the failure was its model's or may pass; return whether it is."""
        # A person who waits for an answer is told at once.
        if error.away is not None and run.claim.task_type != invoking.CHAT:
            probe = run.probe is not None
            if await self.holding.failed(run.fence, prepared.model, error, finish, probe=probe):
                log.warning("task.put_back", error=error.message)
                return True
        return await self._put_off(run, prepared, error, finish)

    async def _put_off(self, run: Run, prepared: Prepared, error: RunError, finish: Finish) -> bool:
        """Put a failed task back in line for another attempt, if its definition grants one; return whether it is."""
        retry = prepared.spec.retry
        if not error.passing or retry.attempts == 1:
            return False
        backoff = Backoff(retry.attempts, retry.backoff, retry.longest)

        async def put_off() -> datetime | None:
            async with self.db.connection() as conn:
                return await retrying.put_off(
                    conn, run.fence, finish.steps, kind=error.type, reason=error.message, backoff=backoff
                )

        due = await until_answered(put_off, "put a task off")
        if due is not None:
            log.warning("task.put_off", error=error.message, due=due)
        return due is not None

    async def _give_back(self, run: Run, reason: str) -> None:
        self.registry.hold_back(run.claim.agent_id, reason)
        await self.decline(run, reason)

    async def decline(self, run: Run, reason: str) -> None:
        """Give a claimed task back unfinished, with the reason."""
        run.ended = True
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
