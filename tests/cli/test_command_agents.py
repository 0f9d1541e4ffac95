"""`agents list|show|history|rollback|retire|pause|resume|search`."""

from __future__ import annotations

import pytest
from command_runs import Commands, Filled


def only(cirkelline: Commands, *arguments: str) -> dict[str, object]:
    (found,) = cirkelline("agents", "list", *arguments, "--json").document["agents"]
    assert isinstance(found, dict)
    return found


@pytest.mark.usefixtures("filled")
def test_list_says_how_to_begin_when_there_is_none(cirkelline: Commands) -> None:
    assert cirkelline("agents", "list").out == "no agents yet: `cirkelline agents apply` takes them from YAML files\n"


def test_list_shows_model_status_and_what_it_is_about(cirkelline: Commands, filled: Filled) -> None:
    agent = filled.agent(description="Helps people.")
    head, line = cirkelline("agents", "list").out.splitlines()
    assert head.split() == ["agent", "status", "model", "version", "type", "about"]
    assert line.split()[:5] == ["helper", "idle", "scripted:/nowhere.yaml", "1", "assistant"]
    assert line.endswith("Helps people.")
    filled.task(agent)
    filled.claim(agent, filled.worker())
    assert "busy with 1" in cirkelline("agents", "list").out
    assert (only(cirkelline)["status"], only(cirkelline)["busy"]) == ("busy", 1)


def test_list_says_what_is_wrong_with_a_row_of_plain_sql(cirkelline: Commands, filled: Filled) -> None:
    filled.sql("INSERT INTO runtime.agents (name, type) VALUES (%s, 'x')", "their \x1b[31m agent")
    assert only(cirkelline)["status"] == "unchecked"
    filled.sql("UPDATE runtime.agents SET problem = 'the config must be a JSON object'")
    assert only(cirkelline)["status"] == "invalid"
    out = cirkelline("agents", "list").out
    assert "the config must be a JSON object" in out
    assert "\x1b" not in out


def test_show_takes_a_handle_an_id_and_a_unique_name(cirkelline: Commands, filled: Filled) -> None:
    agent = filled.agent(instructions="Be kind.\nBe brief.", tools=["calculate"], limits={"concurrency": 3})
    for reference in ("helper", str(agent)):
        result = cirkelline("agents", "show", reference)
        assert result.code == 0
        assert "Instructions:\nBe kind.\nBe brief.\n" in result.out
        assert "20 steps, 5m for a task, 3 at once" in result.out
    document = cirkelline("agents", "show", "helper", "--json").document
    assert (document["id"], document["version"], document["waiting"]) == (str(agent), 1, 0)
    assert document["definition"]["tools"] == ["calculate"]


def test_two_agents_of_one_name_are_told_apart_by_id(cirkelline: Commands, filled: Filled) -> None:
    for _ in range(2):
        filled.sql("INSERT INTO runtime.agents (name, type) VALUES ('Twin', 'x')")
    result = cirkelline("agents", "show", "Twin")
    assert (result.code, "more than one agent is named 'Twin': give its id" in result.err) == (2, True)


def test_history_and_rollback_go_back_and_forth(cirkelline: Commands, filled: Filled) -> None:
    filled.agent(instructions="One.")
    filled.agent(instructions="Two.", limits={"concurrency": 5})
    document = cirkelline("agents", "history", "helper", "--json").document
    assert (document["current"], [each["version"] for each in document["versions"]]) == (2, [2, 1])
    assert "2 (current)" in cirkelline("agents", "history", "helper").out
    back = cirkelline("agents", "rollback", "helper", "1")
    assert back.out == "agent helper is at version 1 again, instead of version 2\n"
    assert filled.sql("SELECT definition_version, config ->> 'instructions' FROM runtime.agents") == [(1, "One.")]
    assert filled.sql("SELECT cap FROM runtime.agent_heads") == [(None,)]
    assert cirkelline("agents", "rollback", "helper", "2").code == 0
    assert filled.sql("SELECT cap FROM runtime.agent_heads") == [(5,)]
    assert cirkelline("agents", "rollback", "helper", "2", "--json").document["changed"] is False


def test_a_version_that_is_not_there_is_wrong_use(cirkelline: Commands, filled: Filled) -> None:
    filled.agent()
    for version in ["0", "-1", "3", "x", "1.0", "2147483648", "9" * 50, ""]:
        result = cirkelline("agents", "rollback", "--", "helper", version)
        assert (result.code, result.out, result.err.count("\n")) == (2, "", 1), (version, result)
    assert filled.sql("SELECT definition_version FROM runtime.agents") == [(1,)]


@pytest.mark.parametrize(("command", "status"), [("pause", "paused"), ("retire", "retired"), ("resume", "idle")])
def test_a_status_is_set_once_and_said_again(command: str, status: str, cirkelline: Commands, filled: Filled) -> None:
    filled.agent()
    filled.sql("UPDATE runtime.agents SET status = %s", "paused" if command == "resume" else "idle")
    first, second = (cirkelline("agents", command, "helper", "--json") for _ in range(2))
    assert (first.code, first.document["status"], first.document["changed"]) == (0, status, True)
    assert (second.code, second.document["changed"]) == (0, False)
    assert filled.sql("SELECT status FROM runtime.agents") == [(status,)]


def test_pausing_says_what_goes_on_and_what_waits(cirkelline: Commands, filled: Filled) -> None:
    agent = filled.agent()
    filled.task(agent)
    filled.claim(agent, filled.worker())
    filled.task(agent)
    said = cirkelline("agents", "pause", "helper").out
    assert said == "agent helper is paused; 1 task already running goes on; 1 task in line stays there\n"


def test_a_retired_agent_is_listed_only_with_all(cirkelline: Commands, filled: Filled) -> None:
    filled.agent()
    cirkelline("agents", "retire", "helper")
    assert cirkelline("agents", "list", "--json").document["agents"] == []
    assert only(cirkelline, "--all")["status"] == "retired"


def test_search_finds_by_beginnings_of_the_name(cirkelline: Commands, filled: Filled) -> None:
    filled.agent("market-research")
    filled.agent("other")
    found = cirkelline("agents", "search", "rese", "mark", "--json").document["agents"]
    assert [each["name"] for each in found] == ["market-research"]
    assert "no agent's name holds 'zzz'" in cirkelline("agents", "search", "zzz").out


NO_AGENTS = ["nobody", "", " ", "a\nb", "\x00", "x" * 256, "'; DROP TABLE agents --", "\udcff", "%"]


@pytest.mark.parametrize("command", ["show", "history", "pause", "resume", "retire"])
def test_an_agent_that_is_not_there_is_wrong_use(command: str, cirkelline: Commands, filled: Filled) -> None:
    filled.agent()
    for name in NO_AGENTS:
        result = cirkelline("agents", command, name, "--json")
        assert (result.code, result.err.count("\n")) == (2, 1), (name, result)
        assert result.document["error"]["message"] in result.err
