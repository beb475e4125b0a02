-- When an observer's first report was taken, milliseconds: its tenure outlives the detector's state.
ALTER TABLE observers ADD COLUMN since INTEGER NOT NULL DEFAULT 0;
