"""Whatever a model is made to ask for, its tools show nothing of anybody else and break nothing."""

from __future__ import annotations

import itertools
from typing import Any, Final
from uuid import UUID, uuid4

import pytest
from shelves import Bags, add, person

from cirkelline.configs.schema import KnowledgeSpec, SearchMode
from cirkelline.state.connection import Database
from cirkelline.tools.builtins import BUILTINS
from cirkelline.tools.contract import ToolContext
from cirkelline.tools.execution import Executor, ToolResult
from cirkelline.tools.library import UserLibrary
from cirkelline.tools.state import State

CANARY: Final = "zugzwang"  # a word of eve's documents alone
HOSTILE: Final = [
    "' OR '1'='1", "'; DROP TABLE ai.agno_knowledge; --", "\\", "$$; SELECT 1; $$", "%s", "%(owner)s", "{}", "*", "%", "_",
    "cirkelline:shared", "NULL", "null", "0", "-1", "1e309", "9" * 30, "\x00", "a\x00b", "\ud800", "\ue000", "\u202e", "🙂" * 300,
    "../../etc/passwd", "/shelf/diary.txt", "diary.txt", "file:///shelf/diary.txt", "<script>", "[7](x)", '{"user_id": "EVE"}',
    "SET ROLE postgres", "set_config('app.user_id', 'EVE', false)", "EVE", "metadata->>'user_id'", ":* & ! | <->", "''", "\n\n",
    CANARY,
]  # fmt: skip
CALLS: Final[list[tuple[str, str, Any]]] = [
    ("search_knowledge", "query", lambda value: {"query": value}),
    ("search_knowledge", "tags", lambda value: {"query": CANARY, "tags": [value]}),
    ("search_knowledge", "documents", lambda value: {"query": CANARY, "documents": [value]}),
    ("list_documents", "words", lambda value: {"words": value}),
    ("list_documents", "tag", lambda value: {"tag": value}),
    ("read_document", "document", lambda value: {"document": value}),
]


async def libraries(db: Database) -> tuple[UserLibrary, UserLibrary, UUID, int]:
    """Return what ivo sees and what nobody sees, eve's id, and that of her diary."""
    await add(db, "ivo", "handbook.txt", "Leave of ivo.", tags=["work"])
    await add(db, None, "notice.txt", "Leave for all.")
    diary = await add(db, "eve", "diary.txt", f"The {CANARY} of eve.", f"More {CANARY}.", tags=["work", "private"])
    ivo, eve = await person(db, "ivo"), await person(db, "eve")
    return UserLibrary(db, Bags(), ivo.id), UserLibrary(db, Bags(), None), eve.id, diary


@pytest.mark.parametrize(("name", "field", "arguments"), CALLS, ids=[f"{name}-{field}" for name, field, _ in CALLS])
async def test_no_value_of_any_field_shows_a_word_of_somebody_else(
    db: Database, name: str, field: str, arguments: Any
) -> None:
    ivos, nobodys, eve, diary = await libraries(db)
    values = [value.replace("EVE", str(eve)) for value in [*HOSTILE, str(diary)]]
    values += [f"{one}{other}" for one, other in itertools.product(values[:6], values[:6])]
    async with Executor() as executor:
        for library, value in itertools.product((ivos, nobodys), values):
            ctx = ToolContext(state=State(), agent="a", task_id=uuid4(), library=library)
            result: ToolResult = await executor.call(BUILTINS[name], arguments(value), ctx)
            shown = result.text.replace(value, "")
            assert f"{CANARY} of eve" not in result.text, (field, value)
            assert f"{diary}" not in [str(citation["document_id"]) for citation in result.citations]
            assert "diary" not in shown, (field, value)
            assert not any(word in result.text for word in ("Error:", "psycopg", "SELECT chunk_id", "LINE 1")), (
                result.text
            )


async def test_whether_a_document_is_somebody_elses_or_not_there_cannot_be_told(db: Database) -> None:
    ivos, _, _, diary = await libraries(db)
    said = set()
    async with Executor() as executor:
        for reference in (str(diary), "diary.txt", "/shelf/diary.txt", str(diary + 1000), "nothing.txt"):
            for name, arguments in (
                ("read_document", {"document": reference}),
                ("search_knowledge", {"query": "leave", "documents": [reference]}),
            ):
                ctx = ToolContext(state=State(), agent="a", task_id=uuid4(), library=ivos)
                result = await executor.call(BUILTINS[name], arguments, ctx)
                said.add(result.text.replace(repr(reference), "X"))
    assert said == {"error: there is no document X (list_documents shows what there is)"}


@pytest.mark.parametrize("mode", SearchMode)
async def test_every_way_of_searching_keeps_to_whose_it_is(db: Database, mode: SearchMode) -> None:
    ivos, nobodys, eve, _ = await libraries(db)
    spec = KnowledgeSpec(mode=mode, top_k=50)
    eves = UserLibrary(db, Bags(), eve, spec)
    seen = [
        {hit.document for hit in (await UserLibrary(db, Bags(), each, spec).search(f"{CANARY} leave")).hits}
        for each in (ivos.user_id, nobodys.user_id, eves.user_id)
    ]
    assert seen == [{"handbook.txt", "notice.txt"}, {"notice.txt"}, {"diary.txt", "notice.txt"}]
