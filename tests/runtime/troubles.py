"""Servers that restart, connections that are cut and workers that stop, while tasks run and more are submitted.

The tests do a little of it (`test_troubles.py`), and `tests/bench/dispatch_troubles.py` a lot.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, LiteralString, TypeVar

from kills import Crew
from workplace import Daemon, Workplace, until

from cirkelline.runtime.patience import until_answered
from cirkelline.state import embedded, submitting
from cirkelline.state.embedded import EmbeddedServer
from cirkelline.state.submitting import NewTask

AGENTS: Final[dict[str, int | None]] = {"free": None, "wide": 5, "narrow": 2}
"""The agents, and how many tasks of each may run at once on all workers."""

NOTES: Final = 2
"""Rows that each task's tool writes, one for each call."""

KINDS: Final = ("fast", "immediate", "cut", "freeze")

NOTE = """
from cirkelline.tools import tool

@tool(effects="transactional")
async def note(ctx: ToolContext, n: int) -> str:
    await ctx.connection.execute("INSERT INTO public.noted (task, n) VALUES (%s, %s)", [str(ctx.task_id), n])
    ctx.state.increment("noted")
    return f"noted {n}"
"""

# What no look from outside could see for sure: the statement sees what is claimed under the head's lock, and a task that
# ended twice. No index keeps a note from being written twice, as its tool would only hear of a failed statement.
WATCH: Final[LiteralString] = """
CREATE TABLE IF NOT EXISTS public.noted (task TEXT, n INTEGER);
CREATE TABLE IF NOT EXISTS public.caps (agent UUID PRIMARY KEY, cap INTEGER);
CREATE TABLE IF NOT EXISTS public.exceeded (agent UUID, running INTEGER);
CREATE TABLE IF NOT EXISTS public.endings (task UUID, status TEXT);
CREATE OR REPLACE FUNCTION public.watch_caps() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO public.exceeded
    SELECT c.agent, count(*) FROM public.caps c JOIN runtime.claims r ON r.agent_id = c.agent
     WHERE c.agent IN (SELECT n.agent_id FROM new_rows n) GROUP BY c.agent, c.cap HAVING count(*) > c.cap;
    RETURN NULL;
END $$;
CREATE OR REPLACE TRIGGER watch_caps AFTER INSERT ON runtime.claims
    REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION public.watch_caps();
CREATE OR REPLACE FUNCTION public.watch_endings() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO public.endings VALUES (NEW.id, NEW.status);
    RETURN NULL;
END $$;
CREATE OR REPLACE TRIGGER watch_endings AFTER UPDATE OF status ON runtime.tasks
    FOR EACH ROW WHEN (NEW.status IN ('completed', 'failed', 'cancelled')) EXECUTE FUNCTION public.watch_endings();
"""

CUT_SOME: Final[LiteralString] = """
SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
 WHERE datname = current_database() AND pid <> pg_backend_pid() AND random() < %s
"""
COMPLETED: Final[LiteralString] = "SELECT count(*) FROM runtime.tasks WHERE status = 'completed'"
HELD: Final[LiteralString] = (
    "SELECT count(*) FROM runtime.claims c JOIN runtime.workers w ON w.id = c.worker WHERE w.pid = %s"
)

Result = TypeVar("Result")


class OwnServer:
    """An embedded server of a test's own, which it may restart."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self._uses: list[EmbeddedServer] = [embedded.ensure(home)]

    @property
    def url(self) -> str:
        return self._uses[0].url()

    async def restart(self, number: signal.Signals) -> None:
        """End the server by a signal, as its own programs do (SIGINT: fast, SIGQUIT: immediate), and start it again."""
        await self.stop(number)
        await self.start()

    async def stop(self, number: signal.Signals) -> None:
        """End the server by a signal."""
        pid = embedded.status(self.home).pid
        assert pid is not None
        os.kill(pid, number)

        async def is_down() -> bool:
            return not embedded.status(self.home).running

        await until(is_down, "the server's end")

    async def start(self) -> None:
        """Start the server again."""
        self._uses.append(await asyncio.to_thread(embedded.ensure, self.home))

    def release(self) -> None:
        """Stop the server."""
        for use in self._uses:
            use.release()


async def asked(action: Callable[[], Awaitable[Result]]) -> Result:
    """Return what the server answers, asked again while it is away: the test's own connections are cut as well."""
    return await until_answered(action, "answer the test")


@dataclass
class Load:
    """Tasks that are submitted under keys, again and again until the server has said that it has them."""

    place: Workplace
    submitted: int = 0
    turns: list[dict[str, Any]] = field(default_factory=list)

    async def prepare(self, *, delay: str = "40ms") -> None:
        """Write the agents and the tables that tell what happened."""
        self.place.tool("noting", NOTE)
        await self.place.execute(WATCH)
        turns = [{"delay": delay, "tool": "note", "arguments": {"n": n}} for n in range(NOTES)]
        for name, cap in AGENTS.items():
            limits = {} if cap is None else {"limits": {"concurrency": cap}}
            agent = await self.place.agent(
                name, [*turns, {"text": "done"}], tools=[{"python": "noting:note"}], **limits
            )
            if cap is not None:
                await self.place.execute("INSERT INTO public.caps VALUES (%s, %s)", agent, cap)

    async def submit(self, amount: int) -> None:
        """Submit so many more, of each agent in turn."""
        agents = [await asked(lambda name=name: self.place.agent_id(name)) for name in AGENTS]
        for _ in range(amount):
            number, self.submitted = self.submitted, self.submitted + 1
            task = NewTask(agent_id=agents[number % len(agents)], payload={"input": number}, key=f"task {number}")
            await asked(lambda task=task: self._enter(task))

    async def _enter(self, task: NewTask) -> None:
        async with self.place.db.transaction() as conn:
            await submitting.submit(conn, task)

    async def completed(self) -> int:
        return int(await asked(lambda: self.place.value(COMPLETED)))

    async def all_completed(self) -> None:
        """Wait for all of them, for as long as some more of them end."""
        done = -1
        while (now := await self.completed()) < self.submitted:
            assert now > done, f"{now} of {self.submitted} tasks completed, and no more"
            done = now
            await until(lambda done=done: self._more_than(done), f"more than {done} of {self.submitted} tasks")

    async def _more_than(self, done: int) -> bool:
        return await self.completed() > done


@dataclass
class Troubles:
    """What is done to a server and its workers."""

    server: OwnServer
    load: Load
    crew: Crew
    chance: random.Random
    cut: int = 0
    frozen: int = 0
    restarts: int = 0
    slowest: float = 0.0
    """Seconds from the end of a trouble to the next task that completed, at most."""

    async def make(self, kind: str, *, tasks: int) -> None:
        """Submit tasks, make trouble while they run, and wait until some have completed since."""
        await self.load.submit(tasks)
        place = self.load.place
        await until(lambda: asked(lambda: place.value("SELECT count(*) FROM runtime.claims")), "running tasks")
        await asyncio.sleep(self.chance.uniform(0, 0.3))
        if kind == "freeze":
            await self._freeze()
        elif kind == "cut":
            self.cut += await asked(lambda: place.value(CUT_SOME, self.chance.uniform(0.3, 1.0)))
        else:
            # More is submitted while the server is away, as by people who know nothing of it.
            number = signal.SIGINT if kind == "fast" else signal.SIGQUIT
            await asyncio.gather(self.server.restart(number), self.load.submit(tasks))
            self.restarts += 1
        began, done = time.monotonic(), await self.load.completed()
        await self.load.submit(1)
        await until(lambda: self.load._more_than(done), f"a task after {kind}")
        self.slowest = max(self.slowest, time.monotonic() - began)

    async def _freeze(self) -> None:
        """Stop a worker that holds tasks until it has been declared dead, and let it go on."""
        place = self.load.place

        async def busy() -> Daemon | None:
            await self.load.submit(1)
            for daemon in self.chance.sample(self.crew.daemons, len(self.crew.daemons)):
                daemon.signal(signal.SIGSTOP)
                if await asked(lambda daemon=daemon: place.value(HELD, daemon.process.pid)):
                    return daemon
                daemon.signal(signal.SIGCONT)
            return None

        daemon = await until(busy, "a worker that holds tasks")
        before = len(daemon.said("worker.declared_dead"))
        try:

            async def lost() -> bool:
                return not await asked(lambda: place.value(HELD, daemon.process.pid))

            await until(lost, "the end of its lease")
        finally:
            daemon.signal(signal.SIGCONT)

        async def knows() -> bool:
            return len(daemon.said("worker.declared_dead")) > before

        await until(knows, "a worker that knows it was declared dead")
        self.frozen += 1

    async def all_back(self) -> None:
        """Wait until every worker that was started is there again: none was restarted, all came back by themselves."""
        assert [daemon.process.poll() for daemon in self.crew.daemons] == [None] * self.crew.size
        pids = {daemon.process.pid for daemon in self.crew.daemons}

        async def alive() -> bool:
            there = "SELECT pid FROM runtime.workers WHERE seen >= clock_timestamp() - lease"
            return {row[0] for row in await asked(lambda: self.load.place.rows(there))} == pids

        await until(alive, "all workers")


async def faults(load: Load) -> list[str]:
    """Return what was lost or doubled."""
    place, amount = load.place, load.submitted
    found = []

    async def expect(what: str, wanted: object, statement: LiteralString) -> None:
        rows = await asked(lambda: place.rows(statement))
        if rows != wanted:
            found.append(f"{what}: {rows[:5]}, not {wanted}")

    await expect("tasks", [("completed", amount)], "SELECT status, count(*) FROM runtime.tasks GROUP BY 1")
    await expect("results", [("done",)], "SELECT DISTINCT result ->> 'output' FROM runtime.tasks")
    await expect("ended twice", [], "SELECT task, count(*) FROM public.endings GROUP BY 1 HAVING count(*) > 1")
    await expect("notes", [(amount * NOTES, amount * NOTES)], NOTED)
    await expect("caps", [], "SELECT * FROM public.exceeded")
    await expect("versions", [], GAPS)
    await expect("left in line or claimed", [(0, 0)], LEFT)
    await expect("counts", [(amount, amount * NOTES)], COUNTED)
    return found


NOTED: Final[LiteralString] = "SELECT count(*), count(DISTINCT (task, n)) FROM public.noted"
LEFT: Final[LiteralString] = "SELECT (SELECT count(*) FROM runtime.queue), (SELECT count(*) FROM runtime.claims)"
GAPS: Final[LiteralString] = """
SELECT s.agent_id, count(*), max(s.version), h.version FROM runtime.agent_states s
  JOIN runtime.agent_heads h ON h.agent_id = s.agent_id
 GROUP BY s.agent_id, h.version
HAVING count(*) <> max(s.version) OR count(DISTINCT s.version) <> count(*) OR min(s.version) <> 1 OR max(s.version) <> h.version
"""
# What the newest snapshots say: completed tasks, and what their tools have done to the state.
COUNTED: Final[LiteralString] = """
SELECT sum((s.state -> 'stats' ->> 'completed')::bigint)::bigint, sum((s.state -> 'work' ->> 'noted')::bigint)::bigint
  FROM runtime.agent_states s JOIN runtime.agent_heads h ON h.agent_id = s.agent_id AND h.version = s.version
"""
