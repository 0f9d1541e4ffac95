"""What is remembered of the user whom a run works for: recalling it, adding to it, and taking of it away.

A text is embedded with the database's embedder, which the first memory fixes where no document has. Where it is not to be
had a memory is kept all the same and found by its words, until a worker embeds it.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, Protocol
from uuid import UUID

import structlog

from cirkelline.configs.errors import CirkellineError
from cirkelline.state import jsonb, knowledge_settings, memories
from cirkelline.state.connection import Database
from cirkelline.state.memories import Meaning, Memory, Near, NewMemory, Origin, Reason, Recalled
from cirkelline.state.tenant import Tenant, tenant
from cirkelline.tools import confidential
from cirkelline.tools.library import Embedders

LONGEST: Final = 500
"""Characters of one memory: a fact, not a document."""
MOST_TOPICS: Final = 8
_LONGEST_TOPIC: Final = 60
_LONGEST_QUESTION: Final = 2_000
_PATIENCE: Final = 15.0  # seconds that an embedder has; without it a memory is found by its words

log = structlog.get_logger(__name__)


class NotRemembered(CirkellineError):
    """A text is not one that is kept; the sentence says why."""


@dataclass(frozen=True, slots=True)
class Kept:
    """What became of a text: `known` when it was there already, else with what it replaced and what stands near it."""

    id: int
    memory: str
    known: bool = False
    replaced: Sequence[str] = ()
    near: Sequence[Near] = ()


@dataclass(frozen=True, slots=True)
class Heard:
    """A message of the user's that is being looked through for what it says about them."""

    position: int
    content: str


Examples = Sequence[tuple[str, Mapping[str, Any]]]
"""Questions, each with the arguments that answer it."""


class Ask(Protocol):
    """Asks a model, by its label, a question that it answers through a tool's arguments."""

    async def __call__(
        self, model: str, instructions: str, question: str, tool: Any, /, *, examples: Examples = ()
    ) -> dict[str, Any]:
        """Return the arguments, validated. Raises: CirkellineError."""
        ...


class Memories(Protocol):
    """What `ctx.memories` offers; a test of a tool gives its own."""

    @property
    def heard(self) -> Sequence[Heard]:
        """The user's messages that are being looked through, where that is what the run does."""
        ...

    @property
    def shown(self) -> AbstractSet[int]:
        """The ids of the memories that the run has been shown: those alone it may say to be replaced."""
        ...

    async def recall(self, question: str, *, limit: int = 8) -> list[Recalled]:
        """Return the memories that bear on a question, best first."""
        ...

    async def remember(
        self,
        text: str,
        *,
        topics: Sequence[str] = (),
        replaces: Sequence[int] = (),
        origin: Origin = Origin.TOLD,
        message: Heard | None = None,
    ) -> Kept:
        """Keep a fact about the user. Raises: NotRemembered."""
        ...

    async def forget(self, reference: str) -> Memory:
        """Take a memory out of the way, so that it can be brought back. Raises: MemoryNotFound."""
        ...


@dataclass(frozen=True, slots=True)
class UserMemories:
    """The memories of one run's user."""

    db: Database
    embedders: Embedders | None
    user_id: UUID
    task_id: UUID | None = None
    session_id: UUID | None = None
    heard: Sequence[Heard] = ()
    ask: Ask | None = None
    shown: set[int] = field(default_factory=set[int])

    async def recall(
        self, question: str, *, limit: int = 8, budget: int = 1_000, at: datetime | None = None
    ) -> list[Recalled]:
        """Return the memories that bear on a question, best first; all when they fit `budget` tokens."""
        text = jsonb.clean_text(question)[:_LONGEST_QUESTION]
        meaning = await self.meaning(text, query=True)
        async with tenant(self.db, self.user_id) as door:
            found = await memories.recall(door, text, meaning, amount=limit, budget=budget, at=at or datetime.now(UTC))
        self.shown.update(each.id for each in found)
        return found

    async def near(self, text: str, *, amount: int, least: float) -> list[Near]:
        """Return what stands near a text, nearest first, without a note that it was used."""
        clean = jsonb.clean_text(text)[:_LONGEST_QUESTION]
        meaning = await self.meaning(clean, query=True)
        async with tenant(self.db, self.user_id) as door:
            return await memories.near(door, clean, meaning, amount=amount, least=least)

    async def remember(
        self,
        text: str,
        *,
        topics: Sequence[str] = (),
        replaces: Sequence[int] = (),
        origin: Origin = Origin.TOLD,
        message: Heard | None = None,
    ) -> Kept:
        """Keep a fact about the user, unless it is known; with `replaces` in the place of those. Raises: NotRemembered.

        What stands near it and was in its place until now, as far as a rule can tell, is recalled no more.
        """
        memory = checked(text)
        new = NewMemory(
            memory=memory,
            origin=origin,
            topics=_topics(topics),
            input=jsonb.clean_text(message.content)[:_LONGEST_QUESTION] if message else None,
            meaning=await self.meaning(memory),
            task_id=self.task_id,
            session_id=self.session_id,
            message=message.position if message else None,
        )
        async with tenant(self.db, self.user_id) as door:
            kept = await keep(door, new, replaces=replaces)
        self.shown.update([kept.id, *(each.id for each in kept.near)])
        return kept

    async def forget(self, reference: str) -> Memory:
        """Take a memory out of the way, so that it can be brought back. Raises: MemoryNotFound."""
        async with tenant(self.db, self.user_id) as door:
            await memories.lock(door)
            found = await memories.get(door, reference)
            await memories.archive(door, [found.id], Reason.FORGOTTEN)
            return found

    async def meaning(self, text: str, *, query: bool = False) -> Meaning | None:
        """Return a text as the database's embedder has it, None where that is not to be had."""
        if self.embedders is None or not text.strip():
            return None
        try:
            async with asyncio.timeout(_PATIENCE):
                label = await embedder_of(self.db)
                embedder = await self.embedders.get(label)
                (numbers,) = await embedder.embed([text], query=query)
        except TimeoutError:
            log.warning("memory.words_only", reason=f"the embedder did not answer within {_PATIENCE:g} s")
        except CirkellineError as error:
            log.warning("memory.words_only", reason=str(error))
        except Exception as error:  # noqa: BLE001 - a library's own failure must not cost the memory as well
            log.warning("memory.words_only", reason=type(error).__name__)
        else:
            return Meaning(numbers, label)
        return None


async def embedder_of(db: Database) -> str:
    """Return the database's embedder, fixed now if nothing has been embedded before."""
    from cirkelline.tools.embedding import preferred  # noqa: PLC0415

    async with db.connection() as conn:
        label = (await knowledge_settings.read(conn)).embedder
        return label or await knowledge_settings.fix_embedder(conn, preferred(os.environ))


async def keep(door: Tenant, new: NewMemory, *, replaces: Sequence[int] = ()) -> Kept:
    """Write a memory, or note that it is known; two writers of one user never both find that it is new."""
    await memories.lock(door)
    near = await memories.near(door, new.memory, new.meaning)
    same = next((each for each in near if each.same), None)
    told = await memories.there(door, replaces) if replaces else {}
    if same is None:
        written = await memories.add(door, new)
    else:
        await memories.touch(door, same.id)
        written = same.id
        told.pop(same.id, None)
    await memories.archive(door, list(told), Reason.SUPERSEDED, by=written)
    by_rule = [each for each in near if each.replaced and each.id not in told] if same is None else []
    await memories.supersede(door, [each.id for each in by_rule], written)
    left = [each for each in near if each.id not in told and each not in by_rule and each is not same]
    replaced = [*told.values(), *(each.memory for each in by_rule)]
    return Kept(written, same.memory if same else new.memory, known=same is not None, replaced=replaced, near=left)


def checked(text: str) -> str:
    """Return a text as it is kept, on one line. Raises: NotRemembered."""
    memory = re.sub(r"\s+", " ", jsonb.clean_text(text)).strip()
    if not memory:
        raise NotRemembered("there is nothing to remember: say the fact in a short sentence")
    if len(memory) > LONGEST:
        raise NotRemembered(f"a memory has at most {LONGEST} characters, and this has {len(memory):,}: say it shorter")
    if secret := confidential.secret_in(memory):
        raise NotRemembered(f"it holds {secret}, and secrets are never remembered: say it without")
    return memory


def _topics(topics: Sequence[str]) -> list[str]:
    """Return topics in lower case, each once."""
    lines = (re.sub(r"\s+", " ", jsonb.clean_text(topic)).strip().lower()[:_LONGEST_TOPIC] for topic in topics)
    return list(dict.fromkeys(line for line in lines if line))[:MOST_TOPICS]
