"""Finishing: result, status, snapshot and messages together, once, and by nobody but the task's owner."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
import scene

from cirkelline.state import agents, claims, snapshots, tasks, tenant, users
from cirkelline.state import sessions as conversations
from cirkelline.state.claims import Claim
from cirkelline.state.connection import Conn, Database


async def running(conn: Conn, name: str = "tester") -> tuple[UUID, UUID, Claim]:
    """An agent, a worker, and a task of the one that the other runs."""
    agent, owner = await scene.agent(conn, name), await scene.worker(conn)
    await scene.submit(conn, agent)
    return agent, owner, await scene.claim_one(conn, owner, agent)


def op(name: str, key: str, value: Any = None) -> dict[str, Any]:
    return {"op": name, "key": key, "value": value}


async def test_a_finish_writes_the_task_the_snapshot_and_frees_the_claim(conn: Conn) -> None:
    agent, owner, claim = await running(conn)
    run = scene.ended(claim, operations=[op("set", "k", [1])], tokens=7, result={"output": "yes"})
    (finished,) = await scene.finish(conn, owner, run)
    assert finished == claims.Finished(claim.id, "completed", 1, None)
    task = await tasks.get(conn, claim.id)
    assert (task.status, task.result, task.state_version, task.error) == ("completed", {"output": "yes"}, 1, None)
    assert task.completed_at is not None
    assert task.finished_at is not None
    snapshot = await snapshots.latest(conn, agent)
    assert snapshot is not None
    stats = {"completed": 1, "tokens": 7, "last_task": str(claim.id)}
    assert (snapshot.version, snapshot.state) == (1, {"work": {"k": [1]}, "stats": stats})
    assert await scene.rows(conn, "SELECT task_id FROM runtime.claims") == []


async def test_a_failed_run_leaves_the_next_version_with_the_work_unchanged(conn: Conn) -> None:
    agent, owner, claim = await running(conn)
    await scene.finish(conn, owner, scene.ended(claim, operations=[op("set", "k", 1)]))
    await scene.submit(conn, agent)
    claim = await scene.claim_one(conn, owner, agent)
    run = scene.ended(claim, "failed", operations=[op("set", "k", 2)], result={"error": {"type": "T", "message": "m"}})
    (finished,) = await scene.finish(conn, owner, run)
    assert (finished.status, finished.state_version, finished.error) == ("failed", 2, "failed")
    assert await scene.work(conn, agent) == {"k": 1}
    latest = await snapshots.latest(conn, agent)
    assert latest is not None
    assert (latest.state["stats"]["completed"], latest.state["stats"]["failed"]) == (1, 1)


async def test_a_cancelled_run_leaves_no_version(conn: Conn) -> None:
    agent, owner, claim = await running(conn)
    (finished,) = await scene.finish(conn, owner, scene.ended(claim, "cancelled", operations=[op("set", "k", 2)]))
    assert (finished.status, finished.state_version) == ("cancelled", None)
    assert await scene.versions(conn, agent) == []
    await scene.submit(conn, agent)
    (finished,) = await scene.finish(conn, owner, scene.ended(await scene.claim_one(conn, owner, agent)))
    assert finished.state_version == 1


# The fence ----------------------------------------------------------------------------------------------------------


async def everything(conn: Conn) -> list[Any]:
    tables = ("tasks", "agent_states", "agent_heads", "claims", "queue", "messages")
    return [await scene.rows(conn, f"SELECT * FROM runtime.{table} t ORDER BY t::text") for table in tables]


async def test_finishing_twice_changes_nothing(conn: Conn) -> None:
    _, owner, claim = await running(conn)
    run = scene.ended(claim, operations=[op("increment", "n", 1)])
    await scene.finish(conn, owner, run)
    before = await everything(conn)
    assert await scene.finish(conn, owner, run) == []
    assert await everything(conn) == before


async def test_the_same_run_twice_in_one_batch_counts_once(conn: Conn) -> None:
    agent, owner, claim = await running(conn)
    run = scene.ended(claim, operations=[op("increment", "n", 1)])
    assert len(await scene.finish(conn, owner, run, run)) == 1
    assert (await scene.versions(conn, agent), await scene.work(conn, agent)) == ([1], {"n": 1})


async def test_a_worker_that_lost_its_task_changes_nothing(conn: Conn) -> None:
    agent, late, claim = await running(conn)
    await scene.die(conn, late)
    assert await claims.take_over(conn) == 1
    owner = await scene.worker(conn)
    again = await scene.claim_one(conn, owner, agent)
    before = await everything(conn)
    for stranger in (late, owner, uuid4()):  # also the right worker with the earlier attempt
        assert await scene.finish(conn, stranger, scene.ended(claim)) == []
    assert await scene.finish(conn, late, scene.ended(again)) == []
    assert await everything(conn) == before
    assert len(await scene.finish(conn, owner, scene.ended(again))) == 1


@pytest.mark.parametrize("theirs", ["completed", "cancelled", "pending", None, "theirs"])
async def test_what_somebody_else_made_of_a_running_task_stays(conn: Conn, theirs: str | None) -> None:
    agent, owner, claim = await running(conn)
    await conn.execute("""UPDATE runtime.tasks SET status = %s, result = '"theirs"'""", [theirs])
    assert await scene.finish(conn, owner, scene.ended(claim)) == []
    assert await scene.one(conn, "SELECT status, result FROM runtime.tasks") == (theirs, "theirs")
    assert await scene.versions(conn, agent) == []
    assert await scene.rows(conn, "SELECT task_id FROM runtime.claims") == []


@pytest.mark.parametrize("removal", ["DELETE FROM runtime.tasks", "TRUNCATE runtime.tasks"])
async def test_a_running_task_that_somebody_removes_is_gone_and_the_rest_of_the_batch_is_not(
    conn: Conn, removal: str
) -> None:
    agent, owner, claim = await running(conn)
    await conn.execute(removal)  # type: ignore[call-overload]
    await scene.submit(conn, agent)
    other = await scene.claim_one(conn, owner, agent)
    (finished,) = await scene.finish(conn, owner, scene.ended(claim), scene.ended(other))
    assert finished.id == other.id
    assert await scene.rows(conn, "SELECT task_id FROM runtime.claims") == []


async def test_a_run_whose_agent_is_gone_ends_without_a_snapshot(conn: Conn) -> None:
    _, owner, claim = await running(conn)
    await conn.execute("UPDATE runtime.tasks SET agent_id = NULL")
    await conn.execute("DELETE FROM runtime.agents")
    (finished,) = await scene.finish(conn, owner, scene.ended(claim))
    assert (finished.status, finished.state_version) == ("completed", None)


# Versions -------------------------------------------------------------------------------------------------------------


async def test_versions_have_no_gap_and_nothing_is_lost_under_eight_finishers_of_the_same_agents(
    database_url: str,
) -> None:
    finishers, batches, amount = 8, 6, 5
    async with Database.open(database_url, connections=finishers) as db:
        async with db.connection() as conn:
            made = [await scene.agent(conn, f"a{n}") for n in range(4)]
            for agent in made:
                await scene.submit(conn, agent, finishers * batches * amount // len(made))

        async def work(number: int) -> None:
            async with db.connection() as conn:
                owner = await scene.worker(conn)
                for batch in range(batches):
                    taken = await claims.claim(conn, owner, made, slots=amount)
                    # Each finisher names the agents in another order: locks must be taken in one order all the same.
                    taken = sorted(taken, key=lambda claim: hash((claim.agent_id, number, batch)))
                    operations = [op("increment", "n", 1), op("append", "who", f"{number}.{batch}")]
                    runs = [scene.ended(claim, operations=operations) for claim in taken]
                    assert len(await scene.finish(conn, owner, *runs)) == len(taken)

        async with asyncio.TaskGroup() as group:
            for number in range(finishers):
                group.create_task(work(number))
        async with db.connection() as conn:
            assert await scene.rows(conn, "SELECT DISTINCT status FROM runtime.tasks") == ["completed"]
            for agent in made:
                each = finishers * batches * amount // len(made)
                assert await scene.versions(conn, agent) == list(range(1, each + 1))
                kept = await scene.work(conn, agent)
                assert (kept["n"], len(kept["who"])) == (each, each)
                written = "SELECT state_version FROM runtime.tasks WHERE agent_id = %s ORDER BY 1"
                assert await scene.rows(conn, written, agent) == list(range(1, each + 1))


async def test_the_state_goes_on_from_somebody_elses_snapshot(conn: Conn) -> None:
    agent, owner, claim = await running(conn)
    insert = "INSERT INTO runtime.agent_states (agent_id, state, version) VALUES (%s, %s::jsonb, %s)"
    await conn.execute(insert, [agent, '{"mood": "good", "n": 4}', 41])
    await conn.execute(insert, [agent, '{"mood": "unnumbered"}', None])
    (finished,) = await scene.finish(conn, owner, scene.ended(claim, operations=[op("increment", "n", 1)]))
    assert finished.state_version == 42
    assert await scene.work(conn, agent) == {"mood": "good", "n": 5}


async def test_versions_go_on_after_somebody_empties_the_states(conn: Conn) -> None:
    agent, owner, claim = await running(conn)
    await scene.finish(conn, owner, scene.ended(claim, operations=[op("set", "k", 1)]))
    await conn.execute("TRUNCATE runtime.agent_states")
    await scene.submit(conn, agent)
    (finished,) = await scene.finish(conn, owner, scene.ended(await scene.claim_one(conn, owner, agent)))
    assert finished.state_version == 2
    assert await scene.work(conn, agent) == {}


async def test_the_greatest_version_there_can_be_stops_nobody(conn: Conn) -> None:
    agent, owner, claim = await running(conn)
    insert = "INSERT INTO runtime.agent_states (agent_id, state, version) VALUES (%s, '{}', 2147483647)"
    await conn.execute(insert, [agent])
    (finished,) = await scene.finish(conn, owner, scene.ended(claim))
    assert (finished.status, finished.state_version) == ("completed", 2147483647)
    assert await snapshots.roll_back(conn, agent, 2147483647) == 2147483647


@pytest.mark.parametrize(
    ("theirs", "kept"),
    [
        ('{"work": {"a": 1}, "stats": {"completed": "many", "tokens": [1], "failed": 2}}', {"a": 1}),
        ('{"work": {"a": 1}, "stats": "none"}', {"a": 1}),
        ('{"work": "hard", "b": 2}', {"work": "hard", "b": 2}),
        ('["a", "list"]', {}),
        ('"text"', {}),
        ("null", {}),
        ("7", {}),
        ("{}", {}),
    ],
)
async def test_a_state_of_any_shape_is_gone_on_from(conn: Conn, theirs: str, kept: Any) -> None:
    agent, owner, claim = await running(conn)
    await conn.execute(
        "INSERT INTO runtime.agent_states (agent_id, state, version) VALUES (%s, %s, 1)", [agent, theirs]
    )
    before = await snapshots.latest(conn, agent)
    assert before is not None
    assert before.state["work"] == kept
    (finished,) = await scene.finish(conn, owner, scene.ended(claim, operations=[op("set", "new", True)]))
    assert finished.status == "completed"
    assert await scene.work(conn, agent) == {**kept, "new": True}
    after = await snapshots.latest(conn, agent)
    assert after is not None
    assert after.state["stats"]["completed"] == 1


# What cannot be kept ------------------------------------------------------------------------------------------------

POISON = {
    "increment of text": [op("set", "k", "text"), op("increment", "k", 1)],
    "increment of null": [op("set", "k", None), op("increment", "k", 1)],
    "increment by text": [op("increment", "k", "1")],
    "increment by nothing": [op("increment", "k")],
    "numbers beyond numeric": [
        op("set", "k", int("9" * 4000)),
        *[op("increment", "k", int("9" * 4000))] * 2,
        op("nope", ""),
    ],
    "append to text": [op("set", "k", "text"), op("append", "k", 1)],
    "append to an object": [op("set", "k", {}), op("append", "k", 1)],
    "unknown operation": [op("swap", "k", 1)],
    "no operation": [{"key": "k"}],
    "no key": [{"op": "set", "value": 1}],
    "remove nothing named": [{"op": "remove"}],
    "not an operation": ["set", 1, None],
    "over the limit": [op("set", "k", "x" * 70000)],
}


@pytest.mark.parametrize("poison", POISON)
async def test_one_run_that_cannot_be_kept_fails_alone_and_in_writing(conn: Conn, poison: str) -> None:
    agent, owner = await scene.agent(conn), await scene.worker(conn)
    await scene.submit(conn, agent, 3)
    one, bad, two = await claims.claim(conn, owner, [agent], slots=3)
    good = [op("increment", "n", 1), op("append", "list", "x")]
    runs = [
        scene.ended(one, operations=good),
        scene.ended(bad, operations=POISON[poison]),
        scene.ended(two, operations=good),
    ]
    finished = {each.id: each for each in await scene.finish(conn, owner, *runs)}
    assert [finished[claim.id].status for claim in (one, bad, two)] == ["completed", "failed", "completed"]
    assert sorted(each.state_version or 0 for each in finished.values()) == [1, 2, 3]
    assert await scene.work(conn, agent) == {"n": 2, "list": ["x", "x"]}
    task = await tasks.get(conn, bad.id)
    assert task.result["error"]["type"] == "StateRefused"
    assert task.result["error"]["message"] == task.error == finished[bad.id].error


@pytest.mark.parametrize("operations", [None, {}, "set", 3])
async def test_operations_that_are_no_list_change_nothing(conn: Conn, operations: Any) -> None:
    agent, owner, claim = await running(conn)
    run = scene.ended(claim).replace('"operations": []', f'"operations": {__import__("json").dumps(operations)}')
    (finished,) = await scene.finish(conn, owner, run)
    assert finished.status == "completed"
    assert await scene.work(conn, agent) == {}


async def test_a_state_just_at_the_limit_is_kept_and_one_byte_more_is_not(conn: Conn) -> None:
    agent, owner = await scene.agent(conn), await scene.worker(conn)
    await scene.submit(conn, agent, 2)
    one, two = await claims.claim(conn, owner, [agent], slots=2)
    size = len('{"k": ""}')
    (finished,) = await scene.finish(
        conn, owner, scene.ended(one, operations=[op("set", "k", "x" * 91)]), limit=size + 91
    )
    assert finished.status == "completed"
    run = scene.ended(two, operations=[op("set", "k", "x" * 92)])
    (finished,) = await scene.finish(conn, owner, run, limit=size + 91)
    assert (finished.status, "over the limit of 100" in (finished.error or "")) == ("failed", True)


async def test_a_state_over_the_limit_already_may_shrink_and_stay_but_not_grow(conn: Conn) -> None:
    agent, owner = await scene.agent(conn), await scene.worker(conn)
    insert = "INSERT INTO runtime.agent_states (agent_id, state, version) VALUES (%s, jsonb_build_object('a', repeat('x', 500)), 1)"
    await conn.execute(insert, [agent])
    outcomes = []
    for operations in ([], [op("set", "b", 1)], [op("set", "a", "x" * 300)], [op("set", "b", 1)]):
        await scene.submit(conn, agent)
        run = scene.ended(await scene.claim_one(conn, owner, agent), operations=operations)
        outcomes.append((await scene.finish(conn, owner, run, limit=100))[0].status)
    assert outcomes == ["completed", "failed", "completed", "failed"]


async def test_what_jsonb_refuses_is_cleaned_before_it_is_sent(conn: Conn) -> None:
    agent, owner, claim = await running(conn)
    run = scene.ended(
        claim, operations=[op("set", "a\x00b", "c\ud800d")], result={"output": "e\x00f", "n": float("nan")}
    )
    (finished,) = await scene.finish(conn, owner, run)
    assert finished.status == "completed"
    assert await scene.work(conn, agent) == {"a\ufffdb": "c\ufffdd"}
    assert (await tasks.get(conn, claim.id)).result == {"output": "e\ufffdf", "n": None}


async def test_a_batch_that_the_database_refuses_changes_nothing_at_all(conn: Conn) -> None:
    agent, owner = await scene.agent(conn), await scene.worker(conn)
    await scene.submit(conn, agent, 2)
    one, two = await claims.claim(conn, owner, [agent], slots=2)
    before = await everything(conn)
    broken = scene.ended(two).replace('"attempt": 1', '"attempt": "x"')
    with pytest.raises(psycopg.DataError):
        await scene.finish(conn, owner, scene.ended(one), broken)
    assert await everything(conn) == before


# Messages -----------------------------------------------------------------------------------------------------------


async def test_a_turns_messages_are_appended_in_order_when_it_did_not_fail(db: Database, conn: Conn) -> None:
    agent, owner = await scene.agent(conn), await scene.worker(conn)
    user = await users.ensure(conn, "ivo")
    async with tenant.tenant(db, user.id) as door:
        session = await conversations.create(door, agent)
        for said in range(5):
            await conversations.submit_turn(door, session, {"input": str(said)})
    refused = [op("nope", "k")]
    for said, how, operations in (
        ("one", "completed", []),
        ("two", "failed", []),
        ("three", "cancelled", []),
        ("four", "completed", refused),
        ("five", "completed", []),
    ):
        claim = await scene.claim_one(conn, owner, agent)
        messages = [("user", said), ("assistant", f"{said}!")]
        await scene.finish(conn, owner, scene.ended(claim, how, operations=operations, messages=messages))  # type: ignore[arg-type]
    async with tenant.tenant(db, user.id) as door:
        kept = await conversations.messages(door, session)
    assert [message.content for message in kept] == ["one", "one!", "three", "three!", "five", "five!"]
    assert [message.role for message in kept] == ["user", "assistant"] * 3


async def test_messages_of_a_task_without_a_session_are_nowhere(conn: Conn) -> None:
    _, owner, claim = await running(conn)
    await scene.finish(conn, owner, scene.ended(claim, messages=[("user", "x")]))
    assert await scene.rows(conn, "SELECT content FROM runtime.messages") == []


# One round trip -----------------------------------------------------------------------------------------------------


async def test_one_round_trip_finishes_what_ended_and_claims_what_is_next(conn: Conn) -> None:
    agent, owner = await scene.agent(conn, cap=1), await scene.worker(conn)
    first, second = await scene.submit(conn, agent, 2)
    turned = await claims.finish_and_claim(conn, owner, [], [agent], slots=4, state_limit=scene.LIMIT)
    assert ([claim.id for claim in turned.claimed], turned.finished) == ([first], [])
    # The place of the one that ended is free for the next: the cap is one.
    run = scene.ended(turned.claimed[0])
    turned = await claims.finish_and_claim(conn, owner, [run], [agent], slots=4, state_limit=scene.LIMIT)
    assert turned.finished == [claims.Finished(first, "completed", 1, None)]
    assert [(claim.id, claim.payload, claim.attempt) for claim in turned.claimed] == [(second, {"input": "go"}, 1)]


async def test_a_round_trip_that_cannot_finish_claims_nothing_either(conn: Conn) -> None:
    agent, owner = await scene.agent(conn), await scene.worker(conn)
    await scene.submit(conn, agent, 2)
    claim = await scene.claim_one(conn, owner, agent)
    broken = scene.ended(claim).replace('"attempt": 1', '"attempt": "x"')
    with pytest.raises(psycopg.DataError):
        await claims.finish_and_claim(conn, owner, [broken], [agent], slots=4, state_limit=scene.LIMIT)
    assert await claims.held(conn, owner) == [claim.id]


async def test_an_agent_that_is_paused_meanwhile_still_gets_its_result(conn: Conn) -> None:
    agent, owner, claim = await running(conn)
    await agents.set_status(conn, agent, "paused")
    assert len(await scene.finish(conn, owner, scene.ended(claim))) == 1
