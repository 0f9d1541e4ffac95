"""A worker that waits is handed the task that is submitted alone; what it cannot run or is not told of is not lost."""

from __future__ import annotations

from workplace import Workplace

from cirkelline.state import tasks, workers

SAY = [{"text": "You said {{input}}."}]
SLEEP = [{"text": "done", "delay": "60s"}]
OFFERS = "SELECT count(*) FROM runtime.offers"
NEVER_QUEUED = """
CREATE FUNCTION runtime.refuse_line() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'in line'; END $$;
CREATE TRIGGER refused BEFORE INSERT ON runtime.queue FOR EACH ROW EXECUTE FUNCTION runtime.refuse_line()
"""
# An offer that its worker does not know of, as one is that was made just before it had no place any more.
OFFER_AGAIN = """
INSERT INTO runtime.offers (worker, channel, agents)
SELECT w.id, %s, ARRAY(SELECT a.id FROM runtime.agents a) FROM runtime.workers w
"""


async def test_task_after_task_is_run_without_being_in_line(place: Workplace) -> None:
    await place.agent("parrot", SAY)
    async with place.working():
        await place.becomes(1, OFFERS)
        await place.execute(NEVER_QUEUED)
        for word in ("one", "two", "three"):
            (task,) = await place.ended(await place.submit("parrot", word))
            assert (task.status, task.result["output"], task.attempt) == ("completed", f"You said {word}.", 1)
            await place.becomes(1, OFFERS)


async def test_a_handed_task_is_cancelled_like_any_other(place: Workplace) -> None:
    await place.agent("sleeper", SLEEP)
    async with place.working():
        await place.becomes(1, OFFERS)
        task_id = await place.submit("sleeper")
        async with place.db.connection() as conn:
            assert await tasks.cancel(conn, task_id) == "asked"
        (task,) = await place.ended(task_id)
    assert task.status == "cancelled"


async def test_a_full_worker_offers_nothing_and_gives_back_what_it_is_handed_all_the_same(place: Workplace) -> None:
    await place.agent("sleeper", SLEEP)
    async with place.working(slots=1):
        await place.becomes(1, OFFERS)
        channel = await place.value("SELECT channel FROM runtime.offers")
        await place.running(await place.submit("sleeper"))
        await place.becomes(0, OFFERS)
        await place.becomes(False, "SELECT waiting FROM runtime.workers")
        await place.execute(OFFER_AGAIN, channel)
        second = await place.submit("sleeper")
        await place.becomes("pending", "SELECT status FROM runtime.tasks WHERE id = %s", second)
        task = await place.task(second)
        assert (task.error, task.failures) == ("its worker has no place any more", None)
        assert await place.value("SELECT count(*) FROM runtime.claims") == 1


async def test_what_a_worker_was_never_told_of_is_in_line_again_soon_and_it_offers_nothing_more(
    place: Workplace,
) -> None:
    await place.agent("parrot", SAY)
    async with place.working():
        await place.becomes(1, OFFERS)
        await place.execute("UPDATE runtime.offers SET channel = 'cirkelline_where_nobody_listens'")
        (task,) = await place.ended(await place.submit("parrot"))
        assert (task.status, task.attempt, task.failures) == ("completed", 2, None)
        assert await place.value(OFFERS) == 0
        (task,) = await place.ended(await place.submit("parrot"))
        assert (task.status, task.attempt) == ("completed", 1)


LISTENING = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'LISTEN%%' AND datname = current_database()"


async def test_what_was_handed_over_while_the_worker_did_not_listen_is_run_when_it_does_again(place: Workplace) -> None:
    await place.agent("parrot", SAY)
    async with place.working():
        for _ in range(3):
            await place.becomes(1, OFFERS)
            async with place.db.connection() as conn:
                await conn.execute(LISTENING)
                task_id = await tasks.submit(conn, agent_id=await place.agent_id("parrot"), payload={"input": "x"})
            (task,) = await place.ended(task_id)
            assert task.status == "completed"


async def test_a_worker_that_is_asked_to_drain_is_handed_nothing(place: Workplace) -> None:
    await place.agent("sleeper", SLEEP)
    async with place.working() as worker:
        await place.becomes(1, OFFERS)
        async with place.db.connection() as conn:
            await workers.drain(conn, worker.id)
        assert (await place.task(await place.submit("sleeper"))).status == "pending"


async def test_who_does_not_listen_or_serves_one_session_or_only_drains_offers_nothing(place: Workplace) -> None:
    await place.agent("parrot", SAY)
    session, _ = await place.session("parrot")
    for options in ({"listen": False}, {"session": session}):
        async with place.working(**options):
            await place.becomes(1, "SELECT count(*) FROM runtime.workers")
            await place.ended(await place.submit("parrot")) if "listen" in options else None
            assert await place.value(OFFERS) == 0
