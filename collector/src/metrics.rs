//! What an operator can watch: names, units and help, in one place. No label ever holds an
//! address, a key or a URL.

use std::sync::{
    Mutex,
    atomic::{AtomicI64, AtomicU64},
};

use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};
use tocsin_proto::message::{GoAwayReason, Rejection};

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Reason {
    reason: &'static str,
}

/// The collector's metrics.
#[derive(Debug)]
pub struct Metrics {
    registry: Mutex<Registry>,
    accepted: Counter<u64, AtomicU64>,
    duplicates: Counter<u64, AtomicU64>,
    rejected: Family<Reason, Counter<u64, AtomicU64>>,
    asks: Family<Reason, Counter<u64, AtomicU64>>,
    ended: Family<Reason, Counter<u64, AtomicU64>>,
    refused: Family<Reason, Counter<u64, AtomicU64>>,
    sessions: Gauge<i64, AtomicI64>,
    position: Gauge<i64, AtomicI64>,
    incidents: Gauge<i64, AtomicI64>,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("tocsin");
        let metrics = Self {
            registry: Mutex::new(Registry::default()),
            accepted: Counter::default(),
            duplicates: Counter::default(),
            rejected: Family::default(),
            asks: Family::default(),
            ended: Family::default(),
            refused: Family::default(),
            sessions: Gauge::default(),
            position: Gauge::default(),
            incidents: Gauge::default(),
        };
        let mut register = |name: &str, help: &str, metric: Counter<u64, AtomicU64>| {
            registry.register(name, help, metric);
        };
        register("reports_accepted", "Reports committed to the log", metrics.accepted.clone());
        register(
            "reports_duplicate",
            "Reports that were there already",
            metrics.duplicates.clone(),
        );
        registry.register(
            "reports_rejected",
            "Reports refused for good, by reason",
            metrics.rejected.clone(),
        );
        registry.register(
            "asks",
            "Observers that were to be asked, by whether they were",
            metrics.asks.clone(),
        );
        registry.register(
            "sessions_ended",
            "Sessions ended here, by reason",
            metrics.ended.clone(),
        );
        registry.register(
            "connections_refused",
            "Connections refused before a session, by reason",
            metrics.refused.clone(),
        );
        registry.register("sessions", "Sessions open now", metrics.sessions.clone());
        registry.register(
            "log_position",
            "Position of the last record the detector has taken",
            metrics.position.clone(),
        );
        registry.register(
            "incidents_open",
            "Incidents confirmed or recovering now",
            metrics.incidents.clone(),
        );
        for reason in Rejection::ALL {
            metrics.rejected.get_or_create(&Reason { reason: reason.name() }).inc_by(0);
        }
        Self { registry: Mutex::new(registry), ..metrics }
    }
}

impl Metrics {
    /// An observer was to be asked; `sent` tells whether it had a session.
    pub fn asked(&self, sent: bool) {
        let reason = if sent { "sent" } else { "no_session" };
        self.asks.get_or_create(&Reason { reason }).inc();
    }

    /// A report was refused for good.
    pub fn rejected(&self, reason: Rejection) {
        self.rejected.get_or_create(&Reason { reason: reason.name() }).inc();
    }

    /// Reports were committed; others were there already.
    pub fn committed(&self, fresh: usize, duplicates: usize) {
        self.accepted.inc_by(fresh as u64);
        self.duplicates.inc_by(duplicates as u64);
    }

    /// A session began.
    pub fn session_began(&self) {
        self.sessions.inc();
    }

    /// A session ended: by the collector for a reason, or by the peer.
    pub fn session_ended(&self, reason: Option<GoAwayReason>) {
        self.sessions.dec();
        let reason = reason.map_or("peer", GoAwayReason::name);
        self.ended.get_or_create(&Reason { reason }).inc();
    }

    /// A connection was refused before there was a session.
    pub fn connection_refused(&self, reason: &'static str) {
        self.refused.get_or_create(&Reason { reason }).inc();
    }

    /// The detector has come this far.
    pub fn detector_at(&self, position: u64, incidents: usize) {
        self.position.set(i64::try_from(position).unwrap_or(i64::MAX));
        self.incidents.set(i64::try_from(incidents).unwrap_or(i64::MAX));
    }

    /// All of it as OpenMetrics text.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::new();
        if let Ok(registry) = self.registry.lock()
            && encode(&mut text, &registry).is_err()
        {
            tracing::error!("the metrics could not be written");
        }
        text
    }
}
