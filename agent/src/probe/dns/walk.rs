//! The independent path: from the root servers along their referrals to the servers of the name.
//!
//! Referrals are kept for as long as they say, so that a name's own servers can be asked with a
//! question or two: what resolvers have kept hides an outage of name servers for minutes.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use hickory_proto::{
    op::{Message, ResponseCode},
    rr::{Name, RData},
};
use tocsin_proto::{observation::Family, outcome::Outcome};
use tokio::time::timeout;

use super::{
    super::{Deadline, tcp::Traffic},
    ALIASES_MAX, Resolved, Resolver, Verdict, absolute, address, judge, query, record_type,
};
use crate::clock::monotonic;

/// Patience with one name server, which has others beside it.
const PATIENCE: Duration = Duration::from_millis(500);
/// Queries of one resolution. A name behind two aliases in cold zones needs nine.
const QUERIES_MAX: usize = 12;
/// Root servers of each family tried before the path counts as closed, and silences of them: so half
/// of the phase is left for the public resolvers.
const ROOTS_TRIED: usize = 2;
/// Name servers of one zone tried before the zone counts as failed: of several names, so that one
/// operator of two is not taken for both.
const SERVERS_V4: usize = 4;
/// And so many by IPv6, more where there is nothing else.
const SERVERS_V6: usize = 2;
/// Silent ones before the others are not waited for.
const SILENT_MAX: usize = 3;
/// Walks running in which no root answers, while other probes do, before the path counts as closed.
const SILENT_WALKS: u8 = 3;
/// A referral is kept so long at most. RFC 8767 section 4 recommends seven days to resolvers; we want to
/// see each delegation anew every day.
const KEPT_MAX: Duration = Duration::from_secs(86_400);
/// And so long at least, whatever it says: no query more for whoever says nothing.
const KEPT_MIN: Duration = Duration::from_secs(300);
/// Zones kept. The catalogue's names live in a few hundred.
const ZONES_MAX: usize = 4_096;
/// A path that is closed is not tried again before: it is closed by the network that we are in.
const CLOSED_FOR: Duration = Duration::from_secs(3_600);

/// What referrals have said: the name servers of zones.
#[derive(Default)]
pub(super) struct Delegations {
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    zones: BTreeMap<Name, Zone>,
    closed_until: Option<Instant>,
    /// Walks running in which no root has answered.
    silent: u8,
}

struct Zone {
    servers: Vec<IpAddr>,
    until: Instant,
}

impl Delegations {
    fn with<T>(&self, act: impl FnOnce(&mut Known) -> T) -> T {
        act(&mut self.known.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The closest zone above the name whose servers are known.
    fn closest(&self, name: &Name) -> Option<(Name, Vec<IpAddr>)> {
        let now = monotonic();
        self.with(|known| {
            let above = std::iter::successors(Some(name.to_lowercase()), |zone| {
                (!zone.is_root()).then(|| zone.base_name())
            });
            above
                .filter_map(|zone| known.zones.get_key_value(&zone))
                .find(|(_, kept)| kept.until > now)
                .map(|(zone, kept)| (zone.clone(), kept.servers.clone()))
        })
    }

    fn learn(&self, zone: &Name, servers: &[IpAddr], ttl_s: u32) {
        let until = monotonic() + Duration::from_secs(ttl_s.into()).clamp(KEPT_MIN, KEPT_MAX);
        self.with(|known| {
            if known.zones.len() >= ZONES_MAX {
                known.zones.clear();
            }
            known.zones.insert(zone.to_lowercase(), Zone { servers: servers.to_vec(), until });
        });
    }

    /// Forgets what led to the name below its top-level domain: it may have moved.
    fn forget(&self, name: &Name) {
        let name = name.to_lowercase();
        let of_it = |zone: &Name| zone.num_labels() > 1 && zone.zone_of(&name);
        self.with(|known| known.zones.retain(|zone, _| !of_it(zone)));
    }

    /// Another network: what was closed there is open here, perhaps.
    pub(super) fn moved(&self) {
        self.with(|known| *known = Known::default());
    }

    /// No root has answered, though the line is fine.
    fn silence(&self) {
        let closed = self.with(|known| {
            known.silent = known.silent.saturating_add(1);
            known.silent >= SILENT_WALKS
        });
        if closed {
            self.close();
        }
    }

    fn heard(&self) {
        self.with(|known| known.silent = 0);
    }

    fn is_closed(&self) -> bool {
        self.with(|known| known.closed_until.is_some_and(|until| until > monotonic()))
    }

    fn close(&self) {
        self.with(|known| {
            *known = Known { closed_until: Some(monotonic() + CLOSED_FOR), ..Known::default() };
        });
    }
}

/// A zone's name servers, with the addresses that came along.
struct Referral {
    zone: Name,
    ttl_s: u32,
    servers: Vec<(Name, Vec<IpAddr>)>,
}

enum Step {
    Answer(Resolved),
    Alias(Name, Vec<String>),
    Referral(Referral),
    Failed(Outcome),
}

/// One resolution under way.
pub(super) struct Walk<'a> {
    resolver: &'a Resolver,
    deadline: Deadline,
    traffic: &'a Arc<Traffic>,
    queries_left: usize,
    /// Whether it begins at what is known, not at the roots.
    knows: bool,
}

impl<'a> Walk<'a> {
    /// From the roots: the whole of the path is looked at.
    pub(super) const fn from_roots(
        resolver: &'a Resolver,
        deadline: Deadline,
        traffic: &'a Arc<Traffic>,
    ) -> Self {
        Self { resolver, deadline, traffic, queries_left: QUERIES_MAX, knows: false }
    }

    /// From the closest servers that are known; `None` while the path is closed.
    pub(super) fn direct(
        resolver: &'a Resolver,
        deadline: Deadline,
        traffic: &'a Arc<Traffic>,
    ) -> Option<Self> {
        let open = !resolver.delegations.is_closed();
        open.then(|| Self { knows: true, ..Self::from_roots(resolver, deadline, traffic) })
    }

    /// What is found of the name.
    pub(super) async fn run(mut self, name: &Name, family: Family) -> Verdict {
        let verdict = self.resolve(name.clone(), family, true).await;
        if matches!(verdict, Verdict::Failed(_)) {
            self.resolver.delegations.forget(name);
        }
        verdict
    }

    /// Where the first question about a name goes, and the zone that is asked.
    fn start(&self, name: &Name) -> (Name, Vec<IpAddr>) {
        let resolver = self.resolver;
        let known = if self.knows { resolver.delegations.closest(name) } else { None };
        if let Some((zone, servers)) = known {
            return (zone, resolver.turned(&servers).collect());
        }
        // Over IPv4 first whatever the family: the family of the target is what is probed.
        let roots: Vec<IpAddr> = resolver.turned(&resolver.independent.roots).collect();
        let (v4, v6): (Vec<_>, Vec<_>) = roots.into_iter().partition(IpAddr::is_ipv4);
        let v6 = v6.into_iter().take(ROOTS_TRIED);
        (Name::root(), v4.into_iter().take(ROOTS_TRIED).chain(v6).collect())
    }

    /// Resolves from the roots. Name servers without glue are resolved the same way, but theirs
    /// are not (`deep` is false then): two levels are enough for the real world and bounded.
    async fn resolve(&mut self, name: Name, family: Family, deep: bool) -> Verdict {
        let mut name = name;
        let mut cname = Vec::new();
        'alias: for _ in 0..ALIASES_MAX {
            let (mut zone, mut servers) = self.start(&name);
            loop {
                let step = match self.ask_any(&servers, &name, family, &zone).await {
                    Ok(step) => step,
                    Err(verdict) => return verdict,
                };
                let referral = match step {
                    Step::Answer(mut resolved) => {
                        cname.append(&mut resolved.cname);
                        resolved.cname = cname;
                        return Verdict::Resolved(resolved);
                    }
                    Step::Failed(outcome) => return Verdict::Failed(outcome),
                    Step::Alias(target, mut chain) => {
                        cname.append(&mut chain);
                        name = target;
                        continue 'alias;
                    }
                    Step::Referral(referral) => referral,
                };
                let Referral { zone: below, ttl_s, servers: names } = referral;
                let Some(found) = self.servers(names, deep).await else { return Verdict::NoAnswer };
                (zone, servers) = (below, found);
                if servers.is_empty() {
                    // Our own bounds prove nothing of the name.
                    let spent = self.queries_left == 0 || self.deadline.left().is_zero();
                    return match spent {
                        true => Verdict::NoAnswer,
                        false => Verdict::Failed(Outcome::DnsUnreachable),
                    };
                }
                self.resolver.delegations.learn(&zone, &servers, ttl_s);
            }
        }
        Verdict::Failed(Outcome::DnsServfail)
    }

    /// The addresses of a zone's name servers that may be asked; `None` when our own bounds kept us
    /// from finding them.
    async fn servers(&mut self, zone: Vec<(Name, Vec<IpAddr>)>, deep: bool) -> Option<Vec<IpAddr>> {
        let allowed = &self.resolver.allowed;
        // The first addresses of all names before the second ones of any.
        let most = zone.iter().map(|(_, addresses)| addresses.len()).max().unwrap_or(0);
        let glue = (0..most).flat_map(|n| zone.iter().filter_map(move |(_, ips)| ips.get(n)));
        let mut servers: Vec<IpAddr> =
            glue.copied().filter(|ip| allowed.may_connect(*ip)).collect();
        let glueless = zone.iter().all(|(_, addresses)| addresses.is_empty());
        if servers.is_empty() && glueless && !deep {
            return None;
        }
        if servers.is_empty() && deep {
            let mut bounded = false;
            for (server, _) in zone.into_iter().take(2) {
                for family in [Family::V4, Family::V6] {
                    let found = Box::pin(self.resolve(server.clone(), family, false)).await;
                    match found {
                        Verdict::Resolved(found) => {
                            let found = found.addresses.into_iter();
                            servers.extend(found.filter(|ip| allowed.may_connect(*ip)));
                            break;
                        }
                        Verdict::NoAnswer => bounded = true,
                        Verdict::Failed(_) => {}
                    }
                }
                if !servers.is_empty() {
                    break;
                }
            }
            if servers.is_empty() && bounded {
                return None;
            }
        }
        let (v4, v6): (Vec<_>, Vec<_>) = servers.into_iter().partition(IpAddr::is_ipv4);
        let of_v6 = if v4.is_empty() { SERVERS_V4 } else { SERVERS_V6 };
        Some(v4.into_iter().take(SERVERS_V4).chain(v6.into_iter().take(of_v6)).collect())
    }

    /// The first useful answer of a zone's servers; the last failure when there is none.
    async fn ask_any(
        &mut self,
        servers: &[IpAddr],
        name: &Name,
        family: Family,
        zone: &Name,
    ) -> Result<Step, Verdict> {
        let at_root = zone.is_root();
        let delegations = &self.resolver.delegations;
        let query = query(name, record_type(family), false);
        let mut failure = if at_root { None } else { Some(Outcome::DnsTimeout) };
        let mut silent = 0;
        for server in servers {
            let left = self.deadline.left().min(PATIENCE);
            if silent == if at_root { ROOTS_TRIED } else { SILENT_MAX } {
                break;
            }
            if self.queries_left == 0 || left.is_zero() {
                return Err(Verdict::NoAnswer);
            }
            self.queries_left -= 1;
            let server = SocketAddr::new(*server, self.resolver.independent.port);
            let reply = match timeout(left, self.exchange(server, &query)).await {
                // Silence within less than the patience is our haste.
                Err(_) if left < PATIENCE => return Err(Verdict::NoAnswer),
                Err(_) => {
                    silent += 1;
                    continue;
                }
                Ok(Err(_)) => {
                    failure = if at_root { None } else { Some(Outcome::DnsUnreachable) };
                    continue;
                }
                Ok(Ok(reply)) => reply,
            };
            let has_authority = reply.metadata.authoritative;
            let step = read(&reply, name, family);
            if at_root {
                // Roots refer, or know that there is no such top-level domain; none recurses. Who says
                // anything else answers in their place.
                let is_root = !reply.metadata.recursion_available
                    && match &step {
                        Step::Referral(_) => true,
                        Step::Failed(outcome) => *outcome == Outcome::DnsNxdomain && has_authority,
                        Step::Answer(_) | Step::Alias(..) => has_authority,
                    };
                if !is_root {
                    delegations.close();
                    return Err(Verdict::NoAnswer);
                }
                delegations.heard();
            }
            match step {
                // A failing server is one server's trouble, and only who has authority knows that there is
                // nothing; the next may do.
                Step::Failed(
                    outcome @ (Outcome::DnsServfail | Outcome::DnsRefused | Outcome::DnsBogus),
                ) => failure = Some(outcome),
                Step::Failed(_) if !has_authority => failure = Some(Outcome::DnsServfail),
                // Who refers upwards or aside knows nothing of the zone, and may not speak of others.
                Step::Referral(referral)
                    if !zone.zone_of(&referral.zone)
                        || referral.zone.num_labels() <= zone.num_labels() =>
                {
                    failure = Some(Outcome::DnsServfail);
                }
                step => return Ok(step),
            }
        }
        if at_root && failure.is_none() && self.knows {
            delegations.silence();
        }
        Err(failure.map_or(Verdict::NoAnswer, Verdict::Failed))
    }

    /// One question; once more in the old form for servers that do not know EDNS (RFC 6891 section 7).
    async fn exchange(&self, server: SocketAddr, query: &Message) -> std::io::Result<Message> {
        let resolver = self.resolver;
        let reply = resolver.exchange(server, query, self.traffic, false).await?;
        if !matches!(reply.metadata.response_code, ResponseCode::FormErr | ResponseCode::NotImp) {
            return Ok(reply);
        }
        let mut plain = query.clone();
        plain.edns = None;
        resolver.exchange(server, &plain, self.traffic, false).await
    }
}

/// What an authoritative server's reply says.
fn read(reply: &Message, name: &Name, family: Family) -> Step {
    match judge(reply, name, family) {
        Ok(resolved) => return Step::Answer(resolved),
        Err((Outcome::DnsNodata, chain)) => {
            if !chain.is_empty()
                && let Some(target) = chain.last().and_then(|target| absolute(target))
            {
                return Step::Alias(target, chain);
            }
        }
        // RFC 6604 section 3: the code is the last alias' own, which another zone may know better.
        Err((Outcome::DnsNxdomain, chain)) if !chain.is_empty() => {
            if let Some(target) = chain.last().and_then(|target| absolute(target)) {
                return Step::Alias(target, chain);
            }
            return Step::Failed(Outcome::DnsNxdomain);
        }
        Err((outcome, _)) => return Step::Failed(outcome),
    }
    let of_name = reply.authorities.iter().filter(|record| record.name.zone_of(name));
    let servers = of_name.filter_map(|record| match &record.data {
        RData::NS(server) => Some((record, server)),
        _ => None,
    });
    let zone = servers.clone().next().map(|(record, _)| (record.name.clone(), record.ttl));
    match zone.filter(|_| !reply.metadata.authoritative) {
        Some((zone, ttl_s)) => {
            let own = servers.filter(|(record, _)| record.name.eq_ignore_root(&zone));
            let servers = own.map(|(_, server)| (server.0.clone(), glue(reply, &server.0)));
            Step::Referral(Referral { servers: servers.take(13).collect(), zone, ttl_s })
        }
        None => Step::Failed(Outcome::DnsNodata),
    }
}

fn glue(reply: &Message, server: &Name) -> Vec<IpAddr> {
    let own = reply.additionals.iter().filter(|record| record.name.eq_ignore_root(server));
    own.filter_map(address).collect()
}
