"""Durations as people write them (`30s`, `5m`, `1h30m`, `250ms`) and as seconds."""

from __future__ import annotations

import re
from typing import Final

_AMOUNT: Final = r"[0-9]{1,9}(?:\.[0-9]{1,9})?"
# The one definition of the format: the reader below and the published JSON Schema both use it.
PATTERN: Final = rf"^(?=[0-9])(?:{_AMOUNT}h)?(?:{_AMOUNT}m)?(?:{_AMOUNT}s)?(?:{_AMOUNT}ms)?$"
_PARTS: Final = re.compile(rf"({_AMOUNT})(ms|h|m|s)")
_WHOLE: Final = re.compile(PATTERN)
_SECONDS: Final = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
EXAMPLES: Final = "'30s', '5m', '1h30m', '250ms' or a number of seconds"


def parse(text: str) -> float | None:
    """Return the seconds (to the millisecond) that a duration such as `1h30m` stands for, or None if it is not one."""
    if not _WHOLE.match(text) or text.endswith("\n"):
        return None
    return rounded(sum(float(amount) * _SECONDS[unit] for amount, unit in _PARTS.findall(text)))


def rounded(seconds: float) -> float:
    """Return seconds at the resolution kept everywhere, one millisecond, so that `0.25` and `250ms` are equal."""
    return round(seconds, 3)


def render(seconds: float) -> str:
    """Return the shortest text that `parse` reads back as these seconds, which are at least 0.001."""
    milliseconds = round(seconds * 1000)
    parts: list[str] = []
    for unit, size in (("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)):
        amount, milliseconds = divmod(milliseconds, size)
        if amount:
            parts.append(f"{amount}{unit}")
    return "".join(parts) or "0s"
