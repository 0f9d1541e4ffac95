"""`ctx.session_state` belongs to one session: kept from turn to turn, out of reach for everybody else, and resumed."""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Any
from uuid import UUID

import pytest
from workplace import Daemon, Workplace, until

from cirkelline.state import sessions, tasks
from cirkelline.state.tenant import tenant

TOOLS = """
import pathlib
from cirkelline.tools import tool

PLACE = pathlib.Path({place!r})

@tool(effects="idempotent")
def put(ctx: ToolContext, word: str) -> str:
    ctx.session_state.append("words", word)
    ctx.session_state.increment("count")
    with (PLACE / "started").open("a") as file:
        file.write(word + "\\n")
    while (PLACE / f"hold-{{word}}").exists():
        time.sleep(0.01)
    return f"{{ctx.session_state['count']}} {{ctx.session_state['words']}}"

@tool(effects="read")
def show(ctx: ToolContext) -> str:
    return str(dict(ctx.session_state))

@tool(effects="idempotent")
def fill(ctx: ToolContext, size: int) -> str:
    ctx.session_state["filled"] = "x" * size
    ctx.state["touched"] = True
    return "filled"

@tool(effects="idempotent")
def spoil(ctx: ToolContext) -> str:
    ctx.state["count"] = 1
    ctx.session_state["count"] = 1
    return "spoiled"

@tool(effects="transactional")
async def give_up(ctx: ToolContext) -> str:
    ctx.session_state["lost"] = 1
    raise ValueError("no")
"""
NAMES = ("put", "show", "fill", "spoil", "give_up")


def calls(*uses: tuple[str, dict[str, Any]]) -> list[dict[str, Any]]:
    return [{"tool": name, "arguments": arguments} for name, arguments in uses] + [{"text": "{{last_tool}}"}]


async def prepare(place: Workplace) -> None:
    """An agent that does what the input names."""
    place.tool("kept", TOOLS.format(place=str(place.folder)))
    plays = {
        "^put": calls(("put", {"word": "{{input}}"})),
        "^two": calls(("put", {"word": "a"}), ("put", {"word": "b"}), ("show", {})),
        "^show": calls(("show", {})),
        "^fill": calls(("fill", {"size": 70_000})),
        "^spoil": calls(("spoil", {})),
        "^give": calls(("give_up", {}), ("show", {})),
        "^together": [
            {"calls": [{"tool": "put", "arguments": {"word": word}} for word in "abc"]},
            {"tool": "show"},
            {"text": "{{last_tool}}"},
        ],
        "^stop": [{"tool": "put", "arguments": {"word": "x"}}, {"text": "no", "error": "server"}],
    }
    script = {"conversations": [{"match": match, "turns": turns} for match, turns in plays.items()]}
    await place.agent("keeper", script, tools=[{"python": f"kept:{name}"} for name in NAMES])


async def state(place: Workplace, session: UUID, user: UUID) -> dict[str, Any]:
    async with tenant(place.db, user) as door:
        kept = await sessions.kept(door, session)
    return kept.work if kept else {}


async def said(place: Workplace, session: UUID, user: UUID, *inputs: str) -> list[str]:
    """Say these one after the other and return what was answered, or why not."""
    answers = []
    for words in inputs:
        (task,) = await place.ended(await place.turn(session, user, words))
        answers.append(task.result.get("output") or task.error)
    return answers


async def test_what_a_turn_keeps_the_next_one_finds_and_no_other_session_does(place: Workplace) -> None:
    await prepare(place)
    session, user = await place.session("keeper")
    other, _ = await place.session("keeper")
    async with place.working():
        assert await said(place, session, user, "put 1", "put 2") == ["1 ['put 1']", "2 ['put 1', 'put 2']"]
        assert await said(place, other, user, "show") == ["{}"]
        assert await said(place, other, user, "put 3", "show") == ["1 ['put 3']", "{'count': 1, 'words': ['put 3']}"]
    assert await state(place, session, user) == {"words": ["put 1", "put 2"], "count": 2}
    assert await place.value("SELECT count(*) FROM runtime.agent_states WHERE state -> 'work' <> '{}'") == 0


async def test_calls_of_one_answer_and_calls_in_a_row_all_count(place: Workplace) -> None:
    await prepare(place)
    session, user = await place.session("keeper")
    async with place.working():
        assert await said(place, session, user, "two") == ["{'words': ['a', 'b'], 'count': 2}"]
        await said(place, session, user, "together")
    kept = await state(place, session, user)
    assert (kept["count"], sorted(kept["words"][2:])) == (5, ["a", "b", "c"])


async def test_another_user_who_knows_the_session_neither_reads_nor_writes_it(place: Workplace) -> None:
    await prepare(place)
    session, owner = await place.session("keeper", "ivo")
    _, stranger = await place.session("keeper", "mallory")
    async with place.working():
        await said(place, session, owner, "put secret")
        tried = [await place.submit("keeper", each, session_id=session, user_id=stranger) for each in ("show", "put x")]
        for task in await place.ended(*tried):
            assert "ctx.session_state is there in the turns of a session of the user's own" in task.result["output"]
            assert "secret" not in str(task.result)
    assert await state(place, session, owner) == {"words": ["put secret"], "count": 1}
    assert await state(place, session, stranger) == {}


async def test_a_task_without_a_session_is_told_that_it_has_none(place: Workplace) -> None:
    await prepare(place)
    task_id = await place.submit("keeper", "show")
    async with place.working():
        (task,) = await place.ended(task_id)
    assert task.status == "completed"
    assert task.result["output"].endswith("keep what belongs to the agent in ctx.state")


async def test_a_state_over_the_limit_fails_its_turn_alone_and_leaves_both_states_as_they_were(
    place: Workplace,
) -> None:
    await prepare(place)
    session, user = await place.session("keeper")
    async with place.working():
        await said(place, session, user, "put 1")
        task_id = await place.turn(session, user, "fill")
        bystander = await place.submit("keeper", "put 9")
        (task, other) = await place.ended(task_id, bystander)
        assert (task.status, task.result["error"]["type"], other.status) == ("failed", "StateRefused", "completed")
        assert (task.error or "").startswith("the session's state would be 70,".replace(",", ""))
        assert await said(place, session, user, "show") == ["{'count': 1, 'words': ['put 1']}"]
    assert await place.value("SELECT count(*) FROM runtime.agent_states WHERE state -> 'work' <> '{}'") == 0
    assert await place.messages(session, user) == [
        ("user", "put 1"),
        ("assistant", "1 ['put 1']"),
        ("user", "show"),
        ("assistant", "{'count': 1, 'words': ['put 1']}"),
    ]


async def test_a_turn_whose_agent_state_is_refused_keeps_nothing_for_its_session(place: Workplace) -> None:
    await prepare(place)
    session, user = await place.session("keeper")
    place.settings = place.settings.model_copy(update={"state_limit": 8})
    place.opened = type(place.opened)(place.settings, place.db, place.db.url, embedded=False, fresh=False)
    async with place.working():
        # {"count": 1} is longer than the eight bytes allowed, for the one as for the other.
        (answer,) = await said(place, session, user, "spoil")
    assert "over the limit of 8" in answer
    assert await state(place, session, user) == {}


async def test_what_a_failed_call_did_to_it_has_not_happened(place: Workplace) -> None:
    await prepare(place)
    session, user = await place.session("keeper")
    async with place.working():
        assert await said(place, session, user, "give up") == ["{}"]


async def test_a_failed_turn_keeps_nothing(place: Workplace) -> None:
    await prepare(place)
    session, user = await place.session("keeper")
    async with place.working():
        await said(place, session, user, "stop")
    assert await state(place, session, user) == {}


async def test_a_resumed_turn_sees_what_its_first_attempt_saw_and_counts_each_call_once(
    place: Workplace, start: Callable[..., Daemon]
) -> None:
    await prepare(place)
    session, user = await place.session("keeper")
    async with place.working():
        await said(place, session, user, "put 0")
    (place.folder / "hold-b").touch()
    first = start("first")
    task_id = await place.turn(session, user, "two")

    async def second_call() -> bool:
        return "b" in (place.folder / "started").read_text().split()

    await until(second_call, "the second call")
    # Nobody does this; but the attempt to come must not see it.
    await place.execute("""UPDATE runtime.session_heads SET work = '{"count": 100}'""")
    second = start("second")
    await second.says("worker.ready")
    first.signal(signal.SIGKILL)
    await first.ends()
    (place.folder / "hold-b").unlink()
    (task,) = await place.ended(task_id)
    assert (task.attempt, task.result["output"]) == (2, "{'count': 3, 'words': ['put 0', 'a', 'b']}")
    # Folded onto what is there by then.
    assert await state(place, session, user) == {"count": 102, "words": ["a", "b"]}


async def test_a_turn_that_is_tried_again_later_sees_the_state_it_began_with(place: Workplace) -> None:
    await prepare(place)
    session, user = await place.session("keeper")
    async with place.working():
        task_id = await place.turn(session, user, "stop")
        await place.ended(task_id)
        await said(place, session, user, "put 1")
    script = place.configs / "keeper.script.yaml"
    script.write_text(
        script.read_text().replace('{"text": "no", "error": "server"}', '{"tool": "show"}, {"text": "{{last_tool}}"}')
    )
    async with place.db.connection() as conn:
        await tasks.retry(conn, task_id)
    async with place.working():
        (task,) = await place.ended(task_id)
    assert task.result["output"] == "{'words': ['x'], 'count': 1}"
    assert await state(place, session, user) == {"count": 2, "words": ["put 1", "x"]}


async def test_the_state_goes_with_its_session(place: Workplace) -> None:
    await prepare(place)
    session, user = await place.session("keeper")
    async with place.working():
        await said(place, session, user, "put 1")
    await place.execute("DELETE FROM runtime.sessions WHERE id = %s", session)
    assert await place.value("SELECT count(*) FROM runtime.session_heads") == 0


@pytest.mark.parametrize("taker", ["ivo", None])
async def test_a_session_that_is_gone_when_its_turn_ends_fails_the_turn_in_writing(
    place: Workplace, taker: str | None
) -> None:
    await prepare(place)
    session, user = await place.session("keeper", "ann")
    (place.folder / "hold-put 1").touch()
    async with place.working():
        task_id = await place.turn(session, user, "put 1")

        async def called() -> bool:
            return (place.folder / "started").exists()

        await until(called, "the call")
        if taker is None:
            await place.execute("DELETE FROM runtime.sessions WHERE id = %s", session)
        else:
            _, other = await place.session("keeper", taker)
            await place.execute("UPDATE runtime.sessions SET user_id = %s WHERE id = %s", other, session)
        (place.folder / "hold-put 1").unlink()
        (task,) = await place.ended(task_id)
    assert (task.status, task.result["error"]["type"]) == ("failed", "StateRefused")
    assert task.error == "the session whose state was changed is not there any more, or not this user's"
