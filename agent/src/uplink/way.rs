//! Which way to a collector: over which transport, to which of its addresses, and what is tried
//! when. Pure: time is told, and nobody is connected to here.

use std::{collections::BTreeSet, fmt, net::SocketAddr, time::Duration};

use serde::{Deserialize, Serialize};

/// What a session travels over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Via {
    /// QUIC, as it should.
    Quic,
    /// TLS on TCP, where UDP does not pass.
    Tcp,
}

impl Via {
    /// Stable name, as in JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Quic => "quic",
            Self::Tcp => "tcp",
        }
    }
}

impl fmt::Display for Via {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Quic => "QUIC",
            Self::Tcp => "TCP",
        })
    }
}

/// What the user lets a session travel over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    /// QUIC; TCP where that does not come through, until it does.
    #[default]
    Auto,
    /// QUIC alone.
    Quic,
    /// TCP alone.
    Tcp,
}

impl Transport {
    /// What is tried, the best first.
    #[must_use]
    pub const fn vias(self) -> &'static [Via] {
        match self {
            Self::Auto => &[Via::Quic, Via::Tcp],
            Self::Quic => &[Via::Quic],
            Self::Tcp => &[Via::Tcp],
        }
    }
}

/// One way to a collector.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Way {
    /// Over what.
    pub via: Via,
    /// Where to.
    pub address: SocketAddr,
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} over {}", self.address, self.via)
    }
}

/// How long is waited before something else is tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// Between the beginnings of two attempts over one transport (RFC 8305 section 8).
    pub stagger: Duration,
    /// From the first attempt over QUIC to the first over TCP. QUIC takes one round trip, or two
    /// when a packet is lost or a Retry comes, so where it passes it has mostly won by then; and where it
    /// does not, five seconds are enough for TCP even over a satellite.
    pub tcp_after: Duration,
    /// From the beginning of a session over TCP to the next attempt over QUIC, at most. Where UDP is
    /// blocked an attempt costs some packets that nobody answers.
    pub back_after: Duration,
    /// It doubles with every attempt in vain, up to this.
    pub back_after_max: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            stagger: Duration::from_millis(250),
            tcp_after: Duration::from_millis(1_500),
            back_after: Duration::from_secs(600),
            back_after_max: Duration::from_secs(2 * 3600),
        }
    }
}

/// Addresses of both families in turn, beginning with the first one's (RFC 8305 section 4): a
/// family that leads nowhere holds nobody up.
fn in_turn(addresses: &[SocketAddr]) -> Vec<SocketAddr> {
    let first_v4 = addresses.first().is_some_and(SocketAddr::is_ipv4);
    let of = |v4: bool| addresses.iter().copied().filter(move |address| address.is_ipv4() == v4);
    let (mut these, mut others) = (of(first_v4), of(!first_v4));
    let mut order = Vec::with_capacity(addresses.len());
    while order.len() < addresses.len() {
        order.extend(these.next());
        order.extend(others.next());
    }
    order
}

/// A race of ways: which one begins when. Times are since its beginning.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Race {
    waiting: Vec<(Duration, Way)>,
    running: usize,
}

impl Race {
    /// Of every address over these transports, but for some ways. TCP waits for QUIC where both run.
    #[must_use]
    pub fn new(
        addresses: &[SocketAddr],
        vias: &[Via],
        without: &BTreeSet<Way>,
        pace: Pace,
    ) -> Self {
        let addresses = in_turn(addresses);
        let mut waiting = Vec::new();
        let mut begin = Duration::ZERO;
        for via in vias {
            let ways = addresses.iter().map(|address| Way { via: *via, address: *address });
            let mut at = begin;
            for way in ways.filter(|way| !without.contains(way)) {
                waiting.push((at, way));
                at += pace.stagger;
                begin = pace.tcp_after;
            }
        }
        Self { waiting, running: 0 }
    }

    /// Of one way alone.
    #[must_use]
    pub fn of(way: Way) -> Self {
        Self { waiting: vec![(Duration::ZERO, way)], running: 0 }
    }

    /// Whether anybody runs over this transport.
    #[must_use]
    pub fn is_over(&self, via: Via) -> bool {
        self.waiting.iter().any(|(_, way)| way.via == via)
    }

    /// Whether nobody runs.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// When the next way begins; `None` when all have.
    #[must_use]
    pub fn next_at(&self) -> Option<Duration> {
        self.waiting.iter().map(|(at, _)| *at).min()
    }

    /// The next way to begin now.
    pub fn begin(&mut self, elapsed: Duration) -> Option<Way> {
        let at = self.next_at().filter(|at| *at <= elapsed)?;
        let first = self.waiting.iter().position(|(due, _)| *due == at)?;
        self.running += 1;
        Some(self.waiting.remove(first).1)
    }

    /// A way has failed. The next over its transport begins at once, and where nothing is left to
    /// wait for, whatever is next.
    pub fn failed(&mut self, way: Way) {
        self.running = self.running.saturating_sub(1);
        let alike = self.waiting.iter().position(|(_, next)| next.via == way.via);
        let next = alike.or((self.running == 0).then_some(0));
        if let Some((at, _)) = next.and_then(|next| self.waiting.get_mut(next)) {
            *at = Duration::ZERO;
        }
    }
}

/// What was learned of the ways to one collector.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Learned {
    /// Connected, and no session came of it, or it fell silent. Others go before.
    shunned: BTreeSet<Way>,
    /// What is connected now.
    now: Option<Way>,
}

impl Learned {
    /// The next race to these addresses.
    #[must_use]
    pub fn race(&mut self, addresses: &[SocketAddr], transport: Transport, pace: Pace) -> Race {
        self.now = None;
        let race = Race::new(addresses, transport.vias(), &self.shunned, pace);
        if !race.is_empty() {
            return race;
        }
        self.shunned.clear();
        Race::new(addresses, transport.vias(), &self.shunned, pace)
    }

    /// This way has won.
    pub const fn connected(&mut self, way: Way) {
        self.now = Some(way);
    }

    /// It is over: whether there was a session, and whether it ended in silence.
    pub fn ended(&mut self, ready: bool, silent: bool) {
        let way = self.now.take();
        if ready || way.is_none() {
            self.shunned.clear();
        }
        self.shunned.extend(way.filter(|_| silent || !ready));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PACE: Pace = Pace {
        stagger: Duration::from_millis(250),
        tcp_after: Duration::from_millis(1_500),
        back_after: Duration::from_secs(600),
        back_after_max: Duration::from_secs(7_200),
    };

    fn addresses(texts: &[&str]) -> Vec<SocketAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn way(via: Via, address: &str) -> Way {
        Way { via, address: address.parse().unwrap() }
    }

    const A: &str = "192.0.2.1:1";
    const B: &str = "192.0.2.2:1";
    const SIX: &str = "[2001:db8::1]:1";

    /// What has begun at each of these times.
    fn begun(race: &mut Race, at_ms: &[u64]) -> Vec<Vec<Way>> {
        let at = |ms: &u64| {
            let mut all = Vec::new();
            while let Some(way) = race.begin(Duration::from_millis(*ms)) {
                all.push(way);
            }
            all
        };
        at_ms.iter().map(at).collect()
    }

    #[test]
    fn families_take_turns_and_tcp_waits() {
        assert_eq!(in_turn(&addresses(&[A, B, SIX])), addresses(&[A, SIX, B]));
        assert_eq!(in_turn(&addresses(&[SIX, A, B])), addresses(&[SIX, A, B]));
        assert!(in_turn(&[]).is_empty());
        let all = addresses(&[A, SIX]);
        let mut race = Race::new(&all, Transport::Auto.vias(), &BTreeSet::new(), PACE);
        assert!(race.is_over(Via::Quic) && race.is_over(Via::Tcp));
        let [q4, q6] = [A, SIX].map(|address| way(Via::Quic, address));
        let [t4, t6] = [A, SIX].map(|address| way(Via::Tcp, address));
        assert_eq!(
            begun(&mut race, &[0, 249, 250, 1_499, 1_500, 1_750]),
            [vec![q4], vec![], vec![q6], vec![], vec![t4], vec![t6]]
        );
        assert_eq!(race.next_at(), None);
        // Alone, TCP waits for nobody.
        for transport in [Transport::Quic, Transport::Tcp] {
            let mut race = Race::new(&all, transport.vias(), &BTreeSet::new(), PACE);
            assert_eq!(begun(&mut race, &[0, 250]).concat().len(), 2);
            assert!(race.is_empty());
        }
    }

    #[test]
    fn who_fails_makes_way() {
        let all = addresses(&[A, B]);
        let mut race = Race::new(&all, Transport::Auto.vias(), &BTreeSet::new(), PACE);
        assert_eq!(race.begin(Duration::ZERO), Some(way(Via::Quic, A)));
        race.failed(way(Via::Quic, A));
        let now = Duration::from_millis(1);
        assert_eq!(race.begin(now), Some(way(Via::Quic, B)));
        assert_eq!(race.next_at(), Some(PACE.tcp_after));
        race.failed(way(Via::Quic, B));
        assert_eq!(race.begin(now), Some(way(Via::Tcp, A)));
        assert_eq!(race.begin(now), None, "the second waits for its turn");
        race.failed(way(Via::Tcp, A));
        assert_eq!(race.begin(now), Some(way(Via::Tcp, B)));
        race.failed(way(Via::Tcp, B));
        assert_eq!((race.begin(now), race.next_at()), (None, None));
    }

    #[test]
    fn what_led_nowhere_comes_last() {
        let one = addresses(&[A]);
        let mut learned = Learned::default();
        let first = |learned: &mut Learned| {
            learned.race(&one, Transport::Auto, PACE).begin(Duration::ZERO).unwrap()
        };
        let (quic, tcp) = (way(Via::Quic, A), way(Via::Tcp, A));
        // Connected, no session: the other way, at once. That neither: from the beginning.
        for expect in [quic, tcp, quic, tcp] {
            assert_eq!(first(&mut learned), expect);
            learned.connected(expect);
            learned.ended(false, false);
        }
        // A session in between: nothing is held against anybody.
        assert_eq!(first(&mut learned), quic);
        learned.connected(quic);
        learned.ended(true, false);
        assert_eq!(first(&mut learned), quic);
        // It stood, and then fell silent: the network may have begun to block it.
        learned.connected(quic);
        learned.ended(true, true);
        assert_eq!(first(&mut learned), tcp);
        // That cannot be connected at all: everything is tried again.
        learned.ended(false, false);
        assert_eq!(first(&mut learned), quic);
    }
}
