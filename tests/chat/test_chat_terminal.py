"""The executable on a real terminal: words as they come, keys as a person presses them, and nothing of the model's obeyed."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path
from typing import Any

import pytest
from pty_driver import Terminal, running
from workplace import Workplace

HOUR = "1h"
SCRIPT = {
    "conversations": [
        {
            "match": "sum",
            "turns": [
                {"text": "Let me see.", "tool": "calculate", "arguments": {"expression": "17 * 23"}},
                {"text": "It is {{last_tool}}."},
            ],
        },
        {"match": "long", "turns": [{"text": "endless words", "pace": HOUR}]},
        {"match": "slow", "turns": [{"text": "took a while", "delay": "2s"}]},
        {"match": "evil", "turns": [{"text": "be\x1b[31;5mfo\x1b]0;gotcha\x07re \x1b[2J\x9b1mafter\x07\x08."}]},
        {"match": "fail", "turns": [{"text": "Well", "error": "quota", "message": "the money is spent"}]},
        {"turns": [{"text": "You said <{{input}}>."}]},
    ]
}


def environment(place: Workplace) -> dict[str, str]:
    return {
        "DATABASE_URL": place.db.url,
        "CIRKELLINE_HOME": str(place.settings.home),
        "CIRKELLINE_USER": "ivo",
        "CIRKELLINE_POLL": "0.2",
    }


@pytest.fixture
async def ready(place: Workplace) -> Workplace:
    await place.agent("helper", SCRIPT, tools=["calculate"])
    return place


async def in_terminal(place: Workplace, play: Any, *arguments: str, **environ: str) -> Any:
    """Play a person's part beside this loop."""

    def playing() -> Any:
        with running(place.folder, environment(place) | environ, "chat", *arguments) as terminal:
            return play(terminal)

    return await asyncio.to_thread(playing)


async def said(place: Workplace) -> list[Any]:
    return [given for (given,) in await place.rows("SELECT payload ->> 'input' FROM runtime.tasks ORDER BY sequence")]


async def test_a_whole_chat_from_its_first_line_to_quit(ready: Workplace) -> None:
    def play(terminal: Terminal) -> int:
        terminal.shows("helper (scripted:")
        terminal.shows("on the database cirkelline_test_")
        terminal.shows("Ctrl-C stops an answer, Ctrl-D or /quit leaves, /help says more.\n")
        terminal.shows(">")
        terminal.types("the sum\r")
        terminal.shows('Let me see.\n  calculate(expression="17 * 23")  ok  ')
        terminal.shows("It is 391.\n")
        terminal.types("a long one\r")
        terminal.shows("endless")
        terminal.types("\x03")
        terminal.shows("stopped")
        terminal.types("evil\r")
        terminal.shows("before after.\n")
        terminal.types("fail\r")
        terminal.shows("error: the money is spent")
        terminal.types("and then\r")
        terminal.shows("You said <and then>.")
        terminal.types("/quit\r")
        terminal.shows("cirkelline chat --session ")
        code = terminal.ends()
        # What the model said of these reached the screen as nothing at all.
        for obeyed in (b"\x1b[31;5m", b"\x1b]0;", b"\x1b[2J", b"\x9b", b"\x07"):
            assert obeyed not in terminal.raw
        return code

    assert await in_terminal(ready, play) == 0
    rows = await ready.rows("SELECT status, result #>> '{usage,input_tokens}' FROM runtime.tasks ORDER BY sequence")
    assert [status for status, _ in rows] == ["completed", "cancelled", "completed", "failed", "completed"]
    messages = await ready.rows("SELECT role, runtime.said(m) FROM runtime.messages m ORDER BY position")
    assert messages[:4] == [
        ("user", "the sum"),
        ("assistant", "It is 391."),
        ("user", "a long one"),
        ("assistant", "endless "),
    ]
    assert len(messages) == 2 * 4
    # The last turn's model was shown one turn more than that of the evil one: a scripted model counts the words.
    more = sum(len(str(content).split()) for _, content in messages[5:7])
    assert int(rows[4][1]) - int(rows[2][1]) == more
    assert await ready.rows("SELECT FROM runtime.workers") == []
    log = (ready.settings.home / "chat.log").read_text()
    assert "task.finished" in log
    assert (ready.settings.home / "chat.log").stat().st_mode & 0o077 == 0


async def test_keys_edit_as_people_expect(ready: Workplace) -> None:
    def play(terminal: Terminal) -> int:
        terminal.shows("says more.\n")
        terminal.shows(">")
        terminal.types("one\x1b\rtwo\r")  # Alt-Enter
        terminal.shows("You said <one\ntwo>.")
        terminal.types("\x1b[200~pasted\nlines\x1b[201~")
        terminal.shows("lines")
        terminal.types("\r")
        terminal.shows("You said <pasted\nlines>.")
        terminal.shows("\n\n>")
        terminal.types("thrown away\x03kept\r")  # Ctrl-C clears the line
        terminal.shows("You said <kept>.")
        terminal.types("\x1b[A\r")  # Up brings back what was said
        terminal.shows("You said <kept>.")
        terminal.types("slow\r")
        terminal.shows("thinking")
        terminal.types("typed ahead\r")
        terminal.shows("took a while")
        terminal.shows("You said <typed ahead>.")
        terminal.shows("\n\n>")
        terminal.types("\r")  # an empty line says nothing
        for _ in range(2):
            terminal.types("\x03")
            terminal.shows("Ctrl-C once more leaves")
            terminal.types("not yet\x03")
        terminal.types("\x03\x03")
        return terminal.ends()

    assert await in_terminal(ready, play) == 130
    assert await said(ready) == ["one\ntwo", "pasted\nlines", "kept", "kept", "slow", "typed ahead"]


async def test_a_session_that_goes_on_shows_what_was_said_last_and_remembers_inputs(ready: Workplace) -> None:
    session, user = await ready.session("helper")
    for words in ("first words", "second words"):
        task = await ready.turn(session, user, words)
        async with ready.working():
            await ready.ended(task)

    def play(terminal: Terminal) -> int:
        terminal.shows("> first words\nYou said <first words>.\n")
        terminal.shows("> second words\nYou said <second words>.\n")
        terminal.shows(">")
        terminal.types("\x1b[A\x1b[A\r")
        terminal.shows("You said <first words>.")
        terminal.types("\x04")
        return terminal.ends()

    assert await in_terminal(ready, play, "--session", str(session)[:8], NO_COLOR="1") == 0
    assert await ready.rows("SELECT count(*) FROM runtime.sessions") == [(1,)]


async def test_no_color_means_no_color(ready: Workplace) -> None:
    def play(terminal: Terminal) -> bytes:
        terminal.shows("says more.\n")
        terminal.shows(">")
        terminal.types("fail\r")
        terminal.shows("error: the money is spent")
        terminal.types("/quit\r")
        assert terminal.ends() == 0
        return terminal.raw

    assert b"\x1b[31m" not in await in_terminal(ready, play, NO_COLOR="1")
    assert b"\x1b[31merror: the money is spent" in await in_terminal(ready, play)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
async def test_a_chat_that_is_told_to_end_ends_at_its_prompt(ready: Workplace, number: signal.Signals) -> None:
    def play(terminal: Terminal) -> int:
        terminal.shows("says more.\n")
        terminal.shows(">")
        terminal.is_told(number)
        return terminal.ends()

    assert await in_terminal(ready, play) == 130


async def test_a_mistyped_agent_is_one_sentence_and_wrong_use(ready: Workplace) -> None:
    def play(terminal: Terminal) -> tuple[int, Path]:
        terminal.shows("error: no agent named 'helpre'; did you mean 'helper'?")
        return terminal.ends(), Path()

    assert (await in_terminal(ready, play, "helpre"))[0] == 2
