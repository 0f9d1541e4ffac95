"""Databases as somebody else left them: the documents' own DDL, another program's role, and rows of every odd kind."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from cirkelline.state import documents

SCHEMA = Path(__file__).parent / "schema"
KV1NTOS = (SCHEMA / "kv1ntos.sql").read_text(encoding="utf-8")
AGENTS = (SCHEMA / "agents.sql").read_text(encoding="utf-8")
FIRST = tuple(table for table in documents.TABLES if not table.startswith("runtime."))

Connection = psycopg.Connection[tuple[Any, ...]]

KV1NTOS_ROWS = """
INSERT INTO public.users (email, hashed_password, created_at) VALUES
    ('ivo@example.com', '$2b$12$x', now() - interval '2 years'), ('eva@example.com', '$2b$12$y', NULL);
INSERT INTO public.admin_profiles (user_id, name) SELECT id, 'Ivo' FROM public.users;
INSERT INTO ai.agno_sessions (session_id, user_id, created_at) VALUES
    (gen_random_uuid(), 'user-123', NULL), (gen_random_uuid(), '', now() - interval '2 years');
INSERT INTO ai.agno_memories (memory_id, user_id, memory, topics) VALUES
    (gen_random_uuid(), 'user-123', 'likes JSON', '["style"]'), (gen_random_uuid(), 'user-123', 'likes JSON', NULL);
INSERT INTO ai.agno_memories_archive (original_memory_id, user_id, memory) VALUES ('m', 'user-123', '{}');
INSERT INTO ai.agno_knowledge (name, metadata) VALUES ('report', '{"user_id": "user-123", "document_type": "pdf"}');
INSERT INTO ai.cirkelline_knowledge_vectors (embedding, chunk_text, document_id, metadata)
    SELECT array_fill(0.1, ARRAY[768])::public.vector, 'text', id, '{"user_id": "user-123"}' FROM ai.agno_knowledge;
INSERT INTO ai.workflow_runs (run_id, workflow_name, status, user_id) VALUES ('r1', 'memory_optimization', 'ODD', NULL);
"""

AGENTS_ROWS = """
INSERT INTO agents (id, name, type, config, status, created_at) VALUES
    ('00000000-0000-4000-8000-000000000001', 'twin', 'a', NULL, 'idle', NULL),
    ('00000000-0000-4000-8000-000000000002', 'twin', 'a', '{"temperature": 1}', NULL, now() - interval '2 years'),
    ('00000000-0000-4000-8000-000000000003', 'runnable', 'a', '{"instructions": "go", "model": "scripted:/x.yaml"}', 'odd', now()),
    ('00000000-0000-4000-8000-000000000004', 'an array', 'a', '[1, 2]', 'pending', now());
INSERT INTO agent_states (id, agent_id, state, version, timestamp) VALUES
    (gen_random_uuid(), '00000000-0000-4000-8000-000000000001', '{"mine": 1}', NULL, NULL),
    (gen_random_uuid(), '00000000-0000-4000-8000-000000000003', '"text"', 7, now() - interval '2 years'),
    (gen_random_uuid(), '00000000-0000-4000-8000-000000000003', '{"mine": 2}', 7, now());
INSERT INTO tasks (id, agent_id, task_type, status, payload, created_at, completed_at) VALUES
    (gen_random_uuid(), '00000000-0000-4000-8000-000000000003', 'x', 'pending', '{"input": "second"}', now(), NULL),
    (gen_random_uuid(), '00000000-0000-4000-8000-000000000003', 'x', 'pending', '{"input": "first"}', now() - interval '2 years', NULL),
    (gen_random_uuid(), '00000000-0000-4000-8000-000000000001', NULL, NULL, NULL, NULL, NULL),
    (gen_random_uuid(), NULL, 'x', 'running', '[]', NULL, NULL),
    (gen_random_uuid(), '00000000-0000-4000-8000-000000000002', 'x', 'ODD STATUS', '"text"', now(), NULL),
    (gen_random_uuid(), '00000000-0000-4000-8000-000000000002', 'x', 'completed', '{}', now() - interval '2 years',
     now() - interval '2 years');
INSERT INTO users (id, email) VALUES (gen_random_uuid(), 'ivo@example.com'), (gen_random_uuid(), NULL);
INSERT INTO sessions (id, user_id, agent_id, created_at)
    SELECT gen_random_uuid(), id, '00000000-0000-4000-8000-000000000001', NULL FROM users;
"""


@dataclass(frozen=True, slots=True)
class Foreign:
    """Which documents somebody else's database holds, and in which schema the second one's tables stand."""

    name: str
    first: bool
    second: str | None

    @property
    def tables(self) -> list[str]:
        """The tables, by schema and name, in an order in which they could be emptied backwards."""
        mine = [f"{self.second}.{table}" for table in documents.SECOND_DOCUMENT] if self.second else []
        return [*(FIRST if self.first else ()), *mine]

    def make(self, url: str) -> None:
        """Make the documents' tables by their own DDL and fill them."""
        with psycopg.connect(url, autocommit=True) as conn:
            conn.execute("CREATE EXTENSION IF NOT EXISTS vector SCHEMA public")
            if self.first:
                conn.execute("CREATE SCHEMA ai")
                conn.execute((KV1NTOS + KV1NTOS_ROWS).encode())
            if self.second:
                conn.execute(sql.SQL("CREATE SCHEMA IF NOT EXISTS {}").format(sql.Identifier(self.second)))
                conn.execute(sql.SQL("SET search_path = {}, public").format(sql.Identifier(self.second)))
                conn.execute((AGENTS + AGENTS_ROWS).encode())

    def schemas(self) -> list[str]:
        """The schemas in which its tables stand."""
        return sorted({table.split(".")[0] for table in self.tables})

    def rows(self, url: str) -> dict[str, list[tuple[Any, ...]]]:
        """Every row with its place and its writer, in the documents' columns: what must not change."""
        found = {}
        with psycopg.connect(url) as conn:
            for table in self.tables:
                schema, name = table.split(".")
                known = documents.TABLES[f"runtime.{name}" if schema == self.second else table]
                columns = sql.SQL(", ").join(sql.SQL("{}::text").format(sql.Identifier(column)) for column in known)
                query = sql.SQL("SELECT ctid::text, xmin::text, {} FROM {} ORDER BY ctid")
                found[table] = conn.execute(query.format(columns, sql.Identifier(schema, name))).fetchall()
        return found


FOREIGN = [
    Foreign("the first document alone", first=True, second=None),
    Foreign("the second document alone, in runtime", first=False, second="runtime"),
    Foreign("the second document alone, in public", first=False, second="public"),
    Foreign("both documents", first=True, second="runtime"),
]
