"""A document's text as it is being put together, with what stands where in it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from cirkelline.tools.reading.contract import Verdict

# Control characters, lone halves of surrogate pairs, and the two private characters that search marks words with.
_UNWANTED: Final = re.compile("[\x00-\x08\x0b\x0e-\x1f\x7f\ud800-\udfff\ue000\ue001\ufeff]")
_LONGEST_HEADING: Final = 200
_LONGEST_PATH: Final = 400
_LONGEST_TITLE: Final = 300


class Refusal(Exception):
    """The verdict of a format's parser, said as the rest of a sentence about the document."""

    def __init__(self, verdict: Verdict, predicate: str) -> None:
        super().__init__(predicate)
        self.verdict = verdict


def clean(text: str) -> str:
    """Return text that every database takes: line ends as one character, nothing that cannot be shown."""
    return _UNWANTED.sub("", re.sub("\r\n?|\x0c|\u2028|\u2029", "\n", text))


def one_line(text: str) -> str:
    """Return a text on one line."""
    return " ".join(clean(text).split())


@dataclass(frozen=True, slots=True)
class Span:
    """Where a block stands in the text."""

    start: int
    end: int
    page: int | None
    heading: str | None
    rows: bool
    title: bool


@dataclass(slots=True)
class Draft:
    """What a parser fills. Either text is given and stretches of it are marked, or text is added bit by bit."""

    text: str = ""
    title: str | None = None
    pages: int | None = None
    spans: list[Span] = field(default_factory=list[Span])
    _added: list[str] = field(default_factory=list[str])
    _length: int = 0
    _path: list[tuple[int, str]] = field(default_factory=list[tuple[int, str]])

    @property
    def whole(self) -> str:
        """The text so far."""
        return self.text + "".join(self._added)

    def head(self, level: int, words: str) -> None:
        """Begin a section: what follows stands under this heading and those above it."""
        while self._path and self._path[-1][0] >= level:
            self._path.pop()
        if short := one_line(words)[:_LONGEST_HEADING]:
            self._path.append((level, short))
            self.title = self.title or short

    def head_with(self, path: Sequence[str]) -> None:
        """Put what follows under these headings."""
        self._path = [(level, one_line(each)[:_LONGEST_HEADING]) for level, each in enumerate(path)]

    def name(self, title: str | None) -> None:
        """Keep the document's own title, if it has one."""
        self.title = one_line(title or "")[:_LONGEST_TITLE] or self.title

    def mark(self, start: int, end: int, *, page: int | None = None, rows: bool = False, title: bool = False) -> None:
        """Say what a stretch of the given text is; one without words is nothing."""
        if self.text[start:end].strip():
            self._note(start, end, page, rows, title)

    def add(
        self, text: str, *, page: int | None = None, rows: bool = False, title: bool = False, close: bool = False
    ) -> None:
        """Add a paragraph, or with `close` a line that belongs to the one before."""
        text = clean(text).strip("\n").rstrip()
        if not text.strip():
            return
        if self._length:
            self._append("\n" if close else "\n\n")
        start = self._length
        self._append(text)
        self._note(start, self._length, page, rows, title)

    def _append(self, text: str) -> None:
        self._added.append(text)
        self._length += len(text)

    def _note(self, start: int, end: int, page: int | None, rows: bool, title: bool) -> None:
        heading = " > ".join(words for _, words in self._path)[-_LONGEST_PATH:].lstrip(" >") or None
        self.spans.append(Span(start, end, page, heading, rows, title))
