"""memory_optimization, killed in each of its steps: tests/bench/memory_kills.py does it at every point, run by run."""

from __future__ import annotations

from memory_kills import STEPS, memory_scene
from workplace import Workplace


async def test_a_run_killed_in_each_step_loses_nothing_doubles_nothing_and_is_undone_to_the_byte(
    place: Workplace,
) -> None:
    """Between a step's commit and its record, where it is done twice; and once with all of it written and not committed."""
    async with memory_scene(place) as scene:
        points = [f"done {name}" for name in STEPS]
        points.insert(points.index("done save 4"), "written save 4")
        await scene.killed_at(points)
        assert scene.faults == []
        assert scene.crew.killed == len(points)
