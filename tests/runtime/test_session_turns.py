"""A session's turns run one after the other, each seeing those before it, from however many terminals they come."""

from __future__ import annotations

import asyncio
import time

from workplace import Workplace

# What the model is shown is in its answer: `match` is tried on the last user message only, so history shows in messages.
ECHO = [{"text": "heard {{input}}", "delay": "50ms"}]


async def test_turns_sent_at_once_from_two_terminals_are_answered_one_by_one_in_their_order(place: Workplace) -> None:
    await place.agent("helper", ECHO)
    session, user = await place.session("helper")

    async def terminal(name: str) -> None:
        for number in range(6):
            await place.turn(session, user, f"{name}{number}")

    async with place.working(), place.working():
        await asyncio.gather(terminal("a"), terminal("b"))
        await place.becomes(12, "SELECT count(*) FROM runtime.tasks WHERE status = 'completed'")
    inputs = [row[0] for row in await place.rows("SELECT payload ->> 'input' FROM runtime.tasks ORDER BY sequence")]
    expected = [message for said in inputs for message in (("user", said), ("assistant", f"heard {said}"))]
    assert await place.messages(session, user) == expected
    overlaps = """
    SELECT count(*) FROM runtime.tasks a JOIN runtime.tasks b ON b.sequence > a.sequence AND b.started_at < a.finished_at
    """
    assert await place.value(overlaps) == 0


async def test_different_sessions_run_at_the_same_time(place: Workplace) -> None:
    await place.agent("helper", [{"text": "heard", "delay": "1s"}])
    for name in ("ivo", "ann"):
        session, user = await place.session("helper", name)
        await place.turn(session, user, "hello")
    async with place.working():
        await place.becomes(2, "SELECT count(*) FROM runtime.tasks WHERE status = 'completed'")
    assert await place.value("SELECT max(started_at) < min(finished_at) FROM runtime.tasks")


async def test_a_turn_sees_what_was_said_before_within_its_window_and_begins_with_a_question(place: Workplace) -> None:
    expects = {"turns": [{"text": "{{input}} noted"}]}
    await place.agent("helper", {"conversations": [expects]}, history={"messages": 3})
    session, user = await place.session("helper")
    async with place.working():
        for said in ("one", "two", "three"):
            await place.ended(await place.turn(session, user, said))
    # The window of three would open with an answer: it is cut to the last whole turn.
    assert await place.value("SELECT result -> 'usage' ->> 'input_tokens' FROM runtime.tasks WHERE sequence = 2") != "0"
    tokens = [
        row[0]
        for row in await place.rows(
            "SELECT (result #>> '{usage,input_tokens}')::int FROM runtime.tasks ORDER BY sequence"
        )
    ]
    assert tokens[0] < tokens[1] == tokens[2]


async def test_a_second_user_who_knows_the_session_sees_nothing_of_it(place: Workplace) -> None:
    agent = await place.agent("helper", ECHO)
    session, owner = await place.session("helper", "ivo")
    _, stranger = await place.session("helper", "mallory")
    async with place.working():
        await place.ended(await place.turn(session, owner, "my secret is long and has many words"))
        first = await place.value("SELECT (result #>> '{usage,input_tokens}')::int FROM runtime.tasks")
        intruding = await place.submit("helper", "hi", session_id=session, user_id=stranger)
        (task,) = await place.ended(intruding)
    assert task.result["usage"]["input_tokens"] < first
    assert ("user", "hi") not in await place.messages(session, owner)
    assert agent == task.agent_id


async def test_a_failed_turn_leaves_no_message_and_does_not_block_the_next_one(place: Workplace) -> None:
    turns = {"conversations": [{"match": "bad", "turns": [{"text": "hm", "error": "server"}]}, {"turns": ECHO}]}
    await place.agent("helper", turns)
    session, user = await place.session("helper")
    async with place.working():
        bad = await place.turn(session, user, "bad")
        good = await place.turn(session, user, "good")
        failed, fine = await place.ended(bad, good)
    assert (failed.status, fine.status) == ("failed", "completed")
    assert await place.messages(session, user) == [("user", "good"), ("assistant", "heard good")]


async def test_a_worker_of_one_session_runs_nothing_else(place: Workplace) -> None:
    await place.agent("helper", ECHO)
    session, user = await place.session("helper")
    other = await place.submit("helper", "not mine")
    mine = await place.turn(session, user, "mine")
    async with place.working(session=session):
        await place.ended(mine)
        deadline = time.monotonic() + 3 * place.settings.poll
        while time.monotonic() < deadline:
            assert (await place.task(other)).status == "pending"
