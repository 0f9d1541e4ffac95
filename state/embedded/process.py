"""The server as a process: starting it, waiting until it answers, stopping it."""

from __future__ import annotations

import os
import signal
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

import psutil

from cirkelline.state.embedded import cluster, failures, locks, places, settings
from cirkelline.state.embedded.cluster import Programs
from cirkelline.state.embedded.locks import Progress
from cirkelline.state.embedded.places import Place, Record

_PAUSE: Final = 0.01  # s between two looks
_SAY_EVERY: Final = 5.0  # s
_LOST_AFTER: Final = 2.0  # s; before, it may just be ending
_UNSEEN_PATIENCE: Final = 5.0  # s for a server whose process is not to be seen
_ANSWER_PATIENCE: Final = 2.0  # s
_QUESTION: Final = struct.pack("!ii", 8, 80877103)  # the protocol's SSLRequest; over a socket file the answer is N, no
_READY_LINE: Final = 7  # of postmaster.pid


def bring_up(place: Place, programs: Callable[[], Programs], *, patience: float, progress: Progress) -> bool:
    """Return once the server answers; say whether it is we who started it. Call it only under the server's lock.

    A server that is found may be starting (its starter was killed) or ending (somebody stopped it by hand): then we wait
    for what becomes of it.
    """
    started = False
    wait = _Wait(place, patience, progress)
    while True:
        with failures.explained(place.folder):
            alive = locks.try_hold(place.alive)
        if alive is not None:
            try:
                if started:
                    raise failures.from_output("did not start", last_output(place), log=place.logs)
                _start(place, programs(), alive, progress)
                started = True
            finally:
                os.close(alive)  # the server holds it now
        elif _answers(place):
            return started
        elif wait.seconds > _LOST_AFTER and _has_lost_its_socket(place):
            raise failures.EmbeddedServerError(
                f"the embedded PostgreSQL runs and its socket has been removed: stop it with"
                f" `cirkelline db stop --force` and start again; its log is {place.logs}"
            )
        wait.a_moment()


class _Wait:
    """Waiting with an end, and with a word to the person who waits."""

    def __init__(self, place: Place, patience: float, progress: Progress) -> None:
        self._place = place
        self._progress = progress
        self._patience = patience
        self._begun = time.monotonic()
        self._say_at = _SAY_EVERY

    @property
    def seconds(self) -> float:
        """How long it has been."""
        return time.monotonic() - self._begun

    def a_moment(self) -> None:
        if self.seconds > self._patience:
            raise failures.EmbeddedServerError(
                f"the embedded PostgreSQL did not answer within {self._patience:.0f} s (it said:"
                f" {failures.last_line(last_output(self._place)) or 'nothing'}): wait and try again, or end it with"
                f" `cirkelline db stop --force`; its log is {self._place.logs}"
            )
        if self.seconds > self._say_at:
            last = failures.last_line(last_output(self._place)) or "it said nothing yet"
            self._progress(f"the embedded PostgreSQL is not ready yet after {self.seconds:.0f} s: {last}")
            self._say_at += _SAY_EVERY
        time.sleep(_PAUSE)


def _start(place: Place, programs: Programs, alive: int, progress: Progress) -> None:
    if not place.data.exists():
        progress(f"making a PostgreSQL {programs.version} database in {place.data}")
        cluster.create(place, programs, alive)
    with failures.explained(place.folder):
        cluster.check_version(place)
        if not place.password.exists():
            raise failures.EmbeddedServerError(
                f"the database's password is gone ({place.password}): restore it, or move {place.folder} away"
            )
        _refuse_foreign_server(place)
        _configure(place, programs)
        _spawn(place, programs, alive)


def _configure(place: Place, programs: Programs) -> None:
    group = place.account.group if place.account else None
    folder = places.socket_folder(place)
    places.write_private(place.settings, settings.text(place, folder), group=group)
    places.write_private(place.access, settings.ACCESS, group=group)
    places.write_record(place, Record(programs.version, folder))


def _refuse_foreign_server(place: Place) -> None:
    """Deal with a postmaster.pid although nobody holds our lock: a server that was started by hand, or a leftover.

    PostgreSQL removes a leftover itself, unless its process id has been given to another process of the same account
    meanwhile (after a reboot, in a container: nearly always). It cannot tell; we can.
    """
    pid = _recorded_pid(place)
    if pid is None or not psutil.pid_exists(pid):
        return
    if _is_server(pid, place):
        raise failures.EmbeddedServerError(
            f"a PostgreSQL that cirkelline did not start runs on {place.data}: stop it with `kill -INT {pid}`"
        )
    (place.data / "postmaster.pid").unlink(missing_ok=True)


def _spawn(place: Place, programs: Programs, alive: int) -> None:
    """Start the server as a process of its own that shares nothing with us but the lock that says that it lives.

    Not through pg_ctl: it puts the paths into a shell's command line, where a quote or a dollar in them means something.
    """
    output = os.open(place.output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        process = subprocess.Popen(  # noqa: S603 - our own program, no shell
            [programs.folder / "postgres", "-D", place.data, "-c", f"config_file={place.settings}"],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            **cluster.identity(place, alive),
        )
    finally:
        os.close(output)
    # It is our child: without somebody who waits for it, it stays a zombie when it is stopped before we end.
    threading.Thread(target=process.wait, name="embedded-postgres-end", daemon=True).start()


def _answers(place: Place) -> bool:
    """Say whether the server accepts connections (it listens, and is done with recovery)."""
    record = places.read_record(place)
    if record is None or _status(place) != "ready" or not places.is_private(record.socket, place.owner):
        return False
    with socket.socket(socket.AF_UNIX) as client, suppress(OSError):
        client.settimeout(_ANSWER_PATIENCE)
        client.connect(os.fsencode(places.socket_file(record.socket)))
        client.sendall(_QUESTION)  # a server that is being killed still takes connections, but says nothing
        return client.recv(1) == b"N"
    return False


def _has_lost_its_socket(place: Place) -> bool:
    record = places.read_record(place)
    return record is not None and _status(place) == "ready" and not places.socket_file(record.socket).exists()


def _pid_file(place: Place) -> list[str]:
    with suppress(OSError):
        return os.fsdecode((place.data / "postmaster.pid").read_bytes()).splitlines()
    return []


def _status(place: Place) -> str:
    lines = _pid_file(place)
    return lines[_READY_LINE].strip() if len(lines) > _READY_LINE else ""


def _recorded_pid(place: Place) -> int | None:
    lines = _pid_file(place)
    return int(lines[0]) if lines and lines[0].strip().isdecimal() else None


def _is_server(pid: int, place: Place) -> bool:
    """Say whether a process is the server on this data folder, in which a server works."""
    with suppress(psutil.Error, OSError):
        process = psutil.Process(pid)
        return process.uids().real == place.owner and Path(process.cwd()).samefile(place.data)
    return False


def find_pid(place: Place) -> int | None:
    """Return the server's process id, or None when no server can be seen."""
    pid = _recorded_pid(place)
    return pid if pid is not None and _is_server(pid, place) else None


def bring_down(place: Place, *, patience: float, at_once: bool = False) -> bool:
    """Stop the server and return True once all its processes have ended; False if they have not within `patience` s.

    Args:
        place: whose server; nothing happens when it does not run.
        patience: s to wait; it writes what is in its buffers first, which takes a slow disk some time.
        at_once: without writing; the next start recovers from the log.
    """
    begun = time.monotonic()
    told = False
    while locks.held(place.alive):
        if not told:
            told = _tell(place, signal.SIGQUIT if at_once else signal.SIGINT)
        if time.monotonic() - begun > (patience if told else min(patience, _UNSEEN_PATIENCE)):
            return False
        time.sleep(_PAUSE)
    return True


def _tell(place: Place, what: signal.Signals) -> bool:
    """Send the server a signal; return False while its process cannot be seen (it may be about to write its id)."""
    pid = find_pid(place)
    if pid is None:
        return False
    with suppress(ProcessLookupError):
        os.kill(pid, what)
    return True


def last_output(place: Place) -> str:
    """Return the end of what the server said: before its own log began, or else in the newest file of its log."""
    early = _tail(place.output)
    if "FATAL" in early or "PANIC" in early:
        return early
    with suppress(OSError):
        files = sorted(place.logs.iterdir(), key=lambda path: path.stat().st_mtime)
        if files:
            return _tail(files[-1])
    return early


def _tail(path: Path, size: int = 4096) -> str:
    """Return the end of a file; the log's folder is the server's account's, so a link in it is not followed."""
    with suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        with os.fdopen(descriptor, "rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - size))
            return file.read().decode(errors="replace")
    return ""
