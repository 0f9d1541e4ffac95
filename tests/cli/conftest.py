"""What the tests of the command line share."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from command_runs import Commands, Filled

# The table of malformed definitions belongs to the tests of configs; both ways in are held to it.
sys.path.append(str(Path(__file__).parents[1] / "configs"))
# So do what embeds without a model, and the documents that nobody would want.
sys.path.append(str(Path(__file__).parents[1] / "runtime"))
sys.path.append(str(Path(__file__).parents[1] / "reading"))


@pytest.fixture
def cirkelline(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Commands:
    """Run commands from an empty folder, with no database chosen."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NO_PROXY", "*")
    return Commands(capsys, monkeypatch)


@pytest.fixture
def filled(database_url: str, monkeypatch: pytest.MonkeyPatch) -> Filled:
    """A migrated database of the test's own, which commands use."""
    monkeypatch.setenv("DATABASE_URL", database_url)
    return Filled(database_url)
