-- Where the sessions are, and which nodes may run a task.
ALTER TABLE tasks ADD COLUMN home TEXT;
ALTER TABLE tasks ADD COLUMN node_label TEXT;
ALTER TABLE sessions ADD COLUMN node TEXT;
