"""A session stands in the first document's table too, and the two rows agree whoever changes which."""

from __future__ import annotations

from uuid import UUID, uuid4

import pytest
import scene

from cirkelline.state import sessions, users
from cirkelline.state.connection import Conn, Database
from cirkelline.state.tenant import tenant

LISTED = "SELECT user_id, name, is_archived, updated_at > created_at FROM ai.agno_sessions WHERE session_id = %s"


@pytest.fixture
async def ivo(conn: Conn) -> UUID:
    return (await users.ensure(conn, "ivo")).id


async def opened(db: Database, conn: Conn, user: UUID) -> tuple[UUID, UUID]:
    agent = await scene.agent(conn, "helper")
    async with tenant(db, user) as door:
        return await sessions.create(door, agent), agent


async def said(db: Database, conn: Conn, session: UUID, user: UUID, agent: UUID, *inputs: str) -> None:
    owner = await scene.worker(conn)
    for text in inputs:
        async with tenant(db, user) as door:
            await sessions.submit_turn(door, session, {"input": text})
        claim = await scene.claim_one(conn, owner, agent)
        messages = [("user", text), ("assistant", "done")]
        assert len(await scene.finish(conn, owner, scene.ended(claim, messages=messages))) == 1


async def test_a_session_is_listed_when_it_is_opened_and_named_by_what_was_said_first(
    db: Database, conn: Conn, ivo: UUID
) -> None:
    session, agent = await opened(db, conn, ivo)
    assert await scene.one(conn, LISTED, session) == (str(ivo), None, False, False)
    await said(db, conn, session, ivo, agent, "  plan\na trip\tto Skagen  ", "in May")
    assert await scene.one(conn, LISTED, session) == (str(ivo), "plan a trip to Skagen", False, True)
    async with tenant(db, ivo) as door:
        assert (await sessions.get(door, str(session))).title == "plan a trip to Skagen"


@pytest.mark.parametrize("text", ["", "   \n ", "x" * 100_000, "\N{PARTY POPPER}" * 300])
async def test_any_first_message_gives_a_name_that_fits_or_none(db: Database, conn: Conn, ivo: UUID, text: str) -> None:
    session, agent = await opened(db, conn, ivo)
    await said(db, conn, session, ivo, agent, text)
    name = (await scene.one(conn, LISTED, session))[1]
    assert name == (text.strip()[:80] or None)


async def test_a_name_that_somebody_gave_stays(db: Database, conn: Conn, ivo: UUID) -> None:
    session, agent = await opened(db, conn, ivo)
    await conn.execute("UPDATE ai.agno_sessions SET name = 'Holiday' WHERE session_id = %s", [session])
    await said(db, conn, session, ivo, agent, "plan a trip")
    assert (await scene.one(conn, LISTED, session))[1] == "Holiday"


async def test_archived_on_either_side_is_archived_on_both_and_back(db: Database, conn: Conn, ivo: UUID) -> None:
    session, _ = await opened(db, conn, ivo)
    both = """
    SELECT s.status, s.ended_at IS NOT NULL, a.is_archived
      FROM runtime.sessions s JOIN ai.agno_sessions a ON a.session_id = s.id WHERE s.id = %s
    """
    async with tenant(db, ivo) as door:
        assert await sessions.archive(door, session)
        assert not await sessions.archive(door, session)
    assert await scene.one(conn, both, session) == ("archived", True, True)
    await conn.execute("UPDATE ai.agno_sessions SET is_archived = FALSE")
    assert await scene.one(conn, both, session) == ("active", False, False)
    await conn.execute("UPDATE ai.agno_sessions SET is_archived = TRUE")
    assert await scene.one(conn, both, session) == ("archived", True, True)
    async with tenant(db, ivo) as door:
        assert [each.id for each in await sessions.find(door)] == []
        assert [each.id for each in await sessions.find(door, archived=True)] == [session]
        assert [each.id for each in await sessions.find(door, archived=None)] == [session]
        assert await sessions.archive(door, session, archived=False)
    assert await scene.one(conn, both, session) == ("active", False, False)


async def test_nobody_archives_what_is_somebody_elses(db: Database, conn: Conn, ivo: UUID) -> None:
    session, _ = await opened(db, conn, ivo)
    eva = await users.ensure(conn, "eva")
    async with tenant(db, eva.id) as door:
        assert not await sessions.archive(door, session)
        await door.conn.execute("UPDATE ai.agno_sessions SET is_archived = TRUE")
    assert (await scene.one(conn, LISTED, session))[2] is False


async def test_a_conversation_of_another_program_is_never_touched(db: Database, conn: Conn, ivo: UUID) -> None:
    session, agent = await opened(db, conn, ivo)
    theirs = (
        "INSERT INTO ai.agno_sessions (session_id, user_id, name, updated_at) VALUES (%s, 'user-123', 'mine', NULL)"
    )
    await conn.execute(theirs, [uuid4()])
    # One that took the id of ours, too: its user is another.
    await conn.execute("UPDATE ai.agno_sessions SET user_id = 'user-9', name = NULL WHERE session_id = %s", [session])
    before = await scene.rows(conn, "SELECT * FROM ai.agno_sessions ORDER BY id")
    await said(db, conn, session, ivo, agent, "hello")
    async with tenant(db, ivo) as door:
        await sessions.archive(door, session)
    await conn.execute("DELETE FROM runtime.sessions")
    assert await scene.rows(conn, "SELECT * FROM ai.agno_sessions ORDER BY id") == before


@pytest.mark.parametrize("removal", ["DELETE FROM runtime.sessions", "TRUNCATE runtime.sessions"])
async def test_it_is_listed_no_longer_than_it_is_there(db: Database, conn: Conn, ivo: UUID, removal: str) -> None:
    await opened(db, conn, ivo)
    await conn.execute("INSERT INTO ai.agno_sessions (session_id, user_id) VALUES (%s, 'user-123')", [uuid4()])
    await conn.execute(removal)  # type: ignore[call-overload]
    assert await scene.rows(conn, "SELECT user_id FROM ai.agno_sessions") == ["user-123"]


async def test_a_turn_ends_while_somebody_holds_the_listed_row(db: Database, conn: Conn, ivo: UUID) -> None:
    session, agent = await opened(db, conn, ivo)
    holder = await scene.another(conn)
    async with holder, holder.transaction():
        await holder.execute("SELECT FROM ai.agno_sessions FOR UPDATE")
        await conn.execute("SET lock_timeout = '5s'")
        await said(db, conn, session, ivo, agent, "first")
    await said(db, conn, session, ivo, agent, "second")
    assert (await scene.one(conn, LISTED, session))[1:] == ("second", False, True)
