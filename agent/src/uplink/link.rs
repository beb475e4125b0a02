//! A connection to a collector with its one stream, whichever transport it is over: above this
//! nobody asks. It knows TLS, not the protocol.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use quinn::{Connection, Endpoint, RecvStream, SendStream, VarInt};
use tocsin_proto::sign::PublicKey;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::client::TlsStream;

use super::way::{Via, Way};

/// Longest wait for a goodbye to leave.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// No socket.
    #[error("cannot bind a socket for {via} to {address}; check source_address")]
    Bind {
        /// For what.
        via: Via,
        /// To which address.
        address: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
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
    Quic(SocketAddr, #[source] quinn::ConnectionError),
    /// The connection was not made.
    #[error("no TCP connection to {0}")]
    Tcp(SocketAddr, #[source] io::Error),
    /// The connection was made, and TLS did not come to stand on it.
    #[error("no TLS over TCP with {0}")]
    Handshake(SocketAddr, #[source] io::Error),
    /// What answers speaks something else.
    #[error("{0}: what answers is no collector")]
    Protocol(Way),
    /// No answer in time.
    #[error("{0}: no answer within 5 s{hint}", hint = hint(.0))]
    Timeout(Way),
    /// The certificate has no Ed25519 key.
    #[error("{0}: the certificate has no Ed25519 key")]
    Certificate(Way),
    /// The exporter failed.
    #[error("{0}: the TLS exporter gave nothing")]
    Exporter(Way),
    /// There is nothing to connect to.
    #[error("the collector's line names no address")]
    Nowhere,
    /// An attempt failed in a way that none may.
    #[error("an attempt to connect failed; this is a bug, please report it")]
    Attempt(#[source] tokio::task::JoinError),
}

const fn hint(way: &Way) -> &'static str {
    match way.via {
        Via::Quic => "; is UDP blocked on the way?",
        Via::Tcp => "",
    }
}

/// An established connection with its stream.
#[derive(Debug)]
pub struct Link {
    /// Which way it goes.
    pub way: Way,
    /// The key of its certificate, proved by the handshake.
    pub transport: PublicKey,
    /// The TLS exporter.
    pub exporter: [u8; 32],
    pub(super) stream: Stream,
}

/// The stream, and what holds it.
#[derive(Debug)]
pub(super) enum Stream {
    Quic {
        connection: Connection,
        send: SendStream,
        receive: RecvStream,
        /// Holds the socket.
        endpoint: Endpoint,
    },
    Tcp(Box<TlsStream<TcpStream>>),
}

impl Link {
    /// Reads what has come; 0 at the end of the stream. Nothing is lost when this is dropped.
    ///
    /// # Errors
    /// When the connection is broken.
    pub async fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match &mut self.stream {
            Stream::Quic { receive, .. } => Ok(receive.read(buffer).await?.unwrap_or(0)),
            Stream::Tcp(stream) => stream.read(buffer).await,
        }
    }

    /// Writes all of it, and sends it on its way.
    ///
    /// # Errors
    /// When the connection is broken.
    pub async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match &mut self.stream {
            Stream::Quic { send, .. } => Ok(send.write_all(bytes).await?),
            Stream::Tcp(stream) => {
                stream.write_all(bytes).await?;
                stream.flush().await
            }
        }
    }

    /// Ends the connection, and waits a little for the other side to hear it.
    pub async fn close(&mut self) {
        let goodbye = async {
            match &mut self.stream {
                Stream::Quic { connection, endpoint, .. } => {
                    connection.close(VarInt::from_u32(0), b"");
                    endpoint.wait_idle().await;
                }
                // Where it is broken already nobody needs to be told.
                Stream::Tcp(stream) => drop(stream.shutdown().await),
            }
        };
        drop(timeout(CLOSE_TIMEOUT, goodbye).await);
    }
}

/// Where to connect from: of the addresses that the user set, the one of this family, else any.
pub(super) fn local(to: SocketAddr, sources: &[IpAddr]) -> SocketAddr {
    let source = sources.iter().find(|ip| ip.is_ipv4() == to.is_ipv4()).copied();
    let any: IpAddr = match to {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    SocketAddr::new(source.unwrap_or(any), 0)
}
