//! The QUIC endpoint: TLS with the pinned transport key, tight transport limits, and a place for
//! each connection before it is accepted.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use aws_lc_rs::{hkdf, hmac};
use quinn::crypto::rustls::QuicServerConfig;
use rustls::{
    crypto::{CryptoProvider, aws_lc_rs as suites},
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer},
};
use tocsin_proto::{
    limits::{
        ALPN, CONNECTION_WINDOW, EXPORTER_LABEL, IDLE_TIMEOUT_MS, STREAM_SLOTS, STREAM_WINDOW,
    },
    sign::SecretKey,
};
use tokio::{sync::Semaphore, task::JoinSet};
use tokio_util::sync::CancellationToken;

use super::{
    prefix::PrefixLimit,
    session::{self, Context},
};

/// Handshakes at once from which a peer must first show that its address is its own (RFC 9000
/// section 8.1.2). A retry costs no CPU and one round trip.
const RETRY_ABOVE: usize = 64;
/// Longest wait for a connection to open its stream after the TLS handshake.
const STREAM_TIMEOUT: Duration = Duration::from_secs(10);
/// DER of a PKCS#8 Ed25519 private key (RFC 8410 section 7) up to the 32 secret bytes.
const PKCS8_ED25519: [u8; 16] = [
    0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20,
];

/// What can go wrong with the endpoint.
#[derive(Debug, thiserror::Error)]
pub enum EndpointError {
    /// The certificate could not be made.
    #[error("the TLS certificate could not be made from the transport key")]
    Certificate(#[source] rcgen::Error),
    /// rustls refused the settings.
    #[error("TLS could not be set up")]
    Tls(#[source] rustls::Error),
    /// No suite that QUIC can use.
    #[error("TLS could not be set up for QUIC")]
    Quic(#[source] quinn::crypto::rustls::NoInitialCipherSuite),
    /// The address could not be bound.
    #[error("UDP {address} cannot be listened on")]
    Bind {
        /// Which.
        address: SocketAddr,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// AES-128-GCM and ChaCha20 only: SHA-384 of the AES-256 suite was 13 % of the handshake when
/// measured.
fn provider() -> CryptoProvider {
    CryptoProvider {
        cipher_suites: vec![
            suites::cipher_suite::TLS13_AES_128_GCM_SHA256,
            suites::cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
        ],
        ..suites::default_provider()
    }
}

fn tls(transport: &SecretKey) -> Result<rustls::ServerConfig, EndpointError> {
    let der = [PKCS8_ED25519.as_slice(), transport.seed().as_slice()].concat();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(der));
    let pair = rcgen::KeyPair::from_der_and_sign_algo(&key, &rcgen::PKCS_ED25519)
        .map_err(EndpointError::Certificate)?;
    let mut params = rcgen::CertificateParams::new(vec!["collector.tocsin.invalid".to_owned()])
        .map_err(EndpointError::Certificate)?;
    // Agents pin the key and do not look at the dates; these are the widest that are usual.
    params.not_before = rcgen::date_time_ymd(2000, 1, 1);
    params.not_after = rcgen::date_time_ymd(9999, 12, 31);
    let certificate = params.self_signed(&pair).map_err(EndpointError::Certificate)?;
    let mut config = rustls::ServerConfig::builder_with_provider(Arc::new(provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(EndpointError::Tls)?
        .with_no_client_auth()
        .with_single_cert(vec![CertificateDer::from(certificate)], key)
        .map_err(EndpointError::Tls)?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    Ok(config)
}

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

/// Secrets of the endpoint that should outlive a restart, so that agents are told at once that
/// their connections are gone.
#[derive(Clone, Copy)]
pub struct EndpointSecrets {
    /// Key of stateless resets.
    pub reset: [u8; 32],
    /// Key of address validation tokens.
    pub token: [u8; 32],
}

/// Binds an endpoint.
///
/// # Errors
/// When TLS cannot be set up, or the address cannot be bound.
pub fn bind(
    address: SocketAddr,
    transport: &SecretKey,
    secrets: EndpointSecrets,
) -> Result<quinn::Endpoint, EndpointError> {
    let crypto = QuicServerConfig::try_from(tls(transport)?).map_err(EndpointError::Quic)?;
    let mut config = quinn::ServerConfig::new(Arc::new(crypto), token_key(&secrets.token));
    config
        .transport_config(Arc::new(transport_limits()))
        .max_incoming(4096)
        .incoming_buffer_size(16 * 1024)
        .incoming_buffer_size_total(8 * 1024 * 1024);
    let reset = reset_key(&secrets.reset);
    let failed = |source| EndpointError::Bind { address, source };
    let socket = std::net::UdpSocket::bind(address).map_err(failed)?;
    let endpoint_config = quinn::EndpointConfig::new(reset);
    quinn::Endpoint::new(endpoint_config, Some(config), socket, Arc::new(quinn::TokioRuntime))
        .map_err(failed)
}

fn token_key(secret: &[u8; 32]) -> Arc<dyn quinn::crypto::HandshakeTokenKey> {
    Arc::new(hkdf::Salt::new(hkdf::HKDF_SHA256, b"tocsin/token/v1").extract(secret))
}

fn reset_key(secret: &[u8; 32]) -> Arc<dyn quinn::crypto::HmacKey> {
    Arc::new(hmac::Key::new(hmac::HMAC_SHA256, secret))
}

/// Accepts connections until shutdown, then lets the sessions say goodbye.
pub async fn accept(
    endpoint: quinn::Endpoint,
    context: Arc<Context>,
    sessions: Arc<Semaphore>,
    prefixes: PrefixLimit,
    shutdown: CancellationToken,
) {
    let mut open = JoinSet::new();
    let handshakes = Arc::new(AtomicUsize::new(0));
    loop {
        let incoming = tokio::select! {
            () = shutdown.cancelled() => break,
            Some(ended) = open.join_next(), if !open.is_empty() => {
                if let Err(error) = ended {
                    tracing::error!(%error, "a session's task failed");
                }
                continue;
            }
            incoming = endpoint.accept() => incoming,
        };
        let Some(incoming) = incoming else { break };
        let Ok(permit) = Arc::clone(&sessions).try_acquire_owned() else {
            context.metrics.connection_refused("sessions");
            incoming.refuse();
            continue;
        };
        let Some(place) = prefixes.take(incoming.remote_address().ip()) else {
            context.metrics.connection_refused("prefix");
            incoming.refuse();
            continue;
        };
        let rush = handshakes.load(Ordering::Relaxed) > RETRY_ABOVE;
        if rush && !incoming.remote_address_validated() {
            context.metrics.connection_refused("retry");
            if incoming.retry().is_err() {
                tracing::debug!("a validated address needs no retry");
            }
            continue;
        }
        let (context, shutdown) = (Arc::clone(&context), shutdown.clone());
        let handshakes = Arc::clone(&handshakes);
        open.spawn(async move {
            let _held = (permit, place);
            connection(incoming, &context, &handshakes, shutdown).await;
        });
    }
    while let Some(ended) = open.join_next().await {
        if let Err(error) = ended {
            tracing::error!(%error, "a session's task failed");
        }
    }
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
    session::serve(context, receive, send, exporter, address, shutdown).await;
    // The goodbye is on its way; the peer closes, or this wait ends.
    drop(tokio::time::timeout(Duration::from_millis(500), connection.closed()).await);
    connection.close(quinn::VarInt::from_u32(0), b"");
}
