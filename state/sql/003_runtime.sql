-- What the runtime adds to the second document's tables (nullable, so that other writers go on), its own tables,
-- and the triggers that let anybody's plain SQL take part. No foreign key of ours points at a document's table:
-- one would make an outsider's TRUNCATE fail.

-- Added columns ---------------------------------------------------------------------------------------------------
-- `adopted` is TRUE for the rows that were here before us and FALSE for all later ones: added with one default and
-- then given another, so that no row is rewritten.

CREATE SEQUENCE IF NOT EXISTS runtime.task_sequence;

ALTER TABLE runtime.agents
    ADD COLUMN IF NOT EXISTS handle TEXT,
    ADD COLUMN IF NOT EXISTS definition_version INTEGER,
    ADD COLUMN IF NOT EXISTS problem TEXT,
    ADD COLUMN IF NOT EXISTS adopted BOOLEAN DEFAULT TRUE;
ALTER TABLE runtime.agents ALTER COLUMN adopted SET DEFAULT FALSE;

ALTER TABLE runtime.agent_states
    ADD COLUMN IF NOT EXISTS adopted BOOLEAN DEFAULT TRUE;
ALTER TABLE runtime.agent_states ALTER COLUMN adopted SET DEFAULT FALSE;

ALTER TABLE runtime.tasks
    ADD COLUMN IF NOT EXISTS session_id UUID,
    ADD COLUMN IF NOT EXISTS beside UUID,  -- the session it works for without being one of its turns
    ADD COLUMN IF NOT EXISTS user_id UUID,
    ADD COLUMN IF NOT EXISTS parent UUID,
    ADD COLUMN IF NOT EXISTS root UUID,
    ADD COLUMN IF NOT EXISTS priority INTEGER,
    ADD COLUMN IF NOT EXISTS run_at TIMESTAMPTZ,
    ADD COLUMN IF NOT EXISTS attempt INTEGER,
    ADD COLUMN IF NOT EXISTS deaths INTEGER,
    ADD COLUMN IF NOT EXISTS worker UUID,
    ADD COLUMN IF NOT EXISTS error TEXT,
    ADD COLUMN IF NOT EXISTS key TEXT,
    ADD COLUMN IF NOT EXISTS capabilities TEXT[],
    ADD COLUMN IF NOT EXISTS state_version INTEGER,
    ADD COLUMN IF NOT EXISTS definition_version INTEGER,
    ADD COLUMN IF NOT EXISTS sequence BIGINT,
    ADD COLUMN IF NOT EXISTS submitted_at TIMESTAMPTZ,
    ADD COLUMN IF NOT EXISTS started_at TIMESTAMPTZ,
    ADD COLUMN IF NOT EXISTS finished_at TIMESTAMPTZ,
    ADD COLUMN IF NOT EXISTS adopted BOOLEAN DEFAULT TRUE;
ALTER TABLE runtime.tasks ALTER COLUMN adopted SET DEFAULT FALSE;
-- Every task is updated twice, by its claim and by its finish: with room on its page neither touches an index.
-- What is long (over 2 KB in all) stands beside it, so that this room is not left for each copy of a long text.
ALTER TABLE runtime.tasks SET (fillfactor = 50, toast_tuple_target = 256);

ALTER TABLE runtime.users
    ADD COLUMN IF NOT EXISTS account INTEGER;

-- Our own tables --------------------------------------------------------------------------------------------------

CREATE TABLE IF NOT EXISTS runtime.definitions (
    agent_id UUID NOT NULL,
    version INTEGER NOT NULL,
    hash TEXT NOT NULL,
    spec JSONB NOT NULL,
    model JSONB NOT NULL,
    source TEXT,
    created TIMESTAMPTZ NOT NULL DEFAULT now(),
    PRIMARY KEY (agent_id, version)
);

CREATE TABLE IF NOT EXISTS runtime.agent_heads (
    agent_id UUID PRIMARY KEY,
    version INTEGER NOT NULL DEFAULT 0,
    cap INTEGER
) WITH (fillfactor = 50);

-- One row per pending task. `run_at` is NULL once the time has come: what is due stands in line, and what is not stays
-- out of the way of every claim. Whoever touches a task's row here or in `claims` holds the task's own row first.
CREATE TABLE IF NOT EXISTS runtime.queue (
    task_id UUID PRIMARY KEY,
    agent_id UUID NOT NULL,
    session_id UUID,
    priority INTEGER NOT NULL,
    run_at TIMESTAMPTZ,
    sequence BIGINT NOT NULL,
    beside UUID
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000);
CREATE INDEX IF NOT EXISTS queue_line ON runtime.queue (priority DESC, sequence) WHERE run_at IS NULL;
CREATE INDEX IF NOT EXISTS queue_agent ON runtime.queue (agent_id, priority DESC, sequence) WHERE run_at IS NULL;
CREATE INDEX IF NOT EXISTS queue_later ON runtime.queue (run_at) WHERE run_at IS NOT NULL;
CREATE INDEX IF NOT EXISTS queue_session ON runtime.queue (session_id, sequence) WHERE session_id IS NOT NULL;
CREATE INDEX IF NOT EXISTS queue_beside ON runtime.queue (beside, sequence) WHERE beside IS NOT NULL;

-- A claim is a running task's owner: its fence, the count behind every cap, and what a takeover looks for.
CREATE TABLE IF NOT EXISTS runtime.claims (
    task_id UUID PRIMARY KEY,
    agent_id UUID NOT NULL,
    session_id UUID,
    worker UUID NOT NULL,
    attempt INTEGER NOT NULL,
    cancelled BOOLEAN NOT NULL DEFAULT FALSE
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000);
CREATE INDEX IF NOT EXISTS claims_agent ON runtime.claims (agent_id);
CREATE INDEX IF NOT EXISTS claims_cancelled ON runtime.claims (worker) WHERE cancelled;
CREATE INDEX IF NOT EXISTS claims_session ON runtime.claims (session_id) WHERE session_id IS NOT NULL;

CREATE TABLE IF NOT EXISTS runtime.workers (
    id UUID PRIMARY KEY,
    host TEXT NOT NULL,
    pid INTEGER NOT NULL,
    release TEXT NOT NULL,
    slots INTEGER NOT NULL,
    session_id UUID,
    lease INTERVAL NOT NULL,
    started TIMESTAMPTZ NOT NULL DEFAULT now(),
    seen TIMESTAMPTZ NOT NULL DEFAULT clock_timestamp(),
    waiting BOOLEAN NOT NULL DEFAULT FALSE,
    draining BOOLEAN NOT NULL DEFAULT FALSE
) WITH (fillfactor = 50);

CREATE TABLE IF NOT EXISTS runtime.messages (
    session_id UUID NOT NULL,
    position BIGINT GENERATED ALWAYS AS IDENTITY,
    task_id UUID NOT NULL,
    user_id UUID,
    role TEXT NOT NULL,
    content TEXT,  -- NULL: it is what the task was asked or has answered, and stands there (`runtime.said`)
    created TIMESTAMPTZ NOT NULL DEFAULT now(),
    PRIMARY KEY (session_id, position)
);

-- Search ----------------------------------------------------------------------------------------------------------
-- Cut before it is parsed: to_tsvector raises over 1 MB, and an index must never refuse an outsider's row.

CREATE OR REPLACE FUNCTION runtime.task_words(task_type TEXT, payload JSONB) RETURNS TSVECTOR
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT to_tsvector('pg_catalog.simple'::regconfig, left(coalesce(task_type, '') || ' ' || coalesce(
        CASE WHEN jsonb_typeof(payload) = 'object' AND payload ? 'input' THEN payload ->> 'input'
             ELSE payload #>> '{}' END, ''), 20000))
$$;

CREATE OR REPLACE FUNCTION runtime.agent_words(name TEXT) RETURNS TSVECTOR
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT to_tsvector('pg_catalog.simple'::regconfig, name)
$$;

-- The second document's indexing strategy. `tasks.status` has no index: one would make neither claim nor completion
-- HOT, and `queue` and `claims` already are the index of what is pending and running.
CREATE UNIQUE INDEX IF NOT EXISTS agents_handle ON runtime.agents (handle);
CREATE INDEX IF NOT EXISTS agents_type ON runtime.agents (type);
CREATE INDEX IF NOT EXISTS agents_status ON runtime.agents (status);
CREATE INDEX IF NOT EXISTS agents_words ON runtime.agents USING gin (runtime.agent_words(name));
CREATE INDEX IF NOT EXISTS agent_states_version ON runtime.agent_states (agent_id, version DESC NULLS LAST);
CREATE INDEX IF NOT EXISTS tasks_agent ON runtime.tasks (agent_id);
CREATE INDEX IF NOT EXISTS tasks_created ON runtime.tasks (created_at);
CREATE INDEX IF NOT EXISTS tasks_session ON runtime.tasks (session_id) WHERE session_id IS NOT NULL;
CREATE INDEX IF NOT EXISTS tasks_user ON runtime.tasks (user_id) WHERE user_id IS NOT NULL;
-- What is new waits in a list of its own: a short one, as every search reads it and its pages are never given back.
CREATE INDEX IF NOT EXISTS tasks_words ON runtime.tasks USING gin (runtime.task_words(task_type, payload))
    WITH (gin_pending_list_limit = 256);
CREATE INDEX IF NOT EXISTS sessions_user ON runtime.sessions (user_id);
CREATE INDEX IF NOT EXISTS sessions_agent ON runtime.sessions (agent_id);
CREATE INDEX IF NOT EXISTS sessions_status ON runtime.sessions (status);
CREATE INDEX IF NOT EXISTS definitions_hash ON runtime.definitions (agent_id, hash);

-- Triggers: fill what the documents leave without a default -------------------------------------------------------
-- SECURITY DEFINER with a pinned search_path: an outsider's role needs no right on what is ours.

CREATE OR REPLACE FUNCTION runtime.fill_agent() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    NEW.id := coalesce(NEW.id, gen_random_uuid());
    NEW.status := coalesce(NEW.status, 'idle');
    NEW.created_at := coalesce(NEW.created_at, now() AT TIME ZONE 'UTC');
    NEW.updated_at := coalesce(NEW.updated_at, now() AT TIME ZONE 'UTC');
    RETURN NEW;
END
$$;
CREATE OR REPLACE TRIGGER fill BEFORE INSERT ON runtime.agents
    FOR EACH ROW EXECUTE FUNCTION runtime.fill_agent();

CREATE OR REPLACE FUNCTION runtime.fill_agent_state() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    NEW.id := coalesce(NEW.id, gen_random_uuid());
    NEW.timestamp := coalesce(NEW.timestamp, now() AT TIME ZONE 'UTC');
    RETURN NEW;
END
$$;
-- Not called for the snapshots that our own finish writes.
CREATE OR REPLACE TRIGGER fill BEFORE INSERT ON runtime.agent_states
    FOR EACH ROW WHEN (NEW.id IS NULL OR NEW.timestamp IS NULL) EXECUTE FUNCTION runtime.fill_agent_state();

CREATE OR REPLACE FUNCTION runtime.fill_task() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    NEW.id := coalesce(NEW.id, gen_random_uuid());
    NEW.status := coalesce(NEW.status, 'pending');
    NEW.created_at := coalesce(NEW.created_at, now() AT TIME ZONE 'UTC');
    NEW.priority := coalesce(NEW.priority, 0);
    NEW.attempt := coalesce(NEW.attempt, 0);
    NEW.deaths := coalesce(NEW.deaths, 0);
    NEW.root := coalesce(NEW.root, NEW.id);
    NEW.sequence := nextval('runtime.task_sequence');
    NEW.submitted_at := now();
    RETURN NEW;
END
$$;
CREATE OR REPLACE TRIGGER fill BEFORE INSERT ON runtime.tasks
    FOR EACH ROW EXECUTE FUNCTION runtime.fill_task();

CREATE OR REPLACE FUNCTION runtime.fill_user() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    NEW.id := coalesce(NEW.id, gen_random_uuid());
    NEW.created_at := coalesce(NEW.created_at, now() AT TIME ZONE 'UTC');
    NEW.updated_at := coalesce(NEW.updated_at, now() AT TIME ZONE 'UTC');
    RETURN NEW;
END
$$;
CREATE OR REPLACE TRIGGER fill BEFORE INSERT ON runtime.users
    FOR EACH ROW EXECUTE FUNCTION runtime.fill_user();

CREATE OR REPLACE FUNCTION runtime.fill_session() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    NEW.id := coalesce(NEW.id, gen_random_uuid());
    NEW.status := coalesce(NEW.status, 'active');
    NEW.created_at := coalesce(NEW.created_at, now() AT TIME ZONE 'UTC');
    RETURN NEW;
END
$$;
CREATE OR REPLACE TRIGGER fill BEFORE INSERT ON runtime.sessions
    FOR EACH ROW EXECUTE FUNCTION runtime.fill_session();

-- Triggers: agents changed by anybody -----------------------------------------------------------------------------
-- A definition that changed without a version of ours has to be checked again; a worker does that.

CREATE OR REPLACE FUNCTION runtime.uncheck_agent() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    NEW.definition_version := NULL;
    NEW.problem := NULL;
    RETURN NEW;
END
$$;
CREATE OR REPLACE TRIGGER uncheck BEFORE UPDATE OF config, name, type, capabilities ON runtime.agents
    FOR EACH ROW
    WHEN ((OLD.config, OLD.name, OLD.type, OLD.capabilities)
              IS DISTINCT FROM (NEW.config, NEW.name, NEW.type, NEW.capabilities)
          AND OLD.definition_version IS NOT DISTINCT FROM NEW.definition_version
          AND OLD.problem IS NOT DISTINCT FROM NEW.problem)
    EXECUTE FUNCTION runtime.uncheck_agent();

CREATE OR REPLACE FUNCTION runtime.agents_changed() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM pg_notify('cirkelline_agents', '');
    RETURN NULL;
END
$$;
CREATE OR REPLACE TRIGGER changed
    AFTER INSERT OR UPDATE OF config, name, type, capabilities, status, definition_version, problem OR DELETE OR TRUNCATE
    ON runtime.agents
    FOR EACH STATEMENT EXECUTE FUNCTION runtime.agents_changed();

-- Triggers: the queue follows what anybody does to a task ------------------------------------------------------------

CREATE OR REPLACE FUNCTION runtime.wake_workers() RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    -- NOTIFY takes a lock on the whole database at commit: only when a worker has said that it waits.
    IF EXISTS (SELECT FROM runtime.workers WHERE waiting) THEN
        PERFORM pg_notify('cirkelline_tasks', '');
    END IF;
END
$$;

CREATE OR REPLACE FUNCTION runtime.queue_added_tasks() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO runtime.queue (task_id, agent_id, session_id, priority, run_at, sequence, beside)
    SELECT id, agent_id, session_id, coalesce(priority, 0), CASE WHEN run_at > clock_timestamp() THEN run_at END,
           sequence, beside
      FROM added
     WHERE status = 'pending' AND agent_id IS NOT NULL AND adopted IS NOT TRUE
        ON CONFLICT (task_id) DO UPDATE
       SET agent_id = excluded.agent_id, session_id = excluded.session_id, priority = excluded.priority,
           run_at = excluded.run_at, sequence = excluded.sequence;
    IF FOUND THEN
        PERFORM runtime.wake_workers();
    END IF;
    RETURN NULL;
END
$$;
CREATE OR REPLACE TRIGGER queue_added AFTER INSERT ON runtime.tasks
    REFERENCING NEW TABLE AS added
    FOR EACH STATEMENT EXECUTE FUNCTION runtime.queue_added_tasks();

CREATE OR REPLACE FUNCTION runtime.queue_changed_task() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF NEW.status = 'pending' AND NEW.agent_id IS NOT NULL AND NEW.adopted IS NOT TRUE THEN
        INSERT INTO runtime.queue (task_id, agent_id, session_id, priority, run_at, sequence, beside)
        VALUES (NEW.id, NEW.agent_id, NEW.session_id, coalesce(NEW.priority, 0),
                CASE WHEN NEW.run_at > clock_timestamp() THEN NEW.run_at END,
                coalesce(NEW.sequence, nextval('runtime.task_sequence')), NEW.beside)
        ON CONFLICT (task_id) DO UPDATE
           SET agent_id = excluded.agent_id, session_id = excluded.session_id, priority = excluded.priority,
               run_at = excluded.run_at;
        PERFORM runtime.wake_workers();
    ELSE
        DELETE FROM runtime.queue q WHERE q.task_id = NEW.id;
    END IF;
    RETURN NULL;
END
$$;
-- A claim counts the attempt up and sees to the queue itself.
CREATE OR REPLACE TRIGGER queue_changed
    AFTER UPDATE OF status, agent_id, adopted, session_id, priority, run_at ON runtime.tasks
    FOR EACH ROW
    WHEN ((OLD.status = 'pending' OR NEW.status = 'pending')
          AND OLD.attempt IS NOT DISTINCT FROM NEW.attempt
          AND (OLD.status, OLD.agent_id, OLD.adopted, OLD.session_id, OLD.priority, OLD.run_at)
              IS DISTINCT FROM (NEW.status, NEW.agent_id, NEW.adopted, NEW.session_id, NEW.priority, NEW.run_at))
    EXECUTE FUNCTION runtime.queue_changed_task();

CREATE OR REPLACE FUNCTION runtime.forget_removed_tasks() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF TG_OP = 'TRUNCATE' THEN
        DELETE FROM runtime.queue;
    ELSE
        DELETE FROM runtime.queue q USING removed WHERE q.task_id = removed.id;
    END IF;
    RETURN NULL;
END
$$;
CREATE OR REPLACE TRIGGER queue_removed AFTER DELETE ON runtime.tasks
    REFERENCING OLD TABLE AS removed
    FOR EACH STATEMENT EXECUTE FUNCTION runtime.forget_removed_tasks();
CREATE OR REPLACE TRIGGER queue_emptied AFTER TRUNCATE ON runtime.tasks
    FOR EACH STATEMENT EXECUTE FUNCTION runtime.forget_removed_tasks();
