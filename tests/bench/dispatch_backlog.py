"""What a claim of ten tasks costs while the database fills: with finished tasks, behind a capped agent, and with a
snapshot that somebody holds."""

from __future__ import annotations

import asyncio
import statistics
import time
from dataclasses import dataclass
from typing import Final
from uuid import UUID, uuid4

from dispatch_engines import Ours, ours
from dispatch_place import process_ms
from dispatch_tables import Table, number
from dispatch_worker import LIMIT, ended

from cirkelline.state import agents, claims, workers
from cirkelline.state.connection import Conn, Database

SLOTS: Final = 10
HEADER = ("with", "wall ms, median", "server ms, mean", "÷ first")
# Without triggers: how they came to be finished is not what is measured.
FINISHED: Final = """
INSERT INTO runtime.tasks (id, agent_id, task_type, status, payload, result, attempt, sequence, created_at, finished_at)
SELECT gen_random_uuid(), ids[1 + n %% cardinality(ids)], 'task', 'completed', '{"input": "go"}', '{"output": "done"}', 1,
       nextval('runtime.task_sequence'), now(), now()
  FROM (SELECT array_agg(id) AS ids FROM runtime.agents) every, generate_series(1, %s::integer) n
"""
MORE: Final = """
INSERT INTO runtime.tasks (agent_id, task_type, payload, priority)
SELECT (%s::uuid[])[1 + n %% cardinality(%s::uuid[])], 'task', '{"input": "go"}', %s::integer
  FROM generate_series(1, %s::integer) n
"""


@dataclass(slots=True)
class Bench:
    """A connection that claims, what it serves, and what was measured."""

    conn: Conn
    owner: UUID
    served: list[UUID]
    rows: list[tuple[str, ...]]
    first: float | None = None

    async def fill(self, finished: int) -> None:
        """Add tasks that ended long ago."""
        await self.conn.execute("SET session_replication_role = replica")
        await self.conn.execute(FINISHED, [finished])
        await self.conn.execute("RESET session_replication_role")
        await self.conn.execute("VACUUM ANALYZE runtime.tasks")

    async def submit(self, to: list[UUID], amount: int, priority: int = 0) -> None:
        await self.conn.execute(MORE, [to, to, priority, amount])

    async def finish(self, taken: list[claims.Claim]) -> None:
        await claims.finish(self.conn, self.owner, [ended(claim) for claim in taken], state_limit=LIMIT)

    async def measure(self, what: str, turns: int = 60) -> None:
        """Claim so many times, and write the row."""
        wall, pid = [], self.conn.info.backend_pid
        used = 0.0
        for _ in range(turns):
            before, began = process_ms(pid), time.perf_counter()
            taken = await claims.claim(self.conn, self.owner, self.served, slots=SLOTS)
            wall.append((time.perf_counter() - began) * 1000)
            used += process_ms(pid) - before
            if len(taken) != SLOTS:
                raise SystemExit(f"claimed {len(taken)} with {what}")
            await self.finish(taken)
        server = used / turns
        self.first = self.first or server
        self.rows.append((what, number(statistics.median(wall)), number(server), number(server / self.first)))


async def measured(url: str, finished: list[int]) -> list[tuple[str, ...]]:
    """All situations, one after the other in one database."""
    async with Database.open(url) as db, db.connection() as conn, db.connection() as other:
        served = list(await agents.runnable(conn))
        capped, *free = served
        bench = Bench(conn, uuid4(), served, [])
        await workers.register(conn, bench.owner, host="bench", pid=1, release="0", slots=SLOTS, lease=3600.0)
        await bench.submit(free, 6000)
        there = 0
        for amount in finished:
            await bench.fill(amount - there)
            there = amount
            await bench.measure(f"{amount:,} finished tasks")
        await _capped(bench, capped)
        await _snapshot(bench, other, free)
    return bench.rows


async def _capped(bench: Bench, capped: UUID) -> None:
    """A hundred thousand tasks in front of all others, of an agent that may not run another one."""
    await bench.conn.execute("UPDATE runtime.agent_heads SET cap = 1 WHERE agent_id = %s", [capped])
    await bench.submit([capped], 100_000, priority=1)
    await claims.claim(bench.conn, bench.owner, [capped], slots=1)
    await bench.conn.execute("VACUUM ANALYZE runtime.queue")
    await bench.measure("100,000 tasks of a capped agent in front as well")
    await bench.conn.execute("DELETE FROM runtime.tasks WHERE agent_id = %s AND status = 'pending'", [capped])
    await bench.conn.execute("VACUUM ANALYZE runtime.queue")


async def _snapshot(bench: Bench, other: Conn, free: list[UUID]) -> None:
    """A transaction that was left open while twenty thousand tasks ran."""
    async with other.transaction():
        await other.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        await other.execute("SELECT count(*) FROM runtime.agents")
        for _ in range(40):
            await bench.submit(free, 500)
            await bench.finish(await claims.claim(bench.conn, bench.owner, bench.served, slots=500))
        await bench.measure("a snapshot held while 20,000 tasks ran", turns=20)
    await bench.conn.execute("VACUUM runtime.queue, runtime.claims, runtime.tasks")
    await bench.measure("that transaction ended, and autovacuum come by")


def table(url: str, *, finished: list[int], agents: int, command: str) -> Table:
    """Fill a database of its own and measure on the way."""
    engine: Ours = ours()
    with engine.database(url) as own:
        engine.fill(own, 0, agents)
        rows = asyncio.run(measured(own, sorted(finished)))
    title = f"Claiming {SLOTS} tasks of {agents} agents. The remedy for a held snapshot is to end it: \
`idle_in_transaction_session_timeout` does so by itself"
    return Table("backlog", title, HEADER, rows, command)
