"""Users, their sessions and messages: reached through the tenant's door, and never another's."""

from __future__ import annotations

import contextlib
from uuid import UUID, uuid4

import pytest
import scene

from cirkelline.state import sessions, tasks, users
from cirkelline.state.connection import Conn, Database
from cirkelline.state.sessions import SessionNotFound
from cirkelline.state.tenant import tenant
from cirkelline.state.users import NoSuchName, User, UserNotFound


async def test_a_user_is_made_at_first_sight_and_found_ever_after(conn: Conn) -> None:
    ivo = await users.ensure(conn, "ivo")
    assert ivo.email == "ivo@localhost"
    for name in ("ivo", "ivo@localhost", str(ivo.id)):
        assert await users.ensure(conn, name) == await users.get(conn, name) == ivo
    assert (await users.ensure(conn, "eva@example.com")).email == "eva@example.com"
    assert await scene.one(conn, "SELECT count(*) FROM runtime.users") == 2


async def test_an_unknown_user_is_named_with_the_way_to_make_one(conn: Conn) -> None:
    with pytest.raises(UserNotFound, match="no user 'zoe'"):
        await users.get(conn, "zoe")
    with pytest.raises(UserNotFound):
        await users.get(conn, "\x00\ud800")


@pytest.mark.parametrize("name", ["", " ", "a\x00b", "x" * 250])
async def test_a_name_that_no_user_can_have_is_refused(conn: Conn, name: str) -> None:
    with pytest.raises(NoSuchName, match="cannot be a user"):
        await users.ensure(conn, name)
    assert await scene.one(conn, "SELECT count(*) FROM runtime.users") == 0


async def test_users_that_others_left_without_an_email_disturb_nobody(conn: Conn) -> None:
    await conn.execute("INSERT INTO runtime.users (email) VALUES (NULL), (NULL)")
    assert (await users.ensure(conn, "ivo")).email == "ivo@localhost"


# Sessions -------------------------------------------------------------------------------------------------------------


async def two(conn: Conn) -> tuple[User, User, UUID]:
    return await users.ensure(conn, "ivo"), await users.ensure(conn, "eva"), await scene.agent(conn, "helper")


async def test_a_session_is_its_users_alone(db: Database, conn: Conn) -> None:
    ivo, eva, agent = await two(conn)
    async with tenant(db, ivo.id) as door:
        mine = await sessions.create(door, agent)
        await sessions.submit_turn(door, mine, {"input": "hi"})
    owner = await scene.worker(conn)
    claim = await scene.claim_one(conn, owner, agent)
    assert (claim.session_id, claim.user_id, claim.task_type) == (mine, ivo.id, "chat")
    await scene.finish(conn, owner, scene.ended(claim, messages=[("user", "hi"), ("assistant", "hello")]))
    async with tenant(db, ivo.id) as door:
        (session,) = await sessions.find(door)
        assert (session.id, session.agent, session.status, session.turns) == (mine, "helper", "active", 1)
        assert session.title == "hi"
        assert [message.content for message in await sessions.messages(door, mine)] == ["hi", "hello"]
    async with tenant(db, eva.id) as door:
        assert await sessions.find(door) == []
        assert await sessions.messages(door, mine) == []
        for reference in (str(mine), mine.hex[:8]):
            with pytest.raises(SessionNotFound, match="no session of this user"):
                await sessions.get(door, reference)
        with pytest.raises(SessionNotFound):
            await sessions.submit_turn(door, mine, {"input": "let me in"})
    assert await scene.one(conn, "SELECT count(*) FROM runtime.tasks") == 1


async def test_a_session_is_found_by_the_beginning_of_its_id(db: Database, conn: Conn) -> None:
    ivo, _, agent = await two(conn)
    async with tenant(db, ivo.id) as door:
        one, other = UUID(int=0xAB << 120), UUID(int=(0xAB << 120) + 1)
        for identity in (one, other):
            insert = "INSERT INTO runtime.sessions (id, user_id, agent_id) VALUES (%s, %s, %s)"
            await door.conn.execute(insert, [identity, ivo.id, agent])
        for reference in (str(one), one.hex, one.hex.upper()):
            assert (await sessions.get(door, reference)).id == one
        for reference, problem in (
            ("ab", "more than one"),
            ("ffff", "no session"),
            ("", "no session"),
            ("a%", "no session"),
        ):
            with pytest.raises(SessionNotFound, match=problem):
                await sessions.get(door, reference)


async def test_the_newest_sessions_come_first_and_of_one_agent_if_wished(db: Database, conn: Conn) -> None:
    ivo, _, agent = await two(conn)
    other = await scene.agent(conn, "other")
    async with tenant(db, ivo.id) as door:
        made = [await sessions.create(door, each) for each in (agent, other, agent)]
    for age, identity in enumerate(reversed(made)):
        update = "UPDATE runtime.sessions SET created_at = now() - %s * interval '1 day' WHERE id = %s"
        await conn.execute(update, [age, identity])
    async with tenant(db, ivo.id) as door:
        assert [session.id for session in await sessions.find(door)] == made[::-1]
        assert [session.id for session in await sessions.find(door, agent_id=agent)] == [made[2], made[0]]
        assert [session.id for session in await sessions.find(door, limit=1)] == [made[2]]


async def test_messages_come_as_a_window_of_the_last_oldest_first(db: Database, conn: Conn) -> None:
    ivo, _, agent = await two(conn)
    async with tenant(db, ivo.id) as door:
        session = await sessions.create(door, agent)
    for n in range(6):
        insert = """
        INSERT INTO runtime.messages (session_id, task_id, user_id, role, content)
        VALUES (%s, gen_random_uuid(), %s, 'user', %s)"""
        await conn.execute(insert, [session, ivo.id, str(n)])
    async with tenant(db, ivo.id) as door:
        everything = await sessions.messages(door, session)
        assert [message.content for message in everything] == list("012345")
        assert [message.content for message in await sessions.messages(door, session, limit=2)] == ["4", "5"]
        until = everything[3].position
        assert [message.content for message in await sessions.messages(door, session, limit=2, until=until)] == [
            "2",
            "3",
        ]


async def test_the_door_takes_everything_back_when_something_breaks(db: Database, conn: Conn) -> None:
    ivo, _, agent = await two(conn)
    with contextlib.suppress(SessionNotFound):
        async with tenant(db, ivo.id) as door:
            await sessions.create(door, agent)
            await sessions.get(door, "ffff")
    async with tenant(db, ivo.id) as door:
        assert await sessions.find(door) == []


async def test_the_door_says_whose_rows_they_are_until_it_closes(db: Database, conn: Conn) -> None:
    ivo, _, _ = await two(conn)
    setting = "SELECT nullif(current_setting('app.user_id', TRUE), '')"
    async with tenant(db, ivo.id) as door:
        assert await scene.one(door.conn, setting) == str(ivo.id)
    async with db.connection() as after:
        assert await scene.one(after, setting) is None


async def test_a_turn_of_a_session_that_is_not_there_is_no_task(db: Database, conn: Conn) -> None:
    ivo, _, _ = await two(conn)
    async with tenant(db, ivo.id) as door:
        with pytest.raises(SessionNotFound, match="no session"):
            await sessions.submit_turn(door, uuid4(), {"input": "hi"})
    assert await tasks.find(conn) == []
