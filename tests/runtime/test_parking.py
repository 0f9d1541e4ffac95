"""A task that waits for a person or for a moment holds nothing, and goes on by replay once that is decided."""

from __future__ import annotations

import functools
import signal
from collections.abc import Callable
from typing import Any
from uuid import UUID

import pytest
from workplace import Daemon, Workplace, until

from cirkelline.agents import journaling, prompts
from cirkelline.configs.errors import CirkellineError
from cirkelline.runtime import deciding
from cirkelline.runtime.deciding import NoSuchChoice, NotAsked, WhichCall
from cirkelline.state import tasks
from cirkelline.state.parking import For, Verdict

TOOLS = """
import pathlib
from cirkelline.tools import Wait, tool
PLACE = pathlib.Path({place!r})

def mark(line):
    with (PLACE / "marks").open("a") as file:
        file.write(line + "\\n")

@tool(effects="read")
def look(ctx: ToolContext, n: int) -> str:
    mark(f"look {{n}}")
    return f"looked {{ctx.state.increment('looks')}}"

def charge(ctx: ToolContext, cents: int) -> str:
    mark(f"charge {{cents}}")
    gate = PLACE / "hold"
    while gate.exists():
        time.sleep(0.01)
    return f"charged {{ctx.state.increment('charges')}}"

@tool(effects="transactional")
async def order(ctx: ToolContext, item: str) -> Wait:
    await ctx.connection.execute("INSERT INTO public.orders (item) VALUES (%s)", [item])
    ctx.state.increment("orders")
    return Wait(question=f"has {{item}} arrived?")

def break_down(ctx: ToolContext) -> str:
    raise EndRun("the shop is closed")

def slow(ctx: ToolContext) -> str:
    mark("slow")
    while not (PLACE / "go").exists():
        time.sleep(0.01)
    return "slow is done"
"""
CHARGE = {"tool": "charge", "arguments": {"cents": 500}}
LAST = {"text": "{{last_tool}}"}


async def prepare(place: Workplace, *turns: Any, **charge: Any) -> None:
    place.tool("shop", TOOLS.format(place=str(place.folder)))
    await place.execute("CREATE TABLE IF NOT EXISTS public.orders (item TEXT)")
    tools: list[Any] = [{"python": f"shop:{name}"} for name in ("look", "order", "break_down", "slow")]
    tools += [{"python": "shop:charge", **charge}, "ask_human", "sleep"]
    await place.agent("clerk", [*turns, LAST], tools=tools)


def marks(place: Workplace) -> list[str]:
    file = place.folder / "marks"
    return file.read_text().splitlines() if file.exists() else []


async def parked(place: Workplace, agent: str = "clerk") -> UUID:
    """Let a worker run a task until it is parked, and be gone."""
    task_id = await place.submit(agent)
    async with place.working():
        await place.waiting(task_id)
    return task_id


async def gone_on(place: Workplace, task_id: UUID) -> Any:
    """Let another worker run it to its end."""
    async with place.working():
        (task,) = await place.ended(task_id)
    return task


Decide = Callable[..., Any]


async def decide(place: Workplace, what: Decide, task_id: UUID, *words: Any, **more: Any) -> None:
    async with place.db.connection() as conn:
        await what(conn, task_id, *words, **more)


async def time_passes(place: Workplace) -> None:
    """Let everything that waits for a moment be due."""
    await place.execute("UPDATE runtime.journal SET until = now() - interval '1 second' WHERE until IS NOT NULL")


async def model_calls(place: Workplace) -> Any:
    return await place.rows("SELECT position, attempt FROM runtime.journal WHERE kind = 'model' ORDER BY position")


# Approvals -----------------------------------------------------------------------------------------------------------


async def test_a_call_that_needs_approval_runs_only_once_it_is_approved_and_the_model_is_paid_once(
    place: Workplace,
) -> None:
    await prepare(place, {"tool": "look", "arguments": {"n": 1}}, CHARGE, approval=True)
    task_id = await parked(place)
    (question,) = await place.waiting(task_id)
    assert (question.kind, question.name, question.waits["arguments"]) == (For.APPROVAL, "charge", {"cents": 500})
    assert marks(place) == ["look 1"]
    assert await place.value("SELECT count(*) FROM runtime.claims") == 0
    await decide(place, deciding.approve, task_id, by="ivo")
    task = await gone_on(place, task_id)
    assert (task.status, task.result["output"], task.attempt) == ("completed", "charged 1", 2)
    assert marks(place) == ["look 1", "charge 500"]
    assert await model_calls(place) == [(1, 1), (2, 1), (3, 2)]
    assert await place.value("SELECT decision ->> 'by' FROM runtime.journal WHERE name = 'charge'") == "ivo"
    work = await place.value("SELECT state -> 'work' FROM runtime.agent_states ORDER BY version DESC LIMIT 1")
    assert work == {"looks": 1, "charges": 1}


async def test_the_model_reads_why_its_call_was_rejected_and_the_tool_never_runs(place: Workplace) -> None:
    await prepare(place, CHARGE, approval=True)
    task_id = await parked(place)
    await decide(place, deciding.reject, task_id, reason="too much")
    task = await gone_on(place, task_id)
    assert task.result["output"] == "charge was not approved, so it did not run: too much"
    assert marks(place) == []


async def test_an_approval_that_nobody_gives_in_time_is_refused_by_the_clock(place: Workplace) -> None:
    await prepare(place, CHARGE, approval=True, approve_within="1h")
    task_id = await parked(place)
    (question,) = await place.waiting(task_id)
    assert question.until is not None
    await time_passes(place)
    task = await gone_on(place, task_id)
    assert task.result["output"] == "nobody approved charge in time, so it did not run"
    assert marks(place) == []


async def test_nobody_is_asked_to_approve_a_call_that_cannot_run(place: Workplace) -> None:
    await prepare(place, {"tool": "charge", "arguments": {"dollars": 5}}, approval=True)
    task = await gone_on(place, await place.submit("clerk"))
    assert (task.status, task.attempt) == ("completed", 1)
    assert "dollars" in task.result["output"]


async def test_two_calls_of_one_answer_are_decided_one_by_one_and_their_neighbor_runs_once(place: Workplace) -> None:
    calls = [CHARGE, {"tool": "look", "arguments": {"n": 7}}, {"tool": "charge", "arguments": {"cents": 9}}]
    await prepare(place, {"calls": calls}, approval=True)
    task_id = await parked(place)
    with pytest.raises(WhichCall, match=r"1\.0 \(charge\) or 1\.2 \(charge\)"):
        await decide(place, deciding.approve, task_id)
    await decide(place, deciding.approve, task_id, call="1.2")
    assert (await place.task(task_id)).status == "waiting"
    await decide(place, deciding.reject, task_id)  # the only one left
    task = await gone_on(place, task_id)
    assert task.status == "completed"
    assert sorted(marks(place)) == ["charge 9", "look 7"]


async def test_a_decision_made_while_its_run_still_ends_is_not_lost(place: Workplace) -> None:
    await prepare(place, {"calls": [CHARGE, {"tool": "slow", "arguments": {}}]}, approval=True)
    task_id = await place.submit("clerk")
    async with place.working():
        asked = "SELECT count(*) FROM runtime.journal WHERE waits IS NOT NULL"
        await place.becomes(1, asked)
        await place.running(task_id)
        await decide(place, deciding.approve, task_id)
        (place.folder / "go").touch()
        (task,) = await place.ended(task_id)
    assert (task.status, task.attempt) == ("completed", 2)
    assert marks(place).count("charge 500") == 1


async def test_a_run_that_fails_waits_for_nothing(place: Workplace) -> None:
    await prepare(place, {"calls": [CHARGE, {"tool": "break_down", "arguments": {}}]}, approval=True)
    task = await gone_on(place, await place.submit("clerk"))
    assert (task.status, task.error) == ("failed", "the shop is closed")
    with pytest.raises(NotAsked, match="it is failed"):
        await decide(place, deciding.approve, task.id)


# Questions and sleep -------------------------------------------------------------------------------------------------

ASK = {"tool": "ask_human", "arguments": {"question": "Which one?", "choices": ["red", "blue"]}}


async def test_an_agents_question_is_answered_with_one_of_its_choices(place: Workplace) -> None:
    await prepare(place, ASK)
    task_id = await parked(place)
    (question,) = await place.waiting(task_id)
    assert question.waits == {"for": "answer", "question": "Which one?", "choices": ["red", "blue"]}
    with pytest.raises(NoSuchChoice, match="'bleu' is none of the answers red or blue; did you mean 'blue'"):
        await decide(place, deciding.answer, task_id, "bleu")
    await decide(place, deciding.answer, task_id, "blue")
    assert (await gone_on(place, task_id)).result["output"] == "blue"


async def test_ten_sleeping_tasks_leave_the_only_slot_to_others_and_wake_when_it_is_time(place: Workplace) -> None:
    await prepare(place, {"tool": "sleep", "arguments": {"duration": "12h"}})
    await place.agent("brisk", [{"text": "here"}])
    sleepers = [await place.submit("clerk") for _ in range(10)]
    async with place.working(slots=1):
        for sleeper in sleepers:
            assert [question.kind for question in await place.waiting(sleeper)] == [For.TIME]
        assert (await place.result(await place.submit("brisk")))["output"] == "here"
        await time_passes(place)
        done = await place.ended(*sleepers)
    assert {task.result["output"] for task in done} == {"12h have passed"}
    assert {task.attempt for task in done} == {2}


async def test_a_tool_may_return_a_wait_of_its_own_and_its_sql_is_kept_with_the_question(place: Workplace) -> None:
    await prepare(place, {"tool": "order", "arguments": {"item": "a lamp"}})
    task_id = await parked(place)
    same = "SELECT count(*) FROM public.orders o JOIN runtime.journal j ON o.xmin = j.xmin WHERE j.waits IS NOT NULL"
    assert await place.value(same) == 1
    await decide(place, deciding.answer, task_id, "yes, it has")
    task = await gone_on(place, task_id)
    assert task.result["output"] == "yes, it has"
    assert await place.rows("SELECT item FROM public.orders") == [("a lamp",)]
    assert await place.value("SELECT state -> 'work' FROM runtime.agent_states") == {"orders": 1}


# Unknown outcomes ----------------------------------------------------------------------------------------------------


async def _marked(place: Workplace, line: str) -> bool:
    return line in marks(place)


async def killed_in_charge(place: Workplace, start: Callable[..., Daemon], **charge: Any) -> UUID:
    """Return a task whose worker was killed inside `charge`, and which waits for a decision."""
    await prepare(place, CHARGE, **charge)
    (place.folder / "hold").touch()
    first = start("first")
    await first.says("worker.ready")
    task_id = await place.submit("clerk")
    if charge.get("approval"):
        await place.waiting(task_id)
        await decide(place, deciding.approve, task_id, by="ivo")
    await place.becomes(True, "SELECT count(*) = 1 FROM runtime.claims")
    await until(functools.partial(_marked, place, "charge 500"), "the start of charge")
    first.signal(signal.SIGKILL)
    await first.ends()
    (place.folder / "hold").unlink()
    async with place.working():
        (question,) = await place.waiting(task_id)
    assert (question.kind, question.waits["arguments"]) == (For.OUTCOME, {"cents": 500})
    return task_id


async def test_a_person_who_looked_says_what_an_unknown_call_came_to(
    place: Workplace, start: Callable[..., Daemon]
) -> None:
    task_id = await killed_in_charge(place, start)
    await decide(place, deciding.resolve, task_id, Verdict.RESULT, value={"receipt": 17}, state_limit=65536)
    task = await gone_on(place, task_id)
    assert task.result["output"] == '{"receipt": 17}'
    assert marks(place) == ["charge 500"]


async def test_an_approved_call_that_was_cut_off_is_asked_about_again_and_may_be_run_again(
    place: Workplace, start: Callable[..., Daemon]
) -> None:
    task_id = await killed_in_charge(place, start, approval=True)
    (question,) = await place.waiting(task_id)
    assert question.waits["decided"]["by"] == "ivo"
    await decide(place, deciding.resolve, task_id, Verdict.RETRY, state_limit=65536)
    task = await gone_on(place, task_id)
    assert (task.result["output"], marks(place)) == ("charged 1", ["charge 500", "charge 500"])


async def test_a_person_may_let_a_task_fail_whose_call_nobody_knows_about(
    place: Workplace, start: Callable[..., Daemon]
) -> None:
    task_id = await killed_in_charge(place, start)
    await decide(place, deciding.resolve, task_id, Verdict.FAIL, value="ask the bank", state_limit=65536)
    task = await gone_on(place, task_id)
    assert (task.status, task.error) == ("failed", "charge failed, as was decided: ask the bank")
    assert marks(place) == ["charge 500"]
    # To try again is not to know what happened: the question is open again, and the tool does not run.
    async with place.db.connection() as conn:
        await tasks.retry(conn, task_id)
    async with place.working():
        assert [question.kind for question in await place.waiting(task_id)] == [For.OUTCOME]
    await decide(place, deciding.resolve, task_id, Verdict.RESULT, value="charged", state_limit=65536)
    assert (await gone_on(place, task_id)).result["output"] == "charged"
    assert marks(place) == ["charge 500"]


# What happens meanwhile ----------------------------------------------------------------------------------------------


async def test_a_parked_task_can_be_cancelled_and_decided_no_more(place: Workplace) -> None:
    await prepare(place, CHARGE, approval=True, approve_within="1h")
    task_id = await parked(place)
    async with place.db.connection() as conn:
        assert await tasks.cancel(conn, task_id) == "cancelled"
    with pytest.raises(NotAsked, match="it is cancelled"):
        await decide(place, deciding.approve, task_id)
    await time_passes(place)
    async with place.working():
        await place.becomes(0, "SELECT count(*) FROM runtime.journal WHERE until IS NOT NULL")
    assert (await place.task(task_id)).status == "cancelled"


async def test_a_definition_and_a_state_that_change_while_a_run_is_parked_do_not_change_it(place: Workplace) -> None:
    await prepare(place, {"tool": "look", "arguments": {"n": 1}}, CHARGE, approval=True)
    task_id = await parked(place)
    agent = await place.agent_id("clerk")
    other = place.configs / "other.script.yaml"
    other.write_text('[{"text": "I am another."}]')
    turns = [{"tool": "look", "arguments": {"n": 1}}, CHARGE, LAST]
    await place.agent("clerk", turns, model=f"scripted:{other}")
    assert (await gone_on(place, await place.submit("clerk"))).result["output"] == "I am another."
    await decide(place, deciding.approve, task_id)
    await place.execute(
        "INSERT INTO runtime.agent_states (agent_id, state, version) VALUES (%s, %s::jsonb, 7)",
        agent,
        '{"work": {"looks": 40}, "stats": {}}',
    )
    task = await gone_on(place, task_id)
    assert (task.status, task.result["output"], task.definition_version) == ("completed", "charged 1", 1)
    assert await place.value("SELECT state -> 'work' ->> 'looks' FROM runtime.agent_states WHERE version = 8") == "41"


async def test_two_hundred_parked_runs_survive_an_upgrade_of_how_prompts_are_built(
    place: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    await prepare(place, ASK)
    await place.submit_many("clerk", 200)
    async with place.working(slots=8):
        await place.becomes(200, "SELECT count(*) FROM runtime.tasks WHERE status = 'waiting'")
    earlier = prompts.system_prompt
    monkeypatch.setattr(prompts, "system_prompt", lambda *given: earlier(*given) + "\nBe kind.")
    monkeypatch.setattr(journaling, "FORMAT", journaling.FORMAT + 1)
    for (task_id,) in await place.rows("SELECT id FROM runtime.tasks"):
        await decide(place, deciding.answer, task_id, "red")
    async with place.working(slots=8):
        await place.becomes(200, "SELECT count(*) FROM runtime.tasks WHERE status = 'completed'")
    assert await place.rows("SELECT DISTINCT result ->> 'output' FROM runtime.tasks") == [("red",)]


async def test_a_turn_that_is_parked_holds_up_no_other_turn_of_its_session(place: Workplace) -> None:
    await prepare(place)
    script = {"conversations": [{"match": "ask", "turns": [ASK, LAST]}, {"turns": [{"text": "hello"}]}]}
    await place.agent("clerk", script, tools=["ask_human"])
    session, user = await place.session("clerk")
    first = await place.turn(session, user, "ask me")
    async with place.working():
        await place.waiting(first)
        await place.ended(await place.turn(session, user, "and you?"))
        await decide(place, deciding.answer, first, "red")
        await place.ended(first)
    assert await place.messages(session, user) == [
        ("user", "and you?"),
        ("assistant", "hello"),
        ("user", "ask me"),
        ("assistant", "red"),
    ]


async def test_a_decision_nobody_waits_for_is_refused_with_what_is_waited_for(place: Workplace) -> None:
    await prepare(place, ASK)
    task_id = await parked(place)
    with pytest.raises(NotAsked, match="does not wait for an approval, or not any more, but for an answer"):
        await decide(place, deciding.approve, task_id)
    with pytest.raises(NotAsked, match=r"at '3\.0', but at 1\.0"):
        await decide(place, deciding.answer, task_id, "red", call="3.0")
    with pytest.raises(
        CirkellineError, match="does not wait for a decision on what happened, or not any more, but for an answer"
    ):
        await decide(place, deciding.resolve, task_id, Verdict.RETRY, state_limit=65536)
