"""A person's data: all of it can be taken along, and all of it erased, in whichever table it is."""

from __future__ import annotations

import json
from contextlib import aclosing
from typing import Any
from uuid import UUID, uuid4

import pytest
import scene
from psycopg import sql

from cirkelline.state import leaving, sessions, users
from cirkelline.state.connection import Conn, Database
from cirkelline.state.leaving import StillReferred
from cirkelline.state.tenant import tenant

VECTOR = "[" + ",".join(["0.1"] * 768) + "]"

# How a person comes to have a row in each table; those that triggers fill are None. `mark` is found in every text.
SEEDS: dict[str, str | None] = {
    "public.admin_profiles": """
        WITH login AS (INSERT INTO public.users (email, hashed_password) VALUES (%(mark)s::text, '!') RETURNING id),
             tied AS (UPDATE runtime.users SET account = (SELECT id FROM login) WHERE id = %(id)s::uuid)
        INSERT INTO public.admin_profiles (user_id, name, context) SELECT id, %(mark)s::text, %(mark)s::text FROM login""",
    "runtime.users": None,  # made first
    "runtime.sessions": "INSERT INTO runtime.sessions (id, user_id) VALUES (%(session)s, %(id)s::uuid)",
    "runtime.tasks": """INSERT INTO runtime.tasks (id, agent_id, user_id, session_id, task_type, payload, status)
        VALUES (%(task)s, %(agent)s, %(id)s::uuid, %(session)s, 'chat', jsonb_build_object('input', %(mark)s::text), 'completed')""",
    "runtime.messages": """INSERT INTO runtime.messages (session_id, task_id, user_id, role, content)
        VALUES (%(session)s, %(task)s, %(id)s::uuid, 'user', %(mark)s::text)""",
    "runtime.session_heads": """INSERT INTO runtime.session_heads (session_id, user_id, work)
        VALUES (%(session)s, %(id)s::uuid, jsonb_build_object('basket', %(mark)s::text))""",
    "runtime.session_summaries": """INSERT INTO runtime.session_summaries (session_id, covers, user_id, task_id, summary)
        VALUES (%(session)s, 1, %(id)s::uuid, %(task)s, %(mark)s::text)""",
    "runtime.journal": """INSERT INTO runtime.journal (task_id, position, call, attempt, format, kind, name, output, cost)
        VALUES (%(task)s, 1, -1, 1, 1, 'model', 'm', jsonb_build_object('text', %(mark)s::text), 2)""",
    "runtime.failures": "INSERT INTO runtime.failures (task_id, attempt, message) VALUES (%(task)s, 1, %(mark)s::text)",
    "runtime.schedules": """INSERT INTO runtime.schedules (agent_id, name, cron, tz, user_name, input)
        VALUES (%(agent)s, %(mark)s::text, '0 9 * * *', 'UTC', %(mark)s::text, %(mark)s::text)""",
    "runtime.citations": """INSERT INTO runtime.citations (session_id, user_id, n, chunk, task_id, citation)
        VALUES (%(session)s, %(id)s::uuid, 1, 1, %(task)s, jsonb_build_object('document', %(mark)s::text))""",
    "runtime.usage_daily": """INSERT INTO runtime.usage_daily VALUES ('2020-01-01', %(agent)s, %(id)s::uuid, 'm', 1, 1, 1, 5, 0)""",
    "runtime.erased_users": None,  # a tombstone
    "ai.agno_sessions": """INSERT INTO ai.agno_sessions (session_id, user_id, name)
        VALUES (gen_random_uuid(), %(alias)s::text, %(mark)s::text)""",
    "ai.agno_memories": """INSERT INTO ai.agno_memories (memory_id, user_id, memory, input)
        VALUES (gen_random_uuid(), %(id)s::uuid::text, %(mark)s::text, %(mark)s::text)""",
    "ai.memory_index": None,
    "ai.memory_consents": "INSERT INTO ai.memory_consents (user_id, capture) VALUES (%(id)s, TRUE)",
    "ai.memory_upkeep": "INSERT INTO ai.memory_upkeep VALUES (%(id)s, 1, %(task)s, now())",
    "ai.agno_memories_archive": """INSERT INTO ai.agno_memories_archive (original_memory_id, user_id, memory)
        VALUES ('1', %(alias)s::text, jsonb_build_object('memory', %(mark)s::text))""",
    "ai.agno_knowledge": """INSERT INTO ai.agno_knowledge (name, metadata)
        VALUES (%(mark)s::text, jsonb_build_object('user_id', %(id)s::uuid::text, 'source', %(mark)s::text))""",
    "ai.cirkelline_knowledge_vectors": """INSERT INTO ai.cirkelline_knowledge_vectors (embedding, chunk_text, document_id, metadata)
        SELECT %(vector)s::vector, %(mark)s::text, id, '{}' FROM ai.agno_knowledge WHERE name = %(mark)s::text""",
    "ai.knowledge_documents": None,
    "ai.knowledge_chunks": None,
    "ai.knowledge_words": None,
    "ai.workflow_runs": """INSERT INTO ai.workflow_runs (run_id, workflow_name, user_id, status, input_data)
        VALUES (%(mark)s::text, 'w', %(id)s::uuid::text, 'COMPLETED', jsonb_build_object('x', %(mark)s::text))""",
}
ORDER = ["runtime.sessions", "runtime.tasks", *SEEDS]  # what others name comes first


async def person(conn: Conn, name: str, agent: UUID) -> tuple[UUID, str]:
    """Give a person a row in every table; return the id, and the mark that stands in every text."""
    mark = f"canary-{name}"
    user = await users.ensure(conn, mark)
    await conn.execute("INSERT INTO runtime.user_aliases (alias, user_id) VALUES (%s, %s)", [f"alias-{mark}", user.id])
    given: dict[str, Any] = {
        "id": user.id, "mark": mark, "alias": f"alias-{mark}", "session": uuid4(), "task": uuid4(), "agent": agent,
        "vector": VECTOR,
    }  # fmt: skip
    for table in dict.fromkeys(ORDER):
        statement = SEEDS[table]
        if statement is not None:
            await conn.execute(statement, given)  # type: ignore[call-overload]
    return user.id, mark


async def everything(conn: Conn) -> dict[str, list[str]]:
    """Every row of every table there is, as text."""
    names = await scene.rows(
        conn,
        """SELECT n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
            WHERE c.relkind = 'r' AND n.nspname IN ('public', 'ai', 'runtime')""",
    )
    found: dict[str, list[str]] = {}
    for schema, table in names:
        statement = sql.SQL("SELECT t::text FROM {} t ORDER BY 1").format(sql.Identifier(schema, table))
        found[f"{schema}.{table}"] = [row for (row,) in await (await conn.execute(statement)).fetchall()]
    return found


def naming(rows: dict[str, list[str]], *words: str) -> dict[str, list[str]]:
    named = {table: [row for row in found if any(word in row for word in words)] for table, found in rows.items()}
    return {table: found for table, found in named.items() if found}


async def erase(conn: Conn, user: UUID) -> dict[str, int]:
    await leaving.begin(conn, user)
    await leaving.stop_tasks(conn, user)
    return await leaving.erase(conn, user)


async def test_every_table_that_protects_a_person_is_tried_here(conn: Conn) -> None:
    assert set(await scene.rows(conn, "SELECT relation FROM runtime.tenant_rules")) == set(SEEDS)


async def test_nothing_names_who_was_erased_and_everybody_else_has_all_they_had(conn: Conn) -> None:
    agent = await scene.agent(conn)
    eva, evas = await person(conn, "eva", agent)
    before = naming(await everything(conn), str(eva), evas)
    ivo, ivos = await person(conn, "ivo", agent)
    assert set(naming(await everything(conn), str(ivo), ivos)) >= set(SEEDS) - {
        "runtime.erased_users",
        "ai.knowledge_words",
    }
    report = await erase(conn, ivo)
    left = await everything(conn)
    assert set(naming(left, str(ivo), ivos)) == {"runtime.erased_users"}
    assert naming(left, str(eva), evas) == before
    assert set(report) == set(SEEDS) | {"public.users"}
    assert min(report[table] for table, seed in SEEDS.items() if seed) >= 1
    done = await leaving.erasure(conn, ivo)
    assert done is not None
    assert done.ended is not None
    assert done.rows == report


async def test_what_was_spent_is_still_in_the_accounts_without_a_name(conn: Conn) -> None:
    agent = await scene.agent(conn)
    ivo, _ = await person(conn, "ivo", agent)
    await erase(conn, ivo)
    kept = "SELECT user_id, sum(cost), sum(calls) FROM runtime.usage_daily GROUP BY user_id"
    assert await scene.rows(conn, kept) == [(None, 7, 2)]


async def test_erasing_again_takes_what_other_programs_wrote_since(conn: Conn) -> None:
    agent = await scene.agent(conn)
    ivo, ivos = await person(conn, "ivo", agent)
    await erase(conn, ivo)
    await conn.execute(
        "INSERT INTO ai.agno_memories (memory_id, user_id, memory) VALUES (gen_random_uuid(), %s, 'late'),"
        " (gen_random_uuid(), %s, 'late'), (gen_random_uuid(), 'somebody else', 'stays')",
        [f"alias-{ivos}", str(ivo)],
    )
    assert (await erase(conn, ivo))["ai.agno_memories"] == 2
    assert await scene.rows(conn, "SELECT memory FROM ai.agno_memories") == ["stays"]


async def test_a_run_under_way_can_write_nothing_after_its_user_was_erased(db: Database, conn: Conn) -> None:
    agent = await scene.agent(conn)
    ivo = (await users.ensure(conn, "ivo")).id
    async with tenant(db, ivo) as door:
        session = await sessions.create(door, agent)
        await sessions.submit_turn(door, session, {"input": "hi"})
    owner = await scene.worker(conn)
    claim = await scene.claim_one(conn, owner, agent)
    stopped = await leaving.stop_tasks(conn, ivo)
    assert (stopped.ended, stopped.asked, await leaving.running(conn, ivo)) == (0, 1, 1)
    await leaving.begin(conn, ivo)
    await leaving.erase(conn, ivo)
    assert await leaving.running(conn, ivo) == 0
    step = json.dumps(
        [{"position": 1, "call": -1, "format": 1, "kind": "model", "name": "m", "output": {"text": "hi"}}]
    )
    write = "SELECT runtime.write_journal(%s, %s, %s, %s)"
    assert await scene.one(conn, write, owner, claim.id, claim.attempt, step) == "lost"
    assert await scene.finish(conn, owner, scene.ended(claim, messages=[("user", "hi")])) == []
    assert set(naming(await everything(conn), str(ivo))) == {"runtime.erased_users"}


async def test_who_is_named_by_another_programs_table_is_not_erased_in_part(conn: Conn) -> None:
    agent = await scene.agent(conn)
    ivo, ivos = await person(conn, "ivo", agent)
    await conn.execute("CREATE TABLE public.orders (buyer INTEGER REFERENCES public.users (id))")
    try:
        await conn.execute("INSERT INTO public.orders SELECT id FROM public.users")
        before = naming(await everything(conn), str(ivo), ivos)
        await leaving.begin(conn, ivo)
        with pytest.raises(StillReferred, match=r"public\.orders"):
            await leaving.erase(conn, ivo)
        after = naming(await everything(conn), str(ivo), ivos)
        assert {table: rows for table, rows in after.items() if table != "runtime.erased_users"} == before
    finally:
        await conn.execute("DROP TABLE public.orders")


async def taken_along(db: Database, conn: Conn, user: UUID) -> dict[str, list[Any]]:
    taken: dict[str, list[Any]] = {}
    tables = await leaving.tables(conn)
    async with tenant(db, user) as door:
        for table in tables:
            async with aclosing(leaving.rows_of(door, table)) as rows:
                taken[table] = [json.loads(row) async for row in rows]
    return taken


async def test_what_is_taken_along_is_ones_own_from_every_table(db: Database, conn: Conn) -> None:
    agent = await scene.agent(conn)
    ivo, ivos = await person(conn, "ivo", agent)
    eva, evas = await person(conn, "eva", agent)
    await conn.execute(
        """INSERT INTO ai.agno_knowledge (name, metadata) VALUES ('everybody''s', '{"user_id": "cirkelline:shared"}')"""
    )
    taken = await taken_along(db, conn, ivo)
    derived = {"ai.knowledge_documents", "ai.knowledge_chunks", "ai.knowledge_words", "ai.memory_index"}
    assert set(taken) == set(SEEDS) - derived - {"runtime.erased_users"}
    assert all(taken.values())
    written = json.dumps(taken)
    assert evas not in written
    assert str(eva) not in written
    assert "everybody" not in written
    assert written.count(ivos) > 10
    assert "auth_token" not in written
    assert await taken_along(db, conn, uuid4()) == {table: [] for table in taken}
