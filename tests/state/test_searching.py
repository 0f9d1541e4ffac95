"""Search finds exactly what is nearest and what has the words, of what the user can see and of nothing else."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any

import bm25s
import library
import numpy as np
import psycopg
import pytest
import scene
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from library import Matrix

from cirkelline.state import knowledge, knowledge_settings
from cirkelline.state.connection import Conn, Database
from cirkelline.state.knowledge_settings import BadSetting
from cirkelline.state.searching import BEGIN_MARK, END_MARK, Filter, Mode
from cirkelline.state.tenant import shared, tenant

RANDOM = np.random.default_rng(20)


# By meaning -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 9, 10, 11, 60, 700])
async def test_what_is_nearest_is_found_beside_a_larger_user(db: Database, conn: Conn, size: int) -> None:
    one, other = await library.user(conn), await library.user(conn)
    mine, theirs = library.vectors(RANDOM, size), library.vectors(RANDOM, 400)
    async with tenant(db, other) as door:
        await library.store(door, ["text"] * 400, theirs)
    async with tenant(db, one) as door:
        document = await library.store(door, ["text"] * size, mine)
    about_mine, about_theirs = mine[0] + library.vectors(RANDOM, 1)[0], theirs[0] + library.vectors(RANDOM, 1)[0] / 4
    for question in (about_mine, about_theirs, mine[-1]):
        found = await library.search(db, one, embedding=question, mode=Mode.VECTOR, limit=10)
        cosines = mine @ question / np.linalg.norm(question)
        assert len(found) == min(10, size)
        assert {hit.document_id for hit in found} == {document}
        assert [hit.index for hit in found] == np.argsort(-cosines, kind="stable")[:10].tolist()
        assert [hit.similarity for hit in found] == pytest.approx(sorted(cosines, reverse=True)[:10], abs=2e-3)
        assert [hit.score for hit in found] == [hit.similarity for hit in found]


async def test_a_copy_of_the_question_scores_one_and_its_opposite_minus_one(db: Database, conn: Conn) -> None:
    who = await library.user(conn)
    async with tenant(db, who) as door:
        await library.store(door, ["a", "b", "c"], [library.axis(0, 1e-30), library.axis(0, -3e38), library.axis(1)])
    found = await library.search(db, who, embedding=library.axis(0), mode=Mode.VECTOR)
    assert [(hit.text, hit.score) for hit in found] == [("a", 1.0), ("c", 0.0), ("b", -1.0)]


async def test_chunks_without_a_direction_are_alike_to_nothing(db: Database, conn: Conn) -> None:
    who = await library.user(conn)
    async with tenant(db, who) as door:
        await library.store(door, ["none", "near", "far"], [library.axis(0, 0), library.axis(0), library.axis(0, -1)])
    found = await library.search(db, who, embedding=library.axis(0), mode=Mode.VECTOR)
    assert [(hit.text, hit.score) for hit in found] == [("near", 1.0), ("none", 0.0), ("far", -1.0)]


async def test_equals_come_in_the_order_in_which_they_were_stored(db: Database, conn: Conn) -> None:
    who = await library.user(conn)
    async with tenant(db, who) as door:
        await library.store(door, [f"same word {n}" for n in range(30)], [library.axis(0)] * 30)
    for mode in Mode:
        found = await library.search(db, who, "word", library.axis(0), mode=mode, limit=12)
        assert [hit.index for hit in found] == list(range(12)), mode


async def test_vectors_of_another_embedder_are_compared_with_nothing(db: Database, conn: Conn) -> None:
    who = await library.user(conn)
    async with tenant(db, who) as door:
        await library.store(door, ["ours"], [library.axis(1)])
        new = library.document("/other")
        await knowledge.store(door, new, library.chunks(["others"], [library.axis(0)]), embedder="other:model")
    await conn.execute(
        "INSERT INTO ai.cirkelline_knowledge_vectors (embedding, chunk_text, metadata)"
        " VALUES (%s::real[], 'nameless', jsonb_build_object('user_id', %s::text))",
        [library.axis(0), str(who)],
    )

    async def found(mode: Mode = Mode.VECTOR) -> list[str]:
        return [hit.text for hit in await library.search(db, who, "others nameless", library.axis(0), mode=mode)]

    assert await found() == ["ours"]
    assert sorted(await found(Mode.HYBRID)) == ["nameless", "others", "ours"]
    await knowledge_settings.change(conn, unlabelled=library.EMBEDDER)
    assert await found() == ["nameless", "ours"]
    await knowledge_settings.change(conn, unlabelled="other:model")
    assert await found() == ["ours"]
    await knowledge_settings.change(conn, unlabelled="")
    assert await found() == ["ours"]


# By words -------------------------------------------------------------------------------------------------------------


def scored_by_bm25s(lexemes: list[list[str]], wanted: list[str]) -> Any:
    peer = bm25s.BM25(method="lucene", k1=1.2, b=0.75, dtype="float64")
    peer.index(lexemes, show_progress=False)
    return peer.get_scores(wanted)


async def tokens(conn: Conn, text: str, language: str = "english") -> list[str]:
    """What PostgreSQL takes for the words of a text, as often as they are there."""
    statement = """
    SELECT lexeme FROM unnest(to_tsvector(%s::regconfig, %s)) AS said (lexeme, positions, weights), unnest(positions) AS place ORDER BY place"""
    return await scene.rows(conn, statement, language, text)


WORDS = [
    "river",
    "stone",
    "bridge",
    "bridges",
    "water",
    "running",
    "ran",
    "town",
    "market",
    "old",
    "lantern",
    "the",
    "of",
    "and",
    "o'clock",
    "a\\b",
    "x'y",
    "e-mail",
    "1984",
    "æble",
]


def sentence(length: int) -> str:
    weights = 1 / np.arange(1, len(WORDS) + 1)
    return " ".join(RANDOM.choice(WORDS, size=length, p=weights / weights.sum()))


async def test_word_scores_are_those_of_bm25s_over_what_the_user_can_see(db: Database, conn: Conn) -> None:
    who, other = await library.user(conn), await library.user(conn)
    texts = [sentence(int(length)) for length in RANDOM.integers(0, 300, size=150)] + ["", "lantern " * 255]
    async with tenant(db, other) as door:
        await library.store(door, [sentence(50) for _ in range(100)], library.vectors(RANDOM, 100))
    async with tenant(db, who) as door:
        await library.store(door, texts[:100], library.vectors(RANDOM, 100))
    async with shared(db) as everybody:
        await library.store(everybody, texts[100:], library.vectors(RANDOM, len(texts) - 100))
    lexemes = [await tokens(conn, text) for text in texts]
    for question in ("lantern", "old bridges running", "a\\b o'clock æble e-mail the", "1984 1984 water nothing"):
        wanted = sorted(set(await tokens(conn, question)) & {each for row in lexemes for each in row})
        expected = {place: score for place, score in enumerate(scored_by_bm25s(lexemes, wanted)) if score > 0}
        found = await library.search(db, who, question, None, limit=1000)
        scores = {(hit.index or 0) + (100 if hit.shared else 0): hit.bm25 for hit in found}
        assert scores == pytest.approx(expected, abs=1e-6)
        assert [hit.bm25 for hit in found] == sorted(expected.values(), reverse=True) or [
            hit.bm25 for hit in found
        ] == pytest.approx(sorted(expected.values(), reverse=True), abs=1e-6)
        assert [hit.score for hit in found] == pytest.approx([hit.bm25 / (hit.bm25 + 7) for hit in found if hit.bm25])


async def test_a_word_is_counted_as_often_as_it_is_there(conn: Conn) -> None:
    counted = """
    SELECT count(*) FROM generate_series(1, 255) AS n
     WHERE runtime.times(ts_rank('{1,1,1,1}', to_tsvector('simple', repeat('word ', n)), 'word')) = n"""
    assert await scene.one(conn, counted) == 255
    assert await scene.one(conn, "SELECT runtime.times(0)") == 0


async def test_the_language_is_the_databases(db: Database, conn: Conn) -> None:
    who = await library.user(conn)

    async def found(question: str) -> list[str]:
        return [hit.text for hit in await library.search(db, who, question, None)]

    async with tenant(db, who) as door:
        await library.store(door, ["Bøgerne står på hylden", "the shelf of books"], library.vectors(RANDOM, 2))
    assert await found("bog bogen") == []
    assert await found("booking books") == ["the shelf of books"]
    await knowledge_settings.change(conn, language="danish")
    while await scene.one(conn, "SELECT runtime.backfill_knowledge(1)"):
        pass
    assert await found("bøger") == ["Bøgerne står på hylden"]
    assert await found("på") == []
    await knowledge_settings.change(conn, language="simple")
    while await scene.one(conn, "SELECT runtime.backfill_knowledge(1)"):
        pass
    assert await found("på") == ["Bøgerne står på hylden"]
    assert await found("book") == []


async def test_a_configuration_of_ones_own_is_a_language_too(db: Database, conn: Conn) -> None:
    who = await library.user(conn)
    await conn.execute('CREATE TEXT SEARCH CONFIGURATION public."Our words" (COPY = english)')
    try:
        settings = await knowledge_settings.change(conn, language='public."Our words"')
        assert settings.language == 'public."Our words"'
        async with tenant(db, who) as door:
            await library.store(door, ["running water"], library.vectors(RANDOM, 1))
        assert len(await library.search(db, who, "run", None)) == 1
    finally:
        await conn.execute('DROP TEXT SEARCH CONFIGURATION public."Our words"')


@pytest.mark.parametrize("question", ["", " ", "the of", "!!!", "''", "\\", "a & !b | (c:*", "\x00", "\ud800", "\x01"])
async def test_questions_without_words_find_nothing_by_words_and_all_by_meaning(
    db: Database, conn: Conn, question: str
) -> None:
    who = await library.user(conn)
    async with tenant(db, who) as door:
        await library.store(door, ["one", "two"], library.vectors(RANDOM, 2))
    assert await library.search(db, who, question, None) == []
    assert len(await library.search(db, who, question, library.axis(0))) == 2


async def test_a_page_of_text_is_a_question_too(db: Database, conn: Conn) -> None:
    who = await library.user(conn)
    async with tenant(db, who) as door:
        await library.store(door, ["zebra crossing", "nothing"], library.vectors(RANDOM, 2))
    question = "zebra " + " ".join(f"word{number}" for number in range(20_000))
    assert [hit.text for hit in await library.search(db, who, question, None)] == ["zebra crossing"]


# Both -----------------------------------------------------------------------------------------------------------------


async def both_halves(db: Database, conn: Conn) -> tuple[Any, Matrix, list[str]]:
    who = await library.user(conn)
    texts, embeddings = [sentence(40) for _ in range(80)], library.vectors(RANDOM, 80)
    async with tenant(db, who) as door:
        await library.store(door, texts, embeddings)
    return who, embeddings, texts


@pytest.mark.parametrize(("saturation", "weights"), [(7.0, (0.7, 0.3)), (0.5, (0.2, 1.5)), (3.0, (0.0, 1.0))])
async def test_a_hybrid_score_is_the_sum_of_its_halves(
    db: Database, conn: Conn, saturation: float, weights: tuple[float, float]
) -> None:
    who, embeddings, texts = await both_halves(db, conn)
    await knowledge_settings.change(conn, saturation=saturation, vector_weight=weights[0], word_weight=weights[1])
    lexemes, question = [await tokens(conn, text) for text in texts], library.vectors(RANDOM, 1)[0]
    words = scored_by_bm25s(lexemes, await tokens(conn, "lantern market"))
    scores = weights[0] * (embeddings @ question) + weights[1] * words / (words + saturation)
    found = await library.search(db, who, "lantern market", question, limit=100)
    assert len(found) == 80
    assert [hit.score for hit in found] == pytest.approx(sorted(scores, reverse=True), abs=2e-3)
    for hit in found:
        assert hit.score == pytest.approx(scores[hit.index or 0], abs=2e-3)
        assert hit.similarity == pytest.approx(float(embeddings[hit.index or 0] @ question), abs=2e-3)
        assert (hit.bm25 or 0) == pytest.approx(words[hit.index or 0], abs=1e-6)


async def test_reciprocal_ranks_are_of_both_halves(db: Database, conn: Conn) -> None:
    who, *_ = await both_halves(db, conn)
    question = library.vectors(RANDOM, 1)[0]
    by_meaning = await library.search(db, who, "", question, mode=Mode.VECTOR, limit=100)
    by_words = await library.search(db, who, "stone town", None, limit=100)
    expected: dict[int, float] = {}
    for half in (by_meaning, by_words):
        for rank, hit in enumerate(half, 1):
            expected[hit.chunk_id] = expected.get(hit.chunk_id, 0) + 1 / (60 + rank)
    found = await library.search(db, who, "stone town", question, mode=Mode.RRF, limit=100)
    assert {hit.chunk_id: hit.score for hit in found} == pytest.approx(expected)
    assert [hit.chunk_id for hit in found] == sorted(expected, key=lambda id_: (-round(expected[id_], 12), id_))


# What is left out -----------------------------------------------------------------------------------------------------

DAYS = (date(2024, 1, 31), date(2025, 6, 1), date(2025, 12, 24))


async def four_documents(db: Database, conn: Conn) -> tuple[Any, list[int]]:
    """Three of a user's with different metadata, and a shared one."""
    who = await library.user(conn)
    kinds = [("pdf", ["Work", "2024"]), ("markdown", ["work"]), ("pdf", ["home"])]
    ids = []
    async with tenant(db, who) as door:
        for place, (kind, tags) in enumerate(kinds):
            source = f"/document{place}"
            ids.append(
                await library.store(door, ["word"] * 5, [library.axis(0)] * 5, source, document_type=kind, tags=tags)
            )
    async with shared(db) as everybody:
        ids.append(
            await library.store(
                everybody, ["word"] * 5, [library.axis(0)] * 5, "/all", document_type="html", tags=["work"]
            )
        )
    for id_, day in zip(ids, DAYS, strict=False):
        changed = "UPDATE ai.agno_knowledge SET metadata = metadata || jsonb_build_object('upload_date', %s::text) WHERE id = %s"
        await conn.execute(changed, [day.isoformat(), id_])
    return who, ids


TODAY = datetime.now(UTC).date()
FILTERS: list[tuple[Filter, set[int]]] = [
    (Filter(), {0, 1, 2, 3}),
    (Filter(tags=["WORK"]), {0, 1, 3}),
    (Filter(tags=["work", "2024"]), {0}),
    (Filter(tags=["work", "home"]), set()),
    (Filter(types=["PDF"]), {0, 2}),
    (Filter(types=["pdf", "html"]), {0, 2, 3}),
    (Filter(since=DAYS[1]), {1, 2, 3}),
    (Filter(until=DAYS[1]), {0, 1}),
    (Filter(since=DAYS[1], until=DAYS[1]), {1}),
    (Filter(since=TODAY - timedelta(days=1)), {3}),
    (Filter(types=["pdf"], tags=["home"], since=DAYS[2]), {2}),
    (Filter(types=["'; DROP TABLE tasks; --"], tags=["\x00", "\ud800"]), set()),
    (Filter(documents=[2**40, -1]), set()),
]


@pytest.mark.parametrize(("given_filter", "expected"), FILTERS)
async def test_a_filter_leaves_documents_out_before_anything_is_ranked(
    db: Database, conn: Conn, given_filter: Filter, expected: set[int]
) -> None:
    who, ids = await four_documents(db, conn)
    for mode in Mode:
        # Fewer rows than match: those that the filter leaves out must not have taken their places.
        found = await library.search(
            db, who, "word", library.axis(0), mode=mode, filter=given_filter, limit=len(expected) * 5
        )
        assert {ids.index(hit.document_id or 0) for hit in found} == expected, mode
        assert len(found) == len(expected) * 5, mode


async def test_documents_may_be_named(db: Database, conn: Conn) -> None:
    who, ids = await four_documents(db, conn)
    found = await library.search(db, who, "word", library.axis(0), filter=Filter(documents=[ids[2], ids[3]]), limit=100)
    assert sorted(hit.document_id or 0 for hit in found) == sorted([ids[2], ids[3]] * 5)


async def test_what_scores_less_than_the_threshold_is_left_out(db: Database, conn: Conn) -> None:
    who = await library.user(conn)
    cosines = (1.0, 0.8, 0.5, 0.1)
    async with tenant(db, who) as door:
        texts = ["word", "word and more to it", "other", "other"]
        await library.store(door, texts, [library.between(0, 1, cosine) for cosine in cosines])
    for mode in Mode:
        everything = await library.search(db, who, "word", library.axis(0), mode=mode)
        for threshold in (-2.0, *(hit.score for hit in everything), 2.0):
            found = await library.search(db, who, "word", library.axis(0), mode=mode, threshold=threshold)
            assert found == [hit for hit in everything if hit.score >= threshold], mode


async def test_there_are_as_many_rows_as_were_asked_for(db: Database, conn: Conn) -> None:
    who = await library.user(conn)
    async with tenant(db, who) as door:
        await library.store(door, ["word"] * 7 + ["other"] * 5, library.vectors(RANDOM, 12))
    for limit in (-1, 0, 1, 6, 7, 8, 12, 13, 10**9):
        rows = {
            mode: len(await library.search(db, who, "word", library.axis(0), mode=mode, limit=limit)) for mode in Mode
        }
        wanted = max(0, limit)
        assert rows == {mode: min(wanted, 7 if mode is Mode.WORDS else 12) for mode in Mode}


# What a hit says ------------------------------------------------------------------------------------------------------


async def test_a_hit_says_where_it_is_from(db: Database, conn: Conn) -> None:
    who = await library.user(conn)
    chunk = knowledge.NewChunk(
        text="The <b>river</b> ran", embedding=library.axis(0), page=7, offset=123, heading="A > B"
    )
    async with tenant(db, who) as door:
        new = library.document("https://example.com/x.html", name="Rivers", document_type="html", tags=["Water"])
        id_ = await knowledge.store(door, new, [chunk], embedder=library.EMBEDDER)
    (hit,) = await library.search(db, who, "rivers running", library.axis(0))
    assert (hit.document_id, hit.document, hit.source) == (id_, "Rivers", "https://example.com/x.html")
    assert (hit.page, hit.offset, hit.index, hit.total, hit.heading) == (7, 123, 0, 1, "A > B")
    assert (hit.document_type, hit.tags, hit.uploaded, hit.shared) == (
        "html",
        ["Water"],
        datetime.now(UTC).date(),
        False,
    )
    assert hit.marked == f"The <b>{BEGIN_MARK}river{END_MARK}</b> ran"


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.text(max_size=200)
    | st.lists(st.sampled_from([*WORDS, "<b>", "</b>", "&amp;", "<", "http://a.b/c?d", "\ue000", "\x02", "x@y.z"])).map(
        " ".join
    )
)
def test_marks_are_all_that_is_added_to_a_text(shared_database: psycopg.Connection, text: str) -> None:
    clean = text.replace("\x00", "").translate({0xE000: None, 0xE001: None, 0x2: None})
    if any(0xD800 <= ord(character) < 0xE000 for character in clean):
        return
    statement = "SELECT runtime.marked(%s::text, 'english'::regconfig, %s::tsquery)"
    marked = (shared_database.execute(statement, [clean, "river|bridg|1984|x@y.z"]).fetchone() or [""])[0]
    assert marked.replace(BEGIN_MARK, "").replace(END_MARK, "") == clean
    assert marked.count(BEGIN_MARK) == marked.count(END_MARK)


# Whose it is ----------------------------------------------------------------------------------------------------------


async def test_nobody_finds_what_is_anothers(db: Database, conn: Conn) -> None:
    people = [await library.user(conn) for _ in range(12)]
    secrets = {who: f"canary{place}" for place, who in enumerate(people)}
    for who, secret in secrets.items():
        async with tenant(db, who) as door:
            await library.store(door, [f"{secret} flies"] * 3, [library.axis(0)] * 3)
    async with shared(db) as everybody:
        await library.store(everybody, ["everybody flies"], [library.axis(0)])
    question = " ".join([*secrets.values(), "flies everybody"])
    for who in people:
        for mode in Mode:
            found = await library.search(db, who, question, library.axis(0), mode=mode, limit=1000)
            assert sorted(hit.text for hit in found) == [*[f"{secrets[who]} flies"] * 3, "everybody flies"]
            assert [hit.shared for hit in found].count(True) == 1


async def test_adopted_rows_are_found_and_a_foreign_document_is_not_named(db: Database, conn: Conn) -> None:
    who = await library.user(conn)
    await conn.execute("INSERT INTO runtime.user_aliases (alias, user_id) VALUES ('user-123', %s)", [who])
    documents = """
    INSERT INTO ai.agno_knowledge (name, metadata) VALUES ('adopted', '{"user_id": "user-123", "tags": "x"}'),
        ('a secret name', '{"user_id": "user-124", "tags": "secret"}'), ('nobody''s', '[]') RETURNING id"""
    adopted, foreign, nobodys = await scene.rows(conn, documents)
    add = """
    INSERT INTO ai.cirkelline_knowledge_vectors (embedding, chunk_text, document_id, metadata)
    VALUES (%(v)s::real[], 'by its document', %(adopted)s, NULL),
           (%(v)s::real[], 'in a foreign document', %(foreign)s, '{"user_id": "user-123"}'),
           (%(v)s::real[], 'in nobody''s document', %(nobodys)s, '{"user_id": "user-123", "chunk_index": "x", "page_number": 1e99}'),
           (%(v)s::real[], 'anothers in mine', %(adopted)s, '{"user_id": "user-124"}'),
           (%(v)s::real[], 'foreign', %(foreign)s, '{}'), (%(v)s::real[], 'nobodys', %(nobodys)s, '{}'),
           (%(v)s::real[], 'empty', %(adopted)s, '{"user_id": ""}'), (%(v)s::real[], 'alone', NULL, '{"user_id": "user-123"}')"""
    await conn.execute(add, {"v": library.axis(0), "adopted": adopted, "foreign": foreign, "nobodys": nobodys})
    await knowledge_settings.change(conn, unlabelled=library.EMBEDDER)
    found = {hit.text: hit for hit in await library.search(db, who, "", library.axis(0), limit=100)}
    assert set(found) == {"by its document", "in a foreign document", "in nobody's document", "alone"}
    assert {hit.document for hit in found.values()} == {"adopted", "a document without a name"}
    assert found["in a foreign document"].document_id is None
    assert found["in a foreign document"].tags == []
    for filters in (Filter(documents=[foreign]), Filter(tags=["secret"]), Filter(documents=[nobodys])):
        assert await library.search(db, who, "", library.axis(0), filter=filters) == []


CALL = """
SELECT text FROM runtime.search_knowledge('word', %b::float8[], 'test:numbers', 9, %s::text, NULL, '{}', '{}', NULL, NULL, '{}')
"""


@pytest.mark.parametrize(
    "who", ["", "nobody", "cirkelline:shared", "user-123", "'; SELECT 1", "00000000-0000-0000-0000-000000000000"]
)
async def test_without_a_user_there_is_nothing_to_see(db: Database, conn: Conn, who: str) -> None:
    one = await library.user(conn)
    await conn.execute("INSERT INTO runtime.user_aliases (alias, user_id) VALUES ('user-123', %s)", [one])
    async with tenant(db, one) as door:
        await library.store(door, ["word"], [library.axis(0)])
    async with conn.transaction():
        await conn.execute("SELECT set_config('app.user_id', %s, true)", [who])
        for mode in Mode:
            assert await scene.rows(conn, CALL, library.axis(0), mode.value) == []


async def test_an_owner_of_the_row_that_has_just_changed_is_the_one_that_counts(db: Database, conn: Conn) -> None:
    who = await library.user(conn)
    async with tenant(db, who) as door:
        await library.store(door, ["word"], [library.axis(0)])
    # As if a trigger had been late: the side tables still say whose it was.
    await conn.execute("SET session_replication_role = replica")
    await conn.execute("""UPDATE ai.cirkelline_knowledge_vectors SET metadata = metadata || '{"user_id": "user-9"}'""")
    await conn.execute("RESET session_replication_role")
    for mode in Mode:
        assert await library.search(db, who, "word", library.axis(0), mode=mode) == []


# Settings -------------------------------------------------------------------------------------------------------------


async def test_the_first_ingest_fixes_the_embedder(conn: Conn) -> None:
    assert (await knowledge_settings.read(conn)).embedder is None
    assert await knowledge_settings.fix_embedder(conn, "one") == "one"
    assert await knowledge_settings.fix_embedder(conn, "two") == "one"
    assert (await knowledge_settings.change(conn, embedder="three", saturation=2)).embedder == "three"
    assert await knowledge_settings.read(conn) == knowledge_settings.KnowledgeSettings(
        embedder="three", language="english", unlabelled=None, saturation=2.0, vector_weight=0.7, word_weight=0.3
    )


@pytest.mark.parametrize(
    "values",
    [
        {"language": "klingon"},
        {"language": "'"},
        {"language": "\x00"},
        {"saturation": 0.0},
        {"saturation": math.nan},
        {"word_weight": -1.0},
    ],
)
async def test_a_setting_that_cannot_be_changes_nothing(conn: Conn, values: dict[str, Any]) -> None:
    before = await knowledge_settings.change(conn, language="danish", saturation=4)
    with pytest.raises(BadSetting):
        await knowledge_settings.change(conn, vector_weight=9, **values)
    assert await knowledge_settings.read(conn) == before


@pytest.mark.parametrize("embedding", [[], [0.0] * 767, [math.nan] * 768, [math.inf] * 768])
async def test_an_embedding_of_another_kind_is_refused(db: Database, conn: Conn, embedding: Sequence[float]) -> None:
    who = await library.user(conn)
    with pytest.raises(ValueError, match="768"):
        await library.search(db, who, "x", embedding)
