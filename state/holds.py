"""Models on hold: what a provider's own failure keeps every worker from trying, until one probe gets an answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

from psycopg.rows import class_row

from cirkelline.state import journal, jsonb
from cirkelline.state.connection import Conn
from cirkelline.state.journal import Fence, Step

MOST_HOLDS: Final = 5
"""Holds that one task may begin while its model answers others; then it is the task that is at fault."""


@dataclass(frozen=True, slots=True)
class Hold:
    """A held model. `due`: a worker may let one task try it, and none is doing so."""

    model: str
    refused: bool
    reason: str
    since: datetime
    until: datetime
    tries: int
    due: bool


@dataclass(frozen=True, slots=True)
class Held:
    """What became of a hold: `fresh` when the model had not been held before."""

    until: datetime
    fresh: bool


FIND: Final = """
SELECT h.model, h.refused, h.reason, h.since, h.until, h.tries,
       h.until <= clock_timestamp()
       AND (h.prober IS NULL OR NOT EXISTS (SELECT FROM runtime.workers w WHERE w.id = h.prober)) AS due
  FROM runtime.model_holds h ORDER BY h.model
"""


async def find(conn: Conn) -> list[Hold]:
    """Return the models on hold."""
    async with conn.cursor(row_factory=class_row(Hold)) as cursor:
        await cursor.execute(FIND)
        return await cursor.fetchall()


HOLD: Final = """
SELECT until, fresh FROM runtime.hold_model(%(worker)s::uuid, %(model)s::text, %(refused)s::boolean, %(reason)s::text,
                                            %(wait)s::double precision, %(pause)s::double precision)
"""


async def hold(
    conn: Conn, worker: UUID, model: str, *, refused: bool, reason: str, wait: float | None, pause: float
) -> Held:
    """Hold a model for `wait` seconds if its provider named a time, else for a pause that grows with each failed probe."""
    parameters = {
        "worker": worker,
        "model": model,
        "refused": refused,
        "reason": jsonb.clean_text(reason),
        "wait": wait,
        "pause": pause,
    }
    async with conn.cursor(row_factory=class_row(Held)) as cursor:
        await cursor.execute(HOLD, parameters)
        held = await cursor.fetchone()
    assert held is not None  # noqa: S101 - the function returns one row
    return held


PUT_BACK: Final = """
SELECT runtime.put_back_held(%(worker)s::uuid, %(task)s::uuid, %(attempt)s::integer, %(steps)s::jsonb, %(reason)s::text,
                             %(due)s::timestamptz, %(blamed)s::boolean, %(most)s::integer)
"""


async def put_back(
    conn: Conn, fence: Fence, steps: Sequence[Step], *, reason: str, due: datetime | None, blamed: bool
) -> bool:
    """Put a task back in line whose model is held, with no attempt used; False when it has to be finished after all."""
    parameters = {
        "worker": fence.worker,
        "task": fence.task,
        "attempt": fence.attempt,
        "steps": jsonb.dumps([journal.as_json(step) for step in steps]),
        "reason": jsonb.clean_text(reason),
        "due": due,
        "blamed": blamed,
        "most": MOST_HOLDS,
    }
    row = await (await conn.execute(PUT_BACK, parameters)).fetchone()
    return bool(row and row[0])


TAKE_PROBE: Final = "SELECT runtime.take_probe(%(worker)s::uuid, %(model)s::text)"


async def take_probe(conn: Conn, worker: UUID, model: str) -> bool:
    """Take the right to let one task try a held model; False when its time has not come or another worker has it."""
    row = await (await conn.execute(TAKE_PROBE, {"worker": worker, "model": model})).fetchone()
    return bool(row and row[0])


GIVE_UP_PROBE: Final = """
UPDATE runtime.model_holds SET prober = NULL WHERE model = %(model)s::text AND prober = %(worker)s::uuid
"""


async def give_up_probe(conn: Conn, worker: UUID, model: str) -> None:
    """Let another worker try a held model: this one's task did not ask it."""
    await conn.execute(GIVE_UP_PROBE, {"worker": worker, "model": model})


LIFT: Final = "SELECT runtime.lift_hold(%(model)s::text)"


async def lift(conn: Conn, model: str) -> bool:
    """Let every worker use a model again; return whether it was held."""
    row = await (await conn.execute(LIFT, {"model": model})).fetchone()
    return bool(row and row[0])
