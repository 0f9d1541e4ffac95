"""From pydantic's errors to sentences an author can act on, each with the path of the key it is about."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, cast

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from cirkelline.configs import fields, names, scalars, schema, wording
from cirkelline.configs.positions import KeyPath

_MISSING: Final = {
    "name": "this agent has no name: add name: followed by " + names.AGENT_RULE,
    "instructions": "this agent has no instructions: say in instructions: what it is to do",
}
# Keys that other programs use for what has another name, or no place, here.
_ELSEWHERE: Final = {
    "agents": "write each agent's keys at the top level, and --- between two agents",
    "agent": "write the agent's keys at the top level",
    "prompt": "did you mean 'instructions'?",
    "system_prompt": "did you mean 'instructions'?",
    "system": "did you mean 'instructions'?",
    "llm": "did you mean 'model'?",
    "functions": "did you mean 'tools'?",
    "function": "did you mean 'python'?",
    "id": "an agent is known by its name",
    "provider": "write model: provider:NAME",
    "api_key": "never write a key into a file; name its environment variable in api_key_env",
    "max_steps": "did you mean 'steps'?",
}


@dataclass(frozen=True, slots=True)
class Finding:
    """One fault of a definition: what it is about (the key itself, or its value) and the sentence."""

    path: KeyPath
    message: str
    at_key: bool = False


def findings(error: ValidationError, data: object, most: int) -> Iterator[Finding]:
    """Yield at most `most` faults that validating `data` (the definition as written) found."""
    for details in error.errors(include_url=False)[:most]:
        yield _finding(details, data)


def _finding(details: ErrorDetails, data: object) -> Finding:
    path: KeyPath = details["loc"]
    if path[:1] == ("model",) and path[1:] in {("provider",), ("name",)}:
        path = ("model", "use")
    if details["type"] == "extra_forbidden":
        return Finding(path, unknown_key(path), at_key=True)
    if details["type"] == "missing":
        return Finding(path, _MISSING.get(str(path[-1]), f"{path[-1]} is missing"))
    context: dict[str, Any] = details.get("ctx", {})
    if details["type"] == fields.REFUSED:
        path += context["at"]
        predicate = context["message"]
    else:  # pragma: no cover  # every field reads with our own readers; this keeps a forgotten one from being silent
        predicate = f"is not valid: {details['msg']}"
    return Finding(path, f"{subject(path, data)} {predicate}")


def unknown_key(path: KeyPath) -> str:
    """Return the sentence about a key that does not belong where it stands."""
    *above, last = path
    place = tuple("*" if isinstance(step, int) else step for step in above)
    key = str(last)
    if key in schema.LATER.get(place, ()):
        return f"{subject(path)} is not supported yet: remove it"
    known = schema.surface_keys().get(place, ())
    hint = _hint(key, known)
    where = f" in {subject(tuple(above))}" if above else ""
    return f"unknown key {wording.shown(key)}{where}; {hint or 'the keys here are ' + wording.listed(known)}"


def _hint(key: str, known: tuple[str, ...]) -> str | None:
    if found := wording.nearest(key, known):
        return f"did you mean '{found}'?"
    if key in _ELSEWHERE:
        return _ELSEWHERE[key]
    for place, keys in schema.surface_keys().items():
        if key in keys and place:
            return f"it belongs under {place[0]}:"
    return None


def subject(path: KeyPath, data: object = None) -> str:
    """Return a path as text, `tools[0].timeout`; with `data`, only as far as the definition goes."""
    text = "the agent"
    for index, step in enumerate(path):
        if data is not None:
            if not _has(data, step):
                break
            data = cast("Any", data)[step]
        part = f"[{step}]" if isinstance(step, int) else f".{step}"
        text = text + part if index else part.lstrip(".")
    return text


def _has(data: object, step: str | int) -> bool:
    if isinstance(step, int):
        return scalars.is_list(data) and step < len(data)
    return scalars.is_mapping(data) and step in data
