"""The few commands that can be typed in a chat instead of something to say."""

from __future__ import annotations

import difflib
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from cirkelline.runtime.chat import remembering
from cirkelline.runtime.chat.conversation import Conversation
from cirkelline.runtime.chat.screen import Left, Screen
from cirkelline.runtime.cli import display
from cirkelline.state import agents, memories, sessions
from cirkelline.state.tenant import tenant

_TYPED: Final = re.compile(
    r"/[A-Za-z?]*|/forget +[0-9a-f-]+"
)  # a path or a date that begins with a slash is something to say
_SESSIONS: Final = 10
_MEMORIES: Final = 20


@dataclass(frozen=True, slots=True)
class Command:
    """A command: what it does, in a few words and in deed."""

    help: str
    run: Callable[[Conversation, Screen], Awaitable[None]]


def typed(said: str) -> str | None:
    """Return the command that a person typed, known or not, or None when it is something to say to the agent."""
    word = said.strip()
    return word if said.startswith("/") and _TYPED.fullmatch(word) else None


async def run(word: str, conversation: Conversation, screen: Screen) -> bool:
    """Do what a command says; return False for one that is unknown, having said so. Raises: Left."""
    if word.startswith("/forget "):
        await remembering.forget(conversation.db, conversation, screen, word.split()[1])
        return True
    command = COMMANDS.get(_OTHER_WORDS.get(word.lower(), word.lower()))
    if command is not None:
        await command.run(conversation, screen)
        return True
    close = difflib.get_close_matches(word.lower(), COMMANDS, n=1)
    meant = f"did you mean {close[0]}?" if close else "/help lists the commands"
    screen.say(f"there is no command {word}: {meant} (put a space before it to say it to the agent)", "bad")
    return False


async def _help(conversation: Conversation, screen: Screen) -> None:
    del conversation
    width = max(map(len, COMMANDS))
    keys = [
        ("Enter", "sends; Alt-Enter begins a new line, and pasted text keeps its lines"),
        ("Up", "brings back what you said before"),
        ("Ctrl-C", "stops an answer, or clears the line; on an empty line, twice leaves"),
        ("Ctrl-D", "leaves"),
    ]
    rows = [*((name, command.help) for name, command in COMMANDS.items()), *keys]
    screen.say("\n".join(f"  {name:<{width}}  {text}" for name, text in rows), "quiet")


async def _new(conversation: Conversation, screen: Screen) -> None:
    before, conversation.session = conversation.session, None
    kept = f"; {display.short(before)} is kept" if before else ""
    screen.say(
        f"a new session with {conversation.agent.label}, which knows nothing of what was said before{kept}", "quiet"
    )


async def _sessions(conversation: Conversation, screen: Screen) -> None:
    async with tenant(conversation.db, conversation.user.id) as rows:
        found = await sessions.find(rows, agent_id=conversation.agent.id, limit=_SESSIONS)
    if not found:
        screen.say(f"no sessions with {conversation.agent.label} yet", "quiet")
        return
    lines = [
        f"{'*' if each.id == conversation.session else ' '} {display.short(each.id)}  {display.ago(each.created_at):<12}"
        f"{display.count(each.turns, 'turn'):<10}{display.line(each.title or '', 60)}"
        for each in found
    ]
    screen.say("\n".join([*lines, "`cirkelline chat --session ID` goes on with one of them"]), "quiet")


async def _agents(conversation: Conversation, screen: Screen) -> None:
    async with conversation.db.connection() as conn:
        found = [agent for agent in await agents.find(conn) if agent.status != "retired"]
    lines = [
        f"{'*' if agent.id == conversation.agent.id else ' '} {display.line(agent.label, 40)}"
        + (f"  {agent.status}" if agent.status == "paused" else "")
        for agent in found
    ]
    screen.say("\n".join([*lines, "`cirkelline chat NAME` talks with another one"]), "quiet")


async def _memories(conversation: Conversation, screen: Screen) -> None:
    async with tenant(conversation.db, conversation.user.id) as rows:
        found = await memories.find(rows, limit=_MEMORIES)
    lines = [f"  {each.id:<6} {display.line(each.memory, 100)}" for each in found if each.superseded_by is None]
    after = "/forget and the number takes one back; `cirkelline memories list` shows all"
    screen.say("\n".join([*lines, after]) if lines else "nothing is remembered of you", "quiet")


async def _forget(conversation: Conversation, screen: Screen) -> None:
    await _memories(conversation, screen)


async def _quit(conversation: Conversation, screen: Screen) -> None:
    del conversation, screen
    raise Left


COMMANDS: Final = {
    "/help": Command("shows this", _help),
    "/new": Command("begins a new session with the same agent", _new),
    "/sessions": Command("lists your last sessions with this agent", _sessions),
    "/agents": Command("lists the agents there are", _agents),
    "/memories": Command("lists what is remembered of you", _memories),
    "/forget": Command("takes a memory back, by its number: /forget 12", _forget),
    "/quit": Command("leaves; everything said is kept", _quit),
}
_OTHER_WORDS: Final = {"/exit": "/quit", "/q": "/quit", "/bye": "/quit", "/?": "/help", "/h": "/help", "/": "/help"}
