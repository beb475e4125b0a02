//! An edge provider: one address, TLS for all its sites, HTTP/2 and HTTP/1.1, and its faults.
//!
//! A TCP timeout is a real one. The listener is replaced by one with an accept queue of length 0
//! that is filled with a connection of our own; Linux then drops every further SYN, and a visitor
//! repeats it until it gives up. Where the queue cannot be filled, visitors are accepted and never
//! answered, which they see as a timeout of the TLS handshake; a warning says so.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::Duration,
};

use http::{HeaderMap, Request, header};
use hyper::{body::Incoming, rt::Executor, service::service_fn};
use hyper_util::{rt::TokioIo, server::conn::auto};
use rustls::ServerConfig;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf},
    net::{TcpListener, TcpSocket, TcpStream},
    sync::{Semaphore, watch},
    time::timeout,
};
use tokio_rustls::TlsAcceptor;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    counters::Counters,
    fault::{EdgeFault, FaultBoard},
    pages::{self, Ask, Page},
    world::{Vendor, World},
};

/// Connections that wait to be accepted.
const BACKLOG: u32 = 1024;
/// Connections served at once; ninety agents need a fraction.
const CONNECTIONS_MAX: usize = 2048;
/// How long a visitor may take over the TLS handshake.
const HANDSHAKE_PATIENCE: Duration = Duration::from_secs(10);
/// How long a connection may live. Probes take seconds.
const CONNECTION_LIFE: Duration = Duration::from_secs(60);
/// A connection of our own that is not there by now met the full queue. On loopback a handshake
/// takes microseconds.
const FULL_AFTER: Duration = Duration::from_millis(200);
/// Connections to fill a queue of length 0 with: Linux takes one; the rest is room.
const FILL_MAX: usize = 8;
/// A fatal `handshake_failure` alert (RFC 8446 section 6) in a record of TLS 1.2.
const FATAL_ALERT: [u8; 7] = [0x15, 0x03, 0x03, 0x00, 0x02, 0x02, 0x28];

/// One edge.
#[derive(Debug)]
pub(super) struct Edge {
    pub(super) index: usize,
    pub(super) vendor: Vendor,
    pub(super) world: Arc<World>,
    pub(super) board: Arc<FaultBoard>,
    pub(super) counters: Arc<Counters>,
    pub(super) tls: Arc<ServerConfig>,
    pub(super) serial: AtomicU64,
    pub(super) tasks: TaskTracker,
    pub(super) shutdown: CancellationToken,
}

/// Listens on a free port of an address.
pub(super) fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    bind(address, BACKLOG)
}

/// With `SO_REUSEPORT`, so that a listener can take over from another without a gap in which
/// visitors are refused.
fn bind(address: SocketAddr, backlog: u32) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseport(true)?;
    socket.bind(address)?;
    socket.listen(backlog)
}

/// How visitors are let in.
#[derive(Debug)]
enum Door {
    Open(TcpListener),
    /// Nobody comes in while these live.
    Full {
        listener: TcpListener,
        filling: Vec<TcpStream>,
    },
}

impl Door {
    async fn turn(self, fault: EdgeFault) -> io::Result<Self> {
        match (self, fault) {
            (Self::Open(before), EdgeFault::TcpTimeout) => {
                let address = before.local_addr()?;
                let listener = bind(address, 0)?;
                drop(before);
                fill(listener, address).await
            }
            (Self::Full { listener, filling }, fault) if fault != EdgeFault::TcpTimeout => {
                let after = bind(listener.local_addr()?, BACKLOG)?;
                drop((listener, filling));
                Ok(Self::Open(after))
            }
            (door, _) => Ok(door),
        }
    }
}

async fn fill(listener: TcpListener, address: SocketAddr) -> io::Result<Door> {
    let mut filling = Vec::new();
    for _ in 0..FILL_MAX {
        match timeout(FULL_AFTER, TcpStream::connect(address)).await {
            Ok(connected) => filling.push(connected?),
            Err(_elapsed) => return Ok(Door::Full { listener, filling }),
        }
    }
    tracing::warn!(%address, "the accept queue cannot be filled: visitors hang in TLS instead");
    Ok(Door::Open(listener))
}

impl Edge {
    /// Serves until the shutdown.
    pub(super) async fn serve(self: Arc<Self>, listener: TcpListener) {
        tokio::select! {
            ended = self.serve_on(listener) => {
                tracing::error!(vendor = self.vendor.id(), ?ended, "an edge of the lab ended");
            }
            () = self.shutdown.cancelled() => {}
        }
    }

    async fn serve_on(self: &Arc<Self>, listener: TcpListener) -> io::Result<()> {
        let Some(switch) = self.board.edge(self.index) else { return Ok(()) };
        let mut wanted = switch.wanted.subscribe();
        let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        let mut door = Door::Open(listener);
        loop {
            let fault = *wanted.borrow_and_update();
            door = door.turn(fault).await?;
            switch.in_force.send_replace(fault);
            let changed = loop {
                let permit = Arc::clone(&permits).acquire_owned().await;
                let permit = permit.map_err(io::Error::other)?;
                let accept = async {
                    match &door {
                        Door::Open(listener) => listener.accept().await,
                        Door::Full { .. } => std::future::pending().await,
                    }
                };
                tokio::select! {
                    changed = wanted.changed() => break changed,
                    // An error of accept is the visitor's (it went away), or lack of descriptors.
                    accepted = accept => if let Ok((stream, peer)) = accepted {
                        let visit = Arc::clone(self).visit(stream, peer.ip(), wanted.clone());
                        self.tasks.spawn(async move {
                            visit.await;
                            drop(permit);
                        });
                    },
                }
            };
            changed.map_err(io::Error::other)?;
        }
    }

    /// One connection, from its accept to its end.
    async fn visit(
        self: Arc<Self>,
        stream: TcpStream,
        peer: IpAddr,
        mut wanted: watch::Receiver<EdgeFault>,
    ) {
        self.counters.connection();
        if self.world.asn_of(peer).is_some_and(|asn| self.board.drops(asn)) {
            self.counters.dropped();
            return;
        }
        let fault = *wanted.borrow_and_update();
        let talk = async {
            match fault {
                EdgeFault::TlsAlert => alert(stream).await,
                EdgeFault::TcpTimeout => std::future::pending().await,
                _ => self.talk(stream).await,
            }
        };
        let cut = async {
            let ended = wanted.wait_for(|now| *now != fault && (now.cuts() || fault.cuts())).await;
            drop(ended);
        };
        tokio::select! {
            talked = timeout(CONNECTION_LIFE, talk) => {
                if let Ok(Err(error)) = talked {
                    tracing::debug!(%error, "a visit ended early");
                }
            }
            () = cut => {}
            () = self.shutdown.cancelled() => {}
        }
    }

    async fn talk(self: &Arc<Self>, stream: TcpStream) -> anyhow::Result<()> {
        stream.set_nodelay(true)?;
        let stream = Counted { stream, counters: Arc::clone(&self.counters) };
        let accept = TlsAcceptor::from(Arc::clone(&self.tls)).accept(stream);
        let stream = timeout(HANDSHAKE_PATIENCE, accept).await??;
        self.counters.handshake();
        let service = service_fn(|request: Request<Incoming>| {
            let page = self.answer(&request);
            std::future::ready(Ok::<_, std::convert::Infallible>(page))
        });
        let http = auto::Builder::new(Tracked(self.tasks.clone()));
        let served = http.serve_connection(TokioIo::new(stream), service).await;
        served.map_err(|error| anyhow::anyhow!("{error}"))
    }

    fn answer(&self, request: &Request<Incoming>) -> Page {
        self.counters.request();
        let site = host(request).and_then(|host| self.world.site(&host));
        let Some(site) = site.filter(|site| site.edge == self.index) else {
            return pages::misdirected();
        };
        let Some(switch) = self.board.edge(self.index) else { return pages::misdirected() };
        pages::page(&Ask {
            vendor: self.vendor,
            site,
            fault: *switch.wanted.borrow(),
            site_down: self.board.site_down(site.index),
            accept: text(request.headers(), header::ACCEPT).unwrap_or_default(),
            serial: self.serial.fetch_add(1, Relaxed),
        })
    }
}

/// Reads the ClientHello, sends the alert, and waits for the visitor to close: a close with unread
/// bytes would be a reset that overtakes the alert.
async fn alert(mut stream: TcpStream) -> anyhow::Result<()> {
    let mut buffer = [0; 4096];
    let hello = timeout(HANDSHAKE_PATIENCE, stream.read(&mut buffer)).await??;
    if hello == 0 {
        return Ok(());
    }
    stream.write_all(&FATAL_ALERT).await?;
    stream.shutdown().await?;
    while timeout(HANDSHAKE_PATIENCE, stream.read(&mut buffer)).await?? > 0 {}
    Ok(())
}

fn host(request: &Request<Incoming>) -> Option<String> {
    let host = request.uri().host().or_else(|| {
        let host = text(request.headers(), header::HOST)?;
        Some(host.split_once(':').map_or(host, |(host, _)| host))
    })?;
    Some(host.to_ascii_lowercase())
}

fn text(headers: &HeaderMap, name: header::HeaderName) -> Option<&str> {
    headers.get(name)?.to_str().ok()
}

/// Streams of an HTTP/2 connection are tasks that the shutdown waits for, too.
#[derive(Debug, Clone)]
struct Tracked(TaskTracker);

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for Tracked {
    fn execute(&self, stream: F) {
        self.0.spawn(stream);
    }
}

/// A stream whose bytes are counted.
#[derive(Debug)]
struct Counted {
    stream: TcpStream,
    counters: Arc<Counters>,
}

impl AsyncRead for Counted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, buffer);
        self.counters.bytes(buffer.filled().len().saturating_sub(before));
        polled
    }
}

impl AsyncWrite for Counted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(cx, bytes);
        if let Poll::Ready(Ok(written)) = &polled {
            self.counters.bytes(*written);
        }
        polled
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
