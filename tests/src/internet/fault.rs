//! The faults the lab can have, what the collector must say of each, and the board of switches by
//! which they reach the servers.

use std::{
    fmt,
    str::FromStr,
    sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed},
};

use tocsin_proto::{id::Id, implicate::Layer};
use tokio::sync::watch;

use super::world::{Vendor, World};

/// What is broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fault {
    /// Nothing.
    None,
    /// The Cloudflare-like edge answers its own 500 page for every site.
    Edge500,
    /// It answers 500 and asks to unblock its challenge host, as on 2025-11-18.
    EdgeRefusal,
    /// TCP connections to one edge run into a timeout.
    TcpTimeout,
    /// One edge ends every TLS handshake with a fatal alert.
    TlsAlert,
    /// The Cloudflare-like edge answers its own 500 page for a fixed half of its sites.
    EdgeHalf,
    /// It answers every visitor with a challenge page and 403.
    EdgeChallenge,
    /// One DNS provider answers SERVFAIL for every name.
    DnsServfail,
    /// One site's own servers answer 500.
    OneSite,
    /// The edges drop what comes from one network.
    OneNetwork,
}

impl Fault {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::None,
        Self::Edge500,
        Self::EdgeRefusal,
        Self::TcpTimeout,
        Self::TlsAlert,
        Self::EdgeHalf,
        Self::EdgeChallenge,
        Self::DnsServfail,
        Self::OneSite,
        Self::OneNetwork,
    ];

    /// Its name on the command line.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Edge500 => "edge-500",
            Self::EdgeRefusal => "edge-refusal",
            Self::TcpTimeout => "tcp-timeout",
            Self::TlsAlert => "tls-alert",
            Self::EdgeHalf => "edge-half",
            Self::EdgeChallenge => "edge-challenge",
            Self::DnsServfail => "dns-servfail",
            Self::OneSite => "one-site",
            Self::OneNetwork => "one-network",
        }
    }

    /// Which edge misbehaves, and how.
    #[must_use]
    pub fn edge(self, world: &World) -> Option<(usize, EdgeFault)> {
        let cloudflare =
            world.edges.iter().position(|(vendor, _)| *vendor == Vendor::Cloudflare)?;
        match self {
            Self::Edge500 => Some((cloudflare, EdgeFault::Error500)),
            Self::EdgeRefusal => Some((cloudflare, EdgeFault::Refusal)),
            Self::EdgeHalf => Some((cloudflare, EdgeFault::Half)),
            Self::EdgeChallenge => Some((cloudflare, EdgeFault::Challenge)),
            Self::TcpTimeout => Some((world.unlucky.edge, EdgeFault::TcpTimeout)),
            Self::TlsAlert => Some((world.unlucky.edge, EdgeFault::TlsAlert)),
            Self::None | Self::DnsServfail | Self::OneSite | Self::OneNetwork => None,
        }
    }

    /// What a right collector confirms, and nothing besides.
    ///
    /// # Panics
    /// Never: the world's names are identifiers, as its tests show.
    #[must_use]
    pub fn expected(self, world: &World) -> Expected {
        let id = |text: &str| text.parse::<Id>().expect("the world's names are identifiers");
        match self {
            Self::None | Self::EdgeChallenge | Self::OneNetwork => Expected::NothingGlobal,
            Self::DnsServfail => Expected::ProviderGlobal {
                provider: id(world.dns.get(world.unlucky.dns).map_or("", |dns| dns.id)),
                role: Layer::Dns,
            },
            Self::OneSite => Expected::Site {
                target: id(world.sites.get(world.unlucky.site).map_or("", |site| &site.id)),
            },
            Self::Edge500
            | Self::EdgeRefusal
            | Self::TcpTimeout
            | Self::TlsAlert
            | Self::EdgeHalf => {
                let edge = self.edge(world).and_then(|(edge, _)| world.edges.get(edge));
                let provider = id(edge.map_or("", |(vendor, _)| vendor.id()));
                Expected::ProviderGlobal { provider, role: Layer::Edge }
            }
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Text that names no fault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnknownFault(String);

impl fmt::Display for UnknownFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} is no fault; there are", self.0)?;
        Fault::ALL.iter().try_for_each(|fault| write!(f, " {fault}"))
    }
}

impl std::error::Error for UnknownFault {}

impl FromStr for Fault {
    type Err = UnknownFault;
    fn from_str(text: &str) -> Result<Self, UnknownFault> {
        let found = Self::ALL.into_iter().find(|fault| fault.as_str() == text);
        found.ok_or_else(|| UnknownFault(text.to_owned()))
    }
}

/// The only incident that may be confirmed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expected {
    /// One of a provider in a role, everywhere.
    ProviderGlobal {
        /// The provider.
        provider: Id,
        /// The role: edge or dns.
        role: Layer,
    },
    /// One of a site alone.
    Site {
        /// The site.
        target: Id,
    },
    /// None that is global.
    NothingGlobal,
}

/// How an edge behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EdgeFault {
    /// Well.
    Healthy,
    /// Its own error page for every site.
    Error500,
    /// A 500 page that asks to unblock the challenge host.
    Refusal,
    /// SYNs go unanswered.
    TcpTimeout,
    /// A fatal alert answers each ClientHello.
    TlsAlert,
    /// As [`EdgeFault::Error500`] for the lower half of its sites.
    Half,
    /// A challenge page for every site.
    Challenge,
}

impl EdgeFault {
    /// Whether connections that are open when it begins end there.
    pub(super) const fn cuts(self) -> bool {
        matches!(self, Self::TcpTimeout | Self::TlsAlert)
    }
}

/// The switches. Servers look at them for every query, connection and request.
#[derive(Debug)]
pub struct FaultBoard {
    edges: Vec<EdgeSwitch>,
    dns_servfail: Vec<AtomicBool>,
    site_down: Vec<AtomicBool>,
    /// 0 is none.
    dropped_asn: AtomicU32,
}

/// What an edge shall do, and what it does by now.
#[derive(Debug)]
pub(super) struct EdgeSwitch {
    pub(super) wanted: watch::Sender<EdgeFault>,
    pub(super) in_force: watch::Sender<EdgeFault>,
}

impl FaultBoard {
    pub(super) fn new(world: &World) -> Self {
        let healthy = || watch::Sender::new(EdgeFault::Healthy);
        let switch = |_: &_| EdgeSwitch { wanted: healthy(), in_force: healthy() };
        Self {
            edges: world.edges.iter().map(switch).collect(),
            dns_servfail: world.dns.iter().map(|_| AtomicBool::new(false)).collect(),
            site_down: world.sites.iter().map(|_| AtomicBool::new(false)).collect(),
            dropped_asn: AtomicU32::new(0),
        }
    }

    /// Sets every switch as a fault wants it, the others to healthy.
    pub(super) fn set(&self, world: &World, fault: Fault) {
        let broken = fault.edge(world);
        for (at, switch) in self.edges.iter().enumerate() {
            let mode = broken.filter(|(edge, _)| *edge == at).map(|(_, mode)| mode);
            switch.wanted.send_replace(mode.unwrap_or(EdgeFault::Healthy));
        }
        let only = |switches: &[AtomicBool], which: Option<usize>| {
            for (at, switch) in switches.iter().enumerate() {
                switch.store(which == Some(at), Relaxed);
            }
        };
        only(&self.dns_servfail, (fault == Fault::DnsServfail).then_some(world.unlucky.dns));
        only(&self.site_down, (fault == Fault::OneSite).then_some(world.unlucky.site));
        let asn = if fault == Fault::OneNetwork { world.unlucky.asn } else { 0 };
        self.dropped_asn.store(asn, Relaxed);
    }

    /// Returns once every edge does what its switch says.
    pub(super) async fn in_force(&self) {
        for switch in &self.edges {
            let wanted = *switch.wanted.borrow();
            let mut in_force = switch.in_force.subscribe();
            let reached = in_force.wait_for(|mode| *mode == wanted).await;
            reached.expect("the board itself holds the sender");
        }
    }

    pub(super) fn edge(&self, edge: usize) -> Option<&EdgeSwitch> {
        self.edges.get(edge)
    }

    pub(super) fn dns_servfail(&self, provider: usize) -> bool {
        self.dns_servfail.get(provider).is_some_and(|switch| switch.load(Relaxed))
    }

    pub(super) fn site_down(&self, site: usize) -> bool {
        self.site_down.get(site).is_some_and(|switch| switch.load(Relaxed))
    }

    pub(super) fn drops(&self, asn: u32) -> bool {
        self.dropped_asn.load(Relaxed) == asn
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back() {
        for fault in Fault::ALL {
            assert_eq!(fault.to_string().parse(), Ok(fault));
        }
        assert!("edge_500".parse::<Fault>().is_err());
    }

    #[test]
    fn every_fault_has_an_expectation() {
        for seed in 0..20 {
            let world = World::new(seed);
            for fault in Fault::ALL {
                let expected = fault.expected(&world);
                let edge = matches!(expected, Expected::ProviderGlobal { role: Layer::Edge, .. });
                let quiet = fault == Fault::EdgeChallenge;
                assert_eq!(edge || quiet, fault.edge(&world).is_some(), "{fault}");
            }
        }
    }
}
