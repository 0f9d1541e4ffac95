"""Looking at documents and removing them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final
from uuid import UUID

from cirkelline.runtime.cli import asking, display, failures, opening
from cirkelline.runtime.cli.answers import Answer, Block, Facts, Mark, Table, Text
from cirkelline.runtime.composition import Opened
from cirkelline.runtime.ingest import adding
from cirkelline.runtime.ingest.documents import Owner
from cirkelline.state import knowledge, users
from cirkelline.state.knowledge import DocumentNotFound, StoredChunk, StoredDocument
from cirkelline.state.tenant import Door
from cirkelline.state.users import UserNotFound

_HEADINGS: Final = ("id", "name", "type", "chunks", "pages", "tags", "whose", "updated", "source")
_CHUNKS: Final = 200
"""Chunks that `show` fetches; --json has their text whole."""
_SHOWN: Final = 20
_EXCERPT: Final = 100  # characters


async def _reader(opened: Opened, user: str | None) -> UUID | None:
    """Return the user whose documents are read; None for the system's user who has none yet."""
    async with opened.db.connection() as conn:
        try:
            return (await users.acting(conn, user or opened.settings.user)).id
        except UserNotFound:
            if user:
                raise
            return None


def _document(stored: StoredDocument) -> dict[str, Any]:
    return {
        "id": stored.id,
        "name": stored.name,
        "source": stored.source,
        "file_name": stored.file_name,
        "type": stored.document_type,
        "content_type": stored.content_type,
        "tags": list(stored.tags),
        "chunks": stored.chunks,
        "pages": stored.pages,
        "shared": stored.shared,
        "embedder": stored.embedder,
        "created_at": stored.created_at,
        "updated_at": stored.updated_at,
    }


async def find(
    words: str | None, *, tag: str | None, document_type: str | None, only_shared: bool, user: str | None, limit: int
) -> Answer:
    """List documents that fit."""
    async with opening.database() as opened:
        owner = Owner(opened.db, None if only_shared else await _reader(opened, user))
        async with owner.door() as door:
            found = await knowledge.documents(door, limit=limit, tag=tag, document_type=document_type, words=words)
    rows = [
        (
            str(each.id),
            display.line(each.name, 50),
            each.document_type or "-",
            str(each.chunks),
            str(each.pages or "-"),
            display.line(", ".join(each.tags), 40) or "-",
            "shared" if each.shared else "own",
            display.ago(each.updated_at),
            display.line(each.source or "-", 100),
        )
        for each in found
    ]
    fits = " that fit" if words or tag or document_type else ""
    empty = f"no documents{fits} (`cirkelline knowledge add` takes some in)"
    return Answer({"documents": [_document(each) for each in found]}, [Table(_HEADINGS, rows, empty)])


async def show(reference: str, user: str | None) -> Answer:
    """Show one document and its chunks."""
    async with opening.database() as opened:
        owner = Owner(opened.db, await _reader(opened, user))
        async with owner.door() as door:
            stored = await _get(door, reference)
            chunks = await knowledge.read(door, stored.id, limit=_CHUNKS)
    document = _document(stored) | {"content": [_chunk(each) for each in chunks]}
    facts = [
        ("document", str(stored.id)),
        ("name", stored.name),
        ("source", stored.source or "-"),
        ("type", stored.document_type or "-"),
        ("whose", "everybody's" if stored.shared else "the user's own"),
        ("tags", ", ".join(stored.tags) or "-"),
        ("pages", str(stored.pages or "-")),
        ("chunks", str(stored.chunks)),
        ("embedder", stored.embedder or "unknown, so that it is found by words only"),
        ("added", display.when(stored.created_at)),
        ("updated", display.when(stored.updated_at)),
    ]
    rows = [
        (
            str(each.index),
            str(each.page or "-"),
            display.line(each.heading or "-", 40),
            display.line(each.text, _EXCERPT),
        )
        for each in chunks[:_SHOWN]
    ]
    blocks: list[Block] = [
        Facts(facts),
        Text("Chunks:", apart=True),
        Table(("", "page", "heading", "text"), rows, "none"),
    ]
    if stored.chunks > len(rows):
        blocks.append(Text(f"and {stored.chunks - len(rows)} more", tone="quiet"))
    return Answer(document, blocks)


def _chunk(chunk: StoredChunk) -> dict[str, Any]:
    return {
        "id": chunk.chunk_id,
        "index": chunk.index,
        "page": chunk.page,
        "offset": chunk.offset,
        "heading": chunk.heading,
        "text": chunk.text,
    }


async def _get(door: Door, reference: str) -> StoredDocument:
    """Return what a person names: an id, a name, a source, or a path from where they are."""
    try:
        return await knowledge.get(door, reference)
    except DocumentNotFound:
        path = adding.absolute(reference)
        if path == reference or await knowledge.find_source(door, path) is None:
            raise
        return await knowledge.get(door, path)


async def remove(references: Sequence[str], *, user: str | None, shared: bool, yes: bool) -> Answer:
    """Remove documents, all or none of those that are named."""
    async with opening.database() as opened:
        owner = Owner(opened.db, None if shared else await _owner(opened, user))
        async with owner.door() as door:
            found = {number: source for each in references for number, source in await _named(door, each)}
        if len(found) > len(references):
            sources = ", ".join(display.line(source, 100) for source in list(found.values())[:3])
            asking.agree(f"{len(found)} documents are named, {sources} and others. Remove them?", yes=yes)
        removed = []
        async with owner.door() as door:
            removed = [(number, source) for number, source in found.items() if await knowledge.remove(door, number)]
    document = {"removed": [{"id": number, "source": source} for number, source in removed]}
    rows = [(str(number), Mark(display.line(source, 120), "plain")) for number, source in removed]
    gone = [str(number) for number in found if number not in dict(removed)]
    complaint = (
        f"document {', '.join(gone)} was not removed: it is gone already, or not yours to remove" if gone else None
    )
    return Answer(
        document,
        [Table(("removed", "source"), rows, "nothing was removed")],
        failures.FAILED if gone else 0,
        complaint,
    )


async def _owner(opened: Opened, user: str | None) -> UUID:
    async with opened.db.connection() as conn:
        return (await users.acting(conn, user or opened.settings.user)).id


async def _named(door: Door, reference: str) -> list[tuple[int, str]]:
    """Return the documents that one argument means: one, or all that came from a folder."""
    try:
        stored = await _get(door, reference)
    except DocumentNotFound:
        folder = adding.absolute(reference).rstrip("/") + "/"
        if "://" in reference or not (under := await knowledge.sources_under(door, folder)):
            raise
        return under
    return [(stored.id, stored.source or stored.name)]
