"""A turn is shown once and whole, whatever became of the notifications that told it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest
from chat_scene import FakeScreen

from cirkelline.runtime.chat.showing import Shown
from cirkelline.runtime.streaming import Told
from cirkelline.state.tasks import Task

TASK = UUID("5f0c7d1e-0000-4000-8000-000000000000")


def row(status: str = "completed", output: str = "", error: str | None = None, kind: str = "Failed") -> Task:
    whole: dict[str, Any] = {"output": output}
    if status != "completed":
        whole = {"partial_output": output, "error": {"type": kind, "message": error}}
    empty: dict[str, Any] = dict.fromkeys(Task.__dataclass_fields__)
    return Task(**{**empty, "id": TASK, "status": status, "result": whole, "error": error})


class Telling:
    """Tells a turn to a screen as a worker would."""

    def __init__(self, screen: FakeScreen, *, late: bool = False) -> None:
        self.shown = Shown(screen, "what was said", late=late)
        self.attempt = 1
        self.n = 0
        self.at = 0

    def __call__(self, kind: Any, *, lost: bool = False, **fields: Any) -> None:
        self.n += 1
        told = Told(self.n, self.attempt, kind, **fields)
        if kind == "text":
            told = replace(told, at=self.at)
            self.at += len(told.text)
        if not lost:
            self.shown.take(told)

    def text(self, *pieces: str, lost: bool = False) -> None:
        for piece in pieces:
            self("text", text=piece, lost=lost)

    def again(self) -> None:
        """Begin the next attempt."""
        self.attempt, self.n, self.at = self.attempt + 1, 0, 0
        self("started")


@pytest.fixture
def tell(screen: FakeScreen) -> Telling:
    return Telling(screen)


def test_words_are_shown_as_they_come_and_not_again_at_the_end(screen: FakeScreen, tell: Telling) -> None:
    tell("started")
    tell.text("Hello ", "wor")
    assert screen.shown == "Hello wor"
    tell.text("ld.")
    tell.shown.end(row(output="Hello world."))
    assert screen.shown == "Hello world."


def test_an_answer_of_which_nothing_was_told_is_shown_from_the_row(screen: FakeScreen, tell: Telling) -> None:
    tell.shown.end(row(output="Hello world."))
    assert screen.shown == "Hello world."


def test_an_answer_whose_end_was_not_told_is_completed_from_the_row(screen: FakeScreen, tell: Telling) -> None:
    tell("started")
    tell.text("Hello ")
    tell.text("wor", lost=True)
    tell.text("ld.", lost=True)
    tell.shown.end(row(output="Hello world."))
    assert screen.shown == "Hello world."


def test_an_answer_with_a_hole_is_shown_whole_on_lines_of_its_own(screen: FakeScreen, tell: Telling) -> None:
    tell("started")
    tell.text("one ")
    tell.text("two ", lost=True)
    tell.text("three ", "four")
    assert "three" not in screen.shown
    tell.shown.end(row(output="one two three four"))
    assert screen.shown == (
        "one\nsome words were lost on the way: the whole answer comes at its end\none two three four"
    )


def test_a_tool_is_one_line_between_the_words(screen: FakeScreen, tell: Telling) -> None:
    tell("started")
    tell.text("Let me look.\n\n")
    tell("tool_started", name="look_up", arguments='{"customer": "Ann", "limit": 3}')
    assert screen.statuses[-1] == "running look_up"
    tell("tool_finished", name="look_up", ok=True, ms=12)
    assert screen.statuses[-1] == "thinking"
    tell.text("\nShe owes nothing.")
    tell.shown.end(row(output="\nShe owes nothing."))
    assert screen.shown == 'Let me look.\n  look_up(customer="Ann", limit=3)  ok  12 ms\nShe owes nothing.'


def test_a_tool_that_failed_is_said_to_have_failed(screen: FakeScreen, tell: Telling) -> None:
    tell("started")
    tell("tool_started", name="pay", arguments='{"amount": 1}')
    tell("tool_finished", name="pay", ok=False, ms=3)
    assert screen.said == ["  pay(amount=1)  failed  3 ms"]


def test_two_calls_of_one_tool_are_two_lines(screen: FakeScreen, tell: Telling) -> None:
    tell("started")
    for of in ("tea", "milk"):
        tell("tool_started", name="price", arguments=f'{{"of": "{of}"}}')
    for _ in range(2):
        tell("tool_finished", name="price", ok=True, ms=1)
    assert screen.said == ['  price(of="tea")  ok  1 ms', '  price(of="milk")  ok  1 ms']


@pytest.mark.parametrize("arguments", ['{"cut": "in the mid', "[1, 2]", "", '{"a": "\\u001b[31m' + "x" * 200 + '"}'])
def test_arguments_of_any_kind_are_one_short_line_that_a_terminal_only_shows(
    screen: FakeScreen, tell: Telling, arguments: str
) -> None:
    tell("started")
    tell("tool_started", name="odd\x1b[2J", arguments=arguments)
    tell("tool_finished", name="odd\x1b[2J", ok=True, ms=1)
    (line,) = screen.said
    assert "\n" not in line
    assert "\x1b" not in line
    assert len(line) < 140


def test_a_tool_that_was_stopped_is_not_left_out(screen: FakeScreen, tell: Telling) -> None:
    tell("started")
    tell("tool_started", name="slow", arguments="{}")
    tell.shown.end(row("cancelled", error="cancelled"))
    assert screen.said == ["  slow()  did not finish", "stopped"]


def test_the_text_before_a_tool_is_not_repeated_when_nothing_follows(screen: FakeScreen, tell: Telling) -> None:
    tell("started")
    tell.text("Noted.")
    tell("tool_started", name="note", arguments="{}")
    tell("tool_finished", name="note", ok=True, ms=1)
    tell.shown.end(row(output="Noted."))
    assert screen.shown.count("Noted.") == 1


def test_a_takeover_is_said_and_the_answer_shown_anew(screen: FakeScreen, tell: Telling) -> None:
    tell("started")
    tell.text("First try")
    tell.again()
    tell.text("Second try, whole.")
    tell.shown.end(row(output="Second try, whole."))
    assert screen.shown == ("First try\nits worker is gone: the answer goes on with another one\nSecond try, whole.")


def test_a_takeover_whose_beginning_was_lost_is_noticed_all_the_same(screen: FakeScreen, tell: Telling) -> None:
    tell("started")
    tell.text("First try")
    tell.attempt, tell.n, tell.at = 2, 1, 0
    tell.text("Second")
    assert screen.said == ["its worker is gone: the answer goes on with another one"]
    assert screen.shown.endswith("Second")


def test_whoever_joins_an_answer_late_gets_all_of_it_at_its_end(screen: FakeScreen) -> None:
    tell = Telling(screen, late=True)
    tell("started", lost=True)
    tell.text("one two ", lost=True)
    tell.text("three")
    tell.shown.end(row(output="one two three"))
    assert screen.shown == "this is being answered already: the whole answer comes at its end\none two three"


def test_an_answer_that_was_kept_otherwise_than_told_is_shown_as_kept(screen: FakeScreen, tell: Telling) -> None:
    tell("started")
    tell.text("One thing")
    tell.shown.end(row(output="Another thing"))
    assert screen.shown == "One thing\nthe answer as it was kept:\nAnother thing"


def test_a_failure_is_one_sentence_and_says_that_the_turn_is_not_kept(screen: FakeScreen, tell: Telling) -> None:
    tell("started")
    tell.text("Well")
    turn = tell.shown.end(row("failed", error="the key is \x1b[2Jwrong", kind="ModelRefused"))
    assert screen.said[0] == "error: the key is \\x1b[2Jwrong"
    assert "send it again" in screen.said[1]
    assert "cirkelline tasks show 5f0c7d1e" in screen.said[1]
    assert turn.error == ("ModelRefused", "the key is \x1b[2Jwrong")
    assert not turn.completed


def test_a_stopped_answer_keeps_what_was_said(screen: FakeScreen, tell: Telling) -> None:
    tell("started")
    tell.text("one two ")
    tell.shown.stopping()
    assert screen.statuses[-1] == "stopping"
    tell.text("three")
    tell.shown.end(row("cancelled", output="one two three", error="cancelled"))
    assert screen.shown == "one two three\nstopped\n"
    assert screen.statuses[-1] == "stopping"


def test_an_empty_answer_is_said_to_be_one(screen: FakeScreen, tell: Telling) -> None:
    tell.shown.end(row(output=" \n"))
    assert screen.said == ["(an empty answer)"]


def test_an_escape_sequence_cut_in_two_does_not_pass(screen: FakeScreen, tell: Telling) -> None:
    tell("started")
    tell.text("red \x1b[3", "1mtext\x1b]0;ti", "tle\x07 end")
    tell.shown.end(row(output="red \x1b[31mtext\x1b]0;title\x07 end"))
    assert screen.shown == "red text end"


def test_a_program_gets_nothing_before_the_end(screen: FakeScreen, tell: Telling) -> None:
    screen.streams = False
    tell("started")
    tell.text("Hello")
    turn = tell.shown.end(row(output="Hello"))
    assert screen.shown == ""
    assert screen.turns == [turn]


def test_a_loss_of_the_database_is_said_once_and_so_is_its_return(screen: FakeScreen, tell: Telling) -> None:
    for _ in range(3):
        tell.shown.away("server closed the connection")
    assert len(screen.said) == 1
    assert "server closed the connection" in screen.said[0]
    assert "trying again" in screen.said[0]
    assert screen.statuses[-1] == "waiting for the database"
    tell.shown.waiting("thinking")
    assert screen.statuses[-1] == "waiting for the database"
    for _ in range(3):
        tell.shown.back()
    assert screen.said[1:] == ["the database is back"]
    tell.shown.waiting("thinking")
    assert screen.statuses[-1] == "thinking"


def test_what_an_earlier_worker_had_on_record_is_not_shown_again_by_the_next_one(
    screen: FakeScreen, tell: Telling
) -> None:
    tell("started")
    tell.text("I look. ")
    tell("tool_started", name="look", arguments="{}")
    tell("tool_finished", name="look", ok=True, ms=1)
    tell.text("Half of an ans")
    tell.again()
    tell.text("I look. ")
    tell("tool_started", name="look", arguments="{}")
    tell("tool_finished", name="look", ok=True, ms=0)
    tell.text("A whole answer.")
    tell.shown.end(row(output="A whole answer."))
    assert screen.shown.count("I look.") == 1
    assert screen.shown.count("look()") == 1
    assert screen.shown.endswith("its worker is gone: the answer goes on with another one\nA whole answer.")


CITED = [{"n": 2, "document": "hand\x1b[2Jbook.pdf", "page": 3, "heading": "A > B"}, {"n": 1, "document": "x.txt"}]
SOURCES = (
    "Sources:\n  [2] hand\\x1b[2Jbook.pdf, page 3 (A > B)\n  [1] x.txt\n  [7?] was made up: no source has that number"
)


def cited(output: str) -> Task:
    whole = row(output=output)
    return replace(whole, result={**whole.result, "citations": CITED, "citations_unknown": [7]})


def test_the_sources_stand_under_an_answer_that_is_not_shown_again_for_its_marks(
    screen: FakeScreen, tell: Telling
) -> None:
    tell("started")
    tell.text("So [2], ", "so [1] and [", "7].")
    tell.shown.end(cited("So [2], so [1] and [7?]."))
    assert screen.shown == f"So [2], so [1] and [7].\n{SOURCES}\n"


def test_an_answer_that_is_shown_whole_has_its_marks(screen: FakeScreen, tell: Telling) -> None:
    tell.shown.end(cited("So [2], so [1] and [7?]."))
    assert screen.shown == f"So [2], so [1] and [7?].\n{SOURCES}\n"


@pytest.mark.parametrize("citations", [None, 7, "x", [], [7], [{}], [{"n": {}, "document": []}], {"n": 1}])
def test_whatever_stands_in_a_result_breaks_no_chat(screen: FakeScreen, tell: Telling, citations: Any) -> None:
    whole = row(output="Hello.")
    tell.shown.end(replace(whole, result={**whole.result, "citations": citations, "citations_unknown": citations}))
    assert screen.shown.startswith("Hello.")
