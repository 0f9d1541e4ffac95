-- memory_optimization that begins by itself: how far a user's memories have been gone through, and a door that lets one run in
-- at a time. And what a run takes back, to the byte: also a JSON null, and which memories were held to be replaced.

-- The row as PostgreSQL writes it: `original` is for reading, and has one null for two.
ALTER TABLE ai.agno_memories_archive ADD COLUMN IF NOT EXISTS exact TEXT;

CREATE TABLE IF NOT EXISTS ai.memory_upkeep (
    user_id UUID PRIMARY KEY,
    through INTEGER NOT NULL,  -- memories of a higher id are new since
    run UUID NOT NULL,         -- the last run that went through them, or is about to
    at TIMESTAMPTZ NOT NULL
);

INSERT INTO runtime.tenant_rules (relation, visible, writable, privileges)
VALUES ('ai.memory_upkeep', 'user_id = (SELECT runtime.tenant_id())', 'user_id = (SELECT runtime.tenant_id())',
        'SELECT, INSERT, UPDATE')
ON CONFLICT (relation) DO UPDATE
   SET visible = excluded.visible, writable = excluded.writable, privileges = excluded.privileges;

-- What was in the database before this, other programs' memories among it, has nobody asked us to go through.
INSERT INTO runtime.settings (name, value)
SELECT 'memory.before', to_jsonb(coalesce(max(m.id), 0)) FROM ai.agno_memories m
ON CONFLICT (name) DO NOTHING;

CREATE INDEX IF NOT EXISTS memory_index_new ON ai.memory_index (user_id, id)
 WHERE superseded_by IS NULL AND origin <> 'merged';

-- Beginning ------------------------------------------------------------------------------------------------------------

-- All texts that name a user as an owner, as tenant_names() has them for the one who asks.
CREATE OR REPLACE FUNCTION runtime.owner_names() RETURNS TABLE (name TEXT, user_id UUID)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT u.id::text, u.id FROM runtime.users u
     UNION ALL
    SELECT a.alias, a.user_id FROM runtime.user_aliases a
     WHERE NOT EXISTS (SELECT FROM runtime.users u WHERE u.id::text = a.alias)
$$;

-- How many memories in force are new to a user since the last run; what a run made is not.
CREATE OR REPLACE FUNCTION runtime.new_memories(wanted UUID) RETURNS INTEGER
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT count(*)::integer FROM ai.memory_index i
     WHERE i.superseded_by IS NULL AND i.origin <> 'merged'
       AND (i.user_id = wanted::text
            OR i.user_id IN (SELECT n.name FROM runtime.owner_names() n WHERE n.user_id = wanted))
       AND i.id > greatest((SELECT k.through FROM ai.memory_upkeep k WHERE k.user_id = wanted),
                           (SELECT s.value::integer FROM runtime.settings s WHERE s.name = 'memory.before'), 0)
$$;

-- Who has at least so many new memories, one of them with an id over `since`, and is not switched off.
CREATE OR REPLACE FUNCTION runtime.users_to_optimize(minimum INTEGER, since INTEGER)
RETURNS TABLE (user_id UUID, amount INTEGER)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT told.user_id, told.amount
      FROM (SELECT w.user_id, runtime.new_memories(w.user_id) AS amount
              FROM (SELECT DISTINCT n.user_id
                      FROM (SELECT DISTINCT i.user_id FROM ai.memory_index i WHERE i.id > since) o
                      JOIN runtime.owner_names() n ON n.name = o.user_id) w) told
     WHERE told.amount >= minimum AND runtime.is_active_user(told.user_id) AND NOT runtime.is_erased(told.user_id)
     ORDER BY told.user_id
$$;

-- Put a run in line for a user with at least so many new memories, unless one is there or the user is switched off; NULL
-- then. Whoever asks at the same time waits here and finds the first one's run; and so does whoever switches the user off,
-- and then cancels it.
CREATE OR REPLACE FUNCTION runtime.begin_optimization(wanted UUID, agent UUID, given JSONB, minimum INTEGER) RETURNS UUID
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    made UUID := gen_random_uuid();
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended('cirkelline.optimization.' || wanted::text, 0));
    PERFORM FROM runtime.users u WHERE u.id = wanted FOR SHARE;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    IF runtime.has_logins() THEN
        PERFORM FROM public.users p WHERE p.id = runtime.login_of(wanted) FOR SHARE;
    END IF;
    IF NOT runtime.is_active_user(wanted) OR runtime.is_erased(wanted) OR runtime.new_memories(wanted) < minimum
       OR EXISTS (SELECT FROM runtime.tasks t
                   WHERE t.agent_id = agent AND t.user_id = wanted AND t.status IN ('pending', 'running', 'waiting')) THEN
        RETURN NULL;
    END IF;
    -- After everything that somebody waits for.
    INSERT INTO runtime.tasks (id, agent_id, task_type, payload, user_id, priority)
    VALUES (made, agent, 'workflow', jsonb_build_object('input', given), wanted, -20);
    INSERT INTO ai.memory_upkeep AS k (user_id, through, run, at)
    SELECT wanted, coalesce(max(i.id), 0), made, clock_timestamp() FROM ai.memory_index i
    ON CONFLICT (user_id) DO UPDATE SET through = excluded.through, run = excluded.run, at = excluded.at;
    RETURN made;
END
$$;

-- As 015 has it; but a workflow's schedules are its users', and stand in no definition.
CREATE OR REPLACE FUNCTION runtime.keep_schedules(wanted UUID) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    spec JSONB := (SELECT d.spec FROM runtime.agents a
                     JOIN runtime.definitions d ON d.agent_id = a.id AND d.version = a.definition_version
                    WHERE a.id = wanted);
BEGIN
    IF spec IS NULL OR spec ? 'workflow' THEN
        RETURN;
    END IF;
    DELETE FROM runtime.schedules s
     WHERE s.agent_id = wanted AND s.name NOT IN (
           SELECT coalesce(e.item ->> 'name', e.place::text)
             FROM jsonb_array_elements(coalesce(spec -> 'schedules', '[]')) WITH ORDINALITY AS e (item, place));
    INSERT INTO runtime.schedules AS s (agent_id, name, cron, tz, user_name, input)
    SELECT wanted, coalesce(e.item ->> 'name', e.place::text), e.item ->> 'cron', coalesce(e.item ->> 'tz', 'UTC'),
           e.item ->> 'user', e.item ->> 'input'
      FROM jsonb_array_elements(coalesce(spec -> 'schedules', '[]')) WITH ORDINALITY AS e (item, place)
    ON CONFLICT (agent_id, name) DO UPDATE
       SET since = CASE WHEN (s.cron, s.tz) = (excluded.cron, excluded.tz) THEN s.since ELSE clock_timestamp() END,
           next_at = CASE WHEN (s.cron, s.tz) = (excluded.cron, excluded.tz) THEN s.next_at END,
           cron = excluded.cron, tz = excluded.tz, user_name = excluded.user_name, input = excluded.input,
           problem = NULL;
END
$$;

-- Out of the way, and back, to the byte ----------------------------------------------------------------------------------

-- Move memories into the archive, whole, saying why; returns how many there were. What one of them was held to replace is
-- replaced by its successor from then on, and must not come back to be recalled.
CREATE OR REPLACE FUNCTION runtime.archive_memories(wanted INTEGER[], why TEXT, run TEXT, successor INTEGER) RETURNS INTEGER
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
SET datestyle = 'ISO, YMD' SET intervalstyle = 'postgres' SET extra_float_digits = 1 AS $$
DECLARE
    replaced INTEGER[] := ARRAY(SELECT i.id FROM ai.memory_index i WHERE i.superseded_by = ANY (wanted));
    moved INTEGER;
BEGIN
    WITH gone AS (
        DELETE FROM ai.agno_memories m WHERE m.id = ANY (wanted) RETURNING m.*
    ), kept AS (
        INSERT INTO ai.agno_memories_archive (original_memory_id, user_id, memory, topics, input, created_at, archived_at,
                                              optimization_run_id, original, exact, trace, reason, replaced_by)
        SELECT g.memory_id::text, g.user_id, to_jsonb(g.memory), g.topics, g.input, g.created_at,
               now() AT TIME ZONE 'UTC', run, to_jsonb(g), g::text,
               (SELECT to_jsonb(i) || jsonb_build_object('replaced', ARRAY(
                           SELECT r.id FROM ai.memory_index r WHERE r.superseded_by = g.id ORDER BY r.id))
                  FROM ai.memory_index i WHERE i.id = g.id), why, successor
          FROM gone g
        RETURNING 1
    )
    SELECT count(*)::integer INTO moved FROM kept;
    IF successor IS NOT NULL THEN
        UPDATE ai.memory_index i SET superseded_by = successor
         WHERE i.id = ANY (replaced) AND i.id <> successor AND i.superseded_by IS NULL;
    END IF;
    RETURN moved;
END
$$;

-- A memory as it stood in the archive. The text has it to the byte, where the table still has the same columns.
CREATE OR REPLACE FUNCTION runtime.archived_row(original JSONB, exact TEXT) RETURNS ai.agno_memories
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
SET datestyle = 'ISO, YMD' SET intervalstyle = 'postgres' AS $$
BEGIN
    IF exact IS NOT NULL AND ARRAY(SELECT k.name FROM jsonb_object_keys(original) AS k (name) ORDER BY 1) = ARRAY(
            SELECT a.attname::text FROM pg_attribute a
             WHERE a.attrelid = 'ai.agno_memories'::regclass AND a.attnum > 0 AND NOT a.attisdropped ORDER BY 1) THEN
        BEGIN
            RETURN exact::ai.agno_memories;
        EXCEPTION WHEN data_exception THEN
            NULL;  -- a column has another type by now
        END;
    END IF;
    RETURN jsonb_populate_record(NULL::ai.agno_memories, original);
END
$$;

-- Put archived memories back exactly as they were, in place of what stands under their ids by now; returns how many.
CREATE OR REPLACE FUNCTION runtime.restore_memories(archived INTEGER[]) RETURNS INTEGER
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    kept RECORD;
    replaced INTEGER[];
    restored INTEGER := 0;
BEGIN
    -- The oldest copy last: it is what a memory was before any change.
    FOR kept IN
        SELECT a.id, (a.original ->> 'id')::integer AS memory, a.original, a.exact, a.trace, a.replaced_by
          FROM ai.agno_memories_archive a
         WHERE a.id = ANY (archived) AND a.original IS NOT NULL ORDER BY a.id DESC
    LOOP
        replaced := ARRAY(SELECT i.id FROM ai.memory_index i WHERE i.superseded_by = kept.memory);
        DELETE FROM ai.agno_memories m WHERE m.id = kept.memory;
        INSERT INTO ai.agno_memories SELECT r.* FROM runtime.archived_row(kept.original, kept.exact) r;
        UPDATE ai.memory_index i
           SET embedder = t.embedder, embedding = t.embedding, superseded_by = t.superseded_by, valid_from = t.valid_from,
               origin = t.origin, task_id = t.task_id, session_id = t.session_id, message = t.message
          FROM jsonb_populate_record(NULL::ai.memory_index, kept.trace) t
         WHERE kept.trace IS NOT NULL AND i.id = t.id;
        -- What it was held to replace, unless a later one is held to by now.
        UPDATE ai.memory_index i SET superseded_by = kept.memory
         WHERE i.id = ANY (replaced || ARRAY(SELECT r.id::integer FROM jsonb_array_elements_text(
                   coalesce(kept.trace -> 'replaced', '[]')) AS r (id)))
           AND (i.superseded_by IS NULL OR i.superseded_by = kept.replaced_by);
        DELETE FROM ai.agno_memories_archive a WHERE a.id = kept.id;
        restored := restored + 1;
    END LOOP;
    RETURN restored;
END
$$;

-- Give a memory other topics in a run, and keep how it was; what the run has made itself needs no keeping.
CREATE OR REPLACE FUNCTION runtime.file_memory(wanted INTEGER, filed JSONB, run TEXT) RETURNS INTEGER
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
SET datestyle = 'ISO, YMD' SET intervalstyle = 'postgres' SET extra_float_digits = 1 AS $$
BEGIN
    INSERT INTO ai.agno_memories_archive (original_memory_id, user_id, memory, topics, input, created_at, archived_at,
                                          optimization_run_id, original, exact, trace, reason)
    SELECT m.memory_id::text, m.user_id, to_jsonb(m.memory), m.topics, m.input, m.created_at, now() AT TIME ZONE 'UTC', run,
           to_jsonb(m), m::text, to_jsonb(i), 'changed'
      FROM ai.agno_memories m JOIN ai.memory_index i ON i.id = m.id
     WHERE m.id = wanted AND NOT (i.origin = 'merged' AND i.task_id::text = run);
    UPDATE ai.agno_memories m SET topics = filed WHERE m.id = wanted;
    RETURN (SELECT count(*) FROM ai.agno_memories m WHERE m.id = wanted);
END
$$;
