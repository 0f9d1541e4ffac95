"""`knowledge add` as a workflow: a run of few steps, each a batch of documents, carried out where the files are."""

from __future__ import annotations

import asyncio
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from uuid import UUID

import pydantic

from cirkelline.configs import scalars
from cirkelline.runtime import own_runs
from cirkelline.runtime.composition import Opened
from cirkelline.runtime.ingest import embedders, syncing
from cirkelline.runtime.ingest.documents import Ingest, Owner, Spent, stamp
from cirkelline.runtime.ingest.verdicts import Outcome, Progress, Tell, Verdict, after, tally, tell_nobody
from cirkelline.runtime.own_runs import OwnRun
from cirkelline.state import journal, users
from cirkelline.state.connection import Database
from cirkelline.state.journal import Kind
from cirkelline.tools import reading, workflows
from cirkelline.tools.embedding import EmbedderPool
from cirkelline.tools.reading import Limits, Source
from cirkelline.tools.workflows import Workflow, WorkflowRun, workflow

LABEL: Final = "knowledge_add"
LANES: Final = 3
"""Documents that are on their way at once: while one is embedded, the next is parsed and another one stored."""
SMALLEST_BATCH: Final = 16
MOST_BATCHES: Final = 100
"""The record of a run is made anew at each step, so ten thousand files must not be ten thousand steps."""
PAUSES: Final = (2.0, 10.0)
"""Seconds before the documents are tried again that failed for reasons which may have passed."""
WALL: Final = 30 * 86_400.0
"""Seconds that an attempt may take: nobody but the person at the command ends it."""
SHOWN: Final = 100
"""Bad documents that the run's own record names; the steps have all of them."""


@dataclass(frozen=True, slots=True)
class Request:
    """What was asked for: `user_id` None is everybody's; `removals` is how many documents a sync may remove at most."""

    arguments: tuple[str, ...]
    user_id: UUID | None
    tags: tuple[str, ...] = ()
    sync: bool = False
    removals: int | None = None

    def fits(self, given: Mapping[str, Any], user_id: UUID | None) -> bool:
        """Whether a run was asked for the same."""
        same = ("arguments", "shared", "tags", "sync")
        return user_id == self.user_id and all(given.get(key) == self.given[key] for key in same)

    @property
    def given(self) -> dict[str, Any]:
        """The input of a run."""
        return {
            "arguments": list(self.arguments),
            "shared": self.user_id is None,
            "tags": list(self.tags),
            "sync": self.sync,
            "removals": self.removals,
        }


def asked(run: OwnRun) -> Request:
    """Return what an interrupted run was asked for."""
    given = run.given
    return Request(
        tuple(map(str, given.get("arguments") or ())),
        run.user_id,
        tuple(map(str, given.get("tags") or ())),
        sync=bool(given.get("sync")),
        removals=given.get("removals"),
    )


@dataclass(frozen=True, slots=True)
class Batch:
    """What a step gave: the verdicts, and whether there are documents after them."""

    outcomes: list[Outcome]
    more: bool = False


@dataclass(frozen=True, slots=True)
class Added:
    """What became of a run: each document's last verdict, in the order in which they were taken."""

    run_id: UUID
    outcomes: Sequence[Outcome]

    @property
    def bad(self) -> list[Outcome]:
        """Those that were refused or failed."""
        return [outcome for outcome in self.outcomes if outcome.is_bad]


@dataclass(slots=True)
class Adding:
    """One attempt at a run."""

    ingest: Ingest
    request: Request
    sources: Sequence[Source]
    tell: Tell = tell_nobody
    outcomes: dict[str, Outcome] = field(default_factory=dict[str, Outcome])
    seen: set[str] = field(default_factory=set[str])

    def workflow(self) -> Workflow:
        """Return the workflow that carries this attempt out."""

        @workflow(wall=WALL)
        async def knowledge_add(
            run: WorkflowRun,
            *,
            arguments: list[str],
            shared: bool,
            tags: list[str],
            sync: bool,
            removals: int | None = None,
            host: str = "",
        ) -> dict[str, Any]:
            """Bring the documents of files, folders and addresses up to date."""
            del arguments, shared, tags, sync, removals, host
            return await self._run(run)

        found = workflows.marked(knowledge_add)
        assert found is not None  # noqa: S101 - it was marked three lines above; told to the type checkers
        return found

    async def _run(self, run: WorkflowRun) -> dict[str, Any]:
        """Take all documents in, batch by batch.

        A step is not told which documents are its own: it takes those that have no verdict yet, or whose files are not
        as they were when they got it. So a run goes on whatever happened to the files since it was cut off, and never
        finds another list in its place.
        """
        number, more = 0, True
        while more:
            number += 1
            batch = await run.step(f"batch {number}", self._batch)
            self._keep(batch.outcomes)
            more = batch.more
        for number in range(1, len(PAUSES) + 1):
            if any(outcome.again for outcome in self.outcomes.values()):
                self._keep((await run.step(f"again {number}", self._again, number)).outcomes)
        if self.request.sync:
            self._keep((await run.step("remove", self._remove)).outcomes)
        outcomes = list(self.outcomes.values())
        bad = [{"source": each.source, "why": each.why} for each in outcomes if each.is_bad]
        return {
            "documents": len(outcomes),
            "verdicts": tally(outcomes),
            "chunks": sum(each.chunks for each in outcomes),
            "bad": bad[:SHOWN],
        }

    def _keep(self, outcomes: Sequence[Outcome]) -> None:
        self.outcomes |= {each.source: after(self.outcomes.get(each.source), each) for each in outcomes}

    def left(self) -> list[Source]:
        """Return the documents that have to be looked at."""
        return [source for source in self.sources if source.uri not in self.seen and not self._stands(source)]

    def _stands(self, source: Source) -> bool:
        """Whether a verdict of an earlier attempt holds: bad ones are looked at again, as are addresses."""
        outcome = self.outcomes.get(source.uri)
        return bool(outcome and not outcome.is_bad and outcome.stamp and outcome.stamp == stamp(source))

    async def _batch(self) -> Batch:
        left = await asyncio.to_thread(self.left)
        size = max(SMALLEST_BATCH, math.ceil(len(self.sources) / MOST_BATCHES))
        return Batch(await self._take(left[:size]), more=len(left) > size)

    async def _again(self, number: int) -> Batch:
        await asyncio.sleep(PAUSES[number - 1])
        return Batch(await self._take([each for each in self.sources if self._may_be_tried(each)]))

    def _may_be_tried(self, source: Source) -> bool:
        outcome = self.outcomes.get(source.uri)
        return outcome is not None and outcome.again

    async def _take(self, sources: Sequence[Source]) -> list[Outcome]:
        """Take some documents in, a few at once."""
        self.ingest.begin_pass()
        taken: list[Outcome] = []
        line = iter(sources)
        async with asyncio.TaskGroup() as lanes:
            for _ in range(min(LANES, len(sources))):
                lanes.create_task(self._lane(line, taken))
        return taken

    async def _lane(self, line: Iterator[Source], taken: list[Outcome]) -> None:
        for source in line:
            self._say(taken, current=source.name)
            outcome = await self.ingest.take(source)
            self.seen.add(source.uri)
            taken.append(outcome)
            self._say(taken, current=source.name, outcome=outcome)

    def _say(self, taken: Sequence[Outcome], *, current: str, outcome: Outcome | None = None) -> None:
        done = len(self.outcomes.keys() | {each.source for each in taken})
        total = max(len(self.sources), done)
        self.tell(Progress(done, total, self.ingest.stored, current, outcome))

    async def _remove(self) -> Batch:
        """Remove what has vanished from the folders, unless this looks as if the folders themselves had."""
        if self.outcomes and all(outcome.is_bad for outcome in self.outcomes.values()):
            return Batch([])
        found = await syncing.vanished(self.ingest.owner, self.request.arguments, self.sources)
        agreed = self.request.removals
        if found.why_kept or (found.many and agreed is not None and len(found.documents) > agreed):
            why = found.why_kept or "more files have vanished than was agreed to: the same command asks again"
            folder = ", ".join(self.request.arguments)
            return Batch([Outcome(folder, folder, Verdict.FAILED, f"no document was removed: {why}")])
        return Batch(await syncing.remove(self.ingest.owner, found.documents))


async def add(
    opened: Opened,
    pool: EmbedderPool,
    request: Request,
    sources: Sequence[Source],
    *,
    run: OwnRun | None = None,
    tell: Tell = tell_nobody,
    spent: Spent | None = None,
) -> Added:
    """Carry a request out: as the run that was cut off with the same request, if there is one, else as a new one.

    The database's embedder has been fixed before. Raises: RunPaused, TenantsUnprotected; RunFailed when the run was
    cancelled.
    """
    owner = Owner(opened.db, request.user_id)
    await owner.check()
    run = run or await own_runs.interrupted(opened, LABEL, request.fits)
    ingest = Ingest(owner, pool, Limits.of(opened.settings), request.tags, spent or Spent())
    found: dict[str, Outcome] = {}
    while True:
        run = run or await own_runs.submit(opened, LABEL, request.given, user_id=request.user_id)
        adding = Adding(ingest, request, sources, tell)
        await own_runs.carry_out(opened, run, LABEL, adding.workflow())
        for outcome in await outcomes_of(opened.db, run.id):
            found[outcome.source] = after(found.get(outcome.source), outcome)
        if not run.begun or not await asyncio.to_thread(adding.left):
            return Added(run.id, list(found.values()))
        run = None  # it had been cut off after its last document, and something has changed since then


def absolute(source: str) -> str:
    """Return an argument as it can be read from any folder: a run may go on from another one."""
    if "://" in source or not source.strip():
        return source
    return os.path.abspath(os.path.expanduser(source))  # noqa: PTH100, PTH111 - a pattern is no path, and a Path would forget its last slash


async def add_for(
    opened: Opened,
    environ: Mapping[str, str],
    sources: Sequence[str],
    *,
    user: str | None,
    tags: Sequence[str] = (),
    sync: bool = False,
    tell: Tell = tell_nobody,
) -> Added:
    """Bring the documents of a user up to date, or of everybody where `user` is None.

    Raises: UsageError for what is not there; EmbedderUnavailable; as `add`.
    """
    arguments = tuple(map(absolute, sources))
    if sync:
        await asyncio.to_thread(syncing.folders, arguments)
    found = await asyncio.to_thread(reading.find, arguments)
    async with EmbedderPool(environ) as pool:
        await embedders.in_force(opened.db, pool, environ)
        user_id = None
        if user is not None:
            async with opened.db.connection() as conn:
                user_id = (await users.ensure(conn, user)).id
        request = Request(arguments, user_id, tuple(dict.fromkeys(tags)), sync=sync)
        return await add(opened, pool, request, found, tell=tell)


_BATCH: Final = pydantic.TypeAdapter(Batch)


async def outcomes_of(db: Database, run_id: UUID) -> list[Outcome]:
    """Return the last verdict of each document of a run, from its record."""
    async with db.connection() as conn:
        steps = await journal.read(conn, run_id)
    found: dict[str, Outcome] = {}
    for step in steps:
        value = (step.output or {}).get("value")
        if step.kind == Kind.STEP and scalars.is_mapping(value) and "outcomes" in value:
            for outcome in _BATCH.validate_python(value).outcomes:
                found[outcome.source] = after(found.get(outcome.source), outcome)
    return list(found.values())
