"""A worker claims only what it can serve, and what it claimed and cannot serve goes back with the reason."""

from __future__ import annotations

import json

from workplace import Workplace

from cirkelline.runtime.registry import Registry
from cirkelline.tools.toolbox import Toolbox

SAY = [{"text": "hi"}]
PRICE = "def price() -> str:\n    return 'ten'\n"


def registry(place: Workplace) -> Registry:
    return Registry(place.db, Toolbox(place.tools), {})


async def test_an_agent_whose_tool_or_key_is_not_here_is_not_served_and_the_reason_is_known(place: Workplace) -> None:
    place.tool("price", PRICE)
    await place.agent("fine", SAY)
    await place.agent("toolless", SAY, tools=[{"python": "price:price"}])
    await place.agent("keyless", SAY, model={"use": "gemini:gemini-2.5-flash", "api_key_env": "NO_SUCH_KEY"})
    await place.agent("scriptless", SAY)
    (place.tools / "price.py").unlink()
    (place.configs / "scriptless.script.yaml").unlink()
    here = registry(place)
    await here.refresh()
    assert here.servable == [await place.agent_id("fine")]
    reasons = here.refused
    assert sorted(reasons) == ["keyless", "scriptless", "toolless"]
    assert "NO_SUCH_KEY" in reasons["keyless"]
    assert "price" in reasons["toolless"]
    assert "scriptless.script.yaml" in reasons["scriptless"]


async def test_a_task_whose_pinned_version_cannot_be_served_goes_back_and_is_not_claimed_in_a_loop(
    place: Workplace,
) -> None:
    place.tool("price", PRICE)
    await place.agent("helper", [{"tool": "price"}, {"text": "{{last_tool}}"}], tools=[{"python": "price:price"}])
    pinned = await place.submit("helper")
    await place.execute("UPDATE runtime.tasks SET definition_version = 1")  # as a run that was interrupted leaves it
    await place.agent("helper", SAY)
    (place.tools / "price.py").unlink()
    async with place.working():
        await place.becomes(True, "SELECT error IS NOT NULL FROM runtime.tasks WHERE id = %s", pinned)
        fresh = await place.submit("helper")
        (done,) = await place.ended(fresh)
    task = await place.task(pinned)  # while there is a worker it may just be trying again
    assert (done.status, done.definition_version) == ("completed", 2)
    assert task.status == "pending"
    assert "price" in str(task.error)
    assert task.attempt is not None
    assert task.attempt <= 6


async def test_a_pinned_version_that_can_be_served_runs_as_it_was(place: Workplace) -> None:
    await place.agent("helper", [{"text": "old"}])
    pinned = await place.submit("helper")
    await place.execute("UPDATE runtime.tasks SET definition_version = 1")
    script = place.configs / "new.script.yaml"
    script.write_text(json.dumps([{"text": "new"}]))
    await place.agent("helper", [{"text": "old"}], model=f"scripted:{script}")
    async with place.working():
        (task,) = await place.ended(pinned)
    assert (task.result["output"], task.definition_version) == ("old", 1)


async def test_a_definition_that_no_release_understands_stops_nobody(place: Workplace) -> None:
    await place.agent("fine", SAY)
    await place.agent("future", SAY)
    future = await place.agent_id("future")
    await place.execute("UPDATE runtime.definitions SET spec = '{\"warp\": 9}' WHERE agent_id = %s", future)
    async with place.working():
        waiting = await place.submit("future")
        (task,) = await place.ended(await place.submit("fine"))
    assert task.status == "completed"
    assert (await place.task(waiting)).status == "pending"


async def test_many_agents_are_loaded_and_only_what_changed_is_loaded_again(place: Workplace) -> None:
    for number in range(5):
        place.write(f"agent{number}", SAY)
    await place.apply()
    here = registry(place)
    assert await here.refresh()
    assert len(here.servable) == 5
    kept = {agent: await here.get(agent, 1) for agent in here.servable}
    await place.agent("agent3", SAY, description="Newer.")
    assert not await here.refresh()  # no more agents than before
    for agent, before in kept.items():
        assert await here.get(agent, 1) is before
    assert (await here.get(await place.agent_id("agent3"), 2)).spec.description == "Newer."
