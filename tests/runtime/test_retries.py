"""Retries: a run that failed in a way that may pass is tried again, behind what it recorded, as often as its agent says."""

from __future__ import annotations

from datetime import timedelta

import pytest
from workplace import Workplace

from cirkelline.state import retrying, standing, tasks

DOWN = [{"error": "server", "message": "the model is on fire"}]
SOON = {"backoff": "100ms"}


async def test_a_task_fails_for_good_when_its_attempts_are_used_up(place: Workplace) -> None:
    await place.agent("helper", DOWN, retry={"attempts": 3, **SOON})
    task_id = await place.submit("helper")
    async with place.working():
        (task,) = await place.ended(task_id)
    async with place.db.connection() as conn:
        failures = await retrying.failures(conn, task_id)
    assert (task.status, task.attempt, task.error) == ("failed", 3, "the model is on fire")
    assert [(each.attempt, each.type, each.message, each.again is None) for each in failures] == [
        (1, "ModelUnavailable", "the model is on fire", False),
        (2, "ModelUnavailable", "the model is on fire", False),
        (3, "ModelUnavailable", "the model is on fire", True),
    ]
    stats = await place.value("SELECT state -> 'stats' ->> 'failed' FROM runtime.agent_states")
    assert stats == "1"


async def test_the_next_attempt_goes_on_behind_the_last_recorded_step(place: Workplace) -> None:
    place.tool("slow", SLOW.format(marks=str(place.folder)))
    turns = [{"tool": "note"}, {"tool": "dawdle"}, {"text": "done: {{last_tool}}"}]
    tools = [{"python": "slow:note"}, {"python": "slow:dawdle"}]
    await place.agent("helper", turns, tools=tools, limits={"wall": "2s"}, retry={"attempts": 2, **SOON})
    async with place.working():
        (task,) = await place.ended(await place.submit("helper"))
    assert (task.status, task.attempt, task.failures) == ("completed", 2, 1)
    assert task.result["output"] == "done: in time"
    assert (place.folder / "notes").read_text() == "x"
    errors = await place.rows("SELECT attempt, type FROM runtime.failures")
    assert errors == [(1, "WallLimit")]


SLOW = """
import pathlib
from cirkelline.tools import tool
FOLDER = pathlib.Path({marks!r})

def note() -> str:
    with (FOLDER / "notes").open("a") as notes:
        notes.write("x")
    return "noted"

@tool(effects="read")
async def dawdle() -> str:
    import asyncio
    if not (FOLDER / "second").exists():
        (FOLDER / "second").touch()
        await asyncio.sleep(60)
    return "in time"
"""

LASTING = [
    ({"error": "rejected", "message": "no such model"}, "ModelRequestRejected"),
    ({"error": "blocked", "message": "not that"}, "AnswerBlocked"),
    ({"tool": "stop"}, "EndRun"),
    ({"tool": "more", "repeat": 3}, "StepLimit"),
]


@pytest.mark.parametrize(("turn", "kind"), LASTING)
async def test_what_would_only_fail_again_is_not_tried_again(
    turn: dict[str, object], kind: str, place: Workplace
) -> None:
    place.tool(
        "t", "def stop() -> str:\n    raise EndRun('the bank is closed')\ndef more() -> str:\n    return 'go on'\n"
    )
    tools = [{"python": "t:stop"}, {"python": "t:more"}]
    turns = [turn, {"text": "never"}] if "tool" in turn else [turn]
    await place.agent("helper", turns, tools=tools, limits={"steps": 2}, retry={"attempts": 5, **SOON})
    async with place.working():
        (task,) = await place.ended(await place.submit("helper"))
    assert (task.status, task.attempt, task.result["error"]["type"]) == ("failed", 1, kind)


async def test_without_the_key_a_task_is_tried_once(place: Workplace) -> None:
    await place.agent("helper", DOWN)
    async with place.working():
        (task,) = await place.ended(await place.submit("helper"))
    assert (task.status, task.attempt) == ("failed", 1)


async def test_a_task_that_was_put_off_waits_in_line_and_can_be_cancelled(place: Workplace) -> None:
    await place.agent("helper", DOWN, retry={"attempts": 2, "backoff": "1h", "longest": "1h"})
    task_id = await place.submit("helper")
    async with place.working() as worker:
        await place.becomes(1, "SELECT coalesce(max(failures), 0) FROM runtime.tasks WHERE status = 'pending'")
        assert worker.running == 0
        async with place.db.connection() as conn:
            found = await standing.of(conn, task_id)
            assert found is not None
            assert (found.later, found.attempts) == (True, 2)
            assert await tasks.cancel(conn, task_id) == "cancelled"


async def test_retrying_by_hand_begins_the_count_anew_and_keeps_the_record(place: Workplace) -> None:
    await place.agent("helper", DOWN, retry={"attempts": 2, **SOON})
    task_id = await place.submit("helper")
    async with place.working():
        await place.ended(task_id)
        async with place.db.connection() as conn:
            await tasks.retry(conn, task_id)
        await place.becomes(4, "SELECT max(attempt) FROM runtime.tasks WHERE status = 'failed'")
    assert await place.rows("SELECT attempt FROM runtime.failures ORDER BY 1") == [(1,), (2,), (3,), (4,)]


async def test_pauses_double_up_to_the_longest_give_or_take_a_quarter(place: Workplace) -> None:
    await place.agent("helper", DOWN, retry={"attempts": 9, "backoff": "1h", "longest": "5h"})
    task_id = await place.submit("helper")
    pauses: list[timedelta] = []
    async with place.working():
        for failures in range(1, 6):
            await place.becomes(
                failures, "SELECT coalesce(max(failures), 0) FROM runtime.tasks WHERE status = 'pending'"
            )
            pauses += [
                (await place.rows("SELECT again - at FROM runtime.failures ORDER BY attempt DESC LIMIT 1"))[0][0]
            ]
            await place.execute("UPDATE runtime.tasks SET run_at = NULL WHERE id = %s", task_id)
    for pause, hours in zip(pauses, (1, 2, 4, 5, 5), strict=True):
        assert 0.75 * hours - 0.01 <= pause / timedelta(hours=1) <= 1.25 * hours
