"""Usage is what was paid: no call is lost or counted twice, whatever becomes of the steps that it is read from."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any, LiteralString
from uuid import UUID

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg.rows import tuple_row

from cirkelline.state import connection, tasks, usage, users
from cirkelline.state.connection import Conn
from cirkelline.state.usage import By

AGENT = "INSERT INTO runtime.agents (name, type, handle) VALUES (%s, 'assistant', %s) RETURNING id"
STEP = """
INSERT INTO runtime.journal (task_id, position, call, attempt, format, kind, name, output, begun, input_tokens,
                             output_tokens, cost)
VALUES (%s, %s, %s, 1, 1, %s, %s, '{"text": "x"}', %s, %s, %s, %s)
"""
TODAY = datetime(2026, 3, 2, 23, 59, 30, tzinfo=UTC)
EVERYTHING = tuple(By)


async def agent(conn: Conn, name: str) -> UUID:
    row = await (await conn.execute(AGENT, [name, name])).fetchone()
    assert row is not None
    return UUID(str(row[0]))


async def paid(
    conn: Conn,
    task: UUID,
    position: int = 1,
    *,
    call: int = -1,
    model: str = "m",
    day: datetime = TODAY,
    tokens: tuple[int, int] = (10, 2),
    cost: Decimal | None = Decimal("0.5"),
) -> None:
    """Put a model call on record."""
    await conn.execute(STEP, [task, position, call, "model", model, day, *tokens, cost])


async def failed(conn: Conn, owner: UUID, user: UUID | None = None) -> UUID:
    task = await tasks.submit(conn, agent_id=owner, payload={}, user_id=user)
    await conn.execute("UPDATE runtime.tasks SET status = 'failed' WHERE id = %s", [task])
    return task


async def total(conn: Conn, *, since: date | None = None) -> tuple[int, int, int, Decimal, int] | None:
    found = await usage.find(conn, (), since=since)
    assert len(found) <= 1
    return next(((each.calls, each.input_tokens, each.output_tokens, each.cost, each.unpriced) for each in found), None)


async def test_what_was_never_paid_is_nothing(conn: Conn) -> None:
    assert await total(conn) is None


async def test_usage_is_added_up_by_day_agent_user_and_model_and_any_of_them(conn: Conn) -> None:
    owner = await agent(conn, "clerk")
    person = (await users.ensure(conn, "ivo")).id
    await paid(conn, await failed(conn, owner, person), cost=None)
    await paid(conn, await failed(conn, owner), model="n", day=TODAY + timedelta(minutes=1))
    found = await usage.find(conn, EVERYTHING)
    assert [(each.day, each.agent, each.user, each.model, each.calls) for each in found] == [
        (date(2026, 3, 2), "clerk", "ivo@localhost", "m", 1),
        (date(2026, 3, 3), "clerk", None, "n", 1),
    ]
    assert [(each.cost, each.unpriced) for each in found] == [(0, 1), (Decimal("0.5"), 0)]
    assert [(each.agent, each.day, each.calls) for each in await usage.find(conn, [By.AGENT])] == [("clerk", None, 2)]
    assert await total(conn, since=date(2026, 3, 3)) == (1, 10, 2, Decimal("0.5"), 0)


async def test_only_model_calls_are_counted_and_those_without_an_answer_too(conn: Conn) -> None:
    task = await failed(conn, await agent(conn, "clerk"))
    await conn.execute(STEP, [task, 1, 0, "tool", "pay", TODAY, None, None, None])
    await paid(conn, task, call=-2, tokens=(7, 0), cost=None)
    assert await total(conn) == (1, 7, 0, 0, 1)


REMOVALS: dict[str, LiteralString] = {
    "the task": "DELETE FROM runtime.tasks",
    "all tasks": "TRUNCATE runtime.tasks",
    "its steps": "DELETE FROM runtime.journal",
    "all steps": "TRUNCATE runtime.journal",
}


async def test_usage_stays_when_its_steps_are_removed_in_any_way(conn: Conn) -> None:
    owner = await agent(conn, "clerk")
    person = (await users.ensure(conn, "ivo")).id
    for number, (what, removal) in enumerate(REMOVALS.items(), 1):
        task = await failed(conn, owner, person)
        await paid(conn, task)
        await paid(conn, task, 2, cost=None)
        before = await usage.find(conn, EVERYTHING)
        await conn.execute(removal)
        assert await usage.find(conn, EVERYTHING) == before, what
        assert await total(conn) == (2 * number, 20 * number, 4 * number, number * Decimal("0.5"), number)


async def test_a_task_that_begins_again_has_paid_for_both_beginnings(conn: Conn) -> None:
    task = await failed(conn, await agent(conn, "clerk"))
    await paid(conn, task)
    await tasks.retry(conn, task, from_start=True)
    await paid(conn, task)
    assert await total(conn) == (2, 20, 4, Decimal("1.0"), 0)


async def test_who_is_gone_keeps_an_id_and_loses_the_name(conn: Conn) -> None:
    owner = await agent(conn, "clerk")
    person = (await users.ensure(conn, "ivo")).id
    await paid(conn, await failed(conn, owner, person))
    await conn.execute("DELETE FROM runtime.tasks")
    await conn.execute("DELETE FROM runtime.agents")
    await conn.execute("DELETE FROM runtime.users")
    (found,) = await usage.find(conn, EVERYTHING)
    assert (found.agent_id, found.agent, found.user_id, found.user) == (owner, None, person, None)


async def test_two_removals_at_once_do_not_wait_for_each_other_in_a_circle(conn: Conn, database_url: str) -> None:
    owner = await agent(conn, "clerk")
    sets = [[await failed(conn, owner) for _ in range(20)] for _ in range(2)]
    for many in sets:
        for number, task in enumerate(many):
            await paid(conn, task, model=f"m{number % 7}", day=TODAY - timedelta(days=number % 5))

    async def remove(many: list[UUID]) -> None:
        async with await connection.connect(database_url) as own:
            await own.execute("DELETE FROM runtime.tasks WHERE id = ANY (%s)", [many])

    await asyncio.gather(*map(remove, sets))
    assert await total(conn) == (40, 400, 80, Decimal("20.0"), 0)


async def test_a_step_that_is_being_written_while_its_task_is_removed_is_counted_or_never_paid_for(
    conn: Conn, database_url: str
) -> None:
    owner = await agent(conn, "clerk")
    task = await failed(conn, owner)
    claim = "INSERT INTO runtime.claims (task_id, agent_id, worker, attempt) VALUES (%s, %s, gen_random_uuid(), 1)"
    await conn.execute(claim + " RETURNING worker", [task, owner])
    steps = json.dumps(
        [{"position": 1, "call": -1, "kind": "model", "name": "m", "format": 1, "output": {"text": "x"}}]
    )
    write = "SELECT runtime.write_journal(c.worker, c.task_id, 1, %s::jsonb) FROM runtime.claims c"
    async with await connection.connect(database_url) as own:
        async with conn.transaction():
            assert await (await conn.execute(write, [steps])).fetchone() == ("written",)
            removing = asyncio.create_task(own.execute("DELETE FROM runtime.tasks"))
            blocked = "SELECT count(*) FROM pg_locks WHERE NOT granted AND pid = %s"
            while not (await (await conn.execute(blocked, [own.info.backend_pid])).fetchone() or [0])[0]:  # noqa: ASYNC110 - a lock
                await asyncio.sleep(0.01)
        await removing
    assert await total(conn) == (1, 0, 0, 0, 1)
    assert await (await conn.execute("SELECT count(*) FROM runtime.claims")).fetchone() == (0,)


@dataclass
class Books:
    """What a sequence of things has really cost, kept apart from the database."""

    spent: Counter[str] = field(default_factory=Counter[str])
    cost: Decimal = Decimal(0)

    def add(self, tokens: tuple[int, int], cost: Decimal | None) -> None:
        self.spent.update(calls=1, read=tokens[0], written=tokens[1], unpriced=int(cost is None))
        self.cost += cost or 0


COSTS = st.one_of(st.none(), st.decimals(0, 3, places=6, allow_nan=False))
TOKENS = st.tuples(st.integers(0, 5000), st.integers(0, 5000))
CALL = st.tuples(st.just("call"), st.integers(0, 3), st.sampled_from(["m", "n"]), st.integers(0, 3), TOKENS, COSTS)
OTHER = st.tuples(st.sampled_from(["retry", "again", "delete", "truncate", "forget"]), st.integers(0, 3))


@given(events=st.lists(st.one_of(CALL, CALL, CALL, OTHER), max_size=25))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_runs_ends_and_is_removed_usage_is_what_was_paid(database_url: str, events: list[Any]) -> None:
    asyncio.run(_play(database_url, events))


async def _play(database_url: str, events: list[Any]) -> None:
    async with await connection.connect(database_url) as conn:
        conn.row_factory = tuple_row
        for table in ("journal", "tasks", "agents", "usage_daily"):
            await conn.execute(f"DELETE FROM runtime.{table}")  # type: ignore[call-overload]
        owners = [await agent(conn, f"a{number}") for number in range(2)]
        all_tasks = [await failed(conn, owners[number % 2]) for number in range(4)]
        books, position = Books(), 0
        for what, at, *more in events:
            task = all_tasks[at]
            match what:
                case "call":
                    model, day, tokens, cost = more
                    position += 1
                    moment = TODAY - timedelta(days=day)
                    await paid(conn, task, position, model=model, day=moment, tokens=tokens, cost=cost)
                    books.add(tokens, cost)
                case "retry" | "again":
                    await conn.execute("UPDATE runtime.tasks SET status = 'failed' WHERE id = %s", [task])
                    await tasks.retry(conn, task, from_start=what == "again")
                case "forget":
                    await conn.execute("DELETE FROM runtime.journal WHERE task_id = %s", [task])
                case "delete":
                    await conn.execute("DELETE FROM runtime.tasks WHERE id = %s", [task])
                    all_tasks[at] = await failed(conn, owners[at % 2])
                case _:
                    await conn.execute("TRUNCATE runtime.tasks")
                    all_tasks = [await failed(conn, owners[number % 2]) for number in range(4)]
        spent = books.spent
        wanted = (spent["calls"], spent["read"], spent["written"], books.cost, spent["unpriced"])
        assert await total(conn) == (wanted if spent["calls"] else None)
        by_all = await usage.find(conn, EVERYTHING)
        assert sum(each.calls for each in by_all) == spent["calls"]
        assert all(each.agent in {"a0", "a1"} for each in by_all)
        again = await usage.find(conn, [By.DAY])
        assert sum(each.cost for each in again) == books.cost


async def test_recent_usage_is_found_without_reading_the_whole_journal(conn: Conn) -> None:
    task = await failed(conn, await agent(conn, "clerk"))
    await conn.execute(
        "INSERT INTO runtime.journal (task_id, position, call, attempt, format, kind, name, output, begun)"
        " SELECT %s, n, -1, 1, 1, 'model', 'm', '{\"text\": \"x\"}', %s - (60000 - n) * interval '1 minute'"
        "   FROM generate_series(1, 60000) n",
        [task, TODAY],
    )
    await conn.execute("ANALYZE runtime.journal")
    statement = "EXPLAIN (FORMAT JSON) " + usage.FIND
    row = await (await conn.execute(statement, {"by": ["day"], "since": date(2026, 3, 2)})).fetchone()  # type: ignore[call-overload]
    assert row is not None
    scans = [node for node in nodes(row[0][0]["Plan"]) if node.get("Relation Name") == "journal"]
    assert [node["Node Type"] for node in scans] == ["Bitmap Heap Scan"]


def nodes(plan: dict[str, Any]) -> list[dict[str, Any]]:
    return [plan, *(node for below in plan.get("Plans", []) for node in nodes(below))]
