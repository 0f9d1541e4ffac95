"""What is recalled of 305 memories, beside what others do with them: `python tests/bench/memory_recall.py`.

People with dated memories, facts that were replaced, and questions that share words with what answers them or share none
(memory_set.py). Prints one JSON line for each way: how often the answer is among the first five and ten, how often a fact
that is out of date is among the first five of any question (`stale`), the tokens that go into the prompt, and for ours the
milliseconds. Ours is the product's own recall through PostgreSQL, of memories that were written without superseding
(`ours`), by the rule alone (`rule`), and with scripted decisions about what stands near (`decided`); `lost` counts facts
that are true and are not recalled any more because of that, `server_ms` is processor time of PostgreSQL for one recall.

`--model LABEL` (`embedded` is the small embedded model, which the tests run as well, `embedded-default` the one that users
get) has memory_optimization go through the
memories that the rule has left of the first `--consolidated` people, and adds a line of what is recalled then.

The others: all in the prompt and the last ten (agno), plain vectors, vectors and BM25 by equal reciprocal ranks.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import math
import os
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from uuid import UUID

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[1] / "runtime"))
sys.path.insert(0, str(Path(__file__).parents[1] / "agents"))

import numpy as np
import structlog
from journal_kills import workplace
from local_weights import labelled
from memory_set import NOW, Person, Question, people, stems
from numpy.typing import NDArray
from processors import client_and_server
from workplace import Workplace

from cirkelline.runtime import workflows
from cirkelline.state import knowledge_settings, memories, users
from cirkelline.state.memories import Meaning, NewMemory, Origin
from cirkelline.state.tenant import tenant
from cirkelline.tools.embedding import Embedder, EmbedderPool
from cirkelline.tools.remembering import keep
from cirkelline.tools.toolbox import Toolbox

BUDGET = 150
TOLD = 305
"""Memories of each person."""
RUN = "memory_optimization"
LABEL = "minilm:all-MiniLM-L6-v2-int8"
Numbers = NDArray[np.float32]
Decide = Callable[["Scene", int, Sequence[int]], list[int]]
Rank = Callable[["Scene", Question], Sequence[int]]


@dataclass(slots=True)
class Scene:
    """One person, the numbers of their memories and questions."""

    person: Person
    embeddings: Numbers
    asked: dict[str, Numbers]
    ids: list[int] = field(default_factory=list[int])
    user: UUID | None = None
    made: dict[int, int] = field(default_factory=dict[int, int])
    """Memories that a run has made, each with the place of the latest that went into it."""

    @property
    def tokens(self) -> list[int]:
        return [1 + len(each.text.encode()) // 4 for each in self.person.memories]


@dataclass(slots=True)
class Figures:
    """What one way came to."""

    same: list[bool] = field(default_factory=list[bool])
    other: list[tuple[bool, bool]] = field(default_factory=list[tuple[bool, bool]])
    stale: list[bool] = field(default_factory=list[bool])
    tokens: list[int] = field(default_factory=list[int])
    ms: list[float] = field(default_factory=list[float])

    def add(self, question: Question, found: Sequence[int]) -> None:
        if question.shares_words:
            self.same.append(question.answer in found[:5])
        else:
            self.other.append((question.answer in found[:5], question.answer in found[:10]))
        self.stale.append(bool(set(question.stale) & set(found[:5])))

    def line(self, way: str, **more: Any) -> str:
        found = {
            "way": way,
            "same_words_r5": round(statistics.mean(self.same), 3),
            "other_words_r5": round(statistics.mean(five for five, _ in self.other), 3),
            "other_words_r10": round(statistics.mean(ten for _, ten in self.other), 3),
            "stale_top5": round(statistics.mean(self.stale), 3),
            "tokens": round(statistics.mean(self.tokens)) if self.tokens else None,
            **({"ms_p50": round(statistics.median(self.ms), 2)} if self.ms else {}),
            **more,
        }
        return json.dumps(found)


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


async def embedded(embedder: Embedder, texts: Sequence[str]) -> Numbers:
    return np.array(await embedder.embed(texts), dtype=np.float32)


def peers() -> dict[str, Rank]:
    """How others choose, in numpy."""

    def everything(scene: Scene, question: Question) -> list[int]:
        # All of it is before the model: what answers is there, and so is what is out of date.
        first = [question.answer, *question.stale]
        return first + [each for each in range(len(scene.person.memories)) if each not in first]

    def last(scene: Scene, _question: Question) -> list[int]:
        return list(range(len(scene.person.memories)))[-10:][::-1]

    def vector(scene: Scene, question: Question) -> list[int]:
        return [int(each) for each in np.argsort(-(scene.embeddings @ scene.asked[question.text]))]

    def words(scene: Scene, question: Question) -> list[int]:
        texts = [stems(each.text) for each in scene.person.memories]
        holding = Counter(stem for each in texts for stem in each)
        weight = {stem: math.log(1 + (len(texts) - n + 0.5) / (n + 0.5)) for stem, n in holding.items()}
        asked = stems(question.text)
        scores = np.array([sum(weight[stem] for stem in asked & each) for each in texts])
        return [int(each) for each in np.argsort(-scores, kind="stable") if scores[each] > 0]

    def fused(scene: Scene, question: Question) -> list[int]:
        scores: Counter[int] = Counter()
        for ranking in (vector(scene, question), words(scene, question)):
            for place, each in enumerate(ranking):
                scores[each] += 1 / (60 + place)  # type: ignore[assignment]
        return [each for each, _ in scores.most_common()]

    return {"all in the prompt": everything, "last 10": last, "vector": vector, "vector + BM25 by ranks": fused}


async def write(place: Workplace, scene: Scene, name: str, decide: Decide | None = None) -> None:
    """Write a person's memories in their order: as they are, or each with a decision about what it replaces."""
    async with place.db.connection() as conn:
        scene.user = (await users.ensure(conn, name)).id
    scene.ids = []
    async with tenant(place.db, scene.user) as door:
        for at, (each, numbers) in enumerate(zip(scene.person.memories, scene.embeddings, strict=True)):
            new = NewMemory(
                memory=each.text,
                origin=Origin.ADDED,
                meaning=Meaning([float(value) for value in numbers], LABEL),
            )
            if decide is None:
                scene.ids.append(await memories.add(door, new))
            else:
                near = [found.id for found in await memories.near(door, new.memory, new.meaning, amount=5, least=0.2)]
                scene.ids.append((await keep(door, new, replaces=decide(scene, at, near))).id)
        dates = [each.at for each in scene.person.memories]
        await door.conn.execute(
            "UPDATE ai.memory_index i SET valid_from = g.at FROM unnest(%s::integer[], %s::timestamptz[]) AS g (id, at)"
            " WHERE i.id = g.id",
            [scene.ids, dates],
        )


def by_rule(_scene: Scene, _at: int, _near: Sequence[int]) -> list[int]:
    """No model is at hand: nothing is said about what stands near."""
    return []


def scripted(scene: Scene, at: int, near: Sequence[int]) -> list[int]:
    """Decide as a model would that is never wrong about the few that it is shown: those stale by this one are replaced."""
    places = {found: place for place, found in enumerate(scene.ids)}
    fact = scene.person.memories[at].fact
    return [found for found in near if fact is not None and scene.person.memories[places[found]].fact == fact]


# What a run made, and which memories went into it.
MADE = """
SELECT a.replaced_by, (a.original ->> 'id')::integer FROM ai.agno_memories_archive a
 WHERE a.reason = 'merged' AND a.replaced_by IS NOT NULL
"""


async def lost(place: Workplace, scenes: Sequence[Scene]) -> int:
    """How many memories that are true are not recalled any more: archived but for a merge, or held to be replaced."""
    gone = 0
    for scene in scenes:
        assert scene.user is not None
        async with tenant(place.db, scene.user) as door:
            there = {each.id for each in await memories.find(door, limit=None) if each.superseded_by is None}
        there |= {old for new, old in await place.rows(MADE) if new in there}
        true = {found for found, each in zip(scene.ids, scene.person.memories, strict=True) if not each.stale}
        gone += len(true - there)
    return gone


async def ours(place: Workplace, scenes: Sequence[Scene], *, amount: int = 10) -> Figures:
    """Ask every question through the product's recall."""
    figures = Figures()
    for scene in scenes:
        assert scene.user is not None
        places = {each: at for at, each in enumerate(scene.ids)} | scene.made
        for question in scene.person.questions:
            meaning = Meaning([float(value) for value in scene.asked[question.text]], LABEL)
            async with tenant(place.db, scene.user) as door:
                began = time.perf_counter()
                found = await memories.recall(door, question.text, meaning, amount=amount, budget=BUDGET, at=NOW)
                figures.ms.append((time.perf_counter() - began) * 1000)
            chosen = [places[each.id] for each in found]
            figures.add(question, chosen)
            figures.tokens.append(sum(scene.tokens[each] for each in chosen))
    return figures


async def server_ms(place: Workplace, scenes: Sequence[Scene], *, asked: int = 100) -> float | None:
    """Processor milliseconds of the server for one recall."""
    scene = scenes[0]
    assert scene.user is not None
    before = await client_and_server(place)
    for number in range(asked):
        question = scene.person.questions[number % len(scene.person.questions)]
        meaning = Meaning([float(value) for value in scene.asked[question.text]], LABEL)
        async with tenant(place.db, scene.user) as door:
            await memories.recall(door, question.text, meaning, amount=8, budget=BUDGET, at=NOW)
    after = await client_and_server(place)
    if before[1] is None or after[1] is None:
        return None
    return round((after[1] - before[1]) / asked, 2)


async def at_a_thousand(place: Workplace, scenes: Sequence[Scene]) -> dict[str, Any]:
    """The same for somebody with a thousand memories: those of four people."""
    many = Scene(Person(), np.concatenate([each.embeddings for each in scenes[:4]])[:1000], scenes[0].asked)
    many.person.memories = [each for scene in scenes[:4] for each in scene.person.memories][:1000]
    many.person.questions = scenes[0].person.questions
    await write(place, many, "a thousand")
    async with place.db.connection() as conn:
        await conn.execute("ANALYZE ai.memory_index")
    wall = (await ours(place, [many], amount=8)).ms
    return {
        "ms_p50": round(statistics.median(wall), 2),
        "ms_p95": round(statistics.quantiles(wall, n=20)[-1], 2),
        "server_ms": await server_ms(place, [many]),
    }


async def consolidated(place: Workplace, scenes: Sequence[Scene], label: str, environ: dict[str, str]) -> Figures:
    """Have a model go through what the rule has left, then ask every question; what was merged counts as its latest."""
    for number, scene in enumerate(scenes):
        await write(place, scene, f"consolidated {number}", by_rule)
    async with place.working(environ=environ):
        for scene in scenes:
            given = {"model": label}
            run, _ = await workflows.submit(place.db, Toolbox(place.tools), RUN, given, user=str(scene.user))
            while not (await place.task(run)).ended:  # noqa: ASYNC110 - a row in a table
                await asyncio.sleep(0.5)
            task = await place.task(run)
            say(json.dumps({"run": task.status, "error": task.error, "output": task.result.get("output")}))
    latest = dict(sorted(await place.rows(MADE)))  # of several with one key the last one stays, which is the latest
    for scene in scenes:
        places = {each: at for at, each in enumerate(scene.ids)}
        scene.made = {new: places[old] for new, old in latest.items() if old in places}
    return await ours(place, scenes)


async def scenes_of(embedder: Embedder, amount: int, told: int = TOLD) -> list[Scene]:
    made: list[Scene] = []
    for person in people(amount, memories=told):
        texts = [each.text for each in person.memories]
        asked = list(dict.fromkeys(question.text for question in person.questions))
        numbers = await embedded(embedder, texts + asked)
        made.append(Scene(person, numbers[: len(texts)], dict(zip(asked, numbers[len(texts) :], strict=True))))
    return made


async def measure(amount: int) -> None:
    async with EmbedderPool(os.environ) as pool, workplace() as place:
        scenes = await scenes_of(await pool.get(LABEL), amount)
        for way, rank in peers().items():
            figures = Figures()
            for scene in scenes:
                for question in scene.person.questions:
                    found = list(rank(scene, question))
                    figures.add(question, found)
                    shown = found if way.startswith("all") else found[:10]
                    figures.tokens.append(sum(scene.tokens[each] for each in shown))
            say(figures.line(way))
        ways: dict[str, Decide | None] = {"ours": None, "ours, rule": by_rule, "ours, decided": scripted}
        for way, decide in ways.items():
            for number, scene in enumerate(scenes):
                await write(place, scene, f"{way} {number}", decide)
            async with place.db.connection() as conn:
                await conn.execute("ANALYZE ai.memory_index")
            figures = await ours(place, scenes)
            server = await server_ms(place, scenes)
            more = {"lost": await lost(place, scenes), "server_ms": server}
            say(figures.line(way, **more))
        say(json.dumps({"way": "ours, 1,000 memories", **await at_a_thousand(place, scenes)}))


async def measure_model(amount: int, label: str, told: int) -> None:
    """What the rule leaves, and what is left of that by a model; of the same few people."""
    async with EmbedderPool(os.environ) as pool, workplace() as place:
        async with place.db.connection() as conn:
            await knowledge_settings.fix_embedder(conn, LABEL)
        place.opened = replace(place.opened, settings=place.settings.model_copy(update={"optimize_after": 0}))
        scenes = await scenes_of(await pool.get(LABEL), amount, told)
        for number, scene in enumerate(scenes):
            await write(place, scene, f"rule {number}", by_rule)
        left = await lost(place, scenes)
        say((await ours(place, scenes)).line("ours, rule", people=amount, memories=told, lost=left))
        figures = await consolidated(place, scenes, labelled(label), dict(os.environ))
        say(figures.line(f"ours, rule and {label}", people=amount, memories=told, lost=await lost(place, scenes)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--people", type=int, default=40)
    parser.add_argument(
        "--model", help="only what a model makes of some: local:NAME, gemini:NAME, embedded, or embedded-default"
    )
    parser.add_argument("--consolidated", type=int, default=1, help="how many people --model goes through")
    parser.add_argument("--memories", type=int, default=TOLD, help="how many memories each of these has")
    options = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    if options.model:
        asyncio.run(measure_model(options.consolidated, options.model, options.memories))
    else:
        asyncio.run(measure(options.people))


if __name__ == "__main__":
    main()
