-- Who has sent reports: the number used in the log, and which sequence numbers were taken.
CREATE TABLE observers (
  id     INTEGER PRIMARY KEY,
  key    BLOB NOT NULL UNIQUE,
  high   INTEGER NOT NULL,
  bits   INTEGER NOT NULL
) STRICT;

-- The segments of the log: one table a day, dropped whole.
CREATE TABLE segments (
  day    INTEGER PRIMARY KEY,
  first  INTEGER NOT NULL
) STRICT;
