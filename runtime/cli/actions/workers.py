"""Looking at workers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cirkelline.configs.errors import UsageError
from cirkelline.runtime.cli import display, opening
from cirkelline.runtime.cli.answers import Answer, Mark, Table, Text
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


class NoSuchWorker(UsageError):
    """No worker that is alive has that id."""


async def drain(references: Sequence[str]) -> Answer:
    """Ask these workers, or all, to finish what they run and stop; none is asked when one of them is not there."""
    async with opening.connected() as conn:
        alive = [worker for worker in await workers.find(conn) if worker.alive]
        chosen = [_chosen(reference, alive) for reference in references] if references else alive
        asked = [worker for worker in chosen if await workers.drain(conn, worker.id)]
    lines = [
        f"worker {display.short(worker.id)} on {worker.host} was asked to stop; it runs"
        f" {display.count(worker.running, 'task')}"
        for worker in asked
    ]
    return Answer({"asked": [worker.id for worker in asked]}, [Text("\n".join(lines) or "no worker is running")])


def _chosen(reference: str, alive: Sequence[Worker]) -> Worker:
    found = [worker for worker in alive if worker.id.hex.startswith(reference.strip().lower().replace("-", "") or "-")]
    if len(found) != 1:
        problem = "more than one worker's id starts" if found else "no living worker's id starts"
        raise NoSuchWorker(f"{problem} with {reference!r} (`cirkelline workers list` shows them)")
    return found[0]
