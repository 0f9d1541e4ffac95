"""The embedded server as its users see it: `ensure`, `release`, `status`, `stop`."""

from __future__ import annotations

import atexit
import os
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Final, Self
from urllib.parse import quote

from cirkelline.state.embedded import binaries, cluster, failures, locks, places, process
from cirkelline.state.embedded.cluster import Programs
from cirkelline.state.embedded.locks import Progress, Use
from cirkelline.state.embedded.places import Place

_START_PATIENCE: Final = 600.0  # s; recovery after a crash replays up to 2 GB of log
_STOP_PATIENCE: Final = 60.0  # s
_AT_ONCE_PATIENCE: Final = 15.0  # s
_ABANDONED_PATIENCE: Final = 5.0  # s


def _ignore(message: str) -> None:
    """Show nobody how far it has come."""
    del message


class EmbeddedServer:
    """A running server that this process has registered to use, until `release` (or the end of a `with`)."""

    def __init__(self, place: Place, use: Use, *, started: bool) -> None:
        record = places.read_record(place)
        if record is None:
            raise failures.EmbeddedServerError(f"{place.record} is gone: stop the server with `cirkelline db stop`")
        self.home: Final = place.home
        self.folder: Final = place.folder
        self.data: Final = place.data
        self.version: Final = record.version
        self.socket: Final = record.socket
        self.started: Final = started  # by this very call
        self._place = place
        self._password = place.password.read_text()
        self._use: Use | None = use
        atexit.register(self._at_exit)

    def __repr__(self) -> str:
        return f"EmbeddedServer(data={str(self.data)!r}, version={self.version!r}, started={self.started})"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def url(self, database: str = cluster.DATABASE) -> str:
        """Return the URL of a database of this server. It holds the password: never print it, nor pass it to a command."""
        host = quote(os.fsencode(self.socket), safe="")
        name = quote(database, safe="")
        return f"postgresql://{cluster.ROLE}:{quote(self._password, safe='')}@/{name}?host={host}&port={places.PORT}"

    def release(self, *, keep_running: bool = False) -> bool:
        """Give up this use; the last one stops the server, unless `keep_running`. Say whether the server was stopped.

        A second call does nothing, and neither does one in a forked child: the use is its parent's.
        """
        use, self._use = self._use, None
        if use is None or use.pid != os.getpid():
            return False
        atexit.unregister(self._at_exit)
        return _leave(self._place, use, keep_running=keep_running)

    def _at_exit(self) -> None:
        """Release what was forgotten, without a word when even that fails: the next start takes the server over."""
        with suppress(failures.EmbeddedServerError, OSError):
            self.release()


@dataclass(frozen=True, slots=True)
class Status:
    """What can be known of a server without starting it."""

    running: bool
    exists: bool  # its data folder has been made
    folder: Path
    data: Path
    log: Path
    version: str | None  # of PostgreSQL, as of the last start
    socket: Path | None
    pid: int | None  # None also when it runs where its process cannot be seen (another container)
    users: tuple[int, ...]  # process ids of those who use it, each once


def ensure(home: Path, *, progress: Progress = _ignore, patience: float = _START_PATIENCE) -> EmbeddedServer:
    """Return the server of `home`, started (and before that, made) if it was not running; it stays until `release`.

    Any number of processes may call it at once. It blocks: from a coroutine, call it in a thread.

    Args:
        home: CIRKELLINE_HOME; made when it is not there.
        progress: is told in a sentence what takes long.
        patience: s to wait until the server answers, and for another process that is starting or stopping it.

    Raises:
        EmbeddedServerError: with the reason and the remedy.
    """
    binaries.installed()  # before anything is made
    place = _prepare(home, patience, progress)
    with failures.explained(place.folder), locks.exclusively(place.lock, patience=patience, progress=progress):
        locks.forget_dead_users(place.users)
        use = Use(place.users)
        try:
            programs = partial(_programs, place, patience, progress)
            started = process.bring_up(place, programs, patience=patience, progress=progress)
            return EmbeddedServer(place, use, started=started)
        except BaseException as error:
            use.leave()
            # Ctrl-C, say: without a user it would stay for nobody. One that we lost patience with goes on recovering.
            if not isinstance(error, failures.EmbeddedServerError) and not locks.users(place.users):
                process.bring_down(place, patience=_ABANDONED_PATIENCE)
            raise


def status(home: Path) -> Status:
    """Return what is known of the server of `home`; nothing is started, made or changed."""
    place = places.find(home)
    with failures.explained(place.folder):
        record = places.read_record(place)
        return Status(
            running=locks.held(place.alive),
            exists=place.data.is_dir(),
            folder=place.folder,
            data=place.data,
            log=place.logs,
            version=record.version if record else None,
            socket=record.socket if record else None,
            pid=process.find_pid(place),
            users=_distinct(locks.users(place.users)),
        )


def stop(home: Path, *, force: bool = False, progress: Progress = _ignore) -> bool:
    """Stop the server of `home`; return False when it was not running.

    Args:
        home: CIRKELLINE_HOME.
        force: although other processes use it, and without patience when it does not end in time.
        progress: is told in a sentence what takes long.

    Raises:
        EmbeddedServerError: other live processes use it (each is named), or it does not end.
    """
    place = places.find(home)
    with failures.explained(place.folder):
        if not place.lock.exists():
            return False
        with locks.exclusively(place.lock, patience=_START_PATIENCE, progress=progress):
            return _stop(place, force=force)


def _stop(place: Place, *, force: bool) -> bool:
    if not locks.held(place.alive):
        return False
    others = [pid for pid in _distinct(locks.users(place.users)) if pid != os.getpid()]
    if others and not force:
        raise failures.EmbeddedServerError(
            f"the embedded PostgreSQL is in use by process{'es' if len(others) > 1 else ''}"
            f" {', '.join(map(str, others))}: end {'them' if len(others) > 1 else 'it'} first, or stop it all the same"
            " with `cirkelline db stop --force`"
        )
    if process.bring_down(place, patience=_STOP_PATIENCE):
        return True
    if force and process.bring_down(place, patience=_AT_ONCE_PATIENCE, at_once=True):
        return True
    pid = process.find_pid(place)
    if pid is None:
        raise failures.EmbeddedServerError(
            f"the server on {place.data} runs where its process cannot be seen (another container?): stop it there"
        )
    raise failures.EmbeddedServerError(
        f"the embedded PostgreSQL (process {pid}) did not end within {_STOP_PATIENCE:.0f} s: see its log in"
        f" {place.logs}, or stop it at once with `cirkelline db stop --force`"
    )


def _leave(place: Place, use: Use, *, keep_running: bool) -> bool:
    try:
        with locks.exclusively(place.lock, patience=_STOP_PATIENCE, progress=_ignore):
            use.leave()
            if keep_running or locks.users(place.users):
                return False
            return process.bring_down(place, patience=_STOP_PATIENCE)
    except (OSError, failures.EmbeddedServerError):  # the home was removed, or another process holds the lock for long
        use.leave()
        return False


def _prepare(home: Path, patience: float, progress: Progress) -> Place:
    """Make the folders; as root one process at a time, for the account is made with them."""
    if os.geteuid() != 0:
        return places.prepare(home)
    with failures.explained(places.SYSTEM_FOLDER):
        places.prepare_system_folder()
        with _system_lock(patience, progress):
            return places.prepare(home)


def _programs(place: Place, patience: float, progress: Progress) -> Programs:
    """Return what the server's account runs: the wheel's programs, or a copy that it can reach."""
    folder = binaries.installed()
    version = binaries.version(folder)
    if place.account:
        with failures.explained(places.SYSTEM_FOLDER), _system_lock(patience, progress):
            folder = binaries.shared_copy(places.SYSTEM_FOLDER, version)
    return Programs(folder, version)


def _system_lock(patience: float, progress: Progress) -> AbstractContextManager[None]:
    return locks.exclusively(places.SYSTEM_FOLDER / "lock", patience=patience, progress=progress)


def _distinct(pids: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(sorted(set(pids)))
