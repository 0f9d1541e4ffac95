"""docs/workflows.md: its sample runs as it is written, from the command line, from Python, and in a test."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from cirkelline.tools import WorkflowRun

PAGE = (Path(__file__).parents[2] / "docs" / "workflows.md").read_text(encoding="utf-8")
SAMPLES = dict(re.findall(r"<!-- sample: (\S+) -->\n```\w+\n(.*?)```", PAGE, re.DOTALL))
AGENT = "name: helper\ninstructions: Help.\nmodel: openai:x\n"


@pytest.fixture
def folder(tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a reader who has done what the page says."""
    monkeypatch.setenv("DATABASE_URL", database_url)
    for name in ("configs", "tools", "inbox"):
        (tmp_path / name).mkdir()
    (tmp_path / "configs" / "helper.yaml").write_text(AGENT)
    (tmp_path / "tools" / "reports.py").write_text(SAMPLES["tools/reports.py"])
    (tmp_path / "inbox" / "a.txt").write_text("two words")
    (tmp_path / "inbox" / "b.txt").write_text("and three more")
    statement = re.search(r"`(CREATE TABLE [^`]+)`", PAGE)
    assert statement
    with psycopg.connect(database_url, autocommit=True) as conn:
        conn.execute(statement[1].encode())
    return tmp_path


@pytest.fixture
def daemon(folder: Path) -> Iterator[None]:
    command = [sys.executable, "-m", "cirkelline", "up"]
    with subprocess.Popen(command, cwd=folder, env=os.environ, stderr=subprocess.DEVNULL) as process:
        yield
        process.terminate()


@pytest.mark.usefixtures("daemon")
def test_the_sample_runs_as_the_page_says(folder: Path, database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    told = [shlex.split(line)[1:] for line in SAMPLES["commands"].splitlines()]
    answers = [
        subprocess.run(
            [sys.executable, "-m", "cirkelline", *line],
            cwd=folder,
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        ).stdout
        for line in told
    ]
    assert json.loads(answers[0]) == {"files": 2, "words": 5}
    assert "reports:digest  COMPLETED  3 done" in answers[1]
    monkeypatch.chdir(folder)
    defined: dict[str, Any] = {}
    exec(SAMPLES["python"], defined)  # noqa: S102 - the page's own code
    asyncio.run(defined["main"]())
    with psycopg.connect(database_url) as conn:
        runs = conn.execute("SELECT status, steps_completed FROM ai.workflow_runs").fetchall()
        counts = conn.execute("SELECT name, sum(amount) FROM public.word_counts GROUP BY name ORDER BY name").fetchall()
    assert runs == [("COMPLETED", ["find", "count", "store"])] * 3
    assert counts == [("a", 6), ("b", 9)]


async def test_a_workflow_can_be_called_without_a_worker(folder: Path) -> None:
    defined: dict[str, Any] = {}
    exec(SAMPLES["tools/reports.py"].replace("ctx.connection", "connection"), defined)  # noqa: S102 - the page's own code
    stored: list[Any] = []

    class Connection:
        async def execute(self, _statement: str, values: list[Any]) -> None:
            stored.append(values)

    defined["connection"] = Connection()
    assert await defined["digest"](WorkflowRun(), folder=str(folder / "inbox")) == {"files": 2, "words": 5}
    assert stored == [["a", 2], ["b", 3]]
