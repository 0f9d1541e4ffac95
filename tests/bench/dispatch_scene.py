"""Agents and tasks of ours for the dispatch benchmarks."""

from __future__ import annotations

from pathlib import Path

import psycopg
from psycopg.types.json import Json

# As `agents apply` leaves them: a checked definition and a head.
AGENTS = """
WITH made AS (
    INSERT INTO runtime.agents (name, type, handle, definition_version)
    SELECT 'bench ' || n, 'assistant', 'bench-' || n, 1 FROM generate_series(1, %s::integer) n RETURNING id
), defined AS (
    INSERT INTO runtime.definitions (agent_id, version, hash, spec, model) SELECT id, 1, 'bench', '{}', '{}' FROM made
)
INSERT INTO runtime.agent_heads (agent_id) SELECT id FROM made
"""
TASKS = """
WITH every AS (SELECT array_agg(id ORDER BY handle) AS ids FROM runtime.agents)
INSERT INTO runtime.tasks (agent_id, task_type, payload)
SELECT ids[n %% cardinality(ids) + 1], 'task', '{"input": "go"}' FROM every, generate_series(%s::integer, %s::integer) n
"""


def agents_and_tasks(conn: psycopg.Connection, agents: int, tasks: int) -> None:
    """Add so many agents, and put so many tasks in line, to each agent in turn."""
    conn.execute(AGENTS, [agents])
    for begin in range(0, tasks, 1000):
        conn.execute(TASKS, [begin, min(begin + 1000, tasks) - 1])


SERVABLE = "UPDATE runtime.agents SET config = %s WHERE handle = 'bench-1'"


def servable(conn: psycopg.Connection, folder: Path) -> None:
    """Give the first agent a definition that a worker can serve; the worker checks it, as it came by plain SQL."""
    script = folder / "script.yaml"
    script.write_text("- text: nothing\n")
    conn.execute(SERVABLE, [Json({"model": f"scripted:{script}", "instructions": "Do nothing."})])
