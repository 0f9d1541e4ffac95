"""Tasks that name capabilities instead of an agent, until an agent is chosen for each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final
from uuid import UUID

from psycopg.rows import class_row

from cirkelline.state.agents import AGENTS, Agent
from cirkelline.state.connection import Conn

ROUTE: Final = "SELECT runtime.route_tasks(%(agents)s::uuid[], %(most)s::integer)"


async def route(conn: Conn, agents: Sequence[UUID], *, most: int) -> int:
    """Choose one of these agents for each of up to `most` tasks, the least loaded that is idle and able; return how many."""
    row = await (await conn.execute(ROUTE, {"agents": list(agents), "most": most})).fetchone()
    return int(row[0]) if row else 0


ABLE: Final = (
    AGENTS
    + " WHERE a.capabilities @> %(capabilities)s::text[] AND starts_with(a.handle, 'workflow:') IS NOT TRUE"
    + " ORDER BY a.handle, a.id"
)


async def able(conn: Conn, capabilities: Sequence[str]) -> list[Agent]:
    """Return the agents that have all of these capabilities, whatever keeps them from working."""
    async with conn.cursor(row_factory=class_row(Agent)) as cursor:
        await cursor.execute(ABLE, {"capabilities": list(capabilities)})
        return await cursor.fetchall()
