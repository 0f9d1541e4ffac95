"""How far an ingest is: a bar on a terminal, a line for each document that has one elsewhere; always on stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

from cirkelline.runtime.cli import console, display
from cirkelline.runtime.cli.answers import Tone
from cirkelline.runtime.ingest.verdicts import Progress, Tell, Verdict

_EVERY: Final = 10.0
"""Seconds between two lines that say how far it is, where there is no bar."""
_NAME: Final = 32  # characters of the document that is worked on


@contextmanager
def shown(what: str) -> Generator[Tell]:
    """Lend a function that shows the progress it is told; `what` is counted, such as `documents`."""
    if console.on_terminal(sys.stderr):
        with _bar(what) as tell:
            yield tell
    else:
        yield Lines(what).tell


@dataclass(slots=True)
class _Bad:
    """The documents that somebody has to look at, each said once: those that failed are tried again."""

    said: set[str] = field(default_factory=set[str])

    def line(self, progress: Progress) -> str | None:
        """Return what to say of one, None where there is nothing new."""
        outcome = progress.outcome
        if outcome is None or not outcome.is_bad or outcome.source in self.said:
            return None
        self.said.add(outcome.source)
        return f"{outcome.verdict.value}: {display.line(outcome.source, 300)}: {outcome.why}"


@dataclass(slots=True)
class Lines:
    """Progress where nobody watches: how far it is now and then, and each document that somebody has to look at."""

    what: str
    began: float = field(default_factory=time.monotonic)
    said: float = field(default_factory=time.monotonic)
    bad: _Bad = field(default_factory=_Bad)

    def tell(self, progress: Progress) -> None:
        """Say what is new, if it is worth a line."""
        if (bad := self.bad.line(progress)) is not None:
            console.note(bad)
        now = time.monotonic()
        if progress.outcome is not None and progress.done < progress.total and now - self.said >= _EVERY:
            self.said = now
            console.note(f"{_amounts(progress, self.what)}, {display.span(now - self.began)}")


def _amounts(progress: Progress, what: str) -> str:
    return f"{progress.done} of {progress.total} {what}, {display.count(progress.chunks, 'chunk')} stored"


@contextmanager
def _bar(what: str) -> Generator[Tell]:
    from rich import progress as bars
    from rich.console import Console
    from rich.markup import escape

    columns = (
        bars.BarColumn(bar_width=24),
        bars.MofNCompleteColumn(),
        bars.TextColumn("{task.fields[chunks]} chunks, {task.fields[rate]}, "),
        bars.TimeRemainingColumn(),
        bars.TextColumn("{task.description}"),
    )
    began, bad = time.monotonic(), _Bad()
    with bars.Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=None, chunks=0, rate="-")

        def tell(progress: Progress) -> None:
            if (line := bad.line(progress)) is not None:
                bar.print(escape(display.safe(line)), soft_wrap=True, highlight=False)  # names are there to be copied
            passed = max(time.monotonic() - began, 0.001)
            bar.update(
                task,
                description=escape(display.line(progress.current or "", _NAME)),
                completed=progress.done,
                total=progress.total,
                chunks=progress.chunks,
                rate=f"{progress.done / passed:.1f} {what}/s",
            )

        yield tell


TONES: Final[dict[Verdict, Tone]] = {
    Verdict.ADDED: "good",
    Verdict.UPDATED: "good",
    Verdict.UNCHANGED: "quiet",
    Verdict.REMOVED: "busy",
    Verdict.REFUSED: "bad",
    Verdict.FAILED: "bad",
}
