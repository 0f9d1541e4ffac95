"""memory_optimization merges and deletes what is in the archive whole, goes on after any kill, and is undone exactly."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from listening_model import Shown, listening
from shelves import LABEL, Bags, vector
from workplace import Workplace

from cirkelline.runtime import memory_couples, memory_optimization, workflows
from cirkelline.runtime.memory_optimization import Delete, Merge, Verdict, admitted, one_name
from cirkelline.state import knowledge_settings, memories, optimizing, users
from cirkelline.state.memories import Meaning, NewMemory, Origin
from cirkelline.state.optimizing import Listed, Pair
from cirkelline.state.tenant import tenant
from cirkelline.tools.contract import ToolContext
from cirkelline.tools.toolbox import Toolbox

WHOLE = "SELECT to_jsonb(m), to_jsonb(i) FROM ai.agno_memories m JOIN ai.memory_index i USING (id) ORDER BY m.id"
LIVE_OR_ARCHIVED = """
SELECT row FROM (SELECT to_jsonb(m) - 'topics' AS row FROM ai.agno_memories m JOIN ai.memory_index i USING (id) WHERE i.origin <> 'merged'
                  UNION ALL SELECT a.original - 'topics' FROM ai.agno_memories_archive a WHERE a.reason <> 'changed') s
 ORDER BY (row ->> 'id')::integer
"""


@pytest.fixture
async def user(place: Workplace) -> UUID:
    async with place.db.connection() as conn:
        await knowledge_settings.fix_embedder(conn, LABEL)
        return (await users.ensure(conn, "ivo")).id


async def told(place: Workplace, user: UUID, *said: tuple[str, Sequence[str]]) -> list[int]:
    """Write memories as another program would: also what is there already."""
    async with tenant(place.db, user) as door:
        return [
            await memories.add(
                door, NewMemory(memory=text, origin=Origin.ADDED, topics=topics, meaning=Meaning(vector(text), LABEL))
            )
            for text, topics in said
        ]


async def optimize(place: Workplace, user: UUID, given: dict[str, Any] | None = None) -> UUID:
    run, _ = await workflows.submit(place.db, Toolbox(place.tools), "memory_optimization", given or {}, user=str(user))
    return run


async def texts(place: Workplace, user: UUID) -> list[str]:
    async with tenant(place.db, user) as door:
        return sorted(each.memory for each in await memories.find(door))


async def output(place: Workplace, run: UUID) -> Any:
    (task,) = await place.ended(run)
    assert task.status == "completed", task.error
    return task.result["output"] if isinstance(task.result, dict) else None


TWICE = [
    ("Likes green tea", ["Drinks", "food"]),
    ("likes GREEN tea.", ["drink"]),
    ("Lives in Aarhus", ["home"]),
    ("Lives in Ghent", ["Home"]),
    ("Owns a boat", ["drink"]),
]


async def test_without_a_model_only_what_says_the_same_is_merged_and_undo_restores_every_row(
    place: Workplace, user: UUID
) -> None:
    await told(place, user, *TWICE)
    before = await place.rows(WHOLE)
    async with place.working(embedders=Bags()):
        run = await optimize(place, user)
        done = await output(place, run)
        assert (done["merged"], done["deleted"], done["archived"], done["model"]) == (2, 0, 2, None)
        assert await texts(place, user) == ["Lives in Aarhus", "Lives in Ghent", "Owns a boat", "likes GREEN tea."]
        topics = await place.rows("SELECT memory, topics FROM ai.agno_memories ORDER BY memory")
        assert dict(topics)["Lives in Ghent"] == dict(topics)["Lives in Aarhus"] == ["home"]
        assert (
            await place.value("SELECT count(*) FROM ai.agno_memories_archive WHERE optimization_run_id <> %s", str(run))
            == 0
        )
        again = await output(place, await optimize(place, user))
        assert (again["archived"], again["topics_changed"]) == (0, 0)
    async with tenant(place.db, user) as door:
        assert await optimizing.undo(door, str(run)[:8]) == 3  # two that were merged, and one that was only filed anew
    assert await place.rows(WHOLE) == before
    assert await place.value("SELECT count(*) FROM ai.agno_memories_archive") == 0


def _lines(shown: Shown) -> list[dict[str, Any]]:
    return [json.loads(line) for line in shown[-1][1].splitlines()]


async def test_a_model_decides_within_what_is_near_and_what_it_says_of_anything_else_is_not_done(
    place: Workplace, user: UUID
) -> None:
    old, new, apart = await told(
        place, user, ("Works at the old city library", []), ("Works at the new city library", []), ("Owns a boat", [])
    )

    def answer(shown: Shown) -> Any:
        assert {line["id"] for line in _lines(shown)} == {old, new}
        wrong = [{"id": apart, "because_of": new}, {"id": new, "because_of": old}]
        return ("decide", {"delete": [*wrong, {"id": old, "because_of": new}], "merge": []})

    async with (
        listening(answer) as model,
        place.working(embedders=Bags(), environ={"OPENAI_BASE_URL": f"{model.url}/v1", "OPENAI_API_KEY": "k"}),
    ):
        done = await output(place, await optimize(place, user, {"model": "openai:m"}))
    assert (done["deleted"], done["merged"], done["undecided"]) == (1, 0, 0)
    assert await texts(place, user) == ["Owns a boat", "Works at the new city library"]


async def test_a_model_that_decides_nothing_readable_has_kept_everything(place: Workplace, user: UUID) -> None:
    await told(place, user, ("Works at the old city library", []), ("Works at the new city library", []))
    async with (
        listening(lambda _: "I would rather not.") as model,
        place.working(embedders=Bags(), environ={"OPENAI_BASE_URL": f"{model.url}/v1", "OPENAI_API_KEY": "k"}),
    ):
        done = await output(place, await optimize(place, user, {"model": "openai:m"}))
    assert (done["archived"], done["undecided"]) == (0, 1)
    assert len(await texts(place, user)) == 2


def _couples(*said: str, lasting: bool = True) -> list[tuple[str, str]]:
    """Which of these, told one after the other and all near each other, a small model is asked about."""
    listed = [replace(each, lasting=lasting or number == 0) for number, each in enumerate(_listed(*said))]
    pairs = [Pair(one.id, other.id, 0.5, same=False) for one in listed for other in listed if one.id < other.id]
    return [(each.old.memory, each.new.memory) for each in memory_couples.couples(listed, pairs)]


@pytest.mark.parametrize(
    ("old", "new", "asked"),
    [
        ("Home is in Valencia", "Lives in Leipzig", True),
        ("The landlord is Mrs. Novak", "Rents from the landlord Mr. Dubois", True),
        ("The bank they use is Lunar", "Banks with Monzo", True),
        ("Works at Novo", "The wife works at Novo", False),
        ("The mother lives in Lyon", "Lives in Lyon", False),
        ("The dog is called Rex", "The cat is called Tom", False),
        ("Lives in Aarhus with Mei", "Lives in Aarhus", False),
    ],
)
def test_a_small_model_is_asked_only_of_two_that_have_one_subject_and_whose_later_one_says_more(
    old: str, new: str, asked: bool
) -> None:
    assert _couples(old, new) == ([(old, new)] if asked else [])


@pytest.mark.parametrize(("new", "asked"), [("Moved to Odense", True), ("Visited Odense last summer", False)])
def test_what_happened_is_in_question_only_where_it_tells_of_a_change(new: str, asked: bool) -> None:
    assert bool(_couples("Lives in Aarhus", new, lasting=False)) == asked


def test_a_small_model_is_never_asked_whether_what_happened_is_over() -> None:
    first, second = (replace(each, lasting=False) for each in _listed("Moved to Aarhus", "Moved to Odense"))
    assert memory_couples.couples([first, second], [Pair(first.id, second.id, 0.9, same=False)]) == []


def test_the_models_on_this_machine_are_the_small_ones() -> None:
    assert [memory_couples.is_small(each) for each in ("local:x", "openai:x", "gemini:x")] == [True, False, False]


def _listed(*said: str) -> list[Listed]:
    began = datetime(2026, 1, 1, tzinfo=UTC)
    return [Listed(number, text, [], began + timedelta(days=number), None, None) for number, text in enumerate(said, 1)]


@pytest.mark.parametrize(
    ("merge", "kept"),
    [
        (Merge(ids=[1, 2], memory="Has two cats, Tom and Ida"), True),
        (Merge(ids=[1, 2], memory="Has cats"), False),
        (Merge(ids=[1, 2], memory="Has 3 cats, Tom and Ida"), False),
        (Merge(ids=[1, 3], memory="Has a cat called Tom and owns a boat"), False),
        (Merge(ids=[1, 99], memory="Has a cat called Tom"), False),
        (Merge(ids=[1, 1], memory="Has a cat called Tom"), False),
    ],
)
def test_a_merge_is_admitted_only_within_a_group_and_when_it_says_all_and_no_more(merge: Merge, kept: bool) -> None:
    cats = _listed("Has a cat called Tom", "Has a cat called Ida", "Owns a boat")
    assert bool(admitted([cats[:2], cats[2:]], [], [merge])) is kept


def test_nothing_is_deleted_for_an_earlier_one_or_for_one_that_goes_itself() -> None:
    group = _listed("Lives in Aarhus", "Lives in Ghent", "Lives in Rome")
    assert admitted([group], [Delete(id=2, because_of=1)], []) == []
    both = admitted([group], [Delete(id=1, because_of=2), Delete(id=2, because_of=3)], [])
    assert {each.successor for each in both} <= {3, 2}
    gone = {number for each in both for number in each.ids}
    assert not gone & {each.successor for each in both}


def test_topics_that_differ_in_form_alone_go_by_one_name() -> None:
    given = ["Drinks", "drink", "drink", "work life", "Work-life", "work life", "glass"]
    assert one_name(given) == {
        "Drinks": "drink", "drink": "drink", "work life": "work life", "Work-life": "work life", "glass": "glass",
    }  # fmt: skip


async def test_two_runs_never_go_through_the_same_users_memories_at_once(place: Workplace, user: UUID) -> None:
    await told(place, user, *TWICE)
    first = await optimize(place, user)
    second = await optimize(place, user)
    await place.execute("UPDATE runtime.tasks SET status = 'waiting' WHERE id = %s", first)
    async with place.working(embedders=Bags()):
        (task,) = await place.ended(second)
    assert (task.status, f"run {first} goes through the memories of this user already" in (task.error or "")) == (
        "failed",
        True,
    )
    assert len(await texts(place, user)) == len(TWICE)


async def test_killed_after_any_step_a_run_goes_on_and_archives_nothing_twice(
    place: Workplace, user: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step whose work is committed and whose record is not is what a kill leaves at worst: each step is done twice."""
    await told(place, user, *TWICE, ("Owns a boat", []), ("OWNS a boat!", []))
    before = await place.rows(LIVE_OR_ARCHIVED)
    saved = memory_optimization.save

    async def twice(ctx: ToolContext, listed: list[Listed], verdict: Verdict) -> int:
        first = await saved(ctx, listed, verdict)
        assert await saved(ctx, listed, verdict) == first
        assert await place.rows(LIVE_OR_ARCHIVED) == before
        return first

    monkeypatch.setattr(memory_optimization, "save", twice)
    async with place.working(embedders=Bags()):
        done = await output(place, await optimize(place, user))
    assert done["archived"] == 5
    assert await place.value("SELECT count(*) FROM ai.agno_memories_archive WHERE reason <> 'changed'") == 5
    assert await place.rows(LIVE_OR_ARCHIVED) == before


async def test_a_memory_that_was_changed_meanwhile_is_left_alone(
    place: Workplace, user: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, *_ = await told(place, user, *TWICE)
    merge = memory_optimization.merge

    async def meanwhile(ctx: ToolContext, listed: list[Listed], verdicts: list[Verdict]) -> list[Verdict]:
        await place.execute("UPDATE ai.agno_memories SET memory = 'Likes black tea' WHERE id = %s", first)
        return await merge(ctx, listed, verdicts)

    monkeypatch.setattr(memory_optimization, "merge", meanwhile)
    async with place.working(embedders=Bags()):
        done = await output(place, await optimize(place, user))
    assert done["archived"] == 0
    assert "Likes black tea" in await texts(place, user)
