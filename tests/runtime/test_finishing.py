"""Ended runs reach the database in batches; what cannot be stored fails alone, and in writing."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import UUID, uuid4

import pytest
from workplace import Workplace, until

from cirkelline.runtime.finishing import Finishing
from cirkelline.state import claims, workers
from cirkelline.state.claims import Claim, Finish, Finished

AMOUNT = 40


async def register(place: Workplace) -> UUID:
    worker = uuid4()
    async with place.db.connection() as conn:
        await workers.register(conn, worker, host="here", pid=1, release="0", slots=AMOUNT, lease=3600)
    return worker


async def claim(place: Workplace, worker: UUID, amount: int) -> list[Claim]:
    agent = await place.agent("helper", [{"text": "unused"}])
    await place.submit_many("helper", amount)
    async with place.db.connection() as conn:
        return await claims.claim(conn, worker, [agent], slots=amount)


def completed(claimed: Claim, output: Any = "fine", **facts: Any) -> Finish:
    return Finish(claimed.id, claimed.attempt, "completed", {"output": output}, **facts)


@pytest.fixture
async def finishing(place: Workplace) -> Any:
    async with Finishing(place.db, state_limit=65536) as finishing:
        yield finishing


ENDLESS: list[Any] = []
ENDLESS.append(ENDLESS)

POISON: dict[str, dict[str, Any]] = {
    "an increment of a text": {"operations": [{"op": "increment", "key": "name", "value": 1}]},
    "an append to a text": {"operations": [{"op": "append", "key": "name", "value": 1}]},
    "a state over its limit": {"operations": [{"op": "set", "key": "big", "value": "x" * 70_000}]},
    "an operation nobody knows": {"operations": [{"op": "explode", "key": "name", "value": 1}]},
    "a result that is not JSON": {"output": object()},
    "a number no database holds": {"output": 10**5000},
    "a result that contains itself": {"output": ENDLESS},
    "a result a trigger refuses": {"output": "poison"},
}


@pytest.mark.parametrize("poison", POISON)
async def test_one_poisonous_run_in_a_full_batch_fails_in_writing_and_the_others_complete(
    place: Workplace, finishing: Finishing, poison: str
) -> None:
    await place.execute(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'no poison here'; END $$"
    )
    await place.execute(
        "CREATE TRIGGER refuse BEFORE UPDATE ON runtime.tasks FOR EACH ROW"
        " WHEN (NEW.result ->> 'output' = 'poison') EXECUTE FUNCTION refuse()"
    )
    worker = await register(place)
    first, *others = await claim(place, worker, AMOUNT)
    bad, *good = others
    name = {"op": "set", "key": "name", "value": "Ivo"}
    # All at once: the first makes the first flush, all the others together the second one.
    written = await asyncio.gather(
        finishing.write(worker, completed(first, operations=[name])),
        *(finishing.write(worker, completed(each, operations=[name])) for each in good[:20]),
        finishing.write(worker, completed(bad, **POISON[poison])),
        *(finishing.write(worker, completed(each)) for each in good[20:]),
    )
    assert all(written)
    (failed,) = await place.rows("SELECT status, result, error FROM runtime.tasks WHERE id = %s", bad.id)
    assert failed[0] == "failed"
    assert failed[1]["error"]["type"] in {"StateRefused", "ResultRefused"}
    assert failed[1]["error"]["message"] == failed[2] != ""
    assert await place.value("SELECT count(*) FROM runtime.tasks WHERE status = 'completed'") == AMOUNT - 1
    assert await place.value("SELECT array_agg(version ORDER BY version) FROM runtime.agent_states") == [
        *range(1, AMOUNT + 1)
    ]
    newest = await place.value("SELECT state FROM runtime.agent_states ORDER BY version DESC LIMIT 1")
    assert newest["work"] == {"name": "Ivo"}
    assert (newest["stats"]["completed"], newest["stats"]["failed"]) == (AMOUNT - 1, 1)


@pytest.mark.parametrize(("given", "kept"), [("a\x00b", "a\ufffdb"), ("a\ud800b", "a\ufffdb"), (float("nan"), None)])
async def test_what_jsonb_cannot_hold_is_cleaned_and_completes(
    place: Workplace, finishing: Finishing, given: Any, kept: Any
) -> None:
    worker = await register(place)
    first, second = await claim(place, worker, 2)
    operation = {"op": "set", "key": "k", "value": given}
    await asyncio.gather(
        finishing.write(worker, completed(first)),
        finishing.write(worker, completed(second, given, operations=[operation])),
    )
    assert await place.rows("SELECT status, result -> 'output' FROM runtime.tasks ORDER BY sequence") == [
        ("completed", "fine"),
        ("completed", kept),
    ]
    assert await place.value("SELECT state -> 'work' -> 'k' FROM runtime.agent_states WHERE version = 2") == kept


async def test_what_ends_during_a_flush_is_written_by_the_next_one_in_one_transaction(
    place: Workplace, finishing: Finishing
) -> None:
    worker = await register(place)
    claimed = await claim(place, worker, AMOUNT)
    await asyncio.gather(*(finishing.write(worker, completed(each)) for each in claimed))
    assert await place.value("SELECT count(DISTINCT xmin::text) FROM runtime.tasks") <= 2


async def test_a_run_that_was_lost_to_another_worker_changes_nothing(place: Workplace, finishing: Finishing) -> None:
    late = await register(place)
    (claimed,) = await claim(place, late, 1)
    await place.execute("UPDATE runtime.workers SET seen = seen - interval '2 hours' WHERE id = %s", late)
    async with place.db.connection() as conn:
        assert await claims.take_over(conn) == 1
    heir = await register(place)
    async with place.db.connection() as conn:
        (again,) = await claims.claim(conn, heir, [claimed.agent_id], slots=1)
    set_name = [{"op": "set", "key": "name", "value": "late"}]

    assert await finishing.write(late, completed(claimed, "too late", operations=set_name)) is None
    assert (await place.task(claimed.id)).status == "running"
    # Neither does an attempt that is over count for the worker that has the next one.
    assert await finishing.write(heir, completed(claimed, "too late", operations=set_name)) is None
    finished = await finishing.write(heir, completed(again, "in time"))
    assert finished == Finished(claimed.id, "completed", 1, None)
    assert await place.value("SELECT state -> 'work' FROM runtime.agent_states") == {}


async def test_a_flush_whose_connection_is_cut_is_tried_again_and_counts_once(
    place: Workplace, finishing: Finishing
) -> None:
    worker = await register(place)
    (claimed,) = await claim(place, worker, 1)
    async with place.db.connection() as conn:
        async with conn.transaction():  # holds the flush up, so that it can be cut in the middle
            await conn.execute("SELECT FROM runtime.tasks FOR UPDATE")
            writing = asyncio.create_task(finishing.write(worker, completed(claimed)))
            await until(lambda: waits_for_lock(conn), "the flush")
            await conn.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        assert await writing == Finished(claimed.id, "completed", 1, None)


async def waits_for_lock(conn: Any) -> bool:
    found = await conn.execute(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    )
    row = await found.fetchone()
    return bool(row and row[0])
