-- What a scheduler has besides its hot path. Nothing here is in the way of a claim: what cannot run yet stands outside the
-- line, and what is seldom has a table of its own.

-- A key names one task of an agent, for as long as that task is there. Neither column changes when a task is claimed or
-- finished, so the index costs those nothing.
CREATE UNIQUE INDEX IF NOT EXISTS tasks_key ON runtime.tasks (agent_id, key) WHERE key IS NOT NULL;

-- Retries ---------------------------------------------------------------------------------------------------------
-- `tasks.attempt` counts claims, of which many are nobody's fault; `failures` counts those that used up an attempt since
-- the task was submitted or put back in line by a person. Each failure stays on record for as long as its task.

ALTER TABLE runtime.tasks ADD COLUMN IF NOT EXISTS failures INTEGER;

CREATE TABLE IF NOT EXISTS runtime.failures (
    task_id UUID NOT NULL,
    attempt INTEGER NOT NULL,
    at TIMESTAMPTZ NOT NULL DEFAULT clock_timestamp(),
    type TEXT,
    message TEXT,
    again TIMESTAMPTZ,  -- when the next attempt was to begin; NULL where there was none
    PRIMARY KEY (task_id, attempt)
);

CREATE OR REPLACE FUNCTION runtime.record_failure() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO runtime.failures (task_id, attempt, type, message)
    VALUES (NEW.id, coalesce(NEW.attempt, 0), NEW.result -> 'error' ->> 'type',
            coalesce(NEW.result -> 'error' ->> 'message', NEW.error))
    ON CONFLICT (task_id, attempt) DO NOTHING;
    RETURN NULL;
END
$$;
CREATE OR REPLACE TRIGGER failed AFTER UPDATE OF status ON runtime.tasks
    FOR EACH ROW WHEN (NEW.status = 'failed' AND OLD.status = 'running' AND NEW.adopted IS NOT TRUE)
    EXECUTE FUNCTION runtime.record_failure();

CREATE OR REPLACE FUNCTION runtime.forget_failures() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF TG_OP = 'TRUNCATE' THEN
        DELETE FROM runtime.failures;
    ELSE
        DELETE FROM runtime.failures f USING removed WHERE f.task_id = removed.id;
    END IF;
    RETURN NULL;
END
$$;
CREATE OR REPLACE TRIGGER failures_removed AFTER DELETE ON runtime.tasks
    REFERENCING OLD TABLE AS removed
    FOR EACH STATEMENT EXECUTE FUNCTION runtime.forget_failures();
CREATE OR REPLACE TRIGGER failures_emptied AFTER TRUNCATE ON runtime.tasks
    FOR EACH STATEMENT EXECUTE FUNCTION runtime.forget_failures();

-- Take a running task from its worker and put it back in line, from `due` on or at once. What the attempt recorded stays,
-- so the next one goes on behind it. False when it is no longer this worker's, or somebody asked to cancel it.
CREATE OR REPLACE FUNCTION runtime.put_back(
    owner UUID, wanted UUID, run_attempt INTEGER, steps JSONB, reason TEXT, due TIMESTAMPTZ
) RETURNS BOOLEAN
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
BEGIN
    PERFORM FROM runtime.tasks t WHERE t.id = wanted AND t.status = 'running' FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        RETURN FALSE;
    END IF;
    DELETE FROM runtime.claims c
     WHERE c.task_id = wanted AND c.worker = owner AND c.attempt = run_attempt AND NOT c.cancelled;
    IF NOT FOUND THEN
        RETURN FALSE;
    END IF;
    INSERT INTO runtime.journal (task_id, position, call, attempt, ms, begun, input_tokens, output_tokens, format,
                                 error, kind, name, input_hash, output, operations, citations, cost, waits, until)
    SELECT * FROM runtime.journal_rows(wanted, run_attempt, steps)
        ON CONFLICT DO NOTHING;
    UPDATE runtime.tasks t SET status = 'pending', error = reason, run_at = coalesce(due, t.run_at) WHERE t.id = wanted;
    RETURN TRUE;
END
$$;

-- Try a task once more that has just failed: pending again after a pause that doubles with each failure, at most `longest`
-- seconds, give or take a quarter. Returns when, or NULL when its attempts are used up (or it is not this worker's).
CREATE OR REPLACE FUNCTION runtime.put_off(
    owner UUID, wanted UUID, run_attempt INTEGER, steps JSONB, kind TEXT, reason TEXT,
    attempts INTEGER, backoff DOUBLE PRECISION, longest DOUBLE PRECISION
) RETURNS TIMESTAMPTZ
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
DECLARE
    failed INTEGER := (SELECT coalesce(t.failures, 0) + 1 FROM runtime.tasks t WHERE t.id = wanted);
    due TIMESTAMPTZ;
BEGIN
    IF failed IS NULL OR failed >= attempts THEN
        RETURN NULL;
    END IF;
    due := clock_timestamp() + make_interval(
        secs => least(backoff * 2.0 ^ least(failed - 1, 60), longest) * (0.75 + random() / 2));
    IF NOT runtime.put_back(owner, wanted, run_attempt, steps, reason, due) THEN
        RETURN NULL;
    END IF;
    UPDATE runtime.tasks t SET failures = failed WHERE t.id = wanted;
    INSERT INTO runtime.failures (task_id, attempt, type, message, again) VALUES (wanted, run_attempt, kind, reason, due)
    ON CONFLICT (task_id, attempt) DO NOTHING;
    RETURN due;
END
$$;
