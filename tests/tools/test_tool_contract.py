"""A function becomes a tool by its types and its docstring, or is refused with a sentence."""

from __future__ import annotations

import functools
import json
from collections.abc import AsyncIterator, Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

from cirkelline.configs.errors import UsageError
from cirkelline.tools.contract import (
    Tool,
    ToolContext,
    ToolDefinitionError,
    marked,
    tool,
    tool_from_function,
    validate,
)

if TYPE_CHECKING:
    from decimal import Decimal


class Card:
    """Not a type that JSON can fill."""


def charge(ctx: ToolContext, amount: int, currency: str = "EUR") -> str:
    """Charge the customer's card,
    at once.

    Only whole cents.

    Args:
        ctx: The run.
        amount: In cents,
            never negative.
        currency (str): As ISO 4217 has it.

    Returns:
        A receipt.

    Raises:
        ValueError: Never shown to a model.
    """
    del ctx
    return f"charged {amount} {currency}"


def no_types(amount, currency="EUR"):  # type: ignore[no-untyped-def]
    return amount, currency


def no_context_type(ctx, amount: int) -> None:  # type: ignore[no-untyped-def]
    del ctx, amount


def any_arguments(*amounts: int) -> None:
    del amounts


def any_keywords(**options: str) -> None:
    del options


def positional_only(amount: int, /) -> None:
    del amount


def wrong_context(ctx: str) -> None:
    del ctx


def context_under_another_name(context: ToolContext) -> None:
    del context


def type_checking_only(amount: Decimal) -> None:
    del amount


def unusable_type(amount: int, card: Card) -> None:
    del amount, card


def unusable_callable(callback: Callable[[], None]) -> None:
    del callback


def generator() -> Iterator[int]:
    yield 1


async def async_generator() -> AsyncIterator[int]:
    yield 1


def test_the_model_sees_the_text_of_the_docstring_and_no_programmers_sections() -> None:
    made = tool_from_function(charge)
    assert made.name == "charge"
    assert made.description == "Charge the customer's card, at once.\n\nOnly whole cents."


def test_the_context_is_asked_for_but_never_shown() -> None:
    made = tool_from_function(charge)
    assert made.wants_context
    assert "ctx" not in json.dumps(made.parameters)


def test_the_schema_is_plain_closed_and_described() -> None:
    assert tool_from_function(charge).parameters == {
        "type": "object",
        "properties": {
            "amount": {"type": "integer", "description": "In cents, never negative."},
            "currency": {"type": "string", "default": "EUR", "description": "As ISO 4217 has it."},
        },
        "required": ["amount"],
        "additionalProperties": False,
    }


def test_a_function_without_docstring_is_described_by_its_name() -> None:
    def send_a_letter() -> None: ...

    assert tool_from_function(send_a_letter).description == "send a letter"


def test_a_marked_function_stays_an_ordinary_function() -> None:
    @tool
    def double(number: int) -> int:
        return 2 * number

    assert double(4) == 8
    assert tool_from_function(double).function is double


def test_the_decorators_options_win_over_name_and_docstring() -> None:
    @tool(name="double-it", description="Twice as much.", timeout="1m30s")
    def double(number: int) -> int:
        """Say something else."""
        return 2 * number

    made = tool_from_function(double)
    assert (made.name, made.description, made.timeout) == ("double-it", "Twice as much.", 90.0)


def test_an_unmarked_function_is_not_marked_and_has_no_timeout() -> None:
    assert marked(charge) is None
    assert tool_from_function(charge).timeout is None


def test_an_async_function_is_an_async_tool() -> None:
    async def wait() -> None: ...

    assert tool_from_function(wait).is_async
    assert not tool_from_function(charge).is_async


def test_a_decorator_over_the_mark_is_what_gets_called() -> None:
    def twice(function: Callable[..., int]) -> Callable[..., int]:
        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> int:
            return 2 * function(*args, **kwargs)

        return wrapper

    @twice
    @tool(timeout="5s")
    def one(number: int) -> int:
        return number

    made = tool_from_function(one)
    assert made.function(**validate(made, {"number": "21"})) == 42
    assert made.timeout == 5.0


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (no_types, "'amount' has no type; write amount: str"),
        (no_context_type, "write ctx: ToolContext"),
        (any_arguments, "*amounts: 'int' takes any arguments"),
        (any_keywords, "**options: 'str' takes any arguments"),
        (positional_only, "'amount' is positional only"),
        (wrong_context, "write ctx: ToolContext"),
        (context_under_another_name, "call the parameter 'context' that"),
        (type_checking_only, "outside 'if TYPE_CHECKING'"),
        (unusable_type, "'card' has the type"),
        (unusable_callable, "'callback' has the type"),
        (generator, "yields; return the whole result at once"),
        (async_generator, "yields; return the whole result at once"),
        (lambda: None, "a lambda has no name"),
        (Card, "Card is a class, not a tool"),
        (functools.partial(charge, amount=1), "is a partial, not a tool"),
        (print, "is a builtin_function_or_method, not a tool"),
        ("charge", "is a str, not a tool"),
    ],
)
def test_what_cannot_be_a_tool_is_refused_with_the_remedy(function: Any, said: str) -> None:
    with pytest.raises(ToolDefinitionError) as refused:
        tool_from_function(function)
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)
    with pytest.raises(ToolDefinitionError):
        tool(function)


def test_a_refusal_says_where_the_function_is() -> None:
    with pytest.raises(UsageError, match=rf"{__file__}:{wrong_context.__code__.co_firstlineno}: tool 'wrong_context'"):
        tool_from_function(wrong_context)


@pytest.mark.parametrize("name", ["", "a b", "1st", "-x", "x" * 65, "größe", "a\n", "a.b", "../x"])
def test_a_name_that_providers_refuse_is_refused_here(name: str) -> None:
    with pytest.raises(ToolDefinitionError):
        tool(name=name or " ")(charge)


@pytest.mark.parametrize("name", ["a", "_x", "x" * 64, "get-weather_2"])
def test_a_name_that_providers_accept_is_accepted(name: str) -> None:
    def some() -> None: ...

    assert tool_from_function(tool(name=name)(some)).name == name


@pytest.mark.parametrize("timeout", ["soon", "30", "", 0, -1, "0s", float("nan"), float("inf")])
def test_a_timeout_that_is_no_duration_is_refused(timeout: str | float) -> None:
    with pytest.raises(ToolDefinitionError, match="is not a duration"):
        tool(timeout=timeout)(charge)


def test_the_package_offers_authors_what_they_write() -> None:
    import cirkelline.tools  # noqa: PLC0415

    assert cirkelline.tools.tool is tool
    assert cirkelline.tools.ToolContext is ToolContext
    assert cirkelline.tools.Tool is Tool
