"""The workflows that there are: finding one by its name, and putting a run of it in line."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from cirkelline.configs import wording
from cirkelline.configs.errors import UsageError
from cirkelline.runtime.memory_optimization import memory_optimization
from cirkelline.state import tasks, users
from cirkelline.state import workflows as records
from cirkelline.state.connection import Database
from cirkelline.tools.toolbox import Toolbox, ToolNotFound
from cirkelline.tools.workflows import Workflow, marked

SHIPPED: Final[Mapping[str, Workflow]] = {
    found.name: found for found in (marked(memory_optimization),) if found is not None
}
"""The workflows that come with cirkelline, by name; every worker has them."""

OWN: Final[Mapping[str, str]] = {
    "knowledge_add": "cirkelline knowledge add --resume",
    "knowledge_reindex": "cirkelline knowledge reindex",
}
"""Those whose runs a command executes itself, as they are about its own machine: each with what goes on with one."""


class WorkflowNotFound(UsageError):
    """No workflow goes by that name here."""


class CommandsOwn(WorkflowNotFound):
    """A command executes the runs of that workflow itself."""


@dataclass(frozen=True, slots=True)
class PreparedWorkflow:
    """A workflow that this worker can run, under the row of `agents` that stands for it."""

    agent_id: UUID
    version: int
    label: str
    workflow: Workflow

    @property
    def name(self) -> str:
        """Its handle."""
        return records.handle(self.label)


def resolve(label: str, toolbox: Toolbox) -> Workflow:
    """Return the workflow behind a label: a shipped one, or `module:function`. Raises: WorkflowNotFound."""
    if ":" not in label:
        if label in SHIPPED:
            return SHIPPED[label]
        if label in OWN:
            raise CommandsOwn(
                f"workflow {label!r} is executed by the command that begins it: `{OWN[label].partition(' --')[0]}`"
            )
        raise WorkflowNotFound(f"this release has no workflow {label!r}")
    try:
        return toolbox.workflow(label)
    except ToolNotFound as error:
        raise WorkflowNotFound(str(error)) from None


def find(name: str, toolbox: Toolbox, known: Sequence[str]) -> tuple[str, Workflow | None]:
    """Return the label that a name means, and its code if this machine has it; imports, so call it off the loop.

    A name is a shipped workflow's, `module:function`, or the function's alone where no other module has one; `known`
    are the labels that the database has, whose code may be on other machines only. Raises: WorkflowNotFound.
    """
    if ":" in name or name in SHIPPED or name in OWN:
        try:
            return name, resolve(name, toolbox)
        except CommandsOwn:
            raise
        except WorkflowNotFound:
            if name in known:
                return name, None
            raise
    labels = toolbox.workflows(name) or [label for label in known if label.endswith(f":{name}")]
    if len(labels) > 1:
        labels = [label for label in labels if _is_workflow(label, toolbox)] or labels
    if len(labels) == 1:
        return find(labels[0], toolbox, known)
    if labels:
        raise WorkflowNotFound(f"more than one function is called {name!r}: say which, {wording.listed(labels, 'or')}")
    there = [*SHIPPED, *known]
    raise WorkflowNotFound(
        f"there is no workflow {wording.shown(name)}{wording.did_you_mean(name, there)}: name a function that is marked"
        ' with @workflow as "module:function", from the tools folder (--tools DIR) or a module in CIRKELLINE_TOOL_MODULES'
    )


def _is_workflow(label: str, toolbox: Toolbox) -> bool:
    try:
        return bool(resolve(label, toolbox))
    except WorkflowNotFound:
        return False


async def submit(
    db: Database, toolbox: Toolbox, name: str, given: Any = None, *, user: str | None = None
) -> tuple[UUID, str]:
    """Put a run in line; return its id and the workflow's label. Raises: WorkflowNotFound, InputInvalid."""
    async with db.connection() as conn:
        known = await records.known(conn)
    label, workflow = await asyncio.to_thread(find, name, toolbox, known)
    if workflow is not None:
        workflow.validate(given)
    agent_id = await records.ensure(db, label)
    async with db.connection() as conn:
        user_id = (await users.ensure(conn, user)).id if user is not None else None
        payload = {"input": {} if given is None else given}
        run_id = await tasks.submit(
            conn, agent_id=agent_id, payload=payload, task_type=records.TASK_TYPE, user_id=user_id
        )
    return run_id, label
