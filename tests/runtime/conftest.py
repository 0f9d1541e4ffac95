from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from nursery import Nursery
from workplace import Daemon, Workplace, kill

from cirkelline.state.connection import Database


@pytest.fixture
def place(db: Database, tmp_path: Path, nursery: Nursery) -> Workplace:
    """A workplace of the test's own."""
    return Workplace(db, tmp_path, nursery=nursery)


@pytest.fixture
def start(place: Workplace) -> Iterator[Callable[..., Daemon]]:
    """Start daemons that end with the test."""
    started: list[Daemon] = []

    def start(name: str = "daemon", **options: Any) -> Daemon:
        started.append(place.daemon(name, **options))
        return started[-1]

    yield start
    kill(started)
