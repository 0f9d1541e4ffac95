"""`workflows`: a run from its submission to its end, as a person and as a program see it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from command_runs import Commands, Filled, Result

from cirkelline.runtime.cli import console

DIGEST = """
from cirkelline.tools import WorkflowRun, tool, workflow

def fetch(folder: str) -> list[str]:
    return [folder + "/a", folder + "/b"]

def count(pages: list[str]) -> int:
    if "bad" in pages[0]:
        raise ValueError("no counting today")
    return len(pages)

@workflow
async def digest(run: WorkflowRun, folder: str = "inbox") -> dict:
    pages = await run.step("fetch", fetch, folder)
    return {"pages": await run.step("count", count, pages)}

@tool(approval=True)
def send() -> str:
    return "sent"

@workflow
async def send_all(run: WorkflowRun) -> str:
    return await run.step("send", send)
"""
NO_WORKER = "warning: no worker is running: start one with `cirkelline up`\n"


@pytest.fixture
def tools(tmp_path: Path) -> Path:
    folder = tmp_path / "tools"
    folder.mkdir()
    (folder / "reports.py").write_text(DIGEST)
    return folder


@pytest.fixture
def run(cirkelline: Commands, filled: Filled, tools: Path) -> Any:
    """Run `workflows run` with the folder of tools, on a database of the test's own."""
    assert filled.url

    def run(*arguments: str) -> Result:
        return cirkelline("workflows", "run", *arguments, "--tools", str(tools))

    return run


def drain(tools: Path) -> None:
    """Let a daemon do what is in line."""
    command = [sys.executable, "-m", "cirkelline", "up", "--drain", "--tools", str(tools)]
    done = subprocess.run(
        command, cwd=tools.parent, env=os.environ, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr


def test_run_puts_a_run_in_line_and_prints_its_id(run: Any, cirkelline: Commands, filled: Filled) -> None:
    result = run("reports:digest", "--input", '{"folder": "x"}')
    ((run_id,),) = filled.sql("SELECT run_id FROM ai.workflow_runs")
    short = run_id[:8]
    said = f"run {short} of reports:digest submitted (`cirkelline workflows show {short}`)\n"
    assert (result.code, result.out, result.err) == (0, said, NO_WORKER)
    assert cirkelline("tasks", "show", short, "--json").document["type"] == "workflow"
    shown = cirkelline("workflows", "show", short, "--json").document
    assert (shown["status"], shown["input"], shown["steps"]) == ("PENDING", {"folder": "x"}, [])
    assert shown["why"] == "no worker is running: start one with `cirkelline up`"


def test_run_takes_the_functions_name_alone_and_a_user(run: Any, filled: Filled) -> None:
    document = run("digest", "--user", "ivo", "--json").document
    ((user,),) = filled.sql("SELECT id::text FROM runtime.users")
    assert (document["workflow"], document["user_id"], document["input"]) == ("reports:digest", user, {})


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["digets"], "there is no workflow 'digets'"),
        (["os:system"], "workflow 'os:system' is not allowed"),
        (["digest", "--input", "{"], "the input is not JSON"),
        (["digest", "--input", "[1]"], "must be one JSON object"),
        (["digest", "--input", '{"foldr": "x"}'], "did you mean 'folder'?"),
        (["digest", "--timeout", "3s"], "--timeout goes with --wait"),
    ],
)
def test_wrong_use_exits_2_and_leaves_nothing(run: Any, filled: Filled, arguments: list[str], says: str) -> None:
    result = run(*arguments)
    assert (result.code, says in result.err) == (2, True), result.err
    assert filled.sql("SELECT count(*) FROM ai.workflow_runs") == [(0,)]


def test_wait_ends_with_the_output_the_failure_the_question_or_the_time(
    run: Any, filled: Filled, tools: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    daemon = [sys.executable, "-m", "cirkelline", "up", "--tools", str(tools)]
    with subprocess.Popen(daemon, cwd=tools.parent, env=os.environ, stderr=subprocess.DEVNULL) as process:
        try:
            done = run("digest", "--wait", "--timeout", "60s")
            assert (done.code, json.loads(done.out)) == (0, {"pages": 2})
            failed = run("digest", "--input", '{"folder": "bad"}', "--wait", "--timeout", "60s")
            assert (failed.code, failed.out) == (1, "")
            assert "failed at step 'count': step 'count' failed: ValueError: no counting today" in failed.err
            with monkeypatch.context() as terminal:
                terminal.setattr(console, "on_terminal", lambda stream: stream is sys.stderr)
                shown = run("digest", "--wait", "--timeout", "60s")
            assert "  1  fetch: completed, " in shown.err
            assert "  2  count: completed, " in shown.err
            parked = run("send_all", "--wait", "--timeout", "60s", "--json")
            assert (parked.code, parked.document["status"]) == (4, "RUNNING")
            assert "waits for a decision: a person has to approve send()" in parked.err
        finally:
            process.terminate()
    filled.sql("DELETE FROM runtime.workers")
    late = run("digest", "--wait", "--timeout", "200ms", "--json")
    assert (late.code, late.document["status"]) == (3, "PENDING")
    assert "is still PENDING after 200ms: no worker is running" in late.err


def test_list_and_show_say_how_far_each_run_is(run: Any, cirkelline: Commands, tools: Path) -> None:
    for folder in ("good", "bad"):
        run("digest", "--input", json.dumps({"folder": folder}))
    drain(tools)
    run("digest")
    listed = cirkelline("workflows", "list", "--json").document["runs"]
    assert [each["status"] for each in listed] == ["PENDING", "FAILED", "COMPLETED"]
    assert [each["steps_completed"] for each in listed] == [[], ["fetch"], ["fetch", "count"]]
    lines = cirkelline("workflows", "list").out.splitlines()
    assert lines[0].split() == ["run", "workflow", "status", "step", "began", "input"]
    assert "FAILED     2 count" in lines[2]
    assert "COMPLETED  2 done" in lines[3]
    failed = cirkelline("workflows", "list", "--status", "failed", "--workflow", "digest", "--json").document["runs"]
    assert [each["run_id"] for each in failed] == [listed[1]["run_id"]]
    assert cirkelline("workflows", "list", "--workflow", "other").out.startswith("no workflow runs that fit")

    shown = cirkelline("workflows", "show", listed[1]["run_id"][:8])
    assert "error     step 'count' failed: ValueError: no counting today\n" in shown.out
    assert "1  fetch  completed" in shown.out
    assert '["bad/a", "bad/b"]' in shown.out
    steps = cirkelline("workflows", "show", listed[1]["run_id"], "--json").document["steps"]
    assert [(each["name"], each["status"], each["output"]) for each in steps] == [
        ("fetch", "completed", ["bad/a", "bad/b"]),
        ("count", "failed", None),
    ]
    assert steps[1]["error"] == {"type": "ValueError", "message": "ValueError: no counting today"}


def test_show_knows_another_programs_run_too(cirkelline: Commands, filled: Filled) -> None:
    filled.sql(
        "INSERT INTO ai.workflow_runs (run_id, workflow_name, status, current_step) VALUES ('night-7', 'nightly', 'RUNNING', 'x')"
    )
    shown = cirkelline("workflows", "show", "night")
    assert (shown.code, "workflow  nightly\n" in shown.out, "step      1 x\n" in shown.out) == (0, True, True)
    assert cirkelline("workflows", "show", "day").code == 2


def test_tasks_cancel_and_retry_work_on_a_run(run: Any, cirkelline: Commands) -> None:
    run_id = run("digest", "--json").document["run_id"]
    assert cirkelline("tasks", "cancel", run_id[:8]).code == 0
    shown = cirkelline("workflows", "show", run_id, "--json").document
    assert (shown["status"], shown["error"]) == ("FAILED", "cancelled")
    assert cirkelline("tasks", "retry", run_id[:8]).code == 0
    assert cirkelline("workflows", "show", run_id, "--json").document["status"] == "PENDING"


def test_no_command_takes_a_workflow_for_an_agent(
    run: Any, cirkelline: Commands, filled: Filled, tmp_path: Path
) -> None:
    run("digest")
    assert cirkelline("agents", "list", "--json").document == {"agents": []}
    assert cirkelline("agents", "search", "digest", "--json").document == {"agents": []}
    for command in (["tasks", "submit", "workflow:reports:digest", "hello"], ["chat", "workflow:reports:digest"]):
        refused = cirkelline(*command)
        assert (refused.code, "`cirkelline workflows run reports:digest` runs it" in refused.err) == (2, True)
    definitions = tmp_path / "agents"
    definitions.mkdir()
    (definitions / "helper.yaml").write_text("name: helper\ninstructions: Help.\nmodel: openai:x\n")
    applied = cirkelline("agents", "apply", str(definitions), "--prune", "--json")
    assert (applied.code, "workflow" in applied.out) == (0, False)
    assert filled.sql("SELECT status FROM runtime.agents WHERE type = 'workflow'") == [("idle",)]
    checks = cirkelline("doctor", "--json").document["checks"]
    (found,) = [each for each in checks if each["topic"] == "workflows"]
    assert (found["verdict"], found["says"]) == ("notice", "workflow reports:digest cannot run on this machine")
    shown = cirkelline("agents", "show", "workflow:reports:digest", "--json").document
    assert (shown["type"], shown["model"]) == ("workflow", None)


def test_a_paused_workflow_says_so(run: Any, cirkelline: Commands) -> None:
    run("digest")
    assert cirkelline("agents", "pause", "workflow:reports:digest").code == 0
    assert "is paused" in run("digest").err


def test_a_trace_tells_what_each_step_gave_or_why_it_failed(run: Any, cirkelline: Commands, tools: Path) -> None:
    done, failed = run("digest", "--json").document["run_id"], run("digest", "--input", '{"folder": "bad"}', "--json")
    drain(tools)
    out = cirkelline("tasks", "trace", done).out
    assert 'step fetch → ["inbox/a", "inbox/b"]' in out
    assert "step count → 2" in out
    assert "completed at attempt 1: 2 steps, " in out
    replayed = cirkelline("tasks", "replay", done)
    assert (replayed.code, "is a run of a workflow, which asks no model" in replayed.err) == (2, True)
    traced = cirkelline("tasks", "trace", failed.document["run_id"]).out
    assert "step count → failed: ValueError: no counting today" in traced
