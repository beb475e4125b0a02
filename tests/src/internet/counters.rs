//! What the lab's servers have done so far, for its time line.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Running counts. They only grow.
#[derive(Debug, Default)]
pub struct Counters {
    connections: AtomicU64,
    dropped: AtomicU64,
    handshakes: AtomicU64,
    requests: AtomicU64,
    dns_queries: AtomicU64,
    bytes: AtomicU64,
}

/// The counts at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Counts {
    /// TCP connections that an edge accepted.
    pub connections: u64,
    /// Of these, connections closed at once because of where they came from.
    pub dropped: u64,
    /// TLS handshakes completed by an edge.
    pub handshakes: u64,
    /// HTTP requests answered by an edge.
    pub requests: u64,
    /// DNS queries answered, by all servers and over both transports.
    pub dns_queries: u64,
    /// Bytes read and written by the edges, TLS included.
    pub bytes: u64,
}

impl Counters {
    /// All counts now.
    #[must_use]
    pub fn read(&self) -> Counts {
        Counts {
            connections: self.connections.load(Relaxed),
            dropped: self.dropped.load(Relaxed),
            handshakes: self.handshakes.load(Relaxed),
            requests: self.requests.load(Relaxed),
            dns_queries: self.dns_queries.load(Relaxed),
            bytes: self.bytes.load(Relaxed),
        }
    }

    pub(super) fn connection(&self) {
        self.connections.fetch_add(1, Relaxed);
    }

    pub(super) fn dropped(&self) {
        self.dropped.fetch_add(1, Relaxed);
    }

    pub(super) fn handshake(&self) {
        self.handshakes.fetch_add(1, Relaxed);
    }

    pub(super) fn request(&self) {
        self.requests.fetch_add(1, Relaxed);
    }

    pub(super) fn dns_query(&self) {
        self.dns_queries.fetch_add(1, Relaxed);
    }

    pub(super) fn bytes(&self, count: usize) {
        self.bytes.fetch_add(u64::try_from(count).unwrap_or(u64::MAX), Relaxed);
    }
}
