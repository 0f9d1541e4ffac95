"""Parked tasks: what each of them waits for, and how that is decided, once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Final
from uuid import UUID

from psycopg.rows import class_row

from cirkelline.state import jsonb
from cirkelline.state.claims import DEATHS_ALLOWED
from cirkelline.state.connection import Conn


class For(StrEnum):
    """What a call waits for.

    APPROVAL: may it run at all? OUTCOME: did it happen, when its worker died? ANSWER: what a person says. TIME: a moment.
    """

    APPROVAL = "approval"
    OUTCOME = "outcome"
    ANSWER = "answer"
    TIME = "time"


class Verdict(StrEnum):
    """What can be decided: about an approval the first two, about an outcome the next three."""

    APPROVE = "approve"
    REJECT = "reject"
    RETRY = "retry"
    RESULT = "result"
    FAIL = "fail"
    ANSWER = "answer"
    EXPIRED = "expired"


class Decided(StrEnum):
    """What became of a decision: LATE, somebody or the clock was faster, or the task has ended."""

    DECIDED = "decided"
    LATE = "late"


@dataclass(frozen=True, slots=True)
class Waiting:
    """One call that waits, keyed by (position, call) in its task's journal.

    `waits` is `{"for": one of For, "arguments" | "question", "choices" …}`; the clock decides at `until`.
    """

    position: int
    call: int
    name: str
    waits: Mapping[str, Any]
    until: datetime | None

    @property
    def kind(self) -> For:
        """What it waits for."""
        return For(self.waits["for"])

    @property
    def place(self) -> str:
        """How it is named to a command: `2.0`."""
        return f"{self.position}.{self.call}"


FIND: Final = """
SELECT j.position, j.call, j.name, j.waits, j.until FROM runtime.journal j
 WHERE j.task_id = %(task)s::uuid AND j.waits IS NOT NULL AND j.decision IS NULL AND j.output IS NULL
 ORDER BY j.position, j.call
"""


async def find(conn: Conn, task_id: UUID) -> list[Waiting]:
    """Return what a task waits for: nothing when it is not parked, or parked because its workers died."""
    async with conn.cursor(row_factory=class_row(Waiting)) as cursor:
        await cursor.execute(FIND, {"task": task_id})
        return await cursor.fetchall()


DECIDE: Final = """
SELECT runtime.decide(%(task)s::uuid, %(position)s::integer, %(call)s::integer, %(verdict)s::jsonb, %(deaths)s::integer)
"""


async def decide(
    conn: Conn, task_id: UUID, waiting: Waiting, verdict: Verdict, *, value: Any = None, by: str | None = None
) -> Decided:
    """Decide about one call, and put its task back in line when nothing else is open; `value` is JSON.

    Of decisions that race, exactly one is kept.
    """
    said = {"verdict": verdict, "value": value, "by": by}
    parameters = {
        "task": task_id,
        "position": waiting.position,
        "call": waiting.call,
        "verdict": jsonb.dumps({key: each for key, each in said.items() if each is not None}),
        "deaths": DEATHS_ALLOWED,
    }
    row = await (await conn.execute(DECIDE, parameters)).fetchone()
    return Decided(row[0]) if row and row[0] else Decided.LATE


DECIDE_DEATHS: Final = """
SELECT runtime.decide_deaths(%(task)s::uuid, %(again)s::boolean, %(reason)s::text, %(deaths)s::integer,
                             %(state_limit)s::integer)
"""


async def decide_deaths(conn: Conn, task_id: UUID, *, again: bool, reason: str, state_limit: int) -> Decided:
    """Decide about a task on which `DEATHS_ALLOWED` workers died: once more, or failed with this reason."""
    parameters = {
        "task": task_id,
        "again": again,
        "reason": jsonb.clean_text(reason),
        "deaths": DEATHS_ALLOWED,
        "state_limit": state_limit,
    }
    row = await (await conn.execute(DECIDE_DEATHS, parameters)).fetchone()
    return Decided.LATE if row is None or row[0] == Decided.LATE else Decided.DECIDED


EXPIRE: Final = "SELECT runtime.expire_waits(%(deaths)s::integer)"


async def expire(conn: Conn) -> int:
    """Let the clock decide what nobody has decided in time; return how many tasks are in line again."""
    row = await (await conn.execute(EXPIRE, {"deaths": DEATHS_ALLOWED})).fetchone()
    return int(row[0]) if row else 0
