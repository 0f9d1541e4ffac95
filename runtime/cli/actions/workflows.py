"""Running workflows and following their runs."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from cirkelline.configs import scalars
from cirkelline.runtime import composition, workflows
from cirkelline.runtime.cli import console, display, failures, opening
from cirkelline.runtime.cli.actions import tasks as following
from cirkelline.runtime.cli.answers import Answer, Block, Cell, Facts, Mark, Table, Text, Tone
from cirkelline.state import agents, journal, parking, tasks
from cirkelline.state import workflows as records
from cirkelline.state.connection import Conn, Database
from cirkelline.state.journal import Kind, Step
from cirkelline.state.tasks import Task, TaskNotFound, TaskStatus
from cirkelline.state.workflows import RunStatus, WorkflowRun
from cirkelline.tools.toolbox import Toolbox

_TONES: Final[dict[str, Tone]] = {
    RunStatus.COMPLETED: "good",
    RunStatus.FAILED: "bad",
    RunStatus.RUNNING: "busy",
}
_HEADINGS: Final = ("run", "workflow", "status", "step", "began", "input")
_STEPS: Final = ("", "step", "status", "took", "attempt", "gave")
_FIRST_POLL: Final = 0.05  # s
_LONGEST_POLL: Final = 0.5  # s
_SHORTENED: Final = 60  # characters


@dataclass(frozen=True, slots=True)
class _Seen:
    """A run with its task and steps; another program's run has neither.

    `why` says what it waits for, and `undecided` that a person has to decide that.
    """

    run: WorkflowRun
    task: Task | None = None
    steps: Sequence[Step] = ()
    why: str | None = None
    undecided: bool = False


def _document(seen: _Seen) -> dict[str, Any]:
    run = seen.run
    return {
        "run_id": run.run_id,
        "workflow": run.workflow_name,
        "status": run.status,
        "current_step": run.current_step,
        "steps_completed": run.steps_completed,
        "input": run.input_data,
        "output": run.output_data,
        "error": run.error_message,
        "why": seen.why,
        "user_id": run.user_id,
        "metrics": run.metrics,
        "started_at": run.started_at,
        "completed_at": run.completed_at,
    }


def _step_document(step: Step) -> dict[str, Any]:
    output = step.output or {}
    return {
        "position": step.position,
        "name": step.name,
        "status": _step_status(step),
        "ms": step.ms,
        "attempt": step.attempt,
        "begun": step.begun,
        "output": output.get("value"),
        "error": output.get("failed"),
    }


def _step_status(step: Step) -> str:
    if step.output is None:
        return "begun"
    return "failed" if step.error else "completed"


async def run(
    name: str, given: Any, *, user: str | None, folder: Path | None, wait_for_it: bool, patience: float | None
) -> Answer:
    """Put a run in line; say what will keep it from running; wait for its end when asked."""
    async with opening.database(migrate=True) as opened:
        settings = opened.settings
        toolbox = Toolbox(
            composition.tools_folder(composition.configs_folder(settings, None), folder), settings.tool_modules
        )
        run_id, label = await workflows.submit(opened.db, toolbox, name, given, user=user)
        async with opened.db.connection() as conn:
            obstacle = await following.obstacle_to(conn, await agents.get(conn, records.handle(label)))
            seen = await _look(conn, str(run_id))
        if obstacle:
            console.warn(obstacle)
        if wait_for_it:
            return await _followed(opened.db, seen, patience, told=obstacle is not None)
    short = display.short(run_id)
    said = f"run {short} of {label} submitted (`cirkelline workflows show {short}`)"
    return Answer(_document(seen) | {"why": obstacle}, [Text(said)])


async def _followed(db: Database, seen: _Seen, patience: float | None, *, told: bool) -> Answer:
    short = seen.run.run_id[:8]
    try:
        async with asyncio.timeout(patience):
            return _ended(await _end(db, seen, told=told))
    except TimeoutError:
        async with db.connection() as conn:
            seen = await _look(conn, seen.run.run_id)
        if seen.run.ended:
            return _ended(seen)
        complaint = (
            f"run {short} is still {seen.run.status} after {display.span(patience or 0)}: {seen.why}"
            f" (`cirkelline tasks wait {short}` goes on waiting)"
        )
        return Answer(_document(seen), exit_code=failures.UNFINISHED, complaint=complaint)
    except asyncio.CancelledError:  # Ctrl-C
        console.note(f"run {short} goes on (`cirkelline tasks cancel {short}` stops it)")
        raise


async def _end(db: Database, seen: _Seen, *, told: bool) -> _Seen:
    """Return the run once it has ended or is parked, showing its steps on a terminal."""
    progress = _Progress() if console.on_terminal(sys.stderr) else None
    pause = _FIRST_POLL
    while True:
        if progress is not None:
            progress.show(seen.steps)
        if seen.run.ended or seen.undecided:
            return seen
        await asyncio.sleep(pause)
        pause = min(pause * 1.5, _LONGEST_POLL)
        async with db.connection() as conn:
            seen = await _look(conn, seen.run.run_id)
        if pause == _LONGEST_POLL and not told and seen.run.status == RunStatus.PENDING:
            told = True
            console.note(f"run {seen.run.run_id[:8]} is pending: {seen.why}")


@dataclass(slots=True)
class _Progress:
    """The steps on a terminal, a line when each begins and one when it has ended."""

    said: set[tuple[int, str]] = field(default_factory=set[tuple[int, str]])

    def show(self, steps: Sequence[Step]) -> None:
        for step in steps:
            status = _step_status(step)
            if (step.position, status) in self.said:
                continue
            self.said.add((step.position, status))
            took = f", {display.span((step.ms or 0) / 1000)}" if step.output is not None else ""
            console.note(f"{step.position:>3}  {step.name}: {status}{took}")


def _ended(seen: _Seen) -> Answer:
    run = seen.run
    short = run.run_id[:8]
    if run.status == RunStatus.COMPLETED:
        return Answer(_document(seen), [_content(run.output_data)])
    if not run.ended:
        complaint = f"run {short} waits for a decision: {seen.why}"
        return Answer(_document(seen), exit_code=failures.UNDECIDED, complaint=complaint)
    where = f" at step {run.current_step!r}" if run.current_step else ""
    complaint = (
        f"run {short} failed{where}: {display.line(run.error_message or '', 500)} (`cirkelline tasks retry {short}`)"
    )
    return Answer(_document(seen), exit_code=failures.FAILED, complaint=complaint)


def _content(value: Any) -> Text:
    return Text(value if isinstance(value, str) else json.dumps(value, indent=2, ensure_ascii=False))


async def _look(conn: Conn, run_id: str) -> _Seen:
    found = await records.get(conn, run_id)
    if found.task_id is None:
        return _Seen(found)
    try:
        task, why = await following.explained(conn, await tasks.get(conn, found.task_id))
    except TaskNotFound:  # removed since, or another program's run
        return _Seen(found)
    steps = [step for step in await journal.read(conn, found.task_id) if step.kind == Kind.STEP]
    undecided = task.status == TaskStatus.WAITING and following.needs_a_person(task, await parking.find(conn, task.id))
    return _Seen(found, task, steps, why, undecided)


async def find(*, status: str | None, workflow: str | None, user: str | None, limit: int) -> Answer:
    """List the newest runs that fit."""
    async with opening.database() as opened, opening.rows_of(opened.db, user) as conn:
        found = await records.find(conn, status=status, workflow=workflow, limit=limit)
    rows = [
        (
            each.run_id[:8],
            each.workflow_name,
            Mark(each.status, _TONES.get(each.status, "plain")),
            _place(each),
            display.ago(each.started_at),
            display.value(each.input_data, _SHORTENED) if each.input_data is not None else "-",
        )
        for each in found
    ]
    fits = " that fit" if status or workflow or user else ""
    empty = f"no workflow runs{fits} (`cirkelline workflows run` makes one)"
    return Answer({"runs": [_document(_Seen(each)) for each in found]}, [Table(_HEADINGS, rows, empty)])


def _place(run: WorkflowRun) -> str:
    """Say how far a run is: `3 fetch` while the third step runs, `12 done` at the end."""
    done = len(run.steps_completed) if scalars.is_list(run.steps_completed) else 0
    if run.current_step:
        return f"{done + 1} {display.line(run.current_step, 40)}"
    return f"{done} done"


async def show(reference: str, user: str | None) -> Answer:
    """Show one run in words."""
    async with opening.database() as opened:
        async with opening.rows_of(opened.db, user) as conn:
            run_id = await records.resolve(conn, reference)
        async with opened.db.connection() as conn:
            seen = await _look(conn, run_id)
    document = _document(seen) | {"steps": [_step_document(step) for step in seen.steps]}
    blocks: list[Block] = [Facts(_facts(seen))]
    if seen.steps:
        blocks += [Text("Steps:", apart=True), Table(_STEPS, [_row(step) for step in seen.steps], "")]
    blocks += [Text("Input:", apart=True), _content(seen.run.input_data)]
    if seen.run.status == RunStatus.COMPLETED:
        blocks += [Text("Output:", apart=True), _content(seen.run.output_data)]
    return Answer(document, blocks)


def _row(step: Step) -> Sequence[Cell]:
    output = step.output or {}
    failed = output.get("failed")
    gave = failed.get("message") if scalars.is_mapping(failed) else output.get("value")
    tones: dict[str, Tone] = {"begun": "busy", "failed": "bad", "completed": "good"}
    status = _step_status(step)
    return (
        str(step.position),
        step.name,
        Mark(status, tones[status]),
        display.span((step.ms or 0) / 1000) if step.output is not None else "-",
        str(step.attempt),
        display.value(gave, _SHORTENED) if step.output is not None else "",
    )


def _facts(seen: _Seen) -> list[tuple[str, Cell]]:
    run = seen.run
    pairs: list[tuple[str, Cell]] = [
        ("run", run.run_id),
        ("workflow", run.workflow_name),
        ("status", Mark(run.status, _TONES.get(run.status, "plain"))),
        ("step", _place(run)),
    ]
    if seen.why:
        pairs.append(("why", seen.why))
    if run.error_message:
        pairs.append(("error", Mark(display.line(run.error_message, 500), "bad")))
    if run.user_id:
        pairs.append(("user", run.user_id))
    pairs.append(("began", display.when(run.started_at)))
    if run.completed_at:
        pairs.append(("ended", display.when(run.completed_at)))
    if seen.task is not None and seen.task.attempt:
        pairs.append(("attempt", str(seen.task.attempt)))
    return pairs
