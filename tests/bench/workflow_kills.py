"""A workflow of twelve steps under kill -9, with a second worker alive: `python tests/bench/workflow_kills.py`.

A run for each of its 24 points (inside each step, and between its record and the next step), and one run that is killed
at all of them. Prints one JSON line; two minutes on two cores. It works on DATABASE_URL's server, or on the embedded one.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[1] / "runtime"))
sys.path.insert(0, str(Path(__file__).parent))

from journal_kills import workplace
from kills import Crew
from workflow_kills import POINTS, killed_at, prepare
from workflow_scene import WorkflowScene


async def measured(rounds: int) -> dict[str, object]:
    """Kill at every point, and say what went wrong."""
    began, faults, runs = time.monotonic(), [], 0
    async with workplace() as place:
        scene, crew = WorkflowScene(place), Crew(place, 2)
        await prepare(scene)
        try:
            for _ in range(rounds):
                for points in [*([point] for point in POINTS), POINTS]:
                    outcome = await killed_at(scene, crew, points)
                    faults += [f"{points}: {fault}" for fault in outcome.faults()]
                    runs += 1
        finally:
            crew.end()
    return {"runs": runs, "killed": crew.killed, "faults": faults, "s": round(time.monotonic() - began, 1)}


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=1)
    print(json.dumps({"workflow_kills": asyncio.run(measured(parser.parse_args().rounds))}))  # noqa: T201 - its result


if __name__ == "__main__":
    main()
