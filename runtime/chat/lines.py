"""The chat without a terminal: each line that is read is a turn, and only answers are written on stdout."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import BinaryIO, Final, TextIO

from cirkelline.configs.errors import UsageError
from cirkelline.runtime.chat.cleaning import clean
from cirkelline.runtime.chat.interrupts import Interrupts
from cirkelline.runtime.chat.screen import Left, Stop, Tone, Turn
from cirkelline.runtime.cli import display

FAILED: Final = 1
UNDECIDED: Final = 4
LONGEST: Final = 16 * 1024 * 1024  # bytes; no model reads more
_PIECE: Final = 65_536


class BadLine(UsageError):
    """A line cannot be said."""


class Lines:
    """A chat over pipes. The first turn that is not answered ends it: what follows was written for an answer.

    Words are streamed when somebody watches stdout; a program gets each answer whole, as the task's row has it.
    """

    waits = False

    def __init__(
        self, stdin: BinaryIO | None, stdout: TextIO, stderr: TextIO, interrupts: Interrupts, *, silent: bool
    ) -> None:
        self.turns: list[Turn] = []
        self.exit_code = 0
        self.streams = stdout.isatty() and not silent
        self._silent = silent
        self._out = stdout
        self._err = stderr
        self._interrupts = interrupts
        self._stopped = False
        self._at_start = True
        self._reader = _Reader(stdin)

    async def ask(self) -> str:
        """Return the next line that is not blank. Raises: Left at the end, BadLine."""
        if self._stopped or self.exit_code:
            raise Left(interrupted=self._stopped)
        while (line := await self._reader.line()) is not None:
            if line.strip():
                return line
        raise Left

    @contextmanager
    def answering(self, stop: Stop) -> Generator[None]:
        """Let Ctrl-C stop the answer, and the chat with it."""
        with self._interrupts.stopping(stop):
            try:
                yield
            finally:
                self._stopped = self._stopped or stop.pressed

    def say(self, text: str, tone: Tone = "plain") -> None:
        """Write on stderr."""
        del tone
        self._finish_line()
        _write(self._err, text + "\n")

    def stream(self, text: str) -> None:
        """Write words of the agent on stdout."""
        _write(self._out, text)
        self._at_start = text.endswith("\n")

    def status(self, text: str | None) -> None:
        """Show nothing: there is no line to overwrite."""

    def ended(self, turn: Turn) -> None:
        """Write the answer, where it was not streamed."""
        self.turns.append(turn)
        if self._silent:
            return
        if not self.streams and turn.output:
            self.stream(clean(turn.output).strip())
        self._finish_line()

    def went_wrong(self) -> None:
        """Read no further."""
        self.exit_code = UNDECIDED if self.turns and self.turns[-1].parked else FAILED

    def _finish_line(self) -> None:
        if not self._at_start:
            _write(self._out, "\n")
            self._at_start = True


def _write(stream: TextIO, text: str) -> None:
    encoding = stream.encoding or "utf-8"
    try:
        stream.write(text.encode(encoding, "replace").decode(encoding))
        stream.flush()
    except BrokenPipeError:  # whoever read has seen enough
        raise Left from None


class _Reader:
    """Reads lines in a thread of its own, which nothing waits for at the end: a read cannot be interrupted."""

    def __init__(self, stdin: BinaryIO | None) -> None:
        self._lines: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._loop = asyncio.get_running_loop()
        if stdin is None:
            self._lines.put_nowait(None)
        else:
            threading.Thread(target=self._read, args=(_source(stdin),), name="stdin", daemon=True).start()

    async def line(self) -> str | None:
        """Return the next line without its end, None after the last. Raises: BadLine."""
        content = await self._lines.get()
        if content is None:
            self._lines.put_nowait(None)
            return None
        if len(content) > LONGEST:
            raise BadLine(f"a line holds more than {display.size(LONGEST)}, which is the most a turn may be")
        try:
            return content.decode("utf-8-sig").rstrip("\r\n")
        except UnicodeDecodeError:
            raise BadLine("stdin is not UTF-8 text: convert it first (iconv -t UTF-8)") from None

    def _read(self, source: Callable[[int], bytes]) -> None:
        rest = b""
        while len(rest) <= LONGEST and (piece := _read_piece(source)):
            *whole, rest = (rest + piece).split(b"\n")
            for line in whole:
                self._give(line)
        if rest:
            self._give(rest)
        self._give(None)

    def _give(self, line: bytes | None) -> None:
        with contextlib.suppress(RuntimeError):  # the chat is over
            self._loop.call_soon_threadsafe(self._lines.put_nowait, line)


def _source(stdin: BinaryIO) -> Callable[[int], bytes]:
    """Return how to read what is there: from the descriptor, as a thread inside a buffer would hold its lock for ever."""
    try:
        descriptor = stdin.fileno()
    except OSError:  # not a file of the system
        return stdin.read
    return lambda size: os.read(descriptor, size)


def _read_piece(source: Callable[[int], bytes]) -> bytes:
    try:
        return source(_PIECE)
    except OSError:  # the terminal is gone, or nobody may read from it
        return b""
