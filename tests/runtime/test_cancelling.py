"""A task is cancelled wherever it is: in line at once, on a worker by its worker, and what had been said is kept."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import aclosing

from workplace import Daemon, Workplace, until

from cirkelline.runtime.streaming import Follower, Told
from cirkelline.state import tasks

SLOW = [{"text": "one two three four five six seven eight", "pace": "20s"}]


async def cancel(place: Workplace, task_id: object) -> str:
    async with place.db.connection() as conn:
        return await tasks.cancel(conn, task_id)  # type: ignore[arg-type]


async def test_a_pending_task_is_cancelled_at_once_and_never_runs(place: Workplace) -> None:
    await place.agent("helper", [{"text": "done"}])
    task_id = await place.submit("helper")
    assert await cancel(place, task_id) == "cancelled"
    async with place.working():
        await place.ended(await place.submit("helper"))
    task = await place.task(task_id)
    assert (task.status, task.attempt) == ("cancelled", 0)


async def test_a_running_turn_is_stopped_and_what_it_had_said_stays_in_the_session(place: Workplace) -> None:
    await place.agent("helper", SLOW)
    session, user = await place.session("helper")
    task_id = await place.turn(session, user, "count")
    async with place.working() as worker:
        async with Follower(place.db) as follower, aclosing(follower.follow(task_id)) as events:
            async for event in events:
                if isinstance(event, Told) and event.kind == "text":
                    break
        assert await cancel(place, task_id) == "asked"
        (task,) = await place.ended(task_id)
        await until(lambda: _idle(worker), "a free slot")
    assert (task.status, task.error) == ("cancelled", "cancelled")
    assert task.result["error"]["type"] == "Cancelled"
    assert task.result["partial_output"] == "one "
    assert await place.messages(session, user) == [("user", "count"), ("assistant", "one ")]
    assert await place.value("SELECT count(*) FROM runtime.agent_states") == 0


async def _idle(worker: object) -> bool:
    return getattr(worker, "running", 1) == 0


async def test_a_worker_that_hears_no_notification_cancels_all_the_same(place: Workplace) -> None:
    await place.agent("helper", SLOW)
    task_id = await place.submit("helper")
    async with place.working():
        await place.running(task_id)
        # As an outsider's UPDATE or a pooler would leave it: the mark is there, and nobody was told.
        await place.execute("UPDATE runtime.claims SET cancelled = TRUE")
        (task,) = await place.ended(task_id)
    assert task.status == "cancelled"


async def test_a_cancelled_task_whose_worker_died_is_not_run_again(
    place: Workplace, start: Callable[..., Daemon]
) -> None:
    await place.agent("helper", SLOW)
    victim = start("victim")
    await victim.says("worker.ready")
    task_id = await place.submit("helper")
    await place.running(task_id)
    victim.process.kill()
    assert await cancel(place, task_id) == "asked"
    async with place.working():
        (task,) = await place.ended(task_id)
    assert (task.status, task.attempt) == ("cancelled", 1)
