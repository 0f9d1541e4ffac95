"""What a worker that has nothing to do tells those who submit: to wake it, and that the next task may be handed to it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from typing import Final
from uuid import UUID

import structlog

from cirkelline.runtime import patience
from cirkelline.runtime.patience import first_line
from cirkelline.state import offers, wakeups, workers
from cirkelline.state.claims import Claim
from cirkelline.state.connection import Conn, DatabaseUnavailable, QueryError

_CHANNELS: Final = (wakeups.TASKS, wakeups.AGENTS, wakeups.CANCEL)

log = structlog.get_logger(__name__)


class Waiting:
    """The word of one worker, as far as it knows itself; `is_said` while submitters notify it."""

    def __init__(self) -> None:
        self.is_said = False
        self._channel = offers.own_channel()
        self._hears = False
        self._offered: tuple[UUID, ...] = ()
        self._doubted = False
        self._given_back: set[UUID] = set()

    def begin_anew(self) -> None:
        """Nothing has been said under the worker's new id."""
        self.is_said, self._offered = False, ()

    async def say(self, conn: Conn, worker: UUID, *, waiting: bool) -> None:
        """Tell submitters whether to notify this worker; one that does not wait offers nothing."""
        await workers.set_waiting(conn, worker, waiting=waiting)
        self.is_said = waiting
        if not waiting and self._offered:
            await self.offer(conn, worker, ())

    def stands(self, agents: tuple[UUID, ...]) -> bool:
        """Whether just this is offered already, as far as anybody knows."""
        return not self._doubted and self._offered == (agents if self._hears else ())

    def doubt(self) -> None:
        """Believe no longer that the offer stands: for long nobody has said a word."""
        self._doubted = bool(self._offered)

    async def offer(self, conn: Conn, worker: UUID, agents: tuple[UUID, ...]) -> bool:
        """Offer to take a task of one of these agents; False when the last offer was taken and nobody has told of it."""
        offered = agents if self._hears else ()
        stood = await offers.make(conn, worker, self._channel, offered)
        told = stood or not self._offered
        if not told and self._doubted and self._hears:
            log.warning("worker.not_told", channel="LISTEN", instead="it takes tasks from the line alone")
            self._hears = False
        self._offered, self._doubted = offered, False
        return told

    def given_back(self, tasks: Sequence[UUID]) -> None:
        """These will not be run here, whoever hands them over."""
        self._given_back.update(tasks)

    def handed(self, payload: str) -> tuple[UUID, Claim] | None:
        """Return what this worker was handed, and under which of its ids; None for what it has given back since."""
        self._offered = ()
        found = offers.handed(payload)
        return None if found is None or found[1].id in self._given_back else found

    async def listen(self, url: str) -> AsyncGenerator[list[tuple[str, str]]]:
        """Yield what is told on the workers' channels and, as `""`, on this worker's own; nothing when it begins to listen again."""
        pauses = patience.pauses()
        while True:
            try:
                async with wakeups.listening(url, (self._channel, *_CHANNELS)) as listening:
                    self._hears, self._offered = True, ()
                    pauses = patience.pauses()
                    yield []
                    while True:
                        notices = await listening.wait(60.0)
                        yield [("" if name == self._channel else name, payload) for name, payload in notices]
            except (DatabaseUnavailable, QueryError) as error:
                log.warning("worker.deaf", error=first_line(error), instead="it polls")
            self._hears = False
            await asyncio.sleep(next(pauses))
