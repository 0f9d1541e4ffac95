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

from cirkelline.state import agents, claims, submitting, tasks, workers
from cirkelline.state.claims import Claim, Finish
from cirkelline.state.connection import Conn, Database
from cirkelline.state.submitting import NewTask

NOTE = "n" * 960
LIMIT = 65536
BULK = """
INSERT INTO runtime.tasks (agent_id, task_type, payload)
SELECT %s, 'task', '{"input": "go"}' FROM generate_series(1, 1000)
"""


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


async def only_agent(conn: Conn) -> UUID:
    return next(iter(await agents.runnable(conn)))


async def submit(url: str, pauses: list[float], seconds: float, *, keyed: bool) -> None:
    """Submit a task after each of these pauses, saying in it when that was; `keyed` ones get in line (decision 027)."""
    async with Database.open(url, connections=1) as db, db.connection() as conn:
        agent = await only_agent(conn)
        for number, pause in enumerate(pauses):
            await asyncio.sleep(pause)
            given = {"input": {"at": time.monotonic()}, "seconds": seconds}
            await submitting.submit(conn, NewTask(agent_id=agent, payload=given, key=str(number) if keyed else None))


async def enqueue(url: str, single: int, bulk: int) -> None:
    """Put tasks in line one by one, and then in statements of a thousand."""
    async with Database.open(url, connections=1) as db, db.connection() as conn:
        agent = await only_agent(conn)
        await tasks.submit(conn, agent_id=agent, payload={"input": "go"})
        began = time.monotonic()
        for _ in range(single):
            await tasks.submit(conn, agent_id=agent, payload={"input": "go"})
        one = time.monotonic() - began
        began = time.monotonic()
        for _ in range(0, bulk, 1000):
            await conn.execute(BULK, [agent])
        tell(single=one, bulk=time.monotonic() - began)


def main() -> None:
    given = json.loads(sys.argv[1])
    match given["do"]:
        case "submit":
            asyncio.run(submit(given["url"], given["pauses"], given["seconds"], keyed=given.get("keyed", False)))
        case "enqueue":
            asyncio.run(enqueue(given["url"], given["single"], given["bulk"]))
        case _:
            asyncio.run(drain(given["url"], given["batch"], given["lanes"]))


if __name__ == "__main__":
    main()
