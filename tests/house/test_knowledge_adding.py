"""docs/knowledge.md: what it shows of adding documents works as it stands there, with the embedder of this machine."""

from __future__ import annotations

import asyncio
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

PAGE = (Path(__file__).parents[2] / "docs" / "knowledge.md").read_text(encoding="utf-8")
SAMPLES = dict(re.findall(r"<!-- sample: (\S+) -->\n```\w+\n(.*?)```", PAGE, re.DOTALL))


@pytest.fixture
def folder(tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a reader."""
    monkeypatch.setenv("DATABASE_URL", database_url)
    monkeypatch.setenv("CIRKELLINE_USER", "ivo")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "handbook.md").write_text("# Leave\n\nEverybody has 25 days of leave.")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "meeting.txt").write_text("We met.")
    return tmp_path


def run(folder: Path, line: list[str]) -> str:
    command = [sys.executable, "-m", "cirkelline", *line]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, env=os.environ, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_commands_do_what_the_page_says(folder: Path) -> None:
    add, listed, show, search, sync, remove = (shlex.split(line)[1:] for line in SAMPLES["commands"].splitlines())
    assert "2 added; 2 chunks stored" in run(folder, add)
    assert "handbook.md" in run(folder, listed)
    assert "25 days" in run(folder, show)
    assert "25 days" in run(folder, search)
    (folder / "notes" / "meeting.txt").rename(folder / "notes" / "agenda.txt")
    assert "1 added, 1 removed" in run(folder, sync)
    assert "handbook.md" in run(folder, remove)
    assert (folder / "handbook.md").exists()


@pytest.mark.usefixtures("folder")
def test_the_python_sample_works(capsys: pytest.CaptureFixture[str]) -> None:
    defined: dict[str, Any] = {}
    exec(SAMPLES["python"], defined)  # noqa: S102 - the page's own code
    asyncio.run(defined["main"]())
    assert "meeting.txt added" in capsys.readouterr().out
