"""In a chat, a turn that needs the person asks on the spot, and goes on with the answer."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest
from chat_scene import Chat, FakeScreen
from workplace import Workplace

from cirkelline.runtime.chat import questions, situation
from cirkelline.runtime.chat.screen import Turn
from cirkelline.state import parking
from cirkelline.state.connection import Conn
from cirkelline.state.parking import Waiting

TOOLS = """
def look(ctx: ToolContext) -> str:
    return "seen"

def pay(ctx: ToolContext, cents: int) -> str:
    return f"paid {cents}"
"""
LAST = {"text": "{{last_tool}}."}
ASK = {"tool": "ask_human", "arguments": {"question": "Which one?", "choices": ["red", "blue"]}}
PAY = {"text": "I will pay.", "calls": [{"tool": "look", "arguments": {}}, {"tool": "pay", "arguments": {"cents": 5}}]}


async def talk(place: Workplace, chat: Chat, turn: dict[str, Any], *inputs: str) -> tuple[FakeScreen, Turn | None]:
    """Say something to an agent that needs a person then; the person goes on with these lines."""
    place.tool("shop", TOOLS)
    tools = ["ask_human", "sleep", {"python": "shop:look"}, {"python": "shop:pay", "approval": True}]
    await place.agent("helper", [turn, LAST], tools=tools)
    screen = FakeScreen(*inputs)
    conversation = await chat.conversation(screen=screen)
    async with place.working():
        turned = await chat.end(chat.saying(conversation, "go on"))
        return screen, await questions.settle(conversation, screen, turned)


async def test_the_next_line_is_the_answer_to_what_the_agent_asks(place: Workplace, chat: Chat) -> None:
    screen, turn = await talk(place, chat, ASK, "bleu", "blue")
    assert "The agent asks: Which one? (red | blue) (/later leaves it open)" in screen.said
    assert "'bleu' is none of the answers red or blue; did you mean 'blue'?" in screen.said
    assert turn is not None
    assert (turn.completed, turn.output) == (True, "blue.")
    assert await place.value("SELECT decision ->> 'by' FROM runtime.journal WHERE waits IS NOT NULL") == "ivo@localhost"


@pytest.mark.parametrize(
    ("said", "output"),
    [("yes", "paid 5."), ("no, too much", "pay was not approved, so it did not run: too much.")],
)
async def test_a_call_that_needs_approval_is_approved_or_rejected_in_the_chat(
    place: Workplace, chat: Chat, said: str, output: str
) -> None:
    screen, turn = await talk(place, chat, PAY, "perhaps", said)
    assert "May the agent call pay(cents=5)? It waits for that. (yes, or no and why, or /later)" in screen.said
    assert "(yes, or no and why, or /later)" in screen.said
    assert turn is not None
    assert turn.output == output


async def test_what_was_shown_before_the_question_is_not_shown_again_after_it(place: Workplace, chat: Chat) -> None:
    screen, _ = await talk(place, chat, PAY, "yes")
    assert screen.shown.count("I will pay.") == 1
    assert screen.shown.count("look()") == 1
    assert "pay(cents=5)  waits" in screen.shown
    assert "pay(cents=5)  ok" in screen.shown
    assert "its worker is gone" not in screen.shown


async def test_a_question_may_be_left_for_later_and_is_asked_again_by_the_next_chat(
    place: Workplace, chat: Chat
) -> None:
    screen, turn = await talk(place, chat, ASK, "/later")
    assert turn is not None
    assert turn.parked
    assert "this turn goes on when that has been decided" in screen.said[-1]
    assert f"`cirkelline tasks answer {str(turn.task.id)[:8]} …`" in screen.said[-1]
    again = FakeScreen("red")
    conversation = await chat.conversation(screen=again)
    conversation.session = turn.task.session_id
    (unfinished,) = await conversation.unfinished()
    async with place.working():
        resumed = await questions.settle(conversation, again, await conversation.resume(unfinished))
    assert resumed is not None
    assert resumed.output == "red."


async def test_a_turn_that_only_sleeps_is_waited_for(place: Workplace, chat: Chat) -> None:
    screen, turn = await talk(place, chat, {"tool": "sleep", "arguments": {"duration": "1ms"}})
    assert turn is not None
    assert turn.output == "1ms have passed."
    assert 'sleep(duration="1ms")  waits' in screen.shown


async def test_a_turn_that_wakes_while_it_is_looked_at_waits_for_nobody(
    place: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    await place.agent("helper", [{"tool": "sleep", "arguments": {"duration": "1h"}}, LAST], tools=["sleep"])
    session, user_id = await place.session("helper", "ivo")
    task_id = await place.turn(session, user_id, "go on")
    async with place.working():
        await place.waiting(task_id)
    find = parking.find

    async def wakes_just_before(conn: Conn, task_id: UUID) -> list[Waiting]:
        await conn.execute("UPDATE runtime.journal SET until = now() - interval '1 second' WHERE waits IS NOT NULL")
        assert await parking.expire(conn) == 1
        return await find(conn, task_id)

    monkeypatch.setattr(parking, "find", wakes_just_before)
    async with place.db.connection() as conn:
        found = await situation.look(conn, task_id)
    assert found is not None
    assert (found.parked, found.pending) == (None, True)


async def test_where_nobody_can_be_asked_the_turn_is_left_with_what_to_type(place: Workplace, chat: Chat) -> None:
    place.tool("shop", TOOLS)
    await place.agent("helper", [ASK, LAST], tools=["ask_human"])
    screen = FakeScreen()
    screen.waits = False
    conversation = await chat.conversation(screen=screen)
    async with place.working():
        turn = await questions.settle(conversation, screen, await chat.answered(conversation, "go on"))
    assert turn is not None
    task = str(turn.task.id)[:8]
    assert f"`cirkelline tasks answer {task} …`" in screen.shown
