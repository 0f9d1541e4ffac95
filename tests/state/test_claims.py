"""Claiming: each task once, the best first, and never more than may run."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import AsyncExitStack
from uuid import UUID, uuid4

import pytest
import scene

from cirkelline.state import agents, claims, tasks, tenant, users, wakeups, workers
from cirkelline.state import sessions as conversations
from cirkelline.state.connection import Conn, Database, connect


async def claimed_ids(conn: Conn, owner: UUID, agent_ids: list[UUID], slots: int = 100) -> list[UUID]:
    return [claim.id for claim in await claims.claim(conn, owner, agent_ids, slots=slots)]


async def test_a_claim_says_all_that_a_run_needs(conn: Conn) -> None:
    agent = await scene.agent(conn)
    owner = await scene.worker(conn)
    task = await tasks.submit(conn, agent_id=agent, payload={"input": "hi", "n": [1, None]}, task_type="errand")
    (claim,) = await claims.claim(conn, owner, [agent], slots=5)
    assert claim == claims.Claim(task, agent, "errand", {"input": "hi", "n": [1, None]}, None, None, 1, 1)
    row = await tasks.get(conn, task)
    assert (row.status, row.worker, row.attempt, row.started_at is not None) == ("running", owner, 1, True)


async def test_a_claimed_task_is_in_line_no_more(conn: Conn) -> None:
    agent, owner = await scene.agent(conn), await scene.worker(conn)
    (task,) = await scene.submit(conn, agent)
    assert await scene.rows(conn, "SELECT task_id FROM runtime.queue") == [task]
    await scene.claim_one(conn, owner, agent)
    assert await scene.rows(conn, "SELECT task_id FROM runtime.queue") == []
    assert await scene.rows(conn, "SELECT task_id, worker, attempt FROM runtime.claims") == [(task, owner, 1)]


async def test_exactly_as_many_as_there_are_slots(conn: Conn) -> None:
    agent, owner = await scene.agent(conn), await scene.worker(conn)
    submitted = await scene.submit(conn, agent, 7)
    assert await claimed_ids(conn, owner, [agent], slots=3) == submitted[:3]
    assert await claimed_ids(conn, owner, [agent], slots=0) == []
    assert await claimed_ids(conn, owner, [agent], slots=3) == submitted[3:6]


async def test_only_the_agents_that_the_worker_names(conn: Conn) -> None:
    mine, other = await scene.agent(conn, "mine"), await scene.agent(conn, "other")
    owner = await scene.worker(conn)
    await scene.submit(conn, other, 200)  # more than a look at the head of the line goes over
    (task,) = await scene.submit(conn, mine)
    assert await claimed_ids(conn, owner, [mine]) == [task]
    assert await claimed_ids(conn, owner, []) == []


async def test_every_task_is_claimed_once_by_twelve_claimers_at_once(database_url: str) -> None:
    async with Database.open(database_url, connections=12) as db:
        async with db.connection() as conn:
            agent_ids = [await scene.agent(conn, f"a{n}") for n in range(5)]
            submitted = {task for agent in agent_ids for task in await scene.submit(conn, agent, 40)}
        won: list[UUID] = []

        async def claimer() -> None:
            async with db.connection() as conn:
                owner = await scene.worker(conn)
                while taken := await claimed_ids(conn, owner, agent_ids, slots=7):
                    won.extend(taken)

        async with asyncio.TaskGroup() as group:
            for _ in range(12):
                group.create_task(claimer())
    assert Counter(won) == Counter(submitted)


async def test_a_cap_holds_while_four_workers_claim_and_finish(database_url: str) -> None:
    cap, amount = 2, 40
    async with Database.open(database_url, connections=5) as db:
        async with db.connection() as conn:
            agent, free = await scene.agent(conn, "capped", cap=cap), await scene.agent(conn, "free")
            await scene.submit(conn, agent, amount)
            await scene.submit(conn, free, amount)
        running: set[UUID] = set()
        most, done = 0, 0

        async def work() -> None:
            nonlocal most, done
            async with db.connection() as conn:
                owner = await scene.worker(conn)
                while done < 2 * amount:
                    taken = await claims.claim(conn, owner, [agent, free], slots=3)
                    running.update(claim.id for claim in taken if claim.agent_id == agent)
                    most = max(most, len(running))
                    await asyncio.sleep(0)  # the others' turn, with these tasks running
                    running.difference_update(claim.id for claim in taken)
                    finished = await scene.finish(conn, owner, *map(scene.ended, taken))
                    done += len(finished)

        async with asyncio.TaskGroup() as group:
            for _ in range(4):
                group.create_task(work())
        async with db.connection() as conn:
            assert await scene.versions(conn, agent) == list(range(1, amount + 1))
    assert most == cap


async def test_a_claim_that_is_not_committed_yet_counts_towards_the_cap(conn: Conn) -> None:
    agent, owner, other = await scene.agent(conn, cap=1), await scene.worker(conn), await scene.worker(conn)
    (waiting,) = await scene.submit(conn, agent)
    async with await scene.another(conn) as slow:
        async with slow.transaction():
            await slow.execute("INSERT INTO runtime.tasks (agent_id, priority) VALUES (%s, 9)", [agent])
            (urgent,) = await claims.claim(slow, owner, [agent], slots=1)
            # Neither that task nor its claim can be seen from here.
            assert await claimed_ids(conn, other, [agent]) == []
        assert await claimed_ids(conn, other, [agent]) == []
        await scene.finish(slow, owner, scene.ended(urgent))
    assert await claimed_ids(conn, other, [agent]) == [waiting]


async def test_a_capped_agents_backlog_does_not_hold_up_the_others(conn: Conn) -> None:
    capped, free = await scene.agent(conn, "capped", cap=1), await scene.agent(conn, "free")
    owner = await scene.worker(conn)
    first, *_ = await scene.submit(conn, capped, 150)
    behind = await scene.submit(conn, free, 3)
    assert await claimed_ids(conn, owner, [capped, free], slots=5) == [first, *behind]


async def test_a_cap_of_zero_lets_nothing_run(conn: Conn) -> None:
    agent, owner = await scene.agent(conn, cap=0), await scene.worker(conn)
    await scene.submit(conn, agent)
    assert await claimed_ids(conn, owner, [agent]) == []


async def test_higher_priority_first_then_in_the_order_submitted(conn: Conn) -> None:
    one, two = await scene.agent(conn, "one"), await scene.agent(conn, "two")
    owner = await scene.worker(conn)
    low, urgent, also, plain = [
        (
            await scene.rows(
                conn, "INSERT INTO runtime.tasks (agent_id, priority) VALUES (%s, %s) RETURNING id", *values
            )
        )[0]
        for values in ((one, -1), (two, 9), (two, 9), (one, None))
    ]
    order = [(await claimed_ids(conn, owner, [one, two], slots=1))[0] for _ in range(4)]
    assert order == [urgent, also, plain, low]


async def test_a_raised_priority_moves_a_task_that_is_already_in_line(conn: Conn) -> None:
    agent, owner = await scene.agent(conn), await scene.worker(conn)
    _, second = await scene.submit(conn, agent, 2)
    await conn.execute("UPDATE runtime.tasks SET priority = 1 WHERE id = %s", [second])
    assert await claimed_ids(conn, owner, [agent], slots=1) == [second]


async def test_a_task_whose_time_has_not_come_is_not_claimed_and_is_once_it_has(conn: Conn) -> None:
    agent, owner = await scene.agent(conn), await scene.worker(conn)
    insert = "INSERT INTO runtime.tasks (agent_id, run_at) VALUES (%s, now() + %s * interval '1 hour') RETURNING id"
    later, past = await scene.one(conn, insert, agent, 1), await scene.one(conn, insert, agent, -1)
    assert await claimed_ids(conn, owner, [agent]) == [past]
    await conn.execute("UPDATE runtime.queue SET run_at = now() - interval '1 second'")  # an hour goes by
    assert await claimed_ids(conn, owner, [agent]) == [later]


async def test_ten_thousand_tasks_of_tomorrow_are_not_looked_at_today(conn: Conn) -> None:
    agent, owner = await scene.agent(conn), await scene.worker(conn)
    await conn.execute(
        "INSERT INTO runtime.tasks (agent_id, run_at) SELECT %s, now() + interval '1 day' FROM generate_series(1, 1000)",
        [agent],
    )
    (today,) = await scene.submit(conn, agent)
    assert await claimed_ids(conn, owner, [agent]) == [today]


@pytest.mark.parametrize("stopped", ["paused", "retired"])
async def test_a_stopped_agent_gets_nothing_until_it_goes_on(conn: Conn, stopped: str) -> None:
    agent, owner = await scene.agent(conn), await scene.worker(conn)
    (task,) = await scene.submit(conn, agent)
    await agents.set_status(conn, agent, stopped)
    assert await claimed_ids(conn, owner, [agent]) == []
    await agents.set_status(conn, agent, "idle")
    assert await claimed_ids(conn, owner, [agent]) == [task]


@pytest.mark.parametrize("theirs", ["busy", "active", None])
async def test_a_status_that_is_not_ours_stops_nothing(conn: Conn, theirs: str | None) -> None:
    agent, owner = await scene.agent(conn), await scene.worker(conn)
    await conn.execute("UPDATE runtime.agents SET status = %s", [theirs])
    (task,) = await scene.submit(conn, agent)
    assert await claimed_ids(conn, owner, [agent]) == [task]
    assert list(await agents.runnable(conn)) == [agent]


async def test_an_agent_that_nobody_checked_gets_nothing(conn: Conn) -> None:
    agent, owner = await scene.agent(conn), await scene.worker(conn)
    await scene.submit(conn, agent)
    await conn.execute("UPDATE runtime.agents SET config = '{}'")
    assert await claimed_ids(conn, owner, [agent]) == []


async def test_a_task_keeps_the_definition_it_first_started_with(conn: Conn) -> None:
    agent, owner = await scene.agent(conn), await scene.worker(conn)
    await scene.submit(conn, agent, 2)
    first = await scene.claim_one(conn, owner, agent)
    await claims.release(conn, owner, [first.id], reason="later")
    async with conn.transaction():
        await agents.update(conn, agent, scene.definition("tester", instructions="new"))
    again, other = await claims.claim(conn, owner, [agent], slots=2)
    assert (again.id, again.attempt, again.definition_version) == (first.id, 2, 1)
    assert other.definition_version == 2


async def test_a_worker_without_a_row_claims_nothing(conn: Conn) -> None:
    # It was declared dead: nobody would ever take over what it claims now.
    agent = await scene.agent(conn)
    await scene.submit(conn, agent)
    assert await claimed_ids(conn, uuid4(), [agent]) == []


# Sessions ---------------------------------------------------------------------------------------------------------


async def session(db: Database, conn: Conn, agent: UUID, turns: int) -> tuple[UUID, list[UUID]]:
    user = await users.ensure(conn, "ivo")
    async with tenant.tenant(db, user.id) as door:
        identity = await conversations.create(door, agent)
        return identity, [await conversations.submit_turn(door, identity, {"input": str(n)}) for n in range(turns)]


async def test_the_turns_of_a_session_run_one_after_the_other(db: Database, conn: Conn) -> None:
    agent, owner = await scene.agent(conn), await scene.worker(conn)
    _, turns = await session(db, conn, agent, 3)
    for turn in turns:
        (claim,) = await claims.claim(conn, owner, [agent], slots=10)
        assert claim.id == turn
        assert await claimed_ids(conn, owner, [agent]) == []
        await scene.finish(conn, owner, scene.ended(claim))


async def test_an_earlier_turn_that_waits_holds_the_later_one_back_whatever_its_priority(
    db: Database, conn: Conn
) -> None:
    agent, owner = await scene.agent(conn), await scene.worker(conn)
    _, (first, second) = await session(db, conn, agent, 2)
    await conn.execute("UPDATE runtime.tasks SET run_at = now() + interval '1 day' WHERE id = %s", [first])
    await conn.execute("UPDATE runtime.tasks SET priority = 9 WHERE id = %s", [second])
    assert await claimed_ids(conn, owner, [agent]) == []
    await tasks.cancel(conn, first)
    assert await claimed_ids(conn, owner, [agent]) == [second]


async def test_a_worker_of_one_session_claims_nothing_else(db: Database, conn: Conn) -> None:
    agent, owner = await scene.agent(conn), await scene.worker(conn)
    await scene.submit(conn, agent, 2)
    mine, turns = await session(db, conn, agent, 2)
    await session(db, conn, agent, 1)
    claimed = await claims.claim(conn, owner, [agent], slots=9, session=mine)
    assert [claim.id for claim in claimed] == turns[:1]
    assert await claims.claim(conn, owner, [agent], slots=9, session=mine) == []


async def test_no_two_turns_of_a_session_ever_run_together_under_eight_workers(database_url: str) -> None:
    async with Database.open(database_url, connections=9) as db, db.connection() as first:
        agent = await scene.agent(first)
        made = [await session(db, first, agent, 6) for _ in range(3)]
        identities = {turn: identity for identity, turns in made for turn in turns}
        running: Counter[UUID] = Counter()
        order: dict[UUID, list[UUID]] = {identity: [] for identity, _ in made}

        async def work() -> None:
            async with db.connection() as conn:
                owner = await scene.worker(conn)
                while sum(map(len, order.values())) < len(identities):
                    for claim in await claims.claim(conn, owner, [agent], slots=2):
                        running[identities[claim.id]] += 1
                        assert running[identities[claim.id]] == 1
                        order[identities[claim.id]].append(claim.id)
                        await asyncio.sleep(0)
                        running[identities[claim.id]] -= 1
                        await scene.finish(conn, owner, scene.ended(claim))

        async with asyncio.TaskGroup() as group:
            for _ in range(8):
                group.create_task(work())
    assert list(order.values()) == [turns for _, turns in made]


async def test_two_turns_put_in_at_once_are_not_run_at_once(db: Database, conn: Conn) -> None:
    # Turn 1 has the lower number and is committed only after turn 2 was claimed by a worker that has not committed yet.
    agent, owner, other = await scene.agent(conn), await scene.worker(conn), await scene.worker(conn)
    identity, _ = await session(db, conn, agent, 0)
    insert = "INSERT INTO runtime.tasks (agent_id, session_id) VALUES (%s, %s) RETURNING id"
    async with await scene.another(conn) as slow, await scene.another(conn) as claimer, slow.transaction():
        await scene.one(slow, insert, agent, identity)
        second = await scene.one(conn, insert, agent, identity)
        async with claimer.transaction():
            assert await claimed_ids(claimer, owner, [agent]) == [second]
            await slow.execute("COMMIT")
            assert await claimed_ids(conn, other, [agent]) == []
        await slow.execute("BEGIN")
    assert await scene.one(conn, "SELECT count(*) FROM runtime.claims") == 1


async def test_claimers_beside_each_other_all_get_as_much_as_they_want(database_url: str) -> None:
    # Each passes over what another has locked and goes on behind it: nobody comes away with less than it wanted.
    async with AsyncExitStack() as stack:
        conns = [await stack.enter_async_context(await connect(database_url)) for _ in range(4)]
        agent_ids = [await scene.agent(conns[0], f"a{n}") for n in range(20)]
        owners = [await scene.worker(conn) for conn in conns]
        lines = {each: await scene.submit(conns[0], each, 4) for each in agent_ids}
        for conn in conns:
            await stack.enter_async_context(conn.transaction())
        taken = [await claimed_ids(conn, owner, agent_ids, slots=16) for conn, owner in zip(conns, owners, strict=True)]
    assert [len(ids) for ids in taken] == [16] * 4
    every = {task for ids in taken for task in ids}
    assert len(every) == 64
    for line in lines.values():
        assert every.intersection(line) == set(line[: len(every.intersection(line))])


async def test_capped_and_free_agents_share_a_claim_in_the_order_of_the_line(conn: Conn) -> None:
    free, capped = await scene.agent(conn, "free"), await scene.agent(conn, "capped", cap=1)
    owner = await scene.worker(conn)
    first, second, third, _, fifth = [
        (await scene.submit(conn, each))[0] for each in (free, capped, free, capped, free)
    ]
    assert await claimed_ids(conn, owner, [free, capped], slots=4) == [first, second, third, fifth]


# Outsiders ---------------------------------------------------------------------------------------------------------


async def test_an_open_transaction_of_somebody_else_holds_up_nothing_but_its_own_task(conn: Conn) -> None:
    agent, owner = await scene.agent(conn), await scene.worker(conn)
    held, free = await scene.submit(conn, agent, 2)
    async with await scene.another(conn) as outsider, outsider.transaction():
        await outsider.execute("UPDATE runtime.tasks SET task_type = 'mine' WHERE id = %s", [held])
        assert await claimed_ids(conn, owner, [agent]) == [free]
    assert await claimed_ids(conn, owner, [agent]) == [held]


@pytest.mark.parametrize("taken", ["completed", "failed", "running", "parked", None])
async def test_a_task_that_somebody_takes_out_of_pending_is_not_run(conn: Conn, taken: str | None) -> None:
    agent, owner = await scene.agent(conn), await scene.worker(conn)
    (task,) = await scene.submit(conn, agent)
    await conn.execute("UPDATE runtime.tasks SET status = %s WHERE id = %s", [taken, task])
    assert await claimed_ids(conn, owner, [agent]) == []
    assert await scene.rows(conn, "SELECT task_id FROM runtime.queue") == []
    await conn.execute("UPDATE runtime.tasks SET status = 'pending' WHERE id = %s", [task])
    assert await claimed_ids(conn, owner, [agent]) == [task]


async def test_a_task_given_to_another_agent_is_run_by_that_one(conn: Conn) -> None:
    one, two = await scene.agent(conn, "one"), await scene.agent(conn, "two")
    owner = await scene.worker(conn)
    (task,) = await scene.submit(conn, one)
    await conn.execute("UPDATE runtime.tasks SET agent_id = %s", [two])
    assert await claimed_ids(conn, owner, [one]) == []
    assert await claimed_ids(conn, owner, [two]) == [task]


async def test_a_task_that_loses_its_agent_leaves_the_line(conn: Conn) -> None:
    agent = await scene.agent(conn)
    await scene.submit(conn, agent)
    await conn.execute("UPDATE runtime.tasks SET agent_id = NULL")
    assert await scene.rows(conn, "SELECT task_id FROM runtime.queue") == []


@pytest.mark.parametrize(
    "removal", ["DELETE FROM runtime.tasks", "TRUNCATE runtime.tasks", "TRUNCATE runtime.agents CASCADE"]
)
async def test_what_is_removed_leaves_the_line(conn: Conn, removal: str) -> None:
    agent = await scene.agent(conn)
    await scene.submit(conn, agent, 3)
    await conn.execute(removal)  # type: ignore[call-overload]
    assert await scene.rows(conn, "SELECT task_id FROM runtime.queue") == []


async def test_a_running_task_set_back_to_pending_waits_until_its_present_run_is_over(conn: Conn) -> None:
    agent, owner = await scene.agent(conn), await scene.worker(conn)
    (task,) = await scene.submit(conn, agent)
    claim = await scene.claim_one(conn, owner, agent)
    await conn.execute("UPDATE runtime.tasks SET status = 'pending' WHERE id = %s", [task])
    assert await claimed_ids(conn, owner, [agent]) == []
    assert await scene.finish(conn, owner, scene.ended(claim)) == []
    (again,) = await claims.claim(conn, owner, [agent], slots=1)
    assert (again.id, again.attempt) == (task, 2)


# Waking -------------------------------------------------------------------------------------------------------------


async def test_a_new_task_wakes_workers_that_said_they_wait_and_nobody_else(conn: Conn, database_url: str) -> None:
    agent, owner = await scene.agent(conn), await scene.worker(conn)
    async with wakeups.listening(database_url, [wakeups.TASKS]) as listener:
        await scene.submit(conn, agent)
        await conn.execute("SELECT pg_notify('cirkelline_tasks', 'last')")
        assert await listener.wait(10) == [("cirkelline_tasks", "last")]
        await workers.set_waiting(conn, owner, waiting=True)
        await scene.submit(conn, agent)
        assert await listener.wait(10) == [("cirkelline_tasks", "")]


async def test_outstanding_counts_what_is_due_and_what_runs(conn: Conn) -> None:
    agent, other, owner = await scene.agent(conn), await scene.agent(conn, "other"), await scene.worker(conn)
    await scene.submit(conn, agent, 3)
    await scene.submit(conn, other, 5)
    await conn.execute("INSERT INTO runtime.tasks (agent_id, run_at) VALUES (%s, now() + interval '1 day')", [agent])
    await scene.claim_one(conn, owner, agent)
    assert await claims.outstanding(conn, [agent]) == 3


async def test_claims_that_are_all_still_uncommitted_take_different_tasks(database_url: str) -> None:
    async with AsyncExitStack() as stack:
        conns = [await stack.enter_async_context(await connect(database_url)) for _ in range(3)]
        agent = await scene.agent(conns[0])
        owners = [await scene.worker(conn) for conn in conns]
        submitted = await scene.submit(conns[0], agent, 30)
        async with conns[0].transaction(), conns[1].transaction(), conns[2].transaction():
            taken = [
                await claimed_ids(conn, owner, [agent], slots=10) for conn, owner in zip(conns, owners, strict=True)
            ]
    assert sorted(task for ids in taken for task in ids) == sorted(submitted)
