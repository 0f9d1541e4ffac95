"""The agent files of one folder, applied at the start and whenever they change; what is wrong with them is said once."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import structlog

from cirkelline.configs import loading
from cirkelline.configs.errors import UsageError
from cirkelline.configs.loading import Loaded, Problem
from cirkelline.runtime import applying
from cirkelline.runtime.applying import Action, Applied, Plan
from cirkelline.runtime.patience import until_answered
from cirkelline.state.connection import Database
from cirkelline.tools.toolbox import Toolbox

_SHOWN: Final = 20

log = structlog.get_logger(__name__)


class BadDefinitions(UsageError):
    """A strict daemon does not start while a file is wrong."""


class AgentFiles:
    """Applies a folder's agent files. A bad file stops nothing: the last good version of its agents serves."""

    def __init__(self, db: Database, folder: Path, toolbox: Toolbox, environ: Mapping[str, str]) -> None:
        self.folder = folder
        self._db = db
        self._toolbox = toolbox
        self._environ = environ
        self._said: frozenset[str] = frozenset()

    async def apply(self, *, strict: bool = False) -> Plan:
        """Load, check and apply the files, and log what that did and what is wrong with them.

        Raises: BadDefinitions with `strict`, before anything is written.
        """
        loaded = await asyncio.to_thread(self._load)
        plan = await until_answered(lambda: self._plan(loaded), "apply agents")
        self._say_problems(plan)
        if strict and plan.problems:
            raise BadDefinitions(_refusal(plan.problems))
        self._say_done(plan, await until_answered(lambda: applying.apply(self._db, plan), "apply agents"))
        return plan

    def _load(self) -> Loaded:
        return applying.check(loading.load([self.folder], self._environ), self._toolbox, self._environ)

    async def _plan(self, loaded: Loaded) -> Plan:
        return await applying.plan(self._db, loaded, self._environ, resolve_auto=True, scope=[self.folder])

    def _say_problems(self, plan: Plan) -> None:
        """Log what is wrong now and was not before; after a change of one file, not everything again."""
        problems = {str(problem) for problem in plan.problems}
        older = {item.name: item for item in plan.items if item.action is Action.OLDER}
        said = problems | {f"older {name}" for name in older} | {f"missing {name}" for name in plan.missing}
        for problem in plan.problems[:_SHOWN]:
            if str(problem) not in self._said:
                log.error("agent_file.wrong", problem=str(problem))
        if len(plan.problems) > _SHOWN:
            log.error("agent_file.wrong", more=len(plan.problems) - _SHOWN, remedy="cirkelline agents validate")
        for name in plan.missing:
            if f"missing {name}" not in self._said:
                log.warning("agent_file.gone", agent=name, still="serving", remedy=f"cirkelline agents retire {name}")
        for name, item in older.items():
            if f"older {name}" not in self._said:
                remedy = f"cirkelline agents rollback {name} {item.same_as_version}"
                log.warning(
                    "agent_file.older", agent=name, file=item.same_as_version, kept=item.current_version, remedy=remedy
                )
        if self._said and not said:
            log.info("agent_files.fine", folder=self.folder)
        self._said = frozenset(said)

    def _say_done(self, plan: Plan, done: Sequence[Applied]) -> None:
        for item, applied in zip(plan.items, done, strict=True):
            match applied.action:
                case Action.CREATE:
                    log.info("agent.created", agent=item.name, version=applied.version, model=item.model.label)
                case Action.UPDATE:
                    lines = f"+{_count(item.diff, '+')} -{_count(item.diff, '-')}"
                    log.info(
                        "agent.updated", agent=item.name, version=applied.version, lines=lines, model=item.model.label
                    )
                case _:
                    log.debug("agent.unchanged", agent=item.name, version=applied.version)


def _count(diff: Sequence[str], sign: str) -> int:
    return sum(line.startswith(sign) and not line.startswith(sign * 3) for line in diff)


def _refusal(problems: Sequence[Problem]) -> str:
    more = f", and {len(problems) - 1} more" if len(problems) > 1 else ""
    return f"{problems[0]}{more}; nothing was applied (without --strict the last good versions would serve)"
