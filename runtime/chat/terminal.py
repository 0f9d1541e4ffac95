"""The chat on a terminal: a line editor while the person writes, plain words and one status line while the agent does."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import textwrap
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, TextIO

from cirkelline.runtime.chat.interrupts import Interrupts
from cirkelline.runtime.chat.keyboard import Keyboard
from cirkelline.runtime.chat.screen import Left, Stop, Tone, Turn

if TYPE_CHECKING:
    from prompt_toolkit import PromptSession
    from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent

_STYLES: Final[dict[Tone, str]] = {"plain": "", "quiet": "\x1b[2m", "bad": "\x1b[31m"}
_RESET: Final = "\x1b[0m"
_ERASE: Final = "\r\x1b[2K"
_TICK: Final = 0.5
_NARROWEST: Final = 20


class _Interrupted(Exception):
    """Ctrl-C on an empty line."""


class Terminal:
    """A chat on a terminal. Only the status line is ever overwritten; words are written once, where they stay."""

    streams = True
    waits = True

    def __init__(self, stdin: TextIO, stdout: TextIO, interrupts: Interrupts, environ: Mapping[str, str]) -> None:
        self._in = stdin
        self._keyboard = Keyboard(stdin)
        self._out = stdout
        self._interrupts = interrupts
        self._colors = not environ.get("NO_COLOR")
        self._editor: PromptSession[str] | None = None
        self._history: list[str] = []
        self._at_start = True
        self._status: str | None = None
        self._since = 0.0
        self._drawn = ""
        self._interrupted = False
        self._gone = False

    @contextmanager
    def opened(self) -> Generator[None]:
        """Hold the terminal for the length of a chat."""
        with self._keyboard.held():
            try:
                yield
            finally:
                with contextlib.suppress(Left):  # the terminal is gone
                    self._finish_line()

    def remember(self, inputs: Sequence[str]) -> None:
        """Offer earlier inputs, the oldest first, to whoever presses Up."""
        self._history.extend(inputs)

    async def ask(self) -> str:
        """Let the person write. Raises: Left, at Ctrl-D or a second Ctrl-C on an empty line."""
        editor = self._editor = self._editor or self._open_editor()
        self._finish_line()
        with self._keyboard.without_signals():
            return await self._ask(editor)

    async def _ask(self, editor: PromptSession[str]) -> str:
        while True:
            try:
                said = await editor.prompt_async(handle_sigint=False, set_exception_handler=False)
            except _Interrupted:
                if self._interrupted:
                    raise Left(interrupted=True) from None
                self._interrupted = True
                self.say("Ctrl-C once more leaves; so does Ctrl-D", "quiet")
                continue
            except EOFError:
                raise Left from None
            self._interrupted = False
            return said

    def _open_editor(self) -> PromptSession[str]:
        # A fifth of a second to import, which the first line of the chat does not wait for.
        from prompt_toolkit import PromptSession  # noqa: PLC0415
        from prompt_toolkit.history import InMemoryHistory  # noqa: PLC0415
        from prompt_toolkit.input.defaults import create_input  # noqa: PLC0415
        from prompt_toolkit.output.defaults import create_output  # noqa: PLC0415

        return PromptSession(
            [("bold", "> ")],
            multiline=True,
            prompt_continuation="  ",
            key_bindings=_keys(self._typed),
            history=InMemoryHistory(self._history),
            input=create_input(self._in),
            output=create_output(self._out),
        )

    def _typed(self) -> None:
        """Take note that the person has gone on since the last Ctrl-C on an empty line."""
        self._interrupted = False

    @contextmanager
    def answering(self, stop: Stop) -> Generator[None]:
        """Give Ctrl-C to `stop`, and count the seconds of the status."""
        ticking = asyncio.create_task(self._tick(), name="chat-status")
        with self._interrupts.stopping(stop):
            try:
                yield
            finally:
                ticking.cancel()
                self.status(None)

    def say(self, text: str, tone: Tone = "plain") -> None:
        """Write lines of ours; sentences are wrapped between words, and what somebody said is left to the terminal."""
        self._finish_line()
        style = _STYLES[tone] if self._colors else ""
        words = text if tone == "plain" else _wrapped(text)
        self._write(f"{style}{words}{_RESET}\n" if style else f"{words}\n")
        self._draw()

    def stream(self, text: str) -> None:
        """Write more words of the agent."""
        self._erase()
        self._write(text)
        self._at_start = text.endswith("\n")

    def status(self, text: str | None) -> None:
        """Show a status, with the seconds since it holds, below what was written last."""
        if text != self._status:
            self._status, self._since = text, time.monotonic()
        self._draw()

    def ended(self, turn: Turn) -> None:
        """Leave a blank line before the next one."""
        del turn
        self._finish_line()
        self._write("\n")

    def went_wrong(self) -> None:
        """Go on: the person has been told."""

    def _finish_line(self) -> None:
        self._erase()
        if not self._at_start:
            self._write("\n")
            self._at_start = True

    def _draw(self) -> None:
        line = self._line() if self._at_start else ""
        if line != self._drawn:
            style = _STYLES["quiet"] if self._colors else ""
            self._write(f"{_ERASE}{style}{line}{_RESET if style else ''}" if line else _ERASE)
            self._drawn = line

    def _line(self) -> str:
        if self._status is None:
            return ""
        seconds = int(time.monotonic() - self._since)
        whole = f"{self._status}… {seconds}s" if seconds else f"{self._status}…"
        return whole[: _columns() - 1]

    def _erase(self) -> None:
        if self._drawn:
            self._write(_ERASE)
            self._drawn = ""

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(_TICK)
            self._draw()

    def _write(self, text: str) -> None:
        encoding = self._out.encoding or "utf-8"
        if self._gone:
            return
        try:
            self._out.write(text.encode(encoding, "replace").decode(encoding))
            self._out.flush()
        except OSError:
            self._gone = True
            raise Left(interrupted=True) from None


def _columns() -> int:
    return max(_NARROWEST, shutil.get_terminal_size().columns)


def _wrapped(text: str) -> str:
    return "\n".join(
        textwrap.fill(line, _columns() - 1, break_long_words=False, break_on_hyphens=False, drop_whitespace=True)
        for line in text.split("\n")
    )


def _keys(typed: Callable[[], None]) -> KeyBindings:
    """Enter sends, Alt-Enter begins a new line, Ctrl-C clears the line (`typed` is told) or asks to leave."""
    from prompt_toolkit.key_binding import KeyBindings  # noqa: PLC0415

    keys = KeyBindings()

    @keys.add("enter")
    def send(event: KeyPressEvent) -> None:
        if event.current_buffer.text.strip():
            event.current_buffer.validate_and_handle()

    @keys.add("escape", "enter")
    def begin_line(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    @keys.add("c-c")
    def interrupt(event: KeyPressEvent) -> None:
        if event.current_buffer.text:
            event.current_buffer.reset()
            typed()
        else:
            event.app.exit(exception=_Interrupted())

    del send, begin_line, interrupt
    return keys
