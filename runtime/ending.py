"""Ending background work for certain."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from typing import Any


async def end(jobs: Collection[asyncio.Task[Any]], *, again: float = 1.0) -> None:
    """Cancel these and wait until each is over, however it ends.

    Once is not enough before Python 3.12: `asyncio.wait_for`, with which the pool waits for a connection, swallows a
    cancellation that comes together with what it waits for, and a loop that tries again would go on for ever. So they
    are cancelled once more after `again` seconds, which is also the time they have for their own cleaning up.
    """
    waiting = {job for job in jobs if not job.done()}
    while waiting:
        for job in waiting:
            job.cancel()
        _, waiting = await asyncio.wait(waiting, timeout=again)
    for job in jobs:
        if not job.cancelled():
            job.exception()  # looked at, or asyncio complains that nobody did
