-- Vectors of another embedder that are being made while the old ones are still searched. They wait here, as real[] so that
-- it does not matter in which schema the vector type is, until all of them can take the old ones' places at once.
CREATE TABLE IF NOT EXISTS runtime.reindexed (
    embedder TEXT NOT NULL,
    chunk BIGINT NOT NULL,
    digest TEXT NOT NULL,               -- of the text that it was made from
    embedding REAL[] NOT NULL,
    PRIMARY KEY (embedder, chunk)
);
