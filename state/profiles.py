"""Profiles: what `public.admin_profiles` says about a user, for the prompts of that user alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from cirkelline.configs.errors import UsageError
from cirkelline.state import jsonb
from cirkelline.state.connection import Conn
from cirkelline.state.tenant import Tenant

FIELDS: Final = ("name", "role", "context", "preferences", "custom_instructions")
LONGEST: Final[Mapping[str, int]] = {"name": 255, "role": 100}
"""Characters that the table has room for."""


class NoLoginYet(UsageError):
    """A profile belongs to a login, and the user has none."""


class ProfileRefused(UsageError):
    """A field of a profile does not fit."""


@dataclass(frozen=True, slots=True)
class Profile:
    """What is known about a user; None where nothing is. `preferences` is any JSON."""

    name: str | None = None
    role: str | None = None
    context: str | None = None
    preferences: Any = None
    custom_instructions: str | None = None


READ: Final = "SELECT runtime.tenant_profile()"


async def read(tenant: Tenant) -> Profile | None:
    """Return the user's profile, the latest where there are several, or None."""
    row = await (await tenant.conn.execute(READ)).fetchone()
    return Profile(**row[0]) if row and row[0] is not None else None


# The latest row, as `read` takes it; every column that was not named keeps what it holds.
CHANGE: Final = """
WITH mine AS (
    SELECT p.id FROM public.admin_profiles p WHERE p.user_id = %(account)s::integer
     ORDER BY p.updated_at DESC NULLS LAST, p.id DESC LIMIT 1
), changed AS (
    UPDATE public.admin_profiles p
       SET name = CASE WHEN %(changes)s::jsonb ? 'name' THEN %(changes)s::jsonb ->> 'name' ELSE p.name END,
           role = CASE WHEN %(changes)s::jsonb ? 'role' THEN %(changes)s::jsonb ->> 'role' ELSE p.role END,
           context = CASE WHEN %(changes)s::jsonb ? 'context' THEN %(changes)s::jsonb ->> 'context' ELSE p.context END,
           preferences = CASE WHEN %(changes)s::jsonb ? 'preferences'
                              THEN nullif(%(changes)s::jsonb -> 'preferences', 'null') ELSE p.preferences END,
           custom_instructions = CASE WHEN %(changes)s::jsonb ? 'custom_instructions'
                                      THEN %(changes)s::jsonb ->> 'custom_instructions'
                                      ELSE p.custom_instructions END,
           updated_at = now() AT TIME ZONE 'UTC'
      FROM mine WHERE p.id = mine.id
    RETURNING p.id
)
INSERT INTO public.admin_profiles (user_id, name, role, context, preferences, custom_instructions, created_at, updated_at)
SELECT %(account)s::integer, c ->> 'name', c ->> 'role', c ->> 'context', nullif(c -> 'preferences', 'null'),
       c ->> 'custom_instructions', now() AT TIME ZONE 'UTC', now() AT TIME ZONE 'UTC'
  FROM (SELECT %(changes)s::jsonb AS c) given WHERE NOT EXISTS (SELECT FROM changed)
"""
LOGIN: Final = "SELECT runtime.login_of(%(id)s::uuid)"


async def change(conn: Conn, user_id: UUID, changes: Mapping[str, Any]) -> None:
    """Set these fields of a user's profile (None empties one), as an operator; later runs are told.

    Raises: NoLoginYet, ProfileRefused.
    """
    for field, longest in LONGEST.items():
        if len(changes.get(field) or "") > longest:
            raise ProfileRefused(f"the {field} of a profile may have at most {longest} characters")
    row = await (await conn.execute(LOGIN, {"id": user_id})).fetchone()
    if row is None or row[0] is None:
        raise NoLoginYet("a profile belongs to a login, and this user has none: `cirkelline users add` makes one")
    await conn.execute(CHANGE, {"account": row[0], "changes": jsonb.dumps(dict(changes))})
