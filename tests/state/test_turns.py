"""Of tasks of the same priority the agents take turns, and within each the persons: nobody's length is another one's wait."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from uuid import UUID

import pytest
import scene

from cirkelline.state import agents, claims, standing, users
from cirkelline.state.claims import Claim
from cirkelline.state.connection import Conn, Database

MANY = 10_000
INSERT = """
WITH added AS (
    INSERT INTO runtime.tasks (agent_id, user_id, priority)
    SELECT %s::uuid, %s::uuid, %s::integer FROM generate_series(1, %s) RETURNING id, sequence)
SELECT id FROM added ORDER BY sequence
"""


async def submit(
    conn: Conn, agent: UUID, amount: int = 1, *, user: UUID | None = None, priority: int = 0
) -> list[UUID]:
    return await scene.rows(conn, INSERT, agent, user, priority, amount)


async def people(conn: Conn, amount: int) -> list[UUID]:
    return [(await users.ensure(conn, f"person{n}")).id for n in range(amount)]


async def one_by_one(conn: Conn, owner: UUID, served: list[UUID], amount: int) -> list[Claim]:
    """Claim with a single slot, so often, and finish each before the next."""
    taken: list[Claim] = []
    for _ in range(amount):
        (claim,) = await claims.claim(conn, owner, served, slots=1)
        await scene.finish(conn, owner, scene.ended(claim))
        taken.append(claim)
    return taken


@pytest.mark.parametrize(("slots", "within"), [(1, 2), (2, 1), (10, 1)])
async def test_a_task_of_another_agent_does_not_wait_behind_ten_thousand(conn: Conn, slots: int, within: int) -> None:
    busy, other, owner = await scene.agent(conn, "busy"), await scene.agent(conn, "other"), await scene.worker(conn)
    await submit(conn, busy, MANY)
    (late,) = await submit(conn, other)
    taken = [claim.id for _ in range(within) for claim in await claims.claim(conn, owner, [busy, other], slots=slots)]
    assert late in taken
    assert len(taken) == slots * within


@pytest.mark.parametrize(("slots", "within"), [(1, 2), (2, 1), (10, 1)])
async def test_a_task_of_another_person_does_not_wait_behind_ten_thousand(conn: Conn, slots: int, within: int) -> None:
    agent, owner = await scene.agent(conn), await scene.worker(conn)
    busy, other = await people(conn, 2)
    await submit(conn, agent, MANY, user=busy)
    (late,) = await submit(conn, agent, user=other)
    taken = [claim.id for _ in range(within) for claim in await claims.claim(conn, owner, [agent], slots=slots)]
    assert late in taken
    assert len(taken) == slots * within


async def test_many_persons_of_one_agent_are_no_more_than_one_person_of_another(conn: Conn) -> None:
    crowded, quiet, owner = (
        await scene.agent(conn, "crowded"),
        await scene.agent(conn, "quiet"),
        await scene.worker(conn),
    )
    for person in await people(conn, 30):
        await submit(conn, crowded, user=person)
    await submit(conn, quiet, 5)
    taken = await one_by_one(conn, owner, [crowded, quiet], 10)
    assert [claim.agent_id for claim in taken].count(quiet) == 5


async def test_agents_take_turns_and_within_each_its_persons(conn: Conn) -> None:
    owner, made = await scene.worker(conn), [await scene.agent(conn, f"a{n}") for n in range(3)]
    persons: list[UUID | None] = [*await people(conn, 2), None]
    for agent in made:
        for person in persons:
            await submit(conn, agent, 4, user=person)
    taken = await one_by_one(conn, owner, made, 36)
    for n in range(0, 36, 3):
        assert {claim.agent_id for claim in taken[n : n + 3]} == set(made)
    for agent in made:
        its = [claim.user_id for claim in taken if claim.agent_id == agent]
        for n in range(0, 12, 3):
            assert set(its[n : n + 3]) == set(persons)


@pytest.mark.parametrize("slots", [1, 3, 7])
async def test_what_somebody_asks_of_an_agent_goes_in_the_order_in_which_it_was_asked(conn: Conn, slots: int) -> None:
    owner, made = await scene.worker(conn), [await scene.agent(conn, f"a{n}") for n in range(2)]
    persons = await people(conn, 3)
    lines = {(agent, person): await submit(conn, agent, 10, user=person) for agent in made for person in persons}
    taken: list[Claim] = []
    while more := await claims.claim(conn, owner, made, slots=slots):
        taken += more
    for (agent, person), line in lines.items():
        assert [claim.id for claim in taken if (claim.agent_id, claim.user_id) == (agent, person)] == line


async def test_a_task_that_is_given_back_is_the_next_of_its_line(conn: Conn) -> None:
    agent, owner = await scene.agent(conn), await scene.worker(conn)
    busy, other = await people(conn, 2)
    first, *_ = await submit(conn, agent, 3, user=busy)
    await submit(conn, agent, 3, user=other)
    taken = await claims.claim(conn, owner, [agent], slots=2)
    assert first in {claim.id for claim in taken}
    await claims.release(conn, owner, [first], reason="later")
    again = await claims.claim(conn, owner, [agent], slots=2)
    assert first in {claim.id for claim in again}


async def test_priority_goes_before_turns(conn: Conn) -> None:
    urgent, plain, owner = await scene.agent(conn, "urgent"), await scene.agent(conn, "plain"), await scene.worker(conn)
    await submit(conn, plain, 20)
    first = await submit(conn, urgent, 20, priority=1)
    taken = await one_by_one(conn, owner, [urgent, plain], 21)
    assert [claim.id for claim in taken[:20]] == first
    assert taken[20].agent_id == plain


async def test_turns_at_one_priority_are_not_lost_to_those_at_another(conn: Conn) -> None:
    # An urgent task comes with every claim, always of the same agent: it says nothing about whose turn it is below.
    urgent, *below = [await scene.agent(conn, name) for name in ("urgent", "one", "two", "three")]
    owner = await scene.worker(conn)
    for agent in below:
        await submit(conn, agent, 10)
    taken: list[Claim] = []
    for _ in range(12):
        await submit(conn, urgent, priority=1)
        taken += await claims.claim(conn, owner, [urgent, *below], slots=2)
    assert {agent: [claim.agent_id for claim in taken].count(agent) for agent in below} == dict.fromkeys(below, 4)


@pytest.mark.parametrize("why", ["capped", "paused", "not served"])
@pytest.mark.parametrize("priority", [0, 1])
async def test_a_long_line_that_cannot_run_is_stepped_over(conn: Conn, why: str, priority: int) -> None:
    stuck, owner = await scene.agent(conn, "stuck", cap=0 if why == "capped" else None), await scene.worker(conn)
    free = [await scene.agent(conn, f"free{n}") for n in range(3)]
    await submit(conn, stuck, 2000, priority=priority)
    behind = [task for agent in free for task in await submit(conn, agent, 2)]
    if why == "paused":
        await agents.set_status(conn, stuck, "paused")
    served = free if why == "not served" else [*free, stuck]
    taken = await claims.claim(conn, owner, served, slots=10)
    assert {claim.id for claim in taken} == set(behind)


async def test_slots_are_shared_out_evenly_where_there_are_fewer_lines(conn: Conn) -> None:
    made, owner = [await scene.agent(conn, f"a{n}") for n in range(3)], await scene.worker(conn)
    for agent in made:
        await submit(conn, agent, 50)
    shares = dict.fromkeys(made, 0)
    for _ in range(3):
        for claim in await claims.claim(conn, owner, made, slots=10):
            shares[claim.agent_id] += 1
    assert set(shares.values()) == {10}


async def test_a_short_line_leaves_its_share_to_the_others(conn: Conn) -> None:
    short, long, owner = await scene.agent(conn, "short"), await scene.agent(conn, "long"), await scene.worker(conn)
    few = await submit(conn, short, 2)
    many = await submit(conn, long, 50)
    taken = {claim.id for claim in await claims.claim(conn, owner, [short, long], slots=20)}
    assert taken == {*few, *many[:18]}


async def test_what_is_given_to_another_person_waits_in_that_ones_line(conn: Conn) -> None:
    agent, owner = await scene.agent(conn), await scene.worker(conn)
    busy, other = await people(conn, 2)
    *_, last = await submit(conn, agent, 50, user=busy)
    await conn.execute("UPDATE runtime.tasks SET user_id = %s WHERE id = %s", [other, last])
    taken = await claims.claim(conn, owner, [agent], slots=2)
    assert last in {claim.id for claim in taken}


async def test_a_cap_holds_over_many_lines_and_four_workers(database_url: str) -> None:
    cap, amount = 3, 15
    async with Database.open(database_url, connections=5) as db:
        async with db.connection() as conn:
            agent, free = await scene.agent(conn, "capped", cap=cap), await scene.agent(conn, "free")
            for person in await people(conn, 4):
                await submit(conn, agent, amount, user=person)
                await submit(conn, free, amount, user=person)
        running: set[UUID] = set()
        counts: list[int] = []
        done: list[UUID] = []

        async def work() -> None:
            async with db.connection() as conn:
                owner = await scene.worker(conn)
                while len(done) < 8 * amount:
                    taken = await claims.claim(conn, owner, [agent, free], slots=4)
                    running.update(claim.id for claim in taken if claim.agent_id == agent)
                    counts.append(len(running))
                    await asyncio.sleep(0)  # the others' turn, with these tasks running
                    running.difference_update(claim.id for claim in taken)
                    done.extend(each.id for each in await scene.finish(conn, owner, *map(scene.ended, taken)))

        async with asyncio.TaskGroup() as group:
            for _ in range(4):
                group.create_task(work())
    assert max(counts) == cap
    assert len(set(done)) == len(done) == 8 * amount


async def test_nobody_is_passed_over_by_four_workers_beside_each_other(database_url: str) -> None:
    # Each connection takes turns by itself, so a line waits for four rounds at most.
    async with Database.open(database_url, connections=5) as db, db.connection() as first:
        busy, other = await scene.agent(first, "busy"), await scene.agent(first, "other")
        await submit(first, busy, 400)
        await submit(first, other, 20)
        order: list[UUID] = []

        async def work() -> None:
            async with db.connection() as conn:
                owner = await scene.worker(conn)
                while len(order) < 100:
                    (claim,) = await claims.claim(conn, owner, [busy, other], slots=1)
                    order.append(claim.agent_id)
                    await scene.finish(conn, owner, scene.ended(claim))

        async with asyncio.TaskGroup() as group:
            for _ in range(4):
                group.create_task(work())
    places = [-1, *(n for n, agent in enumerate(order) if agent == other)]
    assert len(places) == 21
    assert max(after - before for before, after in pairwise(places)) <= 9


async def test_a_task_says_how_many_of_its_own_line_go_first(conn: Conn) -> None:
    agent = await scene.agent(conn)
    busy, other = await people(conn, 2)
    *_, last = await submit(conn, agent, 40, user=busy)
    (late,) = await submit(conn, agent, user=other)
    await submit(conn, agent, 2, user=other, priority=1)
    ahead = [place.ahead for task in (last, late) if (place := await standing.of(conn, task))]
    assert ahead == [41, 2]


async def test_turns_of_more_persons_than_are_remembered_break_nothing(conn: Conn) -> None:
    agent, owner = await scene.agent(conn), await scene.worker(conn)
    asked = [(await submit(conn, agent, 2, user=person)) for person in await people(conn, 200)]
    taken = [claim.id for slots in (150, 150, 150) for claim in await claims.claim(conn, owner, [agent], slots=slots)]
    assert sorted(taken) == sorted(each for both in asked for each in both)


@pytest.mark.parametrize("why", ["paused", "capped", "not served", "held by somebody", "not due"])
async def test_a_task_alone_in_line_that_may_not_run_is_left_there(database_url: str, conn: Conn, why: str) -> None:
    agent, other, owner = await scene.agent(conn, "one"), await scene.agent(conn, "other"), await scene.worker(conn)
    if why == "capped":
        await conn.execute("UPDATE runtime.agent_heads SET cap = 1 WHERE agent_id = %s", [agent])
        await submit(conn, agent)
        assert len(await claims.claim(conn, owner, [agent], slots=1)) == 1
    (task,) = await submit(conn, agent)
    if why == "paused":
        await conn.execute("UPDATE runtime.agents SET status = 'paused' WHERE id = %s", [agent])
    if why == "not due":
        await conn.execute("UPDATE runtime.tasks SET run_at = now() + interval '1 hour' WHERE id = %s", [task])
    served = [other] if why == "not served" else [agent, other]
    async with Database.open(database_url) as db, db.connection() as beside, beside.transaction():
        if why == "held by somebody":
            await beside.execute("SELECT FROM runtime.tasks WHERE id = %s FOR NO KEY UPDATE", [task])
        assert await claims.claim(conn, owner, served, slots=2) == []
    assert await scene.rows(conn, "SELECT task_id FROM runtime.queue") == [task]


async def test_a_task_alone_in_line_goes_to_whoever_serves_its_agent(conn: Conn) -> None:
    agent, other, owner = await scene.agent(conn, "one"), await scene.agent(conn, "other"), await scene.worker(conn)
    (task,) = await submit(conn, agent)
    assert await claims.claim(conn, owner, [other], slots=2) == []
    assert [claim.id for claim in await claims.claim(conn, owner, [agent, other], slots=2)] == [task]
    assert await claims.claim(conn, owner, [agent, other], slots=2) == []
