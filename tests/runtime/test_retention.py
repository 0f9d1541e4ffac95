"""Retention: what is old goes, in small batches; what is needed, or not ours, stays."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from uuid import UUID

from workplace import Workplace

from cirkelline.runtime import retention
from cirkelline.state.retention import Ages

DAY = timedelta(days=1)
AGES = Ages(completed=90 * DAY, failed=None, states=30 * DAY, versions=None)
AGE = (
    "UPDATE runtime.tasks SET created_at = created_at - %s::interval, finished_at = now() - %s::interval WHERE id = %s"
)


async def ended(place: Workplace, status: str, days: int) -> UUID:
    agent = await place.agent_id("helper")
    ((task,),) = await place.rows(
        "INSERT INTO runtime.tasks (agent_id, status, payload) VALUES (%s, %s, '{}') RETURNING id", agent, status
    )
    await place.execute(AGE, f"{days} days", f"{days} days", task)
    return UUID(str(task))


async def left(place: Workplace) -> set[UUID]:
    return {row[0] for row in await place.rows("SELECT id FROM runtime.tasks")}


async def test_completed_tasks_go_after_their_time_and_the_others_stay(place: Workplace) -> None:
    await place.agent("helper", [{"text": "hi"}])
    old = [await ended(place, "completed", 91) for _ in range(5)]
    kept = {await ended(place, status, 400) for status in ("failed", "cancelled", "pending", "running", "waiting")}
    kept |= {await ended(place, "completed", 89)}
    adopted = await ended(place, "completed", 400)
    await place.execute("UPDATE runtime.tasks SET adopted = TRUE WHERE id = %s", adopted)
    dry = await retention.sweep(place.db, AGES, dry=True, batch=2)
    assert (dry.tasks, await left(place)) == (5, {*old, *kept, adopted})
    assert (await retention.sweep(place.db, AGES, batch=2)).tasks == 5
    assert await left(place) == {*kept, adopted}
    failed = Ages(completed=None, failed=90 * DAY, states=None, versions=None)
    assert (await retention.sweep(place.db, failed)).tasks == 2


async def test_a_parent_outlives_its_unfinished_children(place: Workplace) -> None:
    await place.agent("helper", [{"text": "hi"}])
    parent, child = await ended(place, "completed", 100), await ended(place, "waiting", 100)
    await place.execute("UPDATE runtime.tasks SET parent = %s WHERE id = %s", parent, child)
    assert (await retention.sweep(place.db, AGES)).tasks == 0
    await place.execute("UPDATE runtime.tasks SET status = 'completed' WHERE id = %s", child)
    assert (await retention.sweep(place.db, AGES)).tasks == 2


async def test_what_was_said_outlives_the_task(place: Workplace) -> None:
    await place.agent("helper", [{"text": "You said: {{input}}"}])
    session, user = await place.session("helper")
    async with place.working():
        (turn,) = await place.ended(await place.turn(session, user, "hello"))
    await place.execute(AGE, "100 days", "100 days", turn.id)
    assert (await retention.sweep(place.db, AGES)).tasks == 1
    assert await place.messages(session, user) == [("user", "hello"), ("assistant", "You said: hello")]
    assert await place.value("SELECT count(*) FROM runtime.journal") == 0


async def a_run(place: Workplace, days: int, status: str = "completed") -> UUID:
    """A workflow's run that ended so many days ago."""
    await place.execute(
        "INSERT INTO runtime.agents (name, type, handle) SELECT 'nightly', 'workflow', 'workflow:nightly'"
        " WHERE NOT EXISTS (SELECT FROM runtime.agents WHERE handle = 'workflow:nightly')"
    )
    ((run,),) = await place.rows(
        "INSERT INTO runtime.tasks (agent_id, task_type, status, payload, completed_at)"
        " SELECT id, 'workflow', %s, '{}', now() AT TIME ZONE 'UTC' - %s::interval"
        " FROM runtime.agents WHERE handle = 'workflow:nightly' RETURNING id",
        status,
        f"{days} days",
    )
    await place.execute(AGE, f"{days} days", f"{days} days", run)
    return UUID(str(run))


async def runs(place: Workplace) -> set[str]:
    return {row[0] for row in await place.rows("SELECT run_id FROM ai.workflow_runs")}


RUNS = Ages(completed=90 * DAY, failed=None, states=None, versions=None, runs=120 * DAY)


async def test_records_of_runs_go_after_their_time_and_never_before_their_tasks(place: Workplace) -> None:
    old, younger, failed = await a_run(place, 200), await a_run(place, 100), await a_run(place, 300, "failed")
    waiting = await a_run(place, 400, "waiting")
    never = Ages(completed=90 * DAY, failed=None, states=None, versions=None)
    dry = await retention.sweep(place.db, RUNS, dry=True)
    assert (dry.tasks, dry.runs, len(await runs(place))) == (2, 1, 4)
    assert await retention.sweep(place.db, never) == retention.Removed(tasks=2, states=0, runs=0)
    assert await runs(place) == {str(each) for each in (old, younger, failed, waiting)}
    assert (await retention.sweep(place.db, RUNS)).runs == 1
    assert await runs(place) == {str(each) for each in (younger, failed, waiting)}


async def test_a_parents_record_outlives_its_unfinished_children(place: Workplace) -> None:
    parent, child = await a_run(place, 200), await a_run(place, 200, "waiting")
    await place.execute("UPDATE runtime.tasks SET parent = %s WHERE id = %s", parent, child)
    assert (await retention.sweep(place.db, RUNS, dry=True)).runs == 0
    assert (await retention.sweep(place.db, RUNS)).runs == 0
    await place.execute("UPDATE runtime.tasks SET status = 'completed' WHERE id = %s", child)
    await place.execute("UPDATE ai.workflow_runs SET completed_at = now() AT TIME ZONE 'UTC' - interval '200 days'")
    assert (await retention.sweep(place.db, RUNS, dry=True)).runs == 2
    assert (await retention.sweep(place.db, RUNS)).runs == 2


async def test_records_that_other_programs_wrote_stay_whatever_they_are_called(place: Workplace) -> None:
    run = await a_run(place, 200)
    await place.execute("DELETE FROM runtime.tasks")
    await place.execute(
        "INSERT INTO ai.workflow_runs (run_id, workflow_name, status, completed_at) SELECT id, 'theirs', 'COMPLETED',"
        " now() AT TIME ZONE 'UTC' - interval '9 years' FROM unnest(ARRAY['night', gen_random_uuid()::text]) id"
    )
    assert str(run) in await runs(place)
    assert (await retention.sweep(place.db, RUNS, batch=1)).runs == 1
    assert len(await runs(place)) == 2
    assert str(run) not in await runs(place)


async def states(place: Workplace, *ages: int) -> None:
    """Snapshots of one agent, the version's place telling its age in days."""
    agent = await place.agent("helper", [{"text": "hi"}])
    for version, days in enumerate(ages, 1):
        await place.execute(
            "INSERT INTO runtime.agent_states (agent_id, state, version, timestamp)"
            " VALUES (%s, '{}', %s, now() AT TIME ZONE 'UTC' - %s::interval)",
            agent,
            version,
            f"{days} days",
        )


async def versions(place: Workplace) -> list[int]:
    return [row[0] for row in await place.rows("SELECT version FROM runtime.agent_states ORDER BY 1")]


async def test_snapshots_are_cut_by_version_and_the_newest_stays(place: Workplace) -> None:
    await states(place, 50, 40, 5, 35, 20, 10)  # a clock was wrong at version 3
    assert (await retention.sweep(place.db, AGES, dry=True)).states == 4
    assert (await retention.sweep(place.db, AGES, batch=1)).states == 4
    assert await versions(place) == [5, 6]
    await place.execute("UPDATE runtime.agent_states SET timestamp = timestamp - interval '1 year'")
    assert (await retention.sweep(place.db, AGES)).states == 1
    assert await versions(place) == [6]


async def test_snapshots_are_cut_by_count_and_what_was_here_before_us_stays(place: Workplace) -> None:
    await states(place, 9, 8, 7, 6, 5)
    await place.execute("UPDATE runtime.agent_states SET adopted = TRUE WHERE version = 2")
    count = Ages(completed=None, failed=None, states=None, versions=2)
    assert (await retention.sweep(place.db, count)).states == 2
    assert await versions(place) == [2, 4, 5]


async def test_two_sweeps_at_once_remove_each_task_once(place: Workplace) -> None:
    await place.agent("helper", [{"text": "hi"}])
    for _ in range(20):
        await ended(place, "completed", 100)
    found = await asyncio.gather(*(retention.sweep(place.db, AGES, batch=3) for _ in range(4)))
    assert sum(each.tasks for each in found) == 20
    assert await left(place) == set()
