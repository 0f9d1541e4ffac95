"""Removing what is old, batch by batch, so that nobody who works notices."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

import structlog

from cirkelline.configs.settings import Settings
from cirkelline.runtime.patience import first_line
from cirkelline.state import retention
from cirkelline.state.connection import Database, QueryError
from cirkelline.state.retention import Ages, Walked

BATCH: Final = 500
EVERY: Final = 1800.0
"""Seconds, about, between two looks for what is older than it is kept."""
_DRY_BATCH: Final = 2_147_483_647
_BREATH: Final = 0.05  # s between two batches, for those who work

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Removed:
    """What was removed, or would be."""

    tasks: int
    states: int
    runs: int


def ages(settings: Settings) -> Ages:
    """Return how long things are kept by these settings, in which 0 means for ever."""
    return Ages(
        completed=_days(settings.keep_completed),
        failed=_days(settings.keep_failed),
        states=_days(settings.keep_states),
        versions=settings.keep_versions or None,
        runs=_days(settings.keep_runs),
    )


def _days(number: int) -> timedelta | None:
    return timedelta(days=number) if number else None


async def sweep(db: Database, kept: Ages, *, dry: bool = False, batch: int = BATCH) -> Removed:
    """Remove everything that is older than it is kept, unless `dry`; return how much."""
    tasks = await _tasks(db, kept, dry=dry, batch=batch)
    states = await _states(db, kept, dry=dry, batch=batch)
    runs = await _runs(db, kept, dry=dry, batch=batch)  # last: theirs may be among the tasks that have just gone
    return Removed(tasks, states, runs)


async def keep_swept(db: Database, settings: Settings) -> None:
    """Remove what is old now and then, until cancelled; of several workers one does it at a time."""
    while True:
        await asyncio.sleep(EVERY * random.uniform(0.5, 1.5))  # noqa: S311 - jitter
        try:
            removed = await sweep(db, ages(settings))
        except QueryError as error:
            log.warning("old.not_removed", error=first_line(error))
        else:
            if removed.tasks or removed.states or removed.runs:
                log.info("old.removed", tasks=removed.tasks, states=removed.states, runs=removed.runs)


async def _tasks(db: Database, kept: Ages, *, dry: bool, batch: int) -> int:
    removed, place = 0, None
    while True:
        place = await _walk(db, kept, place, dry=dry, batch=batch)
        removed += place.removed
        if not place.seen:
            return removed
        await asyncio.sleep(_BREATH if place.removed and not dry else 0)


async def _walk(db: Database, kept: Ages, place: Walked | None, *, dry: bool, batch: int) -> Walked:
    async with db.connection() as conn:
        return await retention.remove_tasks(conn, kept, place, batch=batch, dry=dry)


async def _states(db: Database, kept: Ages, *, dry: bool, batch: int) -> int:
    if kept.states is None and kept.versions is None:
        return 0
    async with db.connection() as conn:
        agents = await retention.agents(conn)
    removed = 0
    for agent in agents:
        more = True
        while more:
            async with db.connection() as conn:
                found = await retention.remove_states(conn, agent, kept, batch=_DRY_BATCH if dry else batch, dry=dry)
            removed += found
            more = found == batch and not dry
    return removed


async def _runs(db: Database, kept: Ages, *, dry: bool, batch: int) -> int:
    removed, more = 0, kept.runs is not None
    while more:
        async with db.connection() as conn:
            found = await retention.remove_runs(conn, kept, batch=_DRY_BATCH if dry else batch, dry=dry)
        removed += found
        more = found == batch and not dry
        await asyncio.sleep(_BREATH if more else 0)
    return removed
