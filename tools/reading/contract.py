"""What a document is on its way from a path or URL to pieces that fit an embedder's window."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from cirkelline.configs.errors import CirkellineError, UsageError

if TYPE_CHECKING:
    from cirkelline.configs.settings import Settings

FORMAT: Final = 1
"""What parsing and chunking make of the same bytes; raise it when that changes, so that documents are read again."""


_OPENING: Final = 300  # characters in which a piece's own headings stand


class Verdict(StrEnum):
    """Why a source cannot be read."""

    EMPTY = "empty"
    ENCRYPTED = "encrypted"
    TOO_LARGE = "too large"
    NO_TEXT = "no text"
    NOT_TEXT = "not text"
    BROKEN = "broken"
    TOO_SLOW = "too slow"
    UNREACHABLE = "unreachable"
    FORBIDDEN = "forbidden"


class Unreadable(CirkellineError):
    """The verdict about one source, in one sentence with the remedy; other sources are not concerned."""

    def __init__(self, verdict: Verdict, message: str) -> None:
        super().__init__(message)
        self.verdict = verdict


class NothingFound(UsageError):
    """A folder or a pattern holds nothing that could be read."""


@dataclass(frozen=True, slots=True)
class Source:
    """One document before it is read: `uri` is an absolute path or a URL, `path` None for a URL."""

    uri: str
    name: str
    path: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How much one document may take: bytes as fetched, seconds to fetch, seconds and bytes of memory to parse."""

    size: int = 52_428_800
    fetching: float = 60.0
    parsing: float = 60.0
    memory: int = 1_610_612_736

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """Return the limits that an operator's settings give."""
        return cls(size=settings.document_limit)


@dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """The bytes of a source, and what their server said of them."""

    source: Source
    data: bytes = field(repr=False)
    file_name: str | None = None
    content_type: str | None = None
    charset: str | None = None

    @property
    def hash(self) -> str:
        """SHA-256 of the bytes and of this reader's format: a document with the same one is unchanged."""
        return hashlib.sha256(b"cirkelline reader %d\n" % FORMAT + self.data).hexdigest()


@dataclass(frozen=True, slots=True)
class Block:
    """A stretch of a document's text under one heading of one page.

    `heading` is a path such as `Guide > Install`. In a block of `rows` (a table, code) lines are wholes of their own.
    `title` blocks are headings themselves.
    """

    text: str
    page: int | None
    offset: int
    heading: str | None = None
    rows: bool = False
    title: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Parsed:
    """A document as text; `text[block.offset : block.offset + len(block.text)] == block.text` for each block, in order."""

    text: str = field(repr=False)
    document_type: str
    content_type: str
    title: str | None = None
    blocks: tuple[Block, ...] = field(default=(), repr=False)
    pages: int | None = None


@dataclass(frozen=True, slots=True)
class Piece:
    """A chunk of a document: a slice of its text, exactly, with where it stands."""

    text: str
    page: int | None
    offset: int
    heading: str | None = None

    @property
    def embedded(self) -> str:
        """What to embed: the text below those of its headings that it does not begin with itself.

        Without them, `It costs 5 kr.` could be about anything.
        """
        opening = self.text[:_OPENING]
        above = [each for each in (self.heading or "").split(" > ") if each and each not in opening]
        return f"{' > '.join(above)}\n{self.text}" if above else self.text
