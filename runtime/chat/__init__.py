"""A conversation with an agent in a terminal, or over pipes: a turn is a task of the session."""

from __future__ import annotations

from cirkelline.runtime.chat.talk import chat

__all__ = ["chat"]
