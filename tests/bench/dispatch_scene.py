"""Agents and tasks of ours for the dispatch benchmarks."""

from __future__ import annotations

from pathlib import Path

import psycopg

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


SERVABLE = """
UPDATE runtime.definitions SET spec = %s, model = %s WHERE agent_id = (SELECT id FROM runtime.agents WHERE handle = %s)
"""


def servable(conn: psycopg.Connection, folder: Path) -> None:
    """Give the first agent a definition that a worker can serve."""
    from cirkelline.configs.loading import parse_config  # noqa: PLC0415 - the other programs do without it

    script = folder / "script.yaml"
    script.write_text("- text: nothing\n")
    spec = parse_config({"name": "bench-1", "model": f"scripted:{script}", "instructions": "Do nothing."})
    conn.execute(SERVABLE, [spec.model_dump_json(), spec.model.model_dump_json(), "bench-1"])
