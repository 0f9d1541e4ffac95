"""Cutting a document's text to pieces that an embedder reads whole and a person can check."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from cirkelline.tools.embedding.contract import Embedder
from cirkelline.tools.reading.contract import Block, Parsed, Piece

WORDS: Final = 180
CHARACTERS: Final = 2000
"""For text whose words say nothing about its length: encoded data, languages that put no space between them."""

OVERLAP: Final = 1 / 6
"""How much of a piece at most was said by the one before, in whole sentences: an answer may lie across the cut."""

_FRAGMENT: Final = 30  # words of a sentence that is too long to stay whole
_RUN: Final = 64  # characters of a word that is none
_HEADING_SHARE: Final = 3  # a heading may take a third of the window

# Where prose may be cut: after a sentence (in Chinese and Japanese no space follows it), between paragraphs, before an
# item of a list. It cuts after some abbreviations too, which costs nothing: sentences are put together again.
_BREAK: Final = re.compile(
    r"[.!?…][\"'”’»)\]]*(?=\s)|[。！？]+[」』”’）]*|\n[^\S\n]*(?=\n)|\n(?=[^\S\n]*(?:[-*+•]|\d{1,3}[.)])[^\S\n])"  # noqa: RUF001 - these signs are meant
)
_LINE: Final = re.compile(r"\n")
_WORD: Final = re.compile(r"\S+")


@dataclass(frozen=True, slots=True)
class _Unit:
    """What stays whole: a sentence, a line of a table, a fragment of what is longer than a piece; `size` of a piece."""

    start: int
    end: int
    size: float
    repeats: bool


@dataclass(frozen=True, slots=True)
class _Section:
    """Neighboring blocks under one heading on one page; no piece goes beyond."""

    blocks: Sequence[Block]

    @property
    def heading(self) -> str | None:
        return self.blocks[-1].heading

    @property
    def page(self) -> int | None:
        return self.blocks[-1].page


def chunk(parsed: Parsed, embedder: Embedder) -> list[Piece]:
    """Return a document's pieces in order; every word of it is in one of them at least.

    A piece is a slice of the text with at most 180 words, and fits the embedder's window together with its heading. It
    lies on one page and under one heading, ends with a sentence or a table's row where it can, and overlaps its neighbor
    by a sixth at most. Work for a thread: a millisecond a piece.
    """
    pieces: list[Piece] = []
    for section in _sections(parsed.blocks):
        pieces += _Cutter(parsed.text, embedder, section).pieces()
    return pieces


def _sections(blocks: Sequence[Block]) -> Iterator[_Section]:
    """Group blocks. A heading with nothing below it stays with what follows, as alone it would only lead astray."""
    group: list[Block] = []
    for block in blocks:
        if group and not _together(group, block):
            yield _Section(group)
            group = []
        group.append(block)
    if group:
        yield _Section(group)


def _together(group: Sequence[Block], block: Block) -> bool:
    if group[-1].page != block.page:
        return False
    return group[-1].heading == block.heading or all(each.title for each in group)


class _Cutter:
    """Cuts one section."""

    def __init__(self, text: str, embedder: Embedder, section: _Section) -> None:
        self._text = text
        self._embedder = embedder
        self._page = section.page
        self._blocks = section.blocks
        self._heading = _fitting(section.heading, embedder)
        self._overhead = embedder.count("")
        self._tokens = embedder.window - embedder.count(f"{self._heading}\n" if self._heading else "")

    def pieces(self) -> list[Piece]:
        units = [unit for block in self._blocks for unit in self._units(block)]
        return [self._piece(units[first:last]) for first, last in self._packed(units)]

    def _piece(self, units: Sequence[_Unit]) -> Piece:
        start, end = units[0].start, units[-1].end
        return Piece(self._text[start:end], self._page, start, self._heading)

    def _packed(self, units: Sequence[_Unit]) -> Iterator[tuple[int, int]]:
        """Yield from which unit to which each piece goes: of about the same size, and none larger than one."""
        total = sum(unit.size for unit in units)
        target = total / max(1, math.ceil((total - OVERLAP) / (1 - OVERLAP)))
        first = 0
        while first < len(units):
            begin = self._overlapping(units, first)
            size, last = sum(unit.size for unit in units[begin : first + 1]), first + 1
            added = units[first].size
            while last < len(units) and size + units[last].size <= 1 and added + units[last].size / 2 <= target:
                size += units[last].size
                added += units[last].size
                last += 1
            last = self._checked(units, begin, first, last)
            yield begin, last
            first = last

    def _overlapping(self, units: Sequence[_Unit], first: int) -> int:
        """Return the unit with which the piece begins whose first new unit is this one."""
        begin, size = first, 0.0
        while begin > 0 and units[begin - 1].repeats and size + units[begin - 1].size <= OVERLAP:
            begin -= 1
            size += units[begin].size
        # Never all the piece before, and nothing where there is no room.
        return begin if begin > 0 and size + units[first].size <= 1 else first

    def _checked(self, units: Sequence[_Unit], begin: int, first: int, last: int) -> int:
        """Give units back until the piece fits: words cut in two may count for more when they are whole again."""
        while (
            last > first + 1 and self._embedder.count(self._piece(units[begin:last]).embedded) > self._embedder.window
        ):
            last -= 1
        return last

    def _units(self, block: Block) -> Iterator[_Unit]:
        whole = block.rows or block.title
        for start, end in self._parts(block.offset, block.offset + len(block.text), _LINE if whole else _BREAK):
            size = self._size(start, end)
            if size <= 1:
                yield _Unit(start, end, size, not whole)
            else:
                yield from self._fragments(start, end, repeats=not whole)

    def _parts(self, start: int, end: int, cut: re.Pattern[str]) -> Iterator[tuple[int, int]]:
        """Yield what lies between the cuts, without the space around it."""
        edges = [start, *(found.end() for found in cut.finditer(self._text, start, end)), end]
        for left, right in pairwise(edges):
            part = self._text[left:right]
            if stripped := part.strip():
                begin = left + len(part) - len(part.lstrip())
                yield begin, begin + len(stripped)

    def _size(self, start: int, end: int) -> float:
        """Return how much of a piece a stretch takes, by whichever it has most of: words, characters, tokens."""
        text = self._text[start:end]
        tokens = self._embedder.count(text) - self._overhead if end - start <= CHARACTERS else 0
        return max(len(text.split()) / WORDS, (end - start) / CHARACTERS, tokens / self._tokens)

    def _fragments(self, start: int, end: int, *, repeats: bool) -> Iterator[_Unit]:
        """Yield a few words at a time."""
        begin, count, done = start, 0, start
        for left, right in self._words(start, end):
            glued = left == done  # a run in the middle of what has no spaces
            if count and (count >= _FRAGMENT or right - begin > CHARACTERS * OVERLAP or glued):
                yield _Unit(begin, done, self._size(begin, done), repeats)
                begin, count = left, 0
            begin = left if not count else begin
            count, done = count + 1, right
        if count:
            yield _Unit(begin, done, self._size(begin, done), repeats)

    def _words(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        for word in _WORD.finditer(self._text, start, end):
            for left in range(word.start(), word.end(), _RUN):
                yield left, min(left + _RUN, word.end())


def _fitting(heading: str | None, embedder: Embedder) -> str | None:
    """Return a heading that leaves most of the window to the text: its end, which is the nearest."""
    while heading and embedder.count(heading) > embedder.window // _HEADING_SHARE:
        heading = heading[len(heading) // 2 :].lstrip(" >")
    return heading or None
