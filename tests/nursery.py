"""Daemons in processes of their own that begin with everything imported.

Importing takes a daemon longer than most of what it is tested for, so one process imports it all and forks whenever a test
starts a daemon. It runs as this file; what ended is said by files, since only a parent may ask for an exit code.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

# The first two when it starts, the others before its first task is done.
_IMPORTED = (
    "cirkelline.runtime.up",
    "cirkelline.runtime.worker",
    "cirkelline.agents.agno_boundary.loop",
    "watchfiles",
    "anyio._backends._asyncio",
)
_ENDED = ".ended"


class Child:
    """A process that was forked, as `subprocess.Popen` shows one."""

    def __init__(self, pid: int, ended: Path) -> None:
        self.pid = pid
        self._ended = ended

    def poll(self) -> int | None:
        """Return the exit code once it has ended."""
        return int(self._ended.read_text()) if self._ended.exists() else None

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end and return the exit code. Raises: subprocess.TimeoutExpired."""
        deadline = time.monotonic() + (timeout or float("inf"))
        while (code := self.poll()) is None:
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired(str(self.pid), timeout or 0)
            time.sleep(0.002)
        return code

    def send_signal(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):  # it was reaped just now
                os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class Nursery:
    """The process that forks; what it forked and still lives ends with it."""

    def __init__(self) -> None:
        self._parent = subprocess.Popen([sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def start(self, code: str, *, env: Mapping[str, str], log: Path, cwd: Path) -> Child:
        """Run a program in a process of its own whose output goes to the log."""
        assert self._parent.stdin is not None
        assert self._parent.stdout is not None
        ended = log.with_suffix(_ENDED)
        ended.unlink(missing_ok=True)
        log.write_bytes(b"")
        request = {"code": code, "env": dict(env), "log": str(log), "cwd": str(cwd), "ended": str(ended)}
        self._parent.stdin.write(json.dumps(request).encode() + b"\n")
        self._parent.stdin.flush()
        return Child(int(self._parent.stdout.readline()), ended)

    def close(self) -> None:
        """End it and what it forked."""
        self._parent.communicate()


def _serve() -> dict[str, Any]:
    """Fork for every request, until there are no more; a child returns with what it was asked for."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the tests'
    children: dict[int, str] = {}
    with selectors.DefaultSelector() as selector:
        selector.register(sys.stdin.buffer, selectors.EVENT_READ)
        selector.register(reading, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.fd == reading:
                    os.read(reading, 4096)
                    _reap(children)
                elif not (line := sys.stdin.buffer.readline()):
                    _end(children)
                elif (pid := os.fork()) == 0:
                    os.close(reading)
                    return dict(json.loads(line))
                else:
                    children[pid] = json.loads(line)["ended"]
                    os.write(1, b"%d\n" % pid)


def _reap(children: dict[int, str]) -> None:
    for pid, code in _ended():
        path = Path(children.pop(pid))
        draft = path.with_suffix(".ending")
        with contextlib.suppress(FileNotFoundError):  # the test did not wait for it, and its folder is gone
            draft.write_text(str(code))
            draft.rename(path)


def _ended() -> Iterator[tuple[int, int]]:
    with contextlib.suppress(ChildProcessError):
        while (found := os.waitpid(-1, os.WNOHANG))[0]:
            yield found[0], os.waitstatus_to_exitcode(found[1])


def _end(children: dict[int, str]) -> None:
    for pid in children:
        os.kill(pid, signal.SIGKILL)
    sys.exit()


def _begin(request: dict[str, Any]) -> None:
    """Become what a new interpreter would be."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for path, flags, target in (
        (os.devnull, os.O_RDONLY, 0),
        (request["log"], os.O_WRONLY | os.O_APPEND, 1),
    ):
        opened = os.open(path, flags)
        os.dup2(opened, target)
        os.close(opened)
    os.dup2(1, 2)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])


if __name__ == "__main__":
    sys.path[0] = ""  # as it is for `python -c`
    for module in _IMPORTED:
        importlib.import_module(module)
    gc.freeze()
    asked = _serve()
    _begin(asked)
    exec(compile(asked["code"], "<string>", "exec"), {"__name__": "__main__"})  # noqa: S102
