"""The worker inside a chat: it claims the turns of the chat's own session, for when no daemon does."""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self
from uuid import UUID

import structlog

from cirkelline.configs import prices
from cirkelline.runtime import ending
from cirkelline.runtime.composition import Opened
from cirkelline.runtime.patience import first_line
from cirkelline.state.agents import Agent
from cirkelline.state.connection import DatabaseUnavailable, QueryError
from cirkelline.tools.toolbox import Toolbox

if TYPE_CHECKING:
    from cirkelline.agents.models import ModelPool
    from cirkelline.runtime.registry import Registry
    from cirkelline.runtime.worker import Worker
    from cirkelline.tools.embedding import EmbedderPool
    from cirkelline.tools.execution import Executor

SLOTS: Final = 2
"""One for the session's turn, which runs alone, and one for what is done beside it."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Parts:
    """What outlives one session's worker: a local model is costly to load again."""

    registry: Registry
    executor: Executor
    model_pool: ModelPool
    embedders: EmbedderPool


class OwnWorker:
    """A worker for one session at a time, begun when it is first needed and gone with the chat.

    What it has not finished by then goes back in line at once, for a daemon or the next chat with this session.
    """

    def __init__(self, opened: Opened, toolbox: Toolbox, environ: Mapping[str, str]) -> None:
        self._opened = opened
        self._toolbox = toolbox
        self._environ = environ
        self._prices = prices.load(opened.settings.prices)
        self._stack = AsyncExitStack()
        self._parts: _Parts | None = None
        self._worker: Worker | None = None
        self._session: UUID | None = None
        self._serving: asyncio.Task[None] | None = None
        self._closed = False

    async def __aenter__(self) -> Self:
        await self._stack.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closed = True
        await self._end()
        await self._stack.aclose()

    @property
    def working(self) -> bool:
        """Whether it is registered and claims."""
        return self._worker is not None

    def refusal(self, agent: Agent) -> str | None:
        """Return why this process cannot serve an agent, with the remedy; None when it can, or nobody has looked yet."""
        if self._worker is None or self._parts is None:
            return None
        refused = self._parts.registry.refused
        return refused.get(agent.name) or refused.get(agent.label)

    async def work_for(self, session: UUID) -> None:
        """See to it that this session is served from here; returns before it is. Cheap when it is served already."""
        if self._serving is not None and self._serving.done():
            self._learn_from(self._serving)
            self._serving = None
        if self._serving is not None and self._session != session:
            await self._end()
        if self._serving is None and not self._closed:
            self._session = session
            self._serving = asyncio.create_task(self._serve(session), name="own-worker")

    def _learn_from(self, over: asyncio.Task[None]) -> None:
        """Go on after a loss of the database; anything else is a fault that has to be seen."""
        try:
            over.result()
        except (QueryError, DatabaseUnavailable) as error:
            log.warning("chat.worker_lost", error=first_line(error))

    async def _serve(self, session: UUID) -> None:
        parts = self._parts = self._parts or await self._prepare()
        from cirkelline.runtime.worker import Worker  # noqa: PLC0415 - see _prepare

        opened = self._opened
        worker = Worker(
            opened.db,
            opened.settings,
            parts.registry,
            parts.executor,
            parts.model_pool,
            embedders=parts.embedders,
            slots=SLOTS,
            session=session,
        )
        async with worker:
            self._worker = worker
            try:
                await worker.serve()
            finally:
                self._worker = None

    async def _prepare(self) -> _Parts:
        # In a thread, and only now: a chat beside a daemon does without agents and tools, and the screen goes on.
        for module in ("registry", "worker"):
            await asyncio.to_thread(importlib.import_module, f"cirkelline.runtime.{module}")
        from cirkelline.agents.models import ModelPool  # noqa: PLC0415
        from cirkelline.runtime.registry import Registry  # noqa: PLC0415
        from cirkelline.tools.embedding import EmbedderPool  # noqa: PLC0415
        from cirkelline.tools.execution import Executor  # noqa: PLC0415

        return _Parts(
            Registry(self._opened.db, self._toolbox, self._environ, prices=self._prices),
            await self._stack.enter_async_context(Executor()),
            await self._stack.enter_async_context(ModelPool(self._environ)),
            await self._stack.enter_async_context(EmbedderPool(self._environ)),
        )

    async def _end(self) -> None:
        serving, self._serving = self._serving, None
        if serving is None:
            return
        if self._worker is not None:
            self._worker.stop_at_once()
            await asyncio.wait({serving})
        else:
            await ending.end([serving])
        if not serving.cancelled() and (error := serving.exception()) is not None:
            log.warning("chat.worker_left_badly", error=first_line(error))
