"""The one door to user-owned rows: a transaction that carries whose rows they are."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from cirkelline.state.connection import Conn, Database


@dataclass(frozen=True, slots=True)
class Tenant:
    """An open transaction on behalf of one user; every function on user-owned rows wants one, never a bare connection."""

    conn: Conn
    user_id: UUID


ENTER: Final = "SELECT set_config('app.user_id', %(user_id)s::text, true)"


@asynccontextmanager
async def tenant(db: Database, user_id: UUID) -> AsyncGenerator[Tenant]:
    """Open a transaction on one user's rows; it commits at the end and rolls back on an exception."""
    async with db.transaction() as conn:
        await conn.execute(ENTER, {"user_id": str(user_id)})
        yield Tenant(conn, user_id)
