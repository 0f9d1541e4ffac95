"""The actions a small model may choose from: described to it in few words, and as the schema its answer is held to."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeAlias, cast

from cirkelline.agents.chat_model import ToolSchema

Schema: TypeAlias = dict[str, Any]

# The order and the words were measured (docs/decisions/005-embedded-model.md): small changes to them cost much.
_RULES: Final = (
    'Write {{"action": "NAME", "arguments": {{...}}}} when one of the actions does what the user asks for; you then see its '
    'result. Otherwise write {{"action": "{reply}", "text": "..."}}.'
)
_MUST: Final = 'Write {"action": "NAME", "arguments": {...}}.'
_REPLY: Final = "Answer the user: conversation, general knowledge, explanations, translations, writing, code."
_LONGEST_NOTE: Final = 400
_KEPT: Final = ("type", "enum", "const", "required")
_CHOICES: Final = {"anyOf": "anyOf", "oneOf": "anyOf", "allOf": "allOf", "prefixItems": "prefixItems"}


# --- in words ---


def described(tools: Sequence[ToolSchema], reply: str | None) -> str:
    """Return the part of the instructions that says what may be answered; `reply` is the action that is no tool."""
    lines = [*([f"- {reply}(text: string): {_REPLY}"] if reply else []), *map(_line, tools)]
    rules = _RULES.format(reply=reply) if reply else _MUST
    return "\n".join(["Answer with one JSON object that names an action:", *lines, "", rules])


def only_choice(tool: ToolSchema) -> tuple[str, Schema] | None:
    """Return the name and schema of a tool's one argument where that is one of some texts: it is answered with the text.

    An object around it is only more to write.
    """
    properties = _properties(tool.parameters)
    if len(properties) != 1 or set(tool.parameters.get("required", ())) != set(properties):
        return None
    ((name, schema),) = properties.items()
    return (name, schema) if schema.get("enum") else None


def form(tool: ToolSchema) -> str:
    """Return how the arguments of the one tool that must be called are asked for, with no word of calling anything."""
    if choice := only_choice(tool):
        return f"Answer with one of: {_kind(choice[1]).replace('|', ', ')}"
    properties = _properties(tool.parameters)
    fields = [f"{json.dumps(name)}: {_kind(schema, whole=True)}" for name, schema in properties.items()]
    return f"Answer with one JSON object: {{{', '.join(fields)}}}"


def _line(tool: ToolSchema) -> str:
    """Describe a tool as a signature: a third of the tokens of its JSON Schema, and models read code well."""
    required = tool.parameters.get("required", ())
    properties = _properties(tool.parameters)
    parameters = [f"{name}{'' if name in required else '?'}: {_kind(schema)}" for name, schema in properties.items()]
    notes = [
        f"{name}: {_short(schema['description'])}" for name, schema in properties.items() if schema.get("description")
    ]
    return f"- {tool.name}({', '.join(parameters)}): {' '.join([_short(tool.description), *notes])}"


def _short(text: object) -> str:
    line = " ".join(str(text).split())
    return line if len(line) <= _LONGEST_NOTE else line[: _LONGEST_NOTE - 1] + "…"


def _properties(schema: Mapping[str, Any]) -> dict[str, Schema]:
    properties: Mapping[str, object] = schema.get("properties") or {}
    return {name: cast("Schema", each) if isinstance(each, dict) else {} for name, each in properties.items()}


def _kind(schema: Schema, *, whole: bool = False) -> str:
    """Return a type in few words; `whole` with the fields of objects, which a signature has no room for."""
    if choices := schema.get("enum"):
        return "|".join(json.dumps(each, ensure_ascii=False) for each in choices)
    if choices := schema.get("anyOf") or schema.get("oneOf"):
        return "|".join(dict.fromkeys(_kind(each, whole=whole) for each in choices if each != {"type": "null"}))
    if schema.get("type") == "array":
        items = _kind(schema.get("items") or {}, whole=whole)
        return f"[{items}, ...]" if whole else f"{items}[]"
    if whole and (properties := _properties(schema)):
        return (
            "{" + ", ".join(f"{json.dumps(name)}: {_kind(each, whole=True)}" for name, each in properties.items()) + "}"
        )
    kind = schema.get("type", "any")
    return kind if isinstance(kind, str) else "|".join(kind)


# --- as a schema ---


def schema(tools: Sequence[ToolSchema], reply: str | None) -> Schema:
    """Return the schema of a decision: `{"action": REPLY}`, unless there is none, or a tool's name with its arguments.

    The text that the model was told of is not written here: its reply is asked for by itself.
    """
    calls = [_object(action={"const": tool.name}, arguments=arguments(tool)) for tool in tools]
    return {"anyOf": [*([_object(action={"const": reply})] if reply else []), *calls]}


def _object(**properties: Schema) -> Schema:
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


def filled(tool: ToolSchema) -> Schema:
    """Return the schema of the answer that fills in the one tool that must be called."""
    choice = only_choice(tool)
    return _held(choice[1]) if choice else arguments(tool)


def arguments(tool: ToolSchema) -> Schema:
    """Return the schema of a tool's arguments alone."""
    return {**_held({**tool.parameters}), "type": "object"}


def _held(schema: object) -> Schema:
    """Return what a grammar can hold a model to quickly: types, names and choices.

    Bounds, patterns and lengths are left to the tool's own validation, whose complaint the model gets to read: as a
    grammar they are slow, and some the engine refuses.
    """
    if not isinstance(schema, dict):  # `true` and `false` are schemas too
        return {}
    given = cast("Schema", schema)
    held: Schema = {key: given[key] for key in _KEPT if key in given}
    held |= {kept: [_held(each) for each in given[key]] for key, kept in _CHOICES.items() if key in given}
    if "items" in given:
        held["items"] = _held(given["items"])
    if "properties" in given:
        held["properties"] = {name: _held(each) for name, each in _properties(given).items()}
    if "additionalProperties" in given:
        additional: object = given["additionalProperties"]
        held["additionalProperties"] = additional if isinstance(additional, bool) else _held(additional)
    return held
