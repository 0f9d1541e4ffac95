"""A step that has to be decided about parks its run, which goes on with what was decided."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID

import pytest
from test_workflows import begun_by_a_dead_worker, parked
from workflow_scene import WorkflowScene
from workplace import Workplace

from cirkelline.runtime import deciding
from cirkelline.state import parking, tasks
from cirkelline.state.connection import Conn
from cirkelline.state.journal import Step
from cirkelline.state.parking import Verdict

MONEY = """
from cirkelline.tools.builtins import ask_human, sleep

@tool(effects="once")
def pay(ctx: ToolContext, cents: int) -> int:
    mark("pay")
    return cents

@tool(approval=True, effects="idempotent")
def wire(cents: int) -> int:
    mark("wire")
    return cents

@workflow
async def paying(run: WorkflowRun) -> int:
    return await run.step("pay", pay, cents=500)

@workflow
async def wiring(run: WorkflowRun) -> list:
    try:
        return ["wired", await run.step("wire", wire, 500)]
    except StepFailed as error:
        return [error.kind, await run.step("pay", pay, 1)]

@workflow
async def asking(run: WorkflowRun) -> list:
    said = await run.step("ask", ask_human, "Ship it?", ["yes", "no"])
    return [said, await run.step("pay", pay, 1)]

@workflow
async def sleeping(run: WorkflowRun, how_long: str) -> str:
    return await run.step("sleep", sleep, how_long)

@workflow
async def stubborn(run: WorkflowRun) -> str:
    try:
        await run.step("ask", ask_human, "Ship it?")
    except Exception:
        pass
    return "shipped"
"""


@pytest.fixture
def scene(place: Workplace) -> WorkflowScene:
    scene = WorkflowScene(place)
    scene.write("money", MONEY)
    return scene


async def decided(scene: WorkflowScene, run_id: UUID, decide: Callable[[Conn], Awaitable[None]]) -> Any:
    """Decide about a parked run, and return its result."""
    async with scene.place.db.connection() as conn:
        await decide(conn)
    async with scene.place.working():
        (task,) = await scene.place.ended(run_id)
    return task.result


@pytest.mark.parametrize(
    ("verdict", "value", "comes_to", "marks"),
    [
        (Verdict.RETRY, None, 500, ["pay"]),
        (Verdict.RESULT, 7, 7, []),
        (Verdict.RESULT, "seven", "ResultUnusable", []),
        (Verdict.FAIL, "no money", "step 'pay' failed: it failed, as was decided: no money", []),
    ],
)
async def test_a_once_step_that_was_in_flight_waits_for_a_word_on_what_happened(
    scene: WorkflowScene, verdict: Verdict, value: Any, comes_to: Any, marks: list[str]
) -> None:
    run_id = await scene.submit("paying")
    await begun_by_a_dead_worker(scene, run_id, Step(position=1, call=-1, kind="step", name="pay", format=0))
    async with scene.place.working():
        assert await parked(scene, run_id) == "outcome"
    assert (await scene.run(run_id))[1:4] == ("RUNNING", "pay", [])
    result = await decided(
        scene, run_id, lambda conn: deciding.resolve(conn, run_id, verdict, value=value, state_limit=65_536)
    )
    if comes_to == "ResultUnusable":
        assert "is not what its function says it returns" in result["error"]["message"]
    else:
        assert result.get("output", result.get("error", {}).get("message")) == comes_to
    assert scene.marks == marks
    if "error" in result:  # to try again is not to know what happened: it is asked about again
        async with scene.place.db.connection() as conn:
            await tasks.retry(conn, run_id)
        async with scene.place.working():
            assert await parked(scene, run_id) == "outcome"
        assert scene.marks == marks


async def test_a_step_that_needs_approval_runs_when_it_is_approved(scene: WorkflowScene) -> None:
    run_id = await scene.submit("wiring")
    async with scene.place.working():
        assert await parked(scene, run_id) == "approval"
    async with scene.place.db.connection() as conn:
        (question,) = await parking.find(conn, run_id)
    assert (question.name, question.waits["arguments"], scene.marks) == ("wire", {"cents": 500}, [])
    assert (await decided(scene, run_id, lambda conn: deciding.approve(conn, run_id)))["output"] == ["wired", 500]
    assert (await scene.run(run_id))[3] == ["wire"]


async def test_a_step_that_was_rejected_failed_and_its_workflow_may_go_on(scene: WorkflowScene) -> None:
    run_id = await scene.submit("wiring")
    async with scene.place.working():
        await parked(scene, run_id)
    result = await decided(scene, run_id, lambda conn: deciding.reject(conn, run_id, reason="too much"))
    assert (result["output"], scene.marks) == (["Rejected", 1], ["pay"])
    assert (await scene.run(run_id))[3] == ["pay"]


async def test_a_step_may_ask_a_person(scene: WorkflowScene) -> None:
    run_id = await scene.submit("asking")
    async with scene.place.working():
        assert await parked(scene, run_id) == "answer"
    result = await decided(scene, run_id, lambda conn: deciding.answer(conn, run_id, "yes"))
    assert result["output"] == ["yes", 1]


async def test_a_step_may_sleep_and_holds_nothing_meanwhile(scene: WorkflowScene) -> None:
    long = await scene.submit("sleeping", {"how_long": "1h"})
    short = await scene.submit("sleeping", {"how_long": "100ms"})
    async with scene.place.working():
        (task,) = await scene.place.ended(short)
        assert task.result["output"] == "100ms have passed"
        assert await parked(scene, long) == "time"
        assert await scene.place.value("SELECT count(*) FROM runtime.claims") == 0


async def test_a_workflow_cannot_overlook_that_it_waits(scene: WorkflowScene) -> None:
    run_id = await scene.submit("stubborn")
    async with scene.place.working():
        assert await parked(scene, run_id) == "answer"
