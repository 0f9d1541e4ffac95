"""Workers that are killed at random while they work, and replaced: what the tests do a little of and the bench a lot."""

from __future__ import annotations

import asyncio
import functools
import random
import signal
import time
from collections import Counter
from dataclasses import dataclass, field
from uuid import UUID

from marked_tools import TEN, TEN_WORK, Scene
from workplace import Daemon, Workplace, kill, until

from cirkelline.runtime import deciding
from cirkelline.state import journal
from cirkelline.state.parking import Verdict

STEPS = 2 * len(TEN) + 1  # ten tool calls, and the model before, between and after them
OPENING = 1000
ACCOUNTS = 8
PER_TASK = 5

BANK = """
import random
from cirkelline.tools import tool

@tool(effects="transactional")
async def transfer(ctx: ToolContext, n: int) -> str:
    chance = random.Random(f"{{ctx.task_id}} {{n}}")
    giver, taker = chance.sample(range({accounts}), 2)
    amount = chance.randint(1, 50)
    change = "UPDATE public.accounts SET balance = balance + %s WHERE id = %s"
    for account, by in chance.sample([(giver, -amount), (taker, amount)], 2):  # in any order: they deadlock at times
        await ctx.connection.execute(change, [by, account])
    await ctx.connection.execute("INSERT INTO public.transfers VALUES (%s, %s)", [str(ctx.task_id), n])
    return f"moved {{amount}}"
"""


@dataclass
class Crew:
    """Daemons on one workplace, always as many; a killed one is replaced."""

    place: Workplace
    size: int
    daemons: list[Daemon] = field(default_factory=list)
    started: int = 0
    killed: int = 0
    environ: dict[str, str] = field(default_factory=dict[str, str])
    prelude: str = ""

    async def fill(self) -> None:
        """Start what is missing and wait until all are ready."""
        for daemon in self.start_missing():
            await daemon.says("worker.ready")

    def start_missing(self) -> list[Daemon]:
        """Start what is missing, without waiting for it."""
        new = []
        for _ in range(self.size - len(self.daemons)):
            self.started += 1
            new.append(self.place.daemon(f"daemon-{self.started}", self.environ, prelude=self.prelude))
        self.daemons += new
        return new

    async def kill_holder(self, task_id: UUID) -> None:
        """Kill the daemon that runs a task."""
        pid = await self.place.value(
            "SELECT max(w.pid) FROM runtime.claims c JOIN runtime.workers w ON w.id = c.worker WHERE c.task_id = %s",
            task_id,
        )
        for daemon in [each for each in self.daemons if each.process.pid == pid]:
            await self._kill(daemon)

    async def kill_any(self, chance: random.Random) -> None:
        """Kill one of them."""
        await self._kill(chance.choice(self.daemons))

    async def _kill(self, daemon: Daemon) -> None:
        daemon.signal(signal.SIGKILL)
        await daemon.ends()
        self.daemons.remove(daemon)
        self.killed += 1

    def end(self) -> None:
        """End them all."""
        kill(self.daemons)


@dataclass(frozen=True)
class Outcome:
    """What one killed run came to; every field but the first should be what a run without kills has."""

    killed: int
    output: str
    work: object
    booked: list[int]
    starts: Counter[str]
    repeated_models: int


async def ten_tools(place: Workplace, crew: Crew, scene: Scene, point: int, chance: random.Random) -> Outcome:
    """Run ten tools once, killed in the step after the `point`th on record, with another worker alive."""
    before, killed = len(scene.marks), crew.killed
    await place.execute("TRUNCATE public.booked, runtime.agent_states")
    await place.execute("UPDATE runtime.agent_heads SET version = 0")
    await crew.fill()
    task_id = await place.submit("ten")
    await _reaches(place, task_id, point)
    await asyncio.sleep(chance.uniform(0, 0.03))
    kept = [row async for row in _steps(place, task_id)]
    await crew.kill_holder(task_id)
    (task,) = await place.ended(task_id)
    after = [row async for row in _steps(place, task_id)]
    starts = Counter(line.removeprefix("start ") for line in scene.marks[before:] if line.startswith("start "))
    return Outcome(
        crew.killed - killed,
        str(task.result.get("output", task.result)),
        await place.value("SELECT state -> 'work' FROM runtime.agent_states ORDER BY version DESC LIMIT 1"),
        [row[0] for row in await place.rows("SELECT n FROM public.booked ORDER BY n")],
        starts,
        sum(1 for row in kept if row not in after),
    )


async def _reaches(place: Workplace, task_id: UUID, point: int) -> None:
    """Wait until a task has so many steps on record, or has ended."""
    recorded = "SELECT count(*) FROM runtime.journal WHERE task_id = %s AND call >= -1 AND position > 0"
    deadline = time.monotonic() + 30
    while await place.value(recorded, task_id) < point and time.monotonic() < deadline:  # noqa: ASYNC110 - a row in a table
        await asyncio.sleep(0.001)


async def _steps(place: Workplace, task_id: UUID):  # type: ignore[no-untyped-def]
    async with place.db.connection() as conn:
        for step in await journal.read(conn, task_id):
            yield step.position, step.call, step.attempt, step.begun


def faults(outcome: Outcome) -> list[str]:
    """Return what a killed run did wrong: at most the one call that was in flight may have started twice."""
    booked = [n for n, name in enumerate(TEN) if name.startswith("book")]
    found = [] if outcome.output == "done: put 9" else [f"output {outcome.output}"]
    found += [] if outcome.work == TEN_WORK else [f"state {outcome.work}"]
    found += [] if outcome.booked == booked else [f"booked {outcome.booked}"]
    again = sum(outcome.starts.values()) - len(TEN)
    found += [] if 0 <= again <= outcome.killed and len(outcome.starts) == len(TEN) else [f"starts {outcome.starts}"]
    return found + ([f"{outcome.repeated_models} recorded steps made again"] if outcome.repeated_models else [])


ONCE = ["pay"] * 5
ONCE_STEPS = 2 * len(ONCE) + 1


async def once_tools(
    place: Workplace, crew: Crew, scene: Scene, point: int, chance: random.Random
) -> tuple[list[str], int]:
    """Run five tools that must not run twice, killed after the `point`th step on record.

    Return what went wrong, and how often somebody was asked what happened: told that it did, half of the time, and else
    that it did not.
    """
    before, asked = len(scene.marks), 0
    await crew.fill()
    task_id = await place.submit("ten")
    await _reaches(place, task_id, point)
    await asyncio.sleep(chance.uniform(0, 0.03))
    await crew.kill_holder(task_id)
    allowed = Counter(f"pay {n}" for n in range(len(ONCE)))
    while True:
        state = "SELECT status FROM runtime.tasks WHERE id = %s AND status NOT IN ('pending', 'running')"
        ((status,),) = await until(functools.partial(place.rows, state, task_id), f"the end of {task_id}")
        if status != "waiting":
            break
        (question,) = await place.waiting(task_id)
        asked += 1
        again, call = chance.random() < 0.5, f"pay {question.waits['arguments']['n']}"
        allowed[call] += again
        verdict, value = (Verdict.RETRY, None) if again else (Verdict.RESULT, call.replace("pay", "paid"))
        async with place.db.connection() as conn:
            await deciding.outcome(conn, task_id, verdict, value=value)
    task = await place.task(task_id)
    starts = Counter(line.removeprefix("start ") for line in scene.marks[before:] if line.startswith("start "))
    found = [] if task.result.get("output") == "done: paid 4" else [f"output {task.result}"]
    return found + ([f"starts {starts}, allowed {allowed}"] if starts - allowed else []), asked


@dataclass(frozen=True)
class Ledger:
    """What transfers under kills came to."""

    total: int
    submitted: int
    made: int
    twice: int
    completed: int
    killed: int


async def open_bank(place: Workplace) -> None:
    """Prepare accounts, and an agent each of whose tasks makes PER_TASK transfers."""
    place.tool("bank", BANK.format(accounts=ACCOUNTS))
    await place.execute("CREATE TABLE public.accounts (id INTEGER PRIMARY KEY, balance INTEGER NOT NULL)")
    await place.execute("CREATE TABLE public.transfers (task TEXT, n INTEGER)")
    await place.execute("INSERT INTO public.accounts SELECT n, %s FROM generate_series(0, %s) n", OPENING, ACCOUNTS - 1)
    turns = [{"tool": "transfer", "arguments": {"n": n}} for n in range(PER_TASK)]
    await place.agent("banker", [*turns, {"text": "done"}], tools=[{"python": "bank:transfer"}])


async def transfers(place: Workplace, crew: Crew, *, tasks: int, kills: int, chance: random.Random) -> Ledger:
    """Make at least tasks * PER_TASK transfers while `kills` workers are killed, and read the books."""
    ended = "SELECT count(*) FROM runtime.tasks WHERE status NOT IN ('pending', 'running')"
    submitted = 0
    await crew.fill()
    while crew.killed < kills or submitted < tasks or await place.value(ended) < submitted:
        if await place.value(ended) == submitted:
            # A share for each kill to come, and some more where they were done before it came.
            more = max(crew.size, (tasks - submitted) // (kills - crew.killed + 1))
            await place.submit_many("banker", more)
            submitted += more
        await asyncio.sleep(chance.uniform(0.0, 0.1))
        if crew.killed < kills and await place.value("SELECT count(*) FROM runtime.claims"):
            await crew.kill_any(chance)
        await crew.fill()
    return Ledger(
        await place.value("SELECT sum(balance) FROM public.accounts"),
        submitted,
        await place.value("SELECT count(*) FROM public.transfers"),
        await place.value("SELECT count(*) - count(DISTINCT (task, n)) FROM public.transfers"),
        await place.value("SELECT count(*) FROM runtime.tasks WHERE status = 'completed'"),
        crew.killed,
    )
