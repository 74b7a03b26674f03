-- Whose trace a task belongs to: W3C traceparent and, after a space, tracestate.
ALTER TABLE tasks ADD COLUMN trace TEXT;
