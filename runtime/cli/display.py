"""How ids, times, sizes and foreign text are written for people."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from decimal import Decimal
from typing import Final
from uuid import UUID

# What a terminal would obey instead of show: control characters, and the marks that reorder a line.
_OBEYED: Final = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2028\u2029\u2066-\u2069\ud800-\udfff]"
)
_SHORT: Final = 8
_MINUTE: Final = 60
_HOUR: Final = 3600
_DAY: Final = 86_400
_SOON: Final = 1
_KILO: Final = 1000


def safe(text: str) -> str:
    r"""Return text that a terminal only shows: what it would obey is written as `\x1b`; line ends and tabs stay."""
    return _OBEYED.sub(lambda found: found.group().encode("unicode_escape").decode("ascii"), text.replace("\r\n", "\n"))


def line(text: str, longest: int = 80) -> str:
    """Return text as one line of at most `longest` characters."""
    flat = re.sub(r"\s+", " ", safe(text[: longest * 20])).strip()
    return flat if len(flat) <= longest else flat[: longest - 1] + "…"


def short(identity: UUID | None) -> str:
    """Return the first eight digits of an id, which is enough to name it to any command."""
    return str(identity)[:_SHORT] if identity else "-"


def value(content: object, longest: int = 80) -> str:
    """Return a JSON value on one line: text as it is, everything else as JSON."""
    return line(content if isinstance(content, str) else json.dumps(content, ensure_ascii=False, default=str), longest)


def aware(moment: datetime) -> datetime:
    """Return a time with its zone: the documents' own columns have none and are written in UTC."""
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def local(moment: datetime | None) -> str:
    """Return a time in the reader's zone, to the second: `2026-03-01 14:05:09`."""
    return f"{aware(moment).astimezone():%Y-%m-%d %H:%M:%S}" if moment else "-"


def when(moment: datetime | None, now: datetime | None = None) -> str:
    """Return a time and how long ago it was: `2026-03-01 14:05:09 (3m ago)`."""
    return f"{local(moment)} ({ago(moment, now)})" if moment else "-"


def ago(moment: datetime | None, now: datetime | None = None) -> str:
    """Return how long ago a time was, or how far ahead it is: `12s ago`, `in 5m`; days and more as a date."""
    if moment is None:
        return "-"
    seconds = ((now or datetime.now(UTC)) - aware(moment)).total_seconds()
    if abs(seconds) >= _DAY:
        return f"{aware(moment).astimezone():%Y-%m-%d}"
    if abs(seconds) < _SOON:
        return "now"
    return f"{span(seconds)} ago" if seconds > 0 else f"in {span(-seconds)}"


def span(seconds: float) -> str:
    """Return a length of time in its two largest units: `240ms`, `4.2s`, `3m 12s`, `2h 5m`, `3d 4h`."""
    if seconds < _SOON:
        return f"{max(0, round(seconds * 1000))}ms"
    if seconds < _MINUTE:
        return f"{seconds:.0f}s" if seconds >= 10 or seconds == int(seconds) else f"{seconds:.1f}s"  # noqa: PLR2004 - a second digit says nothing more from there
    large, small, size = (
        (_DAY, _HOUR, "dh") if seconds >= _DAY else (_HOUR, _MINUTE, "hm") if seconds >= _HOUR else (_MINUTE, 1, "ms")
    )
    whole, rest = divmod(int(seconds), large)
    return f"{whole}{size[0]}" + (f" {rest // small}{size[1]}" if rest // small else "")


def size(amount: float) -> str:
    """Return a number of bytes as people say it: `640 B`, `12.3 MB`, `1.12 GB` (of 1000)."""
    for unit in ("B", "kB", "MB"):
        if amount < _KILO:
            return f"{amount:.0f} {unit}" if unit == "B" or amount >= 100 else f"{amount:.1f} {unit}"  # noqa: PLR2004 - three digits are enough
        amount /= _KILO
    return f"{amount:.2f} GB"


def count(amount: int, one: str, many: str | None = None) -> str:
    """Return an amount with its noun: `1 task`, `3 tasks`."""
    return f"{amount} {one if amount == 1 else many or one + 's'}"


def money(cost: Decimal | None) -> str:
    """Return dollars with two digits that say something, `$0.0042`, `$12.30`; `unknown` for None."""
    if cost is None:
        return "unknown"
    return f"${cost:,.{max(2, 1 - cost.adjusted())}f}" if cost else "$0"


def paid(cost: Decimal, *, calls: int, unknown: int) -> str:
    """Return what some calls cost, of which `unknown` ones have no known price: `$0.50 and 2 calls of unknown cost`."""
    if not unknown:
        return money(cost)
    return f"{money(cost)} and {count(unknown, 'call')} of unknown cost" if unknown < calls else money(None)


def amount(number: Decimal | None) -> str | None:
    """Return a number as JSON has it without losing a digit: as text."""
    return f"{number:f}" if number is not None else None
