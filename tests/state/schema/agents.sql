CREATE TABLE agents (
  id UUID PRIMARY KEY,
  name VARCHAR(255) NOT NULL,
  type VARCHAR(100) NOT NULL,
  status VARCHAR(50) DEFAULT 'idle',
  created_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP,
  updated_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP,
  config JSONB,
  capabilities TEXT[]
);

CREATE TABLE agent_states (
  id UUID PRIMARY KEY,
  agent_id UUID REFERENCES agents(id),
  state JSONB NOT NULL,
  timestamp TIMESTAMP DEFAULT CURRENT_TIMESTAMP,
  version INTEGER
);

CREATE TABLE tasks (
  id UUID PRIMARY KEY,
  agent_id UUID REFERENCES agents(id),
  task_type VARCHAR(100),
  status VARCHAR(50),
  payload JSONB,
  result JSONB,
  created_at TIMESTAMP,
  completed_at TIMESTAMP
);

CREATE TABLE users (
  id UUID PRIMARY KEY,
  email VARCHAR(255) UNIQUE,
  auth_token VARCHAR(500),
  created_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP,
  updated_at TIMESTAMP
);

CREATE TABLE sessions (
  id UUID PRIMARY KEY,
  user_id UUID REFERENCES users(id),
  agent_id UUID REFERENCES agents(id),
  status VARCHAR(50),
  created_at TIMESTAMP,
  ended_at TIMESTAMP
);
