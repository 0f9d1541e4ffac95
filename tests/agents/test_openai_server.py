"""`openai:` models against a server that speaks the chat completions protocol, well and badly."""

from __future__ import annotations

import asyncio
import email.utils
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from agent_runs import ask
from provider_server import ProviderServer, broken_off, chunk, fragment, held, json_reply, sse, text

from cirkelline.agents import chat_model, run
from cirkelline.agents.chat_model import ChatMessage, ChatModel, Delta, ToolCall, ToolSchema, Usage
from cirkelline.agents.models import ModelPool
from cirkelline.configs.schema import ModelSpec

KEY = "team-key-3141592653589793"
HELLO = [ChatMessage("system", "Be brief."), ChatMessage("user", "hi")]
SCHEMA = {
    "type": "object",
    "properties": {"city": {"anyOf": [{"type": "string"}, {"type": "null"}], "default": None, "minLength": 2}},
    "additionalProperties": False,
}


@pytest.fixture
async def pool() -> AsyncIterator[ModelPool]:
    async with ModelPool({"TEAM_KEY": KEY}) as pool:
        yield pool


@pytest.fixture
def spec(server: ProviderServer) -> ModelSpec:
    return ModelSpec(provider="openai", name="m1", base_url=f"{server.url}/v1", api_key_env="TEAM_KEY")


async def said(model: ChatModel, *tools: ToolSchema, messages: list[ChatMessage] = HELLO) -> list[Delta]:
    return [delta async for delta in model.stream(messages, tools)]


async def called(pool: ModelPool, spec: ModelSpec) -> list[tuple[str, str, str]]:
    [*_, last] = await said(await pool.get(spec))
    return [(call.id, call.name, call.arguments) for call in last.tool_calls]


async def failed(pool: ModelPool, spec: ModelSpec) -> chat_model.ModelError:
    with pytest.raises(chat_model.ModelError) as caught:
        await said(await pool.get(spec))
    return caught.value


async def test_text_arrives_in_pieces_and_usage_at_the_end(
    server: ProviderServer, pool: ModelPool, spec: ModelSpec
) -> None:
    server.will(sse(*text("Good", "bye", usage=(12, 3))))
    assert await said(await pool.get(spec)) == [Delta("Good"), Delta("bye"), Delta(usage=Usage(12, 3))]


async def test_a_usage_that_grows_with_every_chunk_is_not_added_up(
    server: ProviderServer, pool: ModelPool, spec: ModelSpec
) -> None:
    growing = [{**chunk({"content": "x"}), "usage": usage(10, n)} for n in (1, 2, 3)]
    server.will(sse(*growing, chunk(finish="stop")))
    assert (await said(await pool.get(spec)))[-1] == Delta(usage=Usage(10, 3))


async def test_chunks_that_leave_out_what_they_should_hold_are_read_all_the_same(
    server: ProviderServer, pool: ModelPool, spec: ModelSpec
) -> None:
    server.will(sse(chunk({"content": "ok"}), {"choices": [{"index": 0, "finish_reason": "stop"}]}, {"choices": None}))
    assert [delta.text for delta in await said(await pool.get(spec))] == ["ok"]


def usage(read: int, written: int) -> dict[str, int]:
    return {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}


async def test_the_request_carries_the_conversation_the_settings_and_the_schema_as_they_are(
    server: ProviderServer, pool: ModelPool, spec: ModelSpec
) -> None:
    server.will(sse(*text("ok")))
    model = await pool.get(spec.model_copy(update={"temperature": 0.5, "max_tokens": 99}))
    messages = [
        *HELLO,
        ChatMessage("assistant", "", (ToolCall("abc123DEF", "weather", '{"city": "Oslo"}'),)),
        ChatMessage("tool", "rain", tool_call_id="abc123DEF", tool_name="weather"),
    ]
    await said(model, ToolSchema("weather", "Tell the weather.", SCHEMA), messages=messages)
    [received] = server.received
    assert (received.method, received.path) == ("POST", "/v1/chat/completions")
    assert received.headers["authorization"] == f"Bearer {KEY}"
    assert received.body == {
        "model": "m1",
        "stream": True,
        "stream_options": {"include_usage": True},
        "temperature": 0.5,
        "max_tokens": 99,
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "hi"},
            {
                "role": "assistant",
                "content": "",
                "tool_calls": [
                    {
                        "id": "abc123DEF",
                        "type": "function",
                        "function": {"name": "weather", "arguments": '{"city": "Oslo"}'},
                    }
                ],
            },
            {"role": "tool", "content": "rain", "tool_call_id": "abc123DEF"},
        ],
        "tools": [
            {
                "type": "function",
                "function": {"name": "weather", "description": "Tell the weather.", "parameters": SCHEMA},
            }
        ],
    }


async def test_broken_arguments_are_not_sent_back_to_the_server(
    server: ProviderServer, pool: ModelPool, spec: ModelSpec
) -> None:
    server.will(sse(*text("ok")))
    messages = [
        *HELLO,
        ChatMessage("assistant", "", (ToolCall("c1", "weather", '{"city": '), ToolCall("c2", "weather", "[1]"))),
        ChatMessage("tool", "no JSON", tool_call_id="c1", tool_name="weather", tool_error=True),
        ChatMessage("tool", "no object", tool_call_id="c2", tool_name="weather", tool_error=True),
    ]
    await said(await pool.get(spec), messages=messages)
    sent = server.received[0].body["messages"][2]["tool_calls"]
    assert [call["function"]["arguments"] for call in sent] == ["{}", "{}"]


Fragments = list[dict[str, Any]]


@pytest.mark.parametrize(
    ("fragments", "calls"),
    [
        pytest.param(
            [fragment(0, "c1", "add", ""), fragment(0, arguments='{"a"'), fragment(0, arguments=": 1}")],
            [("c1", "add", '{"a": 1}')],
            id="one call in fragments",
        ),
        pytest.param(
            [
                fragment(0, "c1", "add", '{"a"'),
                fragment(1, "c2", "mul", '{"b"'),
                fragment(1, arguments=": 2}"),
                fragment(0, arguments=": 1}"),
            ],
            [("c1", "add", '{"a": 1}'), ("c2", "mul", '{"b": 2}')],
            id="two calls interleaved",
        ),
        pytest.param(
            [fragment(0, name="add", arguments='{"a": 1}'), fragment(1, name="mul", arguments='{"b": 2}')],
            [("", "add", '{"a": 1}'), ("", "mul", '{"b": 2}')],
            id="no ids",
        ),
        pytest.param(
            [fragment(0, "c1", "add", '{"a"'), fragment(0, "c1", "add", ": 1}")],
            [("c1", "add", '{"a": 1}')],
            id="id and name repeated in every fragment",
        ),
        pytest.param(
            [fragment(0, "c1", "add", '{"a": 1}'), fragment(0, "c2", "mul", '{"b": 2}')],
            [("c1", "add", '{"a": 1}'), ("c2", "mul", '{"b": 2}')],
            id="every call has index 0",
        ),
        pytest.param(
            [fragment(0, None, "add", '{"a": 1}'), fragment(0, None, "add", '{"a": 2}')],
            [("", "add", '{"a": 1}'), ("", "add", '{"a": 2}')],
            id="every call has index 0 and none an id",
        ),
        pytest.param(
            [fragment(None, "c1", "add", '{"a": 1}'), fragment(None, "c2", "add", '{"a": 2}')],
            [("c1", "add", '{"a": 1}'), ("c2", "add", '{"a": 2}')],
            id="no index",
        ),
        pytest.param([fragment(0, "c1", "ping")], [("c1", "ping", "")], id="no arguments"),
        pytest.param(
            [fragment(0, "same", "add", '{"a": 1}'), fragment(1, "same", "add", '{"a": 2}')],
            [("same", "add", '{"a": 1}'), ("same", "add", '{"a": 2}')],
            id="one id for two calls",
        ),
    ],
)
async def test_calls_are_put_together_from_fragments(
    server: ProviderServer, pool: ModelPool, spec: ModelSpec, fragments: Fragments, calls: list[tuple[str, str, str]]
) -> None:
    server.will(sse(*fragments, chunk(finish="tool_calls")))
    assert await called(pool, spec) == calls


async def test_a_whole_run_goes_through_the_server_with_parallel_calls_of_one_id(
    server: ProviderServer, pool: ModelPool, spec: ModelSpec
) -> None:
    def add(a: int) -> int:
        """Add one."""
        return a + 1

    asked = [fragment(0, "x", "add", '{"a": 1}'), fragment(1, "x", "add", '{"a": 2}')]
    server.will(sse(*asked, chunk(finish="tool_calls")), sse(*text("2 and 3", usage=(9, 4))))
    outcome = await run.run(ask(spec, tools=[add]), model_pool=pool)
    assert (outcome.status, outcome.output, outcome.usage) == (run.RunStatus.COMPLETED, "2 and 3", Usage(9, 4))
    [asking, first, second] = server.received[1].body["messages"][2:]
    ids = [call["id"] for call in asking["tool_calls"]]
    assert len(set(ids)) == 2
    assert [(first["tool_call_id"], first["content"]), (second["tool_call_id"], second["content"])] == [
        (ids[0], "2"),
        (ids[1], "3"),
    ]


ERROR = {"error": {"message": f"Wrong key: {KEY}, see docs.", "type": "t", "code": "c"}}


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (400, (chat_model.ModelRequestRejected, "rejected the request (HTTP 400")),
        (401, (chat_model.ModelRefused, "put a valid key with access to this model into TEAM_KEY")),
        (403, (chat_model.ModelRefused, "put a valid key with access to this model into TEAM_KEY")),
        (404, (chat_model.ModelRequestRejected, "check the model's name")),
        (413, (chat_model.ModelRequestRejected, "the size of the conversation")),
        (429, (chat_model.ModelRateLimited, "try again later")),
        (500, (chat_model.ModelUnavailable, "failed on its side (HTTP 500")),
        (503, (chat_model.ModelUnavailable, "try again later")),
    ],
)
async def test_a_status_says_who_has_to_act_and_never_the_key(
    server: ProviderServer, pool: ModelPool, spec: ModelSpec, status: int, expected: tuple[type[Exception], str]
) -> None:
    kind, words = expected
    server.will(json_reply(ERROR, status))
    error = await failed(pool, spec)
    assert isinstance(error, kind)
    assert "openai:m1" in str(error)
    assert words in str(error)
    assert "Wrong key: ***, see docs" in str(error)
    assert_keeps_no_secret(error)
    assert len(server.received) == 1  # no retry behind our back


def assert_keeps_no_secret(error: BaseException | None) -> None:
    """The request, with its key, must not travel along as cause or context: logs print those."""
    assert error is not None
    assert KEY not in f"{error!s} {error!r} {vars(error)}"
    assert (error.__cause__, error.__context__) == (None, None)


@pytest.mark.parametrize("wrapped", [True, False])
async def test_an_error_that_shows_a_foreign_key_is_masked_and_shortened(
    server: ProviderServer, pool: ModelPool, spec: ModelSpec, wrapped: bool
) -> None:
    said = f"for sk-proj-{'a1' * 20}:\n\n{'x' * 1000} at the end"
    server.will(json_reply({"error": {"message": said}} if wrapped else said, 502))
    error = await failed(pool, spec)
    assert "for [redacted]" in str(error)
    assert "at the end" not in str(error)
    assert "\n" not in str(error)


async def test_an_exhausted_quota_is_no_rate_limit(server: ProviderServer, pool: ModelPool, spec: ModelSpec) -> None:
    server.will(json_reply({"error": {"message": "Pay first.", "code": "insufficient_quota"}}, 429))
    error = await failed(pool, spec)
    assert isinstance(error, chat_model.ModelRefused)
    assert "no quota left" in str(error)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"Retry-After": "7"}, 7.0),
        ({"Retry-After": "7", "Retry-After-Ms": "1500"}, 1.5),
        ({"Retry-After": "soon"}, None),
        ({"Retry-After": "-3"}, None),
        ({}, None),
    ],
)
async def test_a_rate_limit_says_how_long_to_wait(
    server: ProviderServer, pool: ModelPool, spec: ModelSpec, headers: dict[str, str], seconds: float | None
) -> None:
    server.will(json_reply(ERROR, 429, headers))
    error = await failed(pool, spec)
    assert isinstance(error, chat_model.ModelRateLimited)
    assert error.retry_after == seconds


async def test_a_rate_limit_may_give_a_date(server: ProviderServer, pool: ModelPool, spec: ModelSpec) -> None:
    date = email.utils.format_datetime(datetime.now(UTC) + timedelta(hours=1), usegmt=True)
    server.will(json_reply(ERROR, 429, {"Retry-After": date}))
    error = await failed(pool, spec)
    assert isinstance(error, chat_model.ModelRateLimited)
    assert error.retry_after is not None
    assert 3000 < error.retry_after <= 3600


async def test_a_server_that_is_not_there_is_unavailable_at_its_address(pool: ModelPool) -> None:
    async with ProviderServer() as gone:
        address = gone.url
    error = await failed(
        pool, ModelSpec(provider="openai", name="m1", base_url=f"{address}/v1", api_key_env="TEAM_KEY")
    )
    assert isinstance(error, chat_model.ModelUnavailable)
    assert f"cannot be reached at {address}/v1" in str(error)
    assert "check that the server runs" in str(error)
    assert_keeps_no_secret(error)


@pytest.mark.parametrize(
    ("reply", "type"),
    [
        pytest.param(sse(*text("Good", "bye", finish=None)), chat_model.AnswerTruncated, id="no finish reason"),
        pytest.param(sse(*text("Good", "bye", finish=None), done=False), chat_model.AnswerTruncated, id="just ends"),
        pytest.param(broken_off(*text("Good", "bye", finish=None)), chat_model.ModelUnavailable, id="connection lost"),
        pytest.param(sse(*text("Good", "bye", finish="length")), chat_model.AnswerTruncated, id="token limit"),
        pytest.param(sse(*text("Good", "bye", finish="content_filter")), chat_model.AnswerBlocked, id="filter"),
        pytest.param(sse(*text("Good", "bye", finish="oops")), chat_model.AnswerMalformed, id="unknown end"),
        pytest.param(
            sse(*text("Good", "bye", finish=None), {"error": {"message": "overloaded", "code": "server_error"}}),
            chat_model.ModelUnavailable,
            id="error in the stream",
        ),
        pytest.param(
            sse(*text("Good", "bye", finish=None), {"error": {"message": "slow down", "type": "rate_limit_exceeded"}}),
            chat_model.ModelRateLimited,
            id="rate limit in the stream",
        ),
        pytest.param(sse(*text("Good", "bye", finish=None), "{not json"), chat_model.AnswerMalformed, id="no json"),
        pytest.param(
            sse(*text("Good", "bye", finish=None), chunk({"refusal": "I can not."}), chunk(finish="stop")),
            chat_model.AnswerBlocked,
            id="refusal",
        ),
    ],
)
async def test_half_an_answer_is_an_error_that_keeps_the_half(
    server: ProviderServer, pool: ModelPool, spec: ModelSpec, reply: Any, type: type[Exception]
) -> None:
    server.will(reply)
    outcome = await run.run(ask(spec), model_pool=pool)
    assert outcome.status is run.RunStatus.FAILED
    assert outcome.error is not None
    assert outcome.error.type == type.__name__, outcome.error
    assert outcome.output == "Goodbye"


async def test_no_answer_at_all_is_an_error(server: ProviderServer, pool: ModelPool, spec: ModelSpec) -> None:
    server.will(json_reply({"object": "chat.completion", "choices": []}))
    assert isinstance(await failed(pool, spec), chat_model.AnswerTruncated)


async def test_calls_cut_at_the_token_limit_are_an_error_but_whole_ones_are_made(
    server: ProviderServer, pool: ModelPool, spec: ModelSpec
) -> None:
    whole = fragment(0, "c1", "add", '{"a": 1}')
    server.will(sse(whole, fragment(1, "c2", "add", '{"a": '), chunk(finish="length")))
    assert isinstance(await failed(pool, spec), chat_model.AnswerTruncated)
    server.will(sse(whole, chunk(finish="length")))
    assert await called(pool, spec) == [("c1", "add", '{"a": 1}')]


async def test_a_cut_answer_is_paid_for(server: ProviderServer, pool: ModelPool, spec: ModelSpec) -> None:
    server.will(sse(*text("Good", finish="length", usage=(5, 1))))
    outcome = await run.run(ask(spec), model_pool=pool)
    assert (outcome.status, outcome.usage) == (run.RunStatus.FAILED, Usage(5, 1))


async def test_cancelling_a_run_hangs_up_on_the_server_and_keeps_what_was_said(
    server: ProviderServer, pool: ModelPool, spec: ModelSpec
) -> None:
    lost, cancel = asyncio.Event(), asyncio.Event()
    server.will(held(*text("I am", finish=None), begun=asyncio.Event(), lost=lost))
    outcome = await run.run(ask(spec), model_pool=pool, emit=lambda _event: cancel.set(), cancel=cancel)
    assert (outcome.status, outcome.output) == (run.RunStatus.CANCELLED, "I am")
    await lost.wait()


async def test_a_server_that_says_nothing_is_left_when_the_run_is_cancelled(
    server: ProviderServer, pool: ModelPool, spec: ModelSpec
) -> None:
    begun, lost = asyncio.Event(), asyncio.Event()
    server.will(held(begun=begun, lost=lost))
    task = asyncio.create_task(run.run(ask(spec), model_pool=pool))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await lost.wait()


async def test_one_server_serves_many_runs_and_models_at_once(
    server: ProviderServer, pool: ModelPool, spec: ModelSpec
) -> None:
    specs = [spec.model_copy(update={"name": f"m{number}"}) for number in range(6)]
    server.will(*(sse(*text("ok")) for _ in specs))
    outcomes = await asyncio.gather(*(run.run(ask(each), model_pool=pool) for each in specs))
    assert {outcome.output for outcome in outcomes} == {"ok"}
    assert {received.body["model"] for received in server.received} == {f"m{number}" for number in range(6)}


async def test_an_error_is_said_once_and_never_printed_by_agno(
    server: ProviderServer, pool: ModelPool, spec: ModelSpec, capfd: pytest.CaptureFixture[str]
) -> None:
    server.will(json_reply(ERROR, 500))
    await failed(pool, spec)
    assert capfd.readouterr() == ("", "")


async def test_a_key_is_never_part_of_what_is_printed_of_a_model(pool: ModelPool, spec: ModelSpec) -> None:
    model = await pool.get(spec)
    assert KEY not in f"{model!r} {pool!r} {spec!r} {json.dumps(spec.model_dump())}"
    assert "openai:m1" in repr(model)


@pytest.mark.parametrize(("must_call", "choice"), [(True, "required"), (False, None)])
async def test_a_model_that_must_call_a_tool_is_told_so_in_the_protocols_own_words(
    server: ProviderServer, pool: ModelPool, spec: ModelSpec, must_call: bool, choice: str | None
) -> None:
    server.will(sse(*text("ok")))
    tool = ToolSchema("look", "Look.", {"type": "object", "properties": {}})
    stream = (await pool.get(spec)).stream(HELLO, [tool], must_call=must_call)
    assert [delta.text async for delta in stream if delta.text] == ["ok"]
    assert server.received[0].body.get("tool_choice") == choice
