"""When a person leaves: their data in one archive, their access switched off, or everything of theirs erased."""

from __future__ import annotations

import asyncio
import json
import zipfile
from collections.abc import Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import IO, Final
from uuid import UUID

from cirkelline.state import leaving, logins, schedules, users
from cirkelline.state.connection import Database
from cirkelline.state.leaving import Stopped
from cirkelline.state.tenant import Tenant, tenant
from cirkelline.state.users import User, UserNotFound

LAST_STEPS: Final = 10.0
"""Seconds that runs have to stop before their tasks are erased under them."""
_LOOK: Final = 0.2  # s

_README: Final = """\
What this database holds of {who}, taken on {when} (UTC).

Each .jsonl file has one row of one table on each line, as JSON: the file runtime.messages.jsonl is what was said in
conversations, ai.agno_memories.jsonl what was remembered, ai.agno_knowledge.jsonl the documents and
ai.cirkelline_knowledge_vectors.jsonl their text, piece by piece. user.json is the account. Not in it: what agents keep for
all their users together, and backups.
"""


@dataclass(frozen=True, slots=True)
class Exported:
    """What was written: how many rows of which table."""

    user: User
    rows: Mapping[str, int]


async def export(db: Database, user: User, file: IO[bytes]) -> Exported:
    """Write all that the database holds of a user to a zip archive, as of one moment."""
    async with db.connection() as conn:
        tables = await leaving.tables(conn)
        account = next((each for each in await users.find(conn) if each.id == user.id), None)
        login = next((each for each in await logins.find(conn) if account and each.id == account.account), None)
    rows: dict[str, int] = {}
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        async with tenant(db, user.id, one_moment=True) as door:
            for table in tables:
                rows[table] = await _write_table(archive, door, table)
        about = {
            "id": str(user.id),
            "email": user.email,
            "active": user.active,
            "login": login is not None,
            "last_login": login.last_login.isoformat() if login and login.last_login else None,
            "aliases": list(account.aliases) if account else [],
        }
        archive.writestr("user.json", json.dumps(about, indent=2))
        said = _README.format(who=user.email or user.id, when=f"{datetime.now(UTC):%Y-%m-%d %H:%M}")
        archive.writestr("README.txt", said)
    return Exported(user, rows)


async def _write_table(archive: zipfile.ZipFile, door: Tenant, table: str) -> int:
    amount = 0
    async with aclosing(leaving.rows_of(door, table)) as rows:
        with archive.open(f"{table}.jsonl", "w", force_zip64=True) as lines:
            async for row in rows:
                lines.write(row.encode() + b"\n")
                amount += 1
    return amount


@dataclass(frozen=True, slots=True)
class SwitchedOff:
    """A user for whom nothing is done any more: whether that is new, whether a token was revoked, what was stopped.

    `paused` is how many schedules.
    """

    user: User
    changed: bool
    token_revoked: bool
    stopped: Stopped
    paused: int


async def deactivate(db: Database, name: str) -> SwitchedOff:
    """Switch a user off: no login, no token, nothing done on their behalf; all their data stays.

    A user without a login gets one with which nobody can log in. Raises: UserNotFound, NoLogins.
    """
    async with db.transaction() as conn:
        await logins.require(conn)
        user = await users.get(conn, name)
        account = await users.account(conn, user.id)
        if account is None:
            account = await logins.add(conn, user.email or f"{user.id}@localhost", logins.NO_PASSWORD)
            await users.tie(conn, user.id, account)
        changed = await logins.switch(conn, account, active=False)
        revoked = await users.revoke_token(conn, user.id)
        paused = await schedules.pause_of(conn, user.id)
        return SwitchedOff(user, changed, revoked, await leaving.stop_tasks(conn, user.id), paused)


async def activate(db: Database, name: str) -> tuple[User, bool]:
    """Switch a user on again; return the user, and whether that changed anything. Raises: UserNotFound, NoLogins."""
    async with db.transaction() as conn:
        await logins.require(conn)
        user = await users.get(conn, name)
        account = await users.account(conn, user.id)
        return user, account is not None and await logins.switch(conn, account, active=True)


@dataclass(frozen=True, slots=True)
class Erased:
    """How many rows of which table went; `abandoned` runs had not stopped by then, and can write nothing any more."""

    user_id: UUID
    rows: Mapping[str, int]
    abandoned: int


async def find(db: Database, name: str) -> tuple[UUID, str]:
    """Return the id of whom a name means, also of somebody erased, and what to call them. Raises: UserNotFound."""
    async with db.connection() as conn:
        try:
            user = await users.get(conn, name)
        except UserNotFound:
            if (found := _as_id(name)) is None or await leaving.erasure(conn, found) is None:
                raise
            return found, name
    return user.id, user.email or str(user.id)


def _as_id(name: str) -> UUID | None:
    try:
        return UUID(name)
    except ValueError:
        return None


async def erase(db: Database, user_id: UUID, *, tell: Callable[[str], None], patience: float = LAST_STEPS) -> Erased:
    """Stop what runs on a user's behalf, then erase the user everywhere; a second time takes what came since.

    Interrupted at any point, it has erased all or nothing, and the user stays shut out. Raises: StillReferred.
    """
    async with db.transaction() as conn:
        await leaving.begin(conn, user_id)
        await schedules.pause_of(conn, user_id)
        stopped = await leaving.stop_tasks(conn, user_id)
    if stopped.asked:
        tell(f"waiting for {stopped.asked} running of their tasks to stop")
    abandoned = await _wait_for_runs(db, user_id, patience)
    async with db.connection() as conn:
        return Erased(user_id, await leaving.erase(conn, user_id), abandoned)


async def _wait_for_runs(db: Database, user_id: UUID, patience: float) -> int:
    loop = asyncio.get_running_loop()
    until = loop.time() + patience
    while True:
        async with db.connection() as conn:
            running = await leaving.running(conn, user_id)
        if not running or loop.time() >= until:
            return running
        await asyncio.sleep(_LOOK)
