"""The runtime from Python does what the command line does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from workplace import Workplace

from cirkelline.runtime import Runtime
from cirkelline.runtime.api import BadAgentFiles, TaskCancelled, TaskFailed, TaskUnfinished
from cirkelline.state.agents import AgentNotFound


@pytest.fixture
async def runtime(place: Workplace) -> AsyncIterator[Runtime]:
    async with Runtime.open(place.settings, worker=True, tools=place.tools, environ={}) as runtime:
        yield runtime


async def test_a_task_is_submitted_and_its_result_awaited(place: Workplace, runtime: Runtime) -> None:
    path = place.write("helper", [{"text": "You said: {{input}}"}])
    (applied,) = await runtime.agents.apply([path])
    assert (applied.name, applied.version) == ("helper", 1)
    task = await runtime.submit("helper", "hi")
    result = await task.result(timeout=30)
    assert (result.output, result.state_version) == ("You said: hi", 1)
    assert (await runtime.tasks.get(str(task.id)[:12])).id == task.id
    assert [each.id for each in await runtime.tasks.find(agent="helper", status="completed")] == [task.id]
    assert [each.handle for each in await runtime.agents.find()] == ["helper"]


async def test_a_failed_task_raises_with_the_reason(place: Workplace, runtime: Runtime) -> None:
    await runtime.agents.apply([place.write("helper", [{"text": "x", "error": "server", "message": "on fire"}])])
    task = await runtime.submit("helper", {"any": ["json"]})
    with pytest.raises(TaskFailed, match="on fire") as raised:
        await task.result(timeout=30)
    assert raised.value.task.status == "failed"


async def test_a_task_that_takes_too_long_goes_on_and_can_be_cancelled(place: Workplace, runtime: Runtime) -> None:
    await runtime.agents.apply([place.write("helper", [{"text": "x", "delay": "60s"}])])
    task = await runtime.submit("helper", "hi")
    with pytest.raises(TaskUnfinished):
        await task.result(timeout=0.05)
    await place.running(task.id)
    waiting = asyncio.create_task(task.result())
    assert await runtime.cancel(task.id) == "asked"
    with pytest.raises(TaskCancelled):
        await waiting


async def test_what_does_not_exist_is_said_with_a_suggestion(place: Workplace, runtime: Runtime) -> None:
    await runtime.agents.apply([place.write("helper", [{"text": "x"}])])
    with pytest.raises(AgentNotFound, match="did you mean 'helper'"):
        await runtime.submit("helpers", "hi")


async def test_bad_files_apply_nothing(place: Workplace, runtime: Runtime) -> None:
    good = place.write("helper", [{"text": "x"}])
    bad = place.configs / "bad.yaml"
    bad.write_text("name: bad\n")
    with pytest.raises(BadAgentFiles, match=r"bad\.yaml:1:1"):
        await runtime.agents.apply([good, bad])
    assert await runtime.agents.find() == []


ADD = """
from cirkelline.tools import WorkflowRun, workflow

def add(a: int, b: int) -> int:
    if b == 0:
        raise ValueError("nothing to add")
    return a + b

@workflow
async def sum_up(run: WorkflowRun, numbers: list[int]) -> dict:
    total = 0
    for n in numbers:
        total = await run.step(f"add {n}", add, total, n)
    return {"total": total}
"""


async def test_a_workflow_is_run_and_its_output_comes_back_as_json(place: Workplace, runtime: Runtime) -> None:
    place.tool("sums", ADD)
    assert await runtime.run_workflow("sum_up", {"numbers": [3, 4]}, timeout=30) == {"total": 7}
    run = await runtime.submit_workflow("sums:sum_up", {"numbers": [5]}, user="ivo")
    assert await run.output(timeout=30) == {"total": 5}
    record = await run.record()
    assert (record.status, record.steps_completed) == ("COMPLETED", ["add 5"])
    assert record.user_id == str((await run.get()).user_id)
    assert record.user_id is not None


async def test_a_failed_workflow_raises_with_the_step_and_the_reason(place: Workplace, runtime: Runtime) -> None:
    place.tool("sums", ADD)
    with pytest.raises(TaskFailed, match="step 'add 0' failed: ValueError: nothing to add"):
        await runtime.run_workflow("sum_up", {"numbers": [3, 0]}, timeout=30)


async def test_a_workflow_is_no_agent_to_submit_to(place: Workplace, runtime: Runtime) -> None:
    place.tool("sums", ADD)
    await runtime.run_workflow("sum_up", {"numbers": []}, timeout=30)
    with pytest.raises(AgentNotFound, match="is a workflow, not an agent"):
        await runtime.submit("workflow:sums:sum_up", "hi")
    assert await runtime.agents.find() == []
