-- What is kept for a session besides its messages: the state its tools keep, and summaries of what has fallen out of the
-- window that a turn is shown. All of it is the user's whom the session belongs to.

-- The row that is locked while a turn's end changes any of it; made with the first change.
CREATE TABLE IF NOT EXISTS runtime.session_heads (
    session_id UUID PRIMARY KEY,
    user_id UUID NOT NULL,
    work JSONB NOT NULL DEFAULT '{}',          -- what tools keep in ctx.session_state
    summary_task UUID,                         -- the summary that was put in line last
    summary_tries INTEGER NOT NULL DEFAULT 0,  -- how many were since the last that succeeded
    summary_turns INTEGER NOT NULL DEFAULT 0   -- how many turns have asked in vain since
) WITH (fillfactor = 50);

-- A later summary holds what an earlier one says. Earlier ones stay: a turn that is resumed, or looked at later, was
-- shown one of them.
CREATE TABLE IF NOT EXISTS runtime.session_summaries (
    session_id UUID NOT NULL,
    covers BIGINT NOT NULL,                    -- up to this position of runtime.messages
    user_id UUID NOT NULL,
    task_id UUID NOT NULL,
    summary TEXT NOT NULL,
    created TIMESTAMPTZ NOT NULL DEFAULT now(),
    PRIMARY KEY (session_id, covers)
);

-- What a message says. Mostly that is its task's input or output, and then it is stored there alone.
CREATE OR REPLACE FUNCTION runtime.said(message runtime.messages) RETURNS TEXT
LANGUAGE sql STABLE AS $$
    SELECT coalesce(message.content, (
        SELECT CASE message.role WHEN 'user' THEN t.payload ->> 'input' ELSE t.result ->> 'output' END
          FROM runtime.tasks t WHERE t.id = message.task_id LIMIT 1))
$$;

-- A conversation outlives its tasks, whoever removes them.
CREATE OR REPLACE FUNCTION runtime.keep_messages() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
BEGIN
    IF TG_OP = 'TRUNCATE' THEN
        UPDATE runtime.messages m SET content = coalesce(runtime.said(m), '') WHERE m.content IS NULL;
    ELSE
        UPDATE runtime.messages m
           SET content = coalesce(CASE m.role WHEN 'user' THEN r.payload ->> 'input' ELSE r.result ->> 'output' END, '')
          FROM removed r
         WHERE m.session_id = r.session_id AND m.task_id = r.id AND m.content IS NULL;
    END IF;
    RETURN NULL;
END
$$;
CREATE OR REPLACE TRIGGER messages_kept AFTER DELETE ON runtime.tasks
    REFERENCING OLD TABLE AS removed
    FOR EACH STATEMENT EXECUTE FUNCTION runtime.keep_messages();
CREATE OR REPLACE TRIGGER messages_kept_from_truncate BEFORE TRUNCATE ON runtime.tasks
    FOR EACH STATEMENT EXECUTE FUNCTION runtime.keep_messages();

-- Lock a session on behalf of a user and return what its tools have kept; NULL when it is not this user's.
CREATE OR REPLACE FUNCTION runtime.hold_session(wanted UUID, owner UUID) RETURNS JSONB
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
    INSERT INTO runtime.session_heads AS h (session_id, user_id)
    SELECT s.id, s.user_id FROM runtime.sessions s WHERE s.id = wanted AND s.user_id = owner LIMIT 1
    ON CONFLICT (session_id) DO UPDATE
       SET user_id = excluded.user_id, work = CASE WHEN h.user_id = excluded.user_id THEN h.work ELSE '{}' END
    RETURNING h.work
$$;

-- Before a batch is finished: lock the sessions it changes, in their order, and fold what each run did to its session's
-- state. Returns the batch with "session": {"work": …} where that went well, as failed where it did not, and without
-- "session" where the task is not the finisher's any more.
CREATE OR REPLACE FUNCTION runtime.fold_sessions(finisher UUID, runs JSONB, state_limit INTEGER) RETURNS JSONB
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
DECLARE
    items JSONB[] := ARRAY(SELECT run.item - 'session'
                             FROM jsonb_array_elements(runs) WITH ORDINALITY AS run (item, ordinal) ORDER BY run.ordinal);
    ended RECORD;
    held JSONB;
    folded JSONB;
    problem TEXT;
BEGIN
    FOR ended IN
        SELECT run.item, run.ordinal, t.session_id, t.user_id
          FROM jsonb_array_elements(runs) WITH ORDINALITY AS run (item, ordinal)
         CROSS JOIN LATERAL (
             SELECT coalesce(t.session_id, t.beside) AS session_id, t.user_id
               FROM runtime.tasks t JOIN runtime.claims c ON c.task_id = t.id
              WHERE t.id = (run.item ->> 'task')::uuid AND t.status = 'running' AND c.worker = finisher
                AND c.attempt = (run.item ->> 'attempt')::integer LIMIT 1) t
         WHERE run.item ? 'session' ORDER BY t.session_id, run.ordinal
    LOOP
        held := runtime.hold_session(ended.session_id, ended.user_id);
        folded := NULL;
        problem := NULL;
        IF ended.item -> 'session' ? 'operations' THEN
            IF held IS NULL THEN
                problem := 'the session whose state was changed is not there any more, or not this user''s';
            ELSE
                folded := runtime.fold_run(NULL, jsonb_build_object('work', held, 'stats', '{}'::jsonb),
                                           jsonb_build_object('status', 'completed', 'operations',
                                                              ended.item #> '{session,operations}'), state_limit);
                problem := replace(replace(folded ->> 'problem', 'state key', 'session state key'),
                                   'the agent''s state', 'the session''s state');
            END IF;
        END IF;
        IF problem IS NOT NULL THEN
            items[ended.ordinal] := (items[ended.ordinal] - 'steps') || jsonb_build_object(
                'status', 'failed', 'error', problem, 'operations', '[]'::jsonb, 'messages', '[]'::jsonb, 'result',
                jsonb_build_object('error', jsonb_build_object('type', 'StateRefused', 'message', problem)));
        ELSIF held IS NOT NULL THEN
            items[ended.ordinal] := items[ended.ordinal] || jsonb_build_object('session', (ended.item -> 'session')
                || CASE WHEN folded IS NULL THEN '{}' ELSE jsonb_build_object('work', folded #> '{state,work}') END);
        END IF;
    END LOOP;
    RETURN to_jsonb(items);
END
$$;

-- Put a summary of a session in line, unless one is there or runs; the next turn asks again. After failures it is put
-- off for ever more turns (1, 3, 7, … 31), as each costs a model call.
CREATE OR REPLACE FUNCTION runtime.want_summary(wanted UUID, agent UUID) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
DECLARE
    head RECORD;
    made UUID := gen_random_uuid();
BEGIN
    SELECT h.* INTO head FROM runtime.session_heads h WHERE h.session_id = wanted FOR UPDATE;
    IF EXISTS (SELECT FROM runtime.tasks t
                WHERE t.id = head.summary_task AND t.status IN ('pending', 'running', 'waiting')) THEN
        RETURN;
    END IF;
    IF head.summary_turns < (1 << least(greatest(head.summary_tries - 1, 0), 5)) - 1 THEN
        UPDATE runtime.session_heads h SET summary_turns = h.summary_turns + 1 WHERE h.session_id = wanted;
        RETURN;
    END IF;
    -- A task of the user's and beside the session: no turn waits for it, and turns of whomever go before it.
    INSERT INTO runtime.tasks (id, agent_id, task_type, payload, user_id, beside, priority)
    VALUES (made, agent, 'summary', jsonb_build_object('session', wanted), head.user_id, wanted, -10);
    UPDATE runtime.session_heads h
       SET summary_task = made, summary_tries = h.summary_tries + 1, summary_turns = 0 WHERE h.session_id = wanted;
END
$$;

-- After a batch is finished: keep what its completed runs did to their sessions, which `fold_sessions` has locked.
CREATE OR REPLACE FUNCTION runtime.keep_sessions(runs JSONB) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
DECLARE
    ended RECORD;
    made JSONB;
BEGIN
    FOR ended IN
        SELECT run.item -> 'session' AS kept, t.id, t.session_id, t.user_id, t.agent_id
          FROM jsonb_array_elements(runs) WITH ORDINALITY AS run (item, ordinal)
         CROSS JOIN LATERAL (
             SELECT t.id, coalesce(t.session_id, t.beside) AS session_id, t.user_id, t.agent_id FROM runtime.tasks t
              WHERE t.id = (run.item ->> 'task')::uuid AND t.status = 'completed' LIMIT 1) t
         WHERE run.item ? 'session' ORDER BY run.ordinal
    LOOP
        IF ended.kept ? 'work' THEN
            UPDATE runtime.session_heads h SET work = ended.kept -> 'work' WHERE h.session_id = ended.session_id;
        END IF;
        made := ended.kept -> 'summary';
        -- Only what follows the latest: another may have been made while this one was.
        IF made IS NOT NULL AND coalesce((SELECT max(y.covers) FROM runtime.session_summaries y
                                           WHERE y.session_id = ended.session_id AND y.user_id = ended.user_id), 0) = (made ->> 'after')::bigint THEN
            INSERT INTO runtime.session_summaries (session_id, covers, user_id, task_id, summary)
            VALUES (ended.session_id, (made ->> 'covers')::bigint, ended.user_id, ended.id, made ->> 'text');
            UPDATE runtime.session_heads h SET summary_tries = 0, summary_turns = 0
             WHERE h.session_id = ended.session_id;
        END IF;
        IF ended.kept ? 'summarize' THEN
            PERFORM runtime.want_summary(ended.session_id, ended.agent_id);
        END IF;
    END LOOP;
END
$$;

-- What belongs to a session goes with it.
CREATE OR REPLACE FUNCTION runtime.forget_sessions() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF TG_OP = 'TRUNCATE' THEN
        DELETE FROM runtime.session_heads;
        DELETE FROM runtime.session_summaries;
    ELSE
        DELETE FROM runtime.session_heads h USING removed WHERE h.session_id = removed.id;
        DELETE FROM runtime.session_summaries y USING removed WHERE y.session_id = removed.id;
    END IF;
    RETURN NULL;
END
$$;
CREATE OR REPLACE TRIGGER session_removed AFTER DELETE ON runtime.sessions
    REFERENCING OLD TABLE AS removed
    FOR EACH STATEMENT EXECUTE FUNCTION runtime.forget_sessions();
CREATE OR REPLACE TRIGGER sessions_emptied AFTER TRUNCATE ON runtime.sessions
    FOR EACH STATEMENT EXECUTE FUNCTION runtime.forget_sessions();
