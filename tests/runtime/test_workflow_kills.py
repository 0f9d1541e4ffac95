"""A workflow of twelve steps, killed at each of them: tests/bench/workflow_kills.py does it run by run."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from kills import Crew
from workflow_kills import POINTS, killed_at, prepare
from workflow_scene import WorkflowScene
from workplace import Workplace


@pytest.fixture
def crew(place: Workplace) -> Iterator[Crew]:
    crew = Crew(place, 2)
    yield crew
    crew.end()


async def test_a_run_that_is_killed_inside_each_of_its_steps_does_every_step_once(place: Workplace, crew: Crew) -> None:
    scene = WorkflowScene(place)
    await prepare(scene)
    outcome = await killed_at(scene, crew, [point for point in POINTS if point.startswith("in-")])
    assert outcome.faults() == []
    assert crew.killed == 12
