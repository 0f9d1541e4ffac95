"""What is submitted alone in line goes to a worker that has offered to take it, in the same commit, and nothing else does."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
import scene

from cirkelline.configs.errors import CirkellineError
from cirkelline.state import agents, claims, offers, sessions, submitting, tasks, tenant, users, wakeups, workers
from cirkelline.state.claims import Claim
from cirkelline.state.connection import Conn, Database
from cirkelline.state.submitting import NewTask

CHANNEL = "cirkelline_of_this_worker"


async def offered(conn: Conn, *agent_ids: UUID) -> UUID:
    """A worker that has offered to take a task of these agents."""
    owner = await scene.worker(conn)
    assert not await offers.make(conn, owner, CHANNEL, agent_ids)
    return owner


async def submit(conn: Conn, agent: UUID, **columns: Any) -> UUID:
    return (await submitting.submit(conn, NewTask(agent_id=agent, **{"payload": {"input": "go"}, **columns}))).id


async def in_line(conn: Conn) -> list[UUID]:
    return await scene.rows(conn, "SELECT task_id FROM runtime.queue ORDER BY sequence")


async def standing(conn: Conn) -> list[UUID]:
    return await scene.rows(conn, "SELECT worker FROM runtime.offers")


PAYLOADS: dict[str, Any] = {
    "what is usual": {"input": 'Hej på dig, \N{SNOWMAN} "quoted" \\ and \n'},
    "no object": [1, 2.5, None, "x"],
    "a number that no float holds": {"input": 10**400},
    "nothing": None,
    "a nesting deeper than Python reads": "[" * 3000 + "]" * 3000,
}


@pytest.mark.parametrize("what", PAYLOADS)
async def test_a_task_alone_in_line_is_told_as_a_claim_of_it_would_have_been(
    conn: Conn, database_url: str, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = await scene.agent(conn)
    user = (await users.ensure(conn, "anna")).id
    if what.startswith("a nesting"):  # of which Python itself makes no text either
        monkeypatch.setattr(submitting.jsonb, "dumps", lambda value: value)
    async with wakeups.listening(database_url, [CHANNEL]) as listening:
        owner = await offered(conn, agent)
        task = await submit(conn, agent, user_id=user, task_type="kind", payload=PAYLOADS[what])
        assert (await in_line(conn), await standing(conn)) == ([], [])
        assert await claims.held(conn, owner) == [task]
        ((channel, payload),) = await listening.wait(10)
    handed = offers.handed(payload)
    assert (channel, handed and handed[0]) == (CHANNEL, owner)
    await claims.release(conn, owner, [task], reason="to be claimed")
    claim = await scene.claim_one(conn, owner, agent)
    assert handed is not None
    assert [getattr(handed[1], name) for name in Claim.__slots__ if name != "attempt"] == [
        getattr(claim, name) for name in Claim.__slots__ if name != "attempt"
    ]
    assert (handed[1].attempt, claim.attempt) == (1, 2)


async def test_who_was_handed_a_task_finishes_it_as_if_claimed(conn: Conn) -> None:
    agent = await scene.agent(conn)
    owner = await offered(conn, agent)
    task = await tasks.get(conn, await submit(conn, agent))
    assert (task.status, task.worker, task.attempt, task.definition_version) == ("running", owner, 1, 1)
    assert task.started_at is not None
    claim = Claim(task.id, agent, "task", None, None, None, 1, 1)
    (finished,) = await scene.finish(conn, owner, scene.ended(claim))
    assert (finished.status, finished.state_version) == ("completed", 1)


async def capped(conn: Conn) -> UUID:
    return await scene.agent(conn, cap=5)


async def paused(conn: Conn) -> UUID:
    agent = await scene.agent(conn)
    await agents.set_status(conn, agent, "paused")
    return agent


async def behind_a_task_of_another(conn: Conn) -> UUID:
    await scene.submit(conn, await scene.agent(conn, "other"))
    return await scene.agent(conn)


async def behind_a_task_that_is_due_by_now(conn: Conn) -> UUID:
    (task,) = await scene.submit(conn, await scene.agent(conn, "other"))
    await conn.execute("UPDATE runtime.queue SET run_at = now() - interval '1 s' WHERE task_id = %s", [task])
    return await scene.agent(conn)


@pytest.mark.parametrize("of", [capped, paused, behind_a_task_of_another, behind_a_task_that_is_due_by_now])
async def test_what_a_claim_has_to_weigh_gets_in_line(conn: Conn, of: Any) -> None:
    agent = await of(conn)
    owner = await offered(conn, agent)
    task = await submit(conn, agent)
    assert task in await in_line(conn)
    assert await standing(conn) == [owner]


LATER: dict[str, dict[str, Any]] = {"a delay": {"delay": 60.0}, "a text too long to be told": {"payload": "x" * 7000}}


@pytest.mark.parametrize("what", LATER)
async def test_what_cannot_be_handed_over_gets_in_line(conn: Conn, what: str) -> None:
    agent = await scene.agent(conn)
    await offered(conn, agent)
    task = await submit(conn, agent, **LATER[what])
    assert await in_line(conn) == [task]


async def test_a_turn_of_a_conversation_gets_in_line(db: Database, conn: Conn) -> None:
    agent, user = await scene.agent(conn), (await users.ensure(conn, "anna")).id
    await offered(conn, agent)
    async with tenant.tenant(db, user) as door:
        session = await sessions.create(door, agent)
    task = await submit(conn, agent, session_id=session, user_id=user)
    assert await in_line(conn) == [task]


async def test_what_another_program_inserts_gets_in_line_whatever_it_changes_before_it_commits(conn: Conn) -> None:
    agent = await scene.agent(conn)
    await offered(conn, agent)
    inserted = await scene.submit(conn, agent)
    assert await in_line(conn) == inserted


async def test_of_many_submitted_at_once_all_get_in_line(conn: Conn) -> None:
    agent = await scene.agent(conn)
    await offered(conn, agent)
    async with conn.transaction():
        await submitting.submit_many(conn, [NewTask(agent_id=agent, payload={})] * 3)
    assert len(await in_line(conn)) == 3


async def test_what_another_trigger_takes_away_is_not_handed_over(conn: Conn) -> None:
    agent = await scene.agent(conn)
    owner = await offered(conn, agent)
    await conn.execute(
        "CREATE FUNCTION runtime.refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;"
        'CREATE TRIGGER "zzz" BEFORE INSERT ON runtime.tasks FOR EACH ROW EXECUTE FUNCTION runtime.refuse()'
    )
    try:
        with pytest.raises(CirkellineError, match="kept no row"):
            await submit(conn, agent)
    finally:
        await conn.execute("DROP FUNCTION runtime.refuse() CASCADE")
    assert (await standing(conn), await claims.held(conn, owner)) == ([owner], [])


async def test_in_a_transaction_that_goes_on_a_task_gets_in_line(conn: Conn) -> None:
    agent = await scene.agent(conn)
    owner = await offered(conn, agent)
    async with conn.transaction():
        task = await submit(conn, agent)
    assert (await in_line(conn), await standing(conn)) == ([task], [owner])


async def test_where_a_transaction_keeps_one_snapshot_a_task_gets_in_line(conn: Conn) -> None:
    agent = await scene.agent(conn)
    await offered(conn, agent)
    await conn.execute("SET default_transaction_isolation = 'repeatable read'")
    task = await submit(conn, agent)
    await conn.execute("RESET default_transaction_isolation")
    assert await in_line(conn) == [task]


async def test_a_task_with_a_key_gets_in_line_as_it_may_be_there_already(conn: Conn) -> None:
    agent = await scene.agent(conn)
    first = await submit(conn, agent, key="k")
    await tasks.cancel(conn, first)
    owner = await offered(conn, agent)
    assert await submit(conn, agent, key="k") == first
    assert await standing(conn) == [owner]
    other = await submit(conn, agent, key="other")
    assert await in_line(conn) == [other]


async def drains(conn: Conn, owner: UUID) -> None:
    await workers.drain(conn, owner)


async def stands_still(conn: Conn, owner: UUID) -> None:
    await conn.execute("UPDATE runtime.workers SET seen = now() - lease * 0.6 WHERE id = %s", [owner])


async def leaves(conn: Conn, owner: UUID) -> None:
    await workers.deregister(conn, owner)


async def takes_it_back(conn: Conn, owner: UUID) -> None:
    assert await offers.make(conn, owner, CHANNEL, ())


async def is_there_for_others(conn: Conn, owner: UUID) -> None:
    assert await offers.make(conn, owner, CHANNEL, [uuid4()])


@pytest.mark.parametrize("then", [drains, stands_still, leaves, takes_it_back, is_there_for_others])
async def test_a_worker_that_would_not_run_it_is_not_handed_a_task(conn: Conn, then: Any) -> None:
    agent = await scene.agent(conn)
    await then(conn, await offered(conn, agent))
    task = await submit(conn, agent)
    assert await in_line(conn) == [task]


async def test_what_was_handed_to_a_worker_that_died_is_taken_over(conn: Conn) -> None:
    agent = await scene.agent(conn)
    dead = await offered(conn, agent)
    task = await submit(conn, agent)
    await scene.die(conn, dead)
    assert await claims.take_over(conn) == 1
    assert await in_line(conn) == [task]


async def test_of_many_who_submit_at_the_same_time_one_takes_an_offer_and_nobody_waits(
    conn: Conn,
) -> None:
    agent = await scene.agent(conn)
    owner = await offered(conn, agent)
    async with await scene.another(conn) as other:
        async with other.transaction():  # somebody else is about to commit what takes it
            await other.execute("SELECT FROM runtime.offers FOR UPDATE")
            async with asyncio.timeout(10):
                first = await submit(conn, agent)
                assert not await offers.make(conn, owner, CHANNEL, [agent])  # nor does the worker wait for them
        assert await in_line(conn) == [first]
        assert await standing(conn) == [owner, owner]
        await conn.execute("DELETE FROM runtime.tasks")
        ids = await asyncio.gather(*(submit(each, agent) for each in (conn, other) for _ in range(5)))
    handed = await claims.held(conn, owner)
    assert 1 <= len(handed) <= 2
    assert sorted([*handed, *await in_line(conn)]) == sorted(ids)


async def test_only_who_owns_the_tables_may_know_where_tasks_are_told(conn: Conn) -> None:
    await offered(conn, await scene.agent(conn))
    await conn.execute("SET ROLE cirkelline_tenant")
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        await conn.execute("SELECT channel FROM runtime.offers")
    await conn.execute("RESET ROLE")
    assert offers.own_channel() != offers.own_channel()


@pytest.mark.parametrize("payload", ["", "nonsense", "[]", "{}", '{"id": 1, "worker": 2}'])
def test_what_somebody_else_tells_on_the_channel_is_no_task(payload: str) -> None:
    assert offers.handed(payload) is None
