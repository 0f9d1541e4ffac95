"""Runs of memory_optimization that nobody typed: for whom much is new, and by the clock for whoever asked for it.

Both go through `begin`, where a user's run waits for no other: while one has not ended, no second one is put in line.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Mapping
from typing import Any, Final
from uuid import UUID

import structlog

from cirkelline.configs import scalars
from cirkelline.configs.errors import CirkellineError, UsageError
from cirkelline.configs.settings import Settings
from cirkelline.runtime.patience import first_line
from cirkelline.state import optimizing, tasks
from cirkelline.state import workflows as records
from cirkelline.state.connection import Conn, Database, QueryError
from cirkelline.state.tasks import TaskStatus

LABEL: Final = "memory_optimization"
EVERY: Final = 20.0
"""Seconds, about, between two looks for users for whom much is new."""
_LATE: Final = 1000  # ids: a memory may be seen after one of a higher id, which was written in a shorter transaction

log = structlog.get_logger(__name__)


class RunUnderWay(UsageError):
    """A run goes through a user's memories, and a second one would have to fail."""


class NotReadable(UsageError):
    """What a schedule gives to a run is not what a run takes."""


def given(model: str | None) -> dict[str, Any]:
    """Return the input of a run with this model."""
    return {"model": model} if model else {}


def read(text: str) -> Mapping[str, Any]:
    """Return the input of a run as a schedule keeps it. Raises: NotReadable."""
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if not scalars.is_mapping(found):
        raise NotReadable(f"{text[:80]!r} is no input of {LABEL}: `cirkelline memories optimize --every …` writes one")
    return {str(key): value for key, value in found.items()}


async def begin(conn: Conn, user_id: UUID, agent_id: UUID, what: Mapping[str, Any], *, least: int) -> UUID | None:
    """Put a run in line for a user with at least so many new memories; None unless that can be.

    It cannot while another one has not ended, for a user who is switched off, and for one who was deleted.
    """
    return await optimizing.begin(conn, user_id, agent_id=agent_id, given=what, least=least)


async def make_way(db: Database, user_id: UUID) -> list[UUID]:
    """Cancel what only waits in line for a user, as a run that somebody asked for does its work; return those runs.

    Raises: RunUnderWay, and then nothing is cancelled.
    """
    agent_id = await records.ensure(db, LABEL)
    async with db.transaction() as conn:
        there = await optimizing.in_line(conn, user_id, agent_id)
        for run, waits in there:
            # Asked to end, and not cancelled at once, is what a worker has taken up meanwhile.
            if not waits or await tasks.cancel(conn, run) != TaskStatus.CANCELLED:
                short = str(run)[:8]
                raise RunUnderWay(
                    f"run {short} goes through these memories already: wait for its end (`cirkelline tasks wait {short}`)"
                )
        return [run for run, _ in there]


async def keep_begun(db: Database, settings: Settings) -> None:
    """Begin runs for users who have passed the threshold, until cancelled; any number of workers may do it at once."""
    since = 0
    while True:
        try:
            since = await look(db, after=settings.optimize_after, model=settings.optimize_model, since=since)
        except (QueryError, CirkellineError) as error:
            log.warning("memory.rounds_failed", error=first_line(error))
        await asyncio.sleep(EVERY * random.uniform(0.8, 1.2))  # noqa: S311 - jitter


async def look(db: Database, *, after: int, model: str | None = None, since: int = 0) -> int:
    """Begin a run for everybody with at least `after` new memories, one of them with an id over `since`.

    Return the id over which the next look has to begin.
    """
    async with db.connection() as conn:
        highest = await optimizing.highest(conn)
        if highest <= since:
            return since
        due = await optimizing.due(conn, least=after, since=max(since - _LATE, 0))
    waits = False
    for each in due:
        agent_id = await records.ensure(db, LABEL)
        async with db.transaction() as conn:
            run = await begin(conn, each.user_id, agent_id, given(model), least=after)
        waits = waits or run is None
        if run is not None:
            log.info("memory.optimization_begun", user=each.user_id, new=each.new, task_id=run)
    return since if waits else highest
