"""What reading usage costs with a large journal: `DATABASE_URL=… python tests/bench/usage_reading.py`.

Fills a database of its own with a million steps of 100,000 tasks over 87 days, and prints one JSON line: the best of three
readings of all, of 30 days and of one day, what the index takes, and what removing 10,000 tasks takes. Two minutes.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from datetime import UTC, date, datetime, timedelta
from uuid import uuid4

import psycopg
from psycopg import conninfo

from cirkelline.state import migrations, usage

TASKS = """
INSERT INTO runtime.tasks (id, agent_id, task_type, payload, status, created_at)
SELECT gen_random_uuid(), %s, 'task', '{}', 'completed', now() FROM generate_series(1, 100000)
"""
STEPS = """
INSERT INTO runtime.journal (task_id, position, call, attempt, format, kind, name, output, begun, input_tokens,
                             output_tokens, cost)
SELECT t.id, (n + 1) / 2, CASE WHEN n = 0 OR n % 2 = 1 THEN -1 ELSE 0 END, 1, 1,
       CASE WHEN n = 0 THEN 'context' WHEN n % 2 = 1 THEN 'model' ELSE 'tool' END, 'openai:gpt-4o',
       jsonb_build_object('text', repeat('some words of an answer ', 12)),
       now() - (100000 - t.place) * interval '75 seconds', 1000, 20, 0.01
  FROM (SELECT id, row_number() OVER () AS place FROM runtime.tasks) t, generate_series(0, 9) n ORDER BY t.place, n
"""
AGENT = "INSERT INTO runtime.agents (name, type) VALUES ('bench', 'assistant') RETURNING id"
SOME = "DELETE FROM runtime.tasks WHERE id IN (SELECT id FROM runtime.tasks LIMIT 10000)"


def main() -> None:
    server = os.environ["DATABASE_URL"]
    name = f"cirkelline_usage_{uuid4().hex[:12]}"
    own = conninfo.make_conninfo(server, dbname=name)
    with psycopg.connect(server, autocommit=True) as conn:
        conn.execute(f'CREATE DATABASE "{name}"')  # type: ignore[call-overload]
        try:
            asyncio.run(migrations.migrate(own))
            with psycopg.connect(own, autocommit=True) as bench:
                print(json.dumps(measured(bench)))  # noqa: T201 - its output
        finally:
            conn.execute(f'DROP DATABASE "{name}" WITH (FORCE)')  # type: ignore[call-overload]


def measured(conn: psycopg.Connection) -> dict[str, object]:
    conn.execute("SET TIME ZONE 'UTC'")
    agent = conn.execute(AGENT).fetchone()
    conn.execute(TASKS, agent)
    conn.execute(STEPS)
    conn.execute("VACUUM ANALYZE runtime.journal, runtime.tasks")
    today = datetime.now(UTC).date()
    sizes = conn.execute(
        "SELECT count(*), pg_total_relation_size('runtime.journal'), pg_relation_size('runtime.journal_begun')"
        "  FROM runtime.journal"
    ).fetchone() or (0, 0, 0)
    found: dict[str, object] = {"steps": sizes[0], "journal_MB": round(sizes[1] / 1e6), "index_kB": sizes[2] / 1024}
    for days in (None, 30, 1):
        since = today - timedelta(days=days) if days else None
        found[f"{days or 'all'}_days_ms"] = min(reading(conn, since) for _ in range(3))
    began = time.perf_counter()
    conn.execute(SOME)
    return found | {"remove_10000_tasks_s": round(time.perf_counter() - began, 2)}


def reading(conn: psycopg.Connection, since: date | None) -> int:
    began = time.perf_counter()
    conn.execute(usage.FIND, {"by": ["day", "model"], "since": since}).fetchall()
    return round((time.perf_counter() - began) * 1000)


if __name__ == "__main__":
    main()
