"""The published JSON Schema of an agent file, with which editors complete and check while one is written."""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Final

from pydantic import BaseModel

from cirkelline.configs import durations, models, names, schema, variables
from cirkelline.configs.effects import Effects, OnUnknown

_ID: Final = "urn:cirkelline:agent:1"

# A field that is no text may still be a variable that will hold one.
_REFERENCE: Final = {"type": "string", "pattern": variables.PATTERN}


def agent_json_schema() -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of one agent, which is one YAML document of a file.

    It accepts what the loader accepts, in every form of it, as far as a schema can say it: what needs more than the
    document (does this tool exist? is that name taken?) or arithmetic on a duration only the loader finds.
    """
    parts = {
        "name": _either({"type": "string", "pattern": names.AGENT_PATTERN}),
        "type": _line(schema.LONGEST_TYPE),
        "description": {"type": "string"},
        "capabilities": _list(_line(schema.LONGEST_CAPABILITY), schema.MOST_CAPABILITIES),
        "model": _model(),
        "instructions": {"type": "string", "pattern": r"\S"},
        "tools": _list(_tool(), schema.MOST_TOOLS),
        "knowledge": _mapping(
            schema.KnowledgeSpec,
            {
                "top_k": _integer(*schema.TOP_K),
                "mode": _word(schema.SearchMode),
                "threshold": _number(*schema.THRESHOLD),
                "tags": _list(_line(schema.LONGEST_TAG), schema.MOST_TAGS),
                "search_first": _yes_no(),
            },
        ),
        "memory": _mapping(
            schema.MemorySpec,
            {
                "recall": _integer(*schema.RECALL),
                "budget": _integer(*schema.RECALL_BUDGET),
                "capture": {"anyOf": [*_word(schema.Capture)["anyOf"], {"const": False}]},
            },
        ),
        "history": _history(),
        "limits": _mapping(
            schema.LimitsSpec,
            {
                "concurrency": _integer(*schema.CONCURRENCY),
                "steps": _integer(*schema.STEPS),
                "wall": _duration(*schema.WALL),
            },
        ),
        "retry": _retry(),
        "schedules": _list(_schedule(), schema.MOST_SCHEDULES, unique=False),
    }
    version = {"const": schema.FORMAT_VERSION, "description": "The version of this file format."}
    whole = _mapping(schema.AgentSpec, parts, required=["name", "instructions"])
    whole["properties"] = {"version": version} | whole["properties"]
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": _ID,
        "title": "A Cirkelline agent",
        **whole,
    }


def _mapping(spec: type[BaseModel], parts: dict[str, Any], required: list[str] | None = None) -> dict[str, Any]:
    described = {
        key: part | _documentation(spec, "name" if key == "use" else key, default=key not in (required or ()))
        for key, part in parts.items()
    }
    return {"type": "object", "properties": described, "required": required or [], "additionalProperties": False}


def _documentation(spec: type[BaseModel], key: str, *, default: bool) -> dict[str, Any]:
    field = spec.model_fields[key]
    documentation: dict[str, Any] = {"description": field.description}
    if default and isinstance(field.default, (str, int, float)):
        documentation["default"] = field.default
    return documentation


def _model() -> dict[str, Any]:
    use = _either({"type": "string", "pattern": models.PATTERN})
    mapping = _mapping(
        schema.ModelSpec,
        {
            "use": use,
            "base_url": _either({"type": "string", "pattern": models.BASE_URL_PATTERN}),
            "api_key_env": _either({"type": "string", "pattern": models.VARIABLE_PATTERN}),
            "temperature": _number(*schema.TEMPERATURE),
            "max_tokens": _integer(*schema.MAX_TOKENS),
        },
        required=["use"],
    )
    return {"anyOf": [use, mapping], "default": "auto"}


def _tool() -> dict[str, Any]:
    name = _either({"type": "string", "pattern": names.TOOL_PATTERN})
    python = _either({"type": "string", "pattern": names.FUNCTION_PATTERN})
    timeout = _duration(*schema.TIMEOUT)
    options = {
        "timeout": timeout,
        "effects": _word(Effects),
        "on_unknown": _word(OnUnknown),
        "approval": _yes_no(),
        "approve_within": _duration(*schema.APPROVE_WITHIN),
    }
    built_in = _mapping(schema.ToolSpec, {"name": name, **options}, required=["name"])
    function = _mapping(schema.ToolSpec, {"python": python, **options}, required=["python"])
    return {"anyOf": [name, built_in, function]}


def _history() -> dict[str, Any]:
    mapping = _mapping(schema.HistorySpec, {"messages": _integer(*schema.HISTORY), "summarize": _yes_no()})
    wanted = {"properties": {"summarize": {"const": True}}, "required": ["summarize"]}
    window = {"messages": _integer(schema.LEAST_SUMMARIZED, schema.HISTORY[1])}
    return mapping | {"if": wanted, "then": {"properties": window}}


def _retry() -> dict[str, Any]:
    pause = _duration(*schema.BACKOFF)
    mapping = _mapping(schema.RetrySpec, {"attempts": _integer(*schema.ATTEMPTS), "backoff": pause, "longest": pause})
    once = {"anyOf": [{"not": {"required": ["attempts"]}}, {"properties": {"attempts": {"const": 1}}}]}
    paused = {"anyOf": [{"required": ["backoff"]}, {"required": ["longest"]}]}
    return mapping | {"not": {"allOf": [once, paused]}}


def _schedule() -> dict[str, Any]:
    parts = {
        "name": _either({"type": "string", "pattern": names.AGENT_PATTERN}),
        "cron": _either({"type": "string", "pattern": r"^\s*(\S+\s+){4}\S+\s*$", "maxLength": 100}),
        "tz": _line(100),
        "user": _line(255),
        "input": {"type": "string", "pattern": r"\S"},
    }
    return _mapping(schema.ScheduleSpec, parts, required=["cron", "input"])


def _list(entry: dict[str, Any], most: int, *, unique: bool = True) -> dict[str, Any]:
    return {"type": "array", "items": entry, "maxItems": most, "uniqueItems": unique}


def _line(longest: int) -> dict[str, Any]:
    return {"type": "string", "pattern": r"^[^\n]*\S[^\n]*$", "maxLength": longest}


def _word(choices: type[StrEnum]) -> dict[str, Any]:
    return _either({"enum": [choice.value for choice in choices]})


def _yes_no() -> dict[str, Any]:
    return _either({"type": "boolean"})


def _integer(minimum: int, maximum: int) -> dict[str, Any]:
    return _either({"type": "integer", "minimum": minimum, "maximum": maximum})


def _number(minimum: float, maximum: float) -> dict[str, Any]:
    return _either({"type": "number", "minimum": minimum, "maximum": maximum})


def _duration(minimum: float, maximum: float) -> dict[str, Any]:
    return _either(
        {"type": "string", "pattern": durations.PATTERN}, {"type": "number", "minimum": minimum, "maximum": maximum}
    )


def _either(*forms: dict[str, Any]) -> dict[str, Any]:
    return {"anyOf": [*forms, _REFERENCE]}
