"""From a claimed task to the request of a run, and from its outcome to what is written."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

import structlog

from cirkelline.agents import capturing, memory_notes, summaries
from cirkelline.agents.chat_model import ChatMessage
from cirkelline.agents.hashing import hash_tools
from cirkelline.agents.journaling import FORMAT, Journal, Recorder
from cirkelline.agents.run import RunError, RunOutcome, RunRequest, RunStatus
from cirkelline.agents.steps import schema
from cirkelline.configs import scalars
from cirkelline.runtime import recalling
from cirkelline.runtime.citing import Cited
from cirkelline.runtime.past import Past, Pinned, look, wants_summary
from cirkelline.runtime.registry import Prepared
from cirkelline.state import journal as journals
from cirkelline.state import snapshots
from cirkelline.state.claims import Claim, Finish
from cirkelline.state.connection import Database
from cirkelline.state.journal import ANSWER, CONTEXT, Kind, Step
from cirkelline.state.snapshots import Snapshot, SnapshotNotFound
from cirkelline.tools import builtins
from cirkelline.tools.capturing import may_tell
from cirkelline.tools.citations import Numbers
from cirkelline.tools.contract import Tool, ToolContext
from cirkelline.tools.library import Embedders, UserLibrary
from cirkelline.tools.state import State

log = structlog.get_logger(__name__)

CHAT: Final = "chat"
SESSION_STATE: Final = "session_state"
MEMORIES: Final = "memories"
STOPPED: Final = "[stopped]"
"""What stands in a session's history for an answer that was cancelled before its first word."""


@dataclass(frozen=True, slots=True)
class Begun:
    """An attempt about to run: what its run depends on, and the journal that answers for earlier attempts."""

    request: RunRequest
    past: Past
    journal: Journal
    resumed: int
    """How many steps earlier attempts have left."""


@dataclass(frozen=True, slots=True)
class Gathered:
    """All that a task's run depends on, without a journal: what it is asked to do, and what is on record of it."""

    request: RunRequest
    past: Past
    context: Step
    """Position 0 as this attempt sees it: as it is on record, if anything is."""
    recorded: Sequence[Step]
    lost: Sequence[Step]


@dataclass(frozen=True, slots=True)
class _Context:
    """What a run is about besides its definition; an attempt that goes on sees what the first one saw.

    `state` is a version of the agent's state, `pinned` what the run is shown of its session and its user.
    """

    state: int | None
    pinned: Pinned
    clock: datetime

    @classmethod
    def of(cls, step: Step) -> _Context:
        kept = step.output or {}
        pinned = Pinned(
            kept.get("last_message"),
            kept.get("summary"),
            kept.get(SESSION_STATE),
            kept.get("about"),
            kept.get(MEMORIES),
            kept.get("captured"),
        )
        return cls(kept.get("state"), pinned, datetime.fromisoformat(kept["clock"]))

    def step(self, claim: Claim, prepared: Prepared, tools: Sequence[Tool]) -> Step:
        output: dict[str, Any] = {
            "definition": claim.definition_version,
            "model": prepared.model.label,
            "state": self.state,
            "last_message": self.pinned.last_message,
            "clock": self.clock.isoformat(),
            **({"tools": hash_tools([schema(tool) for tool in tools])} if tools else {}),
        }
        pinned = self.pinned
        more = {
            "summary": pinned.summary,
            SESSION_STATE: pinned.session_state,
            "about": pinned.about,
            MEMORIES: pinned.memories,
            "captured": pinned.captured,
        }
        output |= {key: value for key, value in more.items() if value is not None}
        return Step(
            position=CONTEXT, call=ANSWER, kind=Kind.CONTEXT, name=prepared.spec.name, format=FORMAT, output=output
        )


async def begin(
    db: Database, claim: Claim, prepared: Prepared, recorder: Recorder, embedders: Embedders | None = None
) -> Begun:
    """Return a run that goes on where the record ends, and adds to it; `embedders` are what its searches take."""
    gathered = await gather(db, claim, prepared, embedders)
    library = UserLibrary(db, embedders, claim.user_id, prepared.spec.knowledge, claim.session_id)
    shown = (gathered.context.output or {}).get(MEMORIES)
    read = recalling.read(shown, gathered.recorded)
    remembered = recalling.memories_of(db, embedders, claim, gathered.past, read=read)
    ctx = replace(gathered.request.ctx, library=library, remembered=remembered)
    request = replace(gathered.request, ctx=ctx)
    journal = Journal(
        recorder,
        task_id=claim.id,
        attempt=claim.attempt,
        model=prepared.model.label,
        price=prepared.price,
        state=request.ctx.state,
        session_state=request.ctx.held,
        context=gathered.context,
        recorded=gathered.recorded,
        lost=gathered.lost,
    )
    return Begun(
        replace(
            request,
            around_model_call=journal.around_model_call,
            around_tool_call=journal.around_tool_call,
        ),
        gathered.past,
        journal,
        max(0, len(gathered.recorded) - 1),
    )


async def gather(db: Database, claim: Claim, prepared: Prepared, embedders: Embedders | None = None) -> Gathered:
    """Return all that a run depends on: the pinned definition, a snapshot, the session's history, what is on record.

    What is remembered of its user is recalled for the first attempt alone; it is a part of the record.
    """
    recorded, lost, snapshot = await _recorded(db, claim)
    earlier = _Context.of(recorded[0]) if recorded else None
    past = await look(db, claim, prepared, earlier.pinned if earlier else None)
    context = earlier
    if context is None:
        clock = datetime.now(UTC).replace(microsecond=0)
        said = input_text(claim.payload, claim.task_type)
        recalled = await recalling.recalled(db, embedders, claim, prepared, past, said=said, at=clock)
        pinned = replace(past.pinned, memories=recalled)
        context = _Context(state=snapshot.version if snapshot else None, pinned=pinned, clock=clock)
    state = State(snapshot.state["work"] if snapshot else {})
    request = _request(claim, prepared, past, remembered=context.pinned.memories, state=state, recorded=recorded)
    request = replace(request, clock=context.clock)
    return Gathered(request, past, context.step(claim, prepared, request.tools), recorded, lost)


async def _recorded(db: Database, claim: Claim) -> tuple[list[Step], list[Step], Snapshot | None]:
    """Return what earlier attempts have left, what they lost, and the snapshot that the run began with."""
    async with db.connection() as conn:
        found = await journals.read(conn, claim.id, lost=True) if claim.attempt > 1 else []
        recorded = [step for step in found if step.call >= ANSWER]
        lost = [step for step in found if step.call < ANSWER]
        version = _Context.of(recorded[0]).state if recorded else None
        if recorded and version is None:
            return recorded, lost, None
        if version is not None:
            try:
                return recorded, lost, await snapshots.get(conn, claim.agent_id, version)
            except SnapshotNotFound:  # only tools that are still to come read it
                log.warning("task.state_gone", version=version, instead="the latest one")
        return recorded, lost, await snapshots.latest(conn, claim.agent_id)


def _request(
    claim: Claim, prepared: Prepared, past: Past, *, remembered: str | None, state: State, recorded: Sequence[Step]
) -> RunRequest:
    said = [(each.role, each.content) for each in past.messages]
    told = past.summary.text if past.summary else None
    shown = [ChatMessage("user" if role == "user" else "assistant", content) for role, content in said]
    spec, tools = prepared.spec, prepared.tools
    messages: tuple[ChatMessage, ...]
    if past.of:
        spec, tools, messages, asked = summaries.summarizer(spec), (), (), summaries.question(told, said)
    elif past.captured is not None:
        spec, tools, messages = capturing.capturer(spec), (builtins.KEEP_FACTS,), capturing.EXAMPLES
        asked = capturing.question(remembered, said)
    else:
        messages = (*summaries.shown(told, shown), *memory_notes.shown(remembered))
        asked = input_text(claim.payload, claim.task_type)
    return RunRequest(
        spec=spec,
        model=prepared.model,
        input=asked,
        messages=messages,
        decides=not past.of and past.captured is not None,
        about=past.about,
        tools=tools,
        ctx=ToolContext(
            state=state,
            held=State(past.state, name="session_state") if past.state is not None else None,
            numbers=Numbers(citation for step in recorded for citation in step.citations or ()),
            agent=prepared.spec.name,
            task_id=claim.id,
            session_id=claim.session_id,
            user_id=claim.user_id,
            attempt=claim.attempt,
            log=structlog.get_logger("cirkelline.tool").bind(agent=prepared.spec.name, task_id=claim.id),
        ),
    )


def input_text(payload: object, task_type: str | None) -> str:
    """Return what a task's payload says to the agent: its `input`, or the whole JSON when it has none."""
    said = payload["input"] if scalars.is_mapping(payload) and "input" in payload else payload
    if said is None or said in ("", {}):
        return task_type or "task"  # another program's task may say nothing but its type
    return said if isinstance(said, str) else json.dumps(said, ensure_ascii=False, indent=2)


def finish(claim: Claim, prepared: Prepared, begun: Begun, outcome: RunOutcome, cited: Cited | None = None) -> Finish:
    """Return what is written for a run that came to an outcome: its result, and with it the last step of its journal.

    What is stored and shown is the answer as it was `cited`, if it was checked; the journal has it as the model gave it.
    """
    if cited is not None:
        outcome = replace(outcome, output=cited.output)
    if begun.past.of and outcome.status is RunStatus.COMPLETED and summaries.accepted(outcome.output) is None:
        refused = RunError("SummaryRefused", "the model's summary of the conversation is empty")
        outcome = replace(outcome, status=RunStatus.FAILED, error=refused)
    reason = outcome.error.type if outcome.error else outcome.status.value
    lost = begun.journal.lost(outcome.usage, outcome.steps, reason)
    steps = [*(_without_copy(step, outcome) for step in begun.journal.unwritten), *([lost] if lost else [])]
    return replace(
        _finish(claim, begun.request, outcome, cited.as_json() if cited is not None else {}),
        steps=steps,
        tokens=begun.journal.paid.tokens,
        session=_kept_for_session(claim, prepared, begun, outcome),
    )


def _kept_for_session(claim: Claim, prepared: Prepared, begun: Begun, outcome: RunOutcome) -> dict[str, Any]:
    """Return what a completed run leaves with its session besides its messages."""
    if outcome.status is not RunStatus.COMPLETED:
        return {}
    past, held = begun.past, begun.request.ctx.held
    if past.captured is not None:
        return {"captured": {"after": past.captured, "covers": past.messages[-1].position}}
    if past.of:
        after = past.summary.covers if past.summary else 0
        text = summaries.accepted(outcome.output)
        return {"summary": {"after": after, "covers": past.messages[-1].position, "text": text}}
    operations = held.operations if held is not None else []
    wanted = claim.session_id is not None and wants_summary(past, prepared, added=2)
    heard = past.capture and claim.task_type == CHAT and may_tell(begun.request.input)
    return (
        ({"operations": operations} if operations else {})
        | ({"summarize": True} if wanted else {})
        | ({"capture": True} if heard else {})
    )


def _without_copy(step: Step, outcome: RunOutcome) -> Step:
    """Return a step without what stands elsewhere, or what nobody saw."""
    if step.kind == Kind.CONTEXT and step.output:  # written only now, so no tool was called
        return replace(step, output={key: value for key, value in step.output.items() if key != SESSION_STATE})
    same = outcome.status is RunStatus.COMPLETED and step.output == {"text": outcome.output}
    return replace(step, output={"in_result": True}) if same and step.kind == Kind.MODEL else step


def _finish(claim: Claim, run: RunRequest, outcome: RunOutcome, cited: dict[str, Any]) -> Finish:
    usage = {"input_tokens": outcome.usage.input_tokens, "output_tokens": outcome.usage.output_tokens}
    facts = {**cited, "usage": usage, "steps": outcome.steps}
    match outcome.status:
        case RunStatus.COMPLETED:
            return Finish(
                claim.id,
                claim.attempt,
                "completed",
                {"output": outcome.output, **facts},
                operations=run.ctx.state.operations,
                messages=_turn(claim, run.input, outcome.output),
            )
        case RunStatus.CANCELLED:
            result = {"error": {"type": "Cancelled", "message": "cancelled"}, "partial_output": outcome.output, **facts}
            said = _turn(claim, run.input, outcome.output or STOPPED)
            return Finish(claim.id, claim.attempt, "cancelled", result, error="cancelled", messages=said)
        case RunStatus.WAITING:
            return Finish(claim.id, claim.attempt, "waiting")
        case RunStatus.FAILED:
            error = outcome.error or RunError("Failed", "the run failed without saying why")
            return failed(claim.id, claim.attempt, error, facts=facts)


def failed(task_id: UUID, attempt: int, error: RunError, *, facts: dict[str, Any] | None = None) -> Finish:
    """Return what is written for a run that failed: the error, and nothing into its session."""
    result = {"error": {"type": error.type, "message": error.message}, **(facts or {})}
    return Finish(task_id, attempt, "failed", result, error=error.message)


def _turn(claim: Claim, said: str, answered: str) -> tuple[tuple[str, str], ...]:
    return (("user", said), ("assistant", answered)) if claim.session_id is not None else ()
