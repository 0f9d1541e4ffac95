"""Searching a user's documents from the command line."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from datetime import date
from typing import Any, Final
from uuid import UUID

from cirkelline.configs.schema import KnowledgeSpec, SearchMode
from cirkelline.runtime.cli import console, display, opening
from cirkelline.runtime.cli.answers import Answer, Block, Cell, Mark, Spans, Text
from cirkelline.state import users
from cirkelline.state.connection import Database
from cirkelline.state.searching import BEGIN_MARK, END_MARK, Hit
from cirkelline.state.users import UserNotFound
from cirkelline.tools.embedding import EmbedderPool
from cirkelline.tools.library import NOBODY, Found, UserLibrary, Wanted

_EXCERPT: Final = 400  # characters
_BEFORE: Final = 80  # of them before the first word that matches
_MARKED: Final = re.compile(f"{BEGIN_MARK}([^{BEGIN_MARK}{END_MARK}]*){END_MARK}")


async def search(
    words: str,
    *,
    user: str | None,
    tags: Sequence[str],
    types: Sequence[str],
    since: date | None,
    until: date | None,
    documents: Sequence[str],
    limit: int,
    mode: str,
    threshold: float | None,
) -> Answer:
    """Show the passages that fit the words best, and why they do."""
    spec = KnowledgeSpec(mode=SearchMode(mode), threshold=threshold)
    wanted = Wanted(tags=tags, types=types, since=since, until=until, documents=documents)
    async with opening.database() as opened, EmbedderPool(os.environ) as embedders:
        name = user or opened.settings.user
        library = UserLibrary(opened.db, embedders, await _whose(opened.db, name, must_be=user is not None), spec)
        result = await library.search(words, wanted, limit=limit)
    if result.words_only:
        console.warn(f"only the words were searched for, not their meaning: {result.words_only}")
    why = None if result.hits else _why_nothing(result, name, limited=wanted != Wanted() or threshold is not None)
    document = {
        "query": words,
        "user": name,
        "mode": mode,
        "words_only": result.words_only,
        "hits": [_document(hit) for hit in result.hits],
        "why": why,
    }
    if why:
        return Answer(document, [Text(why)])
    return Answer(document, [block for rank, hit in enumerate(result.hits, 1) for block in _shown(rank, hit)])


async def _whose(db: Database, name: str, *, must_be: bool) -> UUID:
    """Return whose documents are searched; whoever has never been here finds what is everybody's. Raises: UserNotFound, UserInactive."""
    async with db.connection() as conn:
        try:
            return (await users.acting(conn, name)).id
        except UserNotFound:
            if must_be:
                raise
            return NOBODY


def _why_nothing(found: Found, name: str, *, limited: bool) -> str:
    if not found.documents:
        return f"user {name} has no documents, and none are everybody's (`cirkelline knowledge add PATH` adds some)"
    if limited:
        return "nothing fits within these limits: leave out --tag, --type, --since, --until, --document or --threshold"
    return "nothing fits: try other words (`cirkelline knowledge list` shows the documents)"


def _document(hit: Hit) -> dict[str, Any]:
    return {
        "score": round(hit.score, 6),
        "similarity": None if hit.similarity is None else round(hit.similarity, 6),
        "bm25": None if hit.bm25 is None else round(hit.bm25, 6),
        "document": hit.document,
        "document_id": hit.document_id,
        "source": hit.source,
        "document_type": hit.document_type,
        "tags": list(hit.tags),
        "shared": hit.shared,
        "uploaded": hit.uploaded.isoformat() if hit.uploaded else None,
        "chunk": hit.chunk_id,
        "chunk_index": hit.index,
        "chunk_total": hit.total,
        "page": hit.page,
        "offset": hit.offset,
        "heading": hit.heading,
        "text": hit.text,
        "matches": sorted({word.lower() for word in _MARKED.findall(hit.marked)}),
    }


def _shown(rank: int, hit: Hit) -> Iterator[Block]:
    page = f", page {hit.page}" if hit.page is not None else ""
    heading = f" ({display.line(hit.heading, 100)})" if hit.heading else ""
    shared = ", everybody's" if hit.shared else ""
    yield Text(f"{rank}. {display.line(hit.document, 100)}{page}{heading}{shared}", apart=True)
    meaning = "-" if hit.similarity is None else f"{hit.similarity:.3f}"
    weight = "-" if hit.bm25 is None else f"{hit.bm25:.2f}"
    yield Text(f"   score {hit.score:.3f}, meaning {meaning}, words {weight}", tone="quiet")
    yield Spans(["   ", *_excerpt(hit.marked)])


def _excerpt(marked: str) -> Iterator[Cell]:
    """Yield the part of a passage in which its first matching words stand, those with a tone."""
    pieces = _MARKED.split(re.sub(r"\s+", " ", marked).strip())
    if len(pieces) > 1 and len(pieces[0]) > _BEFORE:
        kept = pieces[0][-_BEFORE:]
        pieces[0] = f"… {kept[kept.find(' ') + 1 :]}"
    room = _EXCERPT
    for index, piece in enumerate(pieces):
        words = piece.replace(BEGIN_MARK, "").replace(END_MARK, "")
        if room <= 0 or (index % 2 == 0 and len(words) > room):
            yield f"{words[: max(0, room)].rpartition(' ')[0]} …"
            return
        room -= len(words)
        yield Mark(words, "good") if index % 2 else words
