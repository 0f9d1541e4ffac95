"""Where a run's steps are kept: in the journal, fenced by the claim that the run has its task under."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from typing import Final
from uuid import UUID

from cirkelline.agents.journaling import ClaimLost
from cirkelline.configs.errors import CirkellineError
from cirkelline.runtime.patience import first_line, until_answered
from cirkelline.state import journal
from cirkelline.state.connection import Database, DatabaseUnavailable, QueryError
from cirkelline.state.journal import Fence, Step, Written
from cirkelline.state.transactions import ToolConnections, ToolTransaction

_LOST: Final = "the task is another worker's by now"


class StepRefused(CirkellineError):
    """The database does not take a step as it is."""


@dataclass(frozen=True, slots=True)
class Recording:
    """The recorder of one attempt; waits while the server is away, as a step must be safe before the next begins."""

    db: Database
    connections: ToolConnections
    fence: Fence
    user_id: UUID | None = None

    async def write(self, steps: Sequence[Step]) -> None:
        """Keep these steps. Raises: ClaimLost, StepRefused."""

        async def write() -> Written:
            async with self.db.connection() as conn:
                return await journal.write(conn, self.fence, steps)

        try:
            # Tried again after a lost answer it finds its own steps THERE.
            written = await until_answered(write, "keep a step")
        except QueryError as error:
            raise StepRefused(f"step {steps[-1].position} cannot be stored: {first_line(error)}") from None
        if written is Written.LOST:
            raise ClaimLost(_LOST)

    @asynccontextmanager
    async def transaction(self, *, plain: bool) -> AsyncGenerator[_Transaction]:
        """Open a transaction for a tool, as soon as the server is there.

        It may be away just as a commit's answer was lost: whoever gave up then would tell the model of a failure, while
        the record says that the call was done.
        """
        async with AsyncExitStack() as stack:

            async def begin() -> ToolTransaction:
                opening = self.connections.begin(self.fence.worker, plain=plain, user_id=self.user_id)
                try:
                    return await stack.enter_async_context(opening)
                except DatabaseUnavailable as error:
                    raise error.__cause__ if isinstance(error.__cause__, QueryError) else error from None

            yield _Transaction(self, await until_answered(begin, "open a tool's transaction"))


@dataclass(frozen=True, slots=True)
class _Transaction:
    recording: Recording
    inner: ToolTransaction

    @property
    def connection(self) -> object:
        return self.inner.connection

    def abandon(self) -> None:
        self.inner.abandon()

    async def commit(self, step: Step) -> Step:
        fence = self.recording.fence
        match await self.inner.commit(fence, step):
            case Written.WRITTEN:
                return step
            case Written.THERE:
                return await self._kept(step)
            case Written.LOST:
                raise ClaimLost(_LOST)

    async def _kept(self, step: Step) -> Step:
        """Return the step that a commit of ours had kept although its answer never came."""
        async with self.recording.db.connection() as conn:
            found = await journal.read(conn, self.recording.fence.task)
        return next((each for each in found if (each.position, each.call) == (step.position, step.call)), replace(step))
