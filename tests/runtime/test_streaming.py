"""Whoever follows a turn sees it happen, and always its end, whatever happens to the notifications."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import UUID, uuid4

from workplace import Workplace, until

from cirkelline.agents.run import TextDelta, ToolFinished, ToolStarted
from cirkelline.runtime import streaming
from cirkelline.runtime.streaming import Follower, Telling, Told
from cirkelline.state import wakeups
from cirkelline.state.tasks import Task


async def followed(place: Workplace, task_id: UUID) -> tuple[list[Told], Task]:
    told: list[Told] = []
    async with Follower(place.db, poll=0.2) as follower:
        async for event in follower.follow(task_id):
            if isinstance(event, Task):
                return told, event
            told.append(event)
    raise AssertionError("it ended without the task's row")


async def listeners(place: Workplace, task_id: UUID) -> int:
    return int(
        await place.value(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'LISTEN%%' || %s || '%%'",
            task_id.hex,
        )
    )


async def test_a_turn_is_told_word_by_word_with_its_tools_and_ends_with_its_row(place: Workplace) -> None:
    place.tool("price", "def price(of: str) -> str:\n    return 'ten'\n")
    turns = [
        {"text": "Let me look.", "tool": "price", "arguments": {"of": "tea"}},
        {"text": "It costs {{last_tool}} euro.", "pace": "100ms"},
    ]
    await place.agent("helper", turns, tools=[{"python": "price:price"}])
    session, user = await place.session("helper")
    task_id = await place.turn(session, user, "tea?")
    following = asyncio.create_task(followed(place, task_id))
    await until(lambda: listeners(place, task_id), "the follower")
    async with place.working():
        told, task = await following
    assert task.status == "completed"
    assert [each.n for each in told] == [*range(1, len(told) + 1)]
    assert not any(each.missed for each in told)
    kinds = [each.kind for each in told]
    assert kinds[0] == "started"
    assert kinds[-1] == "done"
    texts = [each for each in told if each.kind == "text"]
    assert len(texts) >= 3  # the words came one by one, and not all at the end
    assert "".join(each.text for each in texts) == "Let me look.It costs ten euro."
    assert [each.at for each in texts] == [sum(len(x.text) for x in texts[:i]) for i in range(len(texts))]
    (tool,) = [each for each in told if each.kind == "tool_started"]
    assert (tool.name, tool.arguments) == ("price", '{"of": "tea"}')
    (finished,) = [each for each in told if each.kind == "tool_finished"]
    assert (finished.name, finished.ok) == ("price", True)


async def test_only_a_chats_tasks_are_told(place: Workplace) -> None:
    await place.agent("helper", [{"text": "done", "delay": "500ms"}])
    task_id = await place.submit("helper")
    following = asyncio.create_task(followed(place, task_id))
    await until(lambda: listeners(place, task_id), "the follower")
    async with place.working():
        told, task = await following
    assert (told, task.status) == ([], "completed")


async def test_a_follower_whose_connection_is_cut_still_sees_the_end(place: Workplace) -> None:
    await place.agent("helper", [{"text": "a b c d", "pace": "300ms"}])
    session, user = await place.session("helper")
    task_id = await place.turn(session, user, "hello")
    following = asyncio.create_task(followed(place, task_id))
    await until(lambda: listeners(place, task_id), "the follower")
    async with place.working():
        await place.running(task_id)
        await place.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND query LIKE 'LISTEN%%' || %s || '%%'",
            task_id.hex,
        )
        _, task = await following
    assert task.result["output"] == "a b c d"


async def test_a_task_that_had_ended_before_is_followed_to_its_end_at_once(place: Workplace) -> None:
    await place.agent("helper", [{"text": "done"}])
    task_id = await place.submit("helper")
    async with place.working():
        await place.ended(task_id)
    events = [event async for event in streaming.follow(place.db.url, task_id)]
    assert [type(event) for event in events] == [Task]


async def test_a_long_text_is_cut_so_that_every_piece_arrives(place: Workplace) -> None:
    text = ("\N{GRINNING FACE}" * 999 + '\\"\x01') * 20
    messages = await told_by(place, [TextDelta(text)])
    assert "".join(each["text"] for each in messages if each["kind"] == "text") == text


async def test_huge_arguments_are_shown_in_part_and_hide_nothing_after_them(place: Workplace) -> None:
    events = [ToolStarted("search", "\x01" * 100_000, "1"), ToolFinished("search", ok=False, ms=3, call_id="1")]
    messages = await told_by(place, events)
    assert [each["kind"] for each in messages] == ["started", "tool_started", "tool_finished", "done"]


async def told_by(place: Workplace, events: list[Any]) -> list[dict[str, Any]]:
    task_id = uuid4()
    messages: list[dict[str, Any]] = []
    async with wakeups.listening(place.db.url, [wakeups.stream_channel(task_id)]) as listening:
        async with Telling(place.db, task_id, 1) as telling:
            for event in events:
                telling.emit(event)
            await telling.done()
        while not messages or messages[-1]["kind"] != "done":
            for _, payload in await listening.wait(10):
                messages.append(wakeups.heard(payload) or {})
    return messages


async def test_strangers_words_on_the_channel_and_an_attempt_that_is_over_are_not_told(place: Workplace) -> None:
    await place.agent("helper", [{"text": "done"}])
    session, user = await place.session("helper")
    task_id = await place.turn(session, user, "hello")
    following = asyncio.create_task(followed(place, task_id))
    await until(lambda: listeners(place, task_id), "the follower")
    channel = wakeups.stream_channel(task_id)
    said: list[Any] = ["no json", [], {"n": 1}, {"n": "x", "attempt": 1, "kind": "text"}]
    said += [{"n": 1, "attempt": 2, "kind": "started"}, {"n": 2, "attempt": 1, "kind": "text", "text": "late"}]
    said += [{"n": 4, "attempt": 2, "kind": "text", "text": "after a gap"}]
    async with place.db.connection() as conn:
        await conn.execute("SELECT pg_notify(%s, 'no json')", [channel])
        for each in said[1:]:
            await wakeups.tell(conn, channel, each)
    await place.execute("UPDATE runtime.tasks SET status = 'completed' WHERE id = %s", task_id)
    told, _ = await following
    assert [(each.n, each.kind, each.missed) for each in told] == [(1, "started", False), (4, "text", True)]
