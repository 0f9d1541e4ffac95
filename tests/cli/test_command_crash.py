"""What a crash would do to each tool is told before there is one, and a retry says where the task goes on."""

from __future__ import annotations

from pathlib import Path

from command_runs import Commands, Filled

AGENT = """
name: clerk
instructions: Help.
model: scripted:{folder}/answers.script.yaml
tools: [calculate, {{name: note, effects: once, on_unknown: fail}}, {{python: "shop:pay", approval: true}}]
"""


def test_validate_lists_what_a_crash_would_do_to_each_tool(cirkelline: Commands, tmp_path: Path) -> None:
    folder = tmp_path / "configs"
    folder.mkdir()
    (folder / "answers.script.yaml").write_text("turns:\n  - text: good day\n")
    (folder / "clerk.yaml").write_text(AGENT.format(folder=folder))
    (tmp_path / "tools").mkdir()
    (tmp_path / "tools" / "shop.py").write_text("def pay(amount: int) -> str:\n    return 'paid'\n")
    found = cirkelline("agents", "validate", str(folder), "--json").document["agents"][0]["tools"]
    assert [(each["name"], each["effects"], each["on_unknown"]) for each in found] == [
        ("calculate", "read", None),
        ("note", "once", "fail"),
        ("pay", "once", "ask"),
    ]
    assert found[0]["after_a_crash"] == "runs again"
    assert found[1]["after_a_crash"] == "does not run again: the task fails"
    said = cirkelline("agents", "validate", str(folder)).out
    assert "A tool that was running when its process died:" in said
    assert "Every call waits for a person's approval: pay of clerk" in said
    assert [each["approval"] for each in found] == [False, False, True]
    assert "calculate" in said


def test_retry_says_after_how_many_steps_the_task_goes_on(cirkelline: Commands, filled: Filled) -> None:
    agent = filled.agent()
    filled.task(agent)
    failed = filled.end(agent, status="failed", result={"error": {"type": "x", "message": "y"}}, error="y")
    for position in (0, 1):
        filled.sql(
            "INSERT INTO runtime.journal (task_id, position, call, attempt, format, kind, name, output)"
            f" VALUES ('{failed}', {position}, -1, 1, 1, 'model', 'm', '{{}}')"
        )
    result = cirkelline("tasks", "retry", str(failed))
    assert result.out == f"task {str(failed)[:8]} is in line again, to go on after 1 recorded step\n"
    cirkelline("tasks", "cancel", str(failed))
    result = cirkelline("tasks", "retry", str(failed), "--from-start")
    assert result.out == f"task {str(failed)[:8]} is in line again\n"
    assert filled.sql("SELECT count(*) FROM runtime.journal") == [(0,)]
