"""The very first start: example agents, and one task whose whole way a newcomer sees within moments."""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, cast
from uuid import UUID

import structlog

from cirkelline.configs import scalars
from cirkelline.runtime import composition
from cirkelline.runtime.composition import Opened
from cirkelline.runtime.reloading import AgentFiles
from cirkelline.runtime.streaming import Follower
from cirkelline.state import agents, tasks
from cirkelline.state.tasks import Task
from cirkelline.tools.toolbox import Toolbox

AGENT: Final = "assistant"
QUESTION: Final = "What is 17 times 23?"
"""One short question: the smallest local model answers it rightly, and calls a tool on its way."""

log = structlog.get_logger(__name__)


async def prepare(opened: Opened, toolbox: Toolbox, environ: Mapping[str, str]) -> UUID | None:
    """Apply the shipped examples and put the welcome task in line; return its id."""
    await AgentFiles(opened.db, composition.EXAMPLES, toolbox, environ).apply()
    async with opened.db.connection() as conn:
        agent = await agents.by_handle(conn, AGENT)
        if agent is None:
            return None
        return await tasks.submit(conn, agent_id=agent.id, payload={"input": QUESTION}, task_type="welcome")


async def show(opened: Opened, task_id: UUID) -> None:
    """Wait for the welcome task and print its answer for a person, with what to try next."""
    async with Follower(opened.db) as follower:
        async for event in follower.follow(task_id):
            if isinstance(event, Task):
                _print(event)


def _print(task: Task) -> None:
    if not sys.stderr.isatty():
        return  # the log lines say it already
    told, program = _told(task.result), _program()
    lines = [
        "",
        f"  you        {QUESTION}",
        *textwrap.wrap(told, 92, initial_indent=f"  {AGENT}  ", subsequent_indent="             "),
        "",
        "  That was task " + str(task.id) + f": its answer is in runtime.tasks, and {AGENT}'s state is now at "
        f"version {task.state_version} in runtime.agent_states.",
        f"  Now try, in another terminal:  {program} chat {AGENT}   ·   {program} tasks list   ·   {program} --help",
        "",
    ]
    sys.stderr.write("\n".join(lines) + "\n")


def _program() -> str:
    """Return how this very program is called from here: `make run` puts nothing on anybody's PATH."""
    if shutil.which("cirkelline"):
        return "cirkelline"
    called = Path(sys.argv[0]).absolute()
    return str(called.relative_to(Path.cwd())) if called.is_relative_to(Path.cwd()) else str(called)


def _told(result: object) -> str:
    if not scalars.is_mapping(result):
        return "(nothing)"
    error = result.get("error")
    said = cast("Mapping[str, Any]", error).get("message") if scalars.is_mapping(error) else result.get("output")
    return "".join(character if character.isprintable() else " " for character in str(said))
