"""Documents of every format, as they are made and as they are when somebody means harm."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Mapping, Sequence

import docx
import pypdf
from fpdf import FPDF

from cirkelline.tools.reading import Content, Source


def content(name: str, data: bytes, **more: str) -> Content:
    return Content(source=Source(f"/{name}", name), data=data, file_name=name, **more)


def pdf(*pages: str, title: str = "", sections: Mapping[int, Sequence[str]] | None = None) -> bytes:
    """A PDF with a text on each page; `sections` are bookmarks by page, each a path."""
    paper = FPDF()
    paper.set_title(title)
    paper.set_font("Helvetica", size=12)
    for number, text in enumerate(pages, start=1):
        paper.add_page()
        for level, name in enumerate((sections or {}).get(number, ())):
            paper.start_section(name, level=level)
        paper.multi_cell(0, text=text)
    return bytes(paper.output())


def scanned() -> bytes:
    paper = FPDF()
    paper.add_page()
    paper.rect(10, 10, 50, 50, style="F")
    return bytes(paper.output())


def encrypted(data: bytes, password: str) -> bytes:
    writer = pypdf.PdfWriter(clone_from=io.BytesIO(data))
    writer.encrypt(password, "owner", algorithm="RC4-128")
    out = io.BytesIO()
    writer.write(out)
    return out.getvalue()


def pdf_that(says: bytes) -> bytes:
    """A PDF of one page whose content stream is the given one."""
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents 4 0 R /Resources << /Font << /F1 5 0 R >> >> >>",
        says,
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]
    out, places = b"%PDF-1.4\n", []
    for number, body in enumerate(objects, start=1):
        places.append(len(out))
        out += b"%d 0 obj\n%s\nendobj\n" % (number, body)
    table = b"".join(b"%010d 00000 n \n" % place for place in places)
    return out + b"xref\n0 6\n0000000000 65535 f \n%strailer\n<< /Size 6 /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF" % (
        table,
        len(out),
    )


def word(fill: Callable[[docx.document.Document], object], title: str = "") -> bytes:
    document = docx.Document()
    document.core_properties.title = title
    fill(document)
    out = io.BytesIO()
    document.save(out)
    return out.getvalue()


def repacked(data: bytes, parts: Mapping[str, bytes]) -> bytes:
    """The archive with some parts replaced or added."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            if name not in parts:
                new.writestr(name, old.read(name))
        for name, part in parts.items():
            new.writestr(name, part)
    return out.getvalue()


def archive(*names: str) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as new:
        for name in names:
            new.writestr(name, "x")
    return out.getvalue()
