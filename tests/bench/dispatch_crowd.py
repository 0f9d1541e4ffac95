"""Thousands of random steps around four worker processes: `python tests/bench/dispatch_crowd.py [--runs N] [--steps N]`.

Hypothesis submits, kills workers (kill -9), pauses agents, cancels, retries and sets the workers' clocks by up to a day,
while the workers go on. After each step no cap was exceeded, no version is missing, nothing was done twice, and what is
pending is in line; at the end of each run every task has ended, once for each time it was put in line. Prints one JSON
line, or what was wrong. 25 runs of 100 steps take about five minutes.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[1] / "runtime"))

from crowd import Crowd, go_through
from troubles import OwnServer
from workplace import Workplace

from cirkelline.state import migrations
from cirkelline.state.connection import Database


def measure(url: str, folder: Path, given: argparse.Namespace) -> dict[str, object]:
    """Go through the steps."""
    began = time.monotonic()
    with asyncio.Runner() as runner:
        runner.run(migrations.migrate(url))
        opening = Database.open(url)
        place = Workplace(runner.run(opening.__aenter__()), folder)
        crowd = Crowd(place)
        try:
            runner.run(crowd.prepare())
            runner.run(crowd.fill())
            go_through(crowd, runner, runs=given.runs, steps=given.steps)
            ended = dict(runner.run(place.rows("SELECT status, count(*) FROM runtime.tasks GROUP BY 1")))
            deaths = runner.run(place.value("SELECT count(*) FROM runtime.tasks WHERE deaths > 0"))
        finally:
            crowd.end()
            runner.run(opening.__aexit__(None, None, None))
    return {
        "steps": dict(crowd.steps),
        "all_steps": crowd.steps.total(),
        "workers_started": crowd.started,
        "tasks": ended,
        "tasks_whose_worker_died": deaths,
        "s": round(time.monotonic() - began),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=25)
    parser.add_argument("--steps", type=int, default=100)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="crowd") as folder:
        server = OwnServer(Path(folder) / "server")
        try:
            found = measure(server.url, Path(folder), given)
        finally:
            server.release()
    print(json.dumps(found), flush=True)  # noqa: T201 - its result


if __name__ == "__main__":
    main()
