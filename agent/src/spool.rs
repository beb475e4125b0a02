//! The outbox on disk: signed reports until they are acked, drafts of reports that cannot be signed
//! yet, and what must not be forgotten between two starts (sequence numbers, delegation serials,
//! the last snapshot, what was probed lately).
//!
//! One SQLite file, short calls made inline by their caller. WAL with `synchronous = NORMAL`: a
//! crash of the program loses no report; a power cut may lose the last reports, which have not been
//! acked, and then their numbers: [`Spool::acked`] raises them from what the collector knows.

mod history;
mod kept;

use std::{
    fs, io,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior, params};
use tocsin_proto::{
    bounded::{Bytes, Fixed},
    id::ObserverId,
    limits::AGE_MAX_MS,
    report::SignedReport,
    sign::PublicKey,
    time::Timestamp,
};

/// Name of the database in the state directory.
pub const OUTBOX_FILE: &str = "outbox.db";
/// What a report costs beside its body: signature, key, numbers.
const OVERHEAD_BYTES: u64 = 128;
/// Version of the database's layout.
const LAYOUT: i64 = 3;
/// Acked reports of one observer that stay to be looked at by `tocsin show`.
const SENT_KEPT: u64 = 20;
/// Starts older than this bind nobody any more.
const STARTS_KEPT_MS: u64 = 86_400_000;
/// Drafts at most: some hours of reports of an agent that has never met its collector.
const DRAFTS_MAX: i64 = 2_000;

/// Why the outbox cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SpoolError {
    /// The file cannot be made.
    #[error("cannot make the outbox {path}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It is no database of ours, or is damaged.
    #[error(
        "the outbox {path} is damaged or of another version: move it away (unsent reports are lost; \
         the seed beside it is the identity and must stay) and start again with an empty file of \
         that name"
    )]
    Damaged {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: rusqlite::Error,
    },
    /// An access failed.
    #[error("the outbox cannot be read or written (is the disk full?)")]
    Access(#[source] rusqlite::Error),
}

/// A report that waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unsent {
    /// Its number.
    pub seq: u64,
    /// The signed bytes.
    pub report: SignedReport,
    /// When it was made.
    pub created: Timestamp,
}

/// A report that waits to be numbered and signed, since no collector has told its time yet, or
/// nothing has told which network this is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Draft {
    /// Its number here.
    pub id: i64,
    /// The network it was made in, as [`crate::voice`] names it.
    pub context: String,
    /// The report with number 0, in the agent's own time.
    pub body: Vec<u8>,
    /// Whether it holds a failure.
    pub has_failure: bool,
    /// When it was made, by the agent's own clock.
    pub created: Timestamp,
}

/// What was lost, and why, since the database was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Lost {
    /// Reports that were a week old.
    pub too_old: u64,
    /// Reports for which there was no room.
    pub no_room: u64,
    /// Reports that a collector refused.
    pub rejected: u64,
}

/// The outbox.
#[derive(Debug)]
pub struct Spool {
    db: Connection,
    bytes: u64,
    bytes_max: u64,
    /// The last start that was read, and the database's change counter then.
    starts_read: (i64, i64),
    /// Starts behind it that are this process's own.
    starts_own: Vec<i64>,
}

const SCHEMA: &str = "
    PRAGMA journal_mode = WAL;
    PRAGMA synchronous = NORMAL;
    PRAGMA cache_size = -256;
    PRAGMA wal_autocheckpoint = 64;
    CREATE TABLE IF NOT EXISTS reports (
        observer BLOB NOT NULL, seq INTEGER NOT NULL, body BLOB NOT NULL,
        signature BLOB NOT NULL, has_failure INTEGER NOT NULL, created INTEGER NOT NULL,
        PRIMARY KEY (observer, seq)
    ) WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS observers (observer BLOB PRIMARY KEY, next_seq INTEGER NOT NULL)
        WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS serials (
        operator BLOB NOT NULL, role INTEGER NOT NULL, serial INTEGER NOT NULL,
        PRIMARY KEY (operator, role)
    ) WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS snapshots (
        operator BLOB PRIMARY KEY, signature BLOB NOT NULL, document BLOB NOT NULL,
        received INTEGER NOT NULL, sequence INTEGER NOT NULL
    ) WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS lost (why TEXT PRIMARY KEY, reports INTEGER NOT NULL) WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS drafts (
        id INTEGER PRIMARY KEY, operator BLOB NOT NULL, context TEXT NOT NULL, body BLOB NOT NULL,
        has_failure INTEGER NOT NULL, created INTEGER NOT NULL
    );
    CREATE TABLE IF NOT EXISTS sent (
        observer BLOB NOT NULL, seq INTEGER NOT NULL, body BLOB NOT NULL,
        signature BLOB NOT NULL, created INTEGER NOT NULL, PRIMARY KEY (observer, seq)
    ) WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS starts (
        id INTEGER PRIMARY KEY AUTOINCREMENT, at INTEGER NOT NULL, target INTEGER NOT NULL,
        cause INTEGER NOT NULL
    );
    CREATE TABLE IF NOT EXISTS quiets (target INTEGER PRIMARY KEY, until INTEGER NOT NULL);
    CREATE TABLE IF NOT EXISTS fill (one INTEGER PRIMARY KEY, bytes INTEGER NOT NULL, at INTEGER NOT NULL);
    CREATE TABLE IF NOT EXISTS spends (id INTEGER PRIMARY KEY AUTOINCREMENT, bytes INTEGER NOT NULL);
    CREATE TABLE IF NOT EXISTS places (
        operator BLOB NOT NULL, context TEXT NOT NULL, PRIMARY KEY (operator, context)
    ) WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS state (one INTEGER PRIMARY KEY, json TEXT NOT NULL);
    CREATE TABLE IF NOT EXISTS batching (
        one INTEGER PRIMARY KEY, context TEXT NOT NULL, body BLOB NOT NULL
    );
";

/// From layouts 1 and 2, which no release had: what can be had again, or is a minute's work, is made
/// anew. Signed reports, numbers, serials and starts stay.
const FROM_EARLIER: &str = "
    DROP TABLE IF EXISTS batching;
    DROP TABLE IF EXISTS drafts;
    DROP TABLE IF EXISTS snapshots;
";

/// SQLite has signed integers only; no number here comes near their end.
fn to_db(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn of_db(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}

impl Spool {
    /// Opens the outbox in the state directory; makes it where there is none.
    ///
    /// # Errors
    /// When it cannot be made, or is damaged.
    pub fn open(state_dir: &Path, bytes_max: u64) -> Result<Self, SpoolError> {
        let path = state_dir.join(OUTBOX_FILE);
        fs::OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o600)
            .open(&path)
            .map_err(|source| SpoolError::File { path: path.clone(), source })?;
        let open = || -> rusqlite::Result<Self> {
            let db = Connection::open(&path)?;
            db.busy_timeout(std::time::Duration::from_secs(5))?;
            let version: i64 = db.query_row("PRAGMA user_version", [], |row| row.get(0))?;
            if version > LAYOUT {
                return Err(rusqlite::Error::InvalidQuery);
            }
            if (1..LAYOUT).contains(&version) {
                db.execute_batch(FROM_EARLIER)?;
            }
            db.execute_batch(SCHEMA)?;
            db.pragma_update(None, "user_version", LAYOUT)?;
            let check: String = db.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
            if check != "ok" {
                return Err(rusqlite::Error::InvalidQuery);
            }
            let bytes: i64 = db.query_row(
                "SELECT coalesce(sum(length(body) + ?1), 0) FROM reports",
                [to_db(OVERHEAD_BYTES)],
                |row| row.get(0),
            )?;
            Ok(Self {
                db,
                bytes: of_db(bytes),
                bytes_max,
                starts_read: (0, 0),
                starts_own: Vec::new(),
            })
        };
        open().map_err(|source| SpoolError::Damaged { path: path.clone(), source })
    }

    /// A spool in memory that knows the delegation serials of this one, and nothing else.
    ///
    /// # Errors
    /// When the database fails.
    pub fn scratch(&self) -> Result<Self, SpoolError> {
        let copied = || -> rusqlite::Result<Connection> {
            let db = Connection::open_in_memory()?;
            db.execute_batch(SCHEMA)?;
            let mut serials = self.db.prepare("SELECT operator, role, serial FROM serials")?;
            let mut rows = serials.query([])?;
            while let Some(row) = rows.next()? {
                let (operator, role, serial): (Vec<u8>, i64, i64) =
                    (row.get(0)?, row.get(1)?, row.get(2)?);
                let sql = "INSERT INTO serials VALUES (?1, ?2, ?3)";
                db.execute(sql, params![operator, role, serial])?;
            }
            Ok(db)
        };
        let db = copied().map_err(SpoolError::Access)?;
        let bytes_max = self.bytes_max;
        Ok(Self { db, bytes: 0, bytes_max, starts_read: (0, 0), starts_own: Vec::new() })
    }

    /// Opens it to read only, for a look from beside a running agent.
    ///
    /// # Errors
    /// When there is none, or it is damaged.
    pub fn peek(state_dir: &Path) -> Result<Self, SpoolError> {
        let path = state_dir.join(OUTBOX_FILE);
        let flags = rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY;
        let db = Connection::open_with_flags(&path, flags)
            .map_err(|source| SpoolError::Damaged { path, source })?;
        Ok(Self { db, bytes: 0, bytes_max: 0, starts_read: (0, 0), starts_own: Vec::new() })
    }

    /// Stores the report that `make` signs under the next number, in one transaction with that
    /// number: it is never given twice.
    ///
    /// # Errors
    /// When the database fails; then no number is used.
    pub fn push(
        &mut self,
        observer: &ObserverId,
        created: Timestamp,
        has_failure: bool,
        make: impl FnOnce(u64) -> SignedReport,
    ) -> Result<u64, SpoolError> {
        self.store(observer, created, has_failure, None, make)
    }

    /// As [`Spool::push`], of a draft, which is gone with it.
    ///
    /// # Errors
    /// When the database fails; then the draft stays and no number is used.
    pub fn sign_draft(
        &mut self,
        draft: &Draft,
        observer: &ObserverId,
        make: impl FnOnce(u64) -> SignedReport,
    ) -> Result<u64, SpoolError> {
        self.store(observer, draft.created, draft.has_failure, Some(draft.id), make)
    }

    fn store(
        &mut self,
        observer: &ObserverId,
        created: Timestamp,
        has_failure: bool,
        draft: Option<i64>,
        make: impl FnOnce(u64) -> SignedReport,
    ) -> Result<u64, SpoolError> {
        let key = observer.as_bytes().as_slice();
        let stored = || -> rusqlite::Result<(u64, u64)> {
            // Immediate: one that begins by reading may find that it cannot write any more.
            let tx = Transaction::new_unchecked(&self.db, TransactionBehavior::Immediate)?;
            if let Some(id) = draft {
                tx.prepare_cached("DELETE FROM drafts WHERE id = ?1")?.execute([id])?;
            }
            let seq: i64 = tx
                .prepare_cached("SELECT next_seq FROM observers WHERE observer = ?1")?
                .query_row([key], |row| row.get(0))
                .optional()?
                .unwrap_or(1);
            tx.prepare_cached(
                "INSERT INTO observers VALUES (?1, ?2)
                 ON CONFLICT (observer) DO UPDATE SET next_seq = ?2",
            )?
            .execute(params![key, seq + 1])?;
            let report = make(of_db(seq));
            tx.prepare_cached("INSERT INTO reports VALUES (?1, ?2, ?3, ?4, ?5, ?6)")?.execute(
                params![
                    key,
                    seq,
                    &report.body[..],
                    report.signature.0.as_slice(),
                    has_failure,
                    to_db(created.as_ms())
                ],
            )?;
            tx.commit()?;
            Ok((of_db(seq), report.body.len() as u64 + OVERHEAD_BYTES))
        };
        let (seq, bytes) = stored().map_err(SpoolError::Access)?;
        self.bytes += bytes;
        self.make_room().map_err(SpoolError::Access)?;
        Ok(seq)
    }

    /// Keeps a report that cannot be signed yet.
    ///
    /// # Errors
    /// When the database fails.
    pub fn draft(
        &mut self,
        operator: &PublicKey,
        context: &str,
        body: &[u8],
        has_failure: bool,
        created: Timestamp,
    ) -> Result<(), SpoolError> {
        let stored = || -> rusqlite::Result<()> {
            let key = operator.as_bytes().as_slice();
            self.db
                .prepare_cached(
                    "INSERT INTO drafts (operator, context, body, has_failure, created)
                     VALUES (?1, ?2, ?3, ?4, ?5)",
                )?
                .execute(params![key, context, body, has_failure, to_db(created.as_ms())])?;
            let over = self
                .db
                .prepare_cached(
                    "DELETE FROM drafts WHERE id IN (
                        SELECT id FROM drafts ORDER BY has_failure, id
                        LIMIT max(0, (SELECT count(*) FROM drafts) - ?1))",
                )?
                .execute([DRAFTS_MAX])?;
            self.count("no_room", over as u64)
        };
        stored().map_err(SpoolError::Access)
    }

    /// The oldest drafts for an operator.
    ///
    /// # Errors
    /// When the database fails.
    pub fn drafts(&self, operator: &PublicKey, limit: usize) -> Result<Vec<Draft>, SpoolError> {
        let read = || -> rusqlite::Result<Vec<Draft>> {
            let mut statement = self.db.prepare_cached(
                "SELECT id, context, body, has_failure, created FROM drafts
                 WHERE operator = ?1 ORDER BY id LIMIT ?2",
            )?;
            let key = operator.as_bytes().as_slice();
            let rows = statement.query_map(params![key, to_db(limit as u64)], |row| {
                Ok(Draft {
                    id: row.get(0)?,
                    context: row.get(1)?,
                    body: row.get(2)?,
                    has_failure: row.get(3)?,
                    created: Timestamp::from_ms(of_db(row.get(4)?)),
                })
            })?;
            rows.collect()
        };
        read().map_err(SpoolError::Access)
    }

    /// Drops a draft that no report can be made of, since it is damaged or of a network that
    /// nothing tells any more.
    ///
    /// # Errors
    /// When the database fails.
    pub fn drop_draft(&mut self, id: i64) -> Result<(), SpoolError> {
        let dropped = self.db.execute("DELETE FROM drafts WHERE id = ?1", [id]);
        dropped.and_then(|_| self.count("unplaced", 1)).map_err(SpoolError::Access)
    }

    /// Keeps what waits for its report, so that a look from outside sees it and a crash loses none
    /// of it; `None` when nothing waits.
    ///
    /// # Errors
    /// When the database fails.
    pub fn batching(&self, waiting: Option<(&str, &[u8])>) -> Result<(), SpoolError> {
        let kept = || -> rusqlite::Result<()> {
            match waiting {
                Some((context, body)) => {
                    let sql = "INSERT OR REPLACE INTO batching VALUES (1, ?1, ?2)";
                    self.db.prepare_cached(sql)?.execute(params![context, body])?
                }
                None => self.db.prepare_cached("DELETE FROM batching")?.execute([])?,
            };
            Ok(())
        };
        kept().map_err(SpoolError::Access)
    }

    /// What waits for its report, and the network it was seen in.
    ///
    /// # Errors
    /// When the database fails.
    pub fn batched(&self) -> Result<Option<(String, Vec<u8>)>, SpoolError> {
        let sql = "SELECT context, body FROM batching";
        let row = self.db.query_row(sql, [], |row| Ok((row.get(0)?, row.get(1)?)));
        row.optional().map_err(SpoolError::Access)
    }

    /// Oldest successes go first, failures last.
    fn make_room(&mut self) -> rusqlite::Result<()> {
        while self.bytes > self.bytes_max {
            let gone: Option<i64> = self
                .db
                .prepare_cached(
                    "DELETE FROM reports WHERE (observer, seq) = (
                        SELECT observer, seq FROM reports
                        ORDER BY has_failure, created, seq LIMIT 1)
                     RETURNING length(body)",
                )?
                .query_row([], |row| row.get(0))
                .optional()?;
            let Some(gone) = gone else { return Ok(()) };
            self.bytes = self.bytes.saturating_sub(of_db(gone) + OVERHEAD_BYTES);
            self.count("no_room", 1)?;
        }
        Ok(())
    }

    /// After a failure nothing of a transaction stands, nor is it left open.
    fn rolled_back<T>(&self, done: rusqlite::Result<T>) -> Result<T, SpoolError> {
        done.map_err(|error| {
            if !self.db.is_autocommit() && self.db.execute_batch("ROLLBACK").is_err() {
                tracing::debug!("the transaction was rolled back already");
            }
            SpoolError::Access(error)
        })
    }

    fn count(&self, why: &str, reports: u64) -> rusqlite::Result<()> {
        if reports > 0 {
            self.db
                .prepare_cached(
                    "INSERT INTO lost VALUES (?1, ?2)
                     ON CONFLICT (why) DO UPDATE SET reports = reports + ?2",
                )?
                .execute(params![why, to_db(reports)])?;
        }
        Ok(())
    }

    fn delete(&mut self, sql: &str, params: impl rusqlite::Params) -> rusqlite::Result<u64> {
        let mut statement = self.db.prepare_cached(sql)?;
        let lengths = statement.query_map(params, |row| row.get::<_, i64>(0))?;
        let mut reports = 0;
        for length in lengths {
            reports += 1;
            self.bytes = self.bytes.saturating_sub(of_db(length?) + OVERHEAD_BYTES);
        }
        Ok(reports)
    }

    /// Drops and counts what is a week old: no collector would take it.
    ///
    /// # Errors
    /// When the database fails.
    pub fn expire(&mut self, now: Timestamp) -> Result<u64, SpoolError> {
        let before = to_db(now.minus_ms(AGE_MAX_MS).as_ms());
        let mut expire = || -> rusqlite::Result<u64> {
            self.db.execute_batch("BEGIN IMMEDIATE")?;
            let sql = "DELETE FROM reports WHERE created < ?1 RETURNING length(body)";
            let dropped = self.delete(sql, [before])?;
            let drafts = self.db.execute("DELETE FROM drafts WHERE created < ?1", [before])?;
            let dropped = dropped + drafts as u64;
            self.count("too_old", dropped)?;
            let unbound = to_db(now.minus_ms(STARTS_KEPT_MS).as_ms());
            self.db.execute("DELETE FROM starts WHERE at < ?1", [unbound])?;
            self.db.execute("DELETE FROM quiets WHERE until < ?1", [to_db(now.as_ms())])?;
            self.db.execute_batch("COMMIT")?;
            Ok(dropped)
        };
        let done = expire();
        self.rolled_back(done)
    }

    /// Reports of an observer behind a number, in order.
    ///
    /// # Errors
    /// When the database fails.
    pub fn unsent(
        &self,
        observer: &ObserverId,
        after_seq: u64,
        limit: usize,
    ) -> Result<Vec<Unsent>, SpoolError> {
        let sql = "SELECT seq, body, signature, created FROM reports
                   WHERE observer = ?1 AND seq > ?2 ORDER BY seq LIMIT ?3";
        self.reports(sql, observer, after_seq, limit)
    }

    /// The newest of an observer's reports that a collector has taken, in order.
    ///
    /// # Errors
    /// When the database fails.
    pub fn sent(&self, observer: &ObserverId) -> Result<Vec<Unsent>, SpoolError> {
        let sql = "SELECT seq, body, signature, created FROM sent
                   WHERE observer = ?1 AND seq > ?2 ORDER BY seq LIMIT ?3";
        self.reports(sql, observer, 0, usize::MAX)
    }

    fn reports(
        &self,
        sql: &str,
        observer: &ObserverId,
        after_seq: u64,
        limit: usize,
    ) -> Result<Vec<Unsent>, SpoolError> {
        let read = || -> rusqlite::Result<Vec<Unsent>> {
            let mut statement = self.db.prepare_cached(sql)?;
            let key = observer.as_bytes().as_slice();
            let rows = statement.query_map(
                params![key, to_db(after_seq), to_db(limit as u64)],
                |row| {
                    let body: Vec<u8> = row.get(1)?;
                    let length = body.len();
                    let body = Bytes::new(body)
                        .map_err(|_| rusqlite::Error::IntegralValueOutOfRange(1, length as i64))?;
                    let signature = Fixed(row.get::<_, [u8; 64]>(2)?);
                    Ok(Unsent {
                        seq: of_db(row.get(0)?),
                        report: SignedReport { signature, body },
                        created: Timestamp::from_ms(of_db(row.get(3)?)),
                    })
                },
            )?;
            rows.collect()
        };
        read().map_err(SpoolError::Access)
    }

    /// One waiting report.
    ///
    /// # Errors
    /// When the database fails.
    pub fn one(&self, observer: &ObserverId, seq: u64) -> Result<Option<Unsent>, SpoolError> {
        let first = self.unsent(observer, seq.saturating_sub(1), 1)?.into_iter().next();
        Ok(first.filter(|unsent| unsent.seq == seq))
    }

    /// The observers that have ever reported from here.
    ///
    /// # Errors
    /// When the database fails.
    pub fn observers(&self) -> Result<Vec<ObserverId>, SpoolError> {
        let read = || -> rusqlite::Result<Vec<ObserverId>> {
            let mut statement = self.db.prepare("SELECT observer FROM observers")?;
            let rows = statement.query_map([], |row| row.get(0).map(PublicKey::from_bytes))?;
            rows.collect()
        };
        read().map_err(SpoolError::Access)
    }

    /// The collector has everything up to `committed_seq`, and refused these for good.
    ///
    /// # Errors
    /// When the database fails.
    pub fn acked(
        &mut self,
        observer: &ObserverId,
        committed_seq: u64,
        rejected: &[u64],
    ) -> Result<(), SpoolError> {
        let key = observer.as_bytes().as_slice();
        let mut acked = || -> rusqlite::Result<()> {
            self.db.execute_batch("BEGIN IMMEDIATE")?;
            self.db
                .prepare_cached(
                    "INSERT OR REPLACE INTO sent SELECT observer, seq, body, signature, created
                     FROM reports WHERE observer = ?1 AND seq <= ?2 AND seq > ?2 - ?3",
                )?
                .execute(params![key, to_db(committed_seq), to_db(SENT_KEPT)])?;
            self.db
                .prepare_cached(
                    "DELETE FROM sent WHERE observer = ?1 AND seq <= (
                        SELECT seq FROM sent WHERE observer = ?1
                        ORDER BY seq DESC LIMIT 1 OFFSET ?2)",
                )?
                .execute(params![key, to_db(SENT_KEPT)])?;
            let sql =
                "DELETE FROM reports WHERE observer = ?1 AND seq <= ?2 RETURNING length(body)";
            self.delete(sql, params![key, to_db(committed_seq)])?;
            let sql = "DELETE FROM reports WHERE observer = ?1 AND seq = ?2 RETURNING length(body)";
            for seq in rejected {
                self.delete(sql, params![key, to_db(*seq)])?;
            }
            self.count("rejected", rejected.len() as u64)?;
            self.db
                .prepare_cached(
                    "INSERT INTO observers VALUES (?1, ?2 + 1) ON CONFLICT (observer)
                     DO UPDATE SET next_seq = ?2 + 1 WHERE next_seq <= ?2",
                )?
                .execute(params![key, to_db(committed_seq.min(u64::from(u32::MAX) << 16))])?;
            self.db.execute_batch("COMMIT")
        };
        let done = acked();
        self.rolled_back(done)
    }

    /// What was lost.
    ///
    /// # Errors
    /// When the database fails.
    pub fn lost(&self) -> Result<Lost, SpoolError> {
        let of = |why: &str| {
            self.db
                .query_row("SELECT reports FROM lost WHERE why = ?1", [why], |row| row.get(0))
                .optional()
                .map(|reports| of_db(reports.unwrap_or(0)))
                .map_err(SpoolError::Access)
        };
        Ok(Lost { too_old: of("too_old")?, no_room: of("no_room")?, rejected: of("rejected")? })
    }
}

#[cfg(test)]
mod tests;
