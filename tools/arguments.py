"""The arguments of one tool: the JSON Schema a model sees, and the check of what a model sends."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import UnionType
from typing import Annotated, Any, Final, Optional, Union, cast, get_args, get_origin

import pydantic
from pydantic.errors import PydanticUndefinedAnnotation, PydanticUserError
from pydantic.json_schema import GenerateJsonSchema
from pydantic_core import ErrorDetails

from cirkelline.configs import wording
from cirkelline.configs.errors import CirkellineError
from cirkelline.tools import json_schema

SHOWN_PROBLEMS: Final = 5

_CONFIG: Final = pydantic.ConfigDict(
    extra="forbid",
    allow_inf_nan=False,  # they cannot be written in JSON, so a model that sends them means something else
    coerce_numbers_to_str=True,  # a small model writes a postal code as a number
)
_CONTAINERS: Final = frozenset(
    {"list_type", "tuple_type", "set_type", "dict_type", "model_type", "dataclass_type", "model_attributes_type"}
)
_UNKNOWN: Final = frozenset({"extra_forbidden", "unexpected_keyword_argument"})
_UNUSABLE: Final = (PydanticUserError, PydanticUndefinedAnnotation, TypeError, NameError, json_schema.SelfReference)


class ArgumentsInvalid(CirkellineError):
    """A tool was not called, because its arguments are not what it takes; the sentence is written for the model."""


class TypeUnusable(Exception):
    """A parameter's type cannot be filled from JSON."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter of a tool's function; `default` is `inspect.Parameter.empty` when it must be given."""

    name: str
    annotation: Any
    default: Any = inspect.Parameter.empty
    description: str | None = None


@dataclass(frozen=True, slots=True)
class Arguments:
    """What one tool takes; `schema` is a plain JSON Schema object without `$ref`."""

    tool: str
    schema: json_schema.Schema
    _model: type[pydantic.BaseModel] = field(repr=False)
    _names: Mapping[str, str] = field(repr=False)

    def validate(self, given: object) -> dict[str, Any]:
        """Return every argument by its parameter's name, defaults included; `given` is JSON text or a mapping.

        What a small model gets wrong but clearly means is mended: "3" for 3, a list sent as text, null for an argument
        with a default. Raises ArgumentsInvalid for everything else, unknown arguments included.
        """
        arguments = self._decoded(given)
        try:
            return self._checked(arguments)
        except pydantic.ValidationError as error:
            mended = self._mended(arguments, error)
            if mended is None:
                raise self._invalid(_problems(error, self._properties)) from None
        try:
            return self._checked(mended)
        except pydantic.ValidationError as error:
            raise self._invalid(_problems(error, self._properties)) from None

    @property
    def _properties(self) -> Mapping[str, json_schema.Schema]:
        return cast("Mapping[str, json_schema.Schema]", self.schema["properties"])

    def _checked(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        # A misspelt member of a nested object is an error too, unless an author's own type lets others in.
        valid = self._model.model_validate(arguments, extra=None if json_schema.is_open(self.schema) else "forbid")
        return {name: getattr(valid, attribute) for attribute, name in self._names.items()}

    def _decoded(self, given: object) -> dict[str, Any]:
        try:
            value = _loads(given) if isinstance(given, str | bytes | bytearray) else given
            value = _loads(value) if isinstance(value, str) else value  # some models quote the object once more
        except (ValueError, RecursionError) as error:
            raise self._invalid([f"the arguments are not valid JSON ({error})"]) from None
        if value is None:
            return {}
        if not isinstance(value, Mapping):
            raise self._invalid([f"the arguments must be one JSON object, not {wording.shown(value)}"])
        return dict(cast("Mapping[str, Any]", value))

    def _mended(self, arguments: dict[str, Any], error: pydantic.ValidationError) -> dict[str, Any] | None:
        """Return better arguments, or None when nothing can be mended."""
        mended = dict(arguments)
        for problem in error.errors(include_url=False):
            name = str(problem["loc"][0]) if len(problem["loc"]) == 1 else ""
            value = arguments.get(name)
            if name in arguments and value is None and name not in self.schema.get("required", ()):
                del mended[name]
            elif isinstance(value, str) and problem["type"] in _CONTAINERS:
                mended[name] = _unquoted(value)
        return mended if mended != arguments else None

    def _invalid(self, problems: Sequence[str]) -> ArgumentsInvalid:
        more = f"; and {len(problems) - SHOWN_PROBLEMS} more" if len(problems) > SHOWN_PROBLEMS else ""
        told = "; ".join(problems[:SHOWN_PROBLEMS]) + more
        return ArgumentsInvalid(f"{self.tool} was not called: {told}. It takes {self._usage()}.")

    def _usage(self) -> str:
        required = self.schema.get("required", ())
        shown = [
            f"{name}: {_type(member)}{'' if name in required else ' (optional)'}"
            for name, member in self._properties.items()
        ]
        return f"a JSON object with {', '.join(shown)}" if shown else "no arguments: {}"


def build(tool: str, parameters: Sequence[Parameter]) -> Arguments:
    """Return the arguments of `tool`; TypeUnusable names the parameter whose type no JSON can fill."""
    try:
        model = _model(tool, parameters)
        schema = _schema(model)
    except _UNUSABLE as error:
        raise TypeUnusable(_blame(tool, parameters, error)) from error
    # The fields have names of ours: a parameter may be called `json` or `_id`, which pydantic keeps for itself.
    return Arguments(tool, schema, model, {_attribute(index): each.name for index, each in enumerate(parameters)})


def _model(tool: str, parameters: Sequence[Parameter]) -> type[pydantic.BaseModel]:
    fields: dict[str, Any] = {_attribute(index): _field(each) for index, each in enumerate(parameters)}
    return pydantic.create_model(tool, __config__=_CONFIG, **fields)


def _attribute(index: int) -> str:
    return f"argument_{index}"


def _field(parameter: Parameter) -> tuple[Any, Any]:
    annotation, default = parameter.annotation, parameter.default
    described = parameter.description or _annotated_description(annotation)
    info = pydantic.Field(alias=parameter.name, description=described)
    if default is None and not _takes_none(annotation):
        annotation = Optional[annotation]  # noqa: UP045 (`|` does not work on every annotation at run time)
    if default is inspect.Parameter.empty:
        default = ...
    return Annotated[annotation, info], default


def _annotated_description(annotation: Any) -> str | None:
    """Return the text of `Annotated[int, "how many"]` or `Annotated[int, Field(description="how many")]`."""
    for each in getattr(annotation, "__metadata__", ()):
        text = each if isinstance(each, str) else getattr(each, "description", None)
        if isinstance(text, str):
            return text
    return None


def _takes_none(annotation: Any) -> bool:
    if get_origin(annotation) is Annotated:
        return _takes_none(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return any(_takes_none(member) for member in get_args(annotation))
    return annotation in (None, type(None), Any, object)


class _Quiet(GenerateJsonSchema):
    """A default that JSON cannot write is simply not shown to the model."""

    ignored_warning_kinds = {"skipped-choice", "non-serializable-default"}  # noqa: RUF012 (pydantic declares it so)


def _schema(model: type[pydantic.BaseModel]) -> json_schema.Schema:
    schema = json_schema.plain(model.model_json_schema(by_alias=True, schema_generator=_Quiet))
    required = schema.get("required", [])
    properties = {
        name: member if name in required else _without_null(member) for name, member in schema["properties"].items()
    }
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def _without_null(member: json_schema.Schema) -> json_schema.Schema:
    """Show an argument that may be left out as its type alone; null, where the default, still validates."""
    if member.get("default", ...) is not None:
        return member
    kept = {key: value for key, value in member.items() if key not in ("anyOf", "default")}
    choices = [choice for choice in member.get("anyOf", ()) if choice != {"type": "null"}]
    if len(choices) == 1:
        return {**choices[0], **kept}
    return {"anyOf": choices, **kept} if choices else kept


def _blame(tool: str, parameters: Sequence[Parameter], error: Exception) -> str:
    for parameter in parameters:
        try:
            _schema(_model(tool, [parameter]))
        except json_schema.SelfReference as reference:
            return f"parameter {parameter.name!r} has a type that contains itself ({reference}); take a dict instead"
        except _UNUSABLE:
            shown = inspect.formatannotation(parameter.annotation)
            return (
                f"parameter {parameter.name!r} has the type {shown}, which no JSON can fill; use str, int, float, bool, "
                "list, dict, Literal, an Enum, a dataclass or a pydantic model"
            )
    return f"its parameters cannot be described: {error}"


def _loads(text: str | bytes | bytearray) -> Any:
    """Read JSON as its standard has it; nothing but blanks means no arguments."""

    def refuse(name: str) -> None:
        raise ValueError(f"{name} is not JSON")

    return json.loads(text, parse_constant=refuse) if text.strip() else None


def _unquoted(text: str) -> Any:
    try:
        return _loads(text)
    except (ValueError, RecursionError):
        return text


def _problems(error: pydantic.ValidationError, properties: Mapping[str, Any]) -> list[str]:
    return [_problem(each, properties) for each in error.errors(include_url=False)]


def _problem(detail: ErrorDetails, properties: Mapping[str, Any]) -> str:
    path, message = _path(detail["loc"]), detail["msg"]
    if detail["type"] == "missing":
        return f"argument {path!r} is missing"
    if detail["type"] in _UNKNOWN:
        close = wording.nearest(path, list(properties)) if len(detail["loc"]) == 1 else None
        return f"there is no argument {wording.shown(path)}" + (f", did you mean {close!r}?" if close else "")
    told = f" {message.removeprefix('Input ')}" if message.startswith("Input ") else f": {message}"
    return f"argument {path!r}{told} (got {wording.shown(detail['input'])})"


def _path(location: Sequence[int | str]) -> str:
    """Write ("items", 0, "price") as items[0].price."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location).removeprefix(".")


def _type(schema: json_schema.Schema) -> str:
    """Name a schema's type in a word or two, for a usage line."""
    match schema:
        case {"enum": [*values]}:
            return " or ".join(wording.shown(value) for value in values)
        case {"const": value}:
            return wording.shown(value)
        case {"anyOf": [*choices]} | {"oneOf": [*choices]}:
            return " or ".join(_type(choice) for choice in choices)
        case {"type": "array", "items": {"type": str() as each}}:
            return f"array of {each}"
        case {"type": str() as kind}:
            return f"{kind} ({schema['format']})" if "format" in schema else kind
        case _:
            return "any JSON"
