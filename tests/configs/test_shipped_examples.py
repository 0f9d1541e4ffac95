from __future__ import annotations

from pathlib import Path

import jsonschema
import pytest
import yaml

import cirkelline.configs
from cirkelline.configs import json_schema, loading
from cirkelline.tools.builtins import BUILTINS

EXAMPLES = Path(cirkelline.configs.__file__).parent / "examples"
LOADED = loading.load([EXAMPLES], {})
VALIDATOR = jsonschema.Draft202012Validator(json_schema.agent_json_schema())


def test_the_examples_are_six_agents_without_a_fault() -> None:
    assert LOADED.problems == ()
    assert sorted(each.spec.name for each in LOADED.definitions) == [
        "assistant",
        "companion",
        "editor",
        "researcher",
        "reviewer",
        "summarizer",
    ]


@pytest.mark.parametrize("definition", LOADED.definitions, ids=lambda each: each.spec.name)
def test_an_example_runs_for_anybody(definition: loading.Definition) -> None:
    assert definition.spec.model.provider == "auto"
    assert {tool.name for tool in definition.spec.tools} <= set(BUILTINS)
    assert definition.spec.description
    assert definition.spec.capabilities


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.yaml")), ids=lambda path: path.name)
def test_an_example_satisfies_the_published_schema_and_teaches(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    for document in yaml.safe_load_all(text):
        VALIDATOR.validate(document)
    assert text.startswith("# ")
    assert max(map(len, text.splitlines())) <= 120


def test_instructions_fit_a_small_model() -> None:
    assert all(len(each.spec.instructions.split()) <= 120 for each in LOADED.definitions)
