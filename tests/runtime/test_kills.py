"""A few of the kills that tests/bench/journal_kills.py makes by the hundred."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
from kills import (
    ACCOUNTS,
    ONCE,
    ONCE_STEPS,
    OPENING,
    PER_TASK,
    STEPS,
    Crew,
    faults,
    once_tools,
    open_bank,
    ten_tools,
    transfers,
)
from marked_tools import TEN, Scene
from workplace import Workplace


@pytest.fixture
def crew(place: Workplace) -> Iterator[Crew]:
    crew = Crew(place, 2)
    yield crew
    crew.end()


async def test_a_ten_tool_run_killed_at_random_repeats_nothing_on_record(place: Workplace, crew: Crew) -> None:
    scene = Scene(place, TEN, pause=0.02)
    await scene.prepare()
    chance = random.Random(7)  # noqa: S311 - chosen so that a failure can be looked at again
    for point in chance.sample(range(STEPS), 3):
        outcome = await ten_tools(place, crew, scene, point, chance)
        assert faults(outcome) == [], f"killed after {point} steps"


async def test_a_tool_that_must_not_run_twice_does_not_however_it_is_killed(place: Workplace, crew: Crew) -> None:
    scene = Scene(place, ONCE, pause=0.02)
    await scene.prepare()
    chance = random.Random(11)  # noqa: S311 - as above
    for point in chance.sample(range(ONCE_STEPS), 3):
        found, _ = await once_tools(place, crew, scene, point, chance)
        assert found == [], f"killed after {point} steps"


async def test_money_is_neither_made_nor_lost_by_kills(place: Workplace, crew: Crew) -> None:
    await open_bank(place)
    ledger = await transfers(place, crew, tasks=20, kills=4, chance=random.Random(3))  # noqa: S311 - as above
    assert ledger.submitted == ledger.completed >= 20
    assert (ledger.total, ledger.made, ledger.twice) == (ACCOUNTS * OPENING, ledger.completed * PER_TASK, 0)
    assert ledger.killed == 4
