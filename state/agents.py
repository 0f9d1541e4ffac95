"""Agents and the versions of their definitions; `runtime.agents` is the truth that the scheduler loads."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from difflib import get_close_matches
from typing import Any, Final
from uuid import UUID

from psycopg.rows import class_row

from cirkelline.configs.errors import UsageError
from cirkelline.state import jsonb, tasks
from cirkelline.state.connection import Conn

WORKFLOW: Final = "workflow:"
"""How the handle of a row begins that stands for a workflow (`state.workflows`); no agent's can, as `:` is not allowed."""


class AgentNotFound(UsageError):
    """No agent goes by that name or id."""


class DefinitionNotFound(UsageError):
    """An agent has no such version of its definition."""


@dataclass(frozen=True, slots=True)
class Agent:
    """A row of `runtime.agents`; `handle` is its YAML name, `problem` why it cannot run, `busy` its running tasks.

    `fingerprint` tells whether what it says of itself has changed since it was read.
    """

    id: UUID
    handle: str | None
    name: str
    type: str
    status: str | None
    config: Any
    capabilities: list[str] | None
    definition_version: int | None
    problem: str | None
    adopted: bool | None
    created_at: datetime | None
    updated_at: datetime | None
    busy: int
    fingerprint: int

    @property
    def label(self) -> str:
        """The name to address it by: its handle, or its id where it has none."""
        return self.handle or str(self.id)

    @property
    def workflow(self) -> str | None:
        """The name of the workflow that this row stands for; None for an agent."""
        is_one = self.handle is not None and self.handle.startswith(WORKFLOW)
        return self.handle.removeprefix(WORKFLOW) if self.handle and is_one else None


@dataclass(frozen=True, slots=True)
class Definition:
    """One version of an agent's definition; `model` is the resolved one."""

    agent_id: UUID
    version: int
    hash: str
    spec: dict[str, Any]
    model: dict[str, Any]
    source: str | None
    created: datetime


@dataclass(frozen=True, slots=True)
class NewDefinition:
    """A definition to store: `spec` and `model` as JSON, `cap` the agent's concurrency limit over all workers."""

    name: str
    type: str
    capabilities: Sequence[str]
    spec: dict[str, Any]
    hash: str
    model: dict[str, Any]
    cap: int | None
    source: str | None


AGENTS: Final = """
SELECT a.id, a.handle, a.name, a.type, a.status, a.config, a.capabilities, a.definition_version, a.problem, a.adopted,
       a.created_at, a.updated_at,
       (SELECT count(*) FROM runtime.claims c WHERE c.agent_id = a.id)::integer AS busy,
       hashtextextended(row(a.name, a.type, a.config, a.capabilities)::text, 0) AS fingerprint
  FROM runtime.agents a
"""

# Workflows have rows of their own here, which are nobody's to talk to, to apply or to check.
FIND: Final = (
    AGENTS + " WHERE starts_with(a.handle, 'workflow:') IS NOT TRUE ORDER BY a.handle NULLS LAST, a.name, a.id"
)


async def find(conn: Conn) -> list[Agent]:
    """Return every agent, those with a handle first; workflows are none."""
    async with conn.cursor(row_factory=class_row(Agent)) as cursor:
        await cursor.execute(FIND)
        return await cursor.fetchall()


NONE_YET: Final = """
SELECT NOT EXISTS (SELECT FROM runtime.agents) AND NOT EXISTS (SELECT FROM runtime.tasks)
"""


async def none_yet(conn: Conn) -> bool:
    """Whether the database is as a migration leaves it: no agent, and no task."""
    row = await (await conn.execute(NONE_YET)).fetchone()
    return bool(row and row[0])


BY_REFERENCE: Final = (
    AGENTS
    + " WHERE a.handle = %(reference)s::text OR a.id::text = %(reference)s OR a.name = %(reference)s"
    + " ORDER BY a.handle IS NOT DISTINCT FROM %(reference)s DESC, a.id LIMIT 2"
)
HANDLES: Final = "SELECT handle FROM runtime.agents WHERE NOT starts_with(handle, 'workflow:')"


async def get(conn: Conn, reference: str) -> Agent:
    """Return the agent with this handle, id, or unique name. Raises: AgentNotFound, with a suggestion."""
    async with conn.cursor(row_factory=class_row(Agent)) as cursor:
        await cursor.execute(BY_REFERENCE, {"reference": jsonb.clean_text(reference)})
        found = await cursor.fetchall()
    if len(found) == 1 or (found and found[0].handle == reference):
        return found[0]
    if found:
        raise AgentNotFound(f"more than one agent is named {reference!r}: give its id (`cirkelline agents list`)")
    handles = [str(handle) for (handle,) in await (await conn.execute(HANDLES)).fetchall()]
    close = get_close_matches(reference, handles, n=1)
    meant = f"; did you mean {close[0]!r}?" if close else ""
    raise AgentNotFound(f"no agent named {reference!r}{meant} (`cirkelline agents list`)")


async def answering(conn: Conn, reference: str) -> Agent:
    """Return an agent that can be talked to or given a task. Raises: AgentNotFound, for a workflow too."""
    found = await get(conn, reference)
    if found.workflow is not None:
        raise AgentNotFound(
            f"{reference!r} is a workflow, not an agent (`cirkelline workflows run {found.workflow}` runs it)"
        )
    return found


SEARCH: Final = (
    AGENTS
    + " WHERE runtime.agent_words(a.name) @@ to_tsquery('simple', %(query)s::text)"
    + " AND starts_with(a.handle, 'workflow:') IS NOT TRUE ORDER BY a.name LIMIT %(limit)s::integer"
)


async def search(conn: Conn, words: str, *, limit: int = 50) -> list[Agent]:
    """Return the agents whose name holds every word (each word may be a beginning)."""
    query = tasks.prefix_query(words)
    if not query:
        return []
    async with conn.cursor(row_factory=class_row(Agent)) as cursor:
        await cursor.execute(SEARCH, {"query": query, "limit": limit})
        return await cursor.fetchall()


UNCHECKED: Final = (
    AGENTS
    + " WHERE a.definition_version IS NULL AND a.problem IS NULL AND starts_with(a.handle, 'workflow:') IS NOT TRUE ORDER BY a.id"
)


async def unchecked(conn: Conn) -> list[Agent]:
    """Return the agents that came or changed by somebody's plain SQL and have not been checked since."""
    async with conn.cursor(row_factory=class_row(Agent)) as cursor:
        await cursor.execute(UNCHECKED)
        return await cursor.fetchall()


UNACCEPTED: Final = (
    AGENTS + " WHERE a.definition_version IS NULL AND starts_with(a.handle, 'workflow:') IS NOT TRUE ORDER BY a.id"
)


async def unaccepted(conn: Conn) -> list[Agent]:
    """Return the unchecked agents and those with a problem, which another worker may not have."""
    async with conn.cursor(row_factory=class_row(Agent)) as cursor:
        await cursor.execute(UNACCEPTED)
        return await cursor.fetchall()


SET_PROBLEM: Final = """
UPDATE runtime.agents a SET problem = %(problem)s::text
 WHERE a.id = %(id)s::uuid AND a.definition_version IS NULL
   AND hashtextextended(row(a.name, a.type, a.config, a.capabilities)::text, 0) = %(fingerprint)s::bigint
"""


async def set_problem(conn: Conn, agent: Agent, problem: str) -> None:
    """Write why an agent cannot run, unless it has changed again since `agent` was read."""
    parameters = {"id": agent.id, "problem": jsonb.clean_text(problem), "fingerprint": agent.fingerprint}
    await conn.execute(SET_PROBLEM, parameters)


# One apply at a time over all workers: definitions change rarely, and two daemons may start with the same new file.
APPLY_LOCK: Final = "SELECT pg_advisory_xact_lock(hashtextextended('cirkelline.apply', 0))"

DEFINITIONS: Final = """
SELECT d.agent_id, d.version, d.hash, d.spec, d.model, d.source, d.created FROM runtime.definitions d
"""
HISTORY: Final = DEFINITIONS + " WHERE d.agent_id = %(agent_id)s::uuid ORDER BY d.version DESC"


async def history(conn: Conn, agent_id: UUID) -> list[Definition]:
    """Return every version of an agent's definition, newest first."""
    async with conn.cursor(row_factory=class_row(Definition)) as cursor:
        await cursor.execute(HISTORY, {"agent_id": agent_id})
        return await cursor.fetchall()


DEFINITION: Final = DEFINITIONS + " WHERE d.agent_id = %(agent_id)s::uuid AND d.version = %(version)s::integer"


async def definition(conn: Conn, agent_id: UUID, version: int) -> Definition:
    """Return one version of an agent's definition. Raises: DefinitionNotFound."""
    async with conn.cursor(row_factory=class_row(Definition)) as cursor:
        await cursor.execute(DEFINITION, {"agent_id": agent_id, "version": version})
        found = await cursor.fetchone()
    if found is None:
        raise DefinitionNotFound(f"there is no definition version {version} (`cirkelline agents history AGENT`)")
    return found


CURRENT: Final = (
    DEFINITIONS
    + " JOIN runtime.agents a ON a.id = d.agent_id AND a.definition_version = d.version"
    + " WHERE coalesce(a.status, 'idle') NOT IN ('paused', 'retired') AND starts_with(a.handle, 'workflow:') IS NOT TRUE"
)


async def current_definitions(conn: Conn) -> list[Definition]:
    """Return the current definition of every agent that may run."""
    async with conn.cursor(row_factory=class_row(Definition)) as cursor:
        await cursor.execute(CURRENT)
        return await cursor.fetchall()


RUNNABLE: Final = """
SELECT id, definition_version FROM runtime.agents
 WHERE definition_version IS NOT NULL AND coalesce(status, 'idle') NOT IN ('paused', 'retired')
"""


async def runnable(conn: Conn) -> dict[UUID, int]:
    """Return the current definition version of every agent that may run: cheap enough to ask at every poll."""
    rows = await (await conn.execute(RUNNABLE)).fetchall()
    return {UUID(str(agent_id)): int(version) for agent_id, version in rows}


DEFINITIONS_AT: Final = (
    DEFINITIONS
    + " JOIN unnest(%(agents)s::uuid[], %(versions)s::integer[]) AS wanted (agent_id, version)"
    + " ON wanted.agent_id = d.agent_id AND wanted.version = d.version"
)


async def definitions_at(conn: Conn, wanted: Collection[tuple[UUID, int]]) -> list[Definition]:
    """Return these versions of these agents' definitions, as far as they exist."""
    ids, versions = [agent_id for agent_id, _ in wanted], [version for _, version in wanted]
    async with conn.cursor(row_factory=class_row(Definition)) as cursor:
        await cursor.execute(DEFINITIONS_AT, {"agents": ids, "versions": versions})
        return await cursor.fetchall()


@dataclass(frozen=True, slots=True)
class Named:
    """An agent with a handle, as a plan of definitions sees it; `source` is its current definition's file, if any."""

    id: UUID
    handle: str
    status: str | None
    definition_version: int | None
    source: str | None


NAMED: Final = """
SELECT a.id, a.handle, a.status, a.definition_version, d.source
  FROM runtime.agents a
  LEFT JOIN runtime.definitions d ON d.agent_id = a.id AND d.version = a.definition_version
 WHERE NOT starts_with(a.handle, 'workflow:') ORDER BY a.handle
"""


async def named(conn: Conn) -> list[Named]:
    """Return every agent that has a handle, by handle."""
    async with conn.cursor(row_factory=class_row(Named)) as cursor:
        await cursor.execute(NAMED)
        return await cursor.fetchall()


@dataclass(frozen=True, slots=True)
class Hashed:
    """A version of an agent's definition by its hash alone, and the model it was resolved to."""

    agent_id: UUID
    version: int
    hash: str
    model: dict[str, Any]


HASHED: Final = """
SELECT agent_id, version, hash, model FROM runtime.definitions
 WHERE agent_id = ANY (%(agents)s::uuid[]) AND hash = ANY (%(hashes)s::text[]) ORDER BY agent_id, version
"""


async def hashed(conn: Conn, agent_ids: Sequence[UUID], hashes: Sequence[str]) -> list[Hashed]:
    """Return the stored versions of these agents that have one of these hashes, oldest first."""
    async with conn.cursor(row_factory=class_row(Hashed)) as cursor:
        await cursor.execute(HASHED, {"agents": list(agent_ids), "hashes": list(hashes)})
        return await cursor.fetchall()


BY_HANDLE: Final = AGENTS + " WHERE a.handle = %(handle)s::text"


async def by_handle(conn: Conn, handle: str) -> Agent | None:
    """Return the agent with this handle, or None."""
    async with conn.cursor(row_factory=class_row(Agent)) as cursor:
        await cursor.execute(BY_HANDLE, {"handle": handle})
        return await cursor.fetchone()


async def lock_definitions(conn: Conn) -> None:
    """Hold every other apply off until this transaction ends."""
    await conn.execute(APPLY_LOCK)


CREATE: Final = """
INSERT INTO runtime.agents (id, handle, name, type, config, capabilities, definition_version)
VALUES (gen_random_uuid(), %(name)s::text, %(name)s::text, %(type)s::text, %(spec)s::jsonb, %(capabilities)s::text[], 1)
RETURNING id
"""
UPDATE: Final = """
UPDATE runtime.agents
   SET name = CASE WHEN handle IS NULL THEN name ELSE %(name)s::text END, type = %(type)s::text,
       config = %(spec)s::jsonb, capabilities = %(capabilities)s::text[],
       definition_version = %(version)s::integer, problem = NULL, updated_at = now() AT TIME ZONE 'UTC'
 WHERE id = %(agent_id)s::uuid
"""
ADD_VERSION: Final = """
INSERT INTO runtime.definitions (agent_id, version, hash, spec, model, source)
SELECT %(agent_id)s::uuid, coalesce(max(version), 0) + 1, %(hash)s::text, %(spec)s::jsonb, %(model)s::jsonb,
       %(source)s::text
  FROM runtime.definitions WHERE agent_id = %(agent_id)s::uuid
RETURNING version
"""
SET_HEAD: Final = """
INSERT INTO runtime.agent_heads (agent_id, version, cap)
SELECT %(agent_id)s::uuid, coalesce(max(version), 0), %(cap)s::integer
  FROM runtime.agent_states WHERE agent_id = %(agent_id)s::uuid
ON CONFLICT (agent_id) DO UPDATE SET cap = excluded.cap
"""


async def _add_version(conn: Conn, agent_id: UUID, new: NewDefinition) -> int:
    cursor = await conn.execute(
        ADD_VERSION,
        {
            "agent_id": agent_id,
            "hash": new.hash,
            "spec": jsonb.dumps(new.spec),
            "model": jsonb.dumps(new.model),
            "source": new.source,
        },
    )
    row = await cursor.fetchone()
    await conn.execute(SET_HEAD, {"agent_id": agent_id, "cap": new.cap})
    return int(row[0]) if row else 0


def _columns(new: NewDefinition) -> dict[str, Any]:
    return {
        "name": new.name,
        "type": new.type,
        "spec": jsonb.dumps(new.spec),
        "capabilities": list(new.capabilities),
    }


async def create(conn: Conn, new: NewDefinition) -> UUID:
    """Add an agent with its first definition; call inside a transaction that holds `lock_definitions`."""
    row = await (await conn.execute(CREATE, _columns(new))).fetchone()
    agent_id = UUID(str(row[0])) if row else UUID(int=0)
    await _add_version(conn, agent_id, new)
    return agent_id


async def update(conn: Conn, agent_id: UUID, new: NewDefinition) -> int:
    """Give an agent a new definition version, and return it; inside a transaction that holds `lock_definitions`."""
    version = await _add_version(conn, agent_id, new)
    await conn.execute(UPDATE, {**_columns(new), "agent_id": agent_id, "version": version})
    return version


ACCEPT: Final = """
UPDATE runtime.agents a
   SET problem = NULL, definition_version = (
           SELECT coalesce(max(d.version), 0) + 1 FROM runtime.definitions d WHERE d.agent_id = a.id),
       handle = coalesce(a.handle, CASE WHEN NOT EXISTS (
           SELECT FROM runtime.agents other WHERE other.handle = %(handle)s::text) THEN %(handle)s::text END)
 WHERE a.id = %(agent_id)s::uuid AND a.definition_version IS NULL
   AND hashtextextended(row(a.name, a.type, a.config, a.capabilities)::text, 0) = %(fingerprint)s::bigint
RETURNING a.id
"""


async def accept(conn: Conn, agent: Agent, new: NewDefinition, *, handle: str | None) -> bool:
    """Let an agent that plain SQL put or changed run: store its definition, write our columns only.

    Inside a transaction that holds `lock_definitions`. `handle` is taken when it is free. Returns False, having
    written nothing, when the row has changed since `agent` was read.
    """
    parameters = {"agent_id": agent.id, "handle": handle, "fingerprint": agent.fingerprint}
    found = await conn.execute(ACCEPT, parameters)
    if await found.fetchone() is None:
        return False
    await _add_version(conn, agent.id, new)
    return True


async def roll_back(conn: Conn, agent_id: UUID, version: int, *, cap: int | None) -> None:
    """Make an older definition version the current one again; inside a transaction that holds `lock_definitions`.

    Raises: DefinitionNotFound.
    """
    old = await definition(conn, agent_id, version)
    await conn.execute(
        UPDATE,
        {
            "agent_id": agent_id,
            "version": version,
            "name": old.spec.get("name"),
            "type": old.spec.get("type", "assistant"),
            "spec": jsonb.dumps(old.spec),
            "capabilities": list(old.spec.get("capabilities", ())),
        },
    )
    await conn.execute(SET_HEAD, {"agent_id": agent_id, "cap": cap})


SET_STATUS: Final = """
UPDATE runtime.agents SET status = %(status)s::text, updated_at = now() AT TIME ZONE 'UTC' WHERE id = %(id)s::uuid
"""


async def set_status(conn: Conn, agent_id: UUID, status: str) -> None:
    """Write an agent's status: 'idle', 'paused' (claims stop) or 'retired' (claims stop, kept for its history)."""
    await conn.execute(SET_STATUS, {"id": agent_id, "status": status})
