"""Connections that tools work through: what a tool did and the record that it ended are one transaction."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, Final, Protocol, Self, TypeVar
from uuid import UUID, uuid4

import psycopg
from psycopg import sql

from cirkelline.configs.errors import CirkellineError
from cirkelline.state import journal
from cirkelline.state.connection import Conn, Database, Disconnected, connect
from cirkelline.state.journal import Fence, Step, Written

CONNECTIONS: Final = 16
PAUSES: Final = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0)
"""Seconds before a transaction that met another one is tried again."""
_THREADS: Final = 4
_SHORT: Final = 12  # hexadecimal digits of a worker's id; a connection's name has 63 bytes
_LOCK_WAIT: Final = 5.0  # seconds for a statement that was cut off to notice

PlainConn = psycopg.Connection[Any]
Result = TypeVar("Result")


class LeftTransaction(CirkellineError):
    """A tool ended the transaction that it was lent: what it had done by then is kept, and its record is not."""


class TransactionFailed(CirkellineError):
    """A tool returned although its transaction had failed: nothing of it was kept."""


class RoleUnusable(CirkellineError):
    """The role that tools are to work under cannot be taken."""


def passes(error: BaseException | None) -> bool:
    """Whether a failure, or one that led to it, is a serialization failure, a deadlock or a lost connection (also one that stood idle)."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if isinstance(error, BaseExceptionGroup):
            return any(passes(member) for member in error.exceptions)  # pyright: ignore[reportUnknownMemberType, reportUnknownArgumentType, reportUnknownVariableType]
        if isinstance(error, psycopg.Error) and _passes(error):
            return True
        error = error.__cause__ or error.__context__
    return False


def _passes(error: psycopg.Error) -> bool:
    if error.sqlstate is None:
        return isinstance(error, Disconnected)
    return error.sqlstate in {"40001", "40P01", "25P03"} or error.sqlstate.startswith(("08", "57P"))


class _Line(Protocol):
    """A connection of either kind, seen from the loop."""

    @property
    def connection(self) -> Conn | PlainConn: ...
    async def run(self, statement: Any, parameters: Any = None) -> tuple[Any, ...] | None: ...
    async def enter(self) -> None: ...
    async def leave(self, *, commit: bool) -> None: ...
    async def close(self) -> None: ...


class _AsyncLine:
    def __init__(self, connection: Conn) -> None:
        self.connection = connection
        self._transaction: Any = None

    async def run(self, statement: Any, parameters: Any = None) -> tuple[Any, ...] | None:
        cursor = await self.connection.execute(statement, parameters)
        return await cursor.fetchone() if cursor.description else None

    async def enter(self) -> None:
        self._transaction = self.connection.transaction()
        await self._transaction.__aenter__()

    async def leave(self, *, commit: bool) -> None:
        await self._transaction.__aexit__(*_how(commit=commit))

    async def close(self) -> None:
        await self.connection.close()


class _PlainLine:
    """A blocking connection; what we do on it runs in a few threads of our own, as a tool's may all be busy."""

    def __init__(self, connection: PlainConn, threads: ThreadPoolExecutor) -> None:
        self.connection = connection
        self._threads = threads
        self._transaction: Any = None

    async def _in_thread(self, action: Callable[[], Result]) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._threads, action)

    async def run(self, statement: Any, parameters: Any = None) -> tuple[Any, ...] | None:
        def run() -> tuple[Any, ...] | None:
            cursor = self.connection.execute(statement, parameters)
            return cursor.fetchone() if cursor.description else None

        return await self._in_thread(run)

    async def enter(self) -> None:
        self._transaction = self.connection.transaction()
        await self._in_thread(self._transaction.__enter__)

    async def leave(self, *, commit: bool) -> None:
        await self._in_thread(lambda: self._transaction.__exit__(*_how(commit=commit)))

    async def close(self) -> None:
        def close() -> None:
            # A thread that was given up on may be inside a statement; it holds the lock until the server cut it off.
            if self.connection.lock.acquire(timeout=_LOCK_WAIT):
                self.connection.lock.release()
            self.connection.close()

        await self._in_thread(close)


def _how(*, commit: bool) -> tuple[Any, Any, Any]:
    return (None, None, None) if commit else (psycopg.Rollback, psycopg.Rollback(), None)


class ToolTransaction:
    """An open transaction for one tool call: lend `connection`, then `commit`; without that it is rolled back."""

    def __init__(self, line: _Line, db: Database, token: str, *, has_role: bool) -> None:
        self._line = line
        self._db = db
        self._token = token
        self._has_role = has_role
        self.ended = False
        self.abandoned = False

    @property
    def connection(self) -> Conn | PlainConn:
        """The tool's connection."""
        return self._line.connection

    def abandon(self) -> None:
        """Cut the connection off at the end: a tool that nobody waits for may still be using it."""
        self.abandoned = True

    async def commit(self, fence: Fence, step: Step) -> Written:
        """Write the step and commit both, or roll back unless it is WRITTEN.

        Raises: LeftTransaction, TransactionFailed; psycopg.Error, also where the commit's outcome is not known: then a
        later WRITTEN or THERE tells, as the step's key cannot be taken twice.
        """
        await self._check()
        if self._has_role:
            await self._line.run("RESET ROLE")
        row = await self._line.run(journal.statement([step]), journal.parameters(fence, [step]))
        written = Written(row[0]) if row else Written.LOST
        await self._line.leave(commit=written is Written.WRITTEN)
        self.ended = True
        return written

    async def _check(self) -> None:
        try:
            row = await self._line.run(CALLED)
        except psycopg.errors.InFailedSqlTransaction:
            raise TransactionFailed(
                "a statement of the tool failed and it went on, so nothing of it was kept; where a failure is expected,"
                " put the statement into `with ctx.connection.transaction():`"
            ) from None
        if row is None or row[0] != self._token:
            raise LeftTransaction(
                "the tool ended its transaction itself (COMMIT, ROLLBACK), so what it did cannot be tied to its record;"
                " remove that from its code: the transaction is committed when the tool returns"
            )


class ToolConnections:
    """The connections that a worker's tools work through, apart from its own: a tool may leave anything set on one."""

    def __init__(self, db: Database, *, role: str | None = None, size: int = CONNECTIONS) -> None:
        self._db = db
        self._role = role
        self._places = asyncio.Semaphore(size)
        self._idle: dict[bool, list[_Line]] = {True: [], False: []}
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="tool-transaction")

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for line in [*self._idle[True], *self._idle[False]]:
            await line.close()
        await asyncio.to_thread(self._threads.shutdown)

    @asynccontextmanager
    async def begin(self, worker: UUID, *, plain: bool, user_id: UUID | None = None) -> AsyncGenerator[ToolTransaction]:
        """Open a transaction on a connection of its own, blocking where `plain`; it is rolled back unless committed.

        It is cut off when its worker is declared dead. Raises: RoleUnusable; psycopg.Error.
        """
        token = f"of {worker.hex[:_SHORT]} {uuid4().hex[: 2 * _SHORT]}"
        async with self._places:
            line = self._idle[plain].pop() if self._idle[plain] else await self._open(plain=plain)
            sound = False
            try:
                await self._start(line, token, user_id)
                transaction = ToolTransaction(line, self._db, token, has_role=self._role is not None)
                yield transaction
                if not transaction.abandoned:
                    if not transaction.ended:
                        await line.leave(commit=False)
                    await self._clean(line)
                    sound = True
            finally:
                if sound:
                    self._idle[plain].append(line)
                else:
                    await asyncio.shield(self._cut_off(line, token))

    async def _open(self, *, plain: bool) -> _Line:
        if not plain:
            return _AsyncLine(await connect(self._db.url))

        def open_plain() -> PlainConn:
            conn = psycopg.connect(self._db.url, autocommit=True, prepare_threshold=None, connect_timeout=10)
            conn.execute("SET TIME ZONE 'UTC'")
            return conn

        opening = self._threads.submit(open_plain)
        try:
            conn = await asyncio.wrap_future(opening)
        except asyncio.CancelledError:
            opening.add_done_callback(_close_opened)
            raise
        return _PlainLine(conn, self._threads)

    async def _start(self, line: _Line, token: str, user_id: UUID | None) -> None:
        # SET and no SELECT: after a query a tool could not choose its isolation level any more.
        settings: Sequence[sql.Composable] = [
            sql.SQL("SET LOCAL application_name = {}").format(_name(token)),
            sql.SQL("SET LOCAL cirkelline.call = {}").format(token),
            sql.SQL("SET LOCAL app.user_id = {}").format(str(user_id or "")),
        ]
        await line.enter()
        await line.run(sql.SQL("; ").join(settings))
        if self._role is not None:
            try:
                await line.run(sql.SQL("SET LOCAL ROLE {}").format(sql.Identifier(self._role)))
            except (psycopg.errors.InvalidParameterValue, psycopg.errors.InsufficientPrivilege) as error:
                raise RoleUnusable(
                    f"CIRKELLINE_TOOL_ROLE cannot be used: {str(error).splitlines()[0]}; create the role and grant it to the"
                    " role that DATABASE_URL names"
                ) from None

    async def _clean(self, line: _Line) -> None:
        await line.run("DISCARD ALL")
        await line.run("SET TIME ZONE 'UTC'")

    async def _cut_off(self, line: _Line, token: str) -> None:
        """End the connection at the server first: whatever still uses it, nothing of its transaction can be kept."""
        with contextlib.suppress(psycopg.Error):
            async with self._db.connection() as conn:
                await conn.execute(CUT_OFF, {"name": _name(token)})
        with contextlib.suppress(psycopg.Error):
            await line.close()


# With the step its claim is locked, which nobody may take over until the commit: a worker that stands still in between
# keeps everybody else's dead workers waiting for no longer than this.
CALLED: Final = """
SELECT current_setting('cirkelline.call', true), set_config('idle_in_transaction_session_timeout', '3s', true)
"""
CUT_OFF: Final = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = %(name)s::text
"""


CUT_OFF_DEAD: Final = """
SELECT count(pg_terminate_backend(a.pid)) FROM pg_stat_activity a
 WHERE a.datname = current_database() AND a.application_name LIKE 'cirkelline tool of %%' AND NOT EXISTS (
     SELECT FROM runtime.workers w
      WHERE split_part(a.application_name, ' ', 4) = left(replace(w.id::text, '-', ''), 12))
"""


async def cut_off_dead(conn: Conn) -> int:
    """End the tools' transactions of workers that were declared dead; return how many there were.

    Nothing of them could be kept, and one that only stands still, or has lost its network, holds what its tool locked.
    """
    row = await (await conn.execute(CUT_OFF_DEAD, {})).fetchone()
    return int(row[0]) if row else 0


def _name(token: str) -> str:
    return f"cirkelline tool {token}"


def _close_opened(opening: Future[PlainConn]) -> None:
    """Close what a thread opened after all for a call that was cancelled meanwhile."""
    if not opening.cancelled() and opening.exception() is None:
        opening.result().close()
