"""Anybody's plain SQL takes part: with the documents' columns only, any role, any time zone."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import psycopg
import pytest
import scene
from psycopg import sql

from cirkelline.state import agents, claims, snapshots, tasks
from cirkelline.state.connection import Conn

BRIEF = timedelta(minutes=1)


@pytest.fixture
async def outsider(conn: Conn) -> AsyncIterator[Conn]:
    """Another program's connection: its own role with rights on the documents' tables alone, and Tokyo's time."""
    role = f"outsider_{uuid4().hex[:12]}"
    name = sql.Identifier(role)
    await conn.execute(sql.SQL("CREATE ROLE {}").format(name))
    await conn.execute(sql.SQL("GRANT USAGE ON SCHEMA runtime TO {}").format(name))
    tables = sql.SQL("runtime.agents, runtime.agent_states, runtime.tasks, runtime.users, runtime.sessions")
    everything = sql.SQL("GRANT SELECT, INSERT, UPDATE, DELETE, TRUNCATE ON {} TO {}")
    await conn.execute(everything.format(tables, name))
    async with await scene.another(conn) as theirs:
        await theirs.execute(sql.SQL("SET ROLE {}").format(name))
        await theirs.execute("SET TIME ZONE 'Asia/Tokyo'")
        await theirs.execute("SET search_path = runtime")
        yield theirs
    await conn.execute(sql.SQL("DROP OWNED BY {}").format(name))
    await conn.execute(sql.SQL("DROP ROLE {}").format(name))


def is_now(moment: datetime) -> bool:
    return abs(moment.replace(tzinfo=UTC) - datetime.now(UTC)) < BRIEF


async def test_an_agent_gets_an_id_a_status_and_times(outsider: Conn) -> None:
    insert = (
        "INSERT INTO agents (id, name, type, status, created_at, updated_at) VALUES (NULL, 'a', 't', NULL, NULL, NULL)"
    )
    row = await scene.one(outsider, insert + " RETURNING id, status, created_at, updated_at, definition_version")
    assert isinstance(row[0], UUID)
    assert (row[1], row[4]) == ("idle", None)
    assert is_now(row[2])
    assert is_now(row[3])


async def test_a_state_gets_an_id_and_a_time(outsider: Conn) -> None:
    agent = await scene.one(outsider, "INSERT INTO agents (name, type) VALUES ('a', 't') RETURNING id")
    insert = "INSERT INTO agent_states (id, agent_id, state, timestamp) VALUES (NULL, %s, '{}', NULL) RETURNING id, timestamp"
    identity, moment = await scene.one(outsider, insert, agent)
    assert isinstance(identity, UUID)
    assert is_now(moment)


async def test_a_task_gets_an_id_a_status_and_a_time_and_stands_in_line(conn: Conn, outsider: Conn) -> None:
    agent = await scene.agent(conn)
    insert = "INSERT INTO tasks (agent_id, payload) VALUES (%s, '{}') RETURNING id, status, created_at, submitted_at"
    identity, status, created, submitted = await scene.one(outsider, insert, agent)
    assert status == "pending"
    assert is_now(created)
    assert abs(submitted - datetime.now(UTC)) < BRIEF
    assert await scene.rows(conn, "SELECT task_id, agent_id, priority, run_at FROM runtime.queue") == [
        (identity, agent, 0, None)
    ]


async def test_a_user_gets_an_id_and_times(outsider: Conn) -> None:
    insert = "INSERT INTO users (email, created_at) VALUES ('a@b', NULL) RETURNING id, created_at, updated_at"
    identity, created, updated = await scene.one(outsider, insert)
    assert isinstance(identity, UUID)
    assert is_now(created)
    assert is_now(updated)


async def test_a_session_gets_an_id_a_status_and_a_time(outsider: Conn) -> None:
    identity, status, created = await scene.one(
        outsider, "INSERT INTO sessions (status) VALUES (NULL) RETURNING id, status, created_at"
    )
    assert isinstance(identity, UUID)
    assert status == "active"
    assert is_now(created)


async def test_what_an_outsider_says_itself_is_kept(outsider: Conn) -> None:
    identity = uuid4()
    past = datetime(2001, 2, 3, 4, 5, 6)  # noqa: DTZ001 - the documents' columns know no time zone
    insert = "INSERT INTO tasks VALUES (%s, NULL, 'x', 'theirs', '{\"a\": 1}', '[]', %s, %s)"
    await outsider.execute(insert, [identity, past, past])
    columns = "SELECT id, task_type, status, payload, result, created_at, completed_at FROM tasks"
    assert await scene.one(outsider, columns) == (identity, "x", "theirs", {"a": 1}, [], past, past)


async def test_tasks_without_an_agent_or_with_another_status_do_not_stand_in_line(conn: Conn, outsider: Conn) -> None:
    agent = await scene.agent(conn)
    await outsider.execute("INSERT INTO tasks (agent_id, status) VALUES (%s, 'running'), (NULL, 'pending')", [agent])
    assert await scene.rows(conn, "SELECT task_id FROM runtime.queue") == []


async def test_tasks_may_come_by_copy_by_select_and_by_upsert(conn: Conn, outsider: Conn) -> None:
    agent, one = await scene.agent(conn), uuid4()
    statement = "COPY tasks (id, agent_id) FROM STDIN"
    # The one thing that PostgreSQL refuses on tables with row-level security, to all but their owners and bypassers.
    with pytest.raises(psycopg.errors.FeatureNotSupported, match="Use INSERT"):
        async with outsider.cursor().copy(statement):
            pass
    name = sql.Identifier(await scene.one(outsider, "SELECT current_user"))
    await conn.execute(sql.SQL("ALTER ROLE {} BYPASSRLS").format(name))
    async with outsider.cursor().copy(statement) as copy:
        for identity in (one, uuid4(), uuid4()):
            await copy.write_row((identity, agent))
    await conn.execute(sql.SQL("ALTER ROLE {} NOBYPASSRLS").format(name))
    await outsider.execute("INSERT INTO tasks (agent_id) SELECT agent_id FROM tasks")
    await outsider.execute("UPDATE tasks SET status = 'done' WHERE id = %s", [one])
    upsert = "INSERT INTO tasks (id, agent_id) VALUES (%s, %s) ON CONFLICT (id) DO UPDATE SET status = 'pending'"
    await outsider.execute(upsert, [one, agent])
    await outsider.execute(upsert, [uuid4(), agent])
    assert set(await scene.rows(conn, "SELECT task_id FROM runtime.queue")) == set(
        await scene.rows(conn, "SELECT id FROM runtime.tasks")
    )
    assert await scene.one(conn, "SELECT count(*) FROM runtime.queue") == 7


async def test_an_outsider_may_change_and_remove_its_tasks_without_a_right_on_the_queue(
    conn: Conn, outsider: Conn
) -> None:
    agent, other = await scene.agent(conn), await scene.agent(conn, "other")
    (kept, moved, gone) = await scene.submit(conn, agent, 3)
    await outsider.execute("UPDATE tasks SET agent_id = %s WHERE id = %s", [other, moved])
    await outsider.execute("UPDATE tasks SET status = 'mine' WHERE id = %s", [kept])
    await outsider.execute("UPDATE tasks SET status = 'pending' WHERE id = %s", [kept])
    await outsider.execute("DELETE FROM tasks WHERE id = %s", [gone])
    queued = await scene.rows(conn, "SELECT task_id, agent_id FROM runtime.queue")
    assert sorted(queued) == sorted([(kept, agent), (moved, other)])
    await outsider.execute("TRUNCATE tasks, agent_states, sessions, agents")
    assert await scene.rows(conn, "SELECT task_id FROM runtime.queue") == []
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        await outsider.execute("SELECT * FROM queue")


async def test_an_outsiders_task_runs_like_any_other(conn: Conn, outsider: Conn) -> None:
    agent, owner = await scene.agent(conn), await scene.worker(conn)
    identity = await scene.one(outsider, "INSERT INTO tasks (agent_id) VALUES (%s) RETURNING id", agent)
    claim = await scene.claim_one(conn, owner, agent)
    assert (claim.id, claim.task_type, claim.payload) == (identity, None, None)
    (finished,) = await scene.finish(conn, owner, scene.ended(claim))
    assert (finished.status, finished.state_version) == ("completed", 1)


# What Python cannot hold ----------------------------------------------------------------------------------------------


HUGE = "(SELECT ('{\"n\": 1' || repeat('0', 5000) || '}')::jsonb)"
DEEP = "(SELECT (repeat('[', 3000) || repeat(']', 3000))::jsonb)"


@pytest.mark.parametrize("payload", [HUGE, DEEP])
async def test_a_payload_that_python_cannot_take_apart_is_claimed_all_the_same(conn: Conn, payload: str) -> None:
    agent, owner = await scene.agent(conn), await scene.worker(conn)
    await conn.execute(f"INSERT INTO runtime.tasks (agent_id, payload) VALUES (%s, {payload})", [agent])  # type: ignore[arg-type]
    await scene.submit(conn, agent)
    strange, plain = await claims.claim(conn, owner, [agent], slots=2)
    assert plain.payload == {"input": "go"}
    text = strange.payload if isinstance(strange.payload, str) else strange.payload["n"]
    assert len(text) in {5001, 6000}


@pytest.mark.parametrize("moment", ["infinity", "-infinity", "20000-01-01", "0044-03-15 BC"])
async def test_a_time_that_python_cannot_hold_hides_nobody(conn: Conn, moment: str) -> None:
    await scene.agent(conn, "plain")
    insert = "INSERT INTO runtime.agents (name, type, created_at, config) VALUES ('odd', 't', %s, %s)"
    await conn.execute(insert, [moment, '{"n": 1e5000}'])
    found = {agent.name: agent for agent in await agents.find(conn)}
    assert found["plain"].created_at is not None
    assert found["odd"].created_at is None
    assert [agent.name for agent in await agents.unchecked(conn)] == ["odd"]
    agent = found["plain"].id
    await conn.execute("INSERT INTO runtime.tasks (agent_id, created_at) VALUES (%s, %s)", [agent, moment])
    (task,) = await tasks.find(conn)
    assert task.created_at is None
    await conn.execute(
        "INSERT INTO runtime.agent_states (agent_id, state, version, timestamp) VALUES (%s, '{}', 1, %s)",
        [agent, moment],
    )
    assert (await snapshots.get(conn, agent, 1)).timestamp is None
