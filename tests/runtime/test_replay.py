"""A stored run made once more from its journal comes to the same, or says where not; what its model saw can be rebuilt
to the byte."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import pytest
from marked_tools import Scene, Start
from recording_server import RecordingServer, said, used
from workplace import Workplace

from cirkelline.runtime import deciding, replaying
from cirkelline.runtime.replaying import NoSuchStep, NothingRecorded, NotRebuilt, Prompt, Report
from cirkelline.state import tasks
from cirkelline.tools.toolbox import Toolbox

TOOLS = """
import pathlib
PLACE = pathlib.Path({place!r})

def count(ctx: ToolContext, word: str, times: int = 1) -> str:
    \"\"\"Count a word.

    Args:
        word: What to count, été included.
        times: How often.
    \"\"\"
    with (PLACE / "ran").open("a") as file:
        file.write(word + "\\n")
    return f"{{word}} {{ctx.state.increment('n', times)}}"

def stop(word: str) -> str:
    raise EndRun("the shop is closed")
"""
BOTH = {"calls": [{"tool": "count", "arguments": {"word": "a"}}, {"tool": "count", "arguments": {"word": "b"}}]}
COUNTED = [
    {"text": "Let me see.", **BOTH},
    {"tool": "count", "arguments": {"word": "c"}},
    {"text": "It is {{last_tool}}."},
]


async def clerk(place: Workplace, turns: object, **config: Any) -> None:
    place.tool("shop", TOOLS.format(place=str(place.folder)))
    await place.agent("clerk", turns, tools=[{"python": "shop:count"}, {"python": "shop:stop"}, "calculate"], **config)


async def ended(place: Workplace, task_id: UUID) -> UUID:
    async with place.working():
        await place.ended(task_id)
    return task_id


async def again(place: Workplace, task_id: UUID) -> Report:
    """Replay a task where there is neither its model nor its tools, and see that nothing was written."""
    before = await everything(place)
    for file in (*place.configs.glob("*.script.yaml"), *place.tools.glob("*.py")):
        file.unlink()
    report = await replaying.replay(place.db, await place.task(task_id))
    assert await everything(place) == before
    return report


async def everything(place: Workplace) -> list[tuple[Any, ...]]:
    return [
        *await place.rows("SELECT j.*, j.xmin::text FROM runtime.journal j ORDER BY 1, 2, 3"),
        *await place.rows("SELECT t.id, t.status, t.xmin::text FROM runtime.tasks t ORDER BY 1"),
        *await place.rows("SELECT s.version, s.xmin::text FROM runtime.agent_states s ORDER BY 1"),
        *await place.rows("SELECT m.position, m.xmin::text FROM runtime.messages m ORDER BY 1"),
    ]


def ran(place: Workplace) -> list[str]:
    file = place.folder / "ran"
    return sorted(file.read_text().split()) if file.exists() else []


async def test_a_completed_run_comes_to_the_same_without_its_model_and_its_tools(place: Workplace) -> None:
    await clerk(place, COUNTED)
    task_id = await ended(place, await place.submit("clerk"))
    assert ran(place) == ["a", "b", "c"]
    report = await again(place, task_id)
    assert (report.difference, report.steps, report.ended) == (None, 6, "completed")
    assert ran(place) == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("turns", "steps"),
    [
        ([BOTH, {"text": "half", "error": "server"}], 3),
        ([BOTH, {"tool": "stop", "arguments": {"word": "x"}}], 5),
        ([{**BOTH, "repeat": 9}], 6),
    ],
    ids=["the model failed", "a tool ended it", "the steps ran out"],
)
async def test_a_failed_run_comes_to_the_same(place: Workplace, turns: object, steps: int) -> None:
    await clerk(place, turns, limits={"steps": 2})
    task_id = await ended(place, await place.submit("clerk"))
    assert (await place.task(task_id)).status == "failed"
    report = await again(place, task_id)
    assert (report.difference, report.steps) == (None, steps)


async def test_a_cancelled_run_comes_to_the_same(place: Workplace) -> None:
    await clerk(place, [BOTH, {"text": "slow", "delay": "60s"}])
    task_id = await place.submit("clerk")
    async with place.working():
        await place.becomes(3, "SELECT count(*) FROM runtime.journal WHERE position = 1 AND output IS NOT NULL")
        async with place.db.connection() as conn:
            await tasks.cancel(conn, task_id)
        await place.ended(task_id)
    report = await again(place, task_id)
    assert (report.difference, report.steps) == (None, 3)
    assert report.ended == "step 2, another model call"


async def test_a_later_turn_of_a_session_comes_to_the_same_after_the_session_went_on(place: Workplace) -> None:
    await clerk(place, [{"text": "You said {{input}}."}])
    session, user = await place.session("clerk")
    turns = [await ended(place, await place.turn(session, user, word)) for word in ("one", "two", "three")]
    await clerk(place, [{"text": "Else."}], instructions="Say something else.")
    for task_id in turns:
        assert (await again(place, task_id)).difference is None


CHANGES: dict[str, tuple[str, str, str, str]] = {
    "the input": (
        """UPDATE runtime.tasks SET payload = '{"input": "bye"}'""",
        "1",
        "the conversation that",
        "another conversation, of 2 messages, the last user's 'bye'",
    ),
    "a tool's result": (
        """UPDATE runtime.journal SET output = '{"text": "b 7"}' WHERE (position, call) = (1, 1)""",
        "2",
        "the conversation that",
        "another conversation, of 5 messages, the last tool's 'b 7'",
    ),
    "a tool call": (
        """UPDATE runtime.journal SET output = jsonb_set(output, '{calls,0,arguments}', '"{}"')
            WHERE (position, call) = (2, -1)""",
        "2.0",
        "the call of count on record",
        "count('{}')",
    ),
    "an answer less": (
        "DELETE FROM runtime.journal WHERE position = 3",
        "the end",
        "the end of the run",
        "step 3, another model call",
    ),
    "an answer more": (
        """INSERT INTO runtime.journal (task_id, position, call, attempt, format, kind, name, output)
           SELECT id, 4, -1, 1, 1, 'model', 'm', '{"text": "x"}' FROM runtime.tasks""",
        "4",
        "model m",
        "the end of the run",
    ),
    "the result": (
        """UPDATE runtime.journal SET output = '{"text": "It is other."}' WHERE position = 3""",
        "the end",
        "'It is c 3.'",
        "'It is other.'",
    ),
}


@pytest.mark.parametrize("what", CHANGES)
async def test_what_is_not_the_run_on_record_is_said_with_its_step(place: Workplace, what: str) -> None:
    change, step, expected, came = CHANGES[what]
    await clerk(place, COUNTED)
    task_id = await ended(place, await place.submit("clerk"))
    await place.execute(change)  # type: ignore[arg-type]
    found = (await again(place, task_id)).difference
    assert found is not None
    assert found.step == step
    assert found.expected.startswith(expected)
    assert found.came == came


async def test_steps_of_another_format_are_only_put_in_order(place: Workplace) -> None:
    await clerk(place, COUNTED)
    task_id = await ended(place, await place.submit("clerk"))
    await place.execute("UPDATE runtime.journal SET format = 9, input_hash = ''")
    report = await again(place, task_id)
    assert (report.difference, report.uncompared) == (None, 6)


async def test_a_task_that_never_ran_cannot_be_run_again(place: Workplace) -> None:
    await clerk(place, COUNTED)
    with pytest.raises(NothingRecorded, match="no answer of a model on record"):
        await replaying.replay(place.db, await place.task(await place.submit("clerk")))


# What the model saw ---------------------------------------------------------------------------------------------------


@pytest.fixture
async def server() -> AsyncIterator[RecordingServer]:
    async with RecordingServer() as server:
        yield server


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "*")


def openai(server: RecordingServer) -> dict[str, Any]:
    return {"use": "openai:m1", "base_url": f"{server.url}/v1", "temperature": 0.2, "max_tokens": 700}


async def seen(place: Workplace, task_id: UUID, position: int | None = None, **environ: str) -> Prompt:
    return await replaying.prompt(place.db, await place.task(task_id), Toolbox(place.tools), environ, position=position)


async def test_every_prompt_is_the_bytes_that_the_server_received(place: Workplace, server: RecordingServer) -> None:
    server.will(
        used("Let me see. \u200eÉté\n", ("count", '{"word": "a\\u00e9\\n"}'), ("count", '{"word": "b", "times": 2}')),
        used("", ("calculate", '{"expression": "2 * 21"}'), ("nothing", "{}"), ("count", "no JSON")),
        said("It is 42."),
    )
    await clerk(place, [], model=openai(server), description="Counts — with care.")
    session, user = await place.session("clerk")
    server.will(said("Good day.\n"))
    server.replies.rotate(1)
    await ended(place, await place.turn(session, user, "good day"))
    task_id = await ended(place, await place.turn(session, user, 'How often?\u2028 "x" \\'))
    assert [message["role"] for message in json.loads(server.bodies[1])["messages"]] == [
        "system", "user", "assistant", "user",
    ]  # fmt: skip
    url, received = server.url, server.bodies[1:]
    await server.__aexit__()
    for position, body in enumerate(received, 1):
        found = await seen(place, task_id, position)
        assert found.warnings == []
        assert found.body == body
        assert found.answered
    assert (await seen(place, task_id)).body == received[2]
    assert url not in str(received)


async def test_a_prompt_after_a_crash_is_what_the_second_worker_sent(
    place: Workplace, server: RecordingServer, start: Start
) -> None:
    scene = Scene(place, ["look", "put", "look"])
    await scene.prepare()
    turns = [used(f"Step {n}.", (name, json.dumps({"n": n}))) for n, name in enumerate(scene.calls)]
    server.will(*turns, said("done"))
    tools = [{"python": f"marked:{name}"} for name in ("look", "put")]
    await place.agent("ten", [], model=openai(server), tools=tools)
    task_id = await scene.killed_in(1, start)
    (task,) = await place.ended(task_id)
    assert (task.status, task.attempt) == ("completed", 2)
    assert len(server.bodies) == 4
    for position, body in enumerate(server.bodies, 1):
        assert (await seen(place, task_id, position)).body == body
    assert (await replaying.replay(place.db, task)).difference is None


async def test_geminis_prompt_is_the_bytes_that_it_received(place: Workplace, server: RecordingServer) -> None:
    environ = {"GOOGLE_GEMINI_BASE_URL": server.url, "GOOGLE_API_KEY": "a-key-for-tests"}
    call = {"functionCall": {"name": "count", "args": {"word": "été"}}, "thoughtSignature": "c2lnbmVk"}
    server.will([{"parts": [call]}], [{"parts": [{"text": "Done."}]}])
    await clerk(place, [], model="gemini:gemini-x")
    task_id = await place.submit("clerk")
    async with place.working(environ=environ):
        (task,) = await place.ended(task_id)
    assert task.status == "completed", task.error
    for position, body in enumerate(server.bodies, 1):
        found = await seen(place, task_id, position, GOOGLE_GEMINI_BASE_URL=server.url)
        assert (found.body, found.warnings) == (body, [])
    assert len(server.bodies) == 2


async def test_a_scripted_models_prompt_is_its_messages_and_tools(place: Workplace) -> None:
    await clerk(place, COUNTED)
    found = await seen(place, await ended(place, await place.submit("clerk", "how often?")), 2)
    assert found.body is None
    assert [message.role for message in found.messages] == ["system", "user", "assistant", "tool", "tool"]
    assert found.messages[1].content == "how often?"
    assert [tool.name for tool in found.tools] == ["count", "stop", "calculate"]


async def test_the_call_that_failed_is_shown_as_one_without_an_answer(place: Workplace) -> None:
    await clerk(place, [BOTH, {"text": "half", "error": "server"}])
    found = await seen(place, await ended(place, await place.submit("clerk")))
    assert (found.position, found.answered) == (2, False)


async def test_tools_that_have_changed_or_gone_are_warned_of(place: Workplace) -> None:
    await clerk(place, COUNTED)
    task_id = await ended(place, await place.submit("clerk"))
    place.tool("shop", TOOLS.format(place=str(place.folder)).replace("Count a word", "Count words"))
    assert (await seen(place, task_id)).warnings == [
        "its tools have been changed since: they are shown as they are now"
    ]
    (place.tools / "shop.py").unlink()
    warnings = (await seen(place, task_id)).warnings
    assert [warning.split(" is left out")[0] for warning in warnings] == ["shop:count", "shop:stop"]


async def test_what_cannot_be_rebuilt_is_not_made_up(place: Workplace) -> None:
    await clerk(place, COUNTED)
    task_id = await ended(place, await place.submit("clerk"))
    with pytest.raises(NoSuchStep, match="from 1 to 3"):
        await seen(place, task_id, 4)
    await place.execute("""UPDATE runtime.journal SET output = '{"text": "b 7"}' WHERE (position, call) = (1, 1)""")
    assert (await seen(place, task_id, 1)).position == 1
    for position in (2, 3, None):
        with pytest.raises(NotRebuilt, match="at step 2 this run comes to another conversation"):
            await seen(place, task_id, position)


# What waited ----------------------------------------------------------------------------------------------------------


async def test_a_run_that_waited_and_was_decided_comes_to_the_same(place: Workplace, server: RecordingServer) -> None:
    server.will(used("", ("count", '{"word": "a"}'), ("ask_human", '{"question": "Which?"}')), said("Thank you."))
    place.tool("shop", TOOLS.format(place=str(place.folder)))
    tools = [{"python": "shop:count", "approval": True}, "ask_human"]
    await place.agent("clerk", [], tools=tools, model=openai(server))
    task_id = await place.submit("clerk")
    async with place.working():
        await place.waiting(task_id)
    waits = await replaying.replay(place.db, await place.task(task_id))
    assert (waits.difference, waits.steps, waits.ended) == (None, 1, 'step 1.0, count(\'{"word": "a"}\')')
    assert (await seen(place, task_id)).body == server.bodies[0]
    async with place.db.connection() as conn:
        await deciding.reject(conn, task_id, reason="not today")
        await deciding.answer(conn, task_id, "the blue one")
    await ended(place, task_id)
    for position, body in enumerate(server.bodies, 1):
        assert (await seen(place, task_id, position)).body == body
    assert b"not today" in server.bodies[1]
    report = await again(place, task_id)
    assert (report.difference, report.steps) == (None, 4)
    assert ran(place) == []
