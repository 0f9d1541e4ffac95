"""Giving agents work and following it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any, Final

from cirkelline.configs import scalars
from cirkelline.configs.errors import CirkellineError
from cirkelline.runtime import sources
from cirkelline.runtime.cli import console, display, failures, opening, waiting
from cirkelline.runtime.cli.answers import Answer, Block, Cell, Facts, Mark, Table, Text, Tone
from cirkelline.state import agents, journal, parking, retrying, routing, standing, tasks, workers
from cirkelline.state.agents import Agent
from cirkelline.state.claims import DEATHS_ALLOWED
from cirkelline.state.connection import Conn, Database
from cirkelline.state.parking import For, Waiting
from cirkelline.state.retrying import Failure
from cirkelline.state.tasks import Task, TaskStatus

_TONES: Final[dict[str, Tone]] = {
    TaskStatus.COMPLETED: "good",
    TaskStatus.FAILED: "bad",
    TaskStatus.CANCELLED: "quiet",
    TaskStatus.RUNNING: "busy",
    TaskStatus.WAITING: "busy",
}
_HEADINGS: Final = ("task", "agent", "status", "created", "priority", "runs", "type", "input")
_SAYS_NOTHING: Final = {"priority": "0", "runs": "-"}
_FIRST_POLL: Final = 0.05  # s
_LONGEST_POLL: Final = 0.5  # s


def document(task: Task, why: str | None = None) -> dict[str, Any]:
    """Return a task as --json prints it; `why` says what one that has not ended waits for."""
    return {
        "id": task.id,
        "agent": task.agent,
        "agent_id": task.agent_id,
        "type": task.task_type,
        "status": task.status,
        "payload": task.payload,
        "result": task.result,
        "error": task.error,
        "why": why,
        "session_id": task.session_id,
        "user_id": task.user_id,
        "priority": task.priority,
        "run_at": task.run_at,
        "key": task.key,
        "capabilities": task.capabilities,
        "attempt": task.attempt,
        "worker": task.worker,
        "state_version": task.state_version,
        "definition_version": task.definition_version,
        "created_at": task.created_at,
        "started_at": task.started_at,
        "finished_at": task.finished_at or task.completed_at,
        "adopted": bool(task.adopted),
    }


def _status(task: Task) -> Mark:
    return Mark(task.status or "none", _TONES.get(task.status or "", "plain"))


def _input(payload: Any) -> Any:
    return payload["input"] if scalars.is_mapping(payload) and "input" in payload else payload


def _output(result: Any) -> Any:
    return result["output"] if scalars.is_mapping(result) and "output" in result else result


def _rows(found: Sequence[Task]) -> list[Sequence[Cell]]:
    return [
        (
            display.short(task.id),
            task.agent or "-",
            _status(task),
            display.ago(task.submitted_at or task.created_at),
            str(task.priority or 0),
            display.ago(task.run_at) if task.status == TaskStatus.PENDING and task.run_at else "-",
            task.task_type or "-",
            display.value(_input(task.payload), 70),
        )
        for task in found
    ]


def _listed(found: Sequence[Task], empty: str) -> Answer:
    rows = _rows(found)
    # A terminal is narrow: what is so for every task is left out.
    shown = [
        at for at, name in enumerate(_HEADINGS) if any(row[at] != _SAYS_NOTHING.get(name, object()) for row in rows)
    ]
    table = Table(tuple(_HEADINGS[at] for at in shown), [[row[at] for at in shown] for row in rows], empty)
    return Answer({"tasks": [document(task) for task in found]}, [table])


async def find(*, status: str | None, agent: str | None, session: str | None, user: str | None, limit: int) -> Answer:
    """List the newest tasks that fit."""
    async with opening.database() as opened:
        async with opened.db.connection() as conn:
            agent_id = (await agents.get(conn, agent)).id if agent else None
        async with opening.rows_of(opened.db, user) as conn:
            session_id = await standing.session(conn, session) if session else None
            found = await tasks.find(conn, status=status, agent_id=agent_id, session_id=session_id, limit=limit)
    fits = " that fit" if status or agent or session or user else ""
    return _listed(found, f"no tasks{fits} (`cirkelline tasks submit` makes one)")


async def search(words: str, user: str | None, limit: int) -> Answer:
    """List the newest tasks whose type or input holds every word."""
    async with opening.database() as opened, opening.rows_of(opened.db, user) as conn:
        found = await tasks.search(conn, words, limit=limit)
    return _listed(found, f"no task's type or input holds {words!r}")


async def obstacle_to(conn: Conn, agent: Agent) -> str | None:
    """Return what keeps an agent's tasks from running at present, or None."""
    return waiting.unfit(agent) or (None if await workers.any_alive(conn) else waiting.NO_WORKER)


async def wait(reference: str, user: str | None, patience: float | None) -> Answer:
    """Wait for a task's end and answer with its output."""
    async with opening.database() as opened:
        task_id = await opening.task_of(opened.db, user, reference)
        async with opened.db.connection() as conn:
            task = await tasks.get(conn, task_id)
        return await followed(opened.db, task, patience, told=False)


async def followed(db: Database, task: Task, patience: float | None, *, told: bool) -> Answer:
    """Wait for a task's end and answer with its output; say what keeps it from starting, unless that was `told`."""
    try:
        async with asyncio.timeout(patience):
            return _ended(*await _end(db, task, told=told))
    except TimeoutError:
        async with db.connection() as conn:
            task, why = await explained(conn, task)
        if task.ended:
            return _ended(task, None)
        complaint = (
            f"task {display.short(task.id)} is still {task.status} after {display.span(patience or 0)}: {why}"
            f" (`cirkelline tasks wait {display.short(task.id)}` goes on waiting)"
        )
        return Answer(document(task, why), exit_code=failures.UNFINISHED, complaint=complaint)
    except asyncio.CancelledError:  # Ctrl-C
        console.note(
            f"task {display.short(task.id)} goes on (`cirkelline tasks cancel {display.short(task.id)}` stops it)"
        )
        raise


async def _end(db: Database, task: Task, *, told: bool) -> tuple[Task, str | None]:
    """Return the task once it has ended or needs a person, and what for; say once what keeps it from starting."""
    pause = _FIRST_POLL
    while not task.ended:
        await asyncio.sleep(pause)
        pause = min(pause * 1.5, _LONGEST_POLL)
        async with db.connection() as conn:
            task = await tasks.get(conn, task.id)
            if task.status == TaskStatus.WAITING and needs_a_person(task, await parking.find(conn, task.id)):
                return await explained(conn, task)
            if pause == _LONGEST_POLL and not told and task.status == TaskStatus.PENDING:
                told = True
                _, why = await explained(conn, task)
                console.note(f"task {display.short(task.id)} is pending: {why}")
    return task, None


def needs_a_person(task: Task, questions: Sequence[Waiting]) -> bool:
    """Whether a parked task goes on only when somebody decides; time alone does not need a person."""
    return (task.deaths or 0) >= DEATHS_ALLOWED or {question.kind for question in questions} != {For.TIME}


def _ended(task: Task, why: str | None) -> Answer:
    if task.status == TaskStatus.COMPLETED:
        return Answer(document(task), [_content(_output(task.result))])
    if not task.ended:
        complaint = f"task {display.short(task.id)} waits for a decision: {why}"
        return Answer(document(task, why), exit_code=failures.UNDECIDED, complaint=complaint)
    reason = f": {_error(task)}" if task.status == TaskStatus.FAILED else ""
    # Some reasons say themselves in which way it is to be tried again.
    remedy = "" if "tasks retry" in reason else f" (`cirkelline tasks retry {display.short(task.id)}`)"
    complaint = f"task {display.short(task.id)} {_was(task)}{reason}{remedy}"
    return Answer(document(task), exit_code=failures.FAILED, complaint=complaint)


def _was(task: Task) -> str:
    return "was cancelled" if task.status == TaskStatus.CANCELLED else str(task.status)


def _error(task: Task) -> str:
    """Return why a task failed in one line: the type and message of its result, or its error column."""
    match task.result:
        case {"error": {"type": str(kind), "message": str(message)}}:
            return display.line(f"{kind}: {message}", 500)
        case _:
            return display.line(task.error or "no reason was written", 500)


def _content(value: Any) -> Text:
    return Text(value if isinstance(value, str) else json.dumps(value, indent=2, ensure_ascii=False))


async def show(reference: str, user: str | None) -> Answer:
    """Show one task in words, with every attempt at it that failed."""
    async with opening.database() as opened:
        task_id = await opening.task_of(opened.db, user, reference)
        async with opened.db.connection() as conn:
            task, why = await explained(conn, await tasks.get(conn, task_id))
            failed = await retrying.failures(conn, task.id)
            place = await standing.of(conn, task.id)
    allowed = place.attempts if place else 1
    blocks: list[Block] = [Facts(_facts(task, why, allowed))]
    if len(failed) > 1 or (failed and task.status != TaskStatus.FAILED):
        blocks += [Text("Failed attempts:", apart=True), _failures(failed)]
    blocks += [Text("Input:", apart=True), _content(_input(task.payload))]
    if task.status == TaskStatus.COMPLETED:
        blocks += [Text("Output:", apart=True), _content(_output(task.result))]
    if lines := sources.lines(task.result):
        blocks += [Text("Sources:", apart=True), Text("\n".join(display.line(each, 200) for each in lines))]
    return Answer(_whole(task, why, allowed, failed), blocks)


def _whole(task: Task, why: str | None, allowed: int, failed: Sequence[Failure]) -> dict[str, Any]:
    told = [
        {"attempt": each.attempt, "at": each.at, "type": each.type, "message": each.message, "again": each.again}
        for each in failed
    ]
    return {**document(task, why), "attempts_allowed": allowed, "failures": told}


def _failures(failed: Sequence[Failure]) -> Table:
    rows = [
        (
            str(each.attempt),
            display.local(each.at),
            display.line(f"{each.type or 'Failed'}: {each.message or 'no reason was written'}", 200),
        )
        for each in failed
    ]
    return Table(("attempt", "failed", "error"), rows, "none")


async def explained(conn: Conn, task: Task) -> tuple[Task, str | None]:
    """Return the task as it is now, and what it waits for if it has not ended."""
    task = await tasks.get(conn, task.id)
    if task.ended:
        return task, None
    agent = await agents.get(conn, str(task.agent_id)) if task.agent_id else None
    questions = await parking.find(conn, task.id) if task.status == TaskStatus.WAITING else []
    able = await routing.able(conn, task.capabilities) if agent is None and task.capabilities else []
    place = await standing.of(conn, task.id)
    return task, waiting.why(task, agent, place, await workers.find(conn), questions, able=able)


def _facts(task: Task, why: str | None, allowed: int) -> list[tuple[str, Cell]]:
    pairs: list[tuple[str, Cell]] = [
        ("task", str(task.id)),
        ("agent", task.agent or "none"),
        ("type", task.task_type or "-"),
        ("status", _status(task)),
    ]
    if why:
        pairs.append(("why", why))
    if task.status == TaskStatus.FAILED:
        pairs.append(("error", Mark(_error(task), "bad")))
    elif task.error and task.status != TaskStatus.WAITING and not task.ended and not task.failures:
        pairs.append(("before", f"given back: {task.error}"))
    pairs.append(("submitted", display.when(task.submitted_at or task.created_at)))
    pairs += _order_facts(task)
    if allowed > 1:
        tried = task.failures or 0
        ended = tried if task.status == TaskStatus.PENDING and tried else tried + 1
        pairs.append(("tries", f"{ended} of {allowed}"))
    pairs += _run_facts(task)
    if task.session_id:
        pairs.append(("session", str(task.session_id)))
    if task.adopted:
        pairs.append(("adopted", "yes, it was here before cirkelline"))
    return pairs


def _order_facts(task: Task) -> list[tuple[str, Cell]]:
    pairs: list[tuple[str, Cell]] = []
    if task.priority:
        pairs.append(("priority", str(task.priority)))
    if task.run_at:
        pairs.append(("runs from", display.when(task.run_at)))
    if task.capabilities:
        pairs.append(("needs", ", ".join(task.capabilities)))
    if task.key:
        pairs.append(("key", display.line(task.key, 255)))
    return pairs


def _run_facts(task: Task) -> list[tuple[str, Cell]]:
    pairs: list[tuple[str, Cell]] = []
    if task.attempt:
        pairs.append(("attempt", f"{task.attempt}, started {display.when(task.started_at)}"))
    if task.finished_at and task.started_at:
        took = display.span((task.finished_at - task.started_at).total_seconds())
        pairs.append(("ended", f"{display.when(task.finished_at)}, after {took}"))
    if task.definition_version:
        pairs.append(("definition", f"version {task.definition_version}"))
    if task.state_version:
        pairs.append(
            ("state", f"version {task.state_version} (`cirkelline states show {task.agent} {task.state_version}`)")
        )
    return pairs


async def cancel(reference: str, user: str | None) -> Answer:
    """Cancel a task: a waiting one at once, a running one by asking its worker."""
    async with opening.database() as opened:
        task_id = await opening.task_of(opened.db, user, reference)
        async with opened.db.connection() as conn:
            before = await tasks.get(conn, task_id)
            outcome = await tasks.cancel(conn, before.id)
            task = await tasks.get(conn, before.id)
    short = display.short(task.id)
    match outcome:
        case "cancelled" if not before.ended:
            return Answer(document(task), [Text(f"task {short} is cancelled")])
        case "asked":
            return Answer(document(task), [Text(f"task {short} is running: its worker was asked to stop it")])
        case "pending" | "waiting" | "running":
            raise NotCancelled(f"task {short} was here before cirkelline and is held: `cirkelline db adopt` says more")
        case ended:
            raise NotCancelled(
                f"task {short} cannot be cancelled: it {_was(task) if task.ended else f'is {ended}'} already"
            )


class NotCancelled(CirkellineError):
    """A task has ended already, or is not ours to cancel."""


async def retry(reference: str, user: str | None, *, from_start: bool) -> Answer:
    """Put a failed or cancelled task back in line, where it stopped or at its start."""
    async with opening.database() as opened:
        task_id = await opening.task_of(opened.db, user, reference)
        async with opened.db.connection() as conn:
            await tasks.retry(conn, task_id, from_start=from_start)
            kept = len(await journal.read(conn, task_id))
            task = await tasks.get(conn, task_id)
            agent = await agents.get(conn, str(task.agent_id)) if task.agent_id else None
            obstacle = await obstacle_to(conn, agent) if agent else None
    if obstacle:
        console.warn(obstacle)
    return Answer(document(task, obstacle), [Text(f"task {display.short(task_id)} is in line again{_where(kept)}")])


def _where(steps: int) -> str:
    return f", to go on after {display.count(steps - 1, 'recorded step')}" if steps > 1 else ""
