"""What a turn is waiting for, and whether somebody has to be found who runs it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from cirkelline.runtime.cli import display, waiting
from cirkelline.state import agents, parking, standing, tasks, workers
from cirkelline.state.agents import Agent
from cirkelline.state.connection import Conn
from cirkelline.state.parking import For, Waiting
from cirkelline.state.standing import Standing
from cirkelline.state.tasks import Task, TaskStatus
from cirkelline.state.workers import Worker

THINKING: Final = "thinking"
PATIENCE: Final = 5.0
"""Seconds after which a worker that could take a turn would have taken it."""


@dataclass(frozen=True, slots=True)
class Situation:
    """Where a turn stands, in a few words, and in a sentence when the person can do something about it.

    `hopeless` when nothing will change by itself; `needs_worker` when this chat should work on it itself; `nobody_else` when no other worker is about to take it;
    `pending` when nobody runs it; `parked` is its row when it waits for somebody's decision.
    """

    words: str
    sentence: str | None = None
    needs_worker: bool = False
    nobody_else: bool = False
    pending: bool = True
    hopeless: bool = False
    parked: Task | None = None


async def look(conn: Conn, task_id: UUID, *, long: bool = False) -> Situation | None:
    """Return where a turn stands, or None once it has ended; `long` when it has been waiting for a worker for long.

    Raises: TaskNotFound.
    """
    task, questions = await _row(conn, task_id)
    if task.ended:
        return None
    everybody = await workers.find(conn)
    serving = [worker for worker in everybody if _serves(worker, task)]
    if task.status == TaskStatus.PENDING and task.agent_id is not None:
        agent = await agents.get(conn, str(task.agent_id))
        place = await standing.of(conn, task_id)
        return _pending(task, agent, place, serving, long=long) if place else None
    if task.status == TaskStatus.WAITING:
        return _parked(task, questions, serving)
    if task.status != TaskStatus.RUNNING:
        return Situation("waiting", pending=False)
    if not any(worker.id == task.worker for worker in everybody if worker.alive):
        return Situation("its worker is gone: another takes it over", needs_worker=not serving, pending=False)
    return Situation(THINKING, pending=False)


async def _row(conn: Conn, task_id: UUID) -> tuple[Task, Sequence[Waiting]]:
    """Return a turn and what it waits for as they belong together: one that was woken meanwhile is looked at again."""
    while True:
        task = await tasks.get(conn, task_id)
        if task.status != TaskStatus.WAITING:
            return task, []
        questions = await parking.find(conn, task_id)
        if questions or (await tasks.get(conn, task_id)).status == TaskStatus.WAITING:
            return task, questions


def _parked(task: Task, questions: Sequence[Waiting], serving: Sequence[Worker]) -> Situation:
    if questions and all(question.kind is For.TIME for question in questions):
        until = min(question.until for question in questions if question.until is not None)
        return Situation(f"sleeping until {display.local(until)}", needs_worker=not serving, pending=False)
    return Situation("waiting", "; ".join(waiting.needs(task, questions)), pending=False, parked=task)


def _pending(task: Task, agent: Agent, place: Standing, serving: Sequence[Worker], *, long: bool) -> Situation:
    unfit = waiting.unfit(agent) if agent.definition_version is not None or agent.problem else None
    if unfit:
        return Situation("waiting", unfit, hopeless=True)
    if place.earlier_turn:
        return Situation("an earlier turn of this session is still running", needs_worker=not serving)
    if not serving:
        return Situation("starting a worker", needs_worker=True, nobody_else=True)
    if not long:
        only_chats = all(worker.session_id is not None for worker in serving)
        return Situation("waiting for a worker", nobody_else=only_chats)
    if _could_be_taken(place, serving):
        return Situation("no running worker takes it: trying it here", needs_worker=True, nobody_else=True)
    return Situation("waiting for a worker", waiting.why(task, agent, place, serving))


def _serves(worker: Worker, task: Task) -> bool:
    return worker.alive and not worker.draining and worker.session_id in {None, task.session_id}


def _could_be_taken(place: Standing, serving: Sequence[Worker]) -> bool:
    capped = place.cap is not None and place.busy >= place.cap
    free = sum(worker.slots - worker.running for worker in serving)
    return free > 0 and not capped and not place.ahead
