-- A person's data: taking all of it along, and erasing all of it. Both go by the tenant's rules, so that a table with a
-- user in it is exported and erased because it is protected, and one without a rule fails a test.

ALTER TABLE runtime.tenant_rules
    ADD COLUMN IF NOT EXISTS owned TEXT,                              -- which rows are the user's own; NULL: all it sees
    ADD COLUMN IF NOT EXISTS derived BOOLEAN NOT NULL DEFAULT FALSE,  -- made of other rows: not worth taking along
    ADD COLUMN IF NOT EXISTS erased INTEGER NOT NULL DEFAULT 0;       -- after those of a smaller number

-- Who was erased. A restored backup has to be erased again, and a row that some other program writes later is still theirs.
CREATE TABLE IF NOT EXISTS runtime.erased_users (
    user_id UUID PRIMARY KEY,
    names TEXT[] NOT NULL,         -- other programs' words for the user
    begun TIMESTAMPTZ NOT NULL DEFAULT now(),
    ended TIMESTAMPTZ,
    report JSONB NOT NULL DEFAULT '{}'
);

INSERT INTO runtime.tenant_rules (relation, visible, writable, privileges)
VALUES ('runtime.erased_users', 'FALSE', NULL, 'SELECT')
    ON CONFLICT (relation) DO NOTHING;

-- What everybody may read belongs to nobody.
UPDATE runtime.tenant_rules SET owned = writable
 WHERE relation IN ('ai.agno_knowledge', 'ai.cirkelline_knowledge_vectors');
UPDATE runtime.tenant_rules SET owned = 'owner = ANY ((SELECT runtime.tenant_names())::text[])', derived = TRUE
 WHERE relation IN ('ai.knowledge_documents', 'ai.knowledge_chunks', 'ai.knowledge_words');
UPDATE runtime.tenant_rules SET derived = TRUE WHERE relation = 'ai.memory_index';
-- What is named by other rows goes after them, and a task's usage is added up when its journal goes.
UPDATE runtime.tenant_rules SET erased = CASE relation
           WHEN 'runtime.tasks' THEN 1 WHEN 'ai.agno_knowledge' THEN 1 WHEN 'runtime.usage_daily' THEN 2
           WHEN 'runtime.sessions' THEN 2 WHEN 'ai.workflow_runs' THEN 2 WHEN 'public.admin_profiles' THEN 3
           WHEN 'runtime.users' THEN 4 ELSE 0 END;

-- One user's own rows of a table as JSON, as the role that asks: without a tenant there are none.
CREATE OR REPLACE FUNCTION runtime.export_rows(wanted TEXT) RETURNS SETOF TEXT
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    place REGCLASS := to_regclass(wanted);
    own TEXT := (SELECT coalesce(r.owned, r.visible) FROM runtime.tenant_rules r WHERE r.relation = wanted);
    shown TEXT := (SELECT string_agg(quote_ident(a.attname), ', ' ORDER BY a.attnum) FROM pg_attribute a
                    WHERE a.attrelid = place AND a.attnum > 0 AND NOT a.attisdropped
                      AND has_column_privilege(a.attrelid, a.attnum, 'SELECT'));
BEGIN
    IF own IS NOT NULL AND shown IS NOT NULL THEN
        RETURN QUERY EXECUTE format('SELECT row_to_json(mine)::text FROM (SELECT %s FROM %s WHERE %s) mine', shown, place, own);
    END IF;
END
$$;

-- Whether a user is no more. Asked at the tenant's door, by whoever knocks: in the statement that takes on the role, rights
-- are looked at before the role is there.
CREATE OR REPLACE FUNCTION runtime.is_erased(wanted UUID) RETURNS BOOLEAN
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT EXISTS (SELECT FROM runtime.erased_users e WHERE e.user_id = wanted)
$$;

-- Before anything is erased: remember that it has to be, and who it was.
CREATE OR REPLACE FUNCTION runtime.begin_erasing(wanted UUID) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO runtime.erased_users AS e (user_id, names)
    SELECT wanted, coalesce(array_agg(a.alias ORDER BY a.alias), '{}') FROM runtime.user_aliases a WHERE a.user_id = wanted
        ON CONFLICT (user_id) DO UPDATE
       SET names = ARRAY(SELECT DISTINCT name FROM unnest(e.names || excluded.names) AS name ORDER BY name);
    UPDATE runtime.users u SET auth_token = NULL WHERE u.id = wanted;
END
$$;

-- Cancel whatever is in line, parked or runs on a user's behalf. Returns how many tasks ended at once, and how many a
-- worker was asked to stop.
CREATE OR REPLACE FUNCTION runtime.stop_tasks_of(wanted UUID) RETURNS TABLE (ended INTEGER, asked INTEGER)
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    task UUID;
    outcome TEXT;
BEGIN
    ended := 0;
    asked := 0;
    FOR task IN
        SELECT t.id FROM runtime.tasks t
         WHERE t.user_id = wanted AND t.status IN ('pending', 'waiting', 'running') AND t.adopted IS NOT TRUE
         ORDER BY t.id
    LOOP
        outcome := runtime.cancel_task(task);
        ended := ended + (outcome = 'cancelled')::integer;
        asked := asked + (outcome = 'asked')::integer;
    END LOOP;
    RETURN NEXT;
END
$$;

-- Erase a user after `begin_erasing`, in one transaction. Returns how many rows of which table went.
CREATE OR REPLACE FUNCTION runtime.erase_user(wanted UUID) RETURNS TABLE (relation TEXT, amount BIGINT)
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
    rule RECORD;
    login INTEGER := runtime.login_of(wanted);
    counts JSONB := '{}';
BEGIN
    -- Its own words for the user again, if this is the second time.
    INSERT INTO runtime.user_aliases (alias, user_id)
    SELECT name, wanted FROM runtime.erased_users e CROSS JOIN unnest(e.names) AS name WHERE e.user_id = wanted
        ON CONFLICT DO NOTHING;
    UPDATE runtime.erased_users e SET ended = NULL WHERE e.user_id = wanted;
    PERFORM set_config('app.user_id', wanted::text, TRUE);
    -- Whoever still runs one of the tasks has lost it: it can write neither a step nor an end any more.
    DELETE FROM runtime.claims c WHERE c.task_id IN (SELECT t.id FROM runtime.tasks t WHERE t.user_id = wanted);
    FOR rule IN
        SELECT r.relation, coalesce(r.owned, r.visible) AS own, to_regclass(r.relation) AS place FROM runtime.tenant_rules r
         WHERE to_regclass(r.relation) IS NOT NULL ORDER BY r.erased, r.relation
    LOOP
        IF rule.relation = 'runtime.usage_daily' THEN  -- what was spent stays, and on whom does not
            PERFORM runtime.add_usage(array_agg(ROW(
                u.day, u.agent_id, NULL, u.model, u.calls, u.input_tokens, u.output_tokens, u.cost, u.unpriced
            )::runtime.usage_daily)) FROM runtime.usage_daily u WHERE u.user_id = wanted;
        END IF;
        EXECUTE format('DELETE FROM %s WHERE %s', rule.place, rule.own);
        GET DIAGNOSTICS amount = ROW_COUNT;
        relation := rule.relation;
        counts := counts || jsonb_build_object(relation, amount);
        RETURN NEXT;
    END LOOP;
    IF login IS NOT NULL AND runtime.has_logins() THEN
        DELETE FROM public.users p WHERE p.id = login;
        GET DIAGNOSTICS amount = ROW_COUNT;
        relation := 'public.users';
        counts := counts || jsonb_build_object(relation, amount);
        RETURN NEXT;
    END IF;
    DELETE FROM runtime.user_aliases a WHERE a.user_id = wanted;
    PERFORM set_config('app.user_id', '', TRUE);
    UPDATE runtime.erased_users e SET ended = clock_timestamp(), report = counts WHERE e.user_id = wanted;
END
$$;

GRANT SELECT ON runtime.tenant_rules TO PUBLIC;
