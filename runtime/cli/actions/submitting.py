"""Giving agents work."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, cast
from uuid import UUID

from cirkelline.configs import schema, wording
from cirkelline.runtime.cli import console, display, opening, waiting
from cirkelline.runtime.cli.actions import tasks as looking
from cirkelline.runtime.cli.answers import Answer, Text
from cirkelline.state import agents, routing, submitting, tasks, users, workers
from cirkelline.state.agents import Agent
from cirkelline.state.connection import Conn
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
    capabilities: tuple[str, ...] = ()
    user: str | None = None

    def task(self, agent: UUID | None, user: UUID | None) -> NewTask:
        """Return the task for an agent, or for whichever has the capabilities, on behalf of a user."""
        return NewTask(
            agent_id=agent,
            payload={"input": self.input},
            task_type=self.task_type,
            user_id=user,
            priority=self.priority,
            run_at=self.run_at,
            delay=self.delay,
            key=self.key,
            capabilities=self.capabilities,
        )


async def submit(agent: str | None, wanted: Wanted, *, wait_for_it: bool, patience: float | None) -> Answer:
    """Put a task in line; say what will keep it from running; wait for its end when asked."""
    async with opening.database(migrate=True) as opened:
        async with opened.db.connection() as conn:
            found = await agents.answering(conn, agent) if agent is not None else None
            user = await users.ensure(conn, wanted.user) if wanted.user is not None else None
            new = wanted.task(found.id if found else None, user.id if user else None)
            entered = await submitting.submit(conn, new)
            task = await tasks.get(conn, entered.id)
            obstacle = None if task.ended else await _obstacle(conn, found, wanted)
        if obstacle:
            console.warn(obstacle)
        if found is not None and user is None and _reads_documents(found):
            console.warn(
                f"{found.label} works for nobody in this task, and finds shared documents only:"
                " --user NAME lets it read NAME's as well"
            )
        if entered.new and wanted.run_at and wanted.run_at < datetime.now(UTC):
            console.warn(f"--at was {display.ago(wanted.run_at)}: it runs at once")
        if wait_for_it:
            return await looking.followed(opened.db, task, patience, told=obstacle is not None)
    return Answer(looking.document(task, obstacle), [Text(_said(entered, task, _to(found, wanted)))])


async def _obstacle(conn: Conn, agent: Agent | None, wanted: Wanted) -> str | None:
    if agent is not None:
        return await looking.obstacle_to(conn, agent)
    able = await routing.able(conn, wanted.capabilities)
    return waiting.unroutable(wanted.capabilities, able) or (
        None if await workers.any_alive(conn) else waiting.NO_WORKER
    )


def _reads_documents(agent: Agent) -> bool:
    config = cast("dict[str, Any]", agent.config) if isinstance(agent.config, dict) else {}
    return any(tool in schema.KNOWLEDGE_TOOLS for tool in config.get("tools") or ())


def _to(agent: Agent | None, wanted: Wanted) -> str:
    return agent.label if agent else f"whoever can {wording.listed(wanted.capabilities)}"


def _said(entered: Entered, task: Task, agent: str) -> str:
    short = display.short(task.id)
    if not entered.new:
        return f"task {short} of {agent} had that key already and is {task.status} (`cirkelline tasks show {short}`)"
    later = f", to run {display.when(task.run_at)}" if task.run_at and task.run_at > datetime.now(UTC) else ""
    return f"task {short} submitted to {agent}{later} (`cirkelline tasks wait {short}`)"
