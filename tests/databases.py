"""Migrated databases for tests, each emptied and handed on under another name.

To make one writes 450 files and to drop one removes them, which takes longer than most tests do (ext4 looks past every file
that was removed lately before it makes another). So a test gets what an earlier one used, once every row that was added is
gone and the first ones are as they were. A database whose schema or settings a test changed, or that grew, is dropped instead.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final, LiteralString
from uuid import uuid4

import psycopg
from psycopg import conninfo, sql

_GROWN: Final = 8 * 1024 * 1024  # bytes more than the template: what is left of many rows is slow to look through
_PATIENCE: Final = 30.0  # s for connections to end

# Whatever defines a database writes a row of one of these; what ANALYZE and VACUUM count does not.
_CATALOGS: Final = [
    "pg_attrdef",
    "pg_attribute",
    "pg_class",
    "pg_constraint",
    "pg_default_acl",
    "pg_event_trigger",
    "pg_extension",
    "pg_foreign_server",
    "pg_index",
    "pg_inherits",
    "pg_namespace",
    "pg_policy",
    "pg_proc",
    "pg_publication",
    "pg_rewrite",
    "pg_sequence",
    "pg_statistic_ext",
    "pg_trigger",
    "pg_type",
]
_SETTINGS: Final = """
SELECT count(*) FROM pg_db_role_setting s JOIN pg_database d ON d.oid = s.setdatabase WHERE datname = current_database()
"""
_TABLES: Final = """
SELECT nspname, relname FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace
 WHERE relkind = 'r' AND nspname IN ('ai', 'runtime', 'public') ORDER BY 1, 2
"""
_WRITTEN: Final = """
SELECT nspname, relname FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace
 WHERE relkind = 'r' AND nspname IN ('ai', 'runtime', 'public') AND pg_relation_size(c.oid) > 0
"""
_RESTART: Final = """
SELECT setval(seqrelid, seqstart, false) FROM pg_sequence WHERE pg_sequence_last_value(seqrelid) IS NOT NULL
"""
_END: Final = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s"

Connection = psycopg.Connection[tuple[Any, ...]]


class Databases:
    """Copies of one migrated database, for one process at a time; close it at the end."""

    def __init__(self, server_url: str, template: str) -> None:
        self._url = server_url
        self._template = template
        self._emptied: list[str] = []
        with self._connect(template) as conn:
            rows = {each: _rows(conn, *each) for each in conn.execute(_TABLES).fetchall()}
            self._tables = set(rows)
            self._filled = {table: found for table, found in rows.items() if found}
            self._pristine = self._definition(conn)
            self._size = _size(conn)
        self._server = psycopg.connect(server_url, autocommit=True)

    @contextmanager
    def lent(self) -> Iterator[str]:
        """Lend the name of a database that holds the schema and nothing else."""
        name = f"cirkelline_test_{uuid4().hex[:16]}"
        if len(self._emptied) > 1:  # of the newest one our own connection may just be ending, and renaming waits for it
            # Whatever an earlier test left running must not find the database of this one.
            self._do("ALTER DATABASE {} RENAME TO {}", self._emptied.pop(0), name)
        else:
            self._do("CREATE DATABASE {} TEMPLATE {}", name, self._template)
        try:
            yield name
        finally:
            self._disconnect(name)
            if self._is_emptied(name):
                self._emptied.append(name)
            else:
                self._drop(name)

    def close(self) -> None:
        """Drop what is left."""
        for name in self._emptied:
            self._drop(name)
        self._server.close()

    def _is_emptied(self, name: str) -> bool:
        """Remove every row that was added, unless more than rows has changed."""
        try:
            with self._connect(name) as conn:
                self._drop_new_tables(conn)
                if self._definition(conn) != self._pristine:
                    return False
                conn.execute("SET session_replication_role = replica")  # no triggers, and no order of keys to keep
                for table in conn.execute(_WRITTEN).fetchall():
                    if table not in self._filled or _rows(conn, *table) != self._filled[table]:
                        conn.execute(sql.SQL("DELETE FROM {}").format(sql.Identifier(*table)))
                        _fill(conn, self._filled.get(table, b""), *table)
                conn.execute(_RESTART)
                return _size(conn) < self._size + _GROWN
        except psycopg.OperationalError:  # it lets nobody in
            return False

    def _drop_new_tables(self, conn: Connection) -> None:
        for table in {*conn.execute(_TABLES).fetchall()} - self._tables:
            conn.execute(sql.SQL("DROP TABLE IF EXISTS {} CASCADE").format(sql.Identifier(*table)))

    def _definition(self, conn: Connection) -> tuple[Any, ...]:
        """Return which transactions made the schema, and how many settings there are."""
        sums = [sql.SQL("(SELECT sum(xmin::text::bigint) FROM {})").format(sql.Identifier(each)) for each in _CATALOGS]
        written = conn.execute(sql.SQL("SELECT {}").format(sql.SQL(", ").join(sums))).fetchall()
        return (*written, *conn.execute(_SETTINGS).fetchall())

    def _disconnect(self, name: str) -> None:
        deadline = time.monotonic() + _PATIENCE
        while self._server.execute(_END, [name]).fetchall():
            assert time.monotonic() < deadline, f"somebody stays connected to {name}"
            time.sleep(0.002)

    def _drop(self, name: str) -> None:
        self._do("DROP DATABASE IF EXISTS {} WITH (FORCE)", name)

    def _do(self, statement: LiteralString, *names: str) -> None:
        self._server.execute(sql.SQL(statement).format(*map(sql.Identifier, names)))

    def _connect(self, name: str) -> Connection:
        return psycopg.connect(conninfo.make_conninfo(self._url, dbname=name), autocommit=True)


def _rows(conn: Connection, *table: str) -> bytes:
    with conn.cursor() as cursor, cursor.copy(sql.SQL("COPY {} TO STDOUT").format(sql.Identifier(*table))) as copy:
        return b"".join(bytes(each) for each in copy)


def _fill(conn: Connection, rows: bytes, *table: str) -> None:
    with conn.cursor() as cursor, cursor.copy(sql.SQL("COPY {} FROM STDIN").format(sql.Identifier(*table))) as copy:
        copy.write(rows)


def _size(conn: Connection) -> int:
    ((size,),) = conn.execute("SELECT pg_database_size(current_database())").fetchall()
    return int(size)
