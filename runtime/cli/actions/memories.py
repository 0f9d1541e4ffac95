"""Looking at what is remembered of one user, and changing it."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from cirkelline.configs import scalars
from cirkelline.configs import schedules as times
from cirkelline.runtime import memory_rounds
from cirkelline.runtime.cli import console, display, opening
from cirkelline.runtime.cli.actions import workflows
from cirkelline.runtime.cli.answers import Answer, Cell, Facts, Mark, Table, Text
from cirkelline.state import jsonb, memories, optimizing, schedules, sessions, users
from cirkelline.state import workflows as records
from cirkelline.state.connection import Database
from cirkelline.state.memories import Memory, Origin, Reason
from cirkelline.state.optimizing import GoneThrough
from cirkelline.state.schedules import Schedule
from cirkelline.state.sessions import Message
from cirkelline.state.tenant import Tenant, tenant
from cirkelline.state.users import User, UserNotFound
from cirkelline.tools.embedding import EmbedderPool
from cirkelline.tools.remembering import UserMemories

_SHOWN: Final = 80  # characters of a memory in a list
_LEAST: Final = 0.15  # the cosine of what a search still shows


@dataclass(frozen=True, slots=True)
class _Person:
    db: Database
    name: str
    id: UUID
    email: str | None


@asynccontextmanager
async def _person(user: str | None, *, writes: bool = False) -> AsyncGenerator[_Person | None]:
    """Open the database and find a user; None for one by default who has never been here. Raises: UserNotFound."""
    async with opening.database() as opened:
        name = user or opened.settings.user
        async with opened.db.connection() as conn:
            found: User | None = None
            try:
                found = await users.acting(conn, name)
            except UserNotFound:
                if user:
                    raise
                if writes:
                    found = await users.ensure(conn, name)
        yield _Person(opened.db, name, found.id, found.email) if found else None


async def find(user: str | None, *, topic: str | None, archived: bool, limit: int) -> Answer:
    """List what is remembered of a user, or what is in the archive."""
    found: list[Memory] = []
    upkeep = _Upkeep()
    async with _person(user) as person:
        if person is not None:
            async with tenant(person.db, person.id) as door:
                if archived:
                    found = await memories.archived(door, limit=limit)
                else:
                    found = await memories.find(door, topic=topic, limit=limit)
            upkeep = await _upkeep(person)
    name = user or opening.settings().user
    document = {
        "user": name,
        "archived": archived,
        "memories": [_document(each) for each in found],
        "optimization": upkeep.document(),
    }
    if archived:
        empty = f"nothing of what was remembered of user {name} has been forgotten, replaced or merged"
    else:
        with_topic = f" with the topic {display.line(topic, 60)}" if topic else ""
        empty = f"nothing{with_topic} is remembered of user {name} (`cirkelline memories add FACT` adds something)"
    table = Table(("id", "memory", "topics", "since", "last used"), [_row(each) for each in found], empty)
    said = [] if archived else upkeep.sentences()
    return Answer(document, [table, *([Text("\n".join(said), apart=True, tone="quiet")] if said else [])])


@dataclass(frozen=True, slots=True)
class _Upkeep:
    """How far a user's memories have been gone through, and when they will be again by the clock."""

    standing: GoneThrough | None = None
    schedule: Schedule | None = None

    def document(self) -> dict[str, Any] | None:
        """Return what a program wants to know; None of somebody who has never been here."""
        if self.standing is None:
            return None
        return {
            "new": self.standing.new,
            "run": self.standing.run,
            "at": self.standing.at,
            "status": self.standing.status,
            "every": self.schedule.cron if self.schedule else None,
            "tz": self.schedule.tz if self.schedule else None,
            "next": self.schedule.next_at if self.schedule and not self.schedule.paused else None,
        }

    def sentences(self) -> list[str]:
        """Return it in words, where there is anything to say."""
        said: list[str] = []
        if self.standing is not None and self.standing.run is not None:
            run = display.short(self.standing.run)
            said.append(
                f"{self.standing.new} new since run {run} of memory_optimization, {display.ago(self.standing.at)}"
                f" (`cirkelline workflows show {run}`)"
            )
        if self.schedule is not None:
            when = "paused" if self.schedule.paused else f"next {display.when(self.schedule.next_at)}"
            said.append(f"gone through by the clock: {self.schedule.cron} {self.schedule.tz}, {when}")
        return said


async def _upkeep(person: _Person) -> _Upkeep:
    async with person.db.connection() as conn:
        agent_id = await records.ready(conn, memory_rounds.LABEL)
        kept = await schedules.of_user(conn, agent_id, _called(person)) if agent_id else []
        return _Upkeep(await optimizing.standing(conn, person.id), kept[0] if kept else None)


def _called(person: _Person) -> str:
    return person.email or str(person.id)


def _row(each: Memory) -> Sequence[Cell]:
    text = display.line(each.memory, _SHOWN)
    by = f" (replaced by {each.superseded_by})" if each.superseded_by else ""
    return (
        str(each.id),
        Mark(text + by, "quiet") if by else text,
        display.line(", ".join(_topics(each)), 30) or "-",
        display.ago(each.since or each.created_at),
        display.ago(each.accessed_at) if each.accessed_at else "never",
    )


def _topics(each: Memory) -> list[str]:
    return [str(topic) for topic in each.topics] if scalars.is_list(each.topics) else []


def _document(each: Memory) -> dict[str, Any]:
    return {
        "id": each.id,
        "memory_id": each.memory_id,
        "memory": each.memory,
        "topics": each.topics,
        "since": each.since,
        "created_at": each.created_at,
        "updated_at": each.updated_at,
        "last_used": each.accessed_at,
        "origin": each.origin,
        "replaced_by": each.superseded_by,
        "embedder": each.embedder,
        "task": each.task_id,
        "session": each.session_id,
    }


async def search(words: str, user: str | None, limit: int) -> Answer:
    """Show what stands near the words, without a note that it was used."""
    found: list[memories.Near] = []
    async with _person(user) as person, EmbedderPool(os.environ) as embedders:
        if person is not None:
            kept = UserMemories(person.db, embedders, person.id)
            found = await kept.near(words, amount=limit, least=_LEAST)
    name = user or opening.settings().user
    hits = [
        {"id": each.id, "memory": each.memory, "since": each.since, "similarity": each.similarity} for each in found
    ]
    rows = [
        (
            str(each.id),
            "-" if each.similarity is None else f"{each.similarity:.2f}",
            display.line(each.memory, _SHOWN),
            display.ago(each.since),
        )
        for each in found
    ]
    empty = f"nothing like that is remembered of user {name}"
    return Answer(
        {"user": name, "query": words, "memories": hits}, [Table(("id", "meaning", "memory", "since"), rows, empty)]
    )


async def add(fact: str, user: str | None, *, topics: Sequence[str], replaces: Sequence[str]) -> Answer:
    """Remember a fact, unless it is known."""
    async with _person(user, writes=True) as person, EmbedderPool(os.environ) as embedders:
        assert person is not None  # noqa: S101 - it was made
        async with tenant(person.db, person.id) as door:
            old = [(await memories.get(door, each)).id for each in replaces]
        kept = await UserMemories(person.db, embedders, person.id).remember(
            fact, topics=topics, replaces=old, origin=Origin.ADDED
        )
    said = f"{'known already' if kept.known else 'remembered'}: {kept.memory} ({kept.id})"
    lines = [said, *(f"in place of: {each}" for each in kept.replaced)]
    document = {"id": kept.id, "memory": kept.memory, "known": kept.known, "replaced": list(kept.replaced)}
    return Answer(document, [Text("\n".join(display.safe(each) for each in lines))])


async def forget(references: Sequence[str], user: str | None) -> Answer:
    """Move memories into the archive, all or none."""
    async with _person(user) as person:
        if person is None:
            raise UserNotFound(f"nothing is remembered of user {opening.settings().user}, who has never been here")
        async with tenant(person.db, person.id) as door:
            await memories.lock(door)
            found = {each.id: each for each in [await memories.get(door, reference) for reference in references]}
            await memories.archive(door, list(found), Reason.FORGOTTEN)
    lines = [f"forgotten: {display.line(each.memory, 200)} ({each.id})" for each in found.values()]
    return Answer({"forgotten": [_document(each) for each in found.values()]}, [Text("\n".join(lines))])


async def undo(reference: str, user: str | None) -> Answer:
    """Bring back what was forgotten or replaced."""
    async with _person(user) as person:
        if person is None:
            raise UserNotFound(f"nothing is remembered of user {opening.settings().user}, who has never been here")
        async with tenant(person.db, person.id) as door:
            await memories.lock(door)
            count = await optimizing.undo(door, reference)
            if count is not None:
                said = f"{display.count(count, 'memory', 'memories')} as before run {display.line(reference, 40)}"
                return Answer({"run": reference, "restored": count}, [Text(said)])
            restored = await memories.restore(door, reference)
            found = await memories.get(door, str(restored))
    return Answer(
        {"restored": [_document(found)]}, [Text(f"remembered again: {display.safe(found.memory)} ({found.id})")]
    )


async def why(reference: str, user: str | None) -> Answer:
    """Show where a memory came from and when it was last used."""
    async with _person(user) as person:
        if person is None:
            raise UserNotFound(f"nothing is remembered of user {opening.settings().user}, who has never been here")
        async with tenant(person.db, person.id) as door:
            found = await memories.get(door, reference)
            message = await _message(door, found)
    document = _document(found) | {
        "input": found.input,
        "message": None
        if message is None
        else {
            "position": message.position,
            "content": message.content,
            "task": message.task_id,
            "created": message.created,
        },
    }
    return Answer(document, [Facts(_facts(found, message))])


async def _message(door: Tenant, found: Memory) -> Message | None:
    """Return the message that a memory came from: the one on record with it, or the one of the turn that wrote it."""
    if found.session_id is None:
        return None
    if found.message is not None:
        said = await sessions.messages(door, found.session_id, after=found.message - 1, until=found.message)
        return said[0] if said else None
    # A tool's: the turn that called it had no message yet.
    return await sessions.asked_in(door, found.session_id, found.task_id) if found.task_id is not None else None


_CAME: Final = {
    Origin.TOLD.value: "an agent was told to remember it",
    Origin.CAPTURED.value: "a chat was looked through",
    Origin.ADDED.value: "it was added by hand",
    Origin.MERGED.value: "it was merged from others",
}


def _facts(found: Memory, message: Message | None) -> list[tuple[str, Cell]]:
    facts: list[tuple[str, Cell]] = [
        ("memory", display.safe(found.memory)),
        ("id", f"{found.id} ({found.memory_id})"),
        ("came from", _CAME.get(found.origin, "another program wrote it")),
        ("told", display.when(found.since or found.created_at)),
        ("last used", display.when(found.accessed_at) if found.accessed_at else "never"),
    ]
    if message is not None:
        facts.append(("message", f"{display.line(message.content, 300)} ({display.when(message.created)})"))
        facts.append(("said in", f"task {message.task_id}"))
    elif found.input:
        facts.append(("message", display.line(found.input, 300)))
    if found.session_id is not None:
        facts.append(("session", f"{found.session_id} (`cirkelline sessions show {display.short(found.session_id)}`)"))
    if found.task_id is not None:
        facts.append(("written by", f"task {found.task_id} (`cirkelline tasks trace {display.short(found.task_id)}`)"))
    if found.superseded_by is not None:
        facts.append(("not recalled", f"as {found.superseded_by} says it now"))
    return facts


async def capture(choice: str | None, user: str | None) -> Answer:
    """Show or keep what a user says about being remembered."""
    async with _person(user, writes=choice is not None) as person:
        agreed: bool | None = None
        if person is not None:
            async with tenant(person.db, person.id) as door:
                if choice is not None:
                    await memories.choose(door, capture=choice == "on")
                agreed = await memories.consent(door)
    name = user or opening.settings().user
    said = {True: "on: chats are looked through", False: "off: nothing is remembered by itself", None: "never asked"}[
        agreed
    ]
    return Answer({"user": name, "capture": agreed}, [Text(f"capture for user {name} is {said}")])


async def optimize(user: str | None, model: str | None, *, wait_for_it: bool, patience: float | None) -> Answer:
    """Put a run of memory_optimization in line for a user, in the place of those that have not begun."""
    given = {"model": model} if model else {}
    name = user or opening.settings().user
    async with _person(user) as person:
        made_way = await memory_rounds.make_way(person.db, person.id) if person is not None else []
    for each in made_way:
        console.note(f"run {display.short(each)}, which waited in line, was cancelled: this one does its work")
    return await workflows.run(
        "memory_optimization", given, user=name, folder=None, wait_for_it=wait_for_it, patience=patience
    )


async def optimize_every(user: str | None, model: str | None, *, cron: str | None, tz: str) -> Answer:
    """Let a user's memories be gone through by the clock; None of a time ends that."""
    async with _person(user, writes=cron is not None) as person:
        if person is None:
            raise UserNotFound(f"nothing is remembered of user {opening.settings().user}, who has never been here")
        agent_id = await records.ensure(person.db, memory_rounds.LABEL)
        name = _called(person)
        async with person.db.transaction() as conn:
            if cron is None:
                ended = await schedules.drop(conn, agent_id, name)
                said = "are not gone through by the clock any more" if ended else "were not gone through by the clock"
                return Answer({"user": name, "every": None}, [Text(f"the memories of user {name} {said}")])
            given = jsonb.dumps(memory_rounds.given(model))
            kept = await schedules.keep(conn, agent_id, name, cron=cron, tz=tz, given=given)
            next_at = times.following(cron, tz, kept.since)
            await schedules.plan(conn, kept, next_at, problem=None)
    document = {"user": name, "schedule": kept.label, "every": cron, "tz": tz, "model": model, "next": next_at}
    said = (
        f"the memories of user {name} are gone through at {cron} {tz} if any is new, next {display.when(next_at)}\n"
        f"(`cirkelline schedules list` shows it; `cirkelline memories optimize --every never` ends it)"
    )
    return Answer(document, [Text(said)])
