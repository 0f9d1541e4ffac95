"""A database that somebody else filled is taken in with no row lost, changed or acted upon."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from foreign import FOREIGN, Connection, Foreign
from psycopg import conninfo, sql

from cirkelline.state import adoption, documents, migrations
from cirkelline.state.connection import connect

CIRKELLINE = str(Path(sys.executable).with_name("cirkelline"))


@pytest.fixture(params=FOREIGN, ids=lambda foreign: foreign.name)
def foreign(request: pytest.FixtureRequest, empty_database_url: str) -> Foreign:
    """A database of somebody else, of each kind."""
    found: Foreign = request.param
    found.make(empty_database_url)
    return found


@pytest.fixture
def elsewhere(foreign: Foreign, empty_database_url: str) -> Iterator[str]:
    """The URL of another program: a role of its own with rights on its tables, in a time zone of its own."""
    role, password = f"other_{uuid4().hex[:12]}", uuid4().hex
    with psycopg.connect(empty_database_url, autocommit=True) as conn:
        conn.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(sql.Identifier(role), sql.Literal(password)))
        for schema in foreign.schemas():
            named = {"schema": sql.Identifier(schema), "role": sql.Identifier(role)}
            conn.execute(sql.SQL("GRANT USAGE ON SCHEMA {schema} TO {role}").format(**named))
            conn.execute(sql.SQL("GRANT ALL ON ALL TABLES IN SCHEMA {schema} TO {role}").format(**named))
            conn.execute(sql.SQL("GRANT ALL ON ALL SEQUENCES IN SCHEMA {schema} TO {role}").format(**named))
        path = ", ".join(foreign.schemas())
        yield conninfo.make_conninfo(
            empty_database_url,
            user=role,
            password=password,
            options=f"-c search_path={path.replace(' ', '')} -c timezone=Asia/Tokyo",
        )
        conn.execute(sql.SQL("DROP OWNED BY {}").format(sql.Identifier(role)))
        conn.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(role)))


def cirkelline(url: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [CIRKELLINE, *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env={**os.environ, "DATABASE_URL": url},
    )


async def test_migrating_checking_and_draining_change_no_row(foreign: Foreign, empty_database_url: str) -> None:
    before = foreign.rows(empty_database_url)
    assert all(before.values())
    await migrations.migrate(empty_database_url)
    assert foreign.rows(empty_database_url) == before
    with psycopg.connect(empty_database_url) as conn:
        assert conn.execute("SELECT count(*) FROM runtime.queue").fetchone() == (0,)
        assert conn.execute("SELECT count(*) FROM runtime.definitions").fetchone() == (0,)
    doctor = cirkelline(empty_database_url, "doctor")
    drained = cirkelline(empty_database_url, "up", "--drain")
    assert drained.returncode == 0, drained.stderr
    assert "Traceback" not in doctor.stderr + drained.stderr
    after = foreign.rows(empty_database_url)
    for table, rows in before.items():
        # Why an agent cannot run is written into a column of ours, which makes another version of its row.
        ours = table == "runtime.agents"
        assert [row[2 if ours else 0 :] for row in after[table]] == [row[2 if ours else 0 :] for row in rows], table
    with psycopg.connect(empty_database_url) as conn:
        assert conn.execute("SELECT count(*) FROM runtime.queue").fetchone() == (0,)
        assert conn.execute("SELECT count(*) FROM runtime.claims").fetchone() == (0,)
    if foreign.second == "public":
        assert "db adopt --from public" in doctor.stdout


async def test_another_program_reads_and_writes_as_before(
    foreign: Foreign, elsewhere: str, empty_database_url: str
) -> None:
    await migrations.migrate(empty_database_url)
    with psycopg.connect(elsewhere, autocommit=True) as conn:
        for table in foreign.tables:
            name = sql.Identifier(table.split(".")[1])
            assert conn.execute(sql.SQL("SELECT * FROM {}").format(name)).fetchall(), table
        if foreign.first:
            write_first(conn)
        if foreign.second:
            write_second(conn)
            conn.execute("TRUNCATE tasks, agent_states, sessions")
            conn.execute("DELETE FROM agents")
            conn.execute("TRUNCATE users CASCADE" if not foreign.first else "SELECT 1")


def write_first(conn: Connection) -> None:
    conn.execute("INSERT INTO agno_memories VALUES (DEFAULT, gen_random_uuid(), 'user-9', 'likes tea')")
    conn.execute("UPDATE agno_sessions SET name = 'renamed', is_archived = TRUE")
    conn.execute("DELETE FROM cirkelline_knowledge_vectors")
    conn.execute("TRUNCATE agno_knowledge CASCADE")


def write_second(conn: Connection) -> None:
    agent, task = uuid4(), uuid4()
    conn.execute("INSERT INTO agents VALUES (%s, 'theirs', 'kind', 'busy')", [agent])
    conn.execute("INSERT INTO tasks VALUES (%s, %s, 'x', 'theirs', '{}', NULL, now(), NULL)", [task, agent])
    conn.execute("UPDATE tasks SET status = 'done', result = '{}', completed_at = now() WHERE id = %s", [task])
    conn.execute("INSERT INTO agent_states VALUES (gen_random_uuid(), %s, '{}', now(), 1)", [agent])
    conn.execute("INSERT INTO sessions (id, agent_id) VALUES (gen_random_uuid(), %s)", [agent])
    assert conn.execute("SELECT status FROM tasks WHERE id = %s", [task]).fetchone() == ("done",)


IN_RUNTIME = [foreign for foreign in FOREIGN if foreign.second == "runtime"]


@pytest.mark.parametrize("foreign", IN_RUNTIME, indirect=True, ids=lambda foreign: foreign.name)
async def test_released_tasks_stand_in_line_oldest_first(foreign: Foreign, empty_database_url: str) -> None:
    del foreign
    await migrations.migrate(empty_database_url)
    conn = await connect(empty_database_url)
    async with conn:
        assert (await adoption.report(conn)).held.pending == 2
        assert await adoption.release(conn) == 2
        rows = await conn.execute(
            "SELECT t.payload ->> 'input' FROM runtime.queue q JOIN runtime.tasks t ON t.id = q.task_id ORDER BY q.sequence"
        )
        assert await rows.fetchall() == [("first",), ("second",)]
        assert await adoption.release(conn) == 0


async def test_a_task_that_is_new_is_queued_by_a_role_without_any_right_of_ours(empty_database_url: str) -> None:
    FOREIGN[1].make(empty_database_url)
    await migrations.migrate(empty_database_url)
    role = f"writer_{uuid4().hex[:12]}"
    with psycopg.connect(empty_database_url, autocommit=True) as conn:
        conn.execute(sql.SQL("CREATE ROLE {}").format(sql.Identifier(role)))
        try:
            conn.execute(sql.SQL("GRANT USAGE ON SCHEMA runtime TO {}").format(sql.Identifier(role)))
            conn.execute(sql.SQL("GRANT INSERT ON runtime.tasks TO {}").format(sql.Identifier(role)))
            conn.execute(sql.SQL("SET ROLE {}").format(sql.Identifier(role)))
            conn.execute("INSERT INTO runtime.tasks (agent_id) VALUES ('00000000-0000-4000-8000-000000000003')")
            conn.execute("RESET ROLE")
            assert conn.execute("SELECT count(*) FROM runtime.queue").fetchone() == (1,)
        finally:
            conn.execute(sql.SQL("DROP OWNED BY {}").format(sql.Identifier(role)))
            conn.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(role)))


IN_PUBLIC = FOREIGN[2]


async def test_tables_move_from_public_with_their_rows_rights_keys_and_views(
    empty_database_url: str,
) -> None:
    IN_PUBLIC.make(empty_database_url)
    with psycopg.connect(empty_database_url, autocommit=True) as conn:
        conn.execute("CREATE VIEW public.seen AS SELECT name FROM public.agents")
        conn.execute("GRANT SELECT ON public.tasks TO public")
    before = IN_PUBLIC.rows(empty_database_url)
    await migrations.migrate(empty_database_url)
    assert sorted(await adoption.from_public(empty_database_url)) == sorted(documents.SECOND_DOCUMENT)
    moved = Foreign("moved", first=False, second="runtime").rows(empty_database_url)
    assert {table.split(".")[1]: rows for table, rows in before.items()} == {
        table.split(".")[1]: rows for table, rows in moved.items()
    }
    with psycopg.connect(empty_database_url) as conn:
        assert count(conn, "SELECT count(*) FROM public.seen") == 4
        assert count(conn, "SELECT count(*) FROM runtime.queue") == 0
        assert (
            count(
                conn, "SELECT count(*) FROM pg_constraint WHERE conrelid = 'runtime.tasks'::regclass AND contype = 'f'"
            )
            == 1
        )
        assert conn.execute("SELECT has_table_privilege('public', 'runtime.tasks', 'SELECT')").fetchone() == (True,)
        assert count(conn, "SELECT count(hashed_password) FROM public.users") == 0
    again = await connect(empty_database_url)
    async with again:
        assert (await adoption.report(again)).held.pending == 2


def count(conn: Connection, query: Any) -> int:
    row = conn.execute(query).fetchone()
    assert row is not None
    return int(row[0])


async def test_nothing_moves_when_there_is_nothing_in_public(database_url: str) -> None:
    with pytest.raises(adoption.AdoptionRefused, match="nothing to move"):
        await adoption.from_public(database_url)


async def test_nothing_moves_when_both_hold_rows(empty_database_url: str) -> None:
    IN_PUBLIC.make(empty_database_url)
    await migrations.migrate(empty_database_url)
    with psycopg.connect(empty_database_url, autocommit=True) as conn:
        conn.execute("INSERT INTO runtime.agents (name, type) VALUES ('ours', 'x')")
    before = IN_PUBLIC.rows(empty_database_url)
    with pytest.raises(adoption.AdoptionRefused, match="agents"):
        await adoption.from_public(empty_database_url)
    assert IN_PUBLIC.rows(empty_database_url) == before
