"""`cirkelline memories`: what is remembered, where it came from, and taking it back."""

from __future__ import annotations

from typing import Any

import pytest
from command_runs import Commands, Filled

MEMORIES = ("memories",)


@pytest.fixture
def memories(cirkelline: Commands, filled: Filled) -> Any:
    del filled

    def run(*arguments: str, user: str | None = "ivo@example.com") -> Any:
        return cirkelline("memories", *arguments, *(("--user", user) if user else ()), "--json").document

    return run


def test_a_fact_is_kept_once_found_by_meaning_and_says_where_it_came_from(memories: Any) -> None:
    first = memories("add", "Lives in Aarhus", "--topic", "Home", user=None)
    again = memories("add", "lives in  AARHUS!", user=None)
    assert (first["known"], again["known"], again["id"]) == (False, True, first["id"])
    memories("add", "Is a vegetarian", user=None)
    found = memories("search", "where is home?", user=None)["memories"]
    assert found[0]["memory"] == "Lives in Aarhus"
    listed = memories("list", user=None)["memories"]
    assert [each["memory"] for each in listed] == ["Is a vegetarian", "Lives in Aarhus"]
    assert [each["topics"] for each in listed] == [None, ["home"]]
    assert all(each["last_used"] is None for each in listed)
    why = memories("why", str(first["id"]), user=None)
    assert (why["origin"], why["message"], why["last_used"]) == ("added", None, None)


def test_what_is_forgotten_or_replaced_is_in_the_archive_and_comes_back(memories: Any) -> None:
    old = memories("add", "Works at Northwind", user=None)["id"]
    new = memories("add", "Found a job with Bluefin", "--replaces", str(old), user=None)
    assert new["replaced"] == ["Works at Northwind"]
    assert [each["id"] for each in memories("list", user=None)["memories"]] == [new["id"]]
    memories("forget", str(new["id"]), user=None)
    archived = memories("list", "--archived", user=None)["memories"]
    assert [(each["id"], each["replaced_by"]) for each in archived] == [(new["id"], None), (old, new["id"])]
    assert memories("undo", str(old), user=None)["restored"][0]["memory"] == "Works at Northwind"
    assert [each["id"] for each in memories("list", user=None)["memories"]] == [old]


def test_nothing_is_forgotten_when_one_of_them_is_not_there(cirkelline: Commands, memories: Any) -> None:
    kept = memories("add", "Likes tea", user=None)["id"]
    result = cirkelline("memories", "forget", str(kept), "999999")
    assert (result.code, result.out) == (2, "")
    assert "no memory of this user has the id '999999'" in result.err
    assert [each["id"] for each in memories("list", user=None)["memories"]] == [kept]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["add", "My password is hunter2"], "secrets are never remembered"),
        (["add", " "], "nothing to remember"),
        (["why", "77"], "no memory of this user has the id '77'"),
        (["undo", "77"], "nothing that was forgotten has the id '77'"),
        (["list", "--topic", "a", "--archived"], "--topic is for what is remembered"),
        (["search", " "], "say what to look for"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(
    cirkelline: Commands, memories: Any, arguments: list[str], expected: str
) -> None:
    memories("add", "Likes tea", user=None)
    result = cirkelline("memories", *arguments)
    assert result.code in {1, 2}
    assert expected in result.err
    assert "Traceback" not in result.err


def test_whoever_has_never_been_here_has_nothing_and_a_named_stranger_is_an_error(
    cirkelline: Commands, memories: Any
) -> None:
    assert memories("list", user=None)["memories"] == []
    assert memories("capture", user=None)["capture"] is None
    assert memories("capture", "on", user=None)["capture"] is True
    assert memories("capture", user=None)["capture"] is True
    result = cirkelline("memories", "list", "--user", "nobody-of-that-name")
    assert (result.code, "no user 'nobody-of-that-name'" in result.err) == (2, True)


def test_a_user_has_it_done_by_the_clock_sees_when_and_ends_it(
    cirkelline: Commands, memories: Any, filled: Filled
) -> None:
    filled.sql("INSERT INTO runtime.users (id, email) VALUES (gen_random_uuid(), 'ivo@example.com')")
    memories("add", "Likes tea")
    said = memories("optimize", "--every", "0  4 * * *", "--tz", "Europe/Copenhagen", "--model", "local:x")
    label = "workflow:memory_optimization/ivo@example.com"
    assert (said["schedule"], said["every"], said["tz"]) == (label, "0 4 * * *", "Europe/Copenhagen")
    (listed,) = cirkelline("schedules", "list", "--json").document["schedules"]
    assert (listed["schedule"], listed["input"], listed["user"]) == (label, '{"model": "local:x"}', "ivo@example.com")
    memories("optimize", "--every", "30 5 * * *")
    upkeep = memories("list")["optimization"]
    assert (upkeep["every"], upkeep["tz"], upkeep["new"], upkeep["run"]) == ("30 5 * * *", "UTC", 1, None)
    assert "gone through by the clock: 30 5 * * * UTC, next " in cirkelline(
        "memories", "list", "--user", "ivo@example.com"
    ).out  # fmt: skip
    assert cirkelline("schedules", "run", label).code == 0
    again = cirkelline("schedules", "run", label)
    assert (again.code, "has nothing to do: nothing new is remembered" in again.err) == (1, True)
    assert filled.sql("SELECT payload FROM runtime.tasks") == [({"input": {}},)]
    assert memories("list")["optimization"]["status"] == "pending"
    assert memories("optimize", "--every", "never") == {"user": "ivo@example.com", "every": None}
    assert cirkelline("schedules", "list", "--json").document["schedules"] == []


def test_a_run_that_somebody_asks_for_takes_the_place_of_one_that_only_waits_in_line(
    cirkelline: Commands, memories: Any, filled: Filled
) -> None:
    memories("add", "Likes tea", user=None)
    first = cirkelline("memories", "optimize", "--json").document["run_id"]
    second = cirkelline("memories", "optimize")
    assert (second.code, f"run {first[:8]}, which waited in line, was cancelled" in second.err) == (0, True)
    assert filled.sql("SELECT status FROM runtime.tasks ORDER BY sequence") == [("cancelled",), ("pending",)]
    filled.sql("UPDATE runtime.tasks SET status = 'running', attempt = 1 WHERE status = 'pending'")
    third = cirkelline("memories", "optimize")
    assert (third.code, "goes through these memories already: wait for its end" in third.err) == (2, True)
    assert filled.sql("SELECT count(*) FROM runtime.tasks") == [(2,)]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--every", "0 4 * *"], "it must have five fields"),
        (["--every", "0 4 31 2 *"], "it must be a cron expression such as"),
        (["--every", "0 4 * * *", "--tz", "Europe/Kopenhagen"], "it must be a time zone such as Europe/Copenhagen"),
        (["--tz", "UTC"], "--tz goes with a time in --every"),
        (["--every", "never", "--tz", "UTC"], "--tz goes with a time in --every"),
        (["--every", "0 4 * * *", "--wait"], "--wait is for a run that begins now"),
        (["--every", "never", "--model", "local:x"], "--model is for runs"),
        (["--model", "nonsense:x"], "'nonsense:x' names no model this runtime knows: write gemini:NAME"),
        (["--model", "locl:x"], "did you mean 'local:x'?"),
        (["--model", "local"], "'local' is no model's whole name"),
        (["--model", "auto"], "'auto' is no model's whole name"),
        (["--every", "0 4 * * *", "--user", "nobody-of-that-name"], "no user 'nobody-of-that-name'"),
    ],
)
def test_what_is_no_time_is_refused_and_nothing_changed(
    cirkelline: Commands, memories: Any, filled: Filled, arguments: list[str], expected: str
) -> None:
    memories("add", "Likes tea", user=None)
    result = cirkelline("memories", "optimize", *arguments)
    assert (result.code, expected in result.err, "Traceback" in result.err) == (2, True, False)
    assert filled.sql("SELECT name FROM runtime.schedules UNION ALL SELECT id::text FROM runtime.tasks") == []
