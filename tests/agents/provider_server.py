"""A small HTTP server in the test's own loop that answers each request with the next prepared reply."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

Reply = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Received:
    method: str
    path: str
    headers: Mapping[str, str]
    body: Any


@dataclass(slots=True)
class ProviderServer:
    received: list[Received] = field(default_factory=list[Received])
    replies: deque[Reply] = field(default_factory=deque[Reply])
    _server: asyncio.Server | None = None
    _clients: set[asyncio.Task[None]] = field(default_factory=set[asyncio.Task[None]])

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._client, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for client in self._clients:
            client.cancel()
        await asyncio.gather(*self._clients, return_exceptions=True)
        await self._server.wait_closed()

    @property
    def url(self) -> str:
        assert self._server is not None
        host, port = self._server.sockets[0].getsockname()[:2]
        return f"http://{host}:{port}"

    def will(self, *replies: Reply) -> None:
        self.replies.extend(replies)

    async def _client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._clients.add(task)
        task.add_done_callback(self._clients.discard)
        try:
            self.received.append(await _request(reader))
            await self.replies.popleft()(reader, writer)
        except (asyncio.CancelledError, ConnectionError):
            pass
        finally:
            writer.close()


async def _request(reader: asyncio.StreamReader) -> Received:
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    first, *lines = head.split("\r\n")
    method, path, _ = first.split(" ")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines) if name}
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return Received(method, path, headers, json.loads(body) if body else None)


def _head(status: int, kind: str, headers: Mapping[str, str] | None = None) -> bytes:
    lines = [f"HTTP/1.1 {status} Said", f"Content-Type: {kind}", "Connection: close"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def json_reply(body: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Reply:
    async def reply(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(_head(status, "application/json", headers) + json.dumps(body).encode())
        await writer.drain()

    return reply


def sse(*events: object, done: bool = True) -> Reply:
    """Stream events; the connection then ends properly, whether or not the protocol's own end was said."""

    async def reply(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(_head(200, "text/event-stream"))
        for event in events:
            writer.write(_event(event))
            await writer.drain()
        if done:
            writer.write(b"data: [DONE]\n\n")
        await writer.drain()

    return reply


def broken_off(*events: object) -> Reply:
    """Stream events in chunks, and lose the connection before the last chunk."""

    async def reply(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(_head(200, "text/event-stream", {"Transfer-Encoding": "chunked"}))
        for event in events:
            data = _event(event)
            writer.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
        await writer.drain()

    return reply


def held(*events: object, begun: asyncio.Event, lost: asyncio.Event) -> Reply:
    """Stream events, set `begun`, then say nothing more; `lost` is set when the client has gone."""

    async def reply(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(_head(200, "text/event-stream"))
        for event in events:
            writer.write(_event(event))
        await writer.drain()
        begun.set()
        await reader.read()
        lost.set()

    return reply


def _event(event: object) -> bytes:
    return b"data: " + (event if isinstance(event, str) else json.dumps(event)).encode() + b"\n\n"


# The OpenAI protocol's chunks.


def chunk(delta: Mapping[str, Any] | None = None, finish: str | None = None, **more: Any) -> dict[str, Any]:
    choice = {"index": 0, "delta": dict(delta or {}), "finish_reason": finish}
    return {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice], **more}


def text(*words: str, finish: str | None = "stop", usage: tuple[int, int] | None = None) -> list[dict[str, Any]]:
    chunks = [chunk({"role": "assistant", "content": ""}), *(chunk({"content": word}) for word in words)]
    if finish is not None:
        chunks.append(chunk(finish=finish))
    if usage is not None:
        tokens = {"prompt_tokens": usage[0], "completion_tokens": usage[1], "total_tokens": sum(usage)}
        chunks.append({**chunk(), "choices": [], "usage": tokens})
    return chunks


def fragment(
    index: int | None = 0, id: str | None = None, name: str | None = None, arguments: str | None = None
) -> dict[str, Any]:
    function = {key: value for key, value in (("name", name), ("arguments", arguments)) if value is not None}
    call = {"index": index, "id": id, "type": "function", "function": function}
    return chunk({"tool_calls": [{key: value for key, value in call.items() if value is not None}]})


# Gemini's chunks.


def candidate(
    parts: Sequence[Mapping[str, Any]] = (), finish: str | None = None, usage: tuple[int, int, int] | None = None
) -> dict[str, Any]:
    said: dict[str, Any] = {"content": {"role": "model", "parts": list(parts)}, "index": 0}
    if finish is not None:
        said["finishReason"] = finish
    answer: dict[str, Any] = {"candidates": [said], "modelVersion": "gemini-x"}
    if usage is not None:
        answer["usageMetadata"] = dict(
            zip(("promptTokenCount", "candidatesTokenCount", "thoughtsTokenCount"), usage, strict=True)
        )
    return answer
