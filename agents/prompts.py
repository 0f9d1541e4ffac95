"""The one system prompt a model reads: who it is, what it is told, and what day it is."""

from __future__ import annotations

from datetime import datetime

from cirkelline.configs.schema import AgentSpec


def system_prompt(spec: AgentSpec, now: datetime) -> str:
    """Return an agent's system prompt; what changes from day to day stands last, so that providers can cache the rest."""
    who = f"You are {spec.name}." + (f" {spec.description.strip()}" if spec.description.strip() else "")
    # The day and no more: a clock would make every prompt unlike the last. Tools tell the time.
    today = f"Today is {now:%A}, {now:%Y-%m-%d}."
    return f"{who}\n\n{spec.instructions.strip()}\n\n{today}"
