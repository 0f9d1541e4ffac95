"""Random orders of submits, kills, pauses, cancels, retries and clocks that jump, on worker processes that go on meanwhile.

Hypothesis chooses the steps; what the workers do between two of them is chance, so nothing is shrunk and a failure names
what was found wrong. The test does a little of it (`test_crowd.py`), and `tests/bench/dispatch_crowd.py` a lot.
"""

from __future__ import annotations

import asyncio
import signal
from collections import Counter
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final, LiteralString, TypeVar
from uuid import UUID

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from troubles import GAPS, NOTE, WATCH
from workplace import Daemon, Workplace, kill, until

from cirkelline.state import agents, submitting, tasks
from cirkelline.state.claims import DEATHS_ALLOWED
from cirkelline.state.submitting import NewTask

WORKERS: Final = 4
CAPS: Final[dict[str, int | None]] = {"free": None, "single": 1, "triple": 3}
NOTES: Final = 2
ENDED: Final = ("completed", "failed", "cancelled")

# The process's wall clock as its user would set it: what Python says it is, at every place where it can be asked. The
# monotonic clock never jumps, on a machine whose clock is set neither.
CLOCK: Final = """
import datetime, pathlib, time
_shift = pathlib.Path("clock-" + __import__("os").environ["CLOCK"])
def _by():
    try:
        return float(_shift.read_text() or 0)
    except OSError:
        return 0.0
_time, _time_ns, _real = time.time, time.time_ns, datetime.datetime
time.time = lambda: _time() + _by()
time.time_ns = lambda: _time_ns() + int(_by() * 1e9)
class _Shifted(_real):
    @classmethod
    def now(cls, tz=None):
        return cls.fromtimestamp(time.time(), tz)
    @classmethod
    def utcnow(cls):
        return cls.fromtimestamp(time.time(), datetime.timezone.utc).replace(tzinfo=None)
datetime.datetime = _Shifted
"""

Value = TypeVar("Value")


@dataclass
class Crowd:
    """Four daemons with clocks of their own, and what was asked of them."""

    place: Workplace
    daemons: dict[str, Daemon] = field(default_factory=dict)
    agents: dict[str, UUID] = field(default_factory=dict)
    submitted: list[UUID] = field(default_factory=list)
    retried: Counter[UUID] = field(default_factory=Counter)
    steps: Counter[str] = field(default_factory=Counter)
    started: int = 0

    async def prepare(self) -> None:
        self.place.tool("noting", NOTE)
        await self.place.execute(WATCH)
        for name, cap in CAPS.items():
            notes = [{"delay": "30ms", "tool": "note", "arguments": {"n": n}} for n in range(NOTES)]
            script = {
                "conversations": [
                    {"match": "fail", "turns": [notes[0], {"text": "no", "error": "rejected"}]},
                    {"match": "slow", "turns": [*notes, {"text": "done at last", "pace": "200ms"}]},
                    {"turns": [*notes, {"text": "done"}]},
                ]
            }
            limits = {} if cap is None else {"limits": {"concurrency": cap}}
            self.agents[name] = await self.place.agent(name, script, tools=[{"python": "noting:note"}], **limits)
            if cap is not None:
                await self.place.execute("INSERT INTO public.caps VALUES (%s, %s)", self.agents[name], cap)

    async def fill(self) -> None:
        """Start what is missing of the four, and wait until they are ready."""
        new = []
        while len(self.daemons) < WORKERS:
            self.started += 1
            name = f"worker-{self.started}"
            new.append(self.place.daemon(name, environ={"CLOCK": name}, prelude=CLOCK))
            self.daemons[name] = new[-1]
        for daemon in new:
            await daemon.says("worker.ready")

    async def kill(self, name: str) -> None:
        daemon = self.daemons.pop(name)
        daemon.signal(signal.SIGKILL)
        await daemon.ends()
        await self.fill()

    def set_clock(self, name: str, by: float) -> None:
        (self.place.folder / f"clock-{name}").write_text(str(by))

    async def submit(self, agent: str, kind: str, priority: int) -> None:
        task = NewTask(agent_id=self.agents[agent], payload={"input": kind}, priority=priority)
        async with self.place.db.transaction() as conn:
            self.submitted.append((await submitting.submit(conn, task)).id)

    async def cancel(self, task: UUID) -> None:
        async with self.place.db.connection() as conn:
            await tasks.cancel(conn, task)

    async def retry(self, task: UUID) -> None:
        """Put a task back in line if it has failed or was cancelled."""
        async with self.place.db.connection() as conn:
            try:
                await tasks.retry(conn, task)
            except tasks.TaskNotRetryable:
                return
        self.retried[task] += 1

    async def pause(self, agent: str, *, paused: bool) -> None:
        async with self.place.db.connection() as conn:
            await agents.set_status(conn, self.agents[agent], "paused" if paused else "idle")

    async def settle(self) -> None:
        """Let everything go on, and wait for every end; what died five times with its workers waits for a person."""
        for agent in CAPS:
            await self.pause(agent, paused=False)
        await until(self._is_settled, "every task's end")

    async def _is_settled(self) -> bool:
        return not await self.place.value(OPEN, DEATHS_ALLOWED)

    def end(self) -> None:
        kill(self.daemons.values())

    async def faults(self) -> list[str]:
        """Return what is wrong at the end."""
        found = await self.faults_so_far()
        place = self.place
        endings: dict[UUID, int] = dict(await place.rows(ENDINGS))  # type: ignore[arg-type]  # two columns
        for task, count in endings.items():
            if count > 1 + self.retried[task]:
                found.append(f"{task} ended {count} times and was retried {self.retried[task]} times")
        statuses = dict(await place.rows("SELECT id, status FROM runtime.tasks"))
        if set(statuses) != set(self.submitted):
            found.append(f"{len(statuses)} tasks, {len(self.submitted)} submitted")
        found += [f"{task} is {status}" for task, status in statuses.items() if status not in {*ENDED, "waiting"}]
        for what, statement in (("notes are missing", MISSING), ("counts differ", COUNTS)):
            found += [f"{what}: {row}" for row in await place.rows(statement)]
        left = "SELECT task_id FROM runtime.queue UNION ALL SELECT task_id FROM runtime.claims"
        return found + [f"left behind: {row}" for row in await place.rows(left)]

    async def faults_so_far(self) -> list[str]:
        """Return what must not be at any moment."""
        found = []
        for what, statement in (
            ("cap exceeded", "SELECT * FROM public.exceeded"),
            ("versions", GAPS),
            ("noted twice", "SELECT task, n FROM public.noted GROUP BY 1, 2 HAVING count(*) > 1"),
            ("completed twice", COMPLETED_TWICE),
            ("neither in line nor claimed", NOWHERE),
        ):
            found += [f"{what}: {row}" for row in await self.place.rows(statement)]
        return found


OPEN: Final[LiteralString] = """
SELECT count(*) FROM runtime.tasks WHERE status IN ('pending', 'running') OR status = 'waiting' AND deaths < %s
"""
ENDINGS: Final[LiteralString] = "SELECT task::uuid, count(*)::integer FROM public.endings GROUP BY 1"
COMPLETED_TWICE: Final[LiteralString] = """
SELECT task FROM public.endings WHERE status = 'completed' GROUP BY 1 HAVING count(*) > 1
"""
# In one statement, so that all of it is of one moment.
NOWHERE: Final[LiteralString] = """
SELECT t.id, t.status FROM runtime.tasks t
 WHERE (t.status = 'pending') <> EXISTS (SELECT FROM runtime.queue q WHERE q.task_id = t.id)
    OR (t.status = 'running') <> EXISTS (SELECT FROM runtime.claims c WHERE c.task_id = t.id)
"""
MISSING: Final[LiteralString] = """
SELECT t.id, count(n.n) FROM runtime.tasks t LEFT JOIN public.noted n ON n.task = t.id::text
 WHERE t.status = 'completed' GROUP BY t.id HAVING count(n.n) <> 2
"""
# Of each agent: what its newest snapshot says of completed tasks and of what their tools did.
COUNTS: Final[LiteralString] = """
SELECT a.name, ended.completed, s.state -> 'stats' -> 'completed', s.state -> 'work' -> 'noted' FROM runtime.agents a
  JOIN runtime.agent_heads h ON h.agent_id = a.id
  JOIN runtime.agent_states s ON s.agent_id = a.id AND s.version = h.version
 CROSS JOIN LATERAL (SELECT count(*) FILTER (WHERE t.status = 'completed') AS completed FROM runtime.tasks t
                      WHERE t.agent_id = a.id) ended
 WHERE ended.completed <> coalesce((s.state -> 'stats' ->> 'completed')::bigint, 0)
    OR ended.completed * 2 <> coalesce((s.state -> 'work' ->> 'noted')::bigint, 0)
"""


class Steps(RuleBasedStateMachine):
    """What people and fate do to the crowd; the same crowd for all runs, as processes take seconds to start."""

    crowd: ClassVar[Crowd]
    runner: ClassVar[asyncio.Runner]

    def do(self, name: str, coroutine: Coroutine[Any, Any, Value]) -> Value:
        self.crowd.steps[name] += 1
        return self.runner.run(coroutine)

    def some_task(self, data: st.DataObject) -> UUID | None:
        """Choose one of the latest, which are those that something still happens to."""
        latest = self.crowd.submitted[-20:]
        return data.draw(st.sampled_from(latest)) if latest else None

    @rule(
        agent=st.sampled_from(list(CAPS)), kind=st.sampled_from(["quick", "slow", "fail"]), priority=st.integers(-1, 1)
    )
    def submit(self, agent: str, kind: str, priority: int) -> None:
        self.do("submit", self.crowd.submit(agent, kind, priority))

    @rule(agent=st.sampled_from(list(CAPS)))
    def submit_some(self, agent: str) -> None:
        for _ in range(4):
            self.do("submit", self.crowd.submit(agent, "quick", 0))

    @rule(data=st.data(), really=st.integers(0, 2))
    def kill(self, data: st.DataObject, really: int) -> None:
        if really == 0:  # it takes the most time by far
            name = data.draw(st.sampled_from(sorted(self.crowd.daemons)))
            self.do("kill", self.crowd.kill(name))

    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        if (task := self.some_task(data)) is not None:
            self.do("cancel", self.crowd.cancel(task))

    @rule(data=st.data())
    def retry(self, data: st.DataObject) -> None:
        if (task := self.some_task(data)) is not None:
            self.do("retry", self.crowd.retry(task))

    @rule(agent=st.sampled_from(list(CAPS)), paused=st.booleans())
    def pause(self, agent: str, *, paused: bool) -> None:
        self.do("pause", self.crowd.pause(agent, paused=paused))

    @rule(data=st.data(), by=st.sampled_from([-86400.0, -3600.0, -5.0, 0.0, 5.0, 3600.0, 86400.0]))
    def set_a_workers_clock(self, data: st.DataObject, by: float) -> None:
        name = data.draw(st.sampled_from(sorted(self.crowd.daemons)))
        self.crowd.set_clock(name, by)
        self.crowd.steps["clock"] += 1

    @rule()
    def wait(self) -> None:
        self.do("wait", asyncio.sleep(0.05))

    @invariant()
    def nothing_is_wrong(self) -> None:
        found = self.runner.run(self.crowd.faults_so_far())
        assert not found, found

    def teardown(self) -> None:
        """Let all of it end, as the tasks of one run say nothing about those of the next."""
        self.runner.run(self.crowd.settle())
        found = self.runner.run(self.crowd.faults())
        assert not found, found


def go_through(crowd: Crowd, runner: asyncio.Runner, *, runs: int, steps: int) -> None:
    """Make so many runs of so many steps, and assert after each step that nothing is wrong."""
    Steps.crowd, Steps.runner = crowd, runner
    rules = settings(
        max_examples=runs,
        stateful_step_count=steps,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(Steps, settings=rules)  # type: ignore[no-untyped-call]
