"""A document is what one owner has from one source: stored whole or not at all, seen by whom it is for."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import UUID

import library
import pytest
import scene

from cirkelline.state import knowledge, searching
from cirkelline.state.connection import Conn, Database
from cirkelline.state.knowledge import DocumentInUse, DocumentNotFound, NewChunk
from cirkelline.state.searching import Mode
from cirkelline.state.tenant import SHARED, Door, shared, tenant

NEAR = library.axis(0)


async def texts(door: Door, id_: int) -> list[str]:
    return [chunk.text for chunk in await knowledge.read(door, id_)]


async def test_what_is_stored_has_the_metadata_of_the_first_document(db: Database, conn: Conn) -> None:
    who = await library.user(conn)
    new = library.document("/r/report.pdf", name="Report", document_type="pdf", tags=["research", "2025"], pages=3)
    parts = [NewChunk(text=text, embedding=NEAR, page=2, offset=9, heading="A") for text in ("one", "two")]
    async with tenant(db, who) as door:
        id_ = await knowledge.store(door, new, parts, embedder="test:numbers")
    row = (
        "SELECT name, file_name, file_path, content_type, metadata - 'upload_date' FROM ai.agno_knowledge WHERE id = %s"
    )
    expected = {
        "user_id": str(who),
        "original_name": "report.pdf",
        "document_type": "pdf",
        "tags": ["research", "2025"],
        "chunk_count": 2,
        "page_count": 3,
        "source": "/r/report.pdf",
        "content_hash": "0" * 64,
        "embedder": "test:numbers",
    }
    assert await scene.one(conn, row, id_) == ("Report", "report.pdf", "/r/report.pdf", "text/markdown", expected)
    date = "SELECT metadata ->> 'upload_date' = (now() AT TIME ZONE 'UTC')::date::text FROM ai.agno_knowledge"
    assert await scene.one(conn, date)
    metadata = await scene.rows(conn, "SELECT metadata FROM ai.cirkelline_knowledge_vectors ORDER BY id")
    chunk = {
        "user_id": str(who),
        "chunk_total": 2,
        "page_number": 2,
        "offset": 9,
        "heading": "A",
        "embedder": "test:numbers",
    }
    assert metadata == [chunk | {"chunk_index": 0}, chunk | {"chunk_index": 1}]
    theirs = (
        "SELECT count(*) FROM ai.agno_knowledge WHERE metadata->>'user_id' = %s AND metadata->>'document_type' = 'pdf'"
    )
    assert await scene.one(conn, theirs, str(who)) == 1


async def test_storing_again_swaps_the_chunks_and_keeps_the_id_and_what_others_noted(db: Database, conn: Conn) -> None:
    who = await library.user(conn)
    async with tenant(db, who) as door:
        first = await library.store(door, ["one", "two"], [NEAR] * 2)
    await conn.execute("""UPDATE ai.agno_knowledge SET metadata = metadata || '{"theirs": 1, "tags": ["old"]}'""")
    async with tenant(db, who) as door:
        second = await library.store(door, ["three"], [NEAR], tags=["new"], content_hash="1" * 64)
        assert second == first
        assert await texts(door, first) == ["three"]
        found = await knowledge.find_source(door, "/notes.md")
    assert found is not None
    assert (found.id, found.chunks, found.tags, found.content_hash) == (first, 1, ["new"], "1" * 64)
    assert await scene.one(conn, "SELECT metadata ->> 'theirs' FROM ai.agno_knowledge") == "1"
    assert [hit.text for hit in await library.search(db, who, "", NEAR, mode=Mode.VECTOR)] == ["three"]


async def test_a_store_that_breaks_off_takes_nothing_away(db: Database, conn: Conn) -> None:
    who = await library.user(conn)
    async with tenant(db, who) as door:
        id_ = await library.store(door, ["old"], [NEAR])
    with pytest.raises(ValueError, match="768"):
        async with tenant(db, who) as door:
            await library.store(door, ["new", "short"], [NEAR, NEAR[:-1]])

    async def store_and_stumble() -> None:
        async with tenant(db, who) as door:
            await library.store(door, ["new"], [NEAR])
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await store_and_stumble()
    async with tenant(db, who) as door:
        assert await texts(door, id_) == ["old"]


async def test_a_store_is_seen_only_when_it_is_whole(db: Database, conn: Conn) -> None:
    who = await library.user(conn)
    async with tenant(db, who) as door:
        await library.store(door, ["old"] * 3, [NEAR] * 3)
    async with tenant(db, who) as door:
        await library.store(door, ["new"] * 500, [NEAR] * 500)
        found = await library.search(db, who, "", NEAR, limit=1000)
        assert [hit.text for hit in found] == ["old"] * 3
    assert [hit.text for hit in await library.search(db, who, "", NEAR, limit=1000)] == ["new"] * 500


async def test_the_same_source_stored_by_several_at_once_is_one_document(db: Database, conn: Conn) -> None:
    who = await library.user(conn)

    async def store(number: int) -> int:
        async with tenant(db, who) as door:
            return await library.store(door, [f"version {number}"] * 3, [NEAR] * 3)

    ids = await asyncio.gather(*(store(number) for number in range(6)))
    assert len(set(ids)) == 1
    assert await scene.one(conn, "SELECT count(*) FROM ai.agno_knowledge") == 1
    assert await scene.one(
        conn, "SELECT count(DISTINCT chunk_text), count(*) FROM ai.cirkelline_knowledge_vectors"
    ) == (1, 3)


async def test_one_source_of_several_owners_is_as_many_documents(db: Database, conn: Conn) -> None:
    one, other = await library.user(conn), await library.user(conn)
    async with tenant(db, one) as door:
        mine = await library.store(door, ["mine"], [NEAR])
    async with tenant(db, other) as door:
        theirs = await library.store(door, ["theirs"], [NEAR])
    async with shared(db) as everybody:
        ours = await library.store(everybody, ["ours"], [NEAR])
        assert await texts(everybody, ours) == ["ours"]
        assert await texts(everybody, mine) == []
    assert len({mine, theirs, ours}) == 3
    async with tenant(db, one) as door:
        assert [document.id for document in await knowledge.documents(door)] == [ours, mine]
        assert [document.id for document in await knowledge.documents(door, include_shared=False)] == [mine]
        assert [await texts(door, id_) for id_ in (mine, theirs, ours)] == [["mine"], [], ["ours"]]
        assert (await knowledge.get(door, str(ours))).owner == SHARED


@pytest.mark.parametrize("reference", ["{theirs}", "theirs.md", "/theirs.md", "' OR TRUE --", "\x00", "-1", str(2**80)])
async def test_a_document_of_anothers_cannot_be_had_by_any_name(db: Database, conn: Conn, reference: str) -> None:
    one, other = await library.user(conn), await library.user(conn)
    async with tenant(db, other) as door:
        theirs = await library.store(door, ["theirs"], [NEAR], "/theirs.md")
    async with tenant(db, one) as door:
        with pytest.raises(DocumentNotFound, match="there is no document"):
            await knowledge.get(door, reference.format(theirs=theirs))


async def test_what_is_anothers_or_shared_cannot_be_changed_by_a_user(db: Database, conn: Conn) -> None:
    one, other = await library.user(conn), await library.user(conn)
    async with tenant(db, other) as door:
        theirs = await library.store(door, ["theirs"], [NEAR])
    async with shared(db) as everybody:
        ours = await library.store(everybody, ["ours"], [NEAR])
    async with tenant(db, one) as door:
        for id_ in (theirs, ours, 0, -1, 2**31, 2**70):
            assert not await knowledge.remove(door, id_)
            with pytest.raises(DocumentNotFound):
                await knowledge.touch_tags(door, id_, ["x"])
    async with shared(db) as everybody:
        assert not await knowledge.remove(everybody, theirs)
        assert await knowledge.remove(everybody, ours)
    assert await scene.rows(conn, "SELECT chunk_text FROM ai.cirkelline_knowledge_vectors") == ["theirs"]


async def test_tags_change_alone(db: Database, conn: Conn) -> None:
    who = await library.user(conn)
    async with tenant(db, who) as door:
        id_ = await library.store(door, ["one"], [NEAR], tags=["a"])
        await knowledge.touch_tags(door, id_, ["B", "c\x00"])
    async with tenant(db, who) as door:
        assert (await knowledge.get(door, str(id_))).tags == ["B", "c\ufffd"]
        assert [document.id for document in await knowledge.documents(door, tag="b")] == [id_]
        assert await knowledge.documents(door, tag="a") == []


async def test_removing_takes_the_document_and_its_chunks(db: Database, conn: Conn) -> None:
    who = await library.user(conn)
    async with tenant(db, who) as door:
        kept = await library.store(door, ["kept"], [NEAR], "/kept")
        gone = await library.store(door, ["gone"], [NEAR], "/gone")
        assert await knowledge.remove(door, gone)
        assert not await knowledge.remove(door, gone)
    tables = ("ai.agno_knowledge", "ai.knowledge_documents", "ai.knowledge_chunks", "ai.knowledge_words")
    assert [await scene.one(conn, f"SELECT count(*) FROM {table}") for table in tables] == [1, 1, 1, 1]
    assert await scene.one(conn, "SELECT id FROM ai.agno_knowledge") == kept


async def test_a_document_with_anothers_rows_in_it_stays_whole(db: Database, conn: Conn) -> None:
    who = await library.user(conn)
    async with tenant(db, who) as door:
        id_ = await library.store(door, ["mine"], [NEAR])
    add = """
    INSERT INTO ai.cirkelline_knowledge_vectors (embedding, chunk_text, document_id, metadata)
    VALUES (%s::real[], 'a secret', %s, '{"user_id": "user-9"}')"""
    await conn.execute(add, [NEAR, id_])
    async with tenant(db, who) as door:
        with pytest.raises(DocumentInUse) as refused:
            await knowledge.remove(door, id_)
        assert "secret" not in str(refused.value)
        assert "user-9" not in str(refused.value)
        assert await texts(door, id_) == ["mine"]


async def test_documents_are_found_by_what_is_known_of_them(db: Database, conn: Conn) -> None:
    who = await library.user(conn)
    async with tenant(db, who) as door:
        await library.store(door, [], [], "/reports/Annual 2024.pdf", document_type="pdf", tags=["Money"])
        await library.store(door, ["x"], [NEAR], "/reports/annual 2025.md", tags=["money", "new"])
        await library.store(door, ["x"], [NEAR], "/notes/100%_sure.md")

        async def names(**options: Any) -> set[str]:
            return {document.name for document in await knowledge.documents(door, **options)}

        assert await names(words="ANNUAL reports") == {"Annual 2024.pdf", "annual 2025.md"}
        assert await names(words="%_sure") == {"100%_sure.md"}
        assert await names(words="annual missing") == set()
        assert await names(tag="MONEY") == {"Annual 2024.pdf", "annual 2025.md"}
        assert await names(document_type="PDF") == {"Annual 2024.pdf"}
        assert len(await names(limit=2)) == 2
        assert await names(limit=0) == set()
        assert await knowledge.sources_under(door, "/reports/") == [
            ((await knowledge.get(door, name)).id, f"/reports/{name}") for name in ("Annual 2024.pdf", "annual 2025.md")
        ]


async def test_a_name_has_to_be_one_documents(db: Database, conn: Conn) -> None:
    who = await library.user(conn)
    async with tenant(db, who) as door:
        ids = [await library.store(door, ["x"], [NEAR], f"/{place}/notes.md") for place in "ab"]
        numbered = await library.store(door, ["x"], [NEAR], f"/c/{ids[0]}")
        with pytest.raises(DocumentNotFound, match="more than one document"):
            await knowledge.get(door, "notes.md")
        assert (await knowledge.get(door, "/b/notes.md")).id == ids[1]
        assert (await knowledge.get(door, str(ids[0]))).id == ids[0]
        assert (await knowledge.get(door, f"/c/{ids[0]}")).id == numbered


async def test_a_document_is_read_in_order_page_by_page_and_piece_by_piece(db: Database, conn: Conn) -> None:
    who = await library.user(conn)
    parts = [NewChunk(text=f"part {n}", embedding=NEAR, page=n // 3 + 1, offset=n * 10, heading=None) for n in range(8)]
    async with tenant(db, who) as door:
        id_ = await knowledge.store(door, library.document(), parts, embedder=library.EMBEDDER)

        async def read(**options: Any) -> list[int]:
            return [chunk.index for chunk in await knowledge.read(door, id_, **options)]

        assert await read() == list(range(8))
        assert await read(page=2) == [3, 4, 5]
        assert await read(page=9) == []
        assert await read(after_chunk=5) == [6, 7]
        assert await read(limit=3) == [0, 1, 2]
        assert await read(page=2**70, after_chunk=-(2**70), limit=2**70) == []
        assert await read(limit=-1) == []
        assert [(each.offset, each.page) for each in await knowledge.read(door, id_, after_chunk=6)] == [(70, 3)]


async def test_another_programs_chunks_without_numbers_are_read_in_the_order_of_their_ids(
    db: Database, conn: Conn
) -> None:
    who = await library.user(conn)
    id_ = await scene.one(
        conn,
        "INSERT INTO ai.agno_knowledge (name, metadata) VALUES ('d', jsonb_build_object('user_id', %s::text)) RETURNING id",
        str(who),
    )
    for text, metadata in (
        ("c", "[]"),
        ("d", None),
        ("b", '{"chunk_index": "1"}'),
        ("a", '{"chunk_index": 0}'),
        ("e", '{"chunk_index": -5}'),
    ):
        await conn.execute(
            "INSERT INTO ai.cirkelline_knowledge_vectors (embedding, chunk_text, document_id, metadata) VALUES (%s::real[], %s, %s, %s)",
            [NEAR, text, id_, metadata],
        )
    async with tenant(db, who) as door:
        assert [(chunk.index, chunk.text) for chunk in await knowledge.read(door, id_)] == list(enumerate("abcde"))


HOSTILE = [
    "\x00",
    "\ud800x",
    "'; DROP TABLE ai.agno_knowledge; --",
    "x" * 3000,
    "{}",
    "[1]",
    "%s %(a)s",
    "\ue000\ue001",
    "🦊",
    " ",
]


@pytest.mark.parametrize("value", HOSTILE)
async def test_any_text_can_be_everywhere(db: Database, conn: Conn, value: str) -> None:
    who: UUID = await library.user(conn)
    stored = value.replace("\x00", "\ufffd").replace("\ud800", "\ufffd")
    new = knowledge.NewDocument(
        source=value,
        name=value,
        file_name=value,
        content_type=value,
        document_type=value,
        content_hash=value,
        tags=[value],
    )
    part = NewChunk(text=value, embedding=NEAR, page=None, offset=0, heading=value)
    async with tenant(db, who) as door:
        id_ = await knowledge.store(door, new, [part], embedder=value)
        assert await knowledge.store(door, new, [part], embedder=value) == id_
        found = await knowledge.find_source(door, value)
        assert found is not None
        assert (found.name, found.source, found.tags) == (stored[:255], stored, [stored])
        (hit,) = await knowledge.read(door, id_)
        assert (hit.text, hit.heading) == (stored, stored)
        assert [document.id for document in await knowledge.documents(door, tag=value, document_type=value)] == [id_]
        (same,) = await searching.search(door, value, embedding=NEAR, embedder=value)
        assert same.chunk_id == hit.chunk_id
    assert await scene.one(conn, "SELECT count(*) FROM ai.knowledge_failures") == 0
