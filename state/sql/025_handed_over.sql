-- A worker that waits offers a place: what is submitted alone in line, by a statement that is a transaction of its own, is
-- claimed for it there and then, and told to it in the notification that would have woken it.

CREATE TABLE IF NOT EXISTS runtime.offers (
    id UUID PRIMARY KEY DEFAULT gen_random_uuid(),
    worker UUID NOT NULL,
    channel TEXT NOT NULL,  -- where this worker alone listens: nobody else can guess the name, and what is told there is a task
    agents UUID[] NOT NULL
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);

-- Only what nothing limits, as nobody counts here, and only where it passes nobody in line. A worker that has not beaten for
-- half a lease may be gone.
CREATE OR REPLACE FUNCTION runtime.hand_over() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET enable_seqscan = off SET enable_sort = off
SET plan_cache_mode = force_generic_plan AS $$
DECLARE
    taker RECORD;
BEGIN
    -- With an older snapshot than its statement's a transaction fails where an offer has been taken meanwhile. And a
    -- notification has 8,000 bytes.
    IF NOT EXISTS (SELECT FROM runtime.offers) OR current_setting('transaction_isolation') <> 'read committed'
       OR octet_length(to_json(NEW.payload::text)::text) > 7000 THEN
        RETURN NEW;
    END IF;
    WITH fit AS (
        SELECT room.version FROM runtime.room(NEW.agent_id) room
         WHERE room.places IS NULL
           AND (SELECT q.task_id FROM runtime.queue q WHERE q.run_at IS NULL
                 ORDER BY q.priority DESC, q.agent_id, q.person, q.sequence LIMIT 1) IS NULL
           AND (SELECT q.task_id FROM runtime.queue q WHERE q.run_at <= now() ORDER BY q.run_at LIMIT 1) IS NULL
    ), taken AS (
        DELETE FROM runtime.offers o USING fit WHERE o.id = (
            SELECT f.id FROM runtime.offers f
             WHERE NEW.agent_id = ANY (f.agents) AND EXISTS (
                   SELECT FROM runtime.workers w
                    WHERE w.id = f.worker AND NOT w.draining AND w.seen > clock_timestamp() - w.lease / 2)
             LIMIT 1 FOR UPDATE SKIP LOCKED)
        RETURNING o.worker, o.channel, fit.version
    ), claimed AS (
        INSERT INTO runtime.claims (task_id, agent_id, worker, attempt)
        SELECT NEW.id, NEW.agent_id, t.worker, 1 FROM taken t
    )
    SELECT t.worker, t.channel, t.version INTO taker FROM taken t;
    IF FOUND THEN
        NEW.status := 'running';
        NEW.worker := taker.worker;
        NEW.attempt := 1;
        NEW.started_at := clock_timestamp();
        NEW.definition_version := taker.version;
        PERFORM pg_notify(taker.channel, json_build_object(
            'id', NEW.id, 'worker', taker.worker, 'agent_id', NEW.agent_id, 'task_type', NEW.task_type,
            'payload', NEW.payload::text, 'user_id', NEW.user_id, 'definition_version', taker.version)::text);
    END IF;
    RETURN NEW;
END
$$;
-- Only where the submitter says that its statement is all there is: another could still change the task before it commits,
-- and a key may be taken. By its name it comes last of all: what somebody else's trigger changes has been changed.
CREATE OR REPLACE TRIGGER "~hand_over" BEFORE INSERT ON runtime.tasks
    FOR EACH ROW WHEN (
        current_setting('cirkelline.hand_over', TRUE) = 'on' AND NEW.status = 'pending' AND NEW.attempt = 0
        AND NEW.agent_id IS NOT NULL AND NEW.session_id IS NULL AND NEW.beside IS NULL AND NEW.key IS NULL
        AND NEW.adopted IS NOT TRUE AND (NEW.run_at IS NULL OR NEW.run_at <= clock_timestamp()))
    EXECUTE FUNCTION runtime.hand_over();

-- As in 021, but for what has been handed over nothing is opened.
CREATE OR REPLACE FUNCTION runtime.queue_added_tasks() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF current_setting('cirkelline.hand_over', TRUE) = 'on'
       AND NOT EXISTS (SELECT FROM added a WHERE a.status = 'pending') THEN
        RETURN NULL;
    END IF;
    INSERT INTO runtime.queue (task_id, agent_id, session_id, priority, run_at, sequence, beside, person)
    SELECT id, agent_id, session_id, coalesce(priority, 0), CASE WHEN run_at > clock_timestamp() THEN run_at END,
           sequence, beside, runtime.whose(user_id, session_id)
      FROM added
     WHERE status = 'pending' AND agent_id IS NOT NULL AND adopted IS NOT TRUE
        ON CONFLICT (task_id) DO UPDATE
       SET agent_id = excluded.agent_id, session_id = excluded.session_id, priority = excluded.priority,
           run_at = excluded.run_at, sequence = excluded.sequence, person = excluded.person;
    IF FOUND THEN
        PERFORM runtime.wake_workers();
    END IF;
    RETURN NULL;
END
$$;
