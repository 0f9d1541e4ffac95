"""Environment variables in a definition's values: `${NAME}`, `${NAME:-default}`, and `$${` for a plain `${`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from cirkelline.configs import secrecy, wording

_NAME: Final = r"[A-Za-z_][A-Za-z0-9_]*"
PATTERN: Final = rf"\$\{{{_NAME}(:-[^}}]*)?\}}"  # for the published JSON Schema, where it may stand for a number
BEGINNING: Final = re.compile(r"\$\$?\{")
# A default holds no reference of its own, so every match here is one of BEGINNING, in the same order.
_REFERENCE: Final = re.compile(rf"\$\$\{{|\$\{{(?:(?P<name>{_NAME})(?::-(?P<default>(?:(?!\$\{{)[^}}])*))?\}})?")
_FORM: Final = "write ${NAME} or ${NAME:-default}, and $${ for the characters ${ themselves"


@dataclass(frozen=True, slots=True)
class Fault:
    """One reference that stands for nothing; `occurrence` counts the text's references (and `$${`) from 0."""

    occurrence: int
    message: str


@dataclass(frozen=True, slots=True)
class Expansion:
    """A text with its variables replaced, and the faults of those that could not be."""

    text: str
    faults: tuple[Fault, ...]


def expand(text: str, environ: Mapping[str, str]) -> Expansion:
    """Replace every reference in a text by its variable's value; a value's own `${` is left as it is."""
    parts: list[str] = []
    faults: list[Fault] = []
    end = 0
    for number, (match, value, message) in enumerate(_references(text, environ)):
        parts += [text[end : match.start()], value]
        end = match.end()
        if message:
            faults.append(Fault(number, message))
    return Expansion("".join([*parts, text[end:]]), tuple(faults))


def _references(text: str, environ: Mapping[str, str]) -> Iterator[tuple[re.Match[str], str, str | None]]:
    for match in _REFERENCE.finditer(text):
        if match[0] == "$${":
            yield match, "${", None
        elif (name := match["name"]) is None:
            yield match, "", f"this ${{ names no environment variable: {_FORM}"
        elif secrecy.names_secret(name):
            yield match, "", f"${{{name}}} looks like a secret, which must not be stored: use api_key_env in model:"
        else:
            value = environ.get(name) or match["default"]
            value = environ.get(name) if value is None else value
            yield match, value or "", _fault(name, value, environ)


def _fault(name: str, value: str | None, environ: Mapping[str, str]) -> str | None:
    if value is None:
        hint = wording.did_you_mean(name, [other for other in environ if not secrecy.names_secret(other)])
        return f"the environment variable {name} is not set{hint or f': set it, or write ${{{name}:-default}}'}"
    if not storable(value):
        return f"the environment variable {name} holds bytes that are not UTF-8 text"
    return None


def storable(text: str) -> bool:
    """Return whether PostgreSQL's jsonb can hold a text: it has no NUL and no half of a surrogate pair."""
    return "\0" not in text and not any("\ud800" <= character <= "\udfff" for character in text)
