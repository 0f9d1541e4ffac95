"""A document that is broken, hostile or nothing at all gets its verdict, and nothing else is harmed."""

from __future__ import annotations

import asyncio
import os
import time
import zlib

import psutil
import pytest
from docx.document import Document
from papers import archive, content, encrypted, pdf, pdf_that, repacked, scanned, word

from cirkelline.tools.reading import Content, Limits, Unreadable, Verdict, parse

PAPER = word(lambda document: document.add_paragraph("Hello."))
LAUGHS = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 12))
BOMB = f'<?xml version="1.0"?><!DOCTYPE d [<!ENTITY l0 "ha">{LAUGHS}]><w:document>&l11;</w:document>'.encode()
UNLIMITED = Limits()
OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600)
PNG = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + bytes(60)


async def verdict(of: Content, limits: Limits = UNLIMITED) -> tuple[Verdict, str]:
    with pytest.raises(Unreadable) as caught:
        await parse(of, limits=limits)
    message = str(caught.value)
    assert message.startswith(f"'{of.source.uri}' ")
    assert "\n" not in message
    return caught.value.verdict, message


@pytest.mark.parametrize(
    ("name", "data", "expected", "said"),
    [
        ("a.md", b"", Verdict.EMPTY, "is empty"),
        ("a.md", b" \n\t", Verdict.EMPTY, "is empty"),
        ("a.md", b"\xef\xbb\xbf", Verdict.NO_TEXT, "no text"),
        ("a.html", b"<html><body><script>draw()</script></body></html>", Verdict.NO_TEXT, "no text"),
        ("a.docx", word(lambda document: document.add_paragraph(" ")), Verdict.NO_TEXT, "no text"),
        ("a.csv", b",,\n,,\n", Verdict.NO_TEXT, "no text"),
        ("a.pdf", scanned(), Verdict.NO_TEXT, "text recognition"),
        ("a.pdf", encrypted(pdf("secret"), "password"), Verdict.ENCRYPTED, "without a password"),
        ("a.docx", OLE + "EncryptedPackage".encode("utf-16-le"), Verdict.ENCRYPTED, "without a password"),
        ("a.doc", OLE, Verdict.NOT_TEXT, "save it as DOCX"),
        ("a.rtf", rb"{\rtf1 hello}", Verdict.NOT_TEXT, "RTF"),
        ("a.md", PNG, Verdict.NOT_TEXT, "Portable Network Graphics"),
        ("a.txt", bytes(range(256)) * 40, Verdict.NOT_TEXT, "not text"),
        ("a.pdf", os.urandom(2000) + b"\0", Verdict.NOT_TEXT, "not text"),
        ("a.pdf", b"%PDF-1.4 nothing", Verdict.BROKEN, "damaged PDF"),
        ("a.docx", b"PK\x03\x04 nothing", Verdict.BROKEN, "damaged Word document"),
        ("a.docx", PAPER[:-200], Verdict.BROKEN, "damaged Word document"),
        ("a.docx", repacked(PAPER, {"word/document.xml": b"<w:document"}), Verdict.BROKEN, "damaged Word document"),
        ("a.docx", archive("a.txt"), Verdict.NOT_TEXT, "unpack it"),
        ("a.docx", archive("xl/workbook.xml"), Verdict.NOT_TEXT, "CSV"),
        ("a.epub", archive("META-INF/container.xml"), Verdict.NOT_TEXT, "e-book"),
        ("a.docx", repacked(PAPER, {"word/document.xml": BOMB}), Verdict.BROKEN, "XML entities"),
        ("a.docx", repacked(PAPER, {"word/document.xml": BOMB.decode().encode("utf-16")}), Verdict.BROKEN, "XML entities"),
        ("a.docx", repacked(PAPER, {"word/media/x": bytes(50_000_000)}), Verdict.TOO_LARGE, "not opened"),
        ("a.docx", archive(*map(str, range(10_001)), "word/document.xml"), Verdict.TOO_LARGE, "not opened"),
    ],
)  # fmt: skip
async def test_what_cannot_be_read_gets_a_verdict(name: str, data: bytes, expected: Verdict, said: str) -> None:
    found, message = await verdict(content(name, data))
    assert (found, said in message) == (expected, True), message


async def test_a_pdf_that_only_forbids_printing_is_read() -> None:
    assert "Open." in (await parse(content("a.pdf", encrypted(pdf("Open."), "")))).text


def stream(says: bytes, *filters: str) -> bytes:
    named = " ".join(f"/{each}" for each in filters)
    return b"<< /Length %d /Filter [%s] >>\nstream\n%s\nendstream" % (len(says), named.encode(), says)


async def test_a_pdf_that_unpacks_to_more_than_the_memory_ends_its_own_process_alone() -> None:
    bomb = zlib.compress(zlib.compress(b"BT (x) Tj ET " * 30_000_000, 1), 9)
    found, message = await verdict(
        content("a.pdf", pdf_that(stream(bomb, "FlateDecode", "FlateDecode"))), Limits(memory=400_000_000)
    )
    assert found in {Verdict.TOO_LARGE, Verdict.BROKEN}, message
    assert (await parse(content("a.md", b"# Next"))).title == "Next"


async def test_a_document_that_takes_for_ever_is_ended() -> None:
    busy = stream(zlib.compress(b"BT /F1 9 Tf (word) Tj ET " * 400_000), "FlateDecode")
    began = time.monotonic()
    found, message = await verdict(content("a.pdf", pdf_that(busy)), Limits(parsing=0.3))
    assert (found, "longer than 0.3 s" in message) == (Verdict.TOO_SLOW, True)
    assert time.monotonic() - began < 15  # not when the parent lost patience: the kernel ended it


async def test_giving_up_kills_the_parser() -> None:
    busy = content("a.pdf", pdf_that(stream(zlib.compress(b"BT /F1 9 Tf (word) Tj ET " * 400_000), "FlateDecode")))
    await parse(content("a.md", b"# Warm"))
    task = asyncio.create_task(parse(busy))
    while not (parsers := parsing()):  # noqa: ASYNC110 - another process has no event of ours
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.to_thread(psutil.wait_procs, parsers, timeout=20)
    assert parsing() == []


async def test_giving_up_before_a_parser_is_ordered_leaves_no_socket_open() -> None:
    await parse(content("a.md", b"# Warm"))
    before = psutil.Process().num_fds()
    readings = [asyncio.create_task(parse(content("a.md", b"# One"))) for _ in range(200)]
    for _ in range(3):  # into the line for the parser server
        await asyncio.sleep(0)
    for each in readings:
        each.cancel()
    await asyncio.wait(readings)
    assert psutil.Process().num_fds() < before + 10  # at most one is ordered just now


def parsing() -> list[psutil.Process]:
    """The processes that parse a document just now."""
    servers = [each for each in psutil.Process().children() if "parser_server" in " ".join(each.cmdline())]
    return [parser for server in servers for parser in server.children()]


async def test_a_parser_server_that_was_killed_is_replaced() -> None:
    await parse(content("a.md", b"# One"))
    [server] = [each for each in psutil.Process().children() if "parser_server" in " ".join(each.cmdline())]
    server.kill()
    found = await asyncio.gather(*(parse(content("a.md", f"# {number}".encode())) for number in range(8)))
    assert [each.title for each in found] == [str(number) for number in range(8)]


async def test_parsers_know_no_secret_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    await parse(content("a.md", b"# One"))
    [server] = [each for each in psutil.Process().children() if "parser_server" in " ".join(each.cmdline())]
    assert not {"DATABASE_URL", "GOOGLE_API_KEY", "HOME"} & set(server.environ())
    del monkeypatch


async def test_a_deeply_nested_page_is_read() -> None:
    nested = b"<html><body>" + b"<div>" * 20_000 + b"deep" + b"</div>" * 20_000
    assert (await parse(content("a.html", nested))).text == "deep"


async def test_a_link_to_an_outside_file_in_a_document_is_not_followed() -> None:
    outside = b'<?xml version="1.0"?><!DOCTYPE d [<!ENTITY x SYSTEM "file:///etc/passwd">]><d>&x;</d>'
    found, _ = await verdict(content("a.docx", repacked(PAPER, {"word/document.xml": outside})))
    assert found is Verdict.BROKEN


async def test_a_thousand_paragraphs_of_word_are_read() -> None:
    def fill(document: Document) -> None:
        for number in range(1000):
            document.add_paragraph(f"Paragraph {number}.")

    assert (await parse(content("a.docx", word(fill)))).text.endswith("Paragraph 999.")
