"""Runs that the process which begins them carries out itself: real runs, which no daemon takes and the next one goes on with."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any
from uuid import UUID

import pytest
from workplace import Daemon, Workplace

from cirkelline.runtime import own_runs
from cirkelline.runtime import workflows as known
from cirkelline.runtime.own_runs import OwnRun, RunFailed, RunPaused
from cirkelline.tools import WorkflowRun, workflow, workflows
from cirkelline.tools.toolbox import Toolbox
from cirkelline.tools.workflows import Workflow

LABEL = "knowledge_add"


def always(_given: Any, _user: UUID | None) -> bool:
    return True


class Steps:
    """A workflow of three steps that says which it did, and waits inside of one of them."""

    def __init__(self, hold: int | None = None) -> None:
        self.done: list[int] = []
        self.hold = hold
        self.reached = asyncio.Event()

    async def step(self, number: int) -> int:
        if number == self.hold:
            self.reached.set()
            await asyncio.Event().wait()
        self.done.append(number)
        return number

    def workflow(self, *, fails: bool = False) -> Workflow:
        @workflow
        async def three(run: WorkflowRun, host: str = "") -> list[int]:
            """Take three steps."""
            assert host
            gave = [await run.step(f"step {number}", self.step, number) for number in range(3)]
            if fails:
                raise ValueError("no more")
            return gave

        found = workflows.marked(three)
        assert found is not None
        return found


async def cut_off(place: Workplace, run: OwnRun, steps: Steps) -> None:
    """Carry a run out until its steps wait, and cancel it there, as Ctrl-C does."""
    carrying = asyncio.create_task(own_runs.carry_out(place.opened, run, LABEL, steps.workflow()))
    await asyncio.wait_for(steps.reached.wait(), 30)
    carrying.cancel()
    with pytest.raises(asyncio.CancelledError):
        await carrying


async def record(place: Workplace, run: OwnRun) -> tuple[Any, ...]:
    return (
        await place.rows(
            "SELECT workflow_name, status, steps_completed, output_data FROM ai.workflow_runs WHERE run_id = %s",
            str(run.id),
        )
    )[0]


async def test_a_run_of_a_command_is_a_run_with_a_record_and_steps(place: Workplace) -> None:
    run = await own_runs.submit(place.opened, LABEL, {}, user_id=None)
    task = await own_runs.carry_out(place.opened, run, LABEL, Steps().workflow())
    assert task.result["output"] == [0, 1, 2]
    assert await record(place, run) == (LABEL, "COMPLETED", ["step 0", "step 1", "step 2"], [0, 1, 2])
    assert await place.value("SELECT count(*) FROM runtime.workers") == 0


async def test_a_run_that_was_cut_off_goes_on_after_its_last_step(place: Workplace) -> None:
    run = await own_runs.submit(place.opened, LABEL, {}, user_id=None)
    await cut_off(place, run, Steps(hold=1))
    assert (await record(place, run))[1] == "PENDING"
    found = await own_runs.interrupted(place.opened, LABEL, always)
    assert found is not None
    assert (found.id, found.begun) == (run.id, True)
    steps = Steps()
    await own_runs.carry_out(place.opened, found, LABEL, steps.workflow())
    assert steps.done == [1, 2]
    assert await own_runs.interrupted(place.opened, LABEL, always) is None


async def test_no_daemon_takes_the_run_of_a_command_or_complains(
    place: Workplace, start: Callable[..., Daemon]
) -> None:
    run = await own_runs.submit(place.opened, LABEL, {}, user_id=None)
    daemon = start()
    await daemon.says("worker.ready")
    agent = await place.agent("echo", [{"text": "hi"}])
    await place.ended(await place.submit("echo"))
    assert agent
    assert (await record(place, run))[1] == "PENDING"
    assert daemon.said("agent.unservable") == []


async def test_two_runs_of_one_workflow_keep_to_their_own(place: Workplace) -> None:
    one = await own_runs.submit(place.opened, LABEL, {"n": 1}, user_id=None)
    other = await own_runs.submit(place.opened, LABEL, {"n": 2}, user_id=None)
    steps = Steps()
    await own_runs.carry_out(place.opened, other, LABEL, _any_input(steps))
    assert steps.done == [0, 1, 2]
    assert (await record(place, one))[1] == "PENDING"
    assert (await record(place, other))[1] == "COMPLETED"


def _any_input(steps: Steps) -> Workflow:
    @workflow
    async def three(run: WorkflowRun, n: int, host: str = "") -> list[int]:
        """Take three steps."""
        del n, host
        return [await run.step(f"step {number}", steps.step, number) for number in range(3)]

    found = workflows.marked(three)
    assert found is not None
    return found


async def test_a_run_that_a_living_process_carries_out_is_left_to_it(place: Workplace) -> None:
    run = await own_runs.submit(place.opened, LABEL, {}, user_id=None)
    steps = Steps(hold=0)
    carrying = asyncio.create_task(own_runs.carry_out(place.opened, run, LABEL, steps.workflow()))
    await asyncio.wait_for(steps.reached.wait(), 30)
    assert await own_runs.interrupted(place.opened, LABEL, always) is None
    carrying.cancel()
    with pytest.raises(asyncio.CancelledError):
        await carrying


async def test_a_run_of_another_machine_is_left_alone(place: Workplace) -> None:
    run = await own_runs.submit(place.opened, LABEL, {}, user_id=None)
    await place.execute(
        """UPDATE runtime.tasks SET payload = '{"input": {"host": "elsewhere"}}' WHERE id = %s""", run.id
    )
    assert await own_runs.interrupted(place.opened, LABEL, always) is None


async def test_a_run_whose_process_died_five_times_goes_on_when_it_is_asked_for_again(place: Workplace) -> None:
    run = await own_runs.submit(place.opened, LABEL, {}, user_id=None)
    await place.execute("DELETE FROM runtime.queue WHERE task_id = %s", run.id)
    await place.execute(
        "UPDATE runtime.tasks SET status = 'waiting', deaths = 5, error = 'its worker died 5 times' WHERE id = %s",
        run.id,
    )
    found = await own_runs.interrupted(place.opened, LABEL, always)
    assert found is not None
    steps = Steps()
    await own_runs.carry_out(place.opened, found, LABEL, steps.workflow())
    assert steps.done == [0, 1, 2]


async def test_a_failed_run_says_why(place: Workplace) -> None:
    run = await own_runs.submit(place.opened, LABEL, {}, user_id=None)
    with pytest.raises(RunFailed, match="failed: ValueError: no more"):
        await own_runs.carry_out(place.opened, run, LABEL, Steps().workflow(fails=True))


async def test_a_run_that_is_cancelled_from_elsewhere_ends(place: Workplace) -> None:
    run = await own_runs.submit(place.opened, LABEL, {}, user_id=None)
    steps = Steps(hold=1)
    carrying = asyncio.create_task(own_runs.carry_out(place.opened, run, LABEL, steps.workflow()))
    await asyncio.wait_for(steps.reached.wait(), 30)
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "cirkelline", "tasks", "cancel", str(run.id), "--json"],
        env={"DATABASE_URL": place.db.url, "PATH": "/usr/bin:/bin", "HOME": str(place.folder)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert json.loads(done.stdout)
    with pytest.raises(RunFailed, match="cancelled"):
        await asyncio.wait_for(carrying, 30)


async def test_a_paused_workflow_says_how_to_go_on(place: Workplace) -> None:
    run = await own_runs.submit(place.opened, LABEL, {}, user_id=None)
    await place.execute("UPDATE runtime.agents SET status = 'paused' WHERE id = %s", run.agent_id)
    with pytest.raises(RunPaused, match="cirkelline agents resume workflow:knowledge_add"):
        await own_runs.submit(place.opened, LABEL, {}, user_id=None)


async def test_workflows_run_names_the_command_that_begins_such_a_run(place: Workplace) -> None:
    with pytest.raises(known.WorkflowNotFound, match="`cirkelline knowledge add`"):
        await known.submit(place.db, Toolbox(None), LABEL)
