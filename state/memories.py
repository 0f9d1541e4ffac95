"""What is remembered of a person: `ai.agno_memories`, and beside it what finding a memory by relevance needs.

`state/sql/016_memory.sql` keeps the side table right, whoever writes the memories, and holds the rules by which one memory
says the same as another or takes its place.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Final
from uuid import UUID

from psycopg.rows import class_row

from cirkelline.configs.errors import UsageError
from cirkelline.state import jsonb
from cirkelline.state.connection import Conn
from cirkelline.state.tenant import Tenant


class Origin(StrEnum):
    """Who wrote a memory."""

    TOLD = "told"
    CAPTURED = "captured"
    ADDED = "added"
    MERGED = "merged"
    ELSEWHERE = "elsewhere"


class Reason(StrEnum):
    """Why a memory is in the archive."""

    FORGOTTEN = "forgotten"
    SUPERSEDED = "superseded"
    DELETED = "deleted"
    MERGED = "merged"
    CHANGED = "changed"


class MemoryNotFound(UsageError):
    """No memory of this user has that id."""


@dataclass(frozen=True, slots=True)
class Meaning:
    """A text as numbers, and whose numbers they are."""

    embedding: Sequence[float]
    embedder: str


@dataclass(frozen=True, slots=True)
class Recalled:
    """A memory that bears on a question; `since` is when it was told."""

    id: int
    memory_id: UUID
    memory: str
    topics: Any
    since: datetime
    score: float
    similarity: float | None


@dataclass(frozen=True, slots=True)
class Near:
    """A memory that stands near a text: `same` says the same, `replaced` is one whose place the text takes by the rule."""

    id: int
    memory: str
    since: datetime
    similarity: float | None
    same: bool
    replaced: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class NewMemory:
    """What is written: the text, where it comes from, and its meaning where an embedder was at hand."""

    memory: str
    origin: Origin
    topics: Sequence[str] = ()
    input: str | None = None
    meaning: Meaning | None = None
    task_id: UUID | None = None
    session_id: UUID | None = None
    message: int | None = None


@dataclass(frozen=True, slots=True)
class Memory:
    """A memory with all that is known of it; `superseded_by` is the later one that a rule holds to be in its place."""

    id: int
    memory_id: UUID
    user_id: str
    memory: str
    topics: Any
    input: str | None
    created_at: datetime | None
    updated_at: datetime | None
    accessed_at: datetime | None
    since: datetime | None
    origin: str
    superseded_by: int | None
    embedder: str | None
    task_id: UUID | None
    session_id: UUID | None
    message: int | None


RECALL: Final = """
SELECT r.id, r.memory_id, r.memory, r.topics, r.since, r.score, r.similarity
  FROM runtime.recall_memories(%(question)s::text, %(embedding)b::real[], %(embedder)s::text, %(amount)s::integer,
                               %(budget)s::integer, %(at)s::timestamptz) r
"""


async def recall(
    door: Tenant, question: str, meaning: Meaning | None, *, amount: int, budget: int, at: datetime
) -> list[Recalled]:
    """Return the memories that bear on a question, best first, and note that they were used.

    All of them when they fit `budget` tokens, else at most `amount`; without a meaning by words and age alone.
    """
    parameters = {
        "question": jsonb.clean_text(question),
        **_numbers(meaning),
        "amount": amount,
        "budget": budget,
        "at": at,
    }
    async with door.conn.cursor(row_factory=class_row(Recalled)) as cursor:
        await cursor.execute(RECALL, parameters)
        return await cursor.fetchall()


NEAR: Final = """
SELECT n.id, n.memory, n.since, n.similarity, n.same, n.replaced
  FROM runtime.near_memories(%(text)s::text, %(embedding)b::real[], %(embedder)s::text, %(amount)s::integer,
                             %(least)s::float8) n
"""


async def near(door: Tenant, text: str, meaning: Meaning | None, *, amount: int = 5, least: float = 0.4) -> list[Near]:
    """Return what stands near a text among the user's memories, with a cosine over `least`, nearest first."""
    parameters = {"text": text, **_numbers(meaning), "amount": amount, "least": least}
    async with door.conn.cursor(row_factory=class_row(Near)) as cursor:
        await cursor.execute(NEAR, parameters)
        return await cursor.fetchall()


def _numbers(meaning: Meaning | None) -> dict[str, Any]:
    # Sent in binary: as text 768 numbers take as long as a quarter of a recall.
    embedding = [float(number) for number in meaning.embedding] if meaning else None
    return {"embedding": embedding, "embedder": meaning.embedder if meaning else None}


# By user, not by table: two of a person's chats must not both find that something is new. The id and not the owner's
# text, as an adopted user's memories have several owners.
LOCK: Final = "SELECT pg_advisory_xact_lock(hashtextextended('cirkelline.memories.' || %(user_id)s::text, 0))"


async def lock(door: Tenant) -> None:
    """Let nobody else write this user's memories until the door is closed."""
    await door.conn.execute(LOCK, {"user_id": door.user_id})


ADD: Final = """
INSERT INTO ai.agno_memories (memory_id, user_id, memory, topics, input, created_at, updated_at)
VALUES (gen_random_uuid(), %(owner)s::text, %(memory)s::text, %(topics)s::jsonb, %(input)s::text,
        now() AT TIME ZONE 'UTC', now() AT TIME ZONE 'UTC')
RETURNING id
"""
TRACE: Final = """
UPDATE ai.memory_index
   SET embedder = %(embedder)s::text, embedding = runtime.unit(%(embedding)b::real[]), origin = %(origin)s::text,
       valid_from = clock_timestamp(), task_id = %(task_id)s::uuid, session_id = %(session_id)s::uuid,
       message = %(message)s::bigint
 WHERE id = %(id)s::integer
"""


async def add(door: Tenant, new: NewMemory) -> int:
    """Write a memory and return its id."""
    row = {
        "owner": door.owner,
        "memory": new.memory,
        "topics": jsonb.dumps(list(new.topics)) if new.topics else None,
        "input": new.input,
    }
    (written,) = await (await door.conn.execute(ADD, row)).fetchall()
    where = {"task_id": new.task_id, "session_id": new.session_id, "message": new.message, "origin": new.origin.value}
    await door.conn.execute(TRACE, {"id": written[0], **where, **_numbers(new.meaning)})
    return int(written[0])


TOUCH: Final = """
WITH confirmed AS (UPDATE ai.memory_index SET valid_from = clock_timestamp() WHERE id = %(id)s::integer)
UPDATE ai.agno_memories SET updated_at = now() AT TIME ZONE 'UTC' WHERE id = %(id)s
"""


async def touch(door: Tenant, memory_id: int) -> None:
    """Note that a memory has been told again."""
    await door.conn.execute(TOUCH, {"id": memory_id})


SUPERSEDE: Final = """
UPDATE ai.memory_index SET superseded_by = %(by)s::integer WHERE id = ANY (%(ids)s::integer[]) AND id <> %(by)s
"""


async def supersede(door: Tenant, ids: Sequence[int], by: int) -> None:
    """Recall these no more, as a rule holds that a later one says it now; they stay where they are."""
    await door.conn.execute(SUPERSEDE, {"ids": list(ids), "by": by})


THERE: Final = "SELECT m.id, m.memory FROM ai.agno_memories m WHERE m.id = ANY (%(ids)s::integer[]) ORDER BY m.id"


async def there(door: Tenant, ids: Sequence[int]) -> dict[int, str]:
    """Return those of these that are memories of this user, with their texts."""
    return {int(row[0]): str(row[1]) for row in await (await door.conn.execute(THERE, {"ids": list(ids)})).fetchall()}


ARCHIVE: Final = """
SELECT runtime.archive_memories(%(ids)s::integer[], %(reason)s::text, %(run)s::text, %(by)s::integer)
"""


async def archive(
    door: Tenant, ids: Sequence[int], reason: Reason, *, run: str | None = None, by: int | None = None
) -> int:
    """Move memories into the archive, whole; return how many were there."""
    row = await (
        await door.conn.execute(ARCHIVE, {"ids": list(ids), "reason": reason.value, "run": run, "by": by})
    ).fetchone()
    return int(row[0]) if row else 0


FORGOTTEN: Final = """
SELECT a.id, (a.original ->> 'id')::integer FROM ai.agno_memories_archive a
 WHERE a.original IS NOT NULL AND a.optimization_run_id IS NULL
   AND (a.original ->> 'id' = %(reference)s::text OR starts_with(replace(a.original_memory_id, '-', ''), %(digits)s::text))
 ORDER BY a.id DESC LIMIT 1
"""
RESTORE: Final = "SELECT runtime.restore_memories(%(archived)s::integer[])"


async def restore(door: Tenant, reference: str) -> int:
    """Put back a memory that was forgotten or superseded; return its id. Raises: MemoryNotFound."""
    row = await (await door.conn.execute(FORGOTTEN, _reference(reference))).fetchone()
    if row is None:
        raise MemoryNotFound(
            f"nothing that was forgotten has the id {reference!r} (`cirkelline memories list --archived` shows it)"
        )
    await door.conn.execute(RESTORE, {"archived": [row[0]]})
    return int(row[1])


MEMORIES: Final = """
SELECT m.id, m.memory_id, m.user_id, m.memory, m.topics, m.input, m.created_at, m.updated_at, m.accessed_at,
       i.valid_from AS since, coalesce(i.origin, 'elsewhere') AS origin, i.superseded_by, i.embedder, i.task_id,
       i.session_id, i.message
  FROM ai.agno_memories m LEFT JOIN ai.memory_index i ON i.id = m.id
 WHERE m.user_id = ANY ((SELECT runtime.tenant_names())::text[])
"""
FIND: Final = (
    MEMORIES
    + """ AND (%(topic)s::text IS NULL OR m.topics ? %(topic)s)
 ORDER BY coalesce(i.valid_from, m.created_at AT TIME ZONE 'UTC') DESC NULLS LAST, m.id DESC LIMIT %(limit)s::integer
"""
)


async def find(door: Tenant, *, topic: str | None = None, limit: int | None = 50) -> list[Memory]:
    """Return a user's memories, the latest first."""
    async with door.conn.cursor(row_factory=class_row(Memory)) as cursor:
        await cursor.execute(FIND, {"topic": topic, "limit": limit})
        return await cursor.fetchall()


ARCHIVED: Final = """
SELECT m.id, m.memory_id, m.user_id, m.memory, m.topics, m.input, m.created_at, m.updated_at, m.accessed_at,
       t.valid_from AS since, coalesce(t.origin, 'elsewhere') AS origin, a.replaced_by AS superseded_by, t.embedder,
       t.task_id, t.session_id, t.message
  FROM ai.agno_memories_archive a
 CROSS JOIN LATERAL jsonb_populate_record(NULL::ai.agno_memories, a.original) m
  LEFT JOIN LATERAL jsonb_populate_record(NULL::ai.memory_index, a.trace) t ON a.trace IS NOT NULL
 WHERE a.user_id = ANY ((SELECT runtime.tenant_names())::text[]) AND a.original IS NOT NULL
   AND (%(only)s::integer IS NULL OR a.id = %(only)s)
 ORDER BY a.id DESC LIMIT %(limit)s::integer
"""


async def archived(door: Tenant, *, only: int | None = None, limit: int | None = 50) -> list[Memory]:
    """Return what a user's archive holds, the latest first."""
    async with door.conn.cursor(row_factory=class_row(Memory)) as cursor:
        await cursor.execute(ARCHIVED, {"only": only, "limit": limit})
        return await cursor.fetchall()


_SHORTEST: Final = 4  # digits of a UUID that may stand for it
BY_REFERENCE: Final = (
    MEMORIES
    + """ AND (m.id::text = %(reference)s::text OR starts_with(replace(m.memory_id::text, '-', ''), %(digits)s::text))
 ORDER BY m.id::text = %(reference)s DESC, m.id LIMIT 2
"""
)


async def get(door: Tenant, reference: str) -> Memory:
    """Return the one memory of this user with that id, or whose UUID begins so. Raises: MemoryNotFound."""
    async with door.conn.cursor(row_factory=class_row(Memory)) as cursor:
        await cursor.execute(BY_REFERENCE, _reference(reference))
        found = await cursor.fetchall()
    if not found or (len(found) > 1 and str(found[0].id) != reference.strip()):
        problem = "more than one memory of this user has an id like" if found else "no memory of this user has the id"
        raise MemoryNotFound(f"{problem} {reference!r} (`cirkelline memories list` shows them)")
    return found[0]


def _reference(reference: str) -> dict[str, str]:
    digits = reference.strip().lower().replace("-", "")
    is_beginning = len(digits) >= _SHORTEST and all(digit in "0123456789abcdef" for digit in digits)
    return {"reference": reference.strip(), "digits": digits if is_beginning else "none"}


CONSENT: Final = "SELECT c.capture FROM ai.memory_consents c WHERE c.user_id = %(user_id)s::uuid"


async def consent(door: Tenant) -> bool | None:
    """Return what a user has said about being remembered, None as long as nobody has asked."""
    row = await (await door.conn.execute(CONSENT, {"user_id": door.user_id})).fetchone()
    return bool(row[0]) if row else None


CHOOSE: Final = """
INSERT INTO ai.memory_consents (user_id, capture) VALUES (%(user_id)s::uuid, %(capture)s::boolean)
ON CONFLICT (user_id) DO UPDATE SET capture = excluded.capture, at = now()
"""


async def choose(door: Tenant, *, capture: bool) -> None:
    """Keep what a user has said about being remembered."""
    await door.conn.execute(CHOOSE, {"user_id": door.user_id, "capture": capture})


CLEAR_BACKLOG: Final = "SELECT runtime.clear_memory_backlog(%(amount)s::integer)"


async def clear_backlog(conn: Conn, *, amount: int = 500) -> int:
    """Take in memories that wait for it; return how many there were."""
    row = await (await conn.execute(CLEAR_BACKLOG, {"amount": amount})).fetchone()
    return int(row[0]) if row else 0


# Three looks into one index: what has no embedding, and what has one of another embedder.
WAITING: Final = """
SELECT w.id, m.memory FROM (
    (SELECT i.id FROM ai.memory_index i WHERE i.embedder IS NULL ORDER BY i.id LIMIT %(amount)s::integer)
     UNION ALL
    (SELECT i.id FROM ai.memory_index i WHERE i.embedder < %(embedder)s::text ORDER BY i.embedder, i.id LIMIT %(amount)s)
     UNION ALL
    (SELECT i.id FROM ai.memory_index i WHERE i.embedder > %(embedder)s ORDER BY i.embedder, i.id LIMIT %(amount)s)
) w JOIN ai.agno_memories m ON m.id = w.id LIMIT %(amount)s
"""


async def waiting(conn: Conn, embedder: str, *, amount: int = 64) -> list[tuple[int, str]]:
    """Return memories, whosever, that this embedder has not embedded yet."""
    rows = await (await conn.execute(WAITING, {"embedder": embedder, "amount": amount})).fetchall()
    return [(int(memory_id), str(text)) for memory_id, text in rows]


EMBEDDED: Final = """
UPDATE ai.memory_index i SET embedder = %(embedder)s::text, embedding = runtime.unit(g.embedding)
  FROM (SELECT (e.value ->> 'id')::integer AS id, e.value ->> 'text' AS text,
               ARRAY(SELECT n.value::real FROM jsonb_array_elements_text(e.value -> 'embedding') AS n (value)) AS embedding
          FROM jsonb_array_elements(%(given)s::jsonb) AS e (value)) g
 WHERE i.id = g.id AND i.digest = runtime.memory_digest(g.text)
"""


async def embedded(conn: Conn, embedder: str, given: Sequence[tuple[int, str, Sequence[float]]]) -> None:
    """Keep embeddings of memories (id, text, numbers) whose text is still the one that was embedded."""
    rows = [{"id": memory_id, "text": text, "embedding": list(numbers)} for memory_id, text, numbers in given]
    await conn.execute(EMBEDDED, {"embedder": embedder, "given": jsonb.dumps(rows)})
