//! A path to a collector on which UDP can be blocked: one port of loopback that relays TCP always and
//! UDP while it may. It passes bytes on and reads none, so both ends speak to each other.

use std::{
    collections::BTreeMap,
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
};

use anyhow::Context as _;
use tokio::{
    net::{TcpListener, TcpStream, UdpSocket},
    sync::watch,
    task::JoinSet,
};

/// Ports that are tried: one that TCP has free may be taken on UDP.
const PORTS_TRIED: usize = 16;
/// Ends that send UDP through it at once. An attempt to connect has a port of its own.
const UDP_ENDS_MAX: usize = 256;
/// Bytes of the largest datagram.
const DATAGRAM: usize = 65_536;

/// The relay; the path is cut when this is dropped.
#[derive(Debug)]
pub struct Relay {
    address: SocketAddr,
    udp: watch::Sender<bool>,
    _tasks: JoinSet<()>,
}

impl Relay {
    /// Relays to a collector; `udp` tells whether UDP passes.
    ///
    /// # Errors
    /// When there are no sockets.
    pub async fn start(to: SocketAddr, udp: bool) -> anyhow::Result<Self> {
        let (listener, socket) = sockets().await?;
        let address = listener.local_addr()?;
        let (udp, passes) = watch::channel(udp);
        let mut tasks = JoinSet::new();
        tasks.spawn(relay_tcp(listener, to));
        tasks.spawn(relay_udp(Arc::new(socket), to, passes));
        Ok(Self { address, udp, _tasks: tasks })
    }

    /// Where it begins.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Lets UDP pass, or swallows it from now on.
    pub fn let_udp_pass(&self, passes: bool) {
        self.udp.send_replace(passes);
    }
}

async fn sockets() -> anyhow::Result<(TcpListener, UdpSocket)> {
    let mut passed = Vec::new();
    loop {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        match UdpSocket::bind(listener.local_addr()?).await {
            Ok(socket) => return Ok((listener, socket)),
            Err(_) if passed.len() < PORTS_TRIED => passed.push(listener),
            Err(error) => return Err(error).context("no port is free over TCP and UDP"),
        }
    }
}

async fn relay_tcp(listener: TcpListener, to: SocketAddr) {
    let mut streams = JoinSet::new();
    while let Ok((mut near, _)) = listener.accept().await {
        while streams.try_join_next().is_some() {}
        streams.spawn(async move {
            if let Ok(mut far) = TcpStream::connect(to).await {
                // However it ends, both ends see it.
                tokio::io::copy_bidirectional(&mut near, &mut far).await.ok();
            }
        });
    }
}

async fn relay_udp(near: Arc<UdpSocket>, to: SocketAddr, passes: watch::Receiver<bool>) {
    let mut ends: BTreeMap<SocketAddr, Arc<UdpSocket>> = BTreeMap::new();
    let mut answers = JoinSet::new();
    let mut datagram = vec![0; DATAGRAM];
    loop {
        let Ok((length, from)) = near.recv_from(&mut datagram).await else { continue };
        if !*passes.borrow() {
            continue;
        }
        let far = match ends.get(&from) {
            Some(far) => Arc::clone(far),
            None if ends.len() < UDP_ENDS_MAX => {
                let Ok(far) = connected(to).await.map(Arc::new) else { continue };
                answers.spawn(relay_answers(
                    Arc::clone(&far),
                    Arc::clone(&near),
                    from,
                    passes.clone(),
                ));
                ends.insert(from, Arc::clone(&far));
                far
            }
            None => continue,
        };
        // What is lost is lost: that is UDP.
        far.send(datagram.get(..length).unwrap_or_default()).await.ok();
    }
}

async fn connected(to: SocketAddr) -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    socket.connect(to).await?;
    Ok(socket)
}

async fn relay_answers(
    far: Arc<UdpSocket>,
    near: Arc<UdpSocket>,
    to: SocketAddr,
    passes: watch::Receiver<bool>,
) {
    let mut datagram = vec![0; DATAGRAM];
    loop {
        // An error is an answer too: that nobody listens.
        let Ok(length) = far.recv(&mut datagram).await else { continue };
        if *passes.borrow() {
            near.send_to(datagram.get(..length).unwrap_or_default(), to).await.ok();
        }
    }
}
