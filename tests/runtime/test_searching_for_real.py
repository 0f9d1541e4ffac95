"""From files to a cited answer with the real embedded model: what is asserted is how things fit, not what ranks best."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from shelves import person
from workplace import Workplace

from cirkelline.runtime import Runtime
from cirkelline.runtime.cli.actions import ingesting
from cirkelline.state.users import UserNotFound
from cirkelline.tools.library import NoSuchDocument, Wanted

HANDBOOK = """# Handbook

## Leave

Everybody has 25 days of leave a year.

## Travel

Travel by train is paid in full; travel by car is paid by the kilometer.
"""


@pytest.fixture
async def ivo(place: Workplace, monkeypatch: pytest.MonkeyPatch) -> str:
    """A user with a handbook, and another one with a diary."""
    monkeypatch.setenv("DATABASE_URL", place.db.url)
    for user, name, text in (("ivo", "handbook.md", HANDBOOK), ("eve", "diary.txt", "Eve takes leave by train.")):
        await person(place.db, user)
        path: Path = place.folder / name
        path.write_text(text)  # noqa: ASYNC240 - a test's own small file
        answer = await ingesting.add([str(path)], user=user, shared=False, tags=["work"], sync=False, yes=True)
        assert answer.exit_code == 0, answer
    return "ivo"


@pytest.fixture
async def runtime(place: Workplace) -> AsyncIterator[Runtime]:
    async with Runtime.open(place.settings, worker=True, tools=place.tools, environ={}) as runtime:
        yield runtime


async def test_a_question_is_answered_from_a_file_and_cites_it(place: Workplace, ivo: str, runtime: Runtime) -> None:
    turns = [
        {"tool": "search_knowledge", "arguments": {"query": "how many holidays do I get?", "limit": 2}},
        {"tool": "read_document", "arguments": {"document": "handbook.md"}},
        {"text": "25 days [1]."},
    ]
    tools = ["search_knowledge", "read_document"]
    await runtime.agents.apply([place.write("clerk", turns, tools=tools)])
    result = await (await runtime.submit("clerk", "leave?", user=ivo)).result(timeout=60)
    (citation,) = result.task.result["citations"]
    assert (citation["n"], citation["document"]) == (1, "handbook.md")
    assert citation["source"] == str(place.folder / "handbook.md")
    texts = [
        row[0]
        for row in await place.rows("SELECT output ->> 'text' FROM runtime.journal WHERE call = 0 ORDER BY position")
    ]
    assert texts[0].startswith("Passages of documents, the best first")
    assert "25 days of leave" in texts[1]
    assert "diary" not in "".join(texts)


async def test_python_searches_as_the_command_line_does(ivo: str, runtime: Runtime) -> None:
    found = await runtime.search_knowledge("how is a journey by rail paid?", user=ivo, limit=10)
    assert found.words_only is None
    assert {hit.document for hit in found.hits} == {"handbook.md"}
    assert all(hit.similarity is not None and 0 < hit.similarity <= 1 for hit in found.hits)
    assert [hit.score for hit in found.hits] == sorted((hit.score for hit in found.hits), reverse=True)
    for mode in ("vector", "words", "rrf"):
        assert (await runtime.search_knowledge("leave", user=ivo, mode=mode)).hits
    assert (await runtime.search_knowledge("leave", user=ivo, wanted=Wanted(tags=["play"]))).hits == []
    nobodys = await runtime.search_knowledge("leave")
    assert (nobodys.hits, nobodys.documents) == ([], False)


async def test_python_is_told_what_is_wrong(ivo: str, runtime: Runtime) -> None:
    with pytest.raises(NoSuchDocument, match=r"no document 'diary\.txt'"):
        await runtime.search_knowledge("leave", user=ivo, wanted=Wanted(documents=["diary.txt"]))
    with pytest.raises(UserNotFound):
        await runtime.search_knowledge("leave", user="nobody-here")
    for wrong in ({"mode": "bm25"}, {"threshold": 7.0}):
        with pytest.raises(ValueError, match="must be"):
            await runtime.search_knowledge("leave", user=ivo, **wrong)  # type: ignore[arg-type]
