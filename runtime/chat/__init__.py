"""A conversation with an agent in a terminal."""

from __future__ import annotations

import os
from collections.abc import Mapping

from cirkelline.configs.errors import CirkellineError
from cirkelline.configs.settings import Settings


class ChatMissing(CirkellineError):
    """The chat is not written yet."""


async def chat(
    settings: Settings,
    *,
    agent: str | None = None,
    user: str | None = None,
    session: str | None = None,
    as_json: bool = False,
    environ: Mapping[str, str] = os.environ,
) -> int:
    """Talk with an agent until the person ends it, and return the exit code; with `as_json` print one document."""
    del settings, agent, user, session, as_json, environ
    raise ChatMissing("the chat is not written yet: use `cirkelline tasks submit AGENT … --wait`")
