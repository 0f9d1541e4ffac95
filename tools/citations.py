"""The numbers by which an answer cites passages: given by tools, each to one passage, for as long as a session lasts."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from cirkelline.state.citations import Citation, Earlier


class Numbers:
    """The numbers of one run, `recorded` those that its earlier attempts gave. A view of them is what one call gave.

    A passage is a mapping with a `chunk`, the id by which it is recognized: found again it has the number that it had.
    """

    def __init__(self, recorded: Iterable[Citation] = ()) -> None:
        self._given: dict[int, Citation] = {citation["n"]: citation for citation in recorded}
        self._by_chunk: dict[int, int] = {citation["chunk"]: n for n, citation in self._given.items()}
        self._lock = threading.Lock()
        self._own: dict[int, Citation] = {}

    @property
    def given(self) -> Mapping[int, Citation]:
        """What each number of this run stands for."""
        return self._given

    @property
    def own(self) -> Sequence[Citation]:
        """What was given through this view."""
        return tuple(self._own.values())

    def view(self) -> Numbers:
        """Return the same numbers for one call."""
        view = Numbers()
        view._given, view._by_chunk, view._lock = self._given, self._by_chunk, self._lock
        return view

    def give(self, passages: Sequence[Mapping[str, Any]], earlier: Earlier | None = None) -> list[int]:
        """Return a number for each passage; `earlier` is what the session has given before."""
        before = earlier or Earlier()
        with self._lock:
            return [self._give(passage, before) for passage in passages]

    def _give(self, passage: Mapping[str, Any], before: Earlier) -> int:
        chunk = passage["chunk"]
        n = self._by_chunk.get(chunk) or before.numbers.get(chunk) or max(before.last, *self._given, 0) + 1
        self._own[n] = self._given[n] = {"n": n, **passage}
        self._by_chunk[chunk] = n
        return n
