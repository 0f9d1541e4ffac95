-- The hot path once more, for less: `claim_tasks` and `finish_tasks` do what they did in 004, with fewer rows looked at
-- and fewer sorted, and without keeping those who work beside them waiting.

-- Both updates of a task, its claim's and its finish's, want to stay on its page: a row grows by what each of them adds
-- to it. At 50 one in three finishes did not fit, and wrote every index of the table.
ALTER TABLE runtime.tasks SET (fillfactor = 40);

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
    looked INTEGER := slots * 2 + 20;  -- how much of the whole line is gone over at most
    taken INTEGER;
    found INTEGER;
    known BOOLEAN;
    due BOOLEAN;
    ids UUID[];
    owners UUID[];
    sessions UUID[];
    versions INTEGER[];
    fitting UUID[];
    locked BOOLEAN;
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
        IF only_session IS NOT NULL THEN
            -- Its next turn, and after that what is to be done beside its turns.
            SELECT array_agg(c.task_id), array_agg(c.agent_id), array_agg(c.session_id), array_agg(c.version),
                   FALSE, TRUE, 0
              INTO ids, owners, sessions, versions, locked, limited, found
              FROM (SELECT l.task_id, l.agent_id, l.session_id, room.version
                      FROM ((SELECT * FROM runtime.line l WHERE l.session_id = only_session AND l.has_turn LIMIT 1)
                             UNION ALL
                            (SELECT * FROM runtime.line l WHERE l.beside = only_session ORDER BY l.sequence LIMIT 1)) l
                     CROSS JOIN LATERAL runtime.room(l.agent_id) room
                     WHERE l.agent_id = ANY (agents)) c;
        ELSIF round = 1 THEN
            -- The head of the whole line, which is nearly always enough. What neither a cap nor a session limits is
            -- locked in passing, and what somebody else holds is passed over: many claimers cost no second look.
            SELECT array_agg(c.task_id), array_agg(c.agent_id), array_agg(c.session_id), array_agg(c.version),
                   bool_and(c.held IS NOT NULL), bool_or(c.held IS NULL), count(*)
              INTO ids, owners, sessions, versions, locked, limited, found
              FROM (SELECT l.task_id, l.agent_id, l.session_id, room.version, free.id AS held
                      FROM (SELECT * FROM runtime.line ORDER BY priority DESC, sequence LIMIT looked) l
                     CROSS JOIN LATERAL runtime.room(l.agent_id) room
                      LEFT JOIN LATERAL (
                          SELECT t.id FROM runtime.tasks t
                           WHERE t.id = l.task_id AND NOT room.capped AND l.session_id IS NULL
                             AND t.status = 'pending' AND t.agent_id IS NOT DISTINCT FROM l.agent_id  -- no index
                             AND (SELECT count(*) FROM runtime.claims c WHERE c.task_id = t.id) = 0
                           LIMIT 1 FOR NO KEY UPDATE SKIP LOCKED) free ON TRUE
                     WHERE l.has_turn AND l.agent_id = ANY (agents)
                       AND (free.id IS NOT NULL OR room.places > 0 OR room.places IS NULL AND l.session_id IS NOT NULL)
                     LIMIT wanted) c;
        ELSE
            -- Every agent's own line, when those who cannot run now (capped, paused, not served here) hold the head: what
            -- is next can only be in the lines that begin best. And much more of all lines, when what was found there is
            -- just being claimed by other workers.
            SELECT array_agg(c.task_id), array_agg(c.agent_id), array_agg(c.session_id), array_agg(c.version),
                   FALSE, bool_or(c.capped OR c.session_id IS NOT NULL), count(*)
              INTO ids, owners, sessions, versions, locked, limited, found
              FROM (SELECT l.task_id, l.agent_id, l.session_id, best.version, best.capped
                      FROM (SELECT first.agent_id, room.version, room.capped, room.places
                              FROM (SELECT listed.agent_id FROM unnest(agents) AS listed (agent_id)
                                     CROSS JOIN LATERAL (
                                         SELECT l.priority, l.sequence FROM runtime.line l
                                          WHERE l.agent_id = listed.agent_id AND l.has_turn
                                          ORDER BY l.priority DESC, l.sequence LIMIT 1) l
                                     ORDER BY l.priority DESC, l.sequence) first
                             CROSS JOIN LATERAL runtime.room(first.agent_id) room
                             WHERE room.places IS NULL OR room.places > 0
                             LIMIT CASE WHEN round = 2 THEN wanted + 2 END) best
                     CROSS JOIN LATERAL (
                          SELECT * FROM runtime.line l WHERE l.agent_id = best.agent_id AND l.has_turn
                           ORDER BY l.priority DESC, l.sequence
                           LIMIT CASE WHEN best.capped THEN best.places
                                      WHEN round = 2 THEN wanted
                                      ELSE greatest(wanted, 2000 / cardinality(agents)) END) l
                     ORDER BY l.priority DESC, l.sequence) c;
        END IF;
        fitting := CASE WHEN limited THEN runtime.within_caps(ids, owners, sessions) ELSE ids END;
        IF NOT locked THEN
            -- Each is locked as it comes, until there are enough; what somebody else holds is passed over. Whether another
            -- turn of its session has begun is asked again, now that nobody else can begin one (`within_caps`).
            fitting := ARRAY(
                SELECT t.id FROM unnest(fitting) AS next (task_id)
                 CROSS JOIN LATERAL (
                     SELECT t.id FROM runtime.tasks t
                      WHERE t.id = next.task_id AND t.status = 'pending'
                        AND t.agent_id = owners[array_position(ids, next.task_id)]
                        AND (SELECT count(*) FROM runtime.claims c WHERE c.task_id = t.id) = 0
                        AND (t.session_id IS NULL
                             OR (SELECT count(*) FROM runtime.claims c WHERE c.session_id = t.session_id) = 0)
                      LIMIT 1 FOR NO KEY UPDATE SKIP LOCKED) t
                 LIMIT wanted);
        END IF;

        taken := 0;
        IF cardinality(fitting) > 0 THEN
            RETURN QUERY
            WITH unqueued AS (
                DELETE FROM runtime.queue q WHERE q.task_id = ANY (fitting)
            ), started AS (
                UPDATE runtime.tasks t
                   SET status = 'running', worker = claimer, attempt = coalesce(t.attempt, 0) + 1, error = NULL,
                       started_at = clock_timestamp(),
                       definition_version = coalesce(t.definition_version, versions[array_position(ids, t.id)])
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
        END IF;
        -- Once more, and deeper, only if there may be candidates that this look left out.
        EXIT WHEN taken = wanted OR only_session IS NOT NULL
               OR round = 1 AND found < wanted AND NOT EXISTS (
                   SELECT FROM runtime.queue q WHERE q.run_at IS NULL
                    ORDER BY q.priority DESC, q.sequence OFFSET looked - taken)
               OR round = 2 AND found < wanted;
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
    with_sessions BOOLEAN := runs @? '$[*].session';
    -- The snapshots' ids: random, but one after the other within a batch, so that the index is written in one place.
    batch TEXT := left(gen_random_uuid()::text, 24);
BEGIN
    IF cardinality(ids) > (SELECT count(DISTINCT listed.id) FROM unnest(ids) AS listed (id)) THEN
        runs := (SELECT jsonb_agg(once.item ORDER BY once.ordinal)
                   FROM (SELECT DISTINCT ON (run.item ->> 'task') run.item, run.ordinal
                           FROM jsonb_array_elements(runs) WITH ORDINALITY AS run (item, ordinal)
                          ORDER BY run.item ->> 'task', run.ordinal) once);
    END IF;
    -- Lock first, in id order, or two batches deadlock; the next statement's snapshot reads what is true then, and finds
    -- each row once: what is locked stays in its place (ctid) until that statement writes it.
    PERFORM FROM runtime.tasks t WHERE t.id = ANY (ids) ORDER BY t.id FOR NO KEY UPDATE;
    PERFORM FROM runtime.agent_heads h
      WHERE h.agent_id = ANY (ARRAY(
          SELECT c.agent_id FROM runtime.claims c WHERE c.task_id = ANY (ids) AND c.worker = finisher))
      ORDER BY h.agent_id FOR UPDATE;

    IF with_sessions THEN
        runs := runtime.fold_sessions(finisher, runs, state_limit);
    END IF;

    RETURN QUERY
    WITH mine AS (
        SELECT c.task_id, c.agent_id, c.place, run.item, run.ordinal,
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
                   'tokens', greatest((m.item ->> 'tokens')::bigint - t.tokens_counted, 0)) END AS item
          FROM mine m
         CROSS JOIN LATERAL (SELECT t.session_id, t.user_id, t.tokens_counted, t.ctid AS place FROM runtime.tasks t
                              WHERE t.id = m.task_id AND t.status = 'running' LIMIT 1) t
    ), ended AS (
        -- The first run of an agent starts from the latest state, the next from what that one made of it. The greatest
        -- integer is where versions stop counting: somebody else's snapshot may hold it.
        SELECT r.task_id, r.agent_id, r.session_id, r.user_id, r.item, r.outcome, r.ordinal, r.place, r.leaves_snapshot,
               latest.head,
               CASE WHEN r.leaves_snapshot THEN least(latest.version + row_number() OVER made, 2147483647)::integer
               END AS version,
               CASE WHEN r.leaves_snapshot THEN
                   runtime.fold(CASE WHEN jsonb_typeof(latest.state -> 'work') = 'object'
                                      AND jsonb_typeof(latest.state -> 'stats') = 'object' THEN latest.state
                                     ELSE runtime.as_snapshot(latest.state) END, r.item, state_limit) OVER made
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
        WINDOW made AS (PARTITION BY r.agent_id, r.leaves_snapshot ORDER BY r.ordinal ROWS UNBOUNDED PRECEDING)
    ), snapshot AS (
        INSERT INTO runtime.agent_states (id, agent_id, state, timestamp, version)
        SELECT (batch || lpad(to_hex(e.ordinal), 12, '0'))::uuid, e.agent_id, e.fold -> 'state', now() AT TIME ZONE 'UTC', e.version
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

    IF with_sessions THEN
        PERFORM runtime.keep_sessions(runs);
    END IF;
END
$$;
