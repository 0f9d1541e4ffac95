"""Users as the runtime knows them: `runtime.users`, one row a person."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

from psycopg.rows import class_row

from cirkelline.configs.errors import UsageError
from cirkelline.state import jsonb
from cirkelline.state.connection import Conn

LONGEST_EMAIL: Final = 255


class UserNotFound(UsageError):
    """No user has that email or id."""


class NoSuchName(UsageError):
    """A name that no user can have."""


@dataclass(frozen=True, slots=True)
class User:
    """A row of `runtime.users`."""

    id: UUID
    email: str | None
    created_at: datetime | None


def email_of(name: str) -> str:
    """Return the email that stands for a bare operating system name: `ivo` is `ivo@localhost`."""
    return name if "@" in name else f"{name}@localhost"


ENSURE: Final = """
INSERT INTO runtime.users (id, email) VALUES (gen_random_uuid(), %(email)s::text) ON CONFLICT (email) DO NOTHING
"""
GET: Final = "SELECT id, email, created_at FROM runtime.users WHERE email = %(email)s::text OR id::text = %(email)s"


async def ensure(conn: Conn, name: str) -> User:
    """Return the user of this email (or bare name), creating the row at first sight. Raises: NoSuchName."""
    try:
        return await get(conn, name)
    except UserNotFound:
        if not name.strip() or jsonb.clean_text(name) != name or len(email_of(name)) > LONGEST_EMAIL:
            raise NoSuchName(
                f"{name[:40]!r} cannot be a user: give an email or a name of at most {LONGEST_EMAIL} characters"
            ) from None
    await conn.execute(ENSURE, {"email": email_of(name)})
    return await get(conn, email_of(name))


async def get(conn: Conn, name: str) -> User:
    """Return the user with this email, bare name or id. Raises: UserNotFound."""
    async with conn.cursor(row_factory=class_row(User)) as cursor:
        for email in (jsonb.clean_text(name), jsonb.clean_text(email_of(name))):
            await cursor.execute(GET, {"email": email})
            user = await cursor.fetchone()
            if user is not None:
                return user
    raise UserNotFound(f"no user {name!r} (start `cirkelline chat --user {name}` once to create one)")
