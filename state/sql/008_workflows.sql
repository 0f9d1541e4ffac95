-- Workflows: a run is a task of the workflow's own row in `agents` (handle `workflow:NAME`), its steps are journal rows,
-- and `ai.workflow_runs` is kept right here, in the transactions that change the task or the journal, whoever changes
-- them. `run_id` is the task's id; rows of that table which other programs write are never touched.

-- How far a run has come, read from its journal. `current` is the last step unless that one is completed: the step that
-- is executed, or at which the run stopped. `steps` are the names of the completed ones in their order.
CREATE OR REPLACE FUNCTION runtime.workflow_progress(wanted UUID, attempts INTEGER)
RETURNS TABLE (current TEXT, steps JSONB, metrics JSONB)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
    SELECT (array_agg(CASE WHEN j.output IS NULL OR j.error THEN j.name END ORDER BY j.position DESC))[1],
           coalesce(jsonb_agg(j.name ORDER BY j.position) FILTER (WHERE j.output IS NOT NULL AND NOT j.error), '[]'),
           jsonb_build_object(
               'attempts', coalesce(attempts, 0),
               'ms', coalesce(sum(j.ms), 0),
               'steps', coalesce(jsonb_object_agg(j.name, jsonb_build_object('ms', j.ms, 'attempt', j.attempt))
                                 FILTER (WHERE j.output IS NOT NULL AND NOT j.error), '{}'))
      FROM runtime.journal j WHERE j.task_id = wanted AND j.kind = 'step'
$$;

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
    RETURN NULL;
END
$$;
-- The conditions are all that an ordinary task pays.
CREATE OR REPLACE TRIGGER workflow_added AFTER INSERT ON runtime.tasks
    FOR EACH ROW WHEN (NEW.task_type = 'workflow' AND NEW.adopted IS NOT TRUE)
    EXECUTE FUNCTION runtime.record_workflow_run();
CREATE OR REPLACE TRIGGER workflow_changed
    AFTER UPDATE OF status, agent_id, task_type, payload, result, error, user_id, completed_at ON runtime.tasks
    FOR EACH ROW WHEN (NEW.task_type = 'workflow' AND NEW.adopted IS NOT TRUE)
    EXECUTE FUNCTION runtime.record_workflow_run();

CREATE OR REPLACE FUNCTION runtime.record_workflow_step() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
BEGIN
    UPDATE ai.workflow_runs r
       SET current_step = progress.current, steps_completed = progress.steps, metrics = progress.metrics,
           status = CASE WHEN r.status = 'PENDING' AND EXISTS (
                        SELECT FROM runtime.tasks t WHERE t.id = NEW.task_id AND t.status = 'running')
                    THEN 'RUNNING' ELSE r.status END
      FROM runtime.workflow_progress(NEW.task_id, NEW.attempt) progress
     WHERE r.run_id = NEW.task_id::text;
    RETURN NULL;
END
$$;
CREATE OR REPLACE TRIGGER workflow_step AFTER INSERT OR UPDATE ON runtime.journal
    FOR EACH ROW WHEN (NEW.kind = 'step') EXECUTE FUNCTION runtime.record_workflow_step();

-- A run outlives its task as a record; one that had not ended never will. Before a TRUNCATE, as nothing names them later.
CREATE OR REPLACE FUNCTION runtime.end_removed_workflow_runs() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    ids TEXT[];
BEGIN
    IF TG_OP = 'TRUNCATE' THEN
        ids := ARRAY(SELECT t.id::text FROM runtime.tasks t WHERE t.task_type = 'workflow');
    ELSE
        ids := ARRAY(SELECT removed.id::text FROM removed WHERE removed.task_type = 'workflow');
    END IF;
    UPDATE ai.workflow_runs r
       SET status = 'FAILED', error_message = 'its task was removed', completed_at = now() AT TIME ZONE 'UTC'
     WHERE r.run_id = ANY (ids) AND r.status IN ('PENDING', 'RUNNING');
    RETURN NULL;
END
$$;
CREATE OR REPLACE TRIGGER workflows_removed AFTER DELETE ON runtime.tasks
    REFERENCING OLD TABLE AS removed
    FOR EACH STATEMENT EXECUTE FUNCTION runtime.end_removed_workflow_runs();
CREATE OR REPLACE TRIGGER workflows_emptied BEFORE TRUNCATE ON runtime.tasks
    FOR EACH STATEMENT EXECUTE FUNCTION runtime.end_removed_workflow_runs();
