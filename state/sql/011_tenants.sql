-- Isolation: row-level security for the one role that work on behalf of a user is done under. A restrictive policy for
-- that role stands beside a permissive one for everybody, so that other programs' roles see and write what their rights
-- gave them before. The role belongs to the whole cluster, and its rights to each database: where it cannot be made, all
-- but the policies is there, and work on behalf of users is refused until somebody has made it.

-- Who is who ------------------------------------------------------------------------------------------------------

-- The owner of what everybody may read; nobody can be it.
CREATE OR REPLACE FUNCTION runtime.shared_owner() RETURNS TEXT
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$ SELECT 'cirkelline:shared'::text $$;

-- Whose rows these are to be: NULL, and so nobody's, where the setting is missing, empty or no UUID.
CREATE OR REPLACE FUNCTION runtime.tenant_id() RETURNS UUID
LANGUAGE sql STABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
    SELECT CASE WHEN current_setting('app.user_id', TRUE) ~* '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$'
                THEN current_setting('app.user_id', TRUE)::uuid END
$$;

-- Other programs' words for a user of ours. No key refers to users: it would make their TRUNCATE fail.
CREATE TABLE IF NOT EXISTS runtime.user_aliases (
    alias TEXT PRIMARY KEY CHECK (alias NOT IN ('', 'cirkelline:shared')),
    user_id UUID NOT NULL,
    created TIMESTAMPTZ NOT NULL DEFAULT now()
);
CREATE INDEX IF NOT EXISTS user_aliases_user ON runtime.user_aliases (user_id);

-- The texts that name the tenant as an owner. An alias that has become the id of somebody else names that one alone.
CREATE OR REPLACE FUNCTION runtime.tenant_names() RETURNS TEXT[]
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT CASE WHEN me.id IS NULL THEN '{}'::text[] ELSE me.id::text || ARRAY(
        SELECT a.alias FROM runtime.user_aliases a
         WHERE a.user_id = me.id
           AND NOT CASE WHEN a.alias ~ '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$'
                        THEN EXISTS (SELECT FROM runtime.users u WHERE u.id = a.alias::uuid) ELSE FALSE END
         ORDER BY a.alias) END
      FROM (SELECT runtime.tenant_id() AS id) me
$$;

-- Whether the first document's login table is there: in a database where the second one's `users` stands in its place, not.
CREATE OR REPLACE FUNCTION runtime.has_logins() RETURNS BOOLEAN
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT EXISTS (SELECT FROM pg_attribute WHERE attrelid = to_regclass('public.users')
                      AND attname = 'hashed_password' AND NOT attisdropped)
$$;

-- The login of a user: the one it is tied to, or else the one with the same email.
CREATE OR REPLACE FUNCTION runtime.login_of(wanted UUID) RETURNS INTEGER
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    tied INTEGER;
    mail TEXT;
BEGIN
    SELECT u.account, u.email INTO tied, mail FROM runtime.users u WHERE u.id = wanted;
    IF tied IS NULL AND mail IS NOT NULL AND runtime.has_logins() THEN
        tied := (SELECT p.id FROM public.users p WHERE p.email = mail);
    END IF;
    RETURN tied;
END
$$;

CREATE OR REPLACE FUNCTION runtime.tenant_account() RETURNS INTEGER
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT runtime.login_of(runtime.tenant_id())
$$;

-- Whether a user may do anything; one without a login has nothing that could be switched off.
CREATE OR REPLACE FUNCTION runtime.is_active_user(wanted UUID) RETURNS BOOLEAN
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    login INTEGER := runtime.login_of(wanted);
BEGIN
    IF login IS NULL OR NOT runtime.has_logins() THEN
        RETURN TRUE;
    END IF;
    RETURN coalesce((SELECT p.is_active FROM public.users p WHERE p.id = login), TRUE);
END
$$;

-- What the tenant's profile says; NULL where there is none. The tenant's own rights and policies decide what it sees.
CREATE OR REPLACE FUNCTION runtime.tenant_profile() RETURNS JSONB
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF to_regclass('public.admin_profiles') IS NULL THEN
        RETURN NULL;
    END IF;
    RETURN (SELECT jsonb_build_object('name', p.name, 'role', p.role, 'context', p.context,
                                      'preferences', p.preferences, 'custom_instructions', p.custom_instructions)
              FROM public.admin_profiles p ORDER BY p.updated_at DESC NULLS LAST, p.id DESC LIMIT 1);
END
$$;

-- Logging in ------------------------------------------------------------------------------------------------------

-- One row for each attempt, until it is known to have been right; `who` is a hash, as people mistype passwords for names.
CREATE TABLE IF NOT EXISTS runtime.login_attempts (
    who BYTEA NOT NULL,
    at TIMESTAMPTZ NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX IF NOT EXISTS login_attempts_who ON runtime.login_attempts (who, at);
CREATE INDEX IF NOT EXISTS login_attempts_at ON runtime.login_attempts (at);

-- Take one of the attempts that are left before the password is looked at, so that a thousand at once are no more than
-- one after the other. Returns NULL, or after how long the next one is left.
CREATE OR REPLACE FUNCTION runtime.take_login_attempt(wanted BYTEA, allowed INTEGER, within INTERVAL) RETURNS INTERVAL
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    taken INTEGER;
    oldest TIMESTAMPTZ;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended('cirkelline.login.' || encode(wanted, 'hex'), 0));
    DELETE FROM runtime.login_attempts a WHERE a.at < clock_timestamp() - within;
    SELECT count(*), min(a.at) INTO taken, oldest FROM runtime.login_attempts a WHERE a.who = wanted;
    IF taken >= allowed THEN
        RETURN oldest + within - clock_timestamp();
    END IF;
    INSERT INTO runtime.login_attempts (who) VALUES (wanted);
    RETURN NULL;
END
$$;

CREATE INDEX IF NOT EXISTS users_token ON runtime.users (auth_token) WHERE auth_token LIKE 'sha256:%';

-- What the rules ask ----------------------------------------------------------------------------------------------
-- Functions and no subqueries: a policy that names another table would keep that table from being moved or dropped.

CREATE OR REPLACE FUNCTION runtime.tenant_has_task(wanted UUID) RETURNS BOOLEAN
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT EXISTS (SELECT FROM runtime.tasks t WHERE t.id = wanted AND t.user_id = runtime.tenant_id())
$$;

CREATE OR REPLACE FUNCTION runtime.tenant_has_session(wanted UUID) RETURNS BOOLEAN
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT EXISTS (SELECT FROM runtime.sessions s WHERE s.id = wanted AND s.user_id = runtime.tenant_id())
$$;

-- Whether a document is the tenant's, or with `or_shared` one that everybody may read.
CREATE OR REPLACE FUNCTION runtime.tenant_has_document(wanted INTEGER, or_shared BOOLEAN) RETURNS BOOLEAN
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT EXISTS (SELECT FROM ai.agno_knowledge d
                    WHERE d.id = wanted AND (d.metadata ->> 'user_id' = ANY (runtime.tenant_names())
                       OR or_shared AND runtime.tenant_id() IS NOT NULL
                          AND d.metadata ->> 'user_id' = runtime.shared_owner()))
$$;

-- The rules -------------------------------------------------------------------------------------------------------
-- By table, which rows a tenant sees, which it may write (NULL: none) and with which rights. What is asked of the tenant
-- stands in a subquery of its own, so that it is asked once for a statement and not for each row.

CREATE TABLE IF NOT EXISTS runtime.tenant_rules (
    relation TEXT PRIMARY KEY,
    visible TEXT NOT NULL,
    writable TEXT,
    privileges TEXT NOT NULL
);

-- What runs with its owner's rights and may be called by tenants, and by nobody else who was not let in.
CREATE TABLE IF NOT EXISTS runtime.tenant_functions (signature TEXT PRIMARY KEY);

INSERT INTO runtime.tenant_functions (signature) VALUES
    ('runtime.tenant_names()'),
    ('runtime.tenant_account()'),
    ('runtime.tenant_has_task(uuid)'),
    ('runtime.tenant_has_session(uuid)'),
    ('runtime.tenant_has_document(integer, boolean)')
ON CONFLICT DO NOTHING;

INSERT INTO runtime.tenant_rules (relation, visible, writable, privileges) VALUES
    ('public.admin_profiles', 'user_id = (SELECT runtime.tenant_account())', NULL, 'SELECT'),
    ('runtime.users', 'id = (SELECT runtime.tenant_id())', NULL,
     'SELECT (id, email, created_at, updated_at, account)'),
    ('runtime.sessions', 'user_id = (SELECT runtime.tenant_id())', 'user_id = (SELECT runtime.tenant_id())',
     'SELECT, INSERT, UPDATE (status, ended_at)'),
    ('runtime.messages', 'user_id = (SELECT runtime.tenant_id())', NULL, 'SELECT'),
    ('runtime.session_heads', 'user_id = (SELECT runtime.tenant_id())', NULL, 'SELECT'),
    ('runtime.session_summaries', 'user_id = (SELECT runtime.tenant_id())', NULL, 'SELECT'),
    -- A task of one's own in somebody else's session would write into it.
    ('runtime.tasks', 'user_id = (SELECT runtime.tenant_id())',
     'user_id = (SELECT runtime.tenant_id())'
     ' AND (session_id IS NULL OR runtime.tenant_has_session(session_id))'
     ' AND (beside IS NULL OR runtime.tenant_has_session(beside))',
     'SELECT, INSERT (id, agent_id, task_type, payload, session_id, user_id)'),
    ('runtime.journal', 'runtime.tenant_has_task(task_id)', NULL, 'SELECT'),
    ('runtime.usage_daily', 'user_id = (SELECT runtime.tenant_id())', NULL, 'SELECT'),
    ('ai.agno_sessions', 'user_id = ANY ((SELECT runtime.tenant_names())::text[])',
     'user_id = ANY ((SELECT runtime.tenant_names())::text[])', 'SELECT, INSERT, UPDATE, DELETE'),
    ('ai.agno_memories', 'user_id = ANY ((SELECT runtime.tenant_names())::text[])',
     'user_id = ANY ((SELECT runtime.tenant_names())::text[])', 'SELECT, INSERT, UPDATE, DELETE'),
    ('ai.agno_memories_archive', 'user_id = ANY ((SELECT runtime.tenant_names())::text[])',
     'user_id = ANY ((SELECT runtime.tenant_names())::text[])', 'SELECT, INSERT, UPDATE, DELETE'),
    ('ai.agno_knowledge',
     'metadata ->> ''user_id'' = ANY ((SELECT runtime.tenant_names())::text[])'
     ' OR metadata ->> ''user_id'' = runtime.shared_owner() AND (SELECT runtime.tenant_id()) IS NOT NULL',
     'metadata ->> ''user_id'' = ANY ((SELECT runtime.tenant_names())::text[])', 'SELECT, INSERT, UPDATE, DELETE'),
    -- A chunk that names nobody is its document's owner's; one's own chunk in somebody else's document would be shown there.
    ('ai.cirkelline_knowledge_vectors',
     'CASE WHEN metadata ->> ''user_id'' IS NULL THEN runtime.tenant_has_document(document_id, TRUE)'
     ' ELSE metadata ->> ''user_id'' = ANY ((SELECT runtime.tenant_names())::text[])'
     ' OR metadata ->> ''user_id'' = runtime.shared_owner() AND (SELECT runtime.tenant_id()) IS NOT NULL END',
     'CASE WHEN metadata ->> ''user_id'' IS NULL THEN runtime.tenant_has_document(document_id, FALSE)'
     ' ELSE metadata ->> ''user_id'' = ANY ((SELECT runtime.tenant_names())::text[])'
     ' AND (document_id IS NULL OR runtime.tenant_has_document(document_id, FALSE)) END',
     'SELECT, INSERT, UPDATE, DELETE'),
    ('ai.workflow_runs', 'user_id = ANY ((SELECT runtime.tenant_names())::text[])', NULL, 'SELECT')
ON CONFLICT (relation) DO UPDATE
   SET visible = excluded.visible, writable = excluded.writable, privileges = excluded.privileges;

-- Putting them in force -------------------------------------------------------------------------------------------

-- Whether whoever is connected may become the tenant role; NULL where there is none.
CREATE OR REPLACE FUNCTION runtime.may_be_tenant() RETURNS BOOLEAN
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT pg_has_role(session_user, r.oid,
                       CASE WHEN current_setting('server_version_num')::integer >= 160000 THEN 'SET' ELSE 'MEMBER' END)
      FROM pg_roles r WHERE r.rolname = 'cirkelline_tenant'
$$;

-- Make the role, and let whoever is connected become it without having its rights: as far as that may be done here.
CREATE OR REPLACE FUNCTION runtime.make_tenant_role() RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    FOR attempt IN 1..5 LOOP
        BEGIN
            IF runtime.may_be_tenant() IS NULL THEN
                CREATE ROLE cirkelline_tenant NOLOGIN NOINHERIT;
            END IF;
            IF NOT runtime.may_be_tenant() THEN
                EXECUTE format('GRANT cirkelline_tenant TO %I', session_user)
                     || CASE WHEN current_setting('server_version_num')::integer >= 160000
                             THEN ' WITH INHERIT FALSE, SET TRUE' ELSE '' END;
            END IF;
            RETURN;
        EXCEPTION
            WHEN insufficient_privilege THEN
                RETURN;
            WHEN duplicate_object OR unique_violation OR internal_error THEN
                NULL;  -- another database's migration does the same just now: roles belong to all of them
        END;
    END LOOP;
END
$$;

-- Why nobody can work on behalf of a user here, as one word; NULL when one can.
CREATE OR REPLACE FUNCTION runtime.tenant_obstacle() RETURNS TEXT
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    allowed BOOLEAN := runtime.may_be_tenant();
BEGIN
    IF allowed IS NULL THEN
        RETURN 'missing';
    ELSIF EXISTS (SELECT FROM pg_roles r
                   WHERE r.rolname = 'cirkelline_tenant' AND (r.rolsuper OR r.rolbypassrls)) THEN
        RETURN 'powerful';
    ELSIF NOT has_schema_privilege('cirkelline_tenant', 'runtime', 'USAGE') OR EXISTS (
        SELECT FROM runtime.tenant_rules rule
         WHERE to_regclass(rule.relation) IS NOT NULL AND NOT EXISTS (
               SELECT FROM pg_policy p JOIN pg_class c ON c.oid = p.polrelid
                WHERE p.polrelid = to_regclass(rule.relation) AND p.polname = 'cirkelline_select' AND c.relrowsecurity)
    ) THEN
        RETURN 'unprotected';
    ELSIF NOT allowed THEN
        RETURN 'barred';
    END IF;
    RETURN NULL;
END
$$;

CREATE OR REPLACE FUNCTION runtime.protect_from_tenants(place REGCLASS, rule runtime.tenant_rules) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    -- Before 16 a role has what it may become, and the rules with it: they must hold for nobody but the role itself.
    guard TEXT := CASE WHEN current_setting('server_version_num')::integer >= 160000 THEN '%s'
                       ELSE 'current_user <> ''cirkelline_tenant'' OR (%s)' END;
    visible TEXT := format(guard, rule.visible);
    writable TEXT := format(guard, coalesce(rule.writable, 'FALSE'));
    theirs BOOLEAN;
    counter REGCLASS;
BEGIN
    SELECT c.relrowsecurity AND NOT EXISTS (
               SELECT FROM pg_policy p WHERE p.polrelid = place AND p.polname = 'cirkelline_others')
      INTO theirs FROM pg_class c WHERE c.oid = place;
    IF NOT theirs AND EXISTS (SELECT FROM pg_policy p JOIN pg_class c ON c.oid = p.polrelid
                               WHERE p.polrelid = place AND NOT c.relrowsecurity
                                 AND NOT p.polname LIKE 'cirkelline\_%') THEN
        RAISE EXCEPTION '% has row security policies that are switched off: drop them, or enable row level security on it', place;
    END IF;
    EXECUTE format('DROP POLICY IF EXISTS cirkelline_others ON %s', place);
    EXECUTE format('DROP POLICY IF EXISTS cirkelline_tenants ON %s', place);
    EXECUTE format('DROP POLICY IF EXISTS cirkelline_select ON %s', place);
    EXECUTE format('DROP POLICY IF EXISTS cirkelline_insert ON %s', place);
    EXECUTE format('DROP POLICY IF EXISTS cirkelline_update ON %s', place);
    EXECUTE format('DROP POLICY IF EXISTS cirkelline_delete ON %s', place);
    IF theirs THEN  -- whose policies go on deciding about everybody else
        EXECUTE format('CREATE POLICY cirkelline_tenants ON %s TO cirkelline_tenant USING (TRUE) WITH CHECK (TRUE)', place);
    ELSE
        EXECUTE format('CREATE POLICY cirkelline_others ON %s USING (TRUE) WITH CHECK (TRUE)', place);
    END IF;
    EXECUTE format('CREATE POLICY cirkelline_select ON %s AS RESTRICTIVE FOR SELECT TO cirkelline_tenant USING (%s)',
                   place, visible);
    EXECUTE format('CREATE POLICY cirkelline_insert ON %s AS RESTRICTIVE FOR INSERT TO cirkelline_tenant WITH CHECK (%s)',
                   place, writable);
    EXECUTE format('CREATE POLICY cirkelline_update ON %s AS RESTRICTIVE FOR UPDATE TO cirkelline_tenant USING (%s)',
                   place, writable);
    EXECUTE format('CREATE POLICY cirkelline_delete ON %s AS RESTRICTIVE FOR DELETE TO cirkelline_tenant USING (%s)',
                   place, writable);
    EXECUTE format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY', place);
    EXECUTE format('REVOKE ALL ON %s FROM cirkelline_tenant', place);
    EXECUTE format('GRANT %s ON %s TO cirkelline_tenant', rule.privileges, place);
    IF rule.writable IS NOT NULL THEN
        FOR counter IN
            SELECT s.oid::regclass FROM pg_class s WHERE s.relkind = 'S' AND s.oid IN (
                SELECT d.objid FROM pg_depend d WHERE d.refobjid = place AND d.deptype IN ('a', 'i')
                 UNION ALL
                SELECT d.refobjid FROM pg_depend d JOIN pg_attrdef f ON f.oid = d.objid
                 WHERE d.classid = 'pg_attrdef'::regclass AND f.adrelid = place)
        LOOP
            EXECUTE format('GRANT USAGE ON SEQUENCE %s TO cirkelline_tenant', counter);
        END LOOP;
    END IF;
END
$$;

-- Put every rule in force; each migration ends with it. Does nothing where the role is not there and cannot be made.
CREATE OR REPLACE FUNCTION runtime.protect_tenants() RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    rule runtime.tenant_rules;
    called REGPROCEDURE;
    place NAME;
BEGIN
    PERFORM runtime.make_tenant_role();
    IF runtime.may_be_tenant() IS NULL THEN
        RETURN;
    END IF;
    GRANT USAGE ON SCHEMA runtime, ai TO cirkelline_tenant;
    -- What everybody may use mostly, and may belong to somebody else: where the vector type is, and the first document's.
    FOR place IN
        SELECT n.nspname FROM pg_namespace n
         WHERE (n.nspname = 'public' OR n.oid = (SELECT e.extnamespace FROM pg_extension e WHERE e.extname = 'vector'))
           AND NOT has_schema_privilege('cirkelline_tenant', n.oid, 'USAGE')
    LOOP
        EXECUTE format('GRANT USAGE ON SCHEMA %I TO cirkelline_tenant', place);
    END LOOP;
    FOR rule IN SELECT * FROM runtime.tenant_rules r WHERE to_regclass(r.relation) IS NOT NULL ORDER BY r.relation LOOP
        PERFORM runtime.protect_from_tenants(to_regclass(rule.relation), rule);
    END LOOP;
    -- Agents belong to nobody; what is in their definitions is their author's.
    GRANT SELECT (id, handle, name, type, status, capabilities, definition_version) ON runtime.agents TO cirkelline_tenant;
    FOR called IN
        SELECT to_regprocedure(f.signature) FROM runtime.tenant_functions f
         WHERE to_regprocedure(f.signature) IS NOT NULL ORDER BY f.signature
    LOOP
        EXECUTE format('REVOKE ALL ON FUNCTION %s FROM PUBLIC', called);
        EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO cirkelline_tenant', called);
    END LOOP;
    GRANT EXECUTE ON FUNCTION runtime.shared_owner(), runtime.tenant_id(), runtime.tenant_profile(),
        runtime.said(runtime.messages), runtime.task_words(text, jsonb) TO cirkelline_tenant;
END
$$;

DO $$
DECLARE
    called REGPROCEDURE;
BEGIN
    FOR called IN SELECT to_regprocedure(f.signature) FROM runtime.tenant_functions f LOOP
        CONTINUE WHEN called IS NULL;
        EXECUTE format('REVOKE ALL ON FUNCTION %s FROM PUBLIC', called);
    END LOOP;
END
$$;
