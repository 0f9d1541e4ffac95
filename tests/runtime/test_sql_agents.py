"""Agents that somebody's plain SQL puts or changes are checked and run like any other; a bad one stops nobody."""

from __future__ import annotations

import json
from typing import Any
from uuid import UUID

import pytest
from workplace import Workplace

SAY = [{"text": "You said: {{input}}"}]


async def insert(place: Workplace, name: str, config: Any, kind: str = "assistant") -> UUID:
    rows = await place.rows(
        "INSERT INTO runtime.agents (name, type, config) VALUES (%s, %s, %s::jsonb) RETURNING id",
        name,
        kind,
        None if config is None else json.dumps(config),
    )
    return UUID(str(rows[0][0]))


def config(place: Workplace, **more: Any) -> dict[str, Any]:
    place.write("unused", SAY).unlink()
    return {"model": f"scripted:{place.configs}/unused.script.yaml", "instructions": "Repeat.", **more}


async def test_an_agent_put_by_plain_sql_runs_under_its_name(place: Workplace) -> None:
    async with place.working():
        await insert(place, "parrot", config(place))
        await place.becomes(1, "SELECT definition_version FROM runtime.agents")
        (task,) = await place.ended(await place.submit("parrot", "hi"))
    assert task.result["output"] == "You said: hi"
    # Only our own columns were written.
    assert await place.rows("SELECT handle, name, type, status, problem FROM runtime.agents") == [
        ("parrot", "parrot", "assistant", "idle", None)
    ]


async def test_a_name_that_no_file_could_have_gives_an_agent_without_a_handle_that_runs(place: Workplace) -> None:
    agent = await insert(place, "Parrot No. 1!", config(place))
    async with place.working():
        await place.execute('INSERT INTO runtime.tasks (agent_id, payload) VALUES (%s, \'{"input": "hi"}\')', agent)
        await place.becomes("completed", "SELECT status FROM runtime.tasks")
    assert await place.value("SELECT handle FROM runtime.agents") is None


async def test_the_second_of_two_agents_of_one_name_runs_without_a_handle(place: Workplace) -> None:
    for _ in range(2):
        await insert(place, "parrot", config(place))
    async with place.working():
        await place.becomes(2, "SELECT count(definition_version) FROM runtime.agents")
    assert sorted(row[0] or "" for row in await place.rows("SELECT handle FROM runtime.agents")) == ["", "parrot"]


async def test_a_config_changed_by_plain_sql_makes_a_new_version(place: Workplace) -> None:
    await place.agent("parrot", SAY)
    place.write("other", [{"text": "changed"}]).unlink()
    async with place.working():
        await place.execute(
            "UPDATE runtime.agents SET config = jsonb_set(config, '{model}', to_jsonb(%s::text))",
            f"scripted:{place.configs}/other.script.yaml",
        )
        await place.becomes(2, "SELECT definition_version FROM runtime.agents")
        (task,) = await place.ended(await place.submit("parrot"))
    assert (task.result["output"], task.definition_version) == ("changed", 2)
    # The file it came from says what version 1 said: it does not flip the change back.
    plan = await place.apply()
    assert [item.action for item in plan.items] == ["older"]
    assert await place.value("SELECT definition_version FROM runtime.agents") == 2


BAD: dict[str, tuple[Any, str]] = {
    "no config": (None, "instructions"),
    "a config that is text": ("be nice", "JSON object"),
    "a misspelt key": ({"instruction": "x"}, "has no instructions"),
    "a tool out of the standard library": ({"instructions": "x", "tools": [{"python": "os:system"}]}, "os:system"),
    "a tool nobody knows": ({"instructions": "x", "tools": ["calculator"]}, "calculate"),
    "a script that is not there": ({"instructions": "x", "model": "scripted:/nowhere.yaml"}, "/nowhere.yaml"),
    "what is not supported yet": ({"instructions": "x", "limits": {"tokens": 50000}}, "tokens"),
}


@pytest.mark.parametrize("bad", BAD)
async def test_a_bad_one_gets_its_reason_and_the_others_run(place: Workplace, bad: str) -> None:
    given, reason = BAD[bad]
    agent = await insert(place, "aaa-bad", given)
    await insert(place, "good", config(place))
    async with place.working():
        await place.becomes(True, "SELECT problem IS NOT NULL FROM runtime.agents WHERE name = 'aaa-bad'")
        waiting = await place.rows(
            "INSERT INTO runtime.tasks (agent_id, payload) VALUES (%s, '{}') RETURNING id", agent
        )
        await place.becomes(1, "SELECT definition_version FROM runtime.agents WHERE name = 'good'")
        (task,) = await place.ended(await place.submit("good"))
    assert task.status == "completed"
    assert reason in await place.value("SELECT problem FROM runtime.agents WHERE name = 'aaa-bad'")
    assert await place.value("SELECT status FROM runtime.tasks WHERE id = %s", waiting[0][0]) == "pending"


async def test_an_agent_that_one_worker_refused_is_accepted_by_the_one_that_has_its_tool(place: Workplace) -> None:
    place.tool("price", "def price() -> str:\n    return 'ten'\n")
    tools = place.tools
    place.tools = place.folder / "no-tools"
    await insert(place, "seller", config(place, tools=[{"python": "price:price"}]))
    async with place.working():
        await place.becomes(True, "SELECT problem IS NOT NULL FROM runtime.agents")
        place.tools = tools
        async with place.working():
            await place.becomes(1, "SELECT definition_version FROM runtime.agents")
            (task,) = await place.ended(await place.submit("seller"))
    assert task.status == "completed"
    assert await place.value("SELECT problem FROM runtime.agents") is None


async def test_a_repaired_agent_is_checked_again(place: Workplace) -> None:
    await insert(place, "parrot", {"instruction": "x"})
    async with place.working():
        await place.becomes(True, "SELECT problem IS NOT NULL FROM runtime.agents")
        await place.execute("UPDATE runtime.agents SET config = %s::jsonb", json.dumps(config(place)))
        await place.becomes(1, "SELECT definition_version FROM runtime.agents")
    assert await place.value("SELECT problem FROM runtime.agents") is None


async def test_a_paused_agent_is_not_claimed_until_it_is_resumed(place: Workplace) -> None:
    await place.agent("parrot", SAY)
    await place.agent("other", SAY)
    await place.execute("UPDATE runtime.agents SET status = 'paused' WHERE handle = 'parrot'")
    async with place.working():
        waiting = await place.submit("parrot")
        await place.ended(await place.submit("other"))
        assert (await place.task(waiting)).status == "pending"
        await place.execute("UPDATE runtime.agents SET status = 'idle' WHERE handle = 'parrot'")
        (task,) = await place.ended(waiting)
    assert task.attempt == 1
