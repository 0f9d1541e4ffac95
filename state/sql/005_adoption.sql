-- `cirkelline db adopt --release`: tasks that were here before us become ours, in the order their writers gave them.
CREATE OR REPLACE FUNCTION runtime.release_adopted() RETURNS INTEGER
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    released INTEGER;
BEGIN
    UPDATE runtime.tasks t SET sequence = numbered.sequence
      FROM (SELECT ordered.id, nextval('runtime.task_sequence') AS sequence
              FROM (SELECT waiting.id FROM runtime.tasks waiting WHERE waiting.adopted AND waiting.status = 'pending'
                     ORDER BY waiting.created_at NULLS LAST, waiting.id) ordered) numbered
     WHERE t.id = numbered.id;
    -- The trigger on `adopted` puts them in line.
    UPDATE runtime.tasks t
       SET adopted = FALSE, submitted_at = now(), attempt = coalesce(t.attempt, 0), deaths = 0,
           root = coalesce(t.root, t.id), priority = coalesce(t.priority, 0)
     WHERE t.adopted AND t.status = 'pending';
    GET DIAGNOSTICS released = ROW_COUNT;
    RETURN released;
END
$$;
