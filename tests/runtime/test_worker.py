"""What one worker does with tasks: claims no more than it can run, runs them, writes what came of it, goes on."""

from __future__ import annotations

import pytest
from workplace import Workplace

SAY = [{"text": "You said: {{input}}"}]


async def test_a_task_ends_with_its_result_and_a_snapshot(place: Workplace) -> None:
    await place.agent("parrot", SAY)
    async with place.working():
        (task,) = await place.ended(await place.submit("parrot", "good morning"))
    assert (task.status, task.state_version, task.attempt, task.definition_version) == ("completed", 1, 1, 1)
    assert task.result["output"] == "You said: good morning"
    state = await place.value("SELECT state FROM runtime.agent_states")
    assert state["stats"] == {"completed": 1, "tokens": state["stats"]["tokens"], "last_task": str(task.id)}


async def test_whatever_json_a_payload_is_reaches_the_agent(place: Workplace) -> None:
    agent = await place.agent("parrot", SAY)
    given = [
        ('\'{"input": {"city": "Aarhus"}}\'', '{\n  "city": "Aarhus"\n}'),
        ("'[1, 2]'", "[\n  1,\n  2\n]"),
        ("'\"only text\"'", "only text"),
        ("NULL", "digest"),
    ]
    for payload, _ in given:
        await place.execute(
            f"INSERT INTO runtime.tasks (agent_id, task_type, payload) VALUES (%s, 'digest', {payload})",
            agent,
        )
    async with place.working():
        await place.becomes(len(given), "SELECT count(*) FROM runtime.tasks WHERE status = 'completed'")
    outputs = [row[0] for row in await place.rows("SELECT result ->> 'output' FROM runtime.tasks ORDER BY sequence")]
    assert outputs == [f"You said: {text}" for _, text in given]


async def test_no_more_tasks_are_claimed_than_there_are_free_slots(place: Workplace) -> None:
    await place.agent("sleeper", [{"text": "done", "delay": "400ms"}])
    await place.submit_many("sleeper", 9)
    async with place.working(slots=3) as worker:
        most = 0
        while (done := await place.value("SELECT count(*) FROM runtime.tasks WHERE status = 'completed'")) < 9:
            held = await place.value("SELECT count(*) FROM runtime.claims")
            most = max(most, held)
            assert held <= 3
            assert worker.running <= 3
            assert done <= 9
        assert most == 3


async def test_a_run_that_breaks_fails_its_task_alone(place: Workplace) -> None:
    place.tool("bad", "def explode(ctx: ToolContext) -> str:\n    raise EndRun('the bank is closed')\n")
    await place.agent("parrot", SAY)
    await place.agent("banker", [{"tool": "explode"}, {"text": "never"}], tools=[{"python": "bad:explode"}])
    async with place.working():
        failed, fine = await place.ended(await place.submit("banker"), await place.submit("parrot"))
    assert (failed.status, failed.error) == ("failed", "the bank is closed")
    assert failed.result["error"] == {"type": "EndRun", "message": "the bank is closed"}
    assert fine.status == "completed"


async def test_a_task_that_cannot_even_begin_fails_and_the_worker_goes_on(place: Workplace) -> None:
    await place.agent("parrot", SAY)
    agent = await place.agent_id("parrot")
    # Somebody else's snapshot, of a shape that none of ours has.
    await place.execute(
        "CREATE OR REPLACE FUNCTION runtime.as_snapshot(state JSONB) RETURNS JSONB LANGUAGE sql AS $$ SELECT '[]'::jsonb $$"
    )
    await place.execute("INSERT INTO runtime.agent_states (agent_id, state, version) VALUES (%s, '[]', 1)", agent)
    async with place.working() as worker:
        (task,) = await place.ended(await place.submit("parrot"))
        assert task.status == "failed"
        assert worker.running == 0


async def test_a_worker_that_idles_is_woken_by_a_new_task_and_not_by_the_next_poll(place: Workplace) -> None:
    slow = place.settings.model_copy(update={"poll": 60.0})
    place.opened = type(place.opened)(slow, place.db, place.db.url, embedded=False, fresh=False)
    await place.agent("parrot", SAY)
    async with place.working():
        await place.becomes(True, "SELECT waiting FROM runtime.workers")
        (task,) = await place.ended(await place.submit("parrot"))
    assert task.status == "completed"


async def test_a_full_worker_does_not_ask_to_be_notified(place: Workplace) -> None:
    await place.agent("sleeper", [{"text": "done", "delay": "30s"}])
    await place.submit_many("sleeper", 2)
    async with place.working(slots=2):
        await place.becomes(2, "SELECT count(*) FROM runtime.claims")
        await place.becomes(False, "SELECT waiting FROM runtime.workers")


async def test_a_task_that_is_due_later_waits_until_then(place: Workplace) -> None:
    agent = await place.agent("parrot", SAY)
    await place.execute(
        "INSERT INTO runtime.tasks (agent_id, payload, run_at) VALUES (%s, '{}', clock_timestamp() + interval '1 second')",
        agent,
    )
    async with place.working():
        await place.becomes(1, "SELECT count(*) FROM runtime.tasks WHERE status = 'completed'")
    assert await place.value("SELECT started_at >= run_at FROM runtime.tasks")


async def test_a_worker_that_leaves_takes_its_row_along_and_gives_its_tasks_back(place: Workplace) -> None:
    await place.agent("sleeper", [{"text": "done", "delay": "30s"}])
    task_id = await place.submit("sleeper")
    async with place.working():
        await place.running(task_id)
    task = await place.task(task_id)
    assert (task.status, task.error) == ("pending", "its worker stopped")
    assert await place.value("SELECT count(*) FROM runtime.workers") == 0
    assert await place.value("SELECT count(*) FROM runtime.queue") == 1


CLAIMED_WITH = """
CREATE TABLE runtime.turns (task UUID, old TEXT, new TEXT, transaction BIGINT);
CREATE FUNCTION runtime.note_turn() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO runtime.turns VALUES (NEW.id, OLD.status, NEW.status, txid_current());
    RETURN NULL;
END $$;
CREATE TRIGGER noted AFTER UPDATE OF status ON runtime.tasks FOR EACH ROW EXECUTE FUNCTION runtime.note_turn()
"""


async def test_what_ends_and_what_is_claimed_in_its_place_is_one_transaction(place: Workplace) -> None:
    await place.agent("parrot", SAY)
    await place.execute(CLAIMED_WITH)
    await place.submit_many("parrot", 6)
    async with place.working(slots=1):
        await place.becomes(6, "SELECT count(*) FROM runtime.tasks WHERE status = 'completed'")
    both = """
    SELECT count(*) FROM runtime.turns ended JOIN runtime.turns begun USING (transaction)
     WHERE ended.new = 'completed' AND begun.new = 'running'
    """
    assert await place.value(both) == 5


async def test_a_worker_that_does_not_listen_finds_tasks_at_its_next_poll_and_asks_nobody_to_notify(
    place: Workplace,
) -> None:
    await place.agent("parrot", SAY)
    async with place.working(listen=False):
        await place.ended(await place.submit("parrot"))
        await place.ended(await place.submit("parrot"))
        assert await place.value("SELECT bool_or(waiting) FROM runtime.workers") is False
    listening = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'LISTEN%%' AND datname = current_database()"
    assert await place.value(listening) == 0


# What a crash of the server leaves of a claim that had not reached the disk.
UNCLAIM = """
WITH lost AS (DELETE FROM runtime.claims RETURNING task_id)
UPDATE runtime.tasks SET status = 'pending', attempt = NULL, worker = NULL, started_at = NULL WHERE id IN (SELECT task_id FROM lost)
"""


async def test_a_claim_that_a_crash_took_back_is_made_again_and_its_first_run_ends(
    place: Workplace, capsys: pytest.CaptureFixture[str]
) -> None:
    agent = await place.agent("slow", [{"text": "done", "delay": "1s"}])
    async with place.working() as worker:
        task_id = await place.submit("slow")
        await place.becomes(1, "SELECT count(*) FROM runtime.claims")
        await place.execute(UNCLAIM)
        await place.execute(
            "INSERT INTO runtime.queue (task_id, agent_id, priority, sequence) SELECT id, %s, 0, sequence FROM runtime.tasks"
            " ON CONFLICT DO NOTHING",
            agent,
        )
        worker._wake.set()
        (task,) = await place.ended(task_id)
        assert await place.value("SELECT count(*) FROM runtime.claims") == 0
    said = capsys.readouterr().out
    assert (task.status, task.attempt) == ("completed", 1)
    assert (said.count("task.claimed"), said.count("task.finished"), said.count("not_ours")) == (2, 1, 0)
