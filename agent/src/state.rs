//! What a running agent tells `tocsin status`: written beside the outbox every few seconds, read by whoever may read
//! the state directory. Nothing of it is sent.

use serde::{Deserialize, Serialize};
use tocsin_proto::{
    id::Country,
    report::{Health, HealthCheck},
    sign::PublicKey,
    time::Timestamp,
};

use crate::{means::Pause, uplink::Status};

/// A state that is older than this is of an agent that hangs, or is gone, ms.
pub const STALE_MS: u64 = 90_000;

/// A check of the own line, and whether it is well.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// Its name, as in reports.
    pub name: String,
    /// Whether it is well.
    pub ok: bool,
}

/// One collector, as the agent sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    /// Whose collector.
    pub operator: PublicKey,
    /// Where it is reached, and over what; `None` when it is not.
    pub way: Option<String>,
    /// Its clock minus ours, milliseconds.
    pub offset_ms: Option<i64>,
    /// Where it sees us.
    pub country: Option<Country>,
    /// Our network as it sees us; 0 when unknown.
    pub asn: u32,
}

impl Session {
    /// What is known of one.
    #[must_use]
    pub fn of(operator: PublicKey, status: &Status) -> Self {
        Self {
            operator,
            way: status.connected.map(|way| way.to_string()),
            offset_ms: status.offset_ms,
            country: status.country,
            asn: status.asn,
        }
    }
}

/// The state of an agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// When it was written, by the agent's own clock.
    pub at: Timestamp,
    /// When the agent was started.
    pub started_at: Timestamp,
    /// What it checked of its own line.
    pub checks: Vec<Check>,
    /// Share of unrelated targets that are fine, in 255ths.
    pub unrelated_ok: u8,
    /// Which kind of resolver the system uses.
    pub resolver: String,
    /// The collectors.
    pub sessions: Vec<Session>,
    /// Scheduled probes a minute, as collectors ask; `None` until one has.
    pub probes_per_minute: Option<u16>,
    /// Hosts that are left alone because their owners asked for it.
    #[serde(default)]
    pub left_alone: Vec<String>,
    /// What holds the schedule back.
    #[serde(default)]
    pub paused_on: Vec<Pause>,
    /// Bytes of the rolling day that are used up.
    pub day_bytes: u64,
    /// Bytes of the rolling day that may be.
    pub day_bytes_max: u64,
}

impl State {
    /// The checks of a vector.
    #[must_use]
    pub fn checks(health: &Health) -> Vec<Check> {
        let of = |check: &HealthCheck| {
            Some(Check { name: check.name().to_owned(), ok: health.check(*check)? })
        };
        HealthCheck::ALL.iter().filter_map(of).collect()
    }

    /// A check by its name; `None` where it was not made.
    #[must_use]
    pub fn check(&self, name: &str) -> Option<bool> {
        self.checks.iter().find(|check| check.name == name).map(|check| check.ok)
    }
}
