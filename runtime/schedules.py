"""Firing what is due by the clock: one task for each time, one for all times that were missed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import UUID

import structlog

from cirkelline.configs import schedules as times
from cirkelline.configs.errors import CirkellineError
from cirkelline.runtime import memory_rounds
from cirkelline.runtime.memory_rounds import NotReadable
from cirkelline.state import schedules, submitting, users
from cirkelline.state import workflows as records
from cirkelline.state.connection import Conn, Database
from cirkelline.state.schedules import Schedule
from cirkelline.state.submitting import KeyTaken, NewTask
from cirkelline.state.users import UserInactive, UserNotFound

_PASSED_OVER: Final = "nothing new is remembered since the last run, or that one has not ended"

log = structlog.get_logger(__name__)


class PassedOver(CirkellineError):
    """A schedule has nothing to do just now."""


async def fire(db: Database, now: datetime | None = None) -> int:
    """Submit a task for every schedule that is due (at `now`, by default the database's); return how many."""
    submitted = 0
    while await _any_due(db, now):
        async with db.transaction() as conn:
            schedule = await schedules.due(conn, now)
            if schedule is None:  # another worker is at it
                break
            try:
                submitted += await _handle(conn, schedule)
            except times.NeverDue as error:
                await schedules.plan(conn, schedule, schedule.now + timedelta(days=1), problem=str(error))
    return submitted


async def _any_due(db: Database, now: datetime | None) -> bool:
    async with db.connection() as conn:
        return await schedules.any_due(conn, now)


async def _handle(conn: Conn, schedule: Schedule) -> bool:
    if schedule.next_at is None:
        await schedules.plan(conn, schedule, _following(schedule, schedule.since), problem=schedule.problem)
        return False
    at = max(schedule.next_at, times.latest(schedule.cron, schedule.tz, schedule.now))
    following = _following(schedule, max(at, schedule.now))
    key = f"schedule {schedule.name} {at.astimezone(UTC):%Y-%m-%dT%H:%MZ}"
    try:
        task_id = await _submit(conn, schedule, key)
    except (UserNotFound, UserInactive, KeyTaken, NotReadable) as error:
        log.warning("schedule.not_fired", schedule=schedule.label, reason=str(error))
        await schedules.plan(conn, schedule, following, problem=str(error))
        return False
    if task_id is None:
        log.info("schedule.passed_over", schedule=schedule.label, time=at.isoformat(), reason=_PASSED_OVER)
        await schedules.plan(conn, schedule, following, problem=None)
        return False
    await schedules.fired(conn, schedule, at, task_id, following)
    log.info("schedule.fired", schedule=schedule.label, time=at.isoformat(), task_id=task_id)
    return True


async def run_now(conn: Conn, schedule: Schedule) -> UUID:
    """Submit a schedule's task once, beside its times. Raises: UserNotFound, UserInactive, PassedOver."""
    task_id = await _submit(conn, schedule, None)
    if task_id is None:
        raise PassedOver(f"schedule {schedule.label} has nothing to do: {_PASSED_OVER}")
    return task_id


async def _submit(conn: Conn, schedule: Schedule, key: str | None) -> UUID | None:
    """Submit a schedule's task; None when memories are to be gone through of which none is new, or a run is at them."""
    user = (await users.acting(conn, schedule.user_name)).id if schedule.user_name is not None else None
    if user is not None and schedule.agent == records.handle(memory_rounds.LABEL):
        what = memory_rounds.read(schedule.input)
        return await memory_rounds.begin(conn, user, schedule.agent_id, what, least=1)
    task = NewTask(
        agent_id=schedule.agent_id,
        payload={"input": schedule.input},
        task_type="schedule",
        user_id=user,
        key=key,
    )
    return (await submitting.submit(conn, task)).id


def _following(schedule: Schedule, moment: datetime) -> datetime:
    return times.following(schedule.cron, schedule.tz, moment)
