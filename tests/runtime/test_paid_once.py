"""What is paid is counted once: in the journal's costs, in usage, and in an agent's stats, however often it is tried."""

from __future__ import annotations

import signal
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from marked_tools import Scene, Start
from nursery import Nursery
from workplace import Workplace

from cirkelline.state import tasks, usage
from cirkelline.state.connection import Database
from cirkelline.state.usage import Usage

ASK = {"tool": "calculate", "arguments": {"expression": "1 + 1"}, "usage": {"input": 100, "output": 10}}
BREAKS = {"text": "half", "error": "server", "usage": {"input": 200, "output": 5}}
ENDS = {"text": "done", "usage": {"input": 300, "output": 20}}


@pytest.fixture
def place(db: Database, tmp_path: Path, nursery: Nursery) -> Workplace:
    prices = tmp_path / "prices.yaml"
    script = tmp_path / "configs" / "clerk.script.yaml"
    prices.write_text(f'models:\n  "scripted:{script}": {{input: 2, output: 30}}\n')
    return Workplace(db, tmp_path, nursery=nursery, prices=prices)


async def clerk(place: Workplace, *turns: dict[str, Any], **config: Any) -> None:
    await place.agent("clerk", list(turns), tools=["calculate"], **config)


async def run(place: Workplace, task_id: UUID) -> str:
    async with place.working():
        (task,) = await place.ended(task_id)
    return str(task.status)


async def retry(place: Workplace, task_id: UUID, *, from_start: bool = False) -> str:
    async with place.db.connection() as conn:
        await tasks.retry(conn, task_id, from_start=from_start)
    return await run(place, task_id)


async def counted(place: Workplace) -> int:
    """Return the tokens in the agent's newest snapshot."""
    statement = "SELECT state -> 'stats' -> 'tokens' FROM runtime.agent_states ORDER BY version DESC LIMIT 1"
    return int(await place.value(statement))


async def spent(place: Workplace) -> Usage:
    async with place.db.connection() as conn:
        (found,) = await usage.find(conn, ())
    return found


async def test_each_model_call_is_priced_when_its_step_is_written(place: Workplace) -> None:
    await clerk(place, ASK, ENDS)
    assert await run(place, await place.submit("clerk")) == "completed"
    costs = await place.rows("SELECT kind, cost FROM runtime.journal ORDER BY position, call")
    assert costs == [
        ("context", None),
        ("model", Decimal("0.0005")),
        ("tool", None),
        ("model", Decimal("0.0012")),
    ]


async def test_a_call_that_failed_was_paid_and_is_on_record_and_no_attempt_goes_on_from_it(place: Workplace) -> None:
    await clerk(place, ASK, BREAKS)
    task_id = await place.submit("clerk")
    assert await run(place, task_id) == "failed"
    lost = (
        "SELECT position, call, output, error, input_tokens, cost FROM runtime.journal WHERE call < -1 ORDER BY attempt"
    )
    assert await place.rows(lost) == [(2, -2, {"lost": "ModelUnavailable"}, True, 200, Decimal("0.00055"))]
    found = await spent(place)
    assert (found.calls, found.input_tokens, found.output_tokens, found.cost) == (2, 300, 15, Decimal("0.00105"))
    assert await retry(place, task_id) == "failed"
    assert [call for _, call, *_ in await place.rows(lost)] == [-2, -3]
    await clerk(place, ASK, ENDS)
    assert await retry(place, task_id) == "completed"
    assert (await spent(place)).input_tokens == 100 + 200 + 200 + 300
    assert await counted(place) == 110 + 205 + 205 + 320


async def test_a_first_call_that_failed_pins_nothing(place: Workplace) -> None:
    await clerk(place, BREAKS)
    task_id = await place.submit("clerk")
    assert await run(place, task_id) == "failed"
    assert (await spent(place)).input_tokens == 200
    await clerk(place, ENDS, instructions="Be better.")
    assert await retry(place, task_id) == "completed"
    assert (await place.task(task_id)).definition_version == 2
    assert await counted(place) == 205 + 320


async def test_beginning_again_counts_both_beginnings(place: Workplace) -> None:
    await clerk(place, ASK, BREAKS)
    task_id = await place.submit("clerk")
    assert await run(place, task_id) == "failed"
    await clerk(place, ASK, ENDS)
    assert await retry(place, task_id, from_start=True) == "completed"
    assert await counted(place) == 110 + 205 + 110 + 320
    assert (await spent(place)).input_tokens == 100 + 200 + 100 + 300


async def test_what_was_cancelled_is_counted_when_its_task_ends_after_all(place: Workplace) -> None:
    await clerk(place, ASK, {**ENDS, "delay": "60s"})
    task_id = await place.submit("clerk")
    async with place.working():
        await place.becomes(2, "SELECT count(*) FROM runtime.journal WHERE position = 1 AND output IS NOT NULL")
        async with place.db.connection() as conn:
            await tasks.cancel(conn, task_id)
        await place.ended(task_id)
    await clerk(place, ASK, ENDS)
    assert await retry(place, task_id) == "completed"
    assert await counted(place) == 110 + 320


async def test_tokens_of_a_worker_that_died_are_counted_by_the_one_that_finishes(
    place: Workplace, start: Start
) -> None:
    scene = Scene(place, ["look", "put", "look"])
    await scene.prepare()
    task_id = await scene.killed_in(1, start)
    await place.ended(task_id)
    paid = "SELECT sum(input_tokens + output_tokens)::integer FROM runtime.journal"
    assert await counted(place) == await place.value(paid)


async def test_usage_stays_when_its_task_is_removed_while_it_runs(place: Workplace, start: Start) -> None:
    scene = Scene(place, ["look", "put", "look"])
    await scene.prepare()
    scene.hold(1)
    daemon = start("first")
    await place.submit("ten")
    await scene.started(1)
    await place.execute("DELETE FROM runtime.tasks")
    scene.let_go(1)
    await place.becomes(0, "SELECT count(*) FROM runtime.claims")
    assert (await spent(place)).calls == 2
    daemon.signal(signal.SIGTERM)
    await daemon.ends()
    assert await place.value("SELECT count(*) FROM runtime.journal") == 0
    assert (await spent(place)).calls == 2
