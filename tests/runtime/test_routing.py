"""Tasks that name capabilities: an idle agent that has them all gets each, the least loaded first, when there is room."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import Any
from uuid import UUID

from workplace import Workplace

from cirkelline.runtime import Runtime
from cirkelline.state import submitting, tasks
from cirkelline.state.submitting import NewTask

SAY = [{"text": "done"}]
SLOW = [{"text": "done", "delay": "30s"}]


async def need(place: Workplace, *capabilities: str, **columns: Any) -> UUID:
    new = NewTask(agent_id=None, payload={"input": "go"}, capabilities=capabilities, **columns)
    async with place.db.connection() as conn:
        return (await submitting.submit(conn, new)).id


async def test_an_agent_that_has_them_all_gets_the_task(place: Workplace) -> None:
    await place.agent("half", SAY, capabilities=["research"])
    await place.agent("whole", SAY, capabilities=["cite", "draw", "research"])
    async with Runtime.open(place.settings, worker=True, tools=place.tools, environ={}) as runtime:
        task = await (await runtime.submit(None, "go", capabilities=["research", "cite"])).result(timeout=30)
    assert (task.task.agent, task.task.capabilities) == ("whole", ["cite", "research"])
    assert await place.value("SELECT count(*) FROM runtime.unrouted") == 0


async def test_the_least_loaded_one_gets_it(place: Workplace) -> None:
    for name in ("a", "b", "c"):
        await place.agent(name, SLOW, capabilities=["wait"])
    await place.submit_many("a", 2)
    await place.submit_many("b", 1)
    ids = [await need(place, "wait") for _ in range(4)]
    async with place.working(slots=1):
        await place.becomes(0, "SELECT count(*) FROM runtime.unrouted")
        chosen = [(await place.task(each)).agent for each in ids]
    assert chosen[0] == "c"
    assert {*chosen[:3]} == {"b", "c"}  # two, one and none to do; then two each


async def test_a_capped_agent_that_is_busy_is_not_idle(place: Workplace) -> None:
    await place.agent("only", SLOW, capabilities=["wait"], limits={"concurrency": 1})
    await place.submit_many("only", 1)
    task_id = await need(place, "wait")
    async with place.working():
        await place.becomes(1, "SELECT count(*) FROM runtime.claims")
        async with place.db.connection() as conn:
            agents = [await place.agent_id("only")]
            from cirkelline.state import routing  # noqa: PLC0415 - beside the one call

            assert await routing.route(conn, agents, most=10) == 0
        assert (await place.task(task_id)).agent is None
        await place.execute("UPDATE runtime.claims SET cancelled = TRUE")
        await place.becomes("running", "SELECT status FROM runtime.tasks WHERE capabilities IS NOT NULL")


async def test_paused_and_unserved_agents_get_nothing_until_they_can_work(place: Workplace) -> None:
    agent = await place.agent("sleeper", SAY, capabilities=["sing"])
    await place.execute("UPDATE runtime.agents SET status = 'paused' WHERE id = %s", agent)
    task_id = await need(place, "sing")
    async with place.working() as worker:
        await place.becomes(True, "SELECT waiting FROM runtime.workers")
        assert await worker._route() is False
        assert (await place.task(task_id)).status == "pending"
        await place.execute("UPDATE runtime.agents SET status = 'idle' WHERE id = %s", agent)
        (task,) = await place.ended(task_id)
    assert (task.status, task.agent) == ("completed", "sleeper")


async def test_it_waits_for_its_time_and_can_be_cancelled_and_keyed(place: Workplace) -> None:
    await place.agent("singer", SAY, capabilities=["sing"])
    later = await need(place, "sing", delay=3600)
    first = await need(place, "sing", key="k", delay=3600)
    assert await need(place, "sing", "sing", key="k") == first
    async with place.working():
        (done,) = await place.ended(await need(place, "sing"))
        assert (await place.task(later)).agent is None
        async with place.db.connection() as conn:
            assert await tasks.cancel(conn, later) == "cancelled"
    assert done.status == "completed"
    assert await place.rows("SELECT task_id FROM runtime.unrouted") == [(first,)]


async def test_a_drained_worker_waits_for_one_whose_agent_is_being_chosen_elsewhere(place: Workplace) -> None:
    await place.agent("singer", SAY, capabilities=["sing"])
    task_id = await need(place, "sing")
    async with place.db.connection() as conn, AsyncExitStack() as stack:
        async with conn.transaction():
            await conn.execute("SELECT FROM runtime.tasks WHERE id = %s FOR NO KEY UPDATE", (task_id,))
            await stack.enter_async_context(place.working(drain=True))
            await place.becomes(True, "SELECT waiting FROM runtime.workers")
        (task,) = await place.ended(task_id)
    assert task.status == "completed"


async def test_a_drained_worker_does_what_it_can_choose_an_agent_for(place: Workplace) -> None:
    await place.agent("singer", SAY, capabilities=["sing"])
    task_id = await need(place, "sing")
    async with place.working(drain=True):
        (task,) = await place.ended(task_id)
    assert task.status == "completed"
