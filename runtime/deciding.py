"""Decisions about parked tasks, as the command line, the chat and Python code make them: each is kept once or refused."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from cirkelline.configs import scalars, wording
from cirkelline.configs.errors import CirkellineError, UsageError
from cirkelline.state import parking, tasks
from cirkelline.state.claims import DEATHS_ALLOWED
from cirkelline.state.connection import Conn
from cirkelline.state.parking import Decided, For, Verdict, Waiting
from cirkelline.state.tasks import Task, TaskStatus

_WORDS = {
    For.APPROVAL: "an approval",
    For.OUTCOME: "a decision on what happened",
    For.ANSWER: "an answer",
    For.TIME: "its time",
}


class NotAsked(CirkellineError):
    """The task waits for no such decision, or somebody was faster."""


class WhichCall(UsageError):
    """Several calls of the task wait, and it was not said which one is meant."""


class NoSuchChoice(UsageError):
    """The answer is none of those that the agent offered."""


async def approve(conn: Conn, task_id: UUID, *, call: str | None = None, by: str | None = None) -> None:
    """Let a call run that waits for approval. Raises: NotAsked, WhichCall."""
    await _decide(conn, task_id, For.APPROVAL, Verdict.APPROVE, call=call, by=by)


async def reject(
    conn: Conn, task_id: UUID, *, reason: str | None = None, call: str | None = None, by: str | None = None
) -> None:
    """Refuse a call that waits for approval; the model reads the reason. Raises: NotAsked, WhichCall."""
    await _decide(conn, task_id, For.APPROVAL, Verdict.REJECT, value=reason, call=call, by=by)


async def answer(conn: Conn, task_id: UUID, text: str, *, call: str | None = None, by: str | None = None) -> None:
    """Answer what an agent asks a person. Raises: NotAsked, WhichCall, NoSuchChoice."""
    question = await _question(conn, task_id, For.ANSWER, call)
    choices = choices_of(question)
    if not text.strip():
        raise NoSuchChoice("the answer is empty: say something, as the agent reads it word for word")
    if choices and text not in choices:
        meant = wording.did_you_mean(text, choices)
        raise NoSuchChoice(f"{wording.shown(text)} is none of the answers {wording.listed(choices, 'or')}{meant}")
    await _settle(conn, task_id, question, Verdict.ANSWER, value=text, by=by)


async def resolve(
    conn: Conn,
    task_id: UUID,
    verdict: Verdict,
    *,
    value: Any = None,
    call: str | None = None,
    by: str | None = None,
    state_limit: int,
) -> None:
    """Decide as `outcome` does, or about a task whose workers keep dying (RETRY, FAIL).

    `value` is the result, or the reason of a failure. Raises: NotAsked, WhichCall.
    """
    task = await tasks.get(conn, task_id)
    if task.status == TaskStatus.WAITING and (task.deaths or 0) >= DEATHS_ALLOWED and call is None:
        if verdict is Verdict.RESULT:
            raise WhichCall(
                f"task {task_id} is parked because {task.error}, so no call's result is asked for: --retry or --fail"
            )
        reason = f"{task.error}: {value}" if value else str(task.error)
        if await _resolved(conn, task, again=verdict is Verdict.RETRY, reason=reason, state_limit=state_limit):
            return
    await outcome(conn, task_id, verdict, value=value, call=call, by=by)


async def outcome(
    conn: Conn, task_id: UUID, verdict: Verdict, *, value: Any = None, call: str | None = None, by: str | None = None
) -> None:
    """Decide what became of a call whose worker died in it (RETRY, RESULT, FAIL). Raises: NotAsked, WhichCall."""
    await _decide(conn, task_id, For.OUTCOME, verdict, value=value, call=call, by=by)


async def _resolved(conn: Conn, task: Task, *, again: bool, reason: str, state_limit: int) -> bool:
    done = await parking.decide_deaths(conn, task.id, again=again, reason=reason, state_limit=state_limit)
    return done is Decided.DECIDED


def choices_of(question: Waiting) -> list[str]:
    """Return the answers that may be given; none for a free one."""
    found = question.waits.get("choices")
    return [str(choice) for choice in found] if scalars.is_list(found) else []


async def _decide(
    conn: Conn, task_id: UUID, wanted: For, verdict: Verdict, *, value: Any = None, call: str | None, by: str | None
) -> None:
    await _settle(conn, task_id, await _question(conn, task_id, wanted, call), verdict, value=value, by=by)


async def _settle(
    conn: Conn, task_id: UUID, question: Waiting, verdict: Verdict, *, value: Any = None, by: str | None
) -> None:
    if await parking.decide(conn, task_id, question, verdict, value=value, by=by) is Decided.LATE:
        raise NotAsked(f"task {task_id} does not wait for that any more: somebody was faster, or its time was up")


async def _question(conn: Conn, task_id: UUID, wanted: For, call: str | None) -> Waiting:
    """Return the one question that is meant."""
    task = await tasks.get(conn, task_id)
    open_ones = [] if task.ended else await parking.find(conn, task_id)
    fitting = [each for each in open_ones if each.kind is wanted and call in {None, each.place}]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        places = wording.listed([f"{each.place} ({each.name})" for each in fitting], "or")
        raise WhichCall(f"several calls of task {task_id} wait for {_WORDS[wanted]}: say which with --call: {places}")
    instead = _instead(task, open_ones, wanted, call)
    raise NotAsked(f"task {task_id} does not wait for {_WORDS[wanted]}, or not any more{instead}")


def _instead(task: Task, open_ones: Sequence[Waiting], wanted: For, call: str | None) -> str:
    there = [each for each in open_ones if each.kind is wanted]
    if call is not None and there:
        return f" at {wording.shown(call)}, but at {wording.listed([each.place for each in there])}"
    others = sorted({_WORDS[each.kind] for each in open_ones})
    return f", but for {wording.listed(others)}" if others else f": it is {task.status}"
