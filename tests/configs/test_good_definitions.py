from __future__ import annotations

import math
from pathlib import Path

import pytest
from agent_files import MINIMAL, definition, load_text, problems, spec, with_lines
from hypothesis import given, settings
from hypothesis import strategies as st

from cirkelline.configs import loading
from cirkelline.configs.schema import AgentSpec, HistorySpec, LimitsSpec, ModelSpec, ToolSpec


def test_a_name_and_instructions_are_an_agent_with_every_default() -> None:
    assert spec(MINIMAL) == AgentSpec(
        name="helper",
        type="assistant",
        description="",
        capabilities=(),
        model=ModelSpec(provider="auto"),
        instructions="Help.",
        tools=(),
        history=HistorySpec(messages=20),
        limits=LimitsSpec(concurrency=None, steps=20, wall=300.0),
    )


def test_every_key_is_read_into_its_field() -> None:
    found = spec("""
version: 1
name: researcher_2-b
type: Facharbeiter für Fakten
description: Finds facts.
capabilities: [research, "7", 'yes']
model: {use: "openai:llama3:8b", base_url: "http://localhost:11434/v1", api_key_env: MY_KEY,
        temperature: 0.25, max_tokens: 5_000}
instructions: |
  Answer.
  # not a comment
tools:
  - calculate
  - {name: note, timeout: 1h}
  - python: billing.cards:charge
    timeout: 250ms
history: {messages: 0}
limits: {concurrency: 4, steps: 1, wall: 1h30m}
""")
    assert found == AgentSpec(
        name="researcher_2-b",
        type="Facharbeiter für Fakten",
        description="Finds facts.",
        capabilities=("research", "7", "yes"),
        model=ModelSpec(
            provider="openai",
            name="llama3:8b",
            base_url="http://localhost:11434/v1",
            api_key_env="MY_KEY",
            temperature=0.25,
            max_tokens=5000,
        ),
        instructions="Answer.\n# not a comment",
        tools=(
            ToolSpec(name="calculate"),
            ToolSpec(name="note", timeout=3600.0),
            ToolSpec(python="billing.cards:charge", timeout=0.25),
        ),
        history=HistorySpec(messages=0),
        limits=LimitsSpec(concurrency=4, steps=1, wall=5400.0),
    )


@pytest.mark.parametrize(
    ("written", "provider", "name"),
    [
        ("auto", "auto", None),
        ("gemini", "gemini", None),
        ("gemini:gemini-2.5-flash", "gemini", "gemini-2.5-flash"),
        ("openai:gpt-5-mini", "openai", "gpt-5-mini"),
        ("local", "local", None),
        ("local:qwen2.5-coder-0.5b", "local", "qwen2.5-coder-0.5b"),
        ("scripted:/srv/demo.yaml", "scripted", "/srv/demo.yaml"),
        ("local:/srv/weights.GGUF", "local", "/srv/weights.GGUF"),
        ("{use: auto}", "auto", None),
    ],
)
def test_a_model_is_a_provider_and_its_name_for_it(written: str, provider: str, name: str | None) -> None:
    model = with_lines(f"model: {written}").model
    assert (model.provider, model.name) == (provider, name)
    assert model.label == (f"{provider}:{name}" if name else provider)


def test_a_tools_label_is_its_name_or_its_function() -> None:
    assert [tool.label for tool in with_lines("tools: [note, {python: 'a.b:c'}]").tools] == ["note", "a.b:c"]


@pytest.mark.parametrize("scheme", ["scripted:turns.yaml", "local:turns.gguf"])
def test_a_models_file_is_relative_to_the_definitions_file(
    scheme: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "agents"
    folder.mkdir()
    (folder / "a.yaml").write_text(f"{MINIMAL}model: {scheme}\n")
    monkeypatch.chdir(tmp_path)
    names = {loading.load([path], {}).definitions[0].spec.model.name for path in (Path("agents"), folder / "a.yaml")}
    assert names == {str(folder / scheme.partition(":")[2])}


@pytest.mark.parametrize(
    ("written", "seconds"),
    [
        ("90", 90.0),
        ("0.1", 0.1),
        ("100ms", 0.1),
        ("1.5s", 1.5),
        ("24h", 86_400.0),
        ("1m30s", 90.0),
        ("1h1ms", 3600.001),
    ],
)
def test_a_duration_is_units_or_seconds(written: str, seconds: float) -> None:
    assert with_lines(f"limits: {{wall: {written}}}").limits.wall == seconds


def test_instructions_are_the_same_however_their_block_is_written() -> None:
    forms = [
        "Be\n  brief.",
        "|\n  Be brief.",
        "|-\n  Be brief.",
        ">+\n  Be\n  brief.\n\n",
        '"Be brief.\\n"',
        "'Be brief.'",
    ]
    assert {spec(f"name: a\ninstructions: {form}\n").instructions for form in forms} == {"Be brief."}


@pytest.mark.parametrize(
    "text", ["\ufeff" + MINIMAL, MINIMAL.replace("\n", "\r\n"), MINIMAL + "...\n", "--- \n" + MINIMAL]
)
def test_marks_and_line_ends_of_other_systems_change_nothing(text: str) -> None:
    assert spec(text) == spec(MINIMAL)


def test_empty_documents_between_others_are_nothing() -> None:
    loaded = load_text(f"---\n---\n{MINIMAL}---\n# the end\n")
    assert ([each.spec.name for each in loaded.definitions], loaded.problems) == (["helper"], ())


def test_variables_are_replaced_by_their_values() -> None:
    environ = {"TONE": "warm: yes", "EMPTY": ""}
    found = with_lines("description: 'a ${TONE}, ${EMPTY:-b}, ${UNSET:-c d}, ${EMPTY}, $${TONE}, $5'", environ)
    assert found.description == "a warm: yes, b, c d, , ${TONE}, $5"


def test_a_variables_value_is_never_read_for_variables_again() -> None:
    assert with_lines("description: ${A}", {"A": "${B}", "B": "no"}).description == "${B}"


@pytest.mark.parametrize("reference", ["${STEPS}", '"${STEPS}"', "${UNSET:-7}"])
def test_a_variable_may_hold_a_number_where_one_is_wanted(reference: str) -> None:
    assert with_lines(f"limits:\n  steps: {reference}", {"STEPS": "7"}).limits.steps == 7


def test_a_variable_may_be_part_of_a_duration_and_stays_text_where_text_is_wanted() -> None:
    found = with_lines("type: ${N}\nlimits:\n  wall: ${N}s", {"N": "7"})
    assert (found.type, found.limits.wall) == ("7", 7.0)


@pytest.mark.parametrize("name", ["MONKEY", "MAX_TOKENS", "PWD", "KEYBOARD", "AUTHOR", "HOME", "COMPASS"])
def test_harmless_variables_are_not_taken_for_secrets(name: str) -> None:
    assert with_lines(f"description: ${{{name}}}", {name: "x"}).description == "x"


@pytest.mark.parametrize(
    "name", ["GOOGLE_API_KEY", "key", "GITHUBTOKEN", "AWS_SECRET_ACCESS_KEY", "DB_PWD", "DATABASE_URL", "MY_PASSPHRASE"]
)
def test_a_secrets_value_is_neither_used_nor_shown(name: str) -> None:
    (fault,) = problems(f"{MINIMAL}description: ${{{name}}}\n", {name: "hunter2"})
    assert "hunter2" not in fault
    assert "api_key_env" in fault


def test_a_variable_that_is_not_set_suggests_one_that_is() -> None:
    (fault,) = problems(f"{MINIMAL}description: ${{TEEM}}\n", {"TEAM": "x", "TEEM_KEY": "x"})
    assert fault.endswith("TEEM is not set; did you mean 'TEAM'?")


def test_every_fault_of_a_document_is_reported_at_once_in_order_of_place() -> None:
    faults = problems("""
tipe: x
name: A
model: {use: opnai:x, temprature: 1, max_tokens: 0}
tools: [1, note, note, {name: x, timeout: y}]
instructions: ${NOPE} ${NADA}
limits: {steps: many, wall: &a 1s}
""")
    # The repeated tool is not there: entries are compared once each is sound.
    assert [fault.split(": ")[0] for fault in faults] == [
        "2:1", "3:7", "4:14", "4:23", "4:50", "5:9", "5:43", "6:15", "6:23", "7:17", "7:29",
    ]  # fmt: skip


def test_every_fault_of_every_document_and_file_is_reported_at_once(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("name: a\n---\nname: b\n---\nname: c\ninstructions: C.\n")
    (tmp_path / "b.yaml").write_text("name: [\n")
    loaded = loading.load([tmp_path], {})
    assert [(each.path.name, each.line) for each in loaded.problems] == [("a.yaml", 1), ("a.yaml", 3), ("b.yaml", 1)]
    assert [each.spec.name for each in loaded.definitions] == ["c"]


def test_a_hundred_faults_of_a_file_are_enough() -> None:
    faults = problems(MINIMAL + "".join(f"key{number}: x\n" for number in range(300)))
    assert len(faults) == 101
    assert "the first 100 of this file are listed" in faults[-1]


def test_a_definition_knows_where_each_value_stands() -> None:
    found = definition(
        f"# first\n\n{MINIMAL}tools:\n  - note\n  - {{python: 'a:b'}}\nlimits:\n  steps: 3\ndescription:\n  x\n"
    )
    assert found.line == 3
    assert found.locate(("name",)) == (3, 7)
    assert found.locate(("tools",)) == (6, 3)
    assert found.locate(("tools", 1)) == (7, 5)
    assert found.locate(("tools", 1, "python")) == (7, 14)
    assert found.locate(("limits", "steps")) == (9, 10)
    assert found.locate(("description",)) == (11, 3)


def test_what_is_not_in_the_file_is_located_at_its_nearest_parents_key() -> None:
    found = definition(f"{MINIMAL}tools:\n  - note\nlimits:\n  steps: 3\n")
    assert found.locate(("limits", "wall")) == (5, 1)
    assert found.locate(("tools", 7)) == (3, 1)
    assert found.locate(("model", "use")) == (1, 1)
    assert str(found.problem(("tools", 0), "there is no such tool")).endswith("agent.yaml:4:5: there is no such tool")


@settings(max_examples=300, deadline=None)
@given(st.one_of(st.text(), st.binary(), st.lists(st.sampled_from(
    ["name: a\n", "instructions: b\n", "tools: [", "]", "{", "}", "- ", "  ", "\t", "&a ", "*a ", "!!x ", "? ", ": ", "<<: ", "---\n",
     "...\n", "|\n", "'", '"', "${A}", "${", "$", "\\", "%", "@", "#", "\n", "limits: ", "wall: ", "5m", "1e999", "model: ", "use: auto"]
)).map("".join)))  # fmt: skip
def test_no_content_whatever_makes_loading_raise(content: str | bytes) -> None:
    content = content.encode(errors="surrogatepass") if isinstance(content, str) else content
    loaded = load_text(content)
    assert bool(loaded.definitions) or bool(loaded.problems)
    assert all(problem.line >= 1 and problem.column >= 1 for problem in loaded.problems)
    assert not any("\n" in problem.message for problem in loaded.problems)


def test_a_number_that_is_infinite_is_no_number() -> None:
    with pytest.raises(ValueError, match="temperature"):
        ModelSpec(temperature=math.nan)
