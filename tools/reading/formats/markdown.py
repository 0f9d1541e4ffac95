"""Markdown: its own text, cut at headings, code and tables where a parser says that these are."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Final

from markdown_it import MarkdownIt
from markdown_it.token import Token

from cirkelline.tools.reading.formats.decoding import decoded
from cirkelline.tools.reading.formats.draft import Draft, clean

_ROWS: Final = frozenset({"fence", "code_block", "table_open", "html_block"})
_FRONT: Final = re.compile(r"---[ \t]*\n(.*?)\n(?:---|\.\.\.)[ \t]*(?:\n|\Z)", re.DOTALL)
_TITLE: Final = re.compile(r"^title:[ \t]*[\"']?(.+?)[\"']?[ \t]*$", re.MULTILINE)


def parse(data: bytes, *, charset: str | None) -> Draft:
    """Return a Markdown file's text as written, with its headings."""
    draft = Draft(clean(decoded(data, charset)))
    body = _front_matter(draft)
    tokens = MarkdownIt("commonmark").enable("table").parse(draft.text[body:])
    lines = list(accumulate((len(line) + 1 for line in draft.text[body:].split("\n")), initial=body))
    done = body
    for token, following in pairwise([*tokens, Token("end", "", 0)]):
        if token.level or token.map is None:
            continue
        start, end = lines[token.map[0]], min(lines[token.map[1]], len(draft.text))
        draft.mark(done, start)  # what the parser makes nothing of, such as the addresses of links
        if heading := token.type == "heading_open":
            draft.head(int(token.tag[1:]), _words(following.children or ()))
        draft.mark(start, end, rows=token.type in _ROWS, title=heading)
        done = max(done, end)
    draft.mark(done, len(draft.text))
    return draft


def _front_matter(draft: Draft) -> int:
    """Mark the YAML before the text, which a parser would take for a heading; return where the text begins."""
    found = _FRONT.match(draft.text)
    if found is None:
        return 0
    if title := _TITLE.search(found[1]):
        draft.name(title[1])
    draft.mark(0, found.end(), rows=True)
    return found.end()


def _words(inline: Sequence[Token]) -> str:
    return "".join(" " if each.type in {"softbreak", "hardbreak"} else each.content for each in inline)
