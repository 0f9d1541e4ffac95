"""A person who takes their data along, is shut out, or is erased: by the rules that protect each table, so none is left out."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, cast
from uuid import UUID

import psycopg

from cirkelline.configs.errors import CirkellineError
from cirkelline.state.connection import Conn
from cirkelline.state.tenant import Tenant


class StillReferred(CirkellineError):
    """Another program's table names a row that was to be erased."""


@dataclass(frozen=True, slots=True)
class Stopped:
    """What became of a user's unfinished tasks: how many ended at once, and how many a worker was asked to stop."""

    ended: int
    asked: int


@dataclass(frozen=True, slots=True)
class Erasure:
    """That a user is being erased, or was at `ended`; `rows` counts what went, by table."""

    user_id: UUID
    begun: datetime
    ended: datetime | None
    rows: dict[str, int]


TABLES: Final = """
SELECT r.relation FROM runtime.tenant_rules r
 WHERE to_regclass(r.relation) IS NOT NULL AND NOT r.derived AND coalesce(r.owned, r.visible) <> 'FALSE' ORDER BY r.relation
"""


async def tables(conn: Conn) -> list[str]:
    """Return the tables in which a person's rows are, but for those that are made of others."""
    return [str(name) for (name,) in await (await conn.execute(TABLES)).fetchall()]


EXPORT: Final = "SELECT runtime.export_rows(%(table)s::text)"


async def rows_of(door: Tenant, table: str) -> AsyncGenerator[str]:
    """Yield each of the user's own rows of a table as JSON, one after the other; close it with `aclosing`."""
    async with door.conn.cursor() as cursor:
        # It is a generator, whatever psycopg promises.
        found = cast("AsyncGenerator[tuple[Any, ...]]", cursor.stream(EXPORT, {"table": table}))
        async with aclosing(found):
            async for (row,) in found:
                yield str(row)


STOP: Final = "SELECT ended, asked FROM runtime.stop_tasks_of(%(user_id)s::uuid)"


async def stop_tasks(conn: Conn, user_id: UUID) -> Stopped:
    """Cancel whatever is in line, parked or runs on a user's behalf."""
    row = await (await conn.execute(STOP, {"user_id": user_id})).fetchone()
    return Stopped(*row) if row else Stopped(0, 0)


RUNNING: Final = """
SELECT count(*) FROM runtime.claims c JOIN runtime.tasks t ON t.id = c.task_id WHERE t.user_id = %(user_id)s::uuid
"""


async def running(conn: Conn, user_id: UUID) -> int:
    """Return how many tasks of a user some worker still runs."""
    row = await (await conn.execute(RUNNING, {"user_id": user_id})).fetchone()
    return int(row[0]) if row else 0


BEGIN: Final = "SELECT runtime.begin_erasing(%(user_id)s::uuid)"


async def begin(conn: Conn, user_id: UUID) -> None:
    """Remember that a user is to be erased, and revoke the user's token; may be done again."""
    await conn.execute(BEGIN, {"user_id": user_id})


ERASE: Final = "SELECT relation, amount FROM runtime.erase_user(%(user_id)s::uuid)"


async def erase(conn: Conn, user_id: UUID) -> dict[str, int]:
    """Erase a user everywhere, after `begin`; return how many rows of which table went. Raises: StillReferred."""
    try:
        async with conn.transaction():
            found = await (await conn.execute(ERASE, {"user_id": user_id})).fetchall()
    except psycopg.errors.ForeignKeyViolation as error:
        table = f"{error.diag.schema_name}.{error.diag.table_name}"
        raise StillReferred(
            f"nothing was erased: rows of another program's table {table} still refer to this user's;"
            " remove those rows, then do this again"
        ) from error
    return {str(relation): int(amount) for relation, amount in found}


ERASED: Final = """
SELECT user_id, begun, ended, report FROM runtime.erased_users WHERE user_id = %(user_id)s::uuid
"""


async def erasure(conn: Conn, user_id: UUID) -> Erasure | None:
    """Return what is on record of a user's erasure, or None when there was none."""
    row = await (await conn.execute(ERASED, {"user_id": user_id})).fetchone()
    return Erasure(*row) if row else None
