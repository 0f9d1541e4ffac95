"""Adding documents."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sys
import time
from collections.abc import AsyncGenerator, Generator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import structlog

from cirkelline.configs.errors import UsageError
from cirkelline.configs.settings import Settings
from cirkelline.runtime import logs, own_runs
from cirkelline.runtime.cli import asking, console, display, failures, ingest_progress, opening
from cirkelline.runtime.cli.answers import Answer, Block, Mark, Table, Text
from cirkelline.runtime.composition import Opened
from cirkelline.runtime.ingest import adding, embedders, syncing
from cirkelline.runtime.ingest.adding import Added, Request
from cirkelline.runtime.ingest.documents import Owner, Spent
from cirkelline.runtime.ingest.embedders import Chosen
from cirkelline.runtime.ingest.verdicts import Outcome, Progress, Verdict, tally
from cirkelline.runtime.own_runs import OwnRun
from cirkelline.state import users
from cirkelline.tools import reading
from cirkelline.tools.embedding import EmbedderPool
from cirkelline.tools.reading import Source

CONNECTIONS: Final = 8
_HEADINGS: Final = ("document", "", "chunks", "why")
_MOST_ROWS: Final = 40
"""Verdicts that are shown one by one; beyond them only what somebody has to look at."""


class NothingToResume(UsageError):
    """No run of this machine was cut off."""


async def add(
    sources: Sequence[str], *, user: str | None, shared: bool, tags: Sequence[str], sync: bool, yes: bool
) -> Answer:
    """Bring documents up to date and say what became of each."""
    arguments = tuple(map(adding.absolute, sources))
    if sync:
        await asyncio.to_thread(syncing.folders, arguments)
    found = await asyncio.to_thread(reading.find, arguments)
    async with _opened() as (opened, pool):
        user_id = None if shared else await _user(opened, user)
        request = Request(arguments, user_id, tuple(dict.fromkeys(tags)), sync=sync)
        return await _carried_out(opened, pool, request, found, yes=yes)


async def resume(*, yes: bool) -> Answer:
    """Go on with the run of this machine that was cut off last."""
    async with _opened() as (opened, pool):
        run = await own_runs.interrupted(opened, adding.LABEL, lambda _given, _user: True)
        if run is None:
            raise NothingToResume(
                f"no run of this machine was cut off (`cirkelline workflows list --workflow {adding.LABEL}` shows all)"
            )
        request = adding.asked(run)
        found = await asyncio.to_thread(reading.find, request.arguments)
        return await _carried_out(opened, pool, request, found, run=run, yes=yes)


@asynccontextmanager
async def _opened() -> AsyncGenerator[tuple[Opened, EmbedderPool]]:
    async with opening.database(migrate=True, connections=CONNECTIONS) as opened, EmbedderPool(os.environ) as pool:
        yield opened, pool


async def _user(opened: Opened, name: str | None) -> Any:
    async with opened.db.connection() as conn:
        return (await users.ensure(conn, name or opened.settings.user)).id


async def _carried_out(
    opened: Opened,
    pool: EmbedderPool,
    request: Request,
    sources: Sequence[Source],
    *,
    yes: bool,
    run: OwnRun | None = None,
) -> Answer:
    request = await _agreed(opened, request, sources, yes=yes)
    chosen = await embedders.in_force(opened.db, pool, os.environ)
    if chosen.fixed:
        console.note(chosen.says)
    told, spent, began = _Told(), Spent(), time.monotonic()
    try:
        with ingest_progress.shown("documents") as tell, logging_quietly(opened.settings, os.environ):

            def both(progress: Progress) -> None:
                told.last = progress
                tell(progress)

            added = await adding.add(opened, pool, request, sources, run=run, tell=both, spent=spent)
    except asyncio.CancelledError:  # Ctrl-C
        done = f"after {told.last.done} of {told.last.total} documents" if told.last else "before the first document"
        console.note(f"{done}: the same command goes on from there, or `cirkelline knowledge add --resume`")
        raise
    return _answer(added, chosen, spent, time.monotonic() - began)


@dataclass(slots=True)
class _Told:
    last: Progress | None = field(default=None)


async def _agreed(opened: Opened, request: Request, sources: Sequence[Source], *, yes: bool) -> Request:
    """Return the request with how many documents it may remove. Raises: NotAgreed."""
    if not request.sync or yes:
        return request
    found = await syncing.vanished(Owner(opened.db, request.user_id), request.arguments, sources)
    if found.many:
        shown = ", ".join(display.line(source, 100) for _, source in found.documents[:3])
        gone = f"{len(found.documents)} of {found.there} documents' files are gone, {shown} and others."
        asking.agree(f"{gone} Remove these documents?", yes=yes)
    return Request(request.arguments, request.user_id, request.tags, sync=True, removals=len(found.documents))


@contextmanager
def logging_quietly(settings: Settings, environ: Mapping[str, str]) -> Generator[None]:
    """Log errors alone while a command shows how far it is, or as much as CIRKELLINE_LOG_LEVEL says."""
    before = structlog.get_config() if structlog.is_configured() else None
    level = settings.log_level if "CIRKELLINE_LOG_LEVEL" in environ else "error"
    logs.configure(settings.model_copy(update={"log_level": level}), environ, stream=sys.stderr)
    try:
        yield
    finally:
        logging.basicConfig(handlers=[logging.NullHandler()], force=True)
        with contextlib.suppress(ValueError):
            structlog.configure(**before) if before else structlog.reset_defaults()


def _answer(added: Added, chosen: Chosen, spent: Spent, seconds: float) -> Answer:
    outcomes, bad = added.outcomes, added.bad
    document = {
        "run_id": added.run_id,
        "embedder": chosen.embedder.label,
        "documents": len(outcomes),
        "verdicts": tally(outcomes),
        "chunks": sum(each.chunks for each in outcomes),
        "seconds": round(seconds, 2),
        "stages": {stage: round(taken, 2) for stage, taken in sorted(spent.seconds.items())},
        "outcomes": [_document(each) for each in outcomes],
    }
    blocks: list[Block] = []
    if rows := _rows(outcomes):
        blocks.append(Table(_HEADINGS, rows, ""))
    blocks.append(Text(_summary(outcomes, seconds), apart=bool(rows)))
    complaint = f"{display.count(len(bad), 'document')} could not be taken in" if bad else None
    return Answer(document, blocks, failures.FAILED if bad else 0, complaint)


def _document(outcome: Outcome) -> dict[str, Any]:
    return {
        "source": outcome.source,
        "name": outcome.name,
        "verdict": outcome.verdict.value,
        "why": outcome.why,
        "chunks": outcome.chunks,
        "document": outcome.document,
    }


def _rows(outcomes: Sequence[Outcome]) -> list[tuple[str | Mark, ...]]:
    news = [each for each in outcomes if each.verdict is not Verdict.UNCHANGED]
    if len(news) > _MOST_ROWS:
        news = [each for each in news if each.is_bad or each.verdict is Verdict.REMOVED]
    return [
        (
            display.line(each.source, 100),
            Mark(each.verdict.value, ingest_progress.TONES[each.verdict]),
            str(each.chunks or "-"),
            each.why or "",
        )
        for each in news
    ]


def _summary(outcomes: Sequence[Outcome], seconds: float) -> str:
    counted = ", ".join(f"{amount} {verdict}" for verdict, amount in tally(outcomes).items()) or "no documents"
    chunks = sum(each.chunks for each in outcomes)
    return f"{counted}; {display.count(chunks, 'chunk')} stored in {display.span(seconds)}"
