"""What the engine says is read right however it is cut, and an answer without its end is never taken for one."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest

from cirkelline.agents import local_wire

OK = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
Serve = Callable[..., AbstractAsyncContextManager[Path]]


@pytest.fixture
def serve(tmp_path_factory: pytest.TempPathFactory) -> Serve:
    """Return what plays an engine that gives the same answer, in these pieces, to everybody."""

    @contextlib.asynccontextmanager
    async def serving(*pieces: bytes, asked: list[bytes] | None = None) -> AsyncIterator[Path]:
        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            head = await reader.readuntil(b"\r\n\r\n")
            body = await reader.readexactly(int(head.split(b"Content-Length: ")[1].split(b"\r\n")[0]))
            if asked is not None:
                asked.extend((head, body))
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(0)
            writer.close()

        socket = tmp_path_factory.mktemp("e") / "s"
        async with await asyncio.start_unix_server(answer, socket):
            yield socket

    return serving


def _chunk(content: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(content), content)


async def _said(socket: Path) -> list[Any]:
    return [chunk async for chunk in local_wire.chat(socket, "key", {"stream": True})]


async def test_a_request_carries_its_key_and_its_body(serve: Serve) -> None:
    asked: list[bytes] = []
    async with serve(OK, _chunk(b"data: [DONE]\n\n"), asked=asked) as socket:
        assert await _said(socket) == []
    assert asked[0].startswith(b"POST /v1/chat/completions HTTP/1.1\r\n")
    assert b"\r\nAuthorization: Bearer key\r\n" in asked[0]
    assert json.loads(asked[1]) == {"stream": True}


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
async def test_events_cut_anywhere_come_out_whole(serve: Serve, size: int) -> None:
    events = 'data: {"a": "æøå 😀"}\n\n: ping\n\ndata: {"b": "\\n"}\n\ndata: [DONE]\n\n'.encode()
    body = b"".join(_chunk(events[at : at + size]) for at in range(0, len(events), size)) + b"0\r\n\r\n"
    pieces = [(OK + body)[at : at + size * 3] for at in range(0, len(OK + body), size * 3)]
    async with serve(*pieces) as socket:
        assert await _said(socket) == [{"a": "æøå 😀"}, {"b": "\n"}]


@pytest.mark.parametrize(
    "pieces",
    [
        (OK, _chunk(b'data: {"a": 1}\n\n'), b"0\r\n\r\n"),
        (OK, _chunk(b'data: {"a": 1}\n\n')),
        (OK, _chunk(b'data: {"a": 1}\n\n')[:10]),
        (OK[:30],),
        (),
    ],
    ids=["no-done", "no-last-chunk", "half-a-chunk", "half-a-head", "nothing"],
)
async def test_an_answer_without_its_end_is_an_error(serve: Serve, pieces: tuple[bytes, ...]) -> None:
    async with serve(*pieces) as socket:
        with pytest.raises(EOFError):
            await _said(socket)


@pytest.mark.parametrize(
    "pieces",
    [
        (b'HTTP/1.1 400 Bad\r\nContent-Length: 40\r\n\r\n{"error": {"message": "no", "type": "t"}}',),
        (OK, _chunk(b'data: {"error": {"message": "no", "type": "t"}}\n\n')),
        (OK, _chunk(b'error: {"error": {"message": "no", "type": "t"}}\n\n')),
    ],
    ids=["status", "event", "error-event"],
)
async def test_the_engines_own_refusal_is_told_from_a_broken_line(serve: Serve, pieces: tuple[bytes, ...]) -> None:
    async with serve(*pieces) as socket:
        with pytest.raises(local_wire.Refused, match=r"^no$"):
            await _said(socket)


async def test_a_refusal_without_words_still_has_its_status(serve: Serve) -> None:
    async with serve(b"HTTP/1.1 503 Busy\r\n\r\nnot json") as socket:
        with pytest.raises(local_wire.Refused, match="it answers 503"):
            await _said(socket)
