-- What a program must know to run a task: those before knew one level.
ALTER TABLE tasks ADD COLUMN level INTEGER NOT NULL DEFAULT 1;

-- The oldest schema that a program must know to use this database.
CREATE TABLE claudepool_schema (
    only            INTEGER NOT NULL PRIMARY KEY CHECK (only = 1),
    compatible_from INTEGER NOT NULL
) STRICT;
INSERT INTO claudepool_schema (only, compatible_from) VALUES (1, 1);
