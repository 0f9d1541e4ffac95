"""The few lines of HTTP that the engine speaks: one request, one stream of events, over a socket in a folder of ours.

By hand, since closing the connection is what stops the engine: that must happen at once, and not when a pool sees fit.
"""

from __future__ import annotations

import asyncio
import json
from asyncio import StreamReader
from collections.abc import AsyncGenerator, Mapping
from pathlib import Path
from typing import Any, Final

_OK: Final = 200
_LONGEST_HEAD: Final = 1 << 16


class Refused(Exception):
    """The engine answered with an error; the message is its own, and two counts come with a conversation too long."""

    def __init__(self, message: str, error: Mapping[str, Any]) -> None:
        super().__init__(message)
        self.prompt_tokens = error.get("n_prompt_tokens")
        self.context = error.get("n_ctx")


async def chat(socket: Path, key: str, request: Mapping[str, Any]) -> AsyncGenerator[Mapping[str, Any]]:
    """Send a chat completion; yield its chunks until the engine says it is done.

    Raises Refused for the engine's own errors, OSError or EOFError when the connection fails or ends too early.
    """
    reader, writer = await asyncio.open_unix_connection(str(socket), limit=_LONGEST_HEAD)
    try:
        writer.write(_head_and_body("POST", "/v1/chat/completions", key, json.dumps(request).encode()))
        await writer.drain()
        status, chunked = await _answer(reader)
        if status != _OK:
            raise _refused(b"".join([piece async for piece in _body(reader, chunked)]), status)
        async for event in _events(_body(reader, chunked)):
            if event == "[DONE]":
                return
            chunk = json.loads(event)
            if "error" in chunk:
                raise _refused(event.encode(), status)
            yield chunk
        raise EOFError("the answer has no end")
    finally:
        writer.transport.abort()


def _head_and_body(method: str, path: str, key: str, body: bytes) -> bytes:
    head = [
        f"{method} {path} HTTP/1.1",
        "Host: engine",
        "Connection: close",
        f"Authorization: Bearer {key}",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
    ]
    return "\r\n".join([*head, "", ""]).encode() + body


async def _answer(reader: StreamReader) -> tuple[int, bool]:
    """Return an answer's status, and whether its body comes in chunks."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
    return int(head.split(maxsplit=2)[1]), "transfer-encoding: chunked" in head


async def _body(reader: StreamReader, chunked: bool) -> AsyncGenerator[bytes]:
    while chunked:
        size = int((await reader.readuntil(b"\r\n")).split(b";")[0], 16)
        if not size:
            return
        yield (await reader.readexactly(size + 2))[:-2]
    while piece := await reader.read(_LONGEST_HEAD):
        yield piece


async def _events(body: AsyncGenerator[bytes]) -> AsyncGenerator[str]:
    """Yield the data of server-sent events, which may be cut anywhere."""
    rest = b""
    async for piece in body:
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            name, _, data = line.partition(b":")
            if name in {b"data", b"error"}:
                yield data.strip().decode()


def _refused(body: bytes, status: int) -> Refused:
    try:
        error = json.loads(body)["error"]
        return Refused(str(error["message"]), error)
    except (ValueError, KeyError, TypeError):
        return Refused(f"it answers {status}", {})
