"""From a claimed task to the request of a run, and from its outcome to what is written."""

from __future__ import annotations

import json
from typing import Any, Final
from uuid import UUID

import structlog

from cirkelline.agents.chat_model import ChatMessage
from cirkelline.agents.run import RunError, RunOutcome, RunRequest, RunStatus
from cirkelline.configs import scalars
from cirkelline.runtime.registry import Prepared
from cirkelline.state import sessions, snapshots
from cirkelline.state.claims import Claim, Finish
from cirkelline.state.connection import Database
from cirkelline.state.tenant import tenant
from cirkelline.tools.contract import ToolContext
from cirkelline.tools.state import State

CHAT: Final = "chat"
STOPPED: Final = "[stopped]"
"""What stands in a session's history for an answer that was cancelled before its first word."""


async def request(db: Database, claim: Claim, prepared: Prepared) -> RunRequest:
    """Return all that the task's run depends on: the pinned definition, the latest snapshot, the session's history."""
    async with db.connection() as conn:
        snapshot = await snapshots.latest(conn, claim.agent_id)
    work: dict[str, Any] = snapshot.state["work"] if snapshot else {}
    return RunRequest(
        spec=prepared.spec,
        model=prepared.model,
        messages=await _history(db, claim, prepared.spec.history.messages),
        input=input_text(claim.payload, claim.task_type),
        tools=prepared.tools,
        ctx=ToolContext(
            state=State(work),
            agent=prepared.spec.name,
            task_id=claim.id,
            session_id=claim.session_id,
            user_id=claim.user_id,
            attempt=claim.attempt,
            log=structlog.get_logger("cirkelline.tool").bind(agent=prepared.spec.name, task_id=claim.id),
        ),
    )


async def _history(db: Database, claim: Claim, limit: int) -> tuple[ChatMessage, ...]:
    if claim.session_id is None or claim.user_id is None or not limit:
        return ()
    async with tenant(db, claim.user_id) as door:
        found = await sessions.messages(door, claim.session_id, limit=limit)
    messages = [ChatMessage("user" if each.role == "user" else "assistant", each.content) for each in found]
    # The window may cut a turn in two, and some providers refuse a conversation that opens with an answer.
    return tuple(messages[next((at for at, each in enumerate(messages) if each.role == "user"), len(messages)) :])


def input_text(payload: object, task_type: str | None) -> str:
    """Return what a task's payload says to the agent: its `input`, or the whole JSON when it has none."""
    said = payload["input"] if scalars.is_mapping(payload) and "input" in payload else payload
    if said is None or said in ("", {}):
        return task_type or "task"  # another program's task may say nothing but its type
    return said if isinstance(said, str) else json.dumps(said, ensure_ascii=False, indent=2)


def finish(claim: Claim, run: RunRequest, outcome: RunOutcome) -> Finish:
    """Return what is written for a run that came to an outcome."""
    usage = {"input_tokens": outcome.usage.input_tokens, "output_tokens": outcome.usage.output_tokens}
    facts = {"usage": usage, "steps": outcome.steps}
    tokens = sum(usage.values())
    match outcome.status:
        case RunStatus.COMPLETED:
            return Finish(
                claim.id,
                claim.attempt,
                "completed",
                {"output": outcome.output, **facts},
                tokens=tokens,
                operations=run.ctx.state.operations,
                messages=_turn(claim, run.input, outcome.output),
            )
        case RunStatus.CANCELLED:
            result = {"error": {"type": "Cancelled", "message": "cancelled"}, "partial_output": outcome.output, **facts}
            said = _turn(claim, run.input, outcome.output or STOPPED)
            return Finish(claim.id, claim.attempt, "cancelled", result, error="cancelled", tokens=tokens, messages=said)
        case RunStatus.FAILED:
            error = outcome.error or RunError("Failed", "the run failed without saying why")
            return failed(claim.id, claim.attempt, error, tokens=tokens, facts=facts)


def failed(
    task_id: UUID, attempt: int, error: RunError, *, tokens: int = 0, facts: dict[str, Any] | None = None
) -> Finish:
    """Return what is written for a run that failed: the error, and nothing into its session."""
    result = {"error": {"type": error.type, "message": error.message}, **(facts or {})}
    return Finish(task_id, attempt, "failed", result, error=error.message, tokens=tokens)


def _turn(claim: Claim, said: str, answered: str) -> tuple[tuple[str, str], ...]:
    return (("user", said), ("assistant", answered)) if claim.session_id is not None else ()
