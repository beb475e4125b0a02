//! The verbs, one file each. They print; they decide nothing.
//!
//! Exit codes are those of monitoring plugins: 0 all well, 1 a problem was found, 2 a site that was asked about does
//! not work, 3 nothing is known: also wrong usage, and a failure of this program or its configuration.

pub mod doctor;
pub mod forget;
pub mod identity;
pub mod incidents;
pub mod init;
pub mod pages;
pub mod probe;
pub mod report;
pub mod run;
pub mod service;
pub mod show;
pub mod status;
pub mod why;

use std::{
    error::Error,
    io::{self, Write},
    sync::{Arc, Mutex},
};

use tocsin_proto::line::CollectorLine;
use tokio::sync::{mpsc, watch};

use crate::{
    clock::Clock,
    config::Config,
    identity::Identity,
    spool::{OUTBOX_FILE, Spool, SpoolError},
    uplink::{Status, Uplink, way::Pace},
    voice::Voice,
};

/// Version of what `--json` prints.
pub const JSON_SCHEMA: u32 = 1;

/// How a verb ended; the number is the exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// All well.
    Ok = 0,
    /// A problem was found.
    Problem = 1,
    /// What was asked about does not work.
    Critical = 2,
    /// Wrong usage, a failure of this program or its configuration, or nothing is known.
    Unknown = 3,
}

impl Exit {
    /// The word of monitoring plugins for it.
    #[must_use]
    pub const fn plugin_word(self) -> &'static str {
        match self {
            Self::Ok => "OK",
            Self::Problem => "WARNING",
            Self::Critical => "CRITICAL",
            Self::Unknown => "UNKNOWN",
        }
    }
}

/// Prints one line on the standard output.
///
/// # Errors
/// When it is closed.
pub fn say(text: impl std::fmt::Display) -> io::Result<()> {
    writeln!(io::stdout().lock(), "{}", clean(&text.to_string()))
}

/// A text without what a terminal would take for a command: some of it comes from the network.
#[must_use]
pub fn clean(text: &str) -> String {
    let plain = |c: char| if c.is_control() && c != '\n' { '\u{fffd}' } else { c };
    text.chars().map(plain).collect()
}

/// Prints a JSON document with its schema version.
///
/// # Errors
/// When the output is closed.
pub fn say_json(mut value: serde_json::Value) -> io::Result<()> {
    if let Some(fields) = value.as_object_mut() {
        fields.insert("schema".to_owned(), JSON_SCHEMA.into());
    }
    say(value)
}

/// An error with its causes, in one line.
#[must_use]
pub fn chain(error: &dyn Error) -> String {
    let causes = std::iter::successors(error.source(), |&error| error.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

/// The outbox of this agent, to read only, from beside it; `None` where no agent has run.
///
/// # Errors
/// When it is damaged.
pub(crate) fn beside(config: &Config) -> Result<Option<Spool>, SpoolError> {
    let there = config.state_dir.join(OUTBOX_FILE).exists();
    there.then(|| Spool::peek(&config.state_dir)).transpose()
}

/// An uplink for one visit, as the observer of the network that `context` names (the collector says which, where it is none), with an empty outbox: the running
/// agent keeps its reports, and none of them is sent.
pub(crate) fn scratch(
    config: &Config,
    line: &CollectorLine,
    spool: &Spool,
    identity: &Arc<Identity>,
    context: Option<String>,
) -> Result<Uplink, SpoolError> {
    Ok(Uplink {
        line: line.clone(),
        transport: config.transport,
        pace: Pace::default(),
        voice: Arc::new(Voice::new(
            line.operator,
            Arc::clone(identity),
            Arc::new(Mutex::new(spool.scratch()?)),
            context,
            config.profile.unwrap_or_default(),
        )),
        clock: Clock::start(),
        sources: config.source_address.clone(),
        catalogue_version: config.catalogue.version(),
        asks: mpsc::channel(1).0,
        status: watch::channel(Status::default()).0,
    })
}
