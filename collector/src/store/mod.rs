//! The ordered log of accepted reports, on disk.
//!
//! One thread owns the write connection, commits by size or age, and acknowledges only after the
//! commit. What a crash can lose is what nobody was told had been kept.

use std::path::PathBuf;

use tocsin_proto::{
    human::{Hearing, SignedHumanReport},
    message::Rejection,
    report::SignedReport,
    sign::PublicKey,
    time::Timestamp,
};
use tokio::sync::{mpsc, oneshot};

use crate::engine::{detector::Record, observer::Standing, people::Voice};

mod sqlite;
mod writer;

pub use sqlite::{LogReader, SqliteLog};
pub(crate) use writer::with_sources;
pub use writer::{BATCH_AGE_MS, BATCH_MAX, Writer};

/// An admitted report on its way to the log.
#[derive(Debug)]
pub struct Append {
    /// Who signed it.
    pub observer: PublicKey,
    /// Where the observer stands.
    pub standing: Standing,
    /// Its number.
    pub seq: u64,
    /// The bytes as they came.
    pub signed: SignedReport,
    /// The same, opened.
    pub report: tocsin_proto::report::Report,
    /// Where the verdict goes: the session that waits for it.
    pub reply: mpsc::UnboundedSender<Outcome>,
}

/// What a person said, on its way to the disk.
#[derive(Debug)]
pub struct Human {
    /// Who signed it.
    pub observer: PublicKey,
    /// What was said, and from where. When, the writer says.
    pub voice: Voice,
    /// The bytes as they came.
    pub signed: SignedHumanReport,
    /// Where the verdict goes.
    pub reply: oneshot::Sender<Hearing>,
}

/// What became of an append. A session has at most [`tocsin_proto::limits::REPORTS_IN_FLIGHT_MAX`]
/// under way, so its channel of these is bounded by that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// On disk, now or before.
    Committed {
        /// Its number.
        seq: u64,
        /// The highest number on disk.
        high: u64,
    },
    /// Never will be.
    Rejected {
        /// Its number.
        seq: u64,
        /// Why.
        reason: Rejection,
    },
    /// The store failed; send it again.
    Later {
        /// Its number.
        seq: u64,
    },
}

/// What the writer is asked.
#[derive(Debug)]
pub enum Request {
    /// Keep a report.
    Append(Box<Append>),
    /// The highest number on disk for an observer; 0 when it is new.
    High(PublicKey, oneshot::Sender<u64>),
    /// Delete what is held of an observer; tells how many reports that were, once it is on disk.
    Forget(PublicKey, oneshot::Sender<u64>),
    /// Keep what a person said.
    Hear(Box<Human>),
}

/// What the writer tells the detector, in the order of the log.
#[derive(Debug)]
pub enum LogEvent {
    /// A report was committed.
    Record(Box<Record>),
    /// Nothing with an earlier time will come.
    Tick(Timestamp),
    /// What a person said was kept.
    Heard(Voice),
    /// Whose number this is, nobody is to know any more.
    Forgot(u32),
}

/// What can go wrong with the store.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database failed.
    #[error("the log {path} failed while {doing}")]
    Sqlite {
        /// Which file.
        path: PathBuf,
        /// During what.
        doing: &'static str,
        /// What SQLite says.
        #[source]
        source: rusqlite::Error,
    },
    /// It was made by a newer program.
    #[error("the log {path} has schema {found}; this program knows up to {known}: use a newer one")]
    Newer {
        /// Which file.
        path: PathBuf,
        /// Its schema.
        found: u32,
        /// The newest known here.
        known: u32,
    },
    /// A row is not what was written.
    #[error("the log {path} is damaged at position {position}; restore it from a copy")]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// Where.
        position: u64,
    },
    /// The thread could not be started.
    #[error("the writer's thread could not be started")]
    Thread(#[source] std::io::Error),
}
