"""What can be typed in a chat besides what is said to the agent."""

from __future__ import annotations

import pytest
from chat_scene import Chat
from workplace import Workplace

from cirkelline.runtime.chat import commands
from cirkelline.runtime.chat.screen import Left

ANSWER = [{"text": "You said {{input}}."}]


@pytest.mark.parametrize("said", ["/help", "/quit", "/nonsense", "/New", "/ ".strip(), "/help "])
def test_one_word_with_a_slash_is_a_command(said: str) -> None:
    assert commands.typed(said) == said.strip()


@pytest.mark.parametrize(
    "said", ["/etc/hosts", "/help me", " /help", "a/b", "1/2", "/2026", "what does /help do?", "/usr/bin and\nmore"]
)
def test_everything_else_is_said_to_the_agent(said: str) -> None:
    assert commands.typed(said) is None


@pytest.mark.parametrize(("typed", "meant"), [("/quti", "/quit"), ("/sessionss", "/sessions"), ("/hlep", "/help")])
async def test_a_mistyped_command_is_a_question_and_not_a_turn(
    place: Workplace, chat: Chat, typed: str, meant: str
) -> None:
    await place.agent("helper", ANSWER)
    assert not await commands.run(typed, await chat.conversation(), chat.screen)
    assert f"did you mean {meant}?" in chat.screen.shown
    assert await place.rows("SELECT FROM runtime.tasks") == []


async def test_an_unknown_command_that_resembles_none_points_to_help(place: Workplace, chat: Chat) -> None:
    await place.agent("helper", ANSWER)
    assert not await commands.run("/xyzzy", await chat.conversation(), chat.screen)
    assert "/help lists the commands" in chat.screen.shown


async def test_help_names_every_command_and_key(place: Workplace, chat: Chat) -> None:
    await place.agent("helper", ANSWER)
    assert await commands.run("/help", await chat.conversation(), chat.screen)
    for word in [*commands.COMMANDS, "Ctrl-C", "Ctrl-D", "Alt-Enter"]:
        assert word in chat.screen.shown


async def test_new_begins_a_session_without_what_was_said_and_keeps_the_old_one(place: Workplace, chat: Chat) -> None:
    await place.agent("helper", ANSWER)
    talk = await chat.conversation()
    first = await chat.answered(talk, "one two three")
    before = talk.session
    assert await commands.run("/new", talk, chat.screen)
    second = await chat.answered(talk, "one two three")
    assert talk.session != before
    assert first.task.result["usage"]["input_tokens"] == second.task.result["usage"]["input_tokens"]
    assert await place.rows("SELECT count(DISTINCT session_id) FROM runtime.messages") == [(2,)]


async def test_sessions_lists_this_users_sessions_with_this_agent_alone(place: Workplace, chat: Chat) -> None:
    await place.agent("helper", ANSWER)
    await place.agent("other", ANSWER)
    talk = await chat.conversation()
    await chat.answered(talk, "my own words")
    for agent, user in (("helper", "eve"), ("other", "ivo")):
        await chat.answered(await chat.conversation(agent, user), f"words of {user} to {agent}")
    assert await commands.run("/sessions", talk, chat.screen)
    (listed,) = [said for said in chat.screen.said if "cirkelline chat --session" in said]
    assert f"* {str(talk.session)[:8]}" in listed
    assert "my own words" in listed
    assert "words of" not in listed


async def test_sessions_says_when_there_are_none(place: Workplace, chat: Chat) -> None:
    await place.agent("helper", ANSWER)
    assert await commands.run("/sessions", await chat.conversation(), chat.screen)
    assert chat.screen.said == ["no sessions with helper yet"]


async def test_agents_lists_those_that_can_be_talked_with(place: Workplace, chat: Chat) -> None:
    for name in ("helper", "other", "gone"):
        await place.agent(name, ANSWER)
    await place.execute("UPDATE runtime.agents SET status = 'retired' WHERE handle = 'gone'")
    assert await commands.run("/agents", await chat.conversation(), chat.screen)
    assert "* helper" in chat.screen.shown
    assert "  other" in chat.screen.shown
    assert "gone" not in chat.screen.shown


@pytest.mark.parametrize("typed", ["/quit", "/exit", "/q", "/QUIT"])
async def test_quit_leaves_without_having_been_interrupted(place: Workplace, chat: Chat, typed: str) -> None:
    await place.agent("helper", ANSWER)
    with pytest.raises(Left) as left:
        await commands.run(typed, await chat.conversation(), chat.screen)
    assert not left.value.interrupted
