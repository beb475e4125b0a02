//! Where agents come in: at each address a QUIC endpoint, and on the same port a TCP listener for
//! those whose UDP is blocked.

use std::{
    io,
    net::{SocketAddr, UdpSocket},
};

use tocsin_proto::sign::SecretKey;
use tokio::net::TcpListener;

use super::{quic, tcp, tls};

/// Ports that are tried where any will do: one that UDP has free may be taken on TCP.
const PORTS_TRIED: usize = 16;

/// What can go wrong with an endpoint.
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
    /// The UDP address could not be bound.
    #[error("UDP {address} cannot be listened on")]
    Udp {
        /// Which.
        address: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The TCP address could not be bound.
    #[error(
        "TCP {address} cannot be listened on, for agents whose UDP is blocked; free the port, or \
         set tcp = false"
    )]
    Tcp {
        /// Which.
        address: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A socket does not know its own address.
    #[error("a socket that was bound does not tell where")]
    Socket(#[source] io::Error),
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

/// One address, bound.
#[derive(Debug)]
pub struct Endpoint {
    /// Where it is, over both.
    pub address: SocketAddr,
    /// QUIC.
    pub quic: quinn::Endpoint,
    /// TLS on TCP; `None` where the operator wants none.
    pub tcp: Option<tcp::Listener>,
}

impl Endpoint {
    /// Binds an address; port 0 is any that is free over both transports.
    ///
    /// # Errors
    /// When TLS cannot be set up, or the address cannot be bound.
    pub fn bind(
        address: SocketAddr,
        tcp: bool,
        transport: &SecretKey,
        secrets: EndpointSecrets,
    ) -> Result<Self, EndpointError> {
        let tls = tls::config(transport)?;
        let (udp, listener) = sockets(address, tcp)?;
        let address = udp.local_addr().map_err(EndpointError::Socket)?;
        let tcp = listener.map(|socket| tcp::Listener::new(socket, tls.clone()));
        Ok(Self { address, quic: quic::endpoint(udp, tls, secrets)?, tcp })
    }
}

fn sockets(
    address: SocketAddr,
    tcp: bool,
) -> Result<(UdpSocket, Option<TcpListener>), EndpointError> {
    let tries = if address.port() == 0 { PORTS_TRIED } else { 1 };
    // Held until the end, so that none is given twice.
    let mut passed = Vec::new();
    loop {
        let failed = |source| EndpointError::Udp { address, source };
        let udp = UdpSocket::bind(address).map_err(failed)?;
        let bound = udp.local_addr().map_err(EndpointError::Socket)?;
        if !tcp {
            return Ok((udp, None));
        }
        match tcp::listen(bound) {
            Ok(listener) => return Ok((udp, Some(listener))),
            Err(_) if passed.len() + 1 < tries => passed.push(udp),
            Err(source) => return Err(EndpointError::Tcp { address: bound, source }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn both_transports_have_one_port() {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let (udp, tcp) = sockets(any, true).unwrap();
        let port = udp.local_addr().unwrap();
        assert_eq!(tcp.unwrap().local_addr().unwrap(), port);
        assert!(sockets(any, false).unwrap().1.is_none());

        // A port that is asked for is that one or none.
        drop(udp);
        let taken = std::net::TcpListener::bind(port).unwrap();
        let error = sockets(port, true).unwrap_err();
        assert!(matches!(error, EndpointError::Tcp { address, .. } if address == port), "{error}");
        assert!(sockets(port, false).is_ok());
        drop(taken);
    }
}
