"""Switching a user off, taking their data along, erasing them: by the commands."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path

import pytest
from command_runs import Commands, Filled


def test_who_is_switched_off_is_shut_out_and_loses_nothing(cirkelline: Commands, filled: Filled) -> None:
    cirkelline("users", "add", "ivo@example.com", stdin=b"correct horse battery\n")
    token = cirkelline("users", "login", "ivo@example.com", stdin=b"correct horse battery\n").out.strip()
    assert token
    agent = filled.agent()
    filled.session(agent, "ivo@example.com", "good morning")
    filled.sql(
        "INSERT INTO runtime.tasks (agent_id, user_id, payload)"
        " SELECT %s, id, '{\"input\": \"later\"}' FROM runtime.users WHERE email = 'ivo@example.com'",
        agent,
    )
    done = cirkelline("users", "deactivate", "ivo@example.com", "--json")
    assert done.document["token_revoked"] is True
    assert done.document["tasks"] == {"cancelled": 1, "asked_to_stop": 0}
    refused = cirkelline("users", "login", "ivo@example.com", stdin=b"correct horse battery\n")
    assert (refused.code, "switched off" in refused.err) == (1, True)
    assert filled.sql("SELECT count(*) FROM runtime.users WHERE auth_token IS NOT NULL") == [(0,)]
    again = cirkelline("users", "deactivate", "ivo@example.com")
    assert "was switched off before" in again.out
    assert "is switched on again" in cirkelline("users", "deactivate", "ivo@example.com", "--undo").out
    assert cirkelline("users", "login", "ivo@example.com", stdin=b"correct horse battery\n").code == 0
    assert len(cirkelline("sessions", "list", "--user", "ivo@example.com", "--json").document["sessions"]) == 1


def test_what_is_done_for_them_by_the_clock_stops_with_them(cirkelline: Commands, filled: Filled) -> None:
    agent = filled.agent()
    filled.session(agent, "ivo", "hi")
    filled.session(agent, "eva", "hi")
    daily = {"cron": "0 9 * * *", "input": "Good morning."}
    ivos = [{**daily, "name": "mail", "user": "ivo@localhost"}, {**daily, "name": "bare", "user": "ivo"}]
    filled.agent(schedules=[*ivos, {**daily, "name": "hers", "user": "eva"}, {**daily, "name": "all"}])
    paused = "SELECT name FROM runtime.schedules WHERE paused ORDER BY name"
    assert "2 schedules of theirs paused" in cirkelline("users", "deactivate", "ivo").out
    assert filled.sql(paused) == [("bare",), ("mail",)]
    refused = cirkelline("schedules", "run", "helper/mail")
    assert (refused.code, "switched off" in refused.err) == (1, True)
    assert cirkelline("users", "deactivate", "ivo", "--json").document["schedules_paused"] == 0
    cirkelline("users", "deactivate", "ivo", "--undo")
    assert filled.sql(paused) == [("bare",), ("mail",)]
    done = cirkelline("users", "delete", "ivo", "--yes", "--json")
    assert done.document["rows"]["runtime.schedules"] == 2
    assert filled.sql("SELECT name FROM runtime.schedules ORDER BY name") == [("all",), ("hers",)]


def test_a_user_without_a_login_can_be_switched_off_too(cirkelline: Commands, filled: Filled) -> None:
    filled.session(filled.agent(), "ivo", "hi")
    assert cirkelline("users", "deactivate", "ivo").code == 0
    refused = cirkelline("sessions", "list", "--user", "ivo")
    assert (refused.code != 0, "switched off" in refused.err) == (True, True)
    assert cirkelline("users", "login", "ivo", stdin=b"!\n").code == 1
    assert "on again" in cirkelline("users", "deactivate", "ivo", "--undo").out


def test_an_archive_holds_all_of_one_user_and_nothing_of_another(
    cirkelline: Commands, filled: Filled, tmp_path: Path
) -> None:
    agent = filled.agent()
    filled.session(agent, "ivo", "ivos words")
    filled.session(agent, "eva", "evas words")
    place = tmp_path / "ivo.zip"
    done = cirkelline("users", "export", "ivo", "--output", str(place), "--json")
    assert done.document["rows"]["runtime.messages"] == 2
    assert place.stat().st_mode & 0o077 == 0
    with zipfile.ZipFile(io.BytesIO(place.read_bytes())) as archive:
        files = {name: archive.read(name).decode() for name in archive.namelist()}
    assert json.loads(files["user.json"])["email"] == "ivo@localhost"
    assert "README.txt" in files
    rows = {name: [json.loads(line) for line in text.splitlines()] for name, text in files.items() if "jsonl" in name}
    assert {name.removesuffix(".jsonl"): len(found) for name, found in rows.items()} == done.document["rows"]
    everything = "".join(files.values())
    assert "ivos words" in everything
    assert "evas words" not in everything
    refused = cirkelline("users", "export", "ivo", "--output", str(place))
    assert (refused.code, "is there already" in refused.err) == (2, True)


def test_nothing_is_erased_unless_it_is_agreed_to(cirkelline: Commands, filled: Filled) -> None:
    filled.session(filled.agent(), "ivo", "hi")
    for arguments, code in [
        (("ivo",), 2),
        (("nobody", "--yes"), 2),
        (("00000000-0000-0000-0000-000000000000", "--yes"), 2),
    ]:
        result = cirkelline("users", "delete", *arguments)
        assert (result.code, result.out, result.err.count("\n")) == (code, "", 1), result
    assert filled.sql("SELECT count(*) FROM runtime.messages") == [(2,)]


def test_who_is_erased_is_gone_and_can_be_erased_again_by_id(cirkelline: Commands, filled: Filled) -> None:
    agent = filled.agent()
    filled.session(agent, "ivo", "ivos words")
    filled.session(agent, "eva", "evas words")
    done = cirkelline("users", "delete", "ivo", "--yes", "--json")
    assert (done.code, done.document["rows"]["runtime.messages"]) == (0, 2)
    gone = cirkelline("sessions", "list", "--user", "ivo")
    assert (gone.code, "no user 'ivo'" in gone.err) == (2, True)
    assert filled.sql("SELECT count(*) FROM runtime.messages") == [(2,)]
    identity = done.document["id"]
    filled.sql(
        "INSERT INTO ai.agno_memories (memory_id, user_id, memory) VALUES (gen_random_uuid(), %s, 'late')", identity
    )
    again = cirkelline("users", "delete", identity, "--yes")
    assert (again.code, "1 row" in again.out) == (0, True)


@pytest.mark.parametrize("command", ["deactivate", "export", "delete"])
def test_a_user_that_is_not_there_is_wrong_use(cirkelline: Commands, filled: Filled, command: str) -> None:
    filled.agent()
    result = cirkelline("users", command, "nobody")
    assert (result.code, result.out, result.err.count("\n"), "no user 'nobody'" in result.err) == (2, "", 1, True)
