"""From pydantic's errors to sentences an author can act on, each with the path of the key it is about."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from cirkelline.configs import fields, names, scalars, schema, wording
from cirkelline.configs.positions import KeyPath

_MISSING: Final = {
    "name": "this agent has no name: add name: followed by " + names.AGENT_RULE,
    "cron": 'this schedule has no times: add cron: followed by five fields, such as "0 9 * * MON-FRI"',
    "input": "this schedule asks nothing: say in input: what the agent is to do",
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
    context: dict[str, Any] = details.get("ctx", {})
    if path[:1] == ("model",) and path[1:] in {("provider",), ("name",)}:
        path = ("model", "use")
    path += context.get("at", ())
    if details["type"] in {"extra_forbidden", fields.UNKNOWN_KEY}:
        return Finding(path, unknown_key(path, context.get("hint")), at_key=True)
    if details["type"] == "missing":
        return Finding(path[:-1], _MISSING[str(path[-1])])
    path = _written(path, data)
    # Every field reads with readers of ours; pydantic's own words would mean that one was forgotten.
    predicate = context.get("message") or f"is not valid: {details['msg']}"
    return Finding(path, f"{subject(path)} {predicate}")


def unknown_key(path: KeyPath, hint: str | None = None) -> str:
    """Return the sentence about a key that does not belong where it stands."""
    *above, last = path
    place = tuple("*" if isinstance(step, int) else step for step in above)
    key = str(last)
    if key in schema.LATER.get(place, ()):
        return f"{subject(path)} is not supported yet: remove it"
    known = schema.surface_keys().get(place, ())
    hint = hint or _hint(key, known) or f"the keys here are {wording.listed(known)}"
    return f"unknown key {wording.shown(key)}{f' in {subject(tuple(above))}' if above else ''}; {hint}"


def _hint(key: str, known: tuple[str, ...]) -> str | None:
    if key in _ELSEWHERE:
        return _ELSEWHERE[key]
    if found := wording.nearest(key, known):
        return f"did you mean '{found}'?"
    places = (place[0] for place, keys in schema.surface_keys().items() if place and key in keys)
    return next((f"it belongs under {place}:" for place in places), None)


def subject(path: KeyPath) -> str:
    """Return a path as text: `tools[0].timeout`."""
    text = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path)
    return text.lstrip(".") or "the agent"


def _written(path: KeyPath, data: object) -> KeyPath:
    """Return a path as far as the definition goes: `tools: [x]` has no `tools[0].name` to speak of."""
    for index, step in enumerate(path):
        if isinstance(step, int):
            if not scalars.is_list(data) or step >= len(data):
                return path[:index]
            data = data[step]
        else:
            if not scalars.is_mapping(data) or step not in data:
                return path[:index]
            data = data[step]
    return path
