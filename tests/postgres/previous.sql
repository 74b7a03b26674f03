-- What the program before migration 0002 says: its statements as they were, with
-- values in place of parameters. {id} is a task. Blocks begin with their name.

-- join
INSERT INTO nodes AS n VALUES ('previous', '{id}',
    (extract(epoch FROM clock_timestamp()) * 1000000)::bigint + 600000000, '[]', '',
    (extract(epoch FROM clock_timestamp()) * 1000000)::bigint)
    ON CONFLICT (id) DO UPDATE SET incarnation = excluded.incarnation,
    lease_end = excluded.lease_end, labels = excluded.labels,
    report = excluded.report, update_time = excluded.update_time
    WHERE n.lease_end <= (extract(epoch FROM clock_timestamp()) * 1000000)::bigint;

-- submit
INSERT INTO tasks (
    id, version, caller, state, tags, group_id, parent_id, place, rank, request_id, create_time,
    ready_time, start_time, end_time, queue_deadline, attached, abandon_time, attempt, burnt,
    slot, lease_node, lease_until, session_id, context_revision, budget, reserved, cost,
    attempt_cost, cost_estimated, recovery, saves_session, conversation, last_sequence,
    due_time, trace, usage, session_offset, node_label, home
) SELECT * FROM unnest(
    ARRAY['{id}']::uuid[], ARRAY[1]::bigint[], ARRAY['alice']::text[], ARRAY[1]::integer[],
    ARRAY['[]']::text[], ARRAY[NULL]::uuid[], ARRAY[NULL]::uuid[], ARRAY[0]::bigint[],
    ARRAY[1]::integer[], ARRAY[NULL]::uuid[], ARRAY[1700000000000000]::bigint[],
    ARRAY[1700000000000000]::bigint[], ARRAY[NULL]::bigint[], ARRAY[NULL]::bigint[],
    ARRAY[NULL]::bigint[], ARRAY[false]::boolean[], ARRAY[NULL]::bigint[], ARRAY[0]::bigint[],
    ARRAY[0]::bigint[], ARRAY[NULL]::text[], ARRAY[NULL]::text[], ARRAY[NULL]::bigint[],
    ARRAY['']::text[], ARRAY[0]::bigint[], ARRAY[10000]::bigint[], ARRAY[0]::bigint[],
    ARRAY[0]::bigint[], ARRAY[0]::bigint[], ARRAY[false]::boolean[], ARRAY[2]::integer[],
    ARRAY[false]::boolean[], ARRAY[NULL]::text[], ARRAY[1]::bigint[], ARRAY[NULL]::bigint[],
    ARRAY[NULL]::text[], ARRAY['']::bytea[], ARRAY[0]::bigint[], ARRAY[NULL]::text[],
    ARRAY[NULL]::text[]
);

INSERT INTO task_specs
    SELECT * FROM unnest(ARRAY['{id}']::uuid[], ARRAY['{received}']::bytea[],
    ARRAY['']::bytea[], ARRAY[NULL]::bytea[])
    ON CONFLICT (task) DO UPDATE SET received = excluded.received,
    effective = excluded.effective, chain = excluded.chain;

INSERT INTO events SELECT * FROM unnest(ARRAY['{id}']::uuid[], ARRAY[1]::bigint[],
    ARRAY['{event}']::bytea[]);

UPDATE books SET spent = spent + 0::bigint, reserved = reserved + 0::bigint,
    state_1 = state_1 + 1, state_2 = state_2 + 0, state_3 = state_3 + 0,
    state_4 = state_4 + 0, state_5 = state_5 + 0, state_6 = state_6 + 0,
    state_7 = state_7 + 0 WHERE shard = 7;

-- claim
SELECT t.id, t.version, t.caller, t.state, t.tags, t.group_id, t.parent_id, t.place, t.rank,
t.request_id, t.create_time, t.ready_time, t.start_time, t.end_time, t.queue_deadline,
t.attached, t.abandon_time, t.attempt, t.burnt, t.slot, t.lease_node, t.lease_until,
t.session_id, t.context_revision, t.budget, t.reserved, t.cost, t.attempt_cost,
t.cost_estimated, t.recovery, t.saves_session, t.conversation, t.last_sequence, t.due_time,
t.trace, t.usage, t.session_offset, t.node_label, t.home FROM tasks t
    WHERE t.state = 1 AND t.rank <> 255 AND t.rank = 1 AND t.ready_time <= 1800000000000000
    AND (t.ready_time, t.id) > (0, '00000000-0000-0000-0000-000000000000')
    AND (t.node_label IS NULL OR t.node_label = ANY (ARRAY[]::text[]))
    ORDER BY t.ready_time, t.id LIMIT 4 FOR UPDATE OF t SKIP LOCKED;

UPDATE tasks t SET
    version = n.version, state = n.state, rank = n.rank, ready_time = n.ready_time,
    start_time = n.start_time, end_time = n.end_time, queue_deadline = n.queue_deadline,
    attached = n.attached, abandon_time = n.abandon_time, attempt = n.attempt, burnt = n.burnt,
    slot = n.slot, lease_node = n.lease_node, lease_until = n.lease_until,
    session_id = n.session_id, context_revision = n.context_revision, budget = n.budget,
    reserved = n.reserved, cost = n.cost, attempt_cost = n.attempt_cost,
    cost_estimated = n.cost_estimated, recovery = n.recovery, last_sequence = n.last_sequence,
    due_time = n.due_time, usage = n.usage, session_offset = n.session_offset, home = n.home
    FROM unnest(
    ARRAY['{id}']::uuid[], ARRAY[2]::bigint[], ARRAY['alice']::text[], ARRAY[2]::integer[],
    ARRAY['[]']::text[], ARRAY[NULL]::uuid[], ARRAY[NULL]::uuid[], ARRAY[0]::bigint[],
    ARRAY[1]::integer[], ARRAY[NULL]::uuid[], ARRAY[1700000000000000]::bigint[],
    ARRAY[1700000000000000]::bigint[], ARRAY[1700000000000000]::bigint[], ARRAY[NULL]::bigint[],
    ARRAY[NULL]::bigint[], ARRAY[false]::boolean[], ARRAY[NULL]::bigint[], ARRAY[1]::bigint[],
    ARRAY[0]::bigint[], ARRAY['slot-0']::text[], ARRAY['previous']::text[],
    ARRAY[NULL]::bigint[], ARRAY['']::text[], ARRAY[0]::bigint[], ARRAY[10000]::bigint[],
    ARRAY[10000]::bigint[], ARRAY[0]::bigint[], ARRAY[0]::bigint[], ARRAY[false]::boolean[],
    ARRAY[2]::integer[], ARRAY[false]::boolean[], ARRAY[NULL]::text[], ARRAY[1]::bigint[],
    ARRAY[NULL]::bigint[], ARRAY[NULL]::text[], ARRAY['']::bytea[], ARRAY[0]::bigint[],
    ARRAY[NULL]::text[], ARRAY[NULL]::text[]
    ) AS n (
    id, version, caller, state, tags, group_id, parent_id, place, rank, request_id, create_time,
    ready_time, start_time, end_time, queue_deadline, attached, abandon_time, attempt, burnt,
    slot, lease_node, lease_until, session_id, context_revision, budget, reserved, cost,
    attempt_cost, cost_estimated, recovery, saves_session, conversation, last_sequence,
    due_time, trace, usage, session_offset, node_label, home
    ) WHERE t.id = n.id;

INSERT INTO ledger (task, time, kind, reserved, cost, estimated)
    SELECT task, 1700000000000000, kind, reserved, cost, estimated FROM unnest(ARRAY['{id}']::uuid[],
    ARRAY[1]::integer[], ARRAY[10000]::bigint[], ARRAY[0]::bigint[], ARRAY[false]::boolean[])
    AS n (task, kind, reserved, cost, estimated);

UPDATE books SET spent = spent + 0::bigint, reserved = reserved + 10000::bigint,
    state_1 = state_1 + -1, state_2 = state_2 + 1, state_3 = state_3 + 0,
    state_4 = state_4 + 0, state_5 = state_5 + 0, state_6 = state_6 + 0,
    state_7 = state_7 + 0 WHERE shard = 7;

-- append
UPDATE tasks SET last_sequence = last_sequence + 1,
    attempt_cost = coalesce(NULL, attempt_cost), session_id = coalesce(NULL, session_id),
    session_offset = coalesce(NULL, session_offset)
    WHERE id = '{id}' AND attempt = 1 RETURNING last_sequence, state;

INSERT INTO events SELECT * FROM unnest(ARRAY['{id}']::uuid[], ARRAY[2]::bigint[],
    ARRAY['{event}']::bytea[]);

-- finish
SELECT t.id, t.version, t.caller, t.state, t.tags, t.group_id, t.parent_id, t.place, t.rank,
t.request_id, t.create_time, t.ready_time, t.start_time, t.end_time, t.queue_deadline,
t.attached, t.abandon_time, t.attempt, t.burnt, t.slot, t.lease_node, t.lease_until,
t.session_id, t.context_revision, t.budget, t.reserved, t.cost, t.attempt_cost,
t.cost_estimated, t.recovery, t.saves_session, t.conversation, t.last_sequence, t.due_time,
t.trace, t.usage, t.session_offset, t.node_label, t.home FROM tasks t
    WHERE t.id = ANY(ARRAY['{id}']::uuid[]) ORDER BY t.id FOR UPDATE;

UPDATE tasks t SET
    version = n.version, state = n.state, rank = n.rank, ready_time = n.ready_time,
    start_time = n.start_time, end_time = n.end_time, queue_deadline = n.queue_deadline,
    attached = n.attached, abandon_time = n.abandon_time, attempt = n.attempt, burnt = n.burnt,
    slot = n.slot, lease_node = n.lease_node, lease_until = n.lease_until,
    session_id = n.session_id, context_revision = n.context_revision, budget = n.budget,
    reserved = n.reserved, cost = n.cost, attempt_cost = n.attempt_cost,
    cost_estimated = n.cost_estimated, recovery = n.recovery, last_sequence = n.last_sequence,
    due_time = n.due_time, usage = n.usage, session_offset = n.session_offset, home = n.home
    FROM unnest(
    ARRAY['{id}']::uuid[], ARRAY[3]::bigint[], ARRAY['alice']::text[], ARRAY[4]::integer[],
    ARRAY['[]']::text[], ARRAY[NULL]::uuid[], ARRAY[NULL]::uuid[], ARRAY[0]::bigint[],
    ARRAY[1]::integer[], ARRAY[NULL]::uuid[], ARRAY[1700000000000000]::bigint[],
    ARRAY[1700000000000000]::bigint[], ARRAY[1700000000000000]::bigint[],
    ARRAY[1700000000000000]::bigint[], ARRAY[NULL]::bigint[], ARRAY[false]::boolean[],
    ARRAY[NULL]::bigint[], ARRAY[1]::bigint[], ARRAY[0]::bigint[], ARRAY['slot-0']::text[],
    ARRAY['previous']::text[], ARRAY[NULL]::bigint[], ARRAY['']::text[], ARRAY[0]::bigint[],
    ARRAY[10000]::bigint[], ARRAY[0]::bigint[], ARRAY[700]::bigint[], ARRAY[0]::bigint[],
    ARRAY[false]::boolean[], ARRAY[2]::integer[], ARRAY[false]::boolean[], ARRAY[NULL]::text[],
    ARRAY[3]::bigint[], ARRAY[NULL]::bigint[], ARRAY[NULL]::text[], ARRAY['']::bytea[],
    ARRAY[0]::bigint[], ARRAY[NULL]::text[], ARRAY[NULL]::text[]
    ) AS n (
    id, version, caller, state, tags, group_id, parent_id, place, rank, request_id, create_time,
    ready_time, start_time, end_time, queue_deadline, attached, abandon_time, attempt, burnt,
    slot, lease_node, lease_until, session_id, context_revision, budget, reserved, cost,
    attempt_cost, cost_estimated, recovery, saves_session, conversation, last_sequence,
    due_time, trace, usage, session_offset, node_label, home
    ) WHERE t.id = n.id;

INSERT INTO task_results SELECT * FROM unnest(ARRAY['{id}']::uuid[], ARRAY['']::bytea[])
    ON CONFLICT (task) DO UPDATE SET result = excluded.result;

INSERT INTO events SELECT * FROM unnest(ARRAY['{id}']::uuid[], ARRAY[3]::bigint[],
    ARRAY['{event}']::bytea[]);

INSERT INTO ledger (task, time, kind, reserved, cost, estimated)
    SELECT task, 1700000000000000, kind, reserved, cost, estimated FROM unnest(ARRAY['{id}']::uuid[],
    ARRAY[2]::integer[], ARRAY[10000]::bigint[], ARRAY[700]::bigint[], ARRAY[false]::boolean[])
    AS n (task, kind, reserved, cost, estimated);

UPDATE books SET spent = spent + 700::bigint, reserved = reserved + -10000::bigint,
    state_1 = state_1 + 0, state_2 = state_2 + -1, state_3 = state_3 + 0,
    state_4 = state_4 + 1, state_5 = state_5 + 0, state_6 = state_6 + 0,
    state_7 = state_7 + 0 WHERE shard = 7;
