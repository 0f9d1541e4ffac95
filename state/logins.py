"""Logins: `public.users`, which other programs may know too, and the attempts at them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

import psycopg
from psycopg.rows import class_row

from cirkelline.configs.errors import CirkellineError
from cirkelline.state.connection import Conn

ATTEMPTS: Final = 5
WITHIN: Final = timedelta(minutes=15)
"""So many wrong passwords are allowed for one email in so long."""


class NoLogins(CirkellineError):
    """The database has no login table, as another table stands in its place."""


class LoginTaken(CirkellineError):
    """There is a login of that email already."""


NO_PASSWORD: Final = "!"  # noqa: S105 - the opposite of one
"""What is kept for a login with which nobody can log in: it is no hash of anything."""


@dataclass(frozen=True, slots=True)
class Login:
    """A row of `public.users`."""

    id: int
    email: str
    hashed_password: str
    active: bool
    last_login: datetime | None


HAS_LOGINS: Final = "SELECT runtime.has_logins()"


async def are_there(conn: Conn) -> bool:
    """Whether the first document's login table is there."""
    row = await (await conn.execute(HAS_LOGINS)).fetchone()
    return bool(row and row[0])


async def require(conn: Conn) -> None:
    """Raise NoLogins where another table stands in the login table's place."""
    if not await are_there(conn):
        raise NoLogins(
            "public.users is the agents database's table here, so there are no logins: `cirkelline db adopt --from public`"
            " moves it to where cirkelline uses it, and makes them"
        )


LOGINS: Final = """
SELECT p.id, p.email, p.hashed_password, coalesce(p.is_active, TRUE) AS active, p.last_login FROM public.users p
"""
GET: Final = LOGINS + " WHERE p.email = %(email)s::text"
FIND: Final = LOGINS + " ORDER BY p.email"


async def get(conn: Conn, email: str) -> Login | None:
    """Return the login of this email, or None."""
    async with conn.cursor(row_factory=class_row(Login)) as cursor:
        await cursor.execute(GET, {"email": email})
        return await cursor.fetchone()


async def find(conn: Conn) -> list[Login]:
    """Return every login, by email; none where there is no table for them."""
    if not await are_there(conn):
        return []
    async with conn.cursor(row_factory=class_row(Login)) as cursor:
        await cursor.execute(FIND)
        return await cursor.fetchall()


ADD: Final = """
INSERT INTO public.users (email, hashed_password, is_active, created_at, updated_at)
VALUES (%(email)s::text, %(hashed)s::text, TRUE, now() AT TIME ZONE 'UTC', now() AT TIME ZONE 'UTC') RETURNING id
"""


async def add(conn: Conn, email: str, hashed: str) -> int:
    """Add a login and return its id. Raises: LoginTaken."""
    try:
        row = await (await conn.execute(ADD, {"email": email, "hashed": hashed})).fetchone()
    except psycopg.errors.UniqueViolation:
        raise LoginTaken(f"{email} has a login already (`cirkelline users list` shows them all)") from None
    return int(row[0]) if row else 0


SWITCH: Final = """
UPDATE public.users SET is_active = %(active)s::boolean, updated_at = now() AT TIME ZONE 'UTC'
 WHERE id = %(id)s::integer AND coalesce(is_active, TRUE) <> %(active)s
"""


async def switch(conn: Conn, account: int, *, active: bool) -> bool:
    """Switch a login off or on; return whether that changed anything."""
    return (await conn.execute(SWITCH, {"id": account, "active": active})).rowcount > 0


CHANGE: Final = """
UPDATE public.users SET hashed_password = %(hashed)s::text, updated_at = now() AT TIME ZONE 'UTC' WHERE id = %(id)s::integer
"""


async def change(conn: Conn, login: Login, hashed: str) -> None:
    """Give a login another password, and forget what was tried with the one before."""
    await conn.execute(CHANGE, {"id": login.id, "hashed": hashed})
    await conn.execute(CLEAR, {"who": _who(login.email)})


SUCCEEDED: Final = "UPDATE public.users SET last_login = now() AT TIME ZONE 'UTC' WHERE id = %(id)s::integer"
CLEAR: Final = "DELETE FROM runtime.login_attempts WHERE who = %(who)s::bytea"


async def succeeded(conn: Conn, login: Login) -> None:
    """Write down that somebody logged in just now, and forget what they had mistyped."""
    await conn.execute(SUCCEEDED, {"id": login.id})
    await conn.execute(CLEAR, {"who": _who(login.email)})


TAKE: Final = "SELECT runtime.take_login_attempt(%(who)s::bytea, %(allowed)s::integer, %(within)s::interval)"


async def take_attempt(conn: Conn, email: str) -> timedelta | None:
    """Take one of the attempts left for an email, to be committed before the password is looked at.

    Returns None, or how long to wait for the next one, by the database's clock.
    """
    parameters = {"who": _who(email), "allowed": ATTEMPTS, "within": WITHIN}
    row = await (await conn.execute(TAKE, parameters)).fetchone()
    return row[0] if row else None


def _who(email: str) -> bytes:
    return hashlib.sha256(email.lower().encode(errors="surrogatepass")).digest()
