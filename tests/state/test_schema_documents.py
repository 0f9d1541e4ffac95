"""The database agrees with both schema documents, and what they show to write against it runs."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, LiteralString, cast
from uuid import uuid4

import psycopg
import pytest
from foreign import AGENTS, FIRST, KV1NTOS, Connection
from psycopg import conninfo, sql

from cirkelline.state import documents, migrations
from cirkelline.state.connection import Conn, connect, with_search_path

ROOT = Path(__file__).parents[2]

COLUMNS = """
SELECT column_name, data_type, udt_name, character_maximum_length, is_nullable,
       regexp_replace(column_default, '^nextval.*', 'serial'), ordinal_position
  FROM information_schema.columns WHERE table_schema = %s AND table_name = %s ORDER BY ordinal_position
"""
KEYS = r"""
SELECT conname, contype, regexp_replace(pg_get_constraintdef(oid), 'REFERENCES (\w+\.)', 'REFERENCES ')
  FROM pg_constraint WHERE conrelid = format('%%I.%%I', %s::text, %s::text)::regclass AND contype <> 'n' ORDER BY conname
"""
INDEXES = "SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = %s AND tablename = %s ORDER BY indexname"


@pytest.fixture(scope="module")
def as_written(server_url: str) -> Iterator[Connection]:
    """A database made by the documents' own DDL and nothing else, the second one's tables in `runtime`."""
    name = f"cirkelline_written_{uuid4().hex[:16]}"
    with psycopg.connect(server_url, autocommit=True) as server:
        server.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        try:
            with psycopg.connect(conninfo.make_conninfo(server_url, dbname=name), autocommit=True) as conn:
                conn.execute("CREATE EXTENSION vector SCHEMA public")
                conn.execute("CREATE SCHEMA ai")
                conn.execute("CREATE SCHEMA runtime")
                conn.execute(KV1NTOS.encode())
                conn.execute("SET search_path = runtime, public")
                conn.execute(AGENTS.encode())
                conn.execute("RESET search_path")
                yield conn
        finally:
            server.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


@pytest.fixture
def migrated(database_url: str) -> Iterator[Connection]:
    """A migrated database, as `db url` lets one connect to it."""
    with psycopg.connect(with_search_path(database_url), autocommit=True) as conn:
        yield conn


@pytest.mark.parametrize("table", sorted(documents.TABLES))
def test_every_table_is_as_the_documents_have_it(table: str, as_written: Connection, migrated: Connection) -> None:
    place = table.split(".")
    wanted = as_written.execute(COLUMNS, place).fetchall()
    assert wanted
    assert migrated.execute(COLUMNS, place).fetchall()[: len(wanted)] == wanted
    assert migrated.execute(KEYS, place).fetchall() == as_written.execute(KEYS, place).fetchall()
    assert set(as_written.execute(INDEXES, place).fetchall()) <= set(migrated.execute(INDEXES, place).fetchall())


@pytest.mark.parametrize("table", sorted(documents.TABLES))
def test_what_was_added_stops_no_other_writer(table: str, as_written: Connection, migrated: Connection) -> None:
    place = table.split(".")
    wanted = len(as_written.execute(COLUMNS, place).fetchall())
    added = migrated.execute(COLUMNS, place).fetchall()[wanted:]
    assert [column for column, *_, nullable, _, _ in added if nullable != "YES"] == []
    # The archive's own columns hold what they are named for; a whole row that can be put back needs one more.
    assert not added or table not in FIRST or table == "ai.agno_memories_archive"


async def test_the_list_of_tables_is_the_documents_list(as_written: Connection, server_url: str) -> None:
    conn = await connect(conninfo.make_conninfo(server_url, dbname=as_written.info.dbname))
    async with conn:
        assert await documents.columns(conn) == documents.TABLES


async def test_the_list_of_added_columns_is_what_the_migrations_add(conn: Conn) -> None:
    found = await documents.columns(conn)
    added = {table: found[table].items() - columns.items() for table, columns in documents.TABLES.items()}
    assert {table: dict(columns) for table, columns in added.items() if columns} == documents.ADDED


def test_the_vector_index_is_the_one_that_is_asked_for(migrated: Connection) -> None:
    (index,) = migrated.execute(
        "SELECT indexdef FROM pg_indexes WHERE indexname = 'idx_vectors_embedding'"
    ).fetchone() or ("",)
    assert "hnsw (embedding vector_cosine_ops)" in index
    assert "m='16'" in index
    assert "ef_construction='200'" in index


@pytest.mark.parametrize("statement", re.split(r";\s*\n", KV1NTOS + AGENTS))
def test_the_documents_ddl_finds_everything_there_already(statement: str, migrated: Connection) -> None:
    bare = "\n".join(line for line in statement.splitlines() if not line.strip().startswith("--")).strip()
    if bare:
        with pytest.raises((psycopg.errors.DuplicateTable, psycopg.errors.DuplicateObject)):
            migrated.execute(cast("LiteralString", bare))


EXAMPLE = re.compile(r"^```sql\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def examples() -> list[str]:
    page = (ROOT / "docs" / "schema-examples.md").read_text(encoding="utf-8")
    return [statement for block in EXAMPLE.findall(page) for statement in block.split(";") if statement.strip()]


@pytest.mark.parametrize("statement", examples())
def test_an_example_of_the_documents_runs(statement: str, migrated: Connection) -> None:
    ready = statement.replace(":query_embedding", "(SELECT array_fill(0.5, ARRAY[768])::vector)")
    migrated.execute(cast("LiteralString", ready), prepare=False)


def test_the_page_holds_every_example_of_both_documents() -> None:
    assert len(examples()) == 12


def test_the_python_examples_run_as_they_are_written(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", database_url)
    db = importlib.import_module("cirkelline.database").db
    try:
        db.execute("INSERT INTO ai.agno_sessions (session_id, user_id) VALUES (%s, %s)", uuid4(), "user-123")
        db.execute(
            "INSERT INTO cirkelline_knowledge_vectors (embedding, chunk_text, metadata) VALUES (%s, 'text', %s::jsonb)",
            [0.5] * 768,
            '{"user_id": "user-123"}',
        )
        sessions = db.query(
            """
            SELECT * FROM ai.agno_sessions
            WHERE user_id = %s AND is_archived = FALSE
            ORDER BY created_at DESC
            """,
            "user-123",
        )
        assert [row["user_id"] for row in sessions] == ["user-123"]
        found = db.query(
            """
            SELECT chunk_text, 1 - (embedding <=> %s) AS similarity FROM ai.cirkelline_knowledge_vectors
            WHERE metadata->>'user_id' = %s
            ORDER BY embedding <=> %s
            LIMIT 5
            """,
            [0.5] * 768,
            "user-123",
            [0.5] * 768,
        )
        assert [round(row["similarity"], 5) for row in found] == [1.0]
        assert db.execute(ARCHIVE, "user-123") == 0
    finally:
        db.close()


def test_a_search_of_one_users_chunks_finds_them_behind_any_number_of_nearer_ones(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", f"{database_url}&options=-cenable_seqscan%3Doff")  # by the index alone
    db = importlib.import_module("cirkelline.database").db
    insert = "INSERT INTO cirkelline_knowledge_vectors (embedding, chunk_text, metadata) VALUES (%s, 'text', %s::jsonb)"
    try:
        for number in range(100):
            db.execute(insert, [0.5] * 767 + [0.5 + number / 10_000], '{"user_id": "somebody"}')
        db.execute(insert, [0.5] * 767 + [0.0], '{"user_id": "user-123"}')
        nearest = """
        SELECT metadata->>'user_id' AS owner FROM ai.cirkelline_knowledge_vectors
        WHERE metadata->>'user_id' = %s ORDER BY embedding <=> %s LIMIT 5
        """
        plan = db.query(f"EXPLAIN {nearest}", "user-123", [0.5] * 768)
        assert any("idx_vectors_embedding" in line for row in plan for line in row.values())
        assert db.query(nearest, "user-123", [0.5] * 768) == [{"owner": "user-123"}]
    finally:
        db.close()


ARCHIVE = """
INSERT INTO ai.agno_memories_archive (original_memory_id, user_id, memory, topics, input, created_at)
SELECT memory_id, user_id, to_jsonb(memory), topics, input, created_at FROM ai.agno_memories
WHERE user_id = %s AND created_at < NOW() - INTERVAL '30 days'
"""


async def test_a_second_migration_changes_nothing(migrated: Connection, database_url: str) -> None:
    before = catalog(migrated)
    for migration in migrations.release_migrations():
        with psycopg.connect(database_url) as conn:
            conn.execute("SET search_path = public")
            conn.execute(migration.text.encode())
    assert catalog(migrated) == before


def catalog(conn: Connection) -> list[tuple[Any, ...]]:
    return conn.execute(
        sql.SQL("""
        SELECT table_schema, table_name, column_name, data_type, column_default FROM information_schema.columns
         WHERE table_schema IN ('ai', 'runtime', 'public')
        UNION ALL SELECT schemaname, tablename, indexname, indexdef, NULL FROM pg_indexes
         WHERE schemaname IN ('ai', 'runtime', 'public')
        UNION ALL SELECT n.nspname, p.proname, md5(p.prosrc), NULL, NULL FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
         WHERE n.nspname = 'runtime'
        UNION ALL SELECT NULL, t.tgname, pg_get_triggerdef(t.oid), NULL, NULL FROM pg_trigger t WHERE NOT t.tgisinternal
         ORDER BY 1, 2, 3
    """)
    ).fetchall()
