-- What a program must know to run a task: those before knew one level. A constant
-- default, so that no row is written and the table is locked for a moment only.
ALTER TABLE tasks ADD COLUMN level integer NOT NULL DEFAULT 1;

-- The oldest schema that a program must know to use this database.
ALTER TABLE claudepool_schema ADD COLUMN compatible_from integer NOT NULL DEFAULT 1;
