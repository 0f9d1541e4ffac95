"""Single values as they were written, before the field that reads them decides their type."""

from __future__ import annotations

import re
from typing import Final, Literal, TypeGuard

Kind = Literal["nothing", "yes/no", "number", "text"]

_NOTHING: Final = frozenset({"", "~", "null", "Null", "NULL"})
# YAML 1.1's list, not 1.2's: most readers an author has met turn these into booleans, so here they are never text unquoted.
_YES_NO: Final = frozenset(
    form for word in ("true", "false", "yes", "no", "on", "off") for form in (word, word.title(), word.upper())
)
_INTEGER: Final = re.compile(r"[-+]?(?:0|[1-9][0-9_]*)", re.ASCII)
_DECIMAL: Final = re.compile(r"[-+]?(?:[0-9][0-9_]*(?:\.[0-9_]*)?|\.[0-9][0-9_]*)(?:[eE][-+]?[0-9]+)?", re.ASCII)
_OTHER_NUMBER: Final = re.compile(r"0x[0-9a-fA-F_]+|0o[0-7_]+|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)", re.ASCII)
_LONGEST_NUMBER: Final = 40


class Plain(str):
    """An unquoted YAML value: text, a number or a yes/no, whichever its field wants and its letters allow."""

    __slots__ = ()


class Expanded(str):
    """A value with an environment variable in it: text, and a number or duration where one is wanted, quoted or not.

    Quotes do not count, because `${X}` needs them inside of `{ }` and `[ ]`.
    """

    __slots__ = ()


def is_mapping(value: object) -> TypeGuard[dict[str, object]]:
    """Return whether a value is a mapping; the keys of YAML's and JSON's are text."""
    return isinstance(value, dict)


def is_list(value: object) -> TypeGuard[list[object] | tuple[object, ...]]:
    """Return whether a value is a list, as YAML, JSON or Python code gives one."""
    return isinstance(value, (list, tuple))


def kind_of(text: str) -> Kind:
    """Return what YAML readers take an unquoted value for."""
    if text in _NOTHING:
        return "nothing"
    if text in _YES_NO:
        return "yes/no"
    if len(text) <= _LONGEST_NUMBER and (_DECIMAL.fullmatch(text) or _OTHER_NUMBER.fullmatch(text)):
        return "number"
    return "text"


def read_integer(text: str) -> int | None:
    """Return the whole number a text spells (`50_000` too), or None; `010` is none, as readers disagree about it."""
    return int(text) if len(text) <= _LONGEST_NUMBER and _INTEGER.fullmatch(text) else None


def read_yes_no(text: str) -> bool | None:
    """Return the yes or no a text spells, or None."""
    return text.lower() in {"true", "yes", "on"} if text in _YES_NO else None


def read_number(text: str) -> float | None:
    """Return the finite decimal number a text spells, or None."""
    if len(text) > _LONGEST_NUMBER or not _DECIMAL.fullmatch(text):
        return None
    number = float(text.replace("_", ""))
    return number if abs(number) != float("inf") else None
