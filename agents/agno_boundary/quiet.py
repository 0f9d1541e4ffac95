"""agno without its habits: it prints to standard output, reports home, and reads switches for both from the environment."""

from __future__ import annotations

import logging
from typing import Any

from agno.agent import Agent
from agno.utils import log as agno_log

_LOGGERS = (agno_log.LOGGER_NAME, agno_log.TEAM_LOGGER_NAME, agno_log.WORKFLOW_LOGGER_NAME)


def _silence() -> None:
    # Its errors quote providers, keys and all, and its handler writes to standard output, where `--json` puts its one
    # document. Nothing is lost: what fails reaches us as an exception or a status, and our own log tells it.
    for name in _LOGGERS:
        logger = logging.getLogger(name)
        logger.handlers[:] = [logging.NullHandler()]
        logger.propagate = False


_silence()


class QuietAgent(Agent):
    """An agno agent that never reports home, not even when AGNO_TELEMETRY=true overrides its own setting."""

    def __setattr__(self, name: str, value: Any) -> None:
        # agno assigns the environment's word to this attribute at the start and at the end of every run.
        super().__setattr__(name, False if name == "telemetry" else value)
