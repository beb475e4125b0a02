//! What a connection passes before anything is done for it, whichever transport it comes over: a
//! place among all sessions, and one among those of its prefix. Refusals are counted, never logged.

use std::{net::IpAddr, sync::Arc};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    task::{JoinError, JoinSet},
};

use super::{
    prefix::{Place, PrefixLimit},
    session::Context,
};

/// The one gate of a collector; every acceptor has a clone.
#[derive(Debug, Clone)]
pub struct Gate {
    /// What every session needs.
    pub context: Arc<Context>,
    /// Places for sessions.
    pub sessions: Arc<Semaphore>,
    /// Places for sessions of one prefix.
    pub prefixes: PrefixLimit,
}

/// A connection's places; given back when they are dropped.
#[derive(Debug)]
pub(super) struct Places {
    _session: OwnedSemaphorePermit,
    _prefix: Place,
}

impl Gate {
    /// Places for a connection from there, if there are any.
    pub(super) fn enter(&self, address: IpAddr) -> Option<Places> {
        let Ok(session) = Arc::clone(&self.sessions).try_acquire_owned() else {
            self.context.metrics.connection_refused("sessions");
            return None;
        };
        let Some(prefix) = self.prefixes.take(address) else {
            self.context.metrics.connection_refused("prefix");
            return None;
        };
        Some(Places { _session: session, _prefix: prefix })
    }
}

/// What is to be said of a session's task that has ended.
pub(super) fn ended(task: Result<(), JoinError>) {
    if let Err(error) = task {
        tracing::error!(%error, "a session's task failed");
    }
}

/// Waits until every session has ended: by shutdown they say goodbye.
pub(super) async fn drain(mut open: JoinSet<()>) {
    while let Some(task) = open.join_next().await {
        ended(task);
    }
}
