"""What a small model is asked of memories: of two at a time, whether the later one says how the same thing is now.

Small models can neither look through a list nor name memories by their ids, and are wrong now and then about two of them.
So they are asked only where a rule says that the older one tells how one thing is, the later one does so too or tells of
a change, each is among the nearest to the other, and both have one subject. Then they are asked in two ways and in both
orders, and only if all four answers say so is the older one replaced. What happened once, or may be there several times, is never in question.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any, Final

from pydantic import Field

from cirkelline.configs import models
from cirkelline.state.optimizing import Listed, Pair
from cirkelline.tools.contract import Tool, tool_from_function
from cirkelline.tools.memory import line

LEAST: Final = 0.4
"""The cosine from which on two memories may be about the same thing: `Lives in Ghent` and `Home is in Aarhus` have 0.5."""
NEAREST: Final = 3
"""Among so many of the nearest to it either of two has to be for the other."""

# What tells of a change, though a rule takes it for something that happened.
_CHANGES: Final = re.compile(
    r"\b(now|no longer|any ?more|instead|again|new|moved|switched|changed|started|stopped|quit|left|sold|became|turned"
    r"|divorced|engaged|married|separated|retired|graduated|replaced)\b",
    re.IGNORECASE,
)
# Whom or what a memory is about, where that is not the person: `The wife works at …`, `Sister Karin lives …`.
_SUBJECT: Final = re.compile(
    r"^\W*(?:(?:the|an?|his|her|their|my|our)\s+(\w+)(?:\s+(\w+))?|((?:wife|husband|partner|girlfriend|boyfriend|mother|father"
    r"|mom|mum|dad|parents?|sister|brother|son|daughter|child|children|kids?|aunt|uncle|cousin|friend|boss|manager)\b))",
    re.IGNORECASE,
)
_VERB: Final = re.compile(r"^(was|were|\w*s)$", re.IGNORECASE)


class Answer(StrEnum):
    """What has become of the earlier of two facts."""

    BOTH = "both"
    REPLACED = "replaced"


class Still(StrEnum):
    """Whether a fact is still true."""

    YES = "yes"
    NO = "no"


def compare(answer: Annotated[Answer, Field(description="replaced or both")]) -> None:
    """Say what has become of the earlier fact.

    Args:
        answer: Whether the later fact has replaced it, or both are true.
    """


def still_true(answer: Annotated[Still, Field(description="yes or no")]) -> None:
    """Say whether the old fact is still true.

    Args:
        answer: Whether it is.
    """


@dataclass(frozen=True, slots=True)
class Couple:
    """Two memories of which the later one may say how the same thing is now."""

    old: Listed
    new: Listed


def is_small(model: str) -> bool:
    """Whether a model is to be asked one thing at a time: those that run on this machine are small."""
    return bool(models.read(model, None)["provider"] == "local")


def couples(memories: Iterable[Listed], pairs: Sequence[Pair]) -> list[Couple]:
    """Return the memories that a small model is asked about: the latest of two first, and for each old one the latest first."""
    by_id = {each.id: each for each in memories if each.lasting or _CHANGES.search(each.memory)}
    near: defaultdict[int, list[int]] = defaultdict(list)
    for pair in sorted(pairs, key=lambda pair: -pair.similarity):
        if pair.one in by_id and pair.other in by_id:
            near[pair.one].append(pair.other)
            near[pair.other].append(pair.one)
    found = [
        Couple(*sorted((by_id[one], by_id[other]), key=lambda each: (each.since, each.id)))
        for one, others in near.items()
        for other in others[:NEAREST]
        if one < other and one in near[other][:NEAREST]
    ]
    fit = [each for each in found if _in_question(each)]
    return sorted(fit, key=lambda each: (each.new.since, each.new.id, each.old.since, each.old.id), reverse=True)


def _in_question(couple: Couple) -> bool:
    """Whether the older one may have been replaced at all.

    What only says less takes nobody's place, and of two subjects neither says anything about the other.
    """
    old, new = (couple.old.memory, couple.new.memory)
    return couple.old.lasting and not _words(new) <= _words(old) and _is_about(old, new) and _is_about(new, old)


def _words(text: str) -> set[str]:
    return set(re.findall(r"\w+", text.lower()))


def _is_about(text: str, other: str) -> bool:
    """Whether the subject of a text, if it is not the person, is named in another."""
    if not (found := _SUBJECT.match(text)):
        return True
    first, second, relative = found.groups()
    subject = [relative or first, *([second] if second and not _VERB.match(second) else [])]
    return any(word.startswith(each.lower()[:5]) for each in subject for word in _words(other))


@dataclass(frozen=True, slots=True)
class Question:
    """One way to ask about two facts: the words, the tool that takes the answer, and the answer that one has been replaced."""

    instructions: str
    words: str
    tool: Tool
    replaced: str
    both: str

    def of(self, old: str, new: str) -> str:
        """Return what is asked."""
        return self.words.format(old=line(old), new=line(new))

    def says_so(self, arguments: Mapping[str, Any]) -> bool:
        """Whether an answer is that the earlier one has been replaced."""
        answer: object = arguments["answer"]
        return answer == self.replaced

    @property
    def examples(self) -> list[tuple[str, Mapping[str, Any]]]:
        """Other facts with their answers."""
        return [(self.of(old, new), {"answer": self.replaced if gone else self.both}) for old, new, gone in _EXAMPLES]


_EXAMPLES: Final = (
    ("Has brown hair", "Has red hair now", True),
    ("The husband is a teacher", "Is a plumber", False),
    ("The browser is Firefox", "Uses Safari as the browser", True),
    ("The bike is a Trek", "The boat is a Bavaria", False),
    ("Eats breakfast at seven", "Eats dinner at nine", False),
    ("Is 41 years old", "Turned 42", True),
    ("Ate at the Thai place in 2018", "Ate at the Thai place in 2021", False),
    ("The brother lives on a farm", "Lives in a flat", False),
    ("Lives on a farm", "Lives in a flat", True),
    ("Goes swimming on Mondays", "Swims on Saturdays now", True),
    ("Likes jazz", "Likes techno", False),
    ("Sings in a choir", "Sings in the shower", False),
    ("The best friend is Tim", "Olga is the best friend", True),
)

CONTROLS: Final = (
    ("Wakes up at six", "Goes to bed at eleven"),
    ("Prefers short answers", "Prefers answers in Danish"),
    ("Takes ramipril against high blood pressure", "Takes insulin against diabetes"),
    ("Works from home on Fridays", "Works at the hospital"),
    ("Uses Python at work", "Uses Linux on the laptop"),
    ("Lives in Aarhus", "Lives with two flatmates"),
)
"""Facts that are both true. A model that takes one of them for replaced is not believed about any: the smallest are not."""

# Both have to say so, and whichever of two facts is taken for the older one: facts about one thing replace each other either
# way. One question alone is often wrong about facts that sound alike.
QUESTIONS: Final = (
    Question(
        'You are given an old and a new fact about one person. Is the old fact still true today? Answer "yes" or "no". It is'
        " not if the new fact says how the same thing is now. It is if the facts are about different things, if it tells"
        " what happened once, or if a person may have several of these.",
        'Old fact: {old}\nNew fact: {new}\nIs "{old}" still true?',
        tool_from_function(still_true),
        replaced=Still.NO,
        both=Still.YES,
    ),
    Question(
        'You compare two facts about one person; the later one was told after the earlier one. Answer "replaced" if the'
        " later fact is a new answer to the same question as the earlier one, so that the earlier one is out of date. Answer"
        ' "both" if both are true: they are about different things, or about what happened once, or about things of which a'
        " person has several.",
        "Earlier: {old}\nLater: {new}",
        tool_from_function(compare),
        replaced=Answer.REPLACED,
        both=Answer.BOTH,
    ),
)


def asked(old: str, new: str) -> list[tuple[Question, str]]:
    """Return all that a small model is asked about two facts, each with the words."""
    return [(each, each.of(*two)) for each in QUESTIONS for two in ((old, new), (new, old))]
