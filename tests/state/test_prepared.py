"""The hot statements are prepared where the server itself answers, and not behind a pooler, which would lose them."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import scene
from psycopg import conninfo, sql

from cirkelline.state import claims
from cirkelline.state.connection import Conn, Database, connect

PREPARED = "SELECT statement FROM pg_prepared_statements"
KEY_DATA, READY = b"K", b"Z"


async def prepared(conn: Conn) -> list[str]:
    """What is prepared after some rounds of work."""
    agent, owner = await scene.agent(conn), await scene.worker(conn)
    await scene.submit(conn, agent, 3)
    for _ in range(3):
        claim = await scene.claim_one(conn, owner, agent)
        await scene.finish(conn, owner, scene.ended(claim))
    await claims.finish_and_claim(conn, owner, [], [agent], slots=1, state_limit=scene.LIMIT)
    return await scene.rows(conn, PREPARED)


async def _answer(server: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
    """Pass on what the server says, but give the client a key of our own, as a pooler does."""
    kind = b""
    while kind != READY:
        kind = await server.readexactly(1)
        length = await server.readexactly(4)
        body = await server.readexactly(int.from_bytes(length, "big") - 4)
        client.write(kind + length + (b"\x00\x00\x00\x01" + body[4:] if kind == KEY_DATA else body))
    await _pass_on(server, client)


async def _pass_on(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await source.read(65536):
            target.write(data)
            await target.drain()
    target.close()


@asynccontextmanager
async def pooler(url: str, folder: Path) -> AsyncIterator[str]:
    """The URL of a go-between that hides which of the server's processes answers."""
    fields = conninfo.conninfo_to_dict(url)
    host, port = str(fields["host"]), int(fields.get("port") or 5432)

    serving: set[asyncio.Task[None]] = set()

    def accept(client: asyncio.StreamReader, back: asyncio.StreamWriter) -> None:
        serving.add(asyncio.create_task(serve(client, back)))

    async def serve(client: asyncio.StreamReader, back: asyncio.StreamWriter) -> None:
        is_socket = host.startswith("/")
        opened = (
            asyncio.open_unix_connection(f"{host}/.s.PGSQL.{port}")
            if is_socket
            else asyncio.open_connection(host, port)
        )
        server, forth = await opened
        try:
            await asyncio.gather(_pass_on(client, forth), _answer(server, back))
        finally:
            for writer in (forth, back):
                writer.close()
                with contextlib.suppress(ConnectionError):
                    await writer.wait_closed()

    async with await asyncio.start_unix_server(accept, folder / ".s.PGSQL.5432"):
        login = f"{fields['user']}:{fields['password']}" if fields.get("password") else fields["user"]
        yield f"postgresql://{login}@/{fields['dbname']}?host={folder}&port=5432&sslmode=disable&gssencmode=disable"
        # Its clients have left by now: nothing of a connection may outlive the loop.
        await asyncio.gather(*serving, return_exceptions=True)


async def test_the_hot_statements_are_prepared_and_no_others(conn: Conn) -> None:
    assert sorted("claim_tasks" in each or "finish_tasks" in each for each in await prepared(conn)) == [True] * 3


TIMEOUT = "SELECT current_setting('idle_in_transaction_session_timeout')"


async def test_a_forgotten_transaction_ends_where_the_server_sets_no_time_itself(conn: Conn, database_url: str) -> None:
    name = sql.Identifier(conn.info.dbname)
    try:
        for given, kept in (("0", "5min"), ("7min", "7min")):
            await conn.execute(
                sql.SQL("ALTER DATABASE {} SET idle_in_transaction_session_timeout = {}").format(name, given)
            )
            async with await connect(database_url) as direct:
                assert await scene.one(direct, TIMEOUT) == kept
        await conn.execute(sql.SQL("ALTER DATABASE {} SET idle_in_transaction_session_timeout = 0").format(name))
        with tempfile.TemporaryDirectory(prefix="p") as folder:
            async with pooler(database_url, Path(folder)) as url, await connect(url) as pooled:
                assert await scene.one(pooled, TIMEOUT) == "0"  # the server's process is somebody else's next
    finally:
        await conn.execute(sql.SQL("ALTER DATABASE {} RESET idle_in_transaction_session_timeout").format(name))


async def test_nothing_is_prepared_behind_a_pooler(database_url: str) -> None:
    # A short path: a socket's may not be longer than 107 bytes.
    with tempfile.TemporaryDirectory(prefix="p") as folder:
        async with pooler(database_url, Path(folder)) as url:
            async with await connect(url) as conn:
                assert await prepared(conn) == []
            async with Database.open(url) as db, db.connection() as lent:
                owner = await scene.worker(lent)
                await claims.claim(lent, owner, [owner], slots=1)
                assert await scene.rows(lent, PREPARED) == []
