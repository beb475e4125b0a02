-- The day on which an observer was last heard, so that those who left can be forgotten.
ALTER TABLE observers ADD COLUMN seen INTEGER NOT NULL DEFAULT 0;
