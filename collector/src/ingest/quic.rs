//! QUIC, the transport of agents: tight limits, and a place for each connection before it is
//! accepted.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use aws_lc_rs::{hkdf, hmac};
use quinn::crypto::rustls::QuicServerConfig;
use tocsin_proto::limits::{
    CONNECTION_WINDOW, EXPORTER_LABEL, IDLE_TIMEOUT_MS, STREAM_SLOTS, STREAM_WINDOW,
};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{
    endpoint::{EndpointError, EndpointSecrets},
    gate::{self, Gate},
    session::{self, Context},
};
use crate::metrics::Transport;

/// Handshakes at once from which a peer must first show that its address is its own (RFC 9000
/// section 8.1.2). A retry costs no CPU and one round trip.
const RETRY_ABOVE: usize = 64;
/// Longest wait for a connection to open its stream after the TLS handshake.
const STREAM_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest wait for a peer to leave after the goodbye.
const LEAVE_TIMEOUT: Duration = Duration::from_millis(500);

fn transport_limits() -> quinn::TransportConfig {
    let mut config = quinn::TransportConfig::default();
    let idle = quinn::VarInt::from_u32(u32::try_from(IDLE_TIMEOUT_MS).unwrap_or(180_000));
    let mut acks = quinn::AckFrequencyConfig::default();
    acks.ack_eliciting_threshold(quinn::VarInt::from_u32(20))
        .max_ack_delay(Some(Duration::from_millis(100)));
    config
        .max_idle_timeout(Some(idle.into()))
        .max_concurrent_bidi_streams(quinn::VarInt::from_u32(STREAM_SLOTS))
        .max_concurrent_uni_streams(quinn::VarInt::from_u32(0))
        .stream_receive_window(quinn::VarInt::from_u32(STREAM_WINDOW))
        .receive_window(quinn::VarInt::from_u32(CONNECTION_WINDOW))
        .datagram_receive_buffer_size(None)
        .mtu_discovery_config(None)
        .ack_frequency_config(Some(acks));
    config
}

/// The endpoint on a socket that is bound.
pub(super) fn endpoint(
    socket: std::net::UdpSocket,
    tls: rustls::ServerConfig,
    secrets: EndpointSecrets,
) -> Result<quinn::Endpoint, EndpointError> {
    let address = socket.local_addr().map_err(EndpointError::Socket)?;
    let crypto = QuicServerConfig::try_from(tls).map_err(EndpointError::Quic)?;
    let mut config = quinn::ServerConfig::new(Arc::new(crypto), token_key(&secrets.token));
    config
        .transport_config(Arc::new(transport_limits()))
        .max_incoming(4096)
        .incoming_buffer_size(16 * 1024)
        .incoming_buffer_size_total(8 * 1024 * 1024);
    let endpoint_config = quinn::EndpointConfig::new(reset_key(&secrets.reset));
    quinn::Endpoint::new(endpoint_config, Some(config), socket, Arc::new(quinn::TokioRuntime))
        .map_err(|source| EndpointError::Udp { address, source })
}

fn token_key(secret: &[u8; 32]) -> Arc<dyn quinn::crypto::HandshakeTokenKey> {
    Arc::new(hkdf::Salt::new(hkdf::HKDF_SHA256, b"tocsin/token/v1").extract(secret))
}

fn reset_key(secret: &[u8; 32]) -> Arc<dyn quinn::crypto::HmacKey> {
    Arc::new(hmac::Key::new(hmac::HMAC_SHA256, secret))
}

/// Accepts connections until shutdown, then lets the sessions say goodbye.
pub async fn accept(endpoint: quinn::Endpoint, gate: Gate, shutdown: CancellationToken) {
    let mut open = JoinSet::new();
    let handshakes = Arc::new(AtomicUsize::new(0));
    loop {
        let incoming = tokio::select! {
            () = shutdown.cancelled() => break,
            Some(task) = open.join_next(), if !open.is_empty() => {
                gate::ended(task);
                continue;
            }
            incoming = endpoint.accept() => incoming,
        };
        let Some(incoming) = incoming else { break };
        let Some(places) = gate.enter(incoming.remote_address().ip()) else {
            incoming.refuse();
            continue;
        };
        let rush = handshakes.load(Ordering::Relaxed) > RETRY_ABOVE;
        if rush && !incoming.remote_address_validated() {
            gate.context.metrics.connection_refused("retry");
            if incoming.retry().is_err() {
                tracing::debug!("a validated address needs no retry");
            }
            continue;
        }
        let (context, shutdown) = (Arc::clone(&gate.context), shutdown.clone());
        let handshakes = Arc::clone(&handshakes);
        open.spawn(async move {
            let _held = places;
            connection(incoming, &context, &handshakes, shutdown).await;
        });
    }
    gate::drain(open).await;
    endpoint.close(quinn::VarInt::from_u32(0), b"stopping");
    endpoint.wait_idle().await;
}

async fn connection(
    incoming: quinn::Incoming,
    context: &Context,
    handshakes: &AtomicUsize,
    shutdown: CancellationToken,
) {
    let handshake = async {
        let connection = incoming.await.ok()?;
        let (send, receive) = connection.accept_bi().await.ok()?;
        Some((connection, send, receive))
    };
    handshakes.fetch_add(1, Ordering::Relaxed);
    let opened = tokio::time::timeout(STREAM_TIMEOUT, handshake).await;
    handshakes.fetch_sub(1, Ordering::Relaxed);
    let Ok(Some((connection, send, receive))) = opened else {
        context.metrics.connection_refused("handshake");
        return;
    };
    let mut exporter = [0; 32];
    if connection.export_keying_material(&mut exporter, EXPORTER_LABEL, b"").is_err() {
        return;
    }
    let address = || connection.remote_address().ip();
    let over = Transport::Quic;
    session::serve(context, receive, send, exporter, over, address, shutdown).await;
    // The goodbye is on its way; the peer closes, or this wait ends.
    drop(tokio::time::timeout(LEAVE_TIMEOUT, connection.closed()).await);
    connection.close(quinn::VarInt::from_u32(0), b"");
}
