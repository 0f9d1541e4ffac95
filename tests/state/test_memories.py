from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from scene import one, rows

from cirkelline.state import memories, users
from cirkelline.state.connection import Database
from cirkelline.state.memories import Meaning, MemoryNotFound, NewMemory, Origin, Reason
from cirkelline.state.tenant import tenant

EMBEDDER = "numbers:of-the-test"
NOW = datetime(2026, 11, 26, tzinfo=UTC)


def towards(angle: float, axis: int = 0) -> Meaning:
    """A direction in the plane of one axis and the next: the cosine of two is that of their angles' difference."""
    numbers = [0.0] * 768
    numbers[axis], numbers[axis + 1] = math.cos(angle), math.sin(angle)
    return Meaning(numbers, EMBEDDER)


@pytest.fixture
async def person(db: Database) -> UUID:
    async with db.connection() as conn:
        return (await users.ensure(conn, "ivo")).id


@pytest.fixture
async def other(db: Database) -> UUID:
    async with db.connection() as conn:
        return (await users.ensure(conn, "eve")).id


@pytest.fixture
async def db(database_url: str) -> AsyncIterator[Database]:
    async with Database.open(database_url) as opened:
        yield opened


async def tell(db: Database, user: UUID, text: str, meaning: Meaning | None = None, *, days: float = 0) -> int:
    async with tenant(db, user) as door:
        found = await memories.add(door, NewMemory(memory=text, origin=Origin.TOLD, meaning=meaning))
        if days:
            at = datetime.now(UTC) - timedelta(days=days)
            await door.conn.execute("UPDATE ai.memory_index SET valid_from = %s WHERE id = %s", [at, found])
        return found


async def recalled(
    db: Database, user: UUID, question: str = "?", meaning: Meaning | None = None, *, amount: int = 8, budget: int = 150
) -> list[str]:
    async with tenant(db, user) as door:
        found = await memories.recall(door, question, meaning, amount=amount, budget=budget, at=datetime.now(UTC))
        return [each.memory for each in found]


async def test_all_are_recalled_when_they_fit_and_only_the_nearest_when_they_do_not(db: Database, person: UUID) -> None:
    for number in range(12):
        await tell(db, person, f"Enjoys hobby number{number}", towards(number / 10))
    assert len(await recalled(db, person, "?", towards(0.0), budget=1000)) == 12
    found = await recalled(db, person, "?", towards(0.31), amount=3, budget=60)
    assert sorted(found) == ["Enjoys hobby number2", "Enjoys hobby number3", "Enjoys hobby number4"]


async def test_what_is_recalled_fits_the_budget_and_one_that_never_would_keeps_no_other_out(
    db: Database, person: UUID
) -> None:
    await tell(db, person, "Enjoys " + "very " * 200 + "long walks", towards(0.0))
    for number in range(10):
        await tell(db, person, f"Enjoys short walk{number}", towards(0.1 + number / 100))
    found = await recalled(db, person, "?", towards(0.0), budget=20)
    assert found == [f"Enjoys short walk{number}" for number in range(4)]  # of five tokens each


async def test_nobody_recalls_what_is_remembered_of_somebody_else(db: Database, person: UUID, other: UUID) -> None:
    await tell(db, other, "Enjoys secret walks", towards(0.0))
    assert await recalled(db, person, "secret walks", towards(0.0)) == []


async def test_a_rare_word_brings_up_what_the_meaning_does_not(db: Database, person: UUID) -> None:
    for number in range(40):
        await tell(db, person, f"Enjoys walk{number} in the woods", towards(0.4 + number / 200))
    await tell(db, person, "Enjoys Zanzibar", towards(0.47 + 0.35))
    assert (await recalled(db, person, "What about Zanzibar?", towards(0.47), amount=2, budget=20))[
        0
    ] == "Enjoys Zanzibar"
    assert "Enjoys Zanzibar" not in await recalled(db, person, "What about it?", towards(0.47), amount=2, budget=20)


async def test_the_later_of_two_that_say_how_one_thing_is_stands_alone(db: Database, person: UUID) -> None:
    await tell(db, person, "Lives in Aarhus", towards(0.0), days=30)
    await tell(db, person, "Lives in Ghent", towards(0.9))
    await tell(db, person, "Visited Oslo in 2019", towards(0.0), days=20)
    await tell(db, person, "Visited Rome in 2021", towards(0.1), days=10)
    found = await recalled(db, person, "Where?", towards(0.0))
    assert "Lives in Aarhus" not in found
    assert {"Lives in Ghent", "Visited Oslo in 2019", "Visited Rome in 2021"} <= set(found)


@pytest.mark.parametrize(
    ("earlier", "later", "replaced"),
    [
        ("Lives in Aarhus", "Lives in Ghent", True),
        ("The user works at Northwind Logistics", "The user works at the city hospital", True),
        ("The partner is called Mads", "The partner is called Elena", True),
        ("The cat is called Tom", "The cat is five years old", False),
        ("Likes tea", "Likes coffee", False),
        ("Is allergic to peanuts", "Is allergic to latex", False),
        ("Went to Lisbon", "Went to Porto", False),
        ("The daughter is called Ida", "The son is called Emil", False),
        ("Does not eat fish", "Paints with oil", False),
    ],
)
async def test_the_rule_replaces_only_what_one_can_have_one_of(
    db: Database, person: UUID, earlier: str, later: str, replaced: bool
) -> None:
    await tell(db, person, earlier, towards(0.0))
    async with tenant(db, person) as door:
        (found,) = await memories.near(door, later, towards(0.9))  # a cosine of 0.62
    assert (found.replaced, found.same) == (replaced, False)


async def test_the_same_in_other_letters_is_the_same_and_its_opposite_is_not(db: Database, person: UUID) -> None:
    await tell(db, person, "Likes tea.", towards(0.0))
    async with tenant(db, person) as door:
        assert [each.same for each in await memories.near(door, "likes  TEA", None)] == [True]
        assert [each.same for each in await memories.near(door, "Does not like tea", towards(0.05))] == [False]
        assert [each.same for each in await memories.near(door, "Tea likes", towards(0.05))] == [True]


async def test_what_another_program_writes_is_recalled_by_its_words_until_it_is_embedded(
    db: Database, person: UUID
) -> None:
    async with db.connection() as conn:
        insert = "INSERT INTO ai.agno_memories (memory_id, user_id, memory) VALUES (gen_random_uuid(), %s, %s)"
        for text in ("Owns a sailing boat", *(f"Owns a kite{number} and a ball" for number in range(30))):
            await conn.execute(insert, [str(person), text])
        assert (await recalled(db, person, "sailing", towards(0.0), amount=2, budget=20))[0] == "Owns a sailing boat"
        wanted = dict(await memories.waiting(conn, EMBEDDER))
        assert len(wanted) == 31
        await memories.embedded(conn, EMBEDDER, [(each, text, towards(0.5).embedding) for each, text in wanted.items()])
        assert await memories.waiting(conn, EMBEDDER) == []
        assert len(await memories.waiting(conn, "another:embedder")) == 31


async def test_an_embedding_of_a_text_that_was_changed_meanwhile_is_not_kept(db: Database, person: UUID) -> None:
    wanted = await tell(db, person, "Lives in Aarhus")
    async with db.connection() as conn:
        await conn.execute("UPDATE ai.agno_memories SET memory = 'Lives in Ghent' WHERE id = %s", [wanted])
        await memories.embedded(conn, EMBEDDER, [(wanted, "Lives in Aarhus", towards(0.0).embedding)])
        assert await memories.waiting(conn, EMBEDDER) == [(wanted, "Lives in Ghent")]


async def test_the_side_table_follows_whatever_other_programs_do(db: Database, person: UUID, other: UUID) -> None:
    first = await tell(db, person, "Lives in Aarhus", towards(0.0))
    second = await tell(db, person, "Lives in Ghent", towards(0.0))
    async with tenant(db, person) as door:
        await memories.supersede(door, [first], second)
    async with db.connection() as conn:
        await conn.execute("UPDATE ai.agno_memories SET user_id = %s WHERE id = %s", [str(other), first])
        assert await recalled(db, other, "?", towards(0.0)) == ["Lives in Aarhus"]
        await conn.execute("DELETE FROM ai.agno_memories WHERE id = %s", [second])
        assert await rows(conn, "SELECT id, superseded_by FROM ai.memory_index") == [(first, None)]
        await conn.execute("UPDATE ai.agno_memories SET id = 900 WHERE id = %s", [first])
        assert await rows(conn, "SELECT id FROM ai.memory_index") == [900]
        await conn.execute("TRUNCATE ai.agno_memories")
        assert await rows(conn, "SELECT id FROM ai.memory_index") == []


async def test_a_memory_that_cannot_be_taken_in_fails_nobody_and_waits(db: Database, person: UUID) -> None:
    insert = "INSERT INTO ai.agno_memories (memory_id, user_id, memory) VALUES (gen_random_uuid(), %s, 'Likes tea') RETURNING id"
    async with db.connection() as conn:
        await conn.execute("ALTER TABLE ai.memory_index ADD CONSTRAINT none CHECK (tokens < 0) NOT VALID")
        try:
            wanted = await one(conn, insert, str(person))
            assert await rows(conn, "SELECT id, tries FROM ai.memory_backlog") == [(wanted, 0)]
            assert await memories.clear_backlog(conn) == 1
            assert await rows(conn, "SELECT id, tries FROM ai.memory_backlog") == [(wanted, 1)]
        finally:
            await conn.execute("ALTER TABLE ai.memory_index DROP CONSTRAINT none")
        assert (await memories.clear_backlog(conn), await memories.clear_backlog(conn)) == (1, 0)
    assert await recalled(db, person, "tea") == ["Likes tea"]


async def test_recalling_notes_when_each_was_used_and_nothing_else(db: Database, person: UUID) -> None:
    used = await tell(db, person, "Likes tea", towards(0.0))
    async with db.connection() as conn:
        before = await rows(conn, "SELECT to_jsonb(m) - 'accessed_at' FROM ai.agno_memories m")
        async with tenant(db, person) as door:
            await memories.recall(door, "?", towards(0.0), amount=8, budget=150, at=NOW)
        assert await rows(conn, "SELECT to_jsonb(m) - 'accessed_at' FROM ai.agno_memories m") == before
        assert await one(conn, "SELECT accessed_at FROM ai.agno_memories WHERE id = %s", used) == NOW.replace(
            tzinfo=None
        )


WHOLE = "SELECT to_jsonb(m), to_jsonb(i) FROM ai.agno_memories m LEFT JOIN ai.memory_index i USING (id) ORDER BY m.id"


async def test_what_was_forgotten_comes_back_to_the_last_bit(db: Database, person: UUID) -> None:
    async with db.connection() as conn:
        await conn.execute("ALTER TABLE ai.agno_memories ADD COLUMN theirs NUMERIC")
        try:
            wanted = await tell(db, person, "Likes tea", towards(0.3))
            await conn.execute(
                "UPDATE ai.agno_memories SET theirs = 0.10, topics = '[\"drinks\", 1.50]', input = 'é',"
                " created_at = 'infinity', accessed_at = '2026-01-02 03:04:05.678901' WHERE id = %s",
                [wanted],
            )
            before = await rows(conn, WHOLE)
            async with tenant(db, person) as door:
                assert await memories.archive(door, [wanted], Reason.FORGOTTEN) == 1
                assert await memories.archive(door, [wanted], Reason.FORGOTTEN) == 0
            assert await rows(conn, WHOLE) == []
            kept = "SELECT original_memory_id, user_id, memory, topics, input, reason FROM ai.agno_memories_archive"
            ((uuid, owner, text, topics, said, reason),) = await rows(conn, kept)
            assert (owner, text, topics, said, reason) == (str(person), "Likes tea", ["drinks", 1.5], "é", "forgotten")
            async with tenant(db, person) as door:
                assert await memories.restore(door, uuid[:8]) == wanted
            assert await rows(conn, WHOLE) == before
            assert await rows(conn, "SELECT id FROM ai.agno_memories_archive") == []
        finally:
            await conn.execute("ALTER TABLE ai.agno_memories DROP COLUMN theirs")


async def test_nobody_forgets_or_brings_back_for_somebody_else(db: Database, person: UUID, other: UUID) -> None:
    wanted = await tell(db, person, "Likes tea")
    async with tenant(db, other) as door:
        assert await memories.archive(door, [wanted], Reason.FORGOTTEN) == 0
        with pytest.raises(MemoryNotFound):
            await memories.get(door, str(wanted))
    async with tenant(db, person) as door:
        await memories.archive(door, [wanted], Reason.FORGOTTEN)
    async with tenant(db, other) as door:
        assert await memories.archived(door) == []
        with pytest.raises(MemoryNotFound):
            await memories.restore(door, str(wanted))


async def test_an_adopted_users_memories_are_one_persons(db: Database, person: UUID) -> None:
    async with db.connection() as conn:
        await conn.execute("INSERT INTO runtime.user_aliases (alias, user_id) VALUES ('user-123', %s)", [person])
        insert = "INSERT INTO ai.agno_memories (memory_id, user_id, memory) VALUES (gen_random_uuid(), 'user-123', 'Likes tea')"
        await conn.execute(insert)
    assert await recalled(db, person) == ["Likes tea"]
    async with tenant(db, person) as door:
        assert [each.same for each in await memories.near(door, "likes tea", None)] == [True]


async def test_writers_of_one_user_wait_for_each_other_and_those_of_two_do_not(
    db: Database, person: UUID, other: UUID
) -> None:
    async with tenant(db, person) as door:
        await memories.lock(door)
        async with tenant(db, other) as beside:
            await asyncio.wait_for(memories.lock(beside), 10)
            held = "SELECT pg_try_advisory_xact_lock(hashtextextended('cirkelline.memories.' || %s::text, 0))"
            assert await one(beside.conn, held, str(person)) is False


async def test_a_user_is_asked_once_about_being_remembered(db: Database, person: UUID, other: UUID) -> None:
    async with tenant(db, person) as door:
        assert await memories.consent(door) is None
        await memories.choose(door, capture=True)
        await memories.choose(door, capture=False)
        assert await memories.consent(door) is False
    async with tenant(db, other) as door:
        assert await memories.consent(door) is None
