-- `cirkelline db adopt --release`: tasks that were here before us become ours, in the order their writers gave them.
-- Those without an agent stay as they are: nobody could run them.
CREATE OR REPLACE FUNCTION runtime.release_adopted() RETURNS INTEGER
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    released INTEGER;
BEGIN
    UPDATE runtime.tasks t SET sequence = numbered.sequence
      FROM (SELECT ordered.id, nextval('runtime.task_sequence') AS sequence
              FROM (SELECT held.id FROM runtime.tasks held
                     WHERE held.adopted AND held.status = 'pending' AND held.agent_id IS NOT NULL
                     ORDER BY held.created_at NULLS LAST, held.id FOR NO KEY UPDATE) ordered) numbered
     WHERE t.id = numbered.id;
    -- The trigger on `adopted` puts them in line.
    UPDATE runtime.tasks t
       SET adopted = FALSE, submitted_at = now(), root = coalesce(t.root, t.id), priority = coalesce(t.priority, 0)
     WHERE t.adopted AND t.status = 'pending' AND t.agent_id IS NOT NULL;
    GET DIAGNOSTICS released = ROW_COUNT;
    RETURN released;
END
$$;
