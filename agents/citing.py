"""Numbers in brackets that an answer cites its sources by: finding them among all that looks alike, and marking lies.

A citation is `[7]`, `[1, 2]`, `[1][2]`, `[2-4]`, `[^7]` or `[7, p. 3]`. None is what stands in code, is a link's text, or
follows what reads as a variable (`a[1]`, `self.rows[2]`): see `_is_code`.
"""

from __future__ import annotations

import bisect
import re
from collections import deque
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

SURE: Final = 999
"""Up to it any number counts; above, only one that was given: `[2024]` is a year until there are that many sources."""
_WIDEST: Final = 50  # numbers in a range; `[1-1000]` is no citation

_DASH: Final = "[-\u2013\u2014]"
_N: Final = r"[1-9][0-9]{0,5}"
_ITEM: Final = rf"{_N}(?:\s{{0,2}}{_DASH}\s{{0,2}}{_N})?\??"
_AND: Final = r"\s{0,2}(?:[,;&]|,?\s{1,2}(?:and|og)\s)\s{0,2}"
_PLACE: Final = (
    r"[,:]?\s{0,2}(?:pp?|pages?|s|sider?)\b\.?\s{0,2}[0-9]{1,6}(?:\s{0,2}{_DASH}\s{0,2}[0-9]{1,6})?|†[^\]】\n]{0,80}"
)
_GROUP: Final = re.compile(
    rf"(?P<open>[\[【]\^?\s{{0,2}})(?P<items>{_ITEM}(?:{_AND}{_ITEM})*)(?P<end>(?:{_PLACE})?\s{{0,2}}[\]】])"
)
_RANGE: Final = re.compile(rf"({_N})(?:\s{{0,2}}{_DASH}\s{{0,2}}({_N}))?(\??)")

_LINK: Final = re.compile(r"""\((?:[^\s()]|\([^\s()]*\))*(?:\s+["'][^"'\n]*["'])?\)""")
_TOKEN: Final = re.compile(r"[\w.$]{1,80}\Z")
_CALL: Final = re.compile(r"\w\([^()]{0,200}\)\Z")
_ADDRESS: Final = re.compile(r"://\S{0,300}\Z")
_BEFORE: Final = 320  # characters before a bracket that decide what it is

_FENCE: Final = re.compile(r"^[ \t]*(?:[-*+>][ \t]+)*(`{3,}|~{3,})[^\n]*$", re.MULTILINE)
_TICKS: Final = re.compile(r"`+")
_BLANK: Final = re.compile(r"\n[ \t]*\n")
_INDENTED: Final = re.compile(r"(?:\A|\n)[ \t]*\n((?:(?: {4}|\t)[^\n]*(?:\n|\Z)|[ \t]*\n)+)")
_LISTED: Final = re.compile(r"^[ \t]*(?:[-*+]|[0-9]{1,9}[.)])[ \t]|^(?: {2,}|\t)")


@dataclass(frozen=True, slots=True)
class Checked:
    """An answer whose numbers were compared with those that were given: those used, and the invented ones, marked."""

    text: str
    used: tuple[int, ...] = ()
    unknown: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class _Citation:
    """One pair of brackets; an item is a range of numbers, and whether it was marked before."""

    match: re.Match[str]
    items: tuple[tuple[range, bool], ...]

    @property
    def numbers(self) -> Iterator[int]:
        for numbers, _ in self.items:
            yield from numbers


def cited(text: str) -> list[int]:
    """Return the numbers that a text cites, each once, in the order of their first use."""
    return list(dict.fromkeys(number for each in _citations(text) for number in each.numbers))


def check(text: str, given: Collection[int]) -> Checked:
    """Return a text in which each number that was never given is marked: `[7]` becomes `[7?]`.

    A text without such numbers comes back as it is; one that was checked already is not changed again.
    """
    used: dict[int, None] = {}
    unknown: dict[int, None] = {}
    pieces: list[str] = []
    at = 0
    for citation in _citations(text):
        numbers = list(citation.numbers)
        if any(number > SURE and number not in given for number in numbers):
            continue
        for numbers_of, marked in citation.items:
            for number in numbers_of:
                (used if number in given and not marked else unknown)[number] = None
        found = citation.match
        pieces += [text[at : found.start()], _marked(citation, given)]
        at = found.end()
    return Checked("".join([*pieces, text[at:]]), tuple(used), tuple(unknown))


def _marked(citation: _Citation, given: Collection[int]) -> str:
    found = citation.match
    if all(marked or all(number in given for number in numbers) for numbers, marked in citation.items):
        return found[0]
    items = [part for item in citation.items for part in _parts(*item, given)]
    return f"{found['open']}{', '.join(items)}{found['end']}"


def _parts(numbers: range, marked: bool, given: Collection[int]) -> Iterator[str]:
    known = [number in given for number in numbers]
    if marked or all(known) or not any(known):
        whole = str(numbers[0]) if len(numbers) == 1 else f"{numbers[0]}-{numbers[-1]}"
        yield whole + ("" if all(known) and not marked else "?")
        return
    for number, is_known in zip(numbers, known, strict=True):
        yield str(number) + ("" if is_known else "?")


def _citations(text: str) -> Iterator[_Citation]:
    if "[" not in text and "【" not in text:
        return
    code = deque(_code(text))
    end = -1  # where the last citation ended: another one may follow it at once
    for found in _GROUP.finditer(text):
        while code and code[0][1] <= found.start():
            code.popleft()
        if code and code[0][0] < found.end():
            continue
        if _LINK.match(text, found.end()) or (found.start() != end and _is_code(text, found.start())):
            continue
        items = tuple(_item(each) for each in _RANGE.finditer(found["items"]))
        if all(0 < len(numbers) <= _WIDEST for numbers, _ in items):
            yield _Citation(found, items)
            end = found.end()


def _item(found: re.Match[str]) -> tuple[range, bool]:
    first, last = int(found[1]), int(found[2] or found[1])
    return range(first, last + 1), bool(found[3])


def _is_code(text: str, at: int) -> bool:
    """Whether a bracket belongs to what stands right before it: a variable, a call, an escape, an address, a link."""
    before = text[max(0, at - _BEFORE) : at]
    if not before or before[-1].isspace():
        return False
    if before[-1] == "]" or _ADDRESS.search(before) or _CALL.search(before):
        return True
    if before[-1] == "\\":
        return (len(before) - len(before.rstrip("\\"))) % 2 == 1
    token = _TOKEN.search(before)
    return token is not None and _is_name(token[0])


def _is_name(token: str) -> bool:
    """Whether a word reads as a variable's name rather than as the end of a sentence: a, my_list, os.environ, row2."""
    if "_" in token or "$" in token or re.search(r"\w\.[^\W\d]", token):
        return True
    word = token.rpartition(".")[2]
    if len(word) == 1 and len(token) == 1:
        return word.isascii() and word.isalpha()
    return word[:1].islower() and word.isascii() and (word[-1:].isdigit() or any(letter.isupper() for letter in word))


def _code(text: str) -> list[tuple[int, int]]:
    """Return where code stands in Markdown, in order: fenced, indented, and between backticks."""
    fenced = list(_fences(text))
    indented = [span for span in _indented(text) if not _overlaps(span, fenced)]
    blocks = sorted([*fenced, *indented])
    return sorted([*blocks, *_spans(text, blocks)])


def _fences(text: str) -> Iterator[tuple[int, int]]:
    opened: re.Match[str] | None = None
    for fence in _FENCE.finditer(text):
        if opened is None:
            opened = fence if fence[1][0] == "~" or "`" not in fence[0][fence.end(1) - fence.start() :] else None
        elif fence[1].startswith(opened[1]) and not fence[0][fence.end(1) - fence.start() :].strip():
            yield opened.start(), fence.end()
            opened = None
    if opened is not None:
        yield opened.start(), len(text)


def _indented(text: str) -> Iterator[tuple[int, int]]:
    for found in _INDENTED.finditer(text):
        before = text[: found.start(1)].rstrip()
        line = before[before.rfind("\n") + 1 :]
        if not _LISTED.match(line):  # a paragraph of a list's entry is indented too
            yield found.span(1)


def _spans(text: str, blocks: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    runs = [run for run in _TICKS.finditer(text) if not _overlaps(run.span(), blocks)]
    latest: dict[int, int] = {}
    following: list[int | None] = [None] * len(runs)
    for index in range(len(runs) - 1, -1, -1):
        length = len(runs[index][0])
        following[index] = latest.get(length)
        latest[length] = index
    index = 0
    while index < len(runs):
        other = following[index]
        if other is not None and not _BLANK.search(text, runs[index].end(), runs[other].start()):
            yield runs[index].start(), runs[other].end()
            index = other
        index += 1


def _overlaps(span: tuple[int, int], blocks: Sequence[tuple[int, int]]) -> bool:
    """Whether a span has a part of one of the blocks, which are in order and apart from each other."""
    before = bisect.bisect_left(blocks, span[1], key=lambda block: block[0])
    return before > 0 and span[0] < blocks[before - 1][1]
