"""The one door to user-owned rows: a transaction under a role that row-level security shows one user's rows and no others.

`state/sql/011_tenants.sql` holds the rules. Whoever is let through here may forget a WHERE and still sees nothing of
anybody else.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final
from uuid import UUID

import psycopg
from psycopg import sql

from cirkelline.configs.errors import CirkellineError
from cirkelline.state.connection import Conn, Database

ROLE: Final = "cirkelline_tenant"
SHARED: Final = "cirkelline:shared"
"""The owner of documents that everybody may read."""

_FIRST_WITH_OPTIONS: Final = 160000  # GRANT … WITH INHERIT FALSE


class TenantsUnprotected(CirkellineError):
    """Nobody can work on behalf of a user: the role for it, or its policies, are not there."""


class UserErased(CirkellineError):
    """A user's data has been erased, and none is to be written again."""


@dataclass(frozen=True, slots=True)
class Tenant:
    """An open transaction on behalf of one user; every function on user-owned rows wants one, never a bare connection."""

    conn: Conn
    user_id: UUID

    @property
    def owner(self) -> str:
        """The text that names the user as an owner."""
        return str(self.user_id)


@dataclass(frozen=True, slots=True)
class Shared:
    """An operator's open transaction on what everybody may read."""

    conn: Conn

    @property
    def owner(self) -> str:
        """The text that names nobody and everybody as an owner."""
        return SHARED


Door = Tenant | Shared

# One statement, and in this order: what follows the role is asked as the role, and the first of it is false wherever it
# would see every row.
ENTER: Final = """
SELECT set_config('app.user_id', %(user_id)s::text, true), set_config('role', 'cirkelline_tenant', true),
       row_security_active('runtime.tasks'::regclass), runtime.is_erased(%(user_id)s::uuid)
"""


ONE_MOMENT: Final = "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY"


@asynccontextmanager
async def tenant(db: Database, user_id: UUID, *, one_moment: bool = False) -> AsyncGenerator[Tenant]:
    """Open a transaction on one user's rows; it commits at the end and rolls back on an exception.

    With `one_moment` it only reads, and all that it reads is as it was when it began. Raises: TenantsUnprotected,
    UserErased.
    """
    async with db.transaction() as conn:
        if one_moment:
            await conn.execute(ONE_MOMENT)
        await _enter(conn, user_id)
        yield Tenant(conn, user_id)


@asynccontextmanager
async def shared(db: Database) -> AsyncGenerator[Shared]:
    """Open an operator's transaction on shared documents; it commits at the end and rolls back on an exception."""
    async with db.transaction() as conn:
        yield Shared(conn)


async def _enter(conn: Conn, user_id: UUID) -> None:
    try:
        row = await (await conn.execute(ENTER, {"user_id": str(user_id)})).fetchone()
    except psycopg.errors.InvalidParameterValue as error:
        raise unprotected(conn, "missing") from error
    except psycopg.errors.InsufficientPrivilege as error:
        raise unprotected(conn, "barred") from error
    if row is None or row[2] is not True:
        raise unprotected(conn, "unprotected")
    if row[3]:
        raise UserErased(f"user {user_id} was deleted with all their data, so nothing is done on their behalf any more")


def unprotected(conn: Conn, obstacle: str) -> TenantsUnprotected:
    """Say why nobody can work on behalf of a user here, and what an administrator has to do once."""
    remedies = {
        "missing": f"have an administrator run once `CREATE ROLE {ROLE} NOLOGIN; {_grant(conn)}`, then run"
        " `cirkelline db migrate` as the owner of the tables",
        "barred": f"have an administrator run once `{_grant(conn)}`",
        "powerful": f"have an administrator run once `ALTER ROLE {ROLE} NOSUPERUSER NOBYPASSRLS`",
    }
    remedy = remedies.get(obstacle, "run `cirkelline db migrate` as the owner of the tables")
    return TenantsUnprotected(f"nothing can be done on behalf of a user in this database yet: {remedy}")


def _grant(conn: Conn) -> str:
    user = sql.Identifier(conn.info.user).as_string(None)
    options = " WITH INHERIT FALSE, SET TRUE" if conn.info.server_version >= _FIRST_WITH_OPTIONS else ""
    return f"GRANT {ROLE} TO {user}{options};"


OBSTACLE: Final = """
SELECT runtime.tenant_obstacle() AS obstacle, pg_has_role(c.relowner, 'USAGE') AS owned
  FROM pg_class c WHERE c.oid = 'runtime.tasks'::regclass
"""


async def obstacle(conn: Conn) -> str | None:
    """Return in one sentence what keeps everybody from working on behalf of users here, or None."""
    row = await (await conn.execute(OBSTACLE)).fetchone()
    return str(unprotected(conn, row[0])) if row and row[0] else None


async def can_be_protected(conn: Conn) -> bool:
    """Whether something is missing that this connection may be able to do, as the owner of the tables."""
    row = await (await conn.execute(OBSTACLE)).fetchone()
    return bool(row and row[0] and row[1])


PROTECT: Final = "SELECT runtime.protect_tenants()"


async def protect(conn: Conn) -> None:
    """Put the rules of every user-owned table in force, if the role is there or can be made; inside a migration."""
    await conn.execute(PROTECT)


HINDERED: Final = """
SELECT DISTINCT g.rolname FROM runtime.tenant_rules rule JOIN pg_class c ON c.oid = to_regclass(rule.relation)
 CROSS JOIN LATERAL aclexplode(c.relacl) acl JOIN pg_roles g ON g.oid = acl.grantee
 WHERE acl.privilege_type = 'INSERT' AND g.rolname <> 'cirkelline_tenant' AND NOT g.rolsuper AND NOT g.rolbypassrls
   AND NOT pg_has_role(g.oid, c.relowner, 'USAGE') ORDER BY g.rolname
"""


async def hindered(conn: Conn) -> list[str]:
    """Name the roles that may write protected tables by INSERT, and not by COPY FROM: PostgreSQL refuses it them."""
    return [str(name) for (name,) in await (await conn.execute(HINDERED)).fetchall()]
