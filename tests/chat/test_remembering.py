"""The chat asks before it remembers, says what it kept and takes it back, and leaves nothing unlooked at when it goes."""

from __future__ import annotations

from typing import Any

from chat_scene import Chat, FakeScreen
from workplace import Workplace

from cirkelline.runtime.chat import talk as talks
from cirkelline.runtime.chat.conversation import Conversation
from cirkelline.runtime.chat.screen import Left
from cirkelline.state import memories
from cirkelline.state.tenant import tenant

FACT = {"fact": "Lives in Aarhus", "quote": "I live in Aarhus"}
SCRIPT = {
    "conversations": [
        {
            "match": "Look through this conversation",
            "turns": [{"tool": "keep_facts", "arguments": {"facts": [FACT]}}, {"text": "done"}],
        },
        {"turns": [{"text": "You said {{input}}."}]},
    ]
}


async def agent(place: Workplace, **config: Any) -> None:
    await place.agent("helper", SCRIPT, memory={"capture": "auto"}, **config)


async def kept(place: Workplace, talk: Conversation) -> list[str]:
    async with tenant(place.db, talk.user.id) as door:
        return [each.memory for each in await memories.find(door)]


async def agreed(place: Workplace, talk: Conversation) -> bool | None:
    async with tenant(place.db, talk.user.id) as door:
        return await memories.consent(door)


async def converse(chat: Chat, *inputs: str) -> tuple[Conversation, FakeScreen]:
    screen = FakeScreen(*inputs)
    talk = await chat.conversation(screen=screen)
    left = await talks._converse(talk, screen)
    assert isinstance(left, Left)
    return talk, screen


async def test_a_user_is_asked_once_and_then_told_what_was_kept_and_how_to_take_it_back(
    place: Workplace, chat: Chat
) -> None:
    await agent(place)
    talk, screen = await converse(chat, "yes", "Hello, I live in Aarhus.")
    assert screen.said[0].startswith("May what you tell about yourself be remembered")
    # The chat's own worker has looked through it before the chat was left.
    (told,) = [line for line in screen.said if line.startswith("remembered: ")]
    assert told.startswith("remembered: Lives in Aarhus (/forget ")
    assert (await kept(place, talk), await agreed(place, talk)) == (["Lives in Aarhus"], True)
    number = told.split("/forget ")[1].split()[0]
    _, again = await converse(chat, f"/forget {number}", "/memories")
    assert again.said[0].startswith("forgotten: Lives in Aarhus (`cirkelline memories undo ")
    assert again.said[1:] == ["nothing is remembered of you"]
    assert again.wrong == 0


async def test_whoever_says_no_is_not_asked_again_and_nothing_is_looked_through(place: Workplace, chat: Chat) -> None:
    await agent(place)
    talk, _ = await converse(chat, "what?", "No.", "I live in Aarhus.")
    assert (await kept(place, talk), await agreed(place, talk)) == ([], False)
    _, screen = await converse(chat, "I live in Aarhus.")
    assert not any(line.startswith("May what you tell") for line in screen.said)
    assert await place.value("SELECT count(*) FROM runtime.tasks WHERE task_type = 'capture'") == 0


async def test_an_agent_that_remembers_nothing_by_itself_asks_nothing(place: Workplace, chat: Chat) -> None:
    await place.agent("helper", SCRIPT, memory={})
    talk, screen = await converse(chat, "I live in Aarhus.")
    assert [line for line in screen.said if "remember" in line] == []
    assert await agreed(place, talk) is None
