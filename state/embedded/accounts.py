"""The system account that runs the server when we are root; PostgreSQL refuses to run as root."""

from __future__ import annotations

import pwd
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cirkelline.state.embedded import failures

NAME: Final = "cirkelline"
_OPTIONS: Final = (
    *("--system", "--user-group", "--no-create-home", "--home-dir", "/nonexistent"),
    *("--shell", "/usr/sbin/nologin", "--comment", "Cirkelline's embedded PostgreSQL"),
)
_NO_LOGIN: Final = frozenset({"nologin", "false"})


@dataclass(frozen=True, slots=True)
class Account:
    """An account by its numbers, as the kernel wants them."""

    user: int
    group: int


def find() -> Account | None:
    """Return the server's account, or None before the first start; refuse an account that a person can log in to."""
    try:
        entry = pwd.getpwnam(NAME)
    except KeyError:
        return None
    if entry.pw_uid == 0 or Path(entry.pw_shell).name not in _NO_LOGIN:
        raise failures.EmbeddedServerError(
            f"the account {NAME!r} is somebody's login (its shell is {entry.pw_shell or 'the default one'}), and its"
            f" owner could read the database: run cirkelline as another user than root, or {failures.OWN_SERVER}"
        )
    return Account(entry.pw_uid, entry.pw_gid)


def ensure() -> Account:
    """Return the server's account, creating it when it is not there (a system account: no login, no home)."""
    account = find()
    if account is None:
        _create()
        account = find()
    if account is None:
        raise failures.EmbeddedServerError(f"the account {NAME!r} was made and is not there: {failures.OWN_SERVER}")
    return account


def _create() -> None:
    useradd = shutil.which("useradd", path="/usr/sbin:/sbin:/usr/bin:/bin")
    if useradd is None:
        raise failures.EmbeddedServerError(
            f"PostgreSQL does not run as root and there is no useradd to make the account {NAME!r} for it:"
            f" run cirkelline as another user, or {failures.OWN_SERVER}"
        )
    made = subprocess.run(  # noqa: S603 - a program of the system, no shell
        [useradd, *_OPTIONS, NAME],
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    if made.returncode:
        raise failures.EmbeddedServerError(
            f"PostgreSQL does not run as root and useradd could not make the account {NAME!r} for it"
            f" ({failures.last_line(made.stderr)}): run cirkelline as another user, or {failures.OWN_SERVER}"
        )
