"""Tasks through a whole daemon and agno, with `scripted:` models that answer at once, and where its processor time goes.

The daemon's process is looked at every few milliseconds of processor time that it uses: a look counts for the innermost
function on the stack that belongs to somebody in `OWNERS`. What asyncio, pydantic, json and the like do counts for whoever
called them; where nobody did, for the event loop.
"""

from __future__ import annotations

import asyncio
import json
import signal
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any, Final

from dispatch_place import checkpoint, database, postmaster, process_ms, server_ms
from dispatch_tables import Table, number
from workplace import Daemon, Workplace

from cirkelline.state import migrations
from cirkelline.state.connection import Database

AGENTS: Final = 10
EVERY: Final = 0.002  # seconds of processor time between two looks
SHAPES: Final[dict[str, list[dict[str, Any]]]] = {
    "one answer": [{"text": "A short answer to what was asked."}],
    "a tool and an answer": [{"tool": "look", "arguments": {"what": "it"}}, {"text": "It is {{last_tool}}."}],
}
LOOK: Final = """
from cirkelline.tools import tool

@tool(effects="read")
async def look(what: str) -> str:
    return f"{what} there"
"""
HEADER: Final = (
    *("run", "tasks/s", "worker ms/task", "agno", "journal", "SQL", "our boundary to agno", "the rest of ours"),
    *("logging", "event loop", "server ms/task"),
)
OWNERS: Final = HEADER[3:10]

SAMPLER: Final = """
import collections, json, os, signal
_seen, _kinds, _lines = collections.Counter(), {}, collections.Counter()
def _kind(file):
    found = _kinds.get(file)
    if found is None:
        found = _kinds[file] = next((kind for part, kind in (
            ("/site-packages/agno/", "agno"), ("/psycopg", "SQL"), ("/structlog/", "logging"), ("/logging/", "logging"),
            ("/runtime/logs.py", "logging"), ("/agents/journaling.py", "journal"), ("/runtime/recording.py", "journal"),
            ("/state/journal.py", "journal"), ("/agents/", "our boundary to agno"), ("/runtime/", "the rest of ours"),
            ("/state/", "the rest of ours"), ("/tools/", "the rest of ours"), ("/configs/", "the rest of ours"),
        ) if part in file and (kind in ("agno", "SQL", "logging") or "/cirkelline/" in file)), "")
    return found
def _look(number, frame):
    innermost = frame
    while frame is not None and not (kind := _kind(frame.f_code.co_filename)):
        frame = frame.f_back
    _seen[kind if frame is not None else "event loop"] += 1
    where = frame or innermost
    _lines[f"{where.f_code.co_filename.rpartition('site-packages/')[2]}:{where.f_code.co_name}"] += 1
def _begin(number, frame):
    signal.signal(signal.SIGPROF, _look)
    signal.setitimer(signal.ITIMER_PROF, %(every)s, %(every)s)
def _end(number, frame):
    signal.setitimer(signal.ITIMER_PROF, 0)
    with open("looks.new", "w") as file:
        json.dump([_seen, _lines.most_common(40)], file)
    os.replace("looks.new", "looks")
signal.signal(signal.SIGUSR1, _begin)
signal.signal(signal.SIGUSR2, _end)
"""


async def run(url: str, folder: Path, turns: list[dict[str, Any]], tasks: int, seen: list[Any]) -> tuple[str, ...]:
    """Run so many tasks through one daemon and return what they cost."""
    async with Database.open(url) as db:
        place = Workplace(db, folder, lease=3.0, poll=2.0, concurrency=8)
        place.tool("looking", LOOK)
        for n in range(AGENTS):
            await place.agent(f"agent-{n}", turns, tools=[{"python": "looking:look"}])
        daemon = place.daemon("worker", prelude=SAMPLER % {"every": EVERY}, environ={"CIRKELLINE_LOG_LEVEL": "info"})
        try:
            await daemon.says("worker.ready")
            await drain(place, tasks // 10)  # what it does once: imports, pools, prepared statements
            return await measured(place, daemon, url, tasks, seen)
        finally:
            daemon.process.kill()
            daemon.process.wait()


async def measured(place: Workplace, daemon: Daemon, url: str, tasks: int, seen: list[Any]) -> tuple[str, ...]:
    pid, server = daemon.process.pid, postmaster(url)
    checkpoint(url)
    worker, served = process_ms(pid), server_ms(server) if server else 0.0
    daemon.signal(signal.SIGUSR1)
    took = await drain(place, tasks)
    daemon.signal(signal.SIGUSR2)
    used = (process_ms(pid) - worker) / tasks
    served = (server_ms(server) - served) / tasks if server else 0.0
    looks = place.folder / "looks"
    while not looks.exists():  # noqa: ASYNC110 - another process writes it
        await asyncio.sleep(0.05)
    counted, lines = json.loads(looks.read_text())
    seen.extend(lines)
    total = sum(counted.values())
    parts = [number(used * counted.get(owner, 0) / total) for owner in OWNERS]
    return (number(tasks / took, 0), number(used), *parts, number(served))


async def drain(place: Workplace, tasks: int) -> float:
    """Submit tasks in one statement and return the seconds until they are done."""
    await place.execute(
        "INSERT INTO runtime.tasks (agent_id, task_type, payload)"
        " SELECT (array_agg(a.id))[1 + n %% count(*)], 'task', jsonb_build_object('input', 'task ' || n)"
        " FROM runtime.agents a, generate_series(1, %s) n GROUP BY n",
        tasks,
    )
    began = time.monotonic()
    while await place.value("SELECT EXISTS (SELECT FROM runtime.queue) OR EXISTS (SELECT FROM runtime.claims)"):  # noqa: ASYNC110 - another process changes it
        await asyncio.sleep(0.1)
    return time.monotonic() - began


def table(url: str, *, tasks: int, command: str, lines: bool = False) -> Table:
    """Measure each shape of run; with `lines`, print also the functions that the looks met most."""
    rows = []
    for name, turns in SHAPES.items():
        seen: list[Any] = []
        with database(url) as own, tempfile.TemporaryDirectory(prefix="endtoend") as folder:
            asyncio.run(migrations.migrate(own))
            rows.append((name, *asyncio.run(run(own, Path(folder), turns, tasks, seen))))
        if lines:
            for where, amount in Counter(dict(seen)).most_common(40):
                print(f"{amount:6} {where}")  # noqa: T201 - asked for
    title = f"{tasks:,} tasks of {AGENTS} agents through one daemon with default settings; its milliseconds split by whose code used them"
    return Table("endtoend", title, HEADER, rows, command)
