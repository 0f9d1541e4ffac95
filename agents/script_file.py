"""A script of a model's turns, read from YAML as strictly as a definition: every fault is located."""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self, get_args

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails

from cirkelline.configs import documents, errors, fields, files, scalars, wording
from cirkelline.configs.documents import Document
from cirkelline.configs.fields import Text, refuse
from cirkelline.configs.positions import START, KeyPath, Problem
from cirkelline.configs.scalars import Plain

ErrorKind = Literal["rate_limit", "auth", "quota", "rejected", "connection", "server", "truncated", "blocked"]
ERROR_KINDS: Final[tuple[ErrorKind, ...]] = get_args(ErrorKind)
TEMPLATE: Final = re.compile(r"\{\{\s*([A-Za-z_]+)\s*\}\}")
TEMPLATES: Final = ("input", "last_tool")
FOREVER: Final = 1_000_000
_LONGEST_PAUSE: Final = 3600.0


class ScriptError(errors.UsageError):
    """A script that cannot be played; the message begins with file:line:column."""


def _template(value: object) -> str:
    text = fields.text(value)
    for match in TEMPLATE.finditer(text):
        if match[1] not in TEMPLATES:
            raise refuse(
                f"uses {match[0]}{wording.did_you_mean(match[1], TEMPLATES) or ', but there are only {{input}} and {{last_tool}}'}"
            )
    return text


def _arguments(value: object) -> str | dict[str, Any]:
    if scalars.is_mapping(value):
        return {str(key): _json(each) for key, each in value.items()}
    if isinstance(value, Plain) and scalars.kind_of(value) == "nothing":
        return {}
    if isinstance(value, str):
        return _template(str(value))
    raise refuse(f"must be a mapping, or a text that is sent as it is, not {fields.described(value)}")


def _json(value: object) -> Any:
    """Return what an unquoted YAML value is in JSON; texts may hold templates."""
    if scalars.is_mapping(value):
        return {str(key): _json(each) for key, each in value.items()}
    if scalars.is_list(value):
        return [_json(each) for each in value]
    if isinstance(value, Plain):
        return _json_scalar(value)
    return _template(str(value)) if isinstance(value, str) else value


def _json_scalar(value: Plain) -> Any:
    match scalars.kind_of(value):
        case "nothing":
            return None
        case "yes/no":
            return value.lower() in {"true", "yes", "on"}
        case "number":
            whole = scalars.read_integer(value)
            return whole if whole is not None else scalars.read_number(value)
        case "text":
            return _template(str(value))


def _repeat(value: object) -> int:
    return FOREVER if isinstance(value, str) and value == "forever" else fields.integer(1, FOREVER)(value)


def _pattern(value: object) -> re.Pattern[str]:
    text = fields.text(value)
    try:
        return re.compile(text)
    except re.error as error:
        raise refuse(f"must be a regular expression, but {wording.shown(text)} is none: {error}") from None


def _error(value: object) -> str:
    text = fields.text(value)
    if text not in ERROR_KINDS:
        hint = wording.did_you_mean(text, ERROR_KINDS)
        raise refuse(f"must be one of {wording.listed(ERROR_KINDS, 'or')}, not {wording.shown(text)}{hint}")
    return text


Templated = Annotated[str, BeforeValidator(_template)]
Arguments = Annotated[str | dict[str, Any], BeforeValidator(_arguments)]
Pause = Annotated[float, BeforeValidator(fields.seconds(0, _LONGEST_PAUSE))]
Count = Annotated[int, BeforeValidator(fields.integer(0, 1_000_000_000))]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)


class Call(_Strict):
    """A tool call; a mapping of arguments is sent as JSON, a text as it is, broken or not."""

    tool: Text
    arguments: Arguments = Field(default_factory=dict[str, Any])
    id: Text | None = None


class Tokens(_Strict):
    """What a turn says that it cost."""

    input: Count = 0
    output: Count = 0


class Turn(_Strict):
    """One answer: text, tool calls, or an error (after the text, if there is one)."""

    text: Templated = ""
    tool: Text | None = None
    arguments: Arguments | None = None
    calls: Annotated[tuple[Call, ...], BeforeValidator(fields.items("[{tool: NAME}]", 100))] = ()
    error: Annotated[ErrorKind, BeforeValidator(_error)] | None = None
    message: Text | None = None
    retry_after: Pause | None = None
    expect: Text | None = None
    delay: Pause = 0.0
    pace: Pause = 0.0
    repeat: Annotated[int, BeforeValidator(_repeat)] = 1
    usage: Tokens | None = None

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.arguments is not None and self.tool is None:
            raise refuse("belongs to tool:, which is missing: add tool: NAME", "arguments")
        if self.tool is not None and self.calls:
            raise refuse("says tool: and calls:; write all calls under calls:")
        if self.error is not None and self.asks:
            raise refuse("has an error and tool calls, but a model that fails calls nothing: make two turns of it")
        if self.error is None and not self.text and not self.asks:
            raise refuse("says nothing: give it text:, tool:, calls: or error:")
        if self.retry_after is not None and self.error != "rate_limit":
            raise refuse("belongs to error: rate_limit", "retry_after")
        if self.message is not None and self.error is None:
            raise refuse("belongs to error:; what the model answers is text:", "message")
        return self

    @property
    def asks(self) -> tuple[Call, ...]:
        """The tool calls, from whichever key they came."""
        return (Call(tool=self.tool, arguments=self.arguments or {}),) if self.tool is not None else self.calls


def _reachable_turns(turns: tuple[Turn, ...]) -> tuple[Turn, ...]:
    if not turns:
        raise refuse("must have at least one entry")
    for index, turn in enumerate(turns[:-1]):
        if not turn.asks or turn.repeat == FOREVER:
            why = "repeats forever" if turn.asks else "calls no tool, so the run ends with it"
            raise refuse(
                f"can never be reached: the turn before it {why} (turns for another input go under match:)", index + 1
            )
    return turns


class Conversation(_Strict):
    """The turns of every run whose input matches."""

    match: Annotated[re.Pattern[str], BeforeValidator(_pattern)] | None = None
    turns: Annotated[
        tuple[Turn, ...], BeforeValidator(fields.items("[{text: Hello}]", 1000)), AfterValidator(_reachable_turns)
    ]


def _reachable_conversations(conversations: tuple[Conversation, ...]) -> tuple[Conversation, ...]:
    if not conversations:
        raise refuse("must have at least one entry")
    for index, conversation in enumerate(conversations[:-1]):
        if conversation.match is None:
            raise refuse("can never be reached: the one before it has no match: and takes every input", index + 1)
    return conversations


class Script(_Strict):
    """All conversations of a file, tried in their order."""

    conversations: Annotated[
        tuple[Conversation, ...],
        BeforeValidator(fields.items("[{match: weather, turns: [{text: Sunny}]}]", 1000)),
        AfterValidator(_reachable_conversations),
    ]


# The keys of what stands under a key (of each entry, under a list's).
_KEYS: Final = {
    "conversations": tuple(Conversation.model_fields),
    "turns": tuple(Turn.model_fields),
    "calls": tuple(Call.model_fields),
    "usage": tuple(Tokens.model_fields),
}


def load(path: Path) -> Script:
    """Read a script: a list of turns, `turns:` alone, or `conversations:`; raises ScriptError with its first fault."""
    try:
        text = files.read(path)
    except files.Unreadable as unreadable:
        raise ScriptError(str(unreadable.problem)) from None
    return _parse(path, text)


@functools.lru_cache(maxsize=64)  # read again for each run, but mostly it is as it was
def _parse(path: Path, text: str) -> Script:
    parts = list(documents.read(path, text, {}))
    problem = next((part for part in parts if isinstance(part, Problem)), None)
    if problem is not None:
        raise ScriptError(str(problem))
    read = [part for part in parts if isinstance(part, Document) and not part.empty]
    if not read:
        raise ScriptError(
            str(Problem(path, *START, "this script is empty: write a list of turns such as - text: Hello"))
        )
    if len(read) > 1:
        where = read[1].positions.value(())
        raise ScriptError(str(Problem(path, *where, "a script is one document: remove the --- before this")))
    return _script(path, read[0])


def _script(path: Path, document: Document) -> Script:
    problems = list(document.problems)
    script = None
    if not problems:
        try:
            script = _validated(document.data)
        except ValidationError as error:
            problems = [_problem(path, document, details) for details in _causes(error)]
    if script is not None:
        return script
    first, *more = sorted(problems, key=lambda problem: (problem.line, problem.column))
    raise ScriptError(f"{first}{f' (and {len(more)} more)' if more else ''}")


def _validated(data: object) -> Script:
    if scalars.is_mapping(data) and "conversations" in data:
        return Script.model_validate(data)
    conversation = Conversation.model_validate(data if scalars.is_mapping(data) else {"turns": data})
    return Script(conversations=(conversation,))


def _causes(error: ValidationError) -> list[ErrorDetails]:
    """Return the faults without those that another one explains: a misspelt key is missing under its right name."""
    found = error.errors(include_url=False)
    misspelt = {details["loc"][:-1] for details in found if details["type"] == "extra_forbidden"}
    return [details for details in found if details["type"] != "missing" or details["loc"][:-1] not in misspelt]


def _problem(path: Path, document: Document, details: ErrorDetails) -> Problem:
    read_as: KeyPath = details["loc"]
    context: dict[str, Any] = details.get("ctx", {})
    where = read_as + context.get("at", ())
    if not scalars.is_mapping(document.data):
        where = where[1:]  # a bare list of turns was read as if it stood under turns:
    subject = str(where[-1]) if where and isinstance(where[-1], str) else "this"
    if details["type"] == "extra_forbidden":
        return Problem(path, *document.positions.key(where), _unknown_key(read_as))
    match details["type"]:
        case fields.REFUSED:
            predicate = context["message"]
        case "missing":
            predicate = "is missing"
        case "model_type":
            predicate = "must be a mapping such as {text: Hello}"
        case (
            _
        ):  # pragma: no cover  # every field reads with our own readers; this keeps a forgotten one from being silent
            predicate = f"is not valid: {details['msg']}"
    return Problem(path, *document.positions.value(where), f"{subject} {predicate}")


def _unknown_key(path: KeyPath) -> str:
    *above, key = path
    parent = next((step for step in reversed(above) if isinstance(step, str)), None)
    known = _KEYS[parent] if parent else ("conversations", *_KEYS["conversations"])
    hint = wording.did_you_mean(str(key), known) or f"; the keys here are {wording.listed(known)}"
    return f"unknown key {wording.shown(str(key))}{hint}"
