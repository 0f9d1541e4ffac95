"""From a YAML text to plain data with the place of every key and value.

The parser's events are read here, one by one, instead of loading objects: what a definition may not use (anchors, tags,
merge keys, a hundred levels of brackets) is refused where it stands, and no value has been turned into another type.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import yaml

from cirkelline.configs import syntax, variables, wording
from cirkelline.configs.positions import KeyPath, Lines, Position, Positions, Problem
from cirkelline.configs.scalars import Expanded, Plain, is_mapping, kind_of

_DEEPEST: Final = 20
_MOST_NODES: Final = 10_000  # of one agent; the largest that makes sense has some hundreds
# The C parser is 20 times as fast; every wheel of PyYAML has it, a build from source may not.
_LOADER: Final[Any] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True, slots=True)
class Document:
    """One YAML document: strings, lists and dicts; `broken` are the paths whose value could not be read."""

    data: object
    positions: Positions
    problems: tuple[Problem, ...]
    broken: frozenset[KeyPath]

    @property
    def empty(self) -> bool:
        """Whether it says nothing at all."""
        return isinstance(self.data, Plain) and kind_of(self.data) == "nothing" and not self.problems

    @property
    def is_mapping(self) -> bool:
        """Whether it can be an agent at all."""
        return is_mapping(self.data)

    def hides(self, path: KeyPath) -> bool:
        """Return whether what a path leads to was already reported as broken."""
        return any(path[:length] in self.broken for length in range(len(path) + 1))

    def text(self, key: str) -> str | None:
        """Return the text a top-level key holds, if it holds one that could be read."""
        value = self.data.get(key) if is_mapping(self.data) else None
        return str(value) if isinstance(value, str) and value and not self.hides((key,)) else None


class TooMuch(Exception):  # it carries a problem to report; nobody outside this package sees it
    """A document that is not read to its end; `problem` says why."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.message)
        self.problem = problem


def read(path: Path, text: str, environ: Mapping[str, str]) -> Iterator[Document | Problem]:
    """Yield the documents of a text; after a Problem (the text is not YAML from there on) nothing more comes."""
    lines = Lines(text)
    events: Iterator[yaml.Event] = yaml.parse(text, Loader=_LOADER)
    try:
        for event in events:
            if isinstance(event, yaml.DocumentStartEvent):
                yield _Reader(path, text, lines, environ, events).document()
    except yaml.YAMLError as error:
        position, message = syntax.explain(error, text)
        yield Problem(path, *position, message)
    except TooMuch as error:
        yield error.problem


@dataclass(slots=True)
class _Reader:
    path: Path
    text: str
    lines: Lines
    environ: Mapping[str, str]
    events: Iterator[yaml.Event]
    nodes: int = 0
    keys: dict[KeyPath, Position] = field(default_factory=dict[KeyPath, Position])
    values: dict[KeyPath, Position] = field(default_factory=dict[KeyPath, Position])
    problems: list[Problem] = field(default_factory=list[Problem])
    broken: set[KeyPath] = field(default_factory=set[KeyPath])

    def document(self) -> Document:
        data = self._node(next(self.events), ())
        return Document(data, Positions(self.values, self.keys), tuple(self.problems), frozenset(self.broken))

    def _node(self, event: yaml.Event, path: KeyPath) -> object:
        self._bound(event, path)
        self._refuse_features(event, path)
        if isinstance(event, yaml.ScalarEvent):
            return self._scalar(event, path)
        self.values[path] = self._position(event)
        if isinstance(event, yaml.SequenceStartEvent):
            return self._sequence(path)
        if isinstance(event, yaml.MappingStartEvent):
            return self._mapping(path)
        return None  # an alias, already refused

    def _sequence(self, path: KeyPath) -> list[object]:
        entries: list[object] = []
        while not isinstance(event := next(self.events), yaml.SequenceEndEvent):
            entries.append(self._node(event, (*path, len(entries))))
        return entries

    def _mapping(self, path: KeyPath) -> dict[str, object]:
        mapping: dict[str, object] = {}
        while not isinstance(event := next(self.events), yaml.MappingEndEvent):
            key = self._key(event, path)
            if key is None:
                self.broken.add(path)
                self._node(next(self.events), (*path, "?"))
            elif key in mapping:
                first = self.keys[*path, key].line
                self._report(
                    event, f"the key {wording.shown(key)} stands here twice (first on line {first}): remove one"
                )
                self._node(next(self.events), (*path, key, "again"))
            else:
                self.keys[*path, key] = self._position(event)
                mapping[key] = self._node(next(self.events), (*path, key))
        return mapping

    def _key(self, event: yaml.Event, path: KeyPath) -> str | None:
        if not isinstance(event, yaml.ScalarEvent):
            if not isinstance(event, yaml.AliasEvent):
                self._report(event, "a key must be a word, not a list or a mapping")
            self._node(event, (*path, "?"))
            return None
        self._bound(event, path)
        self._refuse_features(event, (*path, "?"))
        if event.value == "<<" and event.implicit[0]:
            self._report(event, "merge keys (<<) are not supported: write the keys out")
            return None
        return str(event.value)

    def _scalar(self, event: yaml.ScalarEvent, path: KeyPath) -> str:
        plain = event.implicit[0]
        if event.value or not plain:  # a value that is not there stands nowhere: its key is shown instead
            self.values[path] = self._position(event)
        if not variables.storable(event.value):
            self._report(event, "this text holds a NUL character or half of a surrogate pair, which no database stores")
            self.broken.add(path)
            return ""
        expansion = variables.expand(event.value, self.environ)
        if expansion.faults:
            self._report_references(event, expansion.faults)
            self.broken.add(path)
        if "${" in event.value:
            return Expanded(expansion.text)
        return Plain(event.value) if plain else str(event.value)

    def _report_references(self, event: yaml.ScalarEvent, faults: tuple[variables.Fault, ...]) -> None:
        start, end = _span(event)
        places = [match.start() for match in variables.BEGINNING.finditer(self.text, start, end)]
        for fault in faults:
            index = places[fault.occurrence] if fault.occurrence < len(places) else start
            self.problems.append(Problem(self.path, *self.lines.position(index), fault.message))

    def _refuse_features(self, event: yaml.Event, path: KeyPath) -> None:
        if isinstance(event, yaml.AliasEvent):
            self._report(event, f"aliases (*{event.anchor}) are not supported: write the value out")
            self.broken.add(path)
        elif isinstance(event, yaml.NodeEvent) and event.anchor:
            self._report(event, f"anchors (&{event.anchor}) are not supported: remove it")
        if (tag := getattr(event, "tag", None)) is not None:
            self._report(event, f"tags ({wording.shown(tag)}) are not supported: remove it, or put the text in quotes")
            self.broken.add(path)

    def _bound(self, event: yaml.Event, path: KeyPath) -> None:
        self.nodes += 1
        if len(path) > _DEEPEST:
            raise TooMuch(self._problem(event, f"this is nested more than {_DEEPEST} levels deep, and no agent is"))
        if self.nodes > _MOST_NODES:
            raise TooMuch(self._problem(event, f"this agent has more than {_MOST_NODES:,} keys and values"))

    def _report(self, event: yaml.Event, message: str) -> None:
        self.problems.append(self._problem(event, message))

    def _problem(self, event: yaml.Event, message: str) -> Problem:
        return Problem(self.path, *self._position(event), message)

    def _position(self, event: yaml.Event) -> Position:
        return self.lines.position(_span(event)[0])


def _span(event: yaml.Event) -> tuple[int, int]:
    start, end = event.start_mark, event.end_mark  # the parser marks every event; its types do not say so
    return (start.index, end.index) if start and end else (0, 0)
