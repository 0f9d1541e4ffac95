"""What is remembered of a user stands before the model, once and for all attempts, and is written as the user would."""

from __future__ import annotations

import asyncio
import json
import signal
from typing import Any
from uuid import UUID

import pytest
from listening_model import Answers, Shown, listening
from shelves import LABEL, Bags
from workplace import Workplace

from cirkelline.agents import memory_notes
from cirkelline.runtime import replaying
from cirkelline.state import knowledge_settings, memories, sessions, tasks
from cirkelline.state.memories import Memory, Origin
from cirkelline.state.tenant import tenant
from cirkelline.tools.remembering import UserMemories
from cirkelline.tools.toolbox import Toolbox

MEMORY = {"recall": 2, "budget": 20}
DONE = {"text": "done"}


@pytest.fixture(autouse=True)
async def _words_for_meaning(place: Workplace) -> None:
    async with place.db.connection() as conn:
        await knowledge_settings.fix_embedder(conn, LABEL)


async def told(place: Workplace, user: UUID, *texts: str) -> list[int]:
    kept = UserMemories(place.db, Bags(), user)
    return [(await kept.remember(text, origin=Origin.ADDED)).id for text in texts]


async def remembered(place: Workplace, user: UUID) -> list[Memory]:
    async with tenant(place.db, user) as door:
        return await memories.find(door)


async def texts(place: Workplace, user: UUID) -> list[str]:
    return sorted(each.memory for each in await remembered(place, user))


FACTS = (
    "Likes green tea",
    "Plays the cello",
    "Owns a sailing boat",
    "Speaks Danish",
    "Collects stamps",
    "Hates cilantro",
)


async def test_a_turn_is_shown_what_bears_on_it_and_a_later_attempt_and_a_replay_the_same(place: Workplace) -> None:
    async with listening(lambda shown: f"heard {shown[-1][1]}") as model:
        await place.agent("talker", [], model=model.spec, memory=MEMORY)
        session, user = await place.session("talker")
        (_, _, boat, *_) = await told(place, user, *FACTS)
        async with place.working(embedders=Bags()):
            (task,) = await place.ended(await place.turn(session, user, "Is my sailing boat a boat for sailing?"))
    (shown,) = model.shown
    system, note, noted, asked = shown
    assert system[0] == "system"
    assert "sailing" not in system[1]
    assert note[0] == "user"
    assert note[1].startswith(memory_notes._SHOWN + f"[{boat}] Owns a sailing boat (")
    assert (noted, asked) == (("assistant", "[noted]"), ("user", "Is my sailing boat a boat for sailing?"))
    assert len(note[1].removeprefix(memory_notes._SHOWN).splitlines()) == 2
    # What is remembered by now is nothing to a run that was.
    async with tenant(place.db, user) as door:
        await memories.archive(door, [boat], memories.Reason.FORGOTTEN)
    report = await replaying.replay(place.db, task)
    assert (report.difference, report.ended) == (None, "completed")
    prompt = await replaying.prompt(place.db, task, Toolbox(place.tools), {})
    assert [(each.role, each.content) for each in prompt.messages] == shown
    assert prompt.warnings == []


async def test_all_of_a_few_are_shown_and_without_the_key_none_are(place: Workplace) -> None:
    async with listening(lambda shown: f"heard {shown[-1][1]}") as model:
        await place.agent("knowing", [], model=model.spec, memory={})
        await place.agent("strange", [], model=model.spec)
        async with place.working(embedders=Bags()):
            for name in ("knowing", "strange"):
                session, user = await place.session(name)
                await told(place, user, *FACTS)
                await place.ended(await place.turn(session, user, "hello"))
                await place.ended(await place.submit(name, "for nobody"))
    knowing, nobody, strange, also_nobody = model.shown
    assert all(fact in knowing[1][1] for fact in FACTS)
    assert [len(shown) for shown in (nobody, strange, also_nobody)] == [2, 2, 2]


async def test_an_attempt_after_a_crash_is_shown_what_the_first_one_was(place: Workplace) -> None:
    place.tool("slow", "def pause() -> str:\n    time.sleep(30)\n    return 'late'\n")
    async with listening(_calling_once("pause", {})) as model:
        await place.agent("talker", [], model=model.spec, memory=MEMORY, tools=[{"python": "slow:pause"}])
        session, user = await place.session("talker")
        await told(place, user, *FACTS)
        daemon = place.daemon()
        task_id = await place.turn(session, user, "green tea")
        await place.becomes(1, "SELECT count(*) FROM runtime.journal WHERE kind = 'tool' AND task_id = %s", task_id)
        daemon.signal(signal.SIGKILL)
        await daemon.ends()
        await told(place, user, "Likes green tea with green tea in it")
        async with place.working(embedders=Bags()):
            await place.waiting(task_id)
            await place.becomes(2, "SELECT attempt FROM runtime.tasks WHERE id = %s", task_id)
    kept = await place.value(
        "SELECT output ->> 'memories' FROM runtime.journal WHERE task_id = %s AND position = 0", task_id
    )
    assert "Likes green tea (" in kept
    assert "in it" not in kept


def _calling_once(tool: str, arguments: dict[str, Any]) -> Answers:
    return lambda shown: (tool, arguments) if shown[-1][0] != "tool" else "done"


async def test_an_agent_remembers_recalls_and_forgets_for_the_user_it_works_for(place: Workplace) -> None:
    turns = [
        {"calls": [{"tool": "remember", "arguments": {"fact": "Lives in  Aarhus", "topics": ["Home", "home "]}}]},
        {"calls": [{"tool": "remember", "arguments": {"fact": "lives in aarhus."}}]},
        {"calls": [{"tool": "recall", "arguments": {"question": "Where do they live?"}}]},
        DONE,
    ]
    await place.agent("keeper", turns, tools=["remember", "recall", "forget"])
    session, user = await place.session("keeper")
    async with place.working(embedders=Bags()):
        (task,) = await place.ended(await place.turn(session, user, "go"))
        assert task.status == "completed", task.error
        (kept,) = await remembered(place, user)
        assert (kept.memory, kept.topics, kept.origin) == ("Lives in Aarhus", ["home"], "told")
        assert (kept.task_id, kept.session_id) == (task.id, session)
        async with tenant(place.db, user) as door:
            told_in = await sessions.asked_in(door, session, task.id)
        assert told_in is not None
        assert (told_in.role, told_in.content) == ("user", "go")
        results = await place.rows(
            "SELECT output ->> 'text' FROM runtime.journal WHERE task_id = %s AND kind = 'tool' ORDER BY position",
            task.id,
        )
        first, second, third = (str(row[0]) for row in results)
        assert (first, second) == (
            f"remembered: [{kept.id}] Lives in Aarhus",
            f"known already: [{kept.id}] Lives in Aarhus",
        )
        assert f"[{kept.id}] Lives in Aarhus" in third
        forgetting = [{"calls": [{"tool": "forget", "arguments": {"id": kept.id}}]}, DONE]
        await place.agent("keeper", forgetting, tools=["remember", "recall", "forget"])
        await place.ended(await place.turn(session, user, "forget it"))
    assert await remembered(place, user) == []
    async with tenant(place.db, user) as door:
        assert await memories.restore(door, str(kept.id)) == kept.id
    assert await texts(place, user) == ["Lives in Aarhus"]


async def test_what_replaces_a_memory_takes_its_place_and_keeps_the_old_one_in_the_archive(
    place: Workplace, database_url: str
) -> None:
    del database_url
    await place.agent("keeper", [DONE])
    _, user = await place.session("keeper")
    (old, other) = await told(place, user, "Works at Northwind", "Likes green tea")
    kept = await UserMemories(place.db, Bags(), user).remember("Has a new job with Bluefin", replaces=[old, 999_999])
    assert await texts(place, user) == ["Has a new job with Bluefin", "Likes green tea"]
    async with tenant(place.db, user) as door:
        (gone,) = await memories.archived(door)
    assert (gone.id, gone.memory, gone.superseded_by) == (old, "Works at Northwind", kept.id)
    assert (await UserMemories(place.db, Bags(), user).remember("likes GREEN tea")).id == other


async def test_a_model_replaces_only_memories_that_it_was_shown_and_keeps_what_it_was_told_all_the_same(
    place: Workplace,
) -> None:
    (_, user) = (await place.agent("other", [DONE]), (await place.session("other"))[1])
    (shown,) = await told(place, user, "Works at Northwind")

    def changing(old: int, fact: str = "Works at Bluefin") -> dict[str, Any]:
        return {"tool": "remember", "arguments": {"fact": fact, "replaces": [old]}}

    look = {"tool": "recall", "arguments": {"question": "Works at Northwind"}}
    turns = [
        {"calls": [changing(shown, "Likes oranges")]},
        {"calls": [look]},
        {"calls": [changing(999_999)]},
        {"calls": [changing(shown)]},
        DONE,
    ]
    await place.agent("keeper", turns, tools=["remember", "recall"])
    session, _ = await place.session("keeper")
    async with place.working(embedders=Bags()):
        (task,) = await place.ended(await place.turn(session, user, "go"))
    results = await place.rows(
        "SELECT output ->> 'text' FROM runtime.journal WHERE task_id = %s AND kind = 'tool' ORDER BY position", task.id
    )
    unseen, _, other, done = (str(row[0]) for row in results)
    assert f"not replaced: {shown}, a memory that you have not been shown" in unseen
    assert "not replaced: 999999, a memory that you have not been shown" in other
    assert "in place of: Works at Northwind" in done
    assert sorted(await texts(place, user)) == ["Likes oranges", "Works at Bluefin"]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("My password is hunter2", "secrets are never remembered"),
        ("The card is 4111 1111 1111 1111", "a card number"),
        ("Uses sk-abcdef1234567890 for the API", "a key or a token"),
        ("The IBAN is DE89 3704 0044 0532 0130 00", "an account number"),
        ("   ", "nothing to remember"),
        ("x" * 501, "at most 500 characters"),
    ],
)
async def test_what_is_no_memory_is_refused_in_a_sentence(place: Workplace, text: str, why: str) -> None:
    await place.agent("keeper", [DONE])
    _, user = await place.session("keeper")
    with pytest.raises(Exception, match=why):
        await UserMemories(place.db, None, user).remember(text)
    assert await texts(place, user) == []


async def test_fifty_writers_at_once_lose_nothing_and_double_nothing(place: Workplace) -> None:
    await place.agent("keeper", [DONE])
    _, user = await place.session("keeper")
    kept = UserMemories(place.db, Bags(), user)
    said = [f"Enjoys hobby{number % 25} of kind{number % 25}" for number in range(50)]
    outcomes = await asyncio.gather(*(kept.remember(text) for text in said))
    assert sorted(await texts(place, user)) == sorted(set(said))
    assert sum(not each.known for each in outcomes) == 25


async def test_fifty_runs_at_once_that_remember_for_one_user_lose_nothing_and_double_nothing(place: Workplace) -> None:
    """Through the tool, in two workers: half of what is told is told twice, and each has something of its own to say."""
    turns = [
        {"tool": "remember", "arguments": {"fact": "{{input}}"}},
        {"tool": "remember", "arguments": {"fact": "Enjoys the hobby that all of them have"}},
        {"text": "{{last_tool}}"},
    ]
    await place.agent("keeper", turns, tools=["remember"], memory={})
    _, user = await place.session("keeper")
    said = [f"Enjoys hobby{number % 25} of kind{number % 25}" for number in range(50)]
    runs = [await place.submit("keeper", text, user_id=user) for text in said]
    async with place.working(embedders=Bags(), slots=25), place.working(embedders=Bags(), slots=25):
        ended = await place.ended(*runs)
    assert {(task.status, task.attempt) for task in ended} == {("completed", 1)}
    assert await texts(place, user) == sorted({*said, "Enjoys the hobby that all of them have"})
    gave = [
        str(text) for (text,) in await place.rows("SELECT output ->> 'text' FROM runtime.journal WHERE kind = 'tool'")
    ]
    assert sum(text.startswith("remembered: ") for text in gave) == 26
    assert sum(text.startswith("known already: ") for text in gave) == 74
    assert await place.value("SELECT count(*) FROM ai.agno_memories_archive") == 0


async def test_without_an_embedder_a_memory_is_kept_and_found_by_its_words(place: Workplace) -> None:
    await place.agent("keeper", [DONE])
    _, user = await place.session("keeper")
    broken = UserMemories(place.db, Bags(failure=OSError("no network")), user)
    for fact in FACTS:
        await broken.remember(fact)
    assert [each.memory for each in await broken.recall("sailing", limit=1, budget=5)] == ["Owns a sailing boat"]


async def test_a_worker_embeds_what_other_programs_wrote_and_what_another_embedder_had(place: Workplace) -> None:
    await place.agent("keeper", [DONE])
    _, user = await place.session("keeper")
    insert = "INSERT INTO ai.agno_memories (memory_id, user_id, memory) VALUES (gen_random_uuid(), %s, %s)"
    for text in ("Owns a sailing boat", "", " "):
        await place.execute(insert, str(user), text)
    await told(place, user, "Likes green tea")
    await place.execute("UPDATE ai.memory_index SET embedder = 'another:one' WHERE embedder IS NOT NULL")
    async with place.working(embedders=Bags()):
        await place.becomes(4, "SELECT count(*) FROM ai.memory_index WHERE embedder = %s", LABEL)
    found = await UserMemories(place.db, Bags(), user).recall("Owns a sailing boat", limit=1, budget=6)
    assert [(each.memory, round(each.similarity or 0, 2)) for each in found] == [("Owns a sailing boat", 1.0)]


# Capture -----------------------------------------------------------------------------------------------------------------


def is_capture(shown: Shown) -> bool:
    return any(content.startswith("Look through this conversation") for _, content in shown)


def looked_at(shown: Shown) -> list[dict[str, Any]]:
    """The lines that a model was given to look through."""
    asked = next(content for _, content in shown if content.startswith("Look through this conversation"))
    return [json.loads(line) for line in asked.split("\n\n", 1)[1].splitlines()]


def capturing(*facts: dict[str, Any]) -> Answers:
    def answer(shown: Shown) -> Any:
        if not is_capture(shown):
            return f"heard {shown[-1][1]}"
        return ("keep_facts", {"facts": list(facts)})

    return answer


async def agree(place: Workplace, user: UUID, *, capture: bool = True) -> None:
    async with tenant(place.db, user) as door:
        await memories.choose(door, capture=capture)


async def settled(place: Workplace) -> None:
    await place.becomes(
        0, "SELECT count(*) FROM runtime.tasks WHERE task_type = 'capture' AND status IN ('pending', 'running')"
    )


AARHUS = {"fact": "Lives in Aarhus", "quote": "I live in Aarhus", "topics": ["home"]}


async def test_what_a_user_says_of_themselves_is_known_in_the_next_conversation_and_says_where_it_came_from(
    place: Workplace,
) -> None:
    invented = {"fact": "Owns a yacht", "quote": "I own a yacht"}
    async with listening(capturing(AARHUS, invented)) as model:
        await place.agent("talker", [], model=model.spec, memory={"capture": "auto"})
        session, user = await place.session("talker")
        await agree(place, user)
        async with place.working(embedders=Bags()):
            said = await place.turn(session, user, "Hi! I live in Aarhus, and what is 2 + 2?")
            await place.ended(said)
            await settled(place)
            (kept,) = await remembered(place, user)
            second, _ = await place.session("talker")
            await place.ended(await place.turn(second, user, "Where is home?"))
    assert (kept.memory, kept.origin, kept.session_id) == ("Lives in Aarhus", "captured", session)
    assert kept.input == "Hi! I live in Aarhus, and what is 2 + 2?"
    assert (
        await place.value("SELECT task_id FROM runtime.messages WHERE position = %s AND role = 'user'", kept.message)
        == said
    )
    assert await place.value("SELECT task_type FROM runtime.tasks WHERE id = %s", kept.task_id) == "capture"
    shown = [each for each in model.shown if not is_capture(each)]
    assert "Lives in Aarhus" in shown[-1][1][1]
    (look,) = [each for each in model.shown if is_capture(each)]
    assert looked_at(look) == [
        {"user": "Hi! I live in Aarhus, and what is 2 + 2?"},
        {"assistant": "heard Hi! I live in Aarhus, and what is 2 + 2?"},
    ]
    for task_id in [kept.task_id]:
        async with place.db.connection() as conn:
            task = await tasks.get(conn, task_id)  # type: ignore[arg-type]
        assert (await replaying.replay(place.db, task)).difference is None
        assert (await replaying.prompt(place.db, task, Toolbox(place.tools), {})).warnings == []


@pytest.mark.parametrize(
    ("memory", "agreed"), [({"capture": "auto"}, False), ({"capture": "auto"}, None), ({}, True), (None, True)]
)
async def test_nobody_is_looked_through_who_has_not_agreed_or_by_an_agent_that_does_not_say_so(
    place: Workplace, memory: dict[str, Any] | None, agreed: bool | None
) -> None:
    async with listening(capturing(AARHUS)) as model:
        await place.agent("talker", [], model=model.spec, **({} if memory is None else {"memory": memory}))
        session, user = await place.session("talker")
        if agreed is not None:
            await agree(place, user, capture=agreed)
        async with place.working(embedders=Bags()):
            await place.ended(await place.turn(session, user, "I live in Aarhus"))
    assert await place.value("SELECT count(*) FROM runtime.tasks WHERE task_type = 'capture'") == 0


async def test_every_turn_is_looked_through_once_however_many_end_meanwhile(place: Workplace) -> None:
    async with listening(capturing()) as model:
        await place.agent("talker", [], model=model.spec, memory={"capture": "auto"})
        session, user = await place.session("talker")
        await agree(place, user)
        async with place.working(embedders=Bags()):
            await place.ended(*[await place.turn(session, user, f"I like number {number}") for number in range(6)])
            await settled(place)
    looks = [
        line["user"]
        for shown in model.shown
        if is_capture(shown) and shown[-1][0] == "user"
        for line in looked_at(shown)
        if "user" in line
    ]
    assert looks == [f"I like number {number}" for number in range(6)]


async def test_a_look_that_fails_is_given_up_after_three_and_costs_the_chat_nothing(place: Workplace) -> None:
    def answer(shown: Shown) -> Any:
        return 400 if is_capture(shown) else f"heard {shown[-1][1]}"

    async with listening(answer) as model:
        await place.agent("talker", [], model=model.spec, memory={"capture": "auto"}, limits={"wall": "5s"})
        session, user = await place.session("talker")
        await agree(place, user)
        async with place.working(embedders=Bags()):
            for number in range(4):
                (task,) = await place.ended(await place.turn(session, user, f"I like number {number}"))
                assert task.status == "completed"
                await settled(place)
        assert await place.value("SELECT count(*) FROM runtime.tasks WHERE task_type = 'capture'") == 3


async def test_a_model_says_what_a_new_fact_replaces(place: Workplace) -> None:
    _, user = (await place.agent("other", [DONE]), (await place.session("other"))[1])
    (old,) = await told(place, user, "Lives in Ghent")
    moved = {
        "fact": "Lives in Aarhus",
        "quote": "I moved from Ghent to Aarhus",
        "decision": "update",
        "replaces": [old],
    }
    async with listening(capturing(moved)) as model:
        await place.agent("talker", [], model=model.spec, memory={"capture": "auto"})
        session, _ = await place.session("talker")
        await agree(place, user)
        async with place.working(embedders=Bags()):
            await place.ended(await place.turn(session, user, "I moved from Ghent to Aarhus"))
            await settled(place)
    (look,) = [shown for shown in model.shown if is_capture(shown)]
    assert looked_at(look)[0]["remembered already"][0].startswith(f"[{old}] Lives in Ghent")
    assert await texts(place, user) == ["Lives in Aarhus"]
