"""HTML: what a reader sees of the page's own text, with its headings; no scripts, menus or forms."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from typing import Final

from bs4 import BeautifulSoup, Tag
from bs4.element import NavigableString, PreformattedString

from cirkelline.tools.reading.formats import rows
from cirkelline.tools.reading.formats.draft import Draft, one_line

_DROPPED: Final = frozenset(
    {
        "script",
        "style",
        "template",
        "noscript",
        "svg",
        "iframe",
        "object",
        "nav",
        "head",
        "button",
        "select",
        "textarea",
    }
    | {"dialog"}
)
_DROPPED_ROLES: Final = frozenset({"navigation", "search", "banner", "contentinfo"})
_BLOCKS: Final = frozenset(
    {"address", "article", "aside", "blockquote", "body", "caption", "dd", "details", "div", "dl", "dt", "fieldset"}
    | {
        "figcaption",
        "figure",
        "footer",
        "form",
        "h1",
        "h2",
        "h3",
        "h4",
        "h5",
        "h6",
        "header",
        "hr",
        "html",
        "li",
        "main",
    }
    | {"ol", "p", "pre", "section", "summary", "table", "tbody", "td", "tfoot", "th", "thead", "tr", "ul"}
)
_HEADINGS: Final = {f"h{level}": level for level in range(1, 7)}
_ANCHORS: Final = frozenset({"¶", "#", "§", "🔗", "permalink"})
_LONGEST_CELL: Final = 500  # characters; a table with longer ones is the page's layout


def parse(data: bytes, *, charset: str | None) -> Draft:
    """Return a page's text."""
    soup = BeautifulSoup(data, "lxml", from_encoding=charset)
    draft = Draft()
    title = soup.title.get_text() if soup.title else None
    root = _content(soup)
    _simplify(root)
    # By identity, as tags that hold the same are equal.
    for _, group in groupby(((_block_of(each), each) for each in _strings(root)), key=lambda pair: id(pair[0])):
        pairs = list(group)
        _add(draft, pairs[0][0], "".join(string for _, string in pairs))
    draft.name(title)
    return draft


def _content(soup: BeautifulSoup) -> Tag:
    """Return the part of the page that is its own, where it says so, without what is not to be read."""
    for each in [tag for tag in _tags(soup) if _is_dropped(tag)]:
        each.decompose()
    tags = _tags(soup)
    mains = [tag for tag in tags if tag.name == "main" or tag.get("role") == "main"]
    mains = mains or [tag for tag in tags if tag.name == "article"]
    if len(mains) == 1 and mains[0].get_text(strip=True):
        return mains[0]
    return soup


def _tags(root: Tag) -> list[Tag]:
    """Every tag below one: looking at each once is many times faster than asking for selectors."""
    return [each for each in root.descendants if isinstance(each, Tag)]


def _is_dropped(tag: Tag) -> bool:
    if tag.name in _DROPPED or tag.has_attr("hidden") or tag.get("role") in _DROPPED_ROLES:
        return True
    return tag.name == "footer" and tag.parent is not None and tag.parent.name == "body"


def _simplify(root: Tag) -> None:
    """Make text of line breaks and tables, and drop the signs that link to a heading."""
    tags = _tags(root)
    for tag in tags:
        if tag.name == "br":
            tag.replace_with("\n")
        elif tag.name == "a" and tag.get_text(strip=True).lower() in _ANCHORS:
            tag.decompose()
    for table in [tag for tag in tags if tag.name == "table"]:
        lines = None if table.decomposed or table.find("table") else _table(table)
        if lines is not None:
            flat = Tag(name="pre")
            flat.string = "\n".join(lines)
            table.replace_with(flat)


def _table(table: Tag) -> list[str] | None:
    """Return a table's rows as lines, its header's words before each cell; None where it only lays out the page."""
    cells = [[one_line(cell.get_text(" ")) for cell in row.find_all(["td", "th"])] for row in table.find_all("tr")]
    cells = [row for row in cells if row]
    if any(len(cell) > _LONGEST_CELL for row in cells for cell in row) or table.find("pre"):
        return None
    caption = table.find("caption")
    above = [one_line(caption.get_text(" "))] if caption else []
    first = table.find("tr")
    header = cells[0] if cells and first and not first.find("td") else None
    return above + rows.lines(header, cells[1:] if header else cells)


def _strings(root: Tag) -> Iterator[NavigableString]:
    for each in root.descendants:
        if isinstance(each, NavigableString) and not isinstance(each, PreformattedString):
            yield each


def _block_of(string: NavigableString) -> Tag | None:
    return next((parent for parent in string.parents if parent.name in _BLOCKS), None)


def _add(draft: Draft, block: Tag | None, text: str) -> None:
    name = block.name if block is not None else ""
    if name == "pre":
        draft.add(text, rows=True)
    elif level := _HEADINGS.get(name):
        if words := one_line(text):
            draft.head(level, words)
            draft.add(words, title=True)
    else:
        paragraph = "\n".join(line for each in text.split("\n\n") if (line := one_line(each)))
        draft.add(f"- {paragraph}" if name == "li" and paragraph else paragraph, close=name == "li")
