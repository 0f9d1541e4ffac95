"""An agent of marked tools: each leaves a line when it starts and when it ends, and can be held in between."""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Callable
from typing import Any
from uuid import UUID

from workplace import Daemon, Workplace, until

Start = Callable[..., Daemon]

# Tools leave a line per start and per end in files of the test's; a gate file lets the one wait that is to be killed in.
TOOLS = """
import asyncio, os, pathlib
from cirkelline.tools import tool

PLACE = pathlib.Path({place!r})

def mark(line):
    with (PLACE / "marks").open("a") as file:
        file.write(line + "\\n")

def hold(name):
    time.sleep({pause})
    gate = PLACE / f"hold-{{name}}"
    while gate.exists():
        time.sleep(0.01)

@tool(effects="read")
def look(ctx: ToolContext, n: int) -> str:
    mark(f"start look {{n}}")
    hold(n)
    seen = ctx.state.get("count", 0)
    mark(f"end look {{n}}")
    return f"looked {{n}}, count {{seen}}"

@tool(effects="idempotent")
def put(ctx: ToolContext, n: int) -> str:
    mark(f"start put {{n}}")
    mark(f"key {{n}} {{ctx.idempotency_key}}")
    ctx.state.increment("count")
    hold(n)
    ctx.state.append("put", n)
    mark(f"end put {{n}}")
    return f"put {{n}}"

@tool(effects="transactional")
async def book(ctx: ToolContext, n: int) -> str:
    mark(f"start book {{n}}")
    await ctx.connection.execute("INSERT INTO public.booked (n) VALUES (%s)", [n])
    await asyncio.sleep({pause})
    while (PLACE / f"hold-{{n}}").exists():
        await asyncio.sleep(0.01)
    mark(f"end book {{n}}")
    return f"booked {{n}}"

@tool(effects="transactional")
def book_plainly(ctx: ToolContext, n: int) -> str:
    mark(f"start book_plainly {{n}}")
    ctx.connection.execute("INSERT INTO public.booked (n) VALUES (%s)", [n])
    hold(n)
    mark(f"end book_plainly {{n}}")
    return f"booked {{n}}"

@tool(effects="once")
def pay(ctx: ToolContext, n: int) -> str:
    mark(f"start pay {{n}}")
    hold(n)
    mark(f"end pay {{n}}")
    return f"paid {{n}}"

@tool(effects="once", on_unknown="retry")
def pay_again(ctx: ToolContext, n: int) -> str:
    mark(f"start pay_again {{n}}")
    hold(n)
    return f"paid {{n}}"
"""
NAMES = ("look", "put", "book", "book_plainly", "pay", "pay_again")


class Scene:
    """An agent of ten tool calls, and what its tools left behind."""

    def __init__(
        self, place: Workplace, calls: list[str], *, text: str = "done: {{last_tool}}", pause: float = 0
    ) -> None:
        self.place = place
        self.calls = calls
        self.text = text
        self.pause = pause
        self.marks_file = place.folder / "marks"

    async def prepare(self, **config: Any) -> None:
        self.place.tool("marked", TOOLS.format(place=str(self.place.folder), pause=self.pause))
        await self.place.execute("CREATE TABLE IF NOT EXISTS public.booked (n INTEGER)")
        turns: list[dict[str, Any]] = [
            {"text": f"Step {n}.", "delay": f"{self.pause}s", "tool": name, "arguments": {"n": n}}
            for n, name in enumerate(self.calls)
        ]
        tools = [{"python": f"marked:{name}"} for name in NAMES]
        await self.place.agent("ten", [*turns, {"text": self.text}], tools=tools, **config)

    def hold(self, n: int) -> None:
        (self.place.folder / f"hold-{n}").touch()

    def let_go(self, n: int) -> None:
        (self.place.folder / f"hold-{n}").unlink()

    @property
    def marks(self) -> list[str]:
        return self.marks_file.read_text().splitlines() if self.marks_file.exists() else []

    def starts(self) -> Counter[str]:
        return Counter(line.removeprefix("start ") for line in self.marks if line.startswith("start "))

    async def started(self, n: int) -> None:
        async def look() -> bool:
            return f"start {self.calls[n]} {n}" in self.marks

        await until(look, f"the start of call {n}")

    async def killed_in(self, n: int, start: Start) -> UUID:
        """Submit a task, kill its worker inside its nth tool call, and return it with another worker alive."""
        self.hold(n)
        first = start("first")
        await first.says("worker.ready")
        task_id = await self.place.submit("ten")
        await self.started(n)
        second = start("second")
        await second.says("worker.ready")
        first.signal(signal.SIGKILL)
        await first.ends()
        self.let_go(n)
        return task_id

    async def asked(self) -> list[tuple[int, int]]:
        """Return (position, attempt) of every recorded model call."""
        return await self.place.rows(  # type: ignore[return-value]
            "SELECT position, attempt FROM runtime.journal WHERE kind = 'model' ORDER BY position"
        )


TEN = ["look", "put", "book", "look", "put", "book_plainly", "put", "look", "book", "put"]
TEN_WORK = {"count": 4, "put": [1, 4, 6, 9]}
