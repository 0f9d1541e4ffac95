"""A server of models that keeps each request's body as it came, and answers in the protocol it was asked in."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import Sequence
from typing import Any, Self


class RecordingServer:
    """`bodies` are the requests so far; each is answered by the next of `replies`, a list of chunks."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        self.replies: deque[Sequence[dict[str, Any]]] = deque()
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._answer, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()
            self._server = None

    @property
    def url(self) -> str:
        assert self._server is not None
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    def will(self, *replies: Sequence[dict[str, Any]]) -> None:
        self.replies.extend(replies)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        lines = (line.partition(":") for line in head.split("\r\n"))
        length = next(int(value) for name, _, value in lines if name.lower() == "content-length")
        self.bodies.append(await reader.readexactly(length))
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n")
        for chunk in self.replies.popleft():
            whole = _gemini(chunk) if "parts" in chunk else chunk
            writer.write(b"data: " + json.dumps(whole).encode() + b"\n\n")
        await writer.drain()
        writer.close()


def _gemini(content: dict[str, Any]) -> dict[str, Any]:
    return {"candidates": [{"content": {"role": "model", **content}, "index": 0, "finishReason": "STOP"}]}


def _chunk(delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]}


def said(text: str) -> list[dict[str, Any]]:
    """Answer with text."""
    tokens = {"prompt_tokens": 12, "completion_tokens": 3, "total_tokens": 15}
    return [_chunk({"content": text}), _chunk({}, "stop"), {**_chunk({}), "choices": [], "usage": tokens}]


def used(text: str, *calls: tuple[str, str]) -> list[dict[str, Any]]:
    """Ask for these tools, with arguments as they are, some of them without an id."""
    whole = [
        {"index": index, "id": f"call_{name}" if index else "", "function": {"name": name, "arguments": arguments}}
        for index, (name, arguments) in enumerate(calls)
    ]
    return [_chunk({"content": text}), _chunk({"tool_calls": whole}), _chunk({}, "tool_calls")]
