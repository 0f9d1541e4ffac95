-- A session stands in both documents: in `runtime.sessions` with its status, and in `ai.agno_sessions` with its name, the
-- time of its last message and whether it is archived. One row each, tied by the session's id and its user; whichever of
-- the two somebody changes, the other follows. Rows of `ai.agno_sessions` that other programs made for conversations of
-- their own have no session here and are never touched.

-- What a conversation is called: the beginning of what was said first, on one line.
CREATE OR REPLACE FUNCTION runtime.session_name(said TEXT) RETURNS TEXT
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT nullif(left(btrim(regexp_replace(left(said, 400), '\s+', ' ', 'g')), 80), '')
$$;

CREATE OR REPLACE FUNCTION runtime.list_added_sessions() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO ai.agno_sessions (session_id, user_id, created_at, updated_at, is_archived)
    SELECT a.id, a.user_id::text, a.created_at, a.created_at, coalesce(a.status, '') = 'archived'
      FROM added a WHERE a.user_id IS NOT NULL
        ON CONFLICT (session_id) DO NOTHING;
    RETURN NULL;
END
$$;
CREATE OR REPLACE TRIGGER session_listed AFTER INSERT ON runtime.sessions
    REFERENCING NEW TABLE AS added
    FOR EACH STATEMENT EXECUTE FUNCTION runtime.list_added_sessions();

-- A turn's end waits for nobody: where an outsider holds the row, the next turn tells the time.
CREATE OR REPLACE FUNCTION runtime.list_added_messages() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
BEGIN
    WITH spoken AS (
        SELECT m.session_id, m.user_id::text AS user_id, min(m.position) FILTER (WHERE m.role = 'user') AS first
          FROM added m WHERE m.user_id IS NOT NULL GROUP BY m.session_id, m.user_id
    ), free AS (
        SELECT a.id, a.name, s.session_id, s.first
          FROM ai.agno_sessions a JOIN spoken s ON a.session_id = s.session_id AND a.user_id = s.user_id
         ORDER BY a.id FOR NO KEY UPDATE OF a SKIP LOCKED
    )
    UPDATE ai.agno_sessions a
       SET updated_at = clock_timestamp() AT TIME ZONE 'UTC',
           name = coalesce(f.name, (SELECT runtime.session_name(runtime.said(m)) FROM runtime.messages m
                                     WHERE m.session_id = f.session_id AND m.position = f.first))
      FROM free f WHERE a.id = f.id;
    RETURN NULL;
END
$$;
CREATE OR REPLACE TRIGGER session_spoken AFTER INSERT ON runtime.messages
    REFERENCING NEW TABLE AS added
    FOR EACH STATEMENT EXECUTE FUNCTION runtime.list_added_messages();

CREATE OR REPLACE FUNCTION runtime.follow_session_status() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    UPDATE ai.agno_sessions a SET is_archived = (NEW.status = 'archived')
     WHERE a.session_id = NEW.id AND a.user_id = NEW.user_id::text
       AND a.is_archived IS DISTINCT FROM (NEW.status = 'archived');
    RETURN NULL;
END
$$;
CREATE OR REPLACE TRIGGER session_status AFTER UPDATE OF status ON runtime.sessions
    FOR EACH ROW WHEN (NEW.status IS NOT NULL AND OLD.status IS DISTINCT FROM NEW.status)
    EXECUTE FUNCTION runtime.follow_session_status();

CREATE OR REPLACE FUNCTION runtime.follow_session_archive() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    UPDATE runtime.sessions s
       SET status = CASE WHEN NEW.is_archived THEN 'archived' ELSE 'active' END,
           ended_at = CASE WHEN NEW.is_archived THEN coalesce(s.ended_at, now() AT TIME ZONE 'UTC') END
     WHERE s.id = NEW.session_id AND s.user_id::text = NEW.user_id
       AND (coalesce(s.status, '') = 'archived') <> NEW.is_archived;
    RETURN NULL;
END
$$;
CREATE OR REPLACE TRIGGER session_archived AFTER UPDATE OF is_archived ON ai.agno_sessions
    FOR EACH ROW WHEN (NEW.is_archived IS NOT NULL AND OLD.is_archived IS DISTINCT FROM NEW.is_archived)
    EXECUTE FUNCTION runtime.follow_session_archive();

CREATE OR REPLACE FUNCTION runtime.unlist_sessions() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF TG_OP = 'TRUNCATE' THEN
        DELETE FROM ai.agno_sessions a USING runtime.sessions s
         WHERE a.session_id = s.id AND a.user_id = s.user_id::text;
    ELSE
        DELETE FROM ai.agno_sessions a USING removed r WHERE a.session_id = r.id AND a.user_id = r.user_id::text;
    END IF;
    RETURN NULL;
END
$$;
CREATE OR REPLACE TRIGGER session_unlisted AFTER DELETE ON runtime.sessions
    REFERENCING OLD TABLE AS removed
    FOR EACH STATEMENT EXECUTE FUNCTION runtime.unlist_sessions();
CREATE OR REPLACE TRIGGER sessions_unlisted BEFORE TRUNCATE ON runtime.sessions
    FOR EACH STATEMENT EXECUTE FUNCTION runtime.unlist_sessions();

-- Our own sessions from before this file; an adopted one has no message of ours and stays as it was found.
INSERT INTO ai.agno_sessions (session_id, user_id, name, created_at, updated_at, is_archived)
SELECT s.id, s.user_id::text,
       (SELECT runtime.session_name(runtime.said(m)) FROM runtime.messages m
         WHERE m.session_id = s.id AND m.role = 'user' ORDER BY m.position LIMIT 1),
       s.created_at, last.created AT TIME ZONE 'UTC', coalesce(s.status, '') = 'archived'
  FROM runtime.sessions s
 CROSS JOIN LATERAL (SELECT m.created FROM runtime.messages m WHERE m.session_id = s.id
                      ORDER BY m.position DESC LIMIT 1) last
 WHERE s.user_id IS NOT NULL
    ON CONFLICT (session_id) DO NOTHING;
