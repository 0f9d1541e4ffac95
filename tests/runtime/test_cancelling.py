"""A task is cancelled wherever it is: in line at once, on a worker by its worker, and what had been said is kept."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
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


BUSY = """
import asyncio, pathlib, threading
from cirkelline.tools import tool

PLACE = pathlib.Path({place!r})

def said(what):
    with (PLACE / "said").open("a") as file:
        file.write(what + "\\n")

@tool(effects="idempotent", timeout=None)
async def patient(ctx: ToolContext) -> str:
    said("patient began")
    try:
        await asyncio.Event().wait()
    finally:
        said("patient was stopped")

@tool(effects="idempotent", timeout=None)
def blocking(ctx: ToolContext) -> str:
    said("blocking began")
    while not (PLACE / "go").exists():
        time.sleep(0.01)
    said("blocking ended")
    ctx.state["blocking"] = "was here"
    return "too late"
"""


def prepare(place: Workplace) -> Callable[[str], Awaitable[object]]:
    place.tool("busy", BUSY.format(place=str(place.folder)))

    async def is_said(what: str) -> bool:
        said = place.folder / "said"
        return said.exists() and what in said.read_text().splitlines()

    return lambda what: until(lambda: is_said(what), what)


async def test_another_process_cancels_an_async_tool_which_may_clean_up(
    place: Workplace, start: Callable[..., Daemon]
) -> None:
    said = prepare(place)
    await place.agent("helper", [{"tool": "patient"}, {"text": "done"}], tools=[{"python": "busy:patient"}])
    await start().says("worker.ready")
    task_id = await place.submit("helper")
    await said("patient began")
    assert await cancel(place, task_id) == "asked"
    (task,) = await place.ended(task_id)
    assert (task.status, task.attempt) == ("cancelled", 1)
    await said("patient was stopped")


async def test_another_process_cancels_a_sync_tool_whose_thread_goes_on_and_whose_result_is_discarded(
    place: Workplace, start: Callable[..., Daemon]
) -> None:
    said = prepare(place)
    await place.agent("helper", [{"tool": "blocking"}, {"text": "done"}], tools=[{"python": "busy:blocking"}])
    daemon = start()
    await daemon.says("worker.ready")
    task_id = await place.submit("helper")
    await said("blocking began")
    assert await cancel(place, task_id) == "asked"
    (task,) = await place.ended(task_id)
    assert task.status == "cancelled"
    # A thread cannot be stopped: it keeps its place among the worker's threads until it ends.
    assert (await daemon.says("tool.abandoned"))["busy"] == 1
    assert "blocking ended" not in (place.folder / "said").read_text()
    (place.folder / "go").touch()
    await said("blocking ended")
    await daemon.says("tool.ended_late")
    assert await place.task(task_id) == task
    assert await place.value("SELECT count(*) FROM runtime.agent_states") == 0
    assert await place.value("SELECT count(*) FROM runtime.journal WHERE kind = 'tool' AND output IS NOT NULL") == 0


async def test_another_process_cancels_a_task_whose_model_has_said_nothing_yet(
    place: Workplace, start: Callable[..., Daemon]
) -> None:
    await place.agent("helper", [{"text": "at last", "delay": "60s"}])
    daemon = start()
    await daemon.says("worker.ready")
    task_id = await place.submit("helper")
    await daemon.says("task.started", task_id=str(task_id))
    assert await cancel(place, task_id) == "asked"
    (task,) = await place.ended(task_id)
    assert (task.status, task.result["error"]["type"]) == ("cancelled", "Cancelled")
