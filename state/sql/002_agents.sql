-- The second schema document (11_DATABASE_SCHEMA, Cirkelline-Agents), table by table as it is written there.
-- It names no schema and both documents define `users`: its five tables live in `runtime`.

CREATE SCHEMA IF NOT EXISTS runtime;

CREATE TABLE IF NOT EXISTS runtime.agents (
  id UUID PRIMARY KEY,
  name VARCHAR(255) NOT NULL,
  type VARCHAR(100) NOT NULL,
  status VARCHAR(50) DEFAULT 'idle',
  created_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP,
  updated_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP,
  config JSONB,
  capabilities TEXT[]
);

CREATE TABLE IF NOT EXISTS runtime.agent_states (
  id UUID PRIMARY KEY,
  agent_id UUID REFERENCES runtime.agents(id),
  state JSONB NOT NULL,
  timestamp TIMESTAMP DEFAULT CURRENT_TIMESTAMP,
  version INTEGER
);

CREATE TABLE IF NOT EXISTS runtime.tasks (
  id UUID PRIMARY KEY,
  agent_id UUID REFERENCES runtime.agents(id),
  task_type VARCHAR(100),
  status VARCHAR(50),
  payload JSONB,
  result JSONB,
  created_at TIMESTAMP,
  completed_at TIMESTAMP
);

CREATE TABLE IF NOT EXISTS runtime.users (
  id UUID PRIMARY KEY,
  email VARCHAR(255) UNIQUE,
  auth_token VARCHAR(500),
  created_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP,
  updated_at TIMESTAMP
);

CREATE TABLE IF NOT EXISTS runtime.sessions (
  id UUID PRIMARY KEY,
  user_id UUID REFERENCES runtime.users(id),
  agent_id UUID REFERENCES runtime.agents(id),
  status VARCHAR(50),
  created_at TIMESTAMP,
  ended_at TIMESTAMP
);
