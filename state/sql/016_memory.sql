-- Memory: what finding the first document's memories by relevance needs, and where each one came from, kept beside them by
-- triggers, so that it is right whoever writes them. Nothing here may make a statement of another program fail: what cannot
-- be taken in is written down and tried again by a worker, which also takes in what stood there before this migration.

ALTER TABLE ai.agno_memories_archive
    ADD COLUMN IF NOT EXISTS original JSONB,       -- the whole row as it was
    ADD COLUMN IF NOT EXISTS trace JSONB,          -- its row of ai.memory_index
    ADD COLUMN IF NOT EXISTS reason TEXT,          -- forgotten, superseded, deleted or merged
    ADD COLUMN IF NOT EXISTS replaced_by INTEGER;  -- the memory that says it now

-- One row per memory. An embedding is of length 1, so that the inner product is the cosine, and stands in its row: all of
-- one person's are read for each recall.
CREATE TABLE IF NOT EXISTS ai.memory_index (
    id INTEGER PRIMARY KEY,                        -- ai.agno_memories.id
    user_id TEXT NOT NULL,
    embedder TEXT,                                 -- NULL as long as nobody has embedded it
    superseded_by INTEGER,                         -- a later memory that a rule holds to be in its place
    valid_from TIMESTAMPTZ NOT NULL,
    tokens INTEGER NOT NULL,                       -- about how many a model reads
    lasting BOOLEAN NOT NULL,                      -- whether it says how one thing is, so that a later one may replace it
    opening TEXT,                                  -- its first two words, where one of them says anything
    stems TEXT[] NOT NULL,
    digest TEXT NOT NULL,                          -- of its words: equal for what differs in case and punctuation alone
    origin TEXT NOT NULL DEFAULT 'elsewhere',      -- told, captured, added, merged, or another program's
    task_id UUID,
    session_id UUID,
    message BIGINT,                                -- position in runtime.messages
    embedding HALFVEC(768)
);
ALTER TABLE ai.memory_index ALTER COLUMN embedding SET STORAGE PLAIN;
CREATE INDEX IF NOT EXISTS memory_index_user ON ai.memory_index (user_id);
CREATE INDEX IF NOT EXISTS memory_index_embedder ON ai.memory_index (embedder, id);
CREATE INDEX IF NOT EXISTS memory_index_superseded ON ai.memory_index (superseded_by) WHERE superseded_by IS NOT NULL;

-- What could not be taken in, or was there before us and has not been taken in yet.
CREATE TABLE IF NOT EXISTS ai.memory_backlog (
    id INTEGER PRIMARY KEY,
    problem TEXT,
    tries INTEGER NOT NULL DEFAULT 0
);

-- What a person has said about being remembered: nobody is captured who was not asked.
CREATE TABLE IF NOT EXISTS ai.memory_consents (
    user_id UUID PRIMARY KEY,
    capture BOOLEAN NOT NULL,
    at TIMESTAMPTZ NOT NULL DEFAULT now()
);

-- What a text is about ------------------------------------------------------------------------------------------------

-- Its words without endings and stop words. `not` is one of them: the opposite is not the same.
CREATE OR REPLACE FUNCTION runtime.memory_stems(said TEXT) RETURNS TEXT[]
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT array_remove(tsvector_to_array(to_tsvector('pg_catalog.english'::regconfig, left(said, 4000))), 'user')
        || CASE WHEN left(said, 4000) ~* '\m(not|never|no longer|cannot|[a-z]+n''t)\M' THEN ARRAY['not'] ELSE '{}' END
$$;

CREATE OR REPLACE FUNCTION runtime.memory_digest(said TEXT) RETURNS TEXT
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT encode(sha256(convert_to(btrim(regexp_replace(lower(said), '[^[:alnum:]]+', ' ', 'g')), 'UTF8')), 'hex')
$$;

-- A memory without the subject that all of a person's memories share.
CREATE OR REPLACE FUNCTION runtime.memory_predicate(said TEXT) RETURNS TEXT
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT regexp_replace(btrim(left(said, 4000)), '^(the )?(user|person|they|he|she|i)(''s)? ', '', 'i')
$$;

-- The first two words, where they hold a verb and something that it is about: not those of `The cat is …`.
CREATE OR REPLACE FUNCTION runtime.memory_opening(said TEXT) RETURNS TEXT
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE WHEN start.words !~* '^(the|an?|my|his|her|their|our|this|that)\M'
                 AND cardinality(runtime.memory_stems(start.words)) > 0 THEN lower(start.words) END
      FROM (SELECT substring(runtime.memory_predicate(said) FROM '^\W*(\w+\W+\w+)') AS words) start
$$;

-- Whether a memory says how one thing is. What happened stays true, and so does what one may have several of: neither is
-- ever replaced by a rule. Where it cannot be told, as in other languages than English, one thing is assumed, and then
-- only what begins or mostly reads the same is taken for the same thing.
CREATE OR REPLACE FUNCTION runtime.memory_lasts(said TEXT) RETURNS BOOLEAN
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT NOT coalesce(
        p.text ~* '^\W*(an?|some|several|many|two|three|four)\M'
        OR p.text ~* '\m(was|were|(19|20)[0-9][0-9]|yesterday|last (week|month|year|night|summer|winter|spring|autumn|fall))\M'
        OR p.text ~* ('^\W*(\S+ ){0,2}(\w+ed|had|did|went|got|bought|met|gave|made|saw|took|came|told|thought|found|sold|lost'
                   || '|won|broke|wrote|spoke|left|began|became|flew|drove|ate|drank|ran|taught|caught|felt|heard|held|kept'
                   || '|knew|paid|sent|spent|stood|wore)\M')
        OR p.text ~* ('\m(likes?|loves?|enjoys?|hates?|dislikes?|cannot stand|avoids?|owns?|has an?|have an?|collects?|speaks?'
                   || '|fluent|knows?|volunteers?|allerg\w+|intoleran\w+|interested|fan of|friends?|supports?|plays?|visits?'
                   || '|recommends?|hobby|hobbies|member of|helps?|unpaid|also|another|one of|sometimes|often'
                   || '|child|children|sons?|daughters?|brothers?|sisters?|sibling\w*)\M'), FALSE)
      FROM (SELECT runtime.memory_predicate(said) AS text) p
$$;

-- Whether two memories that say how something is, and mean something near, are about the same thing: they have at least as
-- many words in common as either has of its own, or hardly fewer and begin alike.
CREATE OR REPLACE FUNCTION runtime.memories_alike(one TEXT, other TEXT, one_stems TEXT[], other_stems TEXT[])
RETURNS BOOLEAN
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT common.words > 0
       AND greatest(cardinality(one_stems), cardinality(other_stems))
           <= 2 * common.words + CASE WHEN one = other THEN 2 ELSE 0 END
      FROM (SELECT count(*) AS words FROM unnest(one_stems) AS mine (stem) WHERE mine.stem = ANY (other_stems)) common
$$;

-- Whether a later memory of this kind takes an earlier one's place, as far as a rule can tell.
CREATE OR REPLACE FUNCTION runtime.memory_replaces(
    similarity FLOAT8, one TEXT, other TEXT, one_stems TEXT[], other_stems TEXT[]
) RETURNS BOOLEAN
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT similarity > 0.75
        OR similarity > 0.45 AND runtime.memories_alike(one, other, one_stems, other_stems)
$$;

-- Taking in -----------------------------------------------------------------------------------------------------------
-- Always from the memories as they are now, by id. Where the text is another one, its embedding and what a rule made of it
-- are not its own any more.

CREATE OR REPLACE FUNCTION runtime.index_memories(ids INTEGER[]) RETURNS void
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
    INSERT INTO ai.memory_index AS i (id, user_id, valid_from, tokens, lasting, opening, stems, digest)
    SELECT m.id, m.user_id, CASE WHEN isfinite(m.created_at) THEN m.created_at AT TIME ZONE 'UTC' ELSE now() END,
           1 + octet_length(m.memory) / 4, runtime.memory_lasts(m.memory), runtime.memory_opening(m.memory),
           runtime.memory_stems(m.memory), runtime.memory_digest(m.memory)
      FROM ai.agno_memories m WHERE m.id = ANY (ids)
    ON CONFLICT (id) DO UPDATE
       SET user_id = excluded.user_id, tokens = excluded.tokens, lasting = excluded.lasting, opening = excluded.opening,
           stems = excluded.stems, digest = excluded.digest,
           embedder = CASE WHEN i.digest = excluded.digest THEN i.embedder END,
           embedding = CASE WHEN i.digest = excluded.digest THEN i.embedding END,
           superseded_by = CASE WHEN i.digest = excluded.digest AND i.user_id = excluded.user_id THEN i.superseded_by END;
$$;

CREATE OR REPLACE FUNCTION runtime.take_in_memory() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET client_min_messages = warning AS $$
BEGIN
    BEGIN
        CASE TG_OP
            WHEN 'TRUNCATE' THEN
                DELETE FROM ai.memory_index;
                DELETE FROM ai.memory_backlog;
            WHEN 'DELETE' THEN
                DELETE FROM ai.memory_index i WHERE i.id = OLD.id;
                UPDATE ai.memory_index i SET superseded_by = NULL WHERE i.superseded_by = OLD.id;
            ELSE
                IF TG_OP = 'UPDATE' AND OLD.id <> NEW.id THEN
                    UPDATE ai.memory_index i SET id = NEW.id WHERE i.id = OLD.id;
                    UPDATE ai.memory_index i SET superseded_by = NEW.id WHERE i.superseded_by = OLD.id;
                END IF;
                PERFORM runtime.index_memories(ARRAY[NEW.id]);
        END CASE;
    EXCEPTION WHEN query_canceled OR assert_failure THEN
        RAISE;
    WHEN OTHERS THEN
        BEGIN
            IF TG_OP IN ('INSERT', 'UPDATE') THEN
                INSERT INTO ai.memory_backlog AS b (id, problem) VALUES (NEW.id, left(SQLERRM, 500))
                ON CONFLICT (id) DO UPDATE SET problem = excluded.problem, tries = 0;
            END IF;
        EXCEPTION WHEN OTHERS THEN
            NULL;  -- another program's statement goes on, whatever is wrong with ours
        END;
    END;
    RETURN NULL;
END
$$;
CREATE OR REPLACE TRIGGER memory_added AFTER INSERT ON ai.agno_memories
    FOR EACH ROW EXECUTE FUNCTION runtime.take_in_memory();
-- Not for what only says that it was read.
CREATE OR REPLACE TRIGGER memory_changed AFTER UPDATE OF id, user_id, memory ON ai.agno_memories
    FOR EACH ROW EXECUTE FUNCTION runtime.take_in_memory();
CREATE OR REPLACE TRIGGER memory_removed AFTER DELETE ON ai.agno_memories
    FOR EACH ROW EXECUTE FUNCTION runtime.take_in_memory();
CREATE OR REPLACE TRIGGER memories_emptied AFTER TRUNCATE ON ai.agno_memories
    FOR EACH STATEMENT EXECUTE FUNCTION runtime.take_in_memory();

INSERT INTO ai.memory_backlog (id)
SELECT m.id FROM ai.agno_memories m WHERE NOT EXISTS (SELECT FROM ai.memory_index i WHERE i.id = m.id)
ON CONFLICT DO NOTHING;

-- Take in what waits, so many at a time; returns how many there were. One that fails again and again is left to be read.
CREATE OR REPLACE FUNCTION runtime.clear_memory_backlog(amount INTEGER) RETURNS INTEGER
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET client_min_messages = warning AS $$
DECLARE
    ids INTEGER[] := ARRAY(SELECT b.id FROM ai.memory_backlog b WHERE b.tries < 5 ORDER BY b.id LIMIT amount FOR UPDATE SKIP LOCKED);
    wanted INTEGER;
BEGIN
    FOREACH wanted IN ARRAY ids LOOP
        BEGIN
            PERFORM runtime.index_memories(ARRAY[wanted]);
            DELETE FROM ai.memory_backlog b WHERE b.id = wanted;
        EXCEPTION WHEN data_exception OR program_limit_exceeded OR integrity_constraint_violation THEN
            UPDATE ai.memory_backlog b SET problem = left(SQLERRM, 500), tries = b.tries + 1 WHERE b.id = wanted;
        END;
    END LOOP;
    RETURN cardinality(ids);
END
$$;
REVOKE ALL ON FUNCTION runtime.clear_memory_backlog(INTEGER) FROM PUBLIC;

-- Recalling -----------------------------------------------------------------------------------------------------------

-- The memories of whoever is the tenant that bear on a question, best first, and with them the note that they were read:
-- all that are in force when they fit `budget` tokens, or else at most `amount` of them. By meaning first; words count where
-- few memories have them, or where a memory has no embedding of this embedder's. Of two memories that say how the same
-- thing is, the later one alone.
CREATE OR REPLACE FUNCTION runtime.recall_memories(
    question TEXT, meaning REAL[], meant_by TEXT, amount INTEGER, budget INTEGER, at TIMESTAMPTZ
) RETURNS TABLE (
    id INTEGER, memory_id UUID, memory TEXT, topics JSONB, since TIMESTAMPTZ, score FLOAT8, similarity FLOAT8
)
LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_custom_plan SET jit = off AS $$
    WITH asked AS MATERIALIZED (
        SELECT runtime.unit(meaning) AS meaning, runtime.memory_stems(question) AS stems,
               runtime.tenant_names() AS owners
    ), mine AS MATERIALIZED (
        SELECT i.id, i.valid_from, i.tokens, i.stems,
               CASE WHEN i.embedder = meant_by THEN runtime.similarity(i.embedding, a.meaning) END AS similarity
          FROM ai.memory_index i, asked a
         WHERE i.user_id = ANY (a.owners) AND i.superseded_by IS NULL
    ), hits AS (
        SELECT m.id, word.stem FROM mine m, asked a, unnest(m.stems) AS word (stem)
         WHERE m.stems && a.stems AND word.stem = ANY (a.stems)
    ), weights AS (
        SELECT word.stem, ln(1 + (total.memories - word.memories + 0.5::float8) / (word.memories + 0.5)) AS weight,
               word.memories <= greatest(3, total.memories / 20) AS rare
          FROM (SELECT h.stem, count(*) AS memories FROM hits h GROUP BY h.stem) word,
               (SELECT count(*) AS memories FROM mine) total
    ), words AS (
        SELECT h.id, sum(w.weight) / max(whole.weight) AS share,
               sum(w.weight) FILTER (WHERE w.rare) / max(whole.rare) AS rare_share
          FROM hits h JOIN weights w ON w.stem = h.stem,
               (SELECT sum(x.weight) AS weight, sum(x.weight) FILTER (WHERE x.rare) AS rare FROM weights x) whole
         GROUP BY h.id
    ), scored AS (
        -- Floats throughout: a power of numerics costs more than all the rest. 7,776,000 seconds are 90 days.
        SELECT m.id, m.tokens, m.similarity,
               coalesce(m.similarity, 0.6 * w.share, 0) + 0.15 * coalesce(w.rare_share, 0)
               + 0.1 * exp(-ln(2::float8) * greatest(extract(epoch FROM at - m.valid_from)::float8, 0) / 7776000) AS score
          FROM mine m LEFT JOIN words w ON w.id = m.id
    ), size AS MATERIALIZED (
        SELECT sum(m.tokens) <= budget AS fits, count(*) AS memories FROM mine m
    ), best AS MATERIALIZED (
        SELECT s.* FROM scored s ORDER BY s.score DESC, s.id DESC
         LIMIT (SELECT CASE WHEN z.fits THEN z.memories ELSE amount * 3 + 16 END FROM size z)
    ), candidates AS MATERIALIZED (
        SELECT b.*, i.valid_from, i.lasting, i.opening, i.stems, i.embedding, i.embedder
          FROM best b JOIN ai.memory_index i ON i.id = b.id
    ), standing AS (
        SELECT c.* FROM candidates c
         WHERE NOT c.lasting OR NOT EXISTS (
             SELECT FROM candidates later
              WHERE later.valid_from > c.valid_from AND later.lasting AND later.embedder = c.embedder
                AND runtime.memory_replaces(runtime.similarity(later.embedding, c.embedding),
                                            later.opening, c.opening, later.stems, c.stems))
    ), fitting AS (
        SELECT s.id, s.valid_from, s.score, s.similarity, sum(s.tokens) OVER ranked AS used, row_number() OVER ranked AS place
          FROM standing s, size z WHERE z.fits OR s.tokens <= budget
        WINDOW ranked AS (ORDER BY s.score DESC, s.id DESC)
    ), chosen AS MATERIALIZED (
        SELECT f.* FROM fitting f, size z WHERE z.fits OR f.used <= budget AND f.place <= amount
    ), touched AS (
        UPDATE ai.agno_memories m SET accessed_at = at AT TIME ZONE 'UTC'
         WHERE m.id = ANY (ARRAY(SELECT c.id FROM chosen c))
        RETURNING m.id, m.memory_id, m.memory, m.topics
    )
    SELECT t.id, t.memory_id, t.memory, t.topics, c.valid_from, c.score, c.similarity
      FROM touched t JOIN chosen c ON c.id = t.id ORDER BY c.score DESC, c.id DESC
$$;

-- What stands near a text among the tenant's memories that are in force, with a cosine over `above`, nearest first: `same` says the same, and `replaced`
-- is one whose place the text takes, as far as a rule can tell.
CREATE OR REPLACE FUNCTION runtime.near_memories(said TEXT, meaning REAL[], meant_by TEXT, amount INTEGER, above FLOAT8)
RETURNS TABLE (id INTEGER, memory TEXT, since TIMESTAMPTZ, similarity FLOAT8, same BOOLEAN, replaced BOOLEAN)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_custom_plan SET jit = off AS $$
    WITH asked AS MATERIALIZED (
        SELECT runtime.unit(meaning) AS meaning, runtime.memory_stems(said) AS stems, runtime.memory_opening(said) AS opening,
               runtime.memory_lasts(said) AS lasting, runtime.memory_digest(said) AS digest,
               runtime.tenant_names() AS owners
    ), mine AS MATERIALIZED (
        SELECT i.id, i.valid_from, i.digest, i.stems, i.opening, i.lasting, i.digest = a.digest AS equal,
               CASE WHEN i.embedder = meant_by THEN runtime.similarity(i.embedding, a.meaning) END AS similarity
          FROM ai.memory_index i, asked a WHERE i.user_id = ANY (a.owners) AND i.superseded_by IS NULL
    ), near AS (
        SELECT n.id, n.valid_from, n.similarity,
               n.equal OR coalesce(n.similarity > 0.97 AND n.stems @> a.stems AND a.stems @> n.stems, FALSE) AS same,
               coalesce(n.lasting AND a.lasting
                   AND runtime.memory_replaces(n.similarity, n.opening, a.opening, n.stems, a.stems), FALSE) AS replaced
          FROM mine n, asked a
         WHERE n.equal OR n.similarity > above
            OR n.similarity IS NULL AND runtime.memories_alike(n.opening, a.opening, n.stems, a.stems)
    )
    SELECT n.id, m.memory, n.valid_from, n.similarity, n.same, n.replaced AND NOT n.same
      FROM near n JOIN ai.agno_memories m ON m.id = n.id
     ORDER BY n.same DESC, n.similarity DESC NULLS LAST, n.id DESC LIMIT amount
$$;

-- Out of the way, and back ----------------------------------------------------------------------------------------------

-- Move memories into the archive, whole, saying why; returns how many there were. Once moved they are not there to be moved
-- again.
CREATE OR REPLACE FUNCTION runtime.archive_memories(wanted INTEGER[], why TEXT, run TEXT, successor INTEGER) RETURNS INTEGER
LANGUAGE sql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
    WITH gone AS (
        DELETE FROM ai.agno_memories m WHERE m.id = ANY (wanted) RETURNING m.*
    ), kept AS (
        INSERT INTO ai.agno_memories_archive (original_memory_id, user_id, memory, topics, input, created_at, archived_at,
                                              optimization_run_id, original, trace, reason, replaced_by)
        SELECT g.memory_id::text, g.user_id, to_jsonb(g.memory), g.topics, g.input, g.created_at,
               now() AT TIME ZONE 'UTC', run, to_jsonb(g),
               (SELECT to_jsonb(i) FROM ai.memory_index i WHERE i.id = g.id), why, successor
          FROM gone g
        RETURNING 1
    )
    SELECT count(*)::integer FROM kept
$$;

-- Put archived memories back exactly as they were, in place of what stands under their ids by now; returns how many.
CREATE OR REPLACE FUNCTION runtime.restore_memories(archived INTEGER[]) RETURNS INTEGER
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    kept RECORD;
    restored INTEGER := 0;
BEGIN
    -- The oldest copy last: it is what a memory was before any change.
    FOR kept IN
        SELECT a.id, a.original, a.trace FROM ai.agno_memories_archive a
         WHERE a.id = ANY (archived) AND a.original IS NOT NULL ORDER BY a.id DESC
    LOOP
        DELETE FROM ai.agno_memories m WHERE m.id = (kept.original ->> 'id')::integer;
        INSERT INTO ai.agno_memories SELECT (jsonb_populate_record(NULL::ai.agno_memories, kept.original)).*;
        UPDATE ai.memory_index i
           SET embedder = t.embedder, embedding = t.embedding, superseded_by = t.superseded_by, valid_from = t.valid_from,
               origin = t.origin, task_id = t.task_id, session_id = t.session_id, message = t.message
          FROM jsonb_populate_record(NULL::ai.memory_index, kept.trace) t
         WHERE kept.trace IS NOT NULL AND i.id = t.id;
        DELETE FROM ai.agno_memories_archive a WHERE a.id = kept.id;
        restored := restored + 1;
    END LOOP;
    RETURN restored;
END
$$;

-- Give a memory other topics in a run, and keep how it was; what the run has made itself needs no keeping.
CREATE OR REPLACE FUNCTION runtime.file_memory(wanted INTEGER, filed JSONB, run TEXT) RETURNS INTEGER
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO ai.agno_memories_archive (original_memory_id, user_id, memory, topics, input, created_at, archived_at,
                                          optimization_run_id, original, trace, reason)
    SELECT m.memory_id::text, m.user_id, to_jsonb(m.memory), m.topics, m.input, m.created_at, now() AT TIME ZONE 'UTC', run,
           to_jsonb(m), to_jsonb(i), 'changed'
      FROM ai.agno_memories m JOIN ai.memory_index i ON i.id = m.id
     WHERE m.id = wanted AND NOT (i.origin = 'merged' AND i.task_id::text = run);
    UPDATE ai.agno_memories m SET topics = filed WHERE m.id = wanted;
    RETURN (SELECT count(*) FROM ai.agno_memories m WHERE m.id = wanted);
END
$$;

-- Take back all that a run did: what it made goes, what it moved or changed is as it was. Returns how many came back.
CREATE OR REPLACE FUNCTION runtime.undo_optimization(run TEXT) RETURNS INTEGER
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    DELETE FROM ai.agno_memories m USING ai.memory_index i
     WHERE i.id = m.id AND i.origin = 'merged' AND i.task_id::text = run;
    RETURN runtime.restore_memories(ARRAY(
        SELECT a.id FROM ai.agno_memories_archive a WHERE a.optimization_run_id = run AND a.original IS NOT NULL));
END
$$;

-- Looking through what was said -----------------------------------------------------------------------------------------

ALTER TABLE runtime.session_heads
    ADD COLUMN IF NOT EXISTS captured BIGINT NOT NULL DEFAULT 0,        -- up to this position it has been looked through
    ADD COLUMN IF NOT EXISTS capture_wanted BIGINT NOT NULL DEFAULT 0,  -- and up to this one it is to be
    ADD COLUMN IF NOT EXISTS capture_task UUID,
    ADD COLUMN IF NOT EXISTS capture_tries INTEGER NOT NULL DEFAULT 0;  -- since the last that succeeded

-- Put a look through a session in line, unless one is there or runs: that one asks again at its end. What has failed three
-- times is left, as each costs a model call.
CREATE OR REPLACE FUNCTION runtime.want_capture(wanted UUID, agent UUID, said_more BOOLEAN) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
DECLARE
    head RECORD;
    made UUID := gen_random_uuid();
    latest BIGINT;
BEGIN
    SELECT h.* INTO head FROM runtime.session_heads h WHERE h.session_id = wanted FOR UPDATE;
    IF head IS NULL THEN
        RETURN;
    END IF;
    IF said_more THEN
        latest := (SELECT max(m.position) FROM runtime.messages m WHERE m.session_id = wanted);
        UPDATE runtime.session_heads h SET capture_wanted = latest WHERE h.session_id = wanted;
        head.capture_wanted := latest;
    END IF;
    IF coalesce(head.capture_wanted, 0) <= head.captured OR EXISTS (
        SELECT FROM runtime.tasks t
         WHERE t.id = head.capture_task AND t.status IN ('pending', 'running', 'waiting')) THEN
        RETURN;
    END IF;
    IF head.capture_tries >= 3 THEN
        UPDATE runtime.session_heads h SET captured = h.capture_wanted, capture_tries = 0 WHERE h.session_id = wanted;
        RETURN;
    END IF;
    -- A task of the user's and beside the session: no turn waits for it, and turns of whomever go before it.
    INSERT INTO runtime.tasks (id, agent_id, task_type, payload, user_id, beside, priority)
    VALUES (made, agent, 'capture', jsonb_build_object('session', wanted), head.user_id, wanted, -20);
    UPDATE runtime.session_heads h
       SET capture_task = made, capture_tries = h.capture_tries + 1 WHERE h.session_id = wanted;
END
$$;

-- As 010 has it, and what a run that looked through a session has looked through, and that a turn wants to be.
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
        IF ended.kept ? 'captured' THEN
            UPDATE runtime.session_heads h
               SET captured = greatest(h.captured, (ended.kept #>> '{captured,covers}')::bigint), capture_tries = 0
             WHERE h.session_id = ended.session_id;
            PERFORM runtime.want_capture(ended.session_id, ended.agent_id, FALSE);
        ELSIF ended.kept ? 'capture' THEN
            PERFORM runtime.want_capture(ended.session_id, ended.agent_id, TRUE);
        END IF;
        IF ended.kept ? 'summarize' THEN
            PERFORM runtime.want_summary(ended.session_id, ended.agent_id);
        END IF;
    END LOOP;
END
$$;

INSERT INTO runtime.tenant_rules (relation, visible, writable, privileges) VALUES
    ('ai.memory_index', 'user_id = ANY ((SELECT runtime.tenant_names())::text[])',
     'user_id = ANY ((SELECT runtime.tenant_names())::text[])',
     'SELECT, UPDATE (embedder, embedding, superseded_by, valid_from, origin, task_id, session_id, message)'),
    ('ai.memory_consents', 'user_id = (SELECT runtime.tenant_id())', 'user_id = (SELECT runtime.tenant_id())',
     'SELECT, INSERT, UPDATE')
ON CONFLICT (relation) DO UPDATE
   SET visible = excluded.visible, writable = excluded.writable, privileges = excluded.privileges;
