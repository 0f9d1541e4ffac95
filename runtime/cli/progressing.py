"""How far long work is: a bar on a terminal, a line now and then elsewhere; always on stderr."""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from cirkelline.agents.weights import Progress
from cirkelline.runtime.cli import console, display

_STEPS: Final = 10  # lines that a whole download takes where there is no bar
_MANY: Final = 20_000  # of what is counted; fewer are done before anybody reads a line


@contextmanager
def shown() -> Generator[Callable[[Progress], None]]:
    """Lend a function that shows the progress it is told; it may be called from another thread."""
    if console.on_terminal(sys.stderr):
        with _bar() as tell:
            yield tell
    else:
        yield Lines().tell


@dataclass(slots=True)
class Lines:
    """Progress where nobody watches: each stage once, and a download at every tenth."""

    _stage: str = ""
    _step: int = 0

    def tell(self, progress: Progress) -> None:
        """Say what is new, if it is worth a line."""
        if progress.stage == "downloading":
            step = progress.done * _STEPS // max(progress.total, 1)
            if step > self._step:
                self._step = step
                console.note(f"{progress.message}: {_amount(progress)}")
        elif progress.stage in {self._stage, "verifying"} - {"trying"}:
            pass  # said already, or not worth a line
        else:
            console.note(progress.message)
        self._stage = progress.stage


def _amount(progress: Progress) -> str:
    return f"{display.size(progress.done)} of {display.size(progress.total)}"


@contextmanager
def _bar() -> Generator[Callable[[Progress], None]]:
    from rich import progress as bars
    from rich.console import Console
    from rich.markup import escape

    columns = (
        bars.TextColumn("{task.description}"),
        bars.BarColumn(),
        bars.DownloadColumn(),
        bars.TransferSpeedColumn(),
        bars.TimeRemainingColumn(),
    )
    with bars.Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=None, visible=False)

        def tell(progress: Progress) -> None:
            if progress.stage in {"downloading", "verifying"}:
                words = escape(display.line(progress.message, 30))
                bar.update(task, description=words, completed=progress.done, total=progress.total, visible=True)
            else:
                bar.print(escape(display.safe(progress.message)))

        yield tell


@contextmanager
def counted(total: int, noun: str) -> Generator[Callable[[int], None]]:
    """Lend a function that shows how many of `total` are done: a bar on a terminal, every tenth of thousands elsewhere."""
    if console.on_terminal(sys.stderr):
        from rich import progress as bars
        from rich.console import Console

        columns = (bars.TextColumn(f"{noun}s"), bars.BarColumn(), bars.MofNCompleteColumn(), bars.TimeRemainingColumn())
        with bars.Progress(*columns, console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task("", total=total)
            yield lambda done: bar.update(task, completed=done)
        return
    said = 0

    def tell(done: int) -> None:
        nonlocal said
        if total >= _MANY and done * _STEPS // total > said:
            said = done * _STEPS // total
            console.note(f"{done:,} of {display.count(total, noun)}")

    yield tell
