"""The one system prompt a model reads: who it is, what it is told, whom it works for, and what day it is."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Final

from cirkelline.configs.schema import AgentSpec
from cirkelline.state.profiles import Profile

_LONGEST: Final = 2_000
"""Characters of one field of a profile; what goes beyond is cut."""


def system_prompt(spec: AgentSpec, now: datetime, about: str | None = None) -> str:
    """Return an agent's system prompt; what changes from day to day stands last, so that providers can cache the rest.

    `about` is what the model is told of the user it works for.
    """
    who = f"You are {spec.name}." + (f" {spec.description.strip()}" if spec.description.strip() else "")
    # The day and no more: a clock would make every prompt unlike the last. Tools tell the time.
    today = f"Today is {now:%A}, {now:%Y-%m-%d}."
    return "\n\n".join((who, spec.instructions.strip(), *((about,) if about else ()), today))


def about(profile: Profile | None) -> str | None:
    """Return what a model is told of the user whose profile this is, None where it says nothing."""
    if profile is None:
        return None
    preferences = profile.preferences
    # On one line, as a text of JSON is quoted and cannot begin a line that looks like ours.
    said = None if preferences in (None, {}, [], "") else json.dumps(preferences, ensure_ascii=False)
    fields = {
        "Name": profile.name,
        "Role": profile.role,
        "Context": profile.context,
        "Preferences": said,
        "What they ask of every answer": profile.custom_instructions,
    }
    lines = [f"{label}: {_cut(text.strip())}" for label, text in fields.items() if text and text.strip()]
    return "\n".join(("You work for this user.", *lines)) if lines else None


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST else text[: _LONGEST - 2].rstrip() + " …"
