"""Documents of a test's own, and an embedder that needs no weights: what shares words is near in meaning."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from cirkelline.state import knowledge, knowledge_settings
from cirkelline.state.connection import Database
from cirkelline.state.knowledge import NewChunk, NewDocument
from cirkelline.state.tenant import shared, tenant
from cirkelline.state.users import User, ensure
from cirkelline.tools.embedding import EmbedderUnavailable

LABEL = "scripted:bag"


@dataclass
class Bag:
    """A text is the bag of its words, each at a place of its own among 768."""

    label: str = LABEL
    window: int = 256
    leaves_machine: str | None = None

    def count(self, text: str) -> int:
        return len(text.split())

    async def embed(self, texts: Sequence[str], *, query: bool = False) -> list[list[float]]:
        del query
        return [vector(text) for text in texts]


def vector(text: str) -> list[float]:
    numbers = [0.001] * 768
    for word in re.findall(r"\w+", text.lower()):
        numbers[int.from_bytes(hashlib.blake2b(word.encode(), digest_size=4).digest()) % 768] += 1
    length = math.sqrt(sum(number * number for number in numbers))
    return [number / length for number in numbers]


@dataclass
class Bags:
    """A pool that has this embedder, or says why not."""

    failure: Exception | None = None
    asked: list[str] = field(default_factory=list)

    async def get(self, label: str) -> Bag:
        self.asked.append(label)
        if self.failure is not None:
            raise self.failure
        if label != LABEL:
            raise EmbedderUnavailable(f"there is no embedder {label} here: install it")
        return Bag()


async def add(
    db: Database,
    user: str | None,
    name: str,
    *passages: str,
    tags: Sequence[str] = (),
    pages: bool = False,
    document_type: str = "text",
    heading: str | None = None,
) -> int:
    """Store a document of a user, or a shared one, a chunk for each passage, and each on a page of its own."""
    new = NewDocument(
        source=f"/shelf/{name}",
        name=name,
        file_name=name,
        content_type="text/plain",
        document_type=document_type,
        content_hash=hashlib.sha256("".join(passages).encode()).hexdigest(),
        tags=tags,
        pages=len(passages) if pages else None,
    )
    offset, chunks = 0, []
    for number, text in enumerate(passages, 1):
        page = number if pages else None
        chunks.append(NewChunk(text=text, embedding=vector(text), page=page, offset=offset, heading=heading))
        offset += len(text) + 1
    async with db.connection() as conn:
        await knowledge_settings.fix_embedder(conn, LABEL)
    if user is None:
        async with shared(db) as operator:
            return await knowledge.store(operator, new, chunks, embedder=LABEL)
    async with tenant(db, (await person(db, user)).id) as door:
        return await knowledge.store(door, new, chunks, embedder=LABEL)


async def person(db: Database, name: str) -> User:
    async with db.connection() as conn:
        return await ensure(conn, name)
