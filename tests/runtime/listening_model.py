"""A model behind a socket that keeps all it is shown, and answers as the test says."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

Shown = list[tuple[str, str]]
"""A conversation as (role, content)."""
Answers = Callable[[Shown], Any]


@dataclass(slots=True)
class ListeningModel:
    """`answers` is asked with each conversation: a text, an exception's stand-in (an int: the HTTP status), a call of a tool
    (its name and arguments), or one of these awaited."""

    answers: Answers
    url: str = ""
    shown: list[Shown] = field(default_factory=list[Shown])
    tools: list[Any] = field(default_factory=list[Any])

    @property
    def spec(self) -> dict[str, str]:
        """The model as a definition names it."""
        return {"use": "openai:m", "base_url": f"{self.url}/v1"}

    async def _client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        length = next(int(line.split(":")[1]) for line in head.split("\r\n") if line.startswith("content-length:"))
        asked = json.loads(await reader.readexactly(length))
        conversation = [(each["role"], each.get("content") or "") for each in asked["messages"]]
        self.shown.append(conversation)
        self.tools.append(asked.get("tools"))
        said = self.answers(conversation)
        if asyncio.iscoroutine(said):
            said = await said
        if isinstance(said, int):
            writer.write(f"HTTP/1.1 {said} No\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{{}}".encode())
        else:
            kind = "stop" if isinstance(said, str) else "tool_calls"
            delta = {"content": said} if isinstance(said, str) else {"content": None, "tool_calls": [_call(*said)]}
            chunks = [_chunk({"role": "assistant", **delta}), _chunk({}, kind), "[DONE]"]
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n")
            writer.write("".join(f"data: {chunk}\n\n" for chunk in chunks).encode())
        await writer.drain()
        writer.close()


def _call(tool: str, arguments: dict[str, Any]) -> dict[str, Any]:
    function = {"name": tool, "arguments": json.dumps(arguments)}
    return {"index": 0, "id": "call_1", "type": "function", "function": function}


def _chunk(delta: dict[str, Any], finish: str | None = None) -> str:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return json.dumps({"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]})


@asynccontextmanager
async def listening(answers: Answers) -> AsyncIterator[ListeningModel]:
    """Serve a model in the test's own loop."""
    model = ListeningModel(answers)
    server = await asyncio.start_server(model._client, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()[:2]
    model.url = f"http://{host}:{port}"
    try:
        yield model
    finally:
        server.close()
        await server.wait_closed()
