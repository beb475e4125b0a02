//! A small real internet on loopback, for the lab and the end-to-end suites: DNS servers, TLS and
//! HTTP edges of three providers with certificates of a CA of its own, thirty sites behind them,
//! and faults that can be switched on and off. It needs Linux, where all of 127/8 is local, and no
//! privilege. Every port is one the system gave.
//!
//! What it is made of is a pure function of a seed ([`world`]), and so is every answer of its
//! servers, given the board of faults. It knows nothing of agents and collectors.

pub mod ca;
pub mod counters;
mod dns;
mod edge;
pub mod fault;
mod pages;
#[cfg(test)]
mod tests;
pub mod world;

use std::{
    net::{IpAddr, SocketAddr},
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use anyhow::Context as _;
use ipnet::IpNet;
use tokio::time::timeout;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub use self::{
    counters::{Counters, Counts},
    fault::{EdgeFault, Expected, Fault, FaultBoard},
    world::{Ground, LabAgent, Override, World},
};

/// How long a fault may take to be in force. The longest, a full accept queue, takes 0.2 s.
const FAULT_PATIENCE: Duration = Duration::from_secs(10);

/// It, running.
#[derive(Debug)]
pub struct Internet {
    /// The catalogue of its sites, as TOML.
    pub catalogue_toml: String,
    /// The certificate of its CA: agents need it as an extra root.
    pub ca_pem: String,
    /// The agents' system resolver, UDP and TCP.
    pub resolver: SocketAddr,
    /// The root name servers, for the agents' independent path.
    pub roots: Vec<IpAddr>,
    /// The port of all name servers: the resolver, the roots, and those they refer to.
    pub dns_port: u16,
    /// Where agents stand.
    pub agents: Vec<LabAgent>,
    /// What the collector must be told of these places.
    pub overrides: Vec<Override>,
    /// The ranges that agents must be allowed to probe.
    pub allowed: Vec<IpNet>,
    /// Who serves what.
    pub world: Arc<World>,
    /// The address of each of [`World::edges`].
    pub edges: Vec<SocketAddr>,
    board: Arc<FaultBoard>,
    counters: Arc<Counters>,
    tasks: TaskTracker,
    shutdown: CancellationToken,
}

impl Internet {
    /// Starts all servers; they serve when this returns, until the shutdown.
    ///
    /// # Errors
    /// When an address cannot be bound (only Linux has all of 127/8), or a certificate cannot be
    /// made.
    pub async fn start(seed: u64, shutdown: CancellationToken) -> anyhow::Result<Self> {
        Self::start_at(seed, Ground::LOOPBACK, shutdown).await
    }

    /// The same somewhere else: whoever calls has seen to it that the addresses are this machine's, or this
    /// namespace's.
    ///
    /// # Errors
    /// As [`Internet::start`].
    pub async fn start_at(
        seed: u64,
        ground: Ground,
        shutdown: CancellationToken,
    ) -> anyhow::Result<Self> {
        let world = Arc::new(World::at(seed, ground));
        let board = Arc::new(FaultBoard::new(&world));
        let counters = Arc::new(Counters::default());
        let tasks = TaskTracker::new();

        let names = dns::DnsServers::bind(&world).await?;
        let dns_port = names.port();
        names.serve(&Arc::new(dns::Shared {
            world: Arc::clone(&world),
            board: Arc::clone(&board),
            counters: Arc::clone(&counters),
            tasks: tasks.clone(),
            shutdown: shutdown.clone(),
        }));

        let ca = ca::LabCa::new()?;
        let mut edges = Vec::new();
        for (index, (vendor, address)) in world.edges.iter().enumerate() {
            let listener = edge::listen((*address, ground.edge_port).into())
                .with_context(|| format!("binding {address}"))?;
            edges.push(listener.local_addr()?);
            let hosts = world.sites_of(index).map(|site| site.host.clone()).collect();
            let edge = Arc::new(edge::Edge {
                index,
                vendor: *vendor,
                world: Arc::clone(&world),
                board: Arc::clone(&board),
                counters: Arc::clone(&counters),
                tls: ca.server(hosts)?,
                serial: AtomicU64::new(seed >> 32),
                tasks: tasks.clone(),
                shutdown: shutdown.clone(),
            });
            if let Some(address) = ground.v6_of(*address) {
                let port = listener.local_addr()?.port();
                let listener = edge::listen((address, port).into())
                    .with_context(|| format!("binding {address}"))?;
                tasks.spawn(Arc::clone(&edge).serve(listener));
            }
            tasks.spawn(edge.serve(listener));
        }

        let ports: Vec<_> = edges.iter().map(SocketAddr::port).collect();
        Ok(Self {
            catalogue_toml: world.catalogue(&ports),
            ca_pem: ca.pem().to_owned(),
            resolver: (world.resolver, dns_port).into(),
            roots: vec![world.root.into()],
            dns_port,
            agents: world.agents.clone(),
            overrides: world.overrides.clone(),
            allowed: world.allowed(),
            world,
            edges,
            board,
            counters,
            tasks,
            shutdown,
        })
    }

    /// Puts a fault in force, in the place of the one before, and returns when it is.
    ///
    /// # Errors
    /// When a server does not follow in time, because it has ended.
    pub async fn break_it(&self, fault: Fault) -> anyhow::Result<()> {
        self.board.set(&self.world, fault);
        let in_force = timeout(FAULT_PATIENCE, self.board.in_force()).await;
        in_force.with_context(|| format!("the edges did not take the fault {fault}"))
    }

    /// Makes all well again.
    ///
    /// # Errors
    /// As [`Internet::break_it`].
    pub async fn heal(&self) -> anyhow::Result<()> {
        self.break_it(Fault::None).await
    }

    /// What a right collector confirms under a fault, and nothing besides.
    #[must_use]
    pub fn expected(&self, fault: Fault) -> Expected {
        fault.expected(&self.world)
    }

    /// What the servers have done so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.counters.read()
    }

    /// Stops all servers and returns when they have ended.
    pub async fn stop(self) {
        self.shutdown.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}
