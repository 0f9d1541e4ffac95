"""Agents and their definitions in the database, whoever wrote them."""

from __future__ import annotations

import asyncio
from uuid import UUID, uuid4

import pytest
import scene

from cirkelline.state import agents, claims, wakeups
from cirkelline.state.agents import AgentNotFound, DefinitionNotFound
from cirkelline.state.connection import Conn, Database


async def by_sql(conn: Conn, name: str, config: str | None = "{}", **columns: str) -> UUID:
    names = "".join(f", {column}" for column in columns)
    values = "".join(f", '{value}'" for value in columns.values())
    insert = f"INSERT INTO runtime.agents (name, type, config{names}) VALUES (%s, 't', %s{values}) RETURNING id"
    identity: UUID = await scene.one(conn, insert, name, config)
    return identity


async def test_a_created_agent_is_found_by_handle_and_id_with_its_definition(conn: Conn) -> None:
    identity = await scene.agent(conn, "helper", cap=3, instructions="go")
    agent = await agents.get(conn, "helper")
    assert agent == await agents.get(conn, str(identity)) == await agents.by_handle(conn, "helper")
    assert (agent.label, agent.status, agent.definition_version, agent.problem) == ("helper", "idle", 1, None)
    assert (agent.config, agent.capabilities) == ({"name": "helper", "instructions": "go"}, ["testing"])
    (version,) = await agents.history(conn, identity)
    assert (version.version, version.spec, version.model) == (1, agent.config, {"provider": "scripted"})
    assert await scene.one(conn, "SELECT version, cap FROM runtime.agent_heads") == (0, 3)


async def test_an_update_adds_a_version_and_keeps_the_old_one(conn: Conn) -> None:
    identity = await scene.agent(conn, "helper", cap=3)
    async with conn.transaction():
        await agents.lock_definitions(conn)
        assert await agents.update(conn, identity, scene.definition("helper", instructions="new")) == 2
    assert [version.version for version in await agents.history(conn, identity)] == [2, 1]
    agent = await agents.get(conn, "helper")
    assert (agent.definition_version, agent.config) == (2, {"name": "helper", "instructions": "new"})
    assert await scene.one(conn, "SELECT cap FROM runtime.agent_heads") is None
    assert [version.version for version in await agents.current_definitions(conn)] == [2]
    assert await agents.runnable(conn) == {identity: 2}


async def test_a_rollback_makes_an_older_version_current_without_a_new_one(conn: Conn) -> None:
    identity = await scene.agent(conn, "helper", instructions="old")
    async with conn.transaction():
        await agents.update(conn, identity, scene.definition("helper", instructions="new"))
        await agents.roll_back(conn, identity, 1, cap=5)
    agent = await agents.get(conn, "helper")
    assert (agent.definition_version, agent.config["instructions"]) == (1, "old")
    assert len(await agents.history(conn, identity)) == 2
    assert await scene.one(conn, "SELECT cap FROM runtime.agent_heads") == 5
    with pytest.raises(DefinitionNotFound, match="no definition version 9"):
        await agents.roll_back(conn, identity, 9, cap=None)
    # The next version counts on from the newest one there ever was.
    async with conn.transaction():
        assert await agents.update(conn, identity, scene.definition("helper", instructions="newest")) == 3


async def test_a_misspelt_name_is_answered_with_the_one_that_was_meant(conn: Conn) -> None:
    await scene.agent(conn, "researcher")
    with pytest.raises(AgentNotFound, match="did you mean 'researcher'"):
        await agents.get(conn, "reseacher")
    with pytest.raises(AgentNotFound, match="no agent named 'zzz' "):
        await agents.get(conn, "zzz")
    with pytest.raises(AgentNotFound, match="no agent"):
        await agents.get(conn, "\x00\ud800")


async def test_a_handle_goes_before_a_name_and_two_of_a_name_are_told_apart_by_id(conn: Conn) -> None:
    handled = await scene.agent(conn, "twin")
    one = await by_sql(conn, "twin")
    assert (await agents.get(conn, "twin")).id == handled
    assert (await agents.get(conn, str(one))).id == one
    await by_sql(conn, "other")
    await by_sql(conn, "other")
    with pytest.raises(AgentNotFound, match="more than one agent is named 'other'"):
        await agents.get(conn, "other")


async def test_agents_are_found_by_the_beginnings_of_the_words_of_their_names(conn: Conn) -> None:
    for name in ("Billing Helper", "billing-archive", "Größe"):
        await by_sql(conn, name)
    assert [agent.name for agent in await agents.search(conn, "bill")] == ["Billing Helper", "billing-archive"]
    assert [agent.name for agent in await agents.search(conn, "help BILL")] == ["Billing Helper"]
    assert [agent.name for agent in await agents.search(conn, "grö")] == ["Größe"]
    assert await agents.search(conn, "bill", limit=1) != []
    for nothing in ("", "':*|", "\x00", "zzz"):
        assert await agents.search(conn, nothing) == []


# Agents that came by plain SQL ----------------------------------------------------------------------------------------


async def accepted(conn: Conn, agent: agents.Agent, handle: str | None = "theirs") -> bool:
    async with conn.transaction():
        await agents.lock_definitions(conn)
        return await agents.accept(conn, agent, scene.definition("theirs", cap=2), handle=handle)


@pytest.mark.parametrize(
    "config", ["{}", "null", None, '{"n": 0.1234567890123456789, "huge": 1e400}', "[1, 2]", '"text"']
)
async def test_an_agent_of_any_config_can_be_accepted_or_refused_with_a_reason(conn: Conn, config: str | None) -> None:
    identity = await by_sql(conn, "theirs", config)
    (agent,) = await agents.unchecked(conn)
    await agents.set_problem(conn, agent, "no instructions\x00")
    refused = await agents.get(conn, str(identity))
    assert refused.problem == "no instructions\ufffd"
    assert await agents.unchecked(conn) == []
    assert [other.id for other in await agents.unaccepted(conn)] == [identity]
    assert await accepted(conn, refused)
    agent = await agents.get(conn, "theirs")
    assert (agent.definition_version, agent.problem, agent.handle) == (1, None, "theirs")


async def test_accepting_writes_our_columns_only(conn: Conn) -> None:
    identity = await by_sql(conn, "theirs", '{"a": 1}', updated_at="2001-01-01")
    columns = (
        "SELECT name, type, status, created_at, updated_at, config, capabilities FROM runtime.agents WHERE id = %s"
    )
    before = await scene.one(conn, columns, identity)
    (agent,) = await agents.unchecked(conn)
    assert await accepted(conn, agent)
    assert await scene.one(conn, columns, identity) == before
    assert await scene.one(conn, "SELECT version, cap FROM runtime.agent_heads") == (0, 2)


async def test_a_taken_handle_is_left_to_whom_it_belongs(conn: Conn) -> None:
    await scene.agent(conn, "theirs")
    await by_sql(conn, "theirs")
    (agent,) = await agents.unchecked(conn)
    assert await accepted(conn, agent)
    found = await agents.get(conn, str(agent.id))
    assert (found.handle, found.definition_version, found.label) == (None, 1, str(agent.id))


@pytest.mark.parametrize("change", ["config = '{\"b\": 1}'", "name = 'x'", "type = 'x'", "capabilities = '{x}'"])
async def test_what_changed_since_it_was_read_is_neither_accepted_nor_refused(conn: Conn, change: str) -> None:
    await by_sql(conn, "theirs")
    (agent,) = await agents.unchecked(conn)
    await conn.execute(f"UPDATE runtime.agents SET {change}")  # type: ignore[arg-type]
    assert not await accepted(conn, agent)
    await agents.set_problem(conn, agent, "old news")
    (changed,) = await agents.unchecked(conn)
    assert changed.problem is None
    assert await agents.history(conn, agent.id) == []


@pytest.mark.parametrize("change", ["config = '{\"b\": 1}'", "name = 'x'", "type = 'x'", "capabilities = '{x}'"])
async def test_an_accepted_agent_that_somebody_edits_has_to_be_checked_again(conn: Conn, change: str) -> None:
    await scene.agent(conn, "helper")
    await conn.execute(f"UPDATE runtime.agents SET {change}")  # type: ignore[arg-type]
    (agent,) = await agents.unchecked(conn)
    assert (agent.definition_version, agent.handle) == (None, "helper")
    assert await agents.runnable(conn) == {}
    assert await accepted(conn, agent)
    assert list((await agents.runnable(conn)).values()) == [2]


@pytest.mark.parametrize("change", ["config = config", "status = 'busy'", "updated_at = now()"])
async def test_an_edit_of_anything_else_keeps_the_definition(conn: Conn, change: str) -> None:
    await scene.agent(conn, "helper")
    await conn.execute(f"UPDATE runtime.agents SET {change}")  # type: ignore[arg-type]
    assert await agents.unchecked(conn) == []
    assert (await agents.get(conn, "helper")).definition_version == 1


async def test_a_refused_agent_that_somebody_mends_has_to_be_checked_again(conn: Conn) -> None:
    await by_sql(conn, "theirs")
    (agent,) = await agents.unchecked(conn)
    await agents.set_problem(conn, agent, "broken")
    await conn.execute("UPDATE runtime.agents SET config = '{\"mended\": true}'")
    (agent,) = await agents.unchecked(conn)
    assert agent.problem is None


async def test_an_agent_that_had_states_goes_on_counting_from_them(conn: Conn) -> None:
    identity = await by_sql(conn, "theirs")
    insert = "INSERT INTO runtime.agent_states (agent_id, state, version) VALUES (%s, '{}', %s)"
    for version in (3, None):
        await conn.execute(insert, [identity, version])
    (agent,) = await agents.unchecked(conn)
    assert await accepted(conn, agent)
    owner = await scene.worker(conn)
    await scene.submit(conn, identity)
    (finished,) = await scene.finish(conn, owner, scene.ended(await scene.claim_one(conn, owner, identity)))
    assert finished.state_version == 4


async def test_two_daemons_that_bring_the_same_new_agent_make_one(database_url: str) -> None:
    async with Database.open(database_url, connections=4) as db:

        async def bring() -> str:
            async with db.transaction() as conn:
                await agents.lock_definitions(conn)
                if await agents.by_handle(conn, "helper") is not None:
                    return "there"
                await agents.create(conn, scene.definition("helper"))
                return "made"

        assert sorted(await asyncio.gather(*(bring() for _ in range(4)))) == ["made", "there", "there", "there"]


async def test_busy_is_counted_and_never_stored(conn: Conn) -> None:
    identity, owner = await scene.agent(conn, "helper"), await scene.worker(conn)
    await scene.submit(conn, identity, 3)
    await claims.claim(conn, owner, [identity], slots=2)
    agent = await agents.get(conn, "helper")
    assert (agent.busy, agent.status) == (2, "idle")


@pytest.mark.parametrize(
    ("statement", "told"),
    [
        ("INSERT INTO runtime.agents (name, type) VALUES ('x', 't')", True),
        ("UPDATE runtime.agents SET config = '{}'", True),
        ("UPDATE runtime.agents SET status = 'paused'", True),
        ("DELETE FROM runtime.agents", True),
        ("TRUNCATE runtime.agents CASCADE", True),
        ("UPDATE runtime.agents SET updated_at = now()", False),
    ],
)
async def test_workers_are_told_when_an_agent_changes(
    conn: Conn, database_url: str, statement: str, told: bool
) -> None:
    await scene.agent(conn, "helper")
    async with wakeups.listening(database_url, [wakeups.AGENTS]) as listener:
        await conn.execute(statement)  # type: ignore[arg-type]
        await conn.execute("SELECT pg_notify('cirkelline_agents', 'last')")
        heard = await listener.wait(10)
        assert (heard[0] == (wakeups.AGENTS, "")) is told


async def test_what_is_asked_of_several_agents_at_once_is_answered_for_those_that_are_there(conn: Conn) -> None:
    one, two = await scene.agent(conn, "one"), await scene.agent(conn, "two")
    found = await agents.definitions_at(conn, [(one, 1), (two, 7), (uuid4(), 1)])
    assert [(definition.agent_id, definition.version) for definition in found] == [(one, 1)]
    same = await agents.hashed(conn, [one, two], [scene.definition("one").hash])
    assert [(each.agent_id, each.version, each.model) for each in same] == [(one, 1, {"provider": "scripted"})]
    assert [named.handle for named in await agents.named(conn)] == ["one", "two"]
