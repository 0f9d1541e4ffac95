-- Vectors of another embedder that are being made while the old ones are still searched. They wait here, as real[] so that
-- it does not matter in which schema the vector type is, until all of them can take the old ones' places at once.
CREATE TABLE IF NOT EXISTS runtime.reindexed (
    embedder TEXT NOT NULL,
    chunk BIGINT NOT NULL,
    digest TEXT NOT NULL,               -- of the text that it was made from
    embedding REAL[] NOT NULL,
    PRIMARY KEY (embedder, chunk)
);

-- Keep the database's embedder as it is until the transaction ends, and return it: whoever stores vectors calls this
-- first, as a tenant who may read no settings. An advisory lock, since locking the settings' row would need a right on it.
-- Read after the lock is there: what the switch has just committed is seen.
CREATE OR REPLACE FUNCTION runtime.hold_embedder() RETURNS TEXT
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM pg_advisory_xact_lock_shared(hashtext('cirkelline'), hashtext('embedder'));
    RETURN (SELECT s.embedder FROM runtime.knowledge_settings() s);
END
$$;
INSERT INTO runtime.tenant_functions (signature) VALUES ('runtime.hold_embedder()') ON CONFLICT DO NOTHING;
