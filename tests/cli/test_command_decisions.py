"""What a parked task waits for is said in words with what to type, and what is typed decides it once."""

from __future__ import annotations

import json
from typing import Any
from uuid import UUID

import pytest
from command_runs import Commands, Filled

APPROVAL = {"for": "approval", "arguments": {"cents": 500, "to": "Zoë"}}
OUTCOME = {"for": "outcome", "arguments": {"cents": 500}}
ANSWER = {"for": "answer", "question": "Which one?", "choices": ["red", "blue"]}
TIME = {"for": "time", "result": "12h have passed"}


def parked(filled: Filled, *waits: dict[str, Any], until: str | None = None) -> UUID:
    """Return a task that waits for these."""
    task = filled.task(filled.agent())
    filled.sql("UPDATE runtime.tasks SET status = 'waiting' WHERE id = %s", task)
    for call, each in enumerate(waits):
        filled.sql(
            "INSERT INTO runtime.journal (task_id, position, call, attempt, format, kind, name, waits, until)"
            " VALUES (%s, 1, %s, 1, 1, 'tool', 'charge', %s::jsonb, now() + %s::interval)",
            task,
            call,
            json.dumps(each),
            until,
        )
    return task


def decision(filled: Filled, task: UUID) -> dict[str, Any]:
    ((found,),) = filled.sql("SELECT decision FROM runtime.journal WHERE task_id = %s AND call = 0", task)
    return found  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("waits", "said"),
    [
        (
            APPROVAL,
            (
                'a person has to approve charge(to="Zoë", cents=500): `cirkelline tasks approve TASK`, or'
                " `cirkelline tasks reject TASK --reason …`"
            ),
        ),
        (
            OUTCOME,
            (
                "nobody knows whether charge(cents=500) happened, as it was cut off: look, then"
                " `cirkelline tasks resolve TASK` with --retry, --result JSON or --fail"
            ),
        ),
        (ANSWER, "the agent asks: Which one? (red | blue): `cirkelline tasks answer TASK …`"),
    ],
)
def test_show_says_what_a_task_waits_for_and_wait_exits_4_with_it(
    cirkelline: Commands, filled: Filled, waits: dict[str, Any], said: str
) -> None:
    task = parked(filled, waits)
    words = said.replace("TASK", str(task)[:8])
    assert cirkelline("tasks", "show", str(task), "--json").document["why"] == words
    assert " ".join(words.split()[:4]) in cirkelline("tasks", "show", str(task)).out
    waited = cirkelline("tasks", "wait", str(task))
    assert (waited.code, waited.err) == (4, f"error: task {str(task)[:8]} waits for a decision: {words}\n")


def test_a_sleeping_task_is_waited_for_and_show_says_until_when(cirkelline: Commands, filled: Filled) -> None:
    task = parked(filled, TIME, until="12 hours")
    assert cirkelline("tasks", "show", str(task), "--json").document["why"].startswith("it sleeps until ")
    waited = cirkelline("tasks", "wait", str(task), "--timeout", "0.1")
    assert waited.code == 3
    assert "it sleeps until" in waited.err


def test_approve_puts_the_task_in_line_and_says_so(cirkelline: Commands, filled: Filled) -> None:
    task = parked(filled, APPROVAL)
    result = cirkelline("tasks", "approve", str(task))
    assert result.code == 0
    assert result.out == f"approved: the task goes on (`cirkelline tasks wait {str(task)[:8]}`)\n"
    assert "no worker is running" in result.err
    assert decision(filled, task)["verdict"] == "approve"
    again = cirkelline("tasks", "approve", str(task))
    assert again.code == 1
    assert "does not wait for an approval, or not any more: it is pending" in again.err


def test_reject_keeps_the_reason_for_the_model(cirkelline: Commands, filled: Filled) -> None:
    task = parked(filled, APPROVAL)
    assert cirkelline("tasks", "reject", str(task), "--reason", "too much").code == 0
    assert decision(filled, task)["value"] == "too much"


def test_answer_takes_words_and_refuses_what_is_no_choice(cirkelline: Commands, filled: Filled) -> None:
    task = parked(filled, ANSWER)
    assert cirkelline("tasks", "answer", str(task), " ").code == 2
    refused = cirkelline("tasks", "answer", str(task), "sky", "blue")
    assert (refused.code, "is none of the answers red or blue" in refused.err) == (2, True)
    assert cirkelline("tasks", "answer", str(task), "blue").code == 0
    assert decision(filled, task)["value"] == "blue"


@pytest.mark.parametrize(
    ("given", "verdict", "value"),
    [
        (["--retry"], "retry", None),
        (["--result", '{"receipt": 17}'], "result", {"receipt": 17}),
        (["--fail", "--reason", "ask the bank"], "fail", "ask the bank"),
    ],
)
def test_resolve_says_what_became_of_a_call(
    cirkelline: Commands, filled: Filled, given: list[str], verdict: str, value: object
) -> None:
    task = parked(filled, OUTCOME)
    said = cirkelline("tasks", "resolve", str(task), *given).out
    then = "ends as failed" if verdict == "fail" else "goes on"
    kept = decision(filled, task)
    assert (kept["verdict"], kept.get("value")) == (verdict, value)
    assert said == f"decided: the task {then} (`cirkelline tasks wait {str(task)[:8]}`)\n"


@pytest.mark.parametrize(
    "given", [[], ["--retry", "--fail"], ["--retry", "--reason", "x"], ["--result", "not json"], ["--result", "NaN"]]
)
def test_resolve_refuses_anything_but_one_clear_decision_and_changes_nothing(
    cirkelline: Commands, filled: Filled, given: list[str]
) -> None:
    task = parked(filled, OUTCOME)
    result = cirkelline("tasks", "resolve", str(task), *given)
    assert result.code == 2
    assert decision(filled, task) is None


def test_where_several_calls_wait_one_has_to_be_named(cirkelline: Commands, filled: Filled) -> None:
    task = parked(filled, APPROVAL, APPROVAL)
    assert (
        f"tasks approve {str(task)[:8]} --call 1.0`" in cirkelline("tasks", "show", str(task), "--json").document["why"]
    )
    refused = cirkelline("tasks", "approve", str(task))
    assert (refused.code, "say which with --call: 1.0 (charge) or 1.1 (charge)" in refused.err) == (2, True)
    decided = cirkelline("tasks", "approve", str(task), "--call", "1.0")
    assert (decided.code, "approved: it still waits: a person has to approve" in decided.out) == (0, True)
    assert cirkelline("tasks", "approve", str(task)).code == 0
    assert filled.sql("SELECT status FROM runtime.tasks") == [("pending",)]


def test_a_task_whose_workers_died_is_tried_again_or_ended(cirkelline: Commands, filled: Filled) -> None:
    task = filled.task(filled.agent())
    dead = "UPDATE runtime.tasks SET status = 'waiting', deaths = 5, attempt = 5, error = 'its worker died 5 times'"
    filled.sql(dead)
    said = cirkelline("tasks", "show", str(task), "--json").document["why"]
    assert said == (
        f"its worker died 5 times without a new step: `cirkelline tasks resolve {str(task)[:8]} --retry` tries again,"
        " `--fail` ends it"
    )
    assert cirkelline("tasks", "resolve", str(task), "--result", "1").code == 2
    assert cirkelline("tasks", "resolve", str(task), "--retry").code == 0
    assert filled.sql("SELECT status, deaths FROM runtime.tasks") == [("pending", 0)]
    filled.sql(dead)
    ended = cirkelline("tasks", "resolve", str(task), "--fail", "--reason", "out of memory")
    assert ended.out == "decided: the task has failed\n"
    assert filled.sql("SELECT status, error FROM runtime.tasks") == [
        ("failed", "its worker died 5 times: out of memory")
    ]
