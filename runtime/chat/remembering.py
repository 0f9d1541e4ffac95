"""What a chat says of what is remembered: it asks first, tells what was kept and how to take it back, and waits for the rest."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Final

from cirkelline.configs import scalars
from cirkelline.configs.schema import Capture
from cirkelline.runtime.chat.conversation import Conversation
from cirkelline.runtime.chat.screen import Screen, Stop
from cirkelline.runtime.cli import display
from cirkelline.state import agents, captures, memories
from cirkelline.state.connection import Database, QueryError
from cirkelline.state.tenant import tenant

PATIENCE: Final = 120.0
"""Seconds that a chat whose own worker has to do it waits for what is still looked through when the person leaves."""
_LOOK: Final = 0.2
_QUESTION: Final = (
    "May what you tell about yourself be remembered, for later conversations too? You are told each time, /forget takes it"
    " back, and `cirkelline memories` shows it all. (yes or no)"
)
_YES: Final = frozenset({"y", "yes", "ok", "sure", "ja", "oui", "si", "sí"})
_NO: Final = frozenset({"n", "no", "nej", "nein", "non"})
_ASKED: Final = 3  # times that an answer is neither yes nor no; then it is asked another day


class Told:
    """What of the memories of one conversation the person has been told."""

    def __init__(self, conversation: Conversation) -> None:
        self._conversation = conversation
        self._seen = 0
        self._is_on = False

    async def begin(self, screen: Screen) -> None:
        """Ask, once for each user, whether they may be remembered, where the agent would. Raises: Left."""
        talk = self._conversation
        if not await _captures(talk):
            return
        async with tenant(talk.db, talk.user.id) as door:
            agreed = await memories.consent(door)
            self._seen = await captures.latest(door)
        if agreed is None and screen.waits:
            agreed = await _asked(talk, screen)
        self._is_on = bool(agreed)

    async def tell(self, screen: Screen) -> None:
        """Say what has been kept since the last time, and how to take it back."""
        talk = self._conversation
        if not self._is_on or talk.session is None:
            return
        with contextlib.suppress(QueryError):  # told the next time
            async with tenant(talk.db, talk.user.id) as door:
                found = await captures.kept(door, talk.session, after=self._seen)
            for memory_id, text in found:
                screen.say(f"remembered: {display.line(text, 200)} (/forget {memory_id} takes it back)", "quiet")
                self._seen = max(self._seen, memory_id)

    async def finish(self, screen: Screen) -> None:
        """Wait for what this chat's own worker still looks through; Ctrl-C leaves it to the next one."""
        talk = self._conversation
        if not self._is_on or talk.session is None or not talk.works_itself:
            return
        stop = Stop()
        with screen.answering(stop), contextlib.suppress(QueryError, TimeoutError):
            screen.status("remembering")
            async with asyncio.timeout(PATIENCE):
                while not stop.pressed and await self._left():
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(_LOOK):
                            await stop.asked.wait()
            screen.status(None)
        await self.tell(screen)

    async def _left(self) -> bool:
        talk = self._conversation
        async with tenant(talk.db, talk.user.id) as door:
            return talk.session is not None and await captures.under_way(door, talk.session)


async def _captures(talk: Conversation) -> bool:
    if talk.agent.definition_version is None:
        return False
    async with talk.db.connection() as conn:
        stored = await agents.definition(conn, talk.agent.id, talk.agent.definition_version)
    memory = stored.spec.get("memory")
    return scalars.is_mapping(memory) and memory.get("capture") == Capture.AUTO


async def _asked(talk: Conversation, screen: Screen) -> bool | None:
    screen.say(_QUESTION)
    for _ in range(_ASKED):
        said = (await screen.ask()).strip().lower().rstrip(".!")
        if said in _YES or said in _NO:
            async with tenant(talk.db, talk.user.id) as door:
                await memories.choose(door, capture=said in _YES)
            kept = "what you tell is remembered" if said in _YES else "nothing is remembered by itself"
            screen.say(f"{kept}; `cirkelline memories capture` changes that", "quiet")
            return said in _YES
        screen.say("yes or no?", "quiet")
    return None


async def forget(db: Database, conversation: Conversation, screen: Screen, reference: str) -> None:
    """Take back a memory that the chat has told of."""
    async with tenant(db, conversation.user.id) as door:
        await memories.lock(door)
        found = await memories.get(door, reference)
        await memories.archive(door, [found.id], memories.Reason.FORGOTTEN)
    screen.say(
        f"forgotten: {display.line(found.memory, 200)} (`cirkelline memories undo {found.id}` brings it back)", "quiet"
    )
