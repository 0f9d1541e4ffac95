"""A workflow's run: its steps are recorded once, in order, and a later attempt goes on after the last one."""

from __future__ import annotations

import pytest
from workflow_scene import WorkflowScene
from workplace import Workplace

RUN = """
SELECT workflow_name, status, current_step, steps_completed, input_data, output_data, error_message
  FROM ai.workflow_runs WHERE run_id = %s
"""


@pytest.fixture
def scene(place: Workplace) -> WorkflowScene:
    return WorkflowScene(place)


async def test_a_run_gives_what_its_workflow_returns_and_records_every_step_once(scene: WorkflowScene) -> None:
    scene.write(
        "reports",
        """
        def fetch(folder: str) -> list[str]:
            return [folder + "/a", folder + "/b"]

        async def count(pages: list[str]) -> int:
            return len(pages)

        @workflow
        async def digest(run: WorkflowRun, folder: str, limit: int = 3) -> dict:
            pages = await run.step("fetch", fetch, folder)
            return {"pages": await run.step("count", count, pages), "limit": limit}
        """,
    )
    run_id = await scene.submit("reports:digest", {"folder": "x"})
    assert await scene.run(run_id) == ("reports:digest", "PENDING", None, [], {"folder": "x"}, None, None)
    async with scene.place.working():
        (task,) = await scene.place.ended(run_id)
    assert task.result == {"output": {"pages": 2, "limit": 3}, "steps": 2}
    assert await scene.run(run_id) == (
        "reports:digest",
        "COMPLETED",
        None,
        ["fetch", "count"],
        {"folder": "x"},
        {"pages": 2, "limit": 3},
        None,
    )
