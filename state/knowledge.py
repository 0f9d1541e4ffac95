"""Documents and their chunks, as the first schema document stores them: a document is what one owner has from one source.

A tenant's statements name no owner where row-level security answers for it; a tenant sees adopted and shared documents
too, and writes its own. An operator's, on shared documents, name theirs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from typing import Any, Final

import psycopg
from psycopg.rows import class_row

from cirkelline.configs.errors import CirkellineError, UsageError
from cirkelline.state import jsonb
from cirkelline.state.tenant import Door, Shared

DIMENSIONS: Final = 768
# What the document's columns hold.
_LONGEST_NAME: Final = 255
_LONGEST_PATH: Final = 500
_LONGEST_CONTENT_TYPE: Final = 100
_BATCH: Final = 200  # chunks in one statement: an embedding is 9 KB on its way
_LARGEST_ID: Final = 2**31 - 1


class DocumentNotFound(UsageError):
    """There is no such document, or not for whoever asks."""


class DocumentInUse(CirkellineError):
    """A document cannot be removed, as something else in the database refers to it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NewDocument:
    """A document to be stored. `source` is an absolute path or a URL, `content_hash` what tells whether it has changed."""

    source: str
    name: str
    file_name: str | None
    content_type: str | None
    document_type: str
    content_hash: str
    tags: Sequence[str] = ()
    pages: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class NewChunk:
    """A piece of a document with its embedding. `page` counts from 1, `offset` in characters of the document's text."""

    text: str
    embedding: Sequence[float]
    page: int | None
    offset: int
    heading: str | None


@dataclass(frozen=True, slots=True)
class StoredDocument:
    """A document that somebody can see; of one that another program stored, much may be None."""

    id: int
    source: str | None
    name: str
    file_name: str | None
    content_type: str | None
    document_type: str | None
    content_hash: str | None
    tags: list[str]
    chunks: int
    pages: int | None
    embedder: str | None
    owner: str
    shared: bool
    created_at: datetime | None
    updated_at: datetime | None


@dataclass(frozen=True, slots=True)
class StoredChunk:
    """A chunk at its place in a document; `index` counts from 0."""

    chunk_id: int
    index: int
    page: int | None
    offset: int | None
    heading: str | None
    text: str


def _seen(door: Door) -> str | None:
    """The owner whose rows are meant; None for a tenant, whom row-level security shows only what is for it."""
    return door.owner if isinstance(door, Shared) else None


FIND_SOURCE: Final = """
SELECT d.id, s.source, d.name, d.file_name, d.content_type, d.metadata ->> 'document_type' AS document_type,
       s.hash AS content_hash, runtime.document_tags(d.metadata) AS tags,
       (SELECT count(*) FROM ai.knowledge_chunks c WHERE c.document = s.id)::integer AS chunks,
       runtime.as_integer(d.metadata ->> 'page_count') AS pages, d.metadata ->> 'embedder' AS embedder,
       s.owner, s.owner = runtime.shared_owner() AS shared, d.created_at, d.updated_at
  FROM ai.knowledge_documents s JOIN ai.agno_knowledge d ON d.id = s.id
 WHERE s.owner = %(owner)s::text AND left(s.source, 400) = left(%(source)s::text, 400) AND s.source = %(source)s
 ORDER BY s.id LIMIT 1
"""


async def find_source(door: Door, source: str) -> StoredDocument | None:
    """Return the document that this owner has from a source, or None."""
    async with door.conn.cursor(row_factory=class_row(StoredDocument)) as cursor:
        await cursor.execute(FIND_SOURCE, {"owner": door.owner, "source": jsonb.clean_text(source)})
        return await cursor.fetchone()


# Until the transaction ends: two that store the same source one after the other are one document.
LOCK_SOURCE: Final = """
SELECT pg_advisory_xact_lock(
    hashtextextended('cirkelline.document ' || %(owner)s::text || chr(10) || %(source)s::text, 0))
"""
HAVE_SOURCE: Final = """
SELECT s.id FROM ai.knowledge_documents s
 WHERE s.owner = %(owner)s::text AND left(s.source, 400) = left(%(source)s::text, 400) AND s.source = %(source)s
 ORDER BY s.id LIMIT 1
"""
ADD_DOCUMENT: Final = """
INSERT INTO ai.agno_knowledge (name, file_name, file_path, content_type, metadata)
VALUES (%(name)s::text, %(file_name)s::text, %(file_path)s::text, %(content_type)s::text, %(metadata)s::jsonb)
RETURNING id
"""
# What other programs have put into the metadata stays there.
CHANGE_DOCUMENT: Final = """
UPDATE ai.agno_knowledge
   SET name = %(name)s::text, file_name = %(file_name)s::text, file_path = %(file_path)s::text,
       content_type = %(content_type)s::text, metadata = metadata || %(metadata)s::jsonb, updated_at = now()
 WHERE id = %(id)s::integer RETURNING id
"""
REMOVE_CHUNKS: Final = """
DELETE FROM ai.cirkelline_knowledge_vectors
 WHERE document_id = %(id)s::integer AND (%(owner)s::text IS NULL OR metadata ->> 'user_id' IS NULL
                                           OR metadata ->> 'user_id' = %(owner)s)
"""
ADD_CHUNKS: Final = """
INSERT INTO ai.cirkelline_knowledge_vectors (embedding, chunk_text, document_id, metadata)
SELECT chunk.embedding::real[], chunk.text, %(id)s::integer, chunk.metadata::jsonb
  FROM unnest(%(embeddings)s::text[], %(texts)s::text[], %(metadata)s::text[])
       WITH ORDINALITY AS chunk (embedding, text, metadata, place)
 ORDER BY chunk.place
"""


async def hold_source(door: Door, source: str) -> None:
    """Let nobody else store from this source for the same owner until the door's transaction ends."""
    await door.conn.execute(LOCK_SOURCE, {"owner": door.owner, "source": jsonb.clean_text(source)})


async def store(door: Door, document: NewDocument, chunks: Sequence[NewChunk], *, embedder: str) -> int:
    """Store a document with its chunks in the place of what its owner had from that source; return its id, which stays.

    Seen by others all at once, when the door's transaction commits. Raises: ValueError for an embedding of another size.
    """
    for chunk in chunks:
        if len(chunk.embedding) != DIMENSIONS:
            raise ValueError(f"an embedding has {DIMENSIONS} numbers, not {len(chunk.embedding)}")
    key = {"owner": door.owner, "source": jsonb.clean_text(document.source)}
    await hold_source(door, document.source)
    row = await (await door.conn.execute(HAVE_SOURCE, key)).fetchone()
    values = _columns(door, document, len(chunks), embedder)
    if row is not None:
        row = await (await door.conn.execute(CHANGE_DOCUMENT, values | {"id": row[0]})).fetchone()
    if row is None:
        row = await (await door.conn.execute(ADD_DOCUMENT, values)).fetchone()
    if row is None:
        raise RuntimeError("the document was not stored")
    await door.conn.execute(REMOVE_CHUNKS, {"id": row[0], "owner": _seen(door)})
    for batch in _batches(_chunk_rows(door, chunks, embedder)):
        embeddings, texts, metadata = (list(column) for column in zip(*batch, strict=True))
        values = {"id": row[0], "embeddings": embeddings, "texts": texts, "metadata": metadata}
        await door.conn.execute(ADD_CHUNKS, values)
    return int(row[0])


def _columns(door: Door, document: NewDocument, chunks: int, embedder: str) -> dict[str, Any]:
    """The document's columns, with the metadata that the first schema document describes and ours."""
    source, name = jsonb.clean_text(document.source), jsonb.clean_text(document.name)
    file_name = None if document.file_name is None else jsonb.clean_text(document.file_name)
    content_type = None if document.content_type is None else jsonb.clean_text(document.content_type)
    metadata = {
        "user_id": door.owner,
        "original_name": file_name or name,
        "upload_date": datetime.now(UTC).date().isoformat(),
        "document_type": document.document_type,
        "tags": list(document.tags),
        "chunk_count": chunks,
        "page_count": document.pages,
        "source": source,
        "content_hash": document.content_hash,
        "embedder": embedder,
    }
    return {
        "name": name[:_LONGEST_NAME],
        "file_name": file_name and file_name[:_LONGEST_NAME],
        "file_path": source if len(source) <= _LONGEST_PATH else None,
        "content_type": content_type and content_type[:_LONGEST_CONTENT_TYPE],
        "metadata": jsonb.dumps(metadata),
    }


def _chunk_rows(door: Door, chunks: Sequence[NewChunk], embedder: str) -> Iterator[tuple[str, str, str]]:
    for index, chunk in enumerate(chunks):
        metadata = {
            "user_id": door.owner,
            "chunk_index": index,
            "chunk_total": len(chunks),
            "page_number": chunk.page,
            "offset": chunk.offset,
            "heading": chunk.heading,
            "embedder": embedder,
        }
        embedding = "{" + ",".join(repr(float(number)) for number in chunk.embedding) + "}"
        yield embedding, jsonb.clean_text(chunk.text), jsonb.dumps(metadata)


def _batches(rows: Iterator[tuple[str, str, str]]) -> Iterator[list[tuple[str, str, str]]]:
    while batch := list(islice(rows, _BATCH)):
        yield batch


TOUCH_TAGS: Final = """
UPDATE ai.agno_knowledge SET metadata = metadata || jsonb_build_object('tags', %(tags)s::text[]), updated_at = now()
 WHERE id = %(id)s::integer AND (%(owner)s::text IS NULL OR metadata ->> 'user_id' = %(owner)s) RETURNING id
"""


async def touch_tags(door: Door, document_id: int, tags: Sequence[str]) -> None:
    """Give a document other tags and change nothing else. Raises: DocumentNotFound."""
    values = {"id": _id(document_id), "owner": _seen(door), "tags": [jsonb.clean_text(tag) for tag in tags]}
    if await (await door.conn.execute(TOUCH_TAGS, values)).fetchone() is None:
        raise _not_found(str(document_id))


REMOVE: Final = """
DELETE FROM ai.agno_knowledge
 WHERE id = %(id)s::integer AND (%(owner)s::text IS NULL OR metadata ->> 'user_id' = %(owner)s) RETURNING id
"""
MINE: Final = """
SELECT id FROM ai.agno_knowledge
 WHERE id = %(id)s::integer AND (%(owner)s::text IS NULL OR metadata ->> 'user_id' = %(owner)s) FOR UPDATE
"""


async def remove(door: Door, document_id: int) -> bool:
    """Remove a document with its chunks; False when there was none that whoever asks may remove.

    Raises: DocumentInUse, and nothing is removed.
    """
    key = {"id": _id(document_id), "owner": _seen(door)}
    if await (await door.conn.execute(MINE, key)).fetchone() is None:
        return False
    try:
        async with door.conn.transaction():
            await door.conn.execute(REMOVE_CHUNKS, key)
            return await (await door.conn.execute(REMOVE, key)).fetchone() is not None
    except psycopg.errors.ForeignKeyViolation as error:
        raise DocumentInUse(
            f"document {document_id} cannot be removed: another program's rows refer to it, and an operator has to remove those first"
        ) from error


FIND: Final = """
SELECT d.id, s.source, d.name, d.file_name, d.content_type, d.metadata ->> 'document_type' AS document_type,
       s.hash AS content_hash, runtime.document_tags(d.metadata) AS tags,
       (SELECT count(*) FROM ai.knowledge_chunks c WHERE c.document = s.id)::integer AS chunks,
       runtime.as_integer(d.metadata ->> 'page_count') AS pages, d.metadata ->> 'embedder' AS embedder,
       s.owner, s.owner = runtime.shared_owner() AS shared, d.created_at, d.updated_at
  FROM ai.knowledge_documents s JOIN ai.agno_knowledge d ON d.id = s.id
 WHERE (%(owner)s::text IS NULL OR s.owner = %(owner)s)
   AND (%(include_shared)s::boolean OR s.owner <> runtime.shared_owner())
   AND (%(tag)s::text IS NULL OR lower(%(tag)s) = ANY (s.tags))
   AND (%(document_type)s::text IS NULL OR s.type = lower(%(document_type)s))
   AND NOT EXISTS (SELECT FROM unnest(%(words)s::text[]) AS word
                    WHERE position(lower(word) IN lower(concat_ws(' ', d.name, d.file_name, s.source))) = 0)
 ORDER BY d.updated_at DESC NULLS LAST, d.id DESC LIMIT %(limit)s::integer
"""


async def documents(
    door: Door,
    *,
    limit: int = 50,
    tag: str | None = None,
    document_type: str | None = None,
    words: str | None = None,
    include_shared: bool = True,
) -> list[StoredDocument]:
    """Return the documents that whoever asks can see, newest first; `words` all have to be in the name or the source."""
    values = {
        "owner": _seen(door),
        "include_shared": include_shared or isinstance(door, Shared),
        "tag": tag and jsonb.clean_text(tag),
        "document_type": document_type and jsonb.clean_text(document_type),
        "words": jsonb.clean_text(words or "").split(),
        "limit": max(0, min(limit, _LARGEST_ID)),
    }
    async with door.conn.cursor(row_factory=class_row(StoredDocument)) as cursor:
        await cursor.execute(FIND, values)
        return await cursor.fetchall()


GET: Final = """
SELECT d.id, s.source, d.name, d.file_name, d.content_type, d.metadata ->> 'document_type' AS document_type,
       s.hash AS content_hash, runtime.document_tags(d.metadata) AS tags,
       (SELECT count(*) FROM ai.knowledge_chunks c WHERE c.document = s.id)::integer AS chunks,
       runtime.as_integer(d.metadata ->> 'page_count') AS pages, d.metadata ->> 'embedder' AS embedder,
       s.owner, s.owner = runtime.shared_owner() AS shared, d.created_at, d.updated_at
  FROM ai.knowledge_documents s JOIN ai.agno_knowledge d ON d.id = s.id
 WHERE (%(owner)s::text IS NULL OR s.owner = %(owner)s)
   AND (d.id = runtime.as_integer(%(reference)s::text)
        OR %(reference)s IN (d.name, d.file_name, s.source))
 ORDER BY (d.id = runtime.as_integer(%(reference)s)) DESC NULLS LAST, d.id LIMIT 2
"""


async def get(door: Door, reference: str) -> StoredDocument:
    """Return the document with this id, or the only one with this name or source. Raises: DocumentNotFound."""
    async with door.conn.cursor(row_factory=class_row(StoredDocument)) as cursor:
        await cursor.execute(GET, {"owner": _seen(door), "reference": jsonb.clean_text(reference)})
        found = await cursor.fetchall()
    if found and (len(found) == 1 or str(found[0].id) == reference):
        return found[0]
    if found:
        raise DocumentNotFound(
            f"more than one document is named {reference!r}: give its id (`cirkelline knowledge list` shows it)"
        )
    raise _not_found(reference)


SOURCES_UNDER: Final = """
SELECT s.id, s.source FROM ai.knowledge_documents s
 WHERE s.owner = %(owner)s::text AND starts_with(s.source, %(prefix)s::text) ORDER BY s.source, s.id
"""


async def sources_under(door: Door, prefix: str) -> list[tuple[int, str]]:
    """Return (id, source) of this owner's documents whose source begins with `prefix`, in order."""
    values = {"owner": door.owner, "prefix": jsonb.clean_text(prefix)}
    rows = await (await door.conn.execute(SOURCES_UNDER, values)).fetchall()
    return [(int(id_), str(source)) for id_, source in rows]


# Chunks that another program did not number stand behind those that are, in the order of their ids.
READ: Final = """
SELECT chunk_id, index, page, "offset", heading, text
  FROM (SELECT v.id AS chunk_id, v.chunk_text AS text, v.metadata ->> 'heading' AS heading,
               (row_number() OVER (ORDER BY runtime.as_integer(v.metadata ->> 'chunk_index') NULLS LAST, v.id) - 1)::integer AS index,
               runtime.as_integer(v.metadata ->> 'page_number') AS page,
               runtime.as_integer(v.metadata ->> 'offset') AS "offset"
          FROM ai.knowledge_chunks c JOIN ai.cirkelline_knowledge_vectors v ON v.id = c.chunk
         WHERE c.document = %(id)s::integer AND (%(owner)s::text IS NULL OR c.owner = %(owner)s)) chunk
 WHERE index > %(after)s::integer AND (%(page)s::integer IS NULL OR page = %(page)s)
 ORDER BY index LIMIT %(limit)s::integer
"""


async def read(
    door: Door, document_id: int, *, page: int | None = None, after_chunk: int = -1, limit: int = 20
) -> list[StoredChunk]:
    """Return the chunks of a document in order, of one page or all, after the one with the index `after_chunk`."""
    bounds = {"page": page, "after": after_chunk, "limit": limit}
    values = {name: None if value is None else max(-1, min(value, _LARGEST_ID)) for name, value in bounds.items()}
    values["limit"] = max(0, values["limit"] or 0)
    async with door.conn.cursor(row_factory=class_row(StoredChunk)) as cursor:
        await cursor.execute(READ, values | {"id": _id(document_id), "owner": _seen(door)})
        return await cursor.fetchall()


def _id(document_id: int) -> int:
    """An id that the column can hold; 0, which no row has, for others."""
    return document_id if 0 < document_id <= _LARGEST_ID else 0


def _not_found(reference: str) -> DocumentNotFound:
    return DocumentNotFound(f"there is no document {reference[:200]!r} (`cirkelline knowledge list` shows them)")
