"""memory_optimization whose worker is killed at each point of each of its steps, looked at by what the database then holds."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from embedding_server import EmbeddingServer, vector
from kills import Crew
from listening_model import ListeningModel, Shown, listening
from workplace import Workplace, until

from cirkelline.runtime import workflows
from cirkelline.state import knowledge_settings, memories, users
from cirkelline.state.memories import Meaning, NewMemory, Origin
from cirkelline.state.tenant import tenant
from cirkelline.tools.toolbox import Toolbox

EMBEDDER = "gemini:gemini-embedding-001"

# What a daemon of these does besides: it can be held by a file before a step does anything, in its transaction before the
# commit, between the commit and the step's record, and between that and the next step.
PRELUDE = """
import asyncio, contextlib, contextvars, functools, os, pathlib
from cirkelline.runtime import memory_optimization
from cirkelline.tools.workflows import WorkflowRun

PLACE = pathlib.Path(os.environ["HOLDS"])
at, step, tenant = contextvars.ContextVar("at"), WorkflowRun.step, memory_optimization.tenant

async def hold(where, name):
    point = f"{where} {name}"
    with (PLACE / "marks").open("a") as file:
        file.write(point + "\\n")
    while (PLACE / f"hold {point}").exists():
        await asyncio.sleep(0.01)

async def held_step(self, name, function, *given, **options):
    @functools.wraps(function)
    async def held(ctx, *arguments):
        at.set(name)
        await hold("in", name)
        gave = await function(ctx, *arguments)
        await hold("done", name)
        return gave
    gave = await step(self, name, held, *given, **options)
    await hold("after", name)
    return gave

@contextlib.asynccontextmanager
async def held_tenant(*given):
    async with tenant(*given) as door:
        yield door
        await hold("written", at.get())

WorkflowRun.step, memory_optimization.tenant = held_step, held_tenant
"""

SAID: list[tuple[str, list[str] | None]] = [
    ("Likes green tea", ["Drinks", "food"]),
    ("likes GREEN tea.", ["drink"]),
    ("Lives in Ghent", ["Home"]),
    ("lives in Ghent!", ["home"]),
    ("Plays the cello", None),
    ("plays the CELLO", ["music"]),
    ("Works at the old city library", ["work"]),
    ("Works at the new city library", ["work"]),
    ("Has a brown dog called Rex", ["pets"]),
    ("Has a big dog called Rex", ["pet"]),
    ("Owns a boat", ["Music"]),
    ("Lives in Aarhus", ["home"]),
]
OLD, NEW, DOG, BIG_DOG = (SAID[at][0] for at in (6, 7, 8, 9))
STEPS = ["fetch", "classify 1", "merge", *(f"save {number}" for number in range(1, 6)), "normalize topics"]
WRITING = [name for name in STEPS if name not in {"classify 1", "merge"}]
POINTS = [
    f"{where} {name}"
    for name in STEPS
    for where in ("in", "written", "done", "after")
    if where != "written" or name in WRITING
]
"""Where a run can be killed, in its order."""

LIVE = """
SELECT m.id, m::text, i::text, i.origin FROM ai.agno_memories m JOIN ai.memory_index i USING (id)
 WHERE m.user_id = %s ORDER BY m.id
"""
ARCHIVED = """
SELECT (a.original ->> 'id')::integer, a.reason, a.exact FROM ai.agno_memories_archive a WHERE a.user_id = %s
"""


def decide(shown: Shown) -> Any:
    """Decide as a model would: the old library is not true any more, and the two dogs are one."""
    ids = {line["memory"]: line["id"] for line in map(json.loads, shown[1][1].splitlines())}
    decision: dict[str, Any] = {"delete": [], "merge": []}
    if {OLD, NEW} <= ids.keys():
        decision["delete"] = [{"id": ids[OLD], "because_of": ids[NEW]}]
    if {DOG, BIG_DOG} <= ids.keys():
        decision["merge"] = [{"ids": [ids[DOG], ids[BIG_DOG]], "memory": "Has a big brown dog called Rex"}]
    return "decide", decision


@dataclass
class MemoryScene:
    """Users whose memories are alike, and daemons that go through them."""

    place: Workplace
    crew: Crew
    people: int = 0
    faults: list[str] = field(default_factory=list[str])

    @property
    def marks(self) -> list[str]:
        file = self.place.folder / "marks"
        return file.read_text().splitlines() if file.exists() else []

    async def person(self) -> tuple[str, UUID]:
        """Make a user who has told all of that: with what other programs may have put there, to the byte."""
        self.people += 1
        name = f"person{self.people}@example.com"
        async with self.place.db.connection() as conn:
            user = (await users.ensure(conn, name)).id
        async with tenant(self.place.db, user) as door:
            ids = [
                await memories.add(
                    door,
                    NewMemory(
                        memory=text,
                        origin=Origin.ADDED,
                        topics=topics or (),
                        input=f"It is so: {text}\n\ttruly “{text}” \\ é",
                        meaning=Meaning(vector(text), EMBEDDER),
                    ),
                )
                for text, topics in SAID
            ]
            await memories.supersede(door, [ids[11]], ids[2])
        await self.place.execute("UPDATE ai.agno_memories SET topics = 'null' WHERE id = %s", ids[4])
        await self.place.execute(
            "UPDATE ai.agno_memories SET created_at = 'infinity', price = 1.50 WHERE id = %s", ids[0]
        )
        await self.place.execute(
            """UPDATE ai.agno_memories SET seal = '\\x00ff', note = '{"b":  1, "a": 2}' WHERE id = ANY(%s)""",
            ids[2:11:3],
        )
        return name, user

    async def killed_at(self, points: Sequence[str]) -> None:
        """Go through a new user's memories, kill the worker at each of these points in turn, and note what is wrong."""
        name, user = await self.person()
        before = await self.place.rows(LIVE, str(user))
        for point in points:
            (self.place.folder / f"hold {point}").touch()
        await self.crew.fill()
        said = len(self.marks)
        run = await self.submit(name)
        for point in points:
            await self._reached(point, said)
            await self.crew.kill_holder(run)
            self._note(points, await self._originals(user, before))
            (self.place.folder / f"hold {point}").unlink()
            await self.crew.fill()
        (task,) = await self.place.ended(run)
        self._note(
            points, await self._at_the_end(run, user, before, task.result, len(points) + 1 - (task.attempt or 0))
        )
        again = await self.submit(name)
        (task,) = await self.place.ended(again)
        self._note(points, self._differs("archived by a second run", task.result["output"]["archived"], 0))
        self._note(points, await self._originals(user, before))
        await self._undone(name, run)
        self._note(points, self._differs("undone", await self.place.rows(LIVE, str(user)), before))
        self._note(points, self._differs("left in the archive", await self.place.rows(ARCHIVED, str(user)), []))

    async def submit(self, name: str) -> UUID:
        given = {"model": "openai:m"}
        run, _ = await workflows.submit(
            self.place.db, Toolbox(self.place.tools), "memory_optimization", given, user=name
        )
        return run

    async def _reached(self, point: str, said: int) -> None:
        """Wait until the run is held at a point, by what has been said since it was submitted."""

        async def look() -> bool:
            return self.marks[said:][-1:] == [point]

        await until(look, f"the run at {point!r}")

    async def _originals(self, user: UUID, before: list[tuple[Any, ...]]) -> list[str]:
        """What is live and what is archived make up what there was, to the byte, and nothing is there twice."""
        live = {row[0]: row[1] for row in await self.place.rows(LIVE, str(user)) if row[3] != "merged"}
        archived = await self.place.rows(ARCHIVED, str(user))
        changed = {number: exact for number, reason, exact in archived if reason == "changed"}
        moved = {number: exact for number, reason, exact in archived if reason != "changed"}
        twice = [number for number, amount in Counter(row[0] for row in archived).items() if amount > 1]
        return [
            *self._differs("live and archived", live | changed | moved, {row[0]: row[1] for row in before}),
            *self._differs("both live and archived", sorted(live.keys() & moved.keys()), []),
            *self._differs("changed and not live", sorted(changed.keys() - live.keys()), []),
            *self._differs("archived twice", twice, []),
        ]

    async def _at_the_end(
        self, run: UUID, user: UUID, before: list[tuple[Any, ...]], result: Any, lacking: int
    ) -> list[str]:
        steps = await self.place.rows(
            "SELECT name FROM runtime.journal WHERE task_id = %s AND kind = 'step' ORDER BY position", run
        )
        output = result.get("output") or result
        made = [row[1] for row in await self.place.rows(LIVE, str(user)) if row[3] == "merged"]
        replaced = "SELECT s.memory FROM ai.memory_index i JOIN ai.agno_memories m USING (id) JOIN ai.agno_memories s ON s.id = i.superseded_by WHERE m.memory = 'Lives in Aarhus' AND m.user_id = %s"
        return [
            *await self._originals(user, before),
            *self._differs("steps", [name for (name,) in steps], STEPS),
            *self._differs("report", [output.get(key) for key in ("memories", "merged", "deleted", "archived")], [11, 8, 1, 9]),
            *self._differs("topics changed", output.get("topics_changed"), 1),
            *self._differs("made", len(made), 4),
            *self._differs("replaced by", await self.place.rows(replaced, str(user)), [("lives in Ghent!",)]),
            *self._differs("attempts lacking", lacking, 0),
        ]  # fmt: skip

    async def _undone(self, name: str, run: UUID) -> None:
        environ = {**os.environ, "DATABASE_URL": self.place.db.url}
        command = [sys.executable, "-m", "cirkelline", "memories", "undo", str(run), "--user", name]
        await asyncio.to_thread(subprocess.run, command, env=environ, check=True, capture_output=True, timeout=60)

    def _differs(self, what: str, found: Any, wanted: Any) -> list[str]:
        return [] if found == wanted else [f"{what}: {found} instead of {wanted}"]

    def _note(self, points: Sequence[str], faults: list[str]) -> None:
        self.faults += [f"killed at {', '.join(points)}: {fault}" for fault in faults]


@asynccontextmanager
async def memory_scene(place: Workplace) -> AsyncIterator[MemoryScene]:
    """Two daemons that embed and ask a model, and columns that another program added."""
    async with place.db.connection() as conn:
        await knowledge_settings.fix_embedder(conn, EMBEDDER)
        await conn.execute("ALTER TABLE ai.agno_memories ADD price NUMERIC, ADD seal BYTEA, ADD note JSON")
    model: ListeningModel
    with EmbeddingServer() as server:
        async with listening(decide) as model:
            environ = {
                **server.environ,
                "OPENAI_BASE_URL": f"{model.url}/v1",
                "OPENAI_API_KEY": "a-key-for-tests",
                "HOLDS": str(place.folder),
            }
            crew = Crew(place, 2, environ=environ, prelude=PRELUDE)
            try:
                yield MemoryScene(place, crew)
            finally:
                crew.end()
