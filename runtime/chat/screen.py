"""What a conversation needs of whoever shows it: a terminal, a pipe, or a test."""

from __future__ import annotations

import asyncio
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Literal, Protocol

from cirkelline.configs import scalars
from cirkelline.state.tasks import Task, TaskStatus

Tone = Literal["plain", "quiet", "bad"]


class Left(Exception):
    """The person leaves the chat; `interrupted` when by Ctrl-C or a signal."""

    def __init__(self, *, interrupted: bool = False) -> None:
        super().__init__("interrupted" if interrupted else "left")
        self.interrupted = interrupted


class Stop:
    """The wish to stop an answer: `asked` with the first Ctrl-C, `insisted` with the second."""

    def __init__(self) -> None:
        self.pressed = False
        self.asked = asyncio.Event()
        self.insisted = asyncio.Event()

    def press(self) -> None:
        """Take one more Ctrl-C."""
        if self.pressed:
            self.insisted.set()
        self.pressed = True
        self.asked.set()

    def give_up(self) -> None:
        """Stop it although nobody asked."""
        self.asked.set()


@dataclass(frozen=True, slots=True)
class Turn:
    """A turn that has ended or is parked: what was said, the task's row, why it was given up, what it waits for."""

    said: str
    task: Task
    given_up: str | None = None
    needs: str | None = None

    @property
    def completed(self) -> bool:
        """Whether it was answered."""
        return self.task.status == TaskStatus.COMPLETED

    @property
    def parked(self) -> bool:
        """Whether it waits for somebody's decision, and is not over."""
        return self.task.status == TaskStatus.WAITING

    @property
    def output(self) -> str:
        """The answer, or as much of it as there was."""
        result = self.task.result if scalars.is_mapping(self.task.result) else {}
        return str(result.get("output") or result.get("partial_output") or "")

    @property
    def error(self) -> tuple[str, str] | None:
        """Why it was not answered: the kind, and one sentence."""
        if self.completed:
            return None
        if self.parked:
            return "Undecided", f"it waits for a decision: {self.needs or 'it does not say which'}"
        if self.given_up:
            return "Unanswerable", self.given_up
        result = self.task.result if scalars.is_mapping(self.task.result) else {}
        error = result.get("error")
        kind = str(error.get("type", "Failed")) if scalars.is_mapping(error) else str(self.task.status).capitalize()
        return kind, self.task.error or "it ended without saying why"


class Screen(Protocol):
    """Where a chat takes place. All text that comes here is clean already; lines of ours stand on lines of their own."""

    streams: bool
    """Whether words are shown as they come; if not, `ended` shows the answer."""
    waits: bool
    """Whether somebody is there to decide how long to wait; if not, a turn that nobody can answer is given up."""

    async def ask(self) -> str:
        """Return what the person says next, never blank. Raises: Left."""
        ...

    def answering(self, stop: Stop) -> AbstractContextManager[None]:
        """While an answer is awaited: Ctrl-C goes to `stop`, and a status may be shown."""
        ...

    def say(self, text: str, tone: Tone = "plain") -> None:
        """Show lines of ours."""
        ...

    def stream(self, text: str) -> None:
        """Show more words of the agent, where the last ones ended."""
        ...

    def status(self, text: str | None) -> None:
        """Show what is going on at present, until something else is; None for nothing."""
        ...

    def ended(self, turn: Turn) -> None:
        """Take a turn's end. Where words are streamed, all of the answer has been by now."""
        ...

    def went_wrong(self) -> None:
        """Take note that what the person asked for last was not done."""
        ...
