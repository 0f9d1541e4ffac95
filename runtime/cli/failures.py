"""Turning whatever ends a command early into one sentence, a type and an exit code."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from typing import Final, cast

import click

from cirkelline.configs import secrecy
from cirkelline.configs.errors import CirkellineError
from cirkelline.runtime.cli import display

FAILED: Final = 1
WRONG_USE: Final = 2
UNFINISHED: Final = 3
UNDECIDED: Final = 4
INTERRUPTED: Final = 130
_LONGEST: Final = 2000
_SHORTEST_SECRET: Final = 8  # a shorter value would be found inside ordinary words


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a command ended: `message` is one sentence with its remedy, `help` the usage when only a command is missing."""

    type: str
    message: str
    exit_code: int
    help: str | None = None

    @property
    def document(self) -> dict[str, dict[str, str]]:
        """The failure as --json prints it on stdout."""
        return {"error": {"type": self.type, "message": self.message}}


def explain(error: BaseException) -> Failure:
    """Return what to say about an exception. Never raises."""
    error = _only(error)
    match error:
        case CirkellineError():
            return Failure(type(error).__name__, _sentence(str(error)), error.exit_code)
        case click.exceptions.NoArgsIsHelpError():
            return Failure(
                "UsageError", f"`{error.ctx.command_path}` needs a command", WRONG_USE, error.format_message()
            )
        case click.ClickException():
            return Failure(type(error).__name__, _usage(error), WRONG_USE)
        case KeyboardInterrupt() | click.Abort() | EOFError():
            return Failure("Interrupted", "interrupted", INTERRUPTED)
        case OSError() if error.strerror:
            where = f": {error.filename}" if error.filename else ""
            return Failure(
                type(error).__name__, _sentence(f"{error.strerror[0].lower()}{error.strerror[1:]}{where}"), FAILED
            )
        case _:
            return _of_database(error) or _unexpected(error)


def _only(error: BaseException) -> BaseException:
    """Return the one that matters of a group: ours if there is one, else the first."""
    if not isinstance(error, BaseExceptionGroup):
        return error
    group = cast("BaseExceptionGroup[BaseException]", error)
    inner = [_only(one) for one in group.exceptions]
    return next((one for one in inner if isinstance(one, CirkellineError)), inner[0])


def _usage(error: click.ClickException) -> str:
    message = error.format_message().strip().rstrip(".")
    words = message[:1].lower() + message[1:] if message[1:2].islower() else message
    context = error.ctx if isinstance(error, click.UsageError) else None
    remedy = f" (`{context.command_path} --help`)" if context else ""
    return _sentence(words) + remedy


def _of_database(error: BaseException) -> Failure | None:
    if "psycopg" not in sys.modules:
        return None
    from cirkelline.state import connection

    if isinstance(error, connection.Disconnected):
        reason = _sentence(str(error)) or type(error).__name__
        return Failure(
            "DatabaseUnavailable", f"the database went away: {reason} (`cirkelline doctor` checks it)", FAILED
        )
    if isinstance(error, connection.QueryError):
        reason = _sentence(str(error)) or type(error).__name__
        return Failure(
            type(error).__name__, f"the database refused that: {reason} (`cirkelline doctor` checks it)", FAILED
        )
    return None


def _unexpected(error: BaseException) -> Failure:
    said = _sentence(str(error))
    what = f"{type(error).__name__}: {said}" if said else type(error).__name__
    return Failure(
        type(error).__name__,
        f"a fault inside cirkelline, {what} (set CIRKELLINE_DEBUG=1 to see where, and please report it)",
        FAILED,
    )


def _sentence(text: str) -> str:
    """Return the first line of a message, without secrets; a library's second paragraph is no remedy."""
    first = next((line.strip() for line in text.splitlines() if line.strip()), "")
    for name, value in os.environ.items():
        if len(value) >= _SHORTEST_SECRET and secrecy.names_secret(name):
            first = first.replace(value, secrecy.HIDDEN)
    words = (secrecy.mask_url(word) if "://" in word else word for word in first.split(" "))
    return display.line(" ".join(words), _LONGEST)
