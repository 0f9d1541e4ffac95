"""A task that changes hands: taken over from the dead, given back, cancelled, tried again."""

from __future__ import annotations

import asyncio
import random
from uuid import UUID, uuid4

import pytest
import scene

from cirkelline.state import claims, parking, snapshots, tasks, wakeups, workers
from cirkelline.state.claims import Claim
from cirkelline.state.connection import Conn, Database
from cirkelline.state.parking import Decided
from cirkelline.state.tasks import TaskNotFound, TaskNotRetryable


async def running(conn: Conn) -> tuple[UUID, UUID, Claim]:
    """An agent, a worker, and a task of the one that the other runs."""
    agent, owner = await scene.agent(conn), await scene.worker(conn)
    await scene.submit(conn, agent)
    return agent, owner, await scene.claim_one(conn, owner, agent)


async def take_over(conn: Conn) -> int:
    return await claims.take_over(conn)


# Taking over --------------------------------------------------------------------------------------------------------


async def test_a_living_workers_tasks_are_left_alone(conn: Conn) -> None:
    _, owner, claim = await running(conn)
    assert await take_over(conn) == 0
    assert await claims.held(conn, owner) == [claim.id]


async def test_a_dead_workers_tasks_go_back_in_line_in_their_old_place(conn: Conn) -> None:
    agent, dead, claim = await running(conn)
    (behind,) = await scene.submit(conn, agent)
    await scene.die(conn, dead)
    assert await take_over(conn) == 1
    task = await tasks.get(conn, claim.id)
    assert (task.status, task.deaths, task.error, task.attempt) == ("pending", 1, "its worker died", 1)
    assert await scene.rows(conn, "SELECT id FROM runtime.workers") == []
    owner = await scene.worker(conn)
    again = await claims.claim(conn, owner, [agent], slots=2)
    assert [(each.id, each.attempt) for each in again] == [(claim.id, 2), (behind, 1)]
    assert await take_over(conn) == 0


async def test_an_empty_handed_dead_worker_is_buried(conn: Conn) -> None:
    await scene.die(conn, await scene.worker(conn))
    assert await take_over(conn) == 0
    assert await workers.find(conn) == []


async def test_what_was_claimed_just_as_its_worker_was_declared_dead_is_taken_over_too(conn: Conn) -> None:
    _, owner, claim = await running(conn)
    await conn.execute("DELETE FROM runtime.workers WHERE id = %s", [owner])
    assert await take_over(conn) == 1
    assert await scene.status(conn, claim.id) == "pending"


async def dead_five_times(conn: Conn) -> tuple[UUID, UUID]:
    """Return an agent and its task, on which five workers have died."""
    agent = await scene.agent(conn)
    (task_id,) = await scene.submit(conn, agent)
    for death in range(1, claims.DEATHS_ALLOWED + 1):
        assert await scene.status(conn, task_id) == "pending"
        owner = await scene.worker(conn)
        assert (await scene.claim_one(conn, owner, agent)).attempt == death
        await scene.die(conn, owner)
        assert await take_over(conn) == 1
        await scene.time_passes(conn)
    return agent, task_id


async def test_the_fifth_death_parks_the_task_and_nothing_holds_it(conn: Conn) -> None:
    _, task_id = await dead_five_times(conn)
    task = await tasks.get(conn, task_id)
    assert (task.status, task.deaths, task.error) == ("waiting", 5, "its worker died 5 times")
    assert (task.result, task.completed_at, task.finished_at, task.state_version) == (None, None, None, None)
    assert await scene.rows(conn, "SELECT task_id FROM runtime.queue UNION SELECT task_id FROM runtime.claims") == []
    assert await tasks.cancel(conn, task_id) == "cancelled"


async def test_a_task_whose_workers_died_may_be_tried_five_times_more(conn: Conn) -> None:
    agent, task_id = await dead_five_times(conn)
    assert await parking.decide_deaths(conn, task_id, again=True, reason="", state_limit=scene.LIMIT) is Decided.DECIDED
    task = await tasks.get(conn, task_id)
    assert (task.status, task.deaths, task.error) == ("pending", 0, None)
    owner = await scene.worker(conn)
    assert (await scene.claim_one(conn, owner, agent)).attempt == 6
    late = await parking.decide_deaths(conn, task_id, again=True, reason="", state_limit=scene.LIMIT)
    assert late is Decided.LATE


async def test_a_task_whose_workers_died_may_be_ended_as_failed_with_a_snapshot(conn: Conn) -> None:
    agent, task_id = await dead_five_times(conn)
    said = "its worker died 5 times: out of memory"
    await parking.decide_deaths(conn, task_id, again=False, reason=said, state_limit=scene.LIMIT)
    task = await tasks.get(conn, task_id)
    assert (task.status, task.deaths, task.state_version) == ("failed", 5, 1)
    assert task.result == {"error": {"type": "WorkerDied", "message": said}}
    assert task.error == said
    latest = await snapshots.latest(conn, agent)
    assert latest is not None
    assert latest.state["stats"]["failed"] == 1
    assert await scene.rows(conn, "SELECT task_id FROM runtime.queue UNION SELECT task_id FROM runtime.claims") == []


async def test_one_hopeless_task_does_not_take_its_workers_other_tasks_along(conn: Conn) -> None:
    agent = await scene.agent(conn)
    hopeless, other = await scene.submit(conn, agent, 2)
    await conn.execute("UPDATE runtime.tasks SET deaths = 4 WHERE id = %s", [hopeless])
    owner = await scene.worker(conn)
    await claims.claim(conn, owner, [agent], slots=2)
    await scene.die(conn, owner)
    assert await take_over(conn) == 2
    assert [await scene.status(conn, task) for task in (hopeless, other)] == ["waiting", "pending"]


async def test_a_dead_workers_cancelled_task_ends_cancelled(conn: Conn) -> None:
    _, owner, claim = await running(conn)
    assert await tasks.cancel(conn, claim.id) == "asked"
    await scene.die(conn, owner)
    await take_over(conn)
    assert await scene.status(conn, claim.id) == "cancelled"


async def test_a_beat_keeps_a_worker_alive_and_tells_what_to_stop(conn: Conn, database_url: str) -> None:
    _, owner, claim = await running(conn)
    await scene.die(conn, owner)
    heartbeat = workers.Heartbeat(database_url)
    try:
        assert heartbeat.beat(owner) == workers.Beat(known=True, draining=False, to_cancel=frozenset())
        assert await take_over(conn) == 0
        await tasks.cancel(conn, claim.id)
        assert await workers.drain(conn, owner)
        assert heartbeat.beat(owner) == workers.Beat(known=True, draining=True, to_cancel=frozenset({claim.id}))
        await scene.die(conn, owner)
        await take_over(conn)
        assert not heartbeat.beat(owner).known
    finally:
        heartbeat.close()


async def test_eight_that_notice_a_death_at_once_take_each_task_over_once(database_url: str) -> None:
    async with Database.open(database_url, connections=9) as db, db.connection() as conn:
        agent, dead = await scene.agent(conn), await scene.worker(conn)
        await scene.submit(conn, agent, 10)
        await claims.claim(conn, dead, [agent], slots=10)
        await scene.die(conn, dead)

        async def notice() -> int:
            async with db.connection() as other:
                return await take_over(other)

        assert sum(await asyncio.gather(*(notice() for _ in range(8)))) == 10
        assert await scene.rows(conn, "SELECT DISTINCT status, deaths FROM runtime.tasks") == [("pending", 1)]


# Giving back --------------------------------------------------------------------------------------------------------


async def test_a_released_task_is_pending_again_with_the_reason_and_no_death(conn: Conn) -> None:
    agent, owner, claim = await running(conn)
    assert await claims.release(conn, owner, [claim.id], reason="no tool") == 1
    task = await tasks.get(conn, claim.id)
    assert (task.status, task.error, task.deaths) == ("pending", "no tool", 0)
    again = await scene.claim_one(conn, owner, agent)
    assert (again.id, again.attempt) == (claim.id, 2)
    assert (await tasks.get(conn, claim.id)).error is None


async def test_only_the_owner_can_give_a_task_back(conn: Conn) -> None:
    _, owner, claim = await running(conn)
    assert await claims.release(conn, await scene.worker(conn), [claim.id, uuid4()], reason="mine") == 0
    assert await claims.held(conn, owner) == [claim.id]


async def test_a_task_that_was_to_be_cancelled_is_cancelled_when_given_back(conn: Conn) -> None:
    _, owner, claim = await running(conn)
    await tasks.cancel(conn, claim.id)
    await claims.release(conn, owner, [claim.id], reason="x")
    task = await tasks.get(conn, claim.id)
    assert (task.status, task.error, task.completed_at is not None) == ("cancelled", "cancelled", True)


async def test_a_worker_that_leaves_gives_everything_back(conn: Conn) -> None:
    agent, owner, _ = await running(conn)
    await scene.submit(conn, agent, 2)
    await claims.claim(conn, owner, [agent], slots=2)
    await workers.deregister(conn, owner)
    assert await scene.rows(conn, "SELECT DISTINCT status FROM runtime.tasks") == ["pending"]
    assert await scene.one(conn, "SELECT count(*) FROM runtime.queue") == 3
    assert await workers.find(conn) == []


# Cancelling ---------------------------------------------------------------------------------------------------------


async def test_cancelling_what_waits_ends_it_at_once(conn: Conn) -> None:
    agent, owner = await scene.agent(conn), await scene.worker(conn)
    pending, parked = await scene.submit(conn, agent, 2)
    await conn.execute("UPDATE runtime.tasks SET status = 'waiting' WHERE id = %s", [parked])
    for task_id in (pending, parked):
        assert await tasks.cancel(conn, task_id) == "cancelled"
        task = await tasks.get(conn, task_id)
        assert (task.status, task.error, task.finished_at is not None) == ("cancelled", "cancelled", True)
    assert await claims.claim(conn, owner, [agent], slots=5) == []
    assert await scene.rows(conn, "SELECT task_id FROM runtime.queue") == []


async def test_cancelling_what_runs_tells_its_worker_which_ends_it(conn: Conn, database_url: str) -> None:
    _, owner, claim = await running(conn)
    async with wakeups.listening(database_url, [wakeups.CANCEL]) as listener:
        assert await tasks.cancel(conn, claim.id) == "asked"
        assert await listener.wait(10) == [(wakeups.CANCEL, str(claim.id))]
    assert await scene.status(conn, claim.id) == "running"
    await scene.finish(conn, owner, scene.ended(claim, "cancelled"))
    assert await scene.status(conn, claim.id) == "cancelled"


async def test_cancelling_a_running_task_that_nobody_holds_ends_it(conn: Conn) -> None:
    agent = await scene.agent(conn)
    (task_id,) = await scene.submit(conn, agent)
    await conn.execute("UPDATE runtime.tasks SET status = 'running'")
    assert await tasks.cancel(conn, task_id) == "cancelled"
    assert await scene.status(conn, task_id) == "cancelled"


@pytest.mark.parametrize("ended", ["completed", "failed", "cancelled", "theirs"])
async def test_cancelling_what_has_ended_changes_nothing(conn: Conn, ended: str) -> None:
    agent = await scene.agent(conn)
    (task_id,) = await scene.submit(conn, agent)
    await conn.execute("UPDATE runtime.tasks SET status = %s, error = 'old'", [ended])
    assert await tasks.cancel(conn, task_id) == ended
    assert (await tasks.get(conn, task_id)).error == "old"


async def test_cancelling_what_is_not_there_says_so(conn: Conn) -> None:
    with pytest.raises(TaskNotFound, match="no task"):
        await tasks.cancel(conn, uuid4())


async def test_a_cancelled_task_that_completed_all_the_same_is_completed(conn: Conn) -> None:
    _, owner, claim = await running(conn)
    await tasks.cancel(conn, claim.id)
    (finished,) = await scene.finish(conn, owner, scene.ended(claim))
    assert finished.status == "completed"


# Trying again -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["failed", "cancelled"])
async def test_a_retried_task_starts_afresh(conn: Conn, how: str) -> None:
    agent, owner, claim = await running(conn)
    await scene.finish(conn, owner, scene.ended(claim, how))  # type: ignore[arg-type]
    await conn.execute("UPDATE runtime.tasks SET deaths = 4")
    await tasks.retry(conn, claim.id)
    task = await tasks.get(conn, claim.id)
    blank = (task.status, task.result, task.error, task.completed_at, task.finished_at, task.state_version, task.deaths)
    assert blank == ("pending", None, None, None, None, None, 0)
    again = await scene.claim_one(conn, owner, agent)
    assert (again.id, again.attempt) == (claim.id, 2)


@pytest.mark.parametrize("status", ["pending", "running", "waiting", "completed", "theirs"])
async def test_only_what_failed_or_was_cancelled_can_be_retried(conn: Conn, status: str) -> None:
    agent = await scene.agent(conn)
    (task_id,) = await scene.submit(conn, agent)
    await conn.execute("UPDATE runtime.tasks SET status = %s", [status])
    with pytest.raises(TaskNotRetryable, match=f"is {status}"):
        await tasks.retry(conn, task_id)


async def test_a_task_that_was_here_before_us_is_neither_cancelled_nor_retried(conn: Conn) -> None:
    agent = await scene.agent(conn)
    pending, failed = await scene.submit(conn, agent, 2)
    await conn.execute("UPDATE runtime.tasks SET adopted = TRUE")
    await conn.execute("UPDATE runtime.tasks SET status = 'failed' WHERE id = %s", [failed])
    assert await tasks.cancel(conn, pending) == "pending"
    with pytest.raises(TaskNotRetryable, match="was here before cirkelline"):
        await tasks.retry(conn, failed)
    assert [await scene.status(conn, task) for task in (pending, failed)] == ["pending", "failed"]


# Races --------------------------------------------------------------------------------------------------------------


async def test_a_cancel_that_meets_a_claim_is_never_lost(conn: Conn) -> None:
    agent, owner = await scene.agent(conn), await scene.worker(conn)
    (task_id,) = await scene.submit(conn, agent)
    async with await scene.another(conn) as other:
        async with conn.transaction():
            claim = await scene.claim_one(conn, owner, agent)
            cancelling = asyncio.create_task(tasks.cancel(other, task_id))
            await until_blocked(conn)
        assert await cancelling == "asked"
    await claims.release(conn, owner, [claim.id], reason="x")
    assert await scene.status(conn, task_id) == "cancelled"


async def test_a_cancel_that_meets_a_release_is_never_lost(conn: Conn) -> None:
    agent, owner, claim = await running(conn)
    async with await scene.another(conn) as other:
        async with conn.transaction():
            await claims.release(conn, owner, [claim.id], reason="x")
            cancelling = asyncio.create_task(tasks.cancel(other, claim.id))
            await until_blocked(conn)
        assert await cancelling == "cancelled"
    assert await claims.claim(conn, owner, [agent], slots=1) == []


async def test_a_claim_passes_over_a_task_that_is_being_cancelled(conn: Conn) -> None:
    agent, owner = await scene.agent(conn), await scene.worker(conn)
    going, staying = await scene.submit(conn, agent, 2)
    async with await scene.another(conn) as other, other.transaction():
        await tasks.cancel(other, going)
        assert (await scene.claim_one(conn, owner, agent)).id == staying


async def until_blocked(conn: Conn) -> None:
    """Wait until somebody waits for this connection's locks."""
    asked = "SELECT count(*) FROM pg_stat_activity WHERE %s = ANY (pg_blocking_pids(pid))"
    async with await scene.another(conn) as watcher:
        while not await scene.one(watcher, asked, conn.info.backend_pid):
            pass


async def test_everybody_doing_everything_to_the_same_tasks_meets_no_deadlock(database_url: str) -> None:
    # Ten connections, two agents, sixty tasks: claims, batches, releases, cancels, retries, deaths, and outsiders.
    steps, everybody = 25, 10
    async with Database.open(database_url, connections=everybody + 1) as db, db.connection() as conn:
        made = [await scene.agent(conn, "one"), await scene.agent(conn, "two", cap=3)]
        submitted = [task for agent in made for task in await scene.submit(conn, agent, 30)]

        async def busy(seed: int) -> None:
            chance = random.Random(seed)  # noqa: S311 - a test's dice
            async with db.connection() as own:
                owner = await scene.worker(own)
                held: list[Claim] = []
                for _ in range(steps):
                    one = chance.choice(submitted)
                    match chance.randrange(8):
                        case 0 | 1 | 2:
                            held += await claims.claim(own, owner, made, slots=4)
                        case 3 | 4:
                            chance.shuffle(held)
                            runs = [scene.ended(claim, chance.choice(["completed", "failed"])) for claim in held]
                            await scene.finish(own, owner, *runs)
                            held.clear()
                        case 5:
                            await tasks.cancel(own, one)
                        case 6:
                            await claims.release(own, owner, [claim.id for claim in held], reason="x")
                            held.clear()
                            await own.execute("UPDATE runtime.tasks SET status = 'pending' WHERE id = %s", [one])
                        case _:
                            await scene.die(own, owner)
                            await take_over(own)
                            owner, held = await scene.worker(own), []
                await workers.deregister(own, owner)

        async with asyncio.TaskGroup() as group:
            for seed in range(everybody):
                group.create_task(busy(seed))
        owner = await scene.worker(conn)
        await scene.time_passes(conn)
        while held := await claims.claim(conn, owner, made, slots=50):
            await scene.finish(conn, owner, *map(scene.ended, held))
        ended = """
        SELECT count(*) FROM runtime.tasks
         WHERE status IN ('completed', 'failed', 'cancelled') OR status = 'waiting' AND error = 'its worker died 5 times'
        """
        assert await scene.one(conn, ended) == len(submitted)
        assert (
            await scene.rows(conn, "SELECT task_id FROM runtime.queue UNION SELECT task_id FROM runtime.claims") == []
        )
        for agent in made:
            kept = await scene.versions(conn, agent)
            assert kept == list(range(1, len(kept) + 1))


async def test_leaving_while_being_declared_dead_is_no_deadlock(conn: Conn) -> None:
    _, owner, claim = await running(conn)
    await scene.die(conn, owner)
    async with await scene.another(conn) as other:
        async with conn.transaction():
            assert await take_over(conn) == 1
            leaving = asyncio.create_task(workers.deregister(other, owner))
            await until_blocked(conn)
        await leaving
    assert await scene.status(conn, claim.id) == "pending"


async def test_leaving_and_a_takeover_want_the_same_rows_in_one_order(conn: Conn) -> None:
    agent, owner = await scene.agent(conn), await scene.worker(conn)
    await scene.submit(conn, agent, 2)
    claimed = await claims.claim(conn, owner, [agent], slots=2)
    last = max(claim.id for claim in claimed)
    await scene.die(conn, owner)
    async with await scene.another(conn) as outsider, await scene.another(conn) as other:
        async with outsider.transaction():
            await outsider.execute("UPDATE runtime.tasks SET task_type = 'x' WHERE id = %s", [last])
            leaving = asyncio.create_task(workers.deregister(other, owner))
            await until_blocked(outsider)
            # Leaving has the first task by now: a takeover must not hold what it wants next.
            taking = asyncio.create_task(take_over(conn))
            assert await taking == 0
        await leaving
    assert await scene.rows(conn, "SELECT DISTINCT status FROM runtime.tasks") == ["pending"]


async def test_a_release_and_a_cancel_want_the_same_rows_in_one_order(conn: Conn) -> None:
    _, owner, claim = await running(conn)
    async with await scene.another(conn) as other:
        async with other.transaction():
            await other.execute("UPDATE runtime.tasks SET task_type = 'x'")
            releasing = asyncio.create_task(claims.release(conn, owner, [claim.id], reason="x"))
            await until_blocked(other)
            assert await tasks.cancel(other, claim.id) == "asked"
        assert await releasing == 1
    assert await scene.status(conn, claim.id) == "cancelled"


async def test_an_outsider_that_changes_a_task_and_a_finish_of_it_wait_for_each_other_in_one_order(conn: Conn) -> None:
    _, owner, claim = await running(conn)
    async with await scene.another(conn) as outsider:
        async with outsider.transaction():
            await outsider.execute("UPDATE runtime.tasks SET task_type = 'x'")
            finishing = asyncio.create_task(scene.finish(conn, owner, scene.ended(claim)))
            await until_blocked(outsider)
            # It takes the task out of its worker's hands: our trigger writes to the queue in the outsider's name.
            await outsider.execute("UPDATE runtime.tasks SET status = 'pending'")
        assert await finishing == []
    assert await scene.one(conn, "SELECT count(*) FROM runtime.queue") == 1


async def test_a_finish_that_waits_for_an_outsider_holds_up_no_other_task_of_its_agent(conn: Conn) -> None:
    agent, owner, other = await scene.agent(conn), await scene.worker(conn), await scene.worker(conn)
    await scene.submit(conn, agent, 2)
    held, free = await scene.claim_one(conn, owner, agent), await scene.claim_one(conn, other, agent)
    async with await scene.another(conn) as outsider, await scene.another(conn) as waiting:
        async with outsider.transaction():
            await outsider.execute("UPDATE runtime.tasks SET task_type = 'x' WHERE id = %s", [held.id])
            finishing = asyncio.create_task(scene.finish(waiting, owner, scene.ended(held)))
            await until_blocked(outsider)
            (finished,) = await scene.finish(conn, other, scene.ended(free))
            assert finished.state_version == 1
        (finished,) = await finishing
        assert finished.state_version == 2


async def test_a_truncate_waits_for_a_claim_and_neither_for_the_other(conn: Conn) -> None:
    agent, owner = await scene.agent(conn), await scene.worker(conn)
    await conn.execute("INSERT INTO runtime.tasks (agent_id, run_at) VALUES (%s, now() + interval '1 day')", [agent])
    await conn.execute("UPDATE runtime.queue SET run_at = now()")
    async with await scene.another(conn) as outsider:
        async with conn.transaction():
            assert len(await claims.claim(conn, owner, [agent], slots=1)) == 1
            emptying = asyncio.create_task(outsider.execute("TRUNCATE runtime.tasks"))
            await until_blocked(conn)
            assert not emptying.done()
        await emptying
    assert await scene.rows(conn, "SELECT task_id FROM runtime.queue") == []
    assert await take_over(conn) == 0


async def test_of_tasks_that_died_together_five_times_only_the_one_that_began_last_is_parked(conn: Conn) -> None:
    agent = await scene.agent(conn)
    tasks_ = await scene.submit(conn, agent, 3)
    for death in range(claims.DEATHS_ALLOWED):
        owner = await scene.worker(conn)
        assert len(await claims.claim(conn, owner, [agent], slots=3)) == 3
        await conn.execute("UPDATE runtime.tasks SET started_at = now() - interval '1 h' WHERE id <> %s", [tasks_[1]])
        await scene.die(conn, owner)
        assert await claims.take_over(conn) == 3
        later = await scene.rows(conn, "SELECT count(*) FROM runtime.queue WHERE run_at > now()")
        assert later == [0 if death == 0 else 2 if death == claims.DEATHS_ALLOWED - 1 else 3]
        await scene.time_passes(conn)
    parked = await scene.rows(conn, "SELECT id FROM runtime.tasks WHERE status = 'waiting'")
    assert parked == [tasks_[1]]
    owner = await scene.worker(conn)
    assert {claim.id for claim in await claims.claim(conn, owner, [agent], slots=3)} == {tasks_[0], tasks_[2]}
