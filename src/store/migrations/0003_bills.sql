-- What ended attempts used, per model: an encoded UsageUpdate; and by how much
-- the total of a task's session is above the task's own cost.
ALTER TABLE tasks ADD COLUMN usage BLOB NOT NULL DEFAULT x'';
ALTER TABLE tasks ADD COLUMN session_offset INTEGER NOT NULL DEFAULT 0;
