"""The database as a command has it: only those that write may bring a given one up to date."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from cirkelline.configs.errors import UsageError
from cirkelline.configs.settings import Settings, load_settings
from cirkelline.runtime import composition
from cirkelline.runtime.cli import console
from cirkelline.state import connection, migrations
from cirkelline.state.connection import Conn

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
