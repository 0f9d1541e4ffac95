"""memory_optimization begins by itself, once and never twice at a time, for whom much is new and by the clock."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from shelves import LABEL, Bags
from workplace import Workplace

from cirkelline.runtime import leaving, memory_optimization, memory_rounds, schedules, workflows
from cirkelline.runtime.memory_optimization import Verdict
from cirkelline.state import knowledge_settings, optimizing, users
from cirkelline.state import schedules as kept_schedules
from cirkelline.state import workflows as records
from cirkelline.state.memories import Origin
from cirkelline.state.optimizing import Listed
from cirkelline.tools.contract import ToolContext
from cirkelline.tools.remembering import UserMemories
from cirkelline.tools.toolbox import Toolbox

RUNS = (
    "SELECT id, user_id, status, payload -> 'input' FROM runtime.tasks WHERE task_type = 'workflow' ORDER BY sequence"
)


@pytest.fixture
async def user(place: Workplace) -> UUID:
    async with place.db.connection() as conn:
        await knowledge_settings.fix_embedder(conn, LABEL)
    return await person(place, "ivo")


async def person(place: Workplace, name: str) -> UUID:
    async with place.db.connection() as conn:
        return (await users.ensure(conn, name)).id


async def told(place: Workplace, user: UUID, amount: int, *, word: str = "hobby") -> None:
    kept = UserMemories(place.db, Bags(), user)
    for number in range(amount):
        await kept.remember(f"Enjoys {word}{number}", origin=Origin.ADDED)


async def runs_of(place: Workplace, user: UUID) -> list[str]:
    return [status for _, owner, status, _ in await place.rows(RUNS) if owner == user]


async def through(place: Workplace, *runs: UUID) -> None:
    """Let a worker do what is in line."""
    async with place.working(embedders=Bags()):
        for task in await place.ended(*runs):
            assert task.status == "completed", task.error


async def begun(place: Workplace, **options: Any) -> list[UUID]:
    """Look for whom much is new; return the runs that this began."""
    before = {row[0] for row in await place.rows(RUNS)}
    await memory_rounds.look(place.db, after=3, **options)
    return [row[0] for row in await place.rows(RUNS) if row[0] not in before]


async def test_so_many_new_memories_begin_a_run_and_as_many_more_the_next(place: Workplace, user: UUID) -> None:
    other = await person(place, "eva")
    await told(place, user, 2)
    await told(place, other, 3)
    (first,) = await begun(place, model="openai:m")
    assert [(row[1], row[3]) for row in await place.rows(RUNS)] == [(other, {"model": "openai:m"})]
    assert await place.value("SELECT priority < 0 FROM runtime.tasks WHERE id = %s", first)
    await told(place, user, 1, word="sport")
    (second,) = await begun(place)
    await place.execute("UPDATE runtime.tasks SET payload = '{\"input\": {}}' WHERE id = %s", first)
    await through(place, first, second)
    assert await begun(place) == []
    await told(place, user, 2, word="song")
    assert await begun(place) == []
    await told(place, user, 1, word="tea")
    (third,) = await begun(place)
    assert await place.value("SELECT user_id FROM runtime.tasks WHERE id = %s", third) == user


async def test_what_a_run_made_or_a_rule_holds_to_be_replaced_is_nothing_new(place: Workplace, user: UUID) -> None:
    await told(place, user, 3)
    (first,) = await begun(place)
    await through(place, first)
    for text in ("Likes green tea", "likes GREEN tea."):
        await place.execute(
            "INSERT INTO ai.agno_memories (memory_id, user_id, memory) VALUES (gen_random_uuid(), %s, %s)",
            str(user),
            text,
        )
    run, _ = await workflows.submit(place.db, Toolbox(place.tools), "memory_optimization", {}, user=str(user))
    await through(place, run)
    assert await place.value("SELECT count(*) FROM ai.memory_index WHERE origin = 'merged'") == 1
    async with place.db.connection() as conn:
        assert (await optimizing.standing(conn, user)).new == 0
        assert (await optimizing.standing(conn, user)).run == run


async def test_a_look_goes_on_where_the_last_one_was(place: Workplace, user: UUID) -> None:
    await told(place, user, 3)
    since = await memory_rounds.look(place.db, after=3)
    assert since == await place.value("SELECT max(id) FROM ai.memory_index")
    assert await memory_rounds.look(place.db, after=1, since=since) == since
    assert await runs_of(place, user) == ["pending"]


async def test_while_a_run_has_not_ended_the_next_look_has_it_in_mind(place: Workplace, user: UUID) -> None:
    await told(place, user, 3)
    (first,) = await begun(place)
    await told(place, user, 3, word="sport")
    since = await memory_rounds.look(place.db, after=3)
    assert since == 0
    await through(place, first)
    await told(place, user, 3, word="song")
    assert await memory_rounds.look(place.db, after=3, since=since) > 0
    assert await runs_of(place, user) == ["completed", "pending"]


async def test_however_many_look_at_once_a_user_gets_one_run(place: Workplace, user: UUID) -> None:
    others = [await person(place, f"person{number}") for number in range(4)]
    for each in [user, *others]:
        await told(place, each, 3)
    await asyncio.gather(*(memory_rounds.look(place.db, after=3) for _ in range(10)))
    for each in [user, *others]:
        assert await runs_of(place, each) == ["pending"]


async def test_the_clock_and_the_threshold_never_make_two_of_a_user(place: Workplace, user: UUID) -> None:
    await told(place, user, 3)
    now = datetime.now(UTC) + timedelta(days=1, minutes=1)
    await by_the_clock(place, "* * * * *")
    await asyncio.gather(
        *(memory_rounds.look(place.db, after=3) for _ in range(3)), *(schedules.fire(place.db, now) for _ in range(3))
    )
    assert await runs_of(place, user) == ["pending"]


async def by_the_clock(place: Workplace, cron: str, given: str = "{}") -> None:
    agent_id = await records.ensure(place.db, memory_rounds.LABEL)
    async with place.db.transaction() as conn:
        await kept_schedules.keep(conn, agent_id, "ivo@localhost", cron=cron, tz="UTC", given=given)


async def fired(place: Workplace, days: int) -> int:
    return await schedules.fire(place.db, datetime.now(UTC) + timedelta(days=days))


async def test_by_the_clock_a_run_begins_with_its_model_and_not_when_nothing_is_new(
    place: Workplace, user: UUID
) -> None:
    await told(place, user, 1)
    await by_the_clock(place, "0 4 * * *", json.dumps({"model": None}))
    assert await fired(place, 2) == 1
    ((run, owner, _, given),) = await place.rows(RUNS)
    assert (owner, given) == (user, {"model": None})
    assert await place.value("SELECT last_task FROM runtime.schedules") == run
    await through(place, run)
    assert await fired(place, 4) == 0
    assert await place.rows("SELECT last_task, problem, next_at > now() FROM runtime.schedules") == [(run, None, True)]
    await told(place, user, 1, word="sport")
    assert await fired(place, 6) == 1
    # A new definition of the workflow's row is nothing to what its users have set up.
    await place.execute(
        "UPDATE runtime.agents SET definition_version = definition_version WHERE handle LIKE 'workflow:%%'"
    )
    assert await place.value("SELECT count(*) FROM runtime.schedules") == 1


async def test_what_no_run_could_take_is_said_and_fires_nothing(place: Workplace, user: UUID) -> None:
    await told(place, user, 1)
    await by_the_clock(place, "0 4 * * *", "tidy up")
    assert await fired(place, 2) == 0
    assert "is no input of memory_optimization" in await place.value("SELECT problem FROM runtime.schedules")
    assert await runs_of(place, user) == []


async def test_nothing_begins_for_whoever_is_switched_off_or_gone(place: Workplace, user: UUID) -> None:
    gone = await person(place, "eva")
    for each in (user, gone):
        await told(place, each, 5)
    await by_the_clock(place, "0 4 * * *")
    await leaving.erase(place.db, gone, tell=print)
    await leaving.deactivate(place.db, "ivo")
    assert await begun(place) == []
    assert await fired(place, 2) == 0
    await place.execute("UPDATE runtime.schedules SET paused = FALSE")
    assert await fired(place, 2) == 0
    await leaving.activate(place.db, "ivo")
    (run,) = await begun(place)
    assert await place.value("SELECT user_id FROM runtime.tasks WHERE id = %s", run) == user
    assert await place.value("SELECT count(*) FROM ai.memory_upkeep WHERE user_id = %s", gone) == 0


async def test_whoever_is_switched_off_just_then_has_no_run_left(place: Workplace) -> None:
    people = [f"person{number}" for number in range(6)]
    for name in people:
        await told(place, await person(place, name), 3)
    await asyncio.gather(
        *(leaving.deactivate(place.db, name) for name in people),
        *(memory_rounds.look(place.db, after=3) for _ in people),
    )
    assert {status for _, _, status, _ in await place.rows(RUNS)} <= {"cancelled"}


async def test_what_other_programs_had_written_before_is_not_gone_through_unasked(place: Workplace, user: UUID) -> None:
    insert = "INSERT INTO ai.agno_memories (memory_id, user_id, memory) SELECT gen_random_uuid(), %s, 'x' || n"
    await place.execute(insert + " FROM generate_series(1, 5) n", str(user))
    await place.execute("UPDATE runtime.settings SET value = '5' WHERE name = 'memory.before'")
    assert await begun(place) == []
    await place.execute(insert + " FROM generate_series(1, 3) n", str(user))
    assert len(await begun(place)) == 1


async def test_memories_under_another_programs_word_for_a_user_count(place: Workplace, user: UUID) -> None:
    await place.execute("INSERT INTO runtime.user_aliases (alias, user_id) VALUES ('ivo-of-old', %s)", user)
    insert = "INSERT INTO ai.agno_memories (memory_id, user_id, memory) VALUES (gen_random_uuid(), %s, %s)"
    for number, owner in enumerate(["ivo-of-old", "ivo-of-old", str(user), "nobody", "nobody", "nobody"]):
        await place.execute(insert, owner, f"Enjoys hobby{number}")
    (run,) = await begun(place)
    assert await place.value("SELECT user_id FROM runtime.tasks WHERE id = %s", run) == user


async def test_a_daemon_begins_it_and_says_so_and_with_0_never_does(
    place: Workplace, user: UUID, capsys: pytest.CaptureFixture[str]
) -> None:
    await told(place, user, 3)
    place.settings = place.settings.model_copy(update={"optimize_after": 0})
    place.opened = place.opened.__class__(place.settings, place.db, place.db.url, embedded=False, fresh=False)
    async with place.working(embedders=Bags()) as worker:
        assert "rounds" not in {each.get_name().removeprefix("worker-") for each in worker._background}
    assert await runs_of(place, user) == []
    place.opened = place.opened.__class__(
        place.settings.model_copy(update={"optimize_after": 3}), place.db, place.db.url, embedded=False, fresh=False
    )
    async with place.working(embedders=Bags()):
        await place.becomes(1, "SELECT count(*) FROM ai.workflow_runs WHERE status = 'COMPLETED'")
    assert "memory.optimization_begun" in capsys.readouterr().out
    assert await runs_of(place, user) == ["completed"]


async def test_a_run_that_is_put_back_in_line_stops_the_later_one_before_it_writes(
    place: Workplace, user: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The earlier one failed after it had read; it is tried again while the later one is between reading and saving."""
    for text in ("Likes green tea", "likes GREEN tea."):
        await place.execute(
            "INSERT INTO ai.agno_memories (memory_id, user_id, memory) VALUES (gen_random_uuid(), %s, %s)",
            str(user),
            text,
        )
    merge = memory_optimization.merge
    failing, retried = [True], asyncio.Event()
    submit = Toolbox(place.tools)
    first, _ = await workflows.submit(place.db, submit, "memory_optimization", {}, user=str(user))

    async def meanwhile(ctx: ToolContext, listed: list[Listed], verdicts: list[Verdict]) -> list[Verdict]:
        if failing:
            failing.clear()
            raise RuntimeError("not today")
        if ctx.task_id != first and not retried.is_set():
            async with place.db.transaction() as conn:
                await conn.execute("UPDATE runtime.tasks SET status = 'pending' WHERE id = %s", [first])
            retried.set()
        return await merge(ctx, listed, verdicts)

    monkeypatch.setattr(memory_optimization, "merge", meanwhile)
    async with place.working(embedders=Bags(), slots=1):
        await place.ended(first)
        second, _ = await workflows.submit(place.db, submit, "memory_optimization", {}, user=str(user))
        (later,) = await place.ended(second)
        assert f"run {first} goes through the memories of this user already" in (later.error or "")
