"""A workflow of twelve steps whose worker is killed at each of them, with another one alive."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from kills import Crew
from workflow_scene import WorkflowScene
from workplace import until

STEPS = 12

TWELVE = """
def look(n: int) -> str:
    mark(f"start {n}")
    hold(f"in-{n}")
    mark(f"end {n}")
    return f"looked {n}"

async def put(ctx: ToolContext, n: int) -> dict[str, int]:
    mark(f"start {n}")
    mark(f"key {n} {ctx.idempotency_key}")
    ctx.state.append("put", n)
    while (PLACE / f"hold-in-{n}").exists():
        await asyncio.sleep(0.01)
    mark(f"end {n}")
    return {"put": n}

async def book(ctx: ToolContext, n: int) -> str:
    mark(f"start {n}")
    await ctx.connection.execute("INSERT INTO public.booked (n) VALUES (%s)", [n])
    while (PLACE / f"hold-in-{n}").exists():
        await asyncio.sleep(0.01)
    mark(f"end {n}")
    return f"booked {n}"

def book_plainly(ctx: ToolContext, n: int) -> str:
    mark(f"start {n}")
    ctx.connection.execute("INSERT INTO public.booked (n) VALUES (%s)", [n])
    hold(f"in-{n}")
    mark(f"end {n}")
    return f"booked {n}"

@workflow
async def twelve(run: WorkflowRun) -> list:
    kinds = [(look, "read"), (put, None), (book, "transactional"), (book_plainly, "transactional")]
    gave = []
    for n in range(12):
        function, effects = kinds[n % 4]
        gave.append(await run.step(f"step {n}", function, n=n, effects=effects))
        mark(f"after {n}")
        hold(f"after-{n}")
    return gave
"""
NAMES = [f"step {n}" for n in range(STEPS)]
BOOKED = [n for n in range(STEPS) if n % 4 > 1]
OUTPUT = [(f"looked {n}", {"put": n}, f"booked {n}", f"booked {n}")[n % 4] for n in range(STEPS)]
POINTS = [f"{where}-{n}" for n in range(STEPS) for where in ("in", "after")]
"""Where a run can be killed: inside each step, and between its record and the next step."""


@dataclass(frozen=True)
class Outcome:
    """What a run that was killed at these points came to."""

    points: tuple[str, ...]
    output: Any
    record: tuple[Any, ...]
    journaled: list[str]
    booked: list[int]
    state: Any
    starts: Counter[str]
    ends: Counter[str]
    keys: int
    attempts: int

    def faults(self) -> list[str]:
        """Return what it did wrong: only the step that was in flight at a kill may have started twice."""
        again = Counter(point.removeprefix("in-") for point in self.points if point.startswith("in-"))
        wanted = Counter({str(n): 1 for n in range(STEPS)})
        found = {
            "output": (self.output, OUTPUT),
            "record": (self.record, ("COMPLETED", None, NAMES)),
            "journal": (self.journaled, NAMES),
            "booked": (self.booked, BOOKED),
            "state": (self.state, [n for n in range(STEPS) if n % 4 == 1]),
            "starts": (self.starts, wanted + again),
            "ends": (self.ends, wanted),
            "keys": (self.keys, STEPS // 4),
            "attempts": (self.attempts, len(self.points) + 1),
        }
        return [f"{what}: {is_} instead of {should}" for what, (is_, should) in found.items() if is_ != should]


async def prepare(scene: WorkflowScene) -> None:
    """Write the workflow, and the table that its transactional steps fill."""
    scene.write("kinds", TWELVE)
    await scene.place.execute("CREATE TABLE public.booked (n INTEGER)")


async def killed_at(scene: WorkflowScene, crew: Crew, points: list[str]) -> Outcome:
    """Run the workflow and kill its worker at each of these points in turn, in the order of the run."""
    place, before = scene.place, len(scene.marks)
    await place.execute("TRUNCATE public.booked, runtime.agent_states")
    await place.execute("UPDATE runtime.agent_heads SET version = 0")
    for point in points:
        scene.hold(point)
    await crew.fill()
    run_id = await scene.submit("twelve")
    for point in points:
        await _reached(scene, before, point)
        await crew.kill_holder(run_id)
        scene.let_go(point)
        await crew.fill()
    (task,) = await place.ended(run_id)
    marks = [line.split() for line in scene.marks[before:]]
    return Outcome(
        tuple(points),
        task.result.get("output", task.result),
        (
            await place.rows(
                "SELECT status, current_step, steps_completed FROM ai.workflow_runs WHERE run_id = %s", str(run_id)
            )
        )[0],
        [
            row[0]
            for row in await place.rows(
                "SELECT name FROM runtime.journal WHERE task_id = %s AND kind = 'step' ORDER BY position", run_id
            )
        ],
        sorted(row[0] for row in await place.rows("SELECT n FROM public.booked")),
        await place.value("SELECT state -> 'work' -> 'put' FROM runtime.agent_states ORDER BY version DESC LIMIT 1"),
        Counter(line[1] for line in marks if line[0] == "start"),
        Counter(line[1] for line in marks if line[0] == "end"),
        len({tuple(line) for line in marks if line[0] == "key"}),
        task.attempt or 0,
    )


async def _reached(scene: WorkflowScene, before: int, point: str) -> None:
    """Wait until the attempt that runs now is where it is held."""
    where, n = point.split("-")
    word = {"in": "start", "after": "after"}[where]

    async def look() -> bool:
        return f"{word} {n}" in scene.marks[before:][-3:]

    await until(look, f"the run at {point}")
