"""The built-in tools are right, bounded and honest."""

from __future__ import annotations

import zoneinfo
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cirkelline.tools import builtins, calculation
from cirkelline.tools.calculation import CalculationError
from cirkelline.tools.contract import ToolContext, validate
from cirkelline.tools.execution import Executor, ToolResult
from cirkelline.tools.state import State

Call = Callable[..., Any]
MOMENT = datetime(2026, 7, 1, 12, 30, 15, 999_999, tzinfo=UTC)


class Agent:
    """Calls built-ins as a model does, on one state."""

    def __init__(self) -> None:
        self.state = State({"other": 1})

    async def call(self, name: str, **arguments: Any) -> ToolResult:
        ctx = ToolContext(state=self.state, agent="a", task_id=uuid4(), clock=lambda: MOMENT)
        async with Executor() as executor:
            return await executor.call(builtins.BUILTINS[name], arguments, ctx)

    async def told(self, name: str, **arguments: Any) -> str:
        result = await self.call(name, **arguments)
        assert not result.error, result.text
        return result.text

    async def refused(self, name: str, **arguments: Any) -> str:
        result = await self.call(name, **arguments)
        assert result.error, result.text
        return result.text


@pytest.fixture
def agent() -> Agent:
    return Agent()


def test_every_built_in_is_described_to_the_model_with_each_of_its_arguments() -> None:
    assert sorted(builtins.BUILTINS) == [
        "ask_human", "calculate", "current_time", "forget", "forget_note", "list_documents", "note", "read_document", "read_notes",
        "recall", "remember", "search_knowledge", "sleep",
    ]  # fmt: skip
    for made in builtins.BUILTINS.values():
        assert len(made.description) > 20
        assert all(each.get("description") for each in made.parameters["properties"].values())


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("0.1 + 0.2", "0.3"),
        ("(19.99 + 5) * 3", "74.97"),
        ("1/3*3", "1"),
        ("2**100", "1267650600228229401496703205376"),
        ("2^10", "1024"),
        ("2**0.5", "1.4142135623730950488"),
        ("-7 // 2", "-4"),
        ("7 // -2", "-4"),
        ("-7 % 3", "2"),
        ("7 % -3", "-2"),
        ("-7.5 % 2", "0.5"),
        ("round(2.5)", "3"),
        ("round(-2.5)", "-3"),
        ("round(100 / 7, 2)", "14.29"),
        ("round(1250, -2)", "1300"),
        ("round(10**49, 2)", "10000000000000000000000000000000000000000000000000"),
        ("round(5)", "5"),
        ("floor(-1.5) + ceil(-1.5)", "-3"),
        ("sqrt(16) + abs(-3)", "7"),
        ("min(3, 1, 2) + max(1, 2) + sum(1, 2.5)", "6.5"),
        ("ln(e)", "1"),
        ("log10(1000)", "3"),
        ("exp(0)", "1"),
        ("pi", "3.1415926535897932385"),
        ("1_000 * 3", "3000"),
        ("0x10", "16"),
        ("0 ** 0", "1"),
        ("-0", "0"),
        ("1.10", "1.1"),
        ("3 \N{MULTIPLICATION SIGN} 4 \N{DIVISION SIGN} 2 \N{MINUS SIGN} 1", "5"),
        ("0.12345678901234567890123456789", "0.12345678901234567890123456789"),
        ("10 ** 60", "1E+60"),
        ("1e-40 * 3", "3E-40"),
        ("  2 +  2  ", "4"),
        ("100 * 1.0000000001 ** (10 ** 10)", "271.82818283231311439"),
    ],
)
def test_arithmetic_is_right(expression: str, value: str) -> None:
    assert calculation.value(expression) == value


@given(st.integers(-(10**20), 10**20), st.integers(-(10**20), 10**20).filter(bool))
def test_whole_numbers_are_divided_as_python_divides_them(left: int, right: int) -> None:
    assert calculation.value(f"({left}) // ({right})") == str(left // right)
    assert calculation.value(f"({left}) % ({right})") == str(left % right)
    assert calculation.value(f"({left}) * ({right}) - ({right})") == str(left * right - right)


@given(st.decimals(allow_nan=False, allow_infinity=False, places=10, min_value=-(10**15), max_value=10**15))
def test_a_decimal_is_not_changed_by_reading_and_writing_it(number: Decimal) -> None:
    assert Decimal(calculation.value(str(number))) == number


@pytest.mark.parametrize(
    ("expression", "said"),
    [
        ("9**9**9", "too large"),
        ("2**2**2**2**2**2**2", "too large"),
        ("exp(10**9)", "too large"),
        ("1e99999", "too large"),
        ("10**9999 * 10", "too large"),
        ("2**-99999", "too small"),
        ("1/0", "division by zero"),
        ("0/0", "division by zero"),
        ("5 % 0", "division by zero"),
        ("5 // 0", "division by zero"),
        ("sqrt(-1)", "no result that is real"),
        ("(-8)**(1/3)", "no result that is real"),
        ("ln(0)", "no result that is real"),
        ("1e9999 // 3", "at most 50 digits"),
        ("1,000 * 3", "write 1000.5 and not 1,000.5"),
        ("", "not arithmetic"),
        ("1 +", "not arithmetic"),
        ("5!", "not arithmetic"),
        ("1\x00", "not arithmetic"),
        ("\ud800", "not arithmetic"),
        ("x = 1", "not arithmetic"),
        ("(" * 400 + "1" + ")" * 400, "not arithmetic"),
        ("1+" * 499 + "1" + "+" * 600, "at most 1,000 are read"),
        ("__import__('os').system('id')", "cannot be calculated"),
        ("().__class__.__bases__", "cannot be calculated"),
        ("abs.__self__", "cannot be calculated"),
        ("(lambda: 1)()", "cannot be calculated"),
        ("[1 for _ in range(9)]", "cannot be calculated"),
        ("'a' * 10**9", "cannot be calculated"),
        ("True + 1", "cannot be calculated"),
        ("2j", "cannot be calculated"),
        ("...", "cannot be calculated"),
        ("1 if 1 else 2", "cannot be calculated"),
        ("1 < 2", "cannot be calculated"),
        ("~1", "cannot be calculated"),
        ("1 << 999999", "cannot be calculated"),
        ("round(number=1)", "cannot be calculated"),
        ("max(*(1, 2))", "cannot be calculated"),
        ("print(1)", "cannot be calculated"),
        ("inf", "cannot be calculated"),
        ("sqrt()", "sqrt takes 1 numbers, not 0"),
        ("round(1, 2, 3)", "round takes 1 to 2 numbers, not 3"),
        ("round(1, 1.5)", "whole number of places"),
        ("round(1, 10**9)", "whole number of places"),
    ],
)
def test_what_has_no_value_is_refused_in_words(expression: str, said: str) -> None:
    with pytest.raises(CalculationError, match=r"^[^\n]+$") as refused:
        calculation.value(expression)
    assert said in str(refused.value)


@pytest.mark.parametrize("expression", ["-" * 999 + "1", "(" * 150 + "1" + ")" * 150, "+".join("1" * 500)])
def test_deep_expressions_have_a_value_or_a_sentence(expression: str) -> None:
    try:
        assert Decimal(calculation.value(expression))
    except CalculationError as refused:
        assert "too deeply" in str(refused)  # noqa: PT017


async def test_the_time_is_the_contexts_in_the_zone_asked_for(agent: Agent) -> None:
    assert await agent.told("current_time") == "Wednesday 2026-07-01T12:30:15+00:00 (UTC)"
    told = await agent.told("current_time", time_zone="Europe/Copenhagen")
    assert told == "Wednesday 2026-07-01T14:30:15+02:00 (Europe/Copenhagen)"


@pytest.mark.parametrize(
    ("zone", "near"),
    [
        ("Europe/Kopenhagen", "Europe/Copenhagen"),
        ("copenhagen", "Europe/Copenhagen"),
        ("New York", "America/New_York"),
        ("europe/berlin", "Europe/Berlin"),
    ],
)
async def test_a_misspelt_zone_is_told_with_the_nearest(agent: Agent, zone: str, near: str) -> None:
    told = await agent.call("current_time", time_zone=zone)
    assert near in told.text


@pytest.mark.parametrize(
    "zone", ["", "../../etc/passwd", "/etc/passwd", "America", "a\x00b", "x" * 10_000, "\N{GRINNING FACE}", "."]
)
async def test_what_is_no_zone_is_refused_in_words(agent: Agent, zone: str) -> None:
    told = await agent.refused("current_time", time_zone=zone)
    assert told.startswith("error: there is no time zone '")
    assert len(told) < 250


async def test_without_a_zone_database_utc_still_works(agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise zoneinfo.ZoneInfoNotFoundError(name)

    monkeypatch.setattr(zoneinfo, "ZoneInfo", missing)
    monkeypatch.setattr(zoneinfo, "available_timezones", set)
    assert (await agent.told("current_time", time_zone="utc")).endswith("+00:00 (utc)")
    assert "install the package tzdata" in await agent.refused("current_time", time_zone="Europe/Oslo")


async def test_notes_are_kept_replaced_read_and_forgotten(agent: Agent) -> None:
    assert await agent.told("read_notes") == "there are no notes"
    await agent.told("note", key="plan", text="first")
    await agent.told("note", key="plan", text="second")
    await agent.told("note", key="why", text="because")
    assert await agent.told("read_notes") == '{"plan":"second","why":"because"}'
    await agent.told("forget_note", key="plan")
    assert await agent.told("read_notes") == '{"why":"because"}'
    assert dict(agent.state) == {"other": 1, "note:why": "because"}


async def test_each_note_is_a_key_of_its_own_so_that_overlapping_runs_keep_both(agent: Agent) -> None:
    await agent.told("note", key="a", text="1")
    await agent.told("note", key="b", text="2")
    assert [operation["key"] for operation in agent.state.operations] == ["note:a", "note:b"]


async def test_a_note_that_is_not_there_is_told_with_the_nearest(agent: Agent) -> None:
    assert "there are no notes" in await agent.refused("forget_note", key="plan")
    await agent.told("note", key="plans", text="x")
    assert "did you mean 'plans'?" in await agent.refused("forget_note", key="plan")


async def test_notes_have_room_for_so_much_and_no_more(agent: Agent) -> None:
    await agent.told("note", key="big", text="é" * 8000)
    assert "forget some first" in await agent.refused("note", key="more", text="x" * 400)
    await agent.told("note", key="big", text="é" * 8100)  # replacing frees what was there
    await agent.told("forget_note", key="big")
    await agent.told("note", key="more", text="x" * 400)


@pytest.mark.parametrize("key", ["", "x" * 101])
async def test_a_notes_key_is_short_and_not_empty(agent: Agent, key: str) -> None:
    assert "argument 'key'" in await agent.refused("note", key=key, text="x")


def test_the_model_is_warned_that_notes_are_shared() -> None:
    assert "shared by all" in builtins.BUILTINS["note"].description


def test_a_call_of_calculate_needs_only_the_expression() -> None:
    assert validate(builtins.BUILTINS["calculate"], '{"expression": 5}') == {"expression": "5"}
