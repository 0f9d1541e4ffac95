"""A task that kills every worker that runs it, among a thousand: `python tests/bench/dispatch_poison.py`.

Three daemons run them with default settings, and one that dies is started again, as a supervisor does. Prints one JSON
line; it ends with 1 unless all others completed and the poisonous one waits for a person. It takes a minute or two.
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

from kills import Crew
from poison import submit, supervised
from troubles import OwnServer
from workplace import Workplace

from cirkelline.state import migrations
from cirkelline.state.connection import Database


async def measure(url: str, folder: Path, amount: int, workers: int) -> dict[str, object]:
    """Run `amount` tasks of which one is poisonous."""
    await migrations.migrate(url)
    async with Database.open(url) as db:
        place = Workplace(db, folder, lease=3.0, poll=2.0, concurrency=16)
        crew = Crew(place, workers)
        poison = await submit(place, amount)
        began = time.monotonic()
        try:
            found = await supervised(place, crew, poison, amount)
        finally:
            crew.end()
    return {
        "tasks": amount,
        "completed": found.completed,
        "the poisonous one": f"{found.task.status}: {found.task.error}",
        "workers_killed": found.workers_killed,
        "most_deaths_of_another": found.innocent_deaths,
        "s": round(time.monotonic() - began),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", type=int, default=1000)
    parser.add_argument("--workers", type=int, default=3)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="poison") as folder:
        server = OwnServer(Path(folder) / "server")
        try:
            found = asyncio.run(measure(server.url, Path(folder), given.tasks, given.workers))
        finally:
            server.release()
    print(json.dumps(found), flush=True)  # noqa: T201 - its result
    well = found["completed"] == given.tasks - 1 and str(found["the poisonous one"]).startswith("waiting")
    sys.exit(0 if well else 1)


if __name__ == "__main__":
    main()
