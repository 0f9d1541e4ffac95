"""Searching a user's documents: exact, in one statement, over the user's own, adopted and shared chunks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from enum import StrEnum
from typing import Final

from psycopg.rows import class_row

from cirkelline.state import jsonb
from cirkelline.state.tenant import Tenant

DIMENSIONS: Final = 768
LONGEST_QUESTION: Final = 20_000  # characters; what is behind them cannot change the ranks much, and costs
MOST_HITS: Final = 1000
BEGIN_MARK: Final = "\ue000"
END_MARK: Final = "\ue001"


class Mode(StrEnum):
    """What ranks: both halves by their weights, meaning alone, words alone, or the sum of reciprocal ranks."""

    HYBRID = "hybrid"
    VECTOR = "vector"
    WORDS = "words"
    RRF = "rrf"


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """Which documents are looked at: with all of these tags, of one of these types, uploaded in this time, among these.

    Tags and types are compared without regard to case; empty or None leaves nothing out.
    """

    tags: Sequence[str] = ()
    types: Sequence[str] = ()
    since: date | None = None
    until: date | None = None
    documents: Sequence[int] = ()


EVERYTHING: Final = Filter()


@dataclass(frozen=True, slots=True)
class Hit:
    """A chunk that was found. `marked` is its text with the matching words between BEGIN_MARK and END_MARK."""

    chunk_id: int
    document_id: int | None
    document: str
    source: str | None
    page: int | None
    offset: int | None
    index: int | None
    total: int | None
    heading: str | None
    text: str
    marked: str
    score: float
    similarity: float | None
    bm25: float | None
    document_type: str | None
    tags: list[str]
    uploaded: date | None
    shared: bool


SEARCH: Final = """
SELECT chunk_id, document_id, document, source, page, "offset", index, total, heading, text, marked, score, similarity,
       bm25, document_type, tags, uploaded, shared
  FROM runtime.search_knowledge(
       %(question)s::text, %(embedding)b::float8[], %(embedder)s::text, %(limit)s::integer, %(mode)s::text,
       %(threshold)s::float8, %(tags)s::text[], %(types)s::text[], %(since)s::date, %(until)s::date,
       %(documents)s::integer[])
"""


async def search(
    door: Tenant,
    text: str,
    *,
    embedding: Sequence[float] | None,
    embedder: str | None,
    limit: int = 6,
    mode: Mode = Mode.HYBRID,
    filter: Filter = EVERYTHING,
    threshold: float | None = None,
) -> list[Hit]:
    """Return the best `limit` chunks of what the user can see, best first.

    `embedding` is the question's, made by `embedder`; only chunks of that embedder are compared with it. Without one, words
    alone rank. `threshold` leaves out what scores less: a cosine for `vector`, for the others a number from 0 to about 1.
    Raises: ValueError for an embedding of another size, or none where the mode needs one.
    """
    if embedding is not None and (len(embedding) != DIMENSIONS or not all(map(math.isfinite, embedding))):
        raise ValueError(f"an embedding has {DIMENSIONS} finite numbers")
    if embedding is None:
        if mode is Mode.VECTOR:
            raise ValueError("a search by meaning needs the question's embedding")
        mode = Mode.WORDS
    parameters = {
        "question": jsonb.clean_text(text[:LONGEST_QUESTION]),
        "embedding": None if embedding is None else [float(number) for number in embedding],
        "embedder": None if embedder is None else jsonb.clean_text(embedder),
        "limit": max(0, min(limit, MOST_HITS)),
        "mode": mode.value,
        "threshold": threshold,
        "tags": [jsonb.clean_text(tag) for tag in filter.tags],
        "types": [jsonb.clean_text(type_) for type_ in filter.types],
        "since": filter.since,
        "until": filter.until,
        "documents": [document for document in filter.documents if 0 < document < 2**31]
        or ([0] if filter.documents else []),
    }
    async with door.conn.cursor(row_factory=class_row(Hit)) as cursor:
        await cursor.execute(SEARCH, parameters)
        return await cursor.fetchall()
