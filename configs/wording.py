"""The parts that every error sentence is made of: quoted values, lists of choices, suggestions."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Sequence
from typing import Final

from cirkelline.configs import secrecy

_LONGEST: Final = 60
_LONGEST_WORD: Final = 64  # difflib is quadratic, and nobody mistypes a longer word


def shown(value: object) -> str:
    """Return a value quoted for a sentence: one line, shortened, and hidden when it looks like a secret."""
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    if secrecy.looks_secret(text):
        return "a value that looks like a secret"
    text = re.sub(r"[ \t\n]+", " ", text[: 4 * _LONGEST]).strip(" ")
    text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    if len(text) > _LONGEST:
        text = text[: _LONGEST - 1] + "…"
    return f"'{text}'" if isinstance(value, str) else text


def listed(words: Iterable[str], last: str = "and") -> str:
    """Return words as a sentence lists them: `a`, `a and b`, `a, b and c`."""
    *most, end = list(words)
    return f"{', '.join(most)} {last} {end}" if most else end


def nearest(word: str, candidates: Sequence[str]) -> str | None:
    """Return the candidate that a mistyped word most likely meant, or None."""
    if len(word) > _LONGEST_WORD:
        return None
    lowered = {candidate.lower(): candidate for candidate in candidates}
    found = difflib.get_close_matches(word.lower().replace("-", "_"), list(lowered), n=1, cutoff=0.7)
    found = found or difflib.get_close_matches(word.lower(), list(lowered), n=1, cutoff=0.7)
    return lowered[found[0]] if found else None


def did_you_mean(word: str, candidates: Sequence[str]) -> str:
    """Return `; did you mean 'x'?` for the nearest candidate, else an empty string."""
    found = nearest(word, candidates)
    return f"; did you mean '{found}'?" if found else ""
