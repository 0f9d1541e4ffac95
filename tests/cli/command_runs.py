"""Running commands in this process as the executable does, and filling a database for them to look at."""

from __future__ import annotations

import asyncio
import io
import json
import sys
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeVar
from uuid import UUID, uuid4

import pytest

from cirkelline.configs import schema
from cirkelline.configs.loading import parse_config
from cirkelline.runtime.cli import entry
from cirkelline.state import agents, claims, connection, sessions, tasks, tenant, users, workers
from cirkelline.state.agents import NewDefinition
from cirkelline.state.claims import Finish
from cirkelline.state.connection import Conn, Database

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class Result:
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """The one JSON document on stdout; fails for anything else."""
        return json.loads(self.out)


@dataclass(frozen=True, slots=True)
class Commands:
    """Runs a command line in this process."""

    capture: pytest.CaptureFixture[str]
    monkeypatch: pytest.MonkeyPatch

    def __call__(self, *arguments: str, stdin: bytes = b"") -> Result:
        self.monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin), encoding="utf-8"))
        self.capture.readouterr()
        code = entry.run(arguments)
        captured = self.capture.readouterr()
        return Result(code, captured.out, captured.err)


class Filled:
    """A database as a test fills it, each step through the runtime's own functions."""

    def __init__(self, url: str) -> None:
        self.url = url

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[Conn]:
        async with await connection.connect(self.url) as conn:
            yield conn

    def do(self, work: Coroutine[Any, Any, Value]) -> Value:
        return asyncio.run(work)

    def agent(self, name: str = "helper", **config: Any) -> UUID:
        """Add an agent, or a new version of one, with a scripted model."""
        return self.do(self._agent(name, config))

    async def _agent(self, name: str, config: dict[str, Any]) -> UUID:
        whole = {"instructions": "Help.", "model": "scripted:/nowhere.yaml", **config}
        spec = parse_config(whole, name=name, type=str(whole.pop("type", "assistant")))
        new = NewDefinition(
            name=spec.name,
            type=spec.type,
            capabilities=spec.capabilities,
            spec=schema.canonical(spec),
            hash=schema.content_hash(spec),
            model=spec.model.model_dump(exclude_defaults=True),
            cap=spec.limits.concurrency,
            source=None,
        )
        async with self._connection() as conn, conn.transaction():
            await agents.lock_definitions(conn)
            found = await agents.by_handle(conn, name)
            if found is None:
                return await agents.create(conn, new)
            await agents.update(conn, found.id, new)
            return found.id

    def task(self, agent: UUID, input: Any = "hello", **columns: Any) -> UUID:
        async def submit() -> UUID:
            async with self._connection() as conn:
                return await tasks.submit(conn, agent_id=agent, payload={"input": input}, **columns)

        return self.do(submit())

    def worker(self, *, lease: float = 3600, slots: int = 4) -> UUID:
        """Register a worker that stays alive for as long as its lease."""
        worker = uuid4()

        async def register() -> None:
            async with self._connection() as conn:
                await workers.register(conn, worker, host="here", pid=1, release="0", slots=slots, lease=lease)

        self.do(register())
        return worker

    def claim(self, agent: UUID, worker: UUID, slots: int = 1) -> list[claims.Claim]:
        async def claim() -> list[claims.Claim]:
            async with self._connection() as conn:
                return await claims.claim(conn, worker, [agent], slots=slots)

        return self.do(claim())

    def end(self, agent: UUID, **finish: Any) -> UUID:
        """Let a worker of its own run the agent's next task to this end; return the task."""
        worker = self.worker()
        (claimed,) = self.claim(agent, worker)
        whole: dict[str, Any] = {"status": "completed", "result": {"output": "done"}, **finish}

        async def end() -> None:
            async with self._connection() as conn:
                ended = Finish(task_id=claimed.id, attempt=claimed.attempt, **whole)
                await claims.finish(conn, worker, [ended.as_json()], state_limit=65_536)
                await workers.deregister(conn, worker)

        self.do(end())
        return claimed.id

    def session(self, agent: UUID, user: str, *words: str) -> UUID:
        """Open a session of a user and let each of these words be answered."""

        async def begin() -> UUID:
            async with Database.open(self.url, connections=2) as db:
                async with db.connection() as conn:
                    person = await users.ensure(conn, user)
                async with tenant.tenant(db, person.id) as rows:
                    return await sessions.create(rows, agent)

        session = self.do(begin())
        for said in words:
            self.turn(session, user, said)
            messages = [("user", said), ("assistant", f"you said {said}")]
            self.end(agent, messages=messages)
        return session

    def turn(self, session: UUID, user: str, said: str) -> UUID:
        async def submit() -> UUID:
            async with Database.open(self.url, connections=2) as db:
                async with db.connection() as conn:
                    person = await users.ensure(conn, user)
                async with tenant.tenant(db, person.id) as rows:
                    return await sessions.submit_turn(rows, session, {"input": said})

        return self.do(submit())

    def sql(self, statement: str, *parameters: Any) -> list[tuple[Any, ...]]:
        """Run somebody's plain SQL."""

        async def run(conn: Conn) -> list[tuple[Any, ...]]:
            cursor = await conn.execute(statement, parameters)
            return await cursor.fetchall() if cursor.description else []

        async def opened() -> list[tuple[Any, ...]]:
            async with self._connection() as conn:
                return await run(conn)

        return self.do(opened())
