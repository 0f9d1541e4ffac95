"""What a worker that has nothing to do tells those who submit: to wake it, and that the next task may be handed to it."""

from __future__ import annotations

import asyncio
from collections import deque
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
        self.handed: deque[tuple[UUID, Claim]] = deque()
        self._channel = offers.own_channel()
        self._hears = False
        self._offered: tuple[UUID, ...] = ()
        self._doubted = False
        self._since = 0.0  # when it was offered, by the loop's clock
        self._given_back: set[UUID] = set()
        self._untold: set[UUID] = set()  # of these, what nobody has told of, though this worker listened
        self._missed = True  # it may have been told what it did not hear, as it did not listen

    def begin_anew(self) -> None:
        """Nothing has been said under the worker's new id."""
        self.is_said, self._offered, self._doubted = False, (), False

    async def say(self, conn: Conn, worker: UUID, *, waiting: bool) -> bool:
        """Tell submitters whether to notify this worker; one that does not wait offers nothing. Returns what `offer` does."""
        await workers.set_waiting(conn, worker, waiting=waiting)
        self.is_said = waiting
        return waiting or await self.offer(conn, worker, ())

    def stands(self, agents: tuple[UUID, ...]) -> bool:
        """Whether just this is offered already, as far as anybody knows."""
        return not self._doubted and self._offered == (agents if self._hears else ())

    def doubt(self, *, after: float, silent: bool) -> None:
        """Believe no longer that an offer stands that is older than so many seconds, or about which all has been silent.

        In silence nor that this worker hears at all, where it has been handed a task and never been told.
        """
        old = asyncio.get_running_loop().time() - self._since > after
        self._doubted = self._doubted or (bool(self._offered) and (silent or old))
        if silent and self._untold:
            log.warning("worker.not_told", tasks=len(self._untold), instead="it takes tasks from the line alone")
            self._hears = False
            self._untold.clear()

    async def offer(self, conn: Conn, worker: UUID, agents: tuple[UUID, ...]) -> bool:
        """Offer to take a task of one of these agents; False when the last offer may have been taken without a word."""
        offered = agents if self._hears else ()
        stood = await offers.make(conn, worker, self._channel, offered)
        told = stood or not self._offered
        self._offered, self._doubted, self._since = offered, False, asyncio.get_running_loop().time()
        return told

    def look(self) -> bool:
        """Whether this worker ought to have been told of all it holds by now, when it begins to look."""
        told, self._missed = self._hears and not self._missed, False
        return told

    def give_back(self, tasks: Sequence[UUID], *, told: bool) -> None:
        """These, which this worker holds and does not know of, will not be run here, whoever tells of them."""
        self._given_back.update(tasks)
        if told:
            self._untold.update(tasks)

    def excuse(self) -> None:
        """What it holds unknown to itself may be what it has asked for, or was told while it did not listen."""
        self._missed = True

    def hear(self, payload: str) -> bool:
        """Put what this worker was handed under one of its ids into `handed`; False for what is no task, or given back."""
        self._offered = ()
        found = offers.handed(payload)
        if found is None or found[1].id in self._given_back:
            self._untold -= {found[1].id} if found else set()
            return False
        self.handed.append(found)
        return True

    async def listen(self, url: str) -> AsyncGenerator[list[tuple[str, str]]]:
        """Yield what is told on the workers' channels and, as `""`, on this worker's own; `[]` each time it begins to listen."""
        pauses = patience.pauses()
        while True:
            try:
                async with wakeups.listening(url, (self._channel, *_CHANNELS)) as listening:
                    self._hears, self._doubted = True, bool(self._offered)
                    self._untold.clear()
                    self.excuse()
                    pauses = patience.pauses()
                    yield []
                    while True:
                        if notices := await listening.wait(60.0):
                            yield [("" if name == self._channel else name, payload) for name, payload in notices]
            except (DatabaseUnavailable, QueryError) as error:
                log.warning("worker.deaf", error=first_line(error), instead="it polls")
            self._hears = False
            await asyncio.sleep(next(pauses))
