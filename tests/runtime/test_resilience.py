"""What a worker lives through: cut connections, a server that is away, its own death as others see it."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from uuid import UUID

from workplace import Workplace, until

from cirkelline.state import claims
from cirkelline.state.connection import Database

CUT = """
SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
 WHERE datname = current_database() AND application_name = 'worker'
"""
SLOW = [{"text": "done", "delay": "2s"}]


async def test_a_worker_whose_every_connection_is_cut_finishes_its_run_and_goes_on(place: Workplace) -> None:
    await place.agent("helper", SLOW)
    task_id = await place.submit("helper")
    url = place.db.url + ("&" if "?" in place.db.url else "?") + "application_name=worker"
    async with Database.open(url) as db:
        place.opened = dataclasses.replace(place.opened, db=db)
        await _live_through_a_cut(place, task_id)


async def _live_through_a_cut(place: Workplace, task_id: UUID) -> None:
    async with place.working() as worker:
        await place.running(task_id)
        identity = worker.id
        assert await place.value(CUT) >= 3  # the pool's, the heartbeat's and the listening one
        (task,) = await place.ended(task_id)
        assert (task.status, task.attempt) == ("completed", 1)
        (again,) = await place.ended(await place.submit("helper"))
        assert again.status == "completed"
        assert worker.id == identity


async def test_a_worker_declared_dead_discards_its_run_and_goes_on_under_a_new_id(place: Workplace) -> None:
    await place.agent("helper", SLOW)
    task_id = await place.submit("helper")
    async with place.working() as worker:
        await place.running(task_id)
        old = worker.id
        async with place.db.transaction() as conn:  # no beat comes between
            await conn.execute("UPDATE runtime.workers SET seen = seen - interval '1 hour'")
            assert await claims.take_over(conn) == 1
        (task,) = await place.ended(task_id)
        assert worker.id != old
        assert (task.status, task.worker) == ("completed", worker.id)
        # Three: claimed once more while it was being declared dead, and given back.
        assert 1 <= task.deaths < task.attempt <= 3
        assert await place.rows("SELECT id FROM runtime.workers") == [(worker.id,)]
    assert await place.value("SELECT count(*) FROM runtime.agent_states") == 1


async def test_a_claim_whose_answer_was_lost_does_not_leave_its_tasks_running_for_ever(place: Workplace) -> None:
    await place.agent("helper", [{"text": "done"}])
    url = place.db.url + ("&" if "?" in place.db.url else "?") + "application_name=worker"
    async with Database.open(url) as db:
        place.opened = dataclasses.replace(place.opened, db=db)
        async with place.working() as worker:
            # What the server does when only its answer is lost: the tasks are this worker's, and it does not know.
            await place.execute("UPDATE runtime.agents SET status = 'paused'")
            task_id = await place.submit("helper")
            await place.execute("UPDATE runtime.agents SET status = 'idle'")
            async with place.db.connection() as conn:
                await claims.claim(conn, worker.id, [await place.agent_id("helper")], slots=1)

            cut_at = 0.0

            async def given_back() -> bool:
                nonlocal cut_at
                if time.monotonic() > cut_at + 1:  # a claim has to be the one that fails: cut again if it was not
                    cut_at = time.monotonic()
                    await place.value(CUT)
                return (await place.task(task_id)).status != "running"

            await until(given_back, "the task's way back")
            await place.ended(task_id)
    task = await place.task(task_id)
    assert (task.status, task.deaths) == ("completed", 0)


async def test_what_was_claimed_while_the_worker_was_being_declared_dead_is_not_lost(place: Workplace) -> None:
    await place.agent("helper", [{"text": "done"}])
    async with place.working(slots=2) as worker:
        for _ in range(5):
            await place.submit_many("helper", 20)
            before = worker.id
            await place.execute("DELETE FROM runtime.workers")
            await place.becomes(1, "SELECT count(*) FROM runtime.workers WHERE id <> %s", before)
        await place.becomes(100, "SELECT count(*) FROM runtime.tasks WHERE status = 'completed'")
    versions = await place.rows("SELECT version FROM runtime.agent_states ORDER BY version")
    assert [row[0] for row in versions] == [*range(1, 101)]


async def test_a_dead_workers_tasks_are_taken_over_by_one_that_is_full(place: Workplace) -> None:
    await place.agent("helper", [{"text": "done", "delay": "30s"}])
    await place.agent("other", [{"text": "done"}])
    orphan = await place.submit("other")
    await place.execute(
        "INSERT INTO runtime.workers (id, host, pid, release, slots, lease, seen)"
        " VALUES (gen_random_uuid(), 'gone', 1, '0', 1, interval '1 second', now() - interval '1 hour')"
    )
    async with place.db.connection() as conn:
        dead = (await (await conn.execute("SELECT id FROM runtime.workers")).fetchall())[0][0]
        assert len(await claims.claim(conn, dead, [await place.agent_id("other")], slots=1)) == 1
    await place.submit("helper")
    async with place.working(slots=1):
        await place.becomes("pending", "SELECT status FROM runtime.tasks WHERE id = %s", orphan)
    task = await place.task(orphan)
    assert (task.deaths, task.error) == (1, "its worker died")


async def test_a_task_whose_worker_died_five_times_waits_for_a_person(place: Workplace) -> None:
    await place.agent("helper", [{"text": "done"}])
    task_id = await place.submit("helper")
    await place.execute("UPDATE runtime.tasks SET deaths = 4")
    agent = await place.agent_id("helper")
    await place.execute(
        "INSERT INTO runtime.workers (id, host, pid, release, slots, lease, seen)"
        " VALUES (gen_random_uuid(), 'gone', 1, '0', 1, interval '1 second', now() - interval '1 hour')"
    )
    async with place.db.connection() as conn:
        dead = (await (await conn.execute("SELECT id FROM runtime.workers")).fetchall())[0][0]
        await claims.claim(conn, dead, [agent], slots=1)
    async with place.working():
        await place.becomes("waiting", "SELECT status FROM runtime.tasks WHERE id = %s", task_id)
    assert (await place.task(task_id)).error == "its worker died 5 times"


async def test_no_transaction_is_open_while_a_model_is_asked(place: Workplace) -> None:
    await place.agent("helper", SLOW)
    task_id = await place.submit("helper")
    async with place.working():
        await place.running(task_id)
        open_ones = (
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state LIKE 'idle in%%'"
        )
        while (await place.task(task_id)).status == "running":
            assert await place.value(open_ones) == 0
            await asyncio.sleep(0)
