"""Deciding what parked tasks wait for."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID

from cirkelline.runtime import deciding
from cirkelline.runtime.cli import console, display, opening, waiting
from cirkelline.runtime.cli.actions import tasks as task_actions
from cirkelline.runtime.cli.answers import Answer, Text
from cirkelline.state import parking, tasks, workers
from cirkelline.state.connection import Conn
from cirkelline.state.parking import Verdict
from cirkelline.state.tasks import TaskStatus


async def approve(reference: str, user: str | None, call: str | None) -> Answer:
    """Let a call run."""
    by = user or opening.settings().user
    return await _decided(
        reference, user, "approved", lambda conn, task: deciding.approve(conn, task, call=call, by=by)
    )


async def reject(reference: str, user: str | None, call: str | None, reason: str | None) -> Answer:
    """Refuse a call."""
    by = user or opening.settings().user
    return await _decided(
        reference, user, "rejected", lambda conn, task: deciding.reject(conn, task, reason=reason, call=call, by=by)
    )


async def answer(reference: str, user: str | None, call: str | None, text: str) -> Answer:
    """Answer an agent's question."""
    by = user or opening.settings().user
    return await _decided(
        reference, user, "answered", lambda conn, task: deciding.answer(conn, task, text, call=call, by=by)
    )


async def resolve(reference: str, user: str | None, call: str | None, *, again: bool, reason: str | None) -> Answer:
    """Run a call whose outcome is unknown again, or fail."""
    verdict = Verdict.RETRY if again else Verdict.FAIL
    return await _resolved(reference, user, call, verdict, reason)


async def resolve_result(reference: str, user: str | None, call: str | None, value: Any) -> Answer:
    """Say what a call came to."""
    return await _resolved(reference, user, call, Verdict.RESULT, value)


async def _resolved(reference: str, user: str | None, call: str | None, verdict: Verdict, value: Any) -> Answer:
    settings = opening.settings()

    def resolve(conn: Conn, task: UUID) -> Awaitable[None]:
        return deciding.resolve(
            conn, task, verdict, value=value, call=call, by=user or settings.user, state_limit=settings.state_limit
        )

    return await _decided(reference, user, "decided", resolve, fails=verdict is Verdict.FAIL)


async def _decided(
    reference: str, user: str | None, done: str, decide: Callable[[Conn, UUID], Awaitable[None]], *, fails: bool = False
) -> Answer:
    async with opening.database() as opened:
        task_id = await opening.task_of(opened.db, user, reference)
        async with opened.db.connection() as conn:
            await decide(conn, task_id)
            task = await tasks.get(conn, task_id)
            questions = await parking.find(conn, task_id) if task.status == TaskStatus.WAITING else []
            alive = await workers.any_alive(conn)
    short = display.short(task_id)
    if task.status == TaskStatus.WAITING:
        then = f"it still waits: {'; '.join(waiting.needs(task, questions))}"
    elif task.ended:
        then = f"the task has {task.status}"
    else:
        then = f"the task {'ends as failed' if fails else 'goes on'} (`cirkelline tasks wait {short}`)"
        if not alive:
            console.warn(waiting.NO_WORKER)
    return Answer(task_actions.document(task), [Text(f"{done}: {then}")])
