"""Whatever other programs write, searching sees what is there; and nothing that they write fails or waits for it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Coroutine
from typing import Any
from uuid import uuid4

import library
import pytest
import scene
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from psycopg import sql

from cirkelline.state import backfill, connection, knowledge_settings
from cirkelline.state.connection import Conn
from cirkelline.state.searching import Mode

TABLES = ("ai.knowledge_documents", "ai.knowledge_chunks", "ai.knowledge_words")
SIDES = {
    "documents": "SELECT id, owner, source, hash, type, tags, uploaded::text FROM ai.knowledge_documents ORDER BY id",
    "chunks": "SELECT chunk, document, owner, embedder, md5(embedding::text) FROM ai.knowledge_chunks ORDER BY chunk",
    "words": "SELECT chunk, document, owner, length, words::text FROM ai.knowledge_words ORDER BY chunk",
    "failures": "SELECT kind, subject FROM ai.knowledge_failures WHERE problem !~ 'owner was changed' ORDER BY kind, subject",
}
REBUILD = """
SELECT runtime.take_in('document', ARRAY(SELECT id::bigint FROM ai.agno_knowledge ORDER BY id), 0),
       runtime.take_in('chunk', ARRAY(SELECT id FROM ai.cirkelline_knowledge_vectors ORDER BY id), 0)
"""


async def sides(conn: Conn) -> dict[str, Any]:
    return {name: await scene.rows(conn, statement) for name, statement in SIDES.items()}


async def rebuilt(conn: Conn) -> dict[str, Any]:
    """What the side tables would be if everything were taken in now, for the first time."""
    async with conn.transaction(force_rollback=True):
        for table in (*TABLES, "ai.knowledge_failures"):
            await conn.execute(f"DELETE FROM {table}".encode())
        await conn.execute(REBUILD)
        return await sides(conn)


@pytest.fixture
async def outsider(conn: Conn) -> AsyncIterator[Conn]:
    """Another program's connection: its own role, with rights on the first document's tables alone."""
    name = sql.Identifier(f"outsider_{uuid4().hex[:12]}")
    await conn.execute(sql.SQL("CREATE ROLE {}").format(name))
    await conn.execute(sql.SQL("GRANT USAGE ON SCHEMA ai TO {}").format(name))
    tables = sql.SQL("ai.agno_knowledge, ai.cirkelline_knowledge_vectors")
    await conn.execute(sql.SQL("GRANT SELECT, INSERT, UPDATE, DELETE, TRUNCATE ON {} TO {}").format(tables, name))
    await conn.execute(sql.SQL("GRANT USAGE ON ALL SEQUENCES IN SCHEMA ai TO {}").format(name))
    async with await scene.another(conn) as theirs:
        await theirs.execute(sql.SQL("SET ROLE {}").format(name))
        yield theirs
    await conn.execute(sql.SQL("DROP OWNED BY {}").format(name))
    await conn.execute(sql.SQL("DROP ROLE {}").format(name))


ADD_DOCUMENT = "INSERT INTO ai.agno_knowledge (name, metadata) VALUES ('d', %s::jsonb) RETURNING id"
ADD_CHUNK = """
INSERT INTO ai.cirkelline_knowledge_vectors (embedding, chunk_text, document_id, metadata)
VALUES (%s::real[], %s, %s, %s::jsonb) RETURNING id
"""
NEAR = library.axis(0)


# Any sequence of writes ----------------------------------------------------------------------------------------------

USERS = st.sampled_from(["ann", "ben", "", None, 7, ["ann"], {"a": 1}, "x" * 300, "ærø's \\ user"])
TAGS = st.sampled_from([["A", "b"], "a", 5, None, [], [1, "x", {"y": 2}, None], {"t": 1}, True])
DATES = st.sampled_from(
    ["2025-01-31", "2025-02-30", "0000-01-01", "yesterday", "2024-02-29T12:00", 20250101, None, "9999-12-31"]
)
ODD = st.sampled_from([None, [], "text", 3, True, [{"user_id": "ann"}]])
METADATA = ODD | st.fixed_dictionaries(
    {},
    optional={
        "user_id": USERS,
        "tags": TAGS,
        "upload_date": DATES,
        "document_type": st.sampled_from(["PDF", "html", 3, None]),
        "source": st.sampled_from(["/a", "x" * 5000, "", 4]),
        "embedder": st.sampled_from(["one", "two", "", 9]),
    },
)
TEXTS = {
    "empty": "",
    "plain": "the river ran",
    "marked up": "Rivers & <b>stones</b>",
    "odd": "o'clock \\ \u0001",
    "long": "word " * 500,
    "one long word": "y" * 5000,
}
TEXT = st.sampled_from(sorted(TEXTS))
VECTORS = {
    "near": NEAR,
    "huge": library.axis(1, 3e38),
    "tiny": library.axis(2, 1e-40),
    "none": [0.0] * 768,
    "full": [3e38] * 768,
}
VECTOR = st.sampled_from(sorted(VECTORS))
PICK = st.integers(0, 10**6)


class Outsiders(RuleBasedStateMachine):
    """One program writes whatever it can, by any statement."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.conn = self.run(connection.connect(url))
        self.do("TRUNCATE ai.agno_knowledge, ai.cirkelline_knowledge_vectors")

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return self.runner.run(coroutine)

    def do(self, statement: str, *parameters: Any) -> Any:
        return self.run(self.conn.execute(statement, parameters))  # type: ignore[arg-type]

    def teardown(self) -> None:
        self.run(self.conn.close())
        self.runner.close()

    def some(self, table: str, pick: int) -> int | None:
        ids = self.run(scene.rows(self.conn, f"SELECT id FROM {table} ORDER BY id"))
        return ids[pick % len(ids)] if ids else None

    def document(self, pick: int) -> int | None:
        return self.some("ai.agno_knowledge", pick)

    def chunk(self, pick: int) -> int | None:
        return self.some("ai.cirkelline_knowledge_vectors", pick)

    @rule(metadata=st.lists(METADATA, min_size=1, max_size=3))
    def documents_are_added(self, metadata: list[Any]) -> None:
        self.do(
            "INSERT INTO ai.agno_knowledge (name, metadata) SELECT 'd', value FROM jsonb_array_elements(%s::jsonb)",
            json.dumps(metadata),
        )

    @rule(chunks=st.lists(st.tuples(VECTOR, TEXT, METADATA), min_size=1, max_size=4), pick=PICK, alone=st.booleans())
    def chunks_are_added(self, chunks: list[tuple[str, str, Any]], pick: int, *, alone: bool) -> None:
        document = None if alone else self.document(pick)
        self.do(
            "INSERT INTO ai.cirkelline_knowledge_vectors (embedding, chunk_text, document_id, metadata)"
            " SELECT v::real[], t, %s, m::jsonb FROM unnest(%s::text[], %s::text[], %s::text[]) AS _ (v, t, m)",
            document,
            ["{" + ",".join(map(str, VECTORS[vector])) + "}" for vector, _, _ in chunks],
            [TEXTS[text] for _, text, _ in chunks],
            [json.dumps(metadata) for *_, metadata in chunks],
        )

    @rule(pick=PICK, metadata=METADATA)
    def a_documents_metadata_changes(self, pick: int, metadata: Any) -> None:
        statement = "UPDATE ai.agno_knowledge SET metadata = %s::jsonb WHERE id = %s"
        self.do(statement, json.dumps(metadata), self.document(pick))

    @rule(metadata=METADATA)
    def all_chunks_metadata_change(self, metadata: Any) -> None:
        self.do("UPDATE ai.cirkelline_knowledge_vectors SET metadata = %s::jsonb", json.dumps(metadata))

    @rule(pick=PICK, text=TEXT, vector=VECTOR, to=PICK)
    def a_chunk_changes(self, pick: int, text: str, vector: str, to: int) -> None:
        statement = "UPDATE ai.cirkelline_knowledge_vectors SET chunk_text = %s, embedding = %s::real[], document_id = %s WHERE id = %s"
        self.do(statement, TEXTS[text], VECTORS[vector], self.document(to), self.chunk(pick))

    @rule(pick=PICK)
    def a_chunk_gets_another_id(self, pick: int) -> None:
        self.do(
            "UPDATE ai.cirkelline_knowledge_vectors SET id = nextval('ai.cirkelline_knowledge_vectors_id_seq') WHERE id = %s",
            self.chunk(pick),
        )

    @rule(pick=PICK, metadata=METADATA)
    def a_chunk_is_upserted(self, pick: int, metadata: Any) -> None:
        statement = """
        INSERT INTO ai.cirkelline_knowledge_vectors (id, embedding, chunk_text, metadata) VALUES (coalesce(%s, 1), %s::real[], 'up', %s::jsonb)
        ON CONFLICT (id) DO UPDATE SET metadata = excluded.metadata, chunk_text = excluded.chunk_text"""
        self.do(statement, self.chunk(pick), NEAR, json.dumps(metadata))

    @rule(pick=PICK)
    def a_chunk_goes(self, pick: int) -> None:
        self.do("DELETE FROM ai.cirkelline_knowledge_vectors WHERE id = %s", self.chunk(pick))

    @rule(pick=PICK)
    def a_document_goes(self, pick: int) -> None:
        document = self.document(pick)
        self.do("UPDATE ai.cirkelline_knowledge_vectors SET document_id = NULL WHERE document_id = %s", document)
        self.do("DELETE FROM ai.agno_knowledge WHERE id = %s", document)

    @rule(cascade=st.booleans())
    def a_table_is_emptied(self, *, cascade: bool) -> None:
        self.do("TRUNCATE ai.agno_knowledge CASCADE" if cascade else "TRUNCATE ai.cirkelline_knowledge_vectors")

    @rule()
    def something_is_taken_back(self) -> None:
        async def and_back() -> None:
            async with self.conn.transaction(force_rollback=True):
                await self.conn.execute("DELETE FROM ai.cirkelline_knowledge_vectors")

        self.run(and_back())

    @rule()
    def the_back_fill_looks_by(self) -> None:
        self.run(backfill.backfill(self.conn, 3))

    @invariant()
    def what_is_searched_is_what_is_there(self) -> None:
        assert self.run(sides(self.conn)) == self.run(rebuilt(self.conn))


def test_after_any_writes_the_side_tables_are_what_a_rebuild_makes_of_them(database_url: str) -> None:
    rules = settings(max_examples=30, stateful_step_count=25, deadline=None)
    run_state_machine_as_test(lambda: Outsiders(database_url), settings=rules)  # type: ignore[no-untyped-call]


# What cannot be taken in ----------------------------------------------------------------------------------------------


async def test_a_text_too_long_for_words_is_written_down_and_the_others_are_taken_in(
    conn: Conn, outsider: Conn
) -> None:
    insert = """
    INSERT INTO ai.cirkelline_knowledge_vectors (embedding, chunk_text, metadata)
    SELECT %s::real[], CASE n WHEN 77 THEN (SELECT string_agg('word' || w, ' ') FROM generate_series(1, 200000) w) ELSE 'short' END,
           '{"user_id": "ann"}' FROM generate_series(1, 200) n RETURNING id"""
    ids = await scene.rows(outsider, insert, NEAR)
    assert await scene.rows(conn, "SELECT chunk FROM ai.knowledge_words ORDER BY chunk") == ids[:76] + ids[77:]
    ((kind, subject, problem),) = await scene.rows(conn, "SELECT kind, subject, problem FROM ai.knowledge_failures")
    assert (kind, subject) == ("chunk", ids[76])
    assert "too long for tsvector" in problem
    while await backfill.backfill(conn, 10):
        pass
    standing = await backfill.standing(conn)
    assert (standing.remaining, standing.failed) == (0, 1)
    assert f"chunk {ids[76]}: string is too long" in (standing.problem or "")
    await outsider.execute("UPDATE ai.cirkelline_knowledge_vectors SET chunk_text = 'short' WHERE id = %s", [ids[76]])
    assert await backfill.standing(conn) == backfill.Standing(0, 200, 0, 0, None, indexed=True)
    assert await scene.rows(conn, "SELECT chunk FROM ai.knowledge_words ORDER BY chunk") == ids


@pytest.mark.parametrize("broken", ["ai.knowledge_words", "ai.knowledge_failures"])
async def test_with_a_side_table_gone_other_programs_write_on(conn: Conn, outsider: Conn, broken: str) -> None:
    schema, table = broken.split(".")
    rename = sql.SQL("ALTER TABLE {} RENAME TO {}")
    await conn.execute(rename.format(sql.Identifier(schema, table), sql.Identifier("gone")))
    try:
        document = await scene.one(outsider, ADD_DOCUMENT, '{"user_id": "ann"}')
        chunk = await scene.one(outsider, ADD_CHUNK, NEAR, "text", document, "{}")
        await outsider.execute("UPDATE ai.cirkelline_knowledge_vectors SET chunk_text = 'other' WHERE id = %s", [chunk])
        await outsider.execute("""UPDATE ai.agno_knowledge SET metadata = '{"user_id": "ben"}'""")
        await outsider.execute("DELETE FROM ai.cirkelline_knowledge_vectors")
        await outsider.execute("TRUNCATE ai.agno_knowledge, ai.cirkelline_knowledge_vectors")
    finally:
        await conn.execute(rename.format(sql.Identifier(schema, "gone"), sql.Identifier(table)))


async def test_notices_are_not_told_to_other_programs(outsider: Conn) -> None:
    told: list[str] = []
    outsider.add_notice_handler(lambda notice: told.append(notice.message_primary or ""))
    await scene.one(outsider, ADD_CHUNK, NEAR, "y" * 5000, None, '{"user_id": "ann"}')
    await outsider.execute("TRUNCATE ai.cirkelline_knowledge_vectors")
    assert told == []


async def test_writers_wait_neither_for_a_search_nor_for_the_back_fill(conn: Conn, outsider: Conn) -> None:
    """With a lock_timeout that any wait would run into."""
    await scene.one(outsider, ADD_CHUNK, NEAR, "first", None, '{"user_id": "ann"}')
    await outsider.execute("SET lock_timeout = '2s'")
    async with conn.transaction():
        await conn.execute("SELECT count(*) FROM ai.knowledge_chunks, ai.knowledge_words")
        await scene.one(outsider, ADD_CHUNK, NEAR, "second", None, '{"user_id": "ann"}')
        async with await scene.another(conn) as third:
            await third.execute("SELECT FROM ai.knowledge_chunks")
            await outsider.execute("DELETE FROM ai.cirkelline_knowledge_vectors WHERE chunk_text = 'first'")
        await outsider.execute("TRUNCATE ai.cirkelline_knowledge_vectors")
    assert await scene.rows(conn, "SELECT chunk FROM ai.knowledge_chunks") == []


async def test_an_owners_change_takes_the_chunks_along_that_name_nobody(conn: Conn, outsider: Conn) -> None:
    document = await scene.one(outsider, ADD_DOCUMENT, '{"user_id": "ann"}')
    for metadata in ("{}", '{"user_id": "carl"}'):
        await scene.one(outsider, ADD_CHUNK, NEAR, "text", document, metadata)
    owners = "SELECT owner FROM ai.knowledge_chunks UNION ALL SELECT owner FROM ai.knowledge_words ORDER BY 1"
    assert await scene.rows(conn, owners) == ["ann", "ann", "carl", "carl"]
    await outsider.execute("""UPDATE ai.agno_knowledge SET metadata = jsonb_set(metadata, '{user_id}', '"ben"')""")
    assert await scene.rows(conn, owners) == ["ben", "ben", "carl", "carl"]
    await outsider.execute("UPDATE ai.agno_knowledge SET metadata = NULL")
    assert await scene.rows(conn, owners) == ["carl", "carl"]


async def test_a_chunk_added_while_its_document_is_given_away_ends_with_the_new_owner(
    conn: Conn, outsider: Conn
) -> None:
    document = await scene.one(outsider, ADD_DOCUMENT, '{"user_id": "ann"}')
    async with await scene.another(conn) as giving, giving.transaction():
        await giving.execute("""UPDATE ai.agno_knowledge SET metadata = '{"user_id": "ben"}'""")
        await scene.one(outsider, ADD_CHUNK, NEAR, "text", document, "{}")
    assert await backfill.backfill(conn, 10) == 0
    assert await scene.rows(conn, "SELECT owner FROM ai.knowledge_chunks") == ["ben"]


async def test_a_tag_alone_changes_no_chunk(conn: Conn, outsider: Conn) -> None:
    document = await scene.one(outsider, ADD_DOCUMENT, '{"user_id": "ann", "tags": ["old"]}')
    await scene.one(outsider, ADD_CHUNK, NEAR, "text", document, "{}")
    before = await scene.rows(conn, "SELECT ctid, xmin FROM ai.knowledge_chunks")
    # The first document's own example.
    await outsider.execute(
        """UPDATE ai.agno_knowledge SET metadata = jsonb_set(metadata, '{tags}', '"New-Tag"') WHERE id = %s""",
        [document],
    )
    assert await scene.one(conn, "SELECT tags FROM ai.knowledge_documents") == ["new-tag"]
    assert await scene.rows(conn, "SELECT ctid, xmin FROM ai.knowledge_chunks") == before


# The back-fill --------------------------------------------------------------------------------------------------------


async def as_adopted(conn: Conn, chunks: int) -> None:
    """Rows that were there before the triggers were, and the mark that the migration leaves."""
    await conn.execute("SET session_replication_role = replica")
    await conn.execute(
        "INSERT INTO ai.agno_knowledge (name, metadata) SELECT 'd', jsonb_build_object('user_id', 'u' || n %% 3)"
        " FROM generate_series(1, 20) n",
        [],
    )
    await conn.execute(
        "INSERT INTO ai.cirkelline_knowledge_vectors (embedding, chunk_text, document_id)"
        " SELECT %s::real[], 'word' || n, (SELECT min(id) FROM ai.agno_knowledge) + n %% 20 FROM generate_series(1, %s) n",
        [NEAR, chunks],
    )
    await conn.execute("RESET session_replication_role")
    await conn.execute("SELECT runtime.take_in_again()")


async def test_an_adopted_corpus_is_taken_in_batch_by_batch(conn: Conn) -> None:
    await as_adopted(conn, 95)
    assert (await backfill.standing(conn)).remaining == 115
    remaining = [await backfill.backfill(conn, 10) for _ in range(11)]
    assert remaining == [95, 75, 65, 55, 45, 35, 25, 15, 5, 0, 0]
    assert await sides(conn) == await rebuilt(conn)
    assert await backfill.standing(conn) == backfill.Standing(20, 95, 0, 0, None, indexed=True)


async def test_back_fills_at_once_and_cut_off_lose_nothing(conn: Conn) -> None:
    await as_adopted(conn, 95)
    async with await scene.another(conn) as second:
        for _ in range(3):
            await asyncio.gather(backfill.backfill(conn, 7), backfill.backfill(second, 5))
            async with second.transaction(force_rollback=True):
                await backfill.backfill(second, 9)
    while await backfill.backfill(conn, 50):
        pass
    assert await sides(conn) == await rebuilt(conn)


async def test_writers_and_the_back_fill_end_in_what_is_there(conn: Conn, outsider: Conn) -> None:
    await as_adopted(conn, 200)

    async def write() -> None:
        for number in range(40):
            await outsider.execute(
                "DELETE FROM ai.cirkelline_knowledge_vectors WHERE chunk_text = %s", [f"word{number * 5}"]
            )
            await outsider.execute(
                "UPDATE ai.cirkelline_knowledge_vectors SET chunk_text = 'new' WHERE chunk_text = %s",
                [f"word{number * 5 + 1}"],
            )
            await scene.one(outsider, ADD_CHUNK, NEAR, "added", None, '{"user_id": "u1"}')

    async def fill() -> None:
        while await backfill.backfill(conn, 3):
            pass

    await asyncio.gather(write(), fill())
    await fill()
    assert await sides(conn) == await rebuilt(conn)


@pytest.mark.parametrize("level", ["REPEATABLE READ", "SERIALIZABLE"])
async def test_a_transaction_with_an_old_view_fails_nowhere_and_is_put_right_later(
    conn: Conn, outsider: Conn, level: str
) -> None:
    await as_adopted(conn, 30)
    await outsider.execute(f"BEGIN ISOLATION LEVEL {level}".encode())
    await outsider.execute("SELECT count(*) FROM ai.agno_knowledge")
    await backfill.backfill(conn, 20)
    await outsider.execute("UPDATE ai.cirkelline_knowledge_vectors SET chunk_text = 'new' WHERE chunk_text = 'word2'")
    await outsider.execute("DELETE FROM ai.cirkelline_knowledge_vectors WHERE chunk_text = 'word1'")
    await outsider.execute("COMMIT")
    while await backfill.backfill(conn, 20):
        pass
    assert await sides(conn) == await rebuilt(conn)


async def test_rows_that_are_just_being_written_are_taken_in_afterwards(conn: Conn, outsider: Conn) -> None:
    await as_adopted(conn, 10)
    async with outsider.transaction():
        await outsider.execute("UPDATE ai.cirkelline_knowledge_vectors SET metadata = '{}' WHERE chunk_text = 'word3'")
        await outsider.execute(
            "UPDATE ai.agno_knowledge SET name = 'e' WHERE id = (SELECT max(id) FROM ai.agno_knowledge)"
        )
        await conn.execute("SET statement_timeout = '20s'")
        left = [await backfill.backfill(conn, 100) for _ in range(3)]
        assert left[-1] > 0
    while await backfill.backfill(conn, 100):
        pass
    assert await sides(conn) == await rebuilt(conn)


async def test_another_language_has_every_word_taken_in_again(conn: Conn, outsider: Conn) -> None:
    await scene.one(outsider, ADD_CHUNK, NEAR, "the running rivers", None, '{"user_id": "ann"}')
    await knowledge_settings.change(conn, language="simple")
    assert (await backfill.standing(conn)).remaining == 1
    assert await backfill.backfill(conn, 10) == 0
    assert await scene.one(conn, "SELECT tsvector_to_array(words) FROM ai.knowledge_words") == [
        "rivers",
        "running",
        "the",
    ]
    await knowledge_settings.change(conn, language="simple")
    assert (await backfill.standing(conn)).remaining == 0


# The plans ------------------------------------------------------------------------------------------------------------

SEARCH = """
SELECT * FROM runtime.search_knowledge('common rare', %b::float8[], 'test:numbers', 6, %s::text, NULL, '{}', '{}', NULL, NULL, '{}')
"""


async def test_a_search_reads_its_owners_rows_and_nobody_elses(conn: Conn) -> None:
    """Counted by the server: of 4,000 chunks a user of 40 has read no more than its own, and never a whole table."""
    ann = str(await library.user(conn))
    fill = """
    INSERT INTO ai.cirkelline_knowledge_vectors (embedding, chunk_text, metadata)
    SELECT %s::real[], 'common ' || CASE WHEN n %% 7 = 0 THEN 'rare' ELSE 'frequent' END,
           jsonb_build_object('embedder', 'test:numbers', 'user_id', CASE WHEN n %% 100 = 0 THEN %s ELSE 'other' || n %% 5 END)
      FROM generate_series(1, 4000) n"""
    # No vector index for this: adding to it takes most of the time, and searching does not look at it.
    async with conn.transaction(force_rollback=True):
        await conn.execute("DROP INDEX ai.idx_vectors_embedding")
        await conn.execute(fill, [NEAR, ann])
        await conn.execute("ANALYZE ai.knowledge_chunks, ai.knowledge_words, ai.knowledge_documents")
        await conn.execute("SELECT set_config('app.user_id', %s, true)", [ann])
        for mode in Mode:
            before = await read_so_far(conn)
            assert len(await scene.rows(conn, SEARCH, NEAR, mode.value)) == 6
            spent = {table: now - before[table] for table, now in (await read_so_far(conn)).items()}
            assert spent["ai.knowledge_chunks"] in ({0} if mode is Mode.WORDS else {40})
            assert spent["ai.knowledge_words"] <= 80, mode  # 40 to count with, 40 with a word
            assert spent["whole tables"] == 0, mode


READ_SO_FAR = """
SELECT 'ai.' || relname, (seq_tup_read + idx_tup_fetch)::integer AS read, seq_scan::integer FROM pg_stat_xact_user_tables
 WHERE schemaname = 'ai' AND relname IN ('knowledge_chunks', 'knowledge_words', 'cirkelline_knowledge_vectors')
"""


async def read_so_far(conn: Conn) -> dict[str, int]:
    rows = await (await conn.execute(READ_SO_FAR)).fetchall()
    return {str(table): read for table, read, _ in rows} | {"whole tables": sum(scans for *_, scans in rows)}
