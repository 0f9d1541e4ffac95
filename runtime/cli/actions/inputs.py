"""The input of a task as a person gives it: words, a file, or what is piped in."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from cirkelline.configs.errors import UsageError
from cirkelline.runtime.cli import console, display

LARGEST: Final = 16_000_000  # bytes; no model reads more, and a mistaken file should not become a row
_STDIN: Final = "-"


class BadInput(UsageError):
    """The input of a task cannot be used as it is given."""


def read(words: Sequence[str], file: str | None, *, as_json: bool) -> Any:
    """Return a task's input from its words, a file, or stdin (`-`); exactly one of these. Raises: BadInput."""
    if words and file is not None:
        raise BadInput("give the input as words or with --file, not both")
    if not words and file is None:
        raise BadInput('there is no input: write it after the agent, "…", or give --file PATH, or - for stdin')
    source = file if file is not None else _STDIN if list(words) == [_STDIN] else None
    text = " ".join(words) if source is None else _decoded(_content(source), source)
    if as_json:
        return parsed(text, "the input")
    if not text.strip():
        raise BadInput("the input is empty: say what the agent is to do")
    return text


def _content(source: str) -> bytes:
    if source != _STDIN:
        try:
            with Path(source).expanduser().open("rb") as opened:
                return opened.read(LARGEST + 1)
        except OSError as error:
            raise BadInput(f"cannot read {display.line(source)}: {(error.strerror or str(error)).lower()}") from None
    if sys.stdin is None:  # pyright: ignore[reportUnnecessaryComparison] - closed by whoever started us
        raise BadInput("there is no stdin to read the input from")
    if console.on_terminal(sys.stdin):
        console.note("reading the input from the terminal; end it with Ctrl-D on a line of its own")
    return sys.stdin.buffer.read(LARGEST + 1)


def _decoded(content: bytes, source: str) -> str:
    name = "stdin" if source == _STDIN else display.line(source)
    if len(content) > LARGEST:
        raise BadInput(f"{name} holds more than {display.size(LARGEST)}, which is the most a task's input may be")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise BadInput(f"{name} is not UTF-8 text: convert it first (iconv -t UTF-8)") from None


def parsed(text: str, what: str) -> Any:
    """Return the JSON value that a text spells. Raises: BadInput, which names `what` it is."""

    def refuse(constant: str) -> Any:
        raise ValueError(f"{constant} is no JSON")

    try:
        return json.loads(text, parse_constant=refuse)
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        raise BadInput(f"{what} is not JSON: {error.msg[0].lower()}{error.msg[1:]} at {place}") from None
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{what} is not JSON that a database holds: {display.line(str(error))}") from None
