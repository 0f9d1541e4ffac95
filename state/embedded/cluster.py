"""Making a database cluster: initdb, then the database, then the name `data`, so that what has the name is whole."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from cirkelline.state.embedded import failures, places, settings
from cirkelline.state.embedded.binaries import MAJOR
from cirkelline.state.embedded.places import Place

ROLE: Final = "cirkelline"
DATABASE: Final = "cirkelline"
_NEEDED_SPACE: Final = 200 * 1024 * 1024  # a new cluster is 46 MB, and its first log segments come on top
_CREATE_DATABASE: Final = f"CREATE DATABASE {DATABASE}\n"


@dataclass(frozen=True, slots=True)
class Programs:
    """The `bin` folder that the server's account runs, and the version of what is in it."""

    folder: Path
    version: str


def identity(place: Place, alive: int) -> dict[str, Any]:
    """Return the arguments for subprocess that make a program run as the server's account, apart from us.

    It inherits the lock `alive` and so holds it to its end, also when we are killed: no other process begins to work on
    the data before it has ended.

    Its environment is empty but for what its programs need: ours may hold API keys, which any database superuser could
    read there. A session of its own: Ctrl-C in our terminal does not reach it.
    """
    inherited = {name: os.environ[name] for name in ("LD_LIBRARY_PATH",) if name in os.environ}
    arguments: dict[str, Any] = {
        "cwd": "/",  # ours may be closed to the account
        "env": {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"} | inherited,
        "pass_fds": [alive],
        "start_new_session": True,
        "umask": 0o077,
    }
    if place.account:
        arguments |= {"user": place.account.user, "group": place.account.group, "extra_groups": []}
    return arguments


def run(place: Place, alive: int, command: Sequence[str], *, input: str = "") -> subprocess.CompletedProcess[str]:
    """Run one of PostgreSQL's programs as the server's account and return what it said."""
    try:
        return subprocess.run(  # noqa: S603 - PostgreSQL's own programs, no shell
            command,
            input=input,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            **identity(place, alive),
        )
    except OSError as error:
        raise failures.from_output("cannot run its programs", f"error: {error}") from error


def check_version(place: Place) -> None:
    """Refuse a data folder that another major version of PostgreSQL made."""
    found = (place.data / "PG_VERSION").read_text().strip()
    if found != str(MAJOR):
        raise failures.EmbeddedServerError(
            f"{place.data} was made by PostgreSQL {found} and this cirkelline brings {MAJOR}: use the cirkelline release"
            f" that made it (its pg_dump saves the data), or move the folder away, or {failures.ELSEWHERE}"
        )


def create(place: Place, programs: Programs, alive: int) -> None:
    """Make the cluster with its role and database."""
    _check_space(place)
    draft = place.folder / "data.new"
    with failures.explained(place.folder):
        shutil.rmtree(draft, ignore_errors=True)  # of a start that was killed
        draft.mkdir(mode=0o700)
        _give(draft, place)
        password = _password(place)
    _run_initdb(place, programs, alive, draft, password)
    options = ["--single", "-D", str(draft), "-c", "exit_on_error=true", "template1"]
    answer = run(place, alive, [str(programs.folder / "postgres"), *options], input=_CREATE_DATABASE)
    if answer.returncode:
        raise failures.from_output("could not make its database", answer.stderr)
    with failures.explained(place.folder):
        draft.rename(place.data)
        _sync(place.folder)


def _run_initdb(place: Place, programs: Programs, alive: int, draft: Path, password: str) -> None:
    """Run initdb; the password goes through a file that only the server's account can read, for that moment."""
    secret = place.folder / "password.initdb"
    try:
        with failures.explained(secret):
            places.write_private(secret, password + "\n")
            _give(secret, place)
        answer = run(place, alive, [str(programs.folder / "initdb"), *_initdb_options(draft, secret)])
    finally:
        secret.unlink(missing_ok=True)
    if answer.returncode:
        raise failures.from_output("could not make its data folder", answer.stderr)


def _initdb_options(draft: Path, secret: Path) -> list[str]:
    # The same collation on every system and after every upgrade of its C library.
    return [
        f"--pgdata={draft}",
        f"--username={ROLE}",
        f"--pwfile={secret}",
        "--auth=scram-sha-256",
        "--encoding=UTF8",
        "--locale=C",
        "--locale-provider=builtin",
        "--builtin-locale=C.UTF-8",
        "--text-search-config=english",
        "--no-instructions",
        "--set=huge_pages=off",
        # 256 random bits cannot be guessed, however quickly; more rounds are half of the time that a connection takes.
        "--set=scram_iterations=1",
        f"--set=dynamic_shared_memory_type={settings.shared_memory()}",
    ]


def _check_space(place: Place) -> None:
    with failures.explained(place.folder):
        free = shutil.disk_usage(place.folder).free
    if free < _NEEDED_SPACE:
        raise failures.EmbeddedServerError(
            f"a new database needs {_NEEDED_SPACE >> 20} MB and the disk that holds {place.folder} has {free >> 20} MB"
            f" free: free some space, or {failures.ELSEWHERE}"
        )


def _password(place: Place) -> str:
    """Return the role's password, making it when it is not there (or was cut off by a full disk)."""
    if not place.password.exists():
        places.write_private(place.password, secrets.token_urlsafe(32))
    return place.password.read_text()


def _give(path: Path, place: Place) -> None:
    if place.account:
        os.chown(path, place.account.user, place.account.group)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
