"""From paths to the text of definition files: which files there are, and what makes one unreadable."""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from cirkelline.configs.positions import START, Lines, Position, Problem

LARGEST: Final = 1_000_000  # bytes; an agent is some kilobytes, so more is a mistake that would cost seconds to parse
SUFFIXES: Final = (".yaml", ".yml")
SCRIPT_SUFFIXES: Final = (".script.yaml", ".script.yml")  # `scripted:` model scripts may lie beside the agents

# What YAML itself does not allow in a file, tab and line breaks aside.
_FORBIDDEN: Final = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f\ufeff\ufffe\uffff]")
_UTF16: Final = (b"\xff\xfe", b"\xfe\xff")


class Unreadable(Exception):  # it carries a problem to report; nobody outside this package sees it
    """A path that gives no text; `problem` says why."""

    def __init__(self, path: Path, message: str, at: Position = START) -> None:
        super().__init__(message)
        self.problem = Problem(path, at.line, at.column, message)


def find(paths: Sequence[Path]) -> Iterator[Path | Problem]:
    """Yield each definition file once: a file as it is given, a folder's files (hidden ones aside) in order of name."""
    seen: set[tuple[int, int]] = set()
    for path in paths:
        try:
            yield from _below(path, path.stat(), seen, given=True)
        except (OSError, ValueError) as error:
            yield Problem(path, *START, _reason(path, error))


def _below(path: Path, status: os.stat_result, seen: set[tuple[int, int]], *, given: bool) -> Iterator[Path | Problem]:
    identity = (status.st_dev, status.st_ino)  # by inode: links may form a loop, or name one file twice
    if identity in seen:
        return
    if not stat.S_ISDIR(status.st_mode):
        if given or _is_definition(path.name):
            seen.add(identity)
            yield path
        return
    seen.add(identity)
    for child in sorted(path.iterdir()):
        if not child.name.startswith("."):
            yield from _child(child, seen)


def _child(path: Path, seen: set[tuple[int, int]]) -> Iterator[Path | Problem]:
    try:
        yield from _below(path, path.stat(), seen, given=False)
    except OSError as error:
        if path.suffix in SUFFIXES or not path.is_symlink():  # a dangling link to something else is not our business
            yield Problem(path, *START, _reason(path, error))


def _is_definition(name: str) -> bool:
    return name.endswith(SUFFIXES) and not name.endswith(SCRIPT_SUFFIXES)


def read(path: Path) -> str:
    """Return a file's text with line feeds as line ends and without a byte order mark, or raise Unreadable."""
    try:
        content = _bytes(path)
    except OSError as error:
        raise Unreadable(path, _reason(path, error)) from error
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise Unreadable(path, *_not_utf8(content, error.start)) from error
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    if bad := _FORBIDDEN.search(text):
        message = f"this is not text: it holds the character U+{ord(bad[0]):04X}; save the file as plain UTF-8 text"
        raise Unreadable(path, message, Lines(text).position(bad.start()))
    return text


def _bytes(path: Path) -> bytes:
    # Asked before it is opened: opening a named pipe would wait for ever.
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise Unreadable(path, "this is not a file: give a YAML file, or a folder that holds some")
    too_large = f"the file is larger than {LARGEST // 1_000_000} MB: an agent's definition is a few kilobytes"
    if status.st_size > LARGEST:
        raise Unreadable(path, too_large)
    with path.open("rb") as file:
        content = file.read(LARGEST + 1)
    if len(content) > LARGEST:
        raise Unreadable(path, too_large)
    return content


def _not_utf8(content: bytes, start: int) -> tuple[str, Position]:
    if content.startswith(_UTF16):
        return "this is UTF-16 text: save the file as UTF-8", START
    before = content[:start].decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
    return f"the byte 0x{content[start]:02X} is not UTF-8: save the file as UTF-8 text", Lines(before).position(
        len(before)
    )


def _reason(path: Path, error: OSError | ValueError) -> str:
    number = error.errno if isinstance(error, OSError) else None
    if number in {errno.ENOENT, errno.ENOTDIR}:
        dangling = path.is_symlink()
        return "this link leads nowhere: repair or remove it" if dangling else "there is no such file or folder"
    if number == errno.EACCES:
        return "this cannot be read: its permissions do not let you"
    why = os.strerror(number).lower() if number else str(error)
    return f"this cannot be read: {why}"
