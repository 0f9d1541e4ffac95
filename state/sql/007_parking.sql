-- Parking: a task that waits for a decision is a row, and nothing else. Each question stands with the call that asks it
-- in the journal, and is decided once: by a person, or by the clock when its time is up. The task's row is locked before
-- its questions are read, here and by the finish that parks it, so that no decision falls between the two.

-- Whether anything that a task waits for has still to be decided.
CREATE OR REPLACE FUNCTION runtime.is_undecided(wanted UUID) RETURNS BOOLEAN
LANGUAGE sql STABLE AS $$
    SELECT count(*) > 0 FROM runtime.journal j
     WHERE j.task_id = wanted AND j.waits IS NOT NULL AND j.decision IS NULL AND j.output IS NULL
$$;

-- Put parked tasks back in line, those for which everything is decided. Their rows are locked by the caller. A task that
-- was parked because its workers died waits for a decision of its own.
CREATE OR REPLACE FUNCTION runtime.unpark_tasks(ids UUID[], deaths_allowed INTEGER) RETURNS INTEGER
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
DECLARE
    unparked INTEGER;
BEGIN
    UPDATE runtime.tasks t SET status = 'pending'
     WHERE t.id = ANY (ids) AND t.status = 'waiting' AND coalesce(t.deaths, 0) < deaths_allowed
       AND NOT runtime.is_undecided(t.id);
    GET DIAGNOSTICS unparked = ROW_COUNT;
    RETURN unparked;
END
$$;

-- Decide one question of a task. Returns 'decided', 'late' when it had been decided before or is gone, or NULL for a task
-- that is not there.
CREATE OR REPLACE FUNCTION runtime.decide(
    wanted UUID, wanted_position INTEGER, wanted_call INTEGER, verdict JSONB, deaths_allowed INTEGER
) RETURNS TEXT
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
DECLARE
    held TEXT;
BEGIN
    SELECT t.status INTO held FROM runtime.tasks t WHERE t.id = wanted FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    UPDATE runtime.journal j
       SET decision = verdict || jsonb_build_object('at', to_char(clock_timestamp() AT TIME ZONE 'UTC',
                                                                  'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')),
           until = NULL
     WHERE held IN ('waiting', 'running')
       AND j.task_id = wanted AND j.position = wanted_position AND j.call = wanted_call
       AND j.waits IS NOT NULL AND j.decision IS NULL AND j.output IS NULL;
    IF NOT FOUND THEN
        RETURN 'late';
    END IF;
    PERFORM runtime.unpark_tasks(ARRAY[wanted], deaths_allowed);
    RETURN 'decided';
END
$$;

-- Let the clock decide what nobody has decided in time. Returns how many tasks are in line again.
CREATE OR REPLACE FUNCTION runtime.expire_waits(deaths_allowed INTEGER) RETURNS INTEGER
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
DECLARE
    ids UUID[] := ARRAY(
        SELECT j.task_id FROM runtime.journal j WHERE j.until <= clock_timestamp() ORDER BY j.until LIMIT 1000);
BEGIN
    IF cardinality(ids) = 0 THEN
        RETURN 0;
    END IF;
    ids := ARRAY(SELECT t.id FROM runtime.tasks t WHERE t.id = ANY (ids) ORDER BY t.id FOR NO KEY UPDATE SKIP LOCKED);
    UPDATE runtime.journal j
       SET decision = coalesce(j.decision, jsonb_build_object('verdict', 'expired', 'at', to_char(
               j.until AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'))),
           until = NULL
     WHERE j.task_id = ANY (ids) AND j.until <= clock_timestamp();
    RETURN runtime.unpark_tasks(ids, deaths_allowed);
END
$$;

-- Decide about a task that was parked because its workers died: once more from where it stands, or failed as it is.
-- Returns the status it has now: 'waiting' also where something else has to be decided first.
CREATE OR REPLACE FUNCTION runtime.decide_deaths(
    wanted UUID, again BOOLEAN, reason TEXT, deaths_allowed INTEGER, state_limit INTEGER
) RETURNS TEXT
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
DECLARE
    task RECORD;
    nobody UUID := gen_random_uuid();
BEGIN
    SELECT t.status, t.deaths, t.agent_id, t.session_id, t.attempt INTO task
      FROM runtime.tasks t WHERE t.id = wanted FOR NO KEY UPDATE;
    IF NOT FOUND OR task.status <> 'waiting' OR coalesce(task.deaths, 0) < deaths_allowed THEN
        RETURN 'late';
    END IF;
    IF again THEN
        UPDATE runtime.tasks t SET deaths = 0, error = NULL WHERE t.id = wanted;
        PERFORM runtime.unpark_tasks(ARRAY[wanted], deaths_allowed);
    ELSE
        -- Ended like every other run, so that it counts in its agent's snapshot.
        UPDATE runtime.tasks t SET status = 'running' WHERE t.id = wanted;
        INSERT INTO runtime.claims (task_id, agent_id, session_id, worker, attempt)
        VALUES (wanted, task.agent_id, task.session_id, nobody, task.attempt);
        PERFORM runtime.finish_tasks(nobody, jsonb_build_array(jsonb_build_object(
            'task', wanted, 'attempt', task.attempt, 'status', 'failed', 'operations', '[]'::jsonb,
            'messages', '[]'::jsonb, 'error', reason,
            'tokens', (SELECT coalesce(sum(coalesce(j.input_tokens, 0) + coalesce(j.output_tokens, 0)), 0)
                         FROM runtime.journal j WHERE j.task_id = wanted),
            'result', jsonb_build_object('error', jsonb_build_object('type', 'WorkerDied', 'message', reason)))),
            state_limit);
    END IF;
    RETURN (SELECT t.status FROM runtime.tasks t WHERE t.id = wanted);
END
$$;
