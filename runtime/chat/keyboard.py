"""What a terminal does with keys before anybody reads them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any, TextIO


class Keyboard:
    """The keys of a terminal. Outside of a terminal, and on platforms without one, nothing here does anything."""

    def __init__(self, stdin: TextIO) -> None:
        self._stdin = stdin

    @contextmanager
    def held(self) -> Generator[None]:
        """Keep what is typed as it is, unseen, for whoever edits the next line; Ctrl-C stays a signal.

        Shown, it would stand in the middle of an answer; and a Ctrl-D that the terminal itself took for the end of a
        line would leave the editor without input.
        """
        with self._changed(_hold):
            yield

    @contextmanager
    def without_signals(self) -> Generator[None]:
        """Let Ctrl-C be a key like any other, also in the moments in which no line is being edited."""
        with self._changed(_no_signals):
            yield

    @contextmanager
    def _changed(self, change: Callable[[Any, list[Any]], None]) -> Generator[None]:
        try:
            import termios  # noqa: PLC0415 - not on every platform
        except ImportError:
            yield
            return
        try:
            terminal = self._stdin.fileno()
            before, after = termios.tcgetattr(terminal), termios.tcgetattr(terminal)
            change(termios, after)
            termios.tcsetattr(terminal, termios.TCSANOW, after)
        except (OSError, ValueError, termios.error):
            yield
            return
        try:
            yield
        finally:
            with contextlib.suppress(termios.error):  # the terminal is gone
                termios.tcsetattr(terminal, termios.TCSANOW, before)


def _hold(termios: Any, modes: list[Any]) -> None:
    modes[0] &= ~termios.ICRNL
    modes[3] = (modes[3] & ~(termios.ECHO | termios.ICANON)) | termios.NOFLSH


def _no_signals(termios: Any, modes: list[Any]) -> None:
    modes[3] &= ~termios.ISIG
