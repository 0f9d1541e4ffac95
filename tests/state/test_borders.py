"""The borders of the database room: JSON that is stored and read back, URLs and errors that keep their secrets."""

from __future__ import annotations

import contextlib
import json
import math
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg import conninfo

from cirkelline.state import jsonb
from cirkelline.state.connection import Database, DatabaseUnavailable, connect, describe, with_search_path

TEXTS = st.text(st.characters(codec=None), max_size=12) | st.sampled_from(
    ["\x00", "\ud800", "\\u0000", "\\ud83d", "😀", '"']
)
KEYS = TEXTS | st.integers() | st.booleans() | st.none() | st.floats()
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.tuples(inner) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=12,
)


def text(value: str) -> str:
    return "".join("\ufffd" if char == "\x00" or "\ud800" <= char <= "\udfff" else char for char in value)


def key(value: Any) -> str:
    if isinstance(value, str):
        return text(value)
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    (only,) = json.loads(json.dumps({value: 0}))
    return str(only)


def stored(value: Any) -> Any:
    """What has to come back: numbers as they are worth, text without what PostgreSQL has no place for."""
    match value:
        case str():
            return text(value)
        case dict():
            return {key(name): stored(item) for name, item in value.items()}
        case list() | tuple():
            return [stored(item) for item in value]
        case float():
            return value if math.isfinite(value) else None
        case _:
            return value


def worth(value: Any) -> Any:
    """Numbers as floats: 1e300 is stored as 1 and 300 zeros, which Python reads as an integer."""
    match value:
        case bool():
            return value
        case int():
            with contextlib.suppress(OverflowError):
                return float(value)
            return value
        case list():
            return [worth(item) for item in value]
        case dict():
            return {name: worth(item) for name, item in value.items()}
        case _:
            return value


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(value=ANYTHING)
def test_whatever_json_takes_is_stored_and_read_back_equal(shared_database: psycopg.Connection, value: Any) -> None:
    row = shared_database.execute("SELECT %s::jsonb::text", [jsonb.dumps(value)]).fetchone()
    assert row is not None
    assert worth(jsonb.loads(row[0])) == worth(stored(value))


@pytest.mark.parametrize("value", [object(), {1, 2}, b"bytes", {"deep": [object()]}, {(1, 2): 3}])
def test_what_is_not_json_is_refused(value: Any) -> None:
    with pytest.raises(TypeError):
        jsonb.dumps(value)


def test_what_contains_itself_or_is_too_deep_is_refused_as_a_value() -> None:
    loop: list[Any] = []
    loop.append(loop)
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    for value in (loop, deep, 10**5000):
        with pytest.raises(ValueError, match=r"nested|digits|Circular"):
            jsonb.dumps(value)


def test_what_python_cannot_read_comes_as_text() -> None:
    assert jsonb.loads("[1, " + "2" * 5000 + "]") == [1, "2" * 5000]
    assert jsonb.loads(b"[" * 100_000 + b"]" * 100_000) == "[" * 100_000 + "]" * 100_000


# URLs -----------------------------------------------------------------------------------------------------------------

SECRET = "hunter2"


@pytest.mark.parametrize(
    ("url", "options"),
    [
        ("postgresql://u:p@h/db", "-csearch_path=runtime,ai,public"),
        ("postgresql://u:p@h:1/db?sslmode=require", "-csearch_path=runtime,ai,public"),
        ("postgresql:///db?host=/tmp/x&port=5", "-csearch_path=runtime,ai,public"),
        ("postgresql://u:p%40?q@h/db", "-csearch_path=runtime,ai,public"),
        (
            "postgresql://h/db?options=-cstatement_timeout%3D5s&sslmode=require",
            "-cstatement_timeout=5s -csearch_path=runtime,ai,public",
        ),
        ("host=/tmp/x dbname=db", "-csearch_path=runtime,ai,public"),
        ("postgresql://h/db?options=-csearch_path%3Dtheirs", "-csearch_path=theirs"),
    ],
)
def test_the_search_path_is_added_and_nothing_else_changes(url: str, options: str) -> None:
    before, after = conninfo.conninfo_to_dict(url), conninfo.conninfo_to_dict(with_search_path(url))
    assert after.pop("options") == options
    before.pop("options", None)
    assert after == before
    assert with_search_path(with_search_path(url)) == with_search_path(url)


async def test_the_search_path_finds_the_second_documents_tables_first(database_url: str) -> None:
    async with await connect(with_search_path(database_url)) as conn:
        found = await conn.execute(
            "SELECT 'users'::regclass::oid = 'runtime.users'::regclass::oid, 'agno_sessions'::regclass"
        )
        assert await found.fetchone() == (True, "agno_sessions")


def test_a_database_is_described_without_its_password() -> None:
    assert describe(f"postgresql://u:{SECRET}@10.0.0.5:5433/shop") == "database shop at 10.0.0.5:5433"
    assert describe("postgresql:///shop?host=/run/x") == "database shop at its socket"
    for odd in (f"{SECRET}%zz@h", f"p@{SECRET}@h", f"p/{SECRET}@h"):
        assert SECRET not in describe(f"postgresql://u:{odd}/db")


@pytest.mark.parametrize(
    ("url", "said"),
    [
        (f"postgresql://u:{SECRET}@127.0.0.1:1/db", "cannot reach database db at 127.0.0.1:1"),
        (f"postgresql://u:pa@{SECRET}@h/db", "not one that PostgreSQL understands.*%40"),
        (f"postgresql://u:pa/{SECRET}@h/db", "not one that PostgreSQL understands.*%2F"),
        (f"postgresql://u:{SECRET}/x@h/db", "not one that PostgreSQL understands"),
        (f"postgresql://u:%zz{SECRET}@h/db", "not one that PostgreSQL understands"),
        (SECRET, "not one that PostgreSQL understands"),
    ],
)
async def test_a_server_that_is_not_there_is_named_with_the_remedy_and_without_the_password(
    url: str, said: str
) -> None:
    with pytest.raises(DatabaseUnavailable, match=said) as refused:
        await connect(url)
    assert SECRET not in str(refused.value)
    assert "DATABASE_URL" in str(refused.value)
    with pytest.raises(DatabaseUnavailable):
        async with Database.open(url):
            pass


async def test_a_role_or_database_that_is_not_there_is_said_without_the_password(server_url: str) -> None:
    for change in ({"dbname": "no_such_database"}, {"user": "no_such_role", "password": SECRET}):
        with pytest.raises(DatabaseUnavailable, match="no_such") as refused:
            await connect(conninfo.make_conninfo(server_url, **change))
        assert SECRET not in str(refused.value)


async def test_an_open_database_lends_connections_in_utc_and_takes_a_broken_transaction_back(database_url: str) -> None:
    async with Database.open(database_url, connections=2) as db:
        with contextlib.suppress(psycopg.errors.DivisionByZero):
            async with db.transaction() as conn:
                await conn.execute("INSERT INTO runtime.users (email) VALUES ('a@b')")
                await conn.execute("SELECT 1 / 0")
        async with db.connection() as conn:
            assert await (await conn.execute("SHOW timezone")).fetchone() == ("UTC",)
            assert await (await conn.execute("SELECT count(*) FROM runtime.users")).fetchone() == (0,)
