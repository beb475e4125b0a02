//! The log in SQLite: WAL, `synchronous=FULL`, append-only tables of raw signed bytes.
//!
//! One table a day, so that what is past its retention is dropped whole; a number and a 64-bit
//! window per observer, written with the same commit, so that duplicates are known after a
//! restart. Tables that cluster by (observer, seq) cost fourteen times as much when measured.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use rusqlite::{Connection, OpenFlags, params};
use tocsin_proto::{
    bounded::{Bytes, Fixed},
    catalogue::Zones,
    id::Country,
    report::{Report, SignedReport},
    sign::PublicKey,
    time::Timestamp,
    wire,
};

use super::{Human, StoreError};
use crate::engine::{admit::SeqWindow, detector::Record, observer::Standing, people::Voice};

const MIGRATIONS: &[&str] = &[
    include_str!("../../migrations/0001_log.sql"),
    include_str!("../../migrations/0002_seen.sql"),
    include_str!("../../migrations/0003_since.sql"),
    include_str!("../../migrations/0004_humans.sql"),
];
/// The cache of prepared statements holds one insert per day table.
const STATEMENTS: usize = 16;

/// A row to be written.
#[derive(Debug)]
pub struct Row<'a> {
    /// Position in the log.
    pub position: u64,
    /// When it is committed.
    pub received_at: Timestamp,
    /// Number of the observer.
    pub observer: u32,
    /// Where the observer stands.
    pub standing: &'a Standing,
    /// The bytes as they came.
    pub signed: &'a SignedReport,
}

/// An observer's number and window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Known {
    /// Its number in the log.
    pub id: u32,
    /// Which sequence numbers were taken.
    pub window: SeqWindow,
    /// The day on which it was last heard, since the Unix epoch; 0 when that was not kept.
    pub seen_day: u64,
    /// When its first report was taken; the epoch when that was not kept.
    pub since: Timestamp,
}

/// The write connection.
#[derive(Debug)]
pub struct SqliteLog {
    path: PathBuf,
    connection: Connection,
    day: Option<u64>,
}

const fn day(at: Timestamp) -> u64 {
    at.as_ms() / 86_400_000
}

// SQLite's integers are signed: bits are kept as they are.
const fn signed(value: u64) -> i64 {
    value.cast_signed()
}

impl SqliteLog {
    /// Opens or makes the log.
    ///
    /// # Errors
    /// When it cannot be opened, or was made by a newer program.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let failed = |doing| sqlite(path, doing);
        let mut connection = Connection::open(path).map_err(failed("opening it"))?;
        connection
            .execute_batch(
                "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA cache_size=-16384;
                 PRAGMA wal_autocheckpoint=4000; PRAGMA foreign_keys=ON;
                 PRAGMA secure_delete=ON;",
            )
            .map_err(failed("setting it up"))?;
        connection.set_prepared_statement_cache_capacity(STATEMENTS);
        migrate(path, &mut connection)?;
        Ok(Self { path: path.to_owned(), connection, day: None })
    }

    /// Every observer, by key.
    ///
    /// # Errors
    /// When the database fails.
    pub fn observers(&self) -> Result<BTreeMap<PublicKey, Known>, StoreError> {
        let failed = |doing| sqlite(&self.path, doing);
        let mut statement = self
            .connection
            .prepare("SELECT id, key, high, bits, seen, since FROM observers")
            .map_err(failed("reading observers"))?;
        let rows = statement
            .query_map([], |row| {
                let key: [u8; 32] = row.get(1)?;
                let window = SeqWindow {
                    high: row.get::<_, i64>(2)?.cast_unsigned(),
                    bits: row.get::<_, i64>(3)?.cast_unsigned(),
                };
                let seen_day = row.get::<_, i64>(4)?.cast_unsigned();
                let since = Timestamp::from_ms(row.get::<_, i64>(5)?.cast_unsigned());
                let known = Known { id: row.get(0)?, window, seen_day, since };
                Ok((PublicKey::from_bytes(key), known))
            })
            .map_err(failed("reading observers"))?;
        rows.collect::<Result<_, _>>().map_err(failed("reading observers"))
    }

    /// The highest position; 0 in an empty log.
    ///
    /// # Errors
    /// When the database fails.
    pub fn last_position(&self) -> Result<u64, StoreError> {
        last_position(&self.path, &self.connection)
    }

    /// The latest time in it; the epoch in an empty log.
    ///
    /// # Errors
    /// When the database fails.
    pub fn last_time(&self) -> Result<Timestamp, StoreError> {
        Ok(newest(&self.path, &self.connection)?.1)
    }

    /// Commits rows and windows together.
    ///
    /// # Errors
    /// When the database fails: then nothing of it was kept.
    pub fn commit(
        &mut self,
        rows: &[Row<'_>],
        known: &BTreeMap<PublicKey, Known>,
    ) -> Result<(), StoreError> {
        let committed = self.try_commit(rows, known);
        if committed.is_err() {
            // The day's table may have been made and rolled back.
            self.day = None;
        }
        committed
    }

    fn try_commit(
        &mut self,
        rows: &[Row<'_>],
        known: &BTreeMap<PublicKey, Known>,
    ) -> Result<(), StoreError> {
        let path = self.path.clone();
        let failed = |doing| sqlite(&path, doing);
        let transaction = self.connection.transaction().map_err(failed("beginning a commit"))?;
        for row in rows {
            let today = day(row.received_at);
            if self.day != Some(today) {
                transaction
                    .execute_batch(&format!(
                        "CREATE TABLE IF NOT EXISTS log_{today} (
                           position INTEGER PRIMARY KEY, received_at INTEGER NOT NULL,
                           observer INTEGER NOT NULL, country TEXT NOT NULL, asn INTEGER NOT NULL,
                           slot INTEGER NOT NULL, signature BLOB NOT NULL, body BLOB NOT NULL
                         ) STRICT;"
                    ))
                    .map_err(failed("beginning a segment"))?;
                transaction
                    .execute(
                        "INSERT OR IGNORE INTO segments (day, first) VALUES (?1, ?2)",
                        params![signed(today), signed(row.position)],
                    )
                    .map_err(failed("beginning a segment"))?;
                self.day = Some(today);
            }
            let mut insert = transaction
                .prepare_cached(&format!(
                    "INSERT INTO log_{today} VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)"
                ))
                .map_err(failed("appending"))?;
            insert
                .execute(params![
                    signed(row.position),
                    signed(row.received_at.as_ms()),
                    row.observer,
                    row.standing.country.as_str(),
                    row.standing.asn,
                    signed(row.standing.slot),
                    row.signed.signature.0,
                    &*row.signed.body,
                ])
                .map_err(failed("appending"))?;
        }
        for (key, known) in known {
            transaction
                .prepare_cached(
                    "INSERT INTO observers (id, key, high, bits, seen, since)
                     VALUES (?1, ?2, ?3, ?4, ?5, ?6)
                     ON CONFLICT (id) DO UPDATE SET high = excluded.high, bits = excluded.bits,
                     seen = excluded.seen",
                )
                .and_then(|mut upsert| {
                    upsert.execute(params![
                        known.id,
                        key.as_bytes(),
                        signed(known.window.high),
                        signed(known.window.bits),
                        signed(known.seen_day),
                        signed(known.since.as_ms())
                    ])
                })
                .map_err(failed("keeping an observer's number"))?;
        }
        transaction.commit().map_err(failed("committing"))
    }

    /// Keeps what persons said.
    ///
    /// # Errors
    /// When the database fails: then nothing of it was kept.
    pub fn hear(&mut self, heard: &[&Human]) -> Result<(), StoreError> {
        let path = self.path.clone();
        let failed = |doing| sqlite(&path, doing);
        const DOING: &str = "keeping what people say";
        let transaction = self.connection.transaction().map_err(failed(DOING))?;
        for Human { observer, voice, signed: said, .. } in heard {
            let mut insert = transaction
                .prepare_cached(
                    "INSERT INTO humans (received_at, observer, country, asn, slot, signature, body)
                     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
                )
                .map_err(failed(DOING))?;
            insert
                .execute(params![
                    signed(voice.at.as_ms()),
                    observer.as_bytes(),
                    voice.country.as_str(),
                    voice.asn,
                    signed(voice.slot),
                    said.signature.0,
                    &*said.body,
                ])
                .map_err(failed(DOING))?;
        }
        transaction.commit().map_err(failed(DOING))
    }

    /// Drops what persons said before this time.
    ///
    /// # Errors
    /// When the database fails.
    pub fn unhear_before(&mut self, at: Timestamp) -> Result<(), StoreError> {
        self.connection
            .execute("DELETE FROM humans WHERE received_at < ?1", [signed(at.as_ms())])
            .map(drop)
            .map_err(sqlite(&self.path, "dropping what people said"))
    }

    /// Deletes what the person with a key said, and turns every report of the observer with its number, where it has one,
    /// into a tombstone: its place and time stay, so that the order of the log does; its
    /// body, signature and origin do not. The observer's number stays, without its key. Tells how many
    /// reports that were.
    ///
    /// # Errors
    /// When the database fails: then nothing of it was done.
    pub fn forget(&mut self, key: &PublicKey, id: Option<u32>) -> Result<u64, StoreError> {
        let path = self.path.clone();
        let failed = |doing| sqlite(&path, doing);
        let days = segments(&self.path, &self.connection)?;
        let transaction =
            self.connection.transaction().map_err(failed("forgetting an observer"))?;
        let said = "DELETE FROM humans WHERE observer = ?1";
        let said = transaction.execute(said, [key.as_bytes()]);
        let mut reports = said.map_err(failed("forgetting what a person said"))? as u64;
        for (day, observer) in days.into_iter().zip(id.into_iter().cycle()) {
            let sql = format!(
                "UPDATE log_{day} SET observer = 0, country = 'ZZ', asn = 0, slot = 0,
                 signature = zeroblob(64), body = x'' WHERE observer = ?1 AND length(body) > 0"
            );
            let changed = transaction.execute(&sql, [observer]);
            reports += changed.map_err(failed("forgetting an observer"))? as u64;
        }
        transaction
            .execute(
                "UPDATE observers SET key = randomblob(32), high = 0, bits = 0, since = 0 WHERE id = ?1",
                [id],
            )
            .map_err(failed("forgetting an observer"))?;
        transaction.commit().map_err(failed("forgetting an observer"))?;
        // What is overwritten stands in the file until its page is used again.
        let busy: bool = self
            .connection
            .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0))
            .map_err(failed("forgetting an observer"))?;
        if busy {
            tracing::warn!(
                "somebody reads the log: what was deleted stays in its -wal file until they are done"
            );
        }
        Ok(reports)
    }

    /// Forgets observers that were last heard before this time. The newest number stays, so that
    /// none is given twice.
    ///
    /// # Errors
    /// When the database fails.
    pub fn forget_before(&mut self, at: Timestamp) -> Result<usize, StoreError> {
        let sql = "DELETE FROM observers WHERE seen > 0 AND seen < ?1
                   AND id < (SELECT max(id) FROM observers)";
        let failed = sqlite(&self.path, "forgetting observers");
        self.connection.execute(sql, [signed(day(at))]).map_err(failed)
    }

    /// Drops the segments of days before this one.
    ///
    /// # Errors
    /// When the database fails.
    pub fn drop_before(&mut self, at: Timestamp) -> Result<(), StoreError> {
        let failed = |doing| sqlite(&self.path, doing);
        for day in segments(&self.path, &self.connection)?.into_iter().filter(|d| *d < day(at)) {
            self.connection
                .execute_batch(&format!(
                    "BEGIN IMMEDIATE; DROP TABLE IF EXISTS log_{day};
                     DELETE FROM segments WHERE day = {day}; COMMIT;"
                ))
                .map_err(failed("dropping a segment"))?;
        }
        Ok(())
    }
}

fn segments(path: &Path, connection: &Connection) -> Result<Vec<u64>, StoreError> {
    connection
        .prepare("SELECT day FROM segments ORDER BY first, day")
        .and_then(|mut statement| {
            let days = statement.query_map([], |row| Ok(row.get::<_, i64>(0)?.cast_unsigned()))?;
            days.collect()
        })
        .map_err(sqlite(path, "reading the segments"))
}

fn last_position(path: &Path, connection: &Connection) -> Result<u64, StoreError> {
    Ok(newest(path, connection)?.0)
}

/// The highest position, and the latest time of a record. A clock that was set back may have put
/// newer records into an older day.
fn newest(path: &Path, connection: &Connection) -> Result<(u64, Timestamp), StoreError> {
    let mut newest = (0, Timestamp::EPOCH);
    for day in segments(path, connection)? {
        let sql = format!("SELECT max(position), max(received_at) FROM log_{day}");
        let (position, at): (Option<i64>, Option<i64>) = connection
            .query_row(&sql, [], |row| Ok((row.get(0)?, row.get(1)?)))
            .map_err(sqlite(path, "reading the last position"))?;
        let at = Timestamp::from_ms(at.unwrap_or(0).cast_unsigned());
        newest = (newest.0.max(position.unwrap_or(0).cast_unsigned()), newest.1.max(at));
    }
    Ok(newest)
}

fn sqlite(path: &Path, doing: &'static str) -> impl Fn(rusqlite::Error) -> StoreError {
    let path = path.to_owned();
    move |source| StoreError::Sqlite { path: path.clone(), doing, source }
}

fn migrate(path: &Path, connection: &mut Connection) -> Result<(), StoreError> {
    let failed = |doing| sqlite(path, doing);
    let found: u32 = connection
        .query_row("PRAGMA user_version", [], |row| row.get(0))
        .map_err(failed("reading its schema"))?;
    let known = u32::try_from(MIGRATIONS.len()).unwrap_or(u32::MAX);
    if found > known {
        return Err(StoreError::Newer { path: path.to_owned(), found, known });
    }
    for (version, sql) in (1u32..).zip(MIGRATIONS).skip(found as usize) {
        let transaction = connection.transaction().map_err(failed("migrating it"))?;
        transaction.execute_batch(sql).map_err(failed("migrating it"))?;
        transaction.pragma_update(None, "user_version", version).map_err(failed("migrating it"))?;
        transaction.commit().map_err(failed("migrating it"))?;
    }
    Ok(())
}

/// A read connection over the log.
#[derive(Debug)]
pub struct LogReader {
    path: PathBuf,
    connection: Connection,
}

impl LogReader {
    /// Opens an existing log for reading only.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(path, flags)
            .map_err(sqlite(path, "opening it for reading"))?;
        Ok(Self { path: path.to_owned(), connection })
    }

    /// The highest position; 0 in an empty log.
    ///
    /// # Errors
    /// When the database fails.
    pub fn last_position(&self) -> Result<u64, StoreError> {
        last_position(&self.path, &self.connection)
    }

    /// The key of every observer, by its number.
    ///
    /// # Errors
    /// When the database fails.
    pub fn keys(&self) -> Result<BTreeMap<u32, PublicKey>, StoreError> {
        self.connection
            .prepare("SELECT id, key FROM observers")
            .and_then(|mut statement| {
                let of = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get(1)?));
                let rows = statement.query_map([], of)?;
                rows.map(|row| row.map(|(id, key)| (id, PublicKey::from_bytes(key)))).collect()
            })
            .map_err(sqlite(&self.path, "reading observers"))
    }

    /// Since when each observer is known, by its number, where that was kept.
    ///
    /// # Errors
    /// When the database fails.
    pub fn tenure(&self) -> Result<BTreeMap<u32, Timestamp>, StoreError> {
        self.connection
            .prepare("SELECT id, since FROM observers WHERE since > 0")
            .and_then(|mut statement| {
                let rows = statement.query_map([], |row| {
                    let since = Timestamp::from_ms(row.get::<_, i64>(1)?.cast_unsigned());
                    Ok((row.get(0)?, since))
                })?;
                rows.collect()
            })
            .map_err(sqlite(&self.path, "reading observers"))
    }

    /// Hands everything that persons said in the last `within_ms` before the newest of it to `each`, in order.
    ///
    /// # Errors
    /// When the database fails.
    pub fn people(&self, within_ms: u64, mut each: impl FnMut(&Voice)) -> Result<(), StoreError> {
        let failed = |source| sqlite(&self.path, "reading what people said")(source);
        let mut statement = self
            .connection
            .prepare(
                "SELECT received_at, country, asn, slot, body FROM humans
                 WHERE received_at >= (SELECT max(received_at) FROM humans) - ?1 ORDER BY id",
            )
            .map_err(failed)?;
        let mut rows = statement.query([signed(within_ms)]).map_err(failed)?;
        while let Some(row) = rows.next().map_err(failed)? {
            let number = |at| row.get::<_, i64>(at).map(i64::cast_unsigned);
            let (country, body): (String, Vec<u8>) =
                (row.get(1).map_err(failed)?, row.get(4).map_err(failed)?);
            // A row that a later version wrote says nothing here.
            let (Ok(country), Ok(said)) = (country.parse(), wire::decode(&body)) else { continue };
            let voice = Voice {
                at: Timestamp::from_ms(number(0).map_err(failed)?),
                said,
                country,
                asn: row.get(2).map_err(failed)?,
                slot: number(3).map_err(failed)?,
            };
            each(&voice);
        }
        Ok(())
    }

    /// Hands every record behind a position to `each`, in order.
    ///
    /// # Errors
    /// When the database fails or a row does not open.
    pub fn replay(
        &self,
        behind: u64,
        mut each: impl FnMut(Record, &SignedReport),
    ) -> Result<(), StoreError> {
        let failed = |doing| sqlite(&self.path, doing);
        let keys = self.keys()?;
        for day in segments(&self.path, &self.connection)? {
            let mut statement = self
                .connection
                .prepare(&format!(
                    "SELECT * FROM log_{day} WHERE position > ?1 AND length(body) > 0 ORDER BY position"
                ))
                .map_err(failed("reading a segment"))?;
            let mut rows =
                statement.query([signed(behind)]).map_err(failed("reading a segment"))?;
            while let Some(row) = rows.next().map_err(failed("reading a record"))? {
                let (record, signed) =
                    record(row, &keys).map_err(failed("reading a record"))?.ok_or_else(|| {
                        let position = row.get::<_, i64>(0).unwrap_or(0).cast_unsigned();
                        StoreError::Damaged { path: self.path.clone(), position }
                    })?;
                each(record, &signed);
            }
        }
        Ok(())
    }
}

fn record(
    row: &rusqlite::Row<'_>,
    keys: &BTreeMap<u32, PublicKey>,
) -> Result<Option<(Record, SignedReport)>, rusqlite::Error> {
    let number = |at| row.get::<_, i64>(at).map(i64::cast_unsigned);
    let country: String = row.get(3)?;
    let signature: [u8; 64] = row.get(6)?;
    let opened = (|| {
        let country: Country = country.parse().ok()?;
        let body = Bytes::new(row.get(7).ok()?).ok()?;
        let report: Report = wire::decode(&body).ok()?;
        // Rows outlive their observer only where the retention was made longer than its memory.
        let key = keys.get(&row.get(2).ok()?).copied();
        let key = key.unwrap_or(PublicKey::from_bytes([0; 32]));
        Some((country, SignedReport { signature: Fixed(signature), body }, report, key))
    })();
    let Some((country, signed, report, key)) = opened else { return Ok(None) };
    let standing = Standing {
        country,
        zone: Zones::builtin().of(country),
        asn: row.get(4)?,
        slot: number(5)?,
        version: report.probe_core,
        resolver: report.resolver as u8,
    };
    let record = Record {
        position: number(0)?,
        received_at: Timestamp::from_ms(number(1)?),
        observer: row.get(2)?,
        key,
        standing,
        report,
    };
    Ok(Some((record, signed)))
}
