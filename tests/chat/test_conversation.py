"""A turn is a task of its session, worked on by whoever is there; nothing that happens meanwhile loses it."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from uuid import UUID, uuid4

from chat_scene import Chat, FakeScreen
from workplace import Daemon, Workplace, until

from cirkelline.runtime.chat import questions
from cirkelline.state import claims, workers

HOUR = "1h"


async def workers_of(place: Workplace) -> list[tuple[object, ...]]:
    return await place.rows("SELECT session_id FROM runtime.workers ORDER BY started")


async def test_without_a_daemon_the_chat_works_on_its_own_session_alone(place: Workplace, chat: Chat) -> None:
    await place.agent("helper", [{"text": "You said {{input}}."}])
    somebody, user = await place.session("helper", "eve")
    other = await place.turn(somebody, user, "not yours")
    task = await place.submit("helper")
    talk = await chat.conversation()
    turn = await chat.answered(talk, "hello")
    assert (turn.completed, chat.screen.shown) == (True, "You said hello.")
    assert (turn.task.task_type, turn.task.session_id, turn.task.user_id) == ("chat", talk.session, talk.user.id)
    assert await workers_of(place) == [(talk.session,)]
    assert (await place.task(other)).status == (await place.task(task)).status == "pending"


async def test_with_a_daemon_the_chat_works_on_nothing(place: Workplace, chat: Chat) -> None:
    await place.agent("helper", [{"text": "You said {{input}}."}])
    async with place.working() as daemon:
        talk = await chat.conversation()
        turn = await chat.answered(talk, "hello")
        assert (turn.task.worker, await workers_of(place)) == (daemon.id, [(None,)])
    assert not chat.worker.working
    assert chat.screen.shown == "You said hello."


async def test_words_and_tools_are_shown_while_the_task_runs(place: Workplace, chat: Chat) -> None:
    turns = [
        {"text": "Let me see.", "tool": "calculate", "arguments": {"expression": "17 * 23"}},
        {"text": "It is {{last_tool}}, which nobody waits for", "pace": HOUR},
    ]
    await place.agent("helper", turns, tools=["calculate"])
    talk = await chat.conversation()
    answering = chat.saying(talk, "17 * 23?")
    await chat.screen.shows("It")
    assert chat.screen.shown.startswith('Let me see.\n  calculate(expression="17 * 23")  ok  ')
    chat.screen.press()
    turn = await chat.end(answering)
    assert turn.task.status == "cancelled"


async def test_ctrl_c_stops_the_answer_keeps_what_was_said_and_the_chat(place: Workplace, chat: Chat) -> None:
    script = [
        {"match": "long", "turns": [{"text": "one two", "pace": HOUR}]},
        {"turns": [{"text": "short"}]},
    ]
    await place.agent("helper", {"conversations": script})
    talk = await chat.conversation()
    answering = chat.saying(talk, "a long one")
    await chat.screen.shows("one")
    chat.screen.press()
    await chat.end(answering)
    assert chat.screen.said == ["stopped"]
    assert (await chat.answered(talk, "and now?")).completed
    assert talk.session is not None
    assert await place.messages(talk.session, talk.user.id) == [
        ("user", "a long one"),
        ("assistant", "one "),
        ("user", "and now?"),
        ("assistant", "short"),
    ]


async def test_a_turn_that_nobody_has_begun_is_taken_back_at_once(place: Workplace, chat: Chat) -> None:
    await place.agent("helper", [{"text": "never said"}])
    await place.execute("UPDATE runtime.agents SET status = 'paused'")
    talk = await chat.conversation()
    answering = chat.saying(talk, "hello")
    await chat.screen.shows(
        "agent helper is paused: `cirkelline agents resume helper` lets it run (Ctrl-C takes the turn back)"
    )
    chat.screen.press()
    turn = await chat.end(answering)
    assert (turn.task.status, turn.task.attempt) == ("cancelled", 0)
    await place.execute("UPDATE runtime.agents SET status = 'idle'")
    assert (await chat.answered(talk, "again")).output == "never said"


async def test_who_insists_waits_no_longer_for_an_answer_that_does_not_stop(place: Workplace, chat: Chat) -> None:
    await place.agent("helper", [{"text": "hello"}])
    silent = await silent_worker(place)  # alive, but it never asks what is to be stopped
    talk = await chat.conversation()
    answering = chat.saying(talk, "hello")
    await claim_next(place, silent)
    chat.screen.press()
    await chat.screen.shows("stopping")
    chat.screen.press()
    assert await answering is None
    assert "not waiting for it any longer" in chat.screen.shown
    assert talk.session is not None


async def silent_worker(place: Workplace, *, lease: float = 3600, slots: int = 1) -> UUID:
    """Register a worker that is alive for as long as its lease, and does nothing by itself."""
    worker = uuid4()
    async with place.db.connection() as conn:
        await workers.register(conn, worker, host="there", pid=1, release="0", slots=slots, lease=lease)
    return worker


async def claim_next(place: Workplace, worker: UUID) -> None:
    """Let a worker claim the next task, and do nothing with it."""
    agent_id = await place.agent_id("helper")

    async def claim() -> bool:
        async with place.db.connection() as conn:
            return bool(await claims.claim(conn, worker, [agent_id], slots=1))

    await until(claim, "a task to claim")


async def test_when_its_worker_dies_in_the_middle_the_chat_takes_the_turn_over(place: Workplace, chat: Chat) -> None:
    await place.agent("helper", [{"text": "Here I am."}])
    dying = await silent_worker(place, lease=1.5)
    talk = await chat.conversation()
    answering = chat.saying(talk, "hello")
    await claim_next(place, dying)
    turn = await chat.end(answering)
    assert (turn.completed, turn.task.attempt) == (True, 2)
    assert chat.screen.shown == "Here I am."
    assert "its worker is gone: another takes it over" in chat.screen.statuses
    assert chat.worker.working


async def test_a_killed_daemons_turn_goes_on_here_and_says_so(
    place: Workplace, chat: Chat, start: Callable[..., Daemon]
) -> None:
    await place.agent("helper", [{"text": "one two", "pace": HOUR}])
    daemon = start()
    await daemon.says("worker.ready")
    talk = await chat.conversation()
    answering = chat.saying(talk, "hello")
    await chat.screen.shows("one")
    await place.agent("helper", [{"text": "Here I am."}])  # the task keeps its definition, whose script has changed
    daemon.signal(signal.SIGKILL)
    turn = await chat.end(answering)
    assert turn.output == "Here I am."
    assert chat.screen.shown == ("one\nits worker is gone: the answer goes on with another one\nHere I am.")


async def test_where_the_daemon_cannot_serve_the_agent_the_chat_does_it_itself(place: Workplace, chat: Chat) -> None:
    await place.agent("helper", [{"text": "Here I am."}])
    await silent_worker(place, slots=4)  # it has free slots, and claims nothing
    talk = await chat.conversation()
    turn = await chat.answered(talk, "hello")
    assert turn.completed
    assert "waiting for a worker" in chat.screen.statuses
    assert "no running worker takes it: trying it here" in chat.screen.statuses


async def test_when_nobody_can_serve_the_agent_the_chat_says_why_and_goes_on(place: Workplace, chat: Chat) -> None:
    await place.agent("helper", [{"text": "Here I am."}])
    script = place.configs / "helper.script.yaml"
    before = script.read_text()
    script.unlink()
    talk = await chat.conversation()
    answering = chat.saying(talk, "hello")
    await until_said(chat.screen, "nobody can answer as helper at present: ")
    assert str(script) in chat.screen.shown
    chat.screen.press()
    assert (await chat.end(answering)).task.status == "cancelled"
    script.write_text(before)


async def test_where_nobody_can_take_a_turn_back_one_that_nobody_can_answer_is_given_up(
    place: Workplace, chat: Chat
) -> None:
    await place.agent("helper", [{"text": "Here I am."}])
    await place.execute("UPDATE runtime.agents SET status = 'paused'")
    chat.screen.waits = False
    talk = await chat.conversation()
    turn = await chat.answered(talk, "hello")
    assert turn.task.status == "cancelled"
    why = "agent helper is paused: `cirkelline agents resume helper` lets it run"
    assert turn.error == ("Unanswerable", why)
    assert chat.screen.said == [f"error: {why}"]


async def test_a_turn_that_waits_for_a_decision_is_left_to_it_and_the_chat_goes_on(
    place: Workplace, chat: Chat
) -> None:
    await place.agent("helper", [{"text": "Here I am."}])
    await place.execute("UPDATE runtime.agents SET status = 'paused'")
    talk = await chat.conversation()
    answering = chat.saying(talk, "pay")
    await place.becomes(1, "SELECT count(*) FROM runtime.queue")
    await place.execute("UPDATE runtime.tasks SET status = 'waiting', error = 'pay may have happened'")
    turn = await chat.end(answering)
    assert turn.parked
    assert await questions.settle(talk, chat.screen, turn) == turn
    assert f"`cirkelline tasks cancel {str(turn.task.id)[:8]}`" in chat.screen.said[-1]
    await place.execute("UPDATE runtime.agents SET status = 'idle'")
    assert (await chat.answered(talk, "hello")).completed
    assert (await place.task(turn.task.id)).status == "waiting"


async def until_said(screen: FakeScreen, beginning: str) -> None:
    async def look() -> bool:
        return any(said.startswith(beginning) for said in screen.said)

    await until(look, beginning)


async def test_a_failed_turn_is_said_and_the_next_one_is_answered(place: Workplace, chat: Chat) -> None:
    script = [
        {"match": "fail", "turns": [{"text": "Well", "error": "quota", "message": "the money is spent"}]},
        {"turns": [{"text": "fine"}]},
    ]
    await place.agent("helper", {"conversations": script})
    talk = await chat.conversation()
    turn = await chat.answered(talk, "fail")
    assert turn.error == ("ModelRefused", "the money is spent")
    assert chat.screen.shown.startswith("Well\nerror: the money is spent\nthis turn is not part of the conversation")
    await chat.answered(talk, "hello")
    assert talk.session is not None
    assert await place.messages(talk.session, talk.user.id) == [("user", "hello"), ("assistant", "fine")]


async def test_what_was_said_before_is_in_front_of_the_model(place: Workplace, chat: Chat) -> None:
    await place.agent("helper", [{"text": "yes indeed"}])
    talk = await chat.conversation()
    first = await chat.answered(talk, "one two three")
    second = await chat.answered(talk, "one two three")
    # A scripted model counts the words that it is shown: the question and the answer before came on top.
    read = [turn.task.result["usage"]["input_tokens"] for turn in (first, second)]
    assert read[1] - read[0] == len(["one", "two", "three", "yes", "indeed"])


async def test_each_turn_is_one_append_of_its_two_messages(place: Workplace, chat: Chat) -> None:
    await place.agent("helper", [{"text": "yes"}])
    await place.execute("CREATE TABLE appended (amount bigint)")
    await place.execute(
        "CREATE FUNCTION counted() RETURNS trigger LANGUAGE plpgsql AS"
        " 'BEGIN INSERT INTO public.appended SELECT count(*) FROM added; RETURN NULL; END'"
    )
    await place.execute(
        "CREATE TRIGGER counted AFTER INSERT ON runtime.messages REFERENCING NEW TABLE AS added"
        " FOR EACH STATEMENT EXECUTE FUNCTION counted()"
    )
    talk = await chat.conversation()
    for number in range(3):
        await chat.answered(talk, f"question {number}")
    assert await place.rows("SELECT amount FROM appended WHERE amount > 0") == [(2,), (2,), (2,)]
    assert await place.rows("SELECT status, count(*) FROM runtime.tasks GROUP BY status") == [("completed", 3)]


async def test_two_terminals_on_one_session_take_turns(place: Workplace, chat: Chat) -> None:
    script = [
        {"match": "long", "turns": [{"text": "one two", "pace": HOUR}]},
        {"turns": [{"text": "the second"}]},
    ]
    await place.agent("helper", {"conversations": script})
    first = await chat.conversation()
    answering = chat.saying(first, "a long one")
    await chat.screen.shows("one")
    other_screen = FakeScreen()
    second = await chat.conversation(screen=other_screen)
    second.session = first.session
    waiting = chat.saying(second, "from the other terminal")
    await other_screen.shows("an earlier turn of this session is still running")
    assert other_screen.shown == ""
    chat.screen.press()
    await chat.end(answering)
    assert (await chat.end(waiting)).completed
    assert other_screen.shown == "the second"
    assert first.session is not None
    said = await place.messages(first.session, first.user.id)
    assert [content for role, content in said if role == "user"] == ["a long one", "from the other terminal"]


async def test_a_turn_that_was_left_unanswered_is_answered_when_the_session_goes_on(
    place: Workplace, chat: Chat
) -> None:
    await place.agent("helper", [{"text": "You said {{input}}."}])
    session, user = await place.session("helper")
    left = [await place.turn(session, user, f"question {number}") for number in range(2)]
    talk = await chat.conversation()
    talk.session = session
    unfinished = await talk.unfinished()
    assert [task.id for task in unfinished] == left
    for task in unfinished:
        await talk.resume(task)
    assert [turn.said for turn in chat.screen.turns] == ["question 0", "question 1"]
    assert chat.screen.shown == "> question 0\nYou said question 0.\n> question 1\nYou said question 1."
    assert await talk.unfinished() == []


async def test_leaving_gives_an_unfinished_turn_back_to_others(place: Workplace, chat: Chat) -> None:
    await place.agent("helper", [{"text": "one two", "pace": HOUR}])
    talk = await chat.conversation()
    answering = chat.saying(talk, "hello")
    await chat.screen.shows("one")
    answering.cancel()
    await asyncio.wait({answering})
    await chat.worker.__aexit__(None, None, None)
    assert await place.rows("SELECT status FROM runtime.tasks") == [("pending",)]
    assert await workers_of(place) == []


async def test_a_new_session_is_served_by_the_same_chat(place: Workplace, chat: Chat) -> None:
    await place.agent("helper", [{"text": "You said {{input}}."}])
    talk = await chat.conversation()
    await chat.answered(talk, "one")
    first = talk.session
    talk.session = None
    await chat.answered(talk, "two")
    assert talk.session not in {None, first}
    assert await workers_of(place) == [(talk.session,)]
    assert chat.screen.shown == "You said one.You said two."
