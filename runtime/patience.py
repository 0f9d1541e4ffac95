"""Trying again while the server is away: a restart of PostgreSQL is a pause for a worker, not a failure."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from typing import Final, TypeVar

import structlog

from cirkelline.state.connection import QueryError, is_away

_FIRST_PAUSE: Final = 0.1
_LONGEST_PAUSE: Final = 2.0

log = structlog.get_logger(__name__)

Result = TypeVar("Result")


def pauses() -> Iterator[float]:
    """Yield the seconds to wait between attempts: growing, and never the same for two workers."""
    pause = _FIRST_PAUSE
    while True:
        yield pause * random.uniform(0.8, 1.2)  # noqa: S311 - jitter
        pause = min(_LONGEST_PAUSE, pause * 2)


async def until_answered(action: Callable[[], Awaitable[Result]], what: str) -> Result:
    """Return what `action` gives, tried again with growing pauses while the server is away.

    Raises: QueryError for what the server refuses.
    """
    for pause in pauses():
        try:
            return await action()
        except QueryError as error:
            if not is_away(error):
                raise
            log.warning("database.away", waiting_to=what, error=first_line(error), seconds=round(pause, 1))
        await asyncio.sleep(pause)
    raise AssertionError  # the pauses never end


async def unless_stopped(action: Callable[[], Awaitable[Result]], what: str, stopping: asyncio.Event) -> Result | None:
    """Return what the database answers a worker, asked again until it does; None when that was stopped meanwhile."""
    waits = pauses()
    while not stopping.is_set():
        try:
            return await action()
        except QueryError as error:
            pause = next(waits)
            log.warning("worker.stuck", waiting_to=what, error=first_line(error), seconds=round(pause, 1))
            await wait_briefly(stopping, pause)
    return None


@contextlib.asynccontextmanager
async def on_the_way_out(seconds: float) -> AsyncGenerator[None]:
    """Try something for so long: where the server is away, the lapsing lease says the same a little later."""
    try:
        async with asyncio.timeout(seconds):
            yield
    except (QueryError, TimeoutError) as error:
        log.warning("worker.left_without_a_word", error=first_line(error))


async def wait_briefly(event: asyncio.Event, seconds: float) -> None:
    """Return when an event is set, or so many seconds have passed."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()


def first_line(error: BaseException) -> str:
    """Return the first line of what an error says: PostgreSQL's own sentence, without its context."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
