"""`doctor`: each line is true at this moment, and what is wrong comes with its remedy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from command_runs import Commands, Filled, Result


def checks(result: Result, topic: str) -> list[dict[str, Any]]:
    return [check for check in result.document["checks"] if check["topic"] == topic]


def only(result: Result, topic: str) -> tuple[str, str]:
    (check,) = checks(result, topic)
    return check["verdict"], check["says"]


def test_a_sound_installation_is_fine_and_exits_0(cirkelline: Commands, filled: Filled, tmp_path: Path) -> None:
    script = tmp_path / "answers.yaml"
    script.write_text("- text: hello\n")
    filled.agent(model=f"scripted:{script}")
    filled.worker()
    result = cirkelline("doctor", "--json")
    assert (result.code, result.document["ok"], result.err) == (0, True, "")
    assert {check["topic"] for check in result.document["checks"] if check["verdict"] == "broken"} == set()
    assert only(result, "PostgreSQL")[0] == only(result, "pgvector")[0] == only(result, "schema")[0] == "fine"
    assert only(result, "workers")[1].startswith("1 alive with 4 slots")
    assert only(result, "agents") == ("fine", "1 of 1 can run on this machine")


def test_without_json_every_finding_is_a_line_and_every_remedy_an_arrow(cirkelline: Commands, filled: Filled) -> None:
    filled.agent()
    result = cirkelline("doctor")
    assert result.code == 1
    assert "BROKEN  agent helper cannot run on this machine\n" in result.out
    assert "→ " in result.out
    assert result.err == "error: 1 thing to put right\n"


def test_a_missing_worker_is_told_with_the_remedy_and_is_no_fault(cirkelline: Commands, filled: Filled) -> None:
    filled.sql("SELECT 1")
    result = cirkelline("doctor", "--json")
    (check,) = checks(result, "workers")
    assert (result.code, check["verdict"], check["remedy"]) == (0, "notice", "`cirkelline up` starts one")


def test_an_agent_that_lacks_its_model_is_broken(cirkelline: Commands, filled: Filled) -> None:
    filled.agent(model="gemini:gemini-2.5-flash")
    result = cirkelline("doctor", "--json")
    (check,) = checks(result, "agents")
    assert (result.code, check["verdict"]) == (1, "broken")
    assert check["says"] == "agent helper cannot run on this machine"
    assert "GOOGLE_API_KEY" in check["remedy"]


def test_an_agent_that_lacks_a_tool_is_broken(cirkelline: Commands, filled: Filled) -> None:
    filled.agent(tools=[{"python": "shop:price"}])
    (check,) = checks(cirkelline("doctor", "--json"), "agents")
    assert (check["verdict"], "shop:price" in check["remedy"]) == ("broken", True)


def test_an_invalid_row_is_broken_but_an_adopted_one_is_only_mentioned(cirkelline: Commands, filled: Filled) -> None:
    filled.sql("INSERT INTO runtime.agents (name, type, problem) VALUES ('theirs', 'x', 'no instructions')")
    assert checks(cirkelline("doctor", "--json"), "agents")[0]["verdict"] == "broken"
    filled.sql("UPDATE runtime.agents SET adopted = TRUE")
    (check,) = checks(cirkelline("doctor", "--json"), "agents")
    assert (check["verdict"], "agent theirs" in check["says"]) == ("notice", True)


def test_held_tasks_are_told_with_the_way_to_release_them(cirkelline: Commands, filled: Filled) -> None:
    filled.task(filled.agent())
    filled.sql("UPDATE runtime.tasks SET adopted = TRUE")
    (check,) = checks(cirkelline("doctor", "--json"), "adoption")
    assert (check["verdict"], check["remedy"]) == ("notice", "`cirkelline db adopt --release` lets them run")


def test_the_agents_databases_tables_in_public_are_named(cirkelline: Commands, filled: Filled) -> None:
    filled.sql("CREATE TABLE public.tasks (LIKE runtime.tasks)")
    for name in ("agents", "agent_states", "sessions"):
        filled.sql(f"CREATE TABLE public.{name} (LIKE runtime.{name})")
    found = checks(cirkelline("doctor", "--json"), "adoption")
    assert any("stand in public" in check["says"] and "--from public" in check["remedy"] for check in found)


def test_a_dead_worker_with_tasks_is_named(cirkelline: Commands, filled: Filled) -> None:
    agent = filled.agent()
    filled.task(agent)
    filled.claim(agent, filled.worker())
    filled.sql("UPDATE runtime.workers SET seen = now() - interval '2 hours'")
    says = [check["says"] for check in checks(cirkelline("doctor", "--json"), "workers")]
    assert "here:1 is gone and still holds 1 task" in says


def test_pending_migrations_are_told_and_nothing_is_made(
    cirkelline: Commands, empty_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", empty_database_url)
    for _ in range(2):
        result = cirkelline("doctor", "--json")
        (check,) = checks(result, "schema")
        assert (result.code, check["verdict"]) == (0, "notice")
        assert "`cirkelline db migrate` applies them" in check["remedy"]


def test_an_edited_migration_is_broken(cirkelline: Commands, filled: Filled) -> None:
    filled.sql("UPDATE runtime.migrations SET sha256 = 'x' WHERE name LIKE '001%%'")
    result = cirkelline("doctor", "--json")
    broken = [check["says"] for check in result.document["checks"] if check["verdict"] == "broken"]
    assert (result.code, len(broken), "was edited after it had been applied" in broken[0]) == (1, 1, True)


def test_an_unreachable_database_is_broken_and_the_rest_is_still_checked(
    cirkelline: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://ivo:hunter2hunter2@localhost:1/nowhere")
    result = cirkelline("doctor", "--json")
    assert (result.code, only(result, "database")[0], only(result, "disk")[0]) == (1, "broken", "fine")
    assert "hunter2" not in result.out + result.err
    settings = {each["name"]: (each["value"], each["source"]) for each in result.document["settings"]}
    assert settings["DATABASE_URL"] == ("postgresql://ivo:***@localhost:1/nowhere", "environment")
    assert settings["CIRKELLINE_CONCURRENCY"] == ("8", "default")


def test_no_embedded_database_is_made_to_be_checked(cirkelline: Commands, tmp_path: Path) -> None:
    result = cirkelline("doctor", "--json")
    assert only(result, "database")[0] == "fine"
    assert not (tmp_path / "home").exists()


def test_a_bad_setting_is_the_one_thing_that_is_said(cirkelline: Commands, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CIRKELLINE_CONCURRENCY", "many")
    result = cirkelline("doctor", "--json")
    assert (result.code, only(result, "settings")[0]) == (1, "broken")
    assert "CIRKELLINE_CONCURRENCY" in only(result, "settings")[1]


def test_a_mistyped_variable_is_noticed(cirkelline: Commands, filled: Filled, monkeypatch: pytest.MonkeyPatch) -> None:
    filled.sql("SELECT 1")
    monkeypatch.setenv("CIRKELLINE_CONCURENCY", "9")
    monkeypatch.setenv("CIRKELLINE_DEBUG", "0")
    monkeypatch.setenv("CIRKELLINE_OPENAI_MODEL", "m")
    noticed = [check for check in checks(cirkelline("doctor", "--json"), "settings") if check["verdict"] == "notice"]
    assert [(check["says"], check["remedy"]) for check in noticed] == [
        ("CIRKELLINE_CONCURENCY is set and means nothing", "did you mean CIRKELLINE_CONCURRENCY?")
    ]


def test_a_secret_is_never_shown(cirkelline: Commands, filled: Filled, monkeypatch: pytest.MonkeyPatch) -> None:
    filled.sql("SELECT 1")
    monkeypatch.setenv("GOOGLE_API_KEY", "AIza-very-secret-indeed")
    for arguments in (("doctor",), ("doctor", "--json")):
        result = cirkelline(*arguments)
        assert "very-secret" not in result.out + result.err
        assert "***" in result.out


def test_agent_files_are_checked_where_they_are(cirkelline: Commands, filled: Filled, tmp_path: Path) -> None:
    filled.sql("SELECT 1")
    folder = tmp_path / "configs"
    folder.mkdir()
    (folder / "one.yaml").write_text("name: one\ninstructions: Help.\n")
    assert only(cirkelline("doctor", "--json"), "agent files") == ("fine", f"1 valid in {folder} (one)")
    (folder / "two.yaml").write_text("name: two\ninstructoins: Help.\n")
    result = cirkelline("doctor", "--json", "--configs", str(folder))
    (check,) = checks(result, "agent files")
    assert (result.code, check["verdict"]) == (1, "broken")
    assert f"{folder / 'two.yaml'}:" in check["says"]
    assert check["remedy"] == "`cirkelline agents validate` lists them all"


def test_a_price_list_is_read_before_a_worker_stumbles_over_it(
    cirkelline: Commands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "prices.yaml"
    path.write_text("models:\n  openai:m: {input: 1, output: 2}\n")
    monkeypatch.setenv("CIRKELLINE_PRICES", str(path))
    assert only(cirkelline("doctor", "--json"), "prices")[0] == "fine"
    path.write_text("models: 3\n")
    result = cirkelline("doctor", "--json")
    assert (result.code, only(result, "prices")[0]) == (1, "broken")
    assert f"{path}:1:9:" in only(result, "prices")[1]


def test_what_cannot_be_searched_yet_is_told(cirkelline: Commands, filled: Filled) -> None:
    filled.sql("SELECT 1")
    assert only(cirkelline("doctor", "--json"), "knowledge") == ("fine", "0 documents with 0 chunks can be searched")
    filled.sql("""INSERT INTO ai.agno_knowledge (name, metadata) VALUES ('d', '{"user_id": "user-123"}')""")
    filled.sql("SELECT runtime.take_in_again()")
    filled.sql("INSERT INTO ai.knowledge_failures (kind, subject, problem, tries) VALUES ('chunk', 7, 'too long', 3)")
    filled.sql("DROP INDEX ai.idx_vectors_embedding")
    said = {check["says"]: check["verdict"] for check in checks(cirkelline("doctor", "--json"), "knowledge")}
    assert said == {
        "1 document with 0 chunks can be searched; 1 row of other programs cannot be found yet": "notice",
        "1 row could not be taken in and cannot be found, as chunk 7: too long": "notice",
        "the index idx_vectors_embedding is not there; no search of cirkelline's needs it, other programs' may": "notice",
    }


def test_it_says_whether_memories_are_gone_through_by_themselves_and_whose_last_run_failed(
    cirkelline: Commands, filled: Filled, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled.sql("INSERT INTO ai.agno_memories (memory_id, user_id, memory) VALUES (gen_random_uuid(), 'eva', 'x')")
    says = "1 memory of 1 user; memory_optimization begins by itself after 200 new ones of a user"
    assert only(cirkelline("doctor", "--json"), "memory") == ("fine", says)
    monkeypatch.setenv("CIRKELLINE_OPTIMIZE_AFTER", "0")
    assert only(cirkelline("doctor", "--json"), "memory")[1].endswith("memory_optimization does not begin by itself")
    task = filled.task(filled.agent())
    filled.sql("UPDATE runtime.tasks SET status = 'failed' WHERE id = %s", task)
    filled.sql("INSERT INTO ai.memory_upkeep VALUES (gen_random_uuid(), 1, %s, now())", task)
    (_, failed) = checks(cirkelline("doctor", "--json"), "memory")
    assert (failed["verdict"], failed["says"]) == (
        "notice", "the last run of memory_optimization failed for 1 user",
    )  # fmt: skip
