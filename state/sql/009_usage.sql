-- What was paid for, by day, agent, user and model: it outlives the journal it is read from. A step of the journal is
-- added here by whatever removes it, in one statement with its removal; until then the journal itself is what counts.

-- What an agent's stats hold of a task that has failed: tried again, it gives them only what came since.
ALTER TABLE runtime.tasks ADD COLUMN IF NOT EXISTS tokens_counted BIGINT;

CREATE TABLE IF NOT EXISTS runtime.usage_daily (
    day DATE NOT NULL,           -- UTC
    agent_id UUID,
    user_id UUID,
    model TEXT NOT NULL,
    calls BIGINT NOT NULL,
    input_tokens BIGINT NOT NULL,
    output_tokens BIGINT NOT NULL,
    cost NUMERIC NOT NULL,       -- of the calls whose price was known, in US dollars
    unpriced BIGINT NOT NULL,    -- the other calls
    UNIQUE NULLS NOT DISTINCT (day, agent_id, user_id, model)
);

-- A journal is written in the order of time: a few bytes for every megabyte are enough to find a day in it.
CREATE INDEX IF NOT EXISTS journal_begun ON runtime.journal USING brin (begun) WITH (pages_per_range = 32);

-- Rows in one order for everybody, or two removals at once deadlock.
CREATE OR REPLACE FUNCTION runtime.add_usage(used runtime.usage_daily[]) RETURNS void
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
    INSERT INTO runtime.usage_daily AS kept
    SELECT u.* FROM unnest(used) AS u ORDER BY u.day, u.agent_id, u.user_id, u.model
    ON CONFLICT (day, agent_id, user_id, model) DO UPDATE
       SET calls = kept.calls + excluded.calls, input_tokens = kept.input_tokens + excluded.input_tokens,
           output_tokens = kept.output_tokens + excluded.output_tokens, cost = kept.cost + excluded.cost,
           unpriced = kept.unpriced + excluded.unpriced
$$;

-- Steps that somebody removes while their task stays: a task that begins again, or plain SQL. Where the task goes too,
-- `forget_journal` has counted them: here their agent could not be found any more.
CREATE OR REPLACE FUNCTION runtime.keep_usage() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM runtime.add_usage(array_agg(ROW(u.*)::runtime.usage_daily)) FROM (
        SELECT (g.begun AT TIME ZONE 'UTC')::date, t.agent_id, t.user_id, g.name, count(*),
               coalesce(sum(g.input_tokens), 0), coalesce(sum(g.output_tokens), 0), coalesce(sum(g.cost), 0),
               count(*) FILTER (WHERE g.cost IS NULL)
          FROM gone g JOIN runtime.tasks t ON t.id = g.task_id
         WHERE g.kind = 'model' GROUP BY 1, 2, 3, 4) AS u;
    RETURN NULL;
END
$$;
CREATE OR REPLACE TRIGGER kept AFTER DELETE ON runtime.journal
    REFERENCING OLD TABLE AS gone
    FOR EACH STATEMENT EXECUTE FUNCTION runtime.keep_usage();

CREATE OR REPLACE FUNCTION runtime.empty_journal() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF TG_TABLE_NAME = 'tasks' THEN
        DELETE FROM runtime.claims;
    END IF;
    DELETE FROM runtime.journal;
    RETURN NULL;
END
$$;
-- Before, while it can still be seen whose they are.
CREATE OR REPLACE TRIGGER journal_emptied BEFORE TRUNCATE ON runtime.tasks
    FOR EACH STATEMENT EXECUTE FUNCTION runtime.empty_journal();
CREATE OR REPLACE TRIGGER emptied BEFORE TRUNCATE ON runtime.journal
    FOR EACH STATEMENT EXECUTE FUNCTION runtime.empty_journal();

CREATE OR REPLACE FUNCTION runtime.forget_journal() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    paid runtime.usage_daily[];
BEGIN
    -- First the claims: a step that is just being written holds one, so it is there below, and none comes after it.
    DELETE FROM runtime.claims c USING removed r WHERE c.task_id = r.id;
    WITH gone AS (
        DELETE FROM runtime.journal j USING removed r WHERE j.task_id = r.id
        RETURNING j.kind, j.begun, j.name, j.input_tokens, j.output_tokens, j.cost, r.agent_id, r.user_id
    ), used AS (
        SELECT (g.begun AT TIME ZONE 'UTC')::date, g.agent_id, g.user_id, g.name, count(*),
               coalesce(sum(g.input_tokens), 0), coalesce(sum(g.output_tokens), 0), coalesce(sum(g.cost), 0),
               count(*) FILTER (WHERE g.cost IS NULL)
          FROM gone g WHERE g.kind = 'model' GROUP BY 1, 2, 3, 4
    )
    SELECT array_agg(ROW(u.*)::runtime.usage_daily) INTO paid FROM used AS u;
    PERFORM runtime.add_usage(paid);
    RETURN NULL;
END
$$;
CREATE OR REPLACE TRIGGER journal_removed AFTER DELETE ON runtime.tasks
    REFERENCING OLD TABLE AS removed
    FOR EACH STATEMENT EXECUTE FUNCTION runtime.forget_journal();
