"""What was paid for: the daily roll-up of what is gone from the journal, and the journal itself."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from enum import StrEnum
from typing import Final
from uuid import UUID

from psycopg.rows import class_row

from cirkelline.state.connection import Conn


class By(StrEnum):
    """What usage can be added up by; days are UTC."""

    DAY = "day"
    AGENT = "agent"
    USER = "user"
    MODEL = "model"


@dataclass(frozen=True, slots=True)
class Usage:
    """What some model calls came to; a field that was not asked for, or that nobody stands behind, is None.

    `cost` is in US dollars, of the calls whose price was known; `unpriced` counts the others. `agent` and `user` are the
    names they have now, None where they are gone.
    """

    day: date | None
    agent_id: UUID | None
    agent: str | None
    user_id: UUID | None
    user: str | None
    model: str | None
    calls: int
    input_tokens: int
    output_tokens: int
    cost: Decimal
    unpriced: int


# One statement, so that a step which is just being removed is seen in one of both. Added up before names are looked up.
FIND: Final = """
WITH paid AS (
    SELECT k.day, k.agent_id, k.user_id, k.model, k.calls, k.input_tokens, k.output_tokens, k.cost, k.unpriced
      FROM runtime.usage_daily k WHERE %(since)s::date IS NULL OR k.day >= %(since)s::date
    UNION ALL
    SELECT (j.begun AT TIME ZONE 'UTC')::date, t.agent_id, t.user_id, j.name, 1, coalesce(j.input_tokens, 0),
           coalesce(j.output_tokens, 0), coalesce(j.cost, 0), CASE WHEN j.cost IS NULL THEN 1 ELSE 0 END
      FROM runtime.journal j LEFT JOIN runtime.tasks t ON t.id = j.task_id
     WHERE j.kind = 'model' AND j.begun >= coalesce(%(since)s::date, '-infinity')::timestamp AT TIME ZONE 'UTC'
), added AS (
    SELECT CASE WHEN 'day' = ANY (%(by)s::text[]) THEN p.day END AS day,
           CASE WHEN 'agent' = ANY (%(by)s) THEN p.agent_id END AS agent_id,
           CASE WHEN 'user' = ANY (%(by)s) THEN p.user_id END AS user_id,
           CASE WHEN 'model' = ANY (%(by)s) THEN p.model END AS model,
           sum(p.calls)::bigint AS calls, sum(p.input_tokens)::bigint AS input_tokens,
           sum(p.output_tokens)::bigint AS output_tokens, sum(p.cost) AS cost, sum(p.unpriced)::bigint AS unpriced
      FROM paid p GROUP BY 1, 2, 3, 4
)
SELECT p.day, p.agent_id, coalesce(a.handle, a.name) AS agent, p.user_id, u.email AS user, p.model,
       p.calls, p.input_tokens, p.output_tokens, p.cost, p.unpriced
  FROM added p
  LEFT JOIN runtime.agents a ON a.id = p.agent_id
  LEFT JOIN runtime.users u ON u.id = p.user_id
 ORDER BY p.day, p.cost DESC, p.input_tokens + p.output_tokens DESC, p.agent_id, p.user_id, p.model
"""


async def find(conn: Conn, by: Collection[By], *, since: date | None = None) -> list[Usage]:
    """Return what was paid for from a day on, added up by these; by nothing, it is one row or none."""
    async with conn.cursor(row_factory=class_row(Usage)) as cursor:
        await cursor.execute(FIND, {"by": [str(each) for each in by], "since": since})
        return await cursor.fetchall()
