"""The journal keeps what its claim's holder writes: once, in order, and nothing of anybody else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

import pytest
import scene

from cirkelline.state import claims, journal, tasks, workers
from cirkelline.state.claims import Claim
from cirkelline.state.connection import Conn, Database
from cirkelline.state.journal import Fence, Step, Written

AGENT = "INSERT INTO runtime.agents (name, type, definition_version) VALUES ('tester', 'assistant', 1) RETURNING id"
HEAD = "INSERT INTO runtime.agent_heads (agent_id) VALUES (%s)"


@pytest.fixture
async def conn(db: Database) -> AsyncIterator[Conn]:
    async with db.connection() as conn:
        yield conn


async def worker(conn: Conn) -> UUID:
    identity = uuid4()
    await workers.register(conn, identity, host="here", pid=1, release="0", slots=8, lease=60.0)
    return identity


async def claimed(conn: Conn) -> tuple[Claim, Fence]:
    """Return a task that a worker of this test's has claimed."""
    row = await (await conn.execute(AGENT)).fetchone()
    assert row is not None
    await conn.execute(HEAD, [row[0]])
    await tasks.submit(conn, agent_id=row[0], payload={"input": "go"})
    owner = await worker(conn)
    (claim,) = await claims.claim(conn, owner, [row[0]], slots=1)
    return claim, Fence(owner, claim.id, claim.attempt)


def answer(position: int, text: str = "hello", **more: Any) -> Step:
    return Step(position=position, call=journal.ANSWER, kind="model", name="m", format=1, output={"text": text}, **more)


def used(position: int, call: int, output: dict[str, Any] | None, **more: Any) -> Step:
    return Step(position=position, call=call, kind="tool", name="pay", format=1, output=output, **more)


async def test_steps_are_read_back_as_they_were_written_in_the_order_of_the_run(conn: Conn) -> None:
    _, fence = await claimed(conn)
    second = used(1, 1, {"text": "b"}, error=True, operations=[{"op": "set", "key": "k", "value": [1.5], "at": 3}])
    first = answer(1, ms=120, input_tokens=7, output_tokens=2, cost=Decimal("0.0012"), input_hash=b"\x00\xff")
    assert await journal.write(conn, fence, [second, first]) is Written.WRITTEN
    found = await journal.read(conn, fence.task)
    assert [(step.position, step.call, step.output, step.error) for step in found] == [
        (1, -1, {"text": "hello"}, False),
        (1, 1, {"text": "b"}, True),
    ]
    assert found[1].operations == [{"op": "set", "key": "k", "value": [1.5], "at": 3}]
    assert (found[0].ms, found[0].input_tokens, found[0].output_tokens) == (120, 7, 2)
    assert (found[0].cost, found[0].input_hash, found[0].attempt) == (Decimal("0.0012"), b"\x00\xff", 1)


async def test_an_ended_step_is_never_replaced(conn: Conn) -> None:
    _, fence = await claimed(conn)
    await journal.write(conn, fence, [answer(1, "first")])
    assert await journal.write(conn, fence, [answer(1, "second")]) is Written.THERE
    assert (await journal.read(conn, fence.task))[0].output == {"text": "first"}


async def test_a_begun_step_is_completed_by_its_end(conn: Conn) -> None:
    _, fence = await claimed(conn)
    await journal.write(conn, fence, [used(1, 0, None)])
    (begun,) = await journal.read(conn, fence.task)
    assert not begun.ended
    assert await journal.write(conn, fence, [used(1, 0, {"text": "paid"}, ms=5)]) is Written.WRITTEN
    (ended,) = await journal.read(conn, fence.task)
    assert (ended.ended, ended.output, ended.ms) == (True, {"text": "paid"}, 5)


@pytest.mark.parametrize("stranger", ["another worker", "an earlier attempt", "a released claim", "a finished task"])
async def test_who_does_not_hold_the_claim_writes_nothing(conn: Conn, stranger: str) -> None:
    claim, fence = await claimed(conn)
    late = fence
    match stranger:
        case "another worker":
            late = Fence(await worker(conn), fence.task, fence.attempt)
        case "an earlier attempt":
            late = Fence(fence.worker, fence.task, fence.attempt - 1)
        case "a released claim":
            await claims.release(conn, fence.worker, [claim.id], reason="test")
        case _:
            done = claims.Finish(claim.id, claim.attempt, "completed", {"output": "x"})
            await claims.finish(conn, fence.worker, [done.as_json()], state_limit=65536)
    assert await journal.write(conn, late, [answer(1)]) is Written.LOST
    assert await journal.read(conn, fence.task) == []


async def test_a_claim_does_not_end_in_the_middle_of_a_write(db: Database, conn: Conn) -> None:
    claim, fence = await claimed(conn)
    async with db.connection() as other:
        async with conn.transaction():
            assert await journal.write(conn, fence, [answer(1)]) is Written.WRITTEN
            release = asyncio.create_task(claims.release(other, fence.worker, [claim.id], reason="test"))
            await waits_for_lock(db, conn)
            assert not release.done()
        assert await release == 1
    assert len(await journal.read(conn, fence.task)) == 1


async def waits_for_lock(db: Database, conn: Conn) -> None:
    blocked = "SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted AND transactionid IS NOT NULL)"
    async with db.connection() as watching:
        while not (await (await watching.execute(blocked)).fetchone() or [False])[0]:  # noqa: ASYNC110 - another session's lock
            await asyncio.sleep(0.01)
    assert not conn.closed


async def test_asking_a_worker_to_cancel_does_not_wait_for_a_step(db: Database, conn: Conn) -> None:
    claim, fence = await claimed(conn)
    async with db.connection() as other, conn.transaction():
        await journal.write(conn, fence, [answer(1)])
        assert await tasks.cancel(other, claim.id) == "asked"


async def test_a_step_that_cannot_be_stored_leaves_none_of_its_write(conn: Conn) -> None:
    _, fence = await claimed(conn)
    broken = used(1, 0, {"text": "x"}, ms=2**40)
    with pytest.raises(Exception, match="integer"):
        await journal.write(conn, fence, [answer(1), broken])
    assert await journal.read(conn, fence.task) == []


async def test_nul_and_lone_surrogates_do_not_keep_a_step_from_being_stored(conn: Conn) -> None:
    _, fence = await claimed(conn)
    await journal.write(conn, fence, [answer(1, "a\x00b\ud800c")])
    assert (await journal.read(conn, fence.task))[0].output == {"text": "a\ufffdb\ufffdc"}


@pytest.mark.parametrize("statement", ["DELETE FROM runtime.tasks", "TRUNCATE runtime.tasks"])
async def test_the_journal_goes_with_its_task(conn: Conn, statement: Any) -> None:
    _, fence = await claimed(conn)
    await journal.write(conn, fence, [answer(1)])
    await conn.execute(statement)
    assert await journal.read(conn, fence.task) == []


async def test_a_large_output_is_stored_compressed(conn: Conn) -> None:
    _, fence = await claimed(conn)
    await journal.write(conn, fence, [answer(1, "the same sentence again. " * 4000)])
    row = await (await conn.execute("SELECT pg_column_size(output) FROM runtime.journal")).fetchone()
    assert row is not None
    assert row[0] < 10_000


async def taken_over(conn: Conn, owner: UUID) -> None:
    await conn.execute("UPDATE runtime.workers SET seen = now() - interval '1 hour' WHERE id = %s", [owner])
    await claims.take_over(conn)
    await scene.time_passes(conn)


@pytest.mark.parametrize(("steps", "status"), [(True, "pending"), (False, "waiting")])
async def test_only_workers_that_died_without_a_new_step_speak_against_a_task(
    conn: Conn, steps: bool, status: str
) -> None:
    claim, fence = await claimed(conn)
    for position in range(1, claims.DEATHS_ALLOWED + 2):
        if steps:
            assert await journal.write(conn, fence, [answer(position)]) is Written.WRITTEN
        await taken_over(conn, fence.worker)
        owner = await worker(conn)
        again = await claims.claim(conn, owner, [claim.agent_id], slots=1)
        if not again:
            break
        fence = Fence(owner, claim.id, again[0].attempt)
        if position == claims.DEATHS_ALLOWED + 1:
            await claims.release(conn, owner, [claim.id], reason="test")
    task = await tasks.get(conn, claim.id)
    assert (task.status, task.deaths) == (status, 1 if steps else claims.DEATHS_ALLOWED)


async def test_the_last_steps_are_written_with_the_end_of_their_task_or_not_at_all(conn: Conn) -> None:
    claim, fence = await claimed(conn)
    last = Step(position=1, call=-1, kind="model", name="m", format=1, output={"in_result": True})
    end = claims.Finish(claim.id, claim.attempt, "completed", {"output": "the end"}, steps=[last])
    stranger = await worker(conn)
    assert await claims.finish(conn, stranger, [end.as_json()], state_limit=65536) == []
    assert await journal.read(conn, claim.id) == []
    await claims.finish(conn, fence.worker, [end.as_json()], state_limit=65536)
    (found,) = await journal.read(conn, claim.id)
    assert found.output == {"text": "the end"}


async def test_a_run_whose_state_is_refused_keeps_the_answer_it_paid_for_in_its_own_words(conn: Conn) -> None:
    claim, fence = await claimed(conn)
    bad = [{"op": "increment", "key": "n", "value": 1}, {"op": "append", "key": "n", "value": 1}]
    last = replace(answer(1), output={"in_result": True})
    end = claims.Finish(claim.id, claim.attempt, "completed", {"output": "x"}, operations=bad, steps=[last])
    (finished,) = await claims.finish(conn, fence.worker, [end.as_json()], state_limit=65536)
    assert finished.status == "failed"
    assert [step.output for step in await journal.read(conn, claim.id)] == [{"text": "x"}]
