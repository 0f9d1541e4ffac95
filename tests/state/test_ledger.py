"""Migrations are applied once, together or not at all, and nobody rewrites what was applied."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from uuid import uuid4

import psycopg
import pytest
import scene
from foreign import AGENTS
from psycopg import conninfo, sql

from cirkelline.state import claims, migrations, tasks
from cirkelline.state.connection import Conn, Database, connect

COUNT_TABLES = "SELECT count(*) FROM pg_tables WHERE schemaname IN ('ai', 'runtime', 'public')"


async def test_the_first_migration_applies_every_file_and_the_next_none(empty_database_url: str) -> None:
    first = await migrations.migrate(empty_database_url)
    assert first.first
    assert first.names == tuple(migration.name for migration in migrations.release_migrations())
    assert await migrations.migrate(empty_database_url) == migrations.Migrated((), first=False)


async def test_two_processes_at_once_apply_each_file_once(empty_database_url: str) -> None:
    done = await asyncio.gather(*(migrations.migrate(empty_database_url) for _ in range(4)))
    assert sorted(len(each.names) for each in done) == [0, 0, 0, len(migrations.release_migrations())]


@pytest.fixture
def ledger(empty_database_url: str) -> Callable[[str], None]:
    """Change what the ledger of a database of this test's own says."""

    def change(statement: str) -> None:
        with psycopg.connect(empty_database_url, autocommit=True) as conn:
            conn.execute(statement.encode())

    return change


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("UPDATE runtime.migrations SET sha256 = 'x' WHERE name LIKE '003%'", "migration 003_runtime was edited"),
        ("INSERT INTO runtime.migrations (name, sha256) VALUES ('999_later', 'x')", "999_later of a newer release"),
    ],
)
async def test_an_edited_or_newer_schema_is_refused(
    empty_database_url: str, ledger: Callable[[str], None], change: str, said: str
) -> None:
    await migrations.migrate(empty_database_url)
    ledger(change)
    with pytest.raises(migrations.MigrationError, match=said):
        await migrations.migrate(empty_database_url)


@pytest.mark.parametrize(
    ("made_before", "said"),
    [
        (
            "CREATE SCHEMA ai; CREATE TABLE ai.agno_sessions (session_id TEXT PRIMARY KEY)",
            r"ai\.agno_sessions has .*id",
        ),
        ("CREATE SCHEMA runtime; CREATE TABLE runtime.queue (name TEXT)", r"runtime\.queue"),
    ],
)
async def test_a_table_that_only_shares_the_name_is_refused_and_nothing_is_made(
    empty_database_url: str, ledger: Callable[[str], None], made_before: str, said: str
) -> None:
    ledger(made_before)
    with pytest.raises(migrations.MigrationError, match=said):
        await migrations.migrate(empty_database_url)
    with psycopg.connect(empty_database_url) as conn:
        assert conn.execute(COUNT_TABLES).fetchone() == (1,)


async def test_a_file_that_fails_takes_the_others_back(
    empty_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = migrations.release_migrations()
    broken = [*files, migrations.Migration("900_broken", "CREATE TABLE runtime.half (id INTEGER); SELECT 1 / 0")]
    monkeypatch.setattr(migrations, "release_migrations", lambda: broken)
    with pytest.raises(migrations.MigrationError, match="division by zero; nothing was changed"):
        await migrations.migrate(empty_database_url)
    with psycopg.connect(empty_database_url) as conn:
        assert conn.execute(COUNT_TABLES).fetchone() == (0,)


async def test_a_role_that_may_not_migrate_is_told_so_and_one_with_nothing_to_migrate_is_not(
    empty_database_url: str,
) -> None:
    role, password = f"plain_{uuid4().hex[:12]}", uuid4().hex
    name = sql.Identifier(role)
    with psycopg.connect(empty_database_url, autocommit=True) as conn:
        conn.execute("CREATE EXTENSION vector SCHEMA public")
        conn.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(name, sql.Literal(password)))
        try:
            theirs = conninfo.make_conninfo(empty_database_url, user=role, password=password)
            with pytest.raises(migrations.MigrationError, match="may not migrate") as refused:
                await migrations.migrate(theirs)
            assert password not in str(refused.value)
            await migrations.migrate(empty_database_url)
            conn.execute(sql.SQL("GRANT USAGE ON SCHEMA runtime TO {}").format(name))
            conn.execute(sql.SQL("GRANT SELECT ON ALL TABLES IN SCHEMA runtime TO {}").format(name))
            assert (await migrations.migrate(theirs)).names == ()
        finally:
            conn.execute(sql.SQL("DROP OWNED BY {}").format(name))
            conn.execute(sql.SQL("DROP ROLE {}").format(name))


async def test_pgvector_may_live_in_a_schema_of_its_own(empty_database_url: str, ledger: Callable[[str], None]) -> None:
    ledger("CREATE SCHEMA extensions; CREATE EXTENSION vector SCHEMA extensions")
    await migrations.migrate(empty_database_url)
    conn = await connect(empty_database_url)
    async with conn:
        assert (await migrations.versions(conn))[1] is not None
        assert (await migrations.status(conn)).pending == ()


async def test_a_migrated_database_opens_in_utc_whatever_its_default_is(
    empty_database_url: str, ledger: Callable[[str], None]
) -> None:
    name = conninfo.conninfo_to_dict(empty_database_url)["dbname"]
    ledger(f"ALTER DATABASE \"{name}\" SET timezone = 'Asia/Tokyo'")
    async with Database.open(empty_database_url) as db, db.connection() as conn:
        assert await (await conn.execute("SHOW timezone")).fetchone() == ("UTC",)


STRANGERS = {
    "CREATE TABLE runtime.tasks (id UUID PRIMARY KEY)": r"runtime\.tasks has no column agent_id, no column task_type",
    "CREATE TABLE public.users (id UUID, name TEXT)": r"public\.users has id of type uuid instead of integer, no column email",
    "CREATE VIEW ai.agno_memories AS SELECT 1 AS id": r"ai\.agno_memories has no columns of its own: it is a view",
    "CREATE TABLE runtime.workers (id INTEGER)": r"runtime\.workers is there already",
    "CREATE TABLE runtime.users (id UUID PRIMARY KEY, email VARCHAR(255) UNIQUE, auth_token VARCHAR(500), "
    "created_at TIMESTAMP, updated_at TIMESTAMP, account TEXT)": r"runtime\.users has account of type text instead of integer",
    "CREATE TABLE ai.cirkelline_knowledge_vectors (id BIGSERIAL PRIMARY KEY, embedding VECTOR(1536) NOT NULL, "
    "chunk_text TEXT, document_id INTEGER, metadata JSONB, created_at TIMESTAMP, updated_at TIMESTAMP)": r"embedding of type vector\(1536\) instead of vector\(768\)",
}


async def test_what_stands_in_the_way_is_named_and_stays_as_it_is(empty_database_url: str) -> None:
    with psycopg.connect(empty_database_url, autocommit=True) as conn:
        conn.execute("CREATE EXTENSION vector SCHEMA public")
        for made, said in STRANGERS.items():
            conn.execute("CREATE SCHEMA ai; CREATE SCHEMA runtime")
            conn.execute(made.encode())
            with pytest.raises(migrations.MigrationError, match=said):
                await migrations.migrate(empty_database_url)
            assert conn.execute(COUNT_TABLES).fetchone() == (0 if "VIEW" in made else 1,), made
            conn.execute("DROP SCHEMA ai, runtime CASCADE; DROP TABLE IF EXISTS public.users")
    assert (await migrations.migrate(empty_database_url)).first


NO_EXTENSION = """
CREATE FUNCTION public.refuse() RETURNS event_trigger LANGUAGE plpgsql AS $$
BEGIN RAISE EXCEPTION 'extension "vector" is not available' USING ERRCODE = 'feature_not_supported'; END $$;
CREATE EVENT TRIGGER refuse ON ddl_command_start WHEN TAG IN ('CREATE EXTENSION') EXECUTE FUNCTION public.refuse()
"""


async def test_a_server_that_lacks_something_is_told_what_and_how_to_get_it(
    empty_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with psycopg.connect(empty_database_url, autocommit=True) as conn:
        with monkeypatch.context() as patched:
            patched.setattr(migrations, "OLDEST_SERVER", 990000)
            with pytest.raises(
                migrations.MigrationError, match=r"PostgreSQL \d+\.\d+.* is too old: cirkelline needs 15"
            ):
                await migrations.migrate(empty_database_url)
        conn.execute(NO_EXTENSION.encode())
        with pytest.raises(migrations.MigrationError, match="no pgvector: install the package"):
            await migrations.migrate(empty_database_url)
        conn.execute("DROP EVENT TRIGGER refuse; CREATE EXTENSION vector SCHEMA public")
        with monkeypatch.context() as patched:
            patched.setattr(migrations, "OLDEST_PGVECTOR", (99, 0))
            with pytest.raises(
                migrations.MigrationError, match=r"pgvector \S+ is too old.*ALTER EXTENSION vector UPDATE"
            ):
                await migrations.migrate(empty_database_url)
        assert conn.execute(COUNT_TABLES).fetchone() == (0,)


async def test_a_ledger_that_may_not_be_read_is_said_with_the_rights_to_grant(conn: Conn) -> None:
    role = sql.Identifier(f"blind_{uuid4().hex[:12]}")
    await conn.execute(sql.SQL("CREATE ROLE {}").format(role))
    try:
        await conn.execute(sql.SQL("SET ROLE {}").format(role))
        with pytest.raises(migrations.MigrationError, match="grant it USAGE on the schema runtime and SELECT"):
            await migrations.status(conn)
    finally:
        await conn.execute("RESET ROLE")
        await conn.execute(sql.SQL("DROP ROLE {}").format(role))


async def test_a_migration_gives_up_rather_than_stop_everybody_behind_a_lock(
    empty_database_url: str, ledger: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(migrations, "LOCK_TIMEOUT", b"SET LOCAL lock_timeout = '10ms'")
    ledger("CREATE SCHEMA runtime; SET search_path = runtime; " + AGENTS)
    with psycopg.connect(empty_database_url) as reader:
        reader.execute("SELECT * FROM runtime.tasks")
        with pytest.raises(migrations.MigrationError, match=r"keeps its tables locked.*nothing was changed"):
            await migrations.migrate(empty_database_url)
    assert (await migrations.migrate(empty_database_url)).first


async def test_a_worker_needs_no_more_than_rights_on_rows(conn: Conn) -> None:
    role = sql.Identifier(f"worker_{uuid4().hex[:12]}")
    agent = await scene.agent(conn)
    await conn.execute(sql.SQL("CREATE ROLE {}").format(role))
    try:
        await conn.execute(sql.SQL("GRANT USAGE ON SCHEMA runtime TO {}").format(role))
        rows = sql.SQL("GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA runtime TO {}")
        await conn.execute(rows.format(role))
        await conn.execute(sql.SQL("SET ROLE {}").format(role))
        assert (await migrations.status(conn)).pending == ()
        owner = await scene.worker(conn)
        done, dropped = await scene.submit(conn, agent, 2)
        await scene.finish(conn, owner, scene.ended(await scene.claim_one(conn, owner, agent)))
        claim = await scene.claim_one(conn, owner, agent)
        await tasks.cancel(conn, claim.id)
        await scene.die(conn, owner)
        assert await claims.take_over(conn) == 1
        assert [await scene.status(conn, task) for task in (done, dropped)] == ["completed", "cancelled"]
    finally:
        await conn.execute("RESET ROLE")
        await conn.execute(sql.SQL("DROP OWNED BY {}").format(role))
        await conn.execute(sql.SQL("DROP ROLE {}").format(role))
