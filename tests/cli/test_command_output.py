"""Where words go: one document with --json, plain text in pipes, colors only on terminals that want them."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from command_runs import Commands, Filled

from cirkelline.runtime.cli import display
from cirkelline.runtime.cli.root import root

CIRKELLINE = [sys.executable, "-m", "cirkelline"]
COLOR = re.compile(rb"\x1b\[[0-9;]*m")


def on_terminal(arguments: Sequence[str], *, columns: int = 120, variables: dict[str, str] | None = None) -> bytes:
    """Return what a command writes to a terminal of its own."""
    ours, theirs = pty.openpty()
    environment = os.environ | {"TERM": "xterm-256color", "COLUMNS": str(columns)} | (variables or {})
    with subprocess.Popen([*CIRKELLINE, *arguments], env=environment, stdout=theirs, stderr=theirs) as running:
        os.close(theirs)
        written = b""
        while chunk := _read(ours):
            written += chunk
        running.wait(timeout=60)
    os.close(ours)
    return written.replace(b"\r\n", b"\n")


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 65536)
    except OSError:  # the other end is closed
        return b""


JSON_COMMANDS = [
    ("agents", "list", "--all"),
    ("agents", "show", "helper"),
    ("agents", "history", "helper"),
    ("agents", "search", "help"),
    ("agents", "rollback", "helper", "1"),
    ("agents", "pause", "helper"),
    ("agents", "resume", "helper"),
    ("agents", "retire", "helper"),
    ("agents", "schema"),
    ("agents", "validate", "configs"),
    ("agents", "apply", "configs"),
    ("agents", "apply", "configs", "--dry-run"),
    ("tasks", "submit", "helper", "hello"),
    ("tasks", "list"),
    ("tasks", "show", "TASK"),
    ("tasks", "wait", "TASK"),
    ("tasks", "wait", "PENDING", "--timeout", "10ms"),
    ("tasks", "cancel", "PENDING"),
    ("tasks", "cancel", "TASK"),
    ("tasks", "retry", "TASK"),
    ("tasks", "search", "hello"),
    ("tasks", "approve", "TASK"),
    ("tasks", "reject", "PENDING", "--reason", "no"),
    ("tasks", "answer", "TASK", "yes"),
    ("tasks", "resolve", "TASK", "--retry"),
    ("tasks", "resolve", "TASK"),
    ("tasks", "trace", "TASK"),
    ("tasks", "trace", "TASK", "--prompt"),
    ("tasks", "replay", "TASK"),
    ("usage", "--by", "user"),
    ("states", "list", "helper"),
    ("states", "show", "helper"),
    ("states", "diff", "helper"),
    ("states", "rollback", "helper", "1"),
    ("sessions", "list", "--user", "ivo"),
    ("sessions", "show", "SESSION", "--user", "ivo"),
    ("sessions", "archive", "SESSION", "--user", "ivo"),
    ("sessions", "export", "SESSION", "--user", "ivo"),
    ("knowledge", "add", "configs", "--user", "ivo"),
    ("knowledge", "add", "nowhere"),
    ("knowledge", "list", "--user", "ivo"),
    ("knowledge", "show", "one.yaml", "--user", "ivo"),
    ("knowledge", "search", "hello", "--user", "ivo"),
    ("knowledge", "remove", "one.yaml", "--user", "ivo"),
    ("knowledge", "reindex", "--language", "danish", "--yes"),
    ("knowledge", "reindex"),
    ("memories", "list", "--user", "ivo"),
    ("memories", "search", "tea", "--user", "ivo"),
    ("memories", "add", "drinks tea", "--user", "ivo"),
    ("memories", "forget", "0", "--user", "ivo"),
    ("memories", "why", "0", "--user", "ivo"),
    ("memories", "undo", "0", "--user", "ivo"),
    ("memories", "optimize", "--user", "ivo"),
    ("memories", "optimize", "--every", "0 4 * * *", "--user", "ivo"),
    ("memories", "capture", "--user", "ivo"),
    ("users", "add", "ivo"),
    ("users", "list"),
    ("users", "login", "ivo"),
    ("users", "password", "ivo"),
    ("users", "profile", "ivo"),
    ("users", "adopt", "user-123", "--as", "ivo"),
    ("users", "adopt", "--list"),
    ("users", "adopt"),
    ("users", "export", "ivo", "--output", "nowhere/ivo.zip"),
    ("users", "deactivate", "nobody"),
    ("users", "delete", "ivo"),
    ("workflows", "run", "nobodys:work"),
    ("workflows", "list"),
    ("workflows", "show", "RUN"),
    ("workflows", "show", "no-run"),
    ("workers", "list"),
    ("workers", "drain", "--all"),
    ("schedules", "list"),
    ("schedules", "pause", "helper"),
    ("schedules", "resume", "helper"),
    ("schedules", "run", "helper"),
    ("models", "list"),
    ("models", "pull", "nonsense"),
    ("db", "url"),
    ("db", "status"),
    ("db", "migrate"),
    ("db", "adopt"),
    ("db", "retention", "--dry-run"),
    ("db", "stop"),
    ("doctor",),
    ("up", "--drain", "--configs", "configs"),
    ("up", "--configs", "nowhere"),
    ("agents",),
    ("bogus",),
    ("agents", "show", "nobody"),
    ("tasks", "submit", "helper"),
]


@pytest.fixture
def scene(filled: Filled, tmp_path: Path) -> dict[str, str]:
    """A database with a bit of everything, and a folder of agent files."""
    (tmp_path / "configs").mkdir()
    script = tmp_path / "configs" / "answers.script.yaml"
    script.write_text("- text: hello\n")
    (tmp_path / "configs" / "one.yaml").write_text(f"name: one\ninstructions: Help.\nmodel: scripted:{script}\n")
    agent = filled.agent()
    session = filled.session(agent, "ivo", "hello")
    filled.task(agent, "hello \x1b[31m \u202e \ud83d\ude00")
    task = filled.end(agent)
    filled.sql("INSERT INTO ai.workflow_runs (run_id, workflow_name, status) VALUES ('night-7', 'nightly', 'ODD')")
    return {"RUN": "night-7", "SESSION": str(session), "TASK": str(task)[:8], "PENDING": str(filled.task(agent))}


def test_with_json_stdout_is_one_document_whatever_happens(cirkelline: Commands, scene: dict[str, str]) -> None:
    for arguments in JSON_COMMANDS:
        result = cirkelline(*(scene.get(argument, argument) for argument in arguments), "--json")
        document = json.loads(result.out)
        assert isinstance(document, dict), arguments
        assert result.out.endswith("}\n"), arguments
        assert "Traceback" not in result.err, arguments
        if result.code == 2:
            assert "error" in document, arguments
            assert result.err, arguments


def test_every_command_that_can_be_typed_is_held_to_that() -> None:
    from test_command_frame import COMMANDS  # noqa: PLC0415 - the list is that test's

    held = {" ".join(arguments[:2]) for arguments in JSON_COMMANDS} | {arguments[0] for arguments in JSON_COMMANDS}
    assert {" ".join(path) for path in COMMANDS} - held == {"chat"}


def test_ids_and_times_are_whole_in_json(cirkelline: Commands, scene: dict[str, str]) -> None:
    task = cirkelline("tasks", "show", scene["TASK"], "--json").document
    assert len(task["id"]) == 36
    moment = datetime.fromisoformat(task["created_at"])
    assert moment.tzinfo is not None
    assert abs(datetime.now(UTC) - moment) < timedelta(minutes=5)


def test_a_pipe_gets_plain_aligned_text(scene: dict[str, str], cirkelline: Commands) -> None:
    out = cirkelline("tasks", "list").out
    assert "\x1b" not in out
    columns = {line.index(scene["TASK"][:1]) for line in out.splitlines() if line.startswith(scene["TASK"])}
    assert columns == {0}
    assert len({line.find("helper") for line in out.splitlines()[1:]}) == 1


@pytest.mark.usefixtures("scene")
def test_a_terminal_gets_colors_unless_told_otherwise() -> None:
    assert COLOR.search(on_terminal(["tasks", "list"]))
    assert b"completed" in on_terminal(["tasks", "list"])
    for variables in ({"NO_COLOR": "1"}, {"TERM": "dumb"}):
        plain = on_terminal(["tasks", "list"], variables=variables)
        assert b"completed" in plain
        assert not re.search(rb"\x1b\[[0-9;]*3[0-9]", plain), variables
    assert b"\x1b" not in on_terminal(["tasks", "list", "--json"])


@pytest.mark.usefixtures("scene")
@pytest.mark.parametrize("columns", [1, 12, 40, 80])
def test_a_narrow_terminal_loses_no_id(columns: int, filled: Filled) -> None:
    written = COLOR.sub(b"", on_terminal(["tasks", "list"], columns=columns))
    for (task,) in filled.sql("SELECT id::text FROM runtime.tasks"):
        assert task[:8].encode() in written
    assert b"Traceback" not in on_terminal(["doctor"], columns=columns)


@pytest.mark.usefixtures("scene")
def test_a_reader_that_goes_away_is_no_failure(filled: Filled) -> None:
    agent = filled.agent("other")
    for _ in range(3):
        filled.task(agent, "x" * 100_000)
    script = f'{sys.executable} -m cirkelline tasks list --json | head -c 10 > /dev/null; echo "${{PIPESTATUS[0]}}"'
    ran = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    assert (ran.stdout.splitlines()[-1], ran.stderr) == ("0", "")


@pytest.mark.usefixtures("scene")
def test_a_full_disk_behind_a_redirect_is_a_failure_in_one_sentence() -> None:
    script = f"{sys.executable} -m cirkelline agents list > /dev/full"
    ran = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stderr) == (1, "error: cannot write the output: No space left on device\n")


@pytest.mark.usefixtures("scene")
@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_standard_streams_are_no_failure(closed: str) -> None:
    script = f"{sys.executable} -m cirkelline agents list {closed}"
    ran = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stderr) == (0, "")


@pytest.mark.usefixtures("filled")
def test_a_reader_of_another_encoding_gets_what_it_can_show(filled: Filled) -> None:
    filled.task(filled.agent(), "blåbær 🫐")
    for arguments in (["tasks", "list"], ["tasks", "list", "--json"]):
        environment = os.environ | {"PYTHONIOENCODING": "ascii"}
        ran = subprocess.run([*CIRKELLINE, *arguments], env=environment, capture_output=True, check=True)
        assert ran.stdout.isascii()
    assert json.loads(ran.stdout)["tasks"][0]["payload"] == {"input": "blåbær 🫐"}


def test_a_fault_of_ours_is_one_sentence_with_its_type_and_a_traceback_only_when_asked(
    cirkelline: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("division by zero\nsecond line")

    monkeypatch.setattr(root, "main", broken)
    result = cirkelline("agents", "list", "--json")
    assert (result.code, result.document["error"]["type"]) == (1, "ZeroDivisionError")
    assert result.err.startswith(
        "error: a fault inside cirkelline, ZeroDivisionError: division by zero (set CIRKELLINE"
    )
    assert result.err.count("\n") == 1
    monkeypatch.setenv("CIRKELLINE_DEBUG", "1")
    assert "Traceback" in cirkelline("agents", "list").err


def test_a_fault_never_shows_a_key_or_a_password(cirkelline: Commands, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sesame-open-sesame")

    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("sesame-open-sesame was refused by https://ivo:hunter2@example.com/v1")

    monkeypatch.setattr(root, "main", broken)
    result = cirkelline("agents", "list", "--json")
    assert "*** was refused by https://ivo:***@example.com/v1" in result.err
    assert not [secret for secret in ("sesame", "hunter2") if secret in result.out + result.err]


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0.0004, "0ms"),
        (0.25, "250ms"),
        (1, "1s"),
        (4.25, "4.2s"),
        (59.4, "59s"),
        (60, "1m"),
        (192, "3m 12s"),
        (7500, "2h 5m"),
        (277_200, "3d 5h"),
    ],
)
def test_a_span_is_said_in_its_two_largest_units(seconds: float, said: str) -> None:
    assert display.span(seconds) == said


def test_times_without_a_zone_are_utc() -> None:
    now = datetime(2026, 3, 1, 12, tzinfo=UTC)
    assert display.ago(datetime(2026, 3, 1, 11, 57), now) == "3m ago"  # noqa: DTZ001 - as the documents' columns are
    assert display.ago(now + timedelta(minutes=5), now) == "in 5m"
    assert display.ago(now, now) == "now"
    assert re.fullmatch(r"2026-02-\d\d", display.ago(now - timedelta(days=3), now))
