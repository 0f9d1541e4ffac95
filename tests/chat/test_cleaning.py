"""Nothing that a model says is obeyed by a terminal, and what it says in plain words is all there."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cirkelline.runtime.chat.cleaning import Cleaner, clean

HOSTILE = [
    ("red \x1b[31mtext\x1b[0m", "red text"),
    ("\x1b[2J\x1b[Hgone?", "gone?"),
    ("\x1b]0;a title\x07after", "after"),
    ("\x1b]8;;http://evil.example\x1b\\link\x1b]8;;\x1b\\", "link"),
    ("\x1bP1$r0m\x1b\\device", "device"),
    ("\x9b31mC1\x9d0;t\x9c", "C1"),
    ("\x1bcreset", "reset"),
    ("\x1b(0charset", "charset"),
    ("\x1b\x1b[31m[32mnested", "[32mnested"),
    ("a\rb", "a\nb"),
    ("a\r\nb", "a\nb"),
    ("bell\x07 back\x08space \x7fdelete\x00", "bell backspace delete"),
    ("\u202egnp.exe\u202c", "gnp.exe"),
    ("line\u2028end", "line\nend"),
    ("half \ud800 a character", "half  a character"),
    ("hidden\U000e0041\U000e0042 words", "hidden words"),
    ("\x1b[31", "31"),
    ("\x1b", ""),
]
KEPT = [
    "plain words",
    "tabs\tand\nline ends\n",
    "žluťoučký kůň",
    "日本語",
    "👩\u200d👩\u200d👧 and 🇩🇰",
    "[31m is no escape",
    "",
]


@pytest.mark.parametrize(("said", "shown"), HOSTILE)
def test_what_a_terminal_would_obey_is_removed(said: str, shown: str) -> None:
    assert clean(said) == shown


@pytest.mark.parametrize("said", KEPT)
def test_all_other_text_stays_as_it_is(said: str) -> None:
    assert clean(said) == said


@pytest.mark.parametrize(("said", "shown"), HOSTILE)
def test_it_makes_no_difference_where_a_text_is_cut(said: str, shown: str) -> None:
    for at in range(len(said) + 1):
        cleaner = Cleaner()
        assert cleaner.feed(said[:at]) + cleaner.feed(said[at:]) + cleaner.rest() == shown


def test_a_string_that_never_ends_hides_nothing_of_what_follows() -> None:
    cleaner = Cleaner()
    words = "the rest of a long answer " * 40
    assert "".join(cleaner.feed(piece) for piece in ("\x1b]0;", *words)) + cleaner.rest() == f"0;{words}"
    assert clean("\x1b]0;title\nsecond line") == "0;title\nsecond line"


@example(["\r\x1b0", "\n"])
@given(st.lists(st.text(st.sampled_from("\x1b[]P0;1m\x07\\\n\r\x9b\x9dé \ud800\u202e")), max_size=8))
def test_no_control_character_ever_passes_however_the_text_is_cut(pieces: list[str]) -> None:
    cleaner = Cleaner()
    shown = "".join(cleaner.feed(piece) for piece in pieces) + cleaner.rest()
    assert all(character in "\n\t" or character.isprintable() for character in shown)
    assert clean("".join(pieces)) == shown
