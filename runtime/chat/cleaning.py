"""What a model says, made harmless: a terminal shows it and obeys none of it, however the pieces of it are cut."""

from __future__ import annotations

import re
from typing import Final

# A whole escape sequence: CSI; a string (OSC, DCS, …) that ends on its line; or any other short one.
_SEQUENCE: Final = re.compile(
    r"\x1b\[[0-?]{0,64}[ -/]{0,16}[@-~]"
    r"|\x1b[\]PX^_][^\x07\x1b\n]{0,500}(?:\x07|\x1b\\)"
    r"|\x1b[ -/]{0,16}[0-~]"
)
# The beginning of one, at the end of a piece: what follows may complete it.
_BEGINNING: Final = re.compile(r"\x1b(?:\[[0-?]{0,64}[ -/]{0,16}|[\]PX^_][^\x07\x1b\n]{0,500}\x1b?|[ -/]{0,16})\Z")
_LONGEST: Final = 512
_C1: Final = {
    0x90: "\x1bP",
    0x98: "\x1bX",
    0x9B: "\x1b[",
    0x9C: "\x1b\\",
    0x9D: "\x1b]",
    0x9E: "\x1b^",
    0x9F: "\x1b_",
}
_LINE_END: Final = re.compile("\r\n|[\r\x0b\x0c\x85\u2028\u2029]")
# Control characters, marks that reorder a line, invisible tags, and halves of characters.
_OBEYED: Final = re.compile(
    "[\x00-\x08\x0e-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff\U000e0000-\U000e007f]"
)


class Cleaner:
    """Cleans a text that comes in pieces; an escape sequence that is cut in two is removed all the same."""

    def __init__(self) -> None:
        self._held = ""

    def feed(self, piece: str) -> str:
        """Return what can be shown so far; the beginning of an escape sequence is held until it is whole, or none."""
        text = (self._held + piece).translate(_C1)
        returned = "\r" if text.endswith("\r") else ""  # a line end of two characters may be cut as well
        text = _with_line_ends(text.removesuffix("\r"))
        found = _BEGINNING.search(text, max(0, len(text) - _LONGEST))
        whole = text[: found.start()] if found else text
        self._held = text[len(whole) :] + returned
        return _cleaned(whole)

    def rest(self) -> str:
        """Return what was held back, at the end of the text."""
        held, self._held = self._held, ""
        return _cleaned(_with_line_ends(held))


def clean(text: str) -> str:
    """Return a whole text with its escape sequences and control characters removed; line ends and tabs stay."""
    return _cleaned(_with_line_ends(text.translate(_C1)))


def _with_line_ends(text: str) -> str:
    return _LINE_END.sub("\n", text)


def _cleaned(text: str) -> str:
    if text.isascii() and text.isprintable():  # the usual piece: a few words
        return text
    return _OBEYED.sub("", _SEQUENCE.sub("", text))
