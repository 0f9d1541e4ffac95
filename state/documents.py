"""The two schema documents' tables, column by column, to tell a table of theirs from another of the same name."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

from psycopg.rows import class_row

from cirkelline.state.connection import Conn

# By table, each column with its type.
TABLES: Final[dict[str, dict[str, str]]] = {
    "public.users": {
        "id": "integer",
        "email": "character varying",
        "hashed_password": "character varying",
        "is_active": "boolean",
        "created_at": "timestamp without time zone",
        "last_login": "timestamp without time zone",
        "updated_at": "timestamp without time zone",
    },
    "public.admin_profiles": {
        "id": "integer",
        "user_id": "integer",
        "name": "character varying",
        "role": "character varying",
        "context": "text",
        "preferences": "jsonb",
        "custom_instructions": "text",
        "created_at": "timestamp without time zone",
        "updated_at": "timestamp without time zone",
    },
    "ai.agno_sessions": {
        "id": "integer",
        "session_id": "uuid",
        "user_id": "character varying",
        "name": "character varying",
        "created_at": "timestamp without time zone",
        "updated_at": "timestamp without time zone",
        "is_archived": "boolean",
    },
    "ai.agno_memories": {
        "id": "integer",
        "memory_id": "uuid",
        "user_id": "character varying",
        "memory": "text",
        "topics": "jsonb",
        "input": "character varying",
        "created_at": "timestamp without time zone",
        "updated_at": "timestamp without time zone",
        "accessed_at": "timestamp without time zone",
    },
    "ai.agno_memories_archive": {
        "id": "integer",
        "original_memory_id": "character varying",
        "user_id": "character varying",
        "memory": "jsonb",
        "topics": "jsonb",
        "input": "character varying",
        "created_at": "timestamp without time zone",
        "archived_at": "timestamp without time zone",
        "optimization_run_id": "character varying",
    },
    "ai.agno_knowledge": {
        "id": "integer",
        "name": "character varying",
        "file_name": "character varying",
        "file_path": "character varying",
        "content_type": "character varying",
        "metadata": "jsonb",
        "created_at": "timestamp without time zone",
        "updated_at": "timestamp without time zone",
    },
    "ai.cirkelline_knowledge_vectors": {
        "id": "bigint",
        "embedding": "vector(768)",
        "chunk_text": "text",
        "document_id": "integer",
        "metadata": "jsonb",
        "created_at": "timestamp without time zone",
        "updated_at": "timestamp without time zone",
    },
    "ai.workflow_runs": {
        "id": "integer",
        "run_id": "character varying",
        "workflow_name": "character varying",
        "user_id": "character varying",
        "status": "character varying",
        "started_at": "timestamp without time zone",
        "completed_at": "timestamp without time zone",
        "current_step": "character varying",
        "steps_completed": "jsonb",
        "input_data": "jsonb",
        "output_data": "jsonb",
        "error_message": "text",
        "metrics": "jsonb",
    },
    "runtime.agents": {
        "id": "uuid",
        "name": "character varying",
        "type": "character varying",
        "status": "character varying",
        "created_at": "timestamp without time zone",
        "updated_at": "timestamp without time zone",
        "config": "jsonb",
        "capabilities": "text[]",
    },
    "runtime.agent_states": {
        "id": "uuid",
        "agent_id": "uuid",
        "state": "jsonb",
        "timestamp": "timestamp without time zone",
        "version": "integer",
    },
    "runtime.tasks": {
        "id": "uuid",
        "agent_id": "uuid",
        "task_type": "character varying",
        "status": "character varying",
        "payload": "jsonb",
        "result": "jsonb",
        "created_at": "timestamp without time zone",
        "completed_at": "timestamp without time zone",
    },
    "runtime.users": {
        "id": "uuid",
        "email": "character varying",
        "auth_token": "character varying",
        "created_at": "timestamp without time zone",
        "updated_at": "timestamp without time zone",
    },
    "runtime.sessions": {
        "id": "uuid",
        "user_id": "uuid",
        "agent_id": "uuid",
        "status": "character varying",
        "created_at": "timestamp without time zone",
        "ended_at": "timestamp without time zone",
    },
}

SECOND_DOCUMENT: Final = ("agents", "agent_states", "tasks", "users", "sessions")

# What our migrations add to them. A column of that name that is there already is shared if its type is ours.
ADDED: Final[dict[str, dict[str, str]]] = {
    "runtime.agents": {"handle": "text", "definition_version": "integer", "problem": "text", "adopted": "boolean"},
    "runtime.agent_states": {"adopted": "boolean"},
    "runtime.tasks": {
        "session_id": "uuid",
        "beside": "uuid",
        "user_id": "uuid",
        "parent": "uuid",
        "root": "uuid",
        "priority": "integer",
        "run_at": "timestamp with time zone",
        "attempt": "integer",
        "deaths": "integer",
        "worker": "uuid",
        "error": "text",
        "key": "text",
        "capabilities": "text[]",
        "state_version": "integer",
        "definition_version": "integer",
        "tokens_counted": "bigint",
        "failures": "integer",
        "put_backs": "integer",
        "sequence": "bigint",
        "submitted_at": "timestamp with time zone",
        "started_at": "timestamp with time zone",
        "finished_at": "timestamp with time zone",
        "adopted": "boolean",
    },
    "runtime.users": {"account": "integer"},
    "ai.agno_memories_archive": {
        "original": "jsonb",
        "trace": "jsonb",
        "reason": "text",
        "replaced_by": "integer",
        "exact": "text",
    },
}

# Not information_schema, which hides what the connection's role has no right on.
COLUMNS: Final = """
SELECT n.nspname || '.' || c.relname AS table_name, a.attname AS column_name,
       CASE WHEN t.typname = 'vector' AND a.atttypmod > 0 THEN format('vector(%%s)', a.atttypmod)
            ELSE format_type(a.atttypid, NULL) END AS data_type,
       c.relkind IN ('r', 'p') AS is_table
  FROM pg_class c
  JOIN pg_namespace n ON n.oid = c.relnamespace AND n.nspname IN ('public', 'ai', 'runtime')
  JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
  JOIN pg_type t ON t.oid = a.atttypid
 WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f')
"""

NOT_A_TABLE: Final = "(not a table)"


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table, or of a view or the like that stands in a table's place."""

    table_name: str
    column_name: str
    data_type: str
    is_table: bool


async def columns(conn: Conn) -> dict[str, dict[str, str]]:
    """Return {table: {column: type}} of everything in `public`, `ai` and `runtime` that a table may not be named."""
    found: dict[str, dict[str, str]] = {}
    async with conn.cursor(row_factory=class_row(Column)) as cursor:
        await cursor.execute(COLUMNS, {})
        async for column in cursor:
            name, data_type = (column.column_name, column.data_type) if column.is_table else (NOT_A_TABLE, "")
            found.setdefault(column.table_name, {})[name] = data_type
    return found


def second_in_public(found: dict[str, dict[str, str]]) -> list[str]:
    """Name the second document's tables that stand in `public`, by their columns."""
    return [name for name in SECOND_DOCUMENT if _fits(found.get(f"public.{name}", {}), TABLES[f"runtime.{name}"])]


def differences(found: dict[str, dict[str, str]], own: Collection[str]) -> list[str]:
    """Say where what is there is not what the migrations mean by that name; `own` are the tables that are only ours."""
    # With the second document in `public`, its `users` stands where the first one's would be: that is known.
    theirs = {"public.users", "public.admin_profiles"} if "users" in second_in_public(found) else set[str]()
    strangers = [f"{table} is there already" for table in sorted(own) if table in found]
    return strangers + [
        f"{table} has {how}"
        for table, wanted in TABLES.items()
        if table in found and table not in theirs and (how := _how(found[table], wanted, ADDED.get(table, {})))
    ]


def _fits(actual: dict[str, str], wanted: dict[str, str]) -> bool:
    return all(actual.get(column) == data_type for column, data_type in wanted.items())


def _how(actual: dict[str, str], wanted: dict[str, str], added: dict[str, str]) -> str:
    if NOT_A_TABLE in actual:
        return "no columns of its own: it is a view or the like"
    shared = {column: data_type for column, data_type in added.items() if column in actual}
    return ", ".join(
        f"no column {column}" if column not in actual else f"{column} of type {actual[column]} instead of {data_type}"
        for column, data_type in (wanted | shared).items()
        if actual.get(column) != data_type
    )
