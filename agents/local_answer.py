"""Reading a constrained answer while it is written: the reply's text as it grows, or one whole tool call at the end."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any, Final

from cirkelline.configs import scalars

_PLAIN: Final = re.compile(r'[^"\\]+')
_ESCAPE: Final = re.compile(r'\\(?:u([0-9a-fA-F]{4})|(["\\/bfnrt]))')
_BEGUN_ESCAPE: Final = re.compile(r"\\(u[0-9a-fA-F]{0,3})?")
_LONE: Final = re.compile("[\ud800-\udfff]")
_MEANINGS: Final = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}
_REPLACEMENT: Final = "\ufffd"


_LONGEST_ROUND: Final = 200
_FEWEST_ROUNDS: Final = 5
_ROUNDS_SPAN: Final = 400


class AnswerMalformed(ValueError):
    """What was written is no whole answer."""


@dataclass(frozen=True, slots=True)
class Reply:
    """The model answered; its text was handed out as it came."""


@dataclass(frozen=True, slots=True)
class Call:
    """The model asks for a tool."""

    name: str
    arguments: dict[str, Any]


def goes_round(text: str) -> bool:
    """Tell whether a text ends in the same few words again and again, as a small model's do that will never end.

    Five times and 400 characters: longer than any rule, table or list of zeros that is meant. A penalty on repetition
    would prevent some of it, and would also keep the model from quoting what a tool told it.
    """
    tail = text[-_ROUNDS_SPAN - _LONGEST_ROUND * _FEWEST_ROUNDS :]
    for length in range(1, _LONGEST_ROUND + 1):
        span = length * max(_FEWEST_ROUNDS, -(-_ROUNDS_SPAN // length))
        if len(tail) >= span and tail[-span:-length] == tail[-span + length :]:
            return True
    return False


class StringDecoder:
    """Decodes the inside of a JSON string piece by piece, however its escapes and surrogate pairs are cut."""

    def __init__(self) -> None:
        self.closed = False
        self._held = ""  # an escape, or the first half of a pair, of which the rest is to come

    def feed(self, piece: str) -> str:
        """Return what `piece` adds to the text; lone surrogates become U+FFFD, and nothing follows the closing quote."""
        text, self._held = self._held + piece, ""
        decoded: list[str] = []
        at = 0
        while at < len(text) and not self.closed:
            if plain := _PLAIN.match(text, at):
                decoded.append(_LONE.sub(_REPLACEMENT, plain[0]))
                at = plain.end()
            elif text[at] == '"':
                self.closed = True
            else:
                character, end = _escape(text, at)
                if end == at:
                    self._held = text[at:]
                    break
                decoded.append(character)
                at = end
        return "".join(decoded)


def _escape(text: str, at: int) -> tuple[str, int]:
    """Return the character an escape stands for and where it ends, or where it began when its rest is to come."""
    found = _ESCAPE.match(text, at)
    if found is None:
        return ("", at) if _BEGUN_ESCAPE.fullmatch(text, at) else (_REPLACEMENT, at + 1)
    if found[2]:
        return _MEANINGS.get(found[2], found[2]), found.end()
    code = int(found[1], 16)
    if not 0xD800 <= code <= 0xDFFF:  # noqa: PLR2004 - the surrogates
        return chr(code), found.end()
    rest = text[found.end() :]
    if code <= 0xDBFF:  # noqa: PLR2004 - the first half of a pair
        second = _ESCAPE.match(rest)
        if second and second[1] and 0xDC00 <= (low := int(second[1], 16)) <= 0xDFFF:  # noqa: PLR2004
            return chr(0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00)), found.end() + second.end()
        if not rest or _BEGUN_ESCAPE.fullmatch(rest):
            return "", at
    return _REPLACEMENT, found.end()


class AnswerReader:
    """Reads `{"action": REPLY, "text": …}` or `{"action": TOOL, "arguments": {…}}` as it is written."""

    def __init__(self, reply: str) -> None:
        self._reply = reply
        self._opening = re.compile(rf'\s*\{{\s*"action"\s*:\s*{re.escape(json.dumps(reply))}\s*,\s*"text"\s*:\s*"')
        self._written = ""
        self._text: StringDecoder | None = None

    def feed(self, piece: str) -> str:
        """Take what was written now; return what it adds to the reply's text, nothing when it is a tool call."""
        self._written += piece
        if self._text is None:
            if (found := self._opening.match(self._written)) is None:
                return ""
            self._text = StringDecoder()
            piece = self._written[found.end() :]
        return self._text.feed(piece)

    def finish(self) -> Reply | Call:
        """Return what the whole answer is; raises AnswerMalformed when it is cut or something else."""
        try:
            answer: object = json.loads(self._written)
        except ValueError:
            raise AnswerMalformed("the answer is not whole JSON") from None
        if scalars.is_mapping(answer):
            action, arguments = answer.get("action"), answer.get("arguments")
            if action == self._reply and self._text:
                return Reply()
            if isinstance(action, str) and scalars.is_mapping(arguments):
                return Call(action, arguments)
        raise AnswerMalformed("the answer is neither a reply nor a call")
