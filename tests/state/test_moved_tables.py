"""Moving the second document's tables out of `public`: all that hangs on them comes along, or nothing moves."""

from __future__ import annotations

from collections.abc import Iterator
from uuid import uuid4

import psycopg
import pytest
from foreign import AGENTS, FOREIGN, KV1NTOS, Connection
from psycopg import sql

from cirkelline.state import adoption, migrations
from cirkelline.state.connection import connect

IN_PUBLIC = FOREIGN[2]


@pytest.fixture
def admin(empty_database_url: str) -> Iterator[Connection]:
    with psycopg.connect(empty_database_url, autocommit=True) as conn:
        yield conn


def tables(conn: Connection, schema: str) -> set[str]:
    rows = conn.execute(
        "SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = %s::regnamespace", [schema]
    )
    return {name for (name,) in rows}


async def test_who_had_rights_on_them_reaches_them_where_they_are_now(
    admin: Connection, empty_database_url: str
) -> None:
    IN_PUBLIC.make(empty_database_url)
    role = sql.Identifier(f"reader_{uuid4().hex[:12]}")
    admin.execute(sql.SQL("CREATE ROLE {}").format(role))
    try:
        admin.execute(sql.SQL("GRANT SELECT (id, name), UPDATE (name) ON public.agents TO {}").format(role))
        admin.execute(sql.SQL("ALTER TABLE public.sessions OWNER TO {}").format(role))
        await adoption.from_public(empty_database_url)  # also without a migration before it
        admin.execute(sql.SQL("SET ROLE {}").format(role))
        admin.execute("SET search_path = runtime, public")
        assert admin.execute("UPDATE agents SET name = 'seen' RETURNING name").fetchone() == ("seen",)
        assert admin.execute("DELETE FROM sessions").rowcount == 2
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            admin.execute("SELECT * FROM tasks")
    finally:
        admin.execute("RESET ROLE")
        admin.execute(sql.SQL("DROP OWNED BY {} CASCADE").format(role))
        admin.execute(sql.SQL("DROP ROLE {}").format(role))


async def test_with_both_documents_in_public_what_could_be_made_there_is_moved(
    admin: Connection, empty_database_url: str
) -> None:
    # Both define `users`: the first document's stands, and the second's sessions could not refer to it.
    admin.execute("CREATE EXTENSION vector SCHEMA public")
    admin.execute("CREATE SCHEMA ai")
    admin.execute(KV1NTOS.encode())
    for statement in AGENTS.split(";"):
        try:
            admin.execute(statement.encode())
        except (psycopg.errors.DuplicateTable, psycopg.errors.DatatypeMismatch):
            continue
    admin.execute("INSERT INTO public.users (email, hashed_password) VALUES ('a@b', 'x')")
    admin.execute("INSERT INTO public.agents (id, name, type) VALUES (gen_random_uuid(), 'theirs', 't')")
    await migrations.migrate(empty_database_url)
    assert admin.execute("SELECT count(*) FROM runtime.agents").fetchone() == (0,)
    assert await adoption.from_public(empty_database_url) == ["agents", "agent_states", "tasks"]
    assert admin.execute("SELECT name, adopted FROM runtime.agents").fetchall() == [("theirs", True)]
    assert admin.execute("SELECT email FROM public.users").fetchall() == [("a@b",)]
    assert tables(admin, "public") == {"users", "admin_profiles"}
    assert {"users", "sessions"} <= tables(admin, "runtime")
    conn = await connect(empty_database_url)
    async with conn:
        assert (await migrations.status(conn)).pending == ()
        assert (await adoption.report(conn)).in_public == ()


async def test_nothing_moves_when_somebodys_view_hangs_on_our_empty_table(
    admin: Connection, empty_database_url: str
) -> None:
    IN_PUBLIC.make(empty_database_url)
    await migrations.migrate(empty_database_url)
    admin.execute("CREATE VIEW public.names AS SELECT name FROM runtime.agents")
    before = IN_PUBLIC.rows(empty_database_url)
    with pytest.raises(migrations.MigrationError, match="nothing was changed"):
        await adoption.from_public(empty_database_url)
    assert IN_PUBLIC.rows(empty_database_url) == before
    assert admin.execute("SELECT * FROM public.names").fetchall() == []


async def test_a_column_that_is_not_what_ours_of_that_name_is_stops_the_move(
    admin: Connection, empty_database_url: str
) -> None:
    IN_PUBLIC.make(empty_database_url)
    admin.execute("ALTER TABLE public.tasks ADD COLUMN priority TEXT DEFAULT 'high'")
    before = IN_PUBLIC.rows(empty_database_url)
    with pytest.raises(migrations.MigrationError, match=r"runtime\.tasks has priority of type text instead of integer"):
        await adoption.from_public(empty_database_url)
    assert IN_PUBLIC.rows(empty_database_url) == before


async def test_a_locked_table_stops_the_move_and_not_everybody_behind_it(
    admin: Connection, empty_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(migrations, "LOCK_TIMEOUT", b"SET LOCAL lock_timeout = '10ms'")
    IN_PUBLIC.make(empty_database_url)
    with psycopg.connect(empty_database_url) as reader:
        reader.execute("SELECT * FROM public.tasks")
        with pytest.raises(migrations.MigrationError, match="keeps its tables locked"):
            await adoption.from_public(empty_database_url)
    assert tables(admin, "public") == {"agents", "agent_states", "tasks", "users", "sessions"}
