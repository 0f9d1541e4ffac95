"""The door through which a worker claims, one claim at a time, and what it may hold without having heard of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Collection, Generator
from contextlib import asynccontextmanager, contextmanager
from uuid import UUID

import structlog

from cirkelline.runtime.waiting import Waiting
from cirkelline.state import claims
from cirkelline.state.connection import Conn, Database

log = structlog.get_logger(__name__)


class Claiming:
    """Who claims for a worker is alone in here. `known` names the tasks that it knows to be its own.

    `unsure` while it may hold others: the answer to a claim was lost, or it was handed a task and not told.
    """

    def __init__(self, db: Database, waiting: Waiting, known: Callable[[], Collection[UUID]]) -> None:
        self.unsure = False
        self._db = db
        self._waiting = waiting
        self._known = known
        self._lock = asyncio.Lock()

    @asynccontextmanager
    async def alone(self) -> AsyncGenerator[None]:
        """Let nobody else claim meanwhile."""
        async with self._lock:
            yield

    @asynccontextmanager
    async def connection(self) -> AsyncGenerator[Conn]:
        """Lend a connection to who is alone."""
        async with self._lock, self._db.connection() as conn:
            yield conn

    @contextmanager
    def answered(self) -> Generator[None]:
        """Be unsure where no answer comes: the server may have claimed for us, and only the answer been lost."""
        try:
            yield
        except BaseException:
            self.unsure = True
            self._waiting.excuse()
            raise

    async def give_back_unknown(self, conn: Conn, worker: UUID) -> None:
        """Give back what this worker holds and does not know of, where there may be such a thing."""
        if not self.unsure:
            return
        self.unsure = False  # before looking: what is missed from now on may not be seen
        told = self._waiting.look()
        with self.answered():
            held = await claims.held(conn, worker)
            known = self._known()
            unknown = [task_id for task_id in held if task_id not in known]
            self._waiting.give_back(unknown, told=told)
            if unknown:
                log.warning("tasks.unknown_given_back", tasks=len(unknown))
                await claims.release(conn, worker, unknown, reason="its worker had not heard of it")
