"""The daemon: opens the database, applies the agent files, works, and watches them until it is told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Generator, Mapping
from contextlib import AbstractAsyncContextManager, aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from uuid import UUID

import structlog

import cirkelline
from cirkelline.configs import prices
from cirkelline.configs.errors import CirkellineError
from cirkelline.configs.settings import Settings
from cirkelline.runtime import composition, logs, pulling, welcome
from cirkelline.runtime.composition import Opened
from cirkelline.runtime.patience import first_line
from cirkelline.runtime.reloading import AgentFiles
from cirkelline.runtime.watching import Watch, Watched
from cirkelline.runtime.worker import Worker
from cirkelline.state.connection import QueryError
from cirkelline.tools.toolbox import Toolbox

INTERRUPTED: Final = 130
CONNECTIONS: Final = 12

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)
_LAST_LOOK: Final = 2.0

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class _Stopping:
    """What a signal means right now: before there is a worker it ends the start, then it drains, then it is at once."""

    starting: asyncio.Task[object]
    worker: Worker | None = None
    signals: int = 0

    def received(self) -> None:
        """Act on one more signal."""
        self.signals += 1
        if self.worker is None:
            self.starting.cancel()
        elif self.signals == 1:
            log.info("cirkelline.stopping", tasks=self.worker.running, at_once="with a second signal")
            self.worker.stop()
        else:
            self.worker.stop_at_once()

    @contextlib.contextmanager
    def handled(self) -> Generator[None]:
        """Let SIGTERM and Ctrl-C come here for the length of a block."""
        loop = asyncio.get_running_loop()
        for number in _SIGNALS:
            with contextlib.suppress(NotImplementedError):  # not on every platform
                loop.add_signal_handler(number, self.received)
        try:
            yield
        finally:
            for number in _SIGNALS:
                with contextlib.suppress(NotImplementedError):
                    loop.remove_signal_handler(number)


@dataclass(frozen=True, slots=True)
class _Daemon:
    """What was asked of this daemon."""

    settings: Settings
    environ: Mapping[str, str]
    configs: Path | None
    tools: Path | None
    concurrency: int | None
    drain: bool
    listen: bool
    migrate: bool
    strict: bool
    stopping: _Stopping

    async def run(self) -> None:
        """Start, serve and leave."""
        opening = composition.open_database(
            self.settings, migrate=self.migrate, connections=CONNECTIONS, progress=_preparing
        )
        async with opening as opened:
            toolbox = Toolbox(self.tools, self.settings.tool_modules)
            watch = self._watch()
            await watch.look()  # before the files are read: what changes from now on is applied again
            files = AgentFiles(opened.db, self.configs, toolbox, self.environ) if self.configs else None
            plan = await files.apply(strict=self.strict) if files else None
            task_id = None
            if opened.fresh and not (plan and (plan.items or plan.problems)):
                task_id = await welcome.prepare(opened, toolbox, self.environ)
            await pulling.pull_missing(opened.db, self.settings.home)
            async with self._working(opened, toolbox) as worker:
                self.stopping.worker = worker
                following = asyncio.create_task(self._follow(watch, worker, files), name="watch")
                showing = asyncio.create_task(_show(opened, task_id), name="welcome")
                await worker.serve()
                following.cancel()
                await asyncio.wait({following, showing}, timeout=_LAST_LOOK)
                showing.cancel()

    def _working(self, opened: Opened, toolbox: Toolbox) -> AbstractAsyncContextManager[Worker]:
        return composition.open_worker(
            opened, toolbox, self.environ, slots=self.concurrency, drain=self.drain, listen=self.listen
        )

    def _watch(self) -> Watch:
        watched = [
            *([Watched(self.configs, (".yaml", ".yml"))] if self.configs else ()),
            *([Watched(self.tools, (".py",))] if self.tools else ()),
        ]
        return Watch(watched, poll=max(1.0, self.settings.poll))

    async def _follow(self, watch: Watch, worker: Worker, files: AgentFiles | None) -> None:
        async with aclosing(watch.changes()) as changes:
            async for changed in changes:
                log.info("files.changed", folders=[str(each.folder) for each in changed])
                if any(each.folder == self.tools for each in changed):
                    worker.tools_changed()
                await _apply_again(files)


def _preparing(told: str) -> None:
    log.info("database.preparing", told=told)


async def _apply_again(files: AgentFiles | None) -> None:
    try:
        if files is not None:
            await files.apply()
    except (CirkellineError, QueryError, OSError) as error:
        log.error("agent_files.not_applied", error=first_line(error), still="serving the versions before")  # noqa: TRY400 - said in full


async def _show(opened: Opened, task_id: UUID | None) -> None:
    if task_id is not None:
        await welcome.show(opened, task_id)


async def up(
    settings: Settings,
    *,
    configs: Path | None = None,
    tools: Path | None = None,
    concurrency: int | None = None,
    drain: bool = False,
    listen: bool = True,
    migrate: bool = True,
    strict: bool = False,
    environ: Mapping[str, str] = os.environ,
) -> int:
    """Run the daemon until it is stopped, or with `drain` until nothing is left to do; return the exit code.

    Raises: DatabaseUnavailable, MigrationError, PricesRefused; BadDefinitions with `strict`.
    """
    logs.configure(settings, environ)
    prices.load(settings.prices)  # a bad list is said before anything has begun
    folder = composition.configs_folder(settings, configs)
    log.info("cirkelline.up", release=cirkelline.__version__, database=composition.place(settings))
    this = asyncio.current_task()
    assert this is not None  # noqa: S101 - a coroutine that runs is in a task; told to the type checkers
    stopping = _Stopping(this)
    daemon = _Daemon(
        settings=settings,
        environ=environ,
        configs=folder,
        tools=composition.tools_folder(folder, tools),
        concurrency=concurrency,
        drain=drain,
        listen=listen,
        migrate=migrate,
        strict=strict,
        stopping=stopping,
    )
    with stopping.handled():
        try:
            await daemon.run()
        except asyncio.CancelledError:
            if not stopping.signals:
                raise
            this.uncancel()
            return INTERRUPTED
    log.info("cirkelline.down")
    return INTERRUPTED if stopping.signals > 1 else 0
