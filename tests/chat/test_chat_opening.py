"""Whom one talks with, as whom, and what a newcomer finds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from chat_scene import FakeScreen
from workplace import Workplace

from cirkelline.configs.errors import UsageError
from cirkelline.runtime.chat import opening
from cirkelline.runtime.chat.opening import Partners, Wanted
from cirkelline.state.agents import AgentNotFound
from cirkelline.state.sessions import SessionNotFound
from cirkelline.state.tenant import tenant
from cirkelline.state.users import UserNotFound
from cirkelline.tools.toolbox import Toolbox

ANSWER = [{"text": "hello"}]


async def introduced(
    place: Workplace, screen: FakeScreen, agent: str | None = None, user: str | None = None, session: str | None = None
) -> Partners:
    return await opening.introduce(place.db, Wanted(agent, user, session), "ivo", screen)


async def test_the_only_agent_need_not_be_named(place: Workplace, screen: FakeScreen) -> None:
    await place.agent("helper", ANSWER)
    partners = await introduced(place, screen)
    assert (partners.agent.label, partners.session) == ("helper", None)
    assert partners.model == f"scripted:{place.configs / 'helper.script.yaml'}"


async def test_among_several_the_assistant_is_meant(place: Workplace, screen: FakeScreen) -> None:
    for name in ("helper", "assistant", "writer"):
        await place.agent(name, ANSWER)
    assert (await introduced(place, screen)).agent.label == "assistant"
    assert (await introduced(place, screen, "writer")).agent.label == "writer"


async def test_among_several_without_an_assistant_one_has_to_be_named(place: Workplace, screen: FakeScreen) -> None:
    for name in ("helper", "writer"):
        await place.agent(name, ANSWER)
    with pytest.raises(UsageError, match="helper, writer"):
        await introduced(place, screen)


async def test_without_any_agent_the_remedy_is_named(place: Workplace, screen: FakeScreen) -> None:
    with pytest.raises(UsageError, match="cirkelline agents apply"):
        await introduced(place, screen)


async def test_a_mistyped_agent_is_a_question_and_makes_no_user(place: Workplace, screen: FakeScreen) -> None:
    await place.agent("helper", ANSWER)
    with pytest.raises(AgentNotFound, match="did you mean 'helper'"):
        await introduced(place, screen, "helpre", "somebody")
    assert await place.rows("SELECT FROM runtime.users") == []


async def test_a_user_is_created_at_first_sight_and_that_is_said_once(place: Workplace, screen: FakeScreen) -> None:
    await place.agent("helper", ANSWER)
    first = await introduced(place, screen, user="ann@example.com")
    second = await introduced(place, screen, user="ann@example.com")
    assert first.user == second.user
    assert screen.said == ["ann@example.com is new here: a user of that name has been created."]
    assert (await introduced(place, screen)).user.email == "ivo@localhost"


async def test_a_session_brings_its_own_agent(place: Workplace, screen: FakeScreen) -> None:
    for name in ("helper", "assistant"):
        await place.agent(name, ANSWER)
    session, _ = await place.session("helper")
    partners = await introduced(place, screen, session=str(session)[:8])
    assert partners.agent.label == "helper"
    assert partners.session is not None
    assert partners.session.id == session


async def test_a_session_with_another_agent_than_the_named_one_is_refused(place: Workplace, screen: FakeScreen) -> None:
    for name in ("helper", "assistant"):
        await place.agent(name, ANSWER)
    session, _ = await place.session("helper")
    with pytest.raises(UsageError, match="is with helper, not with assistant"):
        await introduced(place, screen, "assistant", session=str(session))


async def test_nobody_goes_on_with_somebody_elses_session(place: Workplace, screen: FakeScreen) -> None:
    await place.agent("helper", ANSWER)
    session, _ = await place.session("helper", "eve")
    await introduced(place, screen)
    with pytest.raises(SessionNotFound):
        await introduced(place, screen, session=str(session))
    with pytest.raises(UserNotFound):
        await introduced(place, screen, user="nobody", session=str(session))


async def test_a_paused_agent_is_announced(place: Workplace, screen: FakeScreen) -> None:
    await place.agent("helper", ANSWER)
    assert opening.obstacle((await introduced(place, screen)).agent) is None
    await place.execute("UPDATE runtime.agents SET status = 'paused'")
    obstacle = opening.obstacle((await introduced(place, screen)).agent)
    assert obstacle is not None
    assert "cirkelline agents resume helper" in obstacle


async def bring(place: Workplace, folder: Path | None, *, embedded: bool = True) -> list[str]:
    opened = replace(place.opened, embedded=embedded)
    return await opening.bring_agents(opened, folder, Toolbox(place.tools), {})


async def agents_of(place: Workplace) -> list[str]:
    return [str(handle) for (handle,) in await place.rows("SELECT handle FROM runtime.agents ORDER BY handle")]


async def test_a_newcomer_finds_the_example_agents(place: Workplace) -> None:
    (line,) = await bring(place, None)
    assert "first start" in line
    assert "assistant" in await agents_of(place)


async def test_an_author_finds_their_own_agents_instead(place: Workplace) -> None:
    place.write("mine", ANSWER)
    (line,) = await bring(place, place.configs)
    assert "mine" in line
    assert await agents_of(place) == ["mine"]


async def test_an_authors_broken_file_is_said_with_its_place(place: Workplace) -> None:
    place.write("mine", ANSWER)
    (place.configs / "broken.yaml").write_text("name: broken\nmodle: auto\n")
    lines = await bring(place, place.configs)
    assert any(line.startswith(f"{place.configs / 'broken.yaml'}:2:1: ") for line in lines)
    assert await agents_of(place) == ["mine"]


async def test_a_database_with_agents_gets_no_others(place: Workplace) -> None:
    await place.agent("helper", ANSWER)
    place.write("mine", ANSWER)
    assert await bring(place, place.configs) == []
    assert await agents_of(place) == ["helper"]


async def test_a_given_database_is_left_alone(place: Workplace) -> None:
    assert await bring(place, None, embedded=False) == []
    assert await agents_of(place) == []


async def test_what_was_said_in_earlier_sessions_can_be_brought_back(place: Workplace, screen: FakeScreen) -> None:
    await place.agent("helper", ANSWER)
    for user, said in (("ivo", "first"), ("eve", "not yours"), ("ivo", "second")):
        session, user_id = await place.session("helper", user)
        task = await place.turn(session, user_id, said)
        async with place.working():
            await place.ended(task)
    ivo = (await introduced(place, screen)).user
    async with tenant(place.db, ivo.id) as rows:
        assert await opening.earlier_inputs(rows) == ["first", "second"]
