-- What a program must know to run a task: those before knew one level.
ALTER TABLE tasks ADD COLUMN level INTEGER NOT NULL DEFAULT 1;
