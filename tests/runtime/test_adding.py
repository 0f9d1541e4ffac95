"""Adding documents from Python: what a run is, how it goes on, and what it never takes away."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from embedding_server import EmbeddingServer, vector
from workplace import Workplace, until

from cirkelline.configs.errors import UsageError
from cirkelline.configs.settings import Settings
from cirkelline.runtime.api import Runtime
from cirkelline.runtime.ingest.adding import Added
from cirkelline.runtime.ingest.verdicts import Verdict
from cirkelline.state import searching, users
from cirkelline.state.searching import Hit
from cirkelline.state.tenant import tenant
from cirkelline.tools.embedding import EmbedderUnavailable

USER = "reader@example.com"
LABEL = "gemini:gemini-embedding-001"


@pytest.fixture
def server() -> Iterator[EmbeddingServer]:
    with EmbeddingServer() as server:
        yield server


class Shelf:
    """A folder of documents, and the runtime that adds them."""

    def __init__(self, place: Workplace, server: EmbeddingServer) -> None:
        self.place = place
        self.server = server
        self.folder = place.folder / "shelf"
        self.folder.mkdir()
        self.environ = server.environ
        self.settings = Settings(database_url=place.db.url, home=place.folder / "home", lease=0.5, poll=0.2)

    def write(self, name: str, text: str) -> Path:
        path = self.folder / name
        path.write_text(text)
        return path

    def fill(self, amount: int) -> None:
        for number in range(amount):
            self.write(f"{number:03}.txt", f"document{number} says something about cats and dogs")

    async def add(self, *sources: Path, **options: Any) -> Added:
        who = {} if options.get("shared") else {"user": USER}
        async with Runtime.open(self.settings, environ=self.environ) as runtime:
            return await runtime.add_knowledge(sources or [self.folder], **{**who, **options})

    async def search(self, words: str, user: str = USER) -> list[Hit]:
        async with self.place.db.connection() as conn:
            user_id = (await users.ensure(conn, user)).id
        async with tenant(self.place.db, user_id) as door:
            return await searching.search(door, words, embedding=vector(words), embedder=LABEL, limit=100)

    async def texts(self) -> dict[str, str]:
        """What is stored, by the names of the documents."""
        found = await self.place.rows(
            "SELECT d.name, string_agg(v.chunk_text, ' ' ORDER BY v.id) FROM ai.agno_knowledge d"
            " JOIN ai.cirkelline_knowledge_vectors v ON v.document_id = d.id GROUP BY d.id, d.name"
        )
        return dict(found)

    async def cut_off(self, requests: int) -> None:
        """Add the folder, and stop at a request for embeddings as Ctrl-C does."""
        before = self.server.requests
        adding = asyncio.create_task(self.add())

        async def reached() -> bool:
            return self.server.requests >= before + requests

        await until(reached, "requests for embeddings")
        adding.cancel()
        with pytest.raises(asyncio.CancelledError):
            await adding


@pytest.fixture
def shelf(place: Workplace, server: EmbeddingServer) -> Shelf:
    return Shelf(place, server)


def verdicts(added: Added) -> dict[str, str]:
    return {outcome.name: outcome.verdict.value for outcome in added.outcomes}


async def runs(place: Workplace) -> list[tuple[Any, ...]]:
    return await place.rows("SELECT status, jsonb_array_length(steps_completed) FROM ai.workflow_runs ORDER BY id")


async def test_documents_are_found_once_they_are_added_by_their_user_alone(shelf: Shelf) -> None:
    shelf.fill(3)
    added = await shelf.add()
    assert verdicts(added) == {"000.txt": "added", "001.txt": "added", "002.txt": "added"}
    assert len(await shelf.search("cats")) == 3
    assert await shelf.search("cats", user="somebody.else@example.com") == []


async def test_shared_documents_are_everybodys(shelf: Shelf) -> None:
    shelf.fill(1)
    await shelf.add(shared=True)
    (hit,) = await shelf.search("cats", user="somebody.else@example.com")
    assert hit.shared


async def test_what_is_unchanged_costs_no_embedding_and_what_is_changed_is_replaced(shelf: Shelf) -> None:
    shelf.fill(3)
    await shelf.add()
    before = shelf.server.texts
    shelf.write("001.txt", "document1 is about birds now")
    assert verdicts(await shelf.add()) == {"000.txt": "unchanged", "001.txt": "updated", "002.txt": "unchanged"}
    assert shelf.server.texts == before + 1
    assert (await shelf.texts())["001.txt"] == "document1 is about birds now"


async def test_an_embedder_that_fails_takes_nothing_away(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cirkelline.runtime.ingest.adding.PAUSES", ())
    shelf.fill(2)
    await shelf.add()
    before = await shelf.texts()
    shelf.write("000.txt", "new words")
    shelf.server.fault = lambda _number, _texts: 400
    added = await shelf.add()
    assert verdicts(added) == {"000.txt": "failed", "001.txt": "unchanged"}
    assert "rejected the request" in str(added.bad[0].why)
    assert await shelf.texts() == before


async def test_what_failed_is_tried_again_at_the_end(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cirkelline.runtime.ingest.adding.PAUSES", (0.0,))
    shelf.fill(1)
    shelf.server.fault = lambda number, _texts: 400 if number == 1 else None
    assert verdicts(await shelf.add()) == {"000.txt": "added"}


async def test_an_embedder_that_fails_for_all_is_not_asked_for_each(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cirkelline.runtime.ingest.adding.PAUSES", ())
    shelf.fill(12)
    shelf.server.fault = lambda _number, _texts: 400
    assert set(verdicts(await shelf.add()).values()) == {"failed"}
    assert shelf.server.requests < 8


async def test_a_run_that_was_cut_off_goes_on_and_adds_each_document_once(shelf: Shelf) -> None:
    shelf.fill(40)
    await shelf.cut_off(30)
    added = await shelf.add()
    assert len(added.outcomes) == 40
    assert set(verdicts(added).values()) <= {"added", "unchanged"}
    assert len(await shelf.texts()) == 40
    assert [status for status, _ in await runs(shelf.place)] == ["COMPLETED"]


async def test_what_changed_while_a_run_was_cut_off_is_seen_when_it_goes_on(shelf: Shelf) -> None:
    shelf.fill(40)
    await shelf.cut_off(30)
    shelf.write("000.txt", "document0 is about birds now")
    shelf.write("new.txt", "came while nobody looked")
    added = await shelf.add()
    assert verdicts(added)["000.txt"] == "updated"
    assert (await shelf.texts())["000.txt"] == "document0 is about birds now"
    assert (await shelf.texts())["new.txt"] == "came while nobody looked"


async def test_a_run_that_was_cut_off_after_its_last_document_does_not_hide_what_changed_since(shelf: Shelf) -> None:
    shelf.fill(2)
    added = await shelf.add()
    await shelf.place.execute("UPDATE runtime.tasks SET status = 'pending', result = NULL WHERE id = %s", added.run_id)
    shelf.write("000.txt", "document0 is about birds now")
    assert verdicts(await shelf.add())["000.txt"] == "updated"
    assert [status for status, _ in await runs(shelf.place)] == ["COMPLETED", "COMPLETED"]


async def test_two_who_add_the_same_folder_at_once_store_each_document_once(shelf: Shelf) -> None:
    shelf.fill(8)
    one, other = await asyncio.gather(shelf.add(), shelf.add())
    assert one.run_id != other.run_id
    assert (one.bad, other.bad) == ([], [])
    assert await shelf.place.value("SELECT count(*) FROM ai.agno_knowledge") == 8
    assert await shelf.place.value("SELECT count(*) FROM ai.cirkelline_knowledge_vectors") == 8


async def test_a_slow_one_does_not_put_an_older_version_over_a_newer_one(shelf: Shelf) -> None:
    shelf.write("a.txt", "the old words")
    shelf.server.fault = lambda _number, texts: shelf.server.hold() if "old" in texts[0] else None  # type: ignore[func-returns-value]
    slow = asyncio.create_task(shelf.add())

    async def held() -> bool:
        return not shelf.server.held.is_set()

    await until(held, "the old words to be embedded")
    shelf.write("a.txt", "the new words")
    quick = asyncio.create_task(shelf.add())

    async def waits() -> bool:
        return shelf.server.requests == 2

    await until(waits, "the new words to be embedded")
    shelf.server.fault = lambda _number, _texts: None
    shelf.server.held.set()
    await asyncio.gather(slow, quick)
    assert await shelf.texts() == {"a.txt": "the new words"}


async def test_many_documents_are_few_steps(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cirkelline.runtime.ingest.adding.SMALLEST_BATCH", 1)
    monkeypatch.setattr("cirkelline.runtime.ingest.adding.MOST_BATCHES", 4)
    shelf.fill(30)
    await shelf.add()
    assert await runs(shelf.place) == [("COMPLETED", 4)]


async def test_tags_are_kept_by_an_update_and_changed_alone_without_embedding(shelf: Shelf) -> None:
    shelf.write("a.txt", "something")
    await shelf.add(tags=["old"])
    shelf.write("a.txt", "something else")
    await shelf.add()
    tags = "SELECT metadata -> 'tags' FROM ai.agno_knowledge"
    assert await shelf.place.value(tags) == ["old"]
    before = shelf.server.texts
    added = await shelf.add(tags=["new", "newer"])
    assert (added.outcomes[0].verdict, added.outcomes[0].why) == (Verdict.UPDATED, "its tags")
    assert await shelf.place.value(tags) == ["new", "newer"]
    assert shelf.server.texts == before


async def test_a_sync_removes_what_is_gone_after_adding_what_is_new(shelf: Shelf) -> None:
    shelf.fill(3)
    await shelf.add(sync=True)
    (shelf.folder / "001.txt").rename(shelf.folder / "renamed.txt")
    added = verdicts(await shelf.add(sync=True))
    assert added == {"000.txt": "unchanged", "002.txt": "unchanged", "renamed.txt": "added", "001.txt": "removed"}
    assert set(await shelf.texts()) == {"000.txt", "002.txt", "renamed.txt"}


@pytest.mark.parametrize("gone", ["emptied", "missing"])
async def test_a_folder_that_is_not_there_or_empty_removes_nothing(shelf: Shelf, gone: str) -> None:
    shelf.fill(3)
    await shelf.add(sync=True)
    for path in shelf.folder.iterdir():
        path.unlink()
    if gone == "missing":
        shelf.folder.rmdir()
    with pytest.raises(UsageError):
        await shelf.add(sync=True)
    assert len(await shelf.texts()) == 3


async def test_a_sync_of_one_folder_leaves_its_neighbor_alone(shelf: Shelf) -> None:
    for name in ("shelf one", "shelf"):
        folder = shelf.folder / name
        folder.mkdir()
        (folder / "a.txt").write_text(f"in {name}")
        (folder / "b.txt").write_text(f"in {name}")
    await shelf.add()
    for name in ("shelf one", "shelf"):
        (shelf.folder / name / "b.txt").unlink()
    await shelf.add(shelf.folder / "shelf", sync=True)
    assert set(await shelf.texts()) == {"shelf/a.txt", "shelf one/a.txt", "shelf one/b.txt"}


async def test_the_first_who_adds_fixes_the_embedder_and_the_next_use_it_or_say_what_is_missing(shelf: Shelf) -> None:
    shelf.fill(1)
    await shelf.add()
    assert await shelf.place.value("SELECT embedder FROM runtime.knowledge_settings()") == LABEL
    shelf.environ = {}
    with pytest.raises(EmbedderUnavailable, match="GOOGLE_API_KEY"):
        await shelf.add()


async def test_documents_belong_to_somebody(shelf: Shelf) -> None:
    shelf.fill(1)
    with pytest.raises(UsageError, match="user=… or shared=True"):
        await shelf.add(user=None)


async def test_a_database_that_restarts_is_waited_for(shelf: Shelf) -> None:
    shelf.fill(6)
    shelf.server.hold()
    adding = asyncio.create_task(shelf.add())
    await asyncio.to_thread(shelf.server.reached.wait, 30)
    shelf.server.held.set()
    for _ in range(5):
        await shelf.place.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        await asyncio.sleep(0.05)
    assert set(verdicts(await adding).values()) == {"added"}
    assert len(await shelf.texts()) == 6
