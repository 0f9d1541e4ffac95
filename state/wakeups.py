"""LISTEN and NOTIFY on a connection of their own, outside the pool; every wait has a poll behind it."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final, cast
from uuid import UUID

from psycopg import sql

from cirkelline.state import jsonb
from cirkelline.state.connection import Conn, connect

TASKS: Final = "cirkelline_tasks"
ROUTE: Final = "route"  # on TASKS: one of them names capabilities
AGENTS: Final = "cirkelline_agents"
CANCEL: Final = "cirkelline_cancel"

# A NOTIFY payload must be shorter than 8000 bytes.
PAYLOAD_LIMIT: Final = 7500


def stream_channel(task_id: UUID) -> str:
    """Return the channel on which a chat's running task tells its events."""
    return f"cirkelline_{task_id.hex}"


class Wakeups:
    """A listening connection: iterate over `(channel, payload)`."""

    def __init__(self, conn: Conn) -> None:
        self._conn = conn

    async def listen(self, channel: str) -> None:
        """Listen on one more channel."""
        await self._conn.execute(sql.SQL("LISTEN {}").format(sql.Identifier(channel)))

    async def wait(self, timeout: float) -> list[tuple[str, str]]:  # noqa: ASYNC109 - it is LISTEN that times out
        """Return what arrived within `timeout` seconds: as soon as something does, or nothing at the end."""
        return [(notice.channel, notice.payload) async for notice in self._conn.notifies(timeout=timeout, stop_after=1)]


@asynccontextmanager
async def listening(url: str, channels: Sequence[str]) -> AsyncGenerator[Wakeups]:
    """Open a connection that listens on these channels. Raises: DatabaseUnavailable."""
    conn = await connect(url)
    async with conn:
        wakeups = Wakeups(conn)
        for channel in channels:
            await wakeups.listen(channel)
        yield wakeups


NOTIFY: Final = "SELECT pg_notify(%(channel)s::text, %(payload)s::text)"


async def tell(conn: Conn, channel: str, message: dict[str, Any]) -> None:
    """Send one JSON message; what would not fit into a notification is left out, since the database has the rest."""
    payload = jsonb.dumps(message)
    if len(payload) <= PAYLOAD_LIMIT:
        await conn.execute(NOTIFY, {"channel": channel, "payload": payload})


def heard(payload: str) -> dict[str, Any] | None:
    """Return a message that `tell` sent, or None for what somebody else sent on the channel."""
    try:
        message = json.loads(payload)
    except ValueError:
        return None
    return cast("dict[str, Any]", message) if isinstance(message, dict) else None
