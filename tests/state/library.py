"""What a test of knowledge says in one word: a user, a document with chunks, other programs' rows, a search."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any
from uuid import UUID, uuid4

import numpy as np
import numpy.typing as npt

from cirkelline.state import knowledge, searching
from cirkelline.state.connection import Conn, Database
from cirkelline.state.knowledge import NewChunk, NewDocument
from cirkelline.state.searching import Hit
from cirkelline.state.tenant import Door, tenant

EMBEDDER = "test:numbers"
Matrix = npt.NDArray[np.float64]


def vectors(random: np.random.Generator, amount: int) -> Matrix:
    """So many directions, each of length 1."""
    rows = random.normal(size=(amount, searching.DIMENSIONS))
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)  # type: ignore[no-any-return]


def axis(place: int, amount: float = 1.0) -> list[float]:
    """A direction that is orthogonal to that of every other place."""
    numbers = [0.0] * searching.DIMENSIONS
    numbers[place] = amount
    return numbers


def between(place: int, other: int, cosine: float) -> list[float]:
    """A direction with this cosine to the first place's."""
    numbers = axis(place, cosine)
    numbers[other] = math.sqrt(1 - cosine * cosine)
    return numbers


def document(source: str = "/notes.md", **columns: Any) -> NewDocument:
    values: dict[str, Any] = {
        "name": source.rsplit("/", 1)[-1],
        "file_name": source.rsplit("/", 1)[-1],
        "content_type": "text/markdown",
        "document_type": "markdown",
        "content_hash": "0" * 64,
    }
    return NewDocument(source=source, **(values | columns))


def chunks(texts: Sequence[str], embeddings: Sequence[Sequence[float]] | Matrix) -> list[NewChunk]:
    return [
        NewChunk(
            text=text, embedding=[float(number) for number in embedding], page=None, offset=place * 100, heading=None
        )
        for place, (text, embedding) in enumerate(zip(texts, embeddings, strict=True))
    ]


async def user(conn: Conn) -> UUID:
    identity = uuid4()
    await conn.execute("INSERT INTO runtime.users (id, email) VALUES (%s, %s)", [identity, f"{identity}@example.com"])
    return identity


async def store(
    door: Door,
    texts: Sequence[str],
    embeddings: Sequence[Sequence[float]] | Matrix,
    source: str = "/notes.md",
    **columns: Any,
) -> int:
    return await knowledge.store(door, document(source, **columns), chunks(texts, embeddings), embedder=EMBEDDER)


async def search(
    db: Database, who: UUID, text: str = "", embedding: Sequence[float] | Matrix | None = None, **options: Any
) -> list[Hit]:
    """Search as a user, through the door."""
    numbers = None if embedding is None else [float(number) for number in embedding]
    async with tenant(db, who) as door:
        return await searching.search(door, text, embedding=numbers, embedder=EMBEDDER, **options)
