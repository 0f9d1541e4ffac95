"""Letting a user go: switched off, taken along, or erased."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from cirkelline.runtime import leaving
from cirkelline.runtime.cli import asking, console, display, new_files, opening
from cirkelline.runtime.cli.answers import Answer, Table, Text
from cirkelline.state import users
from cirkelline.state.leaving import Stopped

_HEADINGS: Final = ("table", "rows")
_NOT_IN_A_NAME: Final = re.compile(r"[^\w.@+-]")


async def deactivate(name: str) -> Answer:
    """Switch a user off."""
    async with opening.database(migrate=True) as opened:
        done = await leaving.deactivate(opened.db, name)
    who = done.user.email or str(done.user.id)
    said = f"{who} is switched off" if done.changed else f"{who} was switched off before"
    also = [
        *(["their token was revoked"] if done.token_revoked else []),
        *_stopped(done.stopped),
        *_paused(done.paused),
    ]
    undo = f" (`cirkelline users deactivate {who} --undo` switches them on again)"
    document = {
        "id": done.user.id,
        "email": done.user.email,
        "active": False,
        "token_revoked": done.token_revoked,
        "tasks": {"cancelled": done.stopped.ended, "asked_to_stop": done.stopped.asked},
        "schedules_paused": done.paused,
    }
    return Answer(document, [Text("; ".join([said, *also]) + undo)])


def _stopped(stopped: Stopped) -> list[str]:
    cancelled = f"{display.count(stopped.ended, 'task')} of theirs cancelled" if stopped.ended else ""
    asked = f"{display.count(stopped.asked, 'running task')} asked to stop" if stopped.asked else ""
    return [words for words in (cancelled, asked) if words]


def _paused(schedules: int) -> list[str]:
    return [f"{display.count(schedules, 'schedule')} of theirs paused"] if schedules else []


async def activate(name: str) -> Answer:
    """Switch a user on again."""
    async with opening.database(migrate=True) as opened:
        user, changed = await leaving.activate(opened.db, name)
    who = user.email or str(user.id)
    said = f"{who} is switched on again (`cirkelline users login` gives a new token)" if changed else f"{who} is active"
    return Answer({"id": user.id, "email": user.email, "active": True}, [Text(said)])


async def export(name: str, output: Path | None) -> Answer:
    """Write a user's data into one archive."""
    async with opening.database() as opened:
        async with opened.db.connection() as conn:
            user = await users.get(conn, name)
        place = output or Path(
            f"{_NOT_IN_A_NAME.sub('_', user.email or str(user.id))}-{datetime.now(UTC):%Y-%m-%d}.zip"
        )
        with new_files.writing(place) as file:
            done = await leaving.export(opened.db, user, file)
            size = file.tell()
    written = place.expanduser().absolute()
    total = display.count(sum(done.rows.values()), "row")
    said = f"everything of {user.email or user.id} is in {written}: {total}, {display.size(size)}; only you may read it"
    document = {"id": user.id, "email": user.email, "file": written, "bytes": size, "rows": dict(done.rows)}
    return Answer(document, [_table(done.rows), Text(said, apart=True)])


async def erase(name: str, *, yes: bool) -> Answer:
    """Erase a user everywhere."""
    async with opening.database(migrate=True) as opened:
        user_id, who = await leaving.find(opened.db, name)
        asking.agree(
            f"{who} and everything of theirs will be erased from the {opened.place}, and nothing brings it back"
            " (`cirkelline users export` takes it along first).",
            yes=yes,
        )
        done = await leaving.erase(opened.db, user_id, tell=console.note)
    if done.abandoned:
        runs = display.count(done.abandoned, "run")
        console.warn(f"{runs} of theirs had not stopped by then; what comes of it is written nowhere")
    total = display.count(sum(done.rows.values()), "row")
    said = (
        f"{who} is erased: {total}. Their id is {user_id}; `cirkelline users delete {user_id}` erases what a restored"
        " backup brings back. What agents keep for all their users (`states show`) and log files are not searched."
    )
    document = {"id": user_id, "rows": dict(done.rows), "runs_not_stopped": done.abandoned}
    return Answer(document, [_table(done.rows), Text(said, apart=True)])


def _table(rows: Mapping[str, int]) -> Table:
    there = [(table, f"{amount:,}") for table, amount in sorted(rows.items()) if amount]
    return Table(_HEADINGS, there, "there was no row of theirs")
