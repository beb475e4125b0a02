//! What the collector publishes: made once per change, shared by every reader.

use std::sync::Arc;

use serde::Serialize;
use tocsin_proto::{
    delegation::SignedDelegation,
    id::Id,
    message::SignedSnapshot,
    snapshot::{Cell, Snapshot},
    time::Timestamp,
};

/// How many said of a site that it does not work, over the last day.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PeopleCurve {
    /// Of which target.
    pub target: Id,
    /// Its host.
    pub host: String,
    /// Prefixes in each five minutes, by when those begin; few or none are left out.
    pub points: Vec<(Timestamp, u32)>,
}

/// Everything that the page, the API and the sessions show. Immutable; a change makes a new one.
#[derive(Debug, Clone)]
pub struct Published {
    /// The snapshot as values, for pages.
    pub snapshot: Snapshot,
    /// The same as canonical JSON, signed: the bytes that are served.
    pub signed: Arc<SignedSnapshot>,
    /// Every cell over the last five minutes.
    pub cells_5m: Vec<Cell>,
    /// Every cell over the last hour.
    pub cells_1h: Vec<Cell>,
    /// What people say of sites.
    pub people: Vec<PeopleCurve>,
    /// Every number of the detector, as JSON.
    pub parameters: Arc<String>,
    /// The delegations that name the feed key.
    pub delegations: Vec<SignedDelegation>,
}
