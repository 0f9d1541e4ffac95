-- Knowledge: what searching needs of the first document's two tables, kept beside them by triggers, so that it is right
-- whoever writes them. Nothing here may make a statement of another program fail or wait: what cannot be taken in is
-- written down in `ai.knowledge_failures`, and what stood there before this migration is taken in by a job, in batches.

CREATE TABLE IF NOT EXISTS runtime.settings (
    name TEXT PRIMARY KEY,
    value JSONB NOT NULL
);

CREATE TABLE IF NOT EXISTS ai.knowledge_documents (
    id INTEGER PRIMARY KEY,             -- ai.agno_knowledge.id
    owner TEXT NOT NULL,
    source TEXT,                        -- a document is (owner, source); other programs' may have none
    hash TEXT,
    type TEXT,
    tags TEXT[] NOT NULL,               -- in lower case
    uploaded DATE
);
CREATE INDEX IF NOT EXISTS knowledge_documents_owner ON ai.knowledge_documents (owner, left(source, 400));

-- Scanned whole for each search of its owner, so a row is narrow and its embedding stands in it (four rows a page), not in
-- TOAST, where reading it costs seven times as much.
CREATE TABLE IF NOT EXISTS ai.knowledge_chunks (
    chunk BIGINT PRIMARY KEY,           -- ai.cirkelline_knowledge_vectors.id
    document INTEGER,
    owner TEXT NOT NULL,
    embedder TEXT,                      -- NULL: its writer did not say
    embedding HALFVEC(768) NOT NULL     -- of length 1, so that the inner product is the cosine
);
ALTER TABLE ai.knowledge_chunks ALTER COLUMN embedding SET STORAGE PLAIN;
CREATE INDEX IF NOT EXISTS knowledge_chunks_owner ON ai.knowledge_chunks (owner);
CREATE INDEX IF NOT EXISTS knowledge_chunks_document ON ai.knowledge_chunks (document);

CREATE TABLE IF NOT EXISTS ai.knowledge_words (
    chunk BIGINT PRIMARY KEY,           -- ai.cirkelline_knowledge_vectors.id
    document INTEGER,
    owner TEXT NOT NULL,
    length INTEGER NOT NULL,            -- words of the chunk, stop words left out
    words TSVECTOR NOT NULL
) WITH (toast_tuple_target = 8160);     -- stays in its row, as it is, up to a whole page
CREATE INDEX IF NOT EXISTS knowledge_words_owner ON ai.knowledge_words (owner) INCLUDE (length);

-- A word of one owner as one number: the index leads to that owner's chunks with the word and to nobody else's, however
-- many there are. An index on the words alone reads everybody's. Dear, so that no plan works it out row by row.
CREATE OR REPLACE FUNCTION runtime.word_keys(owner TEXT, lexemes TEXT[]) RETURNS BIGINT[]
LANGUAGE sql IMMUTABLE PARALLEL SAFE COST 10000 SET search_path = pg_catalog, pg_temp AS $$
    SELECT coalesce(array_agg(hashtextextended(lexeme, hashtextextended(owner, 0))), '{}') FROM unnest(lexemes) AS lexeme
$$;
CREATE INDEX IF NOT EXISTS knowledge_words_keys ON ai.knowledge_words
    USING gin (runtime.word_keys(owner, tsvector_to_array(words))) WITH (gin_pending_list_limit = 256);

-- What could not be taken in, and what has to be looked at again.
CREATE TABLE IF NOT EXISTS ai.knowledge_failures (
    id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    kind TEXT NOT NULL,                 -- 'document' or 'chunk'
    subject BIGINT NOT NULL,
    problem TEXT NOT NULL,
    tries INTEGER NOT NULL DEFAULT 0,
    recorded TIMESTAMPTZ NOT NULL DEFAULT now()
);
CREATE INDEX IF NOT EXISTS knowledge_failures_subject ON ai.knowledge_failures (subject, kind);

-- pgvector's operators by what they mean: bound here, once, to the schema in which they are; the planner inlines them.
CREATE OR REPLACE FUNCTION runtime.similarity(one HALFVEC, other HALFVEC) RETURNS FLOAT8
LANGUAGE sql IMMUTABLE PARALLEL SAFE RETURN -(one <#> other);
-- Of length 1 first: a halfvec cannot hold the numbers that a vector can.
CREATE OR REPLACE FUNCTION runtime.unit(given VECTOR) RETURNS HALFVEC
LANGUAGE sql IMMUTABLE PARALLEL SAFE RETURN l2_normalize(given)::halfvec;
CREATE OR REPLACE FUNCTION runtime.unit(given FLOAT8[]) RETURNS HALFVEC
LANGUAGE sql IMMUTABLE PARALLEL SAFE RETURN l2_normalize(given::vector)::halfvec;
CREATE OR REPLACE FUNCTION runtime.same_vector(one VECTOR, other VECTOR) RETURNS BOOLEAN
LANGUAGE sql IMMUTABLE PARALLEL SAFE RETURN one = other;

-- What metadata says, whatever it is. `->>` is how the first document's own queries compare.
CREATE OR REPLACE FUNCTION runtime.owner_of(metadata JSONB) RETURNS TEXT
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE WHEN length(metadata ->> 'user_id') BETWEEN 1 AND 255 THEN metadata ->> 'user_id' END;

CREATE OR REPLACE FUNCTION runtime.chunk_owner(chunk JSONB, document JSONB) RETURNS TEXT
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE WHEN chunk ->> 'user_id' IS NULL THEN runtime.owner_of(document) ELSE runtime.owner_of(chunk) END;

CREATE OR REPLACE FUNCTION runtime.document_tags(metadata JSONB) RETURNS TEXT[]
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE jsonb_typeof(metadata -> 'tags')
    WHEN 'array' THEN ARRAY(
        SELECT tag.value #>> '{}'
          FROM jsonb_array_elements(CASE jsonb_typeof(metadata -> 'tags') WHEN 'array' THEN metadata -> 'tags' ELSE '[]' END)
               WITH ORDINALITY AS tag (value, place)
         WHERE jsonb_typeof(tag.value) IN ('string', 'number', 'boolean') ORDER BY tag.place)
    WHEN 'string' THEN ARRAY[metadata ->> 'tags']
    WHEN 'number' THEN ARRAY[metadata ->> 'tags']
    ELSE ARRAY[]::text[] END;

-- A date as text, or NULL: of the 31st of February too, which a cast would raise an error for.
CREATE OR REPLACE FUNCTION runtime.as_date(said TEXT) RETURNS DATE
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE WHEN said ~ '^[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])([^0-9]|$)' AND left(said, 4) <> '0000' THEN
    CASE WHEN substr(said, 9, 2)::integer <= extract(day FROM
                  make_date(left(said, 4)::integer, substr(said, 6, 2)::integer, 1) + interval '1 month' - interval '1 day')
         THEN make_date(left(said, 4)::integer, substr(said, 6, 2)::integer, substr(said, 9, 2)::integer) END END;

-- When a document was uploaded: as its metadata says, or else when its row was made, if the calendar has that day.
CREATE OR REPLACE FUNCTION runtime.document_date(metadata JSONB, created TIMESTAMP) RETURNS DATE
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN coalesce(runtime.as_date(metadata ->> 'upload_date'),
                CASE WHEN created BETWEEN '0001-01-01'::timestamp AND '9999-12-31'::timestamp THEN created::date END);

CREATE OR REPLACE FUNCTION runtime.document_source(metadata JSONB, file_path TEXT) RETURNS TEXT
LANGUAGE sql IMMUTABLE PARALLEL SAFE RETURN coalesce(nullif(metadata ->> 'source', ''), nullif(file_path, ''));

CREATE OR REPLACE FUNCTION runtime.as_integer(said TEXT) RETURNS INTEGER
LANGUAGE sql IMMUTABLE PARALLEL SAFE RETURN CASE WHEN said ~ '^[0-9]{1,9}$' THEN said::integer END;

-- The words of a question. The first 64 of them: enough for a question, and a page of text as one would be as dear as a
-- hundred.
CREATE OR REPLACE FUNCTION runtime.question_lexemes(language REGCONFIG, question TEXT) RETURNS TEXT[]
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN ARRAY(SELECT said.lexeme FROM unnest(to_tsvector(language, question)) AS said
              ORDER BY said.positions[1], said.lexeme LIMIT 64);
CREATE OR REPLACE FUNCTION runtime.terms(lexemes TEXT[]) RETURNS TSQUERY[]
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN ARRAY(SELECT ('''' || replace(replace(lexeme, '\', '\\'), '''', '''''') || '''')::tsquery
               FROM unnest(lexemes) WITH ORDINALITY AS said (lexeme, place) ORDER BY place);

-- What a setting is where nobody has set it. At 7, hybrid search is no worse than the better of its halves on real texts.
CREATE OR REPLACE FUNCTION runtime.saturation(settings JSONB) RETURNS FLOAT8
LANGUAGE sql IMMUTABLE PARALLEL SAFE RETURN coalesce((settings ->> 'saturation')::float8, 7);
CREATE OR REPLACE FUNCTION runtime.vector_weight(settings JSONB) RETURNS FLOAT8
LANGUAGE sql IMMUTABLE PARALLEL SAFE RETURN coalesce((settings ->> 'vector_weight')::float8, 0.7);
CREATE OR REPLACE FUNCTION runtime.word_weight(settings JSONB) RETURNS FLOAT8
LANGUAGE sql IMMUTABLE PARALLEL SAFE RETURN coalesce((settings ->> 'word_weight')::float8, 0.3);

-- The settings in force. The first ingest fixes the embedder; of chunks that name none, `unlabelled` says whose they are.
CREATE OR REPLACE FUNCTION runtime.knowledge_settings()
RETURNS TABLE (embedder TEXT, language TEXT, unlabelled TEXT, saturation FLOAT8, vector_weight FLOAT8, word_weight FLOAT8)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT s.value ->> 'embedder', coalesce(s.value ->> 'language', 'english'), s.value ->> 'unlabelled',
           runtime.saturation(s.value), runtime.vector_weight(s.value), runtime.word_weight(s.value)
      FROM (SELECT (SELECT o.value FROM runtime.settings o WHERE o.name = 'knowledge') AS value) s
$$;
CREATE OR REPLACE FUNCTION runtime.knowledge_language() RETURNS regconfig
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT coalesce((SELECT s.value ->> 'language' FROM runtime.settings s WHERE s.name = 'knowledge'), 'english')::regconfig
$$;

-- Taking in -----------------------------------------------------------------------------------------------------------
-- Always from the documents' tables as they are now, by id: whatever order things happen in, the last one tells the truth.

CREATE OR REPLACE FUNCTION runtime.derive_documents(ids BIGINT[]) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_generic_plan SET enable_seqscan = off AS $$
BEGIN
    DELETE FROM ai.knowledge_documents s USING unnest(ids) AS given (id)
     WHERE s.id = given.id AND NOT EXISTS (
         SELECT FROM ai.agno_knowledge d WHERE d.id = s.id AND runtime.owner_of(d.metadata) IS NOT NULL);
    INSERT INTO ai.knowledge_documents AS s (id, owner, source, hash, type, tags, uploaded)
    SELECT d.id, runtime.owner_of(d.metadata), runtime.document_source(d.metadata, d.file_path),
           d.metadata ->> 'content_hash', lower(d.metadata ->> 'document_type'),
           ARRAY(SELECT lower(tag) FROM unnest(runtime.document_tags(d.metadata)) AS tag),
           runtime.document_date(d.metadata, d.created_at)
      FROM (SELECT DISTINCT id FROM unnest(ids) AS given (id)) given JOIN ai.agno_knowledge d ON d.id = given.id
     WHERE runtime.owner_of(d.metadata) IS NOT NULL
    ON CONFLICT (id) DO UPDATE
       SET owner = excluded.owner, source = excluded.source, hash = excluded.hash, type = excluded.type,
           tags = excluded.tags, uploaded = excluded.uploaded;
    DELETE FROM ai.knowledge_failures f USING unnest(ids) AS given (id) WHERE f.subject = given.id AND f.kind = 'document';
END
$$;

CREATE OR REPLACE FUNCTION runtime.derive_chunks(ids BIGINT[]) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_generic_plan SET enable_seqscan = off
SET client_min_messages = warning AS $$  -- to_tsvector tells of each word that is too long
DECLARE
    language regconfig := runtime.knowledge_language();
BEGIN
    WITH gone AS (
        DELETE FROM ai.knowledge_chunks s USING unnest(ids) AS given (id)
         WHERE s.chunk = given.id AND NOT EXISTS (
             SELECT FROM ai.cirkelline_knowledge_vectors v LEFT JOIN ai.agno_knowledge d ON d.id = v.document_id
              WHERE v.id = s.chunk AND runtime.chunk_owner(v.metadata, d.metadata) IS NOT NULL)
        RETURNING s.chunk)
    DELETE FROM ai.knowledge_words w USING gone WHERE w.chunk = gone.chunk;
    INSERT INTO ai.knowledge_chunks AS s (chunk, document, owner, embedder, embedding)
    SELECT v.id, v.document_id, runtime.chunk_owner(v.metadata, d.metadata), v.metadata ->> 'embedder',
           runtime.unit(v.embedding)
      FROM (SELECT DISTINCT id FROM unnest(ids) AS given (id)) given
      JOIN ai.cirkelline_knowledge_vectors v ON v.id = given.id
      LEFT JOIN ai.agno_knowledge d ON d.id = v.document_id
     WHERE runtime.chunk_owner(v.metadata, d.metadata) IS NOT NULL
     ORDER BY v.id  -- a document's chunks come to lie side by side, and searching reads fewer pages
    ON CONFLICT (chunk) DO UPDATE
       SET document = excluded.document, owner = excluded.owner, embedder = excluded.embedder,
           embedding = excluded.embedding;
    INSERT INTO ai.knowledge_words AS s (chunk, document, owner, length, words)
    SELECT v.id, v.document_id, runtime.chunk_owner(v.metadata, d.metadata),
           coalesce((SELECT sum(cardinality(lexeme.positions)) FROM unnest(said.words) AS lexeme), 0),
           said.words
      FROM (SELECT DISTINCT id FROM unnest(ids) AS given (id)) given
      JOIN ai.cirkelline_knowledge_vectors v ON v.id = given.id
      LEFT JOIN ai.agno_knowledge d ON d.id = v.document_id
     CROSS JOIN LATERAL (SELECT to_tsvector(language, v.chunk_text) AS words OFFSET 0) said
     WHERE runtime.chunk_owner(v.metadata, d.metadata) IS NOT NULL
     ORDER BY v.id
    ON CONFLICT (chunk) DO UPDATE
       SET document = excluded.document, owner = excluded.owner, length = excluded.length, words = excluded.words;
    DELETE FROM ai.knowledge_failures f USING unnest(ids) AS given (id) WHERE f.subject = given.id AND f.kind = 'chunk';
END
$$;

CREATE OR REPLACE FUNCTION runtime.record_knowledge_failures(what TEXT, ids BIGINT[], why TEXT, tried INTEGER) RETURNS void
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
    DELETE FROM ai.knowledge_failures f WHERE f.kind = what AND f.subject = ANY (ids);
    INSERT INTO ai.knowledge_failures (kind, subject, problem, tries)
    SELECT what, given.id, left(why, 500), tried FROM unnest(ids) AS given (id);
$$;

-- Take in what can be: what cannot is found by halving, as the rest of a million rows should not be taken in one by one
-- for the sake of one. Locks and full disks have nothing to do with a row: then all of it is looked at again later.
CREATE OR REPLACE FUNCTION runtime.take_in(what TEXT, ids BIGINT[], tried INTEGER) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    amount CONSTANT INTEGER := cardinality(ids);
BEGIN
    IF amount = 0 THEN
        RETURN;
    END IF;
    BEGIN
        IF what = 'document' THEN
            PERFORM runtime.derive_documents(ids);
        ELSE
            PERFORM runtime.derive_chunks(ids);
        END IF;
        RETURN;
    EXCEPTION WHEN OTHERS THEN
        IF amount = 1 OR left(SQLSTATE, 2) IN ('53', '55', '57', '58') OR SQLSTATE = '40P01' THEN
            PERFORM runtime.record_knowledge_failures(what, ids, SQLERRM, tried);
            RETURN;
        END IF;
    END;
    PERFORM runtime.take_in(what, ids[1 : amount / 2], tried);
    PERFORM runtime.take_in(what, ids[amount / 2 + 1 : amount], tried);
END
$$;

-- The chunks that belong to whom their document belongs to.
CREATE OR REPLACE FUNCTION runtime.dependent_chunks(documents BIGINT[]) RETURNS BIGINT[]
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT coalesce(array_agg(v.id), '{}')
      FROM unnest(documents) AS given (id) JOIN ai.cirkelline_knowledge_vectors v ON v.document_id = given.id
     WHERE v.metadata ->> 'user_id' IS NULL
$$;

-- TRUNCATE in turn, unless a search is just reading: then row by row rather than wait for it.
CREATE OR REPLACE FUNCTION runtime.empty_knowledge(what TEXT) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET lock_timeout = '50ms' AS $$
BEGIN
    IF what = 'document' THEN
        TRUNCATE ai.knowledge_documents;
    ELSE
        TRUNCATE ai.knowledge_chunks, ai.knowledge_words;
    END IF;
    DELETE FROM ai.knowledge_failures f WHERE f.kind = what;
EXCEPTION WHEN OTHERS THEN
    IF what = 'document' THEN
        DELETE FROM ai.knowledge_documents;
    ELSE
        DELETE FROM ai.knowledge_chunks;
        DELETE FROM ai.knowledge_words;
    END IF;
    DELETE FROM ai.knowledge_failures f WHERE f.kind = what;
END
$$;

CREATE OR REPLACE FUNCTION runtime.keep_documents() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    ids BIGINT[];
    given_away BIGINT[] := '{}';
BEGIN
    IF TG_OP = 'TRUNCATE' THEN
        PERFORM runtime.empty_knowledge('document');
    ELSIF TG_OP = 'INSERT' THEN
        PERFORM runtime.take_in('document', ARRAY(SELECT a.id FROM added a), 0);
    ELSIF TG_OP = 'DELETE' THEN
        PERFORM runtime.take_in('document', ARRAY(SELECT r.id FROM removed r), 0);
    ELSE
        ids := ARRAY(
            SELECT a.id FROM added a LEFT JOIN removed r ON r.id = a.id
             WHERE r.id IS NULL OR r.metadata IS DISTINCT FROM a.metadata OR r.file_path IS DISTINCT FROM a.file_path
                OR r.created_at IS DISTINCT FROM a.created_at
            UNION ALL SELECT r.id FROM removed r WHERE NOT EXISTS (SELECT FROM added a WHERE a.id = r.id));
        PERFORM runtime.take_in('document', ids, 0);
        given_away := ARRAY(
            SELECT a.id FROM added a JOIN removed r ON r.id = a.id
             WHERE runtime.owner_of(r.metadata) IS DISTINCT FROM runtime.owner_of(a.metadata));
        IF given_away <> '{}' THEN
            PERFORM runtime.take_in('chunk', runtime.dependent_chunks(given_away), 0);
            -- Somebody may just be adding a chunk to it, which is not to be seen from here yet.
            PERFORM runtime.record_knowledge_failures('document', given_away, 'its owner was changed', 0);
        END IF;
    END IF;
    RETURN NULL;
EXCEPTION WHEN OTHERS THEN
    RETURN NULL;  -- a statement of another program's has to succeed, even when nothing can be written down
END
$$;

CREATE OR REPLACE FUNCTION runtime.keep_chunks() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    ids BIGINT[];
BEGIN
    IF TG_OP = 'TRUNCATE' THEN
        PERFORM runtime.empty_knowledge('chunk');
        RETURN NULL;
    ELSIF TG_OP = 'INSERT' THEN
        ids := ARRAY(SELECT a.id FROM added a);
    ELSIF TG_OP = 'DELETE' THEN
        ids := ARRAY(SELECT r.id FROM removed r);
    ELSE
        ids := ARRAY(
            SELECT a.id FROM added a LEFT JOIN removed r ON r.id = a.id
             WHERE r.id IS NULL OR r.metadata ->> 'user_id' IS DISTINCT FROM a.metadata ->> 'user_id'
                OR r.metadata ->> 'embedder' IS DISTINCT FROM a.metadata ->> 'embedder'
                OR r.document_id IS DISTINCT FROM a.document_id OR r.chunk_text IS DISTINCT FROM a.chunk_text
                OR NOT runtime.same_vector(r.embedding, a.embedding)
            UNION ALL SELECT r.id FROM removed r WHERE NOT EXISTS (SELECT FROM added a WHERE a.id = r.id));
    END IF;
    PERFORM runtime.take_in('chunk', ids, 0);
    -- A transaction with an old view of the data cannot see what the back-fill has just taken in.
    IF TG_OP = 'DELETE' AND current_setting('transaction_isolation') <> 'read committed' THEN
        PERFORM runtime.record_knowledge_failures('chunk', ids, 'removed by a transaction that could not see everything', 0);
    END IF;
    RETURN NULL;
EXCEPTION WHEN OTHERS THEN
    RETURN NULL;
END
$$;

-- What is here now is taken in by `backfill_knowledge`; what comes later, by these. Creating them waits for whoever is
-- just writing, so that nothing falls between the two.
CREATE OR REPLACE TRIGGER knowledge_added AFTER INSERT ON ai.agno_knowledge
    REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION runtime.keep_documents();
CREATE OR REPLACE TRIGGER knowledge_changed AFTER UPDATE ON ai.agno_knowledge
    REFERENCING OLD TABLE AS removed NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION runtime.keep_documents();
CREATE OR REPLACE TRIGGER knowledge_removed AFTER DELETE ON ai.agno_knowledge
    REFERENCING OLD TABLE AS removed FOR EACH STATEMENT EXECUTE FUNCTION runtime.keep_documents();
CREATE OR REPLACE TRIGGER knowledge_emptied AFTER TRUNCATE ON ai.agno_knowledge
    FOR EACH STATEMENT EXECUTE FUNCTION runtime.keep_documents();
CREATE OR REPLACE TRIGGER knowledge_added AFTER INSERT ON ai.cirkelline_knowledge_vectors
    REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION runtime.keep_chunks();
CREATE OR REPLACE TRIGGER knowledge_changed AFTER UPDATE ON ai.cirkelline_knowledge_vectors
    REFERENCING OLD TABLE AS removed NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION runtime.keep_chunks();
CREATE OR REPLACE TRIGGER knowledge_removed AFTER DELETE ON ai.cirkelline_knowledge_vectors
    REFERENCING OLD TABLE AS removed FOR EACH STATEMENT EXECUTE FUNCTION runtime.keep_chunks();
CREATE OR REPLACE TRIGGER knowledge_emptied AFTER TRUNCATE ON ai.cirkelline_knowledge_vectors
    FOR EACH STATEMENT EXECUTE FUNCTION runtime.keep_chunks();

-- The back-fill -------------------------------------------------------------------------------------------------------

-- Up to which id each table has been taken in, and to which it has to be.
INSERT INTO runtime.settings (name, value)
SELECT 'knowledge.backfill', jsonb_build_object(
           'documents', coalesce((SELECT min(d.id) FROM ai.agno_knowledge d), 1) - 1,
           'last_document', coalesce((SELECT max(d.id) FROM ai.agno_knowledge d), 0),
           'chunks', coalesce((SELECT min(v.id) FROM ai.cirkelline_knowledge_vectors v), 1) - 1,
           'last_chunk', coalesce((SELECT max(v.id) FROM ai.cirkelline_knowledge_vectors v), 0))
ON CONFLICT (name) DO NOTHING;

-- How many rows are still to be taken in or looked at again; counts no further than `bound`.
CREATE OR REPLACE FUNCTION runtime.knowledge_remaining(bound BIGINT) RETURNS BIGINT
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    WITH place AS (
        SELECT (s.value ->> 'documents')::bigint AS documents, (s.value ->> 'last_document')::bigint AS last_document,
               (s.value ->> 'chunks')::bigint AS chunks, (s.value ->> 'last_chunk')::bigint AS last_chunk
          FROM runtime.settings s WHERE s.name = 'knowledge.backfill')
    SELECT count(*) FROM (
        SELECT FROM place JOIN ai.agno_knowledge d ON d.id > place.documents AND d.id <= place.last_document
        UNION ALL
        SELECT FROM place JOIN ai.cirkelline_knowledge_vectors v ON v.id > place.chunks AND v.id <= place.last_chunk
        UNION ALL
        SELECT FROM ai.knowledge_failures f WHERE f.tries < 3
        LIMIT bound) remaining
$$;

-- Take rows in that other programs are not just writing; those are written down for the next time. Waiting for one of
-- them while holding others could end in a deadlock, and theirs might be the statement that fails.
CREATE OR REPLACE FUNCTION runtime.take_in_unlocked(what TEXT, ids BIGINT[], tried INTEGER) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    held BIGINT[];
    free BIGINT[];
BEGIN
    IF what = 'document' THEN
        held := ARRAY(SELECT d.id FROM ai.agno_knowledge d WHERE d.id = ANY (ids)
                      EXCEPT SELECT d.id FROM (SELECT d.id FROM ai.agno_knowledge d WHERE d.id = ANY (ids)
                                                  FOR SHARE SKIP LOCKED) d);
    ELSE
        free := ARRAY(SELECT d.id FROM ai.agno_knowledge d
                       WHERE d.id IN (SELECT v.document_id FROM ai.cirkelline_knowledge_vectors v WHERE v.id = ANY (ids))
                         FOR SHARE SKIP LOCKED);
        held := ARRAY(SELECT v.id FROM ai.cirkelline_knowledge_vectors v
                       WHERE v.id = ANY (ids) AND v.document_id IS NOT NULL AND v.document_id <> ALL (free)
                       UNION SELECT v.id FROM ai.cirkelline_knowledge_vectors v WHERE v.id = ANY (ids)
                      EXCEPT SELECT v.id FROM (SELECT v.id FROM ai.cirkelline_knowledge_vectors v
                                                WHERE v.id = ANY (ids) AND (v.document_id IS NULL OR v.document_id = ANY (free))
                                                  FOR SHARE SKIP LOCKED) v);
    END IF;
    PERFORM runtime.record_knowledge_failures(what, held, 'another program was just writing it', 0);
    PERFORM runtime.take_in(what, ARRAY(SELECT given.id FROM unnest(ids) AS given (id) EXCEPT SELECT unnest(held)), tried);
END
$$;

-- Take in the next rows, at most so many of each kind, and return how many remain. Several may call it at once.
CREATE OR REPLACE FUNCTION runtime.backfill_knowledge(amount INTEGER) RETURNS BIGINT
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
DECLARE
    place JSONB;
    again RECORD;
    ids BIGINT[];
BEGIN
    FOR again IN
        WITH taken AS (
            DELETE FROM ai.knowledge_failures f WHERE f.id IN (
                SELECT o.id FROM ai.knowledge_failures o WHERE o.tries < 3 ORDER BY o.tries, o.id LIMIT amount
                   FOR UPDATE SKIP LOCKED)
            RETURNING f.kind, f.subject, f.tries)
        SELECT t.kind, t.tries, array_agg(DISTINCT t.subject) AS ids FROM taken t GROUP BY t.kind, t.tries
    LOOP
        PERFORM runtime.take_in_unlocked(again.kind, again.ids, again.tries + 1);
        IF again.kind = 'document' THEN
            PERFORM runtime.take_in_unlocked('chunk', runtime.dependent_chunks(again.ids), again.tries + 1);
        END IF;
    END LOOP;
    SELECT s.value INTO place FROM runtime.settings s WHERE s.name = 'knowledge.backfill' FOR UPDATE SKIP LOCKED;
    IF place IS NOT NULL THEN
        ids := ARRAY(SELECT d.id FROM ai.agno_knowledge d WHERE d.id > (place ->> 'documents')::bigint
                        AND d.id <= (place ->> 'last_document')::bigint ORDER BY d.id LIMIT amount);
        PERFORM runtime.take_in_unlocked('document', ids, 1);
        place := place || jsonb_build_object('documents', coalesce(ids[cardinality(ids)], (place ->> 'last_document')::bigint));
        ids := ARRAY(SELECT v.id FROM ai.cirkelline_knowledge_vectors v WHERE v.id > (place ->> 'chunks')::bigint
                        AND v.id <= (place ->> 'last_chunk')::bigint ORDER BY v.id LIMIT amount);
        PERFORM runtime.take_in_unlocked('chunk', ids, 1);
        place := place || jsonb_build_object('chunks', coalesce(ids[cardinality(ids)], (place ->> 'last_chunk')::bigint));
        UPDATE runtime.settings s SET value = place WHERE s.name = 'knowledge.backfill' AND s.value <> place;
    END IF;
    RETURN runtime.knowledge_remaining(10000);
END
$$;

-- Begin anew with everything, as after the language was changed; what was taken in meanwhile serves on.
CREATE OR REPLACE FUNCTION runtime.take_in_again() RETURNS void
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
    INSERT INTO runtime.settings AS s (name, value)
    SELECT 'knowledge.backfill', jsonb_build_object(
               'documents', coalesce((SELECT min(d.id) FROM ai.agno_knowledge d), 1) - 1, 'last_document', 2147483647,
               'chunks', coalesce((SELECT min(v.id) FROM ai.cirkelline_knowledge_vectors v), 1) - 1,
               'last_chunk', 9223372036854775807)
    ON CONFLICT (name) DO UPDATE SET value = excluded.value;
$$;

-- Searching -----------------------------------------------------------------------------------------------------------

-- How often a lexeme is in a chunk, from ts_rank with all weights 1, which is 6/pi² of 1 + 1/4 + … + 1/n² for n of them:
-- what that lacks of pi²/6 is nearly 1/(n + 1/2). Right for all 255 that a tsvector counts, and three times as fast as
-- ts_rank_cd, which says n itself.
CREATE OR REPLACE FUNCTION runtime.times(rank REAL) RETURNS FLOAT8
LANGUAGE sql IMMUTABLE PARALLEL SAFE RETURN round(1 / (1.64493406685 * (1 - rank::float8)) - 0.5);

-- The query that scores by BM25 as Lucene has it (k1 1.2, b 0.75), over what the owners have, for so many words: a
-- column for each, as a row for each takes five times as long. $1 are the owners, $2 the words' keys, $3 the words.
CREATE OR REPLACE FUNCTION runtime.bm25_query(amount INTEGER) RETURNS TEXT
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT format($query$
        WITH corpus AS MATERIALIZED (
            SELECT count(*)::float8 AS chunks, greatest(avg(w.length), 1)::float8 AS length
              FROM ai.knowledge_words w WHERE w.owner = ANY ($1)
        ), found AS MATERIALIZED (
            SELECT w.chunk, w.document, w.length, %s
              FROM ai.knowledge_words w
             WHERE runtime.word_keys(w.owner, tsvector_to_array(w.words)) && $2
               AND array_position($1, w.owner) IS NOT NULL  -- a number may stand for two words; this uses no other index
        ), rarity AS MATERIALIZED (
            SELECT %s FROM found f CROSS JOIN corpus c GROUP BY c.chunks
        )
        SELECT s.chunk, s.document, s.bm25
          FROM (SELECT f.chunk, f.document, %s AS bm25
                  FROM (SELECT f.*, 1.2::float8 * (0.25::float8 + 0.75::float8 * f.length / c.length) AS norm
                          FROM found f CROSS JOIN corpus c OFFSET 0) f
                 CROSS JOIN rarity r OFFSET 0) s
         WHERE s.bm25 > 0$query$,
        string_agg(format('runtime.times(ts_rank(''{1,1,1,1}'', w.words, $3[%1$s])) AS n%1$s', n), ', ' ORDER BY n),
        string_agg(format('ln(1 + (c.chunks - count(*) FILTER (WHERE f.n%1$s > 0) + 0.5)'
                          ' / (count(*) FILTER (WHERE f.n%1$s > 0) + 0.5)) AS idf%1$s', n), ', ' ORDER BY n),
        string_agg(format('r.idf%1$s * f.n%1$s / (f.n%1$s + f.norm)', n), ' + ' ORDER BY n))
      FROM generate_series(1, amount) AS n
$$;

-- BM25 for anybody's SQL: the chunks of one owner that have a word of the question, with their scores; as far as the
-- caller may read.
CREATE OR REPLACE FUNCTION runtime.bm25(owner TEXT, question TEXT) RETURNS TABLE (chunk_id BIGINT, score FLOAT8)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
DECLARE
    lexemes CONSTANT TEXT[] := runtime.question_lexemes(runtime.knowledge_language(), question);
BEGIN
    IF lexemes <> '{}' THEN
        RETURN QUERY EXECUTE 'SELECT b.chunk, b.bm25 FROM (' || runtime.bm25_query(cardinality(lexemes)) || ') b'
            USING ARRAY[owner], runtime.word_keys(owner, lexemes), runtime.terms(lexemes);
    END IF;
END
$$;

-- A text with the words that a question finds between U+E000 and U+E001, and otherwise as it is: the headline function
-- would take away what looks like a tag.
CREATE OR REPLACE FUNCTION runtime.marked(said TEXT, language REGCONFIG, words TSQUERY) RETURNS TEXT
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN translate(ts_headline(language, translate(said, U&'<\0002\E000\E001', U&'\0002'), words,
                             U&'HighlightAll=true, StartSel=\E000, StopSel=\E001'), U&'\0002', '<');

-- What was found, with its text and where it is from, in the order in which it is given. A function of its own, as its plan
-- is always the same one.
CREATE OR REPLACE FUNCTION runtime.knowledge_hits(
    names TEXT[], chunks BIGINT[], scores FLOAT8[], similarities FLOAT8[], words FLOAT8[], language REGCONFIG, probe TSQUERY)
RETURNS TABLE (
    chunk_id BIGINT, document_id INTEGER, document TEXT, source TEXT, page INTEGER, "offset" INTEGER, index INTEGER,
    total INTEGER, heading TEXT, text TEXT, marked TEXT, score FLOAT8, similarity FLOAT8, bm25 FLOAT8,
    document_type TEXT, tags TEXT[], uploaded DATE, shared BOOLEAN)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
    SELECT v.id, doc.id, coalesce(doc.name::text, v.metadata ->> 'original_name', 'a document without a name'),
           runtime.document_source(doc.metadata, doc.file_path), runtime.as_integer(v.metadata ->> 'page_number'),
           runtime.as_integer(v.metadata ->> 'offset'), runtime.as_integer(v.metadata ->> 'chunk_index'),
           runtime.as_integer(v.metadata ->> 'chunk_total'), v.metadata ->> 'heading', v.chunk_text,
           CASE WHEN probe IS NULL OR hit.bm25 IS NULL THEN v.chunk_text ELSE runtime.marked(v.chunk_text, language, probe) END,
           hit.score, hit.cosine, hit.bm25, doc.metadata ->> 'document_type', runtime.document_tags(doc.metadata),
           runtime.document_date(doc.metadata, doc.created_at),
           runtime.chunk_owner(v.metadata, doc.metadata) = runtime.shared_owner()
      FROM unnest(chunks, scores, similarities, words) WITH ORDINALITY AS hit (chunk, score, cosine, bm25, place)
      JOIN ai.cirkelline_knowledge_vectors v ON v.id = hit.chunk
      LEFT JOIN ai.agno_knowledge doc ON doc.id = v.document_id AND runtime.owner_of(doc.metadata) = ANY (names)
     -- Once more, from the row itself: whoever has just lost a document sees no more of it.
     WHERE runtime.chunk_owner(v.metadata, doc.metadata) = ANY (names)
     ORDER BY hit.place;
END
$$;

-- Search what the transaction's user can see: own, adopted and shared chunks. Exact: every chunk is compared that the
-- filters leave, or that has one of the words. `score` is what ranks: of `vector` the cosine; of `words` s/(s+saturation)
-- for the BM25 score s; of `hybrid` both by their weights; of `rrf` the sum of 1/(60+rank).
-- It reads as its owner, past row security (the full text operators are not leakproof, and would scan everything), and so
-- asks itself whose transaction it is: without a user there is nothing to see.
CREATE OR REPLACE FUNCTION runtime.search_knowledge(
    question TEXT, meant FLOAT8[], label TEXT, wanted INTEGER, mode TEXT, threshold FLOAT8,
    wanted_tags TEXT[], wanted_types TEXT[], since DATE, until DATE, wanted_documents INTEGER[])
RETURNS TABLE (
    chunk_id BIGINT, document_id INTEGER, document TEXT, source TEXT, page INTEGER, "offset" INTEGER, index INTEGER,
    total INTEGER, heading TEXT, text TEXT, marked TEXT, score FLOAT8, similarity FLOAT8, bm25 FLOAT8,
    document_type TEXT, tags TEXT[], uploaded DATE, shared BOOLEAN)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_custom_plan SET enable_seqscan = off SET jit = off SET max_parallel_workers_per_gather = 0
SET work_mem = '64MB' AS $$
#variable_conflict use_column
DECLARE
    names TEXT[] := runtime.tenant_names();
    settings CONSTANT JSONB := (SELECT s.value FROM runtime.settings s WHERE s.name = 'knowledge');
    saturation CONSTANT FLOAT8 := runtime.saturation(settings);
    vector_weight CONSTANT FLOAT8 := runtime.vector_weight(settings);
    word_weight CONSTANT FLOAT8 := runtime.word_weight(settings);
    allowed INTEGER[];
    language CONSTANT REGCONFIG := coalesce(settings ->> 'language', 'english')::regconfig;
    lexemes TEXT[] := '{}';
    terms TSQUERY[];
    keys BIGINT[];
    cosines TEXT;
    by_words TEXT;
    chunks BIGINT[];
    scores FLOAT8[];
    similarities FLOAT8[];
    words FLOAT8[];
BEGIN
    IF names = '{}' OR coalesce(wanted, 0) < 1 THEN
        RETURN;
    END IF;
    names := names || runtime.shared_owner();
    IF coalesce(cardinality(wanted_tags), 0) + coalesce(cardinality(wanted_types), 0)
       + coalesce(cardinality(wanted_documents), 0) > 0 OR since IS NOT NULL OR until IS NOT NULL THEN
        allowed := ARRAY(
            SELECT d.id FROM ai.knowledge_documents d
             WHERE d.owner = ANY (names) AND d.tags @> ARRAY(SELECT lower(tag) FROM unnest(wanted_tags) AS tag)
               AND (coalesce(cardinality(wanted_types), 0) = 0
                    OR d.type = ANY (ARRAY(SELECT lower(type) FROM unnest(wanted_types) AS type)))
               AND (since IS NULL OR d.uploaded >= since) AND (until IS NULL OR d.uploaded <= until)
               AND (coalesce(cardinality(wanted_documents), 0) = 0 OR d.id = ANY (wanted_documents)));
    END IF;
    IF mode <> 'vector' THEN
        lexemes := runtime.question_lexemes(language, question);
        terms := runtime.terms(lexemes);
        keys := ARRAY(SELECT unnest(runtime.word_keys(name, lexemes)) FROM unnest(names) AS name);
        by_words := CASE WHEN lexemes = '{}' THEN 'SELECT NULL::bigint AS chunk, NULL::integer AS document, 0::float8 AS bm25 WHERE FALSE'
                         ELSE runtime.bm25_query(cardinality(lexemes)) END;
    END IF;
    -- Of the embedder that embedded the question alone.
    cosines := 'SELECT c.chunk, runtime.similarity(c.embedding, runtime.unit($5)) AS cosine FROM ai.knowledge_chunks c
                 WHERE c.owner = ANY ($1) AND ' || CASE WHEN label = settings ->> 'unlabelled'
                    THEN '(c.embedder = $6 OR c.embedder IS NULL)' ELSE 'c.embedder = $6' END
                || CASE WHEN allowed IS NULL THEN '' ELSE ' AND c.document = ANY ($4)' END;
    by_words := 'SELECT b.chunk, b.bm25 FROM (' || by_words || ') b'
                || CASE WHEN allowed IS NULL THEN '' ELSE ' WHERE b.document = ANY ($4)' END;
    EXECUTE 'SELECT array_agg(top.chunk), array_agg(top.score), array_agg(top.cosine), array_agg(top.bm25) FROM ('
         || CASE
            WHEN mode = 'vector' THEN
                'SELECT v.chunk, v.cosine AS score, v.cosine, NULL::float8 AS bm25 FROM (' || cosines || ') v'
            WHEN mode = 'words' OR meant IS NULL THEN
                'SELECT b.chunk, b.bm25 / (b.bm25 + $9) AS score, NULL::float8 AS cosine, b.bm25 FROM (' || by_words || ') b'
            WHEN mode = 'rrf' THEN
                'SELECT chunk, coalesce(1.0 / (60 + v.rank), 0)::float8 + coalesce(1.0 / (60 + b.rank), 0)::float8 AS score,
                        v.cosine, b.bm25
                   FROM (SELECT v.*, row_number() OVER (ORDER BY v.cosine DESC, v.chunk) AS rank FROM (' || cosines || ') v) v
                   FULL JOIN (SELECT b.*, row_number() OVER (ORDER BY b.bm25 DESC, b.chunk) AS rank
                                FROM (' || by_words || ') b) b USING (chunk)'
            ELSE
                'SELECT chunk, $10 * coalesce(v.cosine, 0) + $11 * coalesce(b.bm25 / (b.bm25 + $9), 0) AS score, v.cosine, b.bm25
                   FROM (' || cosines || ') v FULL JOIN (' || by_words || ') b USING (chunk)'
            END
         || ' ORDER BY score DESC, chunk LIMIT $7) top WHERE $8 IS NULL OR top.score >= $8'
       INTO chunks, scores, similarities, words
      USING names, keys, terms, allowed, meant, label, wanted, threshold, saturation, vector_weight, word_weight;
    RETURN QUERY SELECT * FROM runtime.knowledge_hits(
        names, chunks, scores, similarities, words, language, nullif(array_to_string(terms, '|'), '')::tsquery);
END
$$;
REVOKE ALL ON FUNCTION runtime.search_knowledge(TEXT, FLOAT8[], TEXT, INTEGER, TEXT, FLOAT8, TEXT[], TEXT[], DATE, DATE, INTEGER[])
  FROM PUBLIC;

INSERT INTO runtime.tenant_functions (signature) VALUES
    ('runtime.search_knowledge(text, double precision[], text, integer, text, double precision, text[], text[], date, date, integer[])')
ON CONFLICT DO NOTHING;

INSERT INTO runtime.tenant_rules (relation, visible, writable, privileges)
SELECT relation, 'owner = ANY ((SELECT runtime.tenant_names())::text[])'
                 ' OR owner = runtime.shared_owner() AND (SELECT runtime.tenant_id()) IS NOT NULL', NULL, 'SELECT'
  FROM unnest(ARRAY['ai.knowledge_documents', 'ai.knowledge_chunks', 'ai.knowledge_words']) AS relation
ON CONFLICT (relation) DO UPDATE
   SET visible = excluded.visible, writable = excluded.writable, privileges = excluded.privileges;
