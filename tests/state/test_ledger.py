"""Migrations are applied once, together or not at all, and nobody rewrites what was applied."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from uuid import uuid4

import psycopg
import pytest
from psycopg import conninfo, sql

from cirkelline.state import migrations
from cirkelline.state.connection import Database, connect

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
