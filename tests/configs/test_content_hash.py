from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
import yaml
from agent_files import spec, with_lines
from hypothesis import given, settings
from hypothesis import strategies as st

from cirkelline.configs import durations, loading, names, schema
from cirkelline.configs.schema import AgentSpec, canonical, content_hash

_text = st.text(st.characters(codec="utf-8", exclude_categories=["C"]), min_size=1, max_size=30)
_line = _text.filter(lambda text: text.strip() and len(text.splitlines()) == 1).map(str.strip)
_words = st.lists(_line, unique=True, max_size=4)
_wall = st.integers(100, 86_400_000).map(lambda milliseconds: milliseconds / 1000)
_timeout = st.integers(100, 3_600_000).map(lambda milliseconds: milliseconds / 1000)


def _mapping(**options: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({}, optional=options)


_use = st.sampled_from(
    ["auto", "gemini", "gemini:x", "openai:gpt-5", "openai:llama3:8b", "local:q", "scripted:/a/b.yaml"]
)
_model = st.one_of(
    _use,
    st.builds(
        lambda use, rest: {"use": use, **rest},
        _use,
        _mapping(temperature=st.floats(0, 2), max_tokens=st.integers(1, 1_000_000)),
    ),
)
_tool_name = st.from_regex(names.TOOL_PATTERN, fullmatch=True).filter(lambda text: "\n" not in text)
_tool = st.one_of(
    _tool_name,
    st.builds(lambda name, timeout: {"name": name, "timeout": timeout}, _tool_name, _timeout),
    st.builds(
        lambda module, timeout: {"python": f"{module}:run", **timeout},
        st.sampled_from(["a", "b.c", "d_1"]),
        _mapping(
            timeout=_timeout,
            effects=st.sampled_from(["read", "idempotent", "transactional", "once"]),
            on_unknown=st.sampled_from(["ask", "retry", "fail"]),
            approval=st.booleans(),
        ),
    ),
)
_definition = st.fixed_dictionaries(
    {
        "name": st.from_regex(names.AGENT_PATTERN, fullmatch=True).map(str.strip),
        "instructions": _text.filter(str.strip),
    },
    optional={
        "version": st.just(1),
        "type": _line.filter(lambda text: len(text) <= 100),
        "description": _text,
        "capabilities": _words,
        "model": _model,
        "tools": st.lists(_tool, max_size=4, unique_by=lambda tool: tool if isinstance(tool, str) else tool.get("name") or tool["python"]),
        "knowledge": _mapping(
            top_k=st.integers(1, 50),
            mode=st.sampled_from(["hybrid", "vector", "words", "rrf"]),
            threshold=st.floats(0, 1),
            tags=st.lists(_line, unique=True, max_size=4),
        ),
        "memory": _mapping(
            recall=st.integers(0, 50), budget=st.integers(20, 4000), capture=st.sampled_from(["auto", "tools", "off"])
        ),
        "history": st.one_of(
            _mapping(messages=st.integers(0, 1000)), _mapping(messages=st.integers(2, 1000), summarize=st.booleans())
        ),
        "limits": _mapping(concurrency=st.integers(1, 1000), steps=st.integers(1, 1000), wall=_wall),
    },
)  # fmt: skip


def _with_documents(definition: dict[str, Any]) -> dict[str, Any]:
    """Give an agent a tool for documents where it says how to search them; without one that is refused."""
    tools = definition.get("tools", [])
    if "knowledge" not in definition or "read_document" in tools:
        return definition
    return {**definition, "tools": [*tools, "read_document"]}


_definition = _definition.map(_with_documents)


def _parsed(definition: dict[str, Any]) -> AgentSpec:
    return loading.parse_config(definition)


@settings(max_examples=150, deadline=None)
@given(_definition)
def test_the_stored_form_reads_back_as_the_same_agent_also_through_json(definition: dict[str, Any]) -> None:
    agent = _parsed(definition)
    stored = json.loads(json.dumps(canonical(agent)))
    again = loading.parse_config(stored)
    assert again == agent
    assert content_hash(again) == content_hash(agent)
    assert loading.parse_config(stored, name=agent.name, type=agent.type, capabilities=agent.capabilities) == agent


@settings(max_examples=100, deadline=None)
@given(_definition, st.randoms(use_true_random=False))
def test_the_order_of_keys_is_no_change(definition: dict[str, Any], random: Any) -> None:
    def shuffled(value: Any) -> Any:
        if not isinstance(value, dict):
            return [shuffled(each) for each in value] if isinstance(value, list) else value
        keys = list(value)
        random.shuffle(keys)
        return {key: shuffled(value[key]) for key in keys}

    assert content_hash(_parsed(shuffled(definition))) == content_hash(_parsed(definition))


def _escaped(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _escaped(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_escaped(each) for each in value]
    return value.replace("${", "$${") if isinstance(value, str) else value


def _yaml(definition: dict[str, Any], *, quotes: str, flow: bool) -> str:
    class Dumper(yaml.SafeDumper):
        pass

    Dumper.add_representer(
        str, lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style=quotes)
    )
    text: str = yaml.dump(_escaped(definition), Dumper=Dumper, default_flow_style=flow, allow_unicode=True, width=40)
    return f"# a comment\n\n--- # another\n{text}"


@settings(max_examples=100, deadline=None)
@given(_definition, st.booleans(), st.sampled_from(["'", '"']))
def test_the_style_of_the_file_is_no_change(definition: dict[str, Any], flow: bool, quotes: str) -> None:
    text = _yaml(definition, quotes=quotes, flow=flow)
    assert content_hash(spec(text)) == content_hash(_parsed(definition))


@pytest.mark.parametrize(
    "forms",
    [
        ["", "version: 1", "# a comment", "type: assistant", "model: auto", "model: {use: auto}", "tools: []",
         "history: {messages: 20}", "history: {summarize: false}", "history: {messages: 20, summarize: no}", "knowledge: {}", "knowledge: {top_k: 6, mode: hybrid, tags: []}", "limits: {}", "limits: {steps: 20, wall: 300}", "limits: {wall: 5m}", "description: ''"],
        ["model: 'openai:x'", "model: {use: 'openai:x'}"],
        ["model: {use: auto, temperature: 1}", "model: {use: auto, temperature: 1.0}"],
        ["tools: [note]", "tools:\n- name: note", "tools: ['note']"],
        ["limits: {wall: 90}", "limits: {wall: 1m30s}", "limits: {wall: 90s}", "limits: {wall: 90.0}", "limits: {wall: '1.5m'}"],
    ],
)  # fmt: skip
def test_what_means_the_same_has_one_hash(forms: list[str]) -> None:
    assert len({content_hash(with_lines(form)) for form in forms}) == 1


CHANGES = [
    "",
    "type: writer",
    "description: x",
    "description: y",
    "capabilities: [a]",
    "capabilities: [a, b]",
    "capabilities: [b, a]",
    "model: gemini",
    "model: gemini:a",
    "model: openai:a",
    "model: {use: 'openai:a', base_url: 'http://h/v1'}",
    "model: {use: 'openai:a', api_key_env: A}",
    "model: {use: auto, temperature: 0}",
    "model: {use: auto, temperature: 0.1}",
    "model: {use: auto, max_tokens: 1}",
    "tools: [note]",
    "tools: [note, calculate]",
    "tools: [calculate, note]",
    "tools: [{name: note, timeout: 1s}]",
    "tools: [{name: note, effects: once}]",
    "tools: [{name: note, effects: idempotent}]",
    "tools: [{name: note, on_unknown: fail}]",
    "tools: [{name: note, approval: true}]",
    "tools: [{name: note, approval: true, approve_within: 1h}]",
    "tools: [{python: 'a:note'}]",
    "tools: [search_knowledge]",
    "tools: [search_knowledge]\nknowledge: {top_k: 7}",
    "tools: [search_knowledge]\nknowledge: {mode: rrf}",
    "tools: [search_knowledge]\nknowledge: {threshold: 0.5}",
    "tools: [search_knowledge]\nknowledge: {tags: [a]}",
    "tools: [search_knowledge]\nknowledge: {search_first: true}",
    "memory: {}",
    "memory: {recall: 7}",
    "memory: {budget: 200}",
    "memory: {capture: auto}",
    "history: {messages: 0}",
    "history: {messages: 21}",
    "history: {summarize: true}",
    "history: {messages: 21, summarize: true}",
    "limits: {concurrency: 1}",
    "limits: {steps: 21}",
    "limits: {wall: 301}",
    "schedules: [{cron: '0 9 * * *', input: a}]",
    "schedules: [{cron: '0 9 * * *', input: b}]",
    "schedules: [{cron: '0 8 * * *', input: a}]",
    "schedules: [{cron: '0 9 * * *', input: a, tz: Asia/Tokyo}]",
    "schedules: [{cron: '0 9 * * *', input: a, user: ivo}]",
    "schedules: [{cron: '0 9 * * *', input: a, name: daily}]",
    "retry: {attempts: 2}",
    "retry: {attempts: 3}",
    "retry: {attempts: 3, backoff: 1s}",
    "retry: {attempts: 3, longest: 1h}",
]


def test_every_change_of_meaning_changes_the_hash() -> None:
    agents = [with_lines(change) for change in CHANGES]
    agents += [spec("name: other\ninstructions: Help.\n"), spec("name: helper\ninstructions: Help!\n")]
    for one, other in itertools.combinations(agents, 2):
        assert content_hash(one) != content_hash(other), (one, other)


def test_every_field_of_a_definition_is_among_the_changes() -> None:
    # A field added later without a line above would make versions that the hash cannot tell apart.
    specs = (
        AgentSpec,
        schema.ModelSpec,
        schema.ToolSpec,
        schema.KnowledgeSpec,
        schema.MemorySpec,
        schema.HistorySpec,
        schema.LimitsSpec,
        schema.RetrySpec,
        schema.ScheduleSpec,
    )
    count = sum(len(each.model_fields) for each in specs)
    assert count == 13 + 6 + 7 + 5 + 3 + 2 + 3 + 3 + 5, "a new field needs its line in CHANGES"


def test_the_hash_of_a_definition_never_changes_between_releases() -> None:
    agent = spec("""
name: helper
instructions: Help.
model: {use: "openai:a", temperature: 0.5}
tools: [note, {python: "a:b", timeout: 250ms}]
limits: {wall: 1m}
""")
    assert canonical(agent) == {
        "name": "helper",
        "type": "assistant",
        "model": {"use": "openai:a", "temperature": 0.5},
        "instructions": "Help.",
        "tools": ["note", {"python": "a:b", "timeout": 0.25}],
        "limits": {"wall": 60},
    }
    assert content_hash(agent) == "cf1759d6dd864bab4b5486e2840b605664f2cb5a866a4bf9e556cac95b8a9b73"


@given(st.integers(1, 10**9))
def test_a_duration_is_rendered_as_it_is_read(milliseconds: int) -> None:
    assert durations.parse(durations.render(milliseconds / 1000)) == milliseconds / 1000
