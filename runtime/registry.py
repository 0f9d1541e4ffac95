"""Which agents this worker can serve, at which definition, with which tools; and why not the others."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Final, TypeAlias
from uuid import UUID

import structlog

from cirkelline.agents import access, models
from cirkelline.configs.errors import CirkellineError
from cirkelline.configs.loading import parse_config
from cirkelline.configs.prices import Price, Prices
from cirkelline.configs.schema import AgentSpec, ModelSpec, ToolSpec
from cirkelline.runtime import applying, workflows
from cirkelline.runtime.workflows import CommandsOwn, PreparedWorkflow
from cirkelline.state import agents
from cirkelline.state import workflows as records
from cirkelline.state.connection import Database
from cirkelline.tools.contract import Tool
from cirkelline.tools.toolbox import Toolbox

log = structlog.get_logger(__name__)

TRY_AGAIN: Final = 15.0
"""Seconds after which an agent that could not be served is looked at once more: weights arrive, files are put right."""
OLDER_KEPT: Final = 256
SHOWN: Final = 20

Version = tuple[UUID, int]


class Unservable(CirkellineError):
    """This worker lacks what a version of an agent needs; another worker may have it."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A version of an agent that can be run: its definition, the resolved model, the tools, and what the model costs."""

    agent_id: UUID
    version: int
    spec: AgentSpec
    model: ModelSpec
    tools: tuple[Tool, ...]
    price: Price | None = None

    @property
    def name(self) -> str:
        """The agent's name."""
        return self.spec.name


def prepared(stored: agents.Definition, resolve: Callable[[ToolSpec], Tool] | None = None) -> Prepared:
    """Return a stored version of an agent with the tools that `resolve` finds, or without its tools.

    Raises: CirkellineError where one is missing; anything else for what another release has stored.
    """
    spec = parse_config(stored.spec)
    model = ModelSpec.model_validate(stored.model)
    tools = tuple(map(resolve, spec.tools)) if resolve else ()
    return Prepared(stored.agent_id, stored.version, spec, model, tools)


@dataclass(frozen=True, slots=True)
class _Refusal:
    name: str
    reason: str
    since: float
    tries: int = 1


_Outcome: TypeAlias = Prepared | PreparedWorkflow | CommandsOwn | str
"""What reading a stored definition came to; a text says why this worker cannot serve it."""


class Registry:
    """The agents and workflows as this worker sees them; `refresh` at every poll and whenever agents or tools changed."""

    def __init__(
        self,
        db: Database,
        toolbox: Toolbox,
        environ: Mapping[str, str],
        *,
        prices: Prices | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._db = db
        self._toolbox = toolbox
        self._environ = environ
        self._prices = prices or Prices()
        self._clock = clock
        self._current: dict[UUID, int] = {}
        self._prepared: dict[Version, Prepared | PreparedWorkflow] = {}
        self._refused: dict[Version, _Refusal] = {}
        self._held_back: dict[UUID, _Refusal] = {}
        self._commands: set[Version] = set()
        self._lock = asyncio.Lock()
        self._loaded = False

    @property
    def servable(self) -> list[UUID]:
        """The agents whose tasks this worker may claim, for all it has itself."""
        now = self._clock()
        return [
            agent_id
            for agent_id, version in self._current.items()
            if (agent_id, version) in self._prepared
            and not ((held := self._held_back.get(agent_id)) and now < held.since + _pause(held))
        ]

    def model(self, agent_id: UUID) -> ModelSpec | None:
        """Return the model of an agent that can be served; None for a workflow."""
        found = self._prepared.get((agent_id, self._current.get(agent_id, 0)))
        return found.model if isinstance(found, Prepared) else None

    @property
    def refused(self) -> dict[str, str]:
        """The agents that this worker cannot serve: name and reason."""
        current = [self._refused.get(item) for item in self._current.items()]
        return {refusal.name: refusal.reason for refusal in current if refusal is not None}

    def name(self, agent_id: UUID) -> str:
        """Return an agent's name for a log line; its id as long as it has not been loaded."""
        prepared = self._prepared.get((agent_id, self._current.get(agent_id, 0)))
        return prepared.name if prepared else str(agent_id)

    async def refresh(self, *, again: bool = False, tools_changed: bool = False, unchecked: bool = True) -> bool:
        """Check agents that came by plain SQL, then load what is new; return whether more can be served than before.

        Without `unchecked` none has come, as somebody has just seen.
        With `again` agents that have a problem are checked once more; with `tools_changed` all tools are looked up again.
        """
        async with self._lock:
            if again or tools_changed or unchecked:
                await self._accept(again=again or tools_changed)
            before = set(self.servable)
            async with self._db.connection() as conn:
                self._current = await agents.runnable(conn)
            if tools_changed:
                self._prepared.clear()
                self._refused.clear()
                self._held_back.clear()
            await self._prepare_new()
            self._forget_old()
            self._say_first()
            return not before.issuperset(self.servable)

    async def get(self, agent_id: UUID, version: int) -> Prepared | PreparedWorkflow:
        """Return a version of an agent or a workflow, loaded at first sight: a task keeps the version it started with.

        Raises: Unservable, saying what is missing.
        """
        item = (agent_id, version)
        if item not in self._prepared:
            async with self._lock:
                if item not in self._prepared:
                    await self._prepare([item])
        if item in self._prepared:
            return self._prepared[item]
        refusal = self._refused.get(item)
        raise Unservable(refusal.reason if refusal else f"there is no definition version {version} of this agent")

    def hold_back(self, agent_id: UUID, reason: str) -> None:
        """Claim no task of this agent for a while, longer each time: one that was just released would come back."""
        before = self._held_back.get(agent_id)
        self._held_back[agent_id] = _Refusal("", reason, self._clock(), before.tries + 1 if before else 1)

    async def _accept(self, *, again: bool) -> None:
        for checked in await applying.accept_sql_agents(self._db, self._toolbox, self._environ, again=again):
            if checked.problem is None:
                log.info("agent.accepted", agent=checked.agent)
            else:
                log.warning("agent.refused", agent=checked.agent, problem=checked.problem)

    async def _prepare_new(self) -> None:
        now = self._clock()
        await self._prepare(
            [
                item
                for item in self._current.items()
                if item not in self._prepared
                and item not in self._commands
                and not ((refusal := self._refused.get(item)) and now < refusal.since + TRY_AGAIN)
            ]
        )

    async def _prepare(self, wanted: list[Version]) -> None:
        if not wanted:
            return
        async with self._db.connection() as conn:
            found = await agents.definitions_at(conn, wanted)
        # In a thread: tools are imported, scripts and weights looked for on disk.
        for stored, outcome in zip(found, await asyncio.to_thread(self._read_all, found), strict=True):
            self._keep(stored, outcome)

    def _read_all(self, found: list[agents.Definition]) -> list[_Outcome]:
        return [self._read(stored) for stored in found]

    def _read(self, stored: agents.Definition) -> _Outcome:
        try:
            if (label := records.label_in(stored.spec)) is not None:
                workflow = workflows.resolve(label, self._toolbox)
                return PreparedWorkflow(stored.agent_id, stored.version, label, workflow)
            found = prepared(stored, self._toolbox.resolve)
            reason = models.why_not_servable(found.model, self._environ)
        except CommandsOwn as own:
            return own
        except CirkellineError as error:
            reason = str(error)
        except Exception as error:  # noqa: BLE001 - one definition of whatever release must not stop the others
            reason = f"its stored definition cannot be read: {error!r}"
        else:
            if reason is None:
                at_home = access.at_home(found.model, self._environ)
                return replace(found, price=self._prices.of(found.model.label, at_home=at_home))
        return reason

    def _keep(self, stored: agents.Definition, outcome: _Outcome) -> None:
        item = (stored.agent_id, stored.version)
        if isinstance(outcome, CommandsOwn):  # it is no lack of this worker's, so nobody is told
            self._commands.add(item)
            return
        name = str(stored.spec.get("name", stored.agent_id))
        before = self._refused.pop(item, None)
        if isinstance(outcome, PreparedWorkflow):
            self._prepared[item] = outcome
            log.info("workflow.ready", workflow=outcome.label)
            return
        if isinstance(outcome, Prepared):
            self._prepared[item] = outcome
            if self._loaded and self._current.get(stored.agent_id) == stored.version:
                log.info("agent.ready", agent=name, version=stored.version, model=outcome.model.label)
            return
        self._refused[item] = _Refusal(name, outcome, self._clock())
        if before is None or before.reason != outcome:
            log.warning("agent.unservable", agent=name, version=stored.version, reason=outcome)

    def _say_first(self) -> None:
        if self._loaded:
            return
        self._loaded = True
        names = sorted(prepared.name for prepared in self._prepared.values() if isinstance(prepared, Prepared))
        if names:
            log.info("agents.ready", amount=len(names), agents=", ".join(names[:SHOWN]))
        elif not self._current:
            log.warning("agents.none", remedy="put agent files into ./configs or give a folder with --configs")

    def _forget_old(self) -> None:
        current = set(self._current.items())
        older = [item for item in self._prepared if item not in current]
        for item in older[: max(0, len(older) - OLDER_KEPT)]:
            del self._prepared[item]
        self._refused = {item: refusal for item, refusal in self._refused.items() if item in current}


def _pause(held: _Refusal) -> float:
    return min(30.0, 2.0 ** (held.tries - 1))
