"""Tasks as anybody sees them, an agent's versions of its state, and who is at work."""

from __future__ import annotations

from uuid import UUID, uuid4

import pytest
import scene

from cirkelline.state import claims, snapshots, standing, tasks, wakeups, workers
from cirkelline.state.connection import Conn, Database
from cirkelline.state.snapshots import SnapshotNotFound
from cirkelline.state.submitting import TaskTypeRefused
from cirkelline.state.tasks import TaskNotFound


async def test_a_submitted_task_is_pending_and_as_it_was_put(conn: Conn) -> None:
    agent, identity = await scene.agent(conn, "helper"), uuid4()
    payload = {"input": {"deep": [1, "\x00", None]}, "n": 1.5}
    assert await tasks.submit(conn, agent_id=agent, payload=payload, task_type="errand", task_id=identity) == identity
    task = await tasks.get(conn, identity)
    assert (task.agent, task.task_type, task.status, task.priority) == ("helper", "errand", "pending", 0)
    assert task.payload == {"input": {"deep": [1, "\ufffd", None]}, "n": 1.5}
    assert (task.ended, task.adopted, task.attempt) == (False, False, 0)


@pytest.mark.parametrize("task_type", ["x" * 101, "a\x00b"])
async def test_a_task_type_that_fits_no_column_is_refused(conn: Conn, task_type: str) -> None:
    agent = await scene.agent(conn)
    with pytest.raises(TaskTypeRefused, match="at most 100"):
        await tasks.submit(conn, agent_id=agent, payload={}, task_type=task_type)


async def test_a_task_is_found_by_the_beginning_of_its_id(conn: Conn) -> None:
    agent = await scene.agent(conn)
    one, other = UUID(int=0xAB << 120), UUID(int=(0xAB << 120) + 1)
    for identity in (one, other):
        await tasks.submit(conn, agent_id=agent, payload={}, task_id=identity)
    for reference in (str(one), one.hex, f" {one.hex.upper()} "):
        assert await tasks.resolve(conn, reference) == one
    refused = {"ab": "more than one", "ffff": "no task's id starts", "": "is not a task id", "xyz": "is not a task id"}
    for reference, problem in {**refused, "a" * 33: "is not a task id", "-": "is not", "1٣": "is not"}.items():
        with pytest.raises(TaskNotFound, match=problem):
            await tasks.resolve(conn, reference)
    with pytest.raises(TaskNotFound, match="no task"):
        await tasks.get(conn, uuid4())


async def test_tasks_are_found_by_status_agent_and_session_newest_first(conn: Conn) -> None:
    one, two = await scene.agent(conn, "one"), await scene.agent(conn, "two")
    first, second = await scene.submit(conn, one, 2)
    (third,) = await scene.submit(conn, two)
    session = uuid4()
    in_session = await tasks.submit(conn, agent_id=two, payload={}, session_id=session)
    await tasks.cancel(conn, second)
    assert [task.id for task in await tasks.find(conn)] == [in_session, third, second, first]
    assert [task.id for task in await tasks.find(conn, status="cancelled")] == [second]
    assert [task.id for task in await tasks.find(conn, agent_id=one)] == [second, first]
    assert [task.id for task in await tasks.find(conn, session_id=session)] == [in_session]
    assert [task.id for task in await tasks.find(conn, limit=1)] == [in_session]
    await conn.execute("UPDATE runtime.tasks SET status = NULL WHERE id = %s", [first])
    assert await tasks.count_by_status(conn) == {"pending": 2, "cancelled": 1, "none": 1}


SAID = {
    "mail": "write to ivo@example.com now",
    "model": "use gemini-2.5-flash, it's best",
    "path": "look into /usr/local/bin/x.py and back\\slash",
    "world": "æøå Größe 東京 100% v1.2.3 https://example.com/a?b=c snake_case_name",
}


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("ivo@example.com", {"mail"}),
        ("ivo", {"mail"}),
        ("write now", {"mail"}),
        ("write gemini", set()),
        ("gemini-2.5-flash", {"model"}),
        ("gem fla", {"model"}),
        ("it's", {"model"}),
        ("/usr/local/bin/x.py", {"path"}),
        ("back\\slash", {"path"}),
        ("grö", {"world"}),
        ("東", {"world"}),
        ("v1.2", {"world"}),
        ("snake_case", {"world"}),
        ("example.com", {"world"}),
        ("errand", set(SAID)),
        ("", set()),
        ("'", set()),
        (":*&|!()", set()),
        ("\\", set()),
        ("\x00", set()),
    ],
)
async def test_tasks_are_found_by_the_beginnings_of_words_of_their_type_and_input(
    conn: Conn, words: str, found: set[str]
) -> None:
    agent = await scene.agent(conn)
    names = {}
    for name, said in SAID.items():
        payload = {"input": said, "hidden": "zebra"}
        names[await tasks.submit(conn, agent_id=agent, payload=payload, task_type="errand")] = name
    assert {names[task.id] for task in await tasks.search(conn, words)} == found
    assert await tasks.search(conn, "zebra") == []


async def test_inputs_of_any_shape_and_size_are_indexed_without_refusing_any(conn: Conn) -> None:
    agent = await scene.agent(conn)
    huge = " ".join(f"word{n}" for n in range(200_000))
    for payload in ({"input": huge}, {"input": {"nested": "pearl"}}, ["pearl"], "pearl", 7, None, {"other": "pearl"}):
        await tasks.submit(conn, agent_id=agent, payload=payload)
    assert len(await tasks.search(conn, "pearl")) == 4
    assert len(await tasks.search(conn, "word12")) == 1


# Snapshots ------------------------------------------------------------------------------------------------------------


async def three_versions(conn: Conn) -> UUID:
    agent, owner = await scene.agent(conn), await scene.worker(conn)
    await scene.submit(conn, agent, 3)
    for n, claim in enumerate(await claims.claim(conn, owner, [agent], slots=3)):
        await scene.finish(conn, owner, scene.ended(claim, operations=[{"op": "set", "key": "n", "value": n}]))
    return agent


async def test_snapshots_are_listed_newest_first_and_read_by_version(conn: Conn) -> None:
    agent = await three_versions(conn)
    assert [(each.version, each.state["work"]["n"]) for each in await snapshots.find(conn, agent)] == [
        (3, 2),
        (2, 1),
        (1, 0),
    ]
    assert [each.version for each in await snapshots.find(conn, agent, limit=1)] == [3]
    assert (await snapshots.get(conn, agent, 2)).state["work"] == {"n": 1}
    assert await snapshots.latest(conn, uuid4()) is None
    with pytest.raises(SnapshotNotFound, match="no state version 9"):
        await snapshots.get(conn, agent, 9)


async def test_a_rollback_is_a_new_version_with_old_work_and_todays_counters(conn: Conn) -> None:
    agent = await three_versions(conn)
    assert await snapshots.roll_back(conn, agent, 1) == 4
    latest = await snapshots.latest(conn, agent)
    assert latest is not None
    assert (latest.version, latest.state["work"], latest.state["stats"]["completed"]) == (4, {"n": 0}, 3)
    assert await scene.versions(conn, agent) == [1, 2, 3, 4]
    for strange in (9, -1, 2**31 - 1):
        with pytest.raises(SnapshotNotFound):
            await snapshots.roll_back(conn, agent, strange)
    with pytest.raises(SnapshotNotFound):
        await snapshots.roll_back(conn, uuid4(), 1)
    assert await scene.one(conn, "SELECT count(*) FROM runtime.agent_heads") == 1


# Workers --------------------------------------------------------------------------------------------------------------


async def test_workers_are_seen_with_what_they_hold_and_whether_they_live(conn: Conn) -> None:
    agent, owner = await scene.agent(conn), await scene.worker(conn)
    await scene.submit(conn, agent, 2)
    await claims.claim(conn, owner, [agent], slots=2)
    chat = uuid4()
    await workers.register(conn, chat, host="h", pid=2, release="1", slots=1, lease=3600, session=uuid4())
    first, second = await workers.find(conn)
    assert (first.id, first.running, first.alive, first.slots, first.session_id) == (owner, 2, True, 8, None)
    assert (second.id, second.running, second.session_id is not None) == (chat, 0, True)
    await scene.die(conn, owner)
    assert [worker.alive for worker in await workers.find(conn)] == [False, True]


async def test_a_chats_own_worker_and_one_that_drains_are_no_daemon_to_count_on(conn: Conn) -> None:
    assert not await workers.any_alive(conn)
    await workers.register(conn, uuid4(), host="h", pid=2, release="1", slots=1, lease=3600, session=uuid4())
    assert not await workers.any_alive(conn)
    owner = await scene.worker(conn)
    assert await workers.any_alive(conn)
    assert await workers.drain(conn, owner)
    assert not await workers.any_alive(conn)
    assert not await workers.drain(conn, uuid4())


async def test_where_a_task_stands_is_told_from_what_the_claim_looks_at(conn: Conn) -> None:
    agent, owner = await scene.agent(conn, cap=2), await scene.worker(conn)
    _, second, third = await scene.submit(conn, agent, 3)
    await scene.claim_one(conn, owner, agent)
    found = await standing.of(conn, third)
    assert found is not None
    assert (found.queued, found.later, found.ahead, found.cap, found.busy) == (True, False, 1, 2, 1)
    await conn.execute("UPDATE runtime.tasks SET run_at = now() + interval '1 day' WHERE id = %s", [second])
    later = await standing.of(conn, second)
    assert later is not None
    assert (later.later, later.run_at is not None) == (True, True)
    assert await standing.of(conn, uuid4()) is None


# Telling --------------------------------------------------------------------------------------------------------------


async def test_what_is_told_is_heard_and_what_is_too_long_is_left_out(
    db: Database, conn: Conn, database_url: str
) -> None:
    channel = wakeups.stream_channel(uuid4())
    async with wakeups.listening(database_url, [channel]) as listener:
        await wakeups.tell(conn, channel, {"text": "x" * 8000})
        await wakeups.tell(conn, channel, {"text": "é\x00"})
        ((heard_on, payload),) = await listener.wait(10)
        assert (heard_on, wakeups.heard(payload)) == (channel, {"text": "é\ufffd"})
        assert await listener.wait(0) == []
        await listener.listen("another")
        await conn.execute("SELECT pg_notify('another', '[]')")
        assert [wakeups.heard(payload) for _, payload in await listener.wait(10)] == [None]
    assert wakeups.heard("not JSON") is None
    async with db.connection() as other:
        await wakeups.tell(other, channel, {"nobody": "listens"})
