-- Ids are the 16 bytes of a UUIDv7, times microseconds since the Unix epoch,
-- money millionths of a US dollar. State and recovery are the wire's numbers.

-- The part of a task that changes. Written at every change, so it is narrow.
CREATE TABLE tasks (
    id               BLOB    NOT NULL PRIMARY KEY,
    version          INTEGER NOT NULL,
    caller           TEXT    NOT NULL,
    state            INTEGER NOT NULL,
    tags             TEXT    NOT NULL, -- a JSON array
    group_id         BLOB,
    parent_id        BLOB,
    place            INTEGER NOT NULL,
    rank             INTEGER NOT NULL,
    request_id       BLOB,
    create_time      INTEGER NOT NULL,
    ready_time       INTEGER NOT NULL,
    start_time       INTEGER,
    end_time         INTEGER,
    queue_deadline   INTEGER,
    attached         INTEGER NOT NULL,
    abandon_time     INTEGER,
    attempt          INTEGER NOT NULL,
    burnt            INTEGER NOT NULL,
    slot             TEXT,
    lease_node       TEXT,
    lease_until      INTEGER,
    session_id       TEXT    NOT NULL,
    context_revision INTEGER NOT NULL,
    budget           INTEGER NOT NULL,
    reserved         INTEGER NOT NULL,
    cost             INTEGER NOT NULL,
    attempt_cost     INTEGER NOT NULL,
    cost_estimated   INTEGER NOT NULL,
    recovery         INTEGER NOT NULL,
    saves_session    INTEGER NOT NULL,
    conversation     TEXT,
    last_sequence    INTEGER NOT NULL,
    due_time         INTEGER           -- Task::due_time, so that it can be found
) STRICT, WITHOUT ROWID;

-- The ready queue in the order of claims. 1 is QUEUED; rank 255 is a chain,
-- which is never claimed.
CREATE INDEX tasks_ready ON tasks (rank, ready_time, id) WHERE state = 1 AND rank <> 255;
-- Who of a caller's conversation is next.
CREATE INDEX tasks_conversation ON tasks (caller, conversation, id, state)
    WHERE conversation IS NOT NULL AND end_time IS NULL;
CREATE INDEX tasks_due ON tasks (due_time, id) WHERE due_time IS NOT NULL;
CREATE INDEX tasks_group ON tasks (group_id, place, id) WHERE group_id IS NOT NULL;
CREATE INDEX tasks_parent ON tasks (parent_id, id) WHERE parent_id IS NOT NULL;
-- Lists: newest first of a state, of a caller's state.
CREATE INDEX tasks_state ON tasks (state, id);
CREATE INDEX tasks_caller ON tasks (caller, state, id);

CREATE TABLE task_tags (
    tag  TEXT NOT NULL,
    task BLOB NOT NULL,
    PRIMARY KEY (tag, task)
) STRICT, WITHOUT ROWID;

-- What was asked: written once, encoded claudepool.v1.TaskSpec, RunSettings
-- and, for a chain, ChainSpec.
CREATE TABLE task_specs (
    task      BLOB NOT NULL PRIMARY KEY,
    received  BLOB NOT NULL,
    effective BLOB NOT NULL,
    chain     BLOB
) STRICT;

-- What it gave: written once, an encoded claudepool.v1.TaskResult.
CREATE TABLE task_results (
    task   BLOB NOT NULL PRIMARY KEY,
    result BLOB NOT NULL
) STRICT;

-- The whole final text where the result holds only its beginning, in pieces of
-- 256 KiB so that a part of it can be read without the rest.
CREATE TABLE task_outputs (
    task  BLOB    NOT NULL,
    piece INTEGER NOT NULL,
    bytes BLOB    NOT NULL,
    PRIMARY KEY (task, piece)
) STRICT;

-- The logs: encoded claudepool.v1.Event, dense from 1.
CREATE TABLE events (
    task     BLOB    NOT NULL,
    sequence INTEGER NOT NULL,
    bytes    BLOB    NOT NULL,
    PRIMARY KEY (task, sequence)
) STRICT, WITHOUT ROWID;

-- What ended tasks have saved, until it is deleted.
CREATE TABLE sessions (
    id           TEXT    NOT NULL PRIMARY KEY,
    caller       TEXT    NOT NULL,
    conversation TEXT,
    used_time    INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX sessions_used ON sessions (used_time, id);
CREATE INDEX sessions_conversation ON sessions (caller, conversation, used_time)
    WHERE conversation IS NOT NULL;

-- Calls that made work.
CREATE TABLE requests (
    caller      TEXT    NOT NULL,
    id          BLOB    NOT NULL,
    fingerprint BLOB    NOT NULL,
    task        BLOB    NOT NULL,
    group_id    BLOB,
    expire_time INTEGER NOT NULL,
    deleted     INTEGER NOT NULL,
    PRIMARY KEY (caller, id)
) STRICT, WITHOUT ROWID;

-- Money movements: append-only, kept when their task is deleted.
-- kind 1 sets `reserved` aside, kind 2 releases it and books `cost`.
CREATE TABLE ledger (
    id        INTEGER NOT NULL PRIMARY KEY,
    task      BLOB    NOT NULL,
    time      INTEGER NOT NULL,
    kind      INTEGER NOT NULL,
    reserved  INTEGER NOT NULL,
    cost      INTEGER NOT NULL,
    estimated INTEGER NOT NULL
) STRICT;

-- The ledger's running sums, and the budget.
CREATE TABLE funds (
    only         INTEGER NOT NULL PRIMARY KEY CHECK (only = 1),
    spent        INTEGER NOT NULL,
    reserved     INTEGER NOT NULL,
    budget_limit INTEGER
) STRICT;
INSERT INTO funds VALUES (1, 0, 0, NULL);

-- Tasks by state, without chains' steps.
CREATE TABLE counts (
    state INTEGER NOT NULL PRIMARY KEY,
    tasks INTEGER NOT NULL
) STRICT;

CREATE TABLE context (
    key         TEXT    NOT NULL PRIMARY KEY,
    value       TEXT    NOT NULL,
    update_time INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE context_revision (
    only     INTEGER NOT NULL PRIMARY KEY CHECK (only = 1),
    revision INTEGER NOT NULL
) STRICT;
INSERT INTO context_revision VALUES (1, 0);

-- Stored skills (kind 1) and workflows (kind 2): encoded claudepool.v1.Skill
-- and claudepool.v1.Workflow.
CREATE TABLE catalog (
    kind        INTEGER NOT NULL,
    name        TEXT    NOT NULL,
    bytes       BLOB    NOT NULL,
    update_time INTEGER NOT NULL,
    PRIMARY KEY (kind, name)
) STRICT;
