"""People with some three hundred dated memories each, made by code from the sentences in data/memory_set.yaml.

A person has facts that change (`changing`: each new value makes the one before stale) and facts that add up (`adding`).
Questions come in two kinds: some share words with what answers them, others share none, which is checked here. The same
seed makes the same people.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import yaml

DATA = Path(__file__).parent / "data" / "memory_set.yaml"
NOW = datetime(2026, 6, 1, tzinfo=UTC)
OLDEST = 720  # days
ASKED = 0.2  # of the facts that add up; as many questions again are about those that change
_FUNCTION_WORDS = frozenset(
    [
        "a",
        "an",
        "and",
        "are",
        "at",
        "be",
        "been",
        "by",
        "did",
        "do",
        "does",
        "for",
        "from",
        "has",
        "have",
        "how",
        "i",
        "if",
        "in",
        "into",
        "is",
        "it",
        "its",
        "of",
        "on",
        "or",
        "that",
        "the",
        "their",
        "them",
        "they",
        "this",
        "to",
        "was",
        "were",
        "what",
        "when",
        "where",
        "which",
        "who",
        "with",
        "would",
        "ever",
        "person",
        "s",
        "these",
        "those",
        "as",
        "will",
        "there",
    ]
)


@dataclass(frozen=True, slots=True)
class Remembered:
    """One memory; `fact` names what it is about (None where it adds up), `stale` says that a later one replaced it."""

    text: str
    at: datetime
    fact: int | None = None
    stale: bool = False


@dataclass(frozen=True, slots=True)
class Question:
    """A question, the memory that answers it, and those that would answer it wrongly by now."""

    text: str
    answer: int
    stale: tuple[int, ...]
    shares_words: bool


@dataclass(slots=True)
class Person:
    """One person's memories in the order in which they were told, and what one could ask."""

    memories: list[Remembered] = field(default_factory=list[Remembered])
    questions: list[Question] = field(default_factory=list[Question])


def stems(text: str) -> set[str]:
    """The content words of a text, cut to their beginnings: `lives` and `living` are one."""
    words = re.findall(r"[a-z0-9']+", text.lower())
    return {word.rstrip("'s")[:5] for word in words if word not in _FUNCTION_WORDS and len(word) > 1}


def people(amount: int, *, seed: int = 7, memories: int = 305) -> list[Person]:
    """Make so many people with so many memories each."""
    data = yaml.safe_load(DATA.read_text(encoding="utf-8"))
    return [_person(data, random.Random(f"{seed} {number}"), memories) for number in range(amount)]  # noqa: S311


def _person(data: dict[str, Any], dice: random.Random, amount: int) -> Person:
    told: list[tuple[Remembered, list[tuple[str, bool]]]] = []
    for fact in dice.sample(range(len(data["changing"])), 30):
        told += _changing(fact, data["changing"][fact], dice)
    adding = _shuffled_forever(data["adding"], dice)
    seen: set[object] = {each.text for each, _ in told}
    while len(told) < amount:
        kind = next(adding)
        value = dice.choice(list(kind["values"]))
        memory, questions = _adding(kind, value, data["words"], dice)
        # What is asked for is there once: other trips to Lisbon would answer as well.
        if memory.text not in seen and (kind.get("ask", True), value) not in seen:
            seen |= {memory.text, (True, value)}
            told.append((memory, questions))
    told.sort(key=lambda each: each[0].at)
    person = Person([memory for memory, _ in told])
    for place, (memory, questions) in enumerate(told):
        stale = tuple(
            other
            for other, each in enumerate(person.memories)
            if each.stale and each.fact is not None and each.fact == memory.fact
        )
        person.questions += [Question(text, place, stale, shares) for text, shares in questions]
    return person


def _changing(
    fact: int, kind: dict[str, Any], dice: random.Random
) -> Iterator[tuple[Remembered, list[tuple[str, bool]]]]:
    times = dice.choice([1, 2, 2, 3])
    days = sorted((dice.uniform(2, OLDEST) for _ in range(times)), reverse=True)
    for number, (day, value) in enumerate(zip(days, dice.sample(kind["values"], times), strict=True)):
        text = dice.choice(kind["says"]).format(v=value)
        current = number == times - 1
        if current and stems(kind["other"]) & stems(text):
            raise ValueError(f"{kind['other']!r} shares words with {text!r}: {stems(kind['other']) & stems(text)}")
        if current and not stems(kind["same"]) & stems(text):
            raise ValueError(f"{kind['same']!r} shares no word with {text!r}")
        asked = [(kind["same"], True), (kind["other"], False)] if current else []
        yield Remembered(text, NOW - timedelta(days=day), fact, not current), asked


def _adding(
    kind: dict[str, Any], value: str, words: dict[str, list[str]], dice: random.Random
) -> tuple[Remembered, list[tuple[str, bool]]]:
    filled = {name: dice.choice(choices) for name, choices in words.items()} | {
        "v": value,
        "year": dice.randint(2009, 2025),
    }
    text, other = dice.choice(kind["says"]).format(**filled), kind["values"][value]
    if shared := stems(other) & stems(text):
        raise ValueError(f"{other!r} shares words with {text!r}: {shared}")
    asked: list[tuple[str, bool]] = []
    if kind.get("ask", True) and dice.random() < ASKED:
        asked = [(kind["same"].format(**filled), True)] + ([(other, False)] if other else [])
    return Remembered(text, NOW - timedelta(days=dice.uniform(2, OLDEST))), asked


def _shuffled_forever(kinds: list[dict[str, Any]], dice: random.Random) -> Iterator[dict[str, Any]]:
    while True:
        yield from dice.sample(kinds, len(kinds))
