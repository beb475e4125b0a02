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
use tocsin_proto::{
    human::Hearing,
    message::{GoAwayReason, Rejection},
};

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Reason {
    reason: &'static str,
}

/// What a session travels over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// QUIC, as it should.
    Quic,
    /// TLS on TCP, for agents whose UDP is blocked.
    Tcp,
}

impl Transport {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Quic, Self::Tcp];

    /// Stable name, as in labels.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Quic => "quic",
            Self::Tcp => "tcp",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Over {
    transport: &'static str,
}

const fn over(transport: Transport) -> Over {
    Over { transport: transport.name() }
}

/// The collector's metrics.
#[derive(Debug)]
pub struct Metrics {
    registry: Mutex<Registry>,
    accepted: Counter<u64, AtomicU64>,
    forgotten: Counter<u64, AtomicU64>,
    duplicates: Counter<u64, AtomicU64>,
    human: Family<Reason, Counter<u64, AtomicU64>>,
    rejected: Family<Reason, Counter<u64, AtomicU64>>,
    asks: Family<Reason, Counter<u64, AtomicU64>>,
    ended: Family<Reason, Counter<u64, AtomicU64>>,
    refused: Family<Reason, Counter<u64, AtomicU64>>,
    begun: Family<Over, Counter<u64, AtomicU64>>,
    sessions: Family<Over, Gauge<i64, AtomicI64>>,
    tcp_permille: Gauge<i64, AtomicI64>,
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
            human: Family::default(),
            forgotten: Counter::default(),
            rejected: Family::default(),
            asks: Family::default(),
            ended: Family::default(),
            refused: Family::default(),
            begun: Family::default(),
            sessions: Family::default(),
            tcp_permille: Gauge::default(),
            position: Gauge::default(),
            incidents: Gauge::default(),
        };
        let mut register = |name: &str, help: &str, metric: Counter<u64, AtomicU64>| {
            registry.register(name, help, metric);
        };
        register("reports_accepted", "Reports committed to the log", metrics.accepted.clone());
        register(
            "reports_forgotten",
            "Reports deleted because their observers asked for it",
            metrics.forgotten.clone(),
        );
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
            "human_reports",
            "What people said of sites, by what became of it",
            metrics.human.clone(),
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
        registry.register(
            "sessions_begun",
            "Sessions that began, by transport",
            metrics.begun.clone(),
        );
        registry.register("sessions", "Sessions open now, by transport", metrics.sessions.clone());
        registry.register(
            "sessions_tcp_permille",
            "Share of the open sessions that are on TCP, in thousandths: agents whose UDP is blocked",
            metrics.tcp_permille.clone(),
        );
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
        for transport in Transport::ALL {
            metrics.begun.get_or_create(&over(transport)).inc_by(0);
            metrics.sessions.get_or_create(&over(transport)).set(0);
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

    /// Reports were deleted because their observer asked for it.
    pub fn forgot(&self, reports: u64) {
        self.forgotten.inc_by(reports);
    }

    /// What a person said was kept, or not.
    pub fn heard(&self, hearing: Hearing) {
        self.human.get_or_create(&Reason { reason: hearing.name() }).inc();
    }

    /// A session began.
    pub fn session_began(&self, transport: Transport) {
        self.begun.get_or_create(&over(transport)).inc();
        self.sessions.get_or_create(&over(transport)).inc();
    }

    /// Sessions open now.
    fn open(&self, transport: Transport) -> i64 {
        self.sessions.get_or_create(&over(transport)).get()
    }

    /// A session ended: by the collector for a reason, or by the peer.
    pub fn session_ended(&self, transport: Transport, reason: Option<GoAwayReason>) {
        self.sessions.get_or_create(&over(transport)).dec();
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
        let tcp = self.open(Transport::Tcp);
        let all = self.open(Transport::Quic).saturating_add(tcp);
        self.tcp_permille.set(tcp.saturating_mul(1_000).checked_div(all).unwrap_or(0));
        let mut text = String::new();
        if let Ok(registry) = self.registry.lock()
            && encode(&mut text, &registry).is_err()
        {
            tracing::error!("the metrics could not be written");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_are_counted_by_transport() {
        let metrics = Metrics::default();
        let told = |line: &str| {
            let text = metrics.text();
            assert!(text.lines().any(|found| found == line), "no {line} in {text}");
        };
        told("tocsin_sessions_tcp_permille 0");
        for _ in 0..3 {
            metrics.session_began(Transport::Quic);
        }
        metrics.session_began(Transport::Tcp);
        told("tocsin_sessions{transport=\"quic\"} 3");
        told("tocsin_sessions{transport=\"tcp\"} 1");
        told("tocsin_sessions_tcp_permille 250");
        metrics.session_ended(Transport::Tcp, Some(GoAwayReason::Replaced));
        told("tocsin_sessions{transport=\"tcp\"} 0");
        told("tocsin_sessions_begun_total{transport=\"tcp\"} 1");
        told("tocsin_sessions_ended_total{reason=\"replaced\"} 1");
    }
}
