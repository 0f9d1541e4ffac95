"""What an agent answers from documents: numbers that stay, answers that are checked, and a session that remembers both."""

from __future__ import annotations

import asyncio
import functools
import json
import signal
from typing import Any
from uuid import UUID

import pytest
from marked_tools import Start
from shelves import Bags, add, person
from workplace import Workplace, until

from cirkelline.runtime import replaying, streaming
from cirkelline.state import journal
from cirkelline.state.journal import Step
from cirkelline.tools.embedding import EmbedderUnavailable
from cirkelline.tools.toolbox import Toolbox

TOOLS = ["search_knowledge", "list_documents", "read_document"]
LEAVE = "Everybody has 25 days of leave a year."
TRAVEL = "Travel by train is paid in full."
PARKING = "Parking costs 40 kroner a day."


def search(query: str, **more: Any) -> dict[str, Any]:
    return {"tool": "search_knowledge", "arguments": {"query": query, **more}}


def talk(*turns: tuple[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Return a script in which what is said decides which turns are played."""
    return {"conversations": [{"match": match, "turns": played} for match, played in turns]}


async def handbook(place: Workplace) -> None:
    await add(place.db, "ivo", "handbook.pdf", LEAVE, TRAVEL, PARKING, tags=["handbook"], pages=True)


async def steps(place: Workplace, task_id: UUID) -> dict[tuple[int, int], Step]:
    async with place.db.connection() as conn:
        return {(step.position, step.call): step for step in await journal.read(conn, task_id)}


def numbers(step: Step) -> list[int]:
    return [citation["n"] for citation in step.citations or ()]


async def said(place: Workplace, agent: str, *words: str, user: str = "ivo") -> list[dict[str, Any]]:
    """Say something in a session of its own, one turn after the other; return the tasks' results."""
    session, user_id = await place.session(agent, user)
    async with place.working(embedders=Bags()):
        return [await place.result(await place.turn(session, user_id, each)) for each in words]


# One answer -----------------------------------------------------------------------------------------------------------


async def test_an_answer_has_the_sources_it_cites_in_the_order_of_their_use(place: Workplace) -> None:
    await handbook(place)
    turns = [search("leave"), {"text": "Trains are free [2] and you have 25 days [1], as I said [1]."}]
    await place.agent("clerk", turns, tools=TOOLS)
    task_id = await place.submit("clerk", user_id=(await person(place.db, "ivo")).id)
    async with place.working(embedders=Bags()):
        result = await place.result(task_id)
    recorded = (await steps(place, task_id))[1, 0]
    assert result["output"] == turns[1]["text"]
    assert result["citations_unknown"] == []
    assert [citation["n"] for citation in result["citations"]] == [2, 1]
    assert result["citations"][1] == {
        "n": 1,
        "document": "handbook.pdf",
        "document_id": result["citations"][0]["document_id"],
        "chunk": (recorded.citations or ())[0]["chunk"],
        "page": 1,
        "heading": None,
        "source": "/shelf/handbook.pdf",
    }
    assert recorded.output is not None
    assert f"[1] handbook.pdf, page 1:\n    {LEAVE}" in recorded.output["text"]


async def test_an_agent_that_searches_first_has_passages_before_its_model_is_asked(place: Workplace) -> None:
    await handbook(place)
    turns = [search("parking"), {"text": "It is paid in full [1]."}]
    await place.agent("clerk", turns, tools=TOOLS, knowledge={"search_first": True, "top_k": 1})
    task_id = await place.submit("clerk", "who pays for travel", user_id=(await person(place.db, "ivo")).id)
    async with place.working(embedders=Bags()):
        result = await place.result(task_id)
    assert (result["output"], len(result["citations"])) == (turns[1]["text"], 1)
    recorded = await steps(place, task_id)
    assert recorded[1, -1].input_tokens == recorded[1, -1].output_tokens == 0
    assert recorded[1, 0].name == "search_knowledge"
    assert TRAVEL in str(recorded[1, 0].output)
    assert numbers(recorded[1, 0]) == [1]


async def test_each_turn_of_a_conversation_begins_with_its_own_search(place: Workplace) -> None:
    await handbook(place)
    asked = [[search("parking"), {"text": f"answer {number} [{number}]"}] for number in (1, 2)]
    await place.agent(
        "clerk",
        talk(("leave", asked[0]), ("travel", asked[1])),
        tools=TOOLS,
        knowledge={"search_first": True, "top_k": 1},
    )
    first, second = await said(place, "clerk", "leave", "travel")
    assert [first["output"], second["output"]] == ["answer 1 [1]", "answer 2 [2]"]
    assert (first["citations_unknown"], second["citations_unknown"]) == ([], [])


async def test_a_number_that_was_never_given_is_marked_wherever_the_answer_is_kept(place: Workplace) -> None:
    await handbook(place)
    turns = talk(
        ("leave", [search("leave", limit=1), {"text": "25 days [1], or 30 [7]; `a[8]` is code."}]),
        ("again", [{"text": "You asked: {{input}}"}]),
    )
    await place.agent("clerk", turns, tools=TOOLS)
    session, ivo = await place.session("clerk")
    async with place.working(embedders=Bags()):
        first = await place.turn(session, ivo, "how much leave?")
        result = await place.result(first)
        second = await place.turn(session, ivo, "again")
        await place.ended(second)
    marked = "25 days [1], or 30 [7?]; `a[8]` is code."
    assert (result["output"], result["citations_unknown"]) == (marked, [7])
    assert [citation["n"] for citation in result["citations"]] == [1]
    assert (await place.messages(session, ivo))[1] == ("assistant", marked)
    # The record has what the model really said, and the next turn saw what the person did.
    assert (await steps(place, first))[2, -1].output == {"text": turns["conversations"][0]["turns"][1]["text"]}
    prompt = await replaying.prompt(place.db, await place.task(second), Toolbox(place.tools), {})
    assert prompt.messages[2].content == marked
    for task_id in (first, second):
        assert (await replaying.replay(place.db, await place.task(task_id))).difference is None


async def test_a_true_answer_is_stored_once(place: Workplace) -> None:
    await handbook(place)
    await place.agent("clerk", [search("leave"), {"text": "25 days [1]."}], tools=TOOLS)
    session, ivo = await place.session("clerk")
    async with place.working(embedders=Bags()):
        task_id = await place.turn(session, ivo, "leave?")
        await place.ended(task_id)
    assert await place.value("SELECT output FROM runtime.journal WHERE task_id = %s AND position = 2", task_id) == {
        "in_result": True
    }
    assert await place.rows("SELECT content FROM runtime.messages WHERE role = 'assistant'") == [(None,)]


async def test_brackets_of_an_agent_that_is_given_no_numbers_mean_nothing(place: Workplace) -> None:
    await place.agent("plain", [{"text": "See [7]."}], tools=["list_documents", "calculate"])
    async with place.working(embedders=Bags()):
        result = await place.result(await place.submit("plain"))
    assert result["output"] == "See [7]."
    assert not result.keys() & {"citations", "citations_unknown"}


async def test_a_tool_of_an_author_may_search_and_give_numbers_too(place: Workplace) -> None:
    await handbook(place)
    place.tool(
        "desk",
        "async def ask_desk(ctx: ToolContext, about: str) -> str:\n"
        "    found = await ctx.knowledge.search(about, limit=1)\n"
        "    passages = [{'chunk': hit.chunk_id, 'document': hit.document} for hit in found.hits]\n"
        "    (n,) = ctx.numbers.give(passages, found.earlier)\n"
        "    return f'[{n}] {found.hits[0].text}'\n",
    )
    turns = [{"tool": "ask_desk", "arguments": {"about": "parking"}}, {"text": "{{last_tool}} and [2]"}]
    await place.agent("desk", turns, tools=[{"python": "desk:ask_desk"}], knowledge={"tags": ["Handbook"]})
    task_id = await place.submit("desk", user_id=(await person(place.db, "ivo")).id)
    async with place.working(embedders=Bags()):
        result = await place.result(task_id)
    assert result["output"] == f"[1] {PARKING} and [2?]"
    assert [citation["document"] for citation in result["citations"]] == ["handbook.pdf"]


async def test_numbers_of_a_transactional_tool_are_remembered_by_the_session_too(place: Workplace) -> None:
    await handbook(place)
    place.tool(
        "desk",
        "from cirkelline.tools import tool\n"
        "@tool(effects='transactional')\n"
        "async def book(ctx: ToolContext) -> str:\n"
        "    found = await ctx.knowledge.search('parking', limit=1)\n"
        "    passage = {'chunk': found.hits[0].chunk_id, 'document': found.hits[0].document}\n"
        "    return f'[{ctx.numbers.give([passage], found.earlier)[0]}]'\n",
    )
    turns = talk(("book", [{"tool": "book"}, {"text": "{{last_tool}}"}]), ("again", [{"text": "[1], not [2]"}]))
    await place.agent("clerk", turns, tools=[*TOOLS, {"python": "desk:book"}])
    first, second = await said(place, "clerk", "book", "again")
    assert first["output"] == "[1]"
    assert (second["output"], second["citations"]) == ("[1], not [2?]", first["citations"])


async def test_a_stopped_answer_is_checked_as_well(place: Workplace) -> None:
    await handbook(place)
    turns = [search("leave", limit=1), {"text": "25 [1] or 30 [5] and then some more words", "pace": "100ms"}]
    await place.agent("slow", turns, tools=TOOLS)
    session, ivo = await place.session("slow")
    async with place.working(embedders=Bags()):
        task_id = await place.turn(session, ivo, "leave?")
        told = ""
        async for event in streaming.follow(place.db.url, task_id):
            told += getattr(event, "text", "")
            if "[5]" in told:
                await place.execute("SELECT runtime.cancel_task(%s)", task_id)
        result = await place.result(task_id)
    assert "[5?]" in result["partial_output"]
    assert (await place.messages(session, ivo))[1] == ("assistant", result["partial_output"])
    assert result["citations_unknown"] == [5]


# A session ------------------------------------------------------------------------------------------------------------


async def test_numbers_go_on_through_a_session_and_a_passage_keeps_its_own(place: Workplace) -> None:
    await handbook(place)
    turns = talk(
        ("leave", [search("leave", limit=1), {"text": "25 days [1]."}]),
        ("travel", [search("leave travel", limit=2), {"text": "{{last_tool}}"}]),
        ("once more", [{"text": "As I said [1][2], and not [3]."}]),
    )
    await place.agent("clerk", turns, tools=TOOLS)
    first, second, third = await said(place, "clerk", "leave", "travel", "once more")
    assert [(each["n"], each["page"]) for each in first["citations"]] == [(1, 1)]
    assert sorted((each["n"], each["page"]) for each in second["citations"]) == [(1, 1), (2, 2)]
    assert third["output"] == "As I said [1][2], and not [3?]."
    assert third["citations"] == sorted(second["citations"], key=lambda each: each["n"])


async def test_every_session_and_every_user_counts_for_itself(place: Workplace) -> None:
    await handbook(place)
    await add(place.db, "eve", "diary.txt", "A year without leave.")
    turns = talk(("find", [search("leave", limit=1), {"text": "[1]"}]), ("guess", [{"text": "[1]"}]))
    await place.agent("clerk", turns, tools=TOOLS)
    (ivos,) = await said(place, "clerk", "find")
    (eves,) = await said(place, "clerk", "find", user="eve")
    (guessed,) = await said(place, "clerk", "guess")
    assert ivos["citations"][0]["document"] == "handbook.pdf"
    assert eves["citations"][0]["document"] == "diary.txt"
    assert guessed["output"] == "[1?]"


async def test_what_a_session_cited_outlives_its_tasks_and_goes_with_the_session(place: Workplace) -> None:
    await handbook(place)
    turns = talk(("find", [search("leave", limit=1), {"text": "[1]"}]), ("again", [{"text": "[1]"}]))
    await place.agent("clerk", turns, tools=TOOLS)
    session, ivo = await place.session("clerk")
    async with place.working(embedders=Bags()):
        await place.ended(await place.turn(session, ivo, "find"))
        await place.execute("DELETE FROM runtime.journal")
        await place.execute("DELETE FROM runtime.tasks")
        result = await place.result(await place.turn(session, ivo, "again"))
    assert result["citations"][0]["document"] == "handbook.pdf"
    await place.execute("DELETE FROM runtime.tasks")
    await place.execute("DELETE FROM runtime.sessions WHERE id = %s", session)
    assert await place.value("SELECT count(*) FROM runtime.citations") == 0


async def test_a_retry_from_the_start_gives_the_same_passages_the_same_numbers(place: Workplace) -> None:
    await handbook(place)
    turns = [search("parking", limit=1), search("leave", limit=1), {"text": "[1] [2]", "error": "server"}]
    await place.agent("clerk", turns, tools=TOOLS)
    session, ivo = await place.session("clerk")
    async with place.working(embedders=Bags()):
        task_id = await place.turn(session, ivo, "go")
        await place.ended(task_id)
        before = await steps(place, task_id)
        await place.agent("clerk", [turns[1], turns[0], {"text": "[1] parking, [2] leave"}], tools=TOOLS)
        await place.execute("UPDATE runtime.tasks SET definition_version = NULL WHERE id = %s", task_id)
        await place.execute("DELETE FROM runtime.journal WHERE task_id = %s", task_id)
        await place.execute("UPDATE runtime.tasks SET status = 'pending' WHERE id = %s", task_id)
        await place.becomes("completed", "SELECT status FROM runtime.tasks WHERE id = %s", task_id)
    after = await steps(place, task_id)
    assert (numbers(before[1, 0]), numbers(before[2, 0])) == ([1], [2])
    assert (after[1, 0].citations, after[2, 0].citations) == (before[2, 0].citations, before[1, 0].citations)


# Crashes --------------------------------------------------------------------------------------------------------------

GATE = """
from cirkelline.tools import tool
import asyncio, pathlib
GATE = pathlib.Path({gate!r})

@tool(effects="read")
async def wait_at(ctx: ToolContext) -> str:
    GATE.with_suffix(".reached").touch()
    while GATE.exists():
        await asyncio.sleep(0.01)
    return "through"
"""


@pytest.mark.parametrize("held", ["beside", "after"])
async def test_numbers_stay_through_a_kill_between_parallel_searches(place: Workplace, start: Start, held: str) -> None:
    """Killed while a call beside them hangs, or one after them: what is on record keeps its numbers, the rest goes on."""
    await handbook(place)
    gate = place.folder / "gate"
    gate.touch()
    place.tool("gates", GATE.format(gate=str(gate)))
    wait = {"tool": "wait_at", "arguments": {}}
    both = [search("leave", limit=1), search("leave travel", limit=2)]
    turns = (
        [{"calls": [*both, wait]}, search("parking"), {"text": "[1][2][3][4]"}]
        if held == "beside"
        else [{"calls": both}, wait, search("parking"), {"text": "[1][2][3][4]"}]
    )
    config: dict[str, Any] = {"tools": [*TOOLS, {"python": "gates:wait_at"}], "knowledge": {"mode": "words"}}
    await place.agent("clerk", turns, **config)
    session, ivo = await place.session("clerk")
    first = start("first")
    task_id = await place.turn(session, ivo, "go")
    await place.becomes(
        2, "SELECT count(*) FROM runtime.journal WHERE task_id = %s AND position = 1 AND citations IS NOT NULL", task_id
    )
    await until(functools.partial(asyncio.to_thread, gate.with_suffix(".reached").exists), "the call that hangs")
    before = await steps(place, task_id)
    first.signal(signal.SIGKILL)
    await first.ends()
    # What would be found now is another thing: the record answers all the same.
    await add(place.db, "ivo", "aaa.txt", "leave leave leave", "travel leave", "parking parking")
    gate.unlink()
    start("second")
    result = await place.result(task_id)
    after = await steps(place, task_id)
    assert [after[1, call].citations for call in (0, 1)] == [before[1, call].citations for call in (0, 1)]
    given = [citation for step in after.values() for citation in step.citations or ()]
    assert {citation["n"] for citation in given} == {1, 2, 3, 4}
    assert len({(citation["n"], citation["chunk"]) for citation in given}) == 4, "a number stands for one passage"
    assert (result["output"], result["citations_unknown"]) == ("[1][2][3][4]", [])
    assert (await replaying.replay(place.db, await place.task(task_id))).difference is None
    kept = await place.rows("SELECT n, chunk FROM runtime.citations WHERE session_id = %s", session)
    assert sorted(kept) == sorted({(citation["n"], citation["chunk"]) for citation in given})


# Without its embedder -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("failure", "told"),
    [
        (EmbedderUnavailable("scripted:bag needs a key: set it"), "scripted:bag needs a key: set it"),
        (RuntimeError("secret internals"), "scripted:bag failed (RuntimeError)"),
    ],
)
async def test_without_its_embedder_a_search_finds_words_and_says_so(
    place: Workplace, failure: Exception, told: str
) -> None:
    await handbook(place)
    for mode in ("hybrid", "vector", "rrf"):
        await place.agent(
            f"a-{mode}", [search("parking"), {"text": "{{last_tool}}"}], tools=TOOLS, knowledge={"mode": mode}
        )
        task_id = await place.submit(f"a-{mode}", user_id=(await person(place.db, "ivo")).id)
        async with place.working(embedders=Bags(failure)):
            result = await place.result(task_id)
        assert result["output"].startswith(f"[Only the words were searched for, not their meaning: {told}]\n")
        assert PARKING in result["output"]
        assert [citation["page"] for citation in result["citations"]] == [3]


async def test_an_agent_that_searches_words_alone_asks_no_embedder(place: Workplace) -> None:
    await handbook(place)
    bags = Bags()
    await place.agent("words", [search("parking"), {"text": "{{last_tool}}"}], tools=TOOLS, knowledge={"mode": "words"})
    task_id = await place.submit("words", user_id=(await person(place.db, "ivo")).id)
    async with place.working(embedders=bags):
        result = await place.result(task_id)
    assert (bags.asked, "Only the words" in result["output"]) == ([], False)


# Whose documents ------------------------------------------------------------------------------------------------------


async def test_a_task_sees_its_users_documents_and_the_shared_ones_and_without_a_user_those_alone(
    place: Workplace,
) -> None:
    await handbook(place)
    await add(place.db, "eve", "diary.txt", "Eve takes leave in May.")
    await add(place.db, None, "notice.txt", "All leave is granted.")
    turns = [search("leave", limit=50), {"tool": "list_documents"}, {"text": "done"}]
    await place.agent("clerk", turns, tools=TOOLS)
    seen: dict[str | None, set[str]] = {}
    async with place.working(embedders=Bags()):
        for user in ("ivo", "eve", "nobody-yet", None):
            user_id = (await person(place.db, user)).id if user else None
            task_id = await place.submit("clerk", user_id=user_id)
            await place.ended(task_id)
            recorded = await steps(place, task_id)
            found = {citation["document"] for citation in recorded[1, 0].citations or ()}
            listed = str((recorded[2, 0].output or {})["text"])
            assert {name for name in ("handbook.pdf", "diary.txt", "notice.txt") if name in listed} == found
            seen[user] = found
    assert seen == {
        "ivo": {"handbook.pdf", "notice.txt"},
        "eve": {"diary.txt", "notice.txt"},
        "nobody-yet": {"notice.txt"},
        None: {"notice.txt"},
    }


async def test_an_agent_sees_no_document_without_its_tags_by_any_tool(place: Workplace) -> None:
    await handbook(place)
    await add(place.db, "ivo", "letter.txt", "My leave is over.", tags=["private"])
    await add(place.db, "ivo", "both.txt", "Leave of both kinds.", tags=["private", "HANDBOOK"])
    turns = [
        search("leave", limit=50),
        search("leave", tags=["private"], limit=50),
        search("leave", documents=["letter.txt"]),
        {"tool": "list_documents", "arguments": {"tag": "private"}},
        {"tool": "read_document", "arguments": {"document": "letter.txt"}},
        {"tool": "read_document", "arguments": {"document": "both.txt"}},
        {"text": "done"},
    ]
    await place.agent("clerk", turns, tools=TOOLS, knowledge={"tags": ["handbook"]})
    task_id = await place.submit("clerk", user_id=(await person(place.db, "ivo")).id)
    async with place.working(embedders=Bags()):
        await place.ended(task_id)
    recorded = await steps(place, task_id)
    texts = [str((recorded[position, 0].output or {})["text"]) for position in range(1, 7)]
    assert "letter.txt" not in "".join(texts[:2] + texts[3:4])
    assert [citation["document"] for citation in recorded[2, 0].citations or ()] == ["both.txt"]
    assert texts[2] == texts[4] == "error: there is no document 'letter.txt' (list_documents shows what there is)"
    assert "both.txt" in texts[3]
    assert "Leave of both kinds." in texts[5]


async def test_the_trace_has_what_each_search_gave(place: Workplace) -> None:
    await handbook(place)
    await place.agent("clerk", [search("leave", limit=1), {"text": "[1]"}], tools=TOOLS)
    task_id = await place.submit("clerk", user_id=(await person(place.db, "ivo")).id)
    async with place.working(embedders=Bags()):
        await place.ended(task_id)
    raw = await place.value("SELECT citations FROM runtime.journal WHERE task_id = %s AND call = 0", task_id)
    assert json.loads(json.dumps(raw)) == (await steps(place, task_id))[1, 0].citations
