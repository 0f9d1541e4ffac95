"""Asking the person at the terminal before something that is hard to take back."""

from __future__ import annotations

import signal
import sys

from cirkelline.configs.errors import UsageError
from cirkelline.runtime.cli import console, display


class NotAgreed(UsageError):
    """Nobody agreed, so that nothing was done."""


def agree(question: str, *, yes: bool) -> None:
    """Return once it is agreed: by `yes`, or by the person at the terminal. Raises: NotAgreed."""
    if yes:
        return
    asked = f"{display.safe(question)} [y/N] "
    if not (console.on_terminal(sys.stdin) and console.on_terminal(sys.stderr)):
        raise NotAgreed(f"{question} Say so with --yes; nothing was changed")
    sys.stderr.write(asked)
    sys.stderr.flush()
    if _answer().strip().lower() not in {"y", "yes"}:
        raise NotAgreed("nothing was changed, as it was not agreed to")


def _answer() -> str:
    """Return a line from stdin; Ctrl-C ends it at once, which asyncio's handler would not before the line does."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return sys.stdin.readline()
    finally:
        signal.signal(signal.SIGINT, before)
