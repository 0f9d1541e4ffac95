"""`knowledge reindex` as a workflow: embed everything anew beside the old vectors, then switch at once."""

from __future__ import annotations

import array
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from uuid import UUID

from cirkelline.runtime.composition import Opened
from cirkelline.runtime.ingest.verdicts import Progress, Tell, tell_nobody
from cirkelline.runtime.patience import until_answered
from cirkelline.state import backfill, knowledge_settings, reindexing
from cirkelline.state.reindexing import Amount, Chunk
from cirkelline.tools import workflows
from cirkelline.tools.embedding import DIMENSIONS, Embedder
from cirkelline.tools.reading import Piece
from cirkelline.tools.workflows import Workflow, WorkflowRun, workflow

LABEL: Final = "knowledge_reindex"
SMALLEST_STEP: Final = 256  # chunks
MOST_STEPS: Final = 100
SLICE: Final = 64
ROUNDS: Final = 5
"""Switches that are put off for what was added meanwhile; after them it is embedded behind the switch."""
TAKEN_IN: Final = 500  # chunks of which the words are read in one transaction

PATIENCE: Final = 20
WALL: Final = 30 * 86_400.0
SAMPLE: Final = (
    "The embedder of a database turns the text of each chunk into numbers. This passage was written to measure how long"
    " that takes here, as no document may be sent anywhere before somebody has agreed to it. "
)


@dataclass(frozen=True, slots=True)
class Request:
    """What was asked for."""

    embedder: str
    language: str | None = None
    adopted: bool = False

    @property
    def given(self) -> dict[str, Any]:
        """The input of a run."""
        return {"embedder": self.embedder, "language": self.language, "adopted": self.adopted}

    def fits(self, given: Mapping[str, Any], user_id: UUID | None) -> bool:
        """Whether a run was asked for the same."""
        return user_id is None and all(given.get(key) == value for key, value in self.given.items())


async def seconds_for(embedder: Embedder, amount: Amount) -> float:
    """Return about how long embedding takes, from chunks of the same length with words of our own."""
    if not amount.chunks:
        return 0.0
    length = max(1, amount.characters // amount.chunks)
    text = (SAMPLE * (length // len(SAMPLE) + 1))[:length]
    await embedder.embed([text])  # whatever is loaded at the first time
    few = [f"{number} {text}" for number in range(8)]
    began = time.perf_counter()
    await embedder.embed(few)
    return (time.perf_counter() - began) / len(few) * amount.chunks


async def embedded(embedder: Embedder, chunks: Sequence[Chunk]) -> list[array.array[float]]:
    """Return a vector for each chunk; of one that is longer than the embedder reads, the mean of its parts'."""
    parts = [_parts(embedder, Piece(chunk.text, None, 0, chunk.heading).embedded) for chunk in chunks]
    vectors = iter(await embedder.embed([part for each in parts for part in each]))
    return [_mean([next(vectors) for _ in each]) for each in parts]


def _parts(embedder: Embedder, text: str) -> list[str]:
    amount = embedder.count(text)
    if amount <= embedder.window:
        return [text]
    words = text.split()
    size = max(1, len(words) * embedder.window * 9 // (amount * 10))
    return [" ".join(words[first : first + size]) for first in range(0, len(words), size)] or [text]


def _mean(vectors: Sequence[Sequence[float]]) -> array.array[float]:
    if len(vectors) == 1:
        return array.array("f", vectors[0])
    total = [math.fsum(column) for column in zip(*vectors, strict=True)]
    length = math.sqrt(math.fsum(value * value for value in total)) or 1.0
    assert len(total) == DIMENSIONS  # noqa: S101 - the embedder's contract
    return array.array("f", [value / length for value in total])


@dataclass(frozen=True, slots=True)
class Slice:
    """What a step gave: how many chunks it embedded, and whether there are more."""

    embedded: int
    more: bool = False


@dataclass(slots=True)
class Reindexing:
    """One attempt at a run."""

    opened: Opened
    embedder: Embedder
    request: Request
    amount: Amount
    tell: Tell = tell_nobody
    done: int = field(default=0)

    def workflow(self) -> Workflow:
        """Return the workflow that carries this attempt out."""

        @workflow(wall=WALL)
        async def knowledge_reindex(
            run: WorkflowRun, embedder: str, language: str | None = None, adopted: bool = False, host: str = ""
        ) -> dict[str, Any]:
            """Embed all documents anew."""
            del embedder, language, adopted, host
            return await self._run(run)

        found = workflows.marked(knowledge_reindex)
        assert found is not None  # noqa: S101 - it was marked above; told to the type checkers
        return found

    async def _run(self, run: WorkflowRun) -> dict[str, Any]:
        number, more, done = 0, True, 0
        while more:
            number += 1
            gave = await run.step(f"embed {number}", self._embed)
            done, more = done + gave.embedded, gave.more
        changed = await run.step("switch", self._switch)
        rest = await run.step("rest", self._rest)
        if self.request.language:
            await run.step("language", self._language)
        return {"embedder": self.request.embedder, "chunks": changed + rest, "embedded": done + rest}

    async def _embed(self) -> Slice:
        """Embed and put aside some of what has no new vector yet."""
        size = max(SMALLEST_STEP, math.ceil(self.amount.chunks / MOST_STEPS))
        begun = done = await self._staged()
        while done - begun < size:
            chunks = await self._next(min(SLICE, size))
            if not chunks:
                return Slice(done - begun)
            await self._stage(chunks)
            done += len(chunks)
            self._say(done)
        return Slice(done - begun, more=True)

    async def _staged(self) -> int:
        async def count() -> int:
            async with self.opened.db.connection() as conn:
                return await reindexing.left(conn, self.embedder.label, adopted=self.request.adopted)

        return max(0, self.amount.chunks - await until_answered(count, "count what is left"))

    async def _next(self, limit: int) -> list[Chunk]:
        async def look() -> list[Chunk]:
            async with self.opened.db.connection() as conn:
                adopted = self.request.adopted
                return await reindexing.next_chunks(conn, self.embedder.label, adopted=adopted, limit=limit)

        return await until_answered(look, "read chunks")

    async def _stage(self, chunks: Sequence[Chunk]) -> None:
        vectors = await embedded(self.embedder, chunks)

        async def stage() -> None:
            async with self.opened.db.connection() as conn:
                await reindexing.stage(conn, self.embedder.label, chunks, vectors)

        await until_answered(stage, "put new vectors aside")

    async def _switch(self) -> int:
        """Switch as soon as nothing is left, or after some rounds with what little was added meanwhile left out."""
        for tried in range(1, ROUNDS + 1):
            changed = await self._try_switch(allowed=0 if tried < ROUNDS else 2**31)
            if changed is not None:
                return changed
            while chunks := await self._next(SLICE):
                await self._stage(chunks)
        raise AssertionError  # the last round allows everything

    async def _try_switch(self, *, allowed: int) -> int | None:
        async def switch() -> int | None:
            async with self.opened.db.connection() as conn:
                adopted = self.request.adopted
                return await reindexing.switch(conn, self.embedder.label, adopted=adopted, allowed=allowed)

        self.tell(Progress(self.amount.chunks, self.amount.chunks, self.amount.chunks, "switching"))
        return await until_answered(switch, "switch to the new vectors")

    async def _rest(self) -> int:
        """Embed what was stored under the old embedder after all, until there is none of it."""
        changed = 0
        while chunks := await self._next(SLICE):
            await self._stage(chunks)
            changed += await self._try_switch(allowed=2**31) or 0
        return changed

    async def _language(self) -> int:
        """Change the language, and take all words in again in batches."""

        async def change() -> None:
            async with self.opened.db.connection() as conn:
                await knowledge_settings.change(conn, language=self.request.language)

        async def take_in() -> int:
            async with self.opened.db.connection() as conn:
                return await backfill.backfill(conn, TAKEN_IN)

        await until_answered(change, "change the language")
        rounds, still, before = 0, 0, -1
        while still < PATIENCE and (left := await until_answered(take_in, "take words in again")):
            # The count ends at ten thousand, so it stands still for a while before it falls; and rows that somebody is
            # just writing are left to whoever takes in next.
            still = still + 1 if left >= before >= 0 and left < backfill.COUNTED else 0
            rounds, before = rounds + 1, left
        return rounds

    def _say(self, done: int) -> None:
        self.tell(Progress(min(done, self.amount.chunks), self.amount.chunks, done))
