-- A task's way: claim, finish, release, take over, cancel. Each step is one function of separate statements, because
-- a lock and the read that relies on it must not share a snapshot.
--
-- Locks are taken in one order everywhere: workers, tasks (by id), agent_heads (by id), and only then the tasks' rows in
-- queue and claims. A claim waits for nobody: it skips what is locked, so an outsider's open transaction stops no worker.
-- Heads come after tasks: whoever has to wait for an outsider's task must not hold up every other task of its agents.
-- Their plans are kept for as long as a connection lives, and one made while a table was empty must still be right when
-- it holds a million rows: hence every hot table is reached by `= ANY (an array)` or by a LATERAL … LIMIT 1, which can be
-- nothing but an index lookup whatever the statistics say, and sequential scans are off.

-- Whether a number is one that can be added to without leaving the range of numeric.
CREATE OR REPLACE FUNCTION runtime.is_addable(value JSONB) RETURNS BOOLEAN
LANGUAGE sql IMMUTABLE AS $$
    SELECT jsonb_typeof(value) = 'number' AND length(value::text) < 10000
$$;

-- One finished run folded onto the latest state. `acc` is NULL for the first run of the batch, which starts from
-- `initial`. Returns {"state": …, "problem": NULL or why this run's operations cannot be kept}; it never raises.
CREATE OR REPLACE FUNCTION runtime.fold_run(acc JSONB, initial JSONB, run JSONB, state_limit INTEGER) RETURNS JSONB
LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
    state JSONB := coalesce(acc -> 'state', initial);
    before JSONB := state -> 'work';
    work JSONB := before;
    stats JSONB := state -> 'stats';
    operations JSONB := run -> 'operations';
    operation JSONB;
    name TEXT;
    value JSONB;
    held TEXT;
    problem TEXT;
    outcome TEXT := run ->> 'status';
BEGIN
    IF outcome = 'completed' AND jsonb_typeof(operations) = 'array' AND operations <> '[]' THEN
        FOR position IN 0 .. jsonb_array_length(operations) - 1 LOOP
            operation := operations -> position;
            name := operation ->> 'key';
            value := coalesce(operation -> 'value', 'null');
            held := jsonb_typeof(work -> name);
            IF name IS NULL THEN
                problem := 'a state operation names no key';
                EXIT;
            END IF;
            CASE operation ->> 'op'
                WHEN 'set' THEN
                    work := work || jsonb_build_object(name, value);
                WHEN 'remove' THEN
                    work := work - name;
                WHEN 'increment' THEN
                    IF held <> 'number' THEN
                        problem := format('cannot increment state key %I: it holds a %s by now', name, held);
                        EXIT;
                    ELSIF NOT runtime.is_addable(value) OR NOT coalesce(runtime.is_addable(work -> name), TRUE) THEN
                        problem := format('cannot increment state key %I: its numbers are too long to add', name);
                        EXIT;
                    END IF;
                    work := work || jsonb_build_object(
                        name, coalesce((work ->> name)::numeric, 0) + (value #>> '{}')::numeric);
                WHEN 'append' THEN
                    IF held <> 'array' THEN
                        problem := format('cannot append to state key %I: it holds a %s by now', name, held);
                        EXIT;
                    END IF;
                    work := work || jsonb_build_object(
                        name, coalesce(work -> name, '[]') || jsonb_build_array(value));
                ELSE
                    problem := format('unknown state operation %s', operation ->> 'op');
                    EXIT;
            END CASE;
        END LOOP;
        -- A state that is over the limit already (adopted, or the limit was lowered) may still shrink.
        IF problem IS NULL AND octet_length(work::text) > greatest(state_limit, octet_length(before::text)) THEN
            problem := format('the agent''s state would be %s bytes, over the limit of %s: keep histories elsewhere',
                              octet_length(work::text), state_limit);
        END IF;
        IF problem IS NOT NULL THEN
            work := before;
            outcome := 'failed';
        END IF;
    END IF;
    stats := stats || jsonb_build_object(
        outcome, CASE WHEN runtime.is_addable(stats -> outcome) THEN (stats ->> outcome)::numeric ELSE 0 END + 1,
        'tokens', CASE WHEN runtime.is_addable(stats -> 'tokens') THEN (stats ->> 'tokens')::numeric ELSE 0 END
                  + CASE WHEN runtime.is_addable(run -> 'tokens') THEN (run ->> 'tokens')::numeric ELSE 0 END,
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
LANGUAGE sql STABLE AS $$
    SELECT CASE
        WHEN state IS NULL OR jsonb_typeof(state) <> 'object' THEN '{"work": {}, "stats": {}}'::jsonb
        WHEN jsonb_typeof(state -> 'work') = 'object'
            THEN jsonb_build_object('work', state -> 'work', 'stats',
                CASE WHEN jsonb_typeof(state -> 'stats') = 'object' THEN state -> 'stats' ELSE '{}'::jsonb END)
        ELSE jsonb_build_object('work', state, 'stats', '{}'::jsonb)
    END
$$;

-- What is due. A session's turns run one after the other: the earliest that is queued, and only if none is claimed.
-- (Scalar subqueries, since an EXISTS may be turned into a scan of the whole table.)
CREATE OR REPLACE VIEW runtime.line AS
SELECT q.task_id, q.agent_id, q.session_id, q.beside, q.priority, q.sequence,
       q.session_id IS NULL OR (
           q.sequence = (SELECT min(e.sequence) FROM runtime.queue e WHERE e.session_id = q.session_id)
           AND (SELECT count(*) FROM runtime.claims c WHERE c.session_id = q.session_id) = 0
       ) AS has_turn
  FROM runtime.queue q WHERE q.run_at IS NULL;

-- How many tasks of an agent may be claimed at this moment: NULL for as many as one likes, 0 while it may not run.
-- A status that is not ours (or none) stops nothing.
CREATE OR REPLACE FUNCTION runtime.room(wanted UUID) RETURNS TABLE (version INTEGER, capped BOOLEAN, places BIGINT)
LANGUAGE sql STABLE AS $$
    SELECT a.definition_version, h.cap IS NOT NULL,
           h.cap - CASE WHEN h.cap IS NOT NULL THEN (SELECT count(*) FROM runtime.claims c WHERE c.agent_id = wanted) END
      FROM runtime.agents a JOIN runtime.agent_heads h ON h.agent_id = wanted
     WHERE a.id = wanted AND a.definition_version IS NOT NULL AND coalesce(a.status, 'idle') NOT IN ('paused', 'retired')
     LIMIT 1
$$;

-- Of these candidates, those that may really run: a capped agent's only as far as it has room, a session's only when
-- no other claim is after one of it. Counting inside the claim would overshoot a cap: the heads are locked here, and
-- the claims are counted by a later statement.
CREATE OR REPLACE FUNCTION runtime.within_caps(ids UUID[], owners UUID[], sessions UUID[]) RETURNS UUID[]
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    held UUID[] := ARRAY(SELECT h.agent_id FROM runtime.agent_heads h
                          WHERE h.agent_id = ANY (owners) AND h.cap IS NOT NULL ORDER BY h.agent_id FOR UPDATE SKIP LOCKED);
BEGIN
    RETURN ARRAY(
        SELECT numbered.task_id FROM (
            SELECT c.task_id, c.agent_id, c.place, room.places,
                   row_number() OVER (PARTITION BY c.agent_id ORDER BY c.place) AS nth
              FROM unnest(ids, owners, sessions) WITH ORDINALITY AS c (task_id, agent_id, session_id, place)
             CROSS JOIN LATERAL runtime.room(c.agent_id) room
             WHERE c.session_id IS NULL OR pg_try_advisory_xact_lock(hashtextextended(c.session_id::text, 0))
        ) numbered
        WHERE numbered.places IS NULL OR numbered.agent_id = ANY (held) AND numbered.nth <= numbered.places
        ORDER BY numbered.place);
END
$$;

-- Claim up to `slots` tasks of `agents` for a worker, highest priority first; with `only_session`, that session's alone.
-- A worker without a row (declared dead) claims nothing: nobody would take its tasks over.
CREATE OR REPLACE FUNCTION runtime.claim_tasks(
    claimer UUID, agents UUID[], slots INTEGER, only_session UUID DEFAULT NULL
) RETURNS TABLE (
    id UUID, agent_id UUID, task_type TEXT, payload JSONB, session_id UUID, user_id UUID, attempt INTEGER,
    definition_version INTEGER
)
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
#variable_conflict use_column
DECLARE
    wanted INTEGER := slots;
    taken INTEGER;
    found INTEGER;
    known BOOLEAN;
    due BOOLEAN;
    ids UUID[];
    owners UUID[];
    sessions UUID[];
    versions INTEGER[];
    fitting UUID[];
    limited BOOLEAN;
BEGIN
    SELECT EXISTS (SELECT FROM runtime.workers w WHERE w.id = claimer),
           EXISTS (SELECT FROM runtime.queue q WHERE q.run_at <= clock_timestamp()) INTO known, due;
    IF NOT known THEN
        RETURN;
    END IF;
    IF due THEN
        LOCK TABLE runtime.tasks IN ROW SHARE MODE;  -- or an outsider's TRUNCATE and this could wait for each other
        UPDATE runtime.queue q SET run_at = NULL WHERE q.task_id = ANY (ARRAY(
            SELECT d.task_id FROM runtime.queue d WHERE d.run_at <= clock_timestamp()
             ORDER BY d.run_at LIMIT 1000 FOR UPDATE SKIP LOCKED));
    END IF;

    FOR round IN 1..3 LOOP
        -- Candidates, best first, are chosen without a lock, and more of them than are wanted.
        IF only_session IS NOT NULL THEN
            -- Its next turn, and after that what is to be done beside its turns.
            SELECT array_agg(c.task_id), array_agg(c.agent_id), array_agg(c.session_id), array_agg(c.version), TRUE, 0
              INTO ids, owners, sessions, versions, limited, found
              FROM (SELECT l.task_id, l.agent_id, l.session_id, room.version
                      FROM ((SELECT * FROM runtime.line l WHERE l.session_id = only_session AND l.has_turn LIMIT 1)
                             UNION ALL
                            (SELECT * FROM runtime.line l WHERE l.beside = only_session ORDER BY l.sequence LIMIT 1)) l
                     CROSS JOIN LATERAL runtime.room(l.agent_id) room
                     WHERE l.agent_id = ANY (agents)) c;
        ELSIF round = 1 THEN
            -- The head of the whole line, which is nearly always enough.
            SELECT array_agg(c.task_id), array_agg(c.agent_id), array_agg(c.session_id), array_agg(c.version),
                   bool_or(c.capped OR c.session_id IS NOT NULL), count(*)
              INTO ids, owners, sessions, versions, limited, found
              FROM (SELECT l.task_id, l.agent_id, l.session_id, room.version, room.capped
                      FROM (SELECT * FROM runtime.line ORDER BY priority DESC, sequence LIMIT wanted * 4 + 20) l
                     CROSS JOIN LATERAL runtime.room(l.agent_id) room
                     WHERE l.has_turn AND l.agent_id = ANY (agents) AND (room.places IS NULL OR room.places > 0)
                     LIMIT wanted * 2 + 10) c;
        ELSE
            -- Every agent's own line, when those who cannot run now (capped, paused, not served here) hold the head;
            -- and much more of it, when what was found there is just being claimed by other workers.
            SELECT array_agg(c.task_id), array_agg(c.agent_id), array_agg(c.session_id), array_agg(c.version),
                   bool_or(c.capped OR c.session_id IS NOT NULL), count(*)
              INTO ids, owners, sessions, versions, limited, found
              FROM (SELECT l.task_id, l.agent_id, l.session_id, room.version, room.capped
                      FROM unnest(agents) AS listed (agent_id)
                     CROSS JOIN LATERAL runtime.room(listed.agent_id) room
                     CROSS JOIN LATERAL (
                          SELECT * FROM runtime.line l WHERE l.agent_id = listed.agent_id AND l.has_turn
                           ORDER BY l.priority DESC, l.sequence
                           LIMIT CASE WHEN room.capped THEN greatest(room.places, 0)
                                       WHEN round = 2 THEN wanted + 10
                                       ELSE greatest(wanted, 2000 / cardinality(agents)) END) l
                     ORDER BY l.priority DESC, l.sequence) c;
        END IF;
        fitting := CASE WHEN limited THEN runtime.within_caps(ids, owners, sessions) ELSE ids END;
        -- Each is locked as it comes, until there are enough; what somebody else holds is passed over.
        SELECT array_agg(locked.id), array_agg(versions[array_position(ids, locked.id)]) INTO fitting, versions
          FROM (SELECT t.id FROM unnest(fitting) AS next (task_id)
                 CROSS JOIN LATERAL (
                     SELECT t.id FROM runtime.tasks t
                      WHERE t.id = next.task_id AND t.status = 'pending'
                        AND t.agent_id = owners[array_position(ids, next.task_id)]
                        AND (SELECT count(*) FROM runtime.claims c WHERE c.task_id = t.id) = 0
                      LIMIT 1 FOR NO KEY UPDATE SKIP LOCKED) t
                 LIMIT wanted) locked;

        RETURN QUERY
        WITH unqueued AS (
            DELETE FROM runtime.queue q WHERE q.task_id = ANY (fitting)
        ), started AS (
            UPDATE runtime.tasks t
               SET status = 'running', worker = claimer, attempt = coalesce(t.attempt, 0) + 1, error = NULL,
                   started_at = clock_timestamp(),
                   definition_version = coalesce(t.definition_version, versions[array_position(fitting, t.id)])
             WHERE t.id = ANY (fitting)
            RETURNING t.id, t.agent_id, t.task_type, t.payload, t.session_id, t.user_id, t.attempt,
                      t.definition_version, t.sequence
        ), claimed AS (
            INSERT INTO runtime.claims (task_id, agent_id, session_id, worker, attempt)
            SELECT s.id, s.agent_id, s.session_id, claimer, s.attempt FROM started s
        )
        SELECT s.id, s.agent_id, s.task_type::text, s.payload, s.session_id, s.user_id, s.attempt, s.definition_version
          FROM started s ORDER BY s.sequence;
        GET DIAGNOSTICS taken = ROW_COUNT;
        -- Once more, and deeper, only if there may be candidates that this look left out.
        EXIT WHEN taken = wanted OR only_session IS NOT NULL
               OR round = 1 AND found < wanted * 2 + 10 AND NOT EXISTS (
                   SELECT FROM runtime.queue q WHERE q.run_at IS NULL
                    ORDER BY q.priority DESC, q.sequence OFFSET wanted * 4 + 20 - taken)
               OR round = 2 AND found < wanted + 10;
        wanted := wanted - taken;
    END LOOP;
END
$$;

-- Finish claimed tasks: result, status, snapshot and messages, all or nothing. `runs` is an array of
-- {"task", "attempt", "status", "result", "error", "tokens", "operations": […], "messages": [{"role", "content"}],
-- "steps": […], "session": {…}}: `steps` is what the journal does not hold yet, `session` what 010 reads.
-- A run that ends as `waiting` is parked, unless what it waited for has been decided meanwhile: then it is pending again.
-- Fenced by (worker, attempt): what is no longer claimed by this worker is left out of the answer and unchanged.
CREATE OR REPLACE FUNCTION runtime.finish_tasks(finisher UUID, runs JSONB, state_limit INTEGER)
RETURNS TABLE (id UUID, status TEXT, state_version INTEGER, error TEXT)
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
#variable_conflict use_column
DECLARE
    ids UUID[] := ARRAY(SELECT (run.item ->> 'task')::uuid FROM jsonb_array_elements(runs) AS run (item));
BEGIN
    -- Lock first, in id order, or two batches deadlock; the next statement's snapshot reads what is true then, and finds
    -- each row once: what is locked stays in its place (ctid) until that statement writes it.
    PERFORM FROM runtime.tasks t WHERE t.id = ANY (ids) ORDER BY t.id FOR NO KEY UPDATE;
    PERFORM FROM runtime.agent_heads h
      WHERE h.agent_id = ANY (ARRAY(
          SELECT c.agent_id FROM runtime.claims c WHERE c.task_id = ANY (ids) AND c.worker = finisher))
      ORDER BY h.agent_id FOR UPDATE;

    IF runs @? '$[*].session' THEN
        runs := runtime.fold_sessions(finisher, runs, state_limit);
    END IF;

    RETURN QUERY
    WITH mine AS (
        SELECT DISTINCT ON (c.task_id) c.task_id, c.agent_id, c.place, run.item, run.ordinal,
               CASE WHEN run.item ->> 'status' <> 'waiting' THEN run.item ->> 'status'
                    WHEN c.cancelled THEN 'cancelled'
                    WHEN runtime.is_undecided(c.task_id) THEN 'waiting'
                    ELSE 'pending' END AS outcome,
               run.item ->> 'status' IN ('completed', 'failed') AND EXISTS (
                   SELECT FROM runtime.agents a WHERE a.id = c.agent_id OFFSET 0) AS leaves_snapshot
          FROM jsonb_array_elements(runs) WITH ORDINALITY AS run (item, ordinal)
         CROSS JOIN LATERAL (
             SELECT c.task_id, c.agent_id, c.cancelled, c.ctid AS place FROM runtime.claims c
              WHERE c.task_id = (run.item ->> 'task')::uuid AND c.worker = finisher
                AND c.attempt = (run.item ->> 'attempt')::integer LIMIT 1) c
    ), unclaimed AS (
        DELETE FROM runtime.claims c WHERE c.ctid = ANY (ARRAY(SELECT m.place FROM mine m))
    ), running AS (
        -- What somebody else ended or took away meanwhile stays as they left it.
        -- Of what the task has paid for, the agent's stats get what an earlier failure has not given them yet.
        SELECT m.task_id, m.agent_id, m.outcome, m.ordinal, m.leaves_snapshot, t.session_id, t.user_id, t.place,
               CASE WHEN t.tokens_counted IS NULL THEN m.item ELSE m.item || jsonb_build_object(
                   'tokens', greatest((m.item ->> 'tokens')::bigint - t.tokens_counted, 0)) END AS item,
               row_number() OVER (PARTITION BY m.agent_id, m.leaves_snapshot ORDER BY m.ordinal) AS nth
          FROM mine m
         CROSS JOIN LATERAL (SELECT t.session_id, t.user_id, t.tokens_counted, t.ctid AS place FROM runtime.tasks t
                              WHERE t.id = m.task_id AND t.status = 'running' LIMIT 1) t
    ), ended AS (
        -- The first run of an agent starts from the latest state, the next from what that one made of it. The greatest
        -- integer is where versions stop counting: somebody else's snapshot may hold it.
        SELECT r.task_id, r.agent_id, r.session_id, r.user_id, r.item, r.outcome, r.ordinal, r.place, r.leaves_snapshot,
               latest.head,
               CASE WHEN r.leaves_snapshot THEN least(latest.version + r.nth, 2147483647)::integer END AS version,
               CASE WHEN r.leaves_snapshot THEN
                   runtime.fold(CASE WHEN r.nth = 1 THEN runtime.as_snapshot(latest.state) END, r.item, state_limit)
                       OVER (PARTITION BY r.agent_id, r.leaves_snapshot ORDER BY r.ordinal ROWS UNBOUNDED PRECEDING)
               END AS fold
          FROM running r
          LEFT JOIN LATERAL (
              SELECT greatest(h.version, s.version)::bigint AS version, s.state, h.ctid AS head
                FROM runtime.agent_heads h
                LEFT JOIN LATERAL (
                    SELECT s.version, s.state FROM runtime.agent_states s
                     WHERE s.agent_id = r.agent_id AND s.version IS NOT NULL ORDER BY s.version DESC NULLS LAST LIMIT 1
                ) s ON TRUE
               WHERE h.agent_id = r.agent_id LIMIT 1
          ) latest ON TRUE
    ), snapshot AS (
        INSERT INTO runtime.agent_states (id, agent_id, state, timestamp, version)
        SELECT gen_random_uuid(), e.agent_id, e.fold -> 'state', now() AT TIME ZONE 'UTC', e.version
          FROM ended e WHERE e.version IS NOT NULL
    ), counted AS (
        UPDATE runtime.agent_heads h SET version = newest.version
          FROM (SELECT DISTINCT ON (e.agent_id) e.head, e.version FROM ended e WHERE e.version IS NOT NULL
                 ORDER BY e.agent_id, e.version DESC) newest
         WHERE h.ctid = newest.head
    ), journaled AS (
        INSERT INTO runtime.journal (task_id, position, call, attempt, ms, begun, input_tokens, output_tokens, format,
                                     error, kind, name, input_hash, output, operations, citations, cost, waits, until)
        SELECT step.* FROM ended e
         CROSS JOIN LATERAL runtime.journal_rows(e.task_id, (e.item ->> 'attempt')::integer, CASE
             -- What was paid for stays on record; an answer that stands in no result has to stand there whole.
             WHEN e.fold ->> 'problem' IS NULL THEN e.item -> 'steps'
             ELSE runtime.steps_with_text(e.item -> 'steps', e.item -> 'result' -> 'output') END) step
         WHERE e.item ? 'steps'
            ON CONFLICT DO NOTHING
    ), spoken AS (
        INSERT INTO runtime.messages (session_id, task_id, user_id, role, content)
        SELECT e.session_id, e.task_id, e.user_id, said.message ->> 'role',
               nullif(said.message ->> 'content', CASE said.message ->> 'role'
                   WHEN 'user' THEN (SELECT t.payload ->> 'input' FROM runtime.tasks t WHERE t.id = e.task_id)
                   ELSE e.item #>> '{result,output}' END)
          FROM ended e
         CROSS JOIN LATERAL jsonb_array_elements(e.item -> 'messages') WITH ORDINALITY AS said (message, place)
         WHERE e.session_id IS NOT NULL AND e.item ->> 'status' <> 'failed' AND e.fold ->> 'problem' IS NULL
         ORDER BY e.ordinal, said.place
    )
    UPDATE runtime.tasks t
       SET status = CASE WHEN e.fold ->> 'problem' IS NULL THEN e.outcome ELSE 'failed' END,
           result = CASE WHEN e.fold ->> 'problem' IS NULL THEN e.item -> 'result'
                         ELSE jsonb_build_object('error', jsonb_build_object(
                             'type', 'StateRefused', 'message', e.fold ->> 'problem')) END,
           error = coalesce(e.fold ->> 'problem', e.item ->> 'error'), state_version = e.version,
           completed_at = CASE WHEN e.outcome NOT IN ('waiting', 'pending') THEN now() AT TIME ZONE 'UTC' END,
           finished_at = CASE WHEN e.outcome NOT IN ('waiting', 'pending') THEN clock_timestamp() END,
           tokens_counted = CASE
               WHEN e.leaves_snapshot AND (e.outcome = 'failed' OR e.fold ->> 'problem' IS NOT NULL)
               THEN coalesce(t.tokens_counted, 0) + coalesce((e.item ->> 'tokens')::bigint, 0)
               ELSE t.tokens_counted END
      FROM ended e
     WHERE t.ctid = e.place
    RETURNING t.id, t.status::text, t.state_version, t.error;

    IF runs @? '$[*].session' THEN
        PERFORM runtime.keep_sessions(runs);
    END IF;
END
$$;

-- Give claimed tasks back unfinished: pending again in their old place, with the reason shown.
CREATE OR REPLACE FUNCTION runtime.release_tasks(releaser UUID, task_ids UUID[], reason TEXT) RETURNS INTEGER
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
DECLARE
    given_back INTEGER;
BEGIN
    PERFORM FROM runtime.tasks t WHERE t.id = ANY (task_ids) ORDER BY t.id FOR NO KEY UPDATE;
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

-- Take over what dead workers held: pending again, or parked once `deaths_allowed` workers died on the task.
-- A worker is dead when its own lease has lapsed by the database's clock. Returns how many tasks changed hands.
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
        WITH hopeless AS (
            DELETE FROM runtime.claims c USING runtime.tasks t
             WHERE c.worker = dead AND NOT c.cancelled AND t.id = c.task_id AND t.deaths >= deaths_allowed
            RETURNING c.task_id, t.deaths
        )
        UPDATE runtime.tasks t SET status = 'waiting', error = format('its worker died %s times', h.deaths)
          FROM hopeless h WHERE t.id = h.task_id AND t.status = 'running';
        GET DIAGNOSTICS parked = ROW_COUNT;
        taken := taken + parked + runtime.release_tasks(dead, held, 'its worker died');
        DELETE FROM runtime.workers w WHERE w.id = dead;
    END LOOP;
    RETURN taken;
END
$$;

-- Cancel a task: at once when nobody runs it, by its worker when somebody does. Returns what happened:
-- 'cancelled', 'asked' (its worker was told), the status it had already ended with, or NULL for no such task.
CREATE OR REPLACE FUNCTION runtime.cancel_task(wanted UUID) RETURNS TEXT
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    task RECORD;
BEGIN
    SELECT t.status, t.adopted INTO task FROM runtime.tasks t WHERE t.id = wanted FOR NO KEY UPDATE;
    IF NOT FOUND OR task.adopted OR coalesce(task.status, '') NOT IN ('pending', 'waiting', 'running') THEN
        RETURN task.status;
    END IF;
    IF task.status = 'running' THEN
        UPDATE runtime.claims c SET cancelled = TRUE WHERE c.task_id = wanted;
        IF FOUND THEN
            PERFORM pg_notify('cirkelline_cancel', wanted::text);
            RETURN 'asked';
        END IF;
    END IF;
    -- The trigger takes it out of the queue.
    UPDATE runtime.tasks t
       SET status = 'cancelled', error = 'cancelled', completed_at = now() AT TIME ZONE 'UTC',
           finished_at = clock_timestamp()
     WHERE t.id = wanted;
    RETURN 'cancelled';
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
    SELECT runtime.as_snapshot(s.state) INTO old FROM runtime.agent_states s
     WHERE s.agent_id = wanted_agent AND s.version = wanted_version LIMIT 1;
    IF old IS NULL THEN
        RETURN NULL;
    END IF;
    INSERT INTO runtime.agent_heads (agent_id) VALUES (wanted_agent) ON CONFLICT DO NOTHING;
    PERFORM FROM runtime.agent_heads h WHERE h.agent_id = wanted_agent FOR UPDATE;
    SELECT s.version, runtime.as_snapshot(s.state) AS state INTO newest FROM runtime.agent_states s
     WHERE s.agent_id = wanted_agent AND s.version IS NOT NULL ORDER BY s.version DESC NULLS LAST LIMIT 1;
    UPDATE runtime.agent_heads h SET version = least(greatest(h.version, newest.version)::bigint + 1, 2147483647)
     WHERE h.agent_id = wanted_agent RETURNING h.version INTO new_version;
    INSERT INTO runtime.agent_states (id, agent_id, state, timestamp, version)
    VALUES (gen_random_uuid(), wanted_agent,
            jsonb_build_object('work', old -> 'work', 'stats', newest.state -> 'stats'),
            now() AT TIME ZONE 'UTC', new_version);
    RETURN new_version;
END
$$;
