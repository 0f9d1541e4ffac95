-- What a scheduler has besides its hot path. Nothing here is in the way of a claim: what cannot run yet stands outside the
-- line, and what is seldom has a table of its own.

-- A key names one task of an agent, for as long as that task is there. Neither column changes when a task is claimed or
-- finished, so the index costs those nothing.
CREATE UNIQUE INDEX IF NOT EXISTS tasks_key ON runtime.tasks (agent_id, key)
    WHERE key IS NOT NULL AND capabilities IS NULL;

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

-- Models on hold --------------------------------------------------------------------------------------------------
-- A model that refuses us, asks to slow down, fails on its side or cannot be reached is no task's fault. It is on hold for
-- every worker of this database; from `until` on one worker at a time lets one task try it (the probe), until one gets an
-- answer. `refused` is what does not pass by itself: a key, a permission, a quota.

ALTER TABLE runtime.tasks ADD COLUMN IF NOT EXISTS put_backs INTEGER;  -- how many holds this task has begun

CREATE TABLE IF NOT EXISTS runtime.model_holds (
    model TEXT PRIMARY KEY,
    refused BOOLEAN NOT NULL,
    reason TEXT NOT NULL,
    since TIMESTAMPTZ NOT NULL DEFAULT clock_timestamp(),
    until TIMESTAMPTZ NOT NULL,
    tries INTEGER NOT NULL DEFAULT 1,
    prober UUID
);

-- Hold a model, or hold it longer: for `wait` seconds if the provider named a time, else for a pause that doubles with
-- each probe that failed. What fails while it is held anyway changes nothing. `fresh`: it was not held before.
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
           tries = h.tries + (h.until <= clock_timestamp())::integer,
           until = greatest(h.until, CASE
               WHEN wait IS NOT NULL THEN excluded.until
               WHEN h.until <= clock_timestamp()
               THEN clock_timestamp() + make_interval(secs => least(pause * 2.0 ^ least(h.tries, 30), longest) * jitter)
           END),
           prober = CASE WHEN h.prober <> holder THEN h.prober END
    RETURNING h.until, h.xmax = 0;  -- inserted, not updated
END
$$;

-- Take the right to let one task try a held model whose time has come: one worker has it, as long as it lives.
CREATE OR REPLACE FUNCTION runtime.take_probe(taker UUID, label TEXT) RETURNS BOOLEAN
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    UPDATE runtime.model_holds h SET prober = taker
     WHERE h.model = label AND h.until <= clock_timestamp()
       AND (h.prober IS NULL OR NOT EXISTS (SELECT FROM runtime.workers w WHERE w.id = h.prober));
    RETURN FOUND;
END
$$;

CREATE OR REPLACE FUNCTION runtime.lift_hold(label TEXT) RETURNS BOOLEAN
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    DELETE FROM runtime.model_holds h WHERE h.model = label;
    IF NOT FOUND THEN
        RETURN FALSE;
    END IF;
    PERFORM runtime.wake_workers();
    RETURN TRUE;
END
$$;

-- Put a task back whose model was put on hold: no attempt is used. One that began `most` holds, though its model answered
-- others after each, is at fault itself: FALSE, as for one that is not this worker's any more.
CREATE OR REPLACE FUNCTION runtime.put_back_held(
    owner UUID, wanted UUID, run_attempt INTEGER, steps JSONB, reason TEXT, due TIMESTAMPTZ, blamed BOOLEAN, most INTEGER
) RETURNS BOOLEAN
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
BEGIN
    IF blamed AND (SELECT coalesce(t.put_backs, 0) + 1 >= most FROM runtime.tasks t WHERE t.id = wanted) THEN
        RETURN FALSE;
    END IF;
    IF NOT runtime.put_back(owner, wanted, run_attempt, steps, reason, due) THEN
        RETURN FALSE;
    END IF;
    IF blamed THEN
        UPDATE runtime.tasks t SET put_backs = coalesce(t.put_backs, 0) + 1 WHERE t.id = wanted;
    END IF;
    RETURN TRUE;
END
$$;

-- Routing ---------------------------------------------------------------------------------------------------------
-- A task may name capabilities instead of an agent. It stands here until a worker has room: only then is an agent chosen, so
-- that the choice is the best one at that moment, and no agent is none.

CREATE UNIQUE INDEX IF NOT EXISTS tasks_key_routed ON runtime.tasks (capabilities, key)
    WHERE key IS NOT NULL AND capabilities IS NOT NULL;

CREATE TABLE IF NOT EXISTS runtime.unrouted (
    task_id UUID PRIMARY KEY,
    capabilities TEXT[] NOT NULL,
    priority INTEGER NOT NULL,
    run_at TIMESTAMPTZ,
    sequence BIGINT NOT NULL
);
CREATE INDEX IF NOT EXISTS unrouted_line ON runtime.unrouted (priority DESC, sequence);

CREATE OR REPLACE FUNCTION runtime.follow_unrouted() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF NEW.status = 'pending' AND NEW.agent_id IS NULL AND NEW.capabilities IS NOT NULL AND NEW.adopted IS NOT TRUE THEN
        INSERT INTO runtime.unrouted (task_id, capabilities, priority, run_at, sequence)
        VALUES (NEW.id, NEW.capabilities, coalesce(NEW.priority, 0), NEW.run_at,
                coalesce(NEW.sequence, nextval('runtime.task_sequence')))
        ON CONFLICT (task_id) DO UPDATE
           SET capabilities = excluded.capabilities, priority = excluded.priority, run_at = excluded.run_at;
        IF EXISTS (SELECT FROM runtime.workers WHERE waiting) THEN
            PERFORM pg_notify('cirkelline_tasks', 'route');
        END IF;
    ELSE
        DELETE FROM runtime.unrouted u WHERE u.task_id = NEW.id;
    END IF;
    RETURN NULL;
END
$$;
CREATE OR REPLACE TRIGGER unrouted_added AFTER INSERT ON runtime.tasks
    FOR EACH ROW WHEN (NEW.agent_id IS NULL AND NEW.capabilities IS NOT NULL)
    EXECUTE FUNCTION runtime.follow_unrouted();
CREATE OR REPLACE TRIGGER unrouted_changed
    AFTER UPDATE OF status, agent_id, capabilities, priority, run_at, adopted ON runtime.tasks
    FOR EACH ROW WHEN (OLD.agent_id IS NULL AND OLD.capabilities IS NOT NULL
                       OR NEW.agent_id IS NULL AND NEW.capabilities IS NOT NULL)
    EXECUTE FUNCTION runtime.follow_unrouted();

CREATE OR REPLACE FUNCTION runtime.forget_unrouted() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF TG_OP = 'TRUNCATE' THEN
        DELETE FROM runtime.unrouted;
    ELSE
        DELETE FROM runtime.unrouted u USING removed WHERE u.task_id = removed.id;
    END IF;
    RETURN NULL;
END
$$;
CREATE OR REPLACE TRIGGER unrouted_removed AFTER DELETE ON runtime.tasks
    REFERENCING OLD TABLE AS removed
    FOR EACH STATEMENT EXECUTE FUNCTION runtime.forget_unrouted();
CREATE OR REPLACE TRIGGER unrouted_emptied AFTER TRUNCATE ON runtime.tasks
    FOR EACH STATEMENT EXECUTE FUNCTION runtime.forget_unrouted();

-- How much an agent has to do, as far as it matters for a choice: what runs and what is in line, counted up to a thousand.
CREATE OR REPLACE FUNCTION runtime.load_of(wanted UUID) RETURNS BIGINT
LANGUAGE sql STABLE AS $$
    SELECT (SELECT count(*) FROM runtime.claims c WHERE c.agent_id = wanted)
         + (SELECT count(*) FROM (SELECT FROM runtime.queue q
                                   WHERE q.agent_id = wanted AND q.run_at IS NULL LIMIT 1000) line)
$$;

-- Choose agents for up to `most` tasks that name capabilities: of these agents the least loaded one that has them all and
-- is idle, which for a capped one means that it has room for more than what is in its line. Returns how many were routed.
CREATE OR REPLACE FUNCTION runtime.route_tasks(agents UUID[], most INTEGER) RETURNS INTEGER
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
#variable_conflict use_column
DECLARE
    task RECORD;
    chosen UUID;
    routed INTEGER := 0;
BEGIN
    FOR task IN
        SELECT u.task_id, u.capabilities FROM runtime.unrouted u
         WHERE (u.run_at IS NULL OR u.run_at <= clock_timestamp())
           AND EXISTS (SELECT FROM runtime.agents a WHERE a.id = ANY (agents) AND a.capabilities @> u.capabilities)
         ORDER BY u.priority DESC, u.sequence LIMIT most * 4
    LOOP
        EXIT WHEN routed >= most;
        PERFORM FROM runtime.tasks t
          WHERE t.id = task.task_id AND t.status = 'pending' AND t.agent_id IS NULL FOR NO KEY UPDATE SKIP LOCKED;
        CONTINUE WHEN NOT FOUND;
        SELECT found.id INTO chosen
          FROM (SELECT a.id, room.places, room.capped, runtime.load_of(a.id) AS load
                  FROM runtime.agents a CROSS JOIN LATERAL runtime.room(a.id) room
                 WHERE a.id = ANY (agents) AND a.capabilities @> task.capabilities) found
         WHERE NOT found.capped OR found.load < found.places + (
                   SELECT count(*) FROM runtime.claims c WHERE c.agent_id = found.id)
         ORDER BY found.load, found.id LIMIT 1;
        IF FOUND THEN
            UPDATE runtime.tasks t SET agent_id = chosen WHERE t.id = task.task_id;
            routed := routed + 1;
        END IF;
    END LOOP;
    RETURN routed;
END
$$;

-- Schedules -------------------------------------------------------------------------------------------------------
-- What agents do by the clock, as their current definitions say; kept in step here, whoever changes the definition. The row
-- of a due schedule is locked while its one task is submitted, so that one worker of all fires it, once.

CREATE TABLE IF NOT EXISTS runtime.schedules (
    id UUID PRIMARY KEY DEFAULT gen_random_uuid(),
    agent_id UUID NOT NULL,
    name TEXT NOT NULL,
    cron TEXT NOT NULL,
    tz TEXT NOT NULL,
    user_name TEXT,
    input TEXT NOT NULL,
    paused BOOLEAN NOT NULL DEFAULT FALSE,
    since TIMESTAMPTZ NOT NULL DEFAULT clock_timestamp(),  -- nothing before it was missed
    next_at TIMESTAMPTZ,  -- NULL: a worker has still to work it out
    last_at TIMESTAMPTZ,
    last_task UUID,
    problem TEXT,
    UNIQUE (agent_id, name)
);

CREATE OR REPLACE FUNCTION runtime.keep_schedules(wanted UUID) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    spec JSONB := (SELECT d.spec FROM runtime.agents a
                     JOIN runtime.definitions d ON d.agent_id = a.id AND d.version = a.definition_version
                    WHERE a.id = wanted);
BEGIN
    IF spec IS NULL THEN  -- on its way: the one of the two rows that comes second calls again
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

CREATE OR REPLACE FUNCTION runtime.follow_definition() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF TG_TABLE_NAME = 'definitions' THEN
        PERFORM runtime.keep_schedules(NEW.agent_id);
    ELSIF TG_OP = 'DELETE' THEN
        DELETE FROM runtime.schedules s WHERE s.agent_id = OLD.id;
    ELSE
        PERFORM runtime.keep_schedules(NEW.id);
    END IF;
    RETURN NULL;
END
$$;
CREATE OR REPLACE TRIGGER schedules_defined AFTER INSERT ON runtime.definitions
    FOR EACH ROW EXECUTE FUNCTION runtime.follow_definition();
CREATE OR REPLACE TRIGGER schedules_changed AFTER UPDATE OF definition_version OR DELETE ON runtime.agents
    FOR EACH ROW EXECUTE FUNCTION runtime.follow_definition();

-- Whether a schedule's name for a user means this one: an email, a bare name or an id.
CREATE OR REPLACE FUNCTION runtime.is_called(wanted UUID, name TEXT) RETURNS BOOLEAN
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT EXISTS (SELECT FROM runtime.users u WHERE u.id = wanted
                      AND (name IN (u.email, u.id::text) OR name || '@localhost' = u.email))
$$;

CREATE OR REPLACE FUNCTION runtime.tenant_is_called(name TEXT) RETURNS BOOLEAN
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT runtime.is_called(runtime.tenant_id(), name)
$$;

-- Slots for conversations -----------------------------------------------------------------------------------------
-- Claim turns of sessions only, the best first: each by the claim that a chat's own worker makes.

CREATE OR REPLACE FUNCTION runtime.claim_turns(claimer UUID, agents UUID[], slots INTEGER) RETURNS TABLE (
    id UUID, agent_id UUID, task_type TEXT, payload JSONB, session_id UUID, user_id UUID, attempt INTEGER,
    definition_version INTEGER
)
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
#variable_conflict use_column
DECLARE
    session UUID;
BEGIN
    FOR session IN
        SELECT l.session_id FROM runtime.line l
         WHERE l.session_id IS NOT NULL AND l.has_turn AND l.agent_id = ANY (agents)
         ORDER BY l.priority DESC, l.sequence LIMIT slots
    LOOP
        RETURN QUERY SELECT c.* FROM runtime.claim_tasks(claimer, agents, 1, session) c;
    END LOOP;
END
$$;

-- Retention -------------------------------------------------------------------------------------------------------
-- What is old is removed in small batches, oldest first, by one worker at a time. What was here before us is no batch's.

CREATE INDEX IF NOT EXISTS tasks_parent ON runtime.tasks (parent) WHERE parent IS NOT NULL;

-- Walk over the next `batch` tasks after a place in the order of their creation, and remove those that ended long enough ago
-- (NULL: never) and have no unfinished child. `seen` 0: there are no more, or another worker is at it. No task is younger
-- than its creation, so those created since are not looked at. Nothing is removed when `dry`.
CREATE OR REPLACE FUNCTION runtime.remove_old_tasks(
    after TIMESTAMP, after_id UUID, completed INTERVAL, failed INTERVAL, batch INTEGER, dry BOOLEAN
) RETURNS TABLE (seen INTEGER, removed INTEGER, last TIMESTAMP, last_id UUID)
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
DECLARE
    youngest TIMESTAMP := (now() - least(completed, failed)) AT TIME ZONE 'UTC';
    ids UUID[];
    old UUID[];
BEGIN
    seen := 0;
    removed := 0;
    IF youngest IS NULL OR NOT pg_try_advisory_xact_lock(hashtextextended('cirkelline.retention', 0)) THEN
        RETURN NEXT;
        RETURN;
    END IF;
    SELECT array_agg(w.id), count(*), max(w.created_at) INTO ids, seen, last
      FROM (SELECT t.id, t.created_at FROM runtime.tasks t
             WHERE t.created_at < youngest AND (after IS NULL OR (t.created_at, t.id) > (after, after_id))
             ORDER BY t.created_at, t.id LIMIT batch) w;
    last_id := (SELECT t.id FROM runtime.tasks t WHERE t.id = ANY (ids) ORDER BY t.created_at DESC, t.id DESC LIMIT 1);
    old := ARRAY(
        SELECT t.id FROM runtime.tasks t
         WHERE t.id = ANY (ids) AND t.adopted IS NOT TRUE
           AND t.finished_at < now() - CASE t.status WHEN 'completed' THEN completed
                                                     WHEN 'failed' THEN failed WHEN 'cancelled' THEN failed END
           AND NOT EXISTS (SELECT FROM runtime.tasks c WHERE c.parent = t.id
                              AND c.status IN ('pending', 'running', 'waiting'))
         ORDER BY t.id FOR UPDATE SKIP LOCKED);
    removed := cardinality(old);
    IF NOT dry THEN
        DELETE FROM runtime.tasks t WHERE t.id = ANY (old);
    END IF;
    RETURN NEXT;
END
$$;

-- Remove up to `batch` snapshots of one agent that are older than `age`, or beyond the newest `most` (NULL: no such limit):
-- always from the oldest version on, as versions order states and clocks do not. The newest one stays.
CREATE OR REPLACE FUNCTION runtime.remove_old_states(wanted UUID, age INTERVAL, most INTEGER, batch INTEGER, dry BOOLEAN)
RETURNS INTEGER
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
DECLARE
    newest INTEGER;
    cut INTEGER;
    old UUID[];
BEGIN
    IF NOT pg_try_advisory_xact_lock(hashtextextended('cirkelline.retention', 0)) THEN
        RETURN 0;
    END IF;
    newest := (SELECT max(s.version) FROM runtime.agent_states s WHERE s.agent_id = wanted);
    cut := (SELECT max(s.version) FROM runtime.agent_states s
             WHERE s.agent_id = wanted AND s.timestamp < (now() - age) AT TIME ZONE 'UTC');
    IF most IS NOT NULL THEN
        cut := greatest(cut, (
            SELECT s.version FROM runtime.agent_states s
             WHERE s.agent_id = wanted AND s.version IS NOT NULL ORDER BY s.version DESC NULLS LAST OFFSET most LIMIT 1));
    END IF;
    old := ARRAY(
        SELECT s.id FROM runtime.agent_states s
         WHERE s.agent_id = wanted AND s.version <= cut AND s.version < newest AND s.adopted IS NOT TRUE
         ORDER BY s.version LIMIT batch);
    IF NOT dry THEN
        DELETE FROM runtime.agent_states s WHERE s.id = ANY (old);
    END IF;
    RETURN cardinality(old);
END
$$;

-- Whose rows these are --------------------------------------------------------------------------------------------

INSERT INTO runtime.tenant_rules (relation, visible, writable, privileges) VALUES
    ('runtime.failures', 'runtime.tenant_has_task(task_id)', NULL, 'SELECT'),
    ('runtime.schedules', 'runtime.tenant_is_called(user_name)', NULL, 'SELECT')
ON CONFLICT (relation) DO UPDATE
   SET visible = excluded.visible, writable = excluded.writable, privileges = excluded.privileges;

INSERT INTO runtime.tenant_functions (signature) VALUES ('runtime.tenant_is_called(text)') ON CONFLICT DO NOTHING;
REVOKE ALL ON FUNCTION runtime.tenant_is_called(TEXT) FROM PUBLIC;
