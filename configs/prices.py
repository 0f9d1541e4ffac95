"""What models cost: the shipped price list, and an operator's own that goes before it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Final, TypeVar

from pydantic_core import PydanticCustomError

from cirkelline.configs import documents, errors, fields, files, models, scalars, wording
from cirkelline.configs.documents import Document
from cirkelline.configs.fields import refuse
from cirkelline.configs.positions import START, KeyPath, Problem

SHIPPED: Final = Path(__file__).resolve().parent / "prices.yaml"
MILLION: Final = 1_000_000

_FREE_PROVIDERS: Final = ("local", "scripted")
_KEYS: Final = ("date", "models")
_PRICE_KEYS: Final = ("input", "output")
_FORM: Final = "{input: 0.15, output: 0.60}"
_AMOUNT: Final = re.compile(r"[0-9]{1,7}(\.[0-9]{1,9})?", re.ASCII)
_DAY: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", re.ASCII)

Value = TypeVar("Value")


class PricesRefused(errors.UsageError):
    """A file of prices that cannot be read as one."""


@dataclass(frozen=True, slots=True)
class Price:
    """What a million tokens cost, in US dollars."""

    input: Decimal
    output: Decimal

    def cost(self, input_tokens: int, output_tokens: int) -> Decimal | None:
        """Return what one call cost, exactly; None when its model counted no tokens and they are not free."""
        if not (input_tokens or output_tokens) and (self.input or self.output):
            return None
        return (self.input * input_tokens + self.output * output_tokens) / MILLION


FREE: Final = Price(Decimal(0), Decimal(0))


@dataclass(frozen=True, slots=True)
class Prices:
    """The price lists in force: `own` by an operator, `shipped` with the release. Keys are labels: `openai:gpt-4o`."""

    shipped: Mapping[str, Price] = field(default_factory=dict[str, Price])
    own: Mapping[str, Price] = field(default_factory=dict[str, Price])

    def of(self, label: str, *, at_home: bool) -> Price | None:
        """Return a model's price, None where nobody knows it.

        `at_home` says that the model is its provider's own: another server may ask what it likes for the same name.
        """
        if (own := self.own.get(label)) is not None:
            return own
        if label.partition(":")[0] in _FREE_PROVIDERS:
            return FREE
        return self.shipped.get(label) if at_home else None


def load(own: Path | None = None) -> Prices:
    """Return the prices in force; raises PricesRefused, in one located sentence, for a file that is no price list."""
    return Prices(_read(SHIPPED), _read(own) if own is not None else {})


def _read(path: Path) -> dict[str, Price]:
    try:
        parts = list(documents.read(path, files.read(path), {}))
    except files.Unreadable as unreadable:
        raise PricesRefused(str(unreadable.problem)) from None
    for part in parts:
        if isinstance(part, Problem):
            raise PricesRefused(str(part))
        if part.problems:
            raise PricesRefused(str(part.problems[0]))
    match parts:
        case [Document() as document]:
            return dict(_List(path, document).prices())
        case _:
            what = "holds several documents" if parts else "is empty"
            raise PricesRefused(str(Problem(path, *START, f"this {what}: a price list is one, with models: in it")))


@dataclass(frozen=True, slots=True)
class _List:
    """A document that is to be a price list; everything raises PricesRefused for the first thing wrong."""

    path: Path
    document: Document

    def prices(self) -> Iterator[tuple[str, Price]]:
        whole = self._mapping(self.document.data, (), f"with models: in it, such as openai:gpt-4o: {_FORM}", _KEYS)
        if "date" in whole:
            self._field(_day, whole["date"], ("date",))
        if "models" not in whole:
            raise self._fault((), "this price list has no models: add models:")
        listed = self._mapping(whole["models"], ("models",), f"such as openai:gpt-4o: {_FORM}")
        for label, written in listed.items():
            path = ("models", label)
            if fault := _label_fault(label):
                raise self._fault(path, fault, at_key=True)
            price = self._mapping(written, path, f"such as {_FORM}", _PRICE_KEYS)
            if missing := next((key for key in _PRICE_KEYS if key not in price), None):
                raise self._fault(path, f"{label} has no {missing} price: write {_FORM}")
            yield label, Price(*(self._field(_amount, price[key], (*path, key)) for key in _PRICE_KEYS))

    def _mapping(
        self, value: object, path: KeyPath, form: str, known: tuple[str, ...] | None = None
    ) -> dict[str, object]:
        if not scalars.is_mapping(value):
            subject = path[-1] if path else "a price list"
            raise self._fault(path, f"{subject} must be a mapping {form}, not {fields.described(value)}")
        if known and (stray := next((key for key in value if key not in known), None)) is not None:
            hint = wording.did_you_mean(stray, known) or f"; the keys here are {wording.listed(known)}"
            raise self._fault((*path, stray), f"unknown key {wording.shown(stray)}{hint}", at_key=True)
        return value

    def _field(self, read: Callable[[object], Value], value: object, path: KeyPath) -> Value:
        try:
            return read(value)
        except PydanticCustomError as error:
            raise self._fault(path, f"{path[-1]} {error.message()}") from None

    def _fault(self, path: KeyPath, message: str, *, at_key: bool = False) -> PricesRefused:
        positions = self.document.positions
        place = positions.key(path) if at_key else positions.value(path)
        return PricesRefused(str(Problem(self.path, *place, message)))


def _label_fault(label: str) -> str | None:
    provider, _, name = label.partition(":")
    known = [each for each in models.PROVIDERS if each != "auto"]
    if provider in known and name:
        return None
    meant = wording.did_you_mean(provider, known)
    return f"{wording.shown(label)} names no model: write it as definitions do, such as openai:gpt-4o{meant}"


def _amount(value: object) -> Decimal:
    # As it is written, never through a float: a tenth of a cent stays one.
    if not isinstance(value, scalars.Plain) or not _AMOUNT.fullmatch(value):
        raise refuse(f"must be dollars per million tokens, such as 0.15, not {fields.described(value)}")
    return Decimal(value)


def _day(value: object) -> date:
    if isinstance(value, str) and _DAY.fullmatch(value):
        try:
            return date.fromisoformat(value)
        except ValueError:
            pass
    raise refuse(f"must be a day such as 2026-03-31, not {fields.described(value)}")
