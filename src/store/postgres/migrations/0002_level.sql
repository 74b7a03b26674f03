-- What a program must know to run a task: those before knew one level. A constant
-- default, so that no row is written and the table is locked for a moment only.
ALTER TABLE tasks ADD COLUMN level integer NOT NULL DEFAULT 1;
