"""Which function a workflow's name means, and what is refused before there is a run."""

from __future__ import annotations

from typing import Any

import pytest
from workflow_scene import DIGEST, WorkflowScene
from workplace import Workplace

from cirkelline.runtime.workflows import WorkflowNotFound
from cirkelline.tools.workflows import InputInvalid


@pytest.fixture
def scene(place: Workplace) -> WorkflowScene:
    return WorkflowScene(place)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("reports:gone", "has no function 'gone'"),
        ("reports:fetch", "'reports:fetch' is no workflow: mark it with @workflow"),
        ("reports:_hidden", "is private"),
        ("os:system", "is not allowed"),
        ("diges", "there is no workflow 'diges'"),
        ("broken:work", "write run: WorkflowRun as its first"),
        ("plain:work", "cannot be a workflow: write async def"),
    ],
)
async def test_only_a_marked_function_that_the_worker_may_call_is_a_workflow(
    scene: WorkflowScene, name: str, says: str
) -> None:
    scene.write("reports", DIGEST)
    scene.write("broken", "@workflow\nasync def work() -> None:\n    pass\n")
    scene.write("plain", "@workflow\ndef work(run: WorkflowRun) -> None:\n    pass\n")
    with pytest.raises(WorkflowNotFound, match="workflow") as raised:
        await scene.submit(name)
    assert says in str(raised.value)
    assert await scene.place.value("SELECT count(*) FROM runtime.agents") == 0


async def test_a_name_that_two_modules_have_has_to_be_said_in_full(scene: WorkflowScene) -> None:
    scene.write("reports", DIGEST)
    scene.write("others", DIGEST)
    with pytest.raises(WorkflowNotFound, match="others:digest or reports:digest"):
        await scene.submit("digest")
    scene.write("others", "def digest() -> None:\n    pass\n")  # of the same name, and no workflow
    run_id = await scene.submit("digest", {"folder": "x"})
    assert (await scene.run(run_id))[0] == "reports:digest"


async def test_a_workflow_of_another_machine_is_known_by_its_name_once_it_has_run(scene: WorkflowScene) -> None:
    scene.write("reports", DIGEST)
    await scene.submit("digest", {"folder": "x"})
    (scene.place.tools / "reports.py").unlink()
    for name in ("digest", "reports:digest"):
        assert (await scene.run(await scene.submit(name, {"folder": "x"})))[0] == "reports:digest"


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({}, "argument 'folder' is missing"),
        ({"folder": "x", "limt": 1}, "there is no argument 'limt', did you mean 'limit'?"),
        ({"folder": "x", "limit": "many"}, "argument 'limit'"),
        ([1], "must be one JSON object"),
    ],
)
async def test_a_wrong_input_is_refused_before_there_is_a_run(scene: WorkflowScene, given: Any, says: str) -> None:
    scene.write("reports", DIGEST)
    with pytest.raises(InputInvalid) as raised:
        await scene.submit("digest", given)
    assert says in str(raised.value)
    assert await scene.place.value("SELECT count(*) FROM runtime.tasks") == 0
