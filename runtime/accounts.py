"""Logging in: a password becomes a token, and a token a user."""

from __future__ import annotations

import asyncio
import math
import secrets
from dataclasses import dataclass
from datetime import timedelta

from cirkelline.configs.errors import CirkellineError, UsageError
from cirkelline.runtime import passwords
from cirkelline.state import logins, users
from cirkelline.state.connection import Database
from cirkelline.state.logins import Login, LoginTaken
from cirkelline.state.users import User, UserInactive


class LoginRefused(CirkellineError):
    """The email and the password, or the token, are nobody's."""


class NoSuchLogin(UsageError):
    """There is no login of that email."""


class TooManyAttempts(CirkellineError):
    """Too many passwords were tried for one email."""


@dataclass(frozen=True, slots=True)
class LoggedIn:
    """Who logged in, and the token that stands for them from now on."""

    user: User
    token: str


async def add(db: Database, email: str, password: str) -> User:
    """Give a user a login, creating the user at first sight.

    Raises: PasswordUnusable, LoginTaken, NoLogins, NoSuchName, UserInactive.
    """
    passwords.check_new(password)
    hashed = await asyncio.to_thread(passwords.hashed, password)
    async with db.transaction() as conn:
        await logins.require(conn)
        user = await users.ensure(conn, email)
        if user.email is None:
            raise LoginTaken(f"user {user.id} has no email to log in with")
        await users.tie(conn, user.id, await logins.add(conn, user.email, hashed))
    return user


async def change_password(db: Database, email: str, password: str) -> Login:
    """Give a login another password; the tokens of its user end. Raises: PasswordUnusable, NoSuchLogin, NoLogins."""
    passwords.check_new(password)
    hashed = await asyncio.to_thread(passwords.hashed, password)
    async with db.transaction() as conn:
        await logins.require(conn)
        found = await logins.get(conn, email) or await logins.get(conn, users.email_of(email))
        if found is None:
            raise NoSuchLogin(f"{email} has no login: `cirkelline users add {email}` gives one")
        await logins.change(conn, found, hashed)
        await users.revoke_tokens_of(conn, found.id)
    return found


async def login(db: Database, email: str, password: str, *, replace_token: bool = False) -> LoggedIn:
    """Return a new token for whoever knows the password; it ends the one before. At most so many attempts in so long.

    Raises: LoginRefused, TooManyAttempts, UserInactive, PasswordUnusable, ForeignToken, NoLogins.
    """
    passwords.check(password)
    name = users.email_of(email)
    async with db.connection() as conn:
        await logins.require(conn)
        wait = await logins.take_attempt(conn, name)  # committed now, whatever comes of it
        found = (await logins.get(conn, email) or await logins.get(conn, name)) if wait is None else None
    if wait is not None:
        raise TooManyAttempts(f"too many passwords were tried for {name}: wait {_minutes(wait)}, then try again")
    # Out of the connection, and for an email that nobody has it takes as long.
    right = await asyncio.to_thread(passwords.fits, password, found.hashed_password if found else None)
    if found is None or not right:
        raise LoginRefused("that email and password do not belong together")
    if not found.active:
        raise UserInactive(f"the login of {found.email} is switched off (`is_active` of their row in public.users)")
    token = secrets.token_urlsafe(32)
    async with db.transaction() as conn:
        user = await users.ensure(conn, found.email)
        await users.tie(conn, user.id, found.id)
        await users.set_token(conn, user, token, replace=replace_token)
        await logins.succeeded(conn, found)
    return LoggedIn(user, token)


def _minutes(wait: timedelta) -> str:
    minutes = max(1, math.ceil(wait.total_seconds() / 60))
    return f"{minutes} minute{'' if minutes == 1 else 's'}"


async def by_token(db: Database, token: str) -> User:
    """Return the user that a token stands for. Raises: LoginRefused."""
    async with db.connection() as conn:
        user = await users.by_token(conn, token)
    if user is None:
        raise LoginRefused("that token stands for nobody: `cirkelline users login` gives a new one")
    return user
