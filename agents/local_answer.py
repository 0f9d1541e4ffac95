"""Reading what a small model wrote: its decision, and whether it will ever end."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Final

from cirkelline.configs import scalars

_LONGEST_ROUND: Final = 200
_FEWEST_ROUNDS: Final = 5
_ROUNDS_SPAN: Final = 400


class DecisionMalformed(ValueError):
    """What was written is no whole decision."""


@dataclass(frozen=True, slots=True)
class Call:
    """The model asks for a tool."""

    name: str
    arguments: dict[str, Any]


def decision(written: str, reply: str | None) -> Call | None:
    """Return the tool call that a decision is, or None for the action `reply`; raises DecisionMalformed."""
    chosen = _read(written)
    if scalars.is_mapping(chosen):
        name, arguments = chosen.get("action"), chosen.get("arguments")
        if name == reply and reply is not None:
            return None
        if isinstance(name, str) and scalars.is_mapping(arguments):
            return Call(name, arguments)
    raise DecisionMalformed("it names no action")


def arguments(written: str, name: str) -> Call:
    """Return the call of a tool whose arguments were written; raises DecisionMalformed."""
    given = _read(written)
    if scalars.is_mapping(given):
        return Call(name, given)
    raise DecisionMalformed("it is no JSON object")


def _read(written: str) -> object:
    try:
        return json.loads(written)
    except ValueError:
        raise DecisionMalformed("it is not whole JSON") from None


def goes_round(text: str) -> bool:
    """Tell whether a text ends in the same few words again and again, as a small model's do that will never end.

    Five times and 400 characters: longer than any rule, table or list of zeros that is meant. A penalty on repetition
    would prevent some of it, and would also keep the model from quoting what a tool told it.
    """
    tail = text[-_ROUNDS_SPAN - _LONGEST_ROUND * _FEWEST_ROUNDS :]
    for length in range(1, _LONGEST_ROUND + 1):
        span = length * max(_FEWEST_ROUNDS, -(-_ROUNDS_SPAN // length))
        if len(tail) >= span and tail[-span:-length] == tail[-span + length :]:
            return True
    return False
