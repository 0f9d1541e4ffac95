"""Talking with an agent."""

from __future__ import annotations

from cirkelline.runtime import chat
from cirkelline.runtime.cli import opening
from cirkelline.runtime.cli.answers import Answer


async def talk(agent: str | None, user: str | None, session: str | None, *, as_json: bool) -> Answer:
    """Chat until the person ends it; what is said is written by the chat itself."""
    code = await chat.chat(opening.settings(), agent=agent, user=user, session=session, as_json=as_json)
    return Answer(None, exit_code=code)
