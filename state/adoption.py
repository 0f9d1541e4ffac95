"""Adoption: a database that other programs filled first is taken in with no row lost, changed or acted upon."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from psycopg import sql
from psycopg.rows import class_row

from cirkelline.configs.errors import UsageError
from cirkelline.state import documents, migrations
from cirkelline.state.connection import Conn, connect


class AdoptionRefused(UsageError):
    """Tables cannot be moved as they stand; nothing was changed."""


@dataclass(frozen=True, slots=True)
class Held:
    """Rows that were here before cirkelline; `pending` of the tasks would run when released."""

    agents: int
    tasks: int
    pending: int
    snapshots: int


@dataclass(frozen=True, slots=True)
class Report:
    """What adoption found: rows that are held, and the second document's tables that stand in `public`."""

    held: Held
    in_public: tuple[str, ...]


HELD: Final = """
SELECT (SELECT count(*) FROM runtime.agents WHERE adopted)::integer AS agents,
       count(*)::integer AS tasks,
       (count(*) FILTER (WHERE status = 'pending'))::integer AS pending,
       (SELECT count(*) FROM runtime.agent_states WHERE adopted)::integer AS snapshots
  FROM runtime.tasks WHERE adopted
"""


async def report(conn: Conn) -> Report:
    """Count what is held and name the second document's tables found in `public`."""
    async with conn.cursor(row_factory=class_row(Held)) as cursor:
        await cursor.execute(HELD)
        held = await cursor.fetchone()
    in_public = documents.second_in_public(await documents.columns(conn))
    return Report(held or Held(0, 0, 0, 0), tuple(in_public))


RELEASE: Final = "SELECT runtime.release_adopted()"


async def release(conn: Conn) -> int:
    """Let the pending tasks that were here before cirkelline run, oldest first; return how many."""
    row = await (await conn.execute(RELEASE)).fetchone()
    return int(row[0]) if row else 0


async def from_public(url: str) -> list[str]:
    """Move the second document's tables from `public` to `runtime` with everything that hangs on them; name them.

    Their rights, keys and rows move along. Programs that name them without a schema need `runtime` in their
    search_path afterwards. Raises: AdoptionRefused when there is nothing to move, or `runtime` holds rows already.
    """
    conn = await connect(url)
    async with conn:
        found = documents.second_in_public(await documents.columns(conn))
        if not found:
            raise AdoptionRefused("no table of the agents database stands in `public`: there is nothing to move")
        async with conn.transaction():
            await conn.execute(migrations.LOCK)
            await _move(conn, found)
    await migrations.migrate(url)
    return found


async def _move(conn: Conn, found: list[str]) -> None:
    for name in found:
        table = sql.Identifier("runtime", name)
        exists = await (await conn.execute("SELECT to_regclass(%s) IS NOT NULL", [f"runtime.{name}"])).fetchone()
        if exists and exists[0]:
            await conn.execute(sql.SQL("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE").format(table))
            row = await (await conn.execute(sql.SQL("SELECT EXISTS (SELECT FROM {})").format(table))).fetchone()
            if row and row[0]:
                raise AdoptionRefused(
                    f"runtime.{name} and public.{name} both hold rows: empty one of them first, nothing was changed"
                )
    await conn.execute("CREATE SCHEMA IF NOT EXISTS runtime")
    missing = [name for name in documents.SECOND_DOCUMENT if name not in found]
    if missing:
        raise AdoptionRefused(
            f"public lacks {', '.join(missing)} of the agents database: its five tables move together or not at all"
        )
    for name in documents.SECOND_DOCUMENT:
        await conn.execute(sql.SQL("DROP TABLE IF EXISTS {} CASCADE").format(sql.Identifier("runtime", name)))
        await conn.execute(sql.SQL("ALTER TABLE {} SET SCHEMA runtime").format(sql.Identifier("public", name)))
    # The files are written to be run again: they complete the tables that just arrived.
    await conn.execute("DROP TABLE IF EXISTS runtime.migrations")
