"""A terminal of our own, in which a test types and reads."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PATIENCE = 60.0
_BRIEFLY = 0.1
_SEQUENCE = re.compile(rb"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07]*\x07|[ -/]*[0-~])")


class Terminal:
    """The person's side of a terminal in which a command runs."""

    def __init__(self, master: int, process: subprocess.Popen[bytes]) -> None:
        self._master = master
        self._process = process
        self._read = 0
        self.raw = b""

    @property
    def text(self) -> str:
        """All that was shown, without what the terminal obeyed."""
        return _SEQUENCE.sub(b"", self.raw).decode(errors="replace").replace("\r\n", "\n")

    def types(self, keys: str) -> None:
        os.write(self._master, keys.encode())

    def shows(self, wanted: str) -> None:
        """Wait until something new is shown, after what was waited for before."""
        deadline = time.monotonic() + PATIENCE
        while (at := self.text.find(wanted, self._read)) < 0:
            assert self._more(deadline), f"waited for {wanted!r}, and all there is: {self.text[self._read :]!r}"
        self._read = at + len(wanted)

    def is_told(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def ends(self) -> int:
        """Wait for the end of the command and return its exit code."""
        deadline = time.monotonic() + PATIENCE
        while self._process.poll() is None and time.monotonic() < deadline:
            self._more(time.monotonic() + _BRIEFLY)
        while self._more(time.monotonic()):
            pass
        return self._process.wait(0)

    def _more(self, deadline: float) -> bool:
        ready, _, _ = select.select([self._master], [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            return False
        with contextlib.suppress(OSError):  # the command is gone, and its side of the terminal with it
            piece = os.read(self._master, 65536)
            self.raw += piece
            return bool(piece)
        return False


@contextmanager
def running(folder: Path, environ: dict[str, str], *arguments: str) -> Iterator[Terminal]:
    """Run the command in a terminal; at the end it is gone."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 400, 0, 0))
    # A session's leader without a terminal gets the first one that it opens: only there Ctrl-C is a signal.
    path = os.ttyname(slave)
    command = ["sh", "-c", 'exec <"$0" >"$0" 2>&1 "$@"', path, sys.executable, "-m", "cirkelline", *arguments]
    given = {**os.environ, **environ, "TERM": "xterm-256color", "COLUMNS": "400", "PROMPT_TOOLKIT_NO_CPR": "1"}
    process = subprocess.Popen(command, env=given, cwd=folder, start_new_session=True)
    try:
        yield Terminal(master, process)
    finally:
        process.kill()
        process.wait()
        os.close(slave)
        os.close(master)
