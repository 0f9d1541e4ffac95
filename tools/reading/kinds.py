"""What a document is: by its first bytes, then by what its server and its name say."""

from __future__ import annotations

import re
from enum import StrEnum
from pathlib import PurePath
from typing import Final

from cirkelline.tools.reading.contract import Content


class Kind(StrEnum):
    """The formats that are read; each is the name of the module in `formats` that does it."""

    TEXT = "text"
    MARKDOWN = "markdown"
    HTML = "html"
    PDF = "pdf"
    DOCX = "docx"
    CSV = "csv"


CONTENT_TYPES: Final = {
    Kind.TEXT: "text/plain",
    Kind.MARKDOWN: "text/markdown",
    Kind.HTML: "text/html",
    Kind.PDF: "application/pdf",
    Kind.DOCX: "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
    Kind.CSV: "text/csv",
}

_BY_TYPE: Final = {
    "text/markdown": Kind.MARKDOWN,
    "text/x-markdown": Kind.MARKDOWN,
    "text/html": Kind.HTML,
    "application/xhtml+xml": Kind.HTML,
    "text/csv": Kind.CSV,
    "text/tab-separated-values": Kind.CSV,
}
_BY_SUFFIX: Final = {
    ".md": Kind.MARKDOWN,
    ".markdown": Kind.MARKDOWN,
    ".mdown": Kind.MARKDOWN,
    ".mkd": Kind.MARKDOWN,
    ".html": Kind.HTML,
    ".htm": Kind.HTML,
    ".xhtml": Kind.HTML,
    ".csv": Kind.CSV,
    ".tsv": Kind.CSV,
    ".tab": Kind.CSV,
}
_SNIFFED: Final = 2048  # bytes
_PDF_BEGINS: Final = 1024  # bytes of something else that the format tolerates before its mark
_HTML: Final = re.compile(
    rb"\s*(<\?xml[^>]*>\s*|<!--.*?-->\s*)*(<!doctype\s+html|<html[\s>])", re.IGNORECASE | re.DOTALL
)


def of(content: Content) -> Kind:
    """Return how to read some bytes. A name never makes text of what begins like something else, or the other way round."""
    begin = content.data[:_SNIFFED].removeprefix(b"\xef\xbb\xbf")
    suffix = PurePath(content.file_name or content.source.name).suffix.lower()
    if begin.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return Kind.DOCX  # its parser tells the other archives apart
    if begin.lstrip().startswith(b"%PDF-") or (suffix == ".pdf" and b"%PDF-" in begin[:_PDF_BEGINS]):
        return Kind.PDF
    if _HTML.match(_plain(begin)):
        return Kind.HTML
    # A name says more than `text/plain`, which servers say of whatever they do not know.
    return _BY_TYPE.get(content.content_type or "") or _BY_SUFFIX.get(suffix) or Kind.TEXT


def _plain(begin: bytes) -> bytes:
    """UTF-16's letters without the zeros between them, so that its HTML is recognized too."""
    return begin[2:].replace(b"\0", b"") if begin.startswith((b"\xff\xfe", b"\xfe\xff")) else begin
