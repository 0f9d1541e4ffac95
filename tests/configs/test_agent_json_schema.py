from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest
import yaml
from agent_files import MINIMAL, load_text, problems
from malformed import FEATURES, KEYS, MODELS, TOOLS, VALUES, VARIABLES

from cirkelline.configs import json_schema, schema
from cirkelline.configs.loading import parse_config
from cirkelline.configs.schema import canonical

VALIDATOR = jsonschema.Draft202012Validator(json_schema.agent_json_schema())

GOOD = [
    "version: 1",
    "type: a word or two",
    "description: ''",
    "capabilities: []",
    "capabilities: [a, b c]",
    "model: auto",
    "model: gemini",
    "model: gemini:gemini-2.5-flash",
    "model: openai:llama3:8b",
    "model: local",
    "model: local:/srv/my weights.gguf",
    "model: scripted:demo.yaml",
    "model: ${MODEL:-auto}",
    "model: {use: auto}",
    "model: {use: 'openai:x', base_url: 'https://h:8080/v1', api_key_env: KEY, temperature: 0, max_tokens: 1}",
    "model: {use: 'gemini:x', api_key_env: KEY, temperature: 2}",
    "model: {use: 'openai:x', base_url: '${URL}', temperature: '${T}', max_tokens: '${N}'}",
    "tools: []",
    "tools: [calculate, {name: note}, {name: read_notes, timeout: 5}, {python: 'a.b:c', timeout: 1m}]",
    "tools: ['${TOOL}', {python: '${FUNCTION}', timeout: '${N}s'}]",
    "knowledge: {}",
    "knowledge: {top_k: 6, mode: hybrid}",
    "tools: [search_knowledge]\nknowledge: {search_first: yes}",
    "tools: [search_knowledge]\nknowledge: {top_k: 50, mode: rrf, threshold: 0.25, tags: [handbook, 'of 2025']}",
    "tools: [{python: 'a:b'}]\nknowledge: {mode: words, tags: []}",
    "tools: [read_document]\nknowledge: {top_k: '${N}', threshold: '${T}', tags: ['${TOOL}']}",
    "memory: {}",
    "memory: {recall: 0, budget: 20, capture: off}",
    "tools: [remember]\nmemory: {recall: '${N}', capture: auto}",
    "history: {}",
    "history: {messages: 0}",
    "history: {messages: '${N}'}",
    "history: {summarize: true}",
    "history: {messages: 2, summarize: yes}",
    "history: {messages: 0, summarize: false}",
    "history: {messages: '${N}', summarize: '${FLAG}'}",
    "limits: {}",
    "limits: {concurrency: 1, steps: 1000, wall: 24h}",
    "limits: {wall: 0.5}",
    "limits: {wall: 1h30m10s5ms}",
    "limits: {concurrency: '${N}', steps: '${N}', wall: '${N}m'}",
]
ENVIRON = {"MODEL": "auto", "URL": "http://h", "T": "1", "N": "7", "TOOL": "x", "FUNCTION": "a:b", "FLAG": "on"}

# What only arithmetic on durations, two keys together, the file's own letters or the rest of the world can tell.
BEYOND_A_SCHEMA = {
    "a key twice", "a key twice, deep", "an anchor", "a merge key", "a standard tag", "steps in octal",
    "a week", "a long time limit", "a longest pause that is shorter", "no pause",
    "an hour that there is not", "a day that never comes", "a zone mistyped", "two schedules of a name", "an address for auto", "a function twice", "a word of Python",
    "an unset variable", "an unset variable in text", "a secret variable", "a secret with a default",
    "an open variable", "a bad variable", "a variable in a variable", "a variable that is no number", "approve-within", "knowledge without a tool", "a first search without the tool", "no capture with a tool for it",
}  # fmt: skip


def _plain(text: str) -> Any:
    return yaml.safe_load(text)


def test_the_schema_is_a_schema_of_its_draft() -> None:
    jsonschema.Draft202012Validator.check_schema(json_schema.agent_json_schema())
    assert json.loads(json.dumps(json_schema.agent_json_schema())) == json_schema.agent_json_schema()


@pytest.mark.parametrize("lines", GOOD)
def test_schema_and_loader_both_accept_every_form(lines: str) -> None:
    assert problems(f"{MINIMAL}{lines}\n", ENVIRON) == []
    VALIDATOR.validate(_plain(f"{MINIMAL}{lines}\n"))


@pytest.mark.parametrize("lines", [line for line in GOOD if "${" not in line and "demo.yaml" not in line])
def test_the_stored_form_is_valid_too(lines: str) -> None:
    VALIDATOR.validate(canonical(parse_config(_plain(f"{MINIMAL}{lines}\n"))))


MALFORMED = [each for each in (*FEATURES, *KEYS, *VALUES, *MODELS, *TOOLS, *VARIABLES) if "agent.yaml" in each.files]


@pytest.mark.parametrize("case", MALFORMED, ids=lambda case: case.name.replace(" ", "-"))
def test_the_schema_refuses_what_the_loader_refuses_unless_no_schema_could(case: Any) -> None:
    try:
        data = _plain(case.files["agent.yaml"])
    except (yaml.YAMLError, TypeError):
        return  # an editor's YAML parser refuses it before any schema
    assert VALIDATOR.is_valid(data) == (case.name in BEYOND_A_SCHEMA), data


def test_the_schema_knows_the_keys_of_every_place_and_describes_them() -> None:
    def properties(part: dict[str, Any]) -> dict[str, Any]:
        found: dict[str, Any] = dict(part.get("properties", {}))
        for form in part.get("anyOf", []):
            found |= properties(form)
        return found

    top = properties(json_schema.agent_json_schema())
    parts: dict[tuple[str, ...], dict[str, Any]] = {(): top, ("tools", "*"): properties(top["tools"]["items"])}
    parts[("schedules", "*")] = properties(top["schedules"]["items"])
    objects = ("model", "knowledge", "memory", "history", "limits", "retry")
    parts |= {(key,): properties(top[key]) for key in objects}
    assert {place: set(keys) for place, keys in parts.items()} == {
        place: set(keys) for place, keys in schema.surface_keys().items()
    }
    assert all(part["description"] for keys in parts.values() for part in keys.values())


def test_a_definition_the_schema_refuses_is_refused_by_the_loader_as_well() -> None:
    for lines in (
        "limits: {steps: 20.5}",
        "model: 'openai:'",
        "tools: [note, note]",
        "type: ' '",
        "history: {messages: 1001}",
        "retry: {attempts: 1, longest: 1h}",
    ):
        text = f"{MINIMAL}{lines}\n"
        assert not VALIDATOR.is_valid(_plain(text))
        assert load_text(text).problems
