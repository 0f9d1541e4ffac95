"""Which model an agent speaks with: `auto` resolved, whether this machine can serve it, and the pool that opens them."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
from collections import defaultdict
from collections.abc import AsyncGenerator, Hashable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Final, Protocol, Self

from pydantic import ValidationError

from cirkelline.agents import access, local, scripted, weights
from cirkelline.agents.access import Access
from cirkelline.agents.chat_model import ChatMessage, ChatModel, ModelError, ToolSchema
from cirkelline.configs import errors, settings
from cirkelline.configs.models import Provider
from cirkelline.configs.schema import ModelSpec

if TYPE_CHECKING:
    from cirkelline.agents.agno_boundary.gemini import GeminiServer
    from cirkelline.agents.agno_boundary.openai_chat import OpenAIServer

GEMINI_MODEL: Final = "gemini-2.5-flash"
OPENAI_MODEL: Final = "gpt-5.4-mini"
OPENAI_MODEL_VARIABLES: Final = ("CIRKELLINE_OPENAI_MODEL", "OPENAI_MODEL")
LOCAL_MODEL_VARIABLE: Final = "CIRKELLINE_LOCAL_MODEL"


class ModelNotFound(errors.UsageError):
    """`auto` found a server of models, but no model on it."""


class ModelUnservable(ModelError):
    """This machine lacks what a model needs: a key, the weights, the engine."""


async def resolve_auto(spec: ModelSpec, environ: Mapping[str, str]) -> ModelSpec:
    """Return the model that `auto` stands for here; any other spec comes back with its name filled in.

    The first that is there: GOOGLE_API_KEY, the server in OPENAI_BASE_URL, OPENAI_API_KEY, the embedded model. Only that
    server is asked anything, and only for its first model, when no variable names one. Raises UsageError or ModelError.
    """
    provider = _first_there(environ) if spec.provider == "auto" else spec.provider
    address = access.value(environ, access.OPENAI_ADDRESS).rstrip("/")
    if provider != "openai" or spec.name or address in {"", access.OPENAI_HOME}:
        return _named(spec, provider, spec.name or _default_name(provider, environ))
    # Pinned with its address: another worker's OPENAI_BASE_URL must not swap the model under a stored agent.
    name = _openai_name(environ)
    here = _named(spec, provider, name or "unknown", address)
    return here if name else _named(spec, provider, await _first_listed(here, environ), address)


def _first_there(environ: Mapping[str, str]) -> Provider:
    if access.value(environ, access.GEMINI_KEY):
        return "gemini"
    if access.value(environ, access.OPENAI_ADDRESS) or access.value(environ, access.OPENAI_KEY):
        return "openai"
    return "local"


def _default_name(provider: Provider, environ: Mapping[str, str]) -> str:
    match provider:
        case "gemini":
            return GEMINI_MODEL
        case "openai":
            return _openai_name(environ) or OPENAI_MODEL
        case _:
            return access.value(environ, LOCAL_MODEL_VARIABLE) or local.default_name()


def _openai_name(environ: Mapping[str, str]) -> str:
    return next((name for variable in OPENAI_MODEL_VARIABLES if (name := access.value(environ, variable))), "")


def _named(spec: ModelSpec, provider: Provider, name: str, address: str | None = None) -> ModelSpec:
    chosen = {"provider": provider, "name": name, "base_url": address or spec.base_url}
    try:
        return ModelSpec.model_validate(spec.model_dump(exclude_none=True) | {k: v for k, v in chosen.items() if v})
    except ValidationError as error:
        raise errors.UsageError(f"{access.OPENAI_ADDRESS} {error.errors()[0]['msg']}") from None


async def _first_listed(spec: ModelSpec, environ: Mapping[str, str]) -> str:
    remedy = f"set {OPENAI_MODEL_VARIABLES[0]} to the name of the model to use"
    server = await asyncio.to_thread(_openai_server, access.of(spec, environ))
    try:
        names = await server.names()
    except ModelError as error:
        raise type(error)(f"{error}; or {remedy}") from None
    finally:
        await server.close()
    if not names:
        raise ModelNotFound(f"the server at {spec.base_url} ({access.OPENAI_ADDRESS}) offers no model; {remedy}")
    return names[0]


def why_not_servable(spec: ModelSpec, environ: Mapping[str, str]) -> str | None:
    """Return in one sentence why this machine cannot serve a model, with the remedy, or None; asks no network.

    A spec that is still `auto` is judged as what it would become.
    """
    provider = _first_there(environ) if spec.provider == "auto" else spec.provider
    match provider:
        case "gemini" | "openai":
            return access.unusable_key(spec, environ) if spec.provider != "auto" else None
        case "scripted":
            return _script_fault(spec)
        case _:
            name = spec.name or _default_name("local", environ)
            return local.unavailable_reason(name, settings.load_settings(environ).home)


def _script_fault(spec: ModelSpec) -> str | None:
    try:
        scripted.load(Path(spec.name or ""))
    except scripted.ScriptError as error:
        return str(error)
    return None


class _Server(Protocol):
    """What serves several models, or one with several settings, over one set of connections (or one engine)."""

    def model(self, label: str, name: str, temperature: float | None, max_tokens: int | None) -> ChatModel: ...
    async def close(self) -> None: ...


class ModelPool:
    """Opens models as runs ask for them and keeps what is costly (connections, an engine) until the pool is left."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        self._servers: dict[Hashable, _Server] = {}
        self._opening: defaultdict[Hashable, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        async with contextlib.AsyncExitStack() as stack:  # so that one that fails to close does not keep others open
            for server in self._servers.values():
                stack.push_async_callback(server.close)
            self._servers.clear()

    async def get(self, spec: ModelSpec) -> ChatModel:
        """Return a model ready to answer; cheap after the first time. Raises ModelError or UsageError.

        A script is read again each time, so that a test may change it.
        """
        if spec.provider == "scripted":
            return scripted.load(Path(spec.name or ""))
        if spec.provider == "auto":
            raise errors.UsageError("the model is still auto; apply the agent again, so that it is resolved")
        if (reason := why_not_servable(spec, self._environ)) is not None:
            raise ModelUnservable(reason)
        name = spec.name or _default_name(spec.provider, self._environ)
        server = await self._server(spec)
        return server.model(spec.label, name, spec.temperature, spec.max_tokens)

    async def _server(self, spec: ModelSpec) -> _Server:
        where = (spec.provider, access.of(spec, self._environ)) if spec.provider != "local" else spec.label
        async with self._opening[where]:  # two runs that come at once share one
            if where not in self._servers:
                self._servers[where] = await self._open(spec)
            return self._servers[where]

    async def _open(self, spec: ModelSpec) -> _Server:
        # In a thread: google-genai takes seconds to import, and every client reads the system's certificates.
        match spec.provider:
            case "gemini":
                return await asyncio.to_thread(_gemini_server, access.of(spec, self._environ))
            case "openai":
                return await asyncio.to_thread(_openai_server, access.of(spec, self._environ))
            case _:
                return _local_server(spec.name or _default_name("local", self._environ), self._environ)


def _gemini_server(where: Access) -> GeminiServer:
    from cirkelline.agents.agno_boundary.gemini import GeminiServer  # noqa: PLC0415

    return GeminiServer(where)


def _openai_server(where: Access) -> OpenAIServer:
    from cirkelline.agents.agno_boundary.openai_chat import OpenAIServer  # noqa: PLC0415

    return OpenAIServer(where)


def _local_server(name: str, environ: Mapping[str, str]) -> local.LocalServer:
    chosen = settings.load_settings(environ)
    return local.LocalServer(weights.where(chosen.home, name), threads=chosen.local_threads)


async def request_body(
    spec: ModelSpec,
    environ: Mapping[str, str],
    messages: Sequence[ChatMessage],
    tools: Sequence[ToolSchema],
    *,
    must_call: bool = False,
) -> bytes | None:
    """Return the body of the request that asks a hosted model this, to the byte; None for models that get none.

    Nothing is sent, and no key is needed.
    """
    if spec.provider not in {"gemini", "openai"}:
        return None
    capturing = await asyncio.to_thread(importlib.import_module, "cirkelline.agents.agno_boundary.capturing")
    named = spec.model_copy(update={"name": spec.name or _default_name(spec.provider, environ)})
    body: bytes = await capturing.request_body(named, access.of(spec, environ), messages, tools, must_call=must_call)
    return body


@contextlib.asynccontextmanager
async def open_model(spec: ModelSpec, environ: Mapping[str, str]) -> AsyncGenerator[ChatModel]:
    """Open one model for the length of a block; raises as `ModelPool.get` does."""
    async with ModelPool(environ) as pool:
        yield await pool.get(spec)
