"""A worker makes searchable what other programs had stored before it came."""

from __future__ import annotations

import asyncio

from workplace import Workplace

from cirkelline.runtime import ending, taking_in

ADOPTED = """
INSERT INTO ai.cirkelline_knowledge_vectors (embedding, chunk_text, metadata)
SELECT array_fill(0.1::real, ARRAY[768]), 'text', '{"user_id": "user-123"}' FROM generate_series(1, 450)
"""
TAKEN_IN = "SELECT count(*) FROM ai.knowledge_words"


async def adopt(place: Workplace) -> None:
    """Rows as they stood there before the migration's triggers did."""
    async with place.db.connection() as conn:
        for statement in ("SET session_replication_role = replica", ADOPTED, "RESET session_replication_role"):
            await conn.execute(statement.encode())
        await conn.execute("SELECT runtime.take_in_again()")


async def test_a_worker_takes_everything_in(place: Workplace) -> None:
    await adopt(place)
    async with place.working():
        await place.becomes(450, TAKEN_IN)


async def test_what_a_trigger_could_not_take_in_is_looked_at_again(place: Workplace) -> None:
    looking = asyncio.create_task(taking_in.take_in(place.db, look_again=0.05))
    try:
        await adopt(place)
        await place.becomes(450, TAKEN_IN)
        async with place.db.transaction() as conn:
            await conn.execute(
                "DELETE FROM ai.knowledge_words WHERE chunk = (SELECT min(chunk) FROM ai.knowledge_words)"
            )
            await conn.execute(
                "INSERT INTO ai.knowledge_failures (kind, subject, problem) SELECT 'chunk', min(id), 'disk full'"
                " FROM ai.cirkelline_knowledge_vectors"
            )
        await place.becomes(450, TAKEN_IN)
    finally:
        await ending.end([looking])
