//! QUIC to a collector: one connection with one control stream. It knows TLS, not the protocol.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use quinn::{ClientConfig, Connection, Endpoint, RecvStream, SendStream, VarInt};
use rustls::{
    CipherSuite, DigitallySignedStruct, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, aws_lc_rs, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use tocsin_proto::{
    limits::{ALPN, EXPORTER_LABEL, FRAME_TO_AGENT_MAX, IDLE_TIMEOUT_MS},
    sign::PublicKey,
};

/// The DER of an Ed25519 SubjectPublicKeyInfo before its 32 bytes of key (RFC 8410 section 4).
const ED25519_SPKI: [u8; 12] =
    [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];
/// Within this time a collector answers or the next address is tried.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum QuicError {
    /// No socket.
    #[error("cannot bind a UDP socket to {address}; check source_address")]
    Bind {
        /// To which address.
        address: SocketAddr,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The cryptography lacks what the protocol needs.
    #[error("TLS 1.3 with AES-128-GCM is not at hand")]
    Tls(#[source] rustls::Error),
    /// QUIC needs AES-128-GCM for its first packets.
    #[error("QUIC's first cipher suite is not at hand")]
    Suite(#[source] quinn::crypto::rustls::NoInitialCipherSuite),
    /// The address cannot be connected to.
    #[error("cannot connect to {0}")]
    Address(SocketAddr, #[source] quinn::ConnectError),
    /// The connection was not made.
    #[error("no QUIC connection to {0}")]
    Connect(SocketAddr, #[source] quinn::ConnectionError),
    /// No answer in time.
    #[error("{0} did not answer within 5 s; is UDP blocked on the way?")]
    Timeout(SocketAddr),
    /// The certificate has no Ed25519 key.
    #[error("the certificate of {0} has no Ed25519 key")]
    Certificate(SocketAddr),
    /// The exporter failed.
    #[error("the TLS exporter of {0} gave nothing")]
    Exporter(SocketAddr),
}

/// Takes any certificate with an Ed25519 key: who it is, the delegation says. That the peer holds
/// the key, the handshake signature proves.
#[derive(Debug)]
struct AnyEd25519(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyEd25519 {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let key = key_of(end_entity);
        key.map(|_| ServerCertVerified::assertion())
            .ok_or_else(|| rustls::CertificateError::BadEncoding.into())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::PeerIncompatible::Tls12NotOffered.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }
}

fn key_of(certificate: &CertificateDer<'_>) -> Option<PublicKey> {
    let certificate = webpki::EndEntityCert::try_from(certificate).ok()?;
    let spki = certificate.subject_public_key_info();
    let key = spki.as_ref().strip_prefix(&ED25519_SPKI)?;
    Some(PublicKey::from_bytes(key.try_into().ok()?))
}

/// An established connection with its control stream.
#[derive(Debug)]
pub struct Link {
    /// The connection.
    pub connection: Connection,
    /// To the collector.
    pub send: SendStream,
    /// From the collector.
    pub recv: RecvStream,
    /// The key of its certificate, proved by the handshake.
    pub transport: PublicKey,
    /// The TLS exporter.
    pub exporter: [u8; 32],
    /// Holds the socket.
    pub endpoint: Endpoint,
}

/// How this agent speaks QUIC.
///
/// # Errors
/// When the cryptography lacks what the protocol needs.
pub fn client_config() -> Result<ClientConfig, QuicError> {
    let mut provider = aws_lc_rs::default_provider();
    provider.cipher_suites.retain(|suite| {
        matches!(
            suite.suite(),
            CipherSuite::TLS13_AES_128_GCM_SHA256 | CipherSuite::TLS13_CHACHA20_POLY1305_SHA256
        )
    });
    // Hardware with AES runs it faster than ChaCha20, so it comes first; QUIC needs it anyhow.
    provider.cipher_suites.sort_by_key(|s| s.suite() != CipherSuite::TLS13_AES_128_GCM_SHA256);
    let provider = Arc::new(provider);
    let mut tls = rustls::ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(QuicError::Tls)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyEd25519(provider)))
        .with_no_client_auth();
    tls.alpn_protocols = vec![ALPN.to_vec()];
    tls.enable_sni = false;
    // A ticket would link the networks that a machine moves between.
    tls.resumption = rustls::client::Resumption::disabled();
    let tls = quinn::crypto::rustls::QuicClientConfig::try_from(tls).map_err(QuicError::Suite)?;
    let mut config = ClientConfig::new(Arc::new(tls));
    let mut transport = quinn::TransportConfig::default();
    let idle = VarInt::from_u32(u32::try_from(IDLE_TIMEOUT_MS).unwrap_or(u32::MAX));
    // A snapshot is read as it comes, so a quarter of it is window enough.
    let window = VarInt::from_u32(u32::try_from(FRAME_TO_AGENT_MAX / 4).unwrap_or(u32::MAX));
    transport
        .max_idle_timeout(Some(idle.into()))
        .keep_alive_interval(None)
        .mtu_discovery_config(None)
        .ack_frequency_config(Some(quinn::AckFrequencyConfig::default()))
        .max_concurrent_bidi_streams(VarInt::from_u32(0))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .stream_receive_window(window)
        .receive_window(window)
        .send_window(64 * 1024)
        .datagram_receive_buffer_size(None);
    config.transport_config(Arc::new(transport));
    Ok(config)
}

/// Connects, and opens the control stream.
///
/// # Errors
/// When there is no socket, no connection in time, or no Ed25519 certificate.
pub async fn connect(
    config: &ClientConfig,
    address: SocketAddr,
    sources: &[IpAddr],
) -> Result<Link, QuicError> {
    let source = sources.iter().find(|ip| ip.is_ipv4() == address.is_ipv4()).copied();
    let any: IpAddr = match address {
        SocketAddr::V4(_) => std::net::Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => std::net::Ipv6Addr::UNSPECIFIED.into(),
    };
    let local = SocketAddr::new(source.unwrap_or(any), 0);
    let endpoint =
        Endpoint::client(local).map_err(|source| QuicError::Bind { address: local, source })?;
    let connecting = endpoint
        .connect_with(config.clone(), address, "collector.tocsin.invalid")
        .map_err(|source| QuicError::Address(address, source))?;
    let connection = tokio::time::timeout(CONNECT_TIMEOUT, connecting)
        .await
        .map_err(|_| QuicError::Timeout(address))?
        .map_err(|source| QuicError::Connect(address, source))?;
    let identity = connection.peer_identity();
    let certificates = identity.and_then(|any| any.downcast::<Vec<CertificateDer<'static>>>().ok());
    let transport = certificates
        .and_then(|certificates| certificates.first().and_then(key_of))
        .ok_or(QuicError::Certificate(address))?;
    let mut exporter = [0; 32];
    connection
        .export_keying_material(&mut exporter, EXPORTER_LABEL, b"")
        .map_err(|_| QuicError::Exporter(address))?;
    let (send, recv) = tokio::time::timeout(CONNECT_TIMEOUT, connection.open_bi())
        .await
        .map_err(|_| QuicError::Timeout(address))?
        .map_err(|source| QuicError::Connect(address, source))?;
    Ok(Link { connection, send, recv, transport, exporter, endpoint })
}
