"""Whose rows other programs' are: their words for users, and what belongs to nobody."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import psycopg
from psycopg.rows import class_row

from cirkelline.configs.errors import UsageError
from cirkelline.state import jsonb
from cirkelline.state.connection import Conn
from cirkelline.state.tenant import SHARED
from cirkelline.state.users import User


class AliasRefused(UsageError):
    """A text that cannot name this user."""


@dataclass(frozen=True, slots=True)
class Owned:
    """How many rows of a table an owner's text names; None where they name nobody."""

    relation: str
    owner: str | None
    amount: int


# A chunk that names nobody is its document's owner's. A workflow's run without a user is an operator's.
OWNED: Final = """
WITH owned AS (
    SELECT 'ai.agno_sessions' AS relation, user_id::text AS owner, count(*) AS amount FROM ai.agno_sessions GROUP BY 2
     UNION ALL
    SELECT 'ai.agno_memories', user_id::text, count(*) FROM ai.agno_memories GROUP BY 2
     UNION ALL
    SELECT 'ai.agno_memories_archive', user_id::text, count(*) FROM ai.agno_memories_archive GROUP BY 2
     UNION ALL
    SELECT 'ai.agno_knowledge', metadata ->> 'user_id', count(*) FROM ai.agno_knowledge GROUP BY 2
     UNION ALL
    SELECT 'ai.cirkelline_knowledge_vectors', coalesce(v.metadata ->> 'user_id', d.metadata ->> 'user_id'), count(*)
      FROM ai.cirkelline_knowledge_vectors v
      LEFT JOIN ai.agno_knowledge d ON d.id = v.document_id AND v.metadata ->> 'user_id' IS NULL GROUP BY 2
     UNION ALL
    SELECT 'ai.workflow_runs', user_id::text, count(*) FROM ai.workflow_runs WHERE user_id IS NOT NULL GROUP BY 2
)
SELECT o.relation, o.owner, o.amount::integer FROM owned o
"""
OF: Final = OWNED + " WHERE o.owner = %(owner)s::text ORDER BY o.relation"
OF_NOBODY: Final = (
    OWNED
    + """ WHERE o.owner IS NULL
    OR o.owner <> runtime.shared_owner()
   AND NOT EXISTS (SELECT FROM runtime.users u WHERE u.id::text = o.owner)
   AND NOT EXISTS (SELECT FROM runtime.user_aliases a JOIN runtime.users u ON u.id = a.user_id WHERE a.alias = o.owner)
 ORDER BY o.owner NULLS LAST, o.relation
"""
)


async def of(conn: Conn, owner: str) -> list[Owned]:
    """Count the rows that an owner's text names, by table."""
    async with conn.cursor(row_factory=class_row(Owned)) as cursor:
        await cursor.execute(OF, {"owner": owner})
        return await cursor.fetchall()


async def of_nobody(conn: Conn) -> list[Owned]:
    """Count the rows that belong to nobody, by their owner's text and table; it reads all of them."""
    async with conn.cursor(row_factory=class_row(Owned)) as cursor:
        await cursor.execute(OF_NOBODY, {})
        return await cursor.fetchall()


NAMED: Final = """
SELECT u.id AS id, coalesce(u.email, u.id::text) AS name, 'id' AS how FROM runtime.users u WHERE u.id::text = %(alias)s::text
 UNION ALL
SELECT a.user_id, coalesce(u.email, a.user_id::text), 'alias'
  FROM runtime.user_aliases a LEFT JOIN runtime.users u ON u.id = a.user_id WHERE a.alias = %(alias)s
"""
ADOPT: Final = "INSERT INTO runtime.user_aliases (alias, user_id) VALUES (%(alias)s::text, %(user_id)s::uuid)"


async def adopt(conn: Conn, alias: str, user: User) -> list[Owned]:
    """Let another program's word for a user name this one; return the rows that become theirs. Raises: AliasRefused."""
    if alias == SHARED:
        raise AliasRefused(f"{SHARED} is the owner of what everybody may read, and cannot be a user's")
    if not alias or jsonb.clean_text(alias) != alias:
        raise AliasRefused(f"{alias!r} names nobody: give the user_id text as the other program's rows have it")
    row = await (await conn.execute(NAMED, {"alias": alias})).fetchone()
    if row is not None:
        taken, name, how = row
        if taken == user.id:
            raise AliasRefused(f"{alias} names {name} already")
        remedy = "" if how == "id" else f" (`cirkelline users adopt {alias} --undo` ends that)"
        raise AliasRefused(f"{alias} is {'the id of' if how == 'id' else 'adopted as'} {name}{remedy}")
    try:
        await conn.execute(ADOPT, {"alias": alias, "user_id": user.id})
    except psycopg.errors.UniqueViolation:
        raise AliasRefused(f"{alias} was adopted by somebody else just now (`cirkelline users list`)") from None
    return await of(conn, alias)


UNDO: Final = "DELETE FROM runtime.user_aliases WHERE alias = %(alias)s::text RETURNING alias"


async def undo(conn: Conn, alias: str) -> list[Owned]:
    """Let a text name nobody again; return the rows that are nobody's then. Raises: AliasRefused."""
    if await (await conn.execute(UNDO, {"alias": jsonb.clean_text(alias)})).fetchone() is None:
        raise AliasRefused(f"{alias} is adopted as nobody (`cirkelline users list` shows who is called what)")
    return await of(conn, alias)
