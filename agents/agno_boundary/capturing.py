"""What the provider's own code would send for a conversation, to the byte; nothing is sent, and no key is needed."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, Protocol

from cirkelline.agents.access import Access
from cirkelline.agents.chat_model import ChatMessage, ModelError, ToolSchema
from cirkelline.configs.schema import ModelSpec

_KEY: Final = "none"


class _Request(Protocol):
    async def aread(self) -> bytes: ...


Hook = Callable[[_Request], Awaitable[None]]
"""What httpx calls with each request just before it goes out."""


class _Captured(Exception):  # raised and caught here; the SDKs let it through or wrap it
    """The request is known; it must not leave."""


class _Trap:
    body: bytes | None = None

    async def spring(self, request: _Request) -> None:
        self.body = await request.aread()
        raise _Captured

    @property
    def hooks(self) -> Mapping[str, Sequence[Hook]]:
        return {"request": [self.spring]}


async def request_body(
    spec: ModelSpec,
    access: Access,
    messages: Sequence[ChatMessage],
    tools: Sequence[ToolSchema],
    *,
    must_call: bool = False,
) -> bytes:
    """Return the body of the request that asks an `openai:` or `gemini:` model this."""
    trap = _Trap()
    server = _server(spec, Access(access.address, access.key_name, _KEY), trap.hooks)
    try:
        model = server.model(spec.label, spec.name or "", spec.temperature, spec.max_tokens)
        with contextlib.suppress(_Captured, ModelError):
            async for _ in model.stream(messages, tools, must_call=must_call):
                pass
    finally:
        await server.close()
    assert trap.body is not None  # noqa: S101 - nothing answers before it was asked
    return trap.body


def _server(spec: ModelSpec, access: Access, hooks: Mapping[str, Any]) -> Any:
    if spec.provider == "gemini":
        from cirkelline.agents.agno_boundary.gemini import GeminiServer  # noqa: PLC0415 - seconds to import

        return GeminiServer(access, hooks=hooks)
    from cirkelline.agents.agno_boundary.openai_chat import OpenAIServer  # noqa: PLC0415

    return OpenAIServer(access, hooks=hooks)
