"""Threads for plain tools: each takes one call after another, and nothing ever waits for its end."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable


class ToolThread:
    """A daemon thread that does what it is handed, until it is let go.

    Handing a call to a thread that is there costs a fraction of making one. The standard library's pool is not used:
    the interpreter waits for its threads when it ends, and a tool may hang for ever.
    """

    def __init__(self) -> None:
        self._work: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def do(self, work: Callable[[], None], name: str) -> None:
        """Do this in the thread, which has that name meanwhile. Raises: RuntimeError when there can be no more threads."""
        if self._thread is None:
            thread = threading.Thread(target=self._serve, name=name, daemon=True)
            thread.start()
            self._thread = thread
        self._thread.name = name
        self._work.put(work)

    def let_go(self) -> None:
        """Let the thread end after what it is doing."""
        self._work.put(None)

    def _serve(self) -> None:
        while (work := self._work.get()) is not None:
            work()
            del work  # or what a tool was given lives on until the next call
