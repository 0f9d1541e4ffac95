from __future__ import annotations

import pytest
from agent_files import spec

from cirkelline.configs.errors import UsageError
from cirkelline.configs.loading import DefinitionError, parse_config
from cirkelline.configs.schema import ModelSpec, ToolSpec


def _fault(config: object, **columns: str) -> str:
    with pytest.raises(DefinitionError) as caught:
        parse_config(config, **({"name": "helper"} | columns))
    assert isinstance(caught.value, UsageError)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_rows_config_has_the_keys_and_forms_of_the_yaml() -> None:
    found = parse_config(
        {
            "model": {"use": "openai:a", "temperature": 1, "base_url": None},
            "instructions": "Help.",
            "tools": ["note", {"python": "a:b", "timeout": "1m"}],
            "limits": {"wall": 60, "steps": 5.0},
            "description": None,
        },
        name="helper",
        type="worker",
        capabilities=["a", "b"],
    )
    assert found.model == ModelSpec(provider="openai", name="a", temperature=1.0)
    assert found.tools == (ToolSpec(name="note"), ToolSpec(python="a:b", timeout=60.0))
    assert (found.limits.wall, found.limits.steps) == (60.0, 5)
    assert (found.name, found.type, found.capabilities, found.description) == ("helper", "worker", ("a", "b"), "")


def test_a_rows_own_columns_win_and_are_free_text() -> None:
    config = {"name": "helper", "type": "x", "capabilities": ["x"], "instructions": "Help."}
    found = parse_config(config, name="Überagent №7 \n" + "x" * 200, type="", capabilities=["a b", "c" * 300])
    assert found.name.startswith("Überagent №7 \n")
    assert found.type == ""
    assert found.capabilities == ("a b", "c" * 300)


def test_capabilities_of_a_row_lose_what_says_nothing() -> None:
    config = {"instructions": "Help."}
    assert parse_config(config, name="a", capabilities=["x", None, "", "y", "x"]).capabilities == ("x", "y")
    assert parse_config(config | {"capabilities": ["z"]}, name="a", capabilities=None).capabilities == ("z",)
    assert parse_config(config | {"capabilities": ["z"]}, name="a", capabilities=[]).capabilities == ()


def test_a_row_cannot_read_a_workers_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEAM", "hunter2")
    assert parse_config({"instructions": "${TEAM} ${X"}, name="a").instructions == "${TEAM} ${X"


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (None, "empty (NULL)"),
        ("text", "must be a JSON object"),
        ([], "must be a JSON object"),
        (7, "must be a JSON object"),
        (True, "must be a JSON object"),
        ({}, "this agent has no instructions"),
        ({"instructions": 7}, "instructions must be text, not the number 7"),
        ({"instructions": " "}, "instructions must not be empty"),
        ({"instructions": "x", "modle": "auto"}, "did you mean 'model'?"),
        ({"instructions": "x", "model": "scripted:demo.yaml"}, "must be an absolute path"),
        ({"instructions": "x", "model": 7}, "model must name a model, not the number 7"),
        ({"instructions": "x", "tools": "note"}, "tools must be a list"),
        ({"instructions": "x", "tools": [True]}, "not the yes/no value true"),
        ({"instructions": "x", "tools": ["note", "note"]}, "tools[1] repeats"),
        ({"instructions": "x", "limits": {"steps": "20"}}, "remove the quotes"),
        ({"instructions": "x", "limits": {"steps": True}}, "not the yes/no value true"),
        ({"instructions": "x", "limits": {"wall": 10**400}}, "limits.wall must be"),
        ({"instructions": "x", "limits": {"wall": float("nan")}}, "limits.wall must be a duration"),
        ({"instructions": "x", "limits": [1]}, "limits must be a mapping"),
        ({"instructions": "x", "limits": {"tokens": 5}}, "limits.tokens is not supported yet"),
        ({"instructions": "x", "version": 2}, "version must be 1"),
        ({"instructions": "x", "version": True}, "version must be 1"),
    ],
)
def test_a_config_that_is_no_agent_is_one_sentence(config: object, expected: str) -> None:
    assert expected in _fault(config)


def test_further_faults_are_counted() -> None:
    assert _fault({"a": 1, "b": 2}).endswith("(and 2 more)")


def test_a_row_without_a_name_takes_the_configs() -> None:
    config = {"name": "helper", "instructions": "Help."}
    assert parse_config(config) == spec("name: helper\ninstructions: Help.\n")


def test_parsing_does_not_change_what_it_reads() -> None:
    config = {"instructions": "x", "model": {"use": "openai:a"}, "version": 1}
    parse_config(config, name="a")
    assert config == {"instructions": "x", "model": {"use": "openai:a"}, "version": 1}
