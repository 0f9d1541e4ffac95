"""The chat without a terminal: each line a turn, answers and nothing else on stdout, failures in the exit code."""

from __future__ import annotations

import asyncio
import io
import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from workplace import PATIENCE, Workplace, until

from cirkelline.configs.errors import UsageError
from cirkelline.runtime.chat import chat

SCRIPT = {
    "conversations": [
        {
            "match": "sum",
            "turns": [
                {"text": "Let me see.", "tool": "calculate", "arguments": {"expression": "17 * 23"}},
                {"text": "It is {{last_tool}}."},
            ],
        },
        {"match": "print", "turns": [{"tool": "chatty", "arguments": {}}, {"text": "It was {{last_tool}}."}]},
        {"match": "long", "turns": [{"text": "endless words", "pace": "1h"}]},
        {"match": "evil", "turns": [{"text": "be\x1b[31mfore\x1b]0;x\x07"}]},
        {"match": "fail", "turns": [{"text": "Well", "error": "quota", "message": "the money is spent"}]},
        {"turns": [{"text": "You said {{input}}."}]},
    ]
}


@dataclass
class Piped:
    """Runs a chat in this process with something on its stdin."""

    place: Workplace
    capture: pytest.CaptureFixture[str]
    monkeypatch: pytest.MonkeyPatch

    async def __call__(self, stdin: str | bytes, **options: Any) -> tuple[int, str, str]:
        content = stdin.encode() if isinstance(stdin, str) else stdin
        self.monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content), encoding="utf-8"))
        self.capture.readouterr()
        code = await chat(self.place.settings, environ={}, **options)
        out, err = self.capture.readouterr()
        return code, out, err


@pytest.fixture
async def piped(place: Workplace, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Piped:
    monkeypatch.chdir(place.folder)
    place.tool("noisy", "def chatty() -> str:\n    print('NOISE')\n    return 'done'\n")
    await place.agent("helper", SCRIPT, tools=["calculate", {"python": "noisy:chatty"}])
    return Piped(place, capsys, monkeypatch)


async def test_each_line_is_answered_and_only_answers_are_on_stdout(piped: Piped) -> None:
    code, out, err = await piped("hello\n\n  \nthe sum\r\nno line end")
    assert (code, out) == (0, "You said hello.\nIt is 391.\nYou said no line end.\n")
    assert 'calculate(expression="17 * 23")  ok' in err
    assert await piped.place.rows("SELECT count(DISTINCT session_id), count(*) FROM runtime.tasks") == [(1, 3)]


async def test_nothing_said_is_nothing_done(piped: Piped) -> None:
    assert (await piped("\n \n"))[:2] == (0, "")
    assert await piped.place.rows("SELECT FROM runtime.sessions") == []


async def test_the_first_turn_that_fails_ends_it(piped: Piped) -> None:
    code, out, err = await piped("fail\nnever sent\n")
    assert (code, out) == (1, "")
    assert "error: the money is spent" in err
    assert await piped.place.rows("SELECT payload ->> 'input' FROM runtime.tasks") == [("fail",)]


async def test_a_mistyped_command_ends_it_too(piped: Piped) -> None:
    code, out, err = await piped("/neww\nhello\n")
    assert (code, out) == (1, "")
    assert "did you mean /new?" in err


async def test_json_is_one_document(piped: Piped) -> None:
    code, out, _ = await piped("hello\nthe sum\n", as_json=True, user="ann@example.com")
    document = json.loads(out)
    assert code == 0
    assert {**document, "session": None, "turns": []} == {
        "agent": "helper",
        "user": "ann@example.com",
        "session": None,
        "turns": [],
    }
    assert [(turn["input"], turn["output"], turn["status"], turn["error"]) for turn in document["turns"]] == [
        ("hello", "You said hello.", "completed", None),
        ("the sum", "It is 391.", "completed", None),
    ]
    assert await piped.place.rows("SELECT DISTINCT session_id::text FROM runtime.tasks") == [(document["session"],)]


async def test_json_tells_why_a_turn_failed(piped: Piped) -> None:
    code, out, _ = await piped("fail\nnever sent\n", as_json=True)
    (turn,) = json.loads(out)["turns"]
    assert code == 1
    assert (turn["status"], turn["error"]) == ("failed", {"type": "ModelRefused", "message": "the money is spent"})


async def test_an_agent_that_cannot_run_here_is_no_reason_to_wait_for_ever(piped: Piped) -> None:
    (piped.place.configs / "helper.script.yaml").unlink()
    code, out, _ = await piped("hello\nnever sent\n", as_json=True)
    (turn,) = json.loads(out)["turns"]
    assert (code, turn["status"], turn["error"]["type"]) == (1, "cancelled", "Unanswerable")
    assert "helper.script.yaml" in turn["error"]["message"]


async def test_a_session_goes_on_over_pipes(piped: Piped) -> None:
    _, out, _ = await piped("hello\n", as_json=True)
    session = json.loads(out)["session"]
    assert (await piped("again\n", session=session[:8]))[:2] == (0, "You said again.\n")
    assert await piped.place.rows("SELECT count(*) FROM runtime.sessions") == [(1,)]


async def test_what_a_terminal_would_obey_is_on_neither_stream(piped: Piped) -> None:
    _, out, err = await piped("evil\n")
    assert out == "before\n"
    assert "\x1b" not in err


async def test_what_a_tool_prints_is_no_part_of_the_answer(piped: Piped) -> None:
    _, out, err = await piped("print\n")
    assert out == "It was done.\n"
    assert "NOISE" in err


async def test_a_line_that_is_not_utf8_is_refused(piped: Piped) -> None:
    with pytest.raises(UsageError, match="UTF-8"):
        await piped(b"gr\xfc\xdfe\n")


async def test_text_with_a_byte_order_mark_and_of_a_megabyte_is_said_as_it_is(piped: Piped) -> None:
    words = "x" * 1_000_000
    code, out, _ = await piped("\ufeff" + words + "\n")
    assert (code, out) == (0, f"You said {words}.\n")


def started(place: Workplace) -> subprocess.Popen[bytes]:
    environ = {**os.environ, "DATABASE_URL": place.db.url, "CIRKELLINE_HOME": str(place.settings.home)}
    environ["CIRKELLINE_CONFIGS"] = str(place.configs)
    command = [sys.executable, "-m", "cirkelline", "chat"]
    return subprocess.Popen(command, stdin=subprocess.PIPE, env=environ, cwd=place.folder)


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, "cancelled"), (signal.SIGTERM, "pending")], ids=["SIGINT", "SIGTERM"]
)
async def test_an_interrupted_chat_ends_with_130_and_leaves_no_turn_running(
    piped: Piped, number: signal.Signals, status: str
) -> None:
    place = piped.place
    process = started(place)
    assert process.stdin is not None
    with process, process.stdin as stdin:
        stdin.write(b"a long one\n")
        stdin.flush()

        async def runs() -> bool:
            return await place.rows("SELECT status FROM runtime.tasks") == [("running",)]

        await until(runs, "the turn")
        process.send_signal(number)
        assert await asyncio.to_thread(process.wait, PATIENCE) == 130
    assert await place.rows("SELECT status FROM runtime.tasks") == [(status,)]
    assert await place.rows("SELECT FROM runtime.workers") == []


def newcomer(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command where nothing has been set up: no database is given, and the home is empty."""
    environ = {**os.environ, "CIRKELLINE_HOME": str(folder / "home"), "CIRKELLINE_USER": "ivo"}
    command = [sys.executable, "-m", "cirkelline", *arguments]
    return subprocess.run(
        command, input="hello\n", env=environ, cwd=folder, capture_output=True, text=True, check=False
    )


def test_a_newcomer_may_chat_before_anything_else(tmp_path: Path) -> None:
    configs = tmp_path / "configs"
    configs.mkdir()
    (configs / "mine.script.yaml").write_text("- text: You said {{input}}.")
    (configs / "mine.yaml").write_text("name: mine\nmodel: scripted:mine.script.yaml\ninstructions: Answer.\n")
    try:
        first, second = newcomer(tmp_path, "chat"), newcomer(tmp_path, "chat", "mine")
        assert (first.returncode, first.stdout) == (0, "You said hello.\n")
        assert "This is the first start: set up mine from " in first.stderr
        assert "ivo@localhost is new here" in first.stderr
        assert (second.returncode, second.stdout, second.stderr) == (0, "You said hello.\n", "")
        # Nobody uses the server any more, so it is gone, and with it what held the data.
        assert json.loads(newcomer(tmp_path, "db", "stop", "--json").stdout)["stopped"] is False
    finally:
        shutil.rmtree((tmp_path / "home" / "postgres").resolve(), ignore_errors=True)
