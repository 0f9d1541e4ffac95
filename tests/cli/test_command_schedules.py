"""`schedules`: seeing and steering what agents do by the clock."""

from __future__ import annotations

import pytest
from command_runs import Commands, Filled

DAILY = {"cron": "0 9 * * *", "input": "Good morning."}


def test_list_pause_resume_and_run(cirkelline: Commands, filled: Filled) -> None:
    agent = filled.agent(schedules=[DAILY, {**DAILY, "name": "second", "tz": "Asia/Tokyo"}])
    rows = cirkelline("schedules", "list").out.splitlines()
    assert [row.split()[0] for row in rows] == ["schedule", "helper/1", "helper/second"]
    assert cirkelline("schedules", "pause", "helper/second").out == "schedule helper/second is paused\n"
    assert cirkelline("schedules", "list", "--json").document["schedules"][1]["paused"] is True
    assert cirkelline("schedules", "resume", "helper/second").code == 0
    assert "submitted for schedule helper/1" in cirkelline("schedules", "run", "helper/1").out
    assert filled.sql("SELECT agent_id, payload FROM runtime.tasks") == [(agent, {"input": "Good morning."})]


def test_one_schedule_goes_by_its_agent(cirkelline: Commands, filled: Filled) -> None:
    filled.agent(schedules=[DAILY])
    assert cirkelline("schedules", "pause", "helper").out == "schedule helper/1 is paused\n"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("nobody", "'nobody' is no schedule"),
        ("helper", "has more than one schedule"),
        ("helper/3", "is no schedule"),
        ("", "it is empty"),
    ],
)
def test_what_is_no_schedule_is_refused(name: str, said: str, cirkelline: Commands, filled: Filled) -> None:
    filled.agent(schedules=[DAILY, DAILY])
    for command in ("pause", "resume", "run"):
        result = cirkelline("schedules", command, name)
        assert (result.code, said in result.err, result.err.count("\n")) == (2, True, 1)
    assert filled.sql("SELECT 1 FROM runtime.tasks") == []


def test_without_schedules_it_says_how_to_make_one(cirkelline: Commands, filled: Filled) -> None:
    filled.agent()
    assert "no agent has a schedule" in cirkelline("schedules", "list").out
