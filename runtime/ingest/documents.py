"""One document's way: fetch, hash, parse, chunk, embed; and only when all of that is there, swap it in."""

from __future__ import annotations

import array
import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field, replace
from typing import Final
from uuid import UUID

import structlog

from cirkelline.configs import secrecy, wording
from cirkelline.configs.errors import CirkellineError
from cirkelline.runtime.ingest.verdicts import Outcome, Verdict
from cirkelline.runtime.patience import first_line, until_answered
from cirkelline.state import knowledge, reindexing
from cirkelline.state.connection import Database, QueryError
from cirkelline.state.knowledge import NewChunk, NewDocument, StoredDocument
from cirkelline.state.tenant import Door, shared, tenant
from cirkelline.tools import reading
from cirkelline.tools.embedding import Embedder, EmbedderPool, EmbedderUnavailable
from cirkelline.tools.reading import Content, Limits, Parsed, Piece, Source, Unreadable

SLICE: Final = 64
"""Chunks that are handed to the embedder at once; what it gave is kept in four bytes a number, not as Python's."""
WRITTEN: Final = (0.1, 0.5, 2.0, 0.0)
"""Seconds before a file is read again that was written to meanwhile."""
OVERTAKEN: Final = 5
"""Looks at a document that others keep storing."""
GIVEN_UP: Final = 3
"""Documents in a row that the embedder may fail before it is not asked any more in this pass."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Owner:
    """Whose documents: a user's, or everybody's where there is none."""

    db: Database
    user_id: UUID | None

    async def check(self) -> None:
        """See whether their documents can be worked on at all. Raises: TenantsUnprotected."""
        async with self.door():
            pass

    def door(self) -> AbstractAsyncContextManager[Door]:
        """Open a transaction on their documents."""
        return shared(self.db) if self.user_id is None else tenant(self.db, self.user_id)


@dataclass(slots=True)
class Spent:
    """Where the time went, in seconds by stage; stages of several documents overlap."""

    seconds: Counter[str] = field(default_factory=Counter[str])

    def add(self, stage: str, began: float) -> None:
        """Count what a stage took that began then."""
        self.seconds[stage] += time.perf_counter() - began  # type: ignore[assignment]  # a Counter of floats


class _EmbedderChanged(Exception):
    """The database's embedder was changed while a document was being embedded."""


class _Overtaken(Exception):
    """Somebody else stored another version of a document meanwhile: which is the newer one, only a new look can tell."""


@dataclass(slots=True)
class Ingest:
    """What all documents of a run share."""

    owner: Owner
    pool: EmbedderPool
    limits: Limits = Limits()  # noqa: RUF009 - frozen
    tags: Sequence[str] = ()
    spent: Spent = field(default_factory=Spent)
    stored: int = 0
    _failures: int = 0

    def begin_pass(self) -> None:
        """Trust the embedder again."""
        self._failures = 0

    async def take(self, source: Source) -> Outcome:
        """Bring one document up to date and say what became of it; raises nothing but cancellation.

        Whatever goes wrong, the version that was stored before stays as it was, and searchable.
        """
        began = await asyncio.to_thread(stamp, source)
        return replace(await self._verdict(source), stamp=began)

    async def _verdict(self, source: Source) -> Outcome:
        try:
            for _ in range(OVERTAKEN):
                with contextlib.suppress(_Overtaken):
                    return await self._take(source)
            return _bad(source, Verdict.FAILED, "somebody else keeps storing it: add it again when they are done")
        except Unreadable as reason:
            # What could not be reached says nothing of the document, and it may be reached another time.
            away = reason.verdict is reading.Verdict.UNREACHABLE
            return _bad(source, Verdict.FAILED if away else Verdict.REFUSED, _predicate(source, reason))
        except EmbedderUnavailable as reason:
            self._failures += 1
            return _bad(source, Verdict.FAILED, str(reason), again=True)
        except (CirkellineError, OSError, QueryError) as error:
            return _bad(source, Verdict.FAILED, first_line(error))
        except Exception as error:  # a document nobody has seen the like of must not end the others' way
            log.exception("document.broke", source=source.uri)
            return _bad(source, Verdict.FAILED, f"{type(error).__name__}: {first_line(error)}")

    async def _take(self, source: Source) -> Outcome:
        began = time.perf_counter()
        content = await self._fetched(source)
        digest = content.hash
        self.spent.add("fetch", began)
        known, in_force = await until_answered(lambda: self._known(source), "look a document up")
        if known is not None and known.content_hash == digest and known.embedder == in_force:
            return await self._unchanged(source, known)
        began = time.perf_counter()
        parsed = await reading.parse(content, limits=self.limits)
        self.spent.add("parse", began)
        while True:
            embedder = await self._embedder(in_force)
            began = time.perf_counter()
            pieces = await asyncio.to_thread(reading.chunk, parsed, embedder)
            self.spent.add("chunk", began)
            chunks = await self._embedded(embedder, pieces)
            document = self._document(content, parsed, known)
            try:
                stored = await self._store(document, chunks, embedder, instead_of=known)
            except _EmbedderChanged as now:
                in_force = str(now)
                continue
            self.stored += len(chunks)
            verdict = Verdict.UPDATED if known else Verdict.ADDED
            return Outcome(source.uri, document.name, verdict, None, len(chunks), stored)

    def _document(self, content: Content, parsed: Parsed, known: StoredDocument | None) -> NewDocument:
        source = content.source
        # A file goes by its own name, which is how people ask for it; what PDFs say of their title is often another's.
        name = source.name if source.path is not None else parsed.title or source.name
        return NewDocument(
            source=source.uri,
            name=name,
            file_name=content.file_name,
            content_type=parsed.content_type,
            document_type=parsed.document_type,
            content_hash=content.hash,
            tags=self.tags or (known.tags if known else ()),
            pages=parsed.pages,
        )

    async def _fetched(self, source: Source) -> Content:
        """Return a source's bytes as they are at one moment: a file that is just being written is read again."""
        for pause in WRITTEN:
            before = await asyncio.to_thread(stamp, source)
            content = await reading.fetch(source, limits=self.limits)
            if before == await asyncio.to_thread(stamp, source):
                return content
            await asyncio.sleep(pause)
        raise CirkellineError("it changes faster than it can be read: add it again when it is complete")

    async def _known(self, source: Source) -> tuple[StoredDocument | None, str]:
        async with self.owner.door() as door:
            return await knowledge.find_source(door, source.uri), await reindexing.hold_embedder(door) or ""

    async def _unchanged(self, source: Source, known: StoredDocument) -> Outcome:
        if not self.tags or sorted(self.tags) == sorted(known.tags):
            return Outcome(source.uri, known.name, Verdict.UNCHANGED, document=known.id)

        async def touch() -> None:
            async with self.owner.door() as door:
                await knowledge.touch_tags(door, known.id, self.tags)

        await until_answered(touch, "change a document's tags")
        return Outcome(source.uri, known.name, Verdict.UPDATED, "its tags", document=known.id)

    async def _embedder(self, label: str) -> Embedder:
        if self._failures >= GIVEN_UP:
            raise EmbedderUnavailable(f"not embedded, as {label} failed for the documents before it")
        return await self.pool.get(label)

    async def _embedded(self, embedder: Embedder, pieces: Sequence[Piece]) -> list[NewChunk]:
        began = time.perf_counter()
        chunks: list[NewChunk] = []
        for first in range(0, len(pieces), SLICE):
            part = pieces[first : first + SLICE]
            vectors = await embedder.embed([piece.embedded for piece in part])
            chunks += [
                NewChunk(
                    text=piece.text,
                    embedding=array.array("f", vector),
                    page=piece.page,
                    offset=piece.offset,
                    heading=piece.heading,
                )
                for piece, vector in zip(part, vectors, strict=True)
            ]
        self._failures = 0
        self.spent.add("embed", began)
        return chunks

    async def _store(
        self,
        document: NewDocument,
        chunks: Sequence[NewChunk],
        embedder: Embedder,
        *,
        instead_of: StoredDocument | None,
    ) -> int:
        """Swap a document in, in the place of the version that was there when it was read."""

        async def store() -> int:
            async with self.owner.door() as door:
                if (label := await reindexing.hold_embedder(door)) != embedder.label:
                    raise _EmbedderChanged(label)
                # Held before it is looked at: a look from before the wait would miss what the other one has just stored.
                await knowledge.hold_source(door, document.source)
                there = await knowledge.find_source(door, document.source)
                if (there and there.content_hash) != (instead_of and instead_of.content_hash):
                    raise _Overtaken
                return await knowledge.store(door, document, chunks, embedder=embedder.label)

        began = time.perf_counter()
        try:
            return await until_answered(store, "store a document")
        finally:
            self.spent.add("store", began)


def stamp(source: Source) -> tuple[int, ...] | None:
    """Return what changes with a file's content; None where there is no file to look at."""
    try:
        found = source.path.stat() if source.path is not None else None
    except OSError:
        return None
    return (found.st_mtime_ns, found.st_size, found.st_ino) if found is not None else None


def _predicate(source: Source, reason: Unreadable) -> str:
    """Return what a verdict says of a source: which one it is stands beside it, and whole."""
    return str(reason).removeprefix(wording.shown(secrecy.mask_url(source.uri))).lstrip(": ")


def _bad(source: Source, verdict: Verdict, why: str, *, again: bool = False) -> Outcome:
    return Outcome(source.uri, source.name, verdict, why, again=again)
