"""The hot statements look rows up: what a claim and a finish read does not grow with the tables."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from uuid import UUID, uuid4

import psycopg
import pytest
import scene
from psycopg import conninfo, sql

from cirkelline.state import claims, snapshots, workers
from cirkelline.state.connection import Conn, connect

AGENTS = 100
# Rows read, whichever way; our own transaction has to end before the server counts them.
READ = """
SELECT relname, coalesce(seq_tup_read, 0) + coalesce(idx_tup_fetch, 0) FROM pg_stat_user_tables
 WHERE schemaname = 'runtime' AND relname IN ('tasks', 'queue', 'agent_states', 'claims', 'messages', 'journal')
"""
SCANNED = "SELECT relname, seq_scan FROM pg_stat_user_tables WHERE schemaname = 'runtime'"
HOT = {"tasks", "queue", "agent_states", "claims", "messages", "journal", "agents", "agent_heads"}

FILL = """
SET session_replication_role = replica;  -- no triggers: they are not what is measured
INSERT INTO runtime.agents (id, name, type, definition_version)
SELECT gen_random_uuid(), 'a' || n, 't', 1 FROM generate_series(1, 100) n;
INSERT INTO runtime.agent_heads (agent_id) SELECT id FROM runtime.agents WHERE handle IS NULL;
INSERT INTO runtime.tasks (id, agent_id, status, payload, attempt, sequence, created_at)
SELECT gen_random_uuid(), ids[1 + n % 100], CASE WHEN n <= 20000 THEN 'completed' ELSE 'pending' END,
       '{"input": "go"}', 0, nextval('runtime.task_sequence'), now()
  FROM (SELECT array_agg(id) AS ids FROM runtime.agents WHERE handle IS NULL) a, generate_series(1, 35000) n;
INSERT INTO runtime.queue (task_id, agent_id, priority, sequence)
SELECT id, agent_id, 0, sequence FROM runtime.tasks WHERE status = 'pending';
INSERT INTO runtime.agent_states (id, agent_id, state, version)
SELECT gen_random_uuid(), id, '{"work": {}, "stats": {}}', n FROM runtime.agents, generate_series(1, 100) n
 WHERE handle IS NULL;
"""


@pytest.fixture(scope="module")
def crowded(server_url: str, template: str) -> Iterator[str]:
    """Where 20,000 tasks have ended and 15,000 stand in line; once a connection had made its plans on empty tables."""
    name = f"cirkelline_crowded_{uuid4().hex[:12]}"
    with psycopg.connect(server_url, autocommit=True) as server:
        server.execute(sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(sql.Identifier(name), sql.Identifier(template)))
        try:
            yield conninfo.make_conninfo(server_url, dbname=name)
        finally:
            server.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


async def turn(conn: Conn, owner: UUID, agent_ids: list[UUID], slots: int) -> None:
    taken = await claims.claim(conn, owner, agent_ids, slots=slots)
    increment = [{"op": "increment", "key": "n", "value": 1}]
    await scene.finish(conn, owner, *(scene.ended(claim, operations=increment) for claim in taken))


async def counted(conn: Conn, statement: str) -> dict[str, int]:
    await conn.execute("SELECT pg_stat_force_next_flush()")
    await conn.execute("SELECT pg_stat_clear_snapshot()")
    return dict(await scene.rows(conn, statement))


async def fill(url: str) -> None:
    # On a connection of its own: the one that is measured must keep its plans from the days of empty tables.
    conn = await connect(url)
    async with conn:
        await conn.execute(FILL)


def test_a_claim_and_a_finish_read_what_they_touch_and_no_more(crowded: str) -> None:
    asyncio.run(_measure(crowded))


async def _measure(url: str) -> None:
    conn = await connect(url)
    async with conn:
        owner = await scene.worker(conn)
        lone = await scene.agent(conn)
        for _ in range(8):  # more often than PostgreSQL plans a statement anew before it keeps the plan
            await turn(conn, owner, [lone], 10)
        await fill(url)
        made = await scene.rows(conn, "SELECT id FROM runtime.agents WHERE handle IS NULL")
        await turn(conn, owner, made, 10)
        before, scanned = await counted(conn, READ), await counted(conn, SCANNED)
        turns, slots = 10, 10
        for _ in range(turns):
            await turn(conn, owner, made, slots)
        after, scanned_after = await counted(conn, READ), await counted(conn, SCANNED)
        assert {table for table in HOT if scanned_after[table] != scanned[table]} == set()
        # Some dozen rows for each slot; a plan from the days of empty tables would read them all.
        each = {table: (after[table] - before[table]) / (turns * slots) for table in after}
        assert max(each.values()) < 20, each
        assert await scene.one(conn, "SELECT count(*) FROM runtime.tasks WHERE state_version = 101") >= 90


BLOCK = """
SET session_replication_role = replica;
WITH made AS (INSERT INTO runtime.agents (id, name, type, definition_version)
              VALUES (gen_random_uuid(), 'blocked', 't', 1) RETURNING id),
     headed AS (INSERT INTO runtime.agent_heads (agent_id, cap) SELECT id, 0 FROM made),
     tasks AS (INSERT INTO runtime.tasks (id, agent_id, status, payload, attempt, sequence)
               SELECT gen_random_uuid(), id, 'pending', '{}', 0, nextval('runtime.task_sequence')
                 FROM made, generate_series(1, 20000) RETURNING id, agent_id, sequence)
INSERT INTO runtime.queue (task_id, agent_id, priority, sequence) SELECT id, agent_id, 9, sequence FROM tasks;
"""


def test_a_claim_past_twenty_thousand_tasks_of_a_capped_agent_reads_little(crowded: str) -> None:
    asyncio.run(_blocked(crowded))


async def _blocked(url: str) -> None:
    conn = await connect(url)
    async with conn:
        if not await scene.one(conn, "SELECT count(*) FROM runtime.queue"):
            await fill(url)
        owner = await scene.worker(conn)
        async with await connect(url) as other:
            await other.execute(BLOCK.encode())
        every = await scene.rows(conn, "SELECT id FROM runtime.agents WHERE handle IS NULL ORDER BY name = 'blocked'")
        before = await counted(conn, READ)
        turns, slots = 10, 10
        for _ in range(turns):
            taken = await claims.claim(conn, owner, every, slots=slots)
            assert len(taken) == slots
            assert every[-1] not in {claim.agent_id for claim in taken}
        after = await counted(conn, READ)
        # Of the blocked line the first few dozen rows; of the others' the first, and some more of the twelve that begin best.
        assert (after["queue"] - before["queue"]) / (turns * slots) < 40
        await conn.execute("DELETE FROM runtime.queue WHERE agent_id = %s", [every[-1]])
        await workers.deregister(conn, owner)


def test_what_workers_ask_at_every_poll_reads_little_too(crowded: str) -> None:
    asyncio.run(_poll(crowded))


async def _poll(url: str) -> None:
    conn = await connect(url)
    async with conn:
        if not await scene.one(conn, "SELECT count(*) FROM runtime.queue"):
            await fill(url)
        await conn.execute("ANALYZE")
        owner = await scene.worker(conn)
        agent = await scene.one(conn, "SELECT id FROM runtime.agents LIMIT 1")
        before = await counted(conn, READ)
        await claims.take_over(conn)
        await snapshots.latest(conn, agent)
        await workers.find(conn)
        await workers.set_waiting(conn, owner, waiting=True)
        after = await counted(conn, READ)
        assert sum(after.values()) - sum(before.values()) < 200
