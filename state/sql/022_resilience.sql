-- What trials under load have shown: a model's pauses that outlasted what they were for, innocent tasks beside one that
-- kills its workers, and records of workflow runs that nobody ever removed.

-- Hold a model, or hold it longer: for `wait` seconds if the provider named a time, else for a pause that doubles with
-- each probe that failed, counted anew where it fails in another way than before: a key that is refused after an hour of
-- 429 is tried again as soon as any other. What fails while it is held anyway changes nothing. `fresh`: it was not held
-- before.
CREATE OR REPLACE FUNCTION runtime.hold_model(
    holder UUID, label TEXT, is_refused BOOLEAN, why TEXT, wait DOUBLE PRECISION, pause DOUBLE PRECISION
) RETURNS TABLE (until TIMESTAMPTZ, fresh BOOLEAN)
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
    jitter DOUBLE PRECISION := 0.75 + random() / 2;
    longest CONSTANT DOUBLE PRECISION := 60 * pause;
BEGIN
    RETURN QUERY
    INSERT INTO runtime.model_holds AS h (model, refused, reason, until)
    VALUES (label, is_refused, why,
            clock_timestamp() + make_interval(secs => CASE
                WHEN wait IS NULL THEN pause * jitter ELSE least(wait, 3600) * (1 + random() / 10) END))
    ON CONFLICT (model) DO UPDATE
       SET refused = excluded.refused, reason = excluded.reason,
           tries = CASE WHEN h.until > clock_timestamp() THEN h.tries
                        WHEN h.refused <> excluded.refused OR wait IS NOT NULL THEN 1
                        ELSE h.tries + 1 END,
           until = greatest(h.until, CASE
               WHEN wait IS NOT NULL OR h.until <= clock_timestamp() AND h.refused <> excluded.refused
               THEN excluded.until
               WHEN h.until <= clock_timestamp()
               THEN clock_timestamp() + make_interval(secs => least(pause * 2.0 ^ least(h.tries, 30), longest) * jitter)
           END),
           prober = CASE WHEN h.prober <> holder THEN h.prober END
    RETURNING h.until, h.xmax = 0;  -- inserted, not updated
END
$$;

-- Take over what dead workers held: pending again, or parked once `deaths_allowed` workers died on the task.
-- A worker is dead when its own lease has lapsed by the database's clock. Returns how many tasks changed hands.
-- A task that kills its worker takes others down with it, and they would come back beside it each time: from the second
-- death on each waits for a time of its own, and of those that died together only one is parked: the one with the most
-- deaths, of equals the one that had begun last.
CREATE OR REPLACE FUNCTION runtime.take_over(deaths_allowed INTEGER) RETURNS INTEGER
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    dead UUID;
    dead_workers UUID[];
    held UUID[];
    parked INTEGER;
    taken INTEGER := 0;
BEGIN
    dead_workers := ARRAY(
        SELECT w.id FROM runtime.workers w WHERE w.seen < clock_timestamp() - w.lease ORDER BY w.id FOR UPDATE SKIP LOCKED);
    -- And whoever claimed just as it was declared dead, and then really died.
    dead_workers := dead_workers || ARRAY(
        SELECT DISTINCT c.worker FROM runtime.claims c
         WHERE NOT EXISTS (SELECT FROM runtime.workers w WHERE w.id = c.worker));
    IF cardinality(dead_workers) = 0 THEN
        RETURN 0;
    END IF;
    -- All of them before any is changed, as everybody else does.
    PERFORM FROM runtime.tasks t
      WHERE t.id = ANY (ARRAY(SELECT c.task_id FROM runtime.claims c WHERE c.worker = ANY (dead_workers)))
      ORDER BY t.id FOR NO KEY UPDATE;

    FOREACH dead IN ARRAY dead_workers LOOP
        held := ARRAY(SELECT c.task_id FROM runtime.claims c WHERE c.worker = dead);
        -- A worker that got one step further than those before it has not died in vain.
        UPDATE runtime.tasks t
           SET deaths = 1 + CASE WHEN EXISTS (
                   SELECT FROM runtime.journal j
                    WHERE j.task_id = t.id AND j.attempt = t.attempt AND j.output IS NOT NULL)
               THEN 0 ELSE coalesce(t.deaths, 0) END
         WHERE t.id = ANY (held) AND t.status = 'running';
        WITH suspect AS (
            SELECT t.id, t.deaths FROM runtime.tasks t
             WHERE t.id = ANY (held) AND t.status = 'running' AND t.deaths >= deaths_allowed
             ORDER BY t.deaths DESC, t.started_at DESC, t.id DESC LIMIT 1
        ), hopeless AS (
            DELETE FROM runtime.claims c USING suspect s
             WHERE c.task_id = s.id AND c.worker = dead AND NOT c.cancelled
            RETURNING c.task_id, s.deaths
        )
        UPDATE runtime.tasks t SET status = 'waiting', error = format('its worker died %s times', h.deaths)
          FROM hopeless h WHERE t.id = h.task_id AND t.status = 'running';
        GET DIAGNOSTICS parked = ROW_COUNT;
        UPDATE runtime.tasks t
           SET deaths = least(t.deaths, deaths_allowed - 1),
               run_at = greatest(t.run_at, clock_timestamp() + make_interval(secs => random() * 2.0 ^ (t.deaths - 1)))
         WHERE t.id = ANY (held) AND t.status = 'running' AND t.deaths >= 2;
        taken := taken + parked + runtime.release_tasks(dead, held, 'its worker died');
        DELETE FROM runtime.workers w WHERE w.id = dead;
    END LOOP;
    RETURN taken;
END
$$;

-- Records of workflow runs ------------------------------------------------------------------------------------------
-- A run's record outlives its task. Those that are ours stand here: of a row that another program wrote nothing is ever
-- removed, whatever its `run_id` is.

CREATE TABLE IF NOT EXISTS runtime.workflow_records (
    task_id UUID PRIMARY KEY,
    run_id TEXT NOT NULL
);
INSERT INTO runtime.workflow_records (task_id, run_id)
SELECT t.id, r.run_id FROM ai.workflow_runs r JOIN runtime.tasks t ON r.run_id = t.id::text
 WHERE t.task_type = 'workflow' AND t.adopted IS NOT TRUE
    ON CONFLICT DO NOTHING;

-- As in 008, and it says that the record is ours.
CREATE OR REPLACE FUNCTION runtime.record_workflow_run() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
DECLARE
    workflow TEXT := (SELECT substr(a.handle, length('workflow:') + 1) FROM runtime.agents a
                       WHERE a.id = NEW.agent_id AND starts_with(a.handle, 'workflow:'));
    progress RECORD;
    run_status TEXT;
    reason TEXT;
BEGIN
    IF workflow IS NULL THEN
        RETURN NULL;  -- somebody's own word for a task of an ordinary agent
    END IF;
    -- A claim waits for nobody: where an outsider holds the row, the first step says that the run is running.
    IF TG_OP = 'UPDATE' AND NEW.status = 'running' THEN
        PERFORM FROM ai.workflow_runs r WHERE r.run_id = NEW.id::text FOR NO KEY UPDATE SKIP LOCKED;
        IF NOT FOUND AND EXISTS (SELECT FROM ai.workflow_runs r WHERE r.run_id = NEW.id::text) THEN
            RETURN NULL;
        END IF;
    END IF;
    CASE
        WHEN NEW.status = 'pending' THEN
            run_status := 'PENDING';
        WHEN NEW.status IN ('running', 'waiting') THEN
            run_status := 'RUNNING';
        WHEN NEW.status = 'completed' THEN
            run_status := 'COMPLETED';
        ELSE
            run_status := 'FAILED';
            reason := CASE NEW.status
                WHEN 'failed' THEN coalesce(NEW.result -> 'error' ->> 'message', NEW.error, 'no reason was written')
                WHEN 'cancelled' THEN 'cancelled'
                ELSE format('its task was given the status %s', coalesce(NEW.status, 'NULL')) END;
    END CASE;
    SELECT * INTO progress FROM runtime.workflow_progress(NEW.id, NEW.attempt);
    INSERT INTO ai.workflow_runs AS r (
        run_id, workflow_name, user_id, status, started_at, completed_at, current_step, steps_completed,
        input_data, output_data, error_message, metrics)
    VALUES (
        NEW.id::text, workflow, NEW.user_id::text, run_status,
        coalesce(NEW.started_at, NEW.submitted_at, now()) AT TIME ZONE 'UTC',
        CASE WHEN run_status IN ('COMPLETED', 'FAILED') THEN coalesce(NEW.completed_at, now() AT TIME ZONE 'UTC') END,
        CASE WHEN run_status <> 'COMPLETED' THEN progress.current END, progress.steps,
        coalesce(NEW.payload -> 'input', NEW.payload),
        CASE WHEN run_status = 'COMPLETED' THEN nullif(coalesce(NEW.result -> 'output', NEW.result), 'null') END,
        reason, progress.metrics)
    ON CONFLICT (run_id) DO UPDATE
       SET workflow_name = excluded.workflow_name, user_id = excluded.user_id,
           status = excluded.status, completed_at = excluded.completed_at, current_step = excluded.current_step,
           -- The first attempt's: a run that goes on has not begun again.
           started_at = CASE WHEN NEW.attempt = 1 THEN excluded.started_at ELSE r.started_at END,
           steps_completed = excluded.steps_completed, input_data = excluded.input_data,
           output_data = excluded.output_data, error_message = excluded.error_message, metrics = excluded.metrics;
    INSERT INTO runtime.workflow_records (task_id, run_id) VALUES (NEW.id, NEW.id::text) ON CONFLICT DO NOTHING;
    RETURN NULL;
END
$$;

-- Remove up to `batch` of our records of runs that ended longer ago than `age`, and whose tasks are gone: a parent, and a
-- failed run that may be tried again, are there as long as their tasks are. When `dry`, nothing is removed, and those
-- tasks count as gone that `remove_old_tasks` would remove.
CREATE OR REPLACE FUNCTION runtime.remove_old_runs(
    age INTERVAL, completed INTERVAL, failed INTERVAL, batch INTEGER, dry BOOLEAN
) RETURNS INTEGER
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
DECLARE
    old UUID[];
BEGIN
    IF NOT pg_try_advisory_xact_lock(hashtextextended('cirkelline.retention', 0)) THEN
        RETURN 0;
    END IF;
    old := ARRAY(
        SELECT w.task_id FROM runtime.workflow_records w JOIN ai.workflow_runs r ON r.run_id = w.run_id
         WHERE r.completed_at < (now() - age) AT TIME ZONE 'UTC'
           AND r.status IN ('COMPLETED', 'FAILED')
           AND NOT EXISTS (
               SELECT FROM runtime.tasks t
                WHERE t.id = w.task_id
                  AND NOT (dry AND t.adopted IS NOT TRUE
                           AND coalesce(t.finished_at < now() - CASE t.status WHEN 'completed' THEN completed
                                                                              WHEN 'failed' THEN failed
                                                                              WHEN 'cancelled' THEN failed END, FALSE)
                           AND NOT EXISTS (SELECT FROM runtime.tasks c WHERE c.parent = t.id
                                              AND c.status IN ('pending', 'running', 'waiting'))))
         LIMIT batch FOR UPDATE OF w SKIP LOCKED);
    IF NOT dry THEN
        DELETE FROM ai.workflow_runs r WHERE r.run_id = ANY (ARRAY(SELECT listed.id::text FROM unnest(old) AS listed (id)));
        -- And of records that somebody else has removed, or whose user has left.
        DELETE FROM runtime.workflow_records w
         WHERE w.task_id = ANY (old) OR NOT EXISTS (SELECT FROM ai.workflow_runs r WHERE r.run_id = w.run_id);
    END IF;
    RETURN cardinality(old);
END
$$;
