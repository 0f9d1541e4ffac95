"""A little of what tests/bench/dispatch_troubles.py does at length: nothing is lost and nothing is done twice."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from kills import Crew
from poison import submit, supervised
from troubles import KINDS, Load, OwnServer, Troubles, faults
from workplace import Workplace

from cirkelline.state import migrations
from cirkelline.state.connection import Database


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[OwnServer]:
    """A server that this test alone uses, so that it may end it."""
    server = OwnServer(tmp_path / "server")
    yield server
    server.release()


@pytest.fixture
async def own_place(own_server: OwnServer, tmp_path: Path) -> AsyncIterator[Workplace]:
    await migrations.migrate(own_server.url)
    async with Database.open(own_server.url) as db:
        yield Workplace(db, tmp_path)


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
