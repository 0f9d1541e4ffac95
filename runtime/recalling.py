"""What a task is shown of what is remembered of its user: recalled once, and then a part of the run's context."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Final

from cirkelline.runtime.past import Past
from cirkelline.runtime.registry import Prepared
from cirkelline.state.claims import Claim
from cirkelline.state.connection import Database
from cirkelline.state.journal import Kind, Step
from cirkelline.tools import memory
from cirkelline.tools.library import Embedders
from cirkelline.tools.remembering import Heard, UserMemories

_NEAR: Final = 6
"""Memories shown for each message that is looked through."""
_LEAST: Final = 0.2
"""The cosine of the least near of them: a message is longer than a fact, so even what it denies is not very near."""
_SAYS_LITTLE: Final = 6
"""Words of an input below which what was said before it is looked at too: `and how much?` names nothing."""


async def recalled(
    db: Database, embedders: Embedders | None, claim: Claim, prepared: Prepared, past: Past, *, said: str, at: datetime
) -> str | None:
    """Return the memories that bear on what a task is asked, each on a line; None where there are none to show."""
    if claim.user_id is None or past.of:
        return None
    remembered = UserMemories(db, embedders, claim.user_id)
    if past.captured is not None:
        return await _near(remembered, past)
    spec = prepared.spec.memory
    if spec is None or not spec.recall:
        return None
    question = said
    if len(said.split()) < _SAYS_LITTLE:
        before = [each.content for each in past.messages if each.role == "user"]
        question = "\n".join([*before[-1:], said])
    found = await remembered.recall(question, limit=spec.recall, budget=spec.budget, at=at)
    return memory.entries((each.id, each.memory, each.since) for each in found) or None


async def _near(remembered: UserMemories, past: Past) -> str | None:
    """Return what stands near what is looked through, so that a model can say what it replaces; it is not used by that."""
    said = [each.content for each in past.messages if each.role == "user"]
    found = [near for text in said for near in await remembered.near(text, amount=_NEAR, least=_LEAST)]
    named = {each.id: each for each in found}
    return memory.entries((each.id, each.memory, each.since) for each in named.values()) or None


def read(remembered: str | None, recorded: Iterable[Step]) -> list[str]:
    """Return where a run's model has read of memories: before its input, and in what earlier attempts' tools gave."""
    given = [step.output or {} for step in recorded if step.kind == Kind.TOOL and step.name in memory.SHOW]
    return [remembered or "", *(str(each.get("text", "")) for each in given)]


def memories_of(
    db: Database, embedders: Embedders | None, claim: Claim, past: Past, *, read: Iterable[str]
) -> UserMemories | None:
    """Return the memories that a run's tools reach; None where the run is for nobody.

    `read` is what its model has read of them so far.
    """
    if claim.user_id is None:
        return None
    shown = {found for text in read for found in memory.ids_in(text)}
    if past.captured is None:
        return UserMemories(db, embedders, claim.user_id, claim.id, claim.session_id, shown=shown)
    heard = [Heard(each.position, each.content) for each in past.messages if each.role == "user"]
    return UserMemories(db, embedders, claim.user_id, claim.id, past.session, heard, shown=shown)
