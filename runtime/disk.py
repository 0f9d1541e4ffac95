"""Whether there is room on disk to work: a full one breaks the database for everybody, so a worker stops in time."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import structlog

from cirkelline.configs.settings import Settings
from cirkelline.state import embedded

log = structlog.get_logger(__name__)

_MEGABYTE: Final = 1_000_000
_UNKNOWN: Final = 10**12


@dataclass(slots=True)
class DiskGuard:
    """Knows since its last `look` whether less than `least` megabytes are free in one of these folders."""

    folders: Sequence[Path]
    least: int
    is_low: bool = False

    async def look(self) -> bool:
        """Look again, and say what has changed; return whether anything has."""
        if not self.least:
            return False
        path, free = await asyncio.to_thread(_tightest, self.folders)
        before, self.is_low = self.is_low, free < self.least
        if self.is_low and not before:
            log.warning(
                "worker.disk_low", folder=str(path), free_mb=free, wanted_mb=self.least, instead="it claims nothing"
            )
        elif before and not self.is_low:
            log.info("worker.disk_enough", free_mb=free)
        return before != self.is_low


def guard(settings: Settings) -> DiskGuard:
    """Return the guard of a worker with these settings: over its home, and over the embedded server's data."""
    data = [embedded.status(settings.home).folder] if settings.database_url is None else []
    return DiskGuard([settings.home, *data], settings.free_disk)


def _tightest(folders: Sequence[Path]) -> tuple[Path, int]:
    return min(((folder, free_megabytes(folder)) for folder in folders), key=lambda found: found[1])


def free_megabytes(folder: Path) -> int:
    """Return what is free where a folder is or will be; as much as there can be where nobody can say."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    try:
        return shutil.disk_usage(folder).free // _MEGABYTE
    except OSError:
        return _UNKNOWN
