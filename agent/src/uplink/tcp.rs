//! TLS 1.3 on TCP to a collector, where UDP does not pass: the same bytes inside.

use std::{net::IpAddr, sync::Arc};

use rustls::{ClientConfig, pki_types::ServerName};
use tocsin_proto::limits::{ALPN, EXPORTER_LABEL};
use tokio::net::TcpSocket;
use tokio_rustls::TlsConnector;

use super::{
    link::{Link, LinkError, Stream, local},
    tls,
    way::{Via, Way},
};

/// Connects, and shakes hands. The caller keeps the deadline.
pub(super) async fn connect(
    config: Arc<ClientConfig>,
    way: Way,
    sources: &[IpAddr],
) -> Result<Link, LinkError> {
    let (local, address) = (local(way.address, sources), way.address);
    let bind = |source| LinkError::Bind { via: Via::Tcp, address: local, source };
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() };
    let socket = socket.map_err(bind)?;
    // Where no address is set the system chooses one with the way.
    if !local.ip().is_unspecified() {
        socket.bind(local).map_err(bind)?;
    }
    // Reports are small, and each is to leave at once.
    socket.set_nodelay(true).map_err(bind)?;
    let connected = socket.connect(address).await;
    let stream = connected.map_err(|source| LinkError::Tcp(address, source))?;
    let name = ServerName::try_from(tls::NAME).map_err(|_| LinkError::Protocol(way))?;
    let stream = TlsConnector::from(config)
        .connect(name, stream)
        .await
        .map_err(|source| LinkError::Handshake(address, source))?;
    let (_, session) = stream.get_ref();
    // QUIC insists on an agreed protocol by itself.
    if session.alpn_protocol() != Some(ALPN) {
        return Err(LinkError::Protocol(way));
    }
    let certificates = session.peer_certificates().unwrap_or_default();
    let transport = tls::transport_key(certificates).ok_or(LinkError::Certificate(way))?;
    let exporter = session
        .export_keying_material([0u8; 32], EXPORTER_LABEL, Some(b"".as_slice()))
        .map_err(|_| LinkError::Exporter(way))?;
    Ok(Link { way, transport, exporter, stream: Stream::Tcp(Box::new(stream)) })
}
