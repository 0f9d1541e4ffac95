"""Which folders' files have changed: told by the operating system, and looked up by hand where it does not tell."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import structlog

_IGNORED: Final = frozenset({"__pycache__", "node_modules"})

log = structlog.get_logger(__name__)

Signature = dict[str, tuple[int, int, int]]


@dataclass(frozen=True, slots=True)
class Watched:
    """A folder and the endings of the names that matter in it."""

    folder: Path
    suffixes: tuple[str, ...]


class Watch:
    """Remembers how the folders' files looked; what changes after the first look is told, however much later.

    The files' own times and sizes decide: a notification only makes us look sooner, and every `poll` seconds we look
    without one (network folders and containers' mounts send none, and a folder may be made later).
    """

    def __init__(self, watched: Sequence[Watched], *, poll: float) -> None:
        self._watched = tuple(watched)
        self._poll = poll
        self._seen: list[Signature] | None = None

    async def look(self) -> list[Watched]:
        """Return the folders in which a file came, went or changed since the last look; the first one returns none."""
        before, now = self._seen, await asyncio.to_thread(_signatures, self._watched)
        self._seen = now
        if before is None:
            return []
        return [each for each, old, new in zip(self._watched, before, now, strict=True) if old != new]

    async def changes(self) -> AsyncGenerator[list[Watched]]:
        """Yield the folders in which something changed, as often as that happens."""
        async with aclosing(_nudges([each.folder for each in self._watched], self._poll)) as nudges:
            async for _ in nudges:
                if changed := await self.look():
                    yield changed


async def _nudges(folders: Sequence[Path], poll: float) -> AsyncGenerator[None]:
    yield
    while True:
        there = [folder for folder in folders if await asyncio.to_thread(folder.is_dir)]
        try:
            async with aclosing(_told_by_system(there, poll)) as told:
                async for _ in told:
                    yield
        except (ImportError, OSError, RuntimeError) as error:  # no library, no inotify handles left, a folder is gone
            log.debug("files.polled", seconds=poll, error=str(error))
        await asyncio.sleep(poll)
        yield


async def _told_by_system(folders: Sequence[Path], poll: float) -> AsyncGenerator[None]:
    if not folders:
        return
    import watchfiles  # noqa: PLC0415 - loads a native library that only the daemon needs

    watcher = watchfiles.awatch(*folders, rust_timeout=round(poll * 1000), yield_on_timeout=True)  # pyright: ignore[reportUnknownMemberType]
    async with aclosing(watcher) as seen:
        async for _ in seen:
            yield


def _signatures(watched: Sequence[Watched]) -> list[Signature]:
    return [_signature(each) for each in watched]


def _signature(watched: Watched) -> Signature:
    found: Signature = {}
    seen: set[tuple[int, int]] = set()  # a link may lead back to its own parent
    for folder, below, files in os.walk(watched.folder, followlinks=True):
        here = _status(folder)
        if here is None or (here.st_dev, here.st_ino) in seen:
            below.clear()
            continue
        seen.add((here.st_dev, here.st_ino))
        below[:] = [name for name in below if name not in _IGNORED and not name.startswith(".")]
        for name in files:
            if name.endswith(watched.suffixes):
                status = _status(path := f"{folder}{os.sep}{name}")
                found[path] = (status.st_mtime_ns, status.st_size, status.st_ino) if status else (0, 0, 0)
    return found


def _status(path: str) -> os.stat_result | None:
    try:
        return os.stat(path)  # noqa: PTH116 - os.walk's own strings, perhaps thousands of them
    except OSError:
        return None
