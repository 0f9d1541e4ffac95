"""The README's five minutes, done as they are written; only the model is a script, so that the answer is known."""

from __future__ import annotations

import itertools
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

from cirkelline.state.connection import with_search_path

ROOT = Path(__file__).parents[2]
SAMPLE = re.compile(r"<!-- sample: (\S+) -->\n```\w+\n(.*?)```", re.DOTALL)
SCRIPT = """
- tool: price
  arguments: {item: coffee, amount: 2}
- text: "{{last_tool}}"
"""
CIRKELLINE = str(Path(sys.executable).with_name("cirkelline"))


def samples() -> list[tuple[str, str]]:
    return SAMPLE.findall((ROOT / "README.md").read_text(encoding="utf-8"))


def commands() -> list[list[str]]:
    lines = [line for name, body in samples() if name == "commands" for line in body.splitlines()]
    return [shlex.split(line, comments=True)[1:] for line in lines]


@pytest.fixture
def folder(tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that the README has its reader make."""
    monkeypatch.setenv("DATABASE_URL", database_url)
    for name, body in samples():
        if name != "commands":
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_text(body.replace("model: auto", 'model: "scripted:cashier.script.yaml"'))
    (tmp_path / "configs" / "cashier.script.yaml").write_text(SCRIPT)
    return tmp_path


def run(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        [CIRKELLINE, *arguments], cwd=folder, capture_output=True, text=True, check=False, env=os.environ, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def daemon(folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The daemon of the first terminal, as soon as it has its agent."""
    with subprocess.Popen([CIRKELLINE, *commands()[1]], cwd=folder, stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        try:
            said = list(itertools.takewhile(lambda line: b"worker.ready" not in line, process.stderr))
            assert process.poll() is None, b"".join(said).decode()
            yield process
        finally:
            process.terminate()
            process.stderr.read()  # the pipe is emptied, or a talkative end would wait for us


def test_the_commands_are_the_four_that_this_test_expects() -> None:
    assert [command[:2] for command in commands()] == [
        ["agents", "validate"],
        ["up"],
        ["tasks", "submit"],
        ["states", "show"],
    ]


def test_the_samples_are_valid(folder: Path) -> None:
    assert "1" in run(folder, *commands()[0])


@pytest.mark.usefixtures("daemon")
def test_the_task_is_done_with_the_tool_and_leaves_a_version(folder: Path) -> None:
    assert "64" in run(folder, *commands()[2])
    state: dict[str, Any] = json.loads(run(folder, *commands()[3], "--json"))
    assert state["work"] == {"orders": 1}


@pytest.mark.usefixtures("daemon")
def test_the_python_and_the_sql_sample_work(folder: Path, database_url: str) -> None:
    asked = subprocess.run(
        [sys.executable, "ask.py"], cwd=folder, capture_output=True, text=True, check=False, timeout=120
    )
    assert asked.returncode == 0, asked.stderr
    assert "64" in asked.stdout
    with psycopg.connect(with_search_path(database_url), autocommit=True) as conn:
        conn.execute((folder / "submit.sql").read_bytes())
        (task,) = conn.execute("SELECT id FROM tasks WHERE task_type = 'order'").fetchone() or (None,)
    assert "64" in run(folder, "tasks", "wait", str(task), "--timeout", "60")
