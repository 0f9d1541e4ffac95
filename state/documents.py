"""The two schema documents' tables, column by column, to tell a table of theirs from another of the same name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from psycopg.rows import class_row

from cirkelline.state.connection import Conn

# table: {column: type as information_schema names it}
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
        "embedding": "USER-DEFINED",
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
        "capabilities": "ARRAY",
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

COLUMNS: Final = """
SELECT table_schema || '.' || table_name AS table_name, column_name, data_type
  FROM information_schema.columns WHERE table_schema IN ('public', 'ai', 'runtime')
"""


@dataclass(frozen=True, slots=True)
class Column:
    """A column as information_schema knows it."""

    table_name: str
    column_name: str
    data_type: str


async def columns(conn: Conn) -> dict[str, dict[str, str]]:
    """Return {table: {column: type}} of every table this connection may see in `public`, `ai` and `runtime`."""
    found: dict[str, dict[str, str]] = {}
    async with conn.cursor(row_factory=class_row(Column)) as cursor:
        await cursor.execute(COLUMNS)
        async for column in cursor:
            found.setdefault(column.table_name, {})[column.column_name] = column.data_type
    return found


def second_in_public(found: dict[str, dict[str, str]]) -> list[str]:
    """Name the second document's tables that stand in `public`, by their columns."""
    return [name for name in SECOND_DOCUMENT if _fits(found.get(f"public.{name}", {}), TABLES[f"runtime.{name}"])]


def differences(found: dict[str, dict[str, str]]) -> list[str]:
    """Say in sentences where a table that exists is not the documents' table of that name."""
    in_public = second_in_public(found)
    return [
        f"{table} has {_how(found[table], wanted)}"
        for table, wanted in TABLES.items()
        if table in found
        and not _fits(found[table], wanted)
        and not (table.startswith("public.") and "users" in in_public and table == "public.users")
    ]


def _fits(actual: dict[str, str], wanted: dict[str, str]) -> bool:
    return all(actual.get(column) == data_type for column, data_type in wanted.items())


def _how(actual: dict[str, str], wanted: dict[str, str]) -> str:
    return ", ".join(
        f"no column {column}" if column not in actual else f"{column} of type {actual[column]} instead of {data_type}"
        for column, data_type in wanted.items()
        if actual.get(column) != data_type
    )
