"""The tenant role belongs to the whole server: made where it can be, asked for where not, and no other role notices."""

from __future__ import annotations

import asyncio
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from foreign import FOREIGN, Connection, Foreign
from psycopg import conninfo, sql

from cirkelline.state import documents, embedded, migrations, tenant, users
from cirkelline.state.connection import Database, connect
from cirkelline.state.tenant import TenantsUnprotected

BOTH = FOREIGN[3]


def made(conn: Connection, *, options: str = "") -> tuple[str, str]:
    role, password = f"other_{uuid4().hex[:12]}", uuid4().hex
    create = sql.SQL("CREATE ROLE {} LOGIN " + options + " PASSWORD {}")  # type: ignore[arg-type]
    conn.execute(create.format(sql.Identifier(role), sql.Literal(password)))
    return role, password


@pytest.fixture
def admin(empty_database_url: str) -> Iterator[Connection]:
    with psycopg.connect(empty_database_url, autocommit=True) as conn:
        yield conn


@pytest.fixture
def other(admin: Connection, empty_database_url: str) -> Iterator[str]:
    """Another program's URL: a role that may do everything with the rows of both documents' tables."""
    BOTH.make(empty_database_url)
    role, password = made(admin)
    name = sql.Identifier(role)
    for schema in BOTH.schemas():
        for grant in ("USAGE ON SCHEMA {}", "ALL ON ALL TABLES IN SCHEMA {}", "ALL ON ALL SEQUENCES IN SCHEMA {}"):
            statement = sql.SQL("GRANT " + grant + " TO {}")  # type: ignore[arg-type]
            admin.execute(statement.format(sql.Identifier(schema), name))
    yield conninfo.make_conninfo(empty_database_url, user=role, password=password)
    admin.execute(sql.SQL("DROP OWNED BY {}").format(name))
    admin.execute(sql.SQL("DROP ROLE {}").format(name))


def read(url: str, foreign: Foreign) -> dict[str, list[Any]]:
    """All that a role reads, in the documents' columns, also by COPY, and how it would be looked up."""
    found: dict[str, list[Any]] = {}
    with psycopg.connect(url, autocommit=True) as conn:
        for table in foreign.tables:
            name = sql.Identifier(*table.split("."))
            columns = documents.TABLES[table]
            listed = sql.SQL(", ").join(sql.Identifier(column) for column in columns)
            found[table] = conn.execute(sql.SQL("SELECT {} FROM {} ORDER BY id").format(listed, name)).fetchall()
            with conn.cursor().copy(sql.SQL("COPY {} ({}) TO STDOUT").format(name, listed)) as copy:
                found[f"copy {table}"] = sorted(bytes(row) for row in copy)
        conn.execute("SET enable_seqscan = off")
        lookup = "EXPLAIN (COSTS OFF) SELECT id FROM ai.agno_memories WHERE user_id = 'user-123'"
        found["plan"] = conn.execute(lookup).fetchall()
    return found


def test_another_programs_role_reads_the_same_before_and_after(other: str, empty_database_url: str) -> None:
    before = read(other, BOTH)
    assert all(before.values())
    asyncio.run(migrations.migrate(empty_database_url))
    assert read(other, BOTH) == before
    assert "Index" in str(before["plan"])


WRITES = [
    "INSERT INTO ai.agno_memories (memory_id, user_id, memory) VALUES (gen_random_uuid(), 'user-7', 'x') RETURNING user_id",
    "UPDATE ai.agno_memories SET memory = 'y' WHERE user_id = 'user-7' RETURNING memory",
    "INSERT INTO ai.agno_knowledge (id, name) VALUES (77, 'a') ON CONFLICT (id) DO UPDATE SET name = 'b' RETURNING name",
    "INSERT INTO ai.agno_knowledge (id, name) VALUES (77, 'a') ON CONFLICT (id) DO UPDATE SET name = 'b' RETURNING name",
    "MERGE INTO ai.workflow_runs r USING (VALUES ('r1')) AS v (id) ON r.run_id = v.id WHEN MATCHED THEN UPDATE SET status = 'z'",
    "SELECT status FROM ai.workflow_runs FOR UPDATE",
    "UPDATE public.users SET is_active = FALSE",
    "DELETE FROM public.admin_profiles",
    "INSERT INTO runtime.users (id, email, auth_token) VALUES (gen_random_uuid(), 'x@y', 'theirs') RETURNING auth_token",
    "INSERT INTO runtime.tasks (id, status) VALUES (gen_random_uuid(), 'theirs')",
    "UPDATE runtime.tasks SET result = '{}' WHERE status = 'theirs'",
    "DELETE FROM runtime.sessions",
    "DELETE FROM ai.cirkelline_knowledge_vectors",
    "TRUNCATE ai.agno_sessions, ai.agno_memories_archive",
    "TRUNCATE ai.agno_knowledge CASCADE",
    "TRUNCATE runtime.tasks",
]


def written(url: str) -> list[Any]:
    """What each of these does, taken back in the end."""
    outcomes: list[Any] = []
    with psycopg.connect(url, autocommit=True) as conn, conn.transaction(force_rollback=True):
        for statement in WRITES:
            cursor = conn.execute(statement.encode())
            outcomes.append((cursor.rowcount, cursor.fetchall() if cursor.description else None))
    return outcomes


def test_another_programs_role_writes_the_same_before_and_after(other: str, empty_database_url: str) -> None:
    before = written(other)
    asyncio.run(migrations.migrate(empty_database_url))
    assert written(other) == before


def test_policies_that_somebody_else_has_go_on_deciding_about_others(
    other: str, admin: Connection, empty_database_url: str
) -> None:
    admin.execute("ALTER TABLE ai.agno_memories ENABLE ROW LEVEL SECURITY")
    admin.execute("CREATE POLICY theirs ON ai.agno_memories USING (memory = 'likes tea')")
    admin.execute("UPDATE ai.agno_memories SET memory = 'likes tea' WHERE topics IS NULL")
    count = "SELECT count(*) FROM ai.agno_memories"
    with psycopg.connect(other, autocommit=True) as conn:
        assert conn.execute(count).fetchone() == (1,)
        asyncio.run(migrations.migrate(empty_database_url))
        asyncio.run(_again(empty_database_url))
        assert conn.execute(count).fetchone() == (1,)


async def _again(url: str) -> None:
    conn = await connect(url)
    async with conn:
        await tenant.protect(conn)


def test_policies_that_are_switched_off_are_not_switched_on(admin: Connection, empty_database_url: str) -> None:
    BOTH.make(empty_database_url)
    admin.execute("CREATE POLICY theirs ON ai.agno_memories AS RESTRICTIVE USING (FALSE)")
    with pytest.raises(migrations.MigrationError, match=r"ai\.agno_memories has row security policies .* switched off"):
        asyncio.run(migrations.migrate(empty_database_url))
    admin.execute("DROP POLICY theirs ON ai.agno_memories")
    assert asyncio.run(migrations.migrate(empty_database_url)).first


# Without the right to make the role ------------------------------------------------------------------------------------


@pytest.fixture
def lone(tmp_path: Path) -> Iterator[str]:
    """A server of the test's own, on which there is no such role yet."""
    del tmp_path  # too long for a socket's path
    with tempfile.TemporaryDirectory(prefix="ck") as folder:
        server = embedded.ensure(Path(folder) / "home")
        try:
            yield server.url()
        finally:
            server.release()


async def _look(url: str) -> None:
    async with Database.open(url) as db:
        async with db.connection() as conn:
            who = await users.ensure(conn, "ivo")
        async with tenant.tenant(db, who.id) as door:
            row = await (await door.conn.execute("SELECT id FROM runtime.users")).fetchone()
            assert row == (who.id,)


def test_an_owner_who_may_not_make_roles_is_told_what_an_administrator_has_to_run(lone: str) -> None:
    with psycopg.connect(lone, autocommit=True) as conn:
        assert conn.execute("SELECT FROM pg_roles WHERE rolname = 'cirkelline_tenant'").fetchone() is None
        owner, password = made(conn)
        conn.execute(sql.SQL("CREATE DATABASE plain OWNER {}").format(sql.Identifier(owner)))
        with psycopg.connect(conninfo.make_conninfo(lone, dbname="plain"), autocommit=True) as inside:
            inside.execute("CREATE EXTENSION vector SCHEMA public")
        theirs = conninfo.make_conninfo(lone, dbname="plain", user=owner, password=password)
        assert asyncio.run(migrations.migrate(theirs)).first  # all but the policies
        with pytest.raises(TenantsUnprotected, match="have an administrator run once") as refused:
            asyncio.run(_look(theirs))
        assert password not in str(refused.value)
        (statements,) = re.findall(r"run once `([^`]*)`", str(refused.value))
        assert f'GRANT cirkelline_tenant TO "{owner}"' in statements
        assert asyncio.run(migrations.migrate(theirs)) == migrations.Migrated((), first=False)
        conn.execute(statements.encode())
        with pytest.raises(TenantsUnprotected, match="run `cirkelline db migrate`"):
            asyncio.run(_look(theirs))
        assert asyncio.run(migrations.migrate(theirs)).names == ()
        asyncio.run(_look(theirs))


def test_a_worker_that_was_not_let_in_is_told_so_and_one_that_was_sees_every_row_without_the_door(
    admin: Connection, empty_database_url: str
) -> None:
    asyncio.run(migrations.migrate(empty_database_url))
    role, password = made(admin)
    name = sql.Identifier(role)
    try:
        admin.execute(sql.SQL("GRANT USAGE ON SCHEMA runtime, ai TO {}").format(name))
        rights = sql.SQL("GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA runtime, ai TO {}")
        admin.execute(rights.format(name))
        theirs = conninfo.make_conninfo(empty_database_url, user=role, password=password)
        with pytest.raises(TenantsUnprotected, match="GRANT cirkelline_tenant TO") as refused:
            asyncio.run(_look(theirs))
        (statements,) = re.findall(r"run once `([^`]*)`", str(refused.value))
        admin.execute(statements.encode())
        asyncio.run(_look(theirs))
        admin.execute("INSERT INTO runtime.users (email) VALUES ('eva@localhost')")
        with psycopg.connect(theirs) as conn:
            assert conn.execute("SELECT count(*) FROM runtime.users").fetchone() == (2,)
    finally:
        admin.execute(sql.SQL("DROP OWNED BY {}").format(name))
        admin.execute(sql.SQL("DROP ROLE {}").format(name))


def test_a_role_that_may_make_roles_makes_this_one_for_many_databases_at_once(lone: str) -> None:
    with psycopg.connect(lone, autocommit=True) as conn:
        owner, password = made(conn, options="CREATEROLE")
        for number in range(6):
            name = sql.Identifier(f"db{number}")
            conn.execute(sql.SQL("CREATE DATABASE {} OWNER {}").format(name, sql.Identifier(owner)))
            with psycopg.connect(conninfo.make_conninfo(lone, dbname=f"db{number}"), autocommit=True) as inside:
                inside.execute("CREATE EXTENSION vector SCHEMA public")
        urls = [
            conninfo.make_conninfo(lone, dbname=f"db{number}", user=owner, password=password) for number in range(6)
        ]

        async def migrate_all() -> list[migrations.Migrated]:
            return await asyncio.gather(*(migrations.migrate(url) for url in urls))

        assert all(done.first for done in asyncio.run(migrate_all()))
        for url in urls:
            asyncio.run(_look(url))


def test_a_role_that_row_security_does_not_bind_is_no_tenant(lone: str) -> None:
    asyncio.run(migrations.migrate(lone))
    asyncio.run(_look(lone))
    with psycopg.connect(lone, autocommit=True) as conn:
        conn.execute("ALTER ROLE cirkelline_tenant BYPASSRLS")
        with pytest.raises(TenantsUnprotected):
            asyncio.run(_look(lone))
        conn.execute("ALTER ROLE cirkelline_tenant NOBYPASSRLS")
        conn.execute("ALTER TABLE runtime.tasks DISABLE ROW LEVEL SECURITY")
        with pytest.raises(TenantsUnprotected, match="db migrate"):
            asyncio.run(_look(lone))
    asyncio.run(migrations.migrate(lone))
    asyncio.run(_look(lone))
