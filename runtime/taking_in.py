"""Making searchable what other programs stored: in small batches, beside everything else a worker does."""

from __future__ import annotations

import asyncio
import random
import time
from typing import Final

import structlog

from cirkelline.runtime.patience import first_line
from cirkelline.state import backfill
from cirkelline.state.connection import Database, QueryError

_BATCH: Final = (
    200  # documents and chunks: a fifth of a second's work, and as long is what somebody may have to wait for
)
_LOOK_AGAIN: Final = 60.0  # s: what a trigger could not take in is rare, and seldom in a hurry

log = structlog.get_logger(__name__)


async def take_in(db: Database, *, look_again: float = _LOOK_AGAIN) -> None:
    """Take in what remains, then look by now and then; until cancelled. Several workers may do it at once."""
    left: int | None = None
    while True:
        began, before = time.monotonic(), left
        try:
            async with db.connection() as conn:
                left = await backfill.backfill(conn, _BATCH)
        except QueryError as error:
            log.warning("knowledge.not_taken_in", error=first_line(error), seconds=look_again)
            left = None
        if before and left == 0:
            log.info("knowledge.taken_in")
        # At most half of the time; and no hurry where others are just writing what remains.
        busy = left is not None and left > 0 and (left != before or left >= backfill.COUNTED)
        pause = time.monotonic() - began if busy else look_again * random.uniform(0.8, 1.2)  # noqa: S311 - jitter
        await asyncio.sleep(pause)
