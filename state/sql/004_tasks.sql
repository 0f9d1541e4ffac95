-- A task's way: claim, finish, release, take over, cancel. Each step is one function of separate statements, because
-- a lock and the read that relies on it must not share a snapshot.

-- One finished run folded onto the latest state. `acc` is NULL for the first run of the batch, which starts from
-- `initial`. Returns {"state": …, "problem": NULL or why this run's operations cannot be kept}; it never raises.
CREATE OR REPLACE FUNCTION runtime.fold_run(acc JSONB, initial JSONB, run JSONB, state_limit INTEGER) RETURNS JSONB
LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
    state JSONB := coalesce(acc -> 'state', initial);
    work JSONB := state -> 'work';
    stats JSONB := state -> 'stats';
    operation JSONB;
    name TEXT;
    held TEXT;
    problem TEXT;
    outcome TEXT := run ->> 'status';
BEGIN
    IF outcome = 'completed' THEN
        FOR operation IN SELECT * FROM jsonb_array_elements(run -> 'operations') LOOP
            name := operation ->> 'key';
            held := jsonb_typeof(work -> name);
            CASE operation ->> 'op'
                WHEN 'set' THEN
                    work := work || jsonb_build_object(name, operation -> 'value');
                WHEN 'remove' THEN
                    work := work - name;
                WHEN 'increment' THEN
                    IF coalesce(held, 'number') <> 'number' THEN
                        problem := format('cannot increment state key %I: it holds a %s by now', name, held);
                        EXIT;
                    END IF;
                    work := work || jsonb_build_object(
                        name, coalesce((work ->> name)::numeric, 0) + (operation ->> 'value')::numeric);
                WHEN 'append' THEN
                    IF coalesce(held, 'array') <> 'array' THEN
                        problem := format('cannot append to state key %I: it holds a %s by now', name, held);
                        EXIT;
                    END IF;
                    work := work || jsonb_build_object(
                        name, coalesce(work -> name, '[]'::jsonb) || jsonb_build_array(operation -> 'value'));
                ELSE
                    problem := format('unknown state operation %s', operation ->> 'op');
                    EXIT;
            END CASE;
        END LOOP;
        IF problem IS NULL AND octet_length(work::text) > state_limit THEN
            problem := format('the agent''s state would be %s bytes, over the limit of %s: keep histories elsewhere',
                              octet_length(work::text), state_limit);
        END IF;
        IF problem IS NOT NULL THEN
            work := state -> 'work';
            outcome := 'failed';
        END IF;
    END IF;
    stats := stats || jsonb_build_object(
        outcome, coalesce((stats ->> outcome)::numeric, 0) + 1,
        'tokens', coalesce((stats ->> 'tokens')::numeric, 0) + coalesce((run ->> 'tokens')::numeric, 0),
        'last_task', run -> 'task');
    RETURN jsonb_build_object('state', jsonb_build_object('work', work, 'stats', stats), 'problem', problem);
END
$$;

DO $$
BEGIN
    IF to_regprocedure('runtime.fold(jsonb, jsonb, integer)') IS NULL THEN
        CREATE AGGREGATE runtime.fold(initial JSONB, run JSONB, state_limit INTEGER) (
            SFUNC = runtime.fold_run, STYPE = JSONB);
    END IF;
END
$$;

-- A snapshot as ours: what somebody else kept as an agent's state becomes its `work`.
CREATE OR REPLACE FUNCTION runtime.as_snapshot(state JSONB) RETURNS JSONB
LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE
        WHEN state IS NULL OR jsonb_typeof(state) <> 'object' THEN '{"work": {}, "stats": {}}'::jsonb
        WHEN jsonb_typeof(state -> 'work') = 'object'
            THEN jsonb_build_object('work', state -> 'work', 'stats',
                CASE WHEN jsonb_typeof(state -> 'stats') = 'object' THEN state -> 'stats' ELSE '{}'::jsonb END)
        ELSE jsonb_build_object('work', state, 'stats', '{}'::jsonb)
    END
$$;

-- Claim up to `slots` tasks of `agents` for a worker; with `only_session`, tasks of that session alone.
-- A session's turns run one after the other: a turn waits while an earlier one is queued or claimed.
CREATE OR REPLACE FUNCTION runtime.claim_tasks(
    claimer UUID, agents UUID[], slots INTEGER, only_session UUID DEFAULT NULL
) RETURNS TABLE (
    id UUID, agent_id UUID, task_type TEXT, payload JSONB, session_id UUID, user_id UUID, attempt INTEGER,
    definition_version INTEGER
)
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
    capped UUID[];
    chosen UUID[];
BEGIN
    -- Counting inside the claim would overshoot a cap: the head is locked first, the count read in the next statement.
    SELECT array_agg(head.agent_id) INTO capped FROM (
        SELECT h.agent_id FROM runtime.agent_heads h
         WHERE h.cap IS NOT NULL AND h.agent_id = ANY (agents)
           AND EXISTS (SELECT FROM runtime.queue q WHERE q.agent_id = h.agent_id)
         ORDER BY h.agent_id FOR UPDATE SKIP LOCKED) head;

    SELECT array_agg(candidate.task_id) INTO chosen FROM (
        SELECT next.task_id
          FROM unnest(agents) AS listed (agent_id)
          JOIN runtime.agents a ON a.id = listed.agent_id
           AND a.definition_version IS NOT NULL AND a.status NOT IN ('paused', 'retired')
          JOIN runtime.agent_heads h ON h.agent_id = a.id
          CROSS JOIN LATERAL (
              SELECT CASE WHEN h.cap IS NULL THEN slots * 4
                          WHEN h.agent_id = ANY (capped) THEN greatest(0, least(slots,
                              h.cap - (SELECT count(*) FROM runtime.claims c WHERE c.agent_id = h.agent_id)))
                          ELSE 0 END::bigint AS amount
          ) room
          CROSS JOIN LATERAL (
              SELECT q.task_id, q.priority, q.sequence FROM runtime.queue q
               WHERE q.agent_id = a.id AND q.run_at <= clock_timestamp()
                 AND (only_session IS NULL OR q.session_id = only_session)
                 AND (q.session_id IS NULL OR (
                      NOT EXISTS (SELECT FROM runtime.claims c WHERE c.session_id = q.session_id)
                      AND NOT EXISTS (SELECT FROM runtime.queue earlier
                                       WHERE earlier.session_id = q.session_id AND earlier.sequence < q.sequence)))
               ORDER BY q.priority DESC, q.sequence
               LIMIT room.amount
          ) next
         ORDER BY next.priority DESC, next.sequence
         LIMIT slots * 4) candidate;
    IF chosen IS NULL THEN
        RETURN;
    END IF;

    -- Candidates are chosen without a lock and only the taken ones are locked: four times as many as there are slots,
    -- so that workers that chose the same ones still find some.
    SELECT array_agg(taken.task_id) INTO chosen FROM (
        SELECT q.task_id FROM runtime.queue q WHERE q.task_id = ANY (chosen)
         ORDER BY q.priority DESC, q.sequence LIMIT slots FOR UPDATE SKIP LOCKED) taken;

    DELETE FROM runtime.queue q WHERE q.task_id = ANY (chosen);

    RETURN QUERY
    WITH started AS (
        UPDATE runtime.tasks t
           SET status = 'running', worker = claimer, attempt = coalesce(t.attempt, 0) + 1, error = NULL,
               started_at = clock_timestamp(),
               definition_version = coalesce(t.definition_version, a.definition_version)
          FROM runtime.agents a
         WHERE t.id = ANY (chosen) AND t.status = 'pending' AND a.id = t.agent_id
        RETURNING t.id, t.agent_id, t.task_type, t.payload, t.session_id, t.user_id, t.attempt, t.definition_version,
                  t.sequence
    ), claimed AS (
        INSERT INTO runtime.claims (task_id, agent_id, session_id, worker, attempt)
        SELECT s.id, s.agent_id, s.session_id, claimer, s.attempt FROM started s
    )
    SELECT s.id, s.agent_id, s.task_type::text, s.payload, s.session_id, s.user_id, s.attempt, s.definition_version
      FROM started s ORDER BY s.sequence;
END
$$;

-- Finish claimed tasks: result, status, snapshot and messages, all or nothing. `runs` is an array of
-- {"task", "attempt", "status", "result", "error", "tokens", "operations": […], "messages": [{"role", "content"}]}.
-- Fenced by (worker, attempt): what is no longer claimed by this worker is left out of the answer and unchanged.
CREATE OR REPLACE FUNCTION runtime.finish_tasks(finisher UUID, runs JSONB, state_limit INTEGER)
RETURNS TABLE (id UUID, status TEXT, state_version INTEGER, error TEXT)
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
BEGIN
    -- In id order, or two batches deadlock. Lock first; the versions are read by the next statement's snapshot.
    PERFORM FROM runtime.agent_heads h
      WHERE h.agent_id IN (
          SELECT c.agent_id FROM jsonb_to_recordset(runs) AS run (task UUID)
            JOIN runtime.claims c ON c.task_id = run.task AND c.worker = finisher)
      ORDER BY h.agent_id FOR UPDATE;

    RETURN QUERY
    WITH run AS MATERIALIZED (
        SELECT (item ->> 'task')::uuid AS task_id, (item ->> 'attempt')::integer AS attempt, item, ordinal
          FROM jsonb_array_elements(runs) WITH ORDINALITY AS listed (item, ordinal)
    ), mine AS (
        DELETE FROM runtime.claims c USING run
         WHERE c.task_id = run.task_id AND c.worker = finisher AND c.attempt = run.attempt
        RETURNING c.task_id, c.agent_id, run.item, run.ordinal
    ), running AS (
        SELECT mine.*, t.session_id, t.user_id, mine.item ->> 'status' IN ('completed', 'failed') AS leaves_snapshot
          FROM mine JOIN runtime.tasks t ON t.id = mine.task_id AND t.status = 'running'
           FOR UPDATE OF t
    ), head AS (
        SELECT h.agent_id, greatest(h.version, coalesce(latest.version, 0)) AS version,
               runtime.as_snapshot(latest.state) AS state
          FROM runtime.agent_heads h
          LEFT JOIN LATERAL (
              SELECT s.version, s.state FROM runtime.agent_states s
               WHERE s.agent_id = h.agent_id AND s.version IS NOT NULL ORDER BY s.version DESC NULLS LAST LIMIT 1
          ) latest ON TRUE
         WHERE h.agent_id IN (SELECT agent_id FROM running)
    ), folded AS (
        SELECT r.task_id, r.agent_id,
               (head.version + row_number() OVER in_order)::integer AS version,
               runtime.fold(head.state, r.item, state_limit) OVER in_order AS fold
          FROM running r JOIN head ON head.agent_id = r.agent_id
         WHERE r.leaves_snapshot
        WINDOW in_order AS (PARTITION BY r.agent_id ORDER BY r.ordinal ROWS UNBOUNDED PRECEDING)
    ), snapshot AS (
        INSERT INTO runtime.agent_states (id, agent_id, state, timestamp, version)
        SELECT gen_random_uuid(), f.agent_id, f.fold -> 'state', now() AT TIME ZONE 'UTC', f.version FROM folded f
    ), counted AS (
        UPDATE runtime.agent_heads h SET version = newest.version
          FROM (SELECT f.agent_id, max(f.version) AS version FROM folded f GROUP BY f.agent_id) newest
         WHERE h.agent_id = newest.agent_id
    ), spoken AS (
        INSERT INTO runtime.messages (session_id, task_id, user_id, role, content)
        SELECT r.session_id, r.task_id, r.user_id, said.message ->> 'role', said.message ->> 'content'
          FROM running r LEFT JOIN folded f ON f.task_id = r.task_id
         CROSS JOIN LATERAL jsonb_array_elements(r.item -> 'messages') WITH ORDINALITY AS said (message, place)
         WHERE r.session_id IS NOT NULL AND f.fold ->> 'problem' IS NULL
         ORDER BY r.ordinal, said.place
    )
    UPDATE runtime.tasks t
       SET status = CASE WHEN f.fold ->> 'problem' IS NULL THEN r.item ->> 'status' ELSE 'failed' END,
           result = CASE WHEN f.fold ->> 'problem' IS NULL THEN r.item -> 'result'
                         ELSE jsonb_build_object('error', jsonb_build_object(
                             'type', 'StateRefused', 'message', f.fold ->> 'problem')) END,
           error = coalesce(f.fold ->> 'problem', r.item ->> 'error'),
           completed_at = now() AT TIME ZONE 'UTC', finished_at = clock_timestamp(), state_version = f.version
      FROM running r LEFT JOIN folded f ON f.task_id = r.task_id
     WHERE t.id = r.task_id
    RETURNING t.id, t.status::text, t.state_version, t.error;
END
$$;

-- Give claimed tasks back unfinished: pending again in their old place, with the reason shown.
CREATE OR REPLACE FUNCTION runtime.release_tasks(releaser UUID, task_ids UUID[], reason TEXT) RETURNS INTEGER
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    given_back INTEGER;
BEGIN
    WITH mine AS (
        DELETE FROM runtime.claims c WHERE c.worker = releaser AND c.task_id = ANY (task_ids)
        RETURNING c.task_id, c.cancelled
    )
    UPDATE runtime.tasks t
       SET status = CASE WHEN mine.cancelled THEN 'cancelled' ELSE 'pending' END,
           error = CASE WHEN mine.cancelled THEN 'cancelled' ELSE reason END,
           completed_at = CASE WHEN mine.cancelled THEN now() AT TIME ZONE 'UTC' END,
           finished_at = CASE WHEN mine.cancelled THEN clock_timestamp() END
      FROM mine WHERE t.id = mine.task_id AND t.status = 'running';
    GET DIAGNOSTICS given_back = ROW_COUNT;
    RETURN given_back;
END
$$;

-- Take over what dead workers held: pending again, or failed once `deaths_allowed` workers died on the task.
-- A worker is dead when its own lease has lapsed by the database's clock. Returns how many tasks changed hands.
CREATE OR REPLACE FUNCTION runtime.take_over(deaths_allowed INTEGER, state_limit INTEGER) RETURNS INTEGER
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    dead UUID;
    taken INTEGER := 0;
    given_up JSONB;
BEGIN
    FOR dead IN
        SELECT lapsed.id FROM (
            SELECT w.id FROM runtime.workers w WHERE w.seen < clock_timestamp() - w.lease FOR UPDATE SKIP LOCKED
        ) lapsed
        UNION ALL
        -- What a worker claimed after it had been declared dead, and then really died.
        SELECT DISTINCT c.worker FROM runtime.claims c
         WHERE NOT EXISTS (SELECT FROM runtime.workers w WHERE w.id = c.worker)
    LOOP
        SELECT jsonb_agg(jsonb_build_object(
                   'task', t.id, 'attempt', c.attempt, 'status', 'failed', 'operations', '[]'::jsonb,
                   'messages', '[]'::jsonb, 'error', format('its worker died %s times', deaths_allowed),
                   'result', jsonb_build_object('error', jsonb_build_object(
                       'type', 'WorkerDied', 'message', format('its worker died %s times', deaths_allowed)))))
          INTO given_up
          FROM runtime.claims c JOIN runtime.tasks t ON t.id = c.task_id
         WHERE c.worker = dead AND NOT c.cancelled AND coalesce(t.deaths, 0) + 1 >= deaths_allowed;
        IF given_up IS NOT NULL THEN
            PERFORM FROM runtime.finish_tasks(dead, given_up, state_limit);
        END IF;
        UPDATE runtime.tasks t SET deaths = coalesce(t.deaths, 0) + 1
         WHERE t.worker = dead AND t.id IN (SELECT c.task_id FROM runtime.claims c WHERE c.worker = dead);
        taken := taken + coalesce(jsonb_array_length(given_up), 0) + runtime.release_tasks(
            dead, ARRAY(SELECT c.task_id FROM runtime.claims c WHERE c.worker = dead), 'its worker died');
        DELETE FROM runtime.workers w WHERE w.id = dead;
    END LOOP;
    RETURN taken;
END
$$;

-- Cancel a task: at once when it is pending or waiting, by its worker when it runs. Returns what happened:
-- 'cancelled', 'asked' (its worker was told), the status it had already ended with, or NULL for no such task.
CREATE OR REPLACE FUNCTION runtime.cancel_task(wanted UUID) RETURNS TEXT
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    had TEXT;
BEGIN
    -- The queue row first: a claim locks in that order too.
    DELETE FROM runtime.queue q WHERE q.task_id = wanted;
    UPDATE runtime.tasks t
       SET status = 'cancelled', error = 'cancelled', completed_at = now() AT TIME ZONE 'UTC',
           finished_at = clock_timestamp()
     WHERE t.id = wanted AND t.status IN ('pending', 'waiting') AND t.adopted IS NOT TRUE;
    IF FOUND THEN
        RETURN 'cancelled';
    END IF;
    UPDATE runtime.claims c SET cancelled = TRUE WHERE c.task_id = wanted;
    IF FOUND THEN
        PERFORM pg_notify('cirkelline_cancel', wanted::text);
        RETURN 'asked';
    END IF;
    SELECT t.status INTO had FROM runtime.tasks t WHERE t.id = wanted;
    RETURN had;
END
$$;

-- Make an older version's `work` the newest snapshot; the counters go on. Returns the new version, NULL for no such one.
CREATE OR REPLACE FUNCTION runtime.roll_back_state(wanted_agent UUID, wanted_version INTEGER) RETURNS INTEGER
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    old JSONB;
    newest RECORD;
    new_version INTEGER;
BEGIN
    INSERT INTO runtime.agent_heads (agent_id) VALUES (wanted_agent) ON CONFLICT DO NOTHING;
    PERFORM FROM runtime.agent_heads h WHERE h.agent_id = wanted_agent FOR UPDATE;
    SELECT runtime.as_snapshot(s.state) INTO old FROM runtime.agent_states s
     WHERE s.agent_id = wanted_agent AND s.version = wanted_version LIMIT 1;
    IF old IS NULL THEN
        RETURN NULL;
    END IF;
    SELECT s.version, runtime.as_snapshot(s.state) AS state INTO newest FROM runtime.agent_states s
     WHERE s.agent_id = wanted_agent AND s.version IS NOT NULL ORDER BY s.version DESC NULLS LAST LIMIT 1;
    UPDATE runtime.agent_heads h SET version = greatest(h.version, newest.version) + 1
     WHERE h.agent_id = wanted_agent RETURNING h.version INTO new_version;
    INSERT INTO runtime.agent_states (id, agent_id, state, timestamp, version)
    VALUES (gen_random_uuid(), wanted_agent,
            jsonb_build_object('work', old -> 'work', 'stats', newest.state -> 'stats'),
            now() AT TIME ZONE 'UTC', new_version);
    RETURN new_version;
END
$$;
