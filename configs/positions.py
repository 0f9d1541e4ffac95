"""Where in a file each key and value of a definition stands."""

from __future__ import annotations

import bisect
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple

KeyPath = tuple[str | int, ...]


class Position(NamedTuple):
    """A place in a file; line and column count characters from 1."""

    line: int
    column: int


START: Final = Position(1, 1)


class Lines:
    """Finds the place of any character of one text, counting lines as editors do: by line feeds alone."""

    __slots__ = ("_starts",)

    def __init__(self, text: str) -> None:
        self._starts = [0, *(match.end() for match in re.finditer("\n", text))]

    def position(self, index: int) -> Position:
        """Return the place of the character at an index."""
        line = bisect.bisect_right(self._starts, index)
        return Position(line, index - self._starts[line - 1] + 1)


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong with one file, at one place, in one sentence."""

    path: Path
    line: int
    column: int
    message: str

    @property
    def place(self) -> str:
        """The place alone, as editors and terminals read it: `file:line:column`."""
        # A file's name may hold bytes that are no text at all; a message about it must still print.
        name = str(self.path).encode("utf-8", "backslashreplace").decode()
        return f"{name}:{self.line}:{self.column}"

    def __str__(self) -> str:
        return f"{self.place}: {self.message}"


@dataclass(frozen=True, slots=True)
class Positions:
    """The places of a document's keys and values; the empty path is the document itself."""

    values: Mapping[KeyPath, Position] = field(default_factory=dict[KeyPath, Position])
    keys: Mapping[KeyPath, Position] = field(default_factory=dict[KeyPath, Position])

    def value(self, path: KeyPath) -> Position:
        """Return where a value stands or, when it is not in the file, its key or the nearest parent's."""
        return self.values[path] if path in self.values else self.key(path)

    def key(self, path: KeyPath) -> Position:
        """Return where a key (or a list's entry) stands or, when it is not in the file, the nearest parent's."""
        while path and path not in self.keys and path not in self.values:
            path = path[:-1]
        return self.keys.get(path) or self.values.get(path, START)
