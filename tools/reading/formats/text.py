"""Plain text: one block, as it is."""

from __future__ import annotations

from cirkelline.tools.reading.formats.decoding import decoded
from cirkelline.tools.reading.formats.draft import Draft, clean


def parse(data: bytes, *, charset: str | None) -> Draft:
    """Return a text file's text."""
    draft = Draft(clean(decoded(data, charset)))
    draft.mark(0, len(draft.text))
    return draft
