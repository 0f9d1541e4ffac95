-- The journal: what each step of a run came to, so that a later attempt goes on where an earlier one was cut off.
-- Outputs only: the context (position 0) and the outputs rebuild every prompt, so a run's rows grow with what was said.

CREATE TABLE IF NOT EXISTS runtime.journal (
    task_id UUID NOT NULL,
    position INTEGER NOT NULL,   -- 0: the context; n: the nth model call of the run
    call INTEGER NOT NULL,       -- -1: the context or the model's answer; i: the ith tool call of that answer;
                                 -- -1 - attempt: what that attempt paid here without getting an answer
    attempt INTEGER NOT NULL,    -- the attempt that wrote it
    ms INTEGER,
    begun TIMESTAMPTZ NOT NULL DEFAULT clock_timestamp(),
    input_tokens INTEGER,
    output_tokens INTEGER,
    format SMALLINT NOT NULL,    -- how input_hash was made and output is written
    error BOOLEAN NOT NULL DEFAULT FALSE,
    kind TEXT NOT NULL,          -- context, model, tool
    name TEXT NOT NULL,          -- the agent's, the model's or the tool's
    input_hash BYTEA,
    output JSONB,                -- NULL: begun, and not known to have ended
    operations JSONB,            -- what a tool did to ctx.state, each with its place in the run's order
    citations JSONB,
    waits JSONB,                 -- what a person or the clock has to decide before this call can end
    decision JSONB,              -- what was decided; NULL while the task waits for it
    until TIMESTAMPTZ,           -- when the clock decides, unless somebody else has done so
    cost NUMERIC,
    PRIMARY KEY (task_id, position, call)
);
CREATE INDEX IF NOT EXISTS journal_until ON runtime.journal (until) WHERE until IS NOT NULL;

-- Steps as they travel, as rows. `begun` is counted back from now by what the step took.
CREATE OR REPLACE FUNCTION runtime.journal_rows(wanted UUID, run_attempt INTEGER, steps JSONB)
RETURNS TABLE (
    task_id UUID, "position" INTEGER, call INTEGER, attempt INTEGER, ms INTEGER, begun TIMESTAMPTZ,
    input_tokens INTEGER, output_tokens INTEGER, format SMALLINT, error BOOLEAN, kind TEXT, name TEXT,
    input_hash BYTEA, output JSONB, operations JSONB, citations JSONB, cost NUMERIC, waits JSONB, until TIMESTAMPTZ
) LANGUAGE sql STABLE AS $$
    SELECT wanted, s."position", s.call, run_attempt, s.ms,
           clock_timestamp() - coalesce(s.ms, 0) * interval '1 millisecond', s.input_tokens, s.output_tokens, s.format,
           coalesce(s.error, FALSE), s.kind, s.name, decode(s.input_hash, 'hex'), s.output, s.operations, s.citations,
           s.cost, s.waits, s.until
      FROM jsonb_to_recordset(steps) AS s (
           "position" INTEGER, call INTEGER, ms INTEGER, input_tokens INTEGER, output_tokens INTEGER, format SMALLINT,
           error BOOLEAN, kind TEXT, name TEXT, input_hash TEXT, output JSONB, operations JSONB, citations JSONB,
           cost NUMERIC, waits JSONB, until TIMESTAMPTZ)
$$;

-- Steps as they travel, with this text in the place of a reference to the task's result.
CREATE OR REPLACE FUNCTION runtime.steps_with_text(steps JSONB, said JSONB) RETURNS JSONB LANGUAGE sql STABLE AS $$
    SELECT jsonb_agg(CASE WHEN s.step #> '{output,in_result}' IS NULL THEN s.step
                          ELSE jsonb_set(s.step, '{output}', jsonb_build_object('text', said)) END ORDER BY s.place)
      FROM jsonb_array_elements(steps) WITH ORDINALITY AS s (step, place)
$$;

-- Write steps of a claimed task. Returns 'written'; 'lost' when the claim is no longer this worker's (nothing is
-- written); 'there' when one of them had ended already, which stays as it is.
CREATE OR REPLACE FUNCTION runtime.write_journal(owner UUID, wanted UUID, run_attempt INTEGER, steps JSONB) RETURNS TEXT
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
DECLARE
    kept INTEGER;
BEGIN
    -- Whoever ends the claim deletes this row, and waits for us here or we see that it is gone: a step of a worker that
    -- was declared dead is either there before its task can be claimed again, or never.
    PERFORM FROM runtime.claims c
      WHERE c.task_id = wanted AND c.worker = owner AND c.attempt = run_attempt FOR KEY SHARE;
    IF NOT FOUND THEN
        RETURN 'lost';
    END IF;
    INSERT INTO runtime.journal AS j (task_id, position, call, attempt, ms, begun, input_tokens, output_tokens, format,
                                      error, kind, name, input_hash, output, operations, citations, cost, waits, until)
    SELECT * FROM runtime.journal_rows(wanted, run_attempt, steps)
    ON CONFLICT (task_id, position, call) DO UPDATE
       SET attempt = excluded.attempt, ms = excluded.ms, begun = excluded.begun, input_tokens = excluded.input_tokens,
           output_tokens = excluded.output_tokens, format = excluded.format, error = excluded.error,
           name = excluded.name, input_hash = excluded.input_hash, output = excluded.output,
           operations = excluded.operations, citations = excluded.citations, cost = excluded.cost,
           -- What had to be decided stays with a call that ended; a new question has no decision yet.
           waits = CASE WHEN excluded.output IS NULL THEN excluded.waits ELSE j.waits END,
           decision = CASE WHEN excluded.waits IS NULL THEN j.decision END, until = excluded.until
     WHERE j.output IS NULL;
    GET DIAGNOSTICS kept = ROW_COUNT;
    RETURN CASE WHEN kept = jsonb_array_length(steps) THEN 'written' ELSE 'there' END;
END
$$;
