"""Looking at one user's conversations."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cirkelline.runtime.cli import display, new_files, opening
from cirkelline.runtime.cli.answers import Answer, Block, Facts, Raw, Table, Text
from cirkelline.state import agents, sessions, users
from cirkelline.state.connection import Database
from cirkelline.state.sessions import Kept, Message, Session, Summary
from cirkelline.state.tenant import Tenant, tenant
from cirkelline.state.users import UserNotFound


@asynccontextmanager
async def _rows_of(db: Database, user: str) -> AsyncGenerator[Tenant]:
    async with db.connection() as conn:
        found = await users.acting(conn, user)
    async with tenant(db, found.id) as opened:
        yield opened


def _document(session: Session) -> dict[str, Any]:
    return {
        "id": session.id,
        "agent": session.agent,
        "agent_id": session.agent_id,
        "status": session.status,
        "turns": session.turns,
        "title": session.title,
        "created_at": session.created_at,
        "updated_at": session.updated_at,
        "ended_at": session.ended_at,
    }


async def find(user: str | None, agent: str | None, limit: int, *, archived: bool = False) -> Answer:
    """List a user's newest sessions, in use or archived; whoever has never chatted has none."""
    async with opening.database() as opened:
        name = user or opened.settings.user
        async with opened.db.connection() as conn:
            agent_id = (await agents.get(conn, agent)).id if agent else None
        try:
            async with _rows_of(opened.db, name) as rows:
                found = await sessions.find(rows, agent_id=agent_id, archived=archived, limit=limit)
        except UserNotFound:
            if user:
                raise
            found = []
    table = [
        (
            display.short(each.id),
            each.agent or "-",
            display.ago(each.created_at),
            str(each.turns),
            display.line(each.title or "", 70),
        )
        for each in found
    ]
    kind = "archived sessions" if archived else "sessions"
    begins = "" if archived else " (`cirkelline chat` begins one)"
    empty = f"user {name} has no {kind}{' with that agent' if agent else ''}{begins}"
    return Answer(
        {"user": name, "sessions": [_document(each) for each in found]},
        [Table(("session", "agent", "begun", "turns", "first words"), table, empty)],
    )


async def show(reference: str, user: str | None) -> Answer:
    """Show one of a user's sessions with all its messages, and what is kept for it besides."""
    seen = await _look(reference, user)
    session, name, said, kept = seen.session, seen.user, seen.said, seen.kept
    blocks: list[Block] = [
        Facts(
            [
                ("session", str(session.id)),
                ("user", name),
                ("agent", session.agent or "-"),
                ("begun", display.when(session.created_at)),
                ("turns", str(session.turns)),
                *((("status", "archived"),) if session.archived else ()),
                *((("session state", json.dumps(kept.work, ensure_ascii=False)),) if kept.work else ()),
            ]
        )
    ]
    if kept.summary is not None:
        told = f"summary of the first {_covered(kept.summary, said)} messages, {display.local(kept.summary.created)}"
        blocks += [Text(told, apart=True, tone="quiet"), Text(kept.summary.text)]
    for message in said:
        who = name if message.role == "user" else session.agent or message.role
        blocks += [Text(f"{who}, {display.local(message.created)}", apart=True, tone="quiet"), Text(message.content)]
    return Answer(seen.document, blocks)


async def archive(reference: str, user: str | None, *, undo: bool) -> Answer:
    """Put a session away, or take it out again."""
    async with opening.database(migrate=True) as opened, _rows_of(opened.db, user or opened.settings.user) as rows:
        session = await sessions.get(rows, reference)
        changed = await sessions.archive(rows, session.id, archived=not undo)
        session = await sessions.get(rows, str(session.id))
    short = display.short(session.id)
    undone = f"session {short} is in use again" if changed else f"session {short} is not archived"
    back = f"(`cirkelline sessions archive {short} --undo` takes it out again)"
    done = f"session {short} is archived {back}" if changed else f"session {short} was archived before"
    return Answer(_document(session), [Text(undone if undo else done)])


async def export(reference: str, user: str | None, output: Path | None) -> Answer:
    """Write a session as Markdown, to a file that is not there yet or to stdout."""
    seen = await _look(reference, user)
    text = _markdown(seen)
    if output is None:
        return Answer(seen.document, [Raw(text.encode())])
    written = new_files.write(output, text.encode())
    said = f"session {display.short(seen.session.id)} is in {written} ({display.size(len(text.encode()))})"
    return Answer(seen.document | {"file": written}, [Text(said)])


def _markdown(seen: _Seen) -> str:
    session = seen.session
    facts = f"{seen.user} with {session.agent or 'an agent that is gone'}, begun {display.local(session.created_at)}"
    parts = [f"# {display.line(session.title or 'Untitled', 80)}", f"{facts}. Session {session.id}."]
    for message in seen.said:
        who = seen.user if message.role == "user" else session.agent or message.role
        parts += [f"## {who}, {display.local(message.created)}", message.content]
    return "\n\n".join(parts) + "\n"


@dataclass(frozen=True, slots=True)
class _Seen:
    """One of a user's sessions with all that belongs to it."""

    user: str
    session: Session
    said: Sequence[Message]
    kept: Kept

    @property
    def document(self) -> dict[str, Any]:
        """All of it for programs."""
        return _document(self.session) | {
            "user": self.user,
            "messages": [_message(message) for message in self.said],
            "summary": _summary(self.kept.summary, self.said),
            "session_state": self.kept.work,
        }


async def _look(reference: str, user: str | None) -> _Seen:
    async with opening.database() as opened:
        name = user or opened.settings.user
        async with _rows_of(opened.db, name) as rows:
            session = await sessions.get(rows, reference)
            said = await sessions.messages(rows, session.id)
            return _Seen(name, session, said, await sessions.kept(rows, session.id) or Kept({}))


def _covered(summary: Summary, said: Sequence[Message]) -> int:
    return sum(message.position <= summary.covers for message in said)


def _summary(summary: Summary | None, said: Sequence[Message]) -> dict[str, Any] | None:
    if summary is None:
        return None
    return {
        "text": summary.text,
        "messages": _covered(summary, said),
        "task_id": summary.task_id,
        "created": summary.created,
    }


def _message(message: Message) -> dict[str, Any]:
    return {"role": message.role, "content": message.content, "task_id": message.task_id, "created": message.created}
