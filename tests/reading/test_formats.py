"""Each format becomes its text, with headings and pages, and each block stands where it says."""

from __future__ import annotations

import pytest
from docx.document import Document
from docx.oxml import OxmlElement
from papers import content, pdf, word

from cirkelline.tools.reading import Parsed, parse
from cirkelline.tools.reading.formats import markdown

MARKDOWN = b"""---
title: 'The guide'
---
Before.

# Guide

## Install *it*

Run [this][1].

```python
# no heading
```

| a | b |
|---|---|
| 1 | 2 |

[1]: https://example.com/x

Setext
------
> # quoted
"""
HTML = """<!DOCTYPE html>
<html><head><title>The &amp; page</title><style>.x{}</style><script>var hidden = 1</script></head>
<body><nav><a href="/">menu</a></nav><div hidden>unseen</div>
<main><h1>Guide<a class="headerlink" href="#g">¶</a></h1>
<p>Hello <b>bold</b>
   world.<br>Next.</p><p>Same.</p><p>Same.</p>
<ul><li>one</li><li>two <p>inner</p></li></ul>
<pre>a
  b</pre><!-- a comment -->
<table><caption>Prices</caption><tr><th>item</th><th>price</th></tr><tr><td>tea</td><td>5 kr</td></tr></table>
<h3>Deep</h3><div>tail</div></main><footer>legal</footer></body></html>"""


async def parsed(name: str, data: bytes, **more: str) -> Parsed:
    found = await parse(content(name, data, **more))
    for block in found.blocks:
        assert found.text[block.offset : block.offset + len(block.text)] == block.text
    ends = [block.offset + len(block.text) for block in found.blocks]
    assert all(end <= block.offset for end, block in zip(ends, found.blocks[1:], strict=False))
    return found


async def test_text_is_itself() -> None:
    found = await parsed("notes", "Één\r\ntwo\rthree\x0cfour \ue000\x1b[31m\x00"[:-1].encode())
    assert found.text == "Één\ntwo\nthree\nfour [31m"
    assert (found.document_type, found.content_type, found.pages) == ("text", "text/plain", None)


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("Blåbærgrød er en dansk ret. Rødgrød med fløde på.", "latin-1"),
        ("Smørrebrød", "cp1252"),
        ("L\u2019été dernier, nous étions à la plage — ça va.", "cp1252"),
        ("Съешь ещё этих мягких французских булок, да выпей чаю.", "cp1251"),
        ("日本語のテキストです。これはテストのための文章です。", "shift_jis"),
        ("Zażółć gęślą jaźń. Rzeczpospolita Polska jest państwem położonym w Europie.", "cp1250"),
        ("æøå", "utf-16"),
        ("æøå", "utf-8-sig"),
        ("æøå", "utf-32"),
    ],
)
async def test_old_encodings_are_recognized(text: str, encoding: str) -> None:
    assert (await parsed("notes.txt", text.encode(encoding))).text == text


async def test_a_servers_word_about_the_encoding_counts_where_it_can_be_true() -> None:
    russian = "Проба пера".encode("koi8-r")
    assert (await parsed("a.txt", russian, charset="koi8-r")).text == "Проба пера"
    assert (await parsed("a.txt", "på".encode(), charset="latin-1")).text == "på"  # UTF-8 does not come about by chance
    assert (await parsed("a.txt", "på".encode("latin-1"), charset="no-such")).text == "på"


async def test_markdown_keeps_its_text_and_knows_its_headings() -> None:
    found = await parsed("guide.md", MARKDOWN)
    assert found.text == MARKDOWN.decode()
    assert found.title == "The guide"
    said = [(block.text.strip().partition("\n")[0], block.heading, block.rows, block.title) for block in found.blocks]
    assert said == [
        ("---", None, True, False),
        ("Before.", None, False, False),
        ("# Guide", "Guide", False, True),
        ("## Install *it*", "Guide > Install it", False, True),
        ("Run [this][1].", "Guide > Install it", False, False),
        ("```python", "Guide > Install it", True, False),
        ("| a | b |", "Guide > Install it", True, False),
        ("[1]: https://example.com/x", "Guide > Install it", False, False),
        ("Setext", "Guide > Setext", False, True),
        ("> # quoted", "Guide > Setext", False, False),
    ]


async def test_html_is_what_a_reader_sees() -> None:
    found = await parsed("page.html", HTML.encode())
    assert found.title == "The & page"
    assert [(block.text, block.heading) for block in found.blocks] == [
        ("Guide", "Guide"),
        ("Hello bold world. Next.", "Guide"),
        ("Same.", "Guide"),
        ("Same.", "Guide"),
        ("- one", "Guide"),
        ("- two", "Guide"),
        ("inner", "Guide"),
        ("a\n  b", "Guide"),
        ("Prices\nitem: tea | price: 5 kr", "Guide"),
        ("Deep", "Guide > Deep"),
        ("tail", "Guide > Deep"),
    ]
    assert [block.rows for block in found.blocks].count(True) == 2


async def test_a_page_without_a_main_part_is_read_whole() -> None:
    page = b"<html><body><table><tr><td><p>" + b"long " * 200 + b"</p></td></tr></table>after<nav>menu</nav></body>"
    assert (await parsed("x", page)).text.split()[-2:] == ["long", "after"]


async def test_pdf_has_pages_under_their_bookmarks() -> None:
    data = pdf(
        "First page.", "Second\npage.", "Third page.", title="The paper", sections={1: ["One"], 3: ["Two", "Sub"]}
    )
    found = await parsed("paper.pdf", data)
    assert (found.title, found.pages, found.document_type) == ("The paper", 3, "pdf")
    assert [(block.page, block.heading, " ".join(block.text.split())) for block in found.blocks] == [
        (1, "One", "First page."),
        (2, "One", "Second page."),
        (3, "Two", "Third page."),
    ]


async def test_a_word_cut_by_the_end_of_a_line_is_whole_again() -> None:
    found = await parsed("paper.pdf", pdf("The docu-\nmentation of Anna-\nLise."))
    assert " ".join(found.text.split()) == "The documentation of Anna-Lise."


async def test_docx_has_headings_lists_and_tables() -> None:
    def fill(document: Document) -> None:
        document.add_heading("Report", 0)
        document.add_heading("Costs", 1)
        document.add_paragraph("They rose.")
        document.add_paragraph("rent", style="List Bullet")
        table = document.add_table(2, 2)
        for cell, text in zip(
            (each for row in table.rows for each in row.cells), ("year", "sum", "2025", "7"), strict=True
        ):
            cell.text = text
        table.rows[0]._tr.get_or_add_trPr().append(OxmlElement("w:tblHeader"))  # "repeat as header row"
        document.add_heading("Details", 2)
        merged = document.add_table(1, 3)
        merged.cell(0, 0).merge(merged.cell(0, 1)).text = "wide"
        merged.cell(0, 2).text = "narrow"

    found = await parsed("report.docx", word(fill, title="Annual report"))
    assert found.title == "Annual report"
    assert [(block.text, block.heading) for block in found.blocks] == [
        ("Report", "Report"),
        ("Costs", "Report > Costs"),
        ("They rose.", "Report > Costs"),
        ("- rent", "Report > Costs"),
        ("year: 2025 | sum: 7", "Report > Costs"),
        ("Details", "Report > Costs > Details"),
        ("wide | narrow", "Report > Costs > Details"),
    ]


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b'name,city\nIvo,"Aarhus, C"\nEva,\n', "name: Ivo | city: Aarhus, C\nname: Eva"),
        ('navn;by\nIvo;"Køben\nhavn"\n'.encode("latin-1"), "navn: Ivo | by: Køben havn"),
        (b"1,2\n3,4\n", "1 | 2\n3 | 4"),
        (b"a,a\nb,c\n", "a | a\nb | c"),
        (b"only\n", "only"),
        (b"name,city\nIvo,Aarhus,extra\n", "name: Ivo | city: Aarhus | extra"),
    ],
)  # fmt: skip
async def test_each_row_of_a_table_says_what_its_cells_are(data: bytes, text: str) -> None:
    found = await parsed("t.csv", data)
    assert (found.text, found.document_type, found.blocks[0].rows) == (text, "csv", True)


@pytest.mark.parametrize(
    ("name", "data", "kind"),
    [
        ("paper.txt", pdf("x"), "pdf"),
        ("paper.docx", pdf("x"), "pdf"),
        ("paper.pdf", word(lambda document: document.add_paragraph("x")), "docx"),
        ("paper.pdf", b"Only text after all.", "text"),
        ("page.txt", HTML.encode(), "html"),
        ("page.pdf", HTML.encode("utf-16"), "html"),
        ("readme.md", b"<p align=center>Logo</p>\n\n# Name\n", "markdown"),
        ("README", b"# no markup is promised", "text"),
    ],
)
async def test_a_document_is_what_it_is_and_not_what_its_name_says(name: str, data: bytes, kind: str) -> None:
    assert (await parsed(name, data)).document_type == kind


async def test_what_a_server_says_stands_in_for_a_name() -> None:
    assert (await parsed("page", b"<p>x</p>", content_type="text/html")).text == "x"
    assert (await parsed("notes.md", b"# x", content_type="text/plain")).document_type == "markdown"


def test_front_matter_without_an_end_is_no_front_matter() -> None:
    assert markdown.parse(b"---\ntitle: x\n\nText.", charset=None).title is None
