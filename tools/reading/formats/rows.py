"""Tables as lines that can each be read alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import zip_longest

from cirkelline.tools.reading.formats.draft import one_line


def lines(header: Sequence[str] | None, cells: Iterable[Sequence[str]]) -> list[str]:
    """Return each row as a line; with a header as `name: Ivo | age: 42`, so that a row cut off from it says as much."""
    made: list[str] = []
    for row in cells:
        values = [one_line(cell) for cell in row]
        if header is None:
            line = " | ".join(values)
        else:
            pairs = zip_longest(header, values, fillvalue="")
            line = " | ".join(f"{label}: {value}" if label else value for label, value in pairs if value)
        if line.strip(" |"):
            made.append(line)
    return made
