"""Applying files: what a plan says is what happens, once, and no old file undoes a newer version."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from workplace import Workplace

from cirkelline.configs.schema import ModelSpec
from cirkelline.runtime import applying
from cirkelline.runtime.applying import Action, Plan, ProblemsFirst
from cirkelline.tools.toolbox import Toolbox

SAY = [{"text": "hi"}]


async def plan(place: Workplace, environ: dict[str, str] | None = None, **options: Any) -> Plan:
    loaded = await asyncio.to_thread(place.load)
    return await applying.plan(place.db, loaded, environ or {}, **options)


def actions(plan: Plan) -> list[tuple[str, str]]:
    return [(item.name, str(item.action)) for item in plan.items]


async def versions(place: Workplace) -> list[tuple[str, int]]:
    rows = await place.rows("SELECT handle, definition_version FROM runtime.agents ORDER BY handle")
    return [(handle, version) for handle, version in rows]


async def test_a_plan_changes_nothing_and_says_what_apply_then_does(place: Workplace) -> None:
    place.write("anna", SAY)
    place.write("bo", SAY)
    assert actions(await plan(place)) == [("anna", "create"), ("bo", "create")]
    assert await versions(place) == []
    await place.apply()
    assert await versions(place) == [("anna", 1), ("bo", 1)]
    place.write("bo", SAY, instructions="Say something else.")
    assert actions(await plan(place)) == [("anna", "unchanged"), ("bo", "update")]
    await place.apply()
    assert await versions(place) == [("anna", 1), ("bo", 2)]


async def test_an_update_shows_the_lines_that_change(place: Workplace) -> None:
    place.write("anna", SAY, instructions="Be brief.\nBe kind.", limits={"steps": 3})
    await place.apply()
    place.write("anna", SAY, instructions="Be brief.\nBe honest.", limits={"steps": 3})
    (item,) = (await plan(place)).items
    changed = [line for line in item.diff if line.startswith(("+", "-"))]
    assert changed == ["--- version 1", "+++ this file", "-  Be kind.", "+  Be honest."]


async def test_an_old_checkout_never_flips_a_newer_version_back(place: Workplace) -> None:
    old = place.write("anna", SAY).read_text()
    await place.apply()
    new = place.write("anna", SAY, description="Newer.").read_text()
    await place.apply()
    (place.configs / "anna.yaml").write_text(old)
    (item,) = (await plan(place)).items
    assert (item.action, item.current_version, item.same_as_version) == (Action.OLDER, 2, 1)
    await place.apply()
    assert await versions(place) == [("anna", 2)]
    (place.configs / "anna.yaml").write_text(new)
    assert actions(await plan(place)) == [("anna", "unchanged")]
    assert await place.value("SELECT count(*) FROM runtime.definitions") == 2


async def test_two_daemons_that_apply_the_same_new_file_at_once_make_one_version(place: Workplace) -> None:
    place.write("anna", SAY)
    await asyncio.gather(*(place.apply() for _ in range(4)))
    place.write("anna", SAY, description="Newer.")
    await asyncio.gather(*(place.apply() for _ in range(4)))
    assert await place.rows("SELECT version FROM runtime.definitions ORDER BY version") == [(1,), (2,)]


async def test_a_plan_is_decided_again_when_it_is_applied(place: Workplace) -> None:
    place.write("anna", SAY)
    first = await plan(place, resolve_auto=True)
    second = await plan(place, resolve_auto=True)
    assert [(done.action, done.version) for done in await applying.apply(place.db, first)] == [(Action.CREATE, 1)]
    assert [(done.action, done.version) for done in await applying.apply(place.db, second)] == [(Action.UNCHANGED, 1)]


async def test_auto_is_resolved_once_and_a_key_that_goes_or_comes_swaps_no_model(place: Workplace) -> None:
    place.write("anna", SAY, model="auto")
    key = {"GOOGLE_API_KEY": "AIzaSyA0000000000000000000000000000000"}
    await applying.apply(place.db, await plan(place, key, resolve_auto=True))
    stored = ModelSpec.model_validate(await place.value("SELECT model FROM runtime.definitions"))
    assert stored.provider == "gemini"
    (item,) = (await plan(place, {}, resolve_auto=True)).items
    assert (item.action, item.model) == (Action.UNCHANGED, stored)


async def test_auto_is_resolved_again_only_when_asked_and_as_a_version_of_its_own(place: Workplace) -> None:
    place.write("anna", SAY, model="auto")
    place.write("bo", SAY)
    await applying.apply(place.db, await plan(place, {}, resolve_auto=True))
    key = {"GOOGLE_API_KEY": "AIzaSyA0000000000000000000000000000000"}
    twice = [await plan(place, key, resolve_auto=True, resolve_again=True) for _ in range(2)]
    assert actions(twice[0]) == [("anna", "update"), ("bo", "unchanged")]
    assert twice[0].items[0].diff[1] == "+auto stands for gemini:gemini-2.5-flash"
    assert [done.version for done in await applying.apply(place.db, twice[0])] == [2, 1]
    assert [done.version for done in await applying.apply(place.db, twice[1])] == [2, 1]
    models = await place.rows("SELECT model ->> 'provider' FROM runtime.definitions ORDER BY agent_id, version")
    assert sorted(models) == [("gemini",), ("local",), ("scripted",)]
    assert actions(await plan(place, key, resolve_auto=True, resolve_again=True)) == [
        ("anna", "unchanged"),
        ("bo", "unchanged"),
    ]


async def test_a_plan_that_still_says_auto_is_not_applied(place: Workplace) -> None:
    place.write("anna", SAY, model="auto")
    with pytest.raises(ValueError, match="resolve_auto"):
        await applying.apply(place.db, await plan(place))
    assert await versions(place) == []


async def test_a_removed_file_is_missing_and_only_prune_retires_its_agent(place: Workplace) -> None:
    place.write("anna", SAY)
    path = place.write("bo", SAY)
    await place.apply()
    path.unlink()
    assert (await plan(place)).missing == ("bo",)
    await place.apply()
    assert await place.value("SELECT status FROM runtime.agents WHERE handle = 'bo'") == "idle"
    await place.apply(prune=True)
    assert await place.value("SELECT status FROM runtime.agents WHERE handle = 'bo'") == "retired"
    assert (await plan(place)).missing == ()


async def test_agents_of_other_folders_and_of_plain_sql_are_not_missing(place: Workplace) -> None:
    await place.apply()
    place.write("anna", SAY)
    await place.apply()
    await place.execute(
        "INSERT INTO runtime.agents (name, type, config) VALUES ('sql', 'x', '{\"instructions\": \"x\"}')"
    )
    await applying.accept_sql_agents(place.db, Toolbox(None), {})
    (place.configs / "anna.yaml").unlink()
    assert (await plan(place)).missing == ("anna",)
    assert (await plan(place, scope=[place.folder / "elsewhere"])).missing == ()
    assert (await plan(place, scope=[place.configs])).missing == ("anna",)


async def test_agents_of_a_file_that_broke_are_not_missing_and_nothing_is_pruned_meanwhile(place: Workplace) -> None:
    path = place.write("anna", SAY)
    gone = place.write("bo", SAY)
    await place.apply()
    path.write_text("name: anna\ninstructions: [")
    gone.unlink()
    planned = await plan(place)
    assert planned.missing == ("bo",)
    with pytest.raises(ProblemsFirst):
        await applying.apply(place.db, planned, prune=True)
    assert await place.value("SELECT count(*) FROM runtime.agents WHERE status = 'retired'") == 0


async def test_tools_and_scripts_that_do_not_exist_are_problems_at_their_place(place: Workplace) -> None:
    path = place.configs / "anna.yaml"
    path.write_text(
        "name: anna\n"
        "instructions: hm\n"
        "model: scripted:/nowhere.script.yaml\n"
        "tools:\n"
        "  - calculate\n"
        '  - {python: "os:system"}\n'
        "  - calculatr\n"
    )
    loaded = await asyncio.to_thread(place.load)
    assert loaded.definitions == ()
    assert sorted((problem.line, problem.path) for problem in loaded.problems) == [(3, path), (6, path), (7, path)]


async def test_two_tools_of_one_name_are_a_problem(place: Workplace) -> None:
    place.tool("mine", "def calculate(what: str) -> str:\n    return what\n")
    place.write("anna", SAY, tools=["calculate", {"python": "mine:calculate"}])
    (problem,) = (await asyncio.to_thread(place.load)).problems
    assert "both called 'calculate'" in problem.message


async def test_the_cap_of_the_newest_version_holds_for_claims(place: Workplace) -> None:
    agent = await place.agent("anna", SAY, limits={"concurrency": 3})
    assert await place.value("SELECT cap FROM runtime.agent_heads WHERE agent_id = %s", agent) == 3
    await place.agent("anna", SAY)
    assert await place.value("SELECT cap FROM runtime.agent_heads WHERE agent_id = %s", agent) is None


async def test_a_retired_agent_stays_retired_when_its_file_is_applied(place: Workplace) -> None:
    agent = await place.agent("anna", SAY)
    await place.execute("UPDATE runtime.agents SET status = 'retired' WHERE id = %s", agent)
    place.write("anna", SAY, description="Newer.")
    planned = await place.apply()
    assert planned.items[0].retired
    assert await place.value("SELECT status FROM runtime.agents") == "retired"
