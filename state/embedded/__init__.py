"""A PostgreSQL server of our own, for people without one: started by the first process, stopped by the last.

with embedded.ensure(settings.home) as server:
    connect(server.url())
"""

from __future__ import annotations

from cirkelline.state.embedded.binaries import binary
from cirkelline.state.embedded.failures import EmbeddedServerError
from cirkelline.state.embedded.server import EmbeddedServer, Status, ensure, status, stop

__all__ = ["EmbeddedServer", "EmbeddedServerError", "Status", "binary", "ensure", "status", "stop"]
