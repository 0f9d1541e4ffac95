"""Embedding all documents anew."""

from __future__ import annotations

import asyncio
import os
import time
from typing import Any

from cirkelline.configs.errors import UsageError
from cirkelline.runtime import own_runs
from cirkelline.runtime.cli import asking, console, display, ingest_progress, opening
from cirkelline.runtime.cli.actions.ingesting import CONNECTIONS, logging_quietly
from cirkelline.runtime.cli.answers import Answer, Text
from cirkelline.runtime.composition import Opened
from cirkelline.runtime.ingest import reindexing
from cirkelline.runtime.ingest.reindexing import LABEL, Reindexing, Request
from cirkelline.state import knowledge_settings
from cirkelline.state import reindexing as vectors
from cirkelline.state.knowledge_settings import KnowledgeSettings
from cirkelline.state.reindexing import Amount
from cirkelline.tools import embedding
from cirkelline.tools.embedding import Embedder, EmbedderPool


class NothingChosen(UsageError):
    """The database has no embedder yet, and none was named."""


async def reindex(*, embedder: str | None, language: str | None, adopted: bool, yes: bool) -> Answer:
    """Say what it takes, ask, and do it."""
    named = embedding.labelled(embedder) if embedder else None
    async with (
        opening.database(migrate=True, connections=CONNECTIONS) as opened,
        EmbedderPool(os.environ) as pool,
    ):
        before = await _settings(opened, language)
        label = named or before.embedder
        if label is None:
            raise NothingChosen(
                "no embedder is in force yet: the first `knowledge add` chooses one, or give --embedder"
            )
        chosen = await pool.get(label)
        async with opened.db.connection() as conn:
            amount = await vectors.amount(conn, label, adopted=adopted)
        if not amount.chunks and label == before.embedder and language in {None, before.language}:
            return Answer(
                {"embedder": label, "chunks": 0, "seconds": 0.0}, [Text(f"nothing to do: {label} embedded all")]
            )
        seconds = await reindexing.seconds_for(chosen, amount)
        asking.agree(_question(chosen, amount, seconds, language, adopted=adopted), yes=yes)
        return await _carried_out(opened, chosen, Request(label, language, adopted), amount)


async def _settings(opened: Opened, language: str | None) -> KnowledgeSettings:
    """Return the settings in force; a language that cannot be is refused before anything is done."""
    async with opened.db.connection() as conn:
        before = await knowledge_settings.read(conn)
        async with conn.transaction(force_rollback=True):
            await knowledge_settings.change(conn, language=language)
    return before


def _question(embedder: Embedder, amount: Amount, seconds: float, language: str | None, *, adopted: bool) -> str:
    chunks = f"{display.count(amount.chunks, 'chunk')} of {display.count(amount.documents, 'document')}"
    where = embedder.leaves_machine
    goes = f"their text is sent to {where}" if where else "no text leaves this machine"
    words = f"; words are read as {language}" if language else ""
    others = ", also those that another program wrote, which finds other vectors in them then" if adopted else ""
    return (
        f"{embedder.label} embeds {chunks}{others}: about {display.span(seconds)}, and {goes}{words}. The old vectors are"
        " searched until all are there. Go on?"
    )


async def _carried_out(opened: Opened, embedder: Embedder, request: Request, amount: Amount) -> Answer:
    began = time.monotonic()
    run = await own_runs.interrupted(opened, LABEL, request.fits)
    run = run or await own_runs.submit(opened, LABEL, request.given, user_id=None)
    try:
        with ingest_progress.shown("chunks") as tell, logging_quietly(opened.settings, os.environ):
            work = Reindexing(opened, embedder, request, amount, tell)
            task = await own_runs.carry_out(opened, run, LABEL, work.workflow())
    except asyncio.CancelledError:  # Ctrl-C
        console.note("the old vectors are in force as before; the same command goes on with the new ones")
        raise
    seconds = time.monotonic() - began
    output: dict[str, Any] = task.result["output"]
    chunks = output["chunks"]
    document = {"run_id": run.id, "embedder": request.embedder, "chunks": chunks, "seconds": round(seconds, 2)}
    words = f", and their words are read as {request.language}" if request.language else ""
    said = f"{request.embedder} is in force: {display.count(chunks, 'chunk')} embedded anew in {display.span(seconds)}{words}"
    return Answer(document, [Text(said)])
