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


LATEST: Final = "SELECT coalesce(max(m.id), 0) FROM ai.agno_memories m"


async def latest(door: Tenant) -> int:
    """Return the highest id of this user's memories."""
    row = await (await door.conn.execute(LATEST)).fetchone()
    return int(row[0]) if row else 0


KEPT: Final = """
SELECT m.id, m.memory FROM ai.memory_index i JOIN ai.agno_memories m ON m.id = i.id
 WHERE i.session_id = %(session_id)s::uuid AND i.origin = 'captured' AND i.id > %(after)s::integer ORDER BY i.id
"""


async def kept(door: Tenant, session_id: UUID, *, after: int) -> list[tuple[int, str]]:
    """Return what was captured of a session (id, text) since the memory `after`."""
    rows = await (await door.conn.execute(KEPT, {"session_id": session_id, "after": after})).fetchall()
    return [(int(memory_id), str(text)) for memory_id, text in rows]


UNDER_WAY: Final = """
SELECT EXISTS (SELECT FROM runtime.session_heads h JOIN runtime.tasks t ON t.id = h.capture_task
                WHERE h.session_id = %(session_id)s::uuid AND t.status IN ('pending', 'running'))
"""


async def under_way(door: Tenant, session_id: UUID) -> bool:
    """Whether a session is being looked through, or in line for it."""
    row = await (await door.conn.execute(UNDER_WAY, {"session_id": session_id})).fetchone()
    return bool(row and row[0])
