"""How long a cancel takes, from another process, of what a daemon runs: `python tests/bench/dispatch_cancelling.py`.

From the call that cancels to the task's end in the database, with default settings, notified and merely polling. Prints
one JSON line for each; it takes half a minute.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[1] / "runtime"))

from dispatch_place import database, server
from workplace import Daemon, Workplace

from cirkelline.state import migrations, tasks
from cirkelline.state.connection import Database

TOOLS = """
import asyncio
from cirkelline.tools import tool

@tool(effects="read", timeout=None)
async def awaits() -> str:
    await asyncio.Event().wait()

@tool(effects="read", timeout=None)
def blocks() -> str:
    time.sleep(20)
"""
KINDS: dict[str, list[dict[str, Any]]] = {
    "a model call": [{"text": "at last", "delay": "60s"}],
    "an async tool": [{"tool": "awaits"}, {"text": "done"}],
    "a sync tool": [{"tool": "blocks"}, {"text": "done"}],
}


async def measure(url: str, folder: Path, amount: int, *, listen: bool) -> dict[str, object]:
    """Cancel so many running tasks of each kind, one after the other."""
    found: dict[str, object] = {"listening": listen}
    async with Database.open(url) as db:
        place = Workplace(db, folder, lease=3.0, poll=2.0, concurrency=8)
        place.tool("slow", TOOLS)
        daemon = place.daemon("worker", listen=listen)
        try:
            for name, turns in KINDS.items():
                await place.agent(
                    name.replace(" ", "-"), turns, tools=[{"python": "slow:awaits"}, {"python": "slow:blocks"}]
                )
            await daemon.says("worker.ready")
            for name in KINDS:
                waits = [await cancelled(place, daemon, name.replace(" ", "-")) for _ in range(amount)]
                found[name] = {"median_s": round(statistics.median(waits), 3), "longest_s": round(max(waits), 3)}
        finally:
            daemon.process.kill()
            daemon.process.wait()
    return found


async def cancelled(place: Workplace, daemon: Daemon, agent: str) -> float:
    task_id = await place.submit(agent)
    await daemon.says("task.started", task_id=str(task_id))
    await asyncio.sleep(0.3)  # until the model is asked, or the tool runs
    began = time.monotonic()
    async with place.db.connection() as conn:
        await tasks.cancel(conn, task_id)
    while (await place.task(task_id)).status == "running":  # noqa: ASYNC110 - another process ends it
        await asyncio.sleep(0.005)
    return time.monotonic() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--amount", type=int, default=10)
    given = parser.parse_args()
    with server() as url:
        for listen in (True, False):
            with database(url) as own, tempfile.TemporaryDirectory(prefix="cancelling") as folder:
                asyncio.run(migrations.migrate(own))
                print(json.dumps(asyncio.run(measure(own, Path(folder), given.amount, listen=listen))), flush=True)  # noqa: T201 - its result


if __name__ == "__main__":
    main()
