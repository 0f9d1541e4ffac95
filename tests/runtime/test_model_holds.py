"""A model that fails for everybody costs no task an attempt: it is held, tried by one, and used again when it works."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from flaky_provider import Provider, serving
from workplace import Workplace

from cirkelline.state import standing
from cirkelline.state.connection import Database

ENVIRON = {"OPENAI_API_KEY": "sk-test-0123456789", "NO_PROXY": "*"}


@pytest.fixture
def place(db: Database, tmp_path: Path) -> Workplace:
    """A workplace whose held models are tried soon."""
    return Workplace(db, tmp_path, model_pause=0.1)


@pytest.fixture
async def provider(place: Workplace) -> AsyncIterator[Provider]:
    async with serving() as provider:
        model = {"use": "openai:m", "base_url": provider.base_url}
        await place.agent("caller", [], model=model)
        yield provider


async def completed(place: Workplace, amount: int) -> None:
    await place.becomes(amount, "SELECT count(*) FROM runtime.tasks WHERE status = 'completed'")


async def held(place: Workplace) -> tuple[bool, str]:
    await place.becomes(1, "SELECT count(*) FROM runtime.model_holds")
    ((refused, reason),) = await place.rows("SELECT refused, reason FROM runtime.model_holds")
    return refused, reason


async def test_hundreds_of_tasks_survive_429_then_401_then_500(place: Workplace, provider: Provider) -> None:
    amount = 200
    await place.submit_many("caller", amount)
    provider.status, provider.retry_after = 429, 0.2
    async with place.working(environ=ENVIRON), place.working(environ=ENVIRON):
        refused, reason = await held(place)
        assert (refused, "told to say 429" in reason) == (False, True)
        provider.status = 401
        await place.becomes(True, "SELECT coalesce(bool_or(refused), FALSE) FROM runtime.model_holds")
        provider.status = 500
        await place.becomes(True, "SELECT coalesce(bool_or(NOT refused), FALSE) FROM runtime.model_holds")
        assert await place.value("SELECT count(*) FROM runtime.tasks WHERE status = 'failed'") == 0
        provider.status = 200
        await completed(place, amount)
        await place.becomes(0, "SELECT count(*) FROM runtime.model_holds")
    assert await place.rows("SELECT DISTINCT status, failures FROM runtime.tasks") == [("completed", None)]
    # All but the few that were under way when it began to fail were kept from it.
    assert sum(provider.answered[status] for status in (429, 401, 500)) < amount / 2


async def test_one_task_at_a_time_tries_a_held_model(place: Workplace, provider: Provider) -> None:
    await place.submit_many("caller", 20)
    provider.status = 401
    async with place.working(environ=ENVIRON):
        await held(place)
        await place.becomes(0, "SELECT count(*) FROM runtime.claims")
        before = provider.answered[401]
        await place.becomes(4, "SELECT coalesce(max(tries), 0) FROM runtime.model_holds")
        assert provider.answered[401] - before <= 4
        assert await place.value("SELECT max(attempt) FROM runtime.tasks") <= 5


async def test_a_waiting_task_says_that_its_model_is_held(place: Workplace, provider: Provider) -> None:
    provider.status = 401
    task_id = await place.submit("caller")
    async with place.working(environ=ENVIRON):
        await held(place)
        await place.becomes("pending", "SELECT status FROM runtime.tasks")
        async with place.db.connection() as conn:
            found = await standing.of(conn, task_id)
        assert found is not None
        assert "refused us (HTTP 401: told to say 401)" in str(found.held)
    assert "told to say 401" in str((await place.task(task_id)).error)


async def test_what_is_done_beside_a_chat_waits_for_the_model_in_the_chats_own_worker(
    db: Database, tmp_path: Path, provider: Provider
) -> None:
    (folder := tmp_path / "own").mkdir()
    place = Workplace(db, folder, model_pause=30)
    session, user = await place.session("caller")
    provider.status = 500
    beside = await place.value(
        "INSERT INTO runtime.tasks (id, agent_id, task_type, payload, beside, priority)"
        " SELECT gen_random_uuid(), id, 'task', '{\"input\": \"look through it\"}', %s, -20 FROM runtime.agents RETURNING id",
        session,
    )
    async with place.working(environ=ENVIRON, session=session) as worker:
        await held(place)
        await place.becomes("pending", "SELECT status FROM runtime.tasks WHERE id = %s", beside)
        assert await place.value("SELECT run_at >= (SELECT until FROM runtime.model_holds) FROM runtime.queue") is True
        # A turn is asked for all the same, and its person told; the other one still stands where it was.
        (failed,) = await place.ended(await place.turn(session, user, "hello"))
        assert failed.status == "failed"
        await place.becomes(0, "SELECT count(*) FROM runtime.claims")
        assert worker.running == 0
    assert await place.value("SELECT attempt FROM runtime.tasks WHERE id = %s", beside) == 1


async def test_other_models_go_on(place: Workplace, provider: Provider) -> None:
    await place.agent("parrot", [{"text": "hi"}])
    provider.status = 429
    await place.submit("caller")
    async with place.working(environ=ENVIRON):
        await held(place)
        (task,) = await place.ended(await place.submit("parrot"))
    assert task.status == "completed"


async def test_a_task_that_its_model_always_fails_on_is_at_fault_itself(place: Workplace, provider: Provider) -> None:
    provider.poison = "poisoned"
    bad = await place.submit("caller", "poisoned")
    async with place.working(environ=ENVIRON):
        await held(place)

        async def others() -> None:
            while True:
                await place.submit("caller", "good")
                await asyncio.sleep(0.05)

        going = asyncio.create_task(others())
        try:
            (task,) = await place.ended(bad)
        finally:
            going.cancel()
    assert (task.status, task.result["error"]["type"]) == ("failed", "ModelUnavailable")
    assert await place.value("SELECT count(*) FROM runtime.tasks WHERE status = 'failed'") == 1


async def test_a_connection_that_is_refused_holds_the_model(place: Workplace, provider: Provider) -> None:
    assert provider.status == 200
    model = {"use": "openai:m", "base_url": "http://127.0.0.1:1/v1"}
    await place.agent("lonely", [], model=model)
    await place.submit("lonely")
    async with place.working(environ=ENVIRON):
        refused, reason = await held(place)
        assert (refused, "cannot be reached" in reason) == (False, True)
        await place.submit("caller")  # the same model at another server is another one
        await completed(place, 1)


async def test_a_probe_of_a_dead_worker_is_taken_by_another(place: Workplace, provider: Provider) -> None:
    await place.execute(
        "INSERT INTO runtime.model_holds (model, refused, reason, until, prober)"
        " VALUES (%s, TRUE, 'x', now() - interval '1 s', gen_random_uuid())",
        f"openai:m at {provider.base_url}",
    )
    await place.submit("caller")
    async with place.working(environ=ENVIRON):
        await completed(place, 1)
    assert await place.value("SELECT count(*) FROM runtime.model_holds") == 0
