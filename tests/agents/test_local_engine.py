"""The engine itself, with the small model: it answers, stops when told, is shared, is closed to others, and leaves nothing.

What the model says is its own affair; these tests look at the form of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import stat
import subprocess
import sys
import textwrap
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path

import local_weights
import psutil
import pytest

from cirkelline.agents import local, local_engine
from cirkelline.agents.chat_model import (
    AnswerTruncated,
    ChatMessage,
    Delta,
    ModelRequestRejected,
    ToolCall,
    ToolSchema,
)
from cirkelline.agents.local import LocalChatModel, LocalServer
from cirkelline.agents.local_engine import Engine, EngineFailed

pytestmark = pytest.mark.xdist_group("local model")

PATIENCE = 240
"""Seconds after which something hangs: a busy machine is slow, and none of these takes a tenth of it on an idle one."""
CALCULATE = ToolSchema(
    "calculate",
    "Calculate an arithmetic expression exactly. Use it for every sum instead of guessing.",
    {"type": "object", "properties": {"expression": {"type": "string"}}, "required": ["expression"]},
)


@pytest.fixture(scope="module")
def path() -> Path:
    return local_weights.small_model()


@pytest.fixture(scope="module")
def engine(path: Path) -> Iterator[Engine]:
    engine = local.open_engine(path)
    yield engine
    local_engine.release(engine)


def _model(engine: Engine, max_tokens: int = 100) -> LocalChatModel:
    return LocalChatModel("local:small", engine, temperature=0.0, max_tokens=max_tokens, seed=1)


def _user(text: str) -> list[ChatMessage]:
    return [ChatMessage("user", text)]


async def _all(deltas: AsyncGenerator[Delta]) -> list[Delta]:
    async with asyncio.timeout(PATIENCE):
        return [delta async for delta in deltas]


async def test_text_is_streamed_and_its_tokens_are_counted(engine: Engine) -> None:
    *pieces, last = await _all(_model(engine).stream(_user("Count from 1 to 5."), []))
    assert len([piece for piece in pieces if piece.text]) > 3
    assert last.usage
    assert last.usage.input_tokens > 5
    assert last.usage.output_tokens >= len(pieces)


SUMS = ("Use calculate to work out 37 * 41 + 6.", "Calculate 3718 * 4127.", "What is 37 * 41 + 6?", "calculate 12 * 12")


async def test_a_question_that_needs_a_tool_gets_a_call_that_fits_its_parameters(engine: Engine) -> None:
    calls: list[ToolCall] = []
    for question in SUMS:  # whether so small a model calls at all is its own affair; what a call looks like is ours
        deltas = await _all(_model(engine).stream(_user(question), [CALCULATE]))
        calls += [call for delta in deltas for call in delta.tool_calls]
        if calls:
            break
    (call,) = calls
    assert call.name == "calculate"
    arguments = json.loads(call.arguments)
    assert arguments.keys() == {"expression"}
    assert isinstance(arguments["expression"], str)
    assert not any(delta.text for delta in deltas)


async def test_a_greeting_with_tools_at_hand_is_answered_in_streamed_text(engine: Engine) -> None:
    *pieces, last = await _all(_model(engine).stream(_user("Hello!"), [CALCULATE]))
    assert len([piece for piece in pieces if piece.text]) > 1
    assert last.usage


@pytest.mark.parametrize("tools", [[], [CALCULATE]])
async def test_an_answer_cut_at_the_token_limit_is_an_error(engine: Engine, tools: list[ToolSchema]) -> None:
    with pytest.raises(AnswerTruncated, match="cut at 6 tokens"):
        await _all(_model(engine, max_tokens=6).stream(_user("Count from 1 to 50."), tools))


async def test_a_conversation_too_long_for_the_model_is_refused_with_both_numbers(engine: Engine) -> None:
    with pytest.raises(ModelRequestRejected, match=r"has \d{5} tokens, and the local model reads 8192"):
        await _all(_model(engine).stream(_user("word " * 10_000), []))


async def test_every_kind_of_parameter_is_a_schema_the_engine_takes(engine: Engine) -> None:
    kinds = {
        "text": {"type": "string", "minLength": 2, "pattern": r"^(?=x)\w+$", "format": "date"},
        "number": {"anyOf": [{"type": "number", "exclusiveMinimum": 0.5}, {"type": "null"}], "default": None},
        "choice": {"enum": ["a", "ø", 3]},
        "list": {"type": "array", "items": {"type": "array", "items": {}}, "maxItems": 100_000},
        "pair": {
            "type": "array",
            "prefixItems": [{"type": "string"}, {"type": "integer"}],
            "minItems": 2,
            "maxItems": 2,
        },
        "map": {"type": "object", "additionalProperties": {"type": "integer"}},
        "either": {
            "oneOf": [
                {"type": "object", "properties": {"kind": {"const": "x"}}, "required": ["kind"]},
                {"type": "null"},
            ]
        },
        "anything": {},
        "several": {"type": ["string", "null"]},
    }
    parameters = {"type": "object", "properties": kinds, "required": list(kinds), "additionalProperties": False}
    with contextlib.suppress(AnswerTruncated):  # which answer it gives, and whether it ends it, is the model's affair
        await _all(_model(engine, max_tokens=2).stream(_user("Go."), [ToolSchema("all", "Takes all.", parameters)]))


async def test_an_answer_that_is_given_up_frees_the_engine(engine: Engine) -> None:
    endless = _model(engine, max_tokens=8000).stream(_user("Count from 1 to 100000, every number on its own line."), [])
    await anext(endless)
    await endless.aclose()
    assert await _all(_model(engine, max_tokens=50).stream(_user("Say yes."), []))  # else it waits for 8000 tokens


async def test_an_answer_that_is_cancelled_while_it_waits_its_turn_is_never_begun(engine: Engine) -> None:
    first = _model(engine, max_tokens=8000).stream(_user("Count from 1 to 100000, every number on its own line."), [])
    await anext(first)
    waiting = [asyncio.create_task(_all(_model(engine, 8000).stream(_user(f"Count from {n}."), []))) for n in range(3)]
    await anext(first)
    for task in waiting:
        task.cancel()
    assert [type(end) for end in await asyncio.gather(*waiting, return_exceptions=True)] == [asyncio.CancelledError] * 3
    await first.aclose()
    assert await _all(_model(engine, max_tokens=50).stream(_user("Say yes."), []))


async def test_one_engine_serves_all_who_open_the_same_file(engine: Engine, path: Path) -> None:
    pid = await engine.start()
    async with LocalServer(path) as one, LocalServer(path) as two:
        for server in (one, two):
            await _all(server.model("local:small", "small", 0.0, 20).stream(_user("Say yes."), []))
        engines = [child for child in psutil.Process().children() if "local_process" in " ".join(child.cmdline())]
        assert [child.pid for child in engines] == [pid]
    assert psutil.pid_exists(pid)  # two gave it back, and one still has it
    with pytest.raises(ModelRequestRejected):
        one.model("local:small", "small", None, None)


async def test_the_engine_listens_nowhere_but_in_a_folder_of_ours(engine: Engine) -> None:
    process = psutil.Process(await engine.start())
    assert process.net_connections(kind="inet") == []
    folder = _socket(engine).parent
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


async def test_nobody_without_the_key_gets_an_answer(engine: Engine) -> None:
    await engine.start()
    reached = {path: _status(_socket(engine), path, key) for path in _ENDPOINTS for key in (None, "wrong")}
    assert reached == dict.fromkeys(_ENDPOINTS, 401)
    assert _status(_socket(engine), "/", None) == 404  # no page for browsers
    # The one that is open tells that the process lives, which whoever reaches the socket knows.
    assert _status(_socket(engine), "/health", None) == 200


_ENDPOINTS = (
    "/props",
    "/slots",
    "/metrics",
    "/models",
    "/v1/models",
    "/api/tags",
    "/lora-adapters",
    "/v1/chat/completions",
    "/completion",
    "/tokenize",
    "/infill",
    "/embedding",
    "/apply-template",
)


def _socket(engine: Engine) -> Path:
    assert engine._running
    return engine._running.result().socket


def _status(path: Path, endpoint: str, key: str | None) -> int:
    with socket.socket(socket.AF_UNIX) as line:
        line.connect(str(path))
        authorization = f"Authorization: Bearer {key}\r\n" if key else ""
        line.sendall(f"GET {endpoint} HTTP/1.1\r\nHost: x\r\n{authorization}Connection: close\r\n\r\n".encode())
        return int(line.recv(64).split()[1])


@pytest.mark.skipif(os.getuid() != 0, reason="only root can act as another user")
def test_another_user_of_the_machine_cannot_reach_the_engine(engine: Engine) -> None:
    asyncio.run(engine.start())
    # The interpreter starts as ourselves: the other user may not even be able to run it.
    script = "import os, socket, sys; os.setgroups([]); os.setgid(int(sys.argv[2])); os.setuid(int(sys.argv[2])); "
    script += "socket.socket(socket.AF_UNIX).connect(sys.argv[1])"
    ours, theirs = (
        subprocess.run(
            [sys.executable, "-c", script, str(_socket(engine)), user], check=False, capture_output=True, text=True
        )
        for user in ("0", "65534")
    )
    assert ours.returncode == 0
    assert "PermissionError" in theirs.stderr


async def test_the_engine_knows_none_of_our_secrets(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-known-to-us")
    monkeypatch.setenv("DATABASE_URL", "postgresql://a:b@c/d")
    async with _own_engine(path) as engine:
        process = psutil.Process(await engine.start())
        assert not {"OPENAI_API_KEY", "DATABASE_URL"} & process.environ().keys()
        assert _running_key(engine) not in " ".join([*process.cmdline(), *process.environ().values()])


def _running_key(engine: Engine) -> str:
    assert engine._running
    return engine._running.result().key


@contextlib.asynccontextmanager
async def _own_engine(path: Path) -> AsyncGenerator[Engine]:
    """An engine apart from the shared one, as its context differs."""
    engine = local_engine.open_engine(path, context=512)
    try:
        yield engine
    finally:
        local_engine.release(engine)


async def test_an_engine_that_is_killed_is_one_sentence_and_the_next_request_starts_another(path: Path) -> None:
    async with _own_engine(path) as engine:
        endless = _model(engine, max_tokens=400).stream(_user("Count from 1 to 100000."), [])
        await anext(endless)
        pid, folder = await engine.start(), _socket(engine).parent
        psutil.Process(pid).kill()
        with pytest.raises(EngineFailed, match=r"killed by the system.*the next request starts it again"):
            await _all(endless)
        assert await _all(_model(engine, 50).stream(_user("Say yes."), []))
        assert await engine.start() != pid
        assert not folder.exists()


async def test_who_gives_up_waiting_for_the_model_does_not_stop_the_others(path: Path) -> None:
    async with _own_engine(path) as engine:
        hasty, patient = asyncio.create_task(engine.start()), asyncio.create_task(engine.start())
        await asyncio.sleep(0)
        hasty.cancel()
        with pytest.raises(asyncio.CancelledError):
            await hasty
        assert psutil.pid_exists(await patient)


async def test_the_last_to_give_an_engine_back_ends_its_process_and_its_folder(path: Path) -> None:
    async with _own_engine(path) as engine:
        pid, folder = await engine.start(), _socket(engine).parent
    assert not psutil.pid_exists(pid)
    assert not folder.exists()


async def test_a_file_that_is_no_model_is_one_sentence_and_leaves_no_process(tmp_path: Path) -> None:
    (tmp_path / "broken.gguf").write_bytes(b"GGUF" + bytes(range(256)) * 40)
    before = set(psutil.Process().children())
    async with LocalServer(tmp_path / "broken.gguf") as server:
        with pytest.raises(EngineFailed, match=r"broken.gguf cannot be loaded: .+") as failed:
            await _all(server.model("local:broken", "broken", None, None).stream(_user("Hello"), []))
    assert "\n" not in str(failed.value)
    assert set(psutil.Process().children()) == before


def test_an_engine_ends_with_its_parent_however_that_ends_and_prints_nothing(path: Path) -> None:
    script = textwrap.dedent("""
        import asyncio, os, pathlib, signal, sys, structlog
        from cirkelline.agents import local_engine
        structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
        engine = local_engine.open_engine(pathlib.Path(sys.argv[1]), context=512)
        print(asyncio.run(engine.start()), engine._running.result().folder, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    """)
    ended = subprocess.run(
        [sys.executable, "-c", script, str(path)], capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert ended.stderr == ""
    pid, folder = ended.stdout.split()
    with contextlib.suppress(psutil.NoSuchProcess):
        psutil.Process(int(pid)).wait(timeout=PATIENCE)
    assert not Path(folder).exists()


async def test_a_model_that_must_call_does_so_even_for_a_greeting_and_gives_arguments_of_the_right_form(
    engine: Engine,
) -> None:
    *made, last = await _all(_model(engine).stream(_user("Hello!"), [CALCULATE], must_call=True))
    (call,) = [call for delta in made for call in delta.tool_calls]
    assert call.name == "calculate"
    assert isinstance(json.loads(call.arguments)["expression"], str)
    assert not any(delta.text for delta in made)
    assert last.usage


async def test_one_of_some_words_is_all_that_a_model_can_answer_where_a_tool_takes_that(engine: Engine) -> None:
    parameters = {"type": "object", "properties": {"mood": {"enum": ["glad", "sad"]}}, "required": ["mood"]}
    deltas = await _all(
        _model(engine).stream(_user("Hello!"), [ToolSchema("tell", "Tell.", parameters)], must_call=True)
    )
    assert json.loads(deltas[0].tool_calls[0].arguments)["mood"] in {"glad", "sad"}
