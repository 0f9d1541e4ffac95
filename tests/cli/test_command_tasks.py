"""`tasks`: giving work, following it, and saying why it does not move."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from uuid import UUID

import pytest
from command_runs import Commands, Filled

NOBODY = "7d9e2f30-1111-4222-8333-444455556666"


def only_task(filled: Filled) -> tuple[UUID, object]:
    ((task, payload),) = filled.sql("SELECT id, payload FROM runtime.tasks")
    return task, payload


def test_submit_puts_the_words_in_line_as_one_text(cirkelline: Commands, filled: Filled) -> None:
    filled.agent()
    result = cirkelline("tasks", "submit", "helper", "two", "words", "--json")
    task, payload = only_task(filled)
    assert (result.code, result.document["id"], payload) == (0, str(task), {"input": "two words"})
    assert result.document["status"] == "pending"


def test_submit_names_the_short_id_and_how_to_follow(cirkelline: Commands, filled: Filled) -> None:
    filled.agent()
    result = cirkelline("tasks", "submit", "helper", "hello")
    short = str(only_task(filled)[0])[:8]
    assert result.out == f"task {short} submitted to helper (`cirkelline tasks wait {short}`)\n"


@pytest.mark.parametrize("option", [["-"], ["--file", "-"]])
def test_submit_reads_stdin_and_drops_a_byte_order_mark(
    option: list[str], cirkelline: Commands, filled: Filled
) -> None:
    filled.agent()
    assert cirkelline("tasks", "submit", "helper", *option, stdin="\ufefflinje\næøå\n".encode()).code == 0
    assert only_task(filled)[1] == {"input": "linje\næøå\n"}


def test_submit_reads_a_file_and_json(cirkelline: Commands, filled: Filled, tmp_path: os.PathLike[str]) -> None:
    filled.agent()
    with open(os.path.join(tmp_path, "in.json"), "w") as file:  # noqa: PTH118, PTH123 - as short as it gets
        file.write('{"rows": [1, 2]}')
    assert cirkelline("tasks", "submit", "helper", "--file", "in.json", "--json-input", "--type", "sum").code == 0
    assert filled.sql("SELECT payload, task_type FROM runtime.tasks") == [({"input": {"rows": [1, 2]}}, "sum")]


def test_submit_keeps_a_text_that_postgresql_could_not_hold(cirkelline: Commands, filled: Filled) -> None:
    filled.agent()
    assert cirkelline("tasks", "submit", "helper", "-", stdin=b"a\x00b").code == 0
    assert only_task(filled)[1] == {"input": "a\ufffdb"}


REFUSED_INPUTS: list[tuple[list[str], bytes, str]] = [
    (["helper"], b"", "there is no input"),
    (["helper", ""], b"", "the input is empty"),
    (["helper", "  "], b"", "the input is empty"),
    (["helper", "-"], b"", "the input is empty"),
    (["helper", "-"], b"\xff\xfe", "stdin is not UTF-8 text"),
    (["helper", "-"], b"x" * 16_000_001, "stdin holds more than 16.0 MB"),
    (["helper", "a", "--file", "x"], b"", "not both"),
    (["helper", "--file", "nowhere.txt"], b"", "cannot read nowhere.txt: no such file or directory"),
    (["helper", "--file", "."], b"", "cannot read .: is a directory"),
    (["helper", "--file", ""], b"", "cannot read"),
    (["helper", "--file", "x" * 5000], b"", "file name too long"),
    (["helper", "{", "--json-input"], b"", "the input is not JSON: expecting property name"),
    (["helper", "NaN", "--json-input"], b"", "NaN is no JSON"),
    (["helper", "[" * 100_000, "--json-input"], b"", "the input is not JSON"),
    (["helper", "a", "--timeout", "3s"], b"", "--timeout goes with --wait"),
    (["helper", "a", "--wait", "--timeout", "soon"], b"", "write '30s', '5m', '1h30m'"),
    (["helper", "a", "--wait", "--timeout", "0"], b"", "more than nothing"),
    (["helper", "a", "--wait", "--timeout", "-1"], b"", "write '30s'"),
    (["helper", "a", "--wait", "--timeout", "9" * 400], b"", "at most 30 days"),
    (["helper", "a", "--type", ""], b"", "it is empty"),
    (["helper", "a", "--type", "t" * 101], b"", "longer than 100 characters"),
    (["helper", "a\udcff"], b"", "it is not UTF-8 text"),
    (["help\x1b[2Jer", "a"], b"", "characters that cannot be shown"),
    (["", "a"], b"", "it is empty"),
    (["x" * 300, "a"], b"", "longer than 255 characters"),
    (["helperr", "a"], b"", "no agent named 'helperr'; did you mean 'helper'?"),
    ([NOBODY, "a"], b"", "no agent named"),
    (["' OR 1=1 --", "a"], b"", "no agent named"),
]


def test_submit_refuses_in_one_sentence_and_writes_nothing(cirkelline: Commands, filled: Filled) -> None:
    filled.agent()
    for arguments, stdin, said in REFUSED_INPUTS:
        result = cirkelline("tasks", "submit", *arguments, stdin=stdin)
        assert (result.code, result.out) == (2, ""), (said, result.err)
        assert result.err.startswith("error: ")
        assert result.err.count("\n") == 1
        assert len(result.err) < 500
        assert said in result.err
    assert filled.sql("SELECT 1 FROM runtime.tasks") == []


def test_submit_warns_when_nobody_will_run_it(cirkelline: Commands, filled: Filled) -> None:
    filled.agent()
    assert (
        "warning: no worker is running: start one with `cirkelline up`"
        in cirkelline("tasks", "submit", "helper", "x").err
    )


def test_submit_is_silent_when_a_worker_is_alive(cirkelline: Commands, filled: Filled) -> None:
    filled.agent()
    filled.worker()
    assert cirkelline("tasks", "submit", "helper", "x").err == ""


@pytest.mark.parametrize("status", ["paused", "retired"])
def test_submit_warns_when_the_agent_takes_no_tasks(status: str, cirkelline: Commands, filled: Filled) -> None:
    filled.agent()
    filled.worker()
    filled.sql("UPDATE runtime.agents SET status = %s", status)
    result = cirkelline("tasks", "submit", "helper", "x")
    assert result.code == 0
    assert f"warning: agent helper is {status}: `cirkelline agents resume helper` lets it run" in result.err


def test_submit_and_wait_prints_the_output_alone(filled: Filled) -> None:
    filled.agent()
    worker = filled.worker()
    environment = os.environ | {"DATABASE_URL": filled.url}
    command = [sys.executable, "-m", "cirkelline", "tasks", "submit", "helper", "hello", "--wait", "--timeout", "60s"]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as running:
        while not filled.sql("SELECT 1 FROM runtime.queue"):
            assert running.poll() is None
        filled.sql("DELETE FROM runtime.workers WHERE id = %s", worker)
        filled.end(filled.sql("SELECT id FROM runtime.agents")[0][0], result={"output": "good day"})
        out, err = running.communicate(timeout=60)
    assert (running.returncode, out, err) == (0, "good day\n", "")


def test_wait_prints_an_output_that_is_not_text_as_json(cirkelline: Commands, filled: Filled) -> None:
    agent = filled.agent()
    filled.task(agent)
    task = filled.end(agent, result={"output": {"total": 7}})
    assert json.loads(cirkelline("tasks", "wait", str(task)[:8]).out) == {"total": 7}


def test_wait_for_a_failed_task_says_why_and_exits_1(cirkelline: Commands, filled: Filled) -> None:
    agent = filled.agent()
    filled.task(agent)
    task = filled.end(
        agent, status="failed", error="m", result={"error": {"type": "ModelRefused", "message": "no key"}}
    )
    result = cirkelline("tasks", "wait", str(task))
    short = str(task)[:8]
    assert (result.code, result.out) == (1, "")
    assert result.err == f"error: task {short} failed: ModelRefused: no key (`cirkelline tasks retry {short}`)\n"
    again = cirkelline("tasks", "wait", str(task), "--json")
    assert (again.code, again.document["status"]) == (1, "failed")


def test_wait_for_a_cancelled_task_exits_1(cirkelline: Commands, filled: Filled) -> None:
    task = filled.task(filled.agent())
    cirkelline("tasks", "cancel", str(task))
    result = cirkelline("tasks", "wait", str(task))
    assert (result.code, "was cancelled" in result.err) == (1, True)


def test_wait_for_a_task_that_waits_itself_exits_4(cirkelline: Commands, filled: Filled) -> None:
    task = filled.task(filled.agent())
    filled.sql("UPDATE runtime.tasks SET status = 'waiting', error = 'was the card charged?'")
    result = cirkelline("tasks", "wait", str(task), "--json")
    assert (result.code, result.document["status"]) == (4, "waiting")
    assert result.err == (
        f"error: task {str(task)[:8]} waits for a decision: it is parked, but nothing is written of what for:"
        f" `cirkelline tasks cancel {str(task)[:8]}`, then `cirkelline tasks retry {str(task)[:8]}`\n"
    )


def test_wait_that_passes_its_time_exits_3_and_says_what_it_waits_for(cirkelline: Commands, filled: Filled) -> None:
    task = filled.task(filled.agent())
    result = cirkelline("tasks", "wait", str(task), "--timeout", "0.1", "--json")
    assert result.code == 3
    assert result.document["why"] == "no worker is running: start one with `cirkelline up`"
    assert f"task {str(task)[:8]} is still pending after 100ms: no worker is running" in result.err


def test_an_interrupted_wait_leaves_the_task_alone_and_exits_130(filled: Filled) -> None:
    task = filled.task(filled.agent())
    command = [sys.executable, "-m", "cirkelline", "tasks", "wait", str(task)]
    environment = os.environ | {"DATABASE_URL": filled.url}
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as running:
        assert running.stderr is not None
        # Once it has told why nothing happens it is waiting.
        assert "is pending: no worker is running" in running.stderr.readline()
        running.send_signal(signal.SIGINT)
        _, err = running.communicate(timeout=30)
    assert running.returncode == 130
    assert err == f"task {str(task)[:8]} goes on (`cirkelline tasks cancel {str(task)[:8]}` stops it)\ninterrupted\n"
    assert filled.sql("SELECT status FROM runtime.tasks") == [("pending",)]


def test_show_of_a_completed_task_holds_input_output_and_versions(cirkelline: Commands, filled: Filled) -> None:
    agent = filled.agent()
    filled.task(agent, "what is\nthis?")
    task = filled.end(agent, result={"output": "that"})
    result = cirkelline("tasks", "show", str(task)[:6])
    assert result.code == 0
    assert str(task) in result.out
    assert "Input:\nwhat is\nthis?" in result.out
    assert "Output:\nthat" in result.out
    assert "version 1 (`cirkelline states show helper 1`)" in result.out
    document = cirkelline("tasks", "show", str(task), "--json").document
    assert (document["result"], document["state_version"], document["why"]) == ({"output": "that"}, 1, None)


def test_foreign_text_cannot_command_the_terminal(cirkelline: Commands, filled: Filled) -> None:
    agent = filled.agent()
    filled.task(agent, "\x1b]0;owned\x07\u202egnp")
    task = filled.end(agent, result={"output": "\x1b[2Jcleared\rover"})
    for arguments in (("tasks", "show", str(task)), ("tasks", "list"), ("tasks", "wait", str(task))):
        out = cirkelline(*arguments).out
        assert not {"\x1b", "\x07", "\r", "\u202e"} & set(out)
    assert r"\x1b[2Jcleared\rover" in cirkelline("tasks", "wait", str(task)).out


def why(cirkelline: Commands, task: UUID) -> str:
    return str(cirkelline("tasks", "show", str(task), "--json").document["why"])


def test_a_pending_task_says_that_no_worker_runs(cirkelline: Commands, filled: Filled) -> None:
    task = filled.task(filled.agent())
    assert why(cirkelline, task) == "no worker is running: start one with `cirkelline up`"


def test_a_pending_task_says_that_its_agent_is_paused(cirkelline: Commands, filled: Filled) -> None:
    task = filled.task(filled.agent())
    cirkelline("agents", "pause", "helper")
    assert why(cirkelline, task) == "agent helper is paused: `cirkelline agents resume helper` lets it run"


def test_a_pending_task_says_that_its_agent_is_invalid(cirkelline: Commands, filled: Filled) -> None:
    task = filled.task(filled.agent())
    filled.sql("UPDATE runtime.agents SET problem = 'no instructions', definition_version = NULL")
    assert why(cirkelline, task) == "agent helper is invalid: no instructions"


def test_a_pending_task_says_that_its_agent_was_never_checked(cirkelline: Commands, filled: Filled) -> None:
    filled.sql("INSERT INTO runtime.agents (name, type, config) VALUES ('sql', 'x', '{}')")
    task = filled.task(filled.sql("SELECT id FROM runtime.agents")[0][0])
    assert "has not been checked yet: a worker does that" in why(cirkelline, task)


def test_a_pending_task_says_that_it_was_adopted(cirkelline: Commands, filled: Filled) -> None:
    task = filled.task(filled.agent())
    filled.sql("UPDATE runtime.tasks SET adopted = TRUE")
    assert "`cirkelline db adopt --release` lets such tasks run" in why(cirkelline, task)


def test_a_pending_task_says_when_it_is_due(cirkelline: Commands, filled: Filled) -> None:
    task = filled.task(filled.agent())
    filled.sql("UPDATE runtime.queue SET run_at = now() + interval '90 seconds'")
    assert "its time has not come" in why(cirkelline, task)
    assert "(in 1m" in why(cirkelline, task)


def test_a_pending_turn_names_the_earlier_turn_of_its_session(cirkelline: Commands, filled: Filled) -> None:
    agent = filled.agent()
    session = filled.session(agent, "ivo")
    first = filled.turn(session, "ivo", "one")
    second = filled.turn(session, "ivo", "two")
    assert why(cirkelline, second) == f"an earlier turn of its session has to end first: task {str(first)[:8]}"
    filled.claim(agent, filled.worker())
    assert str(first)[:8] in why(cirkelline, second)
    assert "is running it" in why(cirkelline, first)


def test_a_pending_task_says_that_its_agent_has_reached_its_limit(cirkelline: Commands, filled: Filled) -> None:
    agent = filled.agent(limits={"concurrency": 1})
    filled.task(agent)
    filled.claim(agent, filled.worker())
    assert why(cirkelline, filled.task(agent)) == "agent helper already runs 1 task, its limit at once"


def test_a_pending_task_says_that_every_slot_is_taken(cirkelline: Commands, filled: Filled) -> None:
    agent = filled.agent()
    filled.task(agent)
    filled.claim(agent, filled.worker(slots=1))
    assert why(cirkelline, filled.task(agent)) == "all 1 slot of 1 worker are taken"


def test_a_pending_task_says_how_many_go_first(cirkelline: Commands, filled: Filled) -> None:
    agent = filled.agent()
    filled.worker()
    filled.task(agent)
    filled.task(agent)
    assert why(cirkelline, filled.task(agent)) == "2 tasks of agent helper go first"


def test_a_task_that_no_worker_takes_points_to_what_they_lack(cirkelline: Commands, filled: Filled) -> None:
    task = filled.task(filled.agent())
    filled.worker()
    assert why(cirkelline, task) == "a worker is about to take it"
    filled.sql("UPDATE runtime.queue SET run_at = now() - interval '1 minute'")
    assert "may lack the agent's tools or model: run `cirkelline doctor` where it runs" in why(cirkelline, task)


def test_a_running_task_of_a_dead_worker_says_so(cirkelline: Commands, filled: Filled) -> None:
    agent = filled.agent()
    task = filled.task(agent)
    filled.claim(agent, filled.worker())
    filled.sql("UPDATE runtime.workers SET seen = now() - interval '2 hours'")
    assert why(cirkelline, task) == "its worker is gone: no worker is running: start one with `cirkelline up`"
    filled.worker()
    assert why(cirkelline, task) == "its worker is gone: another takes it over in a moment"


def test_a_task_whose_row_lost_its_place_says_how_to_bring_it_back(cirkelline: Commands, filled: Filled) -> None:
    task = filled.task(filled.agent())
    filled.sql("TRUNCATE runtime.queue")
    assert "it is not in line" in why(cirkelline, task)
    assert cirkelline("tasks", "cancel", str(task)).code == 0
    assert cirkelline("tasks", "retry", str(task)).code == 0
    assert "it is not in line" not in why(cirkelline, task)


def test_list_filters_by_status_agent_and_session(cirkelline: Commands, filled: Filled) -> None:
    helper, other = filled.agent(), filled.agent("other")
    session = filled.session(helper, "ivo", "first turn")
    plain, foreign = filled.task(helper), filled.task(other)

    def ids(*arguments: str) -> set[str]:
        return {task["id"] for task in cirkelline("tasks", "list", *arguments, "--json").document["tasks"]}

    assert ids("--agent", "other") == {str(foreign)}
    assert ids("--status", "pending") == {str(plain), str(foreign)}
    assert len(ids("--session", str(session)[:8])) == len(ids("--status", "completed")) == 1
    assert len(ids("--limit", "2")) == 2


def test_list_shows_short_ids_and_one_line_each(cirkelline: Commands, filled: Filled) -> None:
    task = filled.task(filled.agent(), "a\nb\tc " + "long " * 100)
    head, line, *rest = cirkelline("tasks", "list").out.splitlines()
    assert head.split() == ["task", "agent", "status", "created", "type", "input"]
    assert line.startswith(f"{str(task)[:8]}  helper  pending  ")
    assert "a b c long" in line
    assert rest == []


def test_list_shows_a_priority_and_a_time_where_some_task_has_one(cirkelline: Commands, filled: Filled) -> None:
    agent = filled.agent()
    filled.task(agent)
    filled.sql("UPDATE runtime.tasks SET priority = 7, run_at = now() + interval '3 hours'")
    filled.task(agent)
    head, plain, urgent = cirkelline("tasks", "list").out.splitlines()
    assert head.split() == ["task", "agent", "status", "created", "priority", "runs", "type", "input"]
    assert " 0 " in plain
    assert " 7 " in urgent
    assert " in 2h 59m " in urgent


def test_search_finds_by_beginnings_of_words(cirkelline: Commands, filled: Filled) -> None:
    agent = filled.agent()
    task = filled.task(agent, "the invoice of March")
    filled.task(agent, "something else")
    found = cirkelline("tasks", "search", "invo", "march", "--json").document["tasks"]
    assert [each["id"] for each in found] == [str(task)]
    assert "no task's type or input holds" in cirkelline("tasks", "search", "&|!:*", "'").out


def test_cancel_tells_what_it_did(cirkelline: Commands, filled: Filled) -> None:
    agent = filled.agent()
    pending = filled.task(agent)
    assert cirkelline("tasks", "cancel", str(pending)).out == f"task {str(pending)[:8]} is cancelled\n"
    again = cirkelline("tasks", "cancel", str(pending))
    assert (again.code, "it was cancelled already" in again.err) == (1, True)
    running = filled.task(agent)
    filled.claim(agent, filled.worker())
    assert "its worker was asked to stop it" in cirkelline("tasks", "cancel", str(running)).out
    assert why(cirkelline, running) == "it was asked to stop; its worker on here is ending it"


def test_cancel_refuses_what_has_ended_or_is_held(cirkelline: Commands, filled: Filled) -> None:
    agent = filled.agent()
    filled.task(agent)
    done = filled.end(agent)
    result = cirkelline("tasks", "cancel", str(done))
    assert (result.code, "it completed already" in result.err) == (1, True)
    held = filled.task(agent)
    filled.sql("UPDATE runtime.tasks SET adopted = TRUE WHERE id = %s", held)
    result = cirkelline("tasks", "cancel", str(held))
    assert (result.code, "was here before cirkelline and is held" in result.err) == (1, True)


def test_retry_is_for_failed_and_cancelled_tasks_alone(cirkelline: Commands, filled: Filled) -> None:
    agent = filled.agent()
    filled.task(agent)
    failed = filled.end(agent, status="failed", result={"error": {"type": "x", "message": "y"}}, error="y")
    assert cirkelline("tasks", "retry", str(failed)).code == 0
    result = cirkelline("tasks", "retry", str(failed))
    assert (result.code, "only failed and cancelled tasks can be retried" in result.err) == (1, True)


NO_TASKS = ["00000000", "xyz", "123g", "0" * 33, "' --", "%", NOBODY, "é", "-x-x", "", "\x1b", "x" * 300, "\udcff"]


@pytest.mark.parametrize("command", ["show", "wait", "cancel", "retry"])
def test_a_task_that_is_not_there_is_wrong_use(command: str, cirkelline: Commands, filled: Filled) -> None:
    filled.task(filled.agent(), task_id=UUID("5f0c7d1e-0000-4000-8000-000000000001"))
    for reference in NO_TASKS:
        result = cirkelline("tasks", command, "--", reference)
        assert (result.code, result.out, result.err.count("\n")) == (2, "", 1), (reference, result)


def test_an_ambiguous_id_is_refused(cirkelline: Commands, filled: Filled) -> None:
    agent = filled.agent()
    for digit in "12":
        filled.task(agent, task_id=UUID(f"5f0c7d1e-0000-4000-8000-00000000000{digit}"))
    assert "more than one task's id starts with 5f0c" in cirkelline("tasks", "show", "5f0c").err
