"""`db`, `states`, `sessions` and `workers`: looking at what a database holds, and what is left alone."""

from __future__ import annotations

from pathlib import Path

import psycopg
import pytest
from command_runs import Commands, Filled

SECRET = "hunter2hunter2"


def test_url_finds_unqualified_names_of_both_documents(cirkelline: Commands, filled: Filled) -> None:
    filled.agent()
    result = cirkelline("db", "url")
    assert (result.code, result.err) == (0, "")
    with psycopg.connect(result.out.strip()) as conn:
        assert conn.execute("SELECT handle FROM agents").fetchall() == [("helper",)]
        assert conn.execute("SELECT current_schemas(FALSE)").fetchall() == [(["runtime", "ai", "public"],)]
    assert cirkelline("db", "url", "--json").document == {"url": result.out.strip(), "embedded": False}


def test_status_of_a_fresh_database_names_what_is_pending_and_changes_nothing(
    cirkelline: Commands, empty_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", empty_database_url)
    for _ in range(2):
        document = cirkelline("db", "status", "--json").document
        assert document["applied"] == []
        assert document["pending"][0].startswith("001")
    out = cirkelline("db", "status").out
    assert "`cirkelline db migrate` applies them" in out


def test_migrate_applies_once(cirkelline: Commands, empty_database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", empty_database_url)
    first = cirkelline("db", "migrate", "--json")
    assert (first.code, first.document["applied"][0][:3]) == (0, "001")
    assert "is up to date: nothing to apply" in cirkelline("db", "migrate").out
    assert cirkelline("db", "status", "--json").document["pending"] == []


@pytest.mark.parametrize(
    "arguments",
    [("tasks", "list"), ("agents", "list"), ("workers", "list"), ("sessions", "list"), ("tasks", "show", "1234")],
    ids=" ".join,
)
def test_reading_from_a_fresh_given_database_asks_for_migrate_and_changes_nothing(
    arguments: tuple[str, ...], cirkelline: Commands, empty_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", empty_database_url)
    result = cirkelline(*arguments)
    assert (result.code, result.out) == (2, "")
    assert "has no tables of cirkelline yet: run `cirkelline db migrate`, or `cirkelline up`" in result.err
    with psycopg.connect(empty_database_url) as conn:
        assert conn.execute("SELECT to_regnamespace('runtime')").fetchall() == [(None,)]


@pytest.mark.parametrize(
    "arguments",
    [("tasks", "list"), ("tasks", "submit", "a", "b"), ("db", "migrate"), ("db", "status"), ("db", "adopt")],
    ids=" ".join,
)
def test_a_database_that_does_not_answer_is_one_sentence_without_its_password(
    arguments: tuple[str, ...], cirkelline: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", f"postgresql://ivo:{SECRET}@localhost:1/nowhere")
    result = cirkelline(*arguments)
    assert (result.code, result.out, result.err.count("\n")) == (1, "", 1)
    assert "cannot reach database nowhere at localhost:1" in result.err
    assert SECRET not in result.err


@pytest.mark.parametrize(
    "url", ["mysql://x/y", "nonsense", f"http://ivo:{SECRET}@x", "postgresql://", "postgresql:// x"]
)
def test_a_bad_database_url_is_wrong_use_and_never_falls_back(
    url: str, cirkelline: Commands, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DATABASE_URL", url)
    result = cirkelline("tasks", "list")
    assert (result.code, result.out, result.err.count("\n")) == (2, "", 1)
    assert "DATABASE_URL" in result.err
    assert SECRET not in result.err
    assert not (tmp_path / "home").exists()


def test_stop_leaves_a_given_database_alone(cirkelline: Commands, filled: Filled) -> None:
    result = cirkelline("db", "stop", "--force")
    assert (result.code, "DATABASE_URL is set" in result.err) == (2, True)
    assert filled.sql("SELECT 1") == [(1,)]


def test_stop_without_a_server_says_that_none_was_running(cirkelline: Commands) -> None:
    assert cirkelline("db", "stop", "--json").document["stopped"] is False


def test_the_embedded_server_stays_up_for_whoever_asked_for_its_url_until_it_is_stopped(cirkelline: Commands) -> None:
    url = cirkelline("db", "url").out.strip()
    try:
        with psycopg.connect(url) as conn:
            assert conn.execute("SELECT count(*) FROM agents").fetchall() == [(0,)]
    finally:
        stopped = cirkelline("db", "stop", "--force")
    assert stopped.out == "the embedded server has stopped\n"


def test_adopt_without_options_counts_and_changes_nothing(cirkelline: Commands, filled: Filled) -> None:
    assert "there is nothing to adopt" in cirkelline("db", "adopt").out
    task = filled.task(filled.agent())
    filled.sql("UPDATE runtime.tasks SET adopted = TRUE")
    filled.sql("DELETE FROM runtime.queue")
    result = cirkelline("db", "adopt")
    assert "1 task of these is pending and held: `cirkelline db adopt --release` lets them run" in result.out
    assert filled.sql("SELECT 1 FROM runtime.queue") == []
    released = cirkelline("db", "adopt", "--release", "--json").document
    assert (released["released"], released["pending_tasks"]) == (1, 0)
    assert filled.sql("SELECT task_id FROM runtime.queue") == [(task,)]


def test_adopt_from_public_refuses_when_nothing_stands_there(cirkelline: Commands, filled: Filled) -> None:
    filled.agent()
    result = cirkelline("db", "adopt", "--from", "public")
    assert (result.code, "there is nothing to move" in result.err) == (2, True)
    assert cirkelline("db", "adopt", "--from", "private").code == 2


def test_states_are_listed_shown_compared_and_brought_back(cirkelline: Commands, filled: Filled) -> None:
    agent = filled.agent()
    steps = [
        [{"op": "set", "key": "color", "value": "red"}, {"op": "append", "key": "seen", "value": 1}],
        [{"op": "set", "key": "color", "value": "blue"}, {"op": "append", "key": "seen", "value": 2}],
    ]
    for operations in steps:
        filled.task(agent)
        filled.end(agent, operations=operations)
    assert [each["version"] for each in cirkelline("states", "list", "helper", "--json").document["states"]] == [2, 1]
    assert cirkelline("states", "show", "helper", "1", "--json").document["work"] == {"color": "red", "seen": [1]}
    assert '"color": "blue"' in cirkelline("states", "show", "helper").out
    out = cirkelline("states", "diff", "helper").out
    assert '~ work.color: "red" → "blue"' in out
    assert "+ work.seen[1]: 2" in out
    assert "~ stats.completed: 1 → 2" in out
    assert cirkelline("states", "diff", "helper", "1", "2").out == out
    assert cirkelline("states", "diff", "helper", "1").out == out
    assert '~ work.color: "blue" → "red"' in cirkelline("states", "diff", "helper", "2", "1").out
    assert "no difference" in cirkelline("states", "diff", "helper", "2", "2").out
    back = cirkelline("states", "rollback", "helper", "1")
    assert back.out == "agent helper has the work of version 1 again, as version 3\n"
    document = cirkelline("states", "show", "helper", "--json").document
    assert (document["version"], document["work"]["color"], document["stats"]["completed"]) == (3, "red", 2)


NO_STATES = [
    (("show", "helper"), "has no state yet"),
    (("show", "helper", "7"), "there is no state version 7"),
    (("diff", "helper"), "has 0 state versions: it takes two"),
    (("diff", "helper", "1", "2"), "there is no state version 1"),
    (("diff", "helper", "0", "2"), "0 is not in the range"),
    (("rollback", "helper", "1"), "there is no state version 1"),
    (("rollback", "helper", "2147483648"), "is not in the range"),
    (("rollback", "helper", "one"), "'one' is not a valid integer"),
    (("rollback", "helper"), "missing argument 'VERSION'"),
    (("list", "nobody"), "no agent named 'nobody'"),
    (("list", "helper", "--limit", "10001"), "is not in the range"),
]


def test_states_that_are_not_there_are_wrong_use(cirkelline: Commands, filled: Filled) -> None:
    filled.agent()
    for arguments, said in NO_STATES:
        result = cirkelline("states", *arguments)
        assert (result.code, result.out, result.err.count("\n")) == (2, "", 1), (arguments, result)
        assert said in result.err


def test_an_agent_without_states_lists_none(cirkelline: Commands, filled: Filled) -> None:
    filled.agent()
    result = cirkelline("states", "list", "helper")
    assert (result.code, result.out) == (0, "agent helper has no state yet: each task it ends leaves a version\n")


def test_sessions_belong_to_the_user_who_asks(cirkelline: Commands, filled: Filled) -> None:
    session = filled.session(filled.agent(), "ivo@example.com", "good morning", "what\nnow?")
    (mine,) = cirkelline("sessions", "list", "--user", "ivo@example.com", "--json").document["sessions"]
    assert (mine["id"], mine["turns"], mine["title"]) == (str(session), 2, "good morning")
    shown = cirkelline("sessions", "show", str(session)[:8], "--user", "ivo@example.com")
    assert "you said good morning" in shown.out
    assert [
        each["role"]
        for each in cirkelline("sessions", "show", str(session), "--user", "ivo@example.com", "--json").document[
            "messages"
        ]
    ] == ["user", "assistant"] * 2
    filled.session(filled.agent("other"), "eve")
    foreign = cirkelline("sessions", "show", str(session), "--user", "eve")
    assert (foreign.code, "no session of this user" in foreign.err) == (2, True)


def test_whoever_has_never_chatted_has_no_sessions(
    cirkelline: Commands, filled: Filled, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled.agent()
    monkeypatch.setenv("CIRKELLINE_USER", "nova")
    assert cirkelline("sessions", "list").out == "user nova has no sessions (`cirkelline chat` begins one)\n"
    named = cirkelline("sessions", "list", "--user", "nobody")
    assert (named.code, "no user 'nobody'" in named.err) == (2, True)
    assert cirkelline("sessions", "list", "--agent", "nobody").code == 2


def test_a_session_that_is_not_there_is_wrong_use(cirkelline: Commands, filled: Filled) -> None:
    filled.session(filled.agent(), "ivo", "hello")
    for reference in ["%", "", "zzzz", "-", "0" * 200, "\x1b"]:
        result = cirkelline("sessions", "show", "--user", "ivo", "--", reference)
        assert (result.code, result.out, result.err.count("\n")) == (2, "", 1), (reference, result)


def test_workers_are_listed_with_what_they_are(cirkelline: Commands, filled: Filled) -> None:
    assert cirkelline("workers", "list").out == "no worker is running: start one with `cirkelline up`\n"
    agent = filled.agent()
    worker = filled.worker()
    filled.task(agent)
    filled.claim(agent, worker)
    (row,) = cirkelline("workers", "list", "--json").document["workers"]
    assert (row["id"], row["alive"], row["running"], row["slots"]) == (str(worker), True, 1, 4)
    filled.sql("UPDATE runtime.workers SET seen = now() - interval '2 hours'")
    assert "gone since 2h ago" in cirkelline("workers", "list").out
