//! What was probed lately and what it cost, by this and by other processes of the agent: the caps outlive a restart, and
//! hold for all of them together.

use rusqlite::{OptionalExtension, Transaction, TransactionBehavior, params};
use tocsin_proto::{id::TargetIndex, time::Timestamp};

use super::{Spool, SpoolError, of_db, to_db};
use crate::engine::courtesy::{Courtesy, Fill, Others, Quiet, Start, Use};

const fn code_of(of: Use) -> i64 {
    match of {
        Use::Scheduled => 0,
        Use::Verification => 1,
        Use::Asked { standing: false } => 2,
        Use::Asked { standing: true } => 3,
    }
}

const fn use_of(code: i64) -> Use {
    match code {
        0 => Use::Scheduled,
        1 => Use::Verification,
        3 => Use::Asked { standing: true },
        _ => Use::Asked { standing: false },
    }
}

impl Spool {
    /// Keeps that a probe was started.
    ///
    /// # Errors
    /// When the database fails: then the probe must not be made.
    pub fn started(&mut self, start: Start) -> Result<(), SpoolError> {
        let Start { at, target, of } = start;
        let mut kept = || -> rusqlite::Result<()> {
            self.db
                .prepare_cached("INSERT INTO starts (at, target, cause) VALUES (?1, ?2, ?3)")?
                .execute(params![to_db(at.as_ms()), target.0, code_of(of)])?;
            let id = self.db.last_insert_rowid();
            if id == self.starts_read.0 + 1 {
                self.starts_read.0 = id;
            } else {
                // Another process has written before: that is still to be read.
                self.starts_own.push(id);
            }
            Ok(())
        };
        kept().map_err(SpoolError::Access)
    }

    /// Keeps how full the budget is, and that a target asked to be left alone: the running agent's
    /// word.
    ///
    /// # Errors
    /// When the database fails.
    pub fn spent(&self, fill: Fill, quiet: Option<Quiet>) -> Result<(), SpoolError> {
        let kept = || -> rusqlite::Result<()> {
            self.db
                .prepare_cached("INSERT OR REPLACE INTO fill VALUES (1, ?1, ?2)")?
                .execute(params![to_db(fill.bytes), to_db(fill.at.as_ms())])?;
            if let Some(Quiet { target, until }) = quiet {
                self.db
                    .prepare_cached("INSERT OR REPLACE INTO quiets VALUES (?1, ?2)")?
                    .execute(params![target.0, to_db(until.as_ms())])?;
            }
            Ok(())
        };
        kept().map_err(SpoolError::Access)
    }

    /// Keeps what a probe beside the running agent cost, and that its target asked to be left alone.
    ///
    /// # Errors
    /// When the database fails.
    pub fn spent_beside(&self, bytes: u64, quiet: Option<Quiet>) -> Result<(), SpoolError> {
        let kept = || -> rusqlite::Result<()> {
            let tx = Transaction::new_unchecked(&self.db, TransactionBehavior::Immediate)?;
            tx.execute("INSERT INTO spends (bytes) VALUES (?1)", [to_db(bytes)])?;
            if let Some(Quiet { target, until }) = quiet {
                let sql = "INSERT OR REPLACE INTO quiets VALUES (?1, ?2)";
                tx.execute(sql, params![target.0, to_db(until.as_ms())])?;
            }
            tx.commit()
        };
        kept().map_err(SpoolError::Access)
    }

    /// What was probed lately, by this and by other processes. The running agent takes over what
    /// was spent beside it; a passing process only looks.
    ///
    /// # Errors
    /// When the database fails.
    pub fn courtesy(
        &mut self,
        now: Timestamp,
        day_bytes_max: u64,
        take_over: bool,
    ) -> Result<Courtesy, SpoolError> {
        let mut courtesy = Courtesy::new(day_bytes_max);
        let Others { starts, quiets, bytes } = self.read_others(take_over)?;
        let fill = self.db.query_row("SELECT bytes, at FROM fill", [], |row| {
            let at = Timestamp::from_ms(of_db(row.get(1)?));
            Ok(Fill { bytes: of_db(row.get(0)?), at })
        });
        let beside = "SELECT coalesce(sum(bytes), 0) FROM spends";
        let beside = self.db.query_row(beside, [], |row| row.get(0)).map_err(SpoolError::Access)?;
        courtesy.restore(now, starts, quiets, fill.optional().map_err(SpoolError::Access)?);
        courtesy.spent(now, bytes + of_db(beside));
        if take_over {
            self.spent(courtesy.fill(now), None)?;
        }
        Ok(courtesy)
    }

    /// What others than this process have done since the last look. The bytes are handed over: the
    /// caller adds them to its own, and keeps the sum with [`Spool::spent`].
    ///
    /// # Errors
    /// When the database fails.
    pub fn others(&mut self) -> Result<Others, SpoolError> {
        self.read_others(true)
    }

    fn read_others(&mut self, take: bool) -> Result<Others, SpoolError> {
        let mut read = || -> rusqlite::Result<Others> {
            // Changes only when another connection has written.
            let change: i64 = self.db.query_row("PRAGMA data_version", [], |row| row.get(0))?;
            let mut others = Others::default();
            if change == self.starts_read.1 {
                return Ok(others);
            }
            let tx = Transaction::new_unchecked(&self.db, TransactionBehavior::Immediate)?;
            let mut statement = tx.prepare_cached(
                "SELECT id, at, target, cause FROM starts WHERE id > ?1 ORDER BY id",
            )?;
            let rows = statement.query_map([self.starts_read.0], |row| {
                let at = Timestamp::from_ms(of_db(row.get(1)?));
                let (target, of) = (TargetIndex(row.get(2)?), use_of(row.get(3)?));
                Ok((row.get(0)?, Start { at, target, of }))
            })?;
            for row in rows {
                let (id, start) = row?;
                self.starts_read.0 = id;
                if !self.starts_own.contains(&id) {
                    others.starts.push(start);
                }
            }
            drop(statement);
            if take {
                let mut statement = tx.prepare_cached("DELETE FROM spends RETURNING bytes")?;
                for bytes in statement.query_map([], |row| row.get(0))? {
                    others.bytes += of_db(bytes?);
                }
            }
            let mut statement = tx.prepare_cached("SELECT target, until FROM quiets")?;
            let quiets = statement.query_map([], |row| {
                let until = Timestamp::from_ms(of_db(row.get(1)?));
                Ok(Quiet { target: TargetIndex(row.get(0)?), until })
            })?;
            others.quiets = quiets.collect::<Result<_, _>>()?;
            drop(statement);
            tx.commit()?;
            self.starts_own.clear();
            self.starts_read.1 = change;
            Ok(others)
        };
        read().map_err(SpoolError::Access)
    }
}
