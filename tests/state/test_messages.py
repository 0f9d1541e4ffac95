"""What was said in a session is stored once, and outlives the tasks that it was said in."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest
import scene

from cirkelline.state import sessions, tenant, users
from cirkelline.state.connection import Conn, Database

SAID = "SELECT role, runtime.said(m) FROM runtime.messages m ORDER BY position"
STORED = "SELECT content FROM runtime.messages ORDER BY position"


async def turn(db: Database, conn: Conn, payload: Any, result: Any, *messages: tuple[str, str]) -> UUID:
    """A turn of a session that ended like this; returns its task."""
    agent, owner = await scene.agent(conn), await scene.worker(conn)
    user = await users.ensure(conn, "ivo")
    async with tenant.tenant(db, user.id) as door:
        session = await sessions.create(door, agent)
        task = await sessions.submit_turn(door, session, payload)
    claim = await scene.claim_one(conn, owner, agent)
    status = "completed" if "output" in result else "cancelled"
    await scene.finish(conn, owner, scene.ended(claim, status, messages=messages, result=result))  # type: ignore[arg-type]
    return task


async def test_what_was_asked_and_answered_stands_in_the_task_alone(db: Database, conn: Conn) -> None:
    messages = [("user", "how are you?"), ("assistant", "fine")]
    await turn(db, conn, {"input": "how are you?"}, {"output": "fine"}, *messages)
    assert await scene.rows(conn, STORED) == [None, None]
    assert await scene.rows(conn, SAID) == messages


async def test_what_is_nowhere_else_is_stored_with_the_message(db: Database, conn: Conn) -> None:
    # An input that is no text is shown as JSON; a cancelled turn has no output.
    messages = [("user", '{\n  "order": 7\n}'), ("assistant", "I was about")]
    await turn(db, conn, {"input": {"order": 7}}, {"partial_output": "I was about"}, *messages)
    assert await scene.rows(conn, STORED) == [text for _, text in messages]
    assert await scene.rows(conn, SAID) == messages


@pytest.mark.parametrize("statement", ["DELETE FROM runtime.tasks", "TRUNCATE runtime.tasks"])
async def test_a_conversation_outlives_its_tasks_whoever_removes_them(db: Database, conn: Conn, statement: str) -> None:
    messages = [("user", "how are you?"), ("assistant", "fine")]
    await turn(db, conn, {"input": "how are you?"}, {"output": "fine"}, *messages)
    await conn.execute(statement)  # type: ignore[call-overload]
    assert await scene.rows(conn, SAID) == messages
    assert await scene.one(conn, "SELECT count(*) FROM runtime.tasks") == 0


async def test_removing_one_task_costs_nothing_for_other_sessions(db: Database, conn: Conn) -> None:
    task = await turn(db, conn, {"input": "a"}, {"output": "b"}, ("user", "a"), ("assistant", "b"))
    await conn.execute(
        "INSERT INTO runtime.messages (session_id, task_id, role) SELECT gen_random_uuid(), gen_random_uuid(), 'user'"
        " FROM generate_series(1, 5000)"
    )
    await conn.execute("ANALYZE runtime.messages")
    read = "SELECT seq_tup_read, idx_tup_fetch FROM pg_stat_xact_user_tables WHERE relname = 'messages'"
    async with conn.transaction():
        await conn.execute("DELETE FROM runtime.tasks WHERE id = %s", [task])
        ((scanned, looked_up),) = await scene.rows(conn, read)
    assert scanned == 0
    assert 2 <= looked_up < 10
    assert await scene.one(conn, "SELECT count(*) FROM runtime.messages WHERE content IS NULL") == 5000
