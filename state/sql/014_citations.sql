-- What the answers of a session may cite: each number that a search has given in it, and the passage behind it. It is
-- kept here as well as in the journal, since a conversation outlives its tasks.

CREATE TABLE IF NOT EXISTS runtime.citations (
    session_id UUID NOT NULL,
    user_id UUID NOT NULL,
    n INTEGER NOT NULL,
    chunk BIGINT NOT NULL,
    task_id UUID NOT NULL,      -- the turn that was given it first
    citation JSONB NOT NULL,    -- as in the journal: {"n", "document", "document_id", "chunk", "page", "heading", "source"}
    PRIMARY KEY (session_id, user_id, n)
);
CREATE INDEX IF NOT EXISTS citations_chunk ON runtime.citations (session_id, user_id, chunk);
INSERT INTO runtime.tenant_rules (relation, visible, writable, privileges) VALUES
    ('runtime.citations', 'user_id = (SELECT runtime.tenant_id())', NULL, 'SELECT')
    ON CONFLICT (relation) DO UPDATE
       SET visible = excluded.visible, writable = excluded.writable, privileges = excluded.privileges;

-- Write steps of a claimed task, as `write_journal` does, and with them what they may be cited by in their session.
CREATE OR REPLACE FUNCTION runtime.write_citing(owner UUID, wanted UUID, run_attempt INTEGER, steps JSONB) RETURNS TEXT
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
DECLARE
    written TEXT := runtime.write_journal(owner, wanted, run_attempt, steps);
BEGIN
    IF written = 'written' THEN
        INSERT INTO runtime.citations (session_id, user_id, n, chunk, task_id, citation)
        SELECT t.session_id, t.user_id, (c.citation ->> 'n')::integer, (c.citation ->> 'chunk')::bigint, t.id, c.citation
          FROM runtime.tasks t
         CROSS JOIN jsonb_array_elements(steps) AS s (step)
         CROSS JOIN jsonb_array_elements(s.step -> 'citations') AS c (citation)
         WHERE t.id = wanted AND t.session_id IS NOT NULL AND t.user_id IS NOT NULL
            ON CONFLICT DO NOTHING;
    END IF;
    RETURN written;
END
$$;

-- They go with their session.
CREATE OR REPLACE FUNCTION runtime.forget_citations() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF TG_OP = 'TRUNCATE' THEN
        DELETE FROM runtime.citations;
    ELSE
        DELETE FROM runtime.citations c USING removed WHERE c.session_id = removed.id;
    END IF;
    RETURN NULL;
END
$$;
CREATE OR REPLACE TRIGGER citations_removed AFTER DELETE ON runtime.sessions
    REFERENCING OLD TABLE AS removed
    FOR EACH STATEMENT EXECUTE FUNCTION runtime.forget_citations();
CREATE OR REPLACE TRIGGER citations_emptied AFTER TRUNCATE ON runtime.sessions
    FOR EACH STATEMENT EXECUTE FUNCTION runtime.forget_citations();
