"""A worker process of ours for the dispatch benchmarks: the real claims and finishes around runs that do nothing.

Each lane is a connection that claims a batch and then, in one round trip, finishes it and claims the next. A finish writes
the result, the status and a snapshot of 1 KB. Started by `dispatch.py`; it talks JSON lines over its standard streams.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import Any
from uuid import UUID, uuid4

from cirkelline.state import agents, claims, workers
from cirkelline.state.claims import Claim, Finish
from cirkelline.state.connection import Database

NOTE = "n" * 960
LIMIT = 65536


def tell(**facts: Any) -> None:
    print(json.dumps(facts), flush=True)  # noqa: T201 - it is read by the benchmark


def told() -> str:
    return sys.stdin.readline().strip()


def ended(claim: Claim) -> str:
    """The end of a run that did nothing but leave a kilobyte behind."""
    operations = [{"op": "set", "key": "note", "value": NOTE}, {"op": "increment", "key": "runs", "value": 1}]
    return Finish(claim.id, claim.attempt, "completed", {"output": "done"}, operations=operations).as_json()


async def lane(db: Database, owner: UUID, served: list[UUID], batch: int, marks: list[tuple[float, int]]) -> None:
    """Claim and finish until nothing is left in line."""
    async with db.connection() as conn:
        claimed = await claims.claim(conn, owner, served, slots=batch)
        while claimed:
            runs = [ended(claim) for claim in claimed]
            turned = await claims.finish_and_claim(conn, owner, runs, served, slots=batch, state_limit=LIMIT)
            marks.append((time.monotonic(), len(turned.finished)))
            claimed = turned.claimed


async def drain(url: str, batch: int, lanes: int) -> None:
    """Drain what is in line, and tell when what was finished."""
    async with Database.open(url, connections=lanes) as db:
        owner = uuid4()
        async with db.connection() as conn:
            served = list(await agents.runnable(conn))
            await workers.register(conn, owner, host="bench", pid=1, release="0", slots=batch * lanes, lease=600.0)
        await warm(db, lanes)
        tell(ready=True)
        told()
        marks: list[tuple[float, int]] = []
        began, cpu = time.monotonic(), time.process_time()
        async with asyncio.TaskGroup() as group:
            for n in range(lanes):
                group.create_task(lane(db, owner, served[n::lanes], batch, marks))
        tell(began=began, marks=marks, cpu=(time.process_time() - cpu) * 1000)
        told()


async def warm(db: Database, lanes: int) -> None:
    """Open every connection of the pool."""
    barrier = asyncio.Barrier(lanes)

    async def borrow() -> None:
        async with db.connection():
            await barrier.wait()

    async with asyncio.TaskGroup() as group:
        for _ in range(lanes):
            group.create_task(borrow())


if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    asyncio.run(drain(given["url"], given["batch"], given["lanes"]))
