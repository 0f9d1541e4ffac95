"""Submitting: when a task runs and in which order, and a key that is one task however often it is given."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
import scene

from cirkelline.state import claims, submitting, tasks, users
from cirkelline.state.connection import Conn, Database
from cirkelline.state.submitting import KeyTaken, NewTask, SubmissionRefused


def new(agent: UUID, **columns: Any) -> NewTask:
    return NewTask(agent_id=agent, **{"payload": {"input": "go"}, **columns})


async def put(conn: Conn, agent: UUID, **columns: Any) -> UUID:
    return (await submitting.submit(conn, new(agent, **columns))).id


async def claimed(conn: Conn, agent: UUID, slots: int = 10) -> list[UUID]:
    owner = await scene.worker(conn)
    return [claim.id for claim in await claims.claim(conn, owner, [agent], slots=slots)]


async def test_higher_priorities_go_first_and_equals_in_their_order(conn: Conn) -> None:
    agent = await scene.agent(conn)
    low, first, second, high = [await put(conn, agent, priority=priority) for priority in (-5, 0, 0, 7)]
    assert [await claimed(conn, agent, 1) for _ in range(4)] == [[high], [first], [second], [low]]


async def test_a_task_waits_for_its_time_by_the_databases_clock(conn: Conn) -> None:
    agent = await scene.agent(conn)
    later = await put(conn, agent, run_at=datetime.now(UTC) + timedelta(hours=1))
    delayed = await put(conn, agent, delay=3600)
    past = await put(conn, agent, run_at=datetime.now(UTC) - timedelta(days=1))
    assert await claimed(conn, agent) == [past]
    assert await scene.one(
        conn, "SELECT run_at - submitted_at BETWEEN '1 h' AND '1 h 1 min' FROM runtime.tasks WHERE id = %s", delayed
    )
    await conn.execute("UPDATE runtime.queue SET run_at = now() - interval '1 s'")
    assert await claimed(conn, agent) == [later, delayed]


async def test_one_key_is_one_task_and_the_first_one_counts(conn: Conn) -> None:
    agent = await scene.agent(conn)
    first = await submitting.submit(conn, new(agent, key="k", priority=3))
    again = await submitting.submit(conn, new(agent, key="k", priority=9))
    assert (first.new, again.new, again.id) == (True, False, first.id)
    assert (await tasks.get(conn, first.id)).priority == 3
    assert await scene.one(conn, "SELECT count(*) FROM runtime.queue") == 1


async def test_a_key_that_asks_for_something_else_is_refused(conn: Conn) -> None:
    agent = await scene.agent(conn)
    user = (await users.ensure(conn, "ivo")).id
    await put(conn, agent, key="k")
    for other in ({"payload": {"input": "stop"}}, {"task_type": "errand"}, {"user_id": user}):
        with pytest.raises(KeyTaken, match="asks for something else"):
            await put(conn, agent, key="k", **other)
    assert await scene.one(conn, "SELECT count(*) FROM runtime.tasks") == 1


async def test_two_agents_may_use_one_key(conn: Conn) -> None:
    one, other = await scene.agent(conn, "one"), await scene.agent(conn, "other")
    assert await put(conn, one, key="k") != await put(conn, other, key="k")


async def test_a_key_is_kept_by_an_ended_task_and_free_when_it_is_removed(conn: Conn) -> None:
    agent = await scene.agent(conn)
    first = await put(conn, agent, key="k")
    await tasks.cancel(conn, first)
    assert await put(conn, agent, key="k") == first
    await conn.execute("DELETE FROM runtime.tasks WHERE id = %s", [first])
    assert await put(conn, agent, key="k") != first


async def test_a_plain_insert_is_held_to_the_key_as_well(conn: Conn) -> None:
    agent = await scene.agent(conn)
    await put(conn, agent, key="k")
    with pytest.raises(psycopg.errors.UniqueViolation):
        await conn.execute("INSERT INTO runtime.tasks (agent_id, key) VALUES (%s, 'k')", [agent])


async def test_fifty_at_once_with_one_key_make_one_task(database_url: str) -> None:
    async with Database.open(database_url, connections=10) as db:
        async with db.connection() as conn:
            agent = await scene.agent(conn)

        async def submit() -> UUID:
            async with db.connection() as conn:
                return await put(conn, agent, key="k")

        ids = await asyncio.gather(*(submit() for _ in range(50)))
        async with db.connection() as conn:
            assert {*ids} == {*await scene.rows(conn, "SELECT task_id FROM runtime.queue")}
    assert len({*ids}) == 1


BAD: list[tuple[dict[str, Any], str]] = [
    ({"key": ""}, "cannot be a task's key"),
    ({"key": "k" * 256}, "1 to 255 characters"),
    ({"key": "a\x00b"}, "cannot be a task's key"),
    ({"priority": 1001}, "from -1000 to 1000"),
    ({"priority": -(2**40)}, "from -1000 to 1000"),
    ({"run_at": datetime(2026, 3, 1)}, "has no zone"),  # noqa: DTZ001 - that is the fault
    ({"run_at": datetime.now(UTC), "delay": 1.0}, "not both"),
]


@pytest.mark.parametrize(("columns", "said"), BAD)
async def test_what_cannot_be_kept_is_refused(conn: Conn, columns: dict[str, Any], said: str) -> None:
    agent = await scene.agent(conn)
    with pytest.raises(SubmissionRefused, match=said):
        await put(conn, agent, **columns)
    assert await scene.rows(conn, "SELECT id FROM runtime.tasks") == []


async def test_a_given_id_is_kept_with_a_key(conn: Conn) -> None:
    agent, identity = await scene.agent(conn), uuid4()
    assert await put(conn, agent, key="k", id=identity) == identity
