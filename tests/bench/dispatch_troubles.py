"""PostgreSQL restarted under load, connections cut, workers frozen past their lease: `python tests/bench/dispatch_troubles.py`.

Three daemons run tasks of three agents, two of them with a cap, while more are submitted. Each round restarts the server
(fast, then immediately), cuts connections at random, and stops a worker until it was declared dead. At the end every task
has to have completed exactly once, with what its tools did, no version is missing and no cap was exceeded. Prints one JSON
line, and ends with 1 if something was lost or doubled. 10 rounds take about two minutes.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[1] / "runtime"))

from kills import Crew
from troubles import KINDS, Load, OwnServer, Troubles, faults
from workplace import Workplace

from cirkelline.state import migrations
from cirkelline.state.connection import Database


async def measure(server: OwnServer, folder: Path, given: argparse.Namespace) -> dict[str, object]:
    """Make trouble for so many rounds, and read what came of it."""
    began = time.monotonic()
    await migrations.migrate(server.url)
    async with Database.open(server.url) as db:
        place = Workplace(db, folder)
        crew, load = Crew(place, given.workers), Load(place)
        await load.prepare()
        trouble = Troubles(server, load, crew, random.Random(given.seed))  # noqa: S311 - to be repeated
        try:
            await crew.fill()
            for _ in range(given.rounds):
                for kind in given.kinds:
                    await trouble.make(kind, tasks=given.tasks)
            await load.all_completed()
            await trouble.all_back()
        finally:
            crew.end()
        wrong = await faults(load)
        attempts = await place.value("SELECT max(attempt) FROM runtime.tasks")
    return {
        "tasks": load.submitted,
        "restarts": trouble.restarts,
        "connections_cut": trouble.cut,
        "workers_frozen": trouble.frozen,
        "most_claims_of_a_task": attempts,
        "slowest_recovery_s": round(trouble.slowest, 1),
        "faults": wrong,
        "s": round(time.monotonic() - began),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--tasks", type=int, default=30, help="tasks for each trouble")
    parser.add_argument("--workers", type=int, default=3)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="troubles") as folder:
        server = OwnServer(Path(folder) / "server")
        try:
            found = asyncio.run(measure(server, Path(folder), given))
        finally:
            server.release()
    print(json.dumps(found), flush=True)  # noqa: T201 - its result
    sys.exit(1 if found["faults"] else 0)


if __name__ == "__main__":
    main()
