-- Times are microseconds since the Unix epoch, money millionths of a US dollar.
-- State and recovery are the wire's numbers. Texts compare byte by byte.

-- The part of a task that changes. Pages are left room, so that what an append
-- notes stays on the row's page and touches no index.
CREATE TABLE tasks (
    id               uuid     NOT NULL PRIMARY KEY,
    version          bigint   NOT NULL,
    caller           text     COLLATE "C" NOT NULL,
    state            integer  NOT NULL,
    tags             text     NOT NULL, -- a JSON array
    group_id         uuid,
    parent_id        uuid,
    place            bigint   NOT NULL,
    rank             integer  NOT NULL,
    request_id       uuid,
    create_time      bigint   NOT NULL,
    ready_time       bigint   NOT NULL,
    start_time       bigint,
    end_time         bigint,
    queue_deadline   bigint,
    attached         boolean  NOT NULL,
    abandon_time     bigint,
    attempt          bigint   NOT NULL,
    burnt            bigint   NOT NULL,
    slot             text     COLLATE "C",
    lease_node       text     COLLATE "C",
    lease_until      bigint,            -- by this database's clock
    session_id       text     COLLATE "C" NOT NULL,
    context_revision bigint   NOT NULL,
    budget           bigint   NOT NULL,
    reserved         bigint   NOT NULL,
    cost             bigint   NOT NULL,
    attempt_cost     bigint   NOT NULL,
    cost_estimated   boolean  NOT NULL,
    recovery         integer  NOT NULL,
    saves_session    boolean  NOT NULL,
    conversation     text     COLLATE "C",
    last_sequence    bigint   NOT NULL,
    due_time         bigint,            -- Task::due_time, so that it can be found
    trace            text,              -- W3C traceparent and, after a space, tracestate
    usage            bytea    NOT NULL, -- an encoded claudepool.v1.UsageUpdate
    session_offset   bigint   NOT NULL,
    home             text     COLLATE "C", -- the node that has its session
    node_label       text     COLLATE "C"  -- that a node must carry to run it
) WITH (fillfactor = 70);

-- The ready queue in the order of claims. 1 is QUEUED; rank 255 is a chain,
-- which is never claimed.
CREATE INDEX tasks_ready ON tasks (rank, ready_time, id) WHERE state = 1 AND rank <> 255;
-- Those of them whose conversation may be another task's now.
CREATE INDEX tasks_ready_conversation ON tasks (rank, ready_time, id)
    WHERE state = 1 AND rank <> 255 AND conversation IS NOT NULL;
-- Who of a caller's conversation is next.
CREATE INDEX tasks_conversation ON tasks (caller, conversation, id, state)
    WHERE conversation IS NOT NULL AND end_time IS NULL;
-- Of a caller's conversation one task is active (RUNNING, CANCELLING) at a time,
-- whoever claims.
CREATE UNIQUE INDEX tasks_conversation_active ON tasks (caller, conversation)
    WHERE conversation IS NOT NULL AND state IN (2, 3);
CREATE INDEX tasks_due ON tasks (due_time, id) WHERE due_time IS NOT NULL;
CREATE INDEX tasks_group ON tasks (group_id, place, id) WHERE group_id IS NOT NULL;
-- Members of a fan-out that have not ended.
CREATE INDEX tasks_group_live ON tasks (group_id)
    WHERE group_id IS NOT NULL AND end_time IS NULL;
CREATE INDEX tasks_parent ON tasks (parent_id, id) WHERE parent_id IS NOT NULL;
-- Ended work by its end; the steps of a chain go with it.
CREATE INDEX tasks_ended ON tasks (state, end_time, id)
    WHERE end_time IS NOT NULL AND parent_id IS NULL;
-- Lists: newest first of a state, of a caller's state, of a slot.
CREATE INDEX tasks_state ON tasks (state, id);
CREATE INDEX tasks_caller ON tasks (caller, state, id);
CREATE INDEX tasks_slot ON tasks (slot, id) WHERE slot IS NOT NULL;
-- What a node has under way.
CREATE INDEX tasks_node ON tasks (lease_node, id) WHERE state IN (2, 3);

-- How much of the queue is whose.
CREATE INDEX tasks_queued ON tasks (caller) WHERE state = 1 AND rank <> 255;

CREATE TABLE task_tags (
    tag  text COLLATE "C" NOT NULL,
    task uuid NOT NULL,
    PRIMARY KEY (tag, task)
);

-- What was asked: written once, encoded claudepool.v1.TaskSpec, RunSettings
-- and, for a chain, ChainSpec.
CREATE TABLE task_specs (
    task      uuid  NOT NULL PRIMARY KEY,
    received  bytea NOT NULL,
    effective bytea NOT NULL,
    chain     bytea
);

-- What it gave: written once, an encoded claudepool.v1.TaskResult.
CREATE TABLE task_results (
    task   uuid  NOT NULL PRIMARY KEY,
    result bytea NOT NULL
);

-- The whole final text where the result holds only its beginning, in pieces of
-- 256 KiB so that a part of it can be read without the rest.
CREATE TABLE task_outputs (
    task  uuid   NOT NULL,
    piece bigint NOT NULL,
    bytes bytea  NOT NULL,
    PRIMARY KEY (task, piece)
);

-- The logs: encoded claudepool.v1.Event, dense from 1.
CREATE TABLE events (
    task     uuid   NOT NULL,
    sequence bigint NOT NULL,
    bytes    bytea  NOT NULL,
    PRIMARY KEY (task, sequence)
);

-- What ended tasks have saved, until it is deleted.
CREATE TABLE sessions (
    id           text   COLLATE "C" NOT NULL PRIMARY KEY,
    caller       text   COLLATE "C" NOT NULL,
    conversation text   COLLATE "C",
    used_time    bigint NOT NULL,
    node         text   COLLATE "C" -- whose disk has it
);
CREATE INDEX sessions_used ON sessions (used_time, id);
CREATE INDEX sessions_conversation ON sessions (caller, conversation, used_time, id)
    WHERE conversation IS NOT NULL;

-- Calls that made work.
CREATE TABLE requests (
    caller      text    COLLATE "C" NOT NULL,
    id          uuid    NOT NULL,
    fingerprint bytea   NOT NULL,
    task        uuid    NOT NULL,
    group_id    uuid,
    expire_time bigint  NOT NULL,
    deleted     boolean NOT NULL,
    PRIMARY KEY (caller, id)
);
CREATE INDEX requests_expire ON requests (expire_time);

-- Money movements: append-only, kept when their task is deleted. Kind 1 sets
-- `reserved` aside, 2 releases it and books `cost`, 3 books `cost`.
CREATE TABLE ledger (
    id        bigint  GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    task      uuid    NOT NULL,
    time      bigint  NOT NULL,
    kind      integer NOT NULL,
    reserved  bigint  NOT NULL,
    cost      bigint  NOT NULL,
    estimated boolean NOT NULL
);
CREATE INDEX ledger_task ON ledger (task, time);

-- The entries of deleted tasks, added up: a day is its first moment.
CREATE TABLE ledger_days (
    day       bigint  NOT NULL,
    kind      integer NOT NULL,
    estimated boolean NOT NULL,
    reserved  numeric NOT NULL,
    cost      numeric NOT NULL,
    PRIMARY KEY (day, kind, estimated)
);

-- Deleted tasks whose spec, result, output, log and ledger entries are still to
-- be swept.
CREATE TABLE removed (
    task uuid NOT NULL PRIMARY KEY
);

-- The most that may be spent. Whoever reserves money under a limit locks this
-- row until the commit; without a limit it is shared.
CREATE TABLE budget (
    only_row     integer NOT NULL PRIMARY KEY CHECK (only_row = 1),
    budget_limit bigint
);
INSERT INTO budget VALUES (1, NULL);

-- The ledger's running sums, and tasks by state without chains' steps. What
-- counts is the sum over all rows: those who write at the same time write to
-- different ones.
CREATE TABLE books (
    shard    integer NOT NULL PRIMARY KEY,
    spent    numeric NOT NULL DEFAULT 0,
    reserved numeric NOT NULL DEFAULT 0,
    state_1  bigint  NOT NULL DEFAULT 0,
    state_2  bigint  NOT NULL DEFAULT 0,
    state_3  bigint  NOT NULL DEFAULT 0,
    state_4  bigint  NOT NULL DEFAULT 0,
    state_5  bigint  NOT NULL DEFAULT 0,
    state_6  bigint  NOT NULL DEFAULT 0,
    state_7  bigint  NOT NULL DEFAULT 0
) WITH (fillfactor = 10);
INSERT INTO books (shard) SELECT n FROM generate_series(0, 63) AS n;

CREATE TABLE context (
    key         text   COLLATE "C" NOT NULL PRIMARY KEY,
    value       text   NOT NULL,
    update_time bigint NOT NULL
);
CREATE TABLE context_revision (
    only_row integer NOT NULL PRIMARY KEY CHECK (only_row = 1),
    revision bigint  NOT NULL
);
INSERT INTO context_revision VALUES (1, 0);

-- Stored skills (kind 1) and workflows (kind 2): encoded claudepool.v1.Skill
-- and claudepool.v1.Workflow.
CREATE TABLE catalog (
    kind        integer NOT NULL,
    name        text    COLLATE "C" NOT NULL,
    bytes       bytea   NOT NULL,
    update_time bigint  NOT NULL,
    PRIMARY KEY (kind, name)
);

-- Locked by whoever adds to the catalog, whose size is limited.
CREATE TABLE catalog_size (
    only_row integer NOT NULL PRIMARY KEY CHECK (only_row = 1)
);
INSERT INTO catalog_size VALUES (1);

-- What holds for all servers: why an operator paused admission, and what a
-- provider's limit holds back, in the servers' own words.
CREATE TABLE shared (
    only_row integer NOT NULL PRIMARY KEY CHECK (only_row = 1),
    revision bigint  NOT NULL,
    paused   text,
    hold     bytea   NOT NULL
);
INSERT INTO shared VALUES (1, 0, NULL, '');

-- The servers. `lease_end` and `update_time` by this database's clock.
CREATE TABLE nodes (
    id          text   COLLATE "C" NOT NULL PRIMARY KEY,
    incarnation uuid   NOT NULL,
    lease_end   bigint NOT NULL,
    labels      text   NOT NULL, -- a JSON array
    report      bytea  NOT NULL,
    update_time bigint NOT NULL
);
CREATE INDEX nodes_lease ON nodes (lease_end);

-- What one server asks another.
CREATE TABLE questions (
    id          uuid   NOT NULL PRIMARY KEY,
    node        text   COLLATE "C" NOT NULL,
    question    bytea  NOT NULL,
    taken       boolean NOT NULL,
    answer      bytea,
    expire_time bigint NOT NULL
);
CREATE INDEX questions_open ON questions (node, id) WHERE NOT taken;
CREATE INDEX questions_expire ON questions (expire_time);
