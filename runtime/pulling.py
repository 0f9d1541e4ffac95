"""Bringing the weights of local models here before their agents' first task, with progress for whoever watches."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import structlog

from cirkelline.agents import weights
from cirkelline.agents.weights import Progress
from cirkelline.configs.errors import CirkellineError
from cirkelline.configs.schema import ModelSpec
from cirkelline.state import agents
from cirkelline.state.connection import Database

_LAST_WORDS: Final = 2.0
_STEPS: Final = 10

Tell = Callable[[Progress], None]

log = structlog.get_logger(__name__)


async def pull_missing(db: Database, home: Path, *, agent: UUID | None = None) -> None:
    """Pull the weights that agents of this database need and that are not here; a failure leaves their agents waiting.

    With `agent`, only what that one needs.
    """
    for name in await _missing(db, home, agent):
        log.info("model.pulling", model=f"local:{name}")
        try:
            with _shown() as tell:
                await pull(name, home, tell=tell)
        except CirkellineError as error:
            log.error("model.not_pulled", model=f"local:{name}", error=str(error))  # noqa: TRY400 - said in full


async def _missing(db: Database, home: Path, agent: UUID | None) -> list[str]:
    async with db.connection() as conn:
        found = [each for each in await agents.current_definitions(conn) if agent in {None, each.agent_id}]
    used = [ModelSpec.model_validate(each.model) for each in found]
    names = dict.fromkeys(model.name for model in used if model.provider == "local" and model.name)
    return [name for name in names if not weights.is_path(name) and not _is_present(home, name)]


def _is_present(home: Path, name: str) -> bool:
    try:
        return weights.is_present(home, name)
    except CirkellineError:
        return True  # a name that no catalogue knows cannot be pulled; the registry says why its agent waits


@contextmanager
def _shown() -> Generator[Tell]:
    if sys.stderr.isatty():
        from cirkelline.runtime.cli import progressing  # noqa: PLC0415 - draws with rich, which is slow to import

        with progressing.shown() as tell:
            yield tell
        return
    step = 0

    def tell_log(progress: Progress) -> None:
        nonlocal step
        now = progress.done * _STEPS // max(progress.total, 1)
        if progress.stage != "downloading" or now > step:
            log.info("model.pull", stage=progress.stage, told=progress.message, bytes=progress.done)
        step = now

    yield tell_log


async def pull(name: str, home: Path, *, source: str = "auto", tell: Tell) -> Path:
    """Pull one model's weights in a thread that Ctrl-C ends at its next word, or leaves behind if none comes.

    Not in the loop's pool: its threads are waited for to their end, which for a download may be an hour away.
    """
    loop = asyncio.get_running_loop()
    outcome: asyncio.Future[Path] = loop.create_future()
    interrupted = threading.Event()

    def hear(progress: Progress) -> None:
        if interrupted.is_set():
            raise KeyboardInterrupt
        tell(progress)

    def settle(setter: Callable[[Any], None], value: object) -> None:
        if not outcome.done():
            setter(value)

    def run() -> None:
        setter: Callable[[Any], None]
        value: object
        try:
            setter, value = outcome.set_result, weights.pull(name, home, source=source, progress=hear)
        except BaseException as error:  # noqa: BLE001 - raised again where it is awaited
            setter, value = outcome.set_exception, error
        with contextlib.suppress(RuntimeError):  # the loop has been closed: nobody waits any more
            loop.call_soon_threadsafe(settle, setter, value)

    threading.Thread(target=run, name="pull", daemon=True).start()
    try:
        return await asyncio.shield(outcome)
    except asyncio.CancelledError:
        interrupted.set()
        await asyncio.wait({outcome}, timeout=_LAST_WORDS)
        if outcome.done():
            outcome.exception()  # looked at, or asyncio complains that nobody did
        raise
