"""Users as the runtime knows them: `runtime.users`, one row a person."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

from psycopg.rows import class_row

from cirkelline.configs.errors import CirkellineError, UsageError
from cirkelline.state import jsonb
from cirkelline.state.connection import Conn

LONGEST_EMAIL: Final = 255


class UserNotFound(UsageError):
    """No user has that email or id."""


class NoSuchName(UsageError):
    """A name that no user can have."""


class UserInactive(CirkellineError):
    """A user's login is switched off, and nothing is done on their behalf."""


class ForeignToken(CirkellineError):
    """A user has a token that another program gave them."""


@dataclass(frozen=True, slots=True)
class User:
    """A row of `runtime.users`; one that is not `active` has a login that was switched off."""

    id: UUID
    email: str | None
    created_at: datetime | None
    active: bool = True


def email_of(name: str) -> str:
    """Return the email that stands for a bare operating system name: `ivo` is `ivo@localhost`."""
    return name if "@" in name else f"{name}@localhost"


ENSURE: Final = """
INSERT INTO runtime.users (id, email) VALUES (gen_random_uuid(), %(email)s::text) ON CONFLICT (email) DO NOTHING
"""
USERS: Final = "SELECT id, email, created_at, runtime.is_active_user(id) AS active FROM runtime.users"
GET: Final = USERS + " WHERE email = %(email)s::text OR id::text = %(email)s"


async def ensure(conn: Conn, name: str) -> User:
    """Return the user of this email (or bare name) to act for, creating the row at first sight.

    Raises: NoSuchName, UserInactive.
    """
    try:
        return await acting(conn, name)
    except UserNotFound:
        if not name.strip() or jsonb.clean_text(name) != name or len(email_of(name)) > LONGEST_EMAIL:
            raise NoSuchName(
                f"{name[:40]!r} cannot be a user: give an email or a name of at most {LONGEST_EMAIL} characters"
            ) from None
    await conn.execute(ENSURE, {"email": email_of(name)})
    return await acting(conn, email_of(name))


async def get(conn: Conn, name: str) -> User:
    """Return the user with this email, bare name or id, active or not. Raises: UserNotFound."""
    async with conn.cursor(row_factory=class_row(User)) as cursor:
        for email in (jsonb.clean_text(name), jsonb.clean_text(email_of(name))):
            await cursor.execute(GET, {"email": email})
            user = await cursor.fetchone()
            if user is not None:
                return user
    raise UserNotFound(f"no user {name!r} (start `cirkelline chat --user {name}` once to create one)")


async def acting(conn: Conn, name: str) -> User:
    """Return the user with this email, bare name or id, to do something on their behalf.

    Raises: UserNotFound, UserInactive.
    """
    user = await get(conn, name)
    if not user.active:
        raise UserInactive(
            f"the login of {user.email or user.id} is switched off, so nothing is done on their behalf"
            " (`is_active` of their row in public.users)"
        )
    return user


@dataclass(frozen=True, slots=True)
class Listed:
    """A user with the login they have, if any, and other programs' words for them."""

    id: UUID
    email: str | None
    created_at: datetime | None
    active: bool
    account: int | None
    aliases: Sequence[str]


FIND: Final = """
SELECT u.id, u.email, u.created_at, runtime.is_active_user(u.id) AS active, runtime.login_of(u.id) AS account,
       ARRAY(SELECT a.alias FROM runtime.user_aliases a WHERE a.user_id = u.id ORDER BY a.alias) AS aliases
  FROM runtime.users u ORDER BY u.email NULLS LAST, u.id
"""


async def find(conn: Conn) -> list[Listed]:
    """Return every user, by email."""
    async with conn.cursor(row_factory=class_row(Listed)) as cursor:
        await cursor.execute(FIND)
        return await cursor.fetchall()


ACCOUNT: Final = "SELECT runtime.login_of(%(id)s::uuid)"


async def account(conn: Conn, user_id: UUID) -> int | None:
    """Return the login of a user: the one it is tied to, or else the one with the same email; None without either."""
    row = await (await conn.execute(ACCOUNT, {"id": user_id})).fetchone()
    return row[0] if row else None


TIE: Final = """
UPDATE runtime.users SET account = %(account)s::integer, updated_at = now() AT TIME ZONE 'UTC'
 WHERE id = %(id)s::uuid AND account IS DISTINCT FROM %(account)s
"""


async def tie(conn: Conn, user_id: UUID, account: int) -> None:
    """Make a login that of a user."""
    await conn.execute(TIE, {"id": user_id, "account": account})


# Tokens ---------------------------------------------------------------------------------------------------------------
# Only a hash is stored, with a word in front that tells it from what other programs keep there.

GIVE: Final = """
UPDATE runtime.users SET auth_token = %(token)s::text, updated_at = now() AT TIME ZONE 'UTC'
 WHERE id = %(id)s::uuid AND (%(replace)s::boolean OR auth_token IS NULL OR auth_token LIKE 'sha256:%%')
"""


async def set_token(conn: Conn, user: User, token: str, *, replace: bool = False) -> None:
    """Let a token stand for a user, and no earlier one; another program's only with `replace`. Raises: ForeignToken."""
    cursor = await conn.execute(GIVE, {"id": user.id, "token": _hashed(token), "replace": replace})
    if cursor.rowcount == 0:
        raise ForeignToken(
            f"{user.email or user.id} has a token of another program, which a new one would end:"
            " `cirkelline users login --replace-token` does that"
        )


BY_TOKEN: Final = (
    USERS + " WHERE auth_token = %(token)s::text AND auth_token LIKE 'sha256:%%' AND runtime.is_active_user(id)"
)


async def by_token(conn: Conn, token: str) -> User | None:
    """Return the active user that a token stands for, or None."""
    async with conn.cursor(row_factory=class_row(User)) as cursor:
        await cursor.execute(BY_TOKEN, {"token": _hashed(token)})
        return await cursor.fetchone()


REVOKE: Final = "UPDATE runtime.users SET auth_token = NULL WHERE id = %(id)s::uuid AND auth_token IS NOT NULL"


async def revoke_token(conn: Conn, user_id: UUID) -> bool:
    """Let no token stand for a user any more, whichever program gave it; return whether one did."""
    return (await conn.execute(REVOKE, {"id": user_id})).rowcount > 0


REVOKE_OF: Final = """
UPDATE runtime.users u SET auth_token = NULL WHERE u.auth_token IS NOT NULL AND runtime.login_of(u.id) = %(account)s::integer
"""


async def revoke_tokens_of(conn: Conn, account: int) -> None:
    """Let no token stand any more for whoever has this login."""
    await conn.execute(REVOKE_OF, {"account": account})


def _hashed(token: str) -> str:
    # A token is random and long: nothing slower is needed to keep it from being guessed.
    return "sha256:" + hashlib.sha256(token.encode(errors="surrogatepass")).hexdigest()
