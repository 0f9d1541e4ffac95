"""A worker that waits is handed the task that is submitted alone; what it cannot run or is not told of is not lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import pytest
from structlog.testing import capture_logs
from workplace import Workplace, until

from cirkelline.state import claims, tasks, wakeups
from cirkelline.state.claims import Claim

SAY = [{"text": "You said {{input}}."}]
SLEEP = [{"text": "done", "delay": "60s"}]
OFFERS = "SELECT count(*) FROM runtime.offers"
NEVER_QUEUED = """
CREATE FUNCTION runtime.refuse_line() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'in line'; END $$;
CREATE TRIGGER refused BEFORE INSERT ON runtime.queue FOR EACH ROW EXECUTE FUNCTION runtime.refuse_line()
"""
IS_LISTENING = "query LIKE 'LISTEN%%' AND datname = current_database()"
LISTENING = f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {IS_LISTENING}"
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


# Notes each time offers are taken back by workers of whom none waits.
NOTED = """
CREATE TABLE runtime.taken_back ();
CREATE FUNCTION runtime.note_taking_back() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    INSERT INTO runtime.taken_back SELECT WHERE NOT EXISTS (SELECT FROM runtime.workers WHERE waiting); RETURN NULL;
END $$;
CREATE TRIGGER noted AFTER DELETE ON runtime.offers FOR EACH STATEMENT EXECUTE FUNCTION runtime.note_taking_back()
"""


async def test_a_full_worker_offers_nothing_and_gives_back_what_it_is_handed_all_the_same(place: Workplace) -> None:
    await place.agent("sleeper", SLEEP)
    async with place.working(slots=1):
        await place.becomes(1, OFFERS)
        channel = await place.value("SELECT channel FROM runtime.offers")
        await place.execute(NOTED)
        await place.running(await place.submit("sleeper"))
        await place.becomes(1, "SELECT count(*) FROM runtime.taken_back")
        assert await place.value(OFFERS) == 0
        await place.execute(OFFER_AGAIN, channel)
        second = await place.submit("sleeper")
        await place.becomes("pending", "SELECT status FROM runtime.tasks WHERE id = %s", second)
        task = await place.task(second)
        assert (task.error, task.failures) == ("its worker has no place any more", None)
        assert await place.value("SELECT count(*) FROM runtime.claims") == 1


NOWHERE = """
CREATE FUNCTION runtime.mislead() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN NEW.channel := 'cirkelline_where_nobody_listens'; RETURN NEW; END $$;
CREATE TRIGGER misled BEFORE INSERT ON runtime.offers FOR EACH ROW EXECUTE FUNCTION runtime.mislead()
"""


async def test_who_is_never_told_of_what_it_is_handed_gives_it_back_and_soon_offers_nothing_more(
    place: Workplace,
) -> None:
    await place.agent("parrot", SAY)
    await place.execute(NOWHERE)
    with capture_logs() as logs:
        async with place.working():
            await place.becomes(1, OFFERS)
            (task,) = await place.ended(await place.submit("parrot"))
            assert (task.status, task.attempt, task.failures) == ("completed", 2, None)
            await until(lambda: said(logs, "worker.not_told"), "that it is not told")
            await place.becomes(0, OFFERS)
            (task,) = await place.ended(await place.submit("parrot"))
            assert (task.status, task.attempt) == ("completed", 1)
            assert await place.value(OFFERS) == 0


async def test_what_was_given_back_is_not_begun_when_the_worker_is_told_of_it_after_all(place: Workplace) -> None:
    await place.agent("parrot", SAY)
    with capture_logs() as logs:
        async with place.working() as worker:
            await place.becomes(1, OFFERS)
            channel = await place.value("SELECT channel FROM runtime.offers")
            await place.execute("UPDATE runtime.offers SET channel = 'cirkelline_where_nobody_listens'")
            late = await place.submit("parrot")
            await place.ended(late)
            await place.execute(
                "SELECT pg_notify(%s, json_build_object('id', id, 'worker', %s::uuid, 'agent_id', agent_id, 'task_type',"
                " task_type, 'payload', payload::text, 'user_id', NULL, 'definition_version', 1)::text) FROM runtime.tasks",
                channel,
                worker.id,
            )
            await place.ended(await place.submit("parrot"))
    assert [line["attempt"] for line in logs if line["event"] == "task.claimed" and line["task_id"] == late] == [2]


async def said(logs: list[Any], event: str) -> bool:
    return any(line["event"] == event for line in logs)


async def test_a_full_worker_gives_back_what_it_was_not_told_of_while_it_is_full(place: Workplace) -> None:
    await place.agent("sleeper", SLEEP)
    async with place.working(slots=1):
        await place.becomes(1, OFFERS)
        await place.execute("UPDATE runtime.offers SET channel = 'cirkelline_where_nobody_listens'")
        untold = await place.submit("sleeper")
        await place.execute(
            'INSERT INTO runtime.tasks (agent_id, payload) SELECT id, \'{"input": "x"}\' FROM runtime.agents'
        )
        await place.becomes("pending", "SELECT status FROM runtime.tasks WHERE id = %s", untold)
        assert await place.value("SELECT count(*) FROM runtime.tasks WHERE status = 'running'") == 1


async def test_a_worker_that_hears_goes_on_offering_whatever_its_polls_meet(place: Workplace) -> None:
    place.opened = place.opened_with(poll=0.05)
    await place.agent("parrot", SAY)
    with capture_logs() as logs:
        async with place.working():
            for _ in range(40):
                await place.ended(await place.submit("parrot"))
            await place.becomes(1, OFFERS)
    assert not await said(logs, "worker.not_told")


async def test_a_worker_that_was_declared_dead_offers_again_under_its_new_id(place: Workplace) -> None:
    await place.agent("parrot", SAY)
    async with place.working() as worker:
        await place.becomes(1, OFFERS)
        dead = worker.id
        await place.execute("DELETE FROM runtime.workers")
        await place.becomes(1, "SELECT count(*) FROM runtime.offers WHERE worker <> %s", dead)
        (task,) = await place.ended(await place.submit("parrot"))
    assert (task.status, task.attempt) == ("completed", 1)


async def test_what_is_handed_over_while_a_claim_is_on_its_way_takes_no_slot_that_is_taken(
    place: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    await place.agent("sleeper", SLEEP)
    answered, go_on, claim = asyncio.Event(), asyncio.Event(), claims.claim

    async def slowly(*given: Any, **more: Any) -> list[Claim]:
        claimed = await claim(*given, **more)
        if claimed:
            answered.set()
            await go_on.wait()
        return claimed

    monkeypatch.setattr(claims, "claim", slowly)
    async with place.working(slots=1) as worker:
        await place.becomes(1, OFFERS)
        await place.execute("INSERT INTO runtime.tasks (agent_id, payload) SELECT id, '{}' FROM runtime.agents")
        await answered.wait()
        handed = await place.submit("sleeper")
        assert (await place.task(handed)).status == "running"
        go_on.set()
        await place.becomes("pending", "SELECT status FROM runtime.tasks WHERE id = %s", handed)
        assert worker.running == 1


BLOCKED = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"


@asynccontextmanager
async def an_end_that_waits(place: Workplace) -> AsyncGenerator[UUID]:
    """A task whose run is over, on a worker that offers a place and cannot write it until this is left."""
    await place.agent("slow", [{"text": "done", "delay": "1s"}])
    await place.agent("parrot", SAY)
    await place.becomes(1, OFFERS)
    task_id = await place.submit("slow")
    await place.running(task_id)
    await place.becomes(1, OFFERS)
    async with place.db.transaction() as other:
        await other.execute("SELECT FROM runtime.tasks WHERE id = %s FOR UPDATE", [task_id])
        await place.becomes(1, BLOCKED)
        yield task_id


async def test_while_the_end_of_a_run_waits_what_is_handed_over_begins_at_once(place: Workplace) -> None:
    async with place.working(slots=2):
        async with an_end_that_waits(place) as first:
            with capture_logs() as logs:
                handed = await place.submit("parrot")
                await until(lambda: said(logs, "task.started"), "its begin")
        await place.ended(first, handed)


async def test_what_was_missed_while_the_end_of_a_run_waited_is_not_forgotten(place: Workplace) -> None:
    async with place.working(slots=2), place.db.connection() as conn:
        async with an_end_that_waits(place) as first:
            await conn.execute(LISTENING)
            missed = await place.submit("parrot")
            await place.becomes(1, f"SELECT count(*) FROM pg_stat_activity WHERE {IS_LISTENING}")
        for task in await place.ended(first, missed):
            assert task.status == "completed"


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


NO_OFFERS = """
CREATE FUNCTION runtime.refuse_offers() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'an offer'; END $$;
CREATE TRIGGER refused BEFORE INSERT ON runtime.offers FOR EACH ROW EXECUTE FUNCTION runtime.refuse_offers()
"""


async def test_who_does_not_listen_or_serves_one_session_never_offers_anything(place: Workplace) -> None:
    await place.agent("parrot", SAY)
    await place.execute(NO_OFFERS)
    session, user = await place.session("parrot")
    with capture_logs() as logs:
        async with place.working(listen=False):
            for _ in range(2):
                await place.ended(await place.submit("parrot"))
        async with place.working(session=session):
            for _ in range(2):
                await place.becomes(True, "SELECT waiting FROM runtime.workers")
                await place.ended(await place.turn(session, user, "hello"))
        assert not await said(logs, "worker.stuck")
        async with place.working():  # and who offers is refused here
            await until(lambda: said(logs, "worker.stuck"), "a refusal")


async def test_who_could_not_listen_for_a_while_does_not_take_itself_for_deaf(
    place: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    await place.agent("parrot", SAY)
    may_listen, listening = asyncio.Event(), wakeups.listening
    may_listen.set()

    @asynccontextmanager
    async def at_times(*given: Any) -> AsyncGenerator[Any]:
        await may_listen.wait()
        async with listening(*given) as heard:
            yield heard

    monkeypatch.setattr(wakeups, "listening", at_times)
    with capture_logs() as logs:
        async with place.working(), place.db.connection() as conn:
            await place.becomes(1, OFFERS)
            may_listen.clear()
            await conn.execute(LISTENING)
            (task,) = await place.ended(await tasks.submit(conn, agent_id=await place.agent_id("parrot"), payload={}))
            assert task.status == "completed"
            may_listen.set()
            for _ in range(3):  # each poll at which nothing was said makes the offer anew
                await place.becomes(1, OFFERS)
                offer = await place.value("SELECT id FROM runtime.offers")
                await place.becomes(1, "SELECT count(*) FROM runtime.offers WHERE id <> %s", offer)
    assert not await said(logs, "worker.not_told")
