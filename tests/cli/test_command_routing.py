"""`tasks submit --capabilities` and `workers drain`."""

from __future__ import annotations

import pytest
from command_runs import Commands, Filled


def test_a_task_for_nobody_says_what_no_agent_can(cirkelline: Commands, filled: Filled) -> None:
    filled.agent(capabilities=["research"])
    filled.worker()
    result = cirkelline("tasks", "submit", "--capabilities", "research,cite,research", "two", "words")
    assert (result.code, result.err) == (
        0,
        "warning: no agent can research and cite (`cirkelline agents list --json` shows what each can)\n",
    )
    assert "submitted to whoever can research and cite" in result.out
    ((task, caps, payload),) = filled.sql("SELECT id, capabilities, payload FROM runtime.tasks")
    assert (caps, payload) == (["cite", "research"], {"input": "two words"})
    shown = cirkelline("tasks", "show", str(task)).out
    assert "no agent can cite and research" in shown
    assert "cite, research" in shown


def test_agents_that_can_but_may_not_are_named(cirkelline: Commands, filled: Filled) -> None:
    filled.agent(capabilities=["sing"])
    filled.sql("UPDATE runtime.agents SET status = 'paused'")
    result = cirkelline("tasks", "submit", "la", "--capabilities", "sing")
    assert (result.code, "agent helper is paused: `cirkelline agents resume helper`" in result.err) == (0, True)


def test_an_able_agent_and_a_worker_need_no_warning(cirkelline: Commands, filled: Filled) -> None:
    filled.agent(capabilities=["sing"])
    filled.worker()
    result = cirkelline("tasks", "submit", "x" * 300, "--capabilities", "sing")
    assert (result.code, result.err) == (0, "")


REFUSED: list[tuple[list[str], str]] = [
    (["--capabilities", ""], "it is empty"),
    (["--capabilities", "a,,b"], "it is empty"),
    (["--capabilities", "a," + "b" * 101], "longer than 100 characters"),
    (["--capabilities", "a,\x1b"], "cannot be shown"),
    (["--capabilities", "sing"], "there is no input"),
]


@pytest.mark.parametrize(("options", "said"), REFUSED)
def test_capabilities_that_are_none_are_refused(
    options: list[str], said: str, cirkelline: Commands, filled: Filled
) -> None:
    words = [] if options[1] == "sing" else ["words"]
    result = cirkelline("tasks", "submit", *words, *options)
    assert (result.code, said in result.err, result.err.count("\n")) == (2, True, 1), result.err
    assert filled.sql("SELECT to_regclass('runtime.tasks') IS NULL OR NOT EXISTS (SELECT FROM runtime.tasks)") == [
        (True,)
    ]


def test_drain_asks_those_that_are_named(cirkelline: Commands, filled: Filled) -> None:
    one, other = filled.worker(), filled.worker()
    result = cirkelline("workers", "drain", str(one)[:12])
    assert (result.code, f"worker {str(one)[:8]} on here was asked to stop; it runs 0 tasks" in result.out) == (0, True)
    assert filled.sql("SELECT draining FROM runtime.workers WHERE id = %s", other) == [(False,)]
    assert len(cirkelline("workers", "drain", "--all", "--json").document["asked"]) == 2


@pytest.mark.parametrize("wrong", [["nobody"], ["--all", "x"], [], ["-"], [""]])
def test_drain_refuses_who_is_not_there(wrong: list[str], cirkelline: Commands, filled: Filled) -> None:
    filled.worker()
    result = cirkelline("workers", "drain", *wrong)
    assert (result.code, result.out, result.err.count("\n")) == (2, "", 1)
    assert filled.sql("SELECT draining FROM runtime.workers") == [(False,)]
