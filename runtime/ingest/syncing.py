"""Documents whose files have vanished from a folder: found with care, as a disk that is not mounted looks the same."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cirkelline.configs.errors import UsageError
from cirkelline.runtime.ingest.documents import Owner
from cirkelline.runtime.ingest.verdicts import Outcome, Verdict
from cirkelline.runtime.patience import until_answered
from cirkelline.state import knowledge
from cirkelline.tools.reading import Source

FEW: Final = 10
"""So many may be removed without asking, or a tenth of a folder's documents where that is more."""


_BYTE: Final = re.compile(r"\\u(dc[89a-f][0-9a-f])")


class NotAFolder(UsageError):
    """Only a folder can be kept in step."""


@dataclass(frozen=True, slots=True)
class Vanished:
    """The documents of some folders whose files are gone, of `there` documents; `why_kept` is why none is removed."""

    documents: Sequence[tuple[int, str]]
    there: int
    why_kept: str | None = None

    @property
    def many(self) -> bool:
        """Whether a person should say so before they are removed."""
        return len(self.documents) > max(FEW, self.there // 10)


def folders(arguments: Sequence[str]) -> list[Path]:
    """Return the folders that a sync names, as their documents' sources begin. Raises: NotAFolder."""
    found = [Path(argument).resolve() for argument in arguments]
    for path in found:
        try:
            with os.scandir(path):
                pass
        except OSError as error:
            raise NotAFolder(
                f"--sync takes folders that can be read, and {str(path)[:200]!r} is none ({error.strerror}): nothing was"
                " changed"
            ) from None
    return found


def prefix(folder: Path) -> str:
    """Return what the sources of a folder's documents begin with, in the form that reading gives them."""
    return os.path.join(str(folder), "").encode("utf-8", "backslashreplace").decode()  # noqa: PTH118 - with its last slash


async def vanished(owner: Owner, arguments: Sequence[str], sources: Sequence[Source]) -> Vanished:
    """Return the documents of these folders whose files are not there any more. Raises: NotAFolder."""
    roots = await asyncio.to_thread(folders, arguments)

    async def under() -> list[tuple[int, str]]:
        async with owner.door() as door:
            return [each for root in roots for each in await knowledge.sources_under(door, prefix(root))]

    there = await until_answered(under, "look for vanished files")
    if there and not sources:
        empty = (
            "no file is left that could be read (is a disk not mounted?): `cirkelline knowledge remove` removes them"
        )
        return Vanished((), len(there), empty)
    listed = {source.uri for source in sources}
    gone = await asyncio.to_thread(_gone, [each for each in there if each[1] not in listed])
    return Vanished(gone, len(there))


def _gone(documents: Sequence[tuple[int, str]]) -> list[tuple[int, str]]:
    return [document for document in documents if _is_gone(document[1])]


def _is_gone(source: str) -> bool:
    """Whether the system says that there is no such file; that it may not be looked at says nothing."""
    # A byte that is no text stands in a source as `\udcXX`: there may be such a file, or one whose name is written so.
    written = _BYTE.sub(lambda found: chr(int(found[1], 16)), source)
    return all(_is_missing(path) for path in {source, written})


def _is_missing(path: str) -> bool:
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return True
    except (OSError, ValueError):
        return False
    return False


async def remove(owner: Owner, documents: Sequence[tuple[int, str]]) -> list[Outcome]:
    """Remove these documents."""

    async def drop() -> list[Outcome]:
        async with owner.door() as door:
            return [
                Outcome(source, Path(source).name, Verdict.REMOVED, "its file is gone", document=number)
                for number, source in documents
                if await knowledge.remove(door, number)
            ]

    return await until_answered(drop, "remove documents")
