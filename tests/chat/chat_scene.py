"""A chat whose screen a test reads and whose person a test plays."""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field

from workplace import PATIENCE, Workplace

from cirkelline.runtime import ending
from cirkelline.runtime.chat.conversation import Conversation, Pace
from cirkelline.runtime.chat.own_worker import OwnWorker
from cirkelline.runtime.chat.screen import Left, Stop, Tone, Turn
from cirkelline.state import agents, users

PACE = Pace(look=0.05, patience=0.3)


class FakeScreen:
    """A screen that keeps all that was shown."""

    streams = True
    waits = True

    def __init__(self, *inputs: str) -> None:
        self.inputs = list(inputs)
        self.shown = ""
        self.said: list[str] = []
        self.statuses: list[str] = []
        self.turns: list[Turn] = []
        self.wrong = 0
        self.stop: Stop | None = None
        self._changed = asyncio.Event()

    async def ask(self) -> str:
        if not self.inputs:
            raise Left
        return self.inputs.pop(0)

    @contextmanager
    def answering(self, stop: Stop) -> Generator[None]:
        self.stop = stop
        try:
            yield
        finally:
            self.stop = None

    def say(self, text: str, tone: Tone = "plain") -> None:
        del tone
        self.said.append(text)
        self.shown += ("" if self.shown.endswith("\n") or not self.shown else "\n") + text + "\n"
        self._changed.set()

    def stream(self, text: str) -> None:
        self.shown += text
        self._changed.set()

    def status(self, text: str | None) -> None:
        if text is not None:
            self.statuses.append(text)
        self._changed.set()

    def ended(self, turn: Turn) -> None:
        self.turns.append(turn)
        self._changed.set()

    def went_wrong(self) -> None:
        self.wrong += 1

    def press(self) -> None:
        """Press Ctrl-C while an answer runs."""
        assert self.stop is not None
        self.stop.press()

    async def shows(self, text: str) -> None:
        """Wait until some text has been shown, or is the status."""
        async with asyncio.timeout(PATIENCE):
            while text not in self.shown and text not in self.statuses:
                self._changed.clear()
                await self._changed.wait()


@dataclass
class Chat:
    """Opens conversations of a user with an agent of the workplace."""

    place: Workplace
    worker: OwnWorker
    screen: FakeScreen
    _turns: list[asyncio.Task[Turn | None]] = field(default_factory=list)

    def saying(self, talk: Conversation, said: str) -> asyncio.Task[Turn | None]:
        """Say something, and go on while it is answered."""
        self._turns.append(asyncio.create_task(talk.turn(said)))
        return self._turns[-1]

    async def answered(self, talk: Conversation, said: str) -> Turn:
        """Say something and wait for the end of the turn."""
        return await self.end(self.saying(talk, said))

    async def end(self, saying: asyncio.Task[Turn | None]) -> Turn:
        """Wait for the end of a turn that somebody waits for."""
        async with asyncio.timeout(PATIENCE):
            turn = await saying
        assert turn is not None
        return turn

    async def close(self) -> None:
        """Leave what a test has not waited for."""
        await ending.end(self._turns)

    async def conversation(
        self, agent: str = "helper", user: str = "ivo", screen: FakeScreen | None = None
    ) -> Conversation:
        async with self.place.db.connection() as conn:
            person = await users.ensure(conn, user)
            found = await agents.get(conn, agent)
        return Conversation(self.place.db, screen or self.screen, self.worker, person, found, pace=PACE)
