"""The kinds of value a definition is made of; each refuses what it cannot read with the rest of a sentence about it.

Every reader takes what YAML gives (`scalars.Plain`, `scalars.Expanded`, quoted text), what JSON gives, and what Python
code passes. Its message is a predicate ("must be …"): whoever reports it puts the subject before.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from enum import StrEnum
from typing import Annotated, Any, Final, TypeVar

from pydantic import BaseModel, BeforeValidator
from pydantic_core import PydanticCustomError

from cirkelline.configs import durations, scalars, wording
from cirkelline.configs.scalars import Expanded, Plain

Choice = TypeVar("Choice", bound=StrEnum)

REFUSED: Final = "refused"
UNKNOWN_KEY: Final = "unknown_key"


def refuse(message: str, *at: str | int) -> PydanticCustomError:
    """Return the error that says `message` about the value being read, or about what stands `at` a path inside it."""
    return PydanticCustomError(REFUSED, "{message}", {"message": message, "at": at})


def unknown_key(key: str, hint: str) -> PydanticCustomError:
    """Return the error that the mapping being read has no such key; `hint` says what to write instead."""
    return PydanticCustomError(UNKNOWN_KEY, "unknown key", {"at": (key,), "hint": hint})


def described(value: object) -> str:
    """Return what a value of the wrong kind is, as a sentence names it: `a list`, `the number 3`, `the text 'x'`."""
    if value is None:
        return "null"
    if scalars.is_mapping(value):
        return "a mapping"
    if scalars.is_list(value):
        return "a list"
    if isinstance(value, bool):
        return f"the yes/no value {'true' if value else 'false'}"
    if isinstance(value, (int, float)):
        return f"the number {wording.shown(value)}"
    return (
        wording.shown(str(value)) if isinstance(value, (Plain, Expanded)) else f"the text {wording.shown(str(value))}"
    )


def text(value: object) -> str:
    """Return the text a value is; an unquoted number or yes/no is refused with how to quote it."""
    if isinstance(value, Plain):
        return _unquoted_text(value)
    if not isinstance(value, str):
        raise refuse(f"must be text, not {described(value)}")
    return str(value)


def _unquoted_text(value: Plain) -> str:
    kind = scalars.kind_of(value)
    if value == "":
        raise refuse("has no value: write one, or remove the key")
    if kind == "nothing":
        raise refuse(f"""must be text, but {value} without quotes means "no value": write "{value}" in quotes""")
    if kind != "text":
        raise refuse(f"""must be text, but {value} without quotes is a {kind} value: write "{value}" in quotes""")
    return str(value)


def line(longest: int, example: str) -> Callable[[object], str]:
    """Return the reader of a text that fits one line of at most `longest` characters."""

    def read(value: object) -> str:
        found = text(value).strip()
        if not found:
            raise refuse(f"must not be empty: write something like {example}")
        if len(found.splitlines()) > 1:
            raise refuse("must be on one line")
        if len(found) > longest:
            raise refuse(f"is {len(found):,} characters long, but at most {longest:,} are allowed")
        return found

    return read


def integer(minimum: int, maximum: int) -> Callable[[object], int]:
    """Return the reader of a whole number between two bounds, both included."""
    wanted = f"must be a whole number from {_digits(minimum)} to {_digits(maximum)}"

    def read(value: object) -> int:
        number = scalars.read_integer(value) if isinstance(value, (Plain, Expanded)) else value
        if isinstance(number, float) and number.is_integer():  # JSON does not tell 20 from 20.0
            number = int(number)
        if not isinstance(number, int) or isinstance(number, bool):
            raise refuse(f"{wanted}, not {described(value)}{_unquote(value, scalars.read_integer)}")
        if not minimum <= number <= maximum:
            raise refuse(f"{wanted}, not {described(value)}")
        return number

    return read


def _digits(number: int) -> str:
    return f"{number:_}" if number >= 10_000 else str(number)  # noqa: PLR2004  # 1000 reads well without


def number(minimum: float, maximum: float) -> Callable[[object], float]:
    """Return the reader of a number between two bounds, both included."""
    wanted = f"must be a number from {minimum:g} to {maximum:g}"

    def read(value: object) -> float:
        found = scalars.read_number(value) if isinstance(value, (Plain, Expanded)) else value
        if not isinstance(found, (int, float)) or isinstance(found, bool):
            raise refuse(f"{wanted}, not {described(value)}{_unquote(value, scalars.read_number)}")
        if not minimum <= found <= maximum:  # false for NaN too
            raise refuse(f"{wanted}, not {described(value)}")
        return float(found)

    return read


def seconds(minimum: float, maximum: float) -> Callable[[object], float]:
    """Return the reader of a duration between two bounds in seconds, both included."""
    bounds = f"must be between {durations.render(minimum) if minimum else '0s'} and {durations.render(maximum)}"

    def read(value: object) -> float:
        found = _seconds(value)
        if found is None:
            hint = _unquote(value, scalars.read_number)
            raise refuse(f"must be a duration such as {durations.EXAMPLES}, not {described(value)}{hint}")
        if not minimum <= found <= maximum:
            raise refuse(f"{bounds}, not {described(value)}")
        return durations.rounded(float(found))

    return read


def _seconds(value: object) -> float | None:
    if isinstance(value, (Plain, Expanded)) and (found := scalars.read_number(value)) is not None:
        return found
    if isinstance(value, str):
        return durations.parse(value)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return value if isinstance(value, int) or math.isfinite(value) else None


def _unquote(value: object, reader: Callable[[str], object]) -> str:
    quoted = isinstance(value, str) and not isinstance(value, (Plain, Expanded))
    return ": remove the quotes" if quoted and reader(str(value)) is not None else ""


def yes_no(value: object) -> bool:
    """Return the yes or no a value is."""
    found = scalars.read_yes_no(value) if isinstance(value, (Plain, Expanded)) else value
    if not isinstance(found, bool):
        raise refuse(f"must be true or false, not {described(value)}{_unquote(value, scalars.read_yes_no)}")
    return found


def choice(choices: type[Choice]) -> Callable[[object], Choice]:
    """Return the reader of one word out of a few."""
    known = [each.value for each in choices]

    def read(value: object) -> Choice:
        if value in known and isinstance(value, str):
            return choices(str(value))
        meant = wording.did_you_mean(str(value), known) if isinstance(value, str) else ""
        raise refuse(f"must be {wording.listed(known, 'or')}, not {described(value)}{meant}")

    return read


def items(what: str, most: int) -> Callable[[object], tuple[Any, ...]]:
    """Return the reader of a list of at most `most` entries; `what` is an example of one, as YAML."""

    def read(value: object) -> tuple[Any, ...]:
        if isinstance(value, Plain) and scalars.kind_of(value) == "nothing":
            raise refuse(f"has no value: write a list such as {what}, or remove the key")
        if not scalars.is_list(value):
            raise refuse(f"must be a list such as {what}, not {described(value)}")
        if len(value) > most:
            raise refuse(f"has {len(value):,} entries, but at most {most:,} are allowed")
        return tuple(value)

    return read


def mapping(example: str) -> Callable[[object], object]:
    """Return the reader that lets a mapping (or what Python code already built) through; `example` is one, as YAML."""

    def read(value: object) -> object:
        if isinstance(value, Plain) and scalars.kind_of(value) == "nothing":
            raise refuse(f"has no value: write a mapping such as {example}, or remove the key")
        if not scalars.is_mapping(value) and not isinstance(value, BaseModel):
            raise refuse(f"must be a mapping such as {example}, not {described(value)}")
        return value

    return read


Text = Annotated[str, BeforeValidator(text)]
