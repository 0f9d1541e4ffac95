"""Looking at workers."""

from __future__ import annotations

from typing import Any

from cirkelline.runtime.cli import display, opening
from cirkelline.runtime.cli.answers import Answer, Mark, Table
from cirkelline.state import workers
from cirkelline.state.workers import Worker


def _document(worker: Worker) -> dict[str, Any]:
    return {
        "id": worker.id,
        "host": worker.host,
        "pid": worker.pid,
        "release": worker.release,
        "alive": worker.alive,
        "draining": worker.draining,
        "running": worker.running,
        "slots": worker.slots,
        "session_id": worker.session_id,
        "started": worker.started,
        "seen": worker.seen,
    }


def _status(worker: Worker) -> Mark:
    if not worker.alive:
        return Mark(f"gone since {display.ago(worker.seen)}", "bad")
    if worker.draining:
        return Mark("draining", "busy")
    return Mark("alive", "good")


async def find() -> Answer:
    """List every worker, alive or gone and not yet taken over from."""
    async with opening.connected() as conn:
        found = await workers.find(conn)
    rows = [
        (
            display.short(worker.id),
            f"{worker.host}:{worker.pid}",
            _status(worker),
            f"{worker.running} of {worker.slots}",
            display.ago(worker.started),
            f"session {display.short(worker.session_id)}" if worker.session_id else "every agent it can",
        )
        for worker in found
    ]
    columns = ("worker", "host:process", "status", "running", "started", "serves")
    empty = "no worker is running: start one with `cirkelline up`"
    return Answer({"workers": [_document(worker) for worker in found]}, [Table(columns, rows, empty)])
