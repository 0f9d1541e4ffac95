"""`gemini:` models, through google-genai, against a server that speaks its protocol."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest
from agent_runs import ask
from provider_server import ProviderServer, broken_off, candidate, held, json_reply, sse

from cirkelline.agents import chat_model, run
from cirkelline.agents.chat_model import ChatMessage, Delta, ToolCall, ToolSchema, Usage
from cirkelline.agents.models import ModelPool
from cirkelline.configs.schema import ModelSpec

KEY = "AIzaSyD-3141592653589793238462643383279"
SPEC = ModelSpec(provider="gemini", name="gemini-x")
SIGNATURE = base64.b64encode(b"what it thought").decode()
SCHEMA = {
    "type": "object",
    "properties": {"city": {"anyOf": [{"type": "string"}, {"type": "integer"}], "default": "Oslo"}},
    "additionalProperties": False,
}


@pytest.fixture
async def pool(server: ProviderServer) -> AsyncIterator[ModelPool]:
    async with ModelPool({"GOOGLE_API_KEY": KEY, "GOOGLE_GEMINI_BASE_URL": server.url}) as pool:
        yield pool


def add(a: int) -> int:
    """Add one."""
    return a + 1


def call(name: str, arguments: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    return {"functionCall": {"name": name, "args": dict(arguments), **more}}


def streamed(*answers: object) -> Any:
    return sse(*answers, done=False)  # Gemini says its last word with finishReason


async def deltas(pool: ModelPool, *tools: ToolSchema, messages: tuple[ChatMessage, ...] = ()) -> list[Delta]:
    model = await pool.get(SPEC)
    return [delta async for delta in model.stream(messages or (ChatMessage("user", "hi"),), tools)]


async def test_text_arrives_in_pieces_and_thoughts_are_counted_but_not_said(
    server: ProviderServer, pool: ModelPool
) -> None:
    server.will(
        streamed(
            candidate([{"text": "hmm", "thought": True}]),
            candidate([{"text": "Good"}], usage=(7, 1, 5)),
            candidate([{"text": "bye"}], "STOP", usage=(7, 2, 5)),
        )
    )
    assert await deltas(pool) == [Delta("Good"), Delta("bye"), Delta(usage=Usage(7, 7))]


async def test_the_request_carries_the_conversation_the_settings_and_the_schema_as_they_are(
    server: ProviderServer, pool: ModelPool
) -> None:
    server.will(streamed(candidate([{"text": "ok"}], "STOP")))
    model = await pool.get(SPEC.model_copy(update={"temperature": 0.5, "max_tokens": 99}))
    messages = [
        ChatMessage("system", "Be brief."),
        ChatMessage("user", "hi"),
        ChatMessage("assistant", "", (ToolCall("c1", "weather", '{"city": "Oslo"}', SIGNATURE),)),
        ChatMessage("tool", "rain", tool_call_id="c1", tool_name="weather"),
        ChatMessage("assistant", ""),
        ChatMessage("system", "Be kind."),
        ChatMessage("user", "thanks"),
    ]
    assert [delta.text async for delta in model.stream(messages, [ToolSchema("weather", "Tell it.", SCHEMA)])] == ["ok"]
    [received] = server.received
    assert received.path.endswith("/models/gemini-x:streamGenerateContent?alt=sse")
    assert received.headers["x-goog-api-key"] == KEY
    assert received.body["systemInstruction"]["parts"] == [{"text": "Be brief.\n\nBe kind."}]
    assert received.body["generationConfig"] == {"temperature": 0.5, "maxOutputTokens": 99}
    [declared] = received.body["tools"][0]["functionDeclarations"]
    # The API takes either spelling, and releases of the SDK differ.
    schema = declared.get("parametersJsonSchema", declared.get("parameters_json_schema"))
    assert (declared["name"], declared["description"], schema) == ("weather", "Tell it.", SCHEMA)
    [user, asking, answered] = received.body["contents"]
    assert user == {"role": "user", "parts": [{"text": "hi"}]}
    [part] = asking["parts"]
    assert part["functionCall"] == {"name": "weather", "args": {"city": "Oslo"}}
    assert base64.b64decode(part["thoughtSignature"] + "==", altchars=b"-_") == b"what it thought"
    assert answered["parts"][0]["functionResponse"] == {"name": "weather", "response": {"result": "rain"}}
    assert answered["parts"][-1] == {"text": "thanks"}


async def test_a_whole_run_calls_tools_and_gives_the_thought_signature_back(
    server: ProviderServer, pool: ModelPool
) -> None:
    asked = [{**call("add", {"a": 1}), "thoughtSignature": SIGNATURE}, call("add", {"a": 2})]
    server.will(
        streamed(candidate(asked, "STOP", usage=(5, 2, 0))),
        streamed(candidate([{"text": "2 and 3"}], "STOP", usage=(9, 3, 0))),
    )
    outcome = await run.run(ask(SPEC, tools=[add]), model_pool=pool)
    assert (outcome.status, outcome.output, outcome.usage) == (run.RunStatus.COMPLETED, "2 and 3", Usage(14, 5))
    [_, asking, answered] = server.received[1].body["contents"]
    signatures = [part.get("thoughtSignature") for part in asking["parts"]]
    assert signatures[0] is not None
    assert signatures[1] is None
    assert [part["functionResponse"]["response"] for part in answered["parts"]] == [{"result": "2"}, {"result": "3"}]


async def test_ids_are_geminis_own_or_left_for_us_to_give(server: ProviderServer, pool: ModelPool) -> None:
    server.will(streamed(candidate([call("add", {"a": 1}, id="g1"), call("add", {"a": 2})], "STOP")))
    [only] = await deltas(pool)
    assert [(each.id, each.arguments) for each in only.tool_calls] == [("g1", '{"a": 1}'), ("", '{"a": 2}')]


ERROR = {"error": {"code": 429, "message": f"Slow down, {KEY}.", "status": "RESOURCE_EXHAUSTED"}}
RETRY = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "34.5s"}
BAD_KEY = {
    "error": {
        "code": 400,
        "message": "API key not valid. Please pass a valid API key.",
        "status": "INVALID_ARGUMENT",
        "details": [{"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "API_KEY_INVALID"}],
    }
}


async def failed(pool: ModelPool) -> chat_model.ModelError:
    with pytest.raises(chat_model.ModelError) as caught:
        await deltas(pool)
    error = caught.value
    assert KEY not in f"{error!s} {error!r} {vars(error)}"
    assert (error.__cause__, error.__context__) == (None, None)
    return error


async def test_a_rate_limit_says_how_long_to_wait(server: ProviderServer, pool: ModelPool) -> None:
    server.will(json_reply({"error": {**ERROR["error"], "details": [RETRY]}}, 429))
    error = await failed(pool)
    assert isinstance(error, chat_model.ModelRateLimited)
    assert error.retry_after == 34.5
    assert len(server.received) == 1  # no retry behind our back


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (400, BAD_KEY, chat_model.ModelRefused),
        (403, {"error": {"code": 403, "message": "no", "status": "PERMISSION_DENIED"}}, chat_model.ModelRefused),
        (
            404,
            {"error": {"code": 404, "message": "no such model", "status": "NOT_FOUND"}},
            chat_model.ModelRequestRejected,
        ),
        (
            400,
            {"error": {"code": 400, "message": "bad", "status": "INVALID_ARGUMENT"}},
            chat_model.ModelRequestRejected,
        ),
        (503, {"error": {"code": 503, "message": "overloaded", "status": "UNAVAILABLE"}}, chat_model.ModelUnavailable),
    ],
)
async def test_a_status_says_who_has_to_act(
    server: ProviderServer, pool: ModelPool, status: int, body: object, kind: type[Exception]
) -> None:
    server.will(json_reply(body, status))
    error = await failed(pool)
    assert isinstance(error, kind)
    assert "gemini:gemini-x" in str(error)
    if kind is chat_model.ModelRefused:
        assert "GOOGLE_API_KEY" in str(error)


@pytest.mark.parametrize(
    ("reply", "type"),
    [
        pytest.param(streamed(candidate([{"text": "Hello"}])), "AnswerTruncated", id="no finish reason"),
        pytest.param(broken_off(candidate([{"text": "Hello"}])), "ModelUnavailable", id="connection lost"),
        pytest.param(streamed(candidate([{"text": "Hello"}], "MAX_TOKENS")), "AnswerTruncated", id="token limit"),
        pytest.param(streamed(candidate([{"text": "Hello"}], "SAFETY")), "AnswerBlocked", id="filter"),
        pytest.param(
            streamed(candidate([{"text": "Hello"}]), {"promptFeedback": {"blockReason": "PROHIBITED_CONTENT"}}),
            "AnswerBlocked",
            id="blocked prompt",
        ),
        pytest.param(
            streamed(candidate([{"text": "Hello"}], "MALFORMED_FUNCTION_CALL")), "AnswerMalformed", id="malformed call"
        ),
    ],
)
async def test_half_an_answer_is_an_error_that_keeps_the_half(
    server: ProviderServer, pool: ModelPool, reply: Any, type: str
) -> None:
    server.will(reply)
    outcome = await run.run(ask(SPEC), model_pool=pool)
    assert outcome.status is run.RunStatus.FAILED
    assert outcome.error is not None
    assert outcome.error.type == type, outcome.error
    assert outcome.output == "Hello"
    assert len(server.received) == 1


async def test_a_server_that_is_not_there_is_unavailable_at_once(pool: ModelPool) -> None:
    async with ProviderServer() as gone:
        address = gone.url
    async with ModelPool({"GOOGLE_API_KEY": KEY, "GOOGLE_GEMINI_BASE_URL": address}) as elsewhere:
        error = await failed(elsewhere)
    assert isinstance(error, chat_model.ModelUnavailable)
    assert address in str(error)
    del pool


async def test_cancelling_a_run_hangs_up_and_keeps_what_was_said(server: ProviderServer, pool: ModelPool) -> None:
    lost, cancel = asyncio.Event(), asyncio.Event()
    server.will(held(candidate([{"text": "I am"}]), begun=asyncio.Event(), lost=lost))
    outcome = await run.run(ask(SPEC), model_pool=pool, emit=lambda _event: cancel.set(), cancel=cancel)
    assert (outcome.status, outcome.output) == (run.RunStatus.CANCELLED, "I am")
    await lost.wait()


async def test_switches_for_googles_other_service_do_not_send_the_conversation_there(
    server: ProviderServer, pool: ModelPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GOOGLE_GENAI_USE_VERTEXAI", "true")
    monkeypatch.setenv("GOOGLE_CLOUD_PROJECT", "somebody-elses")
    monkeypatch.setenv("GOOGLE_CLOUD_LOCATION", "global")
    server.will(streamed(candidate([{"text": "ok"}], "STOP")))
    assert await deltas(pool) == [Delta("ok")]
    [received] = server.received
    assert received.headers["x-goog-api-key"] == KEY
    assert "projects" not in received.path
    assert "publishers" not in received.path


async def test_a_model_that_must_call_a_tool_is_told_so(server: ProviderServer, pool: ModelPool) -> None:
    server.will(streamed(candidate([call("weather", {"city": "Aarhus"})], "STOP")))
    model = await pool.get(SPEC)
    tools = [ToolSchema("weather", "Tell it.", SCHEMA)]
    made = [delta async for delta in model.stream([ChatMessage("user", "hi")], tools, must_call=True)]
    assert [each.name for delta in made for each in delta.tool_calls] == ["weather"]
    assert server.received[0].body["toolConfig"] == {"functionCallingConfig": {"mode": "ANY"}}
