"""Attempts at a login are counted where all processes see them, and a token is kept as a hash alone."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest
import scene

from cirkelline.state import logins, users
from cirkelline.state.connection import Conn, Database
from cirkelline.state.users import ForeignToken, UserInactive

EMAIL = "ivo@example.com"


async def test_of_many_attempts_at_once_no_more_are_let_through_than_one_after_the_other(db: Database) -> None:
    async def attempt() -> timedelta | None:
        async with db.connection() as conn:
            return await logins.take_attempt(conn, EMAIL)

    waits = await asyncio.gather(*(attempt() for _ in range(40)))
    assert sum(wait is None for wait in waits) == logins.ATTEMPTS
    refused = [wait for wait in waits if wait is not None]
    assert all(logins.WITHIN - timedelta(minutes=1) < wait <= logins.WITHIN for wait in refused)


async def test_attempts_are_counted_for_each_email_and_forgotten_in_time(conn: Conn) -> None:
    for _ in range(logins.ATTEMPTS):
        assert await logins.take_attempt(conn, EMAIL) is None
    assert await logins.take_attempt(conn, EMAIL.upper()) is not None
    assert await logins.take_attempt(conn, "eva@example.com") is None
    await conn.execute("UPDATE runtime.login_attempts SET at = at - interval '15 minutes'")
    assert await logins.take_attempt(conn, EMAIL) is None
    assert await scene.one(conn, "SELECT count(*) FROM runtime.login_attempts") == 1


async def test_a_login_that_succeeds_forgets_what_was_mistyped_for_it(conn: Conn) -> None:
    await logins.add(conn, EMAIL, "hash")
    found = await logins.get(conn, EMAIL)
    assert found is not None
    for email in (EMAIL, EMAIL, "eva@example.com"):
        await logins.take_attempt(conn, email)
    await logins.succeeded(conn, found)
    assert await scene.one(conn, "SELECT count(*) FROM runtime.login_attempts") == 1
    again = await logins.get(conn, EMAIL)
    assert again is not None
    assert (found.last_login, again.last_login is not None) == (None, True)


async def test_no_password_or_email_stands_among_the_attempts(conn: Conn) -> None:
    for email in (EMAIL, "my password", "\ud800\x00"):
        await logins.take_attempt(conn, email)
    assert EMAIL not in str(await scene.rows(conn, "SELECT encode(who, 'escape') FROM runtime.login_attempts"))


async def test_a_token_is_kept_as_a_hash_and_ends_the_one_before(conn: Conn) -> None:
    ivo = await users.ensure(conn, "ivo")
    await users.set_token(conn, ivo, "first")
    assert await users.by_token(conn, "first") == ivo
    kept = await scene.one(conn, "SELECT auth_token FROM runtime.users")
    assert "first" not in kept
    await users.set_token(conn, ivo, "second")
    assert await users.by_token(conn, "first") is None
    assert await users.by_token(conn, "second") == ivo
    for wrong in ("", kept, "secon", "second\x00", "\ud800", "x" * 100_000):
        assert await users.by_token(conn, wrong) is None


async def test_another_programs_token_is_no_token_of_ours_and_stays_until_told(conn: Conn) -> None:
    ivo = await users.ensure(conn, "ivo")
    await conn.execute("UPDATE runtime.users SET auth_token = 'theirs'")
    assert await users.by_token(conn, "theirs") is None
    with pytest.raises(ForeignToken, match="--replace-token"):
        await users.set_token(conn, ivo, "ours")
    assert await scene.one(conn, "SELECT auth_token FROM runtime.users") == "theirs"
    await users.set_token(conn, ivo, "ours", replace=True)
    assert await users.by_token(conn, "ours") == ivo


async def test_nothing_is_done_for_whoever_was_switched_off(conn: Conn) -> None:
    await logins.add(conn, EMAIL, "hash")
    ivo = await users.ensure(conn, EMAIL)
    await users.set_token(conn, ivo, "token")
    await conn.execute("UPDATE public.users SET is_active = FALSE")
    assert not (await users.get(conn, EMAIL)).active
    assert await users.by_token(conn, "token") is None
    for act in (users.acting, users.ensure):
        with pytest.raises(UserInactive, match="switched off"):
            await act(conn, EMAIL)
    await conn.execute("UPDATE public.users SET is_active = NULL")
    assert (await users.ensure(conn, EMAIL)).active


async def test_a_user_has_the_login_of_their_email_unless_they_are_tied_to_another(conn: Conn) -> None:
    ivo = await users.ensure(conn, EMAIL)
    assert [each.account for each in await users.find(conn)] == [None]
    mine, other = await logins.add(conn, EMAIL, "hash"), await logins.add(conn, "old@example.com", "hash")
    assert [each.account for each in await users.find(conn)] == [mine]
    await users.tie(conn, ivo.id, other)
    assert [each.account for each in await users.find(conn)] == [other]
    with pytest.raises(logins.LoginTaken, match="has a login already"):
        await logins.add(conn, EMAIL, "hash")
