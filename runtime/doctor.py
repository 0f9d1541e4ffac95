"""What this installation needs, checked one thing at a time: each finding is true, each failure has its remedy."""

from __future__ import annotations

import asyncio
import os
import platform
import shutil
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Final

import cirkelline
from cirkelline.agents import models
from cirkelline.configs import loading, prices
from cirkelline.configs import settings as environment
from cirkelline.configs.errors import CirkellineError
from cirkelline.configs.loading import Loaded
from cirkelline.configs.schema import ModelSpec
from cirkelline.configs.settings import Settings
from cirkelline.runtime import applying, composition, logs
from cirkelline.runtime.registry import Registry
from cirkelline.state import (
    adoption,
    agents,
    aliases,
    backfill,
    connection,
    embedded,
    migrations,
    optimizing,
    tasks,
    tenant,
    workers,
)
from cirkelline.state.connection import Conn, Database
from cirkelline.tools.toolbox import Toolbox

_FULL: Final = 256 * 1024**2  # bytes free below which PostgreSQL is about to stop
_TIGHT: Final = 2 * 1024**3  # bytes free below which a model's weights do not fit any more
_SHOWN: Final = 5  # of many like findings


class Verdict(StrEnum):
    """FINE; NOTICE: works, but somebody should know; BROKEN: something does not work until it is put right."""

    FINE = "fine"
    NOTICE = "notice"
    BROKEN = "broken"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was checked: what was found, and for what is not fine the remedy."""

    topic: str
    verdict: Verdict
    says: str
    remedy: str | None = None


@dataclass(slots=True)
class Diagnosis:
    """Everything found, and the settings in force as (variable, value with secrets masked, source)."""

    findings: list[Finding] = field(default_factory=list[Finding])
    settings: list[tuple[str, str, str]] = field(default_factory=list[tuple[str, str, str]])

    @property
    def broken(self) -> bool:
        """Whether anything is."""
        return any(finding.verdict is Verdict.BROKEN for finding in self.findings)

    def fine(self, topic: str, says: str) -> None:
        """Note what is as it should be."""
        self.findings.append(Finding(topic, Verdict.FINE, says))

    def notice(self, topic: str, says: str, remedy: str) -> None:
        """Note what somebody should know."""
        self.findings.append(Finding(topic, Verdict.NOTICE, says, remedy))

    def is_broken(self, topic: str, says: str, remedy: str | None = None) -> None:
        """Note what does not work; without a remedy of its own `says` holds it."""
        self.findings.append(Finding(topic, Verdict.BROKEN, says, remedy))


async def examine(environ: Mapping[str, str], *, configs: Path | None = None, tools: Path | None = None) -> Diagnosis:
    """Check everything and return what was found; changes nothing, and makes no database that is not there yet."""
    diagnosis = Diagnosis()
    diagnosis.fine(
        "release", f"cirkelline {cirkelline.__version__}, Python {platform.python_version()}, {platform.system()}"
    )
    try:
        settings = environment.load_settings(environ)
    except CirkellineError as error:
        diagnosis.is_broken("settings", str(error))
        return diagnosis
    # What would be logged is found and said here; only a fault of ours may still be a log line.
    logs.configure(settings.model_copy(update={"log_level": "error"}), environ)
    _settings(diagnosis, settings, environ)
    folder = composition.configs_folder(settings, configs)
    toolbox = Toolbox(composition.tools_folder(folder, tools), settings.tool_modules)
    await _configs(diagnosis, folder, toolbox, environ)
    await _auto(diagnosis, environ)
    _disk(diagnosis, settings)
    try:
        await _database(diagnosis, settings, environ, toolbox)
    except (CirkellineError, connection.QueryError) as error:
        diagnosis.is_broken("database", _sentence(error))
    return diagnosis


def _sentence(error: Exception) -> str:
    said = str(error).strip().splitlines()
    return (said[0] if said else type(error).__name__).replace(" `cirkelline doctor` checks", "")


def _settings(diagnosis: Diagnosis, settings: Settings, environ: Mapping[str, str]) -> None:
    diagnosis.settings = environment.describe(settings, environ)
    changed = [name for name, _, source in diagnosis.settings if source == "environment"]
    diagnosis.fine("settings", f"from the environment: {', '.join(changed)}" if changed else "all as they come")
    for name, meant in environment.unknown_variables(environ):
        remedy = f"did you mean {meant}?" if meant else "unset it, or look for its name in the README"
        diagnosis.notice("settings", f"{name} is set and means nothing", remedy)
    if settings.prices is not None:
        _prices(diagnosis, settings.prices)


def _prices(diagnosis: Diagnosis, own: Path) -> None:
    try:
        found = prices.load(own).own
    except CirkellineError as error:
        diagnosis.is_broken("prices", str(error), "correct it, or unset CIRKELLINE_PRICES: no worker starts with it")
    else:
        diagnosis.fine("prices", f"{_count(len(found), 'model')} in {own}, before the list that is shipped")


async def _configs(diagnosis: Diagnosis, folder: Path | None, toolbox: Toolbox, environ: Mapping[str, str]) -> None:
    if folder is None:
        diagnosis.fine("agent files", "none here: no CIRKELLINE_CONFIGS, and no ./configs that holds any")
        return
    loaded = await asyncio.to_thread(_loaded, folder, toolbox, environ)
    if loaded.problems:
        first, *others = loaded.problems
        more = f", and {len(others)} more" if others else ""
        diagnosis.is_broken("agent files", f"{first}{more}", "`cirkelline agents validate` lists them all")
    elif not loaded.definitions:
        diagnosis.notice("agent files", f"{folder} holds none", "put *.yaml files there, or set CIRKELLINE_CONFIGS")
    else:
        names = ", ".join(definition.spec.name for definition in loaded.definitions[:_SHOWN])
        diagnosis.fine(
            "agent files", f"{len(loaded.definitions)} valid in {folder} ({names}{_and_more(loaded.definitions)})"
        )


def _loaded(folder: Path, toolbox: Toolbox, environ: Mapping[str, str]) -> Loaded:
    return applying.check(loading.load([folder], environ), toolbox, environ)


def _count(amount: int, noun: str, several: str | None = None) -> str:
    return f"{amount} {noun if amount == 1 else several or f'{noun}s'}"


def _and_more(listed: Sequence[object]) -> str:
    return ", …" if len(listed) > _SHOWN else ""


async def _auto(diagnosis: Diagnosis, environ: Mapping[str, str]) -> None:
    try:
        model = await models.resolve_auto(ModelSpec(), environ)
        reason = await asyncio.to_thread(models.why_not_servable, model, environ)
    except CirkellineError as error:
        diagnosis.is_broken("model auto", str(error))
        return
    if reason:
        diagnosis.notice("model auto", f"would be {model.label}, which cannot run here yet", reason)
    else:
        diagnosis.fine("model auto", f"would be {model.label} here")


def _disk(diagnosis: Diagnosis, settings: Settings) -> None:
    there = next(folder for folder in (settings.home, *settings.home.parents) if folder.is_dir())
    free = shutil.disk_usage(there).free
    says = f"{free / 1024**3:.1f} GB free for {settings.home}"
    remedy = "free some, or set CIRKELLINE_HOME to a folder on a larger disk"
    if not os.access(there, os.W_OK):
        diagnosis.is_broken("disk", f"{there} cannot be written to", "set CIRKELLINE_HOME to a folder of yours")
    elif free < _FULL:
        diagnosis.is_broken("disk", says, remedy)
    elif free < _TIGHT:
        diagnosis.notice("disk", says, remedy)
    else:
        diagnosis.fine("disk", says)


async def _database(diagnosis: Diagnosis, settings: Settings, environ: Mapping[str, str], toolbox: Toolbox) -> None:
    if settings.database_url is None:
        found = await asyncio.to_thread(embedded.status, settings.home)
        if not found.exists:
            diagnosis.fine("database", f"an embedded one, made in {settings.home} by the first command that needs it")
            return
        amount = len(found.users)
        using = f", used by {amount} process{'' if amount == 1 else 'es'}" if amount else ""
        diagnosis.fine(
            "embedded server", f"{'running' if found.running else 'not running, started for this check'}{using}"
        )
    async with _opened(settings) as opened:
        async with opened.db.connection() as conn:
            if not await _schema(diagnosis, opened, conn):
                return
            await _adoption(diagnosis, conn)
            await _isolation(diagnosis, conn)
            await _knowledge(diagnosis, conn)
            await _memories(diagnosis, conn, settings)
            await _workers(diagnosis, conn)
        await _agents(diagnosis, opened.db, Registry(opened.db, toolbox, environ))


@asynccontextmanager
async def _opened(settings: Settings) -> AsyncGenerator[composition.Opened]:
    async with composition.open_database(settings, migrate=False, connections=2) as opened:
        yield opened


async def _schema(diagnosis: Diagnosis, opened: composition.Opened, conn: Conn) -> bool:
    """Check the server and the schema; return whether the rest can be looked at."""
    server, vector = await migrations.versions(conn)
    diagnosis.fine("database", opened.place)
    if _version(server)[:1] < (migrations.OLDEST_SERVER // 10_000,):
        diagnosis.is_broken("PostgreSQL", f"version {server} is too old", "upgrade the server to 15 or later")
    else:
        diagnosis.fine("PostgreSQL", f"version {server}")
    found = await migrations.status(conn)
    _vector(diagnosis, vector, installed_later=not found.applied)
    if found.pending:
        remedy = "`cirkelline db migrate` applies them, and so does the next `cirkelline up`"
        diagnosis.notice("schema", f"not applied yet: {', '.join(found.pending)}", remedy)
        return False
    diagnosis.fine("schema", f"up to date ({len(found.applied)} migrations)")
    return True


def _vector(diagnosis: Diagnosis, version: str | None, *, installed_later: bool) -> None:
    needed = ".".join(map(str, migrations.OLDEST_PGVECTOR))
    if version is None and installed_later:
        diagnosis.notice("pgvector", "not installed in this database yet", "`cirkelline db migrate` installs it")
    elif version is None:
        diagnosis.is_broken("pgvector", "not installed in this database", "run `CREATE EXTENSION vector SCHEMA public`")
    elif _version(version) < migrations.OLDEST_PGVECTOR:
        remedy = f"upgrade it to {needed} or later, then `ALTER EXTENSION vector UPDATE`"
        diagnosis.is_broken("pgvector", f"version {version} is too old", remedy)
    else:
        diagnosis.fine("pgvector", f"version {version}")


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(maxsplit=1)[0].split(".")[:2] if part.isdigit())


async def _adoption(diagnosis: Diagnosis, conn: Conn) -> None:
    report = await adoption.report(conn)
    held = report.held
    if held.pending:
        says = f"{_count(held.pending, 'pending task')} from before cirkelline, held back"
        diagnosis.notice("adoption", says, "`cirkelline db adopt --release` lets them run")
    elif held.agents or held.tasks or held.snapshots:
        found = (_count(held.agents, "agent"), _count(held.tasks, "task"), _count(held.snapshots, "state version"))
        says = f"from before cirkelline: {', '.join(found)}"
        diagnosis.fine("adoption", says)
    if report.in_public:
        says = f"tables of the agents database stand in public and are not used: {', '.join(report.in_public)}"
        diagnosis.notice("adoption", says, "`cirkelline db adopt --from public` moves them")


async def _isolation(diagnosis: Diagnosis, conn: Conn) -> None:
    obstacle = await tenant.obstacle(conn)
    if obstacle:
        diagnosis.is_broken("isolation", obstacle)
    else:
        diagnosis.fine("isolation", "users see their own rows alone, by row-level security")
    hindered = await tenant.hindered(conn)
    if hindered:
        names = ", ".join(hindered[:_SHOWN]) + _and_more(hindered)
        says = f"these roles may write users' tables by INSERT, but not by COPY FROM without BYPASSRLS: {names}"
        diagnosis.fine("isolation", says)
    await _ownerless(diagnosis, conn)


async def _ownerless(diagnosis: Diagnosis, conn: Conn) -> None:
    found = await aliases.of_nobody(conn)
    for relation in dict.fromkeys(each.relation for each in found):
        named = [each for each in found if each.relation == relation and each.owner is not None]
        nameless = sum(each.amount for each in found if each.relation == relation and each.owner is None)
        if named:
            texts = ", ".join(repr(each.owner) for each in named[:_SHOWN]) + _and_more(named)
            says = f"{_count(sum(each.amount for each in named), 'row')} of {relation} with owners that are nobody: {texts}"
            remedy = "`cirkelline users adopt OWNER --as USER` gives them to somebody; `users adopt --list` lists all"
            diagnosis.notice("owners", says, remedy)
        if nameless:
            says = f"{_count(nameless, 'row')} of {relation} without a user_id, which nobody sees"
            remedy = "write the user's id into their metadata as user_id, or 'cirkelline:shared' for everybody"
            diagnosis.notice("owners", says, remedy)


async def _knowledge(diagnosis: Diagnosis, conn: Conn) -> None:
    found = await backfill.standing(conn)
    searchable = f"{_count(found.documents, 'document')} with {_count(found.chunks, 'chunk')} can be searched"
    if found.remaining:
        says = f"{searchable}; {_count(found.remaining, 'row')} of other programs cannot be found yet"
        diagnosis.notice("knowledge", says, "`cirkelline up` takes them in, a batch at a time")
    else:
        diagnosis.fine("knowledge", searchable)
    if found.failed:
        says = f"{_count(found.failed, 'row')} could not be taken in and cannot be found, as {found.problem}"
        diagnosis.notice(
            "knowledge", says, "correct the row, and it is looked at again; ai.knowledge_failures lists them"
        )
    if not found.indexed:
        says = "the index idx_vectors_embedding is not there; no search of cirkelline's needs it, other programs' may"
        diagnosis.notice("knowledge", says, "docs/knowledge.md has the statement that makes it")


async def _memories(diagnosis: Diagnosis, conn: Conn, settings: Settings) -> None:
    found = await optimizing.overall(conn)
    owners = f"{_count(found.memories, 'memory', 'memories')} of {_count(found.owners, 'user')}"
    after = settings.optimize_after
    begins = f"begins by itself after {after} new ones of a user" if after else "does not begin by itself"
    diagnosis.fine("memory", f"{owners}; memory_optimization {begins}")
    if found.failed:
        says = f"the last run of memory_optimization failed for {_count(found.failed, 'user')}"
        diagnosis.notice("memory", says, "`cirkelline workflows list --status FAILED` says why")


async def _workers(diagnosis: Diagnosis, conn: Conn) -> None:
    found = await workers.find(conn)
    alive = [worker for worker in found if worker.alive and worker.session_id is None]
    gone = [worker for worker in found if not worker.alive]
    amounts = await tasks.count_by_status(conn)
    pending = f"{_count(amounts.get('pending', 0), 'task')} pending, {amounts.get('running', 0)} running"
    if alive:
        slots = sum(worker.slots for worker in alive)
        diagnosis.fine("workers", f"{len(alive)} alive with {_count(slots, 'slot')}; {pending}")
    else:
        diagnosis.notice("workers", f"none is alive; {pending}", "`cirkelline up` starts one")
    for worker in gone[:_SHOWN]:
        says = f"{worker.host}:{worker.pid} is gone and still holds {_count(worker.running, 'task')}"
        diagnosis.notice("workers", says, "the next worker that is alive takes them over")


async def _agents(diagnosis: Diagnosis, db: Database, registry: Registry) -> None:
    async with db.connection() as conn:
        found = await agents.find(conn)
    await registry.refresh()
    invalid = [agent for agent in found if agent.problem and agent.status != "retired"]
    for agent in invalid:
        says = f"agent {agent.handle or agent.name} ({str(agent.id)[:8]}) is invalid: {agent.problem}"
        remedy = "correct its config, or `cirkelline agents retire` it"
        # What somebody else put here before us is theirs: it stops nobody, and it is no fault of this installation.
        (diagnosis.notice if agent.adopted else diagnosis.is_broken)("agents", says, remedy)
    for name, reason in registry.refused.items():
        if name.startswith(agents.WORKFLOW):  # run once somewhere is enough for a row; its code may be elsewhere only
            says = f"workflow {name.removeprefix(agents.WORKFLOW)} cannot run on this machine"
            diagnosis.notice("workflows", says, reason)
        else:
            diagnosis.is_broken("agents", f"agent {name} cannot run on this machine", reason)
    unchecked = [agent for agent in found if agent.problem is None and agent.definition_version is None]
    if unchecked:
        diagnosis.notice(
            "agents",
            f"not checked yet: {', '.join(agent.name for agent in unchecked[:_SHOWN])}{_and_more(unchecked)}",
            "a worker does that (`cirkelline up`)",
        )
    if not found:
        diagnosis.notice("agents", "there are none yet", "`cirkelline agents apply` takes them from YAML files")
    elif servable := {agent.id for agent in found}.intersection(registry.servable):
        diagnosis.fine("agents", f"{len(servable)} of {len(found)} can run on this machine")
