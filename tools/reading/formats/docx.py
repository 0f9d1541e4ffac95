"""DOCX: its paragraphs, headings and tables in their order."""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Mapping
from typing import Final

import docx
from docx.document import Document
from docx.opc.exceptions import OpcError
from docx.table import Table
from docx.text.paragraph import Paragraph

from cirkelline.tools.reading.contract import Verdict
from cirkelline.tools.reading.formats import rows
from cirkelline.tools.reading.formats.draft import Draft, Refusal

_BODY: Final = "word/document.xml"
_LARGEST: Final = 268_435_456  # bytes of all that is packed in it
_DENSEST: Final = 200  # times smaller than what it unpacks to; prose is 10 times
_NOTICED: Final = 1_048_576  # a part that is smaller may be as dense as it likes
_MOST_PARTS: Final = 10_000
_DECLARES: Final = re.compile(rb"<!\s*(DOCTYPE|ENTITY)", re.IGNORECASE)
_HEADING: Final = re.compile(r"heading (\d)", re.IGNORECASE)
_OTHERS: Final = (
    ("xl/workbook.xml", "an Excel workbook: save its sheets as CSV"),
    ("ppt/presentation.xml", "a PowerPoint presentation: save it as PDF"),
    ("META-INF/container.xml", "an e-book: save it as HTML or PDF"),
    ("content.xml", "an OpenDocument file: save it as DOCX or PDF"),
)


def parse(data: bytes, *, charset: str | None) -> Draft:
    """Return a Word document's text."""
    del charset
    try:
        _check(data)
        document = docx.Document(io.BytesIO(data))
        return _read(document)
    except (
        zipfile.BadZipFile,
        OpcError,
        KeyError,
        ValueError,
        SyntaxError,
        NotImplementedError,
        RuntimeError,
    ) as error:
        reason = str(error).strip("'\"").partition("\n")[0] or type(error).__name__
        raise Refusal(Verdict.BROKEN, f"is a damaged Word document ({reason}): save it again") from None


def _check(data: bytes) -> None:
    """Look at the archive before anything is unpacked from it."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        parts = archive.infolist()
        names = {part.filename for part in parts}
        if _BODY not in names:
            what = next((what for name, what in _OTHERS if name in names), "an archive: unpack it and add its files")
            raise Refusal(Verdict.NOT_TEXT, f"is {what}")
        if any(part.flag_bits & 1 for part in parts):
            raise Refusal(Verdict.ENCRYPTED, "is encrypted: save a copy of it without a password")
        bomb = any(each.file_size > _NOTICED and each.file_size > _DENSEST * each.compress_size for each in parts)
        if bomb or len(parts) > _MOST_PARTS or sum(part.file_size for part in parts) > _LARGEST:
            raise Refusal(Verdict.TOO_LARGE, "unpacks to far more than a document holds: it is not opened")
        for part in parts:
            if part.filename.endswith((".xml", ".rels")):
                _check_xml(archive, part)


def _check_xml(archive: zipfile.ZipFile, part: zipfile.ZipInfo) -> None:
    with archive.open(part) as file:
        begin = file.read(4096).replace(b"\0", b"")  # without the zeros of UTF-16
    if _DECLARES.search(begin):
        raise Refusal(Verdict.BROKEN, "declares XML entities, which no Word document does: it is not opened")


def _read(document: Document) -> Draft:
    draft = Draft()
    # By hand: asking each paragraph for its style costs milliseconds.
    styles = {style.style_id: style.name or "" for style in document.styles}
    for item in document.iter_inner_content():
        if isinstance(item, Table):
            draft.add("\n".join(_table(item)), rows=True)
        else:
            _paragraph(draft, item, styles)
    draft.name(document.core_properties.title)
    return draft


def _paragraph(draft: Draft, paragraph: Paragraph, styles: Mapping[str, str]) -> None:
    style = styles.get(paragraph._p.style or "", "")  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]
    text = paragraph.text
    heading = _HEADING.fullmatch(style.strip())
    if text.strip() and (heading or style == "Title"):
        draft.head(int(heading[1]) if heading else 0, text)
        draft.add(text, title=True)
    else:
        listed = style.startswith("List") and bool(text.strip())
        draft.add(f"- {text}" if listed else text, close=listed)


def _table(table: Table) -> list[str]:
    """A table's rows as lines; cells that are joined are said once."""
    cells: list[list[str]] = []
    for row in table.rows:
        merged = {id(cell._tc): cell.text for cell in row.cells}  # noqa: SLF001 # pyright: ignore[reportPrivateUsage] - nothing else tells
        cells.append(list(merged.values()))
    repeated = table.rows and table.rows[0]._tr.xpath("./w:trPr/w:tblHeader")  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]
    return rows.lines(cells[0], cells[1:]) if repeated else rows.lines(None, cells)
