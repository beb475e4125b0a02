//! Connects: runs the races that [`super::way`] lays out, and gives the connection that stood first.

use std::{net::IpAddr, sync::Arc, time::Duration};

use tokio::{task::JoinSet, time::timeout};

use super::{
    link::{Link, LinkError},
    quic, tcp, tls,
    way::{Race, Via, Way},
};
use crate::clock::monotonic;

/// Within this time a way is connected, or it has failed.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// What it takes to connect.
#[derive(Debug, Clone)]
pub struct Dialer {
    quic: quinn::ClientConfig,
    tcp: Arc<rustls::ClientConfig>,
    sources: Arc<[IpAddr]>,
}

impl Dialer {
    /// One that connects from these addresses, at most one of each family.
    ///
    /// # Errors
    /// When the cryptography lacks what the protocol needs.
    pub fn new(sources: &[IpAddr]) -> Result<Self, LinkError> {
        let tls = tls::config().map_err(LinkError::Tls)?;
        Ok(Self { quic: quic::config(tls.clone())?, tcp: Arc::new(tls), sources: sources.into() })
    }

    async fn connect(&self, way: Way) -> Result<Link, LinkError> {
        let connecting = async {
            match way.via {
                Via::Quic => quic::connect(self.quic.clone(), way, &self.sources).await,
                Via::Tcp => tcp::connect(Arc::clone(&self.tcp), way, &self.sources).await,
            }
        };
        timeout(CONNECT_TIMEOUT, connecting).await.map_err(|_| LinkError::Timeout(way))?
    }

    /// Runs a race. Nothing is said on a connection but TLS, so those that lose tell nobody who we
    /// are.
    ///
    /// # Errors
    /// When every way has failed: as the last one did; the others are logged.
    pub async fn race(&self, mut race: Race) -> Result<Link, LinkError> {
        let began = monotonic();
        let mut attempts: JoinSet<(Way, Result<Link, LinkError>)> = JoinSet::new();
        let mut last = LinkError::Nowhere;
        loop {
            let elapsed = monotonic().saturating_duration_since(began);
            while let Some(way) = race.begin(elapsed) {
                let dialer = self.clone();
                attempts.spawn(async move { (way, dialer.connect(way).await) });
            }
            let next = race.next_at();
            let ended = tokio::select! {
                biased;
                Some(ended) = attempts.join_next() => ended,
                () = tokio::time::sleep_until((began + next.unwrap_or_default()).into()),
                    if next.is_some() => continue,
                else => return Err(last),
            };
            match ended.map_err(LinkError::Attempt)? {
                (_, Ok(link)) => return Ok(better(link, &mut attempts)),
                (way, Err(error)) => {
                    race.failed(way);
                    let error = std::mem::replace(&mut last, error);
                    if !matches!(error, LinkError::Nowhere) {
                        tracing::info!(
                            error = &error as &dyn std::error::Error,
                            "a way to the collector failed"
                        );
                    }
                }
            }
        }
    }
}

/// Of two that stand at the same moment the one over QUIC.
fn better(link: Link, attempts: &mut JoinSet<(Way, Result<Link, LinkError>)>) -> Link {
    if link.way.via == Via::Quic {
        return link;
    }
    while let Some(other) = attempts.try_join_next() {
        if let Ok((_, Ok(other))) = other
            && other.way.via == Via::Quic
        {
            return other;
        }
    }
    link
}
