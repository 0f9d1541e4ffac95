"""A little of what tests/bench/dispatch_troubles.py does at length: nothing is lost and nothing is done twice."""

from __future__ import annotations

import asyncio
import random
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from kills import Crew
from nursery import Nursery
from poison import submit, supervised
from troubles import KINDS, Load, OwnServer, Troubles, asked, faults
from workplace import Daemon, Workplace, until

from cirkelline.state import migrations
from cirkelline.state.connection import Database


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[OwnServer]:
    """A server that this test alone uses, so that it may end it."""
    server = OwnServer(tmp_path / "server")
    yield server
    server.release()


@pytest.fixture
async def own_place(own_server: OwnServer, tmp_path: Path, nursery: Nursery) -> AsyncIterator[Workplace]:
    await migrations.migrate(own_server.url)
    async with Database.open(own_server.url) as db:
        yield Workplace(db, tmp_path, nursery=nursery)


async def test_restarts_cut_connections_and_frozen_workers_lose_and_double_nothing(
    own_server: OwnServer, own_place: Workplace
) -> None:
    crew, load = Crew(own_place, 3), Load(own_place)
    await load.prepare()
    try:
        await crew.fill()
        trouble = Troubles(own_server, load, crew, random.Random(5))  # noqa: S311 - to be repeated
        for kind in KINDS:
            await trouble.make(kind, tasks=10)
        await load.all_completed()
        await trouble.all_back()
    finally:
        crew.end()
    assert await faults(load) == []
    assert (trouble.restarts, trouble.frozen) == (2, 1)
    assert trouble.cut >= 3


PATIENT_NOTE = """
import asyncio, pathlib
from cirkelline.tools import tool

@tool(effects="transactional")
async def note(ctx: ToolContext) -> str:
    await ctx.connection.execute("INSERT INTO public.noted (task, n) VALUES (%s, 1)", [str(ctx.task_id)])
    ctx.state.increment("noted")
    pathlib.Path("noting").touch()
    while not pathlib.Path("go").exists():
        await asyncio.sleep(0.01)
    return "noted"
"""


async def test_a_tool_waits_for_a_server_that_is_away_for_long_and_its_model_hears_of_no_failure(
    own_server: OwnServer, own_place: Workplace
) -> None:
    own_place.tool("noting", PATIENT_NOTE)
    await own_place.execute("CREATE TABLE public.noted (task TEXT, n INTEGER)")
    turns = [{"tool": "note"}, {"text": "{{last_tool}}"}]
    await own_place.agent("noter", turns, tools=[{"python": "noting:note"}])
    crew = Crew(own_place, 1)
    try:
        await crew.fill()
        (daemon,) = crew.daemons
        task_id = await own_place.submit("noter")
        await until(lambda: asyncio.to_thread((own_place.folder / "noting").exists), "the tool")
        await own_server.stop(signal.SIGINT)
        (own_place.folder / "go").touch()
        # Longer than a transaction that only collides with others is tried again.
        await until(lambda: has_tried(daemon, 7), "a worker that waits for the server")
        await own_server.start()
        (task,) = await asked(lambda: own_place.ended(task_id))
    finally:
        crew.end()
    assert task.result["output"] == "noted"
    assert await own_place.rows("SELECT task, n FROM public.noted") == [(str(task_id), 1)]
    assert await own_place.value("SELECT state -> 'work' ->> 'noted' FROM runtime.agent_states") == "1"


async def has_tried(daemon: Daemon, times: int) -> bool:
    return len(daemon.said("database.away", waiting_to="open a tool's transaction")) >= times


async def test_a_task_that_kills_its_workers_takes_no_other_task_with_it(place: Workplace) -> None:
    crew = Crew(place, 3)
    poison = await submit(place, 80)
    try:
        found = await supervised(place, crew, poison, 80)
    finally:
        crew.end()
    assert (found.task.status, found.task.error) == ("waiting", "its worker died 5 times")
    assert found.completed == 79
    assert found.workers_killed == 5
