"""Passwords: what one may be, and their bcrypt hashes."""

from __future__ import annotations

import functools
from typing import Final

from cirkelline.configs.errors import UsageError

SHORTEST: Final = 8  # characters
LONGEST: Final = 72  # bytes; bcrypt reads no further


class PasswordUnusable(UsageError):
    """A text cannot be a password."""


def check(password: str) -> None:
    """Raise PasswordUnusable for a password that could not be told from others."""
    try:
        size = len(password.encode())
    except UnicodeEncodeError:
        raise PasswordUnusable(
            "the password is not text: type it with a keyboard of your terminal's encoding"
        ) from None
    if size > LONGEST:
        raise PasswordUnusable(
            f"the password has {size} bytes, and bcrypt tells passwords apart by their first {LONGEST}: take a shorter one"
        )
    if "\0" in password:
        raise PasswordUnusable("the password holds a NUL character, after which bcrypt reads no further: leave it out")


def check_new(password: str) -> None:
    """Raise PasswordUnusable for a password that should not be anybody's."""
    check(password)
    if len(password) < SHORTEST:
        raise PasswordUnusable(f"the password is too short: take {SHORTEST} characters or more")


def hashed(password: str) -> str:
    """Return a password's hash; it takes a quarter of a second, as guessing should."""
    import bcrypt  # noqa: PLC0415 - only for whoever sets or tries a password

    return bcrypt.hashpw(password.encode(), bcrypt.gensalt()).decode()


def fits(password: str, kept: str | None) -> bool:
    """Whether a password is the one of which this hash was kept; without one it takes as long to say no."""
    import bcrypt  # noqa: PLC0415

    try:
        right = bcrypt.checkpw(password.encode(), (kept or _nobodys()).encode())
    except ValueError:  # what stands there is no bcrypt hash
        return False
    return right and kept is not None


@functools.cache
def _nobodys() -> str:
    return hashed("nobody's")
