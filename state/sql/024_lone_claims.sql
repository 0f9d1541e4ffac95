-- As in 021, but a task that is alone in line is claimed without a turn, and turns of very many persons break nothing.

-- Claim up to `slots` tasks of `agents` for a worker; with `only_session`, that session's alone. A worker without a row
-- (declared dead) claims nothing: nobody would take its tasks over.
--
-- The highest priority first. Of equals the agents take turns, and within each its persons, a task at a time, or as many
-- as there are slots for each; a line's own tasks go in the order in which they were submitted. Whose turn it is the
-- connection remembers, for each priority the agent and for each agent the person that came last (`cirkelline.turns`):
-- nobody else has to know it, and if it is lost they begin anywhere. A task that is alone in line needs no turn.
--
-- Sorts are off, as `queue_turns` has every order that is asked for: no plan may read a line to find its beginning. And what
-- is planned is kept, as a lookup is one whatever is looked up.
CREATE OR REPLACE FUNCTION runtime.claim_tasks(
    claimer UUID, agents UUID[], slots INTEGER, only_session UUID DEFAULT NULL
) RETURNS TABLE (
    id UUID, agent_id UUID, task_type TEXT, payload JSONB, session_id UUID, user_id UUID, attempt INTEGER,
    definition_version INTEGER
)
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET enable_seqscan = off SET enable_sort = off
SET enable_incremental_sort = off SET plan_cache_mode = force_generic_plan AS $$
#variable_conflict use_column
DECLARE
    last_id CONSTANT UUID := 'ffffffff-ffff-ffff-ffff-ffffffffffff';
    wanted INTEGER := slots;
    served UUID[];
    level INTEGER;
    turns JSONB := coalesce(nullif(current_setting('cirkelline.turns', TRUE), ''), '{}')::jsonb;
    anywhere UUID := gen_random_uuid();
    begun UUID;       -- behind which agent the round of this priority began
    latest UUID;      -- up to which agent it has come
    past_end BOOLEAN; -- whether that was behind the last agent, at the first again
    is_round BOOLEAN; -- whether it has been at all of them
    is_plain BOOLEAN; -- whether each of these agents has but one line
    is_fertile BOOLEAN; -- whether a line that had its turn in it may have more
    taken INTEGER;
    known BOOLEAN;
    due BOOLEAN;
    is_alone BOOLEAN; -- whether but one task is in line, and nothing limits it: it waits for no turn
    line_agents UUID[];
    line_persons UUID[];
    line_versions INTEGER[];
    line_places BIGINT[];
    ends INTEGER;     -- which of these lines had the last turn
    ids UUID[];
    owners UUID[];
    sessions UUID[];
    versions INTEGER[];
    fitting UUID[];
    locked BOOLEAN;
    limited BOOLEAN;
BEGIN
    SELECT EXISTS (SELECT FROM runtime.workers w WHERE w.id = claimer),
           EXISTS (SELECT FROM runtime.queue q WHERE q.run_at <= clock_timestamp()) INTO known, due;
    IF NOT known THEN
        RETURN;
    END IF;
    IF due THEN
        LOCK TABLE runtime.tasks IN ROW SHARE MODE;  -- or an outsider's TRUNCATE and this could wait for each other
        UPDATE runtime.queue q SET run_at = NULL WHERE q.task_id = ANY (ARRAY(
            SELECT d.task_id FROM runtime.queue d WHERE d.run_at <= clock_timestamp()
             ORDER BY d.run_at LIMIT 1000 FOR UPDATE SKIP LOCKED));
    END IF;
    IF only_session IS NULL THEN
        SELECT array_agg(q.task_id), array_agg(q.agent_id), array_agg(q.session_id), max(q.priority),
               count(*) = 1 AND bool_and(q.session_id IS NULL AND q.agent_id = ANY (agents))
          INTO ids, owners, sessions, level, is_alone
          FROM (SELECT * FROM runtime.queue q WHERE q.run_at IS NULL
                 ORDER BY q.priority DESC, q.agent_id, q.person, q.sequence LIMIT 2) q;
        IF level IS NULL THEN
            RETURN;
        END IF;
        IF is_alone THEN
            SELECT array_agg(room.version), bool_and(room.places IS NULL) INTO versions, is_alone
              FROM runtime.room(owners[1]) room;
        END IF;
    END IF;
    served := ARRAY(SELECT a.listed FROM unnest(agents) AS a (listed) WHERE a.listed IS NOT NULL ORDER BY a.listed);

    WHILE wanted > 0 AND cardinality(served) > 0 LOOP
        IF is_alone THEN
            locked := FALSE;
            limited := FALSE;
        ELSIF only_session IS NOT NULL THEN
            -- Its next turn, and after that what is to be done beside its turns.
            SELECT array_agg(c.task_id), array_agg(c.agent_id), array_agg(c.session_id), array_agg(c.version), FALSE, TRUE
              INTO ids, owners, sessions, versions, locked, limited
              FROM (SELECT l.task_id, l.agent_id, l.session_id, room.version
                      FROM ((SELECT * FROM runtime.line l WHERE l.session_id = only_session AND l.has_turn LIMIT 1)
                             UNION ALL
                            (SELECT * FROM runtime.line l WHERE l.beside = only_session ORDER BY l.sequence LIMIT 1)) l
                     CROSS JOIN LATERAL runtime.room(l.agent_id) room
                     WHERE l.agent_id = ANY (served)) c;
        ELSE
            IF begun IS NULL THEN
                begun := coalesce((turns ->> level::text)::uuid, anywhere);
                latest := begun;
                past_end := FALSE;
                is_fertile := FALSE;
            END IF;
            -- The next lines whose turn it is: of each agent the next person's, and where that leaves slots, of each its
            -- persons' behind that. From one agent in line to the next one that is served here is one step in the index,
            -- however long the line between them.
            WITH RECURSIVE turn AS (
                SELECT 0 AS n, latest AS agent_id, last_id AS person, past_end AS is_over
                 UNION ALL
                SELECT t.n + 1, next.agent_id, next.person, next.is_over
                  FROM turn t
                 CROSS JOIN LATERAL (
                     (SELECT q.agent_id, q.person, t.is_over FROM runtime.queue q
                       WHERE q.run_at IS NULL AND q.priority = level
                         AND q.agent_id >= served[width_bucket(t.agent_id, served) + 1]
                       ORDER BY q.agent_id, q.person, q.sequence LIMIT 1)
                      UNION ALL
                     (SELECT q.agent_id, q.person, TRUE FROM runtime.queue q
                       WHERE NOT t.is_over AND q.run_at IS NULL AND q.priority = level AND q.agent_id >= served[1]
                       ORDER BY q.agent_id, q.person, q.sequence LIMIT 1)
                      LIMIT 1) next
                 WHERE NOT next.is_over OR next.agent_id <= begun
            ), line AS (  -- where the first person is the last possible one, that is its only line
                SELECT (a.first = last_id)::integer AS n, a.agent_id, a.is_over, a.version, a.places,
                       a.latest AS person, a.latest, a.first = last_id AS is_around
                  FROM (SELECT t.agent_id, t.is_over, t.person AS first, room.version, room.places,
                               CASE WHEN t.person = last_id THEN last_id
                                    ELSE coalesce((turns ->> (level || ' ' || t.agent_id))::uuid, anywhere) END AS latest
                          FROM turn t
                         CROSS JOIN LATERAL runtime.room(t.agent_id) room
                         WHERE t.n > 0 AND t.agent_id = served[width_bucket(t.agent_id, served)]
                           AND (room.places IS NULL OR room.places > 0)
                         LIMIT wanted) a
                 UNION ALL
                SELECT l.n + 1, l.agent_id, l.is_over, l.version, l.places, next.person, l.latest, next.is_around
                  FROM line l
                 CROSS JOIN LATERAL (
                     (SELECT q.person, l.is_around FROM runtime.queue q
                       WHERE q.run_at IS NULL AND q.priority = level AND q.agent_id = l.agent_id AND q.person > l.person
                         AND q.person <= CASE WHEN l.is_around THEN l.latest ELSE last_id END
                       ORDER BY q.person, q.sequence LIMIT 1)
                      UNION ALL
                     (SELECT q.person, TRUE FROM runtime.queue q
                       WHERE NOT l.is_around AND q.run_at IS NULL AND q.priority = level AND q.agent_id = l.agent_id
                         AND q.person <= l.latest
                       ORDER BY q.person, q.sequence LIMIT 1)
                      LIMIT 1) next
                 WHERE (l.places IS NULL OR l.n < l.places) AND (l.person < l.latest OR NOT l.is_around)
            )
            SELECT array_agg(l.agent_id), array_agg(l.person), array_agg(l.version), array_agg(l.places),
                   count(*) FILTER (WHERE l.n = 1) < wanted, past_end OR coalesce(bool_or(l.is_over), FALSE),
                   bool_and(l.n = 1 AND l.person = last_id AND l.latest = last_id)
              INTO line_agents, line_persons, line_versions, line_places, is_round, past_end, is_plain
              FROM (SELECT * FROM line l WHERE l.n > 0 LIMIT wanted) l;

            -- What neither a cap nor a session limits is locked while its line is walked, and what somebody else holds is
            -- passed over: many claimers cost no second look. Behind two thousand turns of sessions that run, a line waits.
            ids := NULL;
            limited := FALSE;
            IF line_agents IS NOT NULL THEN
                SELECT array_agg(c.task_id), array_agg(c.agent_id), array_agg(c.session_id), array_agg(c.version),
                       bool_and(c.held IS NOT NULL), bool_or(c.held IS NULL)
                  INTO ids, owners, sessions, versions, locked, limited
                  FROM (SELECT next.task_id, n.agent_id, next.session_id, n.version, next.held
                          FROM unnest(line_agents, line_persons, line_versions, line_places)
                               WITH ORDINALITY AS n (agent_id, person, version, places, place)
                         CROSS JOIN LATERAL (
                             SELECT l.task_id, l.session_id, free.id AS held
                               FROM (SELECT * FROM runtime.lines l
                                      WHERE l.priority = level AND l.agent_id = n.agent_id
                                        AND l.person >= n.person AND l.person <= n.person
                                      ORDER BY l.person, l.sequence LIMIT 2000) l
                               LEFT JOIN LATERAL (
                                   SELECT t.id FROM runtime.tasks t
                                    WHERE t.id = l.task_id AND n.places IS NULL AND l.session_id IS NULL
                                      AND t.status = 'pending' AND t.agent_id IS NOT DISTINCT FROM n.agent_id  -- no index
                                      AND (SELECT count(*) FROM runtime.claims c WHERE c.task_id = t.id) = 0
                                    LIMIT 1 FOR NO KEY UPDATE SKIP LOCKED) free ON TRUE
                              WHERE l.has_turn AND (free.id IS NOT NULL OR n.places IS NOT NULL OR l.session_id IS NOT NULL)
                              LIMIT least(n.places, wanted / cardinality(line_agents)
                                          + (n.place <= wanted % cardinality(line_agents))::integer)) next) c;
            END IF;
        END IF;
        fitting := CASE WHEN limited THEN runtime.within_caps(ids, owners, sessions) ELSE ids END;
        IF NOT locked THEN
            -- Each is locked as it comes, until there are enough; what somebody else holds is passed over. Whether another
            -- turn of its session has begun is asked again, now that nobody else can begin one (`within_caps`).
            fitting := ARRAY(
                SELECT t.id FROM unnest(fitting) AS next (task_id)
                 CROSS JOIN LATERAL (
                     SELECT t.id FROM runtime.tasks t
                      WHERE t.id = next.task_id AND t.status = 'pending'
                        AND t.agent_id = owners[array_position(ids, next.task_id)]
                        AND (SELECT count(*) FROM runtime.claims c WHERE c.task_id = t.id) = 0
                        AND (t.session_id IS NULL
                             OR (SELECT count(*) FROM runtime.claims c WHERE c.session_id = t.session_id) = 0)
                      LIMIT 1 FOR NO KEY UPDATE SKIP LOCKED) t
                 LIMIT wanted);
        END IF;

        taken := 0;
        IF cardinality(fitting) > 0 THEN
            RETURN QUERY
            WITH unqueued AS (
                DELETE FROM runtime.queue q WHERE q.task_id = ANY (fitting)
            ), started AS (
                UPDATE runtime.tasks t
                   SET status = 'running', worker = claimer, attempt = coalesce(t.attempt, 0) + 1, error = NULL,
                       started_at = clock_timestamp(),
                       definition_version = coalesce(t.definition_version, versions[array_position(ids, t.id)])
                 WHERE t.id = ANY (fitting)
                RETURNING t.id, t.agent_id, t.task_type, t.payload, t.session_id, t.user_id, t.attempt,
                          t.definition_version, t.sequence
            ), claimed AS (
                INSERT INTO runtime.claims (task_id, agent_id, session_id, worker, attempt)
                SELECT s.id, s.agent_id, s.session_id, claimer, s.attempt FROM started s
            )
            SELECT s.id, s.agent_id, s.task_type::text, s.payload, s.session_id, s.user_id, s.attempt, s.definition_version
              FROM started s ORDER BY s.sequence;
            GET DIAGNOSTICS taken = ROW_COUNT;
        END IF;
        EXIT WHEN only_session IS NOT NULL OR is_alone;

        IF line_agents IS NOT NULL THEN
            -- Where all of them together gave less than one's share, each has given all it had.
            is_fertile := is_fertile OR taken > 0 AND cardinality(ids) >= wanted / cardinality(line_agents);
            ends := 1 + (wanted - 1) % cardinality(line_agents);
            latest := line_agents[ends];
            turns := CASE WHEN length(turns::text) > 10000 THEN '{}' ELSE turns END  -- of very many only the latest
                     || jsonb_build_object(level::text, latest);
            IF NOT is_plain THEN
                turns := turns || (
                    SELECT jsonb_object_agg(level || ' ' || n.agent_id, n.person ORDER BY n.place <= ends, n.place)
                      FROM unnest(line_agents, line_persons) WITH ORDINALITY AS n (agent_id, person, place));
            END IF;
        END IF;
        wanted := wanted - taken;
        -- Round once more if that may bring anything, and else on to the next priority.
        IF is_round THEN
            IF is_fertile THEN
                begun := latest;
                past_end := FALSE;
                is_fertile := FALSE;
            ELSE
                begun := NULL;
                level := (SELECT q.priority FROM runtime.queue q WHERE q.run_at IS NULL AND q.priority < level
                           ORDER BY q.priority DESC, q.agent_id, q.person, q.sequence LIMIT 1);
                EXIT WHEN level IS NULL;
            END IF;
        END IF;
    END LOOP;
    PERFORM set_config('cirkelline.turns', turns::text, FALSE);
END
$$;
