"""Another embedder for all documents: old vectors are searched until the switch, whatever is killed on the way."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from embedding_server import EmbeddingServer
from workplace import Workplace

from cirkelline.configs.settings import Settings
from cirkelline.runtime.api import Runtime
from cirkelline.runtime.ingest import reindexing
from cirkelline.state.reindexing import Chunk
from cirkelline.tools.embedding import EmbedderPool

MINILM, GEMINI = "minilm:all-MiniLM-L6-v2-int8", "gemini:gemini-embedding-001"
USER = "reader@example.com"
# How many chunks a search of the embedder in force compares, out of how many there are; of documents' labels, which.
STANDING = """
SELECT s.embedder, count(c.chunk) FILTER (WHERE c.embedder = s.embedder), count(*)
  FROM ai.knowledge_chunks c CROSS JOIN runtime.knowledge_settings() s GROUP BY s.embedder
"""


@pytest.fixture
def server() -> Iterator[EmbeddingServer]:
    with EmbeddingServer() as server:
        yield server


class Library:
    """Documents of one user, embedded by MiniLM, and commands that work on them."""

    def __init__(self, place: Workplace, server: EmbeddingServer) -> None:
        self.place = place
        self.server = server
        self.folder = place.folder / "library"
        self.folder.mkdir()
        self.settings = Settings(database_url=place.db.url, home=place.folder / "home", lease=0.5)

    def start(self, *arguments: str, keyed: bool = True) -> subprocess.Popen[bytes]:
        environ = {**os.environ, "DATABASE_URL": self.place.db.url, "CIRKELLINE_USER": USER, "CIRKELLINE_LEASE": "0.5"}
        environ |= self.server.environ if keyed else {}
        command = [sys.executable, "-m", "cirkelline", "knowledge", *arguments]
        return subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    async def do(self, *arguments: str, keyed: bool = True) -> tuple[int, Any, str]:
        process = self.start(*arguments, "--json", keyed=keyed)
        out, err = await asyncio.to_thread(process.communicate, None, 120)
        return process.returncode, json.loads(out) if out else None, err.decode()

    async def fill(self, amount: int) -> None:
        for number in range(amount):
            (self.folder / f"{number:03}.txt").write_text(f"document {number} is about cats")
        async with Runtime.open(self.settings, environ={}) as runtime:
            await runtime.add_knowledge([self.folder], user=USER)

    async def standing(self) -> tuple[str, int, int]:
        """The embedder in force, the chunks that are compared with it, and all chunks."""
        return (await self.place.rows(STANDING))[0]  # type: ignore[return-value]


@pytest.fixture
def library(place: Workplace, server: EmbeddingServer) -> Library:
    return Library(place, server)


async def test_all_documents_are_embedded_anew_and_their_next_add_costs_nothing(library: Library) -> None:
    await library.fill(3)
    assert await library.standing() == (MINILM, 3, 3)
    code, document, err = await library.do("reindex", "--embedder", "gemini", "--yes")
    assert code == 0, err
    assert (document["embedder"], document["chunks"]) == (GEMINI, 3)
    assert await library.standing() == (GEMINI, 3, 3)
    _, again, _ = await library.do("add", str(library.folder))
    assert again["verdicts"] == {"unchanged": 3}
    assert await library.place.value("SELECT count(*) FROM runtime.reindexed") == 0
    _, nothing, _ = await library.do("reindex", "--yes")
    assert nothing["chunks"] == 0


async def test_it_says_what_it_takes_and_does_nothing_before_somebody_agrees(
    library: Library, server: EmbeddingServer
) -> None:
    await library.fill(3)
    code, _, err = await library.do("reindex", "--embedder", "gemini")
    assert code == 2
    assert f"{GEMINI} embeds 3 chunks of 3 documents" in err
    assert "their text is sent to 127.0.0.1" in err
    assert "cats" not in " ".join(server.seen)
    assert await library.standing() == (MINILM, 3, 3)


async def test_a_kill_in_the_middle_leaves_the_old_one_in_force_and_the_next_goes_on(
    library: Library, server: EmbeddingServer
) -> None:
    await library.fill(150)  # three slices
    server.fault = lambda _number, texts: server.hold() if "cats" in texts[0] and server.texts > 60 else None  # type: ignore[func-returns-value]
    process = library.start("reindex", "--embedder", "gemini", "--yes")
    await asyncio.to_thread(_until_held, server, process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    staged = await library.place.value("SELECT count(*) FROM runtime.reindexed")
    assert staged == 64
    assert await library.standing() == (MINILM, 150, 150)
    with EmbeddingServer() as another:  # the first may still be answering him who was killed
        library.server = another
        code, document, err = await library.do("reindex", "--embedder", "gemini", "--yes")
    assert code == 0, err
    assert document["chunks"] == 150
    assert await library.standing() == (GEMINI, 150, 150)
    assert sum("cats" in text for text in another.seen) == 150 - staged
    assert await library.place.rows(
        "SELECT status FROM ai.workflow_runs WHERE workflow_name = 'knowledge_reindex'"
    ) == [("COMPLETED",)]


def _until_held(server: EmbeddingServer, process: subprocess.Popen[bytes]) -> None:
    while server.held.is_set():
        assert process.poll() is None
        server.reached.wait(0.05)


async def test_what_is_added_while_it_runs_is_not_left_behind(library: Library, server: EmbeddingServer) -> None:
    await library.fill(70)
    server.fault = lambda _number, texts: server.hold() if "cats" in texts[0] and server.texts > 60 else None  # type: ignore[func-returns-value]
    process = library.start("reindex", "--embedder", "gemini", "--yes")
    await asyncio.to_thread(_until_held, server, process)
    (library.folder / "late.txt").write_text("came while the others were embedded")
    (library.folder / "000.txt").write_text("changed while the others were embedded")
    _, added, _ = await library.do("add", str(library.folder), keyed=False)
    assert added["verdicts"] == {"added": 1, "updated": 1, "unchanged": 69}
    server.fault = lambda _number, _texts: None
    server.held.set()
    _, err = await asyncio.to_thread(process.communicate)
    assert process.returncode == 0, err
    assert await library.standing() == (GEMINI, 71, 71)


async def test_a_document_that_was_being_embedded_during_the_switch_is_embedded_once_more(
    library: Library, server: EmbeddingServer
) -> None:
    await library.do("add", str(library.folder / "x"), keyed=False)
    (library.folder / "a.txt").write_text("something about cats")
    code, _, err = await library.do("add", str(library.folder))  # by Gemini: it is the first
    assert code == 0, err
    (library.folder / "b.txt").write_text("something about dogs")
    server.fault = lambda _number, texts: server.hold() if "dogs" in texts[0] else None  # type: ignore[func-returns-value]
    process = library.start("add", str(library.folder))
    await asyncio.to_thread(_until_held, server, process)
    code, _, err = await library.do("reindex", "--embedder", "minilm", "--yes", keyed=False)
    assert code == 0, err
    server.held.set()
    await asyncio.to_thread(process.communicate)
    assert process.returncode == 0
    assert await library.standing() == (MINILM, 2, 2)


async def test_chunks_of_another_program_are_taken_in_only_when_asked_for(library: Library) -> None:
    await library.fill(1)
    await library.place.execute(
        "INSERT INTO ai.agno_knowledge (name, metadata) VALUES ('theirs', '{\"user_id\": \"user-123\"}')"
    )
    await library.place.execute(
        "INSERT INTO ai.cirkelline_knowledge_vectors (embedding, chunk_text, document_id, metadata)"
        " SELECT array_fill(0.1, ARRAY[768])::real[], 'their words', d.id, '{\"user_id\": \"user-123\"}'"
        "   FROM ai.agno_knowledge d WHERE d.name = 'theirs'"
    )
    theirs = "SELECT embedding::text, metadata FROM ai.cirkelline_knowledge_vectors WHERE chunk_text = 'their words'"
    before = await library.place.rows(theirs)
    await library.do("reindex", "--embedder", "gemini", "--yes")
    assert await library.place.rows(theirs) == before
    assert await library.standing() == (GEMINI, 1, 2)
    await library.do("reindex", "--adopted", "--yes")
    assert await library.standing() == (GEMINI, 2, 2)


async def test_another_language_reads_all_words_anew(library: Library) -> None:
    await library.fill(2)
    words = "SELECT string_agg(array_to_string(tsvector_to_array(words), ' '), ' ') FROM ai.knowledge_words"
    assert "cats" not in (await library.place.value(words)).split()
    code, _, err = await library.do("reindex", "--language", "simple", "--yes", keyed=False)
    assert code == 0, err
    assert "cats" in (await library.place.value(words)).split()
    code, _, err = await library.do("reindex", "--language", "klingon", "--yes", keyed=False)
    assert (code, "it has arabic" in err) == (2, True)


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--embedder", "mini"], 2, "minilm"),
        (["--yes"], 2, "no embedder is in force yet"),
        (["--embedder", "gemini", "--yes"], 1, "GOOGLE_API_KEY"),
    ],
)
async def test_what_cannot_be_is_said(library: Library, arguments: Sequence[str], code: int, said: str) -> None:
    found, _, err = await library.do("reindex", *arguments, keyed=False)
    assert (found, said in err) == (code, True), err


async def test_a_chunk_longer_than_the_embedder_reads_is_the_mean_of_its_parts(tmp_path: Path) -> None:
    async with EmbedderPool({"CIRKELLINE_HOME": str(tmp_path)}) as pool:
        embedder = await pool.get("minilm")
        cats, cars = "cats purr and sleep " * 60, "engines burn fuel " * 60
        (whole,) = await reindexing.embedded(embedder, [Chunk(1, f"{cats}{cars}", None, "")])
        about_cats, about_cars = await embedder.embed(["a sleeping cat", "the engine of a car"])
    near = [sum(x * y for x, y in zip(whole, other, strict=True)) for other in (about_cats, about_cars)]
    assert min(near) > 0.3
    assert abs(sum(value * value for value in whole) - 1) < 1e-5
