"""PDF: the text of each page, under the bookmarks that lead to it."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from typing import Any, Final

import pypdf
from pypdf.errors import DependencyError, FileNotDecryptedError, PyPdfError

from cirkelline.tools.reading.contract import Verdict
from cirkelline.tools.reading.formats.draft import Draft, Refusal

_ENCRYPTED: Final = "is encrypted: save a copy of it without a password"
_SCANNED: Final = "holds pictures of pages and no text: run text recognition over it first (for instance with ocrmypdf)"
_HYPHENATED: Final = re.compile(r"(?<=[^\W\d_])(?:\u00ad|-)\n(?=([^\W\d_]))")
_DEEPEST: Final = 6


def parse(data: bytes, *, charset: str | None) -> Draft:
    """Return a PDF's text page by page, numbered from one."""
    del charset
    try:
        reader = pypdf.PdfReader(io.BytesIO(data))
        if reader.is_encrypted and not reader.decrypt(""):
            raise Refusal(Verdict.ENCRYPTED, _ENCRYPTED)
        draft = Draft(pages=len(reader.pages))
        if not draft.pages:
            raise Refusal(Verdict.EMPTY, "has no pages")
        _read(reader, draft)
    except (DependencyError, FileNotDecryptedError, NotImplementedError):
        raise Refusal(Verdict.ENCRYPTED, _ENCRYPTED) from None
    except PyPdfError as error:
        raise Refusal(Verdict.BROKEN, f"is a damaged PDF ({error}): save it again") from None
    if not draft.spans:
        raise Refusal(Verdict.NO_TEXT, _SCANNED)
    return draft


def _read(reader: pypdf.PdfReader, draft: Draft) -> None:
    sections = _sections(reader)
    for number, page in enumerate(reader.pages, start=1):
        if number in sections:
            draft.head_with(sections[number])
        draft.add(_HYPHENATED.sub(_joined, page.extract_text()), page=number)
    draft.name(_title(reader))


def _joined(found: re.Match[str]) -> str:
    """A word that the end of a line cuts in two is one; before a capital the hyphen is the word's own."""
    return "" if found[1].islower() else "-"


def _title(reader: pypdf.PdfReader) -> str | None:
    try:
        return reader.metadata.title if reader.metadata else None
    except Exception:  # noqa: BLE001 - of no matter, in a file that may be damaged in any way
        return None


def _sections(reader: pypdf.PdfReader) -> dict[int, list[str]]:
    """Return the bookmarks' path by the number of the page on which a section begins; the first one of a page."""
    found: dict[int, list[str]] = {}
    try:
        for path, page in _bookmarks(reader, reader.outline, []):
            if page is not None:
                found.setdefault(page + 1, path)
    except Exception:  # noqa: BLE001 - bookmarks may be damaged in any way, and the pages are readable without
        return {}
    return found


def _bookmarks(reader: pypdf.PdfReader, outline: list[Any], above: list[str]) -> Iterator[tuple[list[str], int | None]]:
    path = above
    for each in outline:
        if isinstance(each, list):  # what is below the bookmark before
            if len(path) < _DEEPEST:
                below: list[Any] = each  # pyright: ignore[reportUnknownVariableType]
                yield from _bookmarks(reader, below, path)
        else:
            path = [*above, str(each.title)]
            yield path, reader.get_destination_page_number(each)
