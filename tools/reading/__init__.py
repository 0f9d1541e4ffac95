"""Reading documents: finding them, fetching them, parsing them apart from everything else, and cutting them to pieces."""

from __future__ import annotations

from cirkelline.tools.reading.chunking import chunk
from cirkelline.tools.reading.contract import (
    Block,
    Content,
    Limits,
    NothingFound,
    Parsed,
    Piece,
    Source,
    Unreadable,
    Verdict,
)
from cirkelline.tools.reading.fetching import fetch
from cirkelline.tools.reading.parsing import parse
from cirkelline.tools.reading.sources import find

__all__ = [
    "Block",
    "Content",
    "Limits",
    "NothingFound",
    "Parsed",
    "Piece",
    "Source",
    "Unreadable",
    "Verdict",
    "chunk",
    "fetch",
    "find",
    "parse",
]
