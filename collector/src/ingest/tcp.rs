//! TLS 1.3 on TCP, the fallback of agents whose UDP is blocked: the same certificate, the same
//! stream and the same session as over QUIC.
//!
//! The kernel has shaken hands before we see a connection, so its address is its own, and there is
//! nothing to refuse by a packet: who gets no place is closed before the first byte is read.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use tocsin_proto::limits::{ALPN, CONNECTION_WINDOW, EXPORTER_LABEL};
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    net::{TcpListener, TcpSocket, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    task::JoinSet,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_util::sync::CancellationToken;

use super::{
    gate::{self, Gate},
    session::{self, Context},
};
use crate::metrics::Transport;

/// TLS handshakes at once, over one listener. Each holds some 20 KiB and a signature; more at once
/// would only be slower.
const HANDSHAKES_MAX: usize = 512;
/// Longest wait for a TLS handshake: as long as QUIC's with its stream.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest wait for a peer to leave after the goodbye.
const LEAVE_TIMEOUT: Duration = Duration::from_millis(500);
/// Connections that wait in the kernel to be accepted.
const BACKLOG: u32 = 1024;
/// The kernel's buffer towards an agent, bytes: a snapshot is the largest thing said, and goes in
/// some turns. Who asks for it and does not read holds no more than this.
const SEND_BUFFER: u32 = 256 * 1024;
/// Rest when no connection can be accepted: descriptors may be given back meanwhile.
const ACCEPT_REST: Duration = Duration::from_millis(100);

/// A listener with its TLS settings.
pub struct Listener {
    socket: TcpListener,
    acceptor: TlsAcceptor,
}

impl std::fmt::Debug for Listener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Listener").field("socket", &self.socket).finish_non_exhaustive()
    }
}

impl Listener {
    /// With the settings that QUIC has too.
    pub(super) fn new(socket: TcpListener, tls: rustls::ServerConfig) -> Self {
        Self { socket, acceptor: TlsAcceptor::from(Arc::new(tls)) }
    }
}

/// Listens. What is accepted has the buffers set here, so that a connection costs no more than its
/// windows, as over QUIC.
pub(super) fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    // A restarted collector gets its port back while old connections still end.
    socket.set_reuseaddr(true)?;
    socket.set_recv_buffer_size(CONNECTION_WINDOW)?;
    socket.set_send_buffer_size(SEND_BUFFER)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Accepts connections until shutdown, then lets the sessions say goodbye.
pub async fn accept(listener: Listener, gate: Gate, shutdown: CancellationToken) {
    let mut open = JoinSet::new();
    let handshakes = Arc::new(Semaphore::new(HANDSHAKES_MAX));
    loop {
        let accepted = tokio::select! {
            () = shutdown.cancelled() => break,
            Some(task) = open.join_next(), if !open.is_empty() => {
                gate::ended(task);
                continue;
            }
            accepted = listener.socket.accept() => accepted,
        };
        let (stream, address) = match accepted {
            Ok((stream, address)) => (stream, address.ip()),
            Err(error) => {
                gate.context.metrics.connection_refused("accept");
                if !is_of_the_peer(&error) {
                    tokio::time::sleep(ACCEPT_REST).await;
                }
                continue;
            }
        };
        // A stream that is dropped is closed: the agent sees it at once.
        let Some(places) = gate.enter(address) else { continue };
        let Ok(turn) = Arc::clone(&handshakes).try_acquire_owned() else {
            gate.context.metrics.connection_refused("handshakes");
            continue;
        };
        let (context, shutdown) = (Arc::clone(&gate.context), shutdown.clone());
        let acceptor = listener.acceptor.clone();
        open.spawn(async move {
            let _held = places;
            let shaken = tokio::select! {
                () = shutdown.cancelled() => return,
                shaken = shake_hands(&acceptor, stream, turn) => shaken,
            };
            match shaken {
                Some(stream) => connection(stream, &context, address, shutdown).await,
                None => context.metrics.connection_refused("handshake"),
            }
        });
    }
    // Who comes now is told by the kernel that nobody listens.
    drop(listener);
    gate::drain(open).await;
}

/// Whether one connection failed, and not the accepting.
fn is_of_the_peer(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

async fn shake_hands(
    acceptor: &TlsAcceptor,
    stream: TcpStream,
    turn: OwnedSemaphorePermit,
) -> Option<TlsStream<TcpStream>> {
    let _turn = turn;
    // Acks are small and each is waited for.
    stream.set_nodelay(true).ok()?;
    tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await.ok()?.ok()
}

async fn connection(
    stream: TlsStream<TcpStream>,
    context: &Context,
    address: IpAddr,
    shutdown: CancellationToken,
) {
    let (_, tls) = stream.get_ref();
    // QUIC always agrees on a protocol; on TCP a client that names none gets this far.
    let agreed = tls.alpn_protocol() == Some(ALPN);
    let exporter = tls.export_keying_material([0u8; 32], EXPORTER_LABEL, Some(b"".as_slice()));
    let (true, Ok(exporter)) = (agreed, exporter) else {
        context.metrics.connection_refused("handshake");
        return;
    };
    let (mut reader, writer) = tokio::io::split(stream);
    let over = Transport::Tcp;
    session::serve(context, &mut reader, writer, exporter, over, || address, shutdown).await;
    drop(tokio::time::timeout(LEAVE_TIMEOUT, read_out(&mut reader)).await);
}

/// Reads what the peer had on its way when the session ended. A socket that is closed with bytes
/// unread answers with a reset, which would overtake the goodbye.
async fn read_out(reader: &mut (impl AsyncRead + Unpin)) {
    let mut left = CONNECTION_WINDOW as usize;
    let mut piece = [0; 4096];
    while left > 0 {
        match reader.read(&mut piece).await {
            Ok(read) if read > 0 => left = left.saturating_sub(read),
            _ => return,
        }
    }
}
