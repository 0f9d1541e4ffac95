"""Looking at agents and steering them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from cirkelline.configs import scalars
from cirkelline.configs.errors import CirkellineError
from cirkelline.configs.loading import DefinitionError, parse_config
from cirkelline.configs.schema import AgentSpec, ModelSpec
from cirkelline.runtime.cli import display, opening
from cirkelline.runtime.cli.answers import Answer, Block, Cell, Facts, Mark, Table, Text
from cirkelline.state import agents, snapshots, standing
from cirkelline.state.agents import Agent, Definition
from cirkelline.state.connection import Conn

_HEADINGS: Final = ("agent", "status", "model", "version", "type", "about")


def status(agent: Agent) -> Mark:
    """Return what an agent is doing, or what keeps it from doing anything."""
    match agent:
        case Agent(status="retired" | "paused" as stopped):
            return Mark(stopped, "quiet" if stopped == "retired" else "busy")
        case Agent(problem=str()):
            return Mark("invalid", "bad")
        case Agent(definition_version=None):
            return Mark("unchecked", "busy")
        case Agent(busy=busy) if busy:
            return Mark(f"busy with {busy}", "good")
        case _:
            return Mark("idle", "plain")


def _document(agent: Agent, definition: Definition | None) -> dict[str, Any]:
    return {
        "id": agent.id,
        "name": agent.label if agent.handle else agent.name,
        "handle": agent.handle,
        "type": agent.type,
        "status": status(agent).text.split(" ")[0],
        "busy": agent.busy,
        "problem": agent.problem,
        "model": _model(definition),
        "version": agent.definition_version,
        "capabilities": agent.capabilities or [],
        "description": _words(agent, "description"),
        "adopted": bool(agent.adopted),
        "created_at": agent.created_at,
        "updated_at": agent.updated_at,
    }


def _model(definition: Definition | None) -> str | None:
    if definition is None or not definition.model:  # a workflow has none
        return None
    try:
        return ModelSpec.model_validate(definition.model).label
    except ValueError:  # a row that another release, or somebody's SQL, wrote
        return display.value(definition.model)


def _words(agent: Agent, key: str) -> str:
    found = agent.config.get(key) if scalars.is_mapping(agent.config) else None
    return found if isinstance(found, str) else ""


def _row(agent: Agent, definition: Definition | None) -> Sequence[Cell]:
    name = agent.handle or f"{agent.name} ({display.short(agent.id)})"
    about = agent.problem or _words(agent, "description")
    version = str(agent.definition_version) if agent.definition_version else "-"
    return name, status(agent), _model(definition) or "-", version, agent.type, display.line(about, 120)


def _listed(found: Sequence[Agent], definitions: Mapping[Any, Definition], empty: str) -> Answer:
    document = {"agents": [_document(agent, definitions.get(agent.id)) for agent in found]}
    rows = [_row(agent, definitions.get(agent.id)) for agent in found]
    return Answer(document, [Table(_HEADINGS, rows, empty)])


async def find(*, everything: bool) -> Answer:
    """List agents; the retired ones only when asked."""
    async with opening.connected() as conn:
        found = [agent for agent in await agents.find(conn) if everything or agent.status != "retired"]
        definitions = await _current(conn, found)
    return _listed(found, definitions, "no agents yet: `cirkelline agents apply` takes them from YAML files")


async def search(words: str) -> Answer:
    """List the agents whose name holds every word."""
    async with opening.connected() as conn:
        found = await agents.search(conn, words)
        definitions = await _current(conn, found)
    return _listed(found, definitions, f"no agent's name holds {words!r} (`cirkelline agents list` shows all)")


async def _current(conn: Conn, found: Sequence[Agent]) -> dict[Any, Definition]:
    definitions = {definition.agent_id: definition for definition in await agents.current_definitions(conn)}
    for agent in found:  # paused and retired ones are not among those that may run
        if agent.id not in definitions and agent.definition_version is not None:
            definitions[agent.id] = await agents.definition(conn, agent.id, agent.definition_version)
    return definitions


async def show(reference: str) -> Answer:
    """Show one agent: what it is, what it does now, and its definition."""
    async with opening.connected() as conn:
        agent = await agents.get(conn, reference)
        definition = (await _current(conn, [agent])).get(agent.id)
        waiting = await standing.in_line(conn, agent.id)
        snapshot = await snapshots.latest(conn, agent.id)
    document = _document(agent, definition) | {
        "source": definition.source if definition else None,
        "waiting": waiting,
        "state_version": snapshot.version if snapshot else None,
        "definition": definition.spec if definition else agent.config,
    }
    spec = _spec(definition.spec) if definition else None
    pairs = [*_facts(agent, definition, spec), ("in line", display.count(waiting, "task"))]
    pairs.append(("state", f"version {snapshot.version}" if snapshot else "none yet"))
    blocks: list[Block] = [Facts(pairs)]
    if spec:
        blocks.append(Text(f"Instructions:\n{spec.instructions}", apart=True))
    return Answer(document, blocks)


def _facts(agent: Agent, definition: Definition | None, spec: AgentSpec | None) -> list[tuple[str, Cell]]:
    pairs: list[tuple[str, Cell]] = [
        ("agent", agent.handle or agent.name),
        ("id", str(agent.id)),
        ("status", status(agent)),
        ("type", agent.type),
    ]
    if agent.problem:
        pairs.append(("problem", Mark(agent.problem, "bad")))
    if agent.adopted:
        pairs.append(("adopted", "yes, it was here before cirkelline"))
    if spec and definition:
        limits = spec.limits
        at_once = f", {limits.concurrency} at once" if limits.concurrency else ""
        pairs += [
            ("about", spec.description or "-"),
            ("capabilities", ", ".join(spec.capabilities) or "-"),
            ("model", _model(definition) or "-"),
            ("tools", ", ".join(tool.label for tool in spec.tools) or "-"),
            ("limits", f"{limits.steps} steps, {display.span(limits.wall)} for a task{at_once}"),
            ("version", f"{definition.version}, of {display.when(definition.created)}"),
            ("from", definition.source or "plain SQL"),
        ]
    return [*pairs, ("created", display.when(agent.created_at))]


def _spec(stored: object) -> AgentSpec | None:
    try:
        return parse_config(stored)
    except DefinitionError:
        return None


async def history(reference: str) -> Answer:
    """List the versions of an agent's definition, newest first."""
    async with opening.connected() as conn:
        agent = await agents.get(conn, reference)
        versions = await agents.history(conn, agent.id)
    document = {
        "agent": agent.label,
        "current": agent.definition_version,
        "versions": [
            {
                "version": each.version,
                "created": each.created,
                "model": _model(each),
                "source": each.source,
                "hash": each.hash,
                "definition": each.spec,
            }
            for each in versions
        ],
    }
    rows = [
        (
            Mark(f"{each.version} (current)", "good")
            if each.version == agent.definition_version
            else str(each.version),
            display.ago(each.created),
            _model(each) or "-",
            each.hash[:8],
            each.source or "plain SQL",
        )
        for each in versions
    ]
    empty = f"agent {agent.label} has no valid definition yet"
    return Answer(document, [Table(("version", "made", "model", "content", "from"), rows, empty)])


async def roll_back(reference: str, version: int) -> Answer:
    """Make an older version of an agent's definition the current one; running tasks keep theirs."""
    async with opening.database() as opened, opened.db.transaction() as conn:
        await agents.lock_definitions(conn)
        agent = await agents.get(conn, reference)
        old = await agents.definition(conn, agent.id, version)
        before = agent.definition_version
        if before != version:
            spec = _spec(old.spec)
            if spec is None:
                raise CirkellineError(
                    f"version {version} of {agent.label} is not valid for this release: apply a new one"
                )
            await agents.roll_back(conn, agent.id, version, cap=spec.limits.concurrency)
    document = {"agent": agent.label, "version": version, "previous_version": before, "changed": before != version}
    if before == version:
        return Answer(document, [Text(f"version {version} of agent {agent.label} is the current one already")])
    was = f", instead of version {before}" if before else ""
    return Answer(document, [Text(f"agent {agent.label} is at version {version} again{was}")])


async def set_status(reference: str, wanted: str) -> Answer:
    """Pause, retire or resume an agent; doing it twice changes nothing."""
    async with opening.connected() as conn:
        agent = await agents.get(conn, reference)
        changed = agent.status != wanted
        if changed:
            await agents.set_status(conn, agent.id, wanted)
        waiting = await standing.in_line(conn, agent.id)
    document = {"agent": agent.label, "status": wanted, "changed": changed, "busy": agent.busy, "waiting": waiting}
    state = {"idle": "takes tasks"}.get(wanted, f"is {wanted}")
    words = f"agent {agent.label} {state}{'' if changed else ' already'}"
    if wanted != "idle":
        kept = (
            f"{display.count(waiting, 'task')} in line {'stays' if waiting == 1 else 'stay'} there" if waiting else ""
        )
        running = (
            f"{display.count(agent.busy, 'task')} already running {'goes' if agent.busy == 1 else 'go'} on"
            if agent.busy
            else ""
        )
        words += "".join(f"; {part}" for part in (running, kept) if part)
    return Answer(document, [Text(words)])
