"""How far a session has been looked through for what its user said about themselves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final
from uuid import UUID

from cirkelline.state.tenant import Tenant


@dataclass(frozen=True, slots=True)
class Capture:
    """A session that a task is to look through, after the position up to which that has been done."""

    session_id: UUID
    after: int


OF: Final = """
SELECT t.beside, h.captured
  FROM runtime.tasks t JOIN runtime.session_heads h ON h.session_id = t.beside AND h.user_id = t.user_id
 WHERE t.id = %(task_id)s::uuid AND t.user_id = %(user_id)s::uuid AND t.task_type = 'capture'
"""


async def of(door: Tenant, task_id: UUID) -> Capture | None:
    """Return what a task of this user's is to look through, None when it is another kind of task."""
    row = await (await door.conn.execute(OF, {"task_id": task_id, "user_id": door.user_id})).fetchone()
    return Capture(UUID(str(row[0])), int(row[1])) if row else None
