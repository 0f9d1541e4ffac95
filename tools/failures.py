"""What a model is told of a tool's failure: the kind and the message, without traceback and without secrets."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Final, cast
from urllib.parse import unquote, urlsplit

from cirkelline.configs import secrecy
from cirkelline.configs.errors import CirkellineError

LONGEST: Final = 2000  # characters
SHORTEST_SECRET: Final = 4  # characters; hiding shorter ones would hide ordinary words
_SHOWN_MEMBERS: Final = 3
_TRACEBACK: Final = "Traceback (most recent call last)"


def told(failure: BaseException) -> str:
    """Return the text that goes back to the model as the tool's result."""
    return f"error: {masked(_shortened(_sentence(failure)))}"


def masked(text: str, environ: Mapping[str, str] | None = None) -> str:
    """Hide every value that the environment names as a secret, and every password of a URL in it."""
    hidden = set(_secrets(os.environ if environ is None else environ))
    for secret in sorted(hidden, key=len, reverse=True):  # the longest first: one may be a part of another
        text = text.replace(secret, secrecy.HIDDEN)
    return text


def _sentence(failure: BaseException) -> str:
    if isinstance(failure, CirkellineError):  # these are written to be read; the kind would say nothing more
        return _message(failure) or type(failure).__name__
    if isinstance(failure, BaseExceptionGroup):  # its own message only counts what is in it
        members = cast("BaseExceptionGroup[BaseException]", failure).exceptions
        return "; ".join(_sentence(member) for member in members[:_SHOWN_MEMBERS])
    message = _message(failure)
    return f"{type(failure).__name__}: {message}" if message else type(failure).__name__


def _message(failure: BaseException) -> str:
    try:
        text = str(failure)
    except Exception:  # noqa: BLE001 (an author's __str__ may fail in any way, and must not hide the failure itself)
        return "its message cannot be read"
    return text.partition(_TRACEBACK)[0].strip()


def _shortened(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}… ({len(text):,} characters)"


def _secrets(environ: Mapping[str, str]) -> Iterator[str]:
    for name, value in environ.items():
        found = {value} if secrecy.names_secret(name) else set[str]()
        if "://" in value:
            found |= _passwords(value)
        yield from (secret for secret in found if len(secret) >= SHORTEST_SECRET)


def _passwords(url: str) -> set[str]:
    try:
        password = urlsplit(url).password
    except ValueError:
        return set()
    return {password, unquote(password)} if password else set()
