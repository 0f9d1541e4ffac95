CREATE TABLE public.users (
    id SERIAL PRIMARY KEY,
    email VARCHAR(255) UNIQUE NOT NULL,
    hashed_password VARCHAR(255) NOT NULL,
    is_active BOOLEAN DEFAULT TRUE,
    created_at TIMESTAMP DEFAULT NOW(),
    last_login TIMESTAMP,
    updated_at TIMESTAMP DEFAULT NOW()
);

CREATE INDEX idx_users_email ON public.users(email);
CREATE INDEX idx_users_is_active ON public.users(is_active);

CREATE TABLE public.admin_profiles (
    id SERIAL PRIMARY KEY,
    user_id INTEGER REFERENCES public.users(id),
    name VARCHAR(255),
    role VARCHAR(100),
    context TEXT,
    preferences JSONB,
    custom_instructions TEXT,
    created_at TIMESTAMP DEFAULT NOW(),
    updated_at TIMESTAMP DEFAULT NOW()
);

CREATE INDEX idx_admin_profiles_user_id ON public.admin_profiles(user_id);

CREATE TABLE ai.agno_sessions (
    id SERIAL PRIMARY KEY,
    session_id UUID UNIQUE NOT NULL,
    user_id VARCHAR(255) NOT NULL,
    name VARCHAR(255),
    created_at TIMESTAMP DEFAULT NOW(),
    updated_at TIMESTAMP DEFAULT NOW(),
    is_archived BOOLEAN DEFAULT FALSE
);

CREATE INDEX idx_agno_sessions_user_id ON ai.agno_sessions(user_id);
CREATE INDEX idx_agno_sessions_session_id ON ai.agno_sessions(session_id);
CREATE INDEX idx_agno_sessions_created_at ON ai.agno_sessions(created_at);

CREATE TABLE ai.agno_memories (
    id SERIAL PRIMARY KEY,
    memory_id UUID UNIQUE NOT NULL,
    user_id VARCHAR(255) NOT NULL,
    memory TEXT NOT NULL,
    topics JSONB,
    input VARCHAR,
    created_at TIMESTAMP DEFAULT NOW(),
    updated_at TIMESTAMP DEFAULT NOW(),
    accessed_at TIMESTAMP
);

CREATE INDEX idx_agno_memories_user_id ON ai.agno_memories(user_id);
CREATE INDEX idx_agno_memories_created_at ON ai.agno_memories(created_at);

CREATE TABLE ai.agno_memories_archive (
    id SERIAL PRIMARY KEY,
    original_memory_id VARCHAR NOT NULL,
    user_id VARCHAR NOT NULL,
    memory JSONB NOT NULL,
    topics JSONB,
    input VARCHAR,
    created_at TIMESTAMP,
    archived_at TIMESTAMP DEFAULT NOW(),
    optimization_run_id VARCHAR
);

CREATE INDEX idx_archive_user_id ON ai.agno_memories_archive(user_id);
CREATE INDEX idx_archive_run_id ON ai.agno_memories_archive(optimization_run_id);

CREATE TABLE ai.agno_knowledge (
    id SERIAL PRIMARY KEY,
    name VARCHAR(255) NOT NULL,
    file_name VARCHAR(255),
    file_path VARCHAR(500),
    content_type VARCHAR(100),
    metadata JSONB,
    created_at TIMESTAMP DEFAULT NOW(),
    updated_at TIMESTAMP DEFAULT NOW()
);

CREATE INDEX idx_agno_knowledge_name ON ai.agno_knowledge(name);

CREATE TABLE ai.cirkelline_knowledge_vectors (
    id BIGSERIAL PRIMARY KEY,
    embedding VECTOR(768) NOT NULL,
    chunk_text TEXT NOT NULL,
    document_id INTEGER REFERENCES ai.agno_knowledge(id),
    metadata JSONB,
    created_at TIMESTAMP DEFAULT NOW(),
    updated_at TIMESTAMP DEFAULT NOW()
);

CREATE INDEX idx_vectors_document ON ai.cirkelline_knowledge_vectors(document_id);
CREATE INDEX idx_vectors_embedding ON ai.cirkelline_knowledge_vectors
    USING HNSW (embedding vector_cosine_ops)
    WITH (m=16, ef_construction=200);

CREATE TABLE ai.workflow_runs (
    id SERIAL PRIMARY KEY,
    run_id VARCHAR UNIQUE NOT NULL,
    workflow_name VARCHAR NOT NULL,
    user_id VARCHAR,
    status VARCHAR NOT NULL,
    started_at TIMESTAMP DEFAULT NOW(),
    completed_at TIMESTAMP,
    current_step VARCHAR,
    steps_completed JSONB DEFAULT '[]',
    input_data JSONB,
    output_data JSONB,
    error_message TEXT,
    metrics JSONB
);

CREATE INDEX idx_workflow_runs_status ON ai.workflow_runs(status);
CREATE INDEX idx_workflow_runs_user ON ai.workflow_runs(user_id);
