-- What a scheduler has besides its hot path. Nothing here is in the way of a claim: what cannot run yet stands outside the
-- line, and what is seldom has a table of its own.

-- A key names one task of an agent, for as long as that task is there. Neither column changes when a task is claimed or
-- finished, so the index costs those nothing.
CREATE UNIQUE INDEX IF NOT EXISTS tasks_key ON runtime.tasks (agent_id, key) WHERE key IS NOT NULL;
