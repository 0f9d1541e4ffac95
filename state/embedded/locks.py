"""Who uses the embedded server and whether it lives, told by file locks.

The kernel drops a process's flock when it ends, however it ends. So a lock needs none of what lists of process ids need:
no clock (a stepped clock moves a process's creation time), no guess after a reboot or a reused id, and it holds between
containers that share a home but see different process ids. Rejected: a JSON list of (pid, creation time).
"""

from __future__ import annotations

import fcntl
import os
import secrets
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from cirkelline.state.embedded import failures

Progress = Callable[[str], None]

_OPEN_FLAGS: Final = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
_PAUSE: Final = 0.02  # s between two tries
_SAY_AFTER: Final = 3.0  # s of waiting before a person is told why

_held_uses: set[int] = set()  # descriptors of this process's registrations


def _forget_inherited_uses() -> None:
    """In a forked child: it shares its parent's descriptors, and must not keep the parent's registrations alive."""
    for descriptor in _held_uses:
        with suppress(OSError):
            os.close(descriptor)
    _held_uses.clear()


os.register_at_fork(after_in_child=_forget_inherited_uses)


class Use:
    """This process's registration as a user of the server; it ends with `leave` or with the process."""

    def __init__(self, folder: Path) -> None:
        self.pid = os.getpid()
        self._left = False
        self._path = folder / f"{self.pid}-{secrets.token_hex(4)}"
        self._descriptor = os.open(self._path, _OPEN_FLAGS, 0o600)
        _held_uses.add(self._descriptor)
        fcntl.flock(self._descriptor, fcntl.LOCK_EX)  # waits at most for somebody's `users` to look

    def leave(self) -> None:
        """Take the registration back; a second time does nothing."""
        if self._left:
            return
        self._left = True
        _held_uses.discard(self._descriptor)
        self._path.unlink(missing_ok=True)
        os.close(self._descriptor)


def users(folder: Path) -> tuple[int, ...]:
    """Return the process ids of the live registrations, sorted; one process may be there more than once."""
    return tuple(sorted(int(path.name.partition("-")[0]) for path in _registrations(folder) if held(path)))


def forget_dead_users(folder: Path) -> None:
    """Remove what processes left that ended without `leave`; call it only under the server's lock."""
    for path in _registrations(folder):
        if not held(path):
            path.unlink(missing_ok=True)


def _registrations(folder: Path) -> list[Path]:
    return list(folder.iterdir()) if folder.is_dir() else []


def held(path: Path) -> bool:
    """Say whether any process holds the lock of `path`."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)  # shared: two lookers do not see each other
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def try_hold(path: Path) -> int | None:
    """Take the lock of `path` and return its descriptor, or None while another process holds it."""
    descriptor = os.open(path, _OPEN_FLAGS, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    except OSError:
        os.close(descriptor)
        raise
    if _is_still_there(path, descriptor):
        return descriptor
    os.close(descriptor)  # the folder was removed, and perhaps made anew, meanwhile
    return None


def _is_still_there(path: Path, descriptor: int) -> bool:
    with suppress(FileNotFoundError):
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    return False


@contextmanager
def exclusively(path: Path, *, patience: float, progress: Progress) -> Generator[None]:
    """Hold the lock of `path`, waiting up to `patience` seconds for another process to give it back."""
    begun = time.monotonic()
    said = False
    while (descriptor := try_hold(path)) is None:
        waited = time.monotonic() - begun
        if waited > patience:
            raise failures.EmbeddedServerError(
                f"process {_holder(path)} has been starting or stopping the embedded PostgreSQL for {waited:.0f} s:"
                " wait for it, or end it and try again"
            )
        if waited > _SAY_AFTER and not said:
            progress(f"waiting for process {_holder(path)}, which is starting or stopping the embedded PostgreSQL")
            said = True
        time.sleep(_PAUSE)
    try:
        os.ftruncate(descriptor, 0)
        os.write(descriptor, str(os.getpid()).encode())
        yield
    finally:
        fcntl.flock(descriptor, fcntl.LOCK_UN)  # not left to close(): a child forked meanwhile shares the descriptor
        os.close(descriptor)


def _holder(path: Path) -> str:
    with suppress(OSError):
        return path.read_text() or "another"
    return "another"
