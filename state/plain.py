"""`db.query` and `db.execute`: the database for a script, blocking and in plain SQL, as the first document uses it."""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager
from threading import Lock
from typing import Any, LiteralString, cast

import psycopg
import psycopg_pool
from pgvector import Vector
from pgvector.psycopg import register_vector
from psycopg.rows import dict_row

from cirkelline.configs import settings
from cirkelline.state import embedded
from cirkelline.state.connection import unavailable, with_search_path

PlainConnection = psycopg.Connection[dict[str, Any]]
EMBEDDING_SIZE = 768


def _adapted(parameter: Any) -> Any:
    """Let a plain list of 768 numbers be an embedding; every other list stays an array."""
    if isinstance(parameter, list):
        numbers = cast("list[float]", parameter)
        return Vector(numbers) if len(numbers) == EMBEDDING_SIZE else numbers
    return parameter


def _prepare(conn: PlainConnection) -> None:
    conn.execute("SET TIME ZONE 'UTC'")
    if psycopg.types.TypeInfo.fetch(conn, "vector") is not None:
        register_vector(conn)
        # The index looks at its 40 nearest alone, and a user's rows are chosen from those: look on until there are enough.
        conn.execute("SET hnsw.iterative_scan = strict_order")


class PlainDatabase:
    """The configured database, opened at the first statement; safe to use from several threads."""

    def __init__(self) -> None:
        self._pool: psycopg_pool.ConnectionPool[PlainConnection] | None = None
        self._server: embedded.EmbeddedServer | None = None
        self._lock = Lock()

    def query(self, statement: LiteralString, *parameters: Any) -> list[dict[str, Any]]:
        """Run a statement with `%s` parameters and return its rows, each as {column: value}.

        A list of 768 numbers is taken as an embedding. Raises: DatabaseUnavailable; psycopg.Error for bad SQL.
        """
        with self._connection() as conn:
            return conn.execute(statement, [_adapted(parameter) for parameter in parameters]).fetchall()

    def execute(self, statement: LiteralString, *parameters: Any) -> int:
        """Run a statement with `%s` parameters, commit it, and return how many rows it touched.

        Raises: DatabaseUnavailable; psycopg.Error for bad SQL.
        """
        with self._connection() as conn:
            return conn.execute(statement, [_adapted(parameter) for parameter in parameters]).rowcount

    def close(self) -> None:
        """Close the connections; the next statement opens new ones."""
        with self._lock:
            pool, self._pool = self._pool, None
            server, self._server = self._server, None
        if pool is not None:
            pool.close()
        if server is not None:
            server.release()

    @contextmanager
    def _connection(self) -> Generator[PlainConnection]:
        with self._lock:
            pool = self._pool = self._pool or self._open()
        with pool.connection() as conn:
            yield conn

    def _open(self) -> psycopg_pool.ConnectionPool[PlainConnection]:
        given = settings.load_settings(os.environ)
        if given.database_url is not None:
            url = given.database_url.get_secret_value()
        else:
            self._server = embedded.ensure(given.home)
            url = self._server.url()
        try:
            psycopg.connect(url, connect_timeout=10).close()
        except psycopg.OperationalError as error:
            raise unavailable(url, error) from error
        return psycopg_pool.ConnectionPool(
            with_search_path(url),
            connection_class=psycopg.Connection[dict[str, Any]],
            min_size=0,
            max_size=8,
            open=True,
            configure=_prepare,
            kwargs={"autocommit": True, "prepare_threshold": None, "row_factory": dict_row},
        )
