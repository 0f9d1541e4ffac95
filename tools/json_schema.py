"""Turns pydantic's JSON Schema into the plain kind that small models and grammar compilers read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, TypeAlias, cast

Schema: TypeAlias = dict[str, Any]

# `title` repeats the name, `discriminator` points into `$defs`; neither tells a model more than the rest does.
_DROPPED: Final = frozenset({"$defs", "title", "discriminator"})
_MAPS: Final = frozenset({"properties", "patternProperties"})
_LISTS: Final = frozenset({"anyOf", "oneOf", "allOf", "prefixItems"})
_SINGLE: Final = frozenset({"items", "additionalProperties", "not", "contains", "propertyNames"})


class SelfReference(Exception):
    """A type contains itself, so it cannot be written without `$ref`."""


def plain(schema: Mapping[str, Any]) -> Schema:
    """Return `schema` with every `$ref` written out, no titles, and objects closed; SelfReference when it never ends."""
    return _plain(schema, schema.get("$defs", {}), ())


def is_open(schema: object) -> bool:
    """Whether some object in a plain schema names its properties and yet lets others in, as its author chose."""
    if isinstance(schema, dict):
        members = cast("Schema", schema)
        if "properties" in members and members.get("additionalProperties", False) is not False:
            return True
        return any(is_open(member) for member in members.values())
    return isinstance(schema, list) and any(is_open(member) for member in cast("list[object]", schema))


def _plain(schema: Mapping[str, Any], definitions: Mapping[str, Any], inside: tuple[str, ...]) -> Schema:
    if "$ref" in schema:
        name = str(schema["$ref"]).removeprefix("#/$defs/")
        if name in inside:
            raise SelfReference(name)
        beside = {key: value for key, value in schema.items() if key not in ("$ref", "$defs")}
        return _plain({**definitions[name], **beside}, definitions, (*inside, name))
    written = {key: _member(key, value, definitions, inside) for key, value in schema.items() if key not in _DROPPED}
    if "properties" in written:
        written.setdefault("additionalProperties", False)
    if "(?" in str(written.get("pattern", "")):  # grammar compilers know no look-around; validation still does
        del written["pattern"]
    return written


def _member(key: str, value: Any, definitions: Mapping[str, Any], inside: tuple[str, ...]) -> Any:
    """Go only where schemas are: a property may be called `title`, a default may hold a `$ref`."""
    if key in _MAPS:
        return {name: _plain(member, definitions, inside) for name, member in value.items()}
    if key in _LISTS:
        return [_plain(member, definitions, inside) for member in value]
    if key in _SINGLE and isinstance(value, dict):
        return _plain(cast("Schema", value), definitions, inside)
    return value
