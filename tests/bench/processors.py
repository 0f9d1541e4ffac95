"""Processor time: of this process, and of the server's processes that serve one database."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Final

from workplace import Workplace

_NS: Final = 1_000_000
BACKENDS: Final = """
SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND backend_type = 'client backend'
"""


async def client_and_server(place: Workplace) -> tuple[float, float | None]:
    """Milliseconds so far; None for a server that does not run on this machine, under this kernel."""
    pids = [int(row[0]) for row in await place.rows(BACKENDS)]
    return time.process_time() * 1000, _server(pids)


def _server(pids: list[int]) -> float | None:
    try:
        return sum(int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) for pid in pids) / _NS
    except OSError:
        return None
