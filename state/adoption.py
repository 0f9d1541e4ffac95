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
       (count(*) FILTER (WHERE status = 'pending' AND agent_id IS NOT NULL))::integer AS pending,
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

    Rows, keys, views and rights move along. Programs that name them without a schema need `runtime` in their
    search_path afterwards. Raises: AdoptionRefused when there is nothing to move or `runtime` holds rows already.
    """
    conn = await connect(url)
    async with conn, migrations.changing(conn, url):
        found = documents.second_in_public(await documents.columns(conn))
        if not found:
            raise AdoptionRefused("no table of the agents database stands in `public`: there is nothing to move")
        await _make_room(conn)
        for name in found:
            await conn.execute(sql.SQL("ALTER TABLE {} SET SCHEMA runtime").format(sql.Identifier("public", name)))
        await _let_in(conn, found)
        await migrations.check_tables(conn, own=())
        # They complete the tables that just arrived, and make what the move left room for in `public`.
        await migrations.run(conn)
    return found


async def _make_room(conn: Conn) -> None:
    """Drop our own, still empty tables of the second document."""
    await conn.execute("CREATE SCHEMA IF NOT EXISTS runtime")
    there = await documents.columns(conn)
    ours = {name: sql.Identifier("runtime", name) for name in documents.SECOND_DOCUMENT if f"runtime.{name}" in there}
    if not ours:
        return
    tables = sql.SQL(", ").join(ours.values())
    await conn.execute(sql.SQL("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE").format(tables))
    for name, table in ours.items():
        row = await (await conn.execute(sql.SQL("SELECT EXISTS (SELECT FROM {})").format(table))).fetchone()
        if row and row[0]:
            raise AdoptionRefused(
                f"runtime.{name} holds rows already: empty it first, or leave the tables in `public` where they are; "
                "nothing was changed"
            )
    # Together, since they refer to each other; not CASCADE, which would take somebody's view along.
    await conn.execute(sql.SQL("DROP TABLE {}").format(tables))


GRANTEES: Final = """
SELECT DISTINCT CASE WHEN let.role = 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(let.role)) END
  FROM pg_class c
 CROSS JOIN LATERAL (
       SELECT c.relowner UNION SELECT (aclexplode(c.relacl)).grantee
        UNION SELECT (aclexplode(a.attacl)).grantee FROM pg_attribute a WHERE a.attrelid = c.oid) AS let (role)
 WHERE c.relnamespace = 'runtime'::regnamespace AND c.relname = ANY (%(tables)s::text[])
"""


async def _let_in(conn: Conn, tables: list[str]) -> None:
    """Let everybody who has rights on these tables into the schema they are in now."""
    for (role,) in await (await conn.execute(GRANTEES, {"tables": tables})).fetchall():
        await conn.execute(sql.SQL("GRANT USAGE ON SCHEMA runtime TO {}").format(sql.SQL(role)))
