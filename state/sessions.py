"""Sessions and their messages: a user's conversations, reached through the tenant's door only."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from psycopg.rows import class_row

from cirkelline.configs.errors import UsageError
from cirkelline.state import jsonb
from cirkelline.state.tenant import Tenant

ACTIVE: Final = "active"
ARCHIVED: Final = "archived"


class SessionNotFound(UsageError):
    """The user has no such session."""


@dataclass(frozen=True, slots=True)
class Session:
    """A conversation of a user with an agent; `title` is the beginning of its first message, or what it was named."""

    id: UUID
    agent_id: UUID | None
    agent: str | None
    status: str | None
    created_at: datetime | None
    ended_at: datetime | None
    updated_at: datetime | None
    turns: int
    title: str | None

    @property
    def archived(self) -> bool:
        """Whether its user has put it away."""
        return self.status == ARCHIVED


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a session; `role` is `user` or `assistant`."""

    position: int
    role: str
    content: str
    task_id: UUID
    created: datetime


CREATE: Final = """
INSERT INTO runtime.sessions (id, user_id, agent_id) VALUES (gen_random_uuid(), %(user_id)s::uuid, %(agent_id)s::uuid)
RETURNING id
"""


async def create(tenant: Tenant, agent_id: UUID) -> UUID:
    """Open a session of this user with an agent and return its id."""
    row = await (await tenant.conn.execute(CREATE, {"user_id": tenant.user_id, "agent_id": agent_id})).fetchone()
    return UUID(str(row[0])) if row else UUID(int=0)


SESSIONS: Final = """
SELECT s.id, s.agent_id, coalesce(a.handle, a.name) AS agent, s.status, s.created_at, s.ended_at,
       coalesce(l.updated_at, s.created_at) AS updated_at,
       (SELECT count(*) FROM runtime.messages m WHERE m.session_id = s.id AND m.role = 'user')::integer AS turns,
       coalesce(l.name, (SELECT left(runtime.said(m), 80) FROM runtime.messages m
                          WHERE m.session_id = s.id AND m.role = 'user' ORDER BY m.position LIMIT 1)) AS title
  FROM runtime.sessions s
  LEFT JOIN runtime.agents a ON a.id = s.agent_id
  LEFT JOIN ai.agno_sessions l ON l.session_id = s.id AND l.user_id = s.user_id::text
"""
FIND: Final = (
    SESSIONS
    + " WHERE s.user_id = %(user_id)s::uuid AND (%(agent_id)s::uuid IS NULL OR s.agent_id = %(agent_id)s)"
    + " AND (%(archived)s::boolean IS NULL OR (coalesce(s.status, '') = 'archived') = %(archived)s)"
    + " ORDER BY s.created_at DESC NULLS LAST LIMIT %(limit)s::integer"
)


async def find(
    tenant: Tenant, *, agent_id: UUID | None = None, archived: bool | None = False, limit: int = 50
) -> list[Session]:
    """Return this user's newest sessions: those in use, with `archived` those put away, with None both."""
    parameters = {"user_id": tenant.user_id, "agent_id": agent_id, "archived": archived, "limit": limit}
    async with tenant.conn.cursor(row_factory=class_row(Session)) as cursor:
        await cursor.execute(FIND, parameters)
        return await cursor.fetchall()


BY_PREFIX: Final = (
    SESSIONS
    + " WHERE s.user_id = %(user_id)s::uuid AND replace(s.id::text, '-', '') LIKE %(digits)s::text || '%%'"
    + " ORDER BY s.id LIMIT 2"
)


async def get(tenant: Tenant, reference: str) -> Session:
    """Return the one session of this user whose id starts with `reference`. Raises: SessionNotFound."""
    digits = reference.strip().lower().replace("-", "")
    found: list[Session] = []
    if digits and all(digit in "0123456789abcdef" for digit in digits):
        async with tenant.conn.cursor(row_factory=class_row(Session)) as cursor:
            await cursor.execute(BY_PREFIX, {"user_id": tenant.user_id, "digits": digits})
            found = await cursor.fetchall()
    if len(found) != 1:
        problem = "more than one session starts" if len(found) > 1 else "no session of this user starts"
        raise SessionNotFound(f"{problem} with {reference!r} (`cirkelline sessions list` shows them)")
    return found[0]


ARCHIVE: Final = """
UPDATE runtime.sessions SET status = %(status)s::text, ended_at = CASE WHEN %(status)s = 'archived' THEN now() AT TIME ZONE 'UTC' END
 WHERE id = %(session_id)s::uuid AND user_id = %(user_id)s::uuid AND coalesce(status, '') <> %(status)s
RETURNING id
"""


async def archive(tenant: Tenant, session_id: UUID, *, archived: bool = True) -> bool:
    """Put a session of this user away, or take it out again; return whether that changed anything."""
    status = ARCHIVED if archived else ACTIVE
    parameters = {"session_id": session_id, "user_id": tenant.user_id, "status": status}
    return await (await tenant.conn.execute(ARCHIVE, parameters)).fetchone() is not None


_LAST: Final = 2**63 - 1
# Bounds and no "IS NULL OR": both are looked up in the key, so that a window costs the same at any length of a session.
WINDOW: Final = """
SELECT position, role, content, task_id, created FROM (
    SELECT position, role, runtime.said(m) AS content, task_id, created FROM runtime.messages m
     WHERE session_id = %(session_id)s::uuid AND user_id = %(user_id)s::uuid
       AND position > %(after)s::bigint AND position <= %(until)s::bigint
     ORDER BY position DESC LIMIT %(limit)s::bigint
) newest ORDER BY position
"""
OLDEST: Final = """
SELECT position, role, runtime.said(m) AS content, task_id, created FROM runtime.messages m
 WHERE session_id = %(session_id)s::uuid AND user_id = %(user_id)s::uuid
   AND position > %(after)s::bigint AND position <= %(until)s::bigint
 ORDER BY position LIMIT %(limit)s::bigint
"""


async def messages(
    tenant: Tenant,
    session_id: UUID,
    *,
    limit: int | None = None,
    after: int = 0,
    until: int | None = None,
    oldest: bool = False,
) -> list[Message]:
    """Return the last `limit` messages of this user's session (all of them by default), or its `oldest`; oldest first.

    Only what stands after position `after`, and not after `until`.
    """
    parameters = {
        "session_id": session_id,
        "user_id": tenant.user_id,
        "limit": limit,
        "after": after,
        "until": _LAST if until is None else until,
    }
    async with tenant.conn.cursor(row_factory=class_row(Message)) as cursor:
        await cursor.execute(OLDEST if oldest else WINDOW, parameters)
        return await cursor.fetchall()


ASKED_IN: Final = """
SELECT position, role, runtime.said(m) AS content, task_id, created FROM runtime.messages m
 WHERE session_id = %(session_id)s::uuid AND user_id = %(user_id)s::uuid AND task_id = %(task_id)s::uuid
   AND role = 'user' ORDER BY position LIMIT 1
"""


async def asked_in(tenant: Tenant, session_id: UUID, task_id: UUID) -> Message | None:
    """Return the message of this user's session that a task is about; None before the task has ended."""
    parameters = {"session_id": session_id, "user_id": tenant.user_id, "task_id": task_id}
    async with tenant.conn.cursor(row_factory=class_row(Message)) as cursor:
        await cursor.execute(ASKED_IN, parameters)
        return await cursor.fetchone()


@dataclass(frozen=True, slots=True)
class Summary:
    """What a session's messages up to the position `covers` came to, as a model told it."""

    covers: int
    text: str
    task_id: UUID
    created: datetime


@dataclass(frozen=True, slots=True)
class Kept:
    """What is kept for a session besides its messages: `work` is what its tools keep."""

    work: dict[str, Any]
    summary: Summary | None = None


KEPT: Final = """
SELECT coalesce(h.work, '{}'), y.covers, y.summary, y.task_id, y.created
  FROM runtime.sessions s
  LEFT JOIN runtime.session_heads h ON h.session_id = s.id AND h.user_id = s.user_id
  LEFT JOIN LATERAL (
      SELECT y.covers, y.summary, y.task_id, y.created FROM runtime.session_summaries y
       WHERE y.session_id = s.id AND y.user_id = s.user_id AND y.covers <= %(covers)s::bigint
       ORDER BY y.covers DESC LIMIT 1) y ON TRUE
 WHERE s.id = %(session_id)s::uuid AND s.user_id = %(user_id)s::uuid LIMIT 1
"""


async def kept(tenant: Tenant, session_id: UUID, *, covers: int | None = None) -> Kept | None:
    """Return what is kept for a session, None when it is not this user's; with `covers`, no later summary than that."""
    parameters = {
        "session_id": session_id,
        "user_id": tenant.user_id,
        "covers": _LAST if covers is None else covers,
    }
    row = await (await tenant.conn.execute(KEPT, parameters)).fetchone()
    return Kept(row[0], Summary(*row[1:]) if row[1] is not None else None) if row else None


BESIDE: Final = """
SELECT t.beside FROM runtime.tasks t JOIN runtime.session_heads h ON h.session_id = t.beside AND h.user_id = t.user_id
 WHERE t.id = %(task_id)s::uuid AND t.user_id = %(user_id)s::uuid AND t.task_type = 'summary'
"""


async def summarized(tenant: Tenant, task_id: UUID) -> UUID | None:
    """Return the session of this user that a task is to make a summary of, or None when it is another kind of task."""
    row = await (await tenant.conn.execute(BESIDE, {"task_id": task_id, "user_id": tenant.user_id})).fetchone()
    return UUID(str(row[0])) if row else None


SUBMIT_TURN: Final = """
INSERT INTO runtime.tasks (id, agent_id, task_type, payload, session_id, user_id)
SELECT coalesce(%(id)s::uuid, gen_random_uuid()), s.agent_id, 'chat', %(payload)s::jsonb, s.id, s.user_id
  FROM runtime.sessions s WHERE s.id = %(session_id)s::uuid AND s.user_id = %(user_id)s::uuid
RETURNING id
"""


async def submit_turn(tenant: Tenant, session_id: UUID, payload: Any, *, task_id: UUID | None = None) -> UUID:
    """Put the user's next turn in line as a task of the session and return its id. Raises: SessionNotFound.

    With a `task_id` of one's own, one can listen to the task before it begins, and see whether a lost answer meant
    that it is in line.
    """
    cursor = await tenant.conn.execute(
        SUBMIT_TURN,
        {"id": task_id, "session_id": session_id, "user_id": tenant.user_id, "payload": jsonb.dumps(payload)},
    )
    row = await cursor.fetchone()
    if row is None:
        raise SessionNotFound(f"no session {session_id} of this user (`cirkelline sessions list` shows them)")
    return UUID(str(row[0]))
