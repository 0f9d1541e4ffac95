"""What must never be written into a definition, a message or a log: names and values that look like secrets."""

from __future__ import annotations

import re
from typing import Final

HIDDEN: Final = "***"

# Words of a variable's name. `TOKENS` is not one of them (MAX_TOKENS is a number), nor is `PWD` alone (the folder).
_SECRET_WORDS: Final = frozenset(
    {"KEY", "KEYS", "TOKEN", "SECRET", "SECRETS", "PASSWORD", "PASSWORDS", "PASSWD", "PASSPHRASE", "PASS"}
    | {"CREDENTIAL", "CREDENTIALS", "COOKIE", "DSN"}
)
_SECRET_ENDS: Final = ("APIKEY", "TOKEN", "SECRET", "PASSWORD", "PASSWD", "_PWD", "_AUTH", "DATABASE_URL")

# What the well-known services' keys begin with.
_SECRET_VALUE: Final = re.compile(
    r"(?:^|[^A-Za-z0-9])(?:sk-[A-Za-z0-9_-]{6}|AIza[0-9A-Za-z_-]{10}|gh[pousr]_[0-9A-Za-z]{10}|github_pat_|glpat-"
    r"|xox[abprs]-|AKIA[0-9A-Z]{12}|hf_[A-Za-z0-9]{10}|gsk_[A-Za-z0-9]{10}|eyJ[A-Za-z0-9_-]{10,}\.|-----BEGIN )"
)
_USERINFO: Final = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]*://[^:@/?#]*):(.*)@", re.DOTALL)
_PASSWORD_PARAMETER: Final = re.compile(r"((?:^|[?&])[^=&?]*(?:password|secret|token|key)[^=&?]*=)[^&]*", re.IGNORECASE)


def names_secret(variable: str) -> bool:
    """Return whether an environment variable's name says that its value is a secret."""
    upper = variable.upper()
    return upper.endswith(_SECRET_ENDS) or not _SECRET_WORDS.isdisjoint(upper.split("_"))


def looks_secret(value: str) -> bool:
    """Return whether a text holds what looks like a real key or token of a known service."""
    return bool(_SECRET_VALUE.search(value))


def has_password(url: str) -> bool:
    """Return whether a URL carries a password, or something like one among its parameters."""
    return mask_url(url) != url


def mask_url(url: str) -> str:
    """Return a URL with its password hidden, in the user part (up to the last `@`) and among the parameters."""
    masked = _USERINFO.sub(rf"\1:{HIDDEN}@", url)
    return _PASSWORD_PARAMETER.sub(rf"\1{HIDDEN}", masked)
