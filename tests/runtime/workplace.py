"""A database, agent files and tools of a test's own, workers in this process and daemons in others."""

from __future__ import annotations

import asyncio
import functools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, LiteralString, TypeVar
from uuid import UUID

from nursery import Child, Nursery

from cirkelline.configs import loading
from cirkelline.configs.settings import Settings
from cirkelline.runtime import applying, composition
from cirkelline.runtime.applying import Plan
from cirkelline.runtime.composition import Opened
from cirkelline.runtime.worker import Worker
from cirkelline.state import agents, parking, sessions, tasks, users
from cirkelline.state.connection import Database
from cirkelline.state.parking import Waiting
from cirkelline.state.tasks import Task
from cirkelline.state.tenant import tenant
from cirkelline.tools.toolbox import Toolbox

PATIENCE = 45.0

Value = TypeVar("Value")

UP = """
import asyncio, json, os, sys
from cirkelline.configs.errors import CirkellineError
from cirkelline.configs.settings import load_settings
from cirkelline.runtime.up import up
try:
    sys.exit(asyncio.run(up(load_settings(os.environ), **json.loads(os.environ["UP"]))))
except CirkellineError as error:
    print(error, file=sys.stderr)
    sys.exit(error.exit_code)
"""


async def until(look: Callable[[], Awaitable[Value | None]], what: str) -> Value:
    """Look again and again until there is something, and return it."""
    deadline = time.monotonic() + PATIENCE
    while not (found := await look()):
        assert time.monotonic() < deadline, f"waited {PATIENCE} s for {what}"
        await asyncio.sleep(0.02)
    return found


class Daemon:
    """A daemon in a process of its own; its log lines are JSON."""

    def __init__(self, process: subprocess.Popen[bytes] | Child, log: Path) -> None:
        self.process = process
        self._log = log

    @property
    def lines(self) -> list[dict[str, Any]]:
        """The log so far."""
        return [json.loads(line) for line in self._log.read_text().splitlines() if line.startswith("{")]

    def said(self, event: str, **facts: Any) -> list[dict[str, Any]]:
        """Return the log lines of this event that hold these facts."""
        return [line for line in self.lines if line["event"] == event and facts.items() <= line.items()]

    async def says(self, event: str, **facts: Any) -> dict[str, Any]:
        """Wait for a log line."""

        async def look() -> list[dict[str, Any]]:
            assert self.process.poll() is None or self.said(event, **facts), self._log.read_text()
            return self.said(event, **facts)

        return (await until(look, f"{event} {facts}"))[0]

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    async def ends(self) -> int:
        """Wait for its end and return the exit code."""
        return await asyncio.to_thread(self.process.wait, PATIENCE)


class Workplace:
    """A folder with `configs` and `tools`, and the database its agents are in."""

    def __init__(self, db: Database, folder: Path, *, nursery: Nursery | None = None, **settings: Any) -> None:
        self.db = db
        self.nursery = nursery  # where daemons start; without one each is an interpreter of its own
        self.folder = folder
        self.configs = folder / "configs"
        self.tools = folder / "tools"
        self.configs.mkdir()
        self.tools.mkdir()
        chosen = {"lease": 1.0, "poll": 0.2, "grace": 20.0, "concurrency": 4, **settings}
        self.settings = Settings(database_url=db.url, home=folder / "home", **chosen)
        self.opened = Opened(self.settings, db, db.url, embedded=False, fresh=False)

    def opened_with(self, **settings: Any) -> Opened:
        """Return the place as it would have been opened with these settings."""
        return Opened(self.settings.model_copy(update=settings), self.db, self.db.url, embedded=False, fresh=False)

    # Agents ------------------------------------------------------------------------------------------------------

    def tool(self, module: str, text: str) -> None:
        """Write a module of tools."""
        header = "import time\nfrom cirkelline.tools import EndRun, ToolContext\n"
        (self.tools / f"{module}.py").write_text(header + text)

    def write(self, name: str, turns: object, **config: Any) -> Path:
        """Write an agent's file, and the script that its model plays."""
        script = self.configs / f"{name}.script.yaml"
        script.write_text(json.dumps(turns))  # JSON is YAML
        whole = {"name": name, "model": f"scripted:{script}", "instructions": "Do as the script says.", **config}
        path = self.configs / f"{name}.yaml"
        path.write_text(json.dumps(whole))
        return path

    async def apply(self, *, prune: bool = False) -> Plan:
        """Apply the folder."""
        loaded = await asyncio.to_thread(self.load)
        plan = await applying.plan(self.db, loaded, {}, resolve_auto=True)
        await applying.apply(self.db, plan, prune=prune)
        return plan

    def load(self) -> loading.Loaded:
        return applying.check(loading.load([self.configs], {}), Toolbox(self.tools), {})

    async def agent(self, name: str, turns: object, **config: Any) -> UUID:
        """Write and apply one agent."""
        self.write(name, turns, **config)
        plan = await self.apply()
        assert plan.problems == (), plan.problems
        return await self.agent_id(name)

    async def agent_id(self, name: str) -> UUID:
        async with self.db.connection() as conn:
            return (await agents.get(conn, name)).id

    # Tasks -------------------------------------------------------------------------------------------------------

    async def submit(self, agent: str, input: Any = "hello", **columns: Any) -> UUID:
        agent_id = await self.agent_id(agent)
        async with self.db.connection() as conn:
            return await tasks.submit(conn, agent_id=agent_id, payload={"input": input}, **columns)

    async def submit_many(self, agent: str, amount: int) -> None:
        await self.execute(
            "INSERT INTO runtime.tasks (agent_id, task_type, payload)"
            " SELECT %s, 'task', jsonb_build_object('input', 'task ' || n) FROM generate_series(1, %s) n",
            await self.agent_id(agent),
            amount,
        )

    async def task(self, task_id: UUID) -> Task:
        async with self.db.connection() as conn:
            return await tasks.get(conn, task_id)

    async def waiting(self, task_id: UUID) -> list[Waiting]:
        """Wait until a task is parked, and return what for."""
        await self.becomes("waiting", "SELECT status FROM runtime.tasks WHERE id = %s", task_id)
        async with self.db.connection() as conn:
            return await parking.find(conn, task_id)

    async def ended(self, *task_ids: UUID) -> list[Task]:
        """Wait until all of these tasks have ended."""
        return [await until(functools.partial(self._if, each, "ended"), f"the end of {each}") for each in task_ids]

    async def running(self, task_id: UUID) -> Task:
        """Wait until a worker runs the task."""
        return await until(lambda: self._if(task_id, "running"), f"the start of {task_id}")

    async def _if(self, task_id: UUID, wanted: str) -> Task | None:
        task = await self.task(task_id)
        return task if task.status == wanted or (wanted == "ended" and task.ended) else None

    async def result(self, task_id: UUID) -> Any:
        (task,) = await self.ended(task_id)
        return task.result

    async def session(self, agent: str, user: str = "ivo") -> tuple[UUID, UUID]:
        """Open a session; return it and its user."""
        agent_id = await self.agent_id(agent)
        async with self.db.connection() as conn:
            user_id = (await users.ensure(conn, user)).id
        async with tenant(self.db, user_id) as door:
            return await sessions.create(door, agent_id), user_id

    async def turn(self, session: UUID, user: UUID, input: str) -> UUID:
        async with tenant(self.db, user) as door:
            return await sessions.submit_turn(door, session, {"input": input})

    async def messages(self, session: UUID, user: UUID) -> list[tuple[str, str]]:
        async with tenant(self.db, user) as door:
            return [(each.role, each.content) for each in await sessions.messages(door, session)]

    # SQL ---------------------------------------------------------------------------------------------------------

    async def rows(self, statement: LiteralString, *values: Any) -> list[tuple[Any, ...]]:
        async with self.db.connection() as conn:
            return await (await conn.execute(statement, values)).fetchall()

    async def value(self, statement: LiteralString, *values: Any) -> Any:
        return (await self.rows(statement, *values))[0][0]

    async def execute(self, statement: LiteralString, *values: Any) -> None:
        async with self.db.connection() as conn:
            await conn.execute(statement, values)

    async def becomes(self, wanted: Any, statement: LiteralString, *values: Any) -> None:
        """Wait until a query's one value is this."""

        async def look() -> bool:
            return bool(await self.value(statement, *values) == wanted)

        await until(look, f"{statement} = {wanted}")

    # Workers -----------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def working(self, **options: Any) -> AsyncIterator[Worker]:
        """Serve with a worker in this process; at the end it has stopped."""
        environ = options.pop("environ", {})
        async with composition.open_worker(self.opened, Toolbox(self.tools), environ, **options) as worker:
            serving = asyncio.create_task(worker.serve())
            try:
                yield worker
            finally:
                worker.stop_at_once()
                await asyncio.wait_for(serving, PATIENCE)

    def daemon(
        self, name: str = "daemon", environ: dict[str, str] | None = None, *, prelude: str = "", **options: Any
    ) -> Daemon:
        """Start a daemon on this folder; `prelude` is what its process does before."""
        log = self.folder / f"{name}.log"
        given = {
            **os.environ,
            "DATABASE_URL": self.db.url,
            "CIRKELLINE_CONFIGS": str(self.configs),
            "CIRKELLINE_LOG_FORMAT": "json",
            **{f"CIRKELLINE_{key.upper()}": str(getattr(self.settings, key)) for key in ("lease", "poll", "grace")},
            "CIRKELLINE_CONCURRENCY": str(self.settings.concurrency),
            "UP": json.dumps(options),
            **(environ or {}),
        }
        if self.nursery:
            return Daemon(self.nursery.start(prelude + UP, env=given, log=log, cwd=self.folder), log)
        with log.open("wb") as out:
            process = subprocess.Popen(
                [sys.executable, "-c", prelude + UP], env=given, stdout=out, stderr=out, cwd=self.folder
            )
        return Daemon(process, log)


def kill(daemons: Iterable[Daemon]) -> None:
    """End what a test left running."""
    for daemon in daemons:
        daemon.process.kill()
        daemon.process.wait()
