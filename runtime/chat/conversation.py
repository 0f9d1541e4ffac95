"""A conversation: each turn is a task of its session, followed to its end whatever happens to workers and database."""

from __future__ import annotations

import asyncio
import contextlib
import time
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID, uuid4

from cirkelline.configs import scalars
from cirkelline.runtime import ending, patience
from cirkelline.runtime.chat import situation
from cirkelline.runtime.chat.own_worker import OwnWorker
from cirkelline.runtime.chat.screen import Screen, Stop, Turn
from cirkelline.runtime.chat.showing import Shown, quoted
from cirkelline.runtime.chat.situation import Situation
from cirkelline.runtime.patience import first_line
from cirkelline.runtime.streaming import Follower
from cirkelline.state import sessions, tasks
from cirkelline.state.agents import Agent
from cirkelline.state.connection import Conn, Database, QueryError, is_away
from cirkelline.state.tasks import Task, TaskNotFound
from cirkelline.state.tenant import tenant
from cirkelline.state.users import User

LOOK: Final = 1.0
"""Seconds between two looks at what a turn waits for."""
_UNFINISHED: Final = 20


@dataclass(frozen=True, slots=True)
class Pace:
    """How patient a conversation is, in seconds."""

    look: float = LOOK
    patience: float = situation.PATIENCE


class Conversation:
    """What one user and one agent say to each other, a session at a time; a session begins with its first turn."""

    def __init__(
        self, db: Database, screen: Screen, worker: OwnWorker, user: User, agent: Agent, *, pace: Pace | None = None
    ) -> None:
        self.db = db
        self.user = user
        self.agent = agent
        self.session: UUID | None = None
        self._parked: dict[UUID, Shown] = {}
        self._screen = screen
        self._worker = worker
        self._pace = pace or Pace()

    @property
    def works_itself(self) -> bool:
        """Whether a worker inside this chat is what serves its session."""
        return self._worker.working

    async def turn(self, said: str) -> Turn | None:
        """Say something and show the answer; return how it ended, None when the person would not wait for it."""
        stop, task_id = Stop(), uuid4()
        shown = Shown(self._screen, said)
        with self._screen.answering(stop):
            shown.doing("sending")
            async with Follower(self.db) as follower:
                await follower.listen(task_id)
                if not await self._submit(task_id, said, shown, stop):
                    self._screen.status(None)
                    self._screen.say("not sent: the database could not be reached", "bad")
                    return None
                return await self._see_to_its_end(follower, task_id, shown, stop)

    async def unfinished(self) -> list[Task]:
        """Return the turns of the session that have not ended, the oldest first."""
        if self.session is None:
            return []
        async with tenant(self.db, self.user.id) as rows:
            found = await tasks.find(rows.conn, session_id=self.session, limit=_UNFINISHED)
        return [task for task in reversed(found) if not task.ended]

    async def resume(self, task: Task) -> Turn | None:
        """Show the rest of a turn that was begun earlier, or in another terminal."""
        stop, said = Stop(), _said(task.payload)
        shown = Shown(self._screen, said, late=True)
        self._screen.say(quoted(said, ours=True))
        with self._screen.answering(stop):
            async with Follower(self.db) as follower:
                await follower.listen(task.id)
                return await self._see_to_its_end(follower, task.id, shown, stop)

    async def go_on(self, turn: Turn) -> Turn | None:
        """Show the rest of a turn that was parked, now that what it waited for is decided."""
        stop = Stop()
        shown = self._parked.pop(turn.task.id, None) or Shown(self._screen, turn.said, late=True)
        with self._screen.answering(stop):
            async with Follower(self.db) as follower:
                return await self._see_to_its_end(follower, turn.task.id, shown, stop)

    async def _submit(self, task_id: UUID, said: str, shown: Shown, stop: Stop) -> bool:
        """Put the turn in line exactly once, however often the database has to be asked; False when given up."""
        for tries, pause in enumerate(patience.pauses()):
            try:
                self.session = await self._submit_once(task_id, said, again=tries > 0)
            except QueryError as error:
                if not is_away(error):
                    raise
                shown.away(first_line(error))
            else:
                shown.back()
                return True
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await stop.asked.wait()
                return False
        raise AssertionError  # the pauses never end

    async def _submit_once(self, task_id: UUID, said: str, *, again: bool) -> UUID:
        async with tenant(self.db, self.user.id) as rows:
            # The answer to the first attempt may have been lost after it had been written.
            if again and (written := await _session_of(rows.conn, task_id)) is not None:
                return written
            session = self.session or await sessions.create(rows, self.agent.id)
            await sessions.submit_turn(rows, session, {"input": said}, task_id=task_id)
        return session

    async def _see_to_its_end(self, follower: Follower, task_id: UUID, shown: Shown, stop: Stop) -> Turn | None:
        """Follow a task and do what has to be done meanwhile; None when the person insists on not waiting."""
        over = asyncio.Event()  # whether the run has told all that it has to tell
        jobs: list[asyncio.Task[Task | None]] = [
            asyncio.create_task(self._follow(follower, task_id, shown, over), name="chat-follow"),
            asyncio.create_task(self._look_after(task_id, shown, stop, over), name="chat-look"),
            asyncio.create_task(self._cancel(task_id, shown, stop), name="chat-cancel"),
            asyncio.create_task(_insisted(stop), name="chat-insist"),
        ]
        try:
            done, _ = await asyncio.wait(jobs, return_when=asyncio.FIRST_COMPLETED)
            task = next((ended for job in done if (ended := job.result()) is not None), None)
        finally:
            await ending.end(jobs)
        if task is not None:
            turn = shown.end(task)
            if turn.parked:
                self._parked[task.id] = shown
            return turn
        self._screen.status(None)
        self._screen.say("not waiting for it any longer: the next turn begins when this one has stopped", "quiet")
        return None

    async def _follow(self, follower: Follower, task_id: UUID, shown: Shown, over: asyncio.Event) -> Task | None:
        async with aclosing(follower.follow(task_id)) as events:
            async for event in events:
                if isinstance(event, Task):
                    return event
                shown.take(event)
                if event.kind == "done":
                    over.set()
        return None

    async def _look_after(self, task_id: UUID, shown: Shown, stop: Stop, over: asyncio.Event) -> Task | None:
        """See to it that somebody works on the turn, and tell what it waits for.

        Returns only what cannot be waited for like this: the row of a turn that waits for a decision.
        """
        waits_since: float | None = None
        before: Situation | None = None
        while True:
            now = time.monotonic()
            told_all = over.is_set()
            over.clear()
            long = waits_since is not None and now - waits_since > self._pace.patience
            try:
                async with self.db.connection() as conn:
                    found = await situation.look(conn, task_id, long=long)
                shown.back()
            except QueryError as error:
                if not is_away(error):
                    raise
                shown.away(first_line(error))
                found = None
            lasting = found is not None and before is not None and before.sentence == found.sentence
            if found is not None:
                if found.parked and (lasting or told_all):
                    shown.parked(found.sentence or "")
                    return found.parked
                waits_since = (waits_since or now) if found.pending else None
                await self._react(found, shown, stop, lasting=lasting)
            before = found
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._pace.look):
                    await over.wait()

    async def _react(self, found: Situation, shown: Shown, stop: Stop, *, lasting: bool) -> None:
        """Work on the turn here where that is needed; say what keeps it waiting once that has been seen twice."""
        if self.session is not None and (found.needs_worker or self._worker.working):
            await self._worker.work_for(self.session)
        shown.waiting(found.words)
        refusal = self._worker.refusal(self.agent) if found.nobody_else else None
        if refusal:
            self._despair(f"nobody can answer as {self.agent.label} at present: {refusal}", shown, stop)
        elif found.sentence and lasting and found.hopeless:
            self._despair(found.sentence, shown, stop)
        elif found.sentence and lasting:
            shown.note(found.sentence)

    def _despair(self, why: str, shown: Shown, stop: Stop) -> None:
        """Say that a turn will not be answered by itself; give it up where nobody is there to do that."""
        if self._screen.waits:
            shown.note(f"{why} (Ctrl-C takes the turn back)")
        else:
            shown.give_up(why)
            stop.give_up()

    async def _cancel(self, task_id: UUID, shown: Shown, stop: Stop) -> Task | None:
        """Cancel the task once the person asks for it; return its row when that ended it at once."""
        await stop.asked.wait()
        shown.stopping()

        async def cancel() -> Task:
            async with self.db.connection() as conn:
                await tasks.cancel(conn, task_id)
                return await tasks.get(conn, task_id)

        task = await patience.until_answered(cancel, "cancel a turn")
        if task.ended:
            return task
        return await asyncio.Future()  # its worker ends it, and whoever follows it sees that


async def _session_of(conn: Conn, task_id: UUID) -> UUID | None:
    try:
        return (await tasks.get(conn, task_id)).session_id
    except TaskNotFound:
        return None


async def _insisted(stop: Stop) -> None:
    await stop.insisted.wait()


def _said(payload: Any) -> str:
    return str(payload.get("input", "")) if scalars.is_mapping(payload) else ""
