"""Loading agents: from files, with every fault of every file at its place, and from rows that plain SQL put there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from cirkelline.configs import documents, errors, explaining, fields, files, scalars, schema, wording
from cirkelline.configs.documents import Document
from cirkelline.configs.explaining import Finding
from cirkelline.configs.positions import START, KeyPath, Position, Positions, Problem
from cirkelline.configs.schema import AgentSpec, Source

__all__ = ["Definition", "DefinitionError", "Loaded", "Problem", "load", "parse_config"]

_MOST_PROBLEMS: Final = 100  # of one file; whoever has more has one mistake a hundred times


class DefinitionError(errors.UsageError):
    """A stored definition that describes no agent."""


@dataclass(frozen=True, slots=True)
class Definition:
    """An agent as one document of a file defines it."""

    spec: AgentSpec
    path: Path
    line: int
    positions: Positions

    def locate(self, key_path: KeyPath) -> Position:
        """Return the line and column of a value, `("tools", 0)`, or of the nearest parent's key if it is not there."""
        return self.positions.value(key_path)

    def problem(self, key_path: KeyPath, message: str) -> Problem:
        """Return a problem with a value of this definition, for what only a later step can find out."""
        return Problem(self.path, *self.locate(key_path), message)


@dataclass(frozen=True, slots=True)
class Loaded:
    """What files define, in their order, and all that is wrong with them."""

    definitions: tuple[Definition, ...]
    problems: tuple[Problem, ...]


@dataclass(frozen=True, slots=True)
class _Outcome:
    """What became of one document; `name` is what it calls itself, at `at`, even if it is faulty."""

    path: Path
    problems: tuple[Problem, ...]
    definition: Definition | None = None
    name: str | None = None
    at: Position = START


def load(paths: Sequence[Path], environ: Mapping[str, str]) -> Loaded:
    """Read the agents that files and folders (with all folders below) define; never raises for what it finds there.

    A faulty document gives problems and no definition; a file that is not YAML to its end gives no definition at all,
    and neither do two documents with one name: which of them was meant, nobody can know.
    """
    outcomes: list[_Outcome] = []
    for found in files.find(paths):
        outcomes += [_failed(found)] if isinstance(found, Problem) else _file(found, environ)
    outcomes = list(_names_apart(outcomes))
    return Loaded(
        tuple(outcome.definition for outcome in outcomes if outcome.definition),
        tuple(_bounded(outcomes)),
    )


def _failed(problem: Problem) -> _Outcome:
    return _Outcome(problem.path, (problem,))


def _file(path: Path, environ: Mapping[str, str]) -> list[_Outcome]:
    try:
        text = files.read(path)
    except files.Unreadable as unreadable:
        return [_failed(unreadable.problem)]
    parts = [part for part in documents.read(path, text, environ) if isinstance(part, Problem) or not part.empty]
    if not parts:
        message = "this file defines no agent: write at least name: and instructions:"
        return [_failed(Problem(path, *START, message))]
    outcomes = [_failed(part) if isinstance(part, Problem) else _document(path, part) for part in _meant(parts)]
    if isinstance(parts[-1], Problem):  # perhaps a file that is being written: the part before may be half a thought
        outcomes = [replace(outcome, definition=None) for outcome in outcomes]
    return outcomes


def _meant(parts: Sequence[Document | Problem]) -> Sequence[Document | Problem]:
    """Return the parts without the scrap of text before a syntax error, which is no second fault."""
    match parts:
        case [*before, Document(is_mapping=False), Problem() as last]:
            return [*before, last]
        case _:
            return parts


def _bounded(outcomes: Iterable[_Outcome]) -> Iterator[Problem]:
    """Yield the problems, of each file a readable number."""
    for path, of_file in groupby(outcomes, key=lambda outcome: outcome.path):
        problems = [problem for outcome in of_file for problem in outcome.problems]
        yield from problems[:_MOST_PROBLEMS]
        for first_hidden in problems[_MOST_PROBLEMS : _MOST_PROBLEMS + 1]:
            message = f"here and below there are more faults: the first {_MOST_PROBLEMS} of this file are listed"
            yield Problem(path, first_hidden.line, first_hidden.column, message)


def _document(path: Path, document: Document) -> _Outcome:
    spec, faults = _validated(document.data, Source(folder=path.parent))
    positions = document.positions
    own = (_located(path, positions, fault) for fault in faults if not document.hides(fault.path))
    problems = tuple(sorted({*document.problems, *own}, key=lambda problem: (problem.line, problem.column)))
    sound = spec if not problems else None
    name = document.text("name")
    return _Outcome(
        path,
        problems,
        Definition(sound, path, positions.key(()).line, positions) if sound else None,
        name,
        positions.value(("name",)),
    )


def _located(path: Path, positions: Positions, fault: Finding) -> Problem:
    position = positions.key(fault.path) if fault.at_key else positions.value(fault.path)
    return Problem(path, *position, fault.message)


def _names_apart(outcomes: Sequence[_Outcome]) -> Iterator[_Outcome]:
    """Yield the outcomes again, without the definitions that share a name; all but the first report it."""
    uses = Counter(outcome.name for outcome in outcomes)
    first: dict[str, _Outcome] = {}
    for outcome in outcomes:
        if outcome.name is None or uses[outcome.name] == 1:
            yield outcome
            continue
        other = first.setdefault(outcome.name, outcome)
        clash = () if other is outcome else (_clash(outcome, other),)
        yield replace(outcome, definition=None, problems=(*outcome.problems, *clash))


def _clash(outcome: _Outcome, first: _Outcome) -> Problem:
    place = Problem(first.path, *first.at, "").place
    message = f"an agent named {wording.shown(outcome.name)} is already defined at {place}: rename one of them"
    return Problem(outcome.path, *outcome.at, message)


def _validated(data: object, source: Source) -> tuple[AgentSpec | None, list[Finding]]:
    if not scalars.is_mapping(data):
        what = fields.described(data)
        return None, [Finding((), f"an agent is a mapping of keys such as name: and instructions:, not {what}")]
    faults = _version_faults(data)
    try:
        spec = AgentSpec.model_validate({key: data[key] for key in data if key != "version"}, context=source)
    except ValidationError as error:
        return None, [*faults, *explaining.findings(error, data, _MOST_PROBLEMS + 1)]
    return (None if faults else spec), faults


def _version_faults(written: Mapping[str, object]) -> list[Finding]:
    version = written.get("version", schema.FORMAT_VERSION)
    number = scalars.read_integer(version) if isinstance(version, str) else version
    if number == schema.FORMAT_VERSION and not isinstance(number, bool):
        return []
    message = (
        f"version must be {schema.FORMAT_VERSION}, the only version of this format, not {fields.described(version)}"
    )
    return [Finding(("version",), message)]


def parse_config(
    config: object,
    *,
    name: str | None = None,
    type: str | None = None,
    capabilities: Sequence[str | None] | None = None,
) -> AgentSpec:
    """Return the agent that a row of `agents` (or a stored version) describes; raises DefinitionError in one sentence.

    `config` is the row's JSON: the keys of the YAML form, in any of its forms. The row's own columns win over keys of
    that name in `config`, and they are free text: neither a name's pattern nor a length applies to them. Variables
    are not expanded, so that a row cannot read a worker's environment, and files must be absolute paths.
    """
    if not scalars.is_mapping(config):
        what = "empty (NULL)" if config is None else fields.described(config)
        raise DefinitionError(f"the config must be a JSON object with at least instructions, but it is {what}")
    columns: dict[str, object] = {"name": name, "type": type}
    if capabilities is not None:
        columns["capabilities"] = list(dict.fromkeys(word for word in capabilities if word))
    written = dict(config) | {k: v for k, v in columns.items() if v is not None}
    spec, faults = _validated({key: value for key, value in written.items() if value is not None}, Source(row=True))
    if spec is None:
        first, more = faults[0], len(faults) - 1
        raise DefinitionError(f"{first.message}{f' (and {more} more)' if more else ''}")
    return spec
