"""Writing answers on stdout and notes on stderr: rich on a terminal, plain aligned text elsewhere, JSON when asked."""

from __future__ import annotations

import json
import os
import shutil
import sys
import unicodedata
from collections.abc import Sequence
from datetime import datetime
from enum import Enum
from pathlib import PurePath
from typing import TYPE_CHECKING, Final, TextIO
from uuid import UUID

from cirkelline.runtime.cli import display
from cirkelline.runtime.cli.answers import Answer, Block, Cell, Facts, Mark, Raw, Spans, Table, Text, Tone

if TYPE_CHECKING:
    from rich.text import Text as RichText

_STYLES: Final[dict[Tone, str]] = {"plain": "", "good": "green", "bad": "red", "busy": "yellow", "quiet": "dim"}
_NARROW: Final = 60  # columns; below it a table would be mostly fold
_SHORT: Final = 24  # columns; a cell up to here is never folded


def show(answer: Answer, *, as_json: bool) -> None:
    """Write an answer: its document or its blocks on stdout, its complaint on stderr."""
    match answer.blocks:
        case _ if as_json:
            write_document(answer.document)
        case [Raw(content)] if not on_terminal(sys.stdout):
            _write_bytes(content)
        case _:
            _write("".join(_rendered(block, first=index == 0) for index, block in enumerate(answer.blocks)))
    if answer.complaint:
        complain(answer.complaint)


def write_document(document: object) -> None:
    """Write one JSON document on stdout."""
    fits = (getattr(sys.stdout, "encoding", None) or "ascii").lower().replace("-", "") == "utf8"
    _write(json.dumps(document, indent=2, ensure_ascii=not fits, default=_plain) + "\n")


def note(text: str) -> None:
    """Say something beside the answer, on stderr."""
    _write(display.safe(text) + "\n", sys.stderr)


def warn(text: str) -> None:
    """Say on stderr what may keep this from having the effect that was meant."""
    note(f"warning: {text}")


def complain(text: str) -> None:
    """Say on stderr what went wrong."""
    note(f"error: {text}")


def on_terminal(stream: TextIO | None) -> bool:
    """Whether a person sees this stream."""
    return stream is not None and stream.isatty()


def columns() -> int:
    """Return how wide the terminal is."""
    return shutil.get_terminal_size().columns


def _plain(value: object) -> object:
    """Return what JSON can hold for the values that our documents use; anything else is a mistake of ours."""
    match value:
        case datetime():
            return display.aware(value).isoformat()
        case UUID() | PurePath():
            return str(value)
        case Enum():
            return value.value
        case set() | frozenset() | tuple():
            return sorted(str(item) for item in value)  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
        case _:
            raise TypeError(f"{type(value).__name__} has no JSON form")


def _write(text: str, stream: TextIO | None = None) -> None:
    stream = stream or sys.stdout
    if stream is None or not text:  # pyright: ignore[reportUnnecessaryComparison] - closed by whoever started us
        return
    encoding = stream.encoding or "utf-8"
    stream.write(text.encode(encoding, "replace").decode(encoding))
    stream.flush()


def _write_bytes(content: bytes) -> None:
    if sys.stdout is not None:  # pyright: ignore[reportUnnecessaryComparison] - closed by whoever started us
        sys.stdout.flush()
        sys.stdout.buffer.write(content)
        sys.stdout.flush()


def _rendered(block: Block, *, first: bool) -> str:
    rich = on_terminal(sys.stdout) and os.environ.get("TERM") != "dumb"
    match block:
        case Text():
            before = "\n" if block.apart and not first else ""
            words = display.safe(block.text).rstrip("\n")
            return before + (_colored(words, block.tone) if rich else words) + "\n"
        case Spans():
            return "".join(_span(part, rich=rich) for part in block.parts).rstrip("\n") + "\n"
        case Raw():
            return display.safe(block.content.decode("utf-8", "replace")) + "\n"
        case Facts():
            return _facts(block.pairs, rich=rich)
        case Table():
            return _table(block, rich=rich)


def _table(table: Table, *, rich: bool) -> str:
    if not table.rows:
        return f"{table.empty}\n"
    if on_terminal(sys.stdout) and columns() < _NARROW:
        return "\n".join(_facts(list(zip(table.columns, row, strict=True)), rich=rich) for row in table.rows)
    return _rich_table(table) if rich else _plain_table(table)


def _facts(pairs: Sequence[tuple[str, Cell]], *, rich: bool) -> str:
    widest = max((len(name) for name, _ in pairs), default=0)
    lines: list[str] = []
    for name, cell in pairs:
        words = display.safe(_words(cell)).replace("\n", "\n" + " " * (widest + 2))
        shown = _colored(words, cell.tone) if rich and isinstance(cell, Mark) else words
        lines.append(f"{name:<{widest}}  {shown}".rstrip() + "\n")
    return "".join(lines)


def _span(part: Cell, *, rich: bool) -> str:
    words = display.safe(_words(part))
    return _colored(words, part.tone) if rich and isinstance(part, Mark) and words.strip() else words


def _words(cell: Cell) -> str:
    return cell.text if isinstance(cell, Mark) else cell


def _plain_table(table: Table) -> str:
    rows = [table.columns, *([display.line(_words(cell), 200) for cell in row] for row in table.rows)]
    widths = [max(_width(row[index]) for row in rows) for index in range(len(table.columns))]
    lines = (
        "  ".join(cell + " " * (width - _width(cell)) for cell, width in zip(row, widths, strict=True)) for row in rows
    )
    return "".join(line.rstrip() + "\n" for line in lines)


def _width(text: str) -> int:
    """Return how many columns text takes: wide characters take two, combining ones none."""
    return sum(
        0 if unicodedata.combining(character) else 2 if unicodedata.east_asian_width(character) in "WF" else 1
        for character in text
    )


def _rich_table(table: Table) -> str:
    from rich import box
    from rich.table import Table as RichTable

    drawn = RichTable(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, header_style="bold")
    rows = [[display.line(_words(cell), 200) for cell in row] for row in table.rows]
    for index, column in enumerate(table.columns):
        # Ids, names and states stay whole; long text gives way, and folds rather than loses its end.
        short = max(_width(row[index]) for row in rows) <= _SHORT
        drawn.add_column(column, no_wrap=short, overflow="fold")
    for words, row in zip(rows, table.rows, strict=True):
        drawn.add_row(*(_rich_text(text, cell) for text, cell in zip(words, row, strict=True)))
    return _captured(drawn)


def _rich_text(words: str, cell: Cell) -> RichText:
    from rich.text import Text as RichText

    return RichText(words, style=_STYLES[cell.tone] if isinstance(cell, Mark) else "")


def _colored(words: str, tone: Tone) -> str:
    from rich.text import Text as RichText

    if not _STYLES[tone]:
        return words
    return _captured(RichText(words, style=_STYLES[tone])).rstrip("\n")


def _captured(drawable: object) -> str:
    from rich.console import Console
    from rich.text import Text as RichText

    # No markup: what the database holds is text, never instructions to the terminal.
    console = Console(file=sys.stdout, width=columns(), markup=False, highlight=False, emoji=False)
    with console.capture() as capture:
        console.print(drawable, soft_wrap=isinstance(drawable, RichText))
    return capture.get()
