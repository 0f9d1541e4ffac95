"""What a transactional tool did is there exactly when its record is, whatever it, the database or other workers do."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest
from workplace import Workplace, until

from cirkelline.state.tasks import Task

TOOLS = """
import asyncio, pathlib, threading
from cirkelline.tools import tool

PLACE = pathlib.Path({place!r})

@tool(effects="transactional")
async def book(ctx: ToolContext, n: int) -> str:
    await ctx.connection.execute("INSERT INTO public.booked (n) VALUES (%s)", [n])
    ctx.state.append("booked", n)
    return f"booked {{n}}"

@tool(effects="transactional")
def book_plainly(ctx: ToolContext, n: int) -> str:
    ctx.connection.execute("INSERT INTO public.booked (n) VALUES (%s)", [n])
    ctx.state.append("booked", n)
    return f"booked {{n}} as {{ctx.connection.execute('SELECT current_user').fetchone()[0]}}"

@tool(effects="transactional")
def book_and_fail(ctx: ToolContext, n: int) -> str:
    ctx.connection.execute("INSERT INTO public.booked (n) VALUES (%s)", [n])
    ctx.state.append("booked", n)
    raise ValueError("no seats left")

@tool(effects="transactional")
def book_and_commit(ctx: ToolContext, n: int) -> str:
    ctx.connection.execute("INSERT INTO public.booked (n) VALUES (%s)", [n])
    ctx.connection.execute("COMMIT")
    return "booked"

@tool(effects="transactional")
def book_and_commit_politely(ctx: ToolContext, n: int) -> str:
    ctx.connection.execute("INSERT INTO public.booked (n) VALUES (%s)", [n])
    ctx.connection.commit()
    return "booked"

@tool(effects="transactional")
async def book_and_look_away(ctx: ToolContext, n: int) -> str:
    await ctx.connection.execute("INSERT INTO public.booked (n) VALUES (%s)", [n])
    try:
        await ctx.connection.execute("SELECT 1 / 0")
    except Exception:
        pass
    return "booked"

@tool(effects="transactional")
async def book_in_part(ctx: ToolContext, n: int) -> str:
    try:
        async with ctx.connection.transaction():
            await ctx.connection.execute("SELECT 1 / 0")
    except Exception:
        pass
    await ctx.connection.execute("INSERT INTO public.booked (n) VALUES (%s)", [n])
    return "booked"

@tool(effects="transactional", timeout=0.3)
def book_slowly(ctx: ToolContext, n: int) -> str:
    ctx.connection.execute("INSERT INTO public.booked (n) VALUES (%s)", [n])
    ctx.connection.execute("SELECT pg_sleep(60)")
    return "booked"

@tool(effects="transactional")
async def book_when_let(ctx: ToolContext, n: int) -> str:
    await ctx.connection.execute("INSERT INTO public.booked (n) VALUES (%s)", [n])
    (PLACE / "booking").touch()
    while not (PLACE / "let").exists():
        await asyncio.sleep(0.01)
    return "booked"

@tool(effects="transactional")
async def add_one(ctx: ToolContext, n: int) -> str:
    await ctx.connection.execute("SET TRANSACTION ISOLATION LEVEL SERIALIZABLE")
    row = await (await ctx.connection.execute("SELECT sum(n) FROM public.booked")).fetchone()
    ctx.state.increment("calls")
    await asyncio.sleep(0.05)
    await ctx.connection.execute("INSERT INTO public.booked (n) VALUES (%s)", [(row[0] or 0) + 1])
    return "added"

@tool(effects="transactional")
def leave_things_set(ctx: ToolContext, n: int) -> str:
    found = ctx.connection.execute("SHOW statement_timeout").fetchone()[0]
    ctx.connection.execute("SET statement_timeout = '77s'")
    ctx.connection.execute("CREATE TEMP TABLE IF NOT EXISTS mine (n INTEGER)")
    return found

@tool(effects="read")
def reach_out(ctx: ToolContext, n: int) -> str:
    return str(ctx.connection)
"""


@pytest.fixture
async def booking(place: Workplace) -> Workplace:
    place.tool("booking", TOOLS.format(place=str(place.folder)))
    await place.execute("CREATE TABLE public.booked (n INTEGER)")
    return place


async def ask(place: Workplace, *names: str) -> Task:
    """Let an agent call these tools one after the other, and return its ended task."""
    turns: list[dict[str, Any]] = [{"tool": name, "arguments": {"n": n}} for n, name in enumerate(names, 1)]
    tools = [{"python": f"booking:{name}"} for name in sorted(set(names))]
    await place.agent("clerk", [*turns, {"text": "{{last_tool}}"}], tools=tools)
    async with place.working():
        (task,) = await place.ended(await place.submit("clerk"))
    return task


async def booked(place: Workplace) -> list[int]:
    return [row[0] for row in await place.rows("SELECT n FROM public.booked ORDER BY n")]


async def work(place: Workplace) -> Any:
    return await place.value("SELECT state -> 'work' FROM runtime.agent_states ORDER BY version DESC LIMIT 1")


@pytest.mark.parametrize("name", ["book", "book_plainly"])
async def test_what_the_tool_did_is_committed_with_its_record(booking: Workplace, name: str) -> None:
    task = await ask(booking, name, name)
    assert task.status == "completed"
    assert await booked(booking) == [1, 2]
    assert await work(booking) == {"booked": [1, 2]}
    # One transaction wrote both: PostgreSQL says so.
    same = "SELECT count(*) FROM public.booked b JOIN runtime.journal j ON b.xmin = j.xmin WHERE j.kind = 'tool'"
    assert await booking.value(same) == 2


async def test_a_tool_that_raises_has_done_nothing_and_the_model_hears_of_it(booking: Workplace) -> None:
    task = await ask(booking, "book_and_fail")
    assert task.result["output"] == "error: ValueError: no seats left"
    assert await booked(booking) == []
    assert await work(booking) == {}


@pytest.mark.parametrize("name", ["book_and_commit", "book_and_look_away"])
async def test_a_transaction_that_is_not_whole_is_never_taken_for_done(booking: Workplace, name: str) -> None:
    task = await ask(booking, name)
    if name == "book_and_look_away":
        assert "a statement of the tool failed and it went on" in task.result["output"]
        assert await booked(booking) == []
        return
    assert (task.status, task.result["error"]["type"]) == ("failed", "LeftTransaction")
    assert "COMMIT" in str(task.error)
    await booking.execute("UPDATE runtime.tasks SET status = 'pending' WHERE id = %s", task.id)
    async with booking.working():
        await booking.becomes("waiting", "SELECT status FROM runtime.tasks WHERE id = %s", task.id)
    assert [question.kind for question in await booking.waiting(task.id)] == ["outcome"]
    assert await booked(booking) == [1]


async def test_psycopgs_own_commit_is_refused_inside_a_tool(booking: Workplace) -> None:
    task = await ask(booking, "book_and_commit_politely")
    assert "Explicit commit() forbidden" in task.result["output"]
    assert await booked(booking) == []


async def test_a_statement_may_fail_inside_a_savepoint(booking: Workplace) -> None:
    assert (await ask(booking, "book_in_part")).result["output"] == "booked"
    assert await booked(booking) == [1]


async def test_a_tool_that_is_given_up_on_cannot_commit_later(booking: Workplace) -> None:
    task = await ask(booking, "book_slowly")
    assert "took longer than" in task.result["output"]
    assert await booked(booking) == []
    sleeping = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'cirkelline tool%%' AND datname = current_database()"
    await booking.becomes(0, sleeping)


async def test_a_worker_that_lost_its_task_commits_nothing(booking: Workplace) -> None:
    await booking.agent("clerk", [{"tool": "book_when_let", "arguments": {"n": 1}}, {"text": "end"}],
                        tools=[{"python": "booking:book_when_let"}])  # fmt: skip
    async with booking.working():
        task_id = await booking.submit("clerk")

        async def look() -> bool:
            return (booking.folder / "booking").exists()

        await until(look, "the tool to begin")
        await booking.execute("UPDATE runtime.claims SET worker = gen_random_uuid(), attempt = 99")
        (booking.folder / "let").touch()
        async with booking.db.connection():
            await booking.becomes(0, "SELECT count(*) FROM pg_stat_activity WHERE state LIKE 'idle in%%'"
                                     " AND application_name LIKE 'cirkelline tool%%' AND datname = current_database()")  # fmt: skip
        assert await booked(booking) == []
        assert await booking.value("SELECT count(*) FROM runtime.journal WHERE kind = 'tool'") == 0
        assert (await booking.task(task_id)).status == "running"
        await booking.execute("DELETE FROM runtime.claims")


async def test_transactions_that_collide_are_tried_again_before_the_model_hears_of_it(booking: Workplace) -> None:
    await booking.agent("clerk", [{"tool": "add_one", "arguments": {"n": 0}}, {"text": "{{last_tool}}"}],
                        tools=[{"python": "booking:add_one"}])  # fmt: skip
    async with booking.working():
        ended = await booking.ended(*[await booking.submit("clerk") for _ in range(4)])
    assert [task.result["output"] for task in ended] == ["added"] * 4
    assert await booked(booking) == [1, 2, 4, 8]
    assert await work(booking) == {"calls": 4}


async def test_nothing_that_a_tool_sets_on_its_connection_meets_the_next_one(booking: Workplace) -> None:
    task = await ask(booking, "leave_things_set", "leave_things_set")
    assert task.result["output"] == "0"


async def test_other_tools_have_no_connection_and_are_told_so(booking: Workplace) -> None:
    assert 'marked @tool(effects="transactional")' in (await ask(booking, "reach_out")).result["output"]


async def test_tools_work_under_the_declared_role_and_their_record_does_not(booking: Workplace) -> None:
    role = f"tool_writer_{uuid4().hex[:8]}"
    await booking.execute(f"CREATE ROLE {role}")  # type: ignore[arg-type]
    try:
        await booking.execute(f"GRANT INSERT ON public.booked TO {role}")  # type: ignore[arg-type]
        booking.opened = type(booking.opened)(
            booking.settings.model_copy(update={"tool_role": role}),
            booking.db,
            booking.db.url,
            embedded=False,
            fresh=False,
        )
        task = await ask(booking, "book_plainly")
        assert task.result["output"] == f"booked 1 as {role}"
        assert await booked(booking) == [1]
        await booking.execute(f"REVOKE INSERT ON public.booked FROM {role}")  # type: ignore[arg-type]
        (refused,) = [await ask(booking, "book_plainly")]
        assert "permission denied for table booked" in refused.result["output"]
    finally:
        await booking.execute(f"DROP OWNED BY {role}")  # type: ignore[arg-type]
        await booking.execute(f"DROP ROLE {role}")  # type: ignore[arg-type]


async def test_a_role_that_cannot_be_taken_fails_the_run_and_says_what_to_do(booking: Workplace) -> None:
    booking.opened = type(booking.opened)(
        booking.settings.model_copy(update={"tool_role": "nobody_here"}),
        booking.db,
        booking.db.url,
        embedded=False,
        fresh=False,
    )
    task = await ask(booking, "book")
    assert task.result["error"]["type"] == "RoleUnusable"
    assert 'role "nobody_here" does not exist' in str(task.error)
