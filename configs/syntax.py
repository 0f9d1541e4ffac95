"""What a YAML parser's complaint means to the author of a definition."""

from __future__ import annotations

import re
from typing import Final

import yaml

from cirkelline.configs.positions import Lines, Position

_CONFLICT: Final = re.compile(r"^(?:<{7}|={7}|>{7})(?: |$)", re.MULTILINE)

_TAB: Final = "a tab stands in the indentation: YAML is indented with spaces only"
_SECOND_VALUE: Final = (
    "this ':' starts a second value on one line, or this line is indented too far: "
    "put text that holds ': ' in quotes, or line the key up with the others"
)
_NO_COLON: Final = "this line is not 'key: value': add the colon, or indent the line if it belongs to the text above"
_MISFIT: Final = (
    "this does not fit what stands before it: line it up with the key or entry it belongs beside, "
    "and put a whole value in quotes, not a part of it"
)
_OPEN: Final = "this bracket is never closed, or a comma is missing in it"
_AFTER_BAR: Final = "nothing but a comment may follow | or > on its line: put the text on the next line, indented"

# Words of the messages (libyaml's, and the pure Python parser's where those differ), tried in this order.
_AT_PROBLEM: Final = {
    "tab character": _TAB,
    "'\\t'": _TAB,
    "mapping values are not allowed": _SECOND_VALUE,
    "sequence entries are not allowed": "a list cannot begin here: put each '- entry' on its own line",
    "node content": "a value is missing here: remove the extra comma",
    "unknown escape character": r"this \ escape does not exist: write \\ for a backslash, or use single quotes",
    "Unicode character escape": r"this \ escape is no character that can be stored: remove it",
    "undefined tag handle": "tags (!…) are not supported: remove it, or put the text in quotes",
    "incompatible YAML document": "this YAML version is unknown: remove the %YAML line",
    "unknown directive": "this % line is unknown: remove it",
    "comment or line break": _AFTER_BAR,
    "indentation indicators": _AFTER_BAR,
    "expected key": _MISFIT,
    "<block end>": _MISFIT,
    "'-' indicator": _MISFIT,
    "<document start>": "this stands outside of any agent: put --- on its own line before a new one",
}
# These are reported where what is wrong began: an unclosed bracket is noticed lines later.
_AT_BEGINNING: Final = {
    "could not find expected ':'": _NO_COLON,
    "end of stream": "this quote is never closed: close it, or remove it",
    "document separator": "this quote is never closed: close it, or remove it",
    "',' or ']'": _OPEN,
    "',' or '}'": _OPEN,
}


def explain(error: yaml.YAMLError, text: str) -> tuple[Position, str]:
    """Return the place and the sentence for a text that is not YAML."""
    if conflict := _CONFLICT.search(text):
        index, sentence = conflict.start(), "this is a merge conflict: choose one side and remove the marks"
    elif isinstance(error, yaml.MarkedYAMLError):
        index, sentence = _meaning(error, text)
    else:
        index, sentence = 0, f"this is not YAML: {' '.join(str(error).split())}"
    return Lines(text).position(index), sentence


def _meaning(error: yaml.MarkedYAMLError, text: str) -> tuple[int, str]:
    problem = error.problem or ""
    at = error.problem_mark.index if error.problem_mark else 0
    began = error.context_mark.index if error.context_mark else at
    if "cannot start any token" in problem and at < len(text):
        return at, _TAB if text[at] == "\t" else f"{text[at]} cannot begin a value: put the text in quotes"
    if "node content" in problem and not text[at:].strip():
        return max(text.rfind("["), text.rfind("{")), _OPEN
    for words, sentence in _AT_BEGINNING.items():
        if words in problem:
            return _unquoted_variable(text, began, at) or (began, sentence)
    found = (sentence for words, sentence in _AT_PROBLEM.items() if words in problem)
    return at, next(found, f"this is not YAML: {problem}")


def _unquoted_variable(text: str, began: int, at: int) -> tuple[int, str] | None:
    """Return the fault of a variable without quotes in brackets, whose own brackets YAML took for more of them."""
    line = text.rfind("\n", 0, at) + 1
    index = text.rfind("${", max(line, began), at + 1)
    return None if index < 0 else (index, '${…} needs quotes inside of { } and [ ]: write it as "${…}"')
