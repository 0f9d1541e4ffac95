"""A model server that answers as it is told at the moment: 429, 401, 500, or an answer; over HTTP/1.1, kept alive."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

REASONS = {200: "OK", 401: "Unauthorized", 429: "Too Many Requests", 500: "Internal Server Error"}


@dataclass(slots=True)
class Provider:
    """`status` is what it answers with; `retry_after` goes with 429. `poison` is an input that it always fails on."""

    status: int = 200
    retry_after: float | None = None
    poison: str | None = None
    answered: Counter[int] = field(default_factory=Counter[int])
    base_url: str = ""

    async def client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                lines = head.decode().split("\r\n")
                headers = {key.lower(): value for key, _, value in (line.partition(": ") for line in lines[1:])}
                body = await reader.readexactly(int(headers.get("content-length", 0)))
                poisoned = self.poison is not None and self.poison.encode() in body
                status = 500 if poisoned else self.status
                self.answered[status] += 1
                writer.write(self._reply(status))
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    def _reply(self, status: int) -> bytes:
        more = f"retry-after: {self.retry_after}\r\n" if status == 429 and self.retry_after is not None else ""
        if status == 200:
            kind, body = (
                "text/event-stream",
                b"".join(map(_event, (_chunk("fine"), _chunk("", "stop")))) + b"data: [DONE]\n\n",
            )
        else:
            kind, body = "application/json", json.dumps({"error": {"message": f"told to say {status}"}}).encode()
        head = (
            f"HTTP/1.1 {status} {REASONS[status]}\r\ncontent-type: {kind}\r\n{more}content-length: {len(body)}\r\n\r\n"
        )
        return head.encode() + body


def _chunk(text: str, finish: str | None = None) -> dict[str, Any]:
    choice = {"index": 0, "delta": {"role": "assistant", "content": text}, "finish_reason": finish}
    return {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]}


def _event(document: dict[str, Any]) -> bytes:
    return f"data: {json.dumps(document)}\n\n".encode()


@asynccontextmanager
async def serving() -> AsyncIterator[Provider]:
    provider = Provider()
    server = await asyncio.start_server(provider.client, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()[:2]
    provider.base_url = f"http://{host}:{port}/v1"
    try:
        yield provider
    finally:
        server.close()
