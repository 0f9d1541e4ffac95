"""What a model sends is either exactly what the function takes, or a sentence the model can act on."""

from __future__ import annotations

import dataclasses
import enum
import json
import uuid
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field

from cirkelline.tools.contract import ArgumentsInvalid, ToolDefinitionError, tool_from_function, validate


class Color(enum.Enum):
    """Colors there are."""

    RED = "red"
    BLUE = "blue"


@dataclasses.dataclass
class Item:
    price: float
    title: str = "thing"


class Order(BaseModel):
    """An order."""

    items: list[Item]
    color: Color = Color.RED


class Open(BaseModel):
    model_config = ConfigDict(extra="allow")
    name: str


class Node(BaseModel):
    value: int
    next: Node | None = None


def everything(  # noqa: PLR0917
    text: str,
    whole: int,
    number: float,
    flag: bool,
    words: list[str],
    table: dict[str, int],
    size: Literal["s", "m"],
    color: Color,
    item: Item,
    order: Order,
    day: date,
    moment: datetime,
    id: uuid.UUID,
    maybe: int | None,
) -> None:
    """Take one of everything."""


EVERYTHING: dict[str, Any] = {
    "text": "a",
    "whole": 1,
    "number": 1.5,
    "flag": True,
    "words": ["a"],
    "table": {"a": 1},
    "size": "m",
    "color": "blue",
    "item": {"price": 2},
    "order": {"items": [{"price": 1, "title": "x"}]},
    "day": "2026-02-03",
    "moment": "2026-02-03T04:05:06Z",
    "id": "12345678-1234-5678-1234-567812345678",
    "maybe": None,
}


def lenient(count: int, city: str = "Rome", tags: list[str] = [], limit: int = 10) -> None:  # noqa: B006
    """Take what a small model means."""


def strange_names(json: int, schema: int, _id: int, model_config: int, copy: int, self: int) -> None:
    """Take names that pydantic keeps for itself."""


def refused(arguments: object, function: Any = lenient) -> str:
    with pytest.raises(ArgumentsInvalid) as invalid:
        validate(tool_from_function(function), arguments)
    return str(invalid.value)


def test_every_type_arrives_as_itself() -> None:
    arguments = validate(tool_from_function(everything), json.dumps(EVERYTHING))
    assert arguments["color"] is Color.BLUE
    assert arguments["item"] == Item(2.0)
    assert arguments["order"] == Order(items=[Item(1.0, "x")])
    assert arguments["day"] == date(2026, 2, 3)
    assert arguments["moment"] == datetime(2026, 2, 3, 4, 5, 6, tzinfo=UTC)
    assert arguments["id"] == uuid.UUID(EVERYTHING["id"])
    assert {key: arguments[key] for key in ("text", "whole", "number", "flag", "words", "table", "size", "maybe")} == {
        key: EVERYTHING[key] for key in ("text", "whole", "number", "flag", "words", "table", "size", "maybe")
    }


def test_no_schema_holds_a_reference_or_a_title() -> None:
    schema = json.dumps(tool_from_function(everything).parameters)
    assert "$ref" not in schema
    assert "$defs" not in schema
    assert '"title": "' not in schema
    assert '"title": {"default": "thing", "type": "string"}' in schema  # a member that is called title


def test_nested_objects_are_closed_and_free_ones_stay_free() -> None:
    properties = tool_from_function(everything).parameters["properties"]
    assert properties["order"]["properties"]["items"]["items"]["additionalProperties"] is False
    assert properties["table"]["additionalProperties"] == {"type": "integer"}


def test_an_argument_that_may_be_left_out_is_shown_by_its_type_alone() -> None:
    def search(query: str, limit: int | None = None, color: Color = None) -> None: ...  # type: ignore[assignment]

    properties = tool_from_function(search).parameters["properties"]
    assert properties["limit"] == {"type": "integer"}
    assert properties["color"] == {"type": "string", "enum": ["red", "blue"], "description": "Colors there are."}


def test_a_required_null_stays_in_the_schema() -> None:
    assert tool_from_function(everything).parameters["properties"]["maybe"] == {
        "anyOf": [{"type": "integer"}, {"type": "null"}]
    }


def test_descriptions_and_bounds_can_be_written_beside_the_type() -> None:
    def some(a: Annotated[int, "how many"], b: Annotated[int, Field(ge=1, description="at least one")]) -> None: ...

    properties = tool_from_function(some).parameters["properties"]
    assert properties["a"] == {"type": "integer", "description": "how many"}
    assert properties["b"] == {"type": "integer", "description": "at least one", "minimum": 1}


def test_a_default_written_as_a_pydantic_field_is_its_value() -> None:
    def some(count: int = Field(default=3, ge=0)) -> None: ...

    made = tool_from_function(some)
    assert validate(made, {}) == {"count": 3}
    assert "should be greater than or equal to 0" in refused({"count": -1}, some)


def test_no_pattern_is_shown_that_grammars_cannot_read() -> None:
    def some(code: Annotated[str, Field(pattern="^(?:a|b)$")], amount: Decimal) -> None: ...

    assert "pattern" not in json.dumps(tool_from_function(some).parameters)
    assert "should match pattern" in refused({"code": "c", "amount": 1}, some)


def test_a_default_that_json_cannot_write_is_not_shown_and_still_holds() -> None:
    def some(value: float = float("nan"), item: Item = Item(1)) -> None: ...  # noqa: B008

    assert validate(tool_from_function(some), {})["item"] == Item(1)


def test_a_type_that_contains_itself_is_refused() -> None:
    def some(node: Node) -> None: ...

    with pytest.raises(ToolDefinitionError, match="'node' has a type that contains itself"):
        tool_from_function(some)


def test_parameters_may_have_names_that_pydantic_keeps_for_itself() -> None:
    given = {"json": 1, "schema": 2, "_id": 3, "model_config": 4, "copy": 5, "self": 6}
    assert validate(tool_from_function(strange_names), given) == given


@pytest.mark.parametrize(
    ("sent", "meant"),
    [
        ('{"count": "3"}', {"count": 3}),
        ('{"count": 3.0}', {"count": 3}),
        ('{"count": 1, "city": 8000}', {"city": "8000"}),
        ('{"count": 1, "tags": "[\\"a\\"]"}', {"tags": ["a"]}),
        ('{"count": 1, "limit": null}', {"limit": 10}),
        ('"{\\"count\\": 1}"', {"count": 1}),
        (b'{"count": 1}', {"count": 1}),
        ({"count": 1}, {"count": 1, "city": "Rome", "limit": 10, "tags": []}),
    ],
)
def test_what_a_small_model_clearly_means_is_taken(sent: object, meant: dict[str, Any]) -> None:
    arguments = validate(tool_from_function(lenient), sent)
    assert {**arguments, **meant} == arguments


@pytest.mark.parametrize("nothing", ["", " \n", None, "{}", {}, "null"])
def test_nothing_at_all_is_no_arguments(nothing: object) -> None:
    def ping() -> None: ...

    assert validate(tool_from_function(ping), nothing) == {}


def test_a_default_list_is_not_shared_between_calls() -> None:
    made = tool_from_function(lenient)
    validate(made, {"count": 1})["tags"].append("left behind")
    assert validate(made, {"count": 1})["tags"] == []


@pytest.mark.parametrize(
    ("sent", "said"),
    [
        ('{"count": 1,}', "not valid JSON"),
        ("count=1", "not valid JSON"),
        ('{"count": NaN}', "NaN is not JSON"),
        pytest.param("[" * 100_000, "not valid JSON", id="deep"),
        pytest.param(f'{{"count": {"9" * 5000}}}', "not valid JSON", id="long"),
        ("[1]", "must be one JSON object, not [1]"),
        ("7", "must be one JSON object, not 7"),
        ('"text"', "not valid JSON"),
        (7, "must be one JSON object"),
        ('{"count": 1.5}', "argument 'count' should be a valid integer"),
        ('{"count": "many"}', "(got 'many')"),
        ('{"count": null}', "argument 'count' should be a valid integer"),
        ("{}", "argument 'count' is missing"),
        ('{"count": 1, "ctiy": "Rome"}', "there is no argument 'ctiy', did you mean 'city'?"),
        ('{"count": 1, "tags": [1, {}]}', "argument 'tags[1]'"),
        ('{"count": 1, "tags": "[1"}', "argument 'tags' should be a valid list"),
        ({"count": float("inf")}, "argument 'count'"),
        ({1: 2}, "Keys should be strings"),
    ],
)
def test_wrong_arguments_are_named_with_what_is_expected(sent: object, said: str) -> None:
    message = refused(sent)
    assert said in message
    assert message.startswith("lenient was not called: ")
    assert "It takes a JSON object with count: integer, city: string (optional), tags: array of string (opt" in message


@pytest.mark.parametrize("number", ["nan", "Infinity", float("nan"), float("-inf"), 1e999])
def test_no_number_is_infinite_or_none_at_all(number: object) -> None:
    def some(number: float) -> None: ...

    assert "should be a finite number" in refused({"number": number}, some)


def test_a_misspelt_member_of_a_nested_object_is_an_error() -> None:
    def some(item: Item) -> None: ...

    def other(order: Order) -> None: ...

    assert "there is no argument 'order.colr'" in refused({"order": {"items": [], "colr": "red"}}, other)
    assert "there is no argument 'item.titlex'" in refused({"item": {"price": 1, "titlex": "x"}}, some)


def test_an_authors_own_open_type_stays_open() -> None:
    def some(item: Open) -> None: ...

    assert validate(tool_from_function(some), {"item": {"name": "a", "more": 1}})["item"].more == 1


def test_the_context_cannot_be_sent_by_the_model() -> None:
    from cirkelline.tools import builtins  # noqa: PLC0415

    with pytest.raises(ArgumentsInvalid, match="there is no argument 'ctx'"):
        validate(builtins.BUILTINS["note"], {"key": "a", "text": "b", "ctx": {}})


def test_a_huge_wrong_value_is_not_repeated_to_the_model() -> None:
    assert len(refused({"count": "x" * 1_000_000})) < 500
    assert len(refused({f"wrong{number}": number for number in range(10_000)})) < 1500


def test_a_tool_without_arguments_says_so() -> None:
    def ping() -> None: ...

    assert refused({"a": 1}, ping).endswith("It takes no arguments: {}.")
