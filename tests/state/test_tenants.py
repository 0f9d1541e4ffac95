"""Users are kept apart by the database itself: whatever statement goes through the door, it sees one user's rows."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import UUID, uuid4

import psycopg
import pytest
import scene

from cirkelline.state import aliases, sessions, users
from cirkelline.state.connection import Conn, Database
from cirkelline.state.tenant import SHARED, Tenant, shared, tenant
from cirkelline.state.users import User

# Every table, each row with what tells whose it is, so that a query without a WHERE can be looked at.
EVERY_TABLE = {
    "public.admin_profiles": "name",
    "runtime.users": "id::text",
    "runtime.sessions": "user_id::text",
    "runtime.messages": "user_id::text",
    "runtime.session_heads": "user_id::text",
    "runtime.session_summaries": "user_id::text",
    "runtime.tasks": "user_id::text",
    "runtime.journal": "name",
    "runtime.failures": "message",
    "runtime.schedules": "user_name",
    "runtime.usage_daily": "user_id::text",
    "ai.agno_sessions": "user_id",
    "ai.agno_memories": "user_id",
    "ai.agno_memories_archive": "user_id",
    "ai.agno_knowledge": "name",
    "ai.cirkelline_knowledge_vectors": "chunk_text",
    "ai.workflow_runs": "user_id",
}

# One user's rows in every table; %(id)s::text is the owner as a text.
ROWS = """
INSERT INTO public.users (email, hashed_password) VALUES (%(id)s::text || '@example.com', 'x');
INSERT INTO runtime.users (id, email, auth_token) VALUES (%(id)s::uuid, %(id)s::text || '@example.com', 'secret of ' || %(id)s::text);
INSERT INTO public.admin_profiles (user_id, name, context)
    SELECT id, %(id)s::text, 'context' FROM public.users WHERE email = %(id)s::text || '@example.com';
INSERT INTO runtime.sessions (id, user_id) VALUES (%(id)s::uuid, %(id)s::uuid);
INSERT INTO runtime.tasks (id, task_type, status, payload, session_id, user_id)
    VALUES (%(id)s::uuid, 'chat', 'completed', '{"input": "hello"}', %(id)s::uuid, %(id)s::uuid);
INSERT INTO runtime.messages (session_id, task_id, user_id, role) VALUES (%(id)s::uuid, %(id)s::uuid, %(id)s::uuid, 'user');
INSERT INTO runtime.session_heads (session_id, user_id) VALUES (%(id)s::uuid, %(id)s::uuid);
INSERT INTO runtime.session_summaries (session_id, covers, user_id, task_id, summary)
    VALUES (%(id)s::uuid, 1, %(id)s::uuid, %(id)s::uuid, 'said hello');
INSERT INTO runtime.journal (task_id, position, call, attempt, format, kind, name)
    VALUES (%(id)s::uuid, 0, -1, 1, 1, 'context', %(id)s::text);
INSERT INTO runtime.failures (task_id, attempt, message) VALUES (%(id)s::uuid, 1, %(id)s::text);
INSERT INTO runtime.schedules (agent_id, name, cron, tz, user_name, input)
    VALUES (gen_random_uuid(), 'daily', '0 9 * * *', 'UTC', %(id)s::text, 'hello');
INSERT INTO runtime.usage_daily VALUES (current_date, NULL, %(id)s::uuid, 'm', 1, 1, 1, 0, 0);
INSERT INTO ai.agno_memories (memory_id, user_id, memory) VALUES (%(id)s::uuid, %(id)s::text, 'likes tea');
INSERT INTO ai.agno_memories_archive (original_memory_id, user_id, memory) VALUES ('m', %(id)s::text, '{}');
INSERT INTO ai.agno_knowledge (name, metadata) VALUES (%(id)s::text, jsonb_build_object('user_id', %(id)s::text));
INSERT INTO ai.cirkelline_knowledge_vectors (embedding, chunk_text, document_id, metadata)
    SELECT array_fill(0.1, ARRAY[768])::public.vector, %(id)s::text, id, m
      FROM ai.agno_knowledge, (VALUES (jsonb_build_object('user_id', %(id)s::text)), ('{}'), (NULL)) each (m) WHERE name = %(id)s::text;
INSERT INTO ai.workflow_runs (run_id, workflow_name, status, user_id) VALUES (%(id)s::text, 'w', 'ODD', %(id)s::text);
"""

# What belongs to nobody: no tenant may see any of it.
NOBODYS = """
INSERT INTO runtime.tasks (task_type, status) VALUES ('operator', 'x');
INSERT INTO runtime.sessions (status) VALUES ('nobodys');
INSERT INTO runtime.messages (session_id, task_id, role, content) VALUES (gen_random_uuid(), gen_random_uuid(), 'user', '');
INSERT INTO ai.agno_memories (memory_id, user_id, memory) VALUES (gen_random_uuid(), '', 'x'), (gen_random_uuid(), 'user-9', 'x');
INSERT INTO ai.agno_knowledge (name, metadata) VALUES ('none', NULL), ('empty', '{"user_id": ""}'), ('null', '{"user_id": null}'),
    ('list', '{"user_id": ["a"]}'), ('an array', '["user_id"]'), ('a text', '"user_id"');
INSERT INTO ai.cirkelline_knowledge_vectors (embedding, chunk_text, document_id, metadata)
    SELECT array_fill(0.1, ARRAY[768])::public.vector, 'nobodys', id, NULL FROM ai.agno_knowledge;
INSERT INTO ai.workflow_runs (run_id, workflow_name, status) VALUES ('r', 'w', 'ODD');
"""


async def fill(conn: Conn, amount: int) -> list[UUID]:
    await conn.execute(NOBODYS)
    made = [uuid4() for _ in range(amount)]
    for identity in made:
        for statement in ROWS.split(";\n")[:-1]:
            await conn.execute(statement, {"id": str(identity)})  # type: ignore[call-overload]
    return made


@asynccontextmanager
async def as_tenant(conn: Conn, setting: str | None) -> AsyncIterator[Conn]:
    """The role of the door with any setting at all."""
    async with conn.transaction(force_rollback=True):
        if setting is not None:
            await conn.execute("SELECT set_config('app.user_id', %s, TRUE)", [setting])
        await conn.execute("SET LOCAL ROLE cirkelline_tenant")
        yield conn


async def seen(conn: Conn) -> dict[str, set[str]]:
    """Whose rows a query without a WHERE returns, by table."""
    return {table: set(await scene.rows(conn, f"SELECT {whose} FROM {table}")) for table, whose in EVERY_TABLE.items()}


NOBODY = {table: set[str]() for table in EVERY_TABLE}


async def test_a_query_without_a_where_returns_the_tenants_rows_of_every_table(db: Database, conn: Conn) -> None:
    made = await fill(conn, 20)
    for identity in made[:3]:
        async with tenant(db, identity) as door:
            assert await seen(door.conn) == {table: {str(identity)} for table in EVERY_TABLE}
            assert await scene.one(door.conn, "SELECT count(*) FROM ai.cirkelline_knowledge_vectors") == 3
    async with tenant(db, uuid4()) as door:
        assert await seen(door.conn) == NOBODY


async def test_the_table_of_tables_is_whole(conn: Conn) -> None:
    assert set(await scene.rows(conn, "SELECT relation FROM runtime.tenant_rules")) >= set(EVERY_TABLE)


@pytest.mark.parametrize(
    "setting",
    [
        None,
        "",
        " ",
        "null",
        "cirkelline:shared",
        "user-9",
        "*",
        "%",
        "' OR '1'='1",
        "{SOMEBODY} ",
        "{SOMEBODY}\n",
        "x{SOMEBODY}",
        "{SOMEBODY}' OR TRUE --",
        "{{SOMEBODY}}",
        "00000000-0000-0000-0000-000000000000",
        "\U0001f600",
        "a" * 10_000,
    ],
)
async def test_without_a_whole_uuid_there_is_no_row(conn: Conn, setting: str | None) -> None:
    (somebody,) = await fill(conn, 1)
    hostile = setting.replace("{SOMEBODY}", str(somebody)) if setting is not None else None
    async with as_tenant(conn, hostile):
        assert await seen(conn) == NOBODY
        assert await scene.one(conn, "SELECT runtime.tenant_names()") in ([], [hostile])
        assert await scene.one(conn, "SELECT runtime.tenant_profile()") is None


async def test_an_id_in_capitals_is_the_same_user(conn: Conn) -> None:
    (somebody,) = await fill(conn, 1)
    async with as_tenant(conn, str(somebody).upper()):
        assert await seen(conn) == {table: {str(somebody)} for table in EVERY_TABLE}


HOSTILE = [
    "'; DROP TABLE runtime.tasks; --",
    "' OR '1'='1",
    '{"user_id": "*"}',
    "\\",
    "%",
    "_",
    "$$",
    "${jndi:x}",
    "\u202e",
    "NULL",
    SHARED,
    "cirkelline_tenant",
    "x" * 5000,
]

# Each asks for the rows of somebody else in another way; %(other)s::text is that one's id, %(text)s::text anything.
QUESTIONS = [
    "SELECT * FROM runtime.tasks WHERE user_id = %(other)s::uuid OR payload ->> 'input' = %(text)s::text OR TRUE",
    "SELECT * FROM runtime.messages WHERE session_id = %(other)s::uuid OR content LIKE '%%' || %(text)s::text || '%%'",
    "SELECT * FROM runtime.journal WHERE task_id = %(other)s::uuid",
    "SELECT * FROM ai.agno_memories WHERE user_id IN (%(other)s::text, %(text)s::text) OR strpos(memory, %(text)s::text) > 0",
    "SELECT * FROM ai.agno_knowledge WHERE metadata @> jsonb_build_object('user_id', %(other)s::text) OR name = %(text)s::text",
    (
        "SELECT v.* FROM ai.cirkelline_knowledge_vectors v JOIN ai.agno_knowledge d ON d.id = v.document_id"
        " WHERE d.name = %(other)s::text OR v.metadata ->> 'user_id' = %(other)s::text OR v.chunk_text = %(text)s::text"
    ),
    "SELECT runtime.said(m) FROM runtime.messages m WHERE m.user_id = %(other)s::uuid OR m.role = %(text)s::text",
    "SELECT * FROM ai.workflow_runs WHERE run_id = %(other)s::text OR input_data = to_jsonb(%(text)s::text)",
    "SELECT * FROM runtime.users WHERE id = %(other)s::uuid OR email = %(text)s::text".replace("*", "id"),
    "SELECT * FROM public.admin_profiles WHERE name = %(other)s::text OR custom_instructions = %(text)s::text",
]


@pytest.mark.parametrize("question", QUESTIONS, ids=range(len(QUESTIONS)))
async def test_no_value_reaches_a_row_of_somebody_else(db: Database, conn: Conn, question: str) -> None:
    me, other = await fill(conn, 2)
    await conn.execute("UPDATE ai.agno_memories SET memory = %s", [HOSTILE[0]])
    async with tenant(db, me) as door:
        for text in HOSTILE:
            cursor = await door.conn.execute(question, {"other": str(other), "text": text})  # type: ignore[call-overload]
            for row in await cursor.fetchall():
                assert str(other) not in str(row)


WRITES = [
    "INSERT INTO runtime.sessions (id, user_id) VALUES (gen_random_uuid(), %(other)s::uuid)",
    "INSERT INTO runtime.tasks (task_type, user_id) VALUES ('x', %(other)s::uuid)",
    "INSERT INTO runtime.tasks (task_type, user_id) VALUES ('x', NULL)",
    "INSERT INTO runtime.tasks (task_type, user_id, session_id) VALUES ('x', %(me)s::uuid, %(other)s::uuid)",
    "INSERT INTO runtime.tasks (task_type, user_id, session_id) VALUES ('x', %(me)s::uuid, gen_random_uuid())",
    "INSERT INTO ai.agno_sessions (session_id, user_id) VALUES (gen_random_uuid(), %(other)s::text)",
    "INSERT INTO ai.agno_memories (memory_id, user_id, memory) VALUES (gen_random_uuid(), %(other)s::text, 'x')",
    "INSERT INTO ai.agno_memories (memory_id, user_id, memory) VALUES (gen_random_uuid(), 'cirkelline:shared', 'x')",
    "UPDATE ai.agno_memories SET user_id = %(other)s::text",
    "INSERT INTO ai.agno_memories_archive (original_memory_id, user_id, memory) VALUES ('m', %(other)s::text, '{}')",
    "INSERT INTO ai.agno_knowledge (name, metadata) VALUES ('x', jsonb_build_object('user_id', %(other)s::text))",
    """INSERT INTO ai.agno_knowledge (name, metadata) VALUES ('x', '{"user_id": "cirkelline:shared"}')""",
    "INSERT INTO ai.agno_knowledge (name, metadata) VALUES ('x', NULL)",
    """UPDATE ai.agno_knowledge SET metadata = '{"user_id": "cirkelline:shared"}' WHERE name = %(me)s::text""",
    "UPDATE ai.agno_knowledge SET metadata = jsonb_build_object('user_id', %(other)s::text) WHERE name = %(me)s::text",
    (
        "INSERT INTO ai.cirkelline_knowledge_vectors (embedding, chunk_text, document_id, metadata)"
        " SELECT embedding, 'x', %(document)s::integer, jsonb_build_object('user_id', %(me)s::text) FROM ai.cirkelline_knowledge_vectors LIMIT 1"
    ),
    (
        "INSERT INTO ai.cirkelline_knowledge_vectors (embedding, chunk_text, document_id, metadata)"
        " SELECT embedding, 'x', %(document)s::integer, NULL FROM ai.cirkelline_knowledge_vectors LIMIT 1"
    ),
]


@pytest.mark.parametrize("write", WRITES, ids=range(len(WRITES)))
async def test_nothing_can_be_written_that_is_somebody_elses(db: Database, conn: Conn, write: str) -> None:
    me, other = await fill(conn, 2)
    document = await scene.one(conn, "SELECT id FROM ai.agno_knowledge WHERE name = %s", str(other))
    values = {"me": str(me), "other": str(other), "document": document}
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match="row-level security") as refused:
        async with tenant(db, me) as door:
            await door.conn.execute(write, values)  # type: ignore[call-overload]
    assert str(other) not in str(refused.value)


FOREIGN_ROWS = ["ai.agno_sessions", "ai.agno_memories", "ai.agno_memories_archive", "ai.agno_knowledge"]


async def test_nothing_of_somebody_else_can_be_changed_or_removed(db: Database, conn: Conn) -> None:
    me, other = await fill(conn, 2)
    async with tenant(db, me) as door:
        assert (await door.conn.execute("DELETE FROM ai.cirkelline_knowledge_vectors")).rowcount == 3
        for table in FOREIGN_ROWS:
            assert (await door.conn.execute(f"DELETE FROM {table}")).rowcount == 1, table
        assert (await door.conn.execute("UPDATE runtime.sessions SET status = 'ended'")).rowcount == 1
    async with tenant(db, other) as door:
        assert await seen(door.conn) == {table: {str(other)} for table in EVERY_TABLE}
    assert await scene.one(conn, "SELECT status FROM runtime.sessions WHERE id = %s", other) == "active"


REFUSED = [
    "SELECT auth_token FROM runtime.users",
    "SELECT * FROM runtime.users",
    "SELECT * FROM public.users",
    "SELECT * FROM runtime.user_aliases",
    "SELECT config FROM runtime.agents",
    "SELECT * FROM runtime.agent_states",
    "SELECT * FROM runtime.definitions",
    "SELECT * FROM runtime.login_attempts",
    "SELECT * FROM runtime.claims",
    "UPDATE runtime.tasks SET status = 'completed'",
    "DELETE FROM runtime.tasks",
    "DELETE FROM runtime.messages",
    "TRUNCATE ai.agno_memories",
    "UPDATE runtime.users SET email = 'x'",
    "INSERT INTO public.admin_profiles (name) VALUES ('x')",
    "UPDATE runtime.tenant_rules SET visible = 'TRUE'",
    "ALTER TABLE ai.agno_memories DISABLE ROW LEVEL SECURITY",
    "SELECT runtime.cancel_task(gen_random_uuid())",
]


@pytest.mark.parametrize("statement", REFUSED)
async def test_a_tenant_has_no_right_beyond_its_rows(db: Database, conn: Conn, statement: str) -> None:
    (me,) = await fill(conn, 1)
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        async with tenant(db, me) as door:
            await door.conn.execute(statement)  # type: ignore[call-overload]


# Shared documents, and what other programs call somebody ---------------------------------------------------------------


async def test_shared_documents_are_read_by_everybody_and_written_by_no_tenant(db: Database, conn: Conn) -> None:
    me, _ = await fill(conn, 2)
    async with shared(db) as operator:
        assert operator.owner == SHARED
        document = await scene.one(
            operator.conn,
            "INSERT INTO ai.agno_knowledge (name, metadata) VALUES ('rules', jsonb_build_object('user_id', %s::text)) RETURNING id",
            operator.owner,
        )
        await operator.conn.execute(
            "INSERT INTO ai.cirkelline_knowledge_vectors (embedding, chunk_text, document_id, metadata)"
            " SELECT array_fill(0.1, ARRAY[768])::public.vector, 'rules', %s, m"
            " FROM (VALUES (jsonb_build_object('user_id', %s::text)), (NULL)) each (m)",
            [document, operator.owner],
        )
    async with tenant(db, me) as door:
        assert await scene.rows(door.conn, "SELECT name FROM ai.agno_knowledge ORDER BY name") == sorted(
            [str(me), "rules"]
        )
        chunks = "SELECT count(*) FROM ai.cirkelline_knowledge_vectors WHERE document_id = %s"
        assert await scene.one(door.conn, chunks, document) == 2
        for statement in ("UPDATE ai.agno_knowledge SET name = 'x'", "DELETE FROM ai.cirkelline_knowledge_vectors"):
            await door.conn.execute(statement)  # type: ignore[call-overload]
    assert await scene.rows(conn, "SELECT name FROM ai.agno_knowledge WHERE id = %s", document) == ["rules"]
    assert await scene.one(conn, chunks, document) == 2
    for setting in (None, "", SHARED):
        async with as_tenant(conn, setting):
            assert await seen(conn) == NOBODY


async def user(conn: Conn, name: str) -> User:
    return await users.ensure(conn, name)


async def memories(db: Database, who: User) -> list[str]:
    async with tenant(db, who.id) as door:
        return await scene.rows(door.conn, "SELECT memory FROM ai.agno_memories ORDER BY memory")


REMEMBER = "INSERT INTO ai.agno_memories (memory_id, user_id, memory) VALUES (gen_random_uuid(), %s, %s)"


async def test_an_adopted_text_names_its_user_and_nobody_else_until_that_is_undone(db: Database, conn: Conn) -> None:
    ivo, eva = await user(conn, "ivo"), await user(conn, "eva")
    await conn.execute(REMEMBER, ["user-123", "tea"])
    await conn.execute(REMEMBER, ["user-1234", "coffee"])
    assert await memories(db, ivo) == []
    (became,) = await aliases.adopt(conn, "user-123", ivo)
    assert (became.relation, became.amount) == ("ai.agno_memories", 1)
    assert (await memories(db, ivo), await memories(db, eva)) == (["tea"], [])
    async with tenant(db, ivo.id) as door:
        await door.conn.execute("UPDATE ai.agno_memories SET memory = 'green tea'")
    await aliases.undo(conn, "user-123")
    assert await memories(db, ivo) == []


async def test_an_owner_that_is_taken_or_nobodys_is_not_adopted(conn: Conn) -> None:
    ivo, eva = await user(conn, "ivo"), await user(conn, "eva")
    await aliases.adopt(conn, "user-123", ivo)
    for alias, said in (
        (SHARED, "everybody may read"),
        ("", "names nobody"),
        ("a\x00b", "names nobody"),
        (str(ivo.id), "the id of ivo@localhost"),
        ("user-123", "adopted as ivo@localhost"),
    ):
        with pytest.raises(aliases.AliasRefused, match=said):
            await aliases.adopt(conn, alias, eva)
    with pytest.raises(aliases.AliasRefused, match="already"):
        await aliases.adopt(conn, "user-123", ivo)
    with pytest.raises(aliases.AliasRefused, match="adopted as nobody"):
        await aliases.undo(conn, "user-9")


async def test_an_alias_that_becomes_somebodys_id_is_theirs_alone(db: Database, conn: Conn) -> None:
    ivo, later = await user(conn, "ivo"), uuid4()
    await conn.execute(REMEMBER, [str(later), "tea"])
    await aliases.adopt(conn, str(later), ivo)
    assert await memories(db, ivo) == ["tea"]
    await conn.execute("INSERT INTO runtime.users (id, email) VALUES (%s, 'eva@localhost')", [later])
    assert await memories(db, ivo) == []
    assert await memories(db, await user(conn, "eva")) == ["tea"]


async def test_what_belongs_to_nobody_is_counted_by_its_owner(conn: Conn) -> None:
    (somebody,) = await fill(conn, 1)
    found = {(each.owner, each.relation): each.amount for each in await aliases.of_nobody(conn)}
    assert found[None, "ai.agno_knowledge"] == 4
    assert found["", "ai.agno_memories"] == found["user-9", "ai.agno_memories"] == 1
    assert str(somebody) not in {owner for owner, _ in found}
    assert (None, "ai.workflow_runs") not in found
    await aliases.adopt(conn, "user-9", await users.get(conn, str(somebody)))
    assert "user-9" not in {each.owner for each in await aliases.of_nobody(conn)}


# The door -------------------------------------------------------------------------------------------------------------


async def test_the_door_is_a_role_for_as_long_as_it_is_open(db: Database, conn: Conn) -> None:
    ivo = await user(conn, "ivo")
    before = await scene.one(conn, "SELECT current_user")
    async with tenant(db, ivo.id) as door:
        assert door.owner == str(ivo.id)
        assert await scene.one(door.conn, "SELECT current_user") == "cirkelline_tenant"
        with pytest.raises(psycopg.errors.DivisionByZero):
            async with door.conn.transaction():
                await door.conn.execute("SELECT 1 / 0")
        assert await scene.one(door.conn, "SELECT current_user") == "cirkelline_tenant"
    async with db.connection() as after:
        assert await scene.one(after, "SELECT current_user") == before
    with pytest.raises(psycopg.errors.DivisionByZero):
        async with tenant(db, ivo.id) as door:
            await door.conn.execute("SELECT 1 / 0")
    for _ in range(9):
        async with db.connection() as after:
            assert await scene.one(after, "SELECT current_user") == before


async def test_a_turn_in_somebody_elses_session_is_no_task(db: Database, conn: Conn) -> None:
    ivo, eva, agent = await user(conn, "ivo"), await user(conn, "eva"), await scene.agent(conn, "helper")
    async with tenant(db, ivo.id) as door:
        session = await sessions.create(door, agent)
    async with tenant(db, eva.id) as door:
        # Whoever holds a door of their own cannot make it somebody else's by naming them.
        pretending = Tenant(door.conn, ivo.id)
        with pytest.raises(sessions.SessionNotFound):
            await sessions.submit_turn(pretending, session, {"input": "let me in"})
    assert await scene.one(conn, "SELECT count(*) FROM runtime.tasks") == 0


async def test_the_rules_are_asked_once_for_a_statement(db: Database, conn: Conn) -> None:
    (me,) = await fill(conn, 1)
    async with tenant(db, me) as door:
        for table in ("runtime.messages", "runtime.tasks", "ai.agno_memories", "ai.agno_knowledge"):
            plan = "\n".join(await scene.rows(door.conn, f"EXPLAIN SELECT * FROM {table}"))
            assert "InitPlan" in plan, plan
            assert "tenant_names()" not in plan.split("InitPlan")[0], plan


async def test_a_window_of_messages_is_still_looked_up_in_the_key(db: Database, conn: Conn) -> None:
    (me,) = await fill(conn, 1)
    many = """INSERT INTO runtime.messages (session_id, task_id, user_id, role, content)
              SELECT %s, gen_random_uuid(), %s, 'user', 'x' FROM generate_series(1, 5000)"""
    await conn.execute(many, [me, me])
    await conn.execute(many, [uuid4(), me])
    await conn.execute("ANALYZE runtime.messages")
    async with tenant(db, me) as door:
        values = {"session_id": me, "user_id": me, "after": 0, "until": 2**62, "limit": 20}
        rows = await (await door.conn.execute("EXPLAIN " + sessions.WINDOW, values)).fetchall()
        plan = "\n".join(line for (line,) in rows)
    assert "Index Scan Backward using messages_pkey" in plan
    (condition,) = [line for line in plan.splitlines() if "Index Cond" in line]
    assert "session_id =" in condition
    assert '"position" >' in condition
