"""agno's agent without its habit of reporting home."""

from __future__ import annotations

from typing import Any

from agno.agent import Agent


class QuietAgent(Agent):
    """An agno agent that never reports home, not even when AGNO_TELEMETRY=true overrides its own setting."""

    def __setattr__(self, name: str, value: Any) -> None:
        # agno assigns the environment's word to this attribute at the start and at the end of every run.
        super().__setattr__(name, False if name == "telemetry" else value)
