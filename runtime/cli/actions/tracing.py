"""Seeing what a task did: its steps, what its model saw, and whether it would come to the same again."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

from cirkelline.configs.errors import CirkellineError
from cirkelline.runtime import composition
from cirkelline.runtime.cli import console, display, failures, opening
from cirkelline.runtime.cli.answers import Answer, Block, Cell, Facts, Mark, Raw, Table, Text
from cirkelline.state import journal, tasks
from cirkelline.state.connection import Conn
from cirkelline.state.journal import ANSWER, Kind, Step
from cirkelline.state.tasks import Task, TaskStatus

_HEADINGS: Final = ("step", "began", "took", "tokens", "cost", "attempt", "what")
_WHAT: Final = 100


class BodyUnknown(CirkellineError):
    """A model's request cannot be given to the byte."""


# A timeline -----------------------------------------------------------------------------------------------------------


async def trace(reference: str, user: str | None) -> Answer:
    """Show every step of a task's run."""
    async with opening.database() as opened, opening.rows_of(opened.db, user) as conn:
        task = await _task(conn, reference)
        steps = await journal.read(conn, task.id, lost=True)
    arguments = {place: call["arguments"] for step in steps for place, call in _asked(step)}
    total = _total(steps)
    listed = [_document(step, task, arguments.get((step.position, step.call))) for step in steps]
    document = {
        "task": task.id,
        "agent": task.agent,
        "status": task.status,
        "error": task.error,
        "steps": listed,
        "total": total,
    }
    if not steps:
        why = _why_none(task)
        return Answer(document | {"why": why}, [Text(f"task {display.short(task.id)} has no steps on record: {why}")])
    days = {display.local(_began(step))[:10] for step in steps}
    rows = [_row(step, task, arguments.get((step.position, step.call)), dated=len(days) > 1) for step in steps]
    blocks: list[Block] = [Table(_HEADINGS, rows, ""), Text(_summary(task, total), apart=True)]
    if any(each["replayed"] for each in listed):
        blocks.append(Text("* replayed: recorded by that attempt, and the latest one got it from the record"))
    if task.error:
        blocks.append(Text(f"error: {display.line(task.error, 500)}", tone="bad"))
    return Answer(document, blocks)


async def _task(conn: Conn, reference: str) -> Task:
    return await tasks.get(conn, await tasks.resolve(conn, reference))


def _asked(step: Step) -> list[tuple[tuple[int, int], Mapping[str, Any]]]:
    """Return the tool calls that an answer asks for, each with the place of its step."""
    calls = (step.output or {}).get("calls", ()) if step.kind == Kind.MODEL else ()
    return [((step.position, index), call) for index, call in enumerate(calls)]


def _is_replayed(step: Step, task: Task) -> bool:
    """Whether the latest attempt got a step from the record of an earlier one."""
    return step.ended and step.call >= ANSWER and step.attempt < (task.attempt or 0)


def _document(step: Step, task: Task, arguments: str | None) -> dict[str, Any]:
    return {
        "step": journal.label(step.position, step.call),
        "position": step.position,
        "call": step.call,
        "kind": step.kind,
        "name": step.name,
        "begun": step.begun,
        "ms": step.ms,
        "input_tokens": step.input_tokens,
        "output_tokens": step.output_tokens,
        "cost": display.amount(step.cost),
        "attempt": step.attempt,
        "replayed": _is_replayed(step, task),
        "ended": step.ended,
        "error": step.error,
        "arguments": _parsed(arguments) if arguments is not None else None,
        "output": step.output,
        "operations": step.operations,
        "citations": step.citations,
        "waits": step.waits,
        "until": step.until,
        "decision": step.decision,
        "format": step.format,
    }


def _row(step: Step, task: Task, arguments: str | None, *, dated: bool) -> Sequence[Cell]:
    is_call = step.kind == Kind.MODEL
    return (
        journal.label(step.position, step.call),
        display.local(_began(step))[0 if dated else 11 :],
        display.span(step.ms / 1000) if step.ms is not None else "-",
        f"{step.input_tokens or 0:,} + {step.output_tokens or 0:,}" if is_call else "-",
        display.money(step.cost) if is_call else "-",
        f"{step.attempt}{' *' if _is_replayed(step, task) else ''}",
        Mark(f"{step.kind} {display.line(display.line(step.name, 40) + _what(step, arguments), _WHAT)}", _tone(step)),
    )


def _began(step: Step) -> datetime | None:
    """Return when a step began; the context is written with the first answer, and tells the time itself."""
    clock = (step.output or {}).get("clock") if step.kind == Kind.CONTEXT else None
    return datetime.fromisoformat(clock) if isinstance(clock, str) else step.begun


def _tone(step: Step) -> Any:
    if step.error:
        return "bad"
    return "busy" if not step.ended else "plain"


def _what(step: Step, arguments: str | None) -> str:
    """Return what a step was about, after its name: what a tool was given and gave, what a model said and asked for."""
    output = step.output or {}
    if step.kind == Kind.CONTEXT:
        shown = ("definition", "state", "last_message", "clock")
        return ": " + ", ".join(f"{key} {output[key]}" for key in shown if output.get(key) is not None)
    if "lost" in output:
        return f": paid without an answer ({output['lost']})"
    if step.kind == Kind.MODEL:
        calls = " ".join(f"→ {call['name']}({call['arguments']})" for _, call in _asked(step))
        return f": {output.get('text') or ''} {calls}"
    given = f"({display.line(arguments, _WHAT // 2)})" if arguments is not None else ""
    return f"{given} → {_outcome(step)}" + (f" [{_decided(step)}]" if step.decision and step.ended else "")


def _outcome(step: Step) -> str:
    output = step.output
    if output is None:
        if step.waits is None:
            return "began, and its end is not on record"
        until = f" until {display.local(step.until)}" if step.until else ""
        asked = f" to {display.line(str(step.waits['question']), 60)!r}" if "question" in step.waits else ""
        return f"waits: {step.waits.get('for')}{asked}{until}" + (f", {_decided(step)}" if step.decision else "")
    match output:
        case {"end": reason}:
            return f"ended the run: {reason}"
        case {"failed": {"message": message}}:
            return f"failed: {message}"
        case {"text": str(text)}:
            return text
        case _:
            return json.dumps(output.get("value", output), ensure_ascii=False)


def _decided(step: Step) -> str:
    decision = step.decision or {}
    by = f" by {decision['by']}" if decision.get("by") else ""
    return f"decided: {decision.get('verdict')}{by}"


def _total(steps: Sequence[Step]) -> dict[str, Any]:
    calls = [step for step in steps if step.kind == Kind.MODEL]
    return {
        "model_calls": len(calls),
        "tool_calls": sum(step.kind == Kind.TOOL for step in steps),
        "steps": sum(step.kind == Kind.STEP for step in steps),
        "ms": sum(step.ms or 0 for step in steps),
        "input_tokens": sum(step.input_tokens or 0 for step in calls),
        "output_tokens": sum(step.output_tokens or 0 for step in calls),
        "cost": display.amount(sum((step.cost for step in calls if step.cost is not None), Decimal(0))),
        "calls_of_unknown_cost": sum(step.cost is None for step in calls),
    }


def _summary(task: Task, total: Mapping[str, Any]) -> str:
    unknown = total["calls_of_unknown_cost"]
    paid = display.paid(Decimal(total["cost"]), calls=total["model_calls"], unknown=unknown)
    calls = f"{display.count(total['model_calls'], 'model call')}, {display.count(total['tool_calls'], 'tool call')}"
    if total["steps"]:  # a workflow's run, which asks no model
        calls = display.count(total["steps"], "step")
        return f"{task.status} at attempt {task.attempt or 0}: {calls}, {display.span(total['ms'] / 1000)} of work"
    return (
        f"{task.status} at attempt {task.attempt or 0}: {calls}, {display.span(total['ms'] / 1000)} of work,"
        f" {total['input_tokens']:,} tokens in, {total['output_tokens']:,} out, cost {paid}"
    )


def _why_none(task: Task) -> str:
    if task.adopted:
        return "it was here before cirkelline"
    match task.status:
        case TaskStatus.PENDING:
            return "it waits for a worker, and no attempt came to the end of a first model call"
        case TaskStatus.RUNNING:
            return "its first model call has not ended yet"
        case TaskStatus.COMPLETED:
            return "it was completed by something else than a run"
        case _:
            return "it ended before its first model call did"


def _parsed(text: str) -> Any:
    try:
        return json.loads(text or "{}")
    except ValueError:
        return text


# What the model saw ---------------------------------------------------------------------------------------------------


async def prompt(reference: str, user: str | None, position: int | None, tools: Path | None, *, body: bool) -> Answer:
    """Show what the model saw at one of its calls; with `body`, the very request."""
    from cirkelline.agents import replaying as offline
    from cirkelline.runtime import replaying
    from cirkelline.tools.toolbox import Toolbox

    async with opening.database() as opened:
        async with opening.rows_of(opened.db, user) as conn:
            task = await _task(conn, reference)
        settings = opened.settings
        folder = composition.tools_folder(composition.configs_folder(settings, None), tools)
        toolbox = Toolbox(folder, settings.tool_modules)
        seen = await replaying.prompt(opened.db, task, toolbox, os.environ, position=position)
    short = display.short(task.id)
    if body:
        _require_body(seen, short)
    for warning in seen.warnings:
        console.warn(warning)
    document = {
        "task": task.id,
        "step": str(seen.position),
        "model": seen.model,
        "answered": seen.answered,
        "messages": [offline.as_json(message) for message in seen.messages],
        "tools": [{"name": t.name, "description": t.description, "parameters": t.parameters} for t in seen.tools],
        "body": seen.body.decode() if seen.body is not None and not seen.warnings else None,
        "warnings": list(seen.warnings),
    }
    if body and seen.body is not None:
        return Answer(document, [Raw(seen.body)])
    facts: list[tuple[str, Cell]] = [
        ("task", str(task.id)),
        ("step", f"{seen.position}{'' if seen.answered else ', whose answer is not on record'}"),
        ("model", seen.model),
        ("tools", ", ".join(tool.name for tool in seen.tools) or "none"),
    ]
    return Answer(document, [Facts(facts), *(block for message in seen.messages for block in _said(message))])


def _require_body(seen: Any, short: str) -> None:
    if seen.body is None:
        raise BodyUnknown(
            f"{seen.model} is not asked over HTTP, so there is no body: `cirkelline tasks trace {short} --prompt"
            f" {seen.position} --json` has its messages and tools"
        )
    if seen.warnings:
        raise BodyUnknown(f"what was sent cannot be given to the byte: {seen.warnings[0]}")


def _said(message: Any) -> list[Block]:
    who = (
        f"tool {message.tool_name}{' (error)' if message.tool_error else ''}"
        if message.role == "tool"
        else message.role
    )
    calls = [f"→ {call.name}({call.arguments})" for call in message.tool_calls]
    return [
        Text(f"{who}:", apart=True, tone="quiet"),
        Text("\n".join([*([message.content] if message.content or not calls else []), *calls])),
    ]


# Once more ------------------------------------------------------------------------------------------------------------


async def replay(reference: str, user: str | None) -> Answer:
    """Make a task's run once more from its journal, and say whether it comes to the same."""
    from cirkelline.runtime import replaying

    async with opening.database() as opened:
        async with opening.rows_of(opened.db, user) as conn:
            task = await _task(conn, reference)
        report = await replaying.replay(opened.db, task)
    found = report.difference
    document = {
        "task": task.id,
        "same": found is None,
        "steps": report.steps,
        "ended": report.ended,
        "uncompared": report.uncompared,
        "difference": {"step": found.step, "expected": found.expected, "came": found.came} if found else None,
    }
    short = display.short(task.id)
    if report.uncompared:
        console.warn(f"{display.count(report.uncompared, 'step')} of another format: only their order was compared")
    if found is not None:
        where = found.step if found.step.startswith("the ") else f"step {found.step}"
        complaint = f"task {short} comes to something else at {where}: expected {found.expected}, came {found.came}"
        return Answer(document, exit_code=failures.FAILED, complaint=complaint)
    same = display.count(report.steps, "step")
    return Answer(document, [Text(f"task {short} comes to the same again: {same}, no model asked, no tool called")])
