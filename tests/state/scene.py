"""What a test of the database room says in one word: an agent, a worker, a task, the end of a run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal
from uuid import UUID, uuid4

from cirkelline.state import agents, claims, workers
from cirkelline.state.agents import NewDefinition
from cirkelline.state.claims import Claim, Finish, Finished
from cirkelline.state.connection import Conn, connect

LIMIT = 65536


def definition(name: str, *, cap: int | None = None, **spec: Any) -> NewDefinition:
    return NewDefinition(
        name=name,
        type="assistant",
        capabilities=("testing",),
        spec={"name": name, **spec},
        hash=f"{name}{spec}",
        model={"provider": "scripted"},
        cap=cap,
        source=None,
    )


async def agent(conn: Conn, name: str = "tester", *, cap: int | None = None, **spec: Any) -> UUID:
    async with conn.transaction():
        await agents.lock_definitions(conn)
        return await agents.create(conn, definition(name, cap=cap, **spec))


async def worker(conn: Conn, *, lease: float = 3600.0) -> UUID:
    identity = uuid4()
    await workers.register(conn, identity, host="here", pid=1, release="0", slots=8, lease=lease)
    return identity


async def die(conn: Conn, identity: UUID) -> None:
    """Let a worker's lease have lapsed, by the clock that decides: the database's."""
    await conn.execute("UPDATE runtime.workers SET seen = now() - lease * 2 WHERE id = %s", [identity])


async def time_passes(conn: Conn) -> None:
    """Let the time have come that tasks wait for."""
    await conn.execute("UPDATE runtime.tasks SET run_at = now() WHERE run_at > now()")


async def submit(conn: Conn, agent_id: UUID, amount: int = 1) -> list[UUID]:
    """Put tasks in line with one statement; return their ids in order."""
    statement = """
    WITH added AS (
        INSERT INTO runtime.tasks (agent_id, task_type, payload)
        SELECT %s, 'task', '{"input": "go"}' FROM generate_series(1, %s) RETURNING id, sequence)
    SELECT id FROM added ORDER BY sequence
    """
    return await rows(conn, statement, agent_id, amount)


async def claim_one(conn: Conn, owner: UUID, agent_id: UUID) -> Claim:
    (claim,) = await claims.claim(conn, owner, [agent_id], slots=1)
    return claim


def ended(
    claim: Claim,
    status: Literal["completed", "failed", "cancelled", "waiting"] = "completed",
    *,
    operations: Sequence[Any] = (),
    messages: Sequence[tuple[str, str]] = (),
    result: Any = None,
    tokens: int = 0,
) -> str:
    run = Finish(
        claim.id,
        claim.attempt,
        status,
        {"output": "done"} if result is None else result,
        error=None if status == "completed" else status,
        tokens=tokens,
        operations=operations,
        messages=messages,
    )
    return run.as_json()


async def finish(conn: Conn, owner: UUID, *runs: str, limit: int = LIMIT) -> list[Finished]:
    return await claims.finish(conn, owner, runs, state_limit=limit)


async def rows(conn: Conn, statement: str, *parameters: Any) -> list[Any]:
    """The rows of a statement; of a single column, its values."""
    found = await (await conn.execute(statement, parameters)).fetchall()  # type: ignore[call-overload]
    return [row[0] if len(row) == 1 else row for row in found]


async def one(conn: Conn, statement: str, *parameters: Any) -> Any:
    (found,) = await rows(conn, statement, *parameters)
    return found


async def status(conn: Conn, task_id: UUID) -> str:
    return str(await one(conn, "SELECT status FROM runtime.tasks WHERE id = %s", task_id))


async def versions(conn: Conn, agent_id: UUID) -> list[int]:
    return await rows(conn, "SELECT version FROM runtime.agent_states WHERE agent_id = %s ORDER BY version", agent_id)


async def work(conn: Conn, agent_id: UUID) -> Any:
    """What the agent's newest snapshot keeps."""
    statement = (
        "SELECT state -> 'work' FROM runtime.agent_states WHERE agent_id = %s ORDER BY version DESC NULLS LAST LIMIT 1"
    )
    return await one(conn, statement, agent_id)


async def another(conn: Conn) -> Conn:
    """A second connection to the same database; close it with `async with`."""
    info = conn.info
    password = f":{info.password}" if info.password else ""
    place = f"/{info.dbname}?host={info.host}&port={info.port}"
    if not info.host.startswith("/"):
        place = f"{info.host}:{info.port}/{info.dbname}"
    return await connect(f"postgresql://{info.user}{password}@{place}")
