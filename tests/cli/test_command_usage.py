"""`usage`: what was spent, by whom and on what, also when the tasks are gone."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from command_runs import Commands, Filled

NOW = datetime.now(UTC)


def spend(
    filled: Filled, task: UUID, *, position: int = 1, model: str = "openai:gpt-4o", days: int = 0, cost: str = "0.25"
) -> None:
    filled.sql(
        "INSERT INTO runtime.journal (task_id, position, call, attempt, format, kind, name, output, begun, input_tokens,"
        " output_tokens, cost) VALUES (%s, %s, -1, 1, 1, 'model', %s, '{}', %s, 1000, 20, %s::numeric)",
        task,
        position,
        model,
        NOW - timedelta(days=days),
        None if cost == "unknown" else cost,
    )


def test_nothing_spent_is_said(cirkelline: Commands, filled: Filled) -> None:
    del filled
    result = cirkelline("usage", "--since", "all")
    assert (result.code, result.out) == (0, "no model was called\n")
    document = cirkelline("usage", "--json").document
    assert document["usage"] == []
    assert document["total"]["calls"] == 0


def test_usage_is_a_line_a_day_and_a_sum(cirkelline: Commands, filled: Filled) -> None:
    task = filled.task(filled.agent())
    spend(filled, task)
    spend(filled, task, position=2, days=2, cost="unknown")
    spend(filled, task, position=3, days=60)
    lines = cirkelline("usage").out.splitlines()
    assert lines[0].split() == ["day", "calls", "tokens", "in", "out", "cost"]
    assert lines[1].split() == [str((NOW - timedelta(days=2)).date()), "1", "1,000", "20", "unknown"]
    assert lines[2].split() == [str(NOW.date()), "1", "1,000", "20", "$0.25"]
    assert lines[-1] == "in all: 2 calls, 2,000 tokens in, 40 out, $0.25 and 1 call of unknown cost"
    assert cirkelline("usage", "--since", "all", "--json").document["total"]["calls"] == 3
    assert cirkelline("usage", "--since", str(NOW.date()), "--json").document["total"]["calls"] == 1


def test_usage_is_added_up_by_what_is_asked_for(cirkelline: Commands, filled: Filled) -> None:
    helper, clerk = filled.agent("helper"), filled.agent("clerk")
    session = filled.session(clerk, "ivo")
    spend(filled, filled.task(helper))
    turn = filled.turn(session, "ivo", "hello")
    spend(filled, turn, cost="0.5")
    spend(filled, turn, position=2, model="gemini:gemini-2.5-flash", cost="0.125")
    by_agent = cirkelline("usage", "--by", "agent", "--json").document
    assert [(each["agent"], each["calls"], each["cost"]) for each in by_agent["usage"]] == [
        ("clerk", 2, "0.625"),
        ("helper", 1, "0.25"),
    ]
    by_user = cirkelline("usage", "--by", "user").out.splitlines()
    assert [line.split()[0] for line in by_user[1:3]] == ["ivo@localhost", "none"]
    both = cirkelline("usage", "--by", "model", "--by", "agent", "--json").document
    assert both["by"] == ["model", "agent"]
    assert [(each["model"], each["agent"]) for each in both["usage"]] == [
        ("openai:gpt-4o", "clerk"),
        ("openai:gpt-4o", "helper"),
        ("gemini:gemini-2.5-flash", "clerk"),
    ]


def test_who_was_removed_is_known_by_the_first_digits(cirkelline: Commands, filled: Filled) -> None:
    agent = filled.agent("helper")
    spend(filled, filled.task(agent))
    filled.sql("DELETE FROM runtime.tasks")
    filled.sql("DELETE FROM runtime.agents")
    assert f"removed, {str(agent)[:8]}  1 " in cirkelline("usage", "--by", "agent").out
    (found,) = cirkelline("usage", "--by", "agent", "--json").document["usage"]
    assert (found["agent"], found["agent_id"], found["calls"]) == (None, str(agent), 1)


@pytest.mark.parametrize("since", ["yesterday", "2026-13-01", "5", "99999999999d", "-1d"])
def test_a_day_that_is_none_is_wrong_use(cirkelline: Commands, filled: Filled, since: str) -> None:
    del filled
    result = cirkelline("usage", f"--since={since}")
    assert (result.code, result.out) == (2, "")
    assert "is no day: write 2026-03-01, 30d for 30 days ago, or all" in result.err
