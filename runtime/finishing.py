"""Ended runs on their way into the database: in batches that clock themselves, and none poisons its neighbors."""

from __future__ import annotations

import asyncio
import dataclasses
import functools
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Final, Self
from uuid import UUID

import structlog

from cirkelline.runtime import ending
from cirkelline.runtime.patience import first_line, until_answered
from cirkelline.state import claims
from cirkelline.state.claims import Finish, Finished
from cirkelline.state.connection import Database, QueryError

BATCH: Final = 512
LARGEST: Final = 64 * 1024 * 1024
"""Bytes of JSON that one run, and one batch of them, may have; PostgreSQL itself gives up at about four times that."""

Store = Callable[[UUID, Sequence[str]], Awaitable[list[Finished]]]
"""Writes what ended under a worker's id, each as `Finish.as_json()`, in one transaction."""

log = structlog.get_logger(__name__)


@dataclass(slots=True, eq=False)
class _Ended:
    """A run that waits to be written, for the worker that owned it; `written` gets what the database made of it."""

    worker: UUID
    run: Finish
    text: str
    written: asyncio.Future[Finished | None] = field(repr=False)


class Finishing:
    """Writes ended runs: one flush at a time, each with all that ended during the one before.

    While the server is away the results are kept here and tried again; the fence decides whether they still count.
    `store` does the writing where more is to be done in the same round trip.
    """

    def __init__(self, db: Database, *, state_limit: int, store: Store | None = None) -> None:
        self._db = db
        self._state_limit = state_limit
        self._store_runs = store or self._finish
        self._ended: deque[_Ended] = deque()
        self._any = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._flush_for_ever(), name="finishing")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._task is not None:
            await ending.end([self._task])
        for ended in self._ended:
            ended.written.cancel()

    async def write(self, worker: UUID, run: Finish) -> Finished | None:
        """Write one ended run and return what the database kept: None when the task was no longer this worker's."""
        written: asyncio.Future[Finished | None] = asyncio.get_running_loop().create_future()
        self._ended.append(_readable(_Ended(worker, run, "", written)))
        self._any.set()
        return await written

    async def _flush_for_ever(self) -> None:
        while True:
            await self._any.wait()
            batch = self._next_batch()
            if batch:
                await self._flush(batch)
            else:
                self._any.clear()

    def _next_batch(self) -> list[_Ended]:
        batch: list[_Ended] = []
        size = 0
        while self._ended and len(batch) < BATCH:
            size += len(self._ended[0].text)
            if batch and (size > LARGEST or self._ended[0].worker != batch[0].worker):
                break
            batch.append(self._ended.popleft())
        return batch

    async def _flush(self, batch: Sequence[_Ended]) -> None:
        try:
            await self._store(batch)
        except QueryError as error:
            if len(batch) > 1:
                for ended in batch:
                    await self._flush([ended])
            else:
                await self._refuse(batch[0], error)

    async def _refuse(self, ended: _Ended, error: QueryError) -> None:
        log.warning("task.result_refused", task_id=ended.run.task_id, error=str(error).strip())
        try:
            await self._store([_refused(ended, first_line(error))])
        except QueryError as again:
            # Nothing about this task can be written: it stays claimed until this worker leaves, and nobody else waits.
            log.error("task.unwritable", task_id=ended.run.task_id, error=str(again).strip())  # noqa: TRY400 - said in full
            _settle(ended, None)

    async def _store(self, batch: Sequence[_Ended]) -> None:
        """Write a batch, again and again while the server is away. Raises: QueryError for what it refuses."""
        texts = [ended.text for ended in batch]
        kept = await until_answered(functools.partial(self._store_runs, batch[0].worker, texts), "finish tasks")
        by_task = {finished.id: finished for finished in kept}
        for ended in batch:
            _settle(ended, by_task.get(ended.run.task_id))

    async def _finish(self, worker: UUID, runs: Sequence[str]) -> list[Finished]:
        async with self._db.connection() as conn:
            return await claims.finish(conn, worker, runs, state_limit=self._state_limit)


def _settle(ended: _Ended, finished: Finished | None) -> None:
    if not ended.written.done():
        ended.written.set_result(finished)


def _readable(ended: _Ended) -> _Ended:
    """Write the run as JSON, or say in its place why that cannot be done."""
    try:
        text = ended.run.as_json()
    except (TypeError, ValueError, RecursionError) as error:
        return _refused(ended, f"it is not JSON: {error}")
    if len(text) > LARGEST:
        return _refused(ended, f"it is {len(text):,} bytes of JSON, over the limit of {LARGEST:,}")
    return dataclasses.replace(ended, text=text)


def _refused(ended: _Ended, reason: str) -> _Ended:
    message = f"the result cannot be stored: {reason}"
    run = Finish(
        task_id=ended.run.task_id,
        attempt=ended.run.attempt,
        status="failed",
        result={"error": {"type": "ResultRefused", "message": message}},
        error=message,
        tokens=ended.run.tokens,
    )
    return dataclasses.replace(ended, run=run, text=run.as_json())
