"""memory_optimization under kill -9, with a second worker alive: `python tests/bench/memory_kills.py`.

A run for each of its 34 points (before a step does anything, in its transaction before the commit, between the commit and
the step's record, between that and the next step), and one run that is killed at all of them. At every kill, what is live
and what is archived has to be what there was, to the byte; at the end a second run archives nothing, and `memories undo`
restores every row, embeddings included. Prints one JSON line; some three minutes on two cores. It works on DATABASE_URL's
server, or on the embedded one.
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

from journal_kills import workplace
from memory_kills import POINTS, memory_scene


async def measured(rounds: int) -> dict[str, object]:
    """Kill at every point, and say what went wrong."""
    began, runs = time.monotonic(), 0
    async with workplace() as place, memory_scene(place) as scene:
        for _ in range(rounds):
            for points in [*([point] for point in POINTS), POINTS]:
                await scene.killed_at(points)
                runs += 1
    took = round(time.monotonic() - began, 1)
    return {"runs": runs, "killed": scene.crew.killed, "faults": scene.faults, "s": took}


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=1)
    print(json.dumps({"memory_kills": asyncio.run(measured(parser.parse_args().rounds))}))  # noqa: T201 - its result


if __name__ == "__main__":
    main()
