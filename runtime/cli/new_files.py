"""Writing a file that a person asked for: never over one that is there, and whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import IO

from cirkelline.configs.errors import UsageError


class FileInTheWay(UsageError):
    """A file cannot be written where it was asked for."""


def write(place: Path, content: bytes) -> Path:
    """Write a new file and return its whole path. Raises: FileInTheWay."""
    with writing(place) as file:
        file.write(content)
    return place.expanduser().absolute()


@contextmanager
def writing(place: Path) -> Generator[IO[bytes]]:
    """Lend a file to write to, which only its owner may read; it is at `place` once the block has ended without error.

    Raises: FileInTheWay.
    """
    wanted = place.expanduser().absolute()
    try:
        _refuse_taken(wanted)
        with NamedTemporaryFile(dir=wanted.parent, prefix=f".{wanted.name[:40]}.", delete=False) as file:
            try:
                yield file
            except BaseException:
                os.unlink(file.name)  # noqa: PTH108 - a name, and no more
                raise
        _refuse_taken(wanted)  # nobody waits for a lock on a name: this is a second look, not a promise
        Path(file.name).replace(wanted)
    except OSError as error:
        raise FileInTheWay(f"cannot write {str(wanted)!r}: {error.strerror}; name another file with --output") from None


def _refuse_taken(wanted: Path) -> None:
    if wanted.is_dir():
        raise FileInTheWay(f"{str(wanted)!r} is a folder: name a new file in it")
    if wanted.exists():
        raise FileInTheWay(f"{str(wanted)!r} is there already: name a new file, or remove it first")
    if not wanted.parent.is_dir():
        raise FileInTheWay(f"there is no folder {str(wanted.parent)!r} to write a file to: make it first")
