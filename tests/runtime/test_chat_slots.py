"""Slots that are kept for conversations: a turn does not wait behind other tasks, and they never take those slots."""

from __future__ import annotations

from pathlib import Path

import pytest
from workplace import Workplace

from cirkelline.state.connection import Database

SLOW = [{"text": "done", "delay": "60s"}]


@pytest.fixture
def place(db: Database, tmp_path: Path) -> Workplace:
    """A workplace whose workers have four slots, one of them for conversations."""
    return Workplace(db, tmp_path, chat_slots=1)


async def test_a_turn_runs_although_tasks_fill_all_other_slots(place: Workplace) -> None:
    await place.agent("sleeper", SLOW)
    await place.agent("parrot", [{"text": "hi"}])
    await place.submit_many("sleeper", 20)
    async with place.working():
        await place.becomes(3, "SELECT count(*) FROM runtime.claims")
        session, user = await place.session("parrot")
        (turn,) = await place.ended(await place.turn(session, user, "hello"))
        assert turn.status == "completed"
        assert await place.value("SELECT count(*) FROM runtime.claims") == 3


async def test_turns_may_take_every_slot_and_go_first(place: Workplace) -> None:
    await place.agent("sleeper", SLOW)
    await place.submit_many("sleeper", 20)
    for _ in range(6):
        session, user = await place.session("sleeper")
        await place.turn(session, user, "hello")
    async with place.working():
        await place.becomes(4, "SELECT count(*) FROM runtime.claims WHERE session_id IS NOT NULL")


async def test_one_slot_always_remains_for_the_rest(place: Workplace) -> None:
    await place.agent("parrot", [{"text": "hi"}])
    task_id = await place.submit("parrot")
    async with place.working(slots=1):
        (task,) = await place.ended(task_id)
    assert task.status == "completed"
