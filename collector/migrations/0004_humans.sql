-- What persons said, signed, and from where it came. The key stands in it, so that who asks to be forgotten is.
CREATE TABLE humans (
  id          INTEGER PRIMARY KEY,
  received_at INTEGER NOT NULL,
  observer    BLOB NOT NULL,
  country     TEXT NOT NULL,
  asn         INTEGER NOT NULL,
  slot        INTEGER NOT NULL,
  signature   BLOB NOT NULL,
  body        BLOB NOT NULL
) STRICT;
CREATE INDEX humans_by_time ON humans (received_at);
CREATE INDEX humans_by_observer ON humans (observer);
