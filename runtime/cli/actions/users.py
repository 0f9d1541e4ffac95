"""Users: who there is, logging in, profiles, and whose rows are whose."""

from __future__ import annotations

import getpass
import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Final

from cirkelline.configs.errors import UsageError
from cirkelline.runtime import accounts
from cirkelline.runtime.cli import console, display, opening
from cirkelline.runtime.cli.answers import Answer, Block, Cell, Facts, Mark, Table, Text
from cirkelline.state import aliases, logins, profiles, users
from cirkelline.state.aliases import Owned
from cirkelline.state.tenant import tenant

_HEADINGS: Final = ("user", "id", "login", "last login", "also called")
_LONGEST_LINE: Final = 4_096  # bytes; whatever is longer is no password


class NoPassword(UsageError):
    """No password was given, or not the same one twice."""


def _password(*, twice: bool) -> str:
    """Return a password from the terminal, without showing it, or from the first line of stdin. Raises: NoPassword."""
    if sys.stdin is None:  # pyright: ignore[reportUnnecessaryComparison] - closed by whoever started us
        raise NoPassword("there is no stdin to read the password from")
    if console.on_terminal(sys.stdin):
        given = getpass.getpass("Password: ")
        if twice and getpass.getpass("Once more: ") != given:
            raise NoPassword("the two passwords differ: try again")
    else:
        try:
            given = sys.stdin.buffer.readline(_LONGEST_LINE).decode().rstrip("\r\n")
        except UnicodeDecodeError:
            raise NoPassword("the password on stdin is not UTF-8 text") from None
    if not given:
        raise NoPassword("no password was given: type one, or put it on the first line of stdin")
    return given


async def add(name: str) -> Answer:
    """Give a user a login."""
    password = _password(twice=True)
    async with opening.database(migrate=True) as opened:
        user = await accounts.add(opened.db, name, password)
    return Answer(
        {"id": user.id, "email": user.email}, [Text(f"{user.email} can log in now (`cirkelline users login`)")]
    )


async def change_password(name: str) -> Answer:
    """Give a login another password."""
    password = _password(twice=True)
    async with opening.database() as opened:
        changed = await accounts.change_password(opened.db, name, password)
    said = f"{changed.email} logs in with the new password from now on; a token they had has ended"
    return Answer({"email": changed.email}, [Text(said)])


async def login(name: str, *, replace_token: bool) -> Answer:
    """Print a new token."""
    password = _password(twice=False)
    async with opening.database() as opened:
        done = await accounts.login(opened.db, name, password, replace_token=replace_token)
    console.note("whoever has this token is this user; it is shown once, and ends the one before")
    return Answer({"id": done.user.id, "email": done.user.email, "token": done.token}, [Text(done.token)])


async def find() -> Answer:
    """List the users, and the logins whose users have never been here."""
    async with opening.connected() as conn:
        found = await users.find(conn)
        there = await logins.find(conn)
    by_id = {each.id: each for each in there}
    documents: list[dict[str, Any]] = []
    for each in found:
        tied = by_id.get(each.account) if each.account is not None else None
        documents.append(
            {
                "id": each.id,
                "email": each.email,
                "login": tied is not None,
                "active": each.active,
                "last_login": tied.last_login if tied else None,
                "aliases": list(each.aliases),
                "created_at": each.created_at,
            }
        )
    known = {each.account for each in found}
    documents += [
        {
            "id": None,
            "email": each.email,
            "login": True,
            "active": each.active,
            "last_login": each.last_login,
            "aliases": [],
            "created_at": None,
        }
        for each in there
        if each.id not in known
    ]
    empty = "no users yet (`cirkelline users add` makes one, and so does `cirkelline chat`)"
    return Answer({"users": documents}, [Table(_HEADINGS, [_row(each) for each in documents], empty)])


def _row(user: Mapping[str, Any]) -> Sequence[Cell]:
    able = ("yes" if user["login"] else "-") if user["active"] else Mark("switched off", "bad")
    return (
        user["email"] or "-",
        display.short(user["id"]) if user["id"] else "-",
        able,
        display.ago(user["last_login"]) if user["last_login"] else "-",
        display.line(", ".join(user["aliases"]) or "-", 60),
    )


async def profile(name: str, changes: Mapping[str, Any]) -> Answer:
    """Show a user's profile, after these changes."""
    async with opening.database(migrate=bool(changes)) as opened:
        async with opened.db.transaction() as conn:
            user = await users.get(conn, name)
            if changes:
                await logins.require(conn)
                await profiles.change(conn, user.id, changes)
        async with tenant(opened.db, user.id) as door:
            found = await profiles.read(door) or profiles.Profile()
    document = {field: getattr(found, field) for field in profiles.FIELDS}
    pairs = [
        (field.replace("_", " "), value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
        for field, value in document.items()
        if value is not None
    ]
    said: list[Block] = [Facts([("user", user.email or str(user.id)), *pairs])]
    if not pairs:
        said.append(Text("agents are told nothing about this user (`cirkelline users profile USER --context …`)"))
    return Answer({"id": user.id, "email": user.email, "profile": document}, said)


async def adopt(owner: str, name: str) -> Answer:
    """Let another program's word for a user name this one."""
    async with opening.database(migrate=True) as opened, opened.db.transaction() as conn:
        user = await users.get(conn, name)
        theirs = await aliases.adopt(conn, owner, user)
    said = f"{owner} is {user.email or user.id} now: {_rows(theirs)} became theirs"
    return Answer({"owner": owner, "user": user.email, "user_id": user.id, "rows": _document(theirs)}, [Text(said)])


async def undo(owner: str) -> Answer:
    """Let a text name nobody again."""
    async with opening.database(migrate=True) as opened, opened.db.transaction() as conn:
        nobodys = await aliases.undo(conn, owner)
    said = f"{owner} names nobody any more: {_rows(nobodys)} are nobody's"
    return Answer({"owner": owner, "user": None, "user_id": None, "rows": _document(nobodys)}, [Text(said)])


async def list_unowned() -> Answer:
    """List the owners' texts that name nobody."""
    async with opening.connected() as conn:
        found = await aliases.of_nobody(conn)
    rows = [
        (display.line(each.owner, 60) if each.owner is not None else "(none)", each.relation, f"{each.amount:,}")
        for each in found
    ]
    documents = [{"owner": each.owner, "table": each.relation, "rows": each.amount} for each in found]
    return Answer({"unowned": documents}, [Table(("owner", "table", "rows"), rows, "every row belongs to somebody")])


def _rows(found: Sequence[Owned]) -> str:
    total = display.count(sum(each.amount for each in found), "row")
    tables = ", ".join(f"{each.amount:,} of {each.relation}" for each in found)
    return f"{total} ({tables})" if found else total


def _document(found: Sequence[Owned]) -> dict[str, int]:
    return {each.relation: each.amount for each in found}
