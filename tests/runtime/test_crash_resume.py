"""Killed anywhere, a run goes on elsewhere: nothing on record is done again, and each tool says what else may happen."""

from __future__ import annotations

import signal

import pytest
from marked_tools import TEN, TEN_WORK, Scene, Start
from workplace import Workplace


@pytest.mark.parametrize("n", [0, 1, 5, 8])
async def test_a_ten_tool_run_killed_inside_a_tool_goes_on_with_that_tool(
    place: Workplace, start: Start, n: int
) -> None:
    scene = Scene(place, TEN)
    await scene.prepare()
    task_id = await scene.killed_in(n, start)
    (task,) = await place.ended(task_id)
    assert (task.status, task.attempt, task.result["output"]) == ("completed", 2, "done: put 9")
    assert scene.starts() == {f"{name} {at}": 2 if at == n else 1 for at, name in enumerate(TEN)}
    attempts = [attempt for _, attempt in await scene.asked()]
    assert attempts == [1] * (n + 1) + [2] * (10 - n)
    booked = sorted(at for at, name in enumerate(TEN) if name.startswith("book"))
    assert [row[0] for row in await place.rows("SELECT n FROM public.booked ORDER BY n")] == booked
    work = await place.value("SELECT state -> 'work' FROM runtime.agent_states")
    assert work == TEN_WORK
    assert len({line for line in scene.marks if line.startswith("key ")}) == 4


async def test_a_once_tool_that_was_cut_off_is_not_run_again_and_the_task_waits_for_a_decision(
    place: Workplace, start: Start
) -> None:
    scene = Scene(place, ["look", "pay", "look"])
    await scene.prepare()
    task_id = await scene.killed_in(1, start)
    await place.becomes("waiting", "SELECT status FROM runtime.tasks WHERE id = %s", task_id)
    (question,) = await place.waiting(task_id)
    assert (question.kind, question.name, question.waits["arguments"]) == ("outcome", "pay", {"n": 1})
    assert scene.starts() == {"look 0": 1, "pay 1": 1}


async def test_a_once_tool_that_says_retry_is_run_again(place: Workplace, start: Start) -> None:
    scene = Scene(place, ["pay", "pay_again"])
    await scene.prepare()
    (task,) = await place.ended(await scene.killed_in(1, start))
    assert task.status == "completed"
    assert scene.starts() == {"pay 0": 1, "pay_again 1": 2}


async def test_a_snapshot_and_a_definition_that_change_meanwhile_do_not_change_the_run(
    place: Workplace, start: Start
) -> None:
    scene = Scene(place, ["put", "look", "put", "look"], text="{{last_tool}}")
    await scene.prepare()
    agent = await place.agent_id("ten")
    await place.execute(
        """INSERT INTO runtime.agent_states (agent_id, state, version) VALUES (%s, '{"work": {"count": 10}}', 1)""",
        agent,
    )
    await place.execute("UPDATE runtime.agent_heads SET version = 1 WHERE agent_id = %s", agent)
    scene.hold(2)
    first = start("first")
    task_id = await place.submit("ten")
    await scene.started(2)
    await place.execute(
        """INSERT INTO runtime.agent_states (agent_id, state, version) VALUES (%s, '{"work": {"count": 500}}', 2)""",
        agent,
    )
    await place.execute("UPDATE runtime.agent_heads SET version = 2 WHERE agent_id = %s", agent)
    await scene.prepare(instructions="Say something else.")
    second = start("second")
    await second.says("worker.ready")
    first.signal(signal.SIGKILL)
    await first.ends()
    scene.let_go(2)
    (task,) = await place.ended(task_id)
    assert (task.status, task.definition_version, task.result["output"]) == ("completed", 1, "looked 3, count 12")
    assert await place.value("SELECT state -> 'work' ->> 'count' FROM runtime.agent_states WHERE version = 3") == "502"
