"""A constrained answer is read as it grows: whatever the model writes, however it is cut, the text comes out as meant."""

from __future__ import annotations

import itertools
import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from cirkelline.agents.local_answer import AnswerMalformed, AnswerReader, Call, Reply, StringDecoder, goes_round

_ANY_TEXT = some.text(some.characters(codec=None, exclude_categories=()), max_size=30)


def _pieces(text: str, cuts: list[int]) -> list[str]:
    edges = [0, *sorted(cut % (len(text) + 1) for cut in cuts), len(text)]
    return [text[start:end] for start, end in itertools.pairwise(edges)]


@settings(deadline=None)
@given(_ANY_TEXT, some.booleans(), some.lists(some.integers(0, 500), max_size=8))
def test_a_string_cut_anywhere_comes_out_whole_with_lone_surrogates_replaced(
    text: str, ascii_only: bool, cuts: list[int]
) -> None:
    written = json.dumps(text, ensure_ascii=ascii_only)[1:]
    # A pair written as two escapes is one character, so what json itself reads back is the measure.
    meant = re.sub("[\ud800-\udfff]", "\ufffd", json.loads('"' + written))
    decoder = StringDecoder()
    assert "".join(decoder.feed(piece) for piece in _pieces(written, cuts)) == meant
    assert decoder.closed


@settings(deadline=None)
@given(some.text(max_size=20), some.integers(0, 200))
def test_what_has_been_handed_out_is_always_a_beginning_of_the_text(text: str, cut: int) -> None:
    written = json.dumps(text)[1:]
    assert text.startswith(StringDecoder().feed(written[: cut % (len(written) + 1)]))


def test_half_a_pair_waits_for_the_other_half() -> None:
    decoder = StringDecoder()
    assert [decoder.feed(piece) for piece in (r"a\ud83", r"d", "\\", "ude", "00b")] == ["a", "", "", "", "😀b"]


@pytest.mark.parametrize(
    ("written", "meant"), [(r"\ud83dx", "\ufffdx"), (r"\ud83d\n", "\ufffd\n"), (r"\ude00", "\ufffd")]
)
def test_half_a_pair_without_the_other_is_replaced(written: str, meant: str) -> None:
    assert StringDecoder().feed(written) == meant


def test_nothing_after_the_closing_quote_is_text() -> None:
    decoder = StringDecoder()
    assert decoder.feed('done"}  ') + decoder.feed("more") == "done"


@settings(deadline=None)
@given(
    some.text(min_size=1, max_size=20),
    some.sampled_from(["", " ", "\n  "]),
    some.lists(some.integers(0, 500), max_size=8),
)
def test_a_reply_is_handed_out_as_it_is_written(text: str, space: str, cuts: list[int]) -> None:
    written = f'{{{space}"action":{space}"reply",{space}"text":{space}{json.dumps(text)}{space}}}'
    reader = AnswerReader("reply")
    assert "".join(reader.feed(piece) for piece in _pieces(written, cuts)) == text
    assert reader.finish() == Reply()


def test_a_call_gives_no_text_and_comes_whole() -> None:
    reader = AnswerReader("reply")
    written = '{"action": "note", "arguments": {"text": "\\"action\\": \\"reply\\"", "n": 1}}'
    assert [reader.feed(character) for character in written] == [""] * len(written)
    assert reader.finish() == Call("note", {"text": '"action": "reply"', "n": 1})


def test_a_tool_named_like_the_reply_of_another_prompt_is_a_call() -> None:
    reader = AnswerReader("reply_")
    reader.feed('{"action": "reply", "arguments": {}}')
    assert reader.finish() == Call("reply", {})


@pytest.mark.parametrize(
    "written",
    [
        "",
        '{"action": "reply", "text": "half',
        '{"action": "reply", "text": "no brace"',
        '{"action": "note", "arguments": {"text": "half"}',
        '{"action": "reply"}',
        '{"action": "note", "arguments": []}',
        "[]",
        "plain words",
    ],
)
def test_what_is_no_whole_answer_is_said_to_be_none(written: str) -> None:
    reader = AnswerReader("reply")
    reader.feed(written)
    with pytest.raises(AnswerMalformed):
        reader.finish()


@pytest.mark.parametrize(
    "unit", ["a", " skrive,", "The sea is blue and the sky is blue as well. ", "x" * 150 + "y" * 50]
)
def test_a_text_that_goes_round_in_circles_is_seen_whatever_came_before(unit: str) -> None:
    rounds = max(5, 400 // len(unit) + 1)
    assert goes_round("Hej! " + unit * rounds)
    assert not goes_round("Hej! " + unit * rounds + "And so on.")


@pytest.mark.parametrize(
    "text", ["", "-" * 120, "| --- " * 30 + "|", "ha " * 40, "".join(f"{n}\n" for n in range(2000)), "0, " * 60]
)
def test_rules_tables_laughter_and_counting_are_no_circles(text: str) -> None:
    assert not goes_round(text)
