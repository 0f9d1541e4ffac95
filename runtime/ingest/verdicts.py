"""What became of each document, and how far a run is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final


class Verdict(StrEnum):
    """What became of a document. REFUSED is about the document itself, FAILED about what went wrong around it."""

    ADDED = "added"
    UPDATED = "updated"
    UNCHANGED = "unchanged"
    REFUSED = "refused"
    FAILED = "failed"
    REMOVED = "removed"


BAD: Final = frozenset({Verdict.REFUSED, Verdict.FAILED})
NEW: Final = frozenset({Verdict.ADDED, Verdict.UPDATED})


@dataclass(frozen=True, slots=True)
class Outcome:
    """One document's verdict; `again` when another try may go better, `chunks` are those that were stored.

    `stamp` is what its file had on it when it was read, None for what is no file.
    """

    source: str
    name: str
    verdict: Verdict
    why: str | None = None
    chunks: int = 0
    document: int | None = None
    again: bool = False
    stamp: tuple[int, ...] | None = None

    @property
    def is_bad(self) -> bool:
        """Whether somebody has to look at it."""
        return self.verdict in BAD


def after(before: Outcome | None, now: Outcome) -> Outcome:
    """Return the verdict of a run in which a document came up twice: what is unchanged since was added all the same."""
    if before is not None and before.verdict in NEW and now.verdict is Verdict.UNCHANGED:
        return replace(before, stamp=now.stamp)
    return now


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is: `done` of `total` documents, what was stored by now, and the document that is worked on."""

    done: int
    total: int
    chunks: int = 0
    current: str | None = None
    outcome: Outcome | None = None


Tell = Callable[[Progress], None]


def tell_nobody(_: Progress) -> None:
    """Tell nobody."""


def tally(outcomes: Iterable[Outcome]) -> dict[str, int]:
    """Return how many documents got each verdict, in the order of `Verdict`, without those that none got."""
    found = Counter(outcome.verdict for outcome in outcomes)
    return {verdict.value: found[verdict] for verdict in Verdict if found[verdict]}
