"""Schedules: each time once over all workers, one task for all that was missed, and clocks that change."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from workplace import Workplace

from cirkelline.configs import schedules as times
from cirkelline.runtime import leaving, schedules
from cirkelline.state import users

SAY = [{"text": "done: {{input}}"}]
NINE = {"name": "morning", "cron": "0 9 * * *", "input": "Good morning."}


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


async def scheduled(place: Workplace, since: str, *entries: dict[str, Any]) -> None:
    """An agent whose schedules count from a moment on."""
    await place.agent("helper", SAY, schedules=list(entries))
    await place.execute("UPDATE runtime.schedules SET since = %s, next_at = NULL", at(since))


async def keys(place: Workplace) -> list[str]:
    return [row[0] for row in await place.rows("SELECT key FROM runtime.tasks ORDER BY sequence")]


async def test_each_time_is_one_task_for_its_user(place: Workplace) -> None:
    async with place.db.connection() as conn:
        user = await users.ensure(conn, "ivo")
    await scheduled(place, "2026-03-01T08:00", {**NINE, "user": "ivo"})
    assert await schedules.fire(place.db, at("2026-03-01T08:59:59")) == 0
    assert await schedules.fire(place.db, at("2026-03-01T09:00")) == 1
    assert await schedules.fire(place.db, at("2026-03-01T09:00:30")) == 0
    assert await schedules.fire(place.db, at("2026-03-02T09:00:01")) == 1
    assert await keys(place) == ["schedule morning 2026-03-01T09:00Z", "schedule morning 2026-03-02T09:00Z"]
    assert await place.rows("SELECT DISTINCT user_id, task_type, payload FROM runtime.tasks") == [
        (user.id, "schedule", {"input": "Good morning."})
    ]


async def test_what_was_missed_is_caught_up_on_once(place: Workplace) -> None:
    await scheduled(place, "2026-03-01T08:00", NINE, {"cron": "*/5 * * * *", "input": "Look."})
    assert await schedules.fire(place.db, at("2026-03-11T12:01")) == 2
    assert await keys(place) == ["schedule morning 2026-03-11T09:00Z", "schedule 2 2026-03-11T12:00Z"] or (
        await keys(place)
    )[::-1] == ["schedule morning 2026-03-11T09:00Z", "schedule 2 2026-03-11T12:00Z"]
    nexts = [row[0] for row in await place.rows("SELECT next_at FROM runtime.schedules ORDER BY next_at")]
    assert nexts == [at("2026-03-11T12:05"), at("2026-03-12T09:00")]


async def test_ten_workers_at_once_fire_it_once(place: Workplace) -> None:
    await scheduled(place, "2026-03-01T08:00", NINE)
    fired = await asyncio.gather(*(schedules.fire(place.db, at("2026-03-01T09:00")) for _ in range(10)))
    assert sum(fired) == 1
    assert len(await keys(place)) == 1


async def test_a_worker_fires_and_runs_it(place: Workplace) -> None:
    await scheduled(place, "2020-03-01T08:00", NINE)
    async with place.working(), place.working():
        await place.becomes(1, "SELECT count(*) FROM runtime.tasks WHERE status = 'completed'")
    assert await place.value("SELECT result ->> 'output' FROM runtime.tasks") == "done: Good morning."
    assert await place.value("SELECT last_task FROM runtime.schedules") == await place.value(
        "SELECT id FROM runtime.tasks"
    )


CLOCKS = [
    # Copenhagen skips 02:00 to 03:00 on 2026-03-29, and has 02:00 to 03:00 twice on 2026-10-25.
    ("30 2 * * *", "2026-03-28T12:00", ["2026-03-29T01:00", "2026-03-30T00:30"]),
    ("30 2 * * *", "2026-10-24T12:00", ["2026-10-25T00:30", "2026-10-26T01:30"]),
    ("30 * * * *", "2026-10-25T00:00", ["2026-10-25T00:30", "2026-10-25T01:30", "2026-10-25T02:30"]),
    ("0 9 * * MON", "2026-03-28T12:00", ["2026-03-30T07:00", "2026-04-06T07:00"]),
    ("0 0 29 2 *", "2026-03-28T12:00", ["2028-02-28T23:00"]),
]


@pytest.mark.parametrize(("cron", "since", "due"), CLOCKS)
def test_clocks_that_change_skip_nothing_and_repeat_nothing(cron: str, since: str, due: list[str]) -> None:
    moment, found = at(since), []
    for _ in due:
        moment = times.following(cron, "Europe/Copenhagen", moment)
        found.append(moment)
    assert found == [at(each) for each in due]


def test_the_latest_time_is_one_of_the_following_ones() -> None:
    for cron in ("*/7 * * * *", "0 9 * * *", "30 2 * * *", "15 10 1 * *"):
        moment = at("2026-03-27T00:00")
        for _ in range(60):
            moment = times.following(cron, "Europe/Copenhagen", moment)
            assert times.latest(cron, "Europe/Copenhagen", moment + timedelta(seconds=30)) <= moment + timedelta(
                hours=1
            )
    assert times.latest("0 9 * * *", "UTC", at("2026-03-01T09:00")) == at("2026-03-01T09:00")


async def test_schedules_follow_the_definition(place: Workplace) -> None:
    rows = "SELECT name, cron, tz FROM runtime.schedules ORDER BY name"
    await scheduled(place, "2026-03-01T08:00", NINE, {"cron": "0 1 * * *", "tz": "Asia/Tokyo", "input": "x"})
    assert await place.rows(rows) == [("2", "0 1 * * *", "Asia/Tokyo"), ("morning", "0 9 * * *", "UTC")]
    await schedules.fire(place.db, at("2026-03-01T08:30"))
    await place.agent("helper", SAY, schedules=[{**NINE, "input": "Hello."}], description="another")
    assert await place.rows("SELECT name, input, next_at FROM runtime.schedules") == [
        ("morning", "Hello.", at("2026-03-01T09:00"))
    ]
    await place.agent("helper", SAY, schedules=[{**NINE, "cron": "0 10 * * *"}])
    assert await place.rows("SELECT name, next_at, since > now() - interval '1 min' FROM runtime.schedules") == [
        ("morning", None, True)
    ]
    await place.agent("helper", SAY)
    assert await place.rows(rows) == []


async def test_nothing_is_fired_while_the_schedule_or_its_agent_is_paused(place: Workplace) -> None:
    await scheduled(place, "2026-03-01T08:00", NINE)
    await schedules.fire(place.db, at("2026-03-01T08:30"))
    await place.execute("UPDATE runtime.agents SET status = 'paused'")
    assert await schedules.fire(place.db, at("2026-03-05T12:00")) == 0
    await place.execute("UPDATE runtime.agents SET status = 'idle'")
    await place.execute("UPDATE runtime.schedules SET paused = TRUE")
    assert await schedules.fire(place.db, at("2026-03-05T12:00")) == 0
    await place.execute("UPDATE runtime.schedules SET paused = FALSE")
    assert await schedules.fire(place.db, at("2026-03-05T12:00")) == 1


async def test_a_user_who_is_gone_stops_the_schedule_alone_and_is_said(place: Workplace) -> None:
    async with place.db.connection() as conn:
        await users.ensure(conn, "ivo")
    await scheduled(place, "2026-03-01T08:00", {**NINE, "user": "ivo"}, {"cron": "0 9 * * *", "input": "x"})
    await place.execute("DELETE FROM runtime.users")
    assert await schedules.fire(place.db, at("2026-03-01T09:00")) == 1
    problem = await place.value("SELECT problem FROM runtime.schedules WHERE name = 'morning'")
    assert problem.startswith("no user 'ivo'")


async def test_nothing_is_fired_for_a_user_who_was_switched_off(place: Workplace) -> None:
    async with place.db.connection() as conn:
        await users.ensure(conn, "ivo")
    await leaving.deactivate(place.db, "ivo")
    await scheduled(place, "2026-03-01T08:00", {**NINE, "user": "ivo"})
    assert await schedules.fire(place.db, at("2026-03-01T09:00")) == 0
    assert "switched off" in await place.value("SELECT problem FROM runtime.schedules")
    await leaving.activate(place.db, "ivo")
    assert await schedules.fire(place.db, at("2026-03-02T09:00")) == 1
    assert await place.value("SELECT problem FROM runtime.schedules") is None


async def test_a_key_that_somebody_else_took_stops_the_schedule_alone(place: Workplace) -> None:
    await scheduled(place, "2026-03-01T08:00", NINE, {"cron": "0 9 * * *", "input": "x"})
    key = "schedule morning 2026-03-01T09:00Z"
    await place.execute("INSERT INTO runtime.tasks (agent_id, key) SELECT id, %s FROM runtime.agents", key)
    assert await schedules.fire(place.db, at("2026-03-01T09:00")) == 1
    problem = await place.value("SELECT problem FROM runtime.schedules WHERE name = 'morning'")
    assert "asks for something else" in problem
    assert await schedules.fire(place.db, at("2026-03-02T09:00")) == 2


async def test_a_user_who_does_not_exist_is_refused_at_its_place(place: Workplace) -> None:
    place.write("helper", SAY, schedules=[{**NINE, "user": "nobody@example.com"}])
    plan = await place.apply()
    (problem,) = plan.problems
    assert "no user 'nobody@example.com'" in problem.message
    assert await place.rows("SELECT 1 FROM runtime.agents") == []


async def test_a_row_that_somebody_broke_stops_no_other(place: Workplace) -> None:
    await scheduled(place, "2026-03-01T08:00", NINE, {"cron": "0 9 * * *", "input": "x"})
    await place.execute("UPDATE runtime.schedules SET cron = 'now and then' WHERE name = '2'")
    assert await schedules.fire(place.db, at("2026-03-01T09:00")) == 1
    assert "never due" in await place.value("SELECT problem FROM runtime.schedules WHERE name = '2'")
