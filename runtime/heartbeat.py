"""The heartbeat: a thread with a connection of its own, so that nothing on the event loop can cost the lease."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Final, Self
from uuid import UUID

import structlog

from cirkelline.runtime.patience import first_line
from cirkelline.state import workers
from cirkelline.state.connection import QueryError
from cirkelline.state.workers import Beat

BEATS_PER_LEASE: Final = 3
JOIN_TIMEOUT: Final = 2.0

log = structlog.get_logger(__name__)


class Heartbeat:
    """Beats for one worker, three times a lease, until it is left; each answer goes to `heard`, on this thread.

    `heard` gets the worker it was asked for as well: an answer about an id that has been given up must not be acted on.
    """

    def __init__(self, url: str, worker: UUID, *, lease: float, heard: Callable[[UUID, Beat], None]) -> None:
        self._url = url
        self._worker = worker
        self._lease = lease
        self._heard = heard
        self._stop = threading.Event()
        self._now = threading.Event()
        self._last = time.monotonic()
        self._gap_ended: float | None = None
        self._thread = threading.Thread(target=self._run, name="cirkelline-heartbeat", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._now.set()
        # The last statement may hang on a dead network: the thread is a daemon, and leaving does not wait for it long.
        self._thread.join(JOIN_TIMEOUT)

    @property
    def settled(self) -> bool:
        """Whether the beat goes on, and no gap longer than the lease ended less than a lease ago.

        After an outage everybody's lease has lapsed: whoever comes back first must not take the others' tasks over.
        """
        now = time.monotonic()
        return now - self._last < self._lease and (self._gap_ended is None or now - self._gap_ended > self._lease)

    def beat_for(self, worker: UUID) -> None:
        """Beat for another id from now on, at once."""
        self._worker = worker
        self._now.set()

    def _run(self) -> None:
        connection: workers.Heartbeat | None = None
        while not self._stop.is_set():
            try:
                connection = connection or workers.Heartbeat(self._url)
                self._beat(connection)
            except QueryError as error:
                log.warning("worker.heartbeat_failed", error=first_line(error))
                _close(connection)
                connection = None
            self._now.wait(self._lease / BEATS_PER_LEASE)
            self._now.clear()
        _close(connection)

    def _beat(self, connection: workers.Heartbeat) -> None:
        worker = self._worker
        answer = connection.beat(worker)
        now = time.monotonic()
        if now - self._last > self._lease:
            self._gap_ended = now
        self._last = now
        if not self._stop.is_set():
            self._heard(worker, answer)


def _close(connection: workers.Heartbeat | None) -> None:
    try:
        if connection is not None:
            connection.close()
    except QueryError:
        log.debug("worker.heartbeat_connection_was_gone")
