"""What agents do by the clock."""

from __future__ import annotations

from typing import Any

from cirkelline.runtime import schedules as firing
from cirkelline.runtime.cli import display, opening
from cirkelline.runtime.cli.actions import tasks as looking
from cirkelline.runtime.cli.answers import Answer, Cell, Mark, Table, Text
from cirkelline.state import schedules, tasks
from cirkelline.state.schedules import Schedule


def _document(schedule: Schedule) -> dict[str, Any]:
    return {
        "schedule": schedule.label,
        "agent": schedule.agent,
        "name": schedule.name,
        "cron": schedule.cron,
        "tz": schedule.tz,
        "user": schedule.user_name,
        "input": schedule.input,
        "paused": schedule.paused,
        "next": schedule.next_at,
        "last": schedule.last_at,
        "last_task": schedule.last_task,
        "problem": schedule.problem,
    }


def _status(schedule: Schedule) -> Cell:
    if schedule.paused:
        return Mark("paused", "quiet")
    if schedule.agent_status in {"paused", "retired"}:
        return Mark(f"its agent is {schedule.agent_status}", "quiet")
    return Mark(display.line(schedule.problem, 200), "bad") if schedule.problem else Mark("on", "good")


async def find() -> Answer:
    """List every schedule."""
    async with opening.connected() as conn:
        found = await schedules.find(conn)
    rows = [
        (
            display.line(each.label, 60),
            each.cron,
            each.tz,
            display.line(each.user_name or "-", 40),
            _status(each),
            display.when(each.next_at),
            display.when(each.last_at),
        )
        for each in found
    ]
    columns = ("schedule", "cron", "zone", "user", "status", "next", "last")
    empty = "no agent has a schedule (`schedules:` in an agent's file makes one)"
    return Answer({"schedules": [_document(each) for each in found]}, [Table(columns, rows, empty)])


async def set_paused(reference: str, *, paused: bool) -> Answer:
    """Let a schedule rest, or go on."""
    async with opening.connected() as conn:
        schedule = await schedules.get(conn, reference)
        await schedules.set_paused(conn, schedule, paused=paused)
        schedule = await schedules.get(conn, schedule.label)
    said = "is paused" if paused else "goes on from its next time"
    return Answer(_document(schedule), [Text(f"schedule {schedule.label} {said}")])


async def run(reference: str) -> Answer:
    """Submit a schedule's task now."""
    async with opening.connected() as conn:
        schedule = await schedules.get(conn, reference)
        task = await tasks.get(conn, await firing.run_now(conn, schedule))
    short = display.short(task.id)
    said = f"task {short} submitted for schedule {schedule.label} (`cirkelline tasks wait {short}`)"
    return Answer(looking.document(task), [Text(said)])
