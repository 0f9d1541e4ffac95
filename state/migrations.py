"""Migrations: numbered SQL files, applied in one transaction under one lock, and a ledger that nobody may rewrite."""

from __future__ import annotations

import hashlib
import re
from collections.abc import AsyncGenerator, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from importlib import resources
from typing import Final

import psycopg
from psycopg import sql

from cirkelline.configs.errors import CirkellineError
from cirkelline.state import documents, tenant
from cirkelline.state.connection import Conn, connect, describe

OLDEST_SERVER: Final = 150000
OLDEST_PGVECTOR: Final = (0, 8)


class MigrationError(CirkellineError):
    """The database cannot be brought to this release's schema; nothing was changed."""


@dataclass(frozen=True, slots=True)
class Migration:
    """One numbered SQL file of this release."""

    name: str
    text: str

    @property
    def sha256(self) -> str:
        """The hash by which an edited file is recognized."""
        return hashlib.sha256(self.text.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Status:
    """What the ledger holds against what this release brings."""

    applied: tuple[tuple[str, datetime], ...]
    pending: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Migrated:
    """The files a call applied; `first` when the database had none before."""

    names: tuple[str, ...]
    first: bool


def release_migrations() -> list[Migration]:
    """Return this release's migrations in order."""
    folder = resources.files("cirkelline.state") / "sql"
    files = sorted((file for file in folder.iterdir() if file.name.endswith(".sql")), key=lambda file: file.name)
    return [Migration(file.name.removesuffix(".sql"), file.read_text(encoding="utf-8")) for file in files]


# Not to_regclass: it may answer from what this connection knew before it waited for the lock.
LEDGER_EXISTS: Final = """
SELECT EXISTS (SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
                WHERE n.nspname = 'runtime' AND c.relname = 'migrations')
"""
LEDGER: Final = "SELECT name, sha256, applied FROM runtime.migrations ORDER BY name"
MAKE_LEDGER: Final = b"""
CREATE SCHEMA IF NOT EXISTS runtime;
CREATE TABLE IF NOT EXISTS runtime.migrations (
    name TEXT PRIMARY KEY, sha256 TEXT NOT NULL, applied TIMESTAMPTZ NOT NULL DEFAULT now()
)
"""
RECORD: Final = """
INSERT INTO runtime.migrations (name, sha256) VALUES (%(name)s::text, %(sha256)s::text) ON CONFLICT (name) DO NOTHING
"""
LOCK: Final = "SELECT pg_advisory_xact_lock(hashtextextended('cirkelline.migrations', 0))"
# Behind a lock that we wait for, everybody else waits too: rather give up than stop other programs for long.
LOCK_TIMEOUT: Final = b"SET LOCAL lock_timeout = '15s'"
SERVER: Final = "SELECT current_setting('server_version_num')::integer, current_setting('server_version')"
VECTOR: Final = """
SELECT e.extversion, n.nspname FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace
 WHERE e.extname = 'vector'
"""


async def status(conn: Conn) -> Status:
    """Compare the ledger with this release.

    Raises: MigrationError for an edited file, a newer schema, or a ledger that this role may not read.
    """
    applied = await _ledger(conn)
    known = {migration.name: migration for migration in release_migrations()}
    for name, (sha256, _) in applied.items():
        if name not in known:
            raise MigrationError(
                f"the database holds migration {name} of a newer release: upgrade cirkelline to use it"
            )
        if known[name].sha256 != sha256:
            raise MigrationError(
                f"migration {name} was edited after it had been applied here: restore the released file (reinstall cirkelline)"
            )
    return Status(
        applied=tuple((name, moment) for name, (_, moment) in applied.items()),
        pending=tuple(name for name in known if name not in applied),
    )


async def _ledger(conn: Conn) -> dict[str, tuple[str, datetime]]:
    try:
        exists = await (await conn.execute(LEDGER_EXISTS)).fetchone()
        if not exists or not exists[0]:
            return {}
        rows = await (await conn.execute(LEDGER)).fetchall()
    except psycopg.errors.InsufficientPrivilege as error:
        raise MigrationError(
            "this database role may not read what was migrated: grant it USAGE on the schema runtime and SELECT, INSERT, "
            "UPDATE and DELETE on all its tables"
        ) from error
    return {str(name): (str(sha256), moment) for name, sha256, moment in rows}


async def migrate(url: str) -> Migrated:
    """Bring a database to this release's schema, in one transaction; with nothing pending no DDL right is needed.

    Raises: MigrationError with what stands in the way; DatabaseUnavailable.
    """
    # A bare connection: a pool would register the vector type before the extension is there.
    conn = await connect(url)
    async with conn:
        if not (await status(conn)).pending and not await tenant.can_be_protected(conn):
            return Migrated((), first=False)
        async with changing(conn, url):
            found = await status(conn)  # again, under the lock: another process may have been first
            if found.pending:
                await _check_server(conn)
                if not found.applied:
                    await check_tables(conn, own_tables())
                await run(conn, found.pending)
            else:  # the role that tenants work under may have been made since
                await tenant.protect(conn)
            return Migrated(found.pending, first=bool(found.pending) and not found.applied)


@asynccontextmanager
async def changing(conn: Conn, url: str) -> AsyncGenerator[None]:
    """Open the one transaction in which the schema may be changed, and say in a sentence why that did not work."""
    try:
        async with conn.transaction():
            await conn.execute(LOCK)
            await conn.execute(LOCK_TIMEOUT)
            yield
    except psycopg.errors.InsufficientPrivilege as error:
        raise MigrationError(
            f"this database role may not migrate {describe(url)} ({_first_line(error)}): "
            "run `cirkelline db migrate` once as the owner of its tables; nothing was changed"
        ) from error
    except psycopg.errors.LockNotAvailable as error:
        raise MigrationError(
            f"cannot migrate {describe(url)} while another program keeps its tables locked: "
            "try again when its transaction has ended; nothing was changed"
        ) from error
    except psycopg.Error as error:
        raise MigrationError(f"cannot migrate {describe(url)}: {_first_line(error)}; nothing was changed") from error


async def run(conn: Conn, names: Collection[str] | None = None) -> None:
    """Run these files (all of them when None: each may be run again) and record them; inside `changing`."""
    vector_schema = await _ensure_vector(conn)
    await conn.execute(sql.SQL("SET LOCAL search_path = public, {}").format(sql.Identifier(vector_schema)))
    await conn.execute(MAKE_LEDGER)
    for migration in release_migrations():
        if names is None or migration.name in names:
            await conn.execute(migration.text.encode())
            await conn.execute(RECORD, {"name": migration.name, "sha256": migration.sha256})
    await tenant.protect(conn)
    await _analyze(conn)


def own_tables() -> set[str]:
    """Name the tables that are only ours."""
    texts = "".join(migration.text for migration in release_migrations())
    created = set(re.findall(r"CREATE TABLE IF NOT EXISTS (\w+\.\w+)", texts))
    return (created | {"runtime.migrations"}) - set(documents.TABLES)


async def check_tables(conn: Conn, own: Collection[str]) -> None:
    """Raise MigrationError where a table that is there is another one than its name says; `own` may not be there."""
    problems = documents.differences(await documents.columns(conn), own)
    if problems:
        raise MigrationError(
            f"these tables are not the ones cirkelline knows by their names: {'; '.join(problems)}; "
            "rename or move them, or use another database"
        )


async def _check_server(conn: Conn) -> None:
    row = await (await conn.execute(SERVER)).fetchone()
    if row and row[0] < OLDEST_SERVER:
        raise MigrationError(f"PostgreSQL {row[1]} is too old: cirkelline needs 15 or later")


async def _ensure_vector(conn: Conn) -> str:
    row = await (await conn.execute(VECTOR)).fetchone()
    if row is None:
        try:
            await conn.execute("CREATE EXTENSION vector SCHEMA public")
        except psycopg.errors.FeatureNotSupported as error:
            raise MigrationError(
                "this PostgreSQL has no pgvector: install the package postgresql-NN-pgvector (0.8 or later) on its host"
            ) from error
        except psycopg.errors.InsufficientPrivilege as error:
            raise MigrationError(
                "this database role may not create the extension: have an administrator run "
                "`CREATE EXTENSION vector SCHEMA public` in this database once"
            ) from error
        return "public"
    version, schema = str(row[0]), str(row[1])
    if tuple(int(part) for part in version.split(".")[:2]) < OLDEST_PGVECTOR:
        raise MigrationError(
            f"pgvector {version} is too old: cirkelline needs 0.8 or later (upgrade it, then `ALTER EXTENSION vector UPDATE`)"
        )
    return schema


async def _analyze(conn: Conn) -> None:
    for table in documents.TABLES:
        schema, name = table.split(".")
        exists = await (await conn.execute("SELECT to_regclass(%s) IS NOT NULL", [table])).fetchone()
        if exists and exists[0]:
            await conn.execute(sql.SQL("ANALYZE {}").format(sql.Identifier(schema, name)))


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


VERSIONS: Final = """
SELECT current_setting('server_version') AS server,
       (SELECT extversion FROM pg_extension WHERE extname = 'vector') AS vector
"""


async def versions(conn: Conn) -> tuple[str, str | None]:
    """Return the versions of the server and of pgvector (None where it is not installed)."""
    row = await (await conn.execute(VERSIONS)).fetchone()
    return (str(row[0]), row[1]) if row else ("unknown", None)
