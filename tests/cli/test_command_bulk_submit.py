"""`tasks submit --from`: a whole file of tasks, or nothing of it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psycopg
import pytest
from command_runs import Commands, Filled


def write(path: Path, *lines: Any) -> str:
    path.write_text("".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines))
    return str(path)


def test_lines_become_tasks_in_their_order(cirkelline: Commands, filled: Filled, tmp_path: Path) -> None:
    helper, other = filled.agent("helper"), filled.agent("other")
    file = write(
        tmp_path / "jobs.jsonl",
        "\ufeff" + json.dumps({"input": "a"}),
        "",
        {"agent": "other", "input": {"n": 1}, "type": "sum", "priority": -3, "key": "k", "in": "1h"},
        {"input": "nul \x00", "at": "2126-01-01T00:00Z"},
    )
    result = cirkelline("tasks", "submit", "helper", "--from", file)
    assert (result.code, result.out, result.err) == (0, f"3 tasks submitted from {file}\n", "")
    assert filled.sql("SELECT agent_id, payload, task_type, priority, key FROM runtime.tasks ORDER BY sequence") == [
        (helper, {"input": "a"}, "task", 0, None),
        (other, {"input": {"n": 1}}, "sum", -3, "k"),
        (helper, {"input": "nul \ufffd"}, "task", 0, None),
    ]
    assert filled.sql("SELECT count(*) FROM runtime.queue WHERE run_at > now()") == [(2,)]


def test_a_file_with_keys_can_be_submitted_again(cirkelline: Commands, filled: Filled) -> None:
    filled.agent()
    text = b"".join(b'{"agent": "helper", "input": "x", "key": "k%d"}\n' % (n % 5) for n in range(7))
    first = cirkelline("tasks", "submit", "--from", "-", "--json", stdin=text).document
    again = cirkelline("tasks", "submit", "--from", "-", stdin=text)
    assert first == {"submitted": 5, "known": 2, "agents": {"helper": 7}}
    assert again.out == "0 tasks submitted from stdin; 7 lines had a key that was known already\n"


GOOD = {"input": "fine"}
BAD_LINES: list[tuple[Any, str]] = [
    ("{", "it is not JSON: expecting property name"),
    ("[1]", "it is no JSON object"),
    ('"text"', "it is no JSON object"),
    ("null", "it is no JSON object"),
    ('{"input": NaN}', "NaN is no JSON"),
    ({}, "it has no input"),
    ({"input": " "}, "it has no input"),
    ({"input": None}, "it has no input"),
    ({"input": "x", "prioriti": 1}, "unknown key 'prioriti'; did you mean 'priority'?"),
    ({"input": "x", "zzz": 1}, "unknown key 'zzz'; there are agent, input"),
    ({"input": "x", "agent": 7}, '"agent" is an agent\'s name, not 7'),
    ({"input": "x", "agent": "helperr"}, "no agent named 'helperr'; did you mean 'helper'?"),
    ({"input": "x", "priority": "high"}, '"priority" is a whole number, not high'),
    ({"input": "x", "priority": True}, '"priority" is a whole number, not true'),
    ({"input": "x", "priority": 5000}, "a priority is from -1000 to 1000"),
    ({"input": "x", "at": "soon"}, '"at" is a time such as'),
    ({"input": "x", "at": 5}, '"at" is a time such as'),
    ({"input": "x", "in": "soon"}, '"in" is a time to wait'),
    ({"input": "x", "in": -1}, '"in" is a time to wait'),
    ({"input": "x", "in": "1s", "at": "2126-01-01T00:00Z"}, "not both"),
    ({"input": "x", "key": ""}, '"key" is a text'),
    ({"input": "x", "key": "k" * 300}, "cannot be a task's key"),
    ({"input": "x", "type": "t" * 101}, "cannot be a task's type"),
    ({"input": "x", "key": "taken"}, "the key 'taken' is that of task"),
]


def test_one_bad_line_is_named_and_nothing_is_submitted(cirkelline: Commands, filled: Filled, tmp_path: Path) -> None:
    agent = filled.agent()
    assert cirkelline("tasks", "submit", "helper", "other words", "--key", "taken").code == 0
    for bad, said in BAD_LINES:
        file = write(tmp_path / "jobs.jsonl", GOOD, bad, GOOD)
        result = cirkelline("tasks", "submit", "helper", "--from", file)
        assert (result.code, result.out, result.err.count("\n")) == (2, "", 1), (said, result.err)
        assert f"{file}, line 2: " in result.err
        assert said in result.err
        assert "nothing was submitted" in result.err
    (tmp_path / "jobs.jsonl").write_bytes(b'{"input": "x"}\n{"input": "\xff"}\n')
    assert "line 2: it is not UTF-8 text" in cirkelline("tasks", "submit", "helper", "--from", "jobs.jsonl").err
    assert filled.sql("SELECT agent_id, key FROM runtime.tasks") == [(agent, "taken")]


REFUSED: list[tuple[list[str], str]] = [
    (["--from", "nowhere.jsonl"], "cannot read nowhere.jsonl: no such file"),
    (["--from", "."], "cannot read .: is a directory"),
    (["--from", "empty.jsonl"], "empty.jsonl holds no task"),
    (["--from", "jobs.jsonl"], 'line 1: it names no agent: give it "agent"'),
    (["helper", "words", "--from", "jobs.jsonl"], "leave [INPUT]... away"),
    (["helper", "--from", "jobs.jsonl", "--wait"], "leave --wait away"),
    (["helper", "--from", "jobs.jsonl", "--priority", "0"], "leave --priority away"),
    (["helper", "--from", "jobs.jsonl", "--key", "k"], "leave --key away"),
    ([], "name the agent, then the input"),
]


@pytest.mark.parametrize(("arguments", "said"), REFUSED)
def test_what_does_not_go_with_a_file_is_refused(
    arguments: list[str], said: str, cirkelline: Commands, filled: Filled, tmp_path: Path
) -> None:
    filled.agent()
    write(tmp_path / "jobs.jsonl", GOOD)
    write(tmp_path / "empty.jsonl", "", "  ")
    result = cirkelline("tasks", "submit", *arguments)
    assert (result.code, said in result.err, result.err.count("\n")) == (2, True, 1), result.err
    assert filled.sql("SELECT 1 FROM runtime.tasks") == []


def test_long_files_say_how_far_they_are(cirkelline: Commands, filled: Filled, tmp_path: Path) -> None:
    filled.agent()
    file = write(tmp_path / "jobs.jsonl", *({"input": f"n{n}"} for n in range(20_000)))
    result = cirkelline("tasks", "submit", "helper", "--from", file)
    assert (result.code, "20000 tasks submitted" in result.out.replace(",", "")) == (0, True)
    assert result.err.splitlines()[:2] == ["2,000 of 20000 tasks", "4,000 of 20000 tasks"]


def test_ctrl_c_submits_nothing_and_says_so(filled: Filled, tmp_path: Path) -> None:
    filled.agent()
    file = write(tmp_path / "jobs.jsonl", *({"input": "x", "key": f"k{n}"} for n in range(4000)))
    with psycopg.connect(filled.url) as blocker:
        agent = filled.sql("SELECT id FROM runtime.agents")[0][0]
        # The second batch waits for this transaction's key.
        blocker.execute("INSERT INTO runtime.tasks (agent_id, payload, key) VALUES (%s, '{}', 'k3000')", [agent])
        command = [sys.executable, "-m", "cirkelline", "tasks", "submit", "helper", "--from", file]
        environment = os.environ | {"DATABASE_URL": filled.url}
        with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as running:
            while not filled.sql("SELECT 1 FROM pg_locks WHERE NOT granted"):
                assert running.poll() is None
            running.send_signal(signal.SIGINT)
            _, err = running.communicate(timeout=60)
        blocker.rollback()
    assert (running.returncode, "nothing was submitted" in err) == (130, True), err
    assert filled.sql("SELECT 1 FROM runtime.tasks") == []
