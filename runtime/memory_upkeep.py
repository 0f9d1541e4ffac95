"""What a worker does for memories meanwhile: it takes in what other programs wrote, and embeds what has no embedding yet.

Memories of another embedder than the database's are embedded again. Nothing is embedded before somebody has chosen an
embedder by adding a document or a memory: text may leave the machine for it.
"""

from __future__ import annotations

import asyncio
from typing import Final

import structlog

from cirkelline.configs.errors import CirkellineError
from cirkelline.runtime.patience import first_line
from cirkelline.state import knowledge_settings, memories
from cirkelline.state.connection import Database, QueryError
from cirkelline.tools.library import Embedders

EVERY: Final = 20.0
"""Seconds between two looks."""
_BACK_OFF: Final = 600.0  # seconds after an embedder could not be had

log = structlog.get_logger(__name__)


async def keep_up(db: Database, embedders: Embedders) -> None:
    """Look again and again, until cancelled."""
    while True:
        pause = EVERY
        try:
            await catch_up(db, embedders)
        except QueryError as error:
            log.warning("memory.upkeep_failed", error=first_line(error))
        except Exception as error:  # noqa: BLE001 - an embedder may fail in any way, and the worker goes on without it
            log.warning(
                "memory.embedding_failed",
                error=first_line(error) if isinstance(error, CirkellineError) else repr(error),
            )
            pause = _BACK_OFF
        await asyncio.sleep(pause)


async def catch_up(db: Database, embedders: Embedders) -> int:
    """Take in and embed all that waits for it; return how many memories were embedded."""
    done = 0
    async with db.connection() as conn:
        while await memories.clear_backlog(conn):
            pass
        label = (await knowledge_settings.read(conn)).embedder
    while label is not None:
        async with db.connection() as conn:
            waiting = await memories.waiting(conn, label)
        if not waiting:
            break
        embedder = await embedders.get(label)
        numbers = await embedder.embed([text.strip() or "-" for _, text in waiting])
        given = [(memory, text, each) for (memory, text), each in zip(waiting, numbers, strict=True)]
        async with db.connection() as conn:
            await memories.embedded(conn, label, given)
        done += len(given)
    if done:
        log.info("memory.embedded", memories=done, embedder=label)
    return done
