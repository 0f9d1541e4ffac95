"""What became of each document, and how far a run is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
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


@dataclass(frozen=True, slots=True)
class Outcome:
    """One document's verdict; `again` when another try may go better, `chunks` are those that were stored."""

    source: str
    name: str
    verdict: Verdict
    why: str | None = None
    chunks: int = 0
    document: int | None = None
    again: bool = False

    @property
    def is_bad(self) -> bool:
        """Whether somebody has to look at it."""
        return self.verdict in BAD


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
