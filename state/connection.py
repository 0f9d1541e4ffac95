"""The door to PostgreSQL: one pool of autocommit connections in UTC, and errors that name the remedy."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any, Final

import psycopg
import psycopg_pool
from psycopg import conninfo
from psycopg.abc import Buffer
from psycopg.types.datetime import TimestampLoader, TimestamptzLoader
from psycopg.types.json import set_json_loads

from cirkelline.configs.errors import CirkellineError
from cirkelline.state import jsonb

Conn = psycopg.AsyncConnection[Any]

# How often a statement has to run before it is prepared without being asked to: those that gain by it ask.
_ONLY_WHEN_ASKED: Final = 1_000_000_000

SEARCH_PATH: Final = "runtime,ai,public"

# What a cut connection, a restarted or an unreachable server raises: worth trying again, unlike every other error.
Disconnected = (psycopg.OperationalError, psycopg.InterfaceError, psycopg_pool.PoolTimeout)
QueryError = psycopg.Error

# By SQLSTATE, what passes by itself: lost connections, deadlocks, full disks, locks, shutdowns, system errors, a standby
# that has not been promoted yet, and a transaction that was ended because its process stood still. A statement that ran
# out of memory or of time does so again.
_PASSING_CLASSES = ("08", "40", "53", "55", "57", "58", "25006", "25P03")
_LASTING = ("53200", "57014")


def is_away(error: psycopg.Error) -> bool:
    """Whether the server could not do its part just now, so that the same statement is worth trying again later."""
    if error.sqlstate is None:
        return isinstance(error, Disconnected)
    return error.sqlstate.startswith(_PASSING_CLASSES) and error.sqlstate not in _LASTING


class DatabaseUnavailable(CirkellineError):
    """The configured database does not answer."""


def _fields(url: str) -> dict[str, Any]:
    """The URL's parts; none where a part may be a piece of a password that should have been written with %40 or %2F."""
    login, at, _ = url.partition("://")[2].partition("?")[0].rpartition("@")
    if at and ("@" in login or "/" in login):
        return {}
    try:
        return dict(conninfo.conninfo_to_dict(url))
    except psycopg.ProgrammingError:
        return {}


def describe(url: str) -> str:
    """Say where a database is, without its password: `cirkelline at 10.0.0.5:5432`."""
    fields = _fields(url)
    host = fields.get("host") or "localhost"
    where = "its socket" if str(host).startswith("/") else f"{host}:{fields.get('port') or 5432}"
    return f"database {fields.get('dbname') or fields.get('user') or 'postgres'} at {where}"


def with_search_path(url: str) -> str:
    """Return the URL with our schemas first in its search_path, so that both schema documents' SQL runs as written.

    A search_path that the URL sets itself is kept, and so are its other options.
    """
    given = str(_fields(url).get("options") or "")
    if "search_path" in given:
        return url
    option = f"-csearch_path={SEARCH_PATH}"
    if "://" not in url:
        return conninfo.make_conninfo(url, options=f"{given} {option}".strip())
    quoted = option.replace("=", "%3D").replace(",", "%2C")
    login, at, rest = url.rpartition("@")  # a question mark in front of it belongs to a password
    if given:
        return login + at + re.sub(r"([?&]options=[^&]*)", rf"\1%20{quoted}", rest)
    return f"{login}{at}{rest}{'&' if '?' in rest else '?'}options={quoted}"


class _PlainTimestamp(TimestampLoader):
    """Reads a time that Python's calendar lacks (infinity, the year 20000) as None: one such row must hide no other."""

    def load(self, data: Buffer) -> datetime:
        try:
            return super().load(data)
        except psycopg.DataError:
            return None  # type: ignore[return-value]  # every column of that type is `datetime | None` in our rows


class _PlainTimestamptz(TimestamptzLoader):
    """The same with a time zone."""

    def load(self, data: Buffer) -> datetime:
        try:
            return super().load(data)
        except psycopg.DataError:
            return None  # type: ignore[return-value]


async def _prepare(conn: Conn) -> None:
    set_json_loads(jsonb.loads, conn)
    conn.adapters.register_loader("timestamp", _PlainTimestamp)
    conn.adapters.register_loader("timestamptz", _PlainTimestamptz)
    # A statement, not a startup option: a transaction pooler refuses the option and follows the statement.
    await conn.execute("SET TIME ZONE 'UTC'")
    row = await (await conn.execute(ANSWERING)).fetchone()
    # Behind a pooler the process that answers is not the one this connection was told of, and may be another one for the
    # next statement: nothing can be prepared there, and no setting be left behind for somebody else.
    if row is not None and row[0] == conn.info.backend_pid:
        conn.prepare_threshold = _ONLY_WHEN_ASKED
        if row[1] == "0":
            await conn.execute(FORGOTTEN)


ANSWERING: Final = "SELECT pg_backend_pid(), current_setting('idle_in_transaction_session_timeout')"
# A transaction of ours that hangs (a stopped process, a dead network) holds its locks, and every clean-up, no longer than this.
FORGOTTEN: Final = "SET idle_in_transaction_session_timeout = '5min'"


async def connect(url: str) -> Conn:
    """Open one connection outside any pool (migrations, LISTEN). Raises: DatabaseUnavailable."""
    try:
        # Named prepared statements do not survive a transaction pooler: none, unless `_prepare` finds that there is none.
        conn = await psycopg.AsyncConnection.connect(url, autocommit=True, prepare_threshold=None, connect_timeout=10)
        try:
            await _prepare(conn)
        except BaseException:  # whoever is cancelled here leaves no open connection behind
            await conn.close()
            raise
    except (psycopg.ProgrammingError, psycopg.OperationalError) as error:
        raise unavailable(url, error) from error
    return conn


def unavailable(url: str, error: Exception) -> DatabaseUnavailable:
    """Tell why a database cannot be reached, in one sentence without its password."""
    if not _fields(url):  # the error may repeat a piece of the URL, and that piece may be the password
        return DatabaseUnavailable(
            "DATABASE_URL is not one that PostgreSQL understands: write postgresql://user:password@host:5432/database, "
            "with %40 for an @ in the password, %2F for a slash and the like"
        )
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    password = _fields(url).get("password")
    if password:
        reason = reason.replace(str(password), "***")
    return DatabaseUnavailable(
        f"cannot reach {describe(url)}: {reason} (is it running, and is DATABASE_URL right? `cirkelline doctor` checks)"
    )


class Database:
    """A pool of connections to one database; open it with `async with Database.open(url) as db`."""

    def __init__(self, url: str, pool: psycopg_pool.AsyncConnectionPool[Conn]) -> None:
        self.url = url
        self._pool = pool

    @classmethod
    @asynccontextmanager
    async def open(cls, url: str, *, connections: int = 8) -> AsyncGenerator[Database]:
        """Open the pool (1 to `connections`), checking first that the server answers; close it at the end.

        Raises: DatabaseUnavailable.
        """
        await (await connect(url)).close()
        pool: psycopg_pool.AsyncConnectionPool[Conn] = psycopg_pool.AsyncConnectionPool(
            url,
            connection_class=Conn,
            min_size=1,
            max_size=connections,
            open=False,
            timeout=10,
            configure=_prepare,
            kwargs={"autocommit": True, "prepare_threshold": None, "connect_timeout": 10},
        )
        async with pool:
            yield cls(url, pool)

    @asynccontextmanager
    async def connection(self) -> AsyncGenerator[Conn]:
        """Lend one autocommit connection."""
        async with self._pool.connection() as conn:
            yield conn

    @asynccontextmanager
    async def transaction(self) -> AsyncGenerator[Conn]:
        """Lend one connection inside a transaction."""
        async with self._pool.connection() as conn, conn.transaction():
            yield conn
