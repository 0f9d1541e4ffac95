"""`tasks trace` and `tasks replay`: what a task did, what its model saw, and whether it would come to the same."""

from __future__ import annotations

import json
from pathlib import Path
from uuid import UUID

import pytest
from command_runs import Commands, Filled

AGENT = """
name: clerk
instructions: Help.
model: {model}
tools: [calculate, {{python: "shop:pay"}}]
limits: {{steps: 5}}
"""
SHOP = """
def pay(amount: int) -> str:
    '''Pay somebody.'''
    if amount > 10:
        raise EndRun("the purse is empty")
    return f"paid {amount}"
"""
SUM = {"tool": "calculate", "arguments": {"expression": "17 * 23"}, "usage": {"input": 1200, "output": 34}}
PAY = {"tool": "pay", "arguments": {"amount": 3}}
END = {"text": "It is {{last_tool}}.\u200e", "usage": {"input": 1300, "output": 5}}
BROKEN = {"text": "half", "error": "server", "usage": {"input": 10, "output": 1}}


@pytest.fixture
def folder(tmp_path: Path, filled: Filled, monkeypatch: pytest.MonkeyPatch) -> Path:
    del filled
    configs = tmp_path / "configs"
    configs.mkdir()
    (tmp_path / "tools").mkdir()
    (tmp_path / "tools" / "shop.py").write_text("from cirkelline.tools import EndRun\n" + SHOP)
    script = configs / "clerk.script.yaml"
    prices = tmp_path / "prices.yaml"
    prices.write_text(f'models:\n  "scripted:{script}": {{input: 2, output: 30}}\n')
    monkeypatch.setenv("CIRKELLINE_PRICES", str(prices))
    (configs / "clerk.yaml").write_text(AGENT.format(model=f"scripted:{script}"))
    return configs


def run(cirkelline: Commands, folder: Path, *turns: object, task: str | None = None) -> str:
    """Let a daemon run a new task, or this one again, and return it."""
    (folder / "clerk.script.yaml").write_text(json.dumps(turns))
    if task is None:
        assert cirkelline("agents", "apply", str(folder)).code == 0
        task = str(cirkelline("tasks", "submit", "clerk", "how much?", "--json").document["id"])
    assert cirkelline("up", "--drain").code == 0
    return task


def test_a_trace_is_one_line_for_each_step_and_one_for_all(cirkelline: Commands, folder: Path) -> None:
    task = run(cirkelline, folder, SUM, PAY, END)
    result = cirkelline("tasks", "trace", task)
    assert (result.code, result.err) == (0, "")
    lines = result.out.splitlines()
    assert [line.split()[0] for line in lines[1:7]] == ["0", "1", "1.0", "2", "2.0", "3"]
    assert "context clerk: definition 1, clock 20" in lines[1]
    assert lines[2].endswith(': → calculate({"expression": "17 * 23"})')
    assert "1,200 + 34" in lines[2]
    assert "$0.0034" in lines[2]
    assert lines[3].endswith('tool calculate({"expression": "17 * 23"}) → 391')
    assert lines[5].endswith('tool pay({"amount": 3}) → paid 3')
    assert "It is paid 3." in lines[6]
    assert lines[-1].startswith("completed at attempt 1: 3 model calls, 2 tool calls, ")
    assert "tokens in" in lines[-1]


def test_a_traces_document_holds_all_of_every_step(cirkelline: Commands, folder: Path) -> None:
    task = run(cirkelline, folder, SUM, END)
    document = cirkelline("tasks", "trace", task, "--json").document
    assert (document["task"], document["agent"], document["status"]) == (task, "clerk", "completed")
    context, asked, used, answered = document["steps"]
    assert (context["kind"], context["output"]["definition"]) == ("context", 1)
    assert (asked["input_tokens"], asked["output_tokens"], asked["cost"]) == (1200, 34, "0.00342")
    assert (used["step"], used["arguments"], used["output"]) == ("1.0", {"expression": "17 * 23"}, {"text": "391"})
    assert answered["output"] == {"text": "It is 391.\u200e"}
    assert not answered["replayed"]
    assert document["total"]["cost"] == "0.00617"
    assert document["total"]["calls_of_unknown_cost"] == 0


def test_what_an_earlier_attempt_recorded_is_marked_as_replayed(cirkelline: Commands, folder: Path) -> None:
    task = run(cirkelline, folder, SUM, BROKEN)
    failed = cirkelline("tasks", "trace", task)
    assert failed.out.splitlines()[-2].startswith("failed at attempt 1: 2 model calls")
    assert failed.out.splitlines()[-1].startswith("error: turn 2 of ")
    assert "paid without an answer (ModelUnavailable)" in failed.out
    assert "replayed" not in failed.out
    cirkelline("tasks", "retry", task)
    run(cirkelline, folder, SUM, END, task=task)
    steps = cirkelline("tasks", "trace", task, "--json").document["steps"]
    assert [(step["step"], step["attempt"], step["replayed"]) for step in steps] == [
        ("0", 1, True),
        ("1", 1, True),
        ("1.0", 1, True),
        ("2", 1, False),
        ("2", 2, False),
    ]
    out = cirkelline("tasks", "trace", task).out
    assert out.count("  1 *  ") == 3
    assert "* replayed: recorded by that attempt" in out


def test_a_model_without_a_price_has_an_unknown_cost(
    cirkelline: Commands, filled: Filled, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CIRKELLINE_PRICES", raising=False)
    task = filled.task(filled.agent())
    for position, cost in ((1, "NULL"), (2, "0.5")):
        filled.sql(
            "INSERT INTO runtime.journal (task_id, position, call, attempt, format, kind, name, output, input_tokens,"
            f" cost) VALUES ('{task}', {position}, -1, 1, 1, 'model', 'm', '{{\"text\": \"x\"}}', 5, {cost})"
        )
    out = cirkelline("tasks", "trace", str(task)).out
    assert " 5 + 0   unknown  1 " in out.splitlines()[1]
    assert out.splitlines()[-1].endswith("cost $0.50 and 1 call of unknown cost")


def test_a_step_that_waits_says_for_what_and_who_decided(cirkelline: Commands, filled: Filled) -> None:
    task = filled.task(filled.agent())
    asked = {"text": "", "calls": [{"id": "a", "name": "pay", "arguments": '{"amount": 7}'}] * 3}
    insert = (
        "INSERT INTO runtime.journal (task_id, position, call, attempt, format, kind, name, output, waits, decision)"
        f" VALUES ('{task}', 1, %s, 1, 1, %s, 'pay', %s::jsonb, %s::jsonb, %s::jsonb)"
    )
    yes = json.dumps({"verdict": "approve", "by": "ivo"})
    filled.sql(insert, -1, "model", json.dumps(asked), None, None)
    filled.sql(insert, 0, "tool", None, '{"for": "approval"}', None)
    filled.sql(insert, 1, "tool", '{"text": "paid 7"}', '{"for": "approval"}', yes)
    filled.sql(insert, 2, "tool", None, None, None)
    lines = cirkelline("tasks", "trace", str(task)).out.splitlines()
    assert lines[2].endswith('({"amount": 7}) → waits: approval')
    assert lines[3].endswith('({"amount": 7}) → paid 7 [decided: approve by ivo]')
    assert lines[4].endswith('({"amount": 7}) → began, and its end is not on record')


@pytest.mark.parametrize(
    ("status", "why"),
    [
        ("pending", "it waits for a worker, and no attempt came to the end of a first model call"),
        ("running", "its first model call has not ended yet"),
        ("failed", "it ended before its first model call did"),
        ("completed", "it was completed by something else than a run"),
    ],
)
def test_a_task_without_steps_says_why(cirkelline: Commands, filled: Filled, status: str, why: str) -> None:
    task = filled.task(filled.agent())
    filled.sql(f"UPDATE runtime.tasks SET status = '{status}'")
    result = cirkelline("tasks", "trace", str(task))
    assert (result.code, result.out) == (0, f"task {str(task)[:8]} has no steps on record: {why}\n")
    document = cirkelline("tasks", "trace", str(task), "--json").document
    assert (document["steps"], document["why"]) == ([], why)


def test_a_prompt_is_shown_as_the_model_saw_it(cirkelline: Commands, folder: Path) -> None:
    task = run(cirkelline, folder, SUM, END)
    result = cirkelline("tasks", "trace", task, "--prompt", "2")
    assert (result.code, result.err) == (0, "")
    assert "tools  calculate, pay" in result.out
    assert "\nuser:\nhow much?\n" in result.out
    assert '\nassistant:\n→ calculate({"expression": "17 * 23"})\n' in result.out
    assert result.out.endswith("\ntool calculate:\n391\n")
    document = cirkelline("tasks", "trace", task, "--prompt", "--json").document
    assert (document["step"], document["body"], document["warnings"]) == ("2", None, [])
    assert [message["role"] for message in document["messages"]] == ["system", "user", "assistant", "tool"]
    assert document["tools"][1]["description"] == "Pay somebody."


def test_a_body_is_written_to_the_byte(cirkelline: Commands, folder: Path, filled: Filled) -> None:
    task = run(cirkelline, folder, SUM, END)
    none = cirkelline("tasks", "trace", task, "--prompt", "--body")
    assert none.code == 1
    assert "is not asked over HTTP" in none.err
    # The same run as if a hosted model had made it: nothing of the prompt depends on which one.
    filled.sql("""UPDATE runtime.definitions SET model = '{"provider": "openai", "name": "gpt-4o"}'""")
    result = cirkelline("tasks", "trace", task, "--prompt", "2", "--body")
    assert (result.code, result.err) == (0, "")
    document = cirkelline("tasks", "trace", task, "--prompt", "2", "--json").document
    assert document["body"] == result.out
    body = json.loads(result.out)
    assert (body["model"], [message["role"] for message in body["messages"]]) == (
        "gpt-4o",
        ["system", "user", "assistant", "tool"],
    )
    (folder.parent / "tools" / "shop.py").unlink()
    gone = cirkelline("tasks", "trace", task, "--prompt", "2", "--body")
    assert (gone.code, gone.out) == (1, "")
    assert "shop:pay is left out" in gone.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--body"], "--body goes with --prompt"),
        (["--prompt", "0"], "'0' is no step"),
        (["--prompt", "nine"], "'nine' is no step"),
        (["--prompt", "9"], "give a number from 1 to 1"),
    ],
)
def test_a_prompt_that_cannot_be_meant_is_wrong_use(
    cirkelline: Commands, folder: Path, arguments: list[str], said: str
) -> None:
    task = run(cirkelline, folder, END) if arguments[-1] == "9" else str(UUID(int=1))
    result = cirkelline("tasks", "trace", task, *arguments)
    assert (result.code, result.out) == (2, "")
    assert said in result.err


def test_a_replay_needs_neither_model_nor_tools_and_says_that_it_came_to_the_same(
    cirkelline: Commands, folder: Path
) -> None:
    task = run(cirkelline, folder, SUM, {"tool": "pay", "arguments": {"amount": 99}})
    assert cirkelline("tasks", "show", task, "--json").document["result"]["error"]["type"] == "EndRun"
    (folder / "clerk.script.yaml").unlink()
    (folder.parent / "tools" / "shop.py").unlink()
    result = cirkelline("tasks", "replay", task)
    said = f"task {task[:8]} comes to the same again: 4 steps, no model asked, no tool called\n"
    assert (result.code, result.out, result.err) == (0, said, "")
    assert cirkelline("tasks", "replay", task, "--json").document["same"] is True


def test_a_replay_that_comes_to_something_else_fails_and_says_where(
    cirkelline: Commands, folder: Path, filled: Filled
) -> None:
    task = run(cirkelline, folder, SUM, END)
    filled.sql("""UPDATE runtime.tasks SET payload = '{"input": "how little?"}'""")
    result = cirkelline("tasks", "replay", task)
    assert (result.code, result.out) == (1, "")
    assert result.err.startswith(f"error: task {task[:8]} comes to something else at step 1: expected the conversation")
    assert result.err.endswith("came another conversation, of 2 messages, the last user's 'how little?'\n")
    found = cirkelline("tasks", "replay", task, "--json").document
    assert (found["same"], found["difference"]["step"]) == (False, "1")


def test_a_task_that_never_ran_cannot_be_replayed(cirkelline: Commands, filled: Filled) -> None:
    result = cirkelline("tasks", "replay", str(filled.task(filled.agent())))
    assert result.code == 2
    assert "has no answer of a model on record" in result.err


def test_a_bad_price_list_stops_a_daemon_before_it_begins(
    cirkelline: Commands, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = folder.parent / "bad.yaml"
    bad.write_text("models:\n  openai:x: {input: 1, outptu: 2}\n")
    monkeypatch.setenv("CIRKELLINE_PRICES", str(bad))
    result = cirkelline("up", "--drain")
    assert result.code == 2
    assert result.err.splitlines()[-1] == f"error: {bad}:2:24: unknown key 'outptu'; did you mean 'output'?"
