"""Giving agents work."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from cirkelline.runtime.cli import console, display, opening
from cirkelline.runtime.cli.actions import tasks as looking
from cirkelline.runtime.cli.answers import Answer, Text
from cirkelline.state import agents, submitting, tasks
from cirkelline.state.submitting import Entered, NewTask
from cirkelline.state.tasks import Task


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a person asks of an agent, as the command line has it."""

    input: Any
    task_type: str
    priority: int = 0
    run_at: datetime | None = None
    delay: float | None = None
    key: str | None = None


async def submit(agent: str, wanted: Wanted, *, wait_for_it: bool, patience: float | None) -> Answer:
    """Put a task in line; say what will keep it from running; wait for its end when asked."""
    async with opening.database(migrate=True) as opened:
        async with opened.db.connection() as conn:
            found = await agents.answering(conn, agent)
            new = NewTask(
                agent_id=found.id,
                payload={"input": wanted.input},
                task_type=wanted.task_type,
                priority=wanted.priority,
                run_at=wanted.run_at,
                delay=wanted.delay,
                key=wanted.key,
            )
            entered = await submitting.submit(conn, new)
            task = await tasks.get(conn, entered.id)
            obstacle = None if task.ended else await looking.obstacle_to(conn, found)
        if obstacle:
            console.warn(obstacle)
        if entered.new and wanted.run_at and wanted.run_at < datetime.now(UTC):
            console.warn(f"--at was {display.ago(wanted.run_at)}: it runs at once")
        if wait_for_it:
            return await looking.followed(opened.db, task, patience, told=obstacle is not None)
    return Answer(looking.document(task, obstacle), [Text(_said(entered, task, found.label))])


def _said(entered: Entered, task: Task, agent: str) -> str:
    short = display.short(task.id)
    if not entered.new:
        return f"task {short} of {agent} had that key already and is {task.status} (`cirkelline tasks show {short}`)"
    later = f", to run {display.when(task.run_at)}" if task.run_at and task.run_at > datetime.now(UTC) else ""
    return f"task {short} submitted to {agent}{later} (`cirkelline tasks wait {short}`)"
