"""Reads what a tool's docstring tells the model: what the tool does, and what each argument is."""

from __future__ import annotations

import inspect
import re
from dataclasses import dataclass
from typing import Final

_SECTION: Final = re.compile(
    r"^(args|arguments|parameters|params|returns?|yields?|raises|examples?|notes?|see also|todo):\s*$", re.IGNORECASE
)
_ARGUMENTS: Final = ("args", "arguments", "parameters", "params")
_ARGUMENT: Final = re.compile(r"^\*{0,2}(?P<name>\w+)\s*(\([^)]*\))?\s*:\s*(?P<text>.*)$")


@dataclass(frozen=True, slots=True)
class Described:
    """A docstring in its parts: the text before its first section, and a text per documented argument."""

    text: str
    arguments: dict[str, str]


def describe(docstring: str | None) -> Described:
    """Split a Google style docstring; sections other than `Args:` are for programmers and are left out."""
    text: list[str] = []
    documented: list[str] = []
    section = "text"
    for line in inspect.cleandoc(docstring or "").splitlines():
        if heading := _SECTION.match(line):
            section = "arguments" if heading[1].lower() in _ARGUMENTS else "other"
        elif section == "text":
            text.append(line)
        elif section == "arguments":
            documented.append(line)
    return Described(_folded(text), _arguments(documented))


def _arguments(lines: list[str]) -> dict[str, str]:
    """Return name -> text; a line indented deeper than the first goes on with the argument before it."""
    found: dict[str, str] = {}
    current = ""
    margin = next((_indent(line) for line in lines if line.strip()), 0)
    for line in lines:
        start = _ARGUMENT.match(line.strip()) if _indent(line) <= margin else None
        if start:
            current = start["name"]
            found[current] = start["text"].strip()
        elif current and line.strip():
            found[current] = f"{found[current]} {line.strip()}".strip()
    return found


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


def _folded(lines: list[str]) -> str:
    """Join the lines of each paragraph; paragraphs and lists keep their breaks."""
    return re.sub(r"(?<=\S)\n(?=[^\s*\-\d])", " ", "\n".join(lines)).strip()
