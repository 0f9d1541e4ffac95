from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

# The workplace belongs to the tests of the runtime: agents, scripts, workers and daemons.
sys.path.append(str(Path(__file__).parents[1] / "runtime"))
# And the real weights to those of the agents.
sys.path.append(str(Path(__file__).parents[1] / "agents"))

from chat_scene import Chat, FakeScreen
from nursery import Nursery
from workplace import Daemon, Workplace, kill

from cirkelline.runtime.chat.own_worker import OwnWorker
from cirkelline.state.connection import Database
from cirkelline.tools.toolbox import Toolbox


@pytest.fixture
def place(db: Database, tmp_path: Path, nursery: Nursery) -> Workplace:
    """A workplace of the test's own, whose leases lapse soon."""
    return Workplace(db, tmp_path, nursery=nursery, lease=0.5, poll=0.1, configs=tmp_path / "configs")


@pytest.fixture
def start(place: Workplace) -> Iterator[Callable[..., Daemon]]:
    """Start daemons that end with the test."""
    started: list[Daemon] = []

    def start(name: str = "daemon", **options: Any) -> Daemon:
        started.append(place.daemon(name, **options))
        return started[-1]

    yield start
    kill(started)


@pytest.fixture
def screen() -> FakeScreen:
    return FakeScreen()


@pytest.fixture
async def worker(place: Workplace) -> AsyncIterator[OwnWorker]:
    """The worker of a chat, which does not work before it is asked to."""
    async with OwnWorker(place.opened, Toolbox(place.tools), {}) as worker:
        yield worker


@pytest.fixture
async def chat(place: Workplace, worker: OwnWorker, screen: FakeScreen) -> AsyncIterator[Chat]:
    """A chat of user ivo, who looks often and is not patient."""
    chat = Chat(place, worker, screen)
    yield chat
    await chat.close()
