"""What a run tells its watcher while it happens: words, and tools that start and finish or begin to wait."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TextDelta:
    """The next piece of the model's answer."""

    text: str


@dataclass(frozen=True, slots=True)
class ToolStarted:
    """A tool call begins; `arguments` is the JSON text as the model gave it."""

    name: str
    arguments: str
    call_id: str


@dataclass(frozen=True, slots=True)
class ToolFinished:
    """A tool call ended; `ok` is False when the model was told of an error."""

    name: str
    ok: bool
    ms: int
    call_id: str


@dataclass(frozen=True, slots=True)
class ToolParked:
    """A tool call waits for a person or for a moment, and with it the run."""

    name: str
    call_id: str


RunEvent = TextDelta | ToolStarted | ToolFinished | ToolParked
Emit = Callable[[RunEvent], None]


def ignore(event: RunEvent) -> None:
    """Watch nothing."""
