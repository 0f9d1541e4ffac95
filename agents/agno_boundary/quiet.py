"""agno's agent without its habit of reporting home."""

from __future__ import annotations

from agno.agent import Agent


class QuietAgent(Agent):
    """An agno agent that never reports home, not even when AGNO_TELEMETRY=true overrides its own setting."""

    @property
    def telemetry(self) -> bool:
        """Whether it reports home: never."""
        return False

    @telemetry.setter
    def telemetry(self, value: bool) -> None:
        # agno assigns the environment's word to this attribute at the start and at the end of every run.
        del value
