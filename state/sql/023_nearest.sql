-- Searching by meaning for less: the statement that nearly every search comes to is planned once and not each time, and
-- compares each chunk once. `search_knowledge` does what it did in 012.

-- The nearest chunks of one embedder among what these owners have, best first; exact.
CREATE OR REPLACE FUNCTION runtime.nearest_chunks(
    names TEXT[], meaning HALFVEC, label TEXT, wanted INTEGER, threshold FLOAT8)
RETURNS TABLE (chunks BIGINT[], cosines FLOAT8[])
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off SET jit = off SET max_parallel_workers_per_gather = 0 AS $$
BEGIN
    RETURN QUERY
    SELECT array_agg(top.chunk), array_agg(top.cosine)
      FROM (SELECT c.chunk, runtime.similarity(c.embedding, meaning) AS cosine FROM ai.knowledge_chunks c
             WHERE c.owner = ANY (names) AND c.embedder = label
             ORDER BY cosine DESC, c.chunk LIMIT wanted) top
     WHERE threshold IS NULL OR top.cosine >= threshold;
END
$$;
REVOKE ALL ON FUNCTION runtime.nearest_chunks(TEXT[], HALFVEC, TEXT, INTEGER, FLOAT8) FROM PUBLIC;

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
    -- Once, and not for each chunk; the type by where it stands, as this function does not know in which schema it is.
    meaning CONSTANT ai.knowledge_chunks.embedding%TYPE := runtime.unit(meant);
    by_meaning TEXT;
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
    IF mode = 'vector' AND allowed IS NULL AND label IS DISTINCT FROM settings ->> 'unlabelled' THEN
        SELECT n.chunks, n.cosines, n.cosines INTO chunks, scores, similarities
          FROM runtime.nearest_chunks(names, meaning, label, wanted, threshold) n;
        RETURN QUERY SELECT * FROM runtime.knowledge_hits(names, chunks, scores, similarities, NULL, language, NULL);
        RETURN;
    END IF;
    -- Of the embedder that embedded the question alone.
    by_meaning := 'SELECT c.chunk, runtime.similarity(c.embedding, $5) AS cosine FROM ai.knowledge_chunks c
                 WHERE c.owner = ANY ($1) AND ' || CASE WHEN label = settings ->> 'unlabelled'
                    THEN '(c.embedder = $6 OR c.embedder IS NULL)' ELSE 'c.embedder = $6' END
                || CASE WHEN allowed IS NULL THEN '' ELSE ' AND c.document = ANY ($4)' END;
    by_words := 'SELECT b.chunk, b.bm25 FROM (' || by_words || ') b'
                || CASE WHEN allowed IS NULL THEN '' ELSE ' WHERE b.document = ANY ($4)' END;
    EXECUTE 'SELECT array_agg(top.chunk), array_agg(top.score), array_agg(top.cosine), array_agg(top.bm25) FROM ('
         || CASE
            WHEN mode = 'vector' THEN
                'SELECT v.chunk, v.cosine AS score, v.cosine, NULL::float8 AS bm25 FROM (' || by_meaning || ' OFFSET 0) v'
            WHEN mode = 'words' OR meant IS NULL THEN
                'SELECT b.chunk, b.bm25 / (b.bm25 + $9) AS score, NULL::float8 AS cosine, b.bm25 FROM (' || by_words || ') b'
            WHEN mode = 'rrf' THEN
                'SELECT chunk, coalesce(1.0 / (60 + v.rank), 0)::float8 + coalesce(1.0 / (60 + b.rank), 0)::float8 AS score,
                        v.cosine, b.bm25
                   FROM (SELECT v.*, row_number() OVER (ORDER BY v.cosine DESC, v.chunk) AS rank FROM (' || by_meaning || ') v) v
                   FULL JOIN (SELECT b.*, row_number() OVER (ORDER BY b.bm25 DESC, b.chunk) AS rank
                                FROM (' || by_words || ') b) b USING (chunk)'
            ELSE
                'SELECT chunk, $10 * coalesce(v.cosine, 0) + $11 * coalesce(b.bm25 / (b.bm25 + $9), 0) AS score, v.cosine, b.bm25
                   FROM (' || by_meaning || ') v FULL JOIN (' || by_words || ') b USING (chunk)'
            END
         || ' ORDER BY score DESC, chunk LIMIT $7) top WHERE $8 IS NULL OR top.score >= $8'
       INTO chunks, scores, similarities, words
      USING names, keys, terms, allowed, meaning, label, wanted, threshold, saturation, vector_weight, word_weight;
    RETURN QUERY SELECT * FROM runtime.knowledge_hits(
        names, chunks, scores, similarities, words, language, nullif(array_to_string(terms, '|'), '')::tsquery);
END
$$;
