"""What the answers of a session may cite: the numbers that were given in it, reached through the tenant's door only."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from uuid import UUID

from cirkelline.state.tenant import Tenant

Citation = Mapping[str, Any]
"""`n`, and what it stands for: `document` (its name), `document_id`, `chunk`, `page`, `heading`, `source`."""


@dataclass(frozen=True, slots=True)
class Earlier:
    """The numbers that a session has given before: the `last` one, and those of some passages, by chunk."""

    last: int = 0
    numbers: Mapping[int, int] = field(default_factory=dict[int, int])


EARLIER: Final = """
SELECT coalesce((SELECT c.n FROM runtime.citations c
                  WHERE c.session_id = %(session_id)s::uuid AND c.user_id = %(user_id)s::uuid
                  ORDER BY c.n DESC LIMIT 1), 0),
       ARRAY(SELECT ARRAY[c.chunk, min(c.n)] FROM runtime.citations c
              WHERE c.session_id = %(session_id)s::uuid AND c.user_id = %(user_id)s::uuid
                AND c.chunk = ANY (%(chunks)s::bigint[]) GROUP BY c.chunk)
"""


async def earlier(tenant: Tenant, session_id: UUID, chunks: Collection[int]) -> Earlier:
    """Return where the numbers of this user's session stand, and which of them these chunks have."""
    parameters = {"session_id": session_id, "user_id": tenant.user_id, "chunks": list(chunks)}
    row = await (await tenant.conn.execute(EARLIER, parameters)).fetchone()
    return Earlier(row[0], dict(row[1])) if row else Earlier()


GIVEN: Final = """
SELECT c.citation FROM runtime.citations c
 WHERE c.session_id = %(session_id)s::uuid AND c.user_id = %(user_id)s::uuid AND c.n = ANY (%(numbers)s::integer[])
 ORDER BY c.n
"""


async def given(tenant: Tenant, session_id: UUID, numbers: Collection[int]) -> list[Citation]:
    """Return what these numbers stand for in this user's session; those that it never gave are left out."""
    parameters = {"session_id": session_id, "user_id": tenant.user_id, "numbers": list(numbers)}
    return [citation for (citation,) in await (await tenant.conn.execute(GIVEN, parameters)).fetchall()]
