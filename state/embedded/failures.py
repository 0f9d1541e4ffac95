"""What can go wrong with the embedded server, each as one sentence with its remedy."""

from __future__ import annotations

import errno
import re
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from cirkelline.configs.errors import CirkellineError

ELSEWHERE: Final = "set CIRKELLINE_HOME to a folder on a local disk, or DATABASE_URL to a PostgreSQL server"
OWN_SERVER: Final = "set DATABASE_URL to a PostgreSQL server of your own"

# What PostgreSQL's programs print, and what a person can do about it. The first that matches is told.
_KNOWN: Final = (
    (r"No space left on device|Disk quota exceeded", "its disk is full: free some space, then try again"),
    (r"could not look up effective user ID", "this user id has no name in /etc/passwd: give it one, or {own}"),
    (r"has wrong ownership|has invalid permissions|could not change permissions", "its file system does not keep owners and permissions: {elsewhere}"),
    (r"Cannot allocate memory|could not map anonymous shared memory", "there is too little memory: free some, or {own}"),
    (r"GLIBC_\S+' not found|cannot open shared object file|Exec format error", "its programs do not run on this system: {own}"),
    (r"Read-only file system", "its disk is read-only: {elsewhere}"),
    (r"incompatible with (the )?server", "another PostgreSQL made its data folder: use the cirkelline release that made it, or {elsewhere}"),
)  # fmt: skip

_LOG_PREFIX: Final = re.compile(r"^[\d-]+ [\d:.]+ \w+ \[\d+\] (\S*@\S* )?")


class EmbeddedServerError(CirkellineError):
    """The embedded server could not be made, started, reached or stopped."""


@contextmanager
def explained(what: Path) -> Generator[None]:
    """Turn an OSError about our own files into a sentence; `what` is named when the error names no file."""
    try:
        yield
    except OSError as error:
        raise _about_files(error, what) from error


def _about_files(error: OSError, what: Path) -> EmbeddedServerError:
    path = error.filename if isinstance(error.filename, str) else str(what)
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return EmbeddedServerError(f"the disk that holds {path} is full: free some space, or {ELSEWHERE}")
    if error.errno in {errno.ENOLCK, errno.ENOTSUP}:
        return EmbeddedServerError(f"the file system of {path} cannot lock files: {ELSEWHERE}")
    reason = (error.strerror or str(error)).lower()
    return EmbeddedServerError(f"the embedded PostgreSQL cannot use {path} ({reason}): {ELSEWHERE}")


def from_output(did: str, output: str, *, log: Path | None = None) -> EmbeddedServerError:
    """Explain what a PostgreSQL program printed when it failed.

    Args:
        did: what failed, such as "did not start".
        output: what the program wrote on stderr or into the server's log.
        log: the file in which a person can read the rest.
    """
    said = _telling(output)
    where = f"; its log is {log}" if log else ""
    for pattern, remedy in _KNOWN:
        if re.search(pattern, output):
            advice = remedy.format(own=OWN_SERVER, elsewhere=ELSEWHERE)
            return EmbeddedServerError(f"the embedded PostgreSQL {did}, {advice} (it said: {said}){where}")
    return EmbeddedServerError(f"the embedded PostgreSQL {did} (it said: {said}): {OWN_SERVER}{where}")


def last_line(output: str) -> str:
    """Return the last line that says something, without the log's time and process, or an empty text."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    return _LOG_PREFIX.sub("", lines[-1]) if lines else ""


def _telling(output: str) -> str:
    """Return the last line that names a failure, else the last line at all."""
    failures = [line.strip() for line in output.splitlines() if re.search(r"\b(FATAL|PANIC|ERROR|error|fatal):", line)]
    return last_line("\n".join(failures) or output) or "nothing"
