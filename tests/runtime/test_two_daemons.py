"""Two daemons on one database: nothing is lost, nothing is done twice, whichever of them dies."""

from __future__ import annotations

import signal
from collections.abc import Callable

from workplace import Daemon, Workplace, until

Start = Callable[..., Daemon]

BUSY = """
async def work(ctx: ToolContext) -> str:
    for number in range(100):
        ctx.state.increment("count")
        ctx.state.append("seen", f"{ctx.task_id.hex[:6]}-{number}")
        ctx.state[f"{ctx.task_id.hex[:6]}-{number}"] = number
    return "worked"
"""


async def test_a_daemon_killed_in_the_middle_of_200_tasks_loses_none_and_doubles_none(
    place: Workplace, start: Start
) -> None:
    agent = await place.agent("worker", [{"text": "done", "delay": "100ms"}])
    await place.submit_many("worker", 200)
    victim = start("victim")
    await victim.says("worker.ready")
    start("heir")

    claims = "SELECT count(*) FROM runtime.claims c JOIN runtime.workers w ON w.id = c.worker WHERE w.pid = %s"
    await place.becomes(True, "SELECT count(*) >= 30 FROM runtime.tasks WHERE status = 'completed'")
    await place.becomes(True, claims.replace("count(*)", "count(*) > 0"), victim.process.pid)
    victim.signal(signal.SIGKILL)

    await place.becomes(200, "SELECT count(*) FROM runtime.tasks WHERE status = 'completed'")
    orphans = await place.value("SELECT count(*) FROM runtime.tasks WHERE attempt = 2 AND deaths = 1")
    assert 1 <= orphans <= place.settings.concurrency
    assert await place.value("SELECT count(*) FROM runtime.tasks WHERE attempt > 2 OR attempt > deaths + 1") == 0
    versions = [row[0] for row in await place.rows("SELECT version FROM runtime.agent_states ORDER BY version")]
    assert versions == list(range(1, 201))
    stored = await place.rows("SELECT state_version FROM runtime.tasks ORDER BY state_version")
    assert [row[0] for row in stored] == versions
    newest = await place.value("SELECT state -> 'stats' -> 'completed' FROM runtime.agent_states WHERE version = 200")
    assert newest == 200
    assert await place.value("SELECT version FROM runtime.agent_heads WHERE agent_id = %s", agent) == 200


async def test_overlapping_runs_of_one_agent_on_two_daemons_lose_no_change_of_its_state(
    place: Workplace, start: Start
) -> None:
    place.tool("busy", BUSY)
    # The second turn waits, so that all eight runs have begun, and read the same state, before the first one ends.
    turns = [{"tool": "work"}, {"text": "done", "delay": "3s"}]
    await place.agent("counter", turns, tools=[{"python": "busy:work"}])
    for name in ("first", "second"):
        await start(name).says("worker.ready")
    await place.submit_many("counter", 8)
    await place.becomes(8, "SELECT count(*) FROM runtime.tasks WHERE status = 'completed'")

    assert await place.value("SELECT max(started_at) < min(finished_at) FROM runtime.tasks"), "they did not overlap"
    assert await place.value("SELECT count(DISTINCT worker) FROM runtime.tasks") == 2
    work = await place.value("SELECT state -> 'work' FROM runtime.agent_states ORDER BY version DESC LIMIT 1")
    ids = [row[0].hex[:6] for row in await place.rows("SELECT id FROM runtime.tasks")]
    expected = {f"{task}-{number}": number for task in ids for number in range(100)}
    assert work.pop("count") == 800
    seen = work.pop("seen")
    assert sorted(seen) == sorted(expected)
    assert work == expected
    for task in ids:  # each run's own operations stay in their order
        assert [each for each in seen if each.startswith(task)] == [f"{task}-{number}" for number in range(100)]


async def test_a_tool_that_blocks_the_event_loop_does_not_cost_the_lease(place: Workplace, start: Start) -> None:
    # An async tool that never awaits stops everything in its process but the thread that beats.
    place.tool("rude", "async def block() -> str:\n    time.sleep(4)\n    return 'sorry'\n")
    await place.agent("rude", [{"tool": "block"}, {"text": "{{last_tool}}"}], tools=[{"python": "rude:block"}])
    daemons = [start("first"), start("second")]
    for daemon in daemons:
        await daemon.says("worker.ready")
    task_id = await place.submit("rude")
    (task,) = await place.ended(task_id)
    assert (task.result["output"], task.attempt, task.deaths) == ("sorry", 1, 0)
    assert not any(daemon.said("tasks.taken_over") or daemon.said("worker.declared_dead") for daemon in daemons)


WHO = """
import os, pathlib
from cirkelline.tools import tool

@tool(effects="read")
def who() -> str:
    pathlib.Path(f"asked-{os.getpid()}").touch()
    while not pathlib.Path("go").exists():
        time.sleep(0.01)
    return str(os.getpid())
"""


async def test_a_daemon_that_was_frozen_and_thought_dead_cannot_overwrite_what_its_heir_wrote(
    place: Workplace, start: Start
) -> None:
    place.tool("who", WHO)
    turns = [{"tool": "who"}, {"text": "{{last_tool}}"}]
    await place.agent("who", turns, tools=[{"python": "who:who"}])
    frozen = start("frozen")
    await frozen.says("worker.ready")
    task_id = await place.submit("who")
    await is_asked(place, frozen)
    heir = start("heir")
    await heir.says("worker.ready")
    frozen.signal(signal.SIGSTOP)
    await is_asked(place, heir)
    (place.folder / "go").touch()
    (task,) = await place.ended(task_id)
    frozen.signal(signal.SIGCONT)

    await frozen.says("worker.declared_dead")
    assert (task.result["output"], task.attempt) == (str(heir.process.pid), 2)
    # It goes on under a new id, and what it does then counts.
    await place.becomes(2, "SELECT count(*) FROM runtime.workers WHERE seen > clock_timestamp() - lease")
    heir.signal(signal.SIGTERM)
    await heir.ends()
    again = await place.submit("who")
    assert (await place.result(again))["output"] == str(frozen.process.pid)
    assert await place.task(task_id) == task


TAKE = """
import asyncio, os, pathlib
from cirkelline.tools import tool

@tool(effects="transactional")
async def take(ctx: ToolContext) -> str:
    await ctx.connection.execute("UPDATE public.stock SET pieces = pieces - 1")
    pathlib.Path(f"asked-{os.getpid()}").touch()
    while not pathlib.Path("go").exists():
        await asyncio.sleep(0.01)
    return str(os.getpid())
"""


async def test_what_a_frozen_workers_tool_had_locked_does_not_keep_its_heir_waiting(
    place: Workplace, start: Start
) -> None:
    await place.execute("CREATE TABLE public.stock AS SELECT 10 AS pieces")
    place.tool("take", TAKE)
    await place.agent("taker", [{"tool": "take"}, {"text": "{{last_tool}}"}], tools=[{"python": "take:take"}])
    frozen = start("frozen")
    await frozen.says("worker.ready")
    task_id = await place.submit("taker")
    await is_asked(place, frozen)
    heir = start("heir")
    await heir.says("worker.ready")
    frozen.signal(signal.SIGSTOP)
    await is_asked(place, heir)  # its update had to wait for the frozen one's lock
    frozen.signal(signal.SIGCONT)
    await frozen.says("worker.declared_dead")
    (place.folder / "go").touch()
    (task,) = await place.ended(task_id)
    assert (task.result["output"], task.attempt) == (str(heir.process.pid), 2)
    assert await place.value("SELECT pieces FROM public.stock") == 9


async def is_asked(place: Workplace, daemon: Daemon) -> None:
    """Wait until the daemon's tool runs."""

    async def look() -> bool:
        return (place.folder / f"asked-{daemon.process.pid}").exists()

    await until(look, f"the tool of {daemon.process.pid}")
