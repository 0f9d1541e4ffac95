"""A stored run made once more from its journal: to see that it comes to the same, and what its model saw."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from cirkelline.agents import models
from cirkelline.agents.chat_model import ChatMessage, ToolSchema
from cirkelline.agents.hashing import hash_tools
from cirkelline.agents.replaying import Difference, Replay
from cirkelline.agents.run import RunStatus
from cirkelline.agents.steps import ModelCall, schema
from cirkelline.configs import scalars, wording
from cirkelline.configs.errors import CirkellineError, UsageError
from cirkelline.configs.schema import AgentSpec, ModelSpec
from cirkelline.runtime import invoking, registry, sources
from cirkelline.state import agents, journal, workflows
from cirkelline.state.claims import Claim
from cirkelline.state.connection import Database
from cirkelline.state.journal import CONTEXT, Kind, Step
from cirkelline.state.tasks import Task, TaskStatus
from cirkelline.tools.toolbox import Toolbox

_RESUMED: Final = 2  # any attempt after the first goes by the record


class NothingRecorded(UsageError):
    """A task has no run in the journal that could be made once more."""


class NoSuchStep(UsageError):
    """A run has no model call at that position."""


class NotRebuilt(CirkellineError):
    """What a model saw cannot be said, since the record and what it refers to do not fit any more."""


@dataclass(frozen=True, slots=True)
class Report:
    """How a run made once more compares with its record: the same, or where not; `ended` says how it ended."""

    steps: int
    ended: str
    difference: Difference | None
    uncompared: int
    """Steps whose record is of another format, so that only their order was compared."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """What a model saw at a step; `body` is the request's, to the byte, for models that are asked by one.

    `answered` says whether an answer is on record; `warnings` what keeps the body from being what was sent.
    """

    position: int
    model: str
    messages: Sequence[ChatMessage]
    tools: Sequence[ToolSchema]
    body: bytes | None
    answered: bool
    warnings: Sequence[str]


@dataclass(frozen=True, slots=True)
class _Made:
    spec: AgentSpec
    model: ModelSpec
    decides: bool
    context: Step
    replay: Replay


async def replay(db: Database, task: Task) -> Report:
    """Make a task's run once more, offline, and compare. Raises: NothingRecorded."""
    made = (await _make(db, task)).replay
    steps = sum((step.position, step.call) in made.seen and step.ended for step in made.recorded)
    ended = made.ends_at or (made.outcome.status.value if made.outcome else "")
    return Report(steps, ended, made.difference or _difference(task, made), made.other_formats)


async def prompt(
    db: Database, task: Task, toolbox: Toolbox, environ: Mapping[str, str], *, position: int | None = None
) -> Prompt:
    """Rebuild what the model saw at its `position`th call, the last one by default.

    Raises: NothingRecorded, NoSuchStep, NotRebuilt.
    """
    made = await _make(db, task)
    call = _call(made.replay, position)
    warnings: list[str] = []
    tools = _tools(made.spec, toolbox, warnings)
    told = (made.context.output or {}).get("tools")
    if not warnings and told is not None and told != hash_tools(tools):
        warnings.append("its tools have been changed since: they are shown as they are now")
    if made.replay.other_formats:
        warnings.append("the record is of another format, so nothing proves that this is what was sent")
    return Prompt(
        call.position,
        made.model.label,
        call.messages,
        tools,
        await models.request_body(made.model, environ, call.messages, tools, must_call=made.decides),
        any(step.position == call.position and step.kind == Kind.MODEL for step in made.replay.recorded),
        warnings,
    )


async def _make(db: Database, task: Task) -> _Made:
    stored = await _definition(db, task)
    prepared = registry.prepared(stored)
    claim = Claim(
        id=task.id,
        agent_id=stored.agent_id,
        task_type=task.task_type,
        payload=task.payload,
        session_id=task.session_id,
        user_id=task.user_id,
        attempt=max(task.attempt or 0, _RESUMED),
        definition_version=stored.version,
    )
    gathered = await invoking.gather(db, claim, prepared)
    made = await Replay(gathered.recorded).make(gathered.request)
    return _Made(gathered.request.spec, prepared.model, gathered.request.decides, gathered.recorded[CONTEXT], made)


async def _definition(db: Database, task: Task) -> agents.Definition:
    if task.task_type == workflows.TASK_TYPE:
        raise NothingRecorded(
            f"task {task.id} is a run of a workflow, which asks no model (`cirkelline tasks trace {task.id}` shows its steps)"
        )
    async with db.connection() as conn:
        recorded = await journal.read(conn, task.id)
        if not recorded or recorded[0].kind != Kind.CONTEXT:
            raise NothingRecorded(
                f"task {task.id} has no answer of a model on record that could be gone by (`cirkelline tasks trace {task.id}`"
                " shows what there is)"
            )
        if task.agent_id is None or task.definition_version is None:
            raise NothingRecorded(f"task {task.id} names no definition any more, so its run cannot be made once more")
        return await agents.definition(conn, task.agent_id, task.definition_version)


def _difference(task: Task, made: Replay) -> Difference | None:
    """Return how a run whose steps fit its record ended otherwise."""
    outcome = made.outcome
    if unseen := made.unseen:
        step = journal.label(unseen[0].position, unseen[0].call)
        return Difference(step, f"{unseen[0].kind} {unseen[0].name}", "the end of the run")
    if outcome is None or made.ends_at is not None:
        ended = made.ends_at is not None and task.status == TaskStatus.COMPLETED
        return Difference("the end", "the end of the run", f"{made.ends_at}") if ended else None
    kind, said = _ending(task.result)
    came = outcome.error.type if outcome.error else outcome.status.value
    output = sources.marked_as(task.result, outcome.output)
    if task.status == TaskStatus.COMPLETED and (outcome.status is not RunStatus.COMPLETED or output != said):
        output = wording.shown(output) if outcome.status is RunStatus.COMPLETED else came
        return Difference("the end", wording.shown(said), output)
    if task.status == TaskStatus.FAILED and outcome.error is not None and outcome.error.type != kind:
        return Difference("the end", f"{kind}", came)
    return None


def _ending(result: Any) -> tuple[str | None, Any]:
    """Return the type of a result's error, and its output."""
    if not scalars.is_mapping(result):
        return None, result
    error = result.get("error")
    kind = error.get("type") if scalars.is_mapping(error) else None
    return (kind if isinstance(kind, str) else None), result.get("output")


def _call(made: Replay, position: int | None) -> ModelCall:
    difference = made.difference
    wrong = int(difference.step.split(".")[0]) if difference else None
    wanted = position or (made.calls[-1].position if made.calls else 0)
    call = next((each for each in made.calls if each.position == wanted), None)
    if difference is not None and wrong is not None and wanted >= wrong:
        raise NotRebuilt(
            f"what the model saw at step {wanted} cannot be rebuilt: at step {difference.step} this run comes to"
            f" {difference.came} instead of {difference.expected}"
        )
    if call is None:
        raise NoSuchStep(f"the run has no model call {wanted}: give a number from 1 to {len(made.calls)}")
    return call


def _tools(spec: AgentSpec, toolbox: Toolbox, warnings: list[str]) -> list[ToolSchema]:
    found: list[ToolSchema] = []
    for tool in spec.tools:
        try:
            found.append(schema(toolbox.resolve(tool)))
        except CirkellineError as error:
            warnings.append(f"{tool.label} is left out, as it is not here: {error}")
    return found
