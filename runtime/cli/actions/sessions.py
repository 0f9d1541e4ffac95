"""Looking at one user's conversations."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from cirkelline.runtime.cli import display, opening
from cirkelline.runtime.cli.answers import Answer, Block, Facts, Table, Text
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
        "ended_at": session.ended_at,
    }


async def find(user: str | None, agent: str | None, limit: int) -> Answer:
    """List a user's newest sessions; whoever has never chatted has none."""
    async with opening.database() as opened:
        name = user or opened.settings.user
        async with opened.db.connection() as conn:
            agent_id = (await agents.get(conn, agent)).id if agent else None
        try:
            async with _rows_of(opened.db, name) as rows:
                found = await sessions.find(rows, agent_id=agent_id, limit=limit)
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
    empty = f"user {name} has no sessions{' with that agent' if agent else ''} (`cirkelline chat` begins one)"
    return Answer(
        {"user": name, "sessions": [_document(each) for each in found]},
        [Table(("session", "agent", "begun", "turns", "first words"), table, empty)],
    )


async def show(reference: str, user: str | None) -> Answer:
    """Show one of a user's sessions with all its messages, and what is kept for it besides."""
    async with opening.database() as opened:
        name = user or opened.settings.user
        async with _rows_of(opened.db, name) as rows:
            session = await sessions.get(rows, reference)
            said = await sessions.messages(rows, session.id)
            kept = await sessions.kept(rows, session.id) or Kept({})
    document = _document(session) | {
        "user": name,
        "messages": [_message(message) for message in said],
        "summary": _summary(kept.summary, said),
        "session_state": kept.work,
    }
    blocks: list[Block] = [
        Facts(
            [
                ("session", str(session.id)),
                ("user", name),
                ("agent", session.agent or "-"),
                ("begun", display.when(session.created_at)),
                ("turns", str(session.turns)),
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
    return Answer(document, blocks)


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
