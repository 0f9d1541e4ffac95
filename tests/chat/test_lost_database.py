"""A database that goes away in the middle of a chat is one sentence, and nothing that was said is lost."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import psycopg
import pytest
from chat_scene import Chat
from workplace import Workplace


@pytest.fixture
def name(database_url: str) -> str:
    return urlsplit(database_url).path.removeprefix("/")


@asynccontextmanager
async def away(server_url: str, name: str) -> AsyncIterator[None]:
    """Let the database refuse everybody, and cut those who are connected."""
    async with await psycopg.AsyncConnection.connect(server_url, autocommit=True) as conn:
        await conn.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false')  # type: ignore[call-overload]
        await conn.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [name])
        try:
            yield
        finally:
            await conn.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true')  # type: ignore[call-overload]


def times(chat: Chat, beginning: str) -> int:
    return sum(said.startswith(beginning) for said in chat.screen.said)


async def test_a_turn_that_was_running_goes_on_when_the_database_is_back(
    place: Workplace, chat: Chat, server_url: str, name: str
) -> None:
    await place.agent("helper", [{"text": "one two", "pace": "2s"}])
    talk = await chat.conversation()
    answering = chat.saying(talk, "hello")
    await chat.screen.shows("one")
    async with away(server_url, name):
        await chat.screen.shows("waiting for the database")
    turn = await chat.end(answering)
    assert turn.output == "one two"
    assert chat.screen.shown.startswith("one\nthe database does not answer")
    assert chat.screen.shown.endswith("\nthe database is back\ntwo")
    assert (times(chat, "the database does not answer"), times(chat, "the database is back")) == (1, 1)


async def test_a_turn_said_while_the_database_is_away_is_sent_once_when_it_is_back(
    place: Workplace, chat: Chat, server_url: str, name: str
) -> None:
    await place.agent("helper", [{"text": "You said {{input}}."}])
    talk = await chat.conversation()
    await chat.answered(talk, "one")
    async with away(server_url, name):
        answering = chat.saying(talk, "two")
        await chat.screen.shows("waiting for the database")
    await chat.end(answering)
    assert "You said two." in chat.screen.shown
    assert await place.rows("SELECT payload ->> 'input', status FROM runtime.tasks ORDER BY sequence") == [
        ("one", "completed"),
        ("two", "completed"),
    ]


async def test_who_gives_up_waiting_for_the_database_has_sent_nothing(
    place: Workplace, chat: Chat, server_url: str, name: str
) -> None:
    await place.agent("helper", [{"text": "hello"}])
    talk = await chat.conversation()
    async with away(server_url, name):
        answering = chat.saying(talk, "hello")
        await chat.screen.shows("waiting for the database")
        chat.screen.press()
        assert await answering is None
    assert chat.screen.said[-1] == "not sent: the database could not be reached"
    await chat.answered(talk, "again")
    assert await place.rows("SELECT payload ->> 'input' FROM runtime.tasks") == [("again",)]


async def test_a_turn_whose_acknowledgement_was_lost_is_not_sent_twice(
    place: Workplace, chat: Chat, monkeypatch: pytest.MonkeyPatch
) -> None:
    await place.agent("helper", [{"text": "You said {{input}}."}])
    talk = await chat.conversation()
    once = talk._submit_once
    tries: list[bool] = []

    async def losing(*arguments: object, again: bool) -> object:
        tries.append(again)
        session = await once(*arguments, again=again)  # type: ignore[arg-type]
        if not again:
            raise psycopg.OperationalError("server closed the connection unexpectedly")
        return session

    monkeypatch.setattr(talk, "_submit_once", losing)
    await chat.answered(talk, "hello")
    assert tries == [False, True]
    assert await place.rows("SELECT payload ->> 'input', status FROM runtime.tasks") == [("hello", "completed")]
    assert await place.rows("SELECT count(*) FROM runtime.sessions") == [(1,)]
