"""What a small model wrote is a decision or none, and a text that never ends is seen in time."""

from __future__ import annotations

import pytest

from cirkelline.agents.local_answer import Call, DecisionMalformed, decision, goes_round


def test_a_decision_is_a_call_or_the_reply_whatever_space_is_in_it() -> None:
    assert decision('{ "action" :\n"note", "arguments": {"text": "\\"reply\\"", "n": 1}}', "reply") == Call(
        "note", {"text": '"reply"', "n": 1}
    )
    assert decision('{"action":"reply"}', "reply") is None


def test_a_tool_named_reply_is_a_call_where_replying_has_another_name() -> None:
    assert decision('{"action": "reply", "arguments": {}}', "reply_") == Call("reply", {})


@pytest.mark.parametrize(
    "written",
    [
        "",
        '{"action": "repl',
        '{"action": "reply"',
        '{"action": "note", "arguments": {"text": "half"}',
        '{"action": "note"}',
        '{"action": "note", "arguments": []}',
        '{"action": 1, "arguments": {}}',
        "[]",
        "plain words",
    ],
)
def test_what_is_no_whole_decision_is_said_to_be_none(written: str) -> None:
    with pytest.raises(DecisionMalformed):
        decision(written, "reply")


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
