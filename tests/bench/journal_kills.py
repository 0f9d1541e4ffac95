"""Every point of a ten-tool run, and a thousand transfers, under kill -9: `python tests/bench/journal_kills.py`.

Also of a run of tools that must not run twice. Prints one JSON line per kind. It takes three quarters of an hour on two
quiet cores; --seeds, --transfers and --only make it shorter. It
works on DATABASE_URL's server, or on the embedded one, in a database of its own.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import uuid4

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[1] / "runtime"))

import psycopg
from kills import (
    ACCOUNTS,
    ONCE,
    ONCE_STEPS,
    OPENING,
    PER_TASK,
    STEPS,
    Crew,
    faults,
    once_tools,
    open_bank,
    ten_tools,
    transfers,
)
from marked_tools import TEN, Scene
from psycopg import conninfo
from workplace import Workplace

from cirkelline.state import embedded, migrations
from cirkelline.state.connection import Database


@asynccontextmanager
async def workplace() -> AsyncIterator[Workplace]:
    """A workplace on a database of its own."""
    given = os.environ.get("DATABASE_URL")
    folder = Path(tempfile.mkdtemp(prefix="kills"))
    server = None if given else await asyncio.to_thread(embedded.ensure, folder / "server")
    url = given or (server.url() if server else "")
    name = f"cirkelline_kills_{uuid4().hex[:12]}"
    with psycopg.connect(url, autocommit=True) as conn:
        conn.execute(f'CREATE DATABASE "{name}"')  # type: ignore[call-overload]
    fields = conninfo.conninfo_to_dict(url)
    host = str(fields.get("host") or "localhost")
    place = f"/{name}?host={host}" if host.startswith("/") else f"{host}:{fields.get('port') or 5432}/{name}"
    login = str(fields.get("user") or "") + (f":{fields['password']}" if fields.get("password") else "")
    own = f"postgresql://{login}@{place}"
    await migrations.migrate(own)
    try:
        async with Database.open(own) as db:
            yield Workplace(db, folder)
    finally:
        with psycopg.connect(url, autocommit=True) as conn:
            conn.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')  # type: ignore[call-overload]
        if server:
            await asyncio.to_thread(server.release)


async def ten(seeds: int) -> dict[str, object]:
    """Kill the ten-tool run after each of its steps, `seeds` times each."""
    began, wrong, killed, again = time.monotonic(), [], 0, 0
    async with workplace() as place:
        crew = Crew(place, 2)
        scene = Scene(place, TEN, pause=0.02)
        await scene.prepare()
        try:
            for seed in range(seeds):
                for point in range(STEPS):
                    outcome = await ten_tools(place, crew, scene, point, random.Random(1000 * seed + point))  # noqa: S311 - to be repeated
                    killed += outcome.killed
                    again += sum(outcome.starts.values()) - len(TEN)
                    wrong += [f"seed {seed} point {point}: {fault}" for fault in faults(outcome)]
        finally:
            crew.end()
    return {"runs": seeds * STEPS, "killed": killed, "in_flight_again": again, "faults": wrong, "s": _since(began)}


async def once(seeds: int) -> dict[str, object]:
    """Kill the run of tools that must not run twice after each of its steps, `seeds` times each."""
    began, wrong, asked = time.monotonic(), [], 0
    async with workplace() as place:
        crew = Crew(place, 2)
        scene = Scene(place, ONCE, pause=0.02)
        await scene.prepare()
        try:
            for seed in range(seeds):
                for point in range(ONCE_STEPS):
                    found, questions = await once_tools(place, crew, scene, point, random.Random(1000 * seed + point))  # noqa: S311 - to be repeated
                    asked += questions
                    wrong += [f"seed {seed} point {point}: {fault}" for fault in found]
        finally:
            crew.end()
    return {"runs": seeds * ONCE_STEPS, "killed": crew.killed, "asked": asked, "faults": wrong, "s": _since(began)}


async def bank(amount: int, kills: int) -> dict[str, object]:
    """Make transfers while workers are killed."""
    began = time.monotonic()
    async with workplace() as place:
        await open_bank(place)
        crew = Crew(place, 3)
        try:
            ledger = await transfers(place, crew, tasks=amount // PER_TASK, kills=kills, chance=random.Random(1))  # noqa: S311 - to be repeated
        finally:
            crew.end()
    return {
        "transfers": ledger.made,
        "twice": ledger.twice,
        "lost_or_made": ledger.total - ACCOUNTS * OPENING,
        "tasks_completed": ledger.completed,
        "killed": ledger.killed,
        "s": _since(began),
    }


def _since(began: float) -> float:
    return round(time.monotonic() - began, 1)


def main() -> None:
    """Run them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--transfers", type=int, default=1000)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--only", choices=["ten_tools", "once_tools", "transfers"])
    given = parser.parse_args()
    kinds = {
        "ten_tools": lambda: ten(given.seeds),
        "once_tools": lambda: once(given.seeds),
        "transfers": lambda: bank(given.transfers, given.kills),
    }
    for kind in [given.only] if given.only else kinds:
        print(json.dumps({kind: asyncio.run(kinds[kind]())}), flush=True)  # noqa: T201 - its result


if __name__ == "__main__":
    main()
