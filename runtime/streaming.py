"""A chat's running task, told while it happens: by notifications that may be lost, over a row that is never lost."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
from collections.abc import AsyncGenerator, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Literal, Self
from uuid import UUID

import structlog
from pydantic import TypeAdapter, ValidationError

from cirkelline.agents.run import RunEvent, TextDelta, ToolFinished, ToolParked, ToolStarted
from cirkelline.runtime import ending
from cirkelline.runtime.patience import first_line, until_answered
from cirkelline.state import tasks, wakeups
from cirkelline.state.connection import Database, DatabaseUnavailable, QueryError
from cirkelline.state.tasks import Task
from cirkelline.state.wakeups import Wakeups

COALESCED: Final = 0.075
"""Seconds of text that travel in one notification."""

_ARGUMENTS_SHOWN: Final = 500
_ROOM: Final = wakeups.PAYLOAD_LIMIT - 500  # what is left of a notification beside the fields around a text

log = structlog.get_logger(__name__)

Kind = Literal["started", "text", "tool_started", "tool_finished", "tool_parked", "done"]


@dataclass(frozen=True, slots=True)
class Told:
    """One thing that a running task told. `n` counts from 1 in each attempt; `missed` when some before it were lost.

    `at` is where a text stands in all the text of the attempt, in characters. A `started` with a higher attempt means
    that the run began again: what was told before counts no more.
    """

    n: int
    attempt: int
    kind: Kind
    text: str = ""
    at: int = 0
    name: str = ""
    arguments: str = ""
    ok: bool = True
    ms: int = 0
    missed: bool = False


_TOLD: Final = TypeAdapter(Told)


class Telling:
    """The worker's side: give it a run's events as they come; enter it around the run, `done` after its end is stored."""

    def __init__(self, db: Database, task_id: UUID, attempt: int) -> None:
        self._db = db
        self._channel = wakeups.stream_channel(task_id)
        self._attempt = attempt
        self._n = 0
        self._at = 0
        self._text = ""
        self._ready: list[dict[str, Any]] = []
        self._any = asyncio.Event()
        self._sending = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._add({"kind": "started"})
        self._task = asyncio.create_task(self._send_for_ever(), name="telling")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._task is not None:
            await ending.end([self._task])

    def emit(self, event: RunEvent) -> None:
        """Take one event of the run; it is sent within a moment."""
        match event:
            case TextDelta(text=text):
                self._text += text
                self._any.set()
            case ToolStarted(name=name, arguments=arguments):
                self._add({"kind": "tool_started", "name": name, "arguments": arguments[:_ARGUMENTS_SHOWN]})
            case ToolFinished(name=name, ok=ok, ms=ms):
                self._add({"kind": "tool_finished", "name": name, "ok": ok, "ms": ms})
            case ToolParked(name=name):
                self._add({"kind": "tool_parked", "name": name})

    async def done(self) -> None:
        """Say that the task's row holds the end, after everything else has been sent."""
        self._add({"kind": "done"})
        if self._task is not None:
            await ending.end([self._task])
            self._task = None
        await self._send()

    def _add(self, message: dict[str, Any]) -> None:
        self._close_text()
        self._append(message)

    def _append(self, message: dict[str, Any]) -> None:
        self._n += 1
        self._ready.append({"n": self._n, "attempt": self._attempt, **message})
        self._any.set()

    def _close_text(self) -> None:
        for piece in _pieces(self._text):
            self._append({"kind": "text", "text": piece, "at": self._at})
            self._at += len(piece)
        self._text = ""

    async def _send_for_ever(self) -> None:
        while True:
            await self._any.wait()
            await asyncio.sleep(COALESCED)
            await asyncio.shield(self._send())

    async def _send(self) -> None:
        try:
            # One sender at a time, or two connections could tell the end before what comes before it.
            async with self._sending, self._db.connection() as conn:
                self._close_text()
                messages, self._ready = self._ready, []
                self._any.clear()
                for message in messages:
                    await wakeups.tell(conn, self._channel, message)
        except QueryError as error:
            # Whoever follows has the task's row; what was not told in time is not worth a pause of the run.
            log.debug("task.untold", error=first_line(error))


def _pieces(text: str) -> Iterator[str]:
    """Cut a text so that each piece fits into a notification, escaped as it travels."""
    if not text:
        return
    if len(text) < _ROOM and len(json.dumps(text)) <= _ROOM:
        yield text
        return
    middle = len(text) // 2
    yield from _pieces(text[:middle])
    yield from _pieces(text[middle:])


class Follower:
    """The other side: follows tasks over one listening connection; a lost notification or a pooler never hangs it."""

    def __init__(self, db: Database, *, poll: float = 1.0) -> None:
        self._db = db
        self._poll = poll
        self._wakeups: Wakeups | None = None
        self._stack = contextlib.AsyncExitStack()
        self._channels: set[str] = set()

    async def __aenter__(self) -> Self:
        await self._stack.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    async def listen(self, task_id: UUID) -> None:
        """Begin to listen for a task, best before it is submitted: then not even its first word is missed."""
        channel = wakeups.stream_channel(task_id)
        self._channels.add(channel)
        try:
            if self._wakeups is not None:
                await self._wakeups.listen(channel)
            else:
                await self._listen_to_all()
        except QueryError as error:
            await self._go_deaf(error)

    async def _listen_to_all(self) -> None:
        try:
            listening = wakeups.listening(self._db.url, sorted(self._channels))
            self._wakeups = await self._stack.enter_async_context(listening)
        except (DatabaseUnavailable, QueryError) as error:
            await self._go_deaf(error)

    async def follow(self, task_id: UUID) -> AsyncGenerator[Told | Task]:
        """Yield what the task tells, and at the end its row."""
        await self.listen(task_id)
        channel = wakeups.stream_channel(task_id)
        heard = _Heard()
        task = await self._row(task_id)
        while not task.ended:
            over = False
            for told in heard.new(await self._wait(), channel):
                over = over or told.kind == "done"
                yield told
            if over or heard.silent:
                task = await self._row(task_id)
        yield task

    async def _row(self, task_id: UUID) -> Task:
        async def get() -> Task:
            async with self._db.connection() as conn:
                return await tasks.get(conn, task_id)

        return await until_answered(get, "follow a task")

    async def _wait(self) -> list[tuple[str, str]]:
        if self._wakeups is None:
            await asyncio.sleep(self._poll)
            await self._listen_to_all()
            return []
        try:
            return await self._wakeups.wait(self._poll)
        except QueryError as error:
            await self._go_deaf(error)
            return []

    async def _go_deaf(self, error: Exception) -> None:
        log.debug("task.follow_by_poll", error=first_line(error))
        self._wakeups = None
        with contextlib.suppress(QueryError):
            await self._stack.aclose()


class _Heard:
    """Puts what arrives in order: nothing of an attempt that is over, nothing twice, and whether something was missed."""

    def __init__(self) -> None:
        self._attempt = 0
        self._n = 0
        self.silent = True

    def new(self, notices: list[tuple[str, str]], channel: str) -> Iterator[Told]:
        self.silent = not notices
        for where, payload in notices:
            message = wakeups.heard(payload) if where == channel else None
            told = _told(message) if message else None
            if told is None or (told.attempt, told.n) <= (self._attempt, self._n):
                continue
            expected = self._n + 1 if told.attempt == self._attempt else 1
            self._attempt, self._n = told.attempt, told.n
            yield told if told.n == expected else dataclasses.replace(told, missed=True)


def _told(message: dict[str, Any]) -> Told | None:
    try:
        return _TOLD.validate_python(message)
    except ValidationError:
        return None  # somebody else's words on our channel


async def follow(url: str, task_id: UUID, *, poll: float = 1.0) -> AsyncGenerator[Told | Task]:
    """Yield what a task tells while it runs, and at the end its row; opens connections of its own."""
    async with Database.open(url, connections=1) as db, Follower(db, poll=poll) as follower:
        async for event in follower.follow(task_id):
            yield event
