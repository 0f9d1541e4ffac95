"""A task that kills every worker that runs it, among many that do no harm, and a supervisor that starts workers again."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from uuid import UUID

from kills import Crew
from workplace import Workplace

from cirkelline.state import parking
from cirkelline.state.tasks import Task

HANDLE = """
import os, signal
from cirkelline.tools import tool

@tool(effects="idempotent")
def handle(ctx: ToolContext, what: str) -> str:
    if what == "poison":
        os.kill(os.getpid(), signal.SIGKILL)
    return what
"""
TURNS = [{"delay": "20ms", "tool": "handle", "arguments": {"what": "{{input}}"}}, {"text": "handled {{last_tool}}"}]
ENDED = "SELECT count(*) FROM runtime.tasks WHERE status NOT IN ('pending', 'running')"


@dataclass(frozen=True)
class Poisoned:
    """What became of the poisonous task, of how many others, and how many workers it took."""

    task: Task
    questions: int
    completed: int
    innocent_deaths: int
    workers_killed: int


async def submit(place: Workplace, amount: int) -> UUID:
    """Submit `amount` tasks, one of them poisonous and in the midst of the others; return that one."""
    place.tool("handling", HANDLE)
    await place.agent("handler", TURNS, tools=[{"python": "handling:handle"}])
    await place.submit_many("handler", amount // 2)
    poison = await place.submit("handler", "poison")
    await place.submit_many("handler", amount - 1 - amount // 2)
    return poison


async def supervised(place: Workplace, crew: Crew, poison: UUID, amount: int) -> Poisoned:
    """Start workers again that have died, until no task is in line or runs, and tell what became of them."""
    killed = 0
    while await place.value(ENDED) < amount:
        dead = [daemon for daemon in crew.daemons if daemon.process.poll() is not None]
        killed += len(dead)
        crew.daemons = [daemon for daemon in crew.daemons if daemon not in dead]
        crew.start_missing()
        await asyncio.sleep(0.05)
    async with place.db.connection() as conn:
        questions = len(await parking.find(conn, poison))
    return Poisoned(
        await place.task(poison),
        questions,
        await place.value("SELECT count(*) FROM runtime.tasks WHERE status = 'completed'"),
        await place.value("SELECT coalesce(max(deaths), 0) FROM runtime.tasks WHERE id <> %s", poison),
        killed,
    )
