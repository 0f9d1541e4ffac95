"""Nobody can add a table with a user in it and forget the rule for it: the catalogue tells."""

from __future__ import annotations

from typing import Any

import pytest
import scene

from cirkelline.state.connection import Conn

# A column that says whose a row is, or what of somebody's it is about.
TELLING = """
SELECT c.oid::regclass::text, array_agg(a.attname::text ORDER BY a.attname)
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
  JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
 WHERE n.nspname IN ('public', 'ai', 'runtime') AND c.relkind IN ('r', 'p', 'm', 'v', 'f')
   AND (a.attname ~ '(^|_)(user|owner|email|tenant|account|person|alias|who)(_|$)|user_id|(task|session|memory|document|chunk|run)_id$'
        OR a.attname IN ('beside', 'parent', 'root', 'metadata', 'payload', 'result', 'chunk_text', 'document', 'chunk'))
 GROUP BY 1 ORDER BY 1
"""

# Tables that no tenant has any right on at all, and why no rule is needed on top of that.
CLOSED = {
    "public.users": "logins: passwords are looked at by operators alone",
    "runtime.user_aliases": "read by tenant_names() with its owner's rights",
    "runtime.login_attempts": "hashes that operators count",
    "runtime.queue": "the line of all tasks, which workers read",
    "runtime.unrouted": "the line of tasks that have no agent yet, which workers read",
    "runtime.claims": "which worker has which task",
    "runtime.workers": "which session's chat a worker serves",
    "runtime.workflow_records": "which records are ours, for whoever removes old ones",
    "runtime.line": "a view of the queue",
    "runtime.lines": "another view of the queue",
    "runtime.reindexed": "embeddings that wait for the rest of a reindexing, an operator's work",
}

RIGHTS = """
SELECT has_table_privilege('cirkelline_tenant', %s::regclass, 'SELECT, INSERT, UPDATE, DELETE, TRUNCATE, REFERENCES, TRIGGER')
    OR has_any_column_privilege('cirkelline_tenant', %s::regclass, 'SELECT, INSERT, UPDATE, REFERENCES')
"""


async def telling(conn: Conn) -> dict[str, list[str]]:
    return {name if "." in name else f"public.{name}": columns for name, columns in await scene.rows(conn, TELLING)}


async def test_every_table_with_a_user_in_it_has_a_rule_or_is_closed(conn: Conn) -> None:
    ruled = set(await scene.rows(conn, "SELECT relation FROM runtime.tenant_rules"))
    found = await telling(conn)
    assert {name: columns for name, columns in found.items() if name not in ruled and name not in CLOSED} == {}
    assert set(CLOSED) - set(found) == set()
    assert ruled & set(CLOSED) == set()


@pytest.mark.parametrize("table", CLOSED)
async def test_no_tenant_has_a_right_on_a_closed_table(conn: Conn, table: str) -> None:
    assert not await scene.one(conn, RIGHTS, table, table)


async def test_a_new_table_with_a_user_in_it_is_found(conn: Conn) -> None:
    async with conn.transaction(force_rollback=True):
        for column in (
            "user_id UUID",
            "owner TEXT",
            "metadata JSONB",
            "task_id UUID",
            "chunk_id BIGINT",
            "user_email TEXT",
        ):
            await conn.execute(f"CREATE TABLE ai.later ({column})".encode())
            assert "ai.later" in await telling(conn), column
            await conn.execute("DROP TABLE ai.later")


POLICIES = """
SELECT p.polname, p.polpermissive, p.polcmd::text, p.polroles = ARRAY[0]::oid[],
       pg_get_expr(p.polqual, p.polrelid) = 'true' AND pg_get_expr(p.polwithcheck, p.polrelid) = 'true'
  FROM pg_policy p WHERE p.polrelid = %s::regclass ORDER BY p.polname
"""


async def test_every_rule_is_in_force_beside_a_policy_for_everybody_else(conn: Conn) -> None:
    for table in await scene.rows(conn, "SELECT relation FROM runtime.tenant_rules"):
        state = "SELECT relrowsecurity, relforcerowsecurity FROM pg_class WHERE oid = %s::regclass"
        assert await scene.one(conn, state, table) == (True, False), table
        policies: list[Any] = await scene.rows(conn, POLICIES, table)
        assert [(name, permissive, command, public) for name, permissive, command, public, _ in policies] == [
            ("cirkelline_delete", False, "d", False),
            ("cirkelline_insert", False, "a", False),
            ("cirkelline_others", True, "*", True),
            ("cirkelline_select", False, "r", False),
            ("cirkelline_update", False, "w", False),
        ], table
        assert [everything for name, *_, everything in policies if name == "cirkelline_others"] == [True], table


async def test_tenants_have_rights_where_there_is_a_rule_and_on_agents_and_rules_alone(conn: Conn) -> None:
    granted = """
    SELECT c.oid::regclass::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
     WHERE n.nspname IN ('public', 'ai', 'runtime') AND c.relkind IN ('r', 'p', 'm', 'v', 'f')
       AND (has_table_privilege('cirkelline_tenant', c.oid, 'SELECT, INSERT, UPDATE, DELETE, TRUNCATE, REFERENCES, TRIGGER')
            OR has_any_column_privilege('cirkelline_tenant', c.oid, 'SELECT, INSERT, UPDATE, REFERENCES'))
    """
    found = {name if "." in name else f"public.{name}" for name in await scene.rows(conn, granted)}
    ruled = await scene.rows(conn, "SELECT relation FROM runtime.tenant_rules")
    assert found == {*ruled, "runtime.agents", "runtime.tenant_rules"}  # the rules themselves name nobody


async def test_the_role_is_nobody_in_particular(conn: Conn) -> None:
    role = """
    SELECT rolsuper, rolcanlogin, rolbypassrls, rolcreaterole, rolcreatedb, rolreplication, rolinherit
      FROM pg_roles WHERE rolname = 'cirkelline_tenant'"""
    assert await scene.one(conn, role) == (False,) * 7


# Functions with their owner's rights that anybody may call, and why that tells nothing.
OPEN = {
    "runtime.is_active_user(uuid)": "yes or no about an id one has to know",
    "runtime.is_erased(uuid)": "yes or no about an id one has to know",
    "runtime.login_of(uuid)": "a number about an id one has to know",
    "runtime.tenant_obstacle()": "a word about this database's setup",
}


# Functions with their owner's rights that the owner alone may call.
OWNERS = {"runtime.clear_memory_backlog(integer)"}


async def test_what_runs_with_its_owners_rights_is_a_trigger_or_closed_to_others(conn: Conn) -> None:
    definers = """
    SELECT p.oid::regprocedure::text, has_function_privilege('public', p.oid, 'EXECUTE'), p.proconfig
      FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
     WHERE n.nspname IN ('public', 'ai', 'runtime') AND p.prosecdef AND p.prorettype <> 'trigger'::regtype
    """
    found: list[Any] = await scene.rows(conn, definers)
    listed = set(await scene.rows(conn, "SELECT to_regprocedure(signature)::text FROM runtime.tenant_functions"))
    assert {name for name, public, _ in found if public} == set(OPEN)
    assert {name for name, public, _ in found if not public} == listed | OWNERS
    assert all(any(setting.startswith("search_path=") for setting in config or ()) for _, _, config in found)
