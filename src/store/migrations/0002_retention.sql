-- What is needed to let go of old work, and lists that stay fast.

-- Ended work by its end; the steps of a chain go with it.
CREATE INDEX tasks_ended ON tasks (state, end_time, id)
    WHERE end_time IS NOT NULL AND parent_id IS NULL;
-- Members of a fan-out that have not ended.
CREATE INDEX tasks_group_live ON tasks (group_id)
    WHERE group_id IS NOT NULL AND end_time IS NULL;

-- Lists that restrict the time read no row that they do not show.
DROP INDEX tasks_state;
CREATE INDEX tasks_state ON tasks (state, id, create_time, parent_id);
DROP INDEX tasks_caller;
CREATE INDEX tasks_caller ON tasks (caller, state, id, create_time, parent_id);
CREATE INDEX tasks_slot ON tasks (slot, id) WHERE slot IS NOT NULL;

CREATE INDEX requests_expire ON requests (expire_time);

-- Deleted tasks whose spec, result, output, log and ledger entries are still to
-- be swept.
CREATE TABLE removed (
    task BLOB NOT NULL PRIMARY KEY
) STRICT, WITHOUT ROWID;

-- From now on the entries of a deleted task are added to its days' entries,
-- whose task is zero: one per day (its first moment), kind and estimated. No
-- sum over the ledger changes by it.
CREATE INDEX ledger_task ON ledger (task, time);
