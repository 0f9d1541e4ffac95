"""From loaded definitions to the `agents` table: a plan that shows what would change, and its one transaction."""

from __future__ import annotations

import asyncio
import dataclasses
import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any
from uuid import UUID

import yaml

from cirkelline.agents import models, weights
from cirkelline.configs import names, scalars, schema
from cirkelline.configs.errors import CirkellineError, UsageError
from cirkelline.configs.loading import Definition, DefinitionError, Loaded, Problem, parse_config
from cirkelline.configs.schema import AgentSpec, ModelSpec
from cirkelline.state import agents, users
from cirkelline.state.connection import Conn, Database
from cirkelline.state.users import UserNotFound
from cirkelline.tools.toolbox import Toolbox, ToolNotFound


class Action(StrEnum):
    """What applying a definition does; OLDER: the agent's history has this content, another version is current: kept."""

    CREATE = "create"
    UPDATE = "update"
    UNCHANGED = "unchanged"
    OLDER = "older"


@dataclass(frozen=True, slots=True)
class PlanItem:
    """What becomes of one definition. `diff` are unified diff lines for an update; `retired` agents stay retired.

    `again`: an update only because its `auto` now stands for another model.
    """

    name: str
    action: Action
    definition: Definition
    model: ModelSpec
    current_version: int | None
    same_as_version: int | None
    diff: tuple[str, ...]
    retired: bool = False
    again: bool = False


@dataclass(frozen=True, slots=True)
class Plan:
    """What applying would do; `missing` names the agents that came from a file which no file defines any more."""

    items: tuple[PlanItem, ...]
    problems: tuple[Problem, ...]
    missing: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Applied:
    """What was done to one agent; `version` is its current definition version, None when it was retired."""

    name: str
    action: Action | None
    version: int | None


class ProblemsFirst(UsageError):
    """Nothing can be retired while some files cannot be read: what they define may only seem to be gone."""


@dataclass(frozen=True, slots=True)
class _Known:
    """What the database knows of the planned agents: rows by handle, versions by (agent, hash)."""

    rows: Mapping[str, agents.Named]
    versions: Mapping[tuple[UUID, str], agents.Hashed]


def check(loaded: Loaded, toolbox: Toolbox, environ: Mapping[str, str]) -> Loaded:
    """Return what was loaded without the definitions whose tools or model do not exist; each gives a located problem.

    Imports the tools' modules: call it off the loop.
    """
    kept: list[Definition] = []
    problems = list(loaded.problems)
    for definition in loaded.definitions:
        found = [*_tool_problems(definition, toolbox), *_model_problems(definition, environ)]
        problems.extend(found)
        if not found:
            kept.append(definition)
    return Loaded(tuple(kept), tuple(problems))


def _tool_problems(definition: Definition, toolbox: Toolbox) -> Iterator[Problem]:
    taken: dict[str, str] = {}
    for index, spec in enumerate(definition.spec.tools):
        place = ("tools", index)
        try:
            tool = toolbox.resolve(spec)
        except ToolNotFound as error:
            yield definition.problem(place, str(error))
            continue
        if tool.name in taken:
            yield definition.problem(place, _same_name(spec.label, taken[tool.name], tool.name))
        taken.setdefault(tool.name, spec.label)


def _model_problems(definition: Definition, environ: Mapping[str, str]) -> Iterator[Problem]:
    reason = _model_fault(definition.spec.model, environ)
    if reason is not None:
        yield definition.problem(("model",), reason)


def _model_fault(spec: ModelSpec, environ: Mapping[str, str]) -> str | None:
    """Return why no worker could ever serve a model. A missing key is none: another worker may have it."""
    if spec.provider == "scripted":
        return models.why_not_servable(spec, environ)
    if spec.provider == "local" and spec.name and not weights.is_path(spec.name):
        try:
            weights.find(spec.name)
        except CirkellineError as error:
            return str(error)
    return None


def _same_name(label: str, other: str, name: str) -> str:
    return f"{label} and {other} are both called {name!r} by the model: give one of them another @tool(name=…)"


async def plan(
    db: Database,
    loaded: Loaded,
    environ: Mapping[str, str],
    *,
    resolve_auto: bool = False,
    resolve_again: bool = False,
    scope: Sequence[Path] | None = None,
) -> Plan:
    """Compare definitions with the `agents` table and say what applying them would do; changes nothing.

    A plan that is to be applied needs `resolve_auto`: what says `model: auto` is then given its model, once;
    `resolve_again` asks anew for those that have one. `scope` limits `missing` to agents whose file lies in one of
    these files and folders.
    """
    async with db.connection() as conn:
        known = await _known(conn, loaded.definitions)
        items = [await _item(conn, definition, known) for definition in loaded.definitions]
    resolved = [await _resolved(item, environ, again=resolve_again) for item in items] if resolve_auto else items
    faults = [item for item in resolved if isinstance(item, Problem)]
    kept = [item for item in resolved if isinstance(item, PlanItem)]
    async with db.connection() as conn:
        absent = {item.name: await _absent_users(conn, item.definition) for item in kept}
    faults += [problem for found in absent.values() for problem in found]
    kept = [item for item in kept if not absent[item.name]]
    return Plan(tuple(kept), (*loaded.problems, *faults), _missing(loaded, known, scope))


async def _absent_users(conn: Conn, definition: Definition) -> list[Problem]:
    """Return a problem for each schedule that is for a user who does not exist."""
    problems: list[Problem] = []
    for place, schedule in enumerate(definition.spec.schedules):
        if schedule.user is not None:
            try:
                await users.get(conn, schedule.user)
            except UserNotFound as error:
                problems.append(definition.problem(("schedules", place, "user"), str(error)))
    return problems


async def _known(conn: Conn, definitions: Sequence[Definition]) -> _Known:
    rows = {row.handle: row for row in await agents.named(conn)}
    planned = [row.id for definition in definitions if (row := rows.get(definition.spec.name))]
    hashes = [schema.content_hash(definition.spec) for definition in definitions]
    # Later versions overwrite earlier ones: of two with the same content the newest is the one to name.
    versions = {(each.agent_id, each.hash): each for each in await agents.hashed(conn, planned, hashes)}
    return _Known(rows, versions)


async def _item(conn: Conn, definition: Definition, known: _Known) -> PlanItem:
    spec = definition.spec
    row = known.rows.get(spec.name)
    if row is None:
        return PlanItem(spec.name, Action.CREATE, definition, spec.model, None, None, ())
    current, retired = row.definition_version, row.status == "retired"
    same = known.versions.get((row.id, schema.content_hash(spec)))
    if same is not None:
        action = Action.UNCHANGED if same.version == current else Action.OLDER
        model = ModelSpec.model_validate(same.model)
        return PlanItem(spec.name, action, definition, model, current, same.version, (), retired)
    before = await agents.definition(conn, row.id, current) if current is not None else None
    lines = tuple(difference(before.spec if before else {}, schema.canonical(spec), current))
    return PlanItem(spec.name, Action.UPDATE, definition, spec.model, current, None, lines, retired)


async def _resolved(item: PlanItem, environ: Mapping[str, str], *, again: bool) -> PlanItem | Problem:
    written = item.definition.spec.model
    try:
        match item.action:
            case Action.CREATE | Action.UPDATE:
                return dataclasses.replace(item, model=await _resolved_model(written, environ))
            case Action.UNCHANGED if again and written.provider == "auto":
                return _swapped(item, await _resolved_model(written, environ))
            case _:
                return item
    except CirkellineError as error:
        return item.definition.problem(("model",), str(error))


def _swapped(item: PlanItem, model: ModelSpec) -> PlanItem:
    if model == item.model:
        return item
    lines = (f"-auto stands for {item.model.label}", f"+auto stands for {model.label}")
    return dataclasses.replace(item, action=Action.UPDATE, model=model, diff=lines, again=True)


async def _resolved_model(spec: ModelSpec, environ: Mapping[str, str]) -> ModelSpec:
    model = await models.resolve_auto(spec, environ)
    if (fault := _model_fault(model, environ)) is not None:
        raise DefinitionError(fault)
    return model


def _missing(loaded: Loaded, known: _Known, scope: Sequence[Path] | None) -> tuple[str, ...]:
    defined = {definition.spec.name for definition in loaded.definitions}
    broken = {source(problem.path) for problem in loaded.problems}  # its agents are not gone, only unreadable just now
    folders = None if scope is None else [path.absolute() for path in scope]
    return tuple(
        row.handle
        for row in known.rows.values()
        if row.source and row.status != "retired" and row.handle not in defined and row.source not in broken
        if folders is None or any(Path(row.source).is_relative_to(folder) for folder in folders)
    )


def source(path: Path) -> str:
    """Return how a definition's file is named in the database."""
    return str(path.absolute())


def difference(before: Mapping[str, Any], after: Mapping[str, Any], version: int | None) -> Iterator[str]:
    """Yield unified diff lines between two stored definitions, written as YAML."""
    old = f"version {version}" if version is not None else "nothing valid"
    yield from difflib.unified_diff(_lines(before), _lines(after), old, "this file", lineterm="", n=2)


class _Readable(yaml.SafeDumper):
    """YAML as people write it: texts of several lines as blocks."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:  # noqa: ARG002 - its base's signature
        super().increase_indent(flow, indentless=False)


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.Node:
    style = "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)  # pyright: ignore[reportUnknownMemberType]


_Readable.add_representer(str, _text)


def _lines(spec: Mapping[str, Any]) -> list[str]:
    if not spec:
        return []
    # jsonb keeps no order of keys: both sides are written in the order of the file format.
    order = {key: place for place, key in enumerate(AgentSpec.model_fields)}
    written = {key: _ordered(spec[key]) for key in sorted(spec, key=lambda key: (order.get(key, len(order)), key))}
    text = yaml.dump(written, Dumper=_Readable, sort_keys=False, allow_unicode=True, width=10_000)
    return text.splitlines()


def _ordered(value: Any) -> Any:
    if scalars.is_mapping(value):
        return {key: _ordered(value[key]) for key in sorted(value)}
    return [_ordered(item) for item in value] if scalars.is_list(value) else value


async def apply(db: Database, plan: Plan, *, prune: bool = False) -> list[Applied]:
    """Write a plan in one transaction and return what was done; `prune` retires the agents that are missing.

    The database may have changed since the plan was made: each item is decided again under the lock.
    Raises: ProblemsFirst when asked to prune although some files could not be read.
    """
    if prune and plan.problems and plan.missing:
        raise ProblemsFirst(f"nothing was changed: correct {plan.problems[0].path} first, then prune")
    async with db.transaction() as conn:
        await agents.lock_definitions(conn)
        known = await _known(conn, [item.definition for item in plan.items])
        done = [await _write(conn, item, known) for item in plan.items]
        if prune:
            done += [await _retire(conn, known.rows[name]) for name in plan.missing if name in known.rows]
    return done


async def _write(conn: Conn, planned: PlanItem, known: _Known) -> Applied:
    item = await _item(conn, planned.definition, known)
    if planned.again and item.action is Action.UNCHANGED and item.model != planned.model:
        item = dataclasses.replace(item, action=Action.UPDATE)
    match item.action:
        case Action.CREATE:
            await agents.create(conn, _new(planned))
            return Applied(item.name, item.action, 1)
        case Action.UPDATE:
            version = await agents.update(conn, known.rows[item.name].id, _new(planned))
            return Applied(item.name, item.action, version)
        case Action.UNCHANGED | Action.OLDER:
            return Applied(item.name, item.action, item.current_version)


def _new(item: PlanItem) -> agents.NewDefinition:
    if item.model.provider == "auto":
        raise ValueError("a plan that is to be applied is made with resolve_auto=True")
    return _definition(item.definition.spec, item.model, source(item.definition.path))


def _definition(spec: AgentSpec, model: ModelSpec, origin: str | None) -> agents.NewDefinition:
    return agents.NewDefinition(
        name=spec.name,
        type=spec.type,
        capabilities=spec.capabilities,
        spec=schema.canonical(spec),
        hash=schema.content_hash(spec),
        model=model.model_dump(exclude_defaults=True),
        cap=spec.limits.concurrency,
        source=origin,
    )


async def _retire(conn: Conn, row: agents.Named) -> Applied:
    await agents.set_status(conn, row.id, "retired")
    return Applied(row.handle, None, None)


@dataclass(frozen=True, slots=True)
class Checked:
    """What became of an agent that plain SQL put or changed: its new version, or why it cannot run."""

    agent: str
    problem: str | None


async def accept_sql_agents(
    db: Database, toolbox: Toolbox, environ: Mapping[str, str], *, again: bool = False
) -> list[Checked]:
    """Check the agents that plain SQL put or changed: each is accepted or given a problem, and stops no other one.

    With `again` those that have a problem are tried once more: this worker may have the tool that another had not.
    Returns what changed.
    """
    async with db.connection() as conn:
        rows = await (agents.unaccepted(conn) if again else agents.unchecked(conn))
    return [checked for row in rows if (checked := await _check_row(db, row, toolbox, environ)) is not None]


async def _check_row(db: Database, row: agents.Agent, toolbox: Toolbox, environ: Mapping[str, str]) -> Checked | None:
    try:
        spec = await asyncio.to_thread(_read_row, row, toolbox)
        model = await _resolved_model(spec.model, environ)
    except Exception as error:  # noqa: BLE001 - anybody may write that row: whatever it breaks is its own problem
        problem = str(error) if isinstance(error, CirkellineError) else f"it cannot be read: {error!r}"
        if row.problem is not None:
            return None
        async with db.connection() as conn:
            await agents.set_problem(conn, row, problem)
        return Checked(row.handle or row.name, problem)
    handle = row.name if re.fullmatch(names.AGENT_PATTERN, row.name) else None
    async with db.transaction() as conn:
        await agents.lock_definitions(conn)
        same = await agents.hashed(conn, [row.id], [schema.content_hash(spec)])
        kept = ModelSpec.model_validate(same[-1].model) if same else model
        accepted = await agents.accept(conn, row, _definition(spec, kept, None), handle=handle)
    return Checked(row.handle or row.name, None) if accepted else None


def _read_row(row: agents.Agent, toolbox: Toolbox) -> AgentSpec:
    spec = parse_config(row.config, name=row.name, type=row.type, capabilities=row.capabilities)
    taken: dict[str, str] = {}
    for tool in spec.tools:
        name = toolbox.resolve(tool).name
        if name in taken:
            raise DefinitionError(_same_name(tool.label, taken[name], name))
        taken[name] = tool.label
    return spec
