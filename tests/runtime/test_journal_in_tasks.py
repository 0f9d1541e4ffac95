"""What a task leaves in the journal, and what trying it again makes of that."""

from __future__ import annotations

from typing import Any

import pytest
from workplace import Workplace

from cirkelline.state import journal, tasks

TOOLS = """
import pathlib
PLACE = pathlib.Path({place!r})

def count(ctx: ToolContext, word: str) -> str:
    with (PLACE / "ran").open("a") as file:
        file.write(word + "\\n")
    return f"{{word}} {{ctx.state.increment('n')}}"

def stop(ctx: ToolContext, word: str) -> str:
    if not (PLACE / "open").exists():
        raise EndRun("the shop is closed")
    return "bought"
"""
USE = {"tool": "count", "arguments": {"word": "once"}}


async def prepare(place: Workplace, turns: list[dict[str, Any]], **config: Any) -> None:
    place.tool("shop", TOOLS.format(place=str(place.folder)))
    await place.agent("clerk", turns, tools=[{"python": "shop:count"}, {"python": "shop:stop"}], **config)


def ran(place: Workplace) -> list[str]:
    file = place.folder / "ran"
    return file.read_text().split() if file.exists() else []


async def retry(place: Workplace, task_id: Any, *, from_start: bool = False) -> Any:
    async with place.db.connection() as conn:
        await tasks.retry(conn, task_id, from_start=from_start)
    async with place.working():
        (task,) = await place.ended(task_id)
    return task


async def test_a_run_leaves_its_context_its_answers_and_its_tools_in_order(place: Workplace) -> None:
    await prepare(place, [{"text": "Let me count.", **USE}, {"text": "It is {{last_tool}}."}])
    task_id = await place.submit("clerk")
    async with place.working():
        await place.ended(task_id)
    async with place.db.connection() as conn:
        steps = await journal.read(conn, task_id)
    assert [(step.position, step.call, step.kind, step.name) for step in steps] == [
        (0, -1, "context", "clerk"),
        (1, -1, "model", f"scripted:{place.configs}/clerk.script.yaml"),
        (1, 0, "tool", "count"),
        (2, -1, "model", f"scripted:{place.configs}/clerk.script.yaml"),
    ]
    assert steps[0].output is not None
    assert (steps[0].output["definition"], steps[0].output["state"]) == (1, None)
    assert steps[2].operations == [{"op": "increment", "key": "n", "value": 1, "at": 0}]
    assert steps[3].output == {"text": "It is once 1."}
    assert steps[3].output_tokens == 4


async def test_the_last_answer_is_stored_with_the_result_and_only_there(place: Workplace) -> None:
    await prepare(place, [{"text": "a rather long last answer"}])
    task_id = await place.submit("clerk")
    async with place.working():
        await place.ended(task_id)
    stored = "SELECT bool_or(output::text LIKE '%%rather long%%') FROM runtime.journal WHERE task_id = %s"
    assert await place.value(stored, task_id) is False
    written = "SELECT count(*) FROM runtime.journal j JOIN runtime.tasks t ON t.xmin = j.xmin"
    assert await place.value(written) == 2  # a run without tools costs no commit for its journal


@pytest.mark.parametrize("from_start", [False, True])
async def test_a_failed_task_goes_on_where_it_stopped_unless_it_is_to_begin_again(
    place: Workplace, from_start: bool
) -> None:
    await prepare(place, [USE, {"text": "", "error": "server"}])
    task_id = await place.submit("clerk")
    async with place.working():
        (failed,) = await place.ended(task_id)
    assert failed.status == "failed"
    await prepare(place, [USE, {"text": "{{last_tool}}"}], instructions="Be quick about it.")
    again = await retry(place, task_id, from_start=from_start)
    assert (again.status, again.result["output"]) == ("completed", "once 1")
    assert again.definition_version == (2 if from_start else 1)
    assert ran(place) == ["once"] * (2 if from_start else 1)


async def test_what_ended_a_run_is_done_again_when_the_task_is_tried_again(place: Workplace) -> None:
    stop = {"tool": "stop", "arguments": {"word": "x"}}
    await prepare(place, [USE, stop, {"text": "{{last_tool}}"}])
    task_id = await place.submit("clerk")
    async with place.working():
        (failed,) = await place.ended(task_id)
    assert failed.error == "the shop is closed"
    (place.folder / "open").touch()
    again = await retry(place, task_id)
    assert (again.status, again.result["output"]) == ("completed", "bought")
    assert ran(place) == ["once"]


async def test_a_turn_sees_the_session_as_it_was_when_it_began(place: Workplace) -> None:
    await prepare(place, [USE, {"text": "", "error": "server"}])
    session, user = await place.session("clerk")
    first = await place.turn(session, user, "first")
    async with place.working():
        await place.ended(first)
    await place.execute(
        "INSERT INTO runtime.messages (session_id, task_id, user_id, role, content)"
        " VALUES (%s, gen_random_uuid(), %s, 'user', 'later')",
        session, user,
    )  # fmt: skip
    await prepare(place, [USE, {"text": "{{last_tool}}"}])
    assert (await retry(place, first)).status == "completed"


async def test_the_tenth_turn_of_a_session_stores_no_more_than_the_second(place: Workplace) -> None:
    await prepare(place, [{"text": "Let me count.", **USE}, {"text": "A sentence of an answer. " * 20}])
    session, user = await place.session("clerk")
    async with place.working():
        for n in range(10):
            await place.ended(await place.turn(session, user, f"turn {n}"))
    stored = await place.rows(
        "SELECT count(*), sum(pg_column_size(j.*)) FROM runtime.journal j JOIN runtime.tasks t ON t.id = j.task_id"
        " GROUP BY t.sequence ORDER BY t.sequence"
    )
    assert [rows for rows, _ in stored] == [4] * 10
    sizes = [int(size) for _, size in stored]
    assert max(sizes[1:]) - min(sizes[1:]) <= 16
