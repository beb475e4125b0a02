//! What the collector publishes: made once per change, shared by every reader.

use std::sync::Arc;

use tocsin_proto::{
    delegation::SignedDelegation,
    message::SignedSnapshot,
    snapshot::{Cell, Snapshot},
};

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
    /// Every number of the detector, as JSON.
    pub parameters: Arc<String>,
    /// The delegations that name the feed key.
    pub delegations: Vec<SignedDelegation>,
}
