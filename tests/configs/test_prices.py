"""What a model costs is what a price list says, to the last digit; what no list says is unknown, never nothing."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pytest

from cirkelline.configs import prices
from cirkelline.configs.prices import Price, PricesRefused

OWN = """
date: 2026-11-01
models:
  openai:gpt-4o: {input: 0.0000001, output: 7}
  openai:our-own: {input: 0, output: 0}
"""

FAULTS = {
    "": ":1:1: this is empty",
    "- a\n": ":1:1: a price list must be a mapping",
    "modles: {}\n": ":1:1: unknown key 'modles'; did you mean 'models'?",
    "date: 2026-11-01\n": ":1:1: this price list has no models",
    "date: yesterday\nmodels: {}\n": ":1:7: date must be a day such as 2026-03-31, not 'yesterday'",
    "date: 2026-02-30\nmodels: {}\n": ":1:7: date must be a day",
    "models: [a]\n": ":1:9: models must be a mapping",
    "models:\n  opnai:x: {input: 1, output: 2}\n": ":2:3: 'opnai:x' names no model",
    "models:\n  gpt-4o: {input: 1, output: 2}\n": ":2:3: 'gpt-4o' names no model",
    "models:\n  auto: {input: 1, output: 2}\n": ":2:3: 'auto' names no model",
    "models:\n  openai:x: 3\n": ":2:13: openai:x must be a mapping",
    "models:\n  openai:x: {input: 1}\n": ":2:13: openai:x has no output price",
    "models:\n  openai:x: {input: 1, outptu: 2}\n": ":2:24: unknown key 'outptu'; did you mean 'output'?",
    "models:\n  openai:x: {input: -1, output: 2}\n": ":2:21: input must be dollars per million tokens",
    "models:\n  openai:x: {input: '1', output: 2}\n": ":2:21: input must be dollars per million tokens",
    "models:\n  openai:x: {input: 1e3, output: 2}\n": ":2:21: input must be dollars per million tokens",
    "models:\n  openai:x: {input: ${PRICE}, output: 2}\n": ":2:",
    "models:\n  openai:x: {input: 1, output: 2}\n  openai:x: {input: 1, output: 2}\n": ":3:3: the key 'openai:x'",
    "models: {\n": ":1:9: this bracket is never closed",
    "models: {}\n---\nmodels: {}\n": ":1:1: this holds several documents",
}


def test_every_shipped_price_is_of_a_model_that_a_definition_can_name() -> None:
    shipped = prices.load().shipped
    assert len(shipped) > 10
    assert {label.partition(":")[0] for label in shipped} == {"gemini", "openai"}
    assert all(0 < price.input < price.output for price in shipped.values())


def test_a_call_costs_its_tokens_at_the_listed_prices_exactly() -> None:
    price = prices.load().of("openai:gpt-4o-mini", at_home=True)
    assert price == Price(Decimal("0.15"), Decimal("0.60"))
    assert price.cost(1, 1) == Decimal("0.00000075")
    assert price.cost(1_000_000, 0) == Decimal("0.15")


def test_a_model_on_another_server_is_not_at_its_namesakes_price() -> None:
    listed = prices.load()
    assert listed.of("openai:gpt-4o", at_home=False) is None
    assert listed.of("openai:never-heard-of", at_home=True) is None


@pytest.mark.parametrize("label", ["local:qwen2.5-coder-1.5b", "scripted:/a/b.yaml"])
def test_what_runs_here_costs_nothing(label: str) -> None:
    price = prices.load().of(label, at_home=False)
    assert price is not None
    assert price.cost(0, 0) == price.cost(10, 10) == 0


def test_a_paid_call_whose_tokens_nobody_counted_has_an_unknown_cost() -> None:
    assert Price(Decimal(1), Decimal(2)).cost(0, 0) is None


def test_ones_own_list_goes_before_the_shipped_one_on_every_server(tmp_path: Path) -> None:
    (tmp_path / "prices.yaml").write_text(OWN)
    listed = prices.load(tmp_path / "prices.yaml")
    assert listed.of("openai:gpt-4o", at_home=False) == Price(Decimal("0.0000001"), Decimal(7))
    assert listed.of("openai:our-own", at_home=False) == prices.FREE
    assert listed.of("openai:gpt-4o-mini", at_home=True) is not None


@pytest.mark.parametrize("text", FAULTS)
def test_a_bad_list_is_one_sentence_with_its_place(text: str, tmp_path: Path) -> None:
    path = tmp_path / "prices.yaml"
    path.write_text(text)
    with pytest.raises(PricesRefused) as caught:
        prices.load(path)
    assert str(caught.value).startswith(f"{path}{FAULTS[text]}")
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)


def test_a_list_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(PricesRefused, match="there is no such file"):
        prices.load(tmp_path / "nowhere.yaml")
