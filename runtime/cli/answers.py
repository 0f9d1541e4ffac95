"""What a command answers: one document for programs, and the same as blocks of text for people."""

from __future__ import annotations

from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

Tone = Literal["plain", "good", "bad", "busy", "quiet"]


@dataclass(frozen=True, slots=True)
class Mark:
    """Text with a tone, which a terminal shows as a color."""

    text: str
    tone: Tone


Cell: TypeAlias = str | Mark


@dataclass(frozen=True, slots=True)
class Table:
    """Rows under headings; `empty` is said instead when there are none."""

    columns: tuple[str, ...]
    rows: Sequence[Sequence[Cell]]
    empty: str


@dataclass(frozen=True, slots=True)
class Facts:
    """Named values, one to a line."""

    pairs: Sequence[tuple[str, Cell]]


@dataclass(frozen=True, slots=True)
class Text:
    """Words as they are, of one line or many; a blank line goes before them when `apart`."""

    text: str
    apart: bool = False
    tone: Tone = "plain"


@dataclass(frozen=True, slots=True)
class Raw:
    """Bytes exactly as they are; a terminal is shown them as text."""

    content: bytes


@dataclass(frozen=True, slots=True)
class Spans:
    """Words in which some have a tone of their own."""

    parts: Sequence[Cell]


Block: TypeAlias = Table | Facts | Text | Spans | Raw


@dataclass(frozen=True, slots=True)
class Answer:
    """A command's outcome. `document` is what --json prints; `complaint` goes to stderr with exit codes other than 0."""

    document: object
    blocks: Sequence[Block] = ()
    exit_code: int = 0
    complaint: str | None = None


Work: TypeAlias = Coroutine[Any, Any, Answer]
