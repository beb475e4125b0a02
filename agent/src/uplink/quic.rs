//! QUIC to a collector: one connection with one stream.

use std::{
    io,
    net::{IpAddr, SocketAddr, UdpSocket},
    sync::Arc,
};

use quinn::{ClientConfig, Connection, Endpoint, VarInt};
use rustls::pki_types::CertificateDer;
use tocsin_proto::{
    limits::{EXPORTER_LABEL, FRAME_TO_AGENT_MAX, IDLE_TIMEOUT_MS},
    sign::PublicKey,
};

use super::{
    link::{Link, LinkError, Stream, local},
    tls,
    way::{Via, Way},
};

/// QUIC with the settings of TLS that both transports have.
pub(super) fn config(tls: rustls::ClientConfig) -> Result<ClientConfig, LinkError> {
    let tls = quinn::crypto::rustls::QuicClientConfig::try_from(tls).map_err(LinkError::Suite)?;
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
    // As a ticket would, a token of the last connection would link the networks that a machine moves between.
    config.token_store(Arc::new(quinn::NoneTokenStore));
    Ok(config)
}

/// Connects, and opens the stream. The caller keeps the deadline.
pub(super) async fn connect(
    config: ClientConfig,
    way: Way,
    sources: &[IpAddr],
) -> Result<Link, LinkError> {
    let (local, address) = (local(way.address, sources), way.address);
    let bind = |source| LinkError::Bind { via: Via::Quic, address: local, source };
    let local = source_towards(local, address).map_err(bind)?;
    let endpoint = Endpoint::client(local).map_err(bind)?;
    let connection = endpoint
        .connect_with(config, address, tls::NAME)
        .map_err(|source| LinkError::Address(address, source))?
        .await
        .map_err(|source| LinkError::Quic(address, source))?;
    let transport = key_of(&connection).ok_or(LinkError::Certificate(way))?;
    let mut exporter = [0; 32];
    connection
        .export_keying_material(&mut exporter, EXPORTER_LABEL, b"")
        .map_err(|_| LinkError::Exporter(way))?;
    let opened = connection.open_bi().await;
    let (send, receive) = opened.map_err(|source| LinkError::Quic(address, source))?;
    let stream = Stream::Quic { connection, send, receive, endpoint };
    Ok(Link { way, transport, exporter, stream })
}

/// The address that the system sends from to there. A socket of any address would go on in the next network, and what it
/// sends there for the connection of this one would show whose it is: its packets name the same connection (RFC 9000
/// section 9.5).
fn source_towards(local: SocketAddr, to: SocketAddr) -> io::Result<SocketAddr> {
    // Nothing is sent: a datagram socket that is connected has its route looked up.
    let probe = UdpSocket::bind(local)?;
    probe.connect(to)?;
    Ok(SocketAddr::new(probe.local_addr()?.ip(), local.port()))
}

fn key_of(connection: &Connection) -> Option<PublicKey> {
    let identity = connection.peer_identity()?;
    let certificates = identity.downcast::<Vec<CertificateDer<'static>>>().ok()?;
    tls::transport_key(&certificates)
}
