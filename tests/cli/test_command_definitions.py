"""`agents validate` and `agents apply`: every fault of every file at its place, and nothing changed by a bad one."""

from __future__ import annotations

from pathlib import Path

import pytest
from command_runs import Commands, Filled
from malformed import MALFORMED, Malformed

GOOD = "name: {name}\ninstructions: Help.\nmodel: scripted:{script}\n"


def agent_file(folder: Path, name: str, more: str = "", instructions: str = "Help.") -> Path:
    script = folder / "answers.script.yaml"
    folder.mkdir(parents=True, exist_ok=True)
    script.write_text("turns:\n  - text: good day\n")
    path = folder / f"{name}.yaml"
    path.write_text(f"name: {name}\ninstructions: {instructions}\nmodel: scripted:{script}\n{more}")
    return path


@pytest.fixture(params=MALFORMED, ids=lambda case: case.name.replace(" ", "-"))
def case(request: pytest.FixtureRequest, tmp_path: Path) -> Malformed:
    for name, content in request.param.files.items():
        path = tmp_path / "configs" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    found: Malformed = request.param
    return found


def assert_one_located_sentence(case: Malformed, err: str, tmp_path: Path) -> None:
    located = [line for line in err.splitlines() if line.startswith(str(tmp_path))]
    assert len(located) == 1, err
    assert located[0].startswith(f"{tmp_path / 'configs' / case.path}:{case.line}:{case.column}: ")
    assert case.expected in located[0]
    assert "Traceback" not in err
    assert not {"sk-live", "hunter2"} & {word for word in ("sk-live", "hunter2") if word in err}


def test_validate_names_the_place_of_the_fault(case: Malformed, cirkelline: Commands, tmp_path: Path) -> None:
    result = cirkelline("agents", "validate", str(tmp_path / "configs"))
    assert (result.code, result.out) == (2, "")
    assert_one_located_sentence(case, result.err, tmp_path)
    assert result.err.splitlines()[-1] == "error: 1 problem in 1 file"


def test_apply_names_the_place_of_the_fault_before_it_looks_for_the_database(
    case: Malformed, cirkelline: Commands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://localhost:1/nowhere")
    agent_file(tmp_path / "configs", "sound")
    result = cirkelline("agents", "apply", str(tmp_path / "configs"))
    assert (result.code, result.out) == (2, "")
    assert_one_located_sentence(case, result.err, tmp_path)
    assert result.err.splitlines()[-1] == "error: 1 problem in 1 file; nothing was changed"


def test_one_bad_file_keeps_every_other_file_out_of_the_database(
    cirkelline: Commands, filled: Filled, tmp_path: Path
) -> None:
    agent_file(tmp_path / "configs", "helper", instructions="Help.")
    cirkelline("agents", "apply")
    agent_file(tmp_path / "configs", "helper", instructions="Help more.")
    agent_file(tmp_path / "configs", "another")
    agent_file(tmp_path / "configs", "bad", "toolz: []\n")
    for arguments in ([], ["--prune"], ["--dry-run"]):
        result = cirkelline("agents", "apply", *arguments, "--json")
        assert (result.code, result.document["applied"], len(result.document["problems"])) == (2, False, 1)
    assert filled.sql("SELECT handle, definition_version FROM runtime.agents") == [("helper", 1)]


def test_validate_reports_all_faults_of_all_files_at_once(cirkelline: Commands, tmp_path: Path) -> None:
    agent_file(tmp_path, "one", "toolz: [calculate]\nlimits: {steps: many}\n")
    agent_file(tmp_path, "two", "tools: [calcullator, {python: 'os:system'}]\n")
    agent_file(tmp_path, "three")
    result = cirkelline("agents", "validate", str(tmp_path), "--json")
    assert result.code == 2
    document = result.document
    assert document["valid"] is False
    places = {(Path(each["file"]).name, each["line"]) for each in document["problems"]}
    assert places == {("one.yaml", 4), ("one.yaml", 5), ("two.yaml", 4)}
    assert len(document["problems"]) == 4
    assert "did you mean 'tools'?" in result.err
    assert "did you mean 'calculate'?" in result.err
    assert "'os:system'" in result.err
    assert result.err.splitlines()[-1] == "error: 4 problems in 2 files"


def test_validate_of_sound_files_needs_no_database(
    cirkelline: Commands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://localhost:1/nowhere")
    agent_file(tmp_path / "configs", "one")
    agent_file(tmp_path / "configs", "two")
    result = cirkelline("agents", "validate")
    assert (result.code, result.out, result.err) == (0, "2 agents in 2 files, all valid: one, two\n", "")
    assert [each["name"] for each in cirkelline("agents", "validate", "--json").document["agents"]] == ["one", "two"]


def test_validate_finds_python_tools_beside_the_files_and_keeps_what_they_print_out_of_the_answer(
    cirkelline: Commands, tmp_path: Path
) -> None:
    agent_file(tmp_path / "configs", "one", 'tools: [{python: "shop:price"}]\n')
    (tmp_path / "tools").mkdir()
    (tmp_path / "tools" / "shop.py").write_text(
        'print("loading")\n\ndef price(item: str) -> int:\n    """Price."""\n    return 1\n'
    )
    result = cirkelline("agents", "validate", "--json")
    assert (result.code, result.document["valid"]) == (0, True)
    assert result.err == "loading\n"


NO_FILES: list[tuple[list[str], str]] = [
    ([], "there are no agent files here"),
    (["nowhere"], "nowhere:1:1: "),
    (["empty"], "no agent file (*.yaml, *.yml) in empty"),
    (["empty", "--tools", "nowhere"], "'nowhere' is not there: name a folder"),
    (["empty", "--tools", "x" * 5000], "cannot be opened"),
    ([""], "it is empty"),
    (["x" * 5000], "too long"),
    (["bad\udcffname"], ":1:1: "),
    (["/proc/self/mem"], ":1:1: "),
    (["/dev/zero"], ":1:1: "),
]


@pytest.mark.parametrize("command", ["validate", "apply"])
def test_paths_that_give_no_definition_are_wrong_use(command: str, cirkelline: Commands, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for arguments, said in NO_FILES:
        result = cirkelline("agents", command, *arguments)
        assert (result.code, result.out) == (2, ""), (arguments, result)
        assert said in result.err
        assert "Traceback" not in result.err


def test_an_auto_that_finds_no_model_is_a_problem_of_its_file_and_changes_nothing(
    cirkelline: Commands, filled: Filled, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent_file(tmp_path / "configs", "sound")
    (tmp_path / "configs" / "auto.yaml").write_text("name: auto\ninstructions: Help.\nmodel: auto\n")
    monkeypatch.setenv("OPENAI_BASE_URL", "http://localhost:1/v1")
    result = cirkelline("agents", "apply")
    assert (result.code, result.out) == (2, "")
    assert result.err.startswith(f"{tmp_path / 'configs' / 'auto.yaml'}:3:8: ")
    assert result.err.endswith("error: 1 problem in 1 file; nothing was changed\n")
    assert filled.sql("SELECT count(*) FROM runtime.agents") == [(0,)]


def test_a_key_that_comes_later_changes_a_model_only_with_resolve_auto(
    cirkelline: Commands, filled: Filled, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "one.yaml").write_text("name: one\ninstructions: Help.\n")
    cirkelline("agents", "apply")
    monkeypatch.setenv("GOOGLE_API_KEY", "AIza-nothing-that-works")
    assert cirkelline("agents", "apply").out.splitlines()[-1] == "1 unchanged"
    again = cirkelline("agents", "apply", "--resolve-auto")
    assert "  +auto stands for gemini:gemini-2.5-flash\n" in again.out
    assert again.out.splitlines()[-1] == "1 updated"
    assert filled.sql("SELECT definition_version FROM runtime.agents") == [(2,)]


def test_apply_creates_updates_and_keeps(cirkelline: Commands, filled: Filled, tmp_path: Path) -> None:
    agent_file(tmp_path / "configs", "one")
    first = cirkelline("agents", "apply", "--json")
    (item,) = first.document["agents"]
    assert (first.code, item["action"], item["version"]) == (0, "create", 1)
    assert item["model"].startswith("scripted:")
    agent_file(tmp_path / "configs", "one", instructions="Help more.")
    second = cirkelline("agents", "apply")
    assert "update     one, replacing version 1" in second.out
    assert "  -instructions: Help.\n  +instructions: Help more.\n" in second.out
    assert second.out.splitlines()[-1] == "1 updated"
    assert cirkelline("agents", "apply").out.splitlines()[-1] == "1 unchanged"
    agent_file(tmp_path / "configs", "one")
    older = cirkelline("agents", "apply")
    assert "older      one: the file is version 1, version 2 stays" in older.out
    assert filled.sql("SELECT definition_version FROM runtime.agents") == [(2,)]


def test_a_dry_run_shows_the_plan_and_writes_nothing(cirkelline: Commands, filled: Filled, tmp_path: Path) -> None:
    agent_file(tmp_path / "configs", "one")
    result = cirkelline("agents", "apply", "--dry-run")
    assert "create     one" in result.out
    assert result.out.splitlines()[-1] == "dry run, nothing was changed; it would be: 1 created"
    assert cirkelline("agents", "apply", "--dry-run", "--json").document["applied"] is False
    assert filled.sql("SELECT count(*) FROM runtime.agents") == [(0,)]


def test_a_removed_file_is_reported_and_retired_only_when_asked(
    cirkelline: Commands, filled: Filled, tmp_path: Path
) -> None:
    agent_file(tmp_path / "configs", "stays")
    gone = agent_file(tmp_path / "configs", "gone")
    cirkelline("agents", "apply")
    gone.unlink()
    assert "not in any file any more: gone (`--prune` retires what is missing)" in cirkelline("agents", "apply").out
    assert cirkelline("agents", "list", "--json").document["agents"][0]["status"] == "idle"
    pruned = cirkelline("agents", "apply", "--prune", "--json")
    assert pruned.document["retired"] == ["gone"]
    assert filled.sql("SELECT status FROM runtime.agents WHERE handle = 'gone'") == [("retired",)]


@pytest.mark.usefixtures("filled")
def test_pruning_one_file_leaves_the_other_files_agents_alone(cirkelline: Commands, tmp_path: Path) -> None:
    one = agent_file(tmp_path / "configs", "one")
    agent_file(tmp_path / "configs", "two")
    cirkelline("agents", "apply")
    assert cirkelline("agents", "apply", str(one), "--prune", "--json").document["retired"] == []


@pytest.mark.usefixtures("filled")
def test_a_model_that_cannot_run_here_is_warned_about(cirkelline: Commands, tmp_path: Path) -> None:
    agent_file(tmp_path / "configs", "one")
    (tmp_path / "configs" / "two.yaml").write_text("name: two\ninstructions: Help.\nmodel: gemini:gemini-2.5-flash\n")
    result = cirkelline("agents", "apply")
    assert result.code == 0
    assert "warning: agent two cannot run on this machine: " in result.err
    assert "GOOGLE_API_KEY" in result.err
    assert result.err.count("warning") == 1


def test_apply_brings_a_fresh_given_database_up_to_date(
    cirkelline: Commands, empty_database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", empty_database_url)
    agent_file(tmp_path / "configs", "one")
    assert cirkelline("agents", "apply").code == 0
    assert cirkelline("agents", "list", "--json").document["agents"][0]["name"] == "one"


def test_the_schema_is_one_json_schema_with_and_without_json(cirkelline: Commands) -> None:
    plain, document = cirkelline("agents", "schema"), cirkelline("agents", "schema", "--json")
    assert plain.document == document.document
    assert "instructions" in plain.document["properties"]
