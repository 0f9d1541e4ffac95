"""CSV, with whatever stands between its cells."""

from __future__ import annotations

import csv
import io
import re
import sys
from collections.abc import Sequence
from typing import Final

from cirkelline.tools.reading.contract import Verdict
from cirkelline.tools.reading.formats import rows
from cirkelline.tools.reading.formats.decoding import decoded
from cirkelline.tools.reading.formats.draft import Draft, Refusal, clean, one_line

_DELIMITERS: Final = ",;\t|"
_SAMPLE: Final = 65_536
_NUMBER: Final = re.compile(r"[-+]?[\d.,:/ %-]+")
_LONGEST_LABEL: Final = 60


def parse(data: bytes, *, charset: str | None) -> Draft:
    """Return a table's rows as lines; the words of its first row stand before each cell, if these are words."""
    text = clean(decoded(data, charset))
    csv.field_size_limit(sys.maxsize)
    try:
        # `strict` is off: a quote that is out of place is part of the cell.
        cells = [row for row in csv.reader(io.StringIO(text), delimiter=_delimiter(text)) if any(map(str.strip, row))]
    except csv.Error as error:
        raise Refusal(Verdict.BROKEN, f"is not a table ({error}): check its quotes") from None
    draft = Draft()
    header = [one_line(cell) for cell in cells[0]] if cells and _is_header(cells[0]) and len(cells) > 1 else None
    draft.add("\n".join(rows.lines(header, cells[1:] if header else cells)), rows=True)
    return draft


def _delimiter(text: str) -> str:
    try:
        return csv.Sniffer().sniff(text[:_SAMPLE], _DELIMITERS).delimiter
    except csv.Error:
        first = text.lstrip().partition("\n")[0]
        return max(_DELIMITERS, key=first.count)


def _is_header(row: Sequence[str]) -> bool:
    labels = [label.strip() for label in row]
    return len(set(labels)) == len(labels) and all(
        label and len(label) <= _LONGEST_LABEL and not _NUMBER.fullmatch(label) for label in labels
    )
