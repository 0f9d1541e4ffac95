"""A user's documents as those see them who search: agents' tools, the command line and Python.

A search embeds its words with the database's embedder and runs as the user. Where the embedder is not to be had, or a
moment too long in coming, the words alone are searched for, and the result says so.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from datetime import date
from typing import TYPE_CHECKING, Final, Protocol
from uuid import UUID

from cirkelline.configs import wording
from cirkelline.configs.errors import CirkellineError, UsageError
from cirkelline.configs.schema import KnowledgeSpec
from cirkelline.state import citations, jsonb, knowledge, knowledge_settings, searching
from cirkelline.state.citations import Earlier
from cirkelline.state.connection import Database
from cirkelline.state.knowledge import StoredChunk, StoredDocument
from cirkelline.state.searching import Filter, Hit, Mode
from cirkelline.state.tenant import Tenant, tenant

if TYPE_CHECKING:
    from cirkelline.tools.embedding import Embedder

NOBODY: Final = UUID(int=0)
"""Whom a task without a user works for: nobody owns anything, so only shared documents are seen."""
PATIENCE: Final = 15.0
"""Seconds that an embedder has for a query; a model waits for the answer, and words alone find much."""
_ALL: Final = 10_000  # documents of one user that are looked through for those with all of several tags


class Embedders(Protocol):
    """Where embedders come from: a worker's pool, or what a test gives."""

    async def get(self, label: str) -> Embedder:
        """Return an embedder that is ready. Raises: EmbedderUnavailable."""
        ...


class NoSuchDocument(UsageError):
    """There is no such document for this user, or more than one of that name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What a search is limited to; documents by their ids, or by their names where those are unique."""

    tags: Sequence[str] = ()
    types: Sequence[str] = ()
    since: date | None = None
    until: date | None = None
    documents: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Found:
    """What a search found, best first; `words_only` says why meaning was not compared, where it should have been.

    `earlier` are the numbers that the session gave before, and those of these passages among them; `documents` says
    whether there is any document to search in.
    """

    hits: Sequence[Hit]
    words_only: str | None = None
    earlier: Earlier = Earlier()  # noqa: RUF009 - it is frozen
    documents: bool = True


@dataclass(frozen=True, slots=True)
class Opened:
    """A part of a document in order; `more` where it goes on after the last passage."""

    document: StoredDocument
    passages: Sequence[StoredChunk]
    more: bool = False
    earlier: Earlier = Earlier()  # noqa: RUF009 - it is frozen


class Library(Protocol):
    """What `ctx.knowledge` offers; a test of a tool gives its own."""

    async def search(self, query: str, wanted: Wanted | None = None, *, limit: int | None = None) -> Found:
        """Return the passages that fit a query best. Raises: NoSuchDocument."""
        ...

    async def documents(
        self, *, words: str | None = None, tag: str | None = None, document_type: str | None = None, limit: int = 20
    ) -> list[StoredDocument]:
        """Return the newest documents that fit."""
        ...

    async def read(self, document: str, *, page: int | None = None, start: int = 0, limit: int = 20) -> Opened:
        """Return a document's passages in order, from the `start`th. Raises: NoSuchDocument."""
        ...


@dataclass(frozen=True, slots=True)
class UserLibrary:
    """The library of one run: the user's own documents and the shared ones, as far as the agent may see them."""

    db: Database
    embedders: Embedders | None
    user_id: UUID | None
    spec: KnowledgeSpec = KnowledgeSpec()  # noqa: RUF009 - it is frozen
    session_id: UUID | None = None

    async def search(self, query: str, wanted: Wanted | None = None, *, limit: int | None = None) -> Found:
        """Return the passages that fit a query best. Raises: NoSuchDocument."""
        chosen = wanted or Wanted()
        scoped = replace(chosen, tags=tuple(dict.fromkeys([*self.spec.tags, *chosen.tags])))
        mode = Mode(self.spec.mode)
        meaning, why = await embedded(self.db, self.embedders, query) if mode is not Mode.WORDS else (None, None)
        async with tenant(self.db, self.user_id or NOBODY) as door:
            hits = await _search(
                door,
                query,
                scoped,
                meaning=meaning,
                mode=mode,
                limit=limit or self.spec.top_k,
                threshold=self.spec.threshold,
                scope=self.spec.tags,
            )
            there = bool(hits) or bool(await _documents(door, scope=self.spec.tags, limit=1))
            return Found(hits, why, await self._earlier(door, [hit.chunk_id for hit in hits]), there)

    async def documents(
        self, *, words: str | None = None, tag: str | None = None, document_type: str | None = None, limit: int = 20
    ) -> list[StoredDocument]:
        """Return the newest documents that fit."""
        tags = tuple(dict.fromkeys([*self.spec.tags, *([tag] if tag else [])]))
        async with tenant(self.db, self.user_id or NOBODY) as door:
            return await _documents(door, scope=tags, words=words, document_type=document_type, limit=limit)

    async def read(self, document: str, *, page: int | None = None, start: int = 0, limit: int = 20) -> Opened:
        """Return a document's passages in order, from the `start`th. Raises: NoSuchDocument."""
        async with tenant(self.db, self.user_id or NOBODY) as door:
            found = await _document(door, document, self.spec.tags)
            passages = await knowledge.read(door, found.id, page=page, after_chunk=start - 1, limit=limit + 1)
            kept = passages[:limit]
            earlier = await self._earlier(door, [passage.chunk_id for passage in kept])
            return Opened(found, kept, len(passages) > limit, earlier)

    async def _earlier(self, door: Tenant, chunks: Collection[int]) -> Earlier:
        if self.session_id is None or not chunks:
            return Earlier()
        return await citations.earlier(door, self.session_id, chunks)


@dataclass(frozen=True, slots=True)
class Meaning:
    """A query as numbers, and whose numbers they are."""

    embedding: Sequence[float]
    embedder: str


async def embedded(db: Database, embedders: Embedders | None, query: str) -> tuple[Meaning | None, str | None]:
    """Return a query's meaning as the database's embedder has it, or why there is none."""
    async with db.connection() as conn:
        label = (await knowledge_settings.read(conn)).embedder
    if label is None:
        return None, None  # nothing has been embedded yet
    if embedders is None:
        return None, "no embedder is open here"
    try:
        async with asyncio.timeout(PATIENCE):
            embedder = await embedders.get(label)
            (vector,) = await embedder.embed([jsonb.clean_text(query)], query=True)
    except TimeoutError:
        reason = f"{label} did not answer within {PATIENCE:g} s"
    except CirkellineError as error:
        reason = str(error)
    except Exception as error:  # noqa: BLE001 - a library's own failure must not cost the words as well
        reason = f"{label} failed ({type(error).__name__})"
    else:
        return Meaning(vector, label), None
    return None, reason


async def _search(
    door: Tenant,
    query: str,
    wanted: Wanted,
    *,
    meaning: Meaning | None,
    mode: Mode,
    limit: int,
    threshold: float | None,
    scope: Collection[str],
) -> list[Hit]:
    documents = [(await _document(door, reference, scope)).id for reference in wanted.documents]
    return await searching.search(
        door,
        query,
        embedding=meaning.embedding if meaning else None,
        embedder=meaning.embedder if meaning else None,
        limit=limit,
        mode=mode if meaning else Mode.WORDS,
        filter=Filter(
            tags=wanted.tags,
            types=wanted.types,
            since=wanted.since,
            until=wanted.until,
            documents=documents,
        ),
        threshold=threshold,
    )


async def _document(door: Tenant, reference: str, scope: Collection[str]) -> StoredDocument:
    try:
        found = await knowledge.get(door, jsonb.clean_text(reference))
    except knowledge.DocumentNotFound as error:
        raise NoSuchDocument(str(error)) from None
    if not _has_all(found, scope):
        raise NoSuchDocument(f"there is no document {wording.shown(reference)}")
    return found


async def _documents(
    door: Tenant,
    *,
    scope: Sequence[str] = (),
    words: str | None = None,
    document_type: str | None = None,
    limit: int,
) -> list[StoredDocument]:
    """Return the newest documents that have all of these tags."""
    clean = jsonb.clean_text
    found = await knowledge.documents(
        door,
        limit=limit if len(scope) <= 1 else _ALL,
        tag=clean(scope[0]) if scope else None,
        document_type=clean(document_type) if document_type else None,
        words=clean(words) if words else None,
    )
    return [each for each in found if _has_all(each, scope)][:limit]


def _has_all(document: StoredDocument, tags: Collection[str]) -> bool:
    """Whether a document has these tags; as in a search, their case does not matter."""
    return {tag.lower() for tag in tags} <= {tag.lower() for tag in document.tags}
