"""`tasks submit`: when and in which order a task runs, and once for a key."""

from __future__ import annotations

import re

import pytest
from command_runs import Commands, Filled


def test_priority_and_time_are_shown_again(cirkelline: Commands, filled: Filled) -> None:
    filled.agent()
    filled.worker()
    result = cirkelline("tasks", "submit", "helper", "x", "--priority", "5", "--in", "2h")
    assert (result.code, result.err) == (0, "")
    assert "submitted to helper, to run 20" in result.out
    ((task,),) = filled.sql("SELECT id FROM runtime.tasks")
    shown = cirkelline("tasks", "show", str(task)).out
    assert "priority   5\n" in shown
    assert "runs from  20" in shown
    assert "its time has not come: it runs from 20" in shown
    row = cirkelline("tasks", "list").out.splitlines()[1].split("  ")
    assert [cell.strip() for cell in row if cell.strip()][4:6] == ["5", "in 1h 59m"]
    document = cirkelline("tasks", "show", str(task), "--json").document
    assert (document["priority"], document["key"]) == (5, None)


def test_a_moment_may_have_a_zone(cirkelline: Commands, filled: Filled) -> None:
    filled.agent()
    assert cirkelline("tasks", "submit", "helper", "x", "--at", "2126-03-01T09:00+05:00").code == 0
    assert filled.sql("SELECT run_at = '2126-03-01 04:00Z' FROM runtime.tasks") == [(True,)]


def test_a_moment_that_is_past_is_said_and_runs_at_once(cirkelline: Commands, filled: Filled) -> None:
    filled.agent()
    result = cirkelline("tasks", "submit", "helper", "x", "--at", "2020-03-01T09:00Z")
    assert (result.code, "--at was 2020-03-01: it runs at once" in result.err) == (0, True)
    assert filled.sql("SELECT run_at FROM runtime.queue") == [(None,)]


def test_a_key_is_one_task_and_says_so(cirkelline: Commands, filled: Filled) -> None:
    filled.agent()
    first = cirkelline("tasks", "submit", "helper", "x", "--key", "march", "--json").document
    again = cirkelline("tasks", "submit", "helper", "x", "--key", "march")
    assert (again.code, f"task {first['id'][:8]} of helper had that key already and is pending" in again.out) == (
        0,
        True,
    )
    other = cirkelline("tasks", "submit", "helper", "y", "--key", "march")
    assert (other.code, other.out) == (2, "")
    assert f"the key 'march' is that of task {first['id']}, which asks for something else" in other.err
    assert len(filled.sql("SELECT 1 FROM runtime.tasks")) == 1


def test_it_runs_on_behalf_of_a_user_with_all_that_a_task_may_have(cirkelline: Commands, filled: Filled) -> None:
    filled.agent(capabilities=["cite"])
    common = ("--user", "ivo", "--priority", "7", "--in", "2h")
    assert cirkelline("tasks", "submit", "helper", "x", "--key", "march", *common).code == 0
    other = cirkelline("tasks", "submit", "helper", "x", "--key", "march", "--user", "eva")
    assert (other.code, "the same input, type and user" in other.err) == (2, True)
    assert cirkelline("tasks", "submit", "--capabilities", "cite", "x", *common).code == 0
    assert cirkelline("tasks", "submit", "helper", "--from", "-", "--user", "ivo", stdin=b'{"input": "x"}').code == 0
    ivos = "SELECT u.email, t.priority, t.run_at > now() FROM runtime.tasks t JOIN runtime.users u ON u.id = t.user_id"
    assert filled.sql(f"{ivos} ORDER BY t.sequence") == [
        ("ivo@localhost", 7, True),
        ("ivo@localhost", 7, True),
        ("ivo@localhost", 0, None),
    ]
    shown = cirkelline("tasks", "list", "--user", "ivo", "--json").document["tasks"]
    assert [task["priority"] for task in shown] == [0, 7, 7]
    cirkelline("users", "deactivate", "ivo")
    refused = cirkelline("tasks", "submit", "helper", "x", "--user", "ivo")
    assert (refused.code, "nothing is done on their behalf" in refused.err) == (1, True)


REFUSED: list[tuple[list[str], str]] = [
    (["--priority", "high"], "is not a valid int"),
    (["--priority", "1001"], "not in the range -1000<=x<=1000"),
    (["--priority", ""], "is not a valid int"),
    (["--at", "tomorrow"], "'tomorrow' is no time: write 2026-03-01T09:00"),
    (["--at", "2026-03-01"], "is no time"),
    (["--at", "2026-02-30T09:00"], "is no time"),
    (["--at", "0001-01-01T00:00"], "is no time"),
    (["--at", ""], "is no time"),
    (["--in", "soon"], "write '30s', '5m'"),
    (["--in", "-5s"], "write '30s', '5m'"),
    (["--in", "0s"], "more than nothing"),
    (["--in", "31d"], "write '30s', '5m'"),
    (["--in", "1s", "--at", "2126-03-01T09:00"], "give --at or --in, not both"),
    (["--key", ""], "it is empty"),
    (["--key", "k" * 256], "longer than 255 characters"),
    (["--key", "a\x1bb"], "cannot be shown"),
]


@pytest.mark.parametrize(("options", "said"), REFUSED)
def test_what_is_no_option_is_refused_in_one_sentence(
    options: list[str], said: str, cirkelline: Commands, filled: Filled
) -> None:
    filled.agent()
    result = cirkelline("tasks", "submit", "helper", "x", *options)
    assert (result.code, result.out, result.err.count("\n")) == (2, "", 1)
    assert said in result.err
    assert filled.sql("SELECT 1 FROM runtime.tasks") == []


def test_show_lists_every_attempt_that_failed(cirkelline: Commands, filled: Filled) -> None:
    agent = filled.agent(retry={"attempts": 3})
    worker = filled.worker()
    task = filled.task(agent)
    (claim,) = filled.claim(agent, worker)
    put_off = "SELECT runtime.put_off(%s, %s, 1, '[]', 'AnswerMalformed', 'no JSON in it', 3, 60, 600)"
    filled.sql(put_off, worker, claim.id)
    shown = cirkelline("tasks", "show", str(task)).out
    assert "attempt 1 of 3 failed (no JSON in it): the next one is due 20" in shown
    assert re.search(r"\ntries +1 of 3\n", shown)
    assert "AnswerMalformed: no JSON in it" in shown
    document = cirkelline("tasks", "show", str(task), "--json").document
    assert (document["attempts_allowed"], [each["attempt"] for each in document["failures"]]) == (3, [1])
    filled.sql("UPDATE runtime.tasks SET run_at = NULL")
    filled.end(agent, status="failed", result={"error": {"type": "EndRun", "message": "closed"}}, error="closed")
    failed = cirkelline("tasks", "show", str(task)).out
    assert (
        re.search(r"\ntries +2 of 3\n", failed) is not None,
        "EndRun: closed" in failed,
        "AnswerMalformed" in failed,
    ) == (True,) * 3


def test_for_nobody_an_agent_that_reads_documents_says_what_it_will_not_find(
    cirkelline: Commands, filled: Filled
) -> None:
    filled.agent("reader", tools=["search_knowledge"])
    filled.worker()
    alone = cirkelline("tasks", "submit", "reader", "x")
    assert (alone.code, "reader works for nobody in this task" in alone.err, "--user NAME" in alone.err) == (
        0,
        True,
        True,
    )
    assert cirkelline("tasks", "submit", "reader", "x", "--user", "ivo").err == ""
