"""What the tests of a run share: scripts, and a server to play a provider."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from agent_runs import Script, write_script
from provider_server import ProviderServer

from cirkelline.configs.schema import ModelSpec


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "*")


@pytest.fixture
async def server() -> AsyncIterator[ProviderServer]:
    """A provider in the test's own loop."""
    async with ProviderServer() as server:
        yield server


@pytest.fixture
def script(tmp_path: Path) -> Script:
    """Write a script of turns and return the model that plays it."""

    def write(turns: object) -> ModelSpec:
        return write_script(tmp_path / "script.yaml", turns)

    return write
