"""A little of what tests/bench/dispatch_crowd.py does for thousands of steps."""

from __future__ import annotations

import asyncio
from pathlib import Path

from crowd import WORKERS, Crowd, go_through
from nursery import Nursery
from workplace import Workplace

from cirkelline.state.connection import Database


def test_four_workers_lose_and_double_nothing_whatever_happens_to_them(
    database_url: str, tmp_path: Path, nursery: Nursery
) -> None:
    with asyncio.Runner() as runner:
        opening = Database.open(database_url)
        place = Workplace(runner.run(opening.__aenter__()), tmp_path, nursery=nursery)
        crowd = Crowd(place)
        try:
            runner.run(crowd.prepare())
            runner.run(crowd.fill())
            go_through(crowd, runner, runs=2, steps=40)
            runner.run(crowd.kill(next(iter(crowd.daemons))))
        finally:
            crowd.end()
            runner.run(opening.__aexit__(None, None, None))
    assert crowd.started > WORKERS
    assert crowd.submitted
