"""An answer checked against the numbers that were given: what it cites, and what it made up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from cirkelline.agents import citing
from cirkelline.agents.run import RunOutcome, RunRequest, RunStatus
from cirkelline.state import citations
from cirkelline.state.citations import Citation
from cirkelline.state.connection import Database
from cirkelline.state.tenant import tenant

_GIVE_NUMBERS: Final = {"search_knowledge", "read_document"}


@dataclass(frozen=True, slots=True)
class Cited:
    """An answer as it is kept: what its numbers stand for, in the order of their use, and those that nobody gave."""

    output: str
    citations: Sequence[Citation]
    unknown: Sequence[int]

    def as_json(self) -> dict[str, Any]:
        """Return what stands of it in a task's result beside the output."""
        return {"citations": list(self.citations), "citations_unknown": list(self.unknown)}


async def check(db: Database, request: RunRequest, outcome: RunOutcome) -> Cited | None:
    """Return a run's answer with every number marked that its conversation was never given.

    None where brackets mean nothing: for agents that are given no numbers, and where there is no answer.
    """
    numbers = request.ctx.numbers.given
    gives = any(tool.name in _GIVE_NUMBERS for tool in request.spec.tools)
    if not (numbers or gives) or outcome.status not in {RunStatus.COMPLETED, RunStatus.CANCELLED}:
        return None
    wanted = citing.cited(outcome.output)
    given = {n: numbers[n] for n in wanted if n in numbers}
    earlier = [n for n in wanted if n not in numbers]
    session, user = request.ctx.session_id, request.ctx.user_id
    if earlier and session is not None and user is not None:
        async with tenant(db, user) as door:
            given |= {citation["n"]: citation for citation in await citations.given(door, session, earlier)}
    checked = citing.check(outcome.output, given)
    return Cited(checked.text, [given[n] for n in checked.used], checked.unknown)
