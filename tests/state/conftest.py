"""The database room's tests share one migrated database per process, emptied before each test: making one costs more
than most of these tests. What changes the schema takes `empty_database_url`, a database of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from uuid import uuid4

import psycopg
import pytest
from psycopg import conninfo, sql

from cirkelline.state import connection
from cirkelline.state.connection import Conn

# What migrations have written stays.
TABLES = """
SELECT schemaname, tablename FROM pg_tables
 WHERE schemaname IN ('ai', 'runtime', 'public')
   AND (schemaname, tablename) NOT IN (('runtime', 'migrations'), ('runtime', 'tenant_rules'), ('runtime', 'tenant_functions'))
"""


@pytest.fixture(scope="session")
def shared_database(server_url: str, template: str) -> Iterator[psycopg.Connection]:
    name = f"cirkelline_room_{uuid4().hex[:16]}"
    with psycopg.connect(server_url, autocommit=True) as server:
        server.execute(sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(sql.Identifier(name), sql.Identifier(template)))
        # No test cuts the power: waiting for the disk at every commit is most of what they would do.
        server.execute(sql.SQL("ALTER DATABASE {} SET synchronous_commit = off").format(sql.Identifier(name)))
        try:
            with psycopg.connect(conninfo.make_conninfo(server_url, dbname=name), autocommit=True) as conn:
                yield conn
        finally:
            server.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))


@pytest.fixture
def database_url(shared_database: psycopg.Connection) -> str:
    """A migrated database without a row in it."""
    tables = [sql.Identifier(*each) for each in shared_database.execute(TABLES).fetchall()]
    # pgvector's graph goes on leading through rows that were deleted, and may lead past the few that are written next.
    grown = shared_database.execute("SELECT pg_relation_size('ai.idx_vectors_embedding') > 16384").fetchone() == (True,)
    shared_database.execute(
        sql.SQL("; ").join(
            [
                sql.SQL("SET session_replication_role = replica"),  # no triggers, and no order of keys to keep
                sql.SQL("TRUNCATE ai.cirkelline_knowledge_vectors" if grown else "SELECT"),
                *(sql.SQL("DELETE FROM {}").format(each) for each in tables),
                sql.SQL("RESET session_replication_role"),
            ]
        )
    )
    info = shared_database.info
    login = f"{info.user}:{info.password}" if info.password else info.user
    if info.host.startswith("/"):
        return f"postgresql://{login}@/{info.dbname}?host={info.host}&port={info.port}"
    return f"postgresql://{login}@{info.host}:{info.port}/{info.dbname}"


@pytest.fixture
async def conn(database_url: str) -> AsyncIterator[Conn]:
    """One connection to the emptied database, prepared as the pool's are."""
    opened = await connection.connect(database_url)
    async with opened:
        yield opened
