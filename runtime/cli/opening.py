"""The database as a command has it: only those that write may bring a given one up to date."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from uuid import UUID

from cirkelline.configs.errors import UsageError
from cirkelline.configs.settings import Settings, load_settings
from cirkelline.runtime import composition
from cirkelline.runtime.cli import console
from cirkelline.state import connection, migrations, tasks, users
from cirkelline.state.connection import Conn, Database
from cirkelline.state.tenant import tenant

_CONNECTIONS = 2


class NotMigrated(UsageError):
    """The given database lacks tables of this release."""


def settings() -> Settings:
    """Return the settings of this process. Raises: UsageError."""
    return load_settings(os.environ)


@asynccontextmanager
async def database(*, migrate: bool = False, connections: int = _CONNECTIONS) -> AsyncGenerator[composition.Opened]:
    """Open the database of the settings; one that was given is migrated only with `migrate`, ours always.

    Raises: NotMigrated, DatabaseUnavailable, MigrationError.
    """
    chosen = settings()
    given = chosen.database_url is not None
    opening = composition.open_database(
        chosen, migrate=migrate or not given, connections=connections, progress=console.note
    )
    async with opening as opened:
        if given and not migrate:
            await _require_migrated(opened)
        yield opened


async def _require_migrated(opened: composition.Opened) -> None:
    async with opened.db.connection() as conn:
        pending = (await migrations.status(conn)).pending
    if pending:
        what = "has no tables of cirkelline yet" if "001" in pending[0] else "is behind this release of cirkelline"
        raise NotMigrated(f"{connection.describe(opened.url)} {what}: run `cirkelline db migrate`, or `cirkelline up`")


@asynccontextmanager
async def connected(*, migrate: bool = False) -> AsyncGenerator[Conn]:
    """Lend one connection to the database of the settings. Raises: as `database`."""
    async with database(migrate=migrate) as opened, opened.db.connection() as conn:
        yield conn


@asynccontextmanager
async def rows_of(db: Database, user: str | None) -> AsyncGenerator[Conn]:
    """Lend a connection that sees a user's rows alone, or without a user an operator's, that sees them all.

    Raises: UserNotFound, UserInactive, TenantsUnprotected.
    """
    if user is None:
        async with db.connection() as conn:
            yield conn
        return
    async with db.connection() as conn:
        user_id = (await users.acting(conn, user)).id
    async with tenant(db, user_id) as door:
        yield door.conn


async def task_of(db: Database, user: str | None, reference: str) -> UUID:
    """Return the id of the one task, of this user's where one is named, that begins with `reference`.

    What is done with it then is the operator's business. Raises: TaskNotFound; as `rows_of`.
    """
    async with rows_of(db, user) as conn:
        return await tasks.resolve(conn, reference)
