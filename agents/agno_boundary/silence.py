"""agno's loggers, silenced: it prints to standard output, where `--json` puts its one document, and quotes providers, keys and all.

Nothing is lost: what fails reaches us as an exception or a status, and our own log tells it.
"""

from __future__ import annotations

import logging

from agno.utils import log as agno_log

for _name in (agno_log.LOGGER_NAME, agno_log.TEAM_LOGGER_NAME, agno_log.WORKFLOW_LOGGER_NAME):
    _logger = logging.getLogger(_name)
    _logger.handlers[:] = [logging.NullHandler()]
    _logger.propagate = False
