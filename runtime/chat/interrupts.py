"""What Ctrl-C and the signals that end a program mean right now."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Generator
from typing import Final

from cirkelline.runtime.chat.screen import Stop

_ENDING: Final = ("SIGTERM", "SIGHUP")


class Interrupts:
    """Ctrl-C stops the answer that is awaited; with none, and with every other ending signal, the chat is left."""

    def __init__(self) -> None:
        self.left = False
        self._stop: Stop | None = None
        self._main: asyncio.Task[object] | None = None

    @contextlib.contextmanager
    def handled(self) -> Generator[None]:
        """Take the signals for the length of a block; leaving cancels the task that runs it."""
        self._main = asyncio.current_task()
        loop = asyncio.get_running_loop()
        meanings = {"SIGINT": self._interrupted} | dict.fromkeys(_ENDING, self._leave)
        taken: list[int] = []
        for name, meaning in meanings.items():
            # Not on every platform, and not outside the main thread.
            with contextlib.suppress(NotImplementedError, AttributeError, ValueError, RuntimeError):
                number = getattr(signal, name)
                loop.add_signal_handler(number, meaning)
                taken.append(number)
        try:
            yield
        finally:
            for number in taken:
                loop.remove_signal_handler(number)

    @contextlib.contextmanager
    def stopping(self, stop: Stop) -> Generator[None]:
        """For the length of a block, let Ctrl-C ask an answer to stop."""
        self._stop = stop
        try:
            yield
        finally:
            self._stop = None

    def _interrupted(self) -> None:
        if self._stop is not None:
            self._stop.press()
        else:
            self._leave()

    def _leave(self) -> None:
        self.left = True
        if self._main is not None:
            self._main.cancel()
