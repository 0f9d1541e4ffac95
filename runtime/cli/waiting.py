"""Why a task is where it is, in a sentence."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

from cirkelline.configs import scalars, wording
from cirkelline.runtime import deciding, workflows
from cirkelline.runtime.cli import display
from cirkelline.state.agents import WORKFLOW, Agent
from cirkelline.state.claims import DEATHS_ALLOWED
from cirkelline.state.parking import For, Waiting
from cirkelline.state.standing import Standing
from cirkelline.state.tasks import Task, TaskStatus
from cirkelline.state.workers import Worker

NO_WORKER: Final = "no worker is running: start one with `cirkelline up`"
_ARGUMENTS: Final = 400  # characters of a call that are shown; `tasks show --json` has all of them
_PATIENCE: Final = timedelta(seconds=5)  # twice the default poll: by then a worker that could would have claimed it


def why(
    task: Task,
    agent: Agent | None,
    standing: Standing | None,
    workers: Sequence[Worker],
    questions: Sequence[Waiting] = (),
    *,
    able: Sequence[Agent] = (),
) -> str | None:
    """Return what a task that has not ended waits for, with the remedy where there is one; None for an ended one.

    `able` are the agents with the capabilities of a task that names no agent.
    """
    match task.status:
        case TaskStatus.PENDING if agent is None and task.capabilities and not task.adopted:
            return _unrouted(task, task.capabilities, able, workers)
        case TaskStatus.PENDING:
            return _pending(task, agent, standing, workers)
        case TaskStatus.RUNNING:
            return _running(task, standing, workers)
        case TaskStatus.WAITING:
            return "; ".join(needs(task, questions))
        case _:
            return None


def needs(task: Task, questions: Sequence[Waiting]) -> list[str]:
    """Return what a parked task waits for, each with the command that decides it."""
    found = [_need(task, question, several=len(questions) > 1) for question in questions]
    if (task.deaths or 0) >= DEATHS_ALLOWED:
        resolve = f"cirkelline tasks resolve {display.short(task.id)}"
        found.append(f"{task.error} without a new step: `{resolve} --retry` tries again, `--fail` ends it")
    short = display.short(task.id)
    nothing = "it is parked, but nothing is written of what for"
    return found or [f"{nothing}: `cirkelline tasks cancel {short}`, then `cirkelline tasks retry {short}`"]


def _need(task: Task, question: Waiting, *, several: bool) -> str:
    short = display.short(task.id) + (f" --call {question.place}" if several else "")
    until = f" (until {display.local(question.until)})" if question.until else ""
    match question.kind:
        case For.APPROVAL:
            return (
                f"a person has to approve {call(question)}{until}: `cirkelline tasks approve {short}`, or"
                f" `cirkelline tasks reject {short} --reason …`"
            )
        case For.OUTCOME:
            return (
                f"nobody knows whether {call(question)} happened, as it was cut off: look, then"
                f" `cirkelline tasks resolve {short}` with --retry, --result JSON or --fail"
            )
        case For.ANSWER:
            return f"{asked(question)}{until}: `cirkelline tasks answer {short} …`"
        case For.TIME:
            return f"it sleeps until {display.when(question.until)}"


def asked(question: Waiting) -> str:
    """Return the question that an agent asks a person, with the choices."""
    words = f"the agent asks: {display.line(str(question.waits.get('question', '')), 4000)}"
    choices = [display.line(choice, 200) for choice in deciding.choices_of(question)]
    return f"{words} ({' | '.join(choices)})" if choices else words


def call(question: Waiting) -> str:
    """Return a call that waits on one line: `charge(cents=500)`."""
    given = question.waits.get("arguments")
    if scalars.is_mapping(given):
        shown = ", ".join(f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in given.items())
    else:
        shown = str(given)
    return f"{display.line(question.name, 64)}({display.line(shown, _ARGUMENTS)})"


def _pending(task: Task, agent: Agent | None, standing: Standing | None, workers: Sequence[Worker]) -> str:
    if task.adopted:
        return "it was here before cirkelline and is held: `cirkelline db adopt --release` lets such tasks run"
    if agent is None:
        return "it names no agent, so nobody runs it: `cirkelline tasks cancel` it"
    return (
        unfit(agent)
        or _commands_own(agent)
        or (_out_of_line(task, standing) if standing else None)
        or _unclaimed(task, agent, standing, [worker for worker in workers if _serves(worker, task)])
    )


def _unrouted(task: Task, capabilities: Sequence[str], able: Sequence[Agent], workers: Sequence[Worker]) -> str:
    if task.run_at and task.run_at > datetime.now(UTC):
        return f"its time has not come: an agent is chosen from {display.when(task.run_at)} on"
    if obstacle := unroutable(capabilities, able):
        return obstacle
    if not any(_serves(worker, task) for worker in workers):
        return NO_WORKER
    if task.submitted_at and datetime.now(UTC) - task.submitted_at < _PATIENCE:
        return "a worker is about to choose an agent for it"
    names = wording.listed(agent.label for agent in able if unfit(agent) is None)
    return f"no agent that can {wording.listed(capabilities)} is idle, or no running worker serves it: {names}"


def unroutable(capabilities: Sequence[str], able: Sequence[Agent]) -> str | None:
    """Return why no agent can be given a task that needs these capabilities, or None."""
    if not able:
        return f"no agent can {wording.listed(capabilities)} (`cirkelline agents list --json` shows what each can)"
    problems = [problem for agent in able if (problem := unfit(agent)) is not None]
    return "; ".join(problems) if len(problems) == len(able) else None


def unfit(agent: Agent) -> str | None:
    """Return why an agent gets no task at present, with the remedy, or None."""
    label = agent.label
    if agent.status is None:
        return f"agent {label} has no status: `cirkelline agents resume {label}` lets it run"
    if agent.status in {"paused", "retired"}:
        return f"agent {label} is {agent.status}: `cirkelline agents resume {label}` lets it run"
    if agent.problem:
        return f"agent {label} is invalid: {agent.problem}"
    if agent.definition_version is None:
        return f"agent {label} has not been checked yet: a worker does that (`cirkelline up`)"
    return None


def _commands_own(agent: Agent) -> str | None:
    command = workflows.OWN.get(agent.label.removeprefix(WORKFLOW))
    return command and f"it was cut off, and `{command}` goes on with it on the machine on which it was begun"


def _out_of_line(task: Task, standing: Standing) -> str | None:
    if not standing.queued:
        return "it is not in line (written with triggers off?): cancel it, then `cirkelline tasks retry` it"
    if standing.later and task.failures:
        tried = f"attempt {task.failures} of {standing.attempts} failed ({display.line(task.error or '-', 200)})"
        return f"{tried}: the next one is due {display.when(standing.run_at)}"
    if standing.held:
        return f"its model is on hold, and tried again {display.when(standing.held_until)}: {display.line(standing.held, 300)}"
    if standing.later:
        return f"its time has not come: it runs from {display.when(standing.run_at)} on"
    if standing.earlier_turn:
        return f"an earlier turn of its session has to end first: task {display.short(standing.earlier_turn)}"
    return None


def _serves(worker: Worker, task: Task) -> bool:
    return worker.alive and not worker.draining and worker.session_id in {None, task.session_id}


def _unclaimed(task: Task, agent: Agent, standing: Standing | None, workers: Sequence[Worker]) -> str:
    if not workers:
        return NO_WORKER
    if standing and standing.cap is not None and standing.busy >= standing.cap:
        return f"agent {agent.label} already runs {display.count(standing.busy, 'task')}, its limit at once"
    slots = sum(worker.slots for worker in workers)
    if sum(worker.running for worker in workers) >= slots:
        return f"all {display.count(slots, 'slot')} of {display.count(len(workers), 'worker')} are taken"
    if standing and standing.ahead:
        return f"{display.count(standing.ahead, 'task')} of agent {agent.label} go first"
    since = standing.run_at if standing and standing.run_at else task.submitted_at
    if since is None or datetime.now(UTC) - since < _PATIENCE:
        return "a worker is about to take it"
    have = "the worker that is running has" if len(workers) == 1 else f"none of the {len(workers)} workers running has"
    no = " not" if len(workers) == 1 else ""
    return f"{have}{no} taken it, so it may lack the agent's tools or model: run `cirkelline doctor` where it runs"


def _running(task: Task, standing: Standing | None, workers: Sequence[Worker]) -> str:
    worker = next((worker for worker in workers if worker.id == task.worker), None)
    if worker is None or not worker.alive:
        others = any(_serves(other, task) for other in workers)
        return "its worker is gone: " + ("another takes it over in a moment" if others else NO_WORKER)
    if standing and standing.asked_to_stop:
        return f"it was asked to stop; its worker on {worker.host} is ending it"
    return f"worker {display.short(worker.id)} on {worker.host} is running it, since {display.ago(task.started_at)}"
