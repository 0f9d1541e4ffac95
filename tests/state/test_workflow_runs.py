"""`ai.workflow_runs` says what the task of the run and its journal say, whoever changes them."""

from __future__ import annotations

from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
import scene

from cirkelline.state import agents, claims, journal, tasks, workflows
from cirkelline.state.claims import Claim, Finish
from cirkelline.state.connection import Conn, Database
from cirkelline.state.journal import Fence, Step
from cirkelline.state.workflows import RunNotFound, WorkflowTaken

RUN = """
SELECT status, current_step, steps_completed, output_data, error_message, completed_at IS NOT NULL
  FROM ai.workflow_runs WHERE run_id = %s
"""


async def submitted(conn: Conn, db: Database, label: str = "m:digest", **columns: Any) -> UUID:
    agent_id = await workflows.ensure(db, label)
    return await tasks.submit(conn, agent_id=agent_id, payload={"input": {"n": 1}}, task_type="workflow", **columns)


async def claimed(conn: Conn, run_id: UUID) -> tuple[Claim, Fence]:
    task = await tasks.get(conn, run_id)
    assert task.agent_id is not None
    owner = await scene.worker(conn)
    claim = await scene.claim_one(conn, owner, task.agent_id)
    return claim, Fence(owner, claim.id, claim.attempt)


def step(position: int, name: str, output: Any = None, **more: Any) -> Step:
    return Step(position=position, call=-1, kind="step", name=name, format=1, output=output, **more)


async def run(conn: Conn, run_id: UUID) -> tuple[Any, ...]:
    row = await (await conn.execute(RUN, [str(run_id)])).fetchone()
    assert row is not None
    return row


async def finish(conn: Conn, fence: Fence, status: Any, result: Any, error: str | None = None) -> None:
    ended = Finish(fence.task, fence.attempt, status, result, error=error)
    await claims.finish(conn, fence.worker, [ended.as_json()], state_limit=scene.LIMIT)


async def test_a_run_goes_through_the_documents_statuses_with_its_task(conn: Conn, db: Database) -> None:
    run_id = await submitted(conn, db)
    assert await run(conn, run_id) == ("PENDING", None, [], None, None, False)
    _, fence = await claimed(conn, run_id)
    assert await run(conn, run_id) == ("RUNNING", None, [], None, None, False)
    await journal.write(conn, fence, [step(1, "fetch")])
    assert await run(conn, run_id) == ("RUNNING", "fetch", [], None, None, False)
    await journal.write(conn, fence, [step(1, "fetch", {"value": 7}, ms=30)])
    assert await run(conn, run_id) == ("RUNNING", None, ["fetch"], None, None, False)
    await journal.write(conn, fence, [step(2, "store", {"value": 8}, ms=12)])
    await finish(conn, fence, "completed", {"output": [7, 8]})
    assert await run(conn, run_id) == ("COMPLETED", None, ["fetch", "store"], [7, 8], None, True)
    metrics = await scene.rows(conn, "SELECT metrics FROM ai.workflow_runs")
    steps = {"fetch": {"ms": 30, "attempt": 1}, "store": {"ms": 12, "attempt": 1}}
    assert metrics == [{"attempts": 1, "ms": 42, "steps": steps}]


async def test_a_run_failed_with_its_tasks_sentence_at_its_step_and_runs_again_when_that_is_retried(
    conn: Conn, db: Database
) -> None:
    run_id = await submitted(conn, db)
    _, fence = await claimed(conn, run_id)
    failed = {"failed": {"type": "ValueError", "message": "no"}}
    await journal.write(conn, fence, [step(1, "fetch", {"value": 1}), step(2, "store", failed, error=True)])
    await finish(conn, fence, "failed", {"error": {"type": "StepFailed", "message": "no store"}}, "no store")
    assert await run(conn, run_id) == ("FAILED", "store", ["fetch"], None, "no store", True)
    await tasks.retry(conn, run_id)
    assert await run(conn, run_id) == ("PENDING", None, ["fetch"], None, None, False)
    await claimed(conn, run_id)
    assert (await run(conn, run_id))[0] == "RUNNING"


@pytest.mark.parametrize("running", [False, True])
async def test_a_cancelled_run_failed_with_that_word(conn: Conn, db: Database, running: bool) -> None:
    run_id = await submitted(conn, db)
    if running:
        _, fence = await claimed(conn, run_id)
        await tasks.cancel(conn, run_id)
        await finish(conn, fence, "cancelled", {"error": {"type": "Cancelled", "message": "cancelled"}}, "cancelled")
    else:
        await tasks.cancel(conn, run_id)
    assert await run(conn, run_id) == ("FAILED", None, [], None, "cancelled", True)


async def test_a_run_of_a_dead_worker_is_in_line_again_at_its_step_until_the_fifth_parks_it(
    conn: Conn, db: Database
) -> None:
    run_id = await submitted(conn, db)
    for death in range(claims.DEATHS_ALLOWED):
        _, fence = await claimed(conn, run_id)
        await journal.write(conn, fence, [step(1, "fetch")])
        await scene.die(conn, fence.worker)
        await claims.take_over(conn)
        await scene.time_passes(conn)
        if death < claims.DEATHS_ALLOWED - 1:
            assert (await run(conn, run_id))[:3] == ("PENDING", "fetch", [])
    assert (await tasks.get(conn, run_id)).status == "waiting"
    assert await run(conn, run_id) == ("RUNNING", "fetch", [], None, None, False)


async def test_a_parked_run_is_running(conn: Conn, db: Database) -> None:
    run_id = await submitted(conn, db)
    await conn.execute("UPDATE runtime.tasks SET status = 'waiting'")
    assert (await run(conn, run_id))[0] == "RUNNING"


async def test_plain_sql_on_the_task_reaches_the_record(conn: Conn, db: Database) -> None:
    run_id = await submitted(conn, db)
    await conn.execute("UPDATE runtime.tasks SET status = 'completed', result = '{\"output\": 3}'")
    assert await run(conn, run_id) == ("COMPLETED", None, [], 3, None, True)
    await conn.execute("UPDATE runtime.tasks SET status = 'archived'")
    assert (await run(conn, run_id))[4] == "its task was given the status archived"


@pytest.mark.parametrize("statement", ["DELETE FROM runtime.tasks", "TRUNCATE runtime.tasks"])
async def test_a_run_whose_task_is_removed_stays_as_a_record_that_it_failed(
    conn: Conn, db: Database, statement: Any
) -> None:
    await conn.execute(
        "INSERT INTO ai.workflow_runs (run_id, workflow_name, status) VALUES ('theirs', 'x', 'RUNNING'), (%s, 'x', 'RUNNING')",
        [str(uuid4())],
    )
    done, open_ = await submitted(conn, db), await submitted(conn, db)
    await conn.execute("UPDATE runtime.tasks SET status = 'completed' WHERE id = %s", [done])
    await conn.execute(statement)
    assert await run(conn, open_) == ("FAILED", None, [], None, "its task was removed", True)
    assert (await run(conn, done))[0] == "COMPLETED"
    assert await scene.rows(conn, "SELECT status FROM ai.workflow_runs WHERE workflow_name = 'x'") == ["RUNNING"] * 2


async def test_a_task_of_that_type_for_an_ordinary_agent_is_no_run(conn: Conn) -> None:
    agent_id = await scene.agent(conn)
    task_id = await tasks.submit(conn, agent_id=agent_id, payload={"input": "x"}, task_type="workflow")
    _, fence = await claimed(conn, task_id)
    await journal.write(conn, fence, [step(1, "fetch")])
    await finish(conn, fence, "completed", {"output": "done"})
    assert await scene.rows(conn, "SELECT run_id FROM ai.workflow_runs") == []


async def test_a_run_has_the_name_the_input_and_the_user_of_its_task(conn: Conn, db: Database) -> None:
    user = uuid4()
    run_id = await submitted(conn, db, user_id=user)
    found = await workflows.get(conn, str(run_id))
    assert (found.workflow_name, found.input_data, found.user_id) == ("m:digest", {"n": 1}, str(user))
    assert found.task_id == run_id


async def test_a_claim_does_not_wait_for_whoever_holds_the_record(conn: Conn, db: Database, database_url: str) -> None:
    run_id = await submitted(conn, db)
    with psycopg.connect(database_url) as outsider:
        outsider.execute("UPDATE ai.workflow_runs SET workflow_name = workflow_name")
        await conn.execute("SET statement_timeout = '5s'")
        _, fence = await claimed(conn, run_id)
        outsider.rollback()
    await journal.write(conn, fence, [step(1, "fetch")])
    assert (await run(conn, run_id))[:2] == ("RUNNING", "fetch")


async def test_a_zombie_s_step_changes_nothing_of_the_record(conn: Conn, db: Database) -> None:
    run_id = await submitted(conn, db)
    _, fence = await claimed(conn, run_id)
    await scene.die(conn, fence.worker)
    await claims.take_over(conn)
    await journal.write(conn, fence, [step(1, "fetch", {"value": 1})])
    assert (await run(conn, run_id))[:3] == ("PENDING", None, [])


async def test_the_row_that_stands_for_a_workflow_is_made_once_and_put_right(conn: Conn, db: Database) -> None:
    first = await workflows.ensure(db, "m:digest")
    await conn.execute("UPDATE runtime.agents SET config = '{}'")  # somebody's hand: no worker would serve it
    assert await workflows.ready(conn, "m:digest") is None
    assert await workflows.ensure(db, "m:digest") == first
    assert await workflows.ready(conn, "m:digest") == first


async def test_a_workflow_takes_no_agents_handle(conn: Conn, db: Database) -> None:
    agent_id = await scene.agent(conn, "other")
    await conn.execute("UPDATE runtime.agents SET handle = 'workflow:m:digest' WHERE id = %s", [agent_id])
    with pytest.raises(WorkflowTaken, match="belongs to an agent of type 'assistant'"):
        await workflows.ensure(db, "m:digest")


async def test_no_list_of_agents_holds_a_workflow(conn: Conn, db: Database) -> None:
    await scene.agent(conn, "helper")
    await workflows.ensure(db, "m:digest")
    await workflows.ensure(db, "helper")
    await conn.execute("UPDATE runtime.agents SET definition_version = NULL WHERE type = 'workflow'")
    assert [each.handle for each in await agents.find(conn)] == ["helper"]
    assert [each.handle for each in await agents.named(conn)] == ["helper"]
    assert [each.handle for each in await agents.search(conn, "workflow")] == []
    assert await agents.unchecked(conn) == await agents.unaccepted(conn) == []
    assert [each.spec["name"] for each in await agents.current_definitions(conn)] == ["helper"]
    assert (await agents.get(conn, "helper")).workflow is None
    assert (await agents.get(conn, "workflow:m:digest")).workflow == "m:digest"


async def test_an_agent_of_the_type_workflow_is_an_agent(conn: Conn) -> None:
    await conn.execute("INSERT INTO runtime.agents (name, type) VALUES ('theirs', 'workflow')")
    assert [each.name for each in await agents.unchecked(conn)] == ["theirs"]


async def test_a_run_is_found_by_the_beginning_of_its_id_and_another_programs_by_the_whole(
    conn: Conn, db: Database
) -> None:
    run_id = await submitted(conn, db)
    await conn.execute(
        "INSERT INTO ai.workflow_runs (run_id, workflow_name, status) VALUES ('night', 'x', 'ODD'), ('night-2', 'x', 'ODD')"
    )
    assert await workflows.resolve(conn, str(run_id)[:6]) == str(run_id)
    assert await workflows.resolve(conn, "night") == "night"
    with pytest.raises(RunNotFound, match="more than one"):
        await workflows.resolve(conn, "nigh")
    for reference in ("zzz", "%", ""):
        with pytest.raises(RunNotFound, match="no workflow run's id starts with"):
            await workflows.resolve(conn, reference)
    assert (await workflows.get(conn, "night")).task_id is None


async def test_runs_are_found_by_status_and_by_workflow_the_newest_first(conn: Conn, db: Database) -> None:
    first, second = await submitted(conn, db), await submitted(conn, db)
    other = await submitted(conn, db, "m:other_one")
    await conn.execute("UPDATE runtime.tasks SET status = 'completed' WHERE id = %s", [first])

    async def found(**filters: Any) -> list[str]:
        return [each.run_id for each in await workflows.find(conn, **filters)]

    assert await found() == [str(other), str(second), str(first)]
    assert await found(status="PENDING") == [str(other), str(second)]
    assert await found(workflow="m:digest") == await found(workflow="digest") == [str(second), str(first)]
    assert await found(workflow="other_one") == [str(other)]
    assert await found(workflow="otherXone") == await found(workflow="%") == []
    assert await found(limit=1) == [str(other)]
