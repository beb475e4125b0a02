//! Probing: one bounded attempt at one target, phase by phase, each with its own deadline.
//!
//! A probe resolves the name, connects, shakes hands and asks for the page up to the end of the
//! response headers. It decides nothing about when to probe and nothing about whose fault a
//! failure is beyond what `engine::classify` reads in the answer. It never connects to an address
//! that `engine::address` refuses, and follows redirects only to the target itself, with or
//! without `www.`.

mod dns;
mod http;
pub mod portal;
pub mod profile;
mod tcp;
mod tls;

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use rustls_pki_types::CertificateDer;
use tocsin_proto::{
    catalogue::Target,
    implicate::{DnsPath, Layer},
    observation::Family,
    outcome::{Outcome, Phase},
    rules::{RuleNumber, RuleTable},
};
use tokio::time::timeout;

use self::{
    dns::{Resolver, Verdict as DnsVerdict},
    http::{ACCEPT_PAGE, ACCEPT_PROBLEM, Answer, Ask, Session},
    profile::Profile,
    tcp::Traffic,
    tls::Connectors,
};
use crate::{
    clock::monotonic,
    engine::{
        address::Allowed,
        classify::{self, Response},
        planner::Names,
    },
};

/// For an answer of the system's resolvers, and again for the independent path.
pub const DNS_DEADLINE: Duration = Duration::from_secs(2);
/// For a TCP connection: one retransmitted SYN fits in.
pub const TCP_DEADLINE: Duration = Duration::from_secs(3);
/// For a TLS handshake.
pub const TLS_DEADLINE: Duration = Duration::from_secs(3);
/// From the request to the end of the response headers.
pub const FIRST_BYTE_DEADLINE: Duration = Duration::from_secs(4);
/// For the whole probe, redirects included. Each phase gets what is left of it, if that is less.
pub const PROBE_DEADLINE: Duration = Duration::from_secs(6);
/// Redirects followed within the same site.
pub const REDIRECTS_MAX: usize = 3;
/// Addresses tried where the first cannot be connected to, as browsers do.
const ADDRESSES_MAX: usize = 3;
/// Longest Retry-After that is believed, in seconds: a day.
const RETRY_AFTER_MAX_S: u32 = 86_400;

/// What the independent path of name resolution asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Independent {
    /// The root servers.
    pub roots: Vec<IpAddr>,
    /// The port of the root servers and of all that they refer to.
    pub port: u16,
    /// Public resolvers, of operators that are not watched, for networks where port 53 is closed.
    pub fallback: Vec<PublicResolver>,
}

/// A resolver that serves everybody.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicResolver {
    /// Where it is.
    pub address: SocketAddr,
    /// Its name in the certificate, for DNS over TLS (RFC 7858); `None` for plain DNS.
    pub tls: Option<String>,
}

/// Resolvers that do not filter, of operators whose services no target stands behind, over TLS on
/// port 853. From their own pages: adguard-dns.io (the non-filtering service), dns.sb, mullvad.net
/// (dns.mullvad.net, without blocking) and nic.cz/odvr; looked up in November 2026.
const PUBLIC_RESOLVERS: &[(&str, &str)] = &[
    ("94.140.14.140", "unfiltered.adguard-dns.com"),
    ("185.222.222.222", "dot.sb"),
    ("194.242.2.2", "dns.mullvad.net"),
    ("193.17.47.1", "odvr.nic.cz"),
    ("2a10:50c0::1:ff", "unfiltered.adguard-dns.com"),
    ("2a09::", "dot.sb"),
    ("2a07:e340::2", "dns.mullvad.net"),
    ("2001:148f:ffff::1", "odvr.nic.cz"),
];
/// The port of DNS over TLS (RFC 7858 section 3.1).
const DNS_TLS_PORT: u16 = 853;

impl Default for Independent {
    /// The 13 root servers of the IANA root hints, over both families, and the bundled resolvers.
    fn default() -> Self {
        const ROOTS_V4: [[u8; 4]; 13] = [
            [198, 41, 0, 4],
            [170, 247, 170, 2],
            [192, 33, 4, 12],
            [199, 7, 91, 13],
            [192, 203, 230, 10],
            [192, 5, 5, 241],
            [192, 112, 36, 4],
            [198, 97, 190, 53],
            [192, 36, 148, 17],
            [192, 58, 128, 30],
            [193, 0, 14, 129],
            [199, 7, 83, 42],
            [202, 12, 27, 33],
        ];
        const ROOTS_V6: [[u16; 8]; 13] = [
            [0x2001, 0x503, 0xba3e, 0, 0, 0, 2, 0x30],
            [0x2801, 0x1b8, 0x10, 0, 0, 0, 0, 0xb],
            [0x2001, 0x500, 2, 0, 0, 0, 0, 0xc],
            [0x2001, 0x500, 0x2d, 0, 0, 0, 0, 0xd],
            [0x2001, 0x500, 0xa8, 0, 0, 0, 0, 0xe],
            [0x2001, 0x500, 0x2f, 0, 0, 0, 0, 0xf],
            [0x2001, 0x500, 0x12, 0, 0, 0, 0, 0xd0d],
            [0x2001, 0x500, 1, 0, 0, 0, 0, 0x53],
            [0x2001, 0x7fe, 0, 0, 0, 0, 0, 0x53],
            [0x2001, 0x503, 0xc27, 0, 0, 0, 2, 0x30],
            [0x2001, 0x7fd, 0, 0, 0, 0, 0, 1],
            [0x2001, 0x500, 0x9f, 0, 0, 0, 0, 0x42],
            [0x2001, 0xdc3, 0, 0, 0, 0, 0, 0x35],
        ];
        let v4 = ROOTS_V4.into_iter().map(IpAddr::from);
        let roots = v4.chain(ROOTS_V6.into_iter().map(IpAddr::from)).collect();
        let fallback = PUBLIC_RESOLVERS.iter().filter_map(|(address, name)| {
            let address = SocketAddr::new(address.parse().ok()?, DNS_TLS_PORT);
            Some(PublicResolver { address, tls: Some((*name).to_owned()) })
        });
        Self { roots, port: 53, fallback: fallback.collect() }
    }
}

/// How this agent probes.
#[derive(Debug, Clone, Default)]
pub struct ProbeSettings {
    /// The source of IPv4 connections; `None` leaves it to the system.
    pub source_v4: Option<Ipv4Addr>,
    /// The source of IPv6 connections; `None` leaves it to the system.
    pub source_v6: Option<Ipv6Addr>,
    /// The resolvers asked first; empty for those of `/etc/resolv.conf`.
    pub resolvers: Vec<SocketAddr>,
    /// What is asked when those fail.
    pub independent: Independent,
    /// Certificate authorities trusted beside the Mozilla roots.
    pub extra_roots: Vec<CertificateDer<'static>>,
    /// Addresses that may be connected to although they are not globally reachable.
    pub allowed: Allowed,
    /// The User-Agent header, with a page that says how to reach us.
    pub user_agent: String,
    /// How connections are opened.
    pub profile: Profile,
}

/// Why no prober could be made of the settings.
#[derive(Debug, thiserror::Error)]
pub enum ProbeSetupError {
    /// An extra root is no certificate of an authority.
    #[error("an extra root is no certificate that can be trusted")]
    ExtraRoot(#[source] rustls::Error),
    /// The cryptography lacks the TLS versions.
    #[error("the TLS versions 1.2 and 1.3 are not at hand")]
    Protocols(#[source] rustls::Error),
    /// The User-Agent cannot stand in a header.
    #[error("the User-Agent {0:?} cannot stand in a header")]
    UserAgent(String),
}

/// What one probe saw.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProbeResult {
    /// What came of it.
    pub outcome: Outcome,
    /// The rule that told whose fault it is.
    pub rule: RuleNumber,
    /// What the two ways of resolving said; `Unconfirmed` when DNS did not fail.
    pub dns: DnsPath,
    /// The HTTP status of the last answer; 0 when there was none.
    pub status: u16,
    /// Time spent in dns, tcp, tls and http, summed over redirects; `None` for phases not reached.
    pub phases: [Option<Duration>; 4],
    /// The whole probe's time.
    pub total: Duration,
    /// The address last connected to, or tried.
    pub address: Option<IpAddr>,
    /// Whether the last TLS session was resumed, so that no certificate was seen.
    pub resumed: bool,
    /// `h2` or `http/1.1`; `None` when there was no answer.
    pub http_version: Option<&'static str>,
    /// The aliases of the target's host, in order, in lower case without the last dot.
    pub cname: Vec<String>,
    /// Bytes received, without the headers below TCP and UDP.
    pub bytes_in: u64,
    /// Bytes sent, without the headers below TCP and UDP.
    pub bytes_out: u64,
    /// How long the site asked to be left alone, in seconds; at most a day.
    pub retry_after_s: Option<u32>,
}

/// How close a probe looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Look {
    /// No TLS session is resumed, so that the certificate is seen.
    pub full_handshake: bool,
    /// How closely its name is looked at.
    pub names: Names,
    /// For the whole probe, where somebody waits for it; else, and at most, [`PROBE_DEADLINE`].
    pub within: Option<Duration>,
}

/// Makes probes. One for the whole program, shared: it keeps the TLS sessions.
pub struct Prober {
    resolver: Resolver,
    connectors: Connectors,
    source_v4: Option<Ipv4Addr>,
    source_v6: Option<Ipv6Addr>,
    allowed: Allowed,
    user_agent: String,
    profile: Profile,
}

impl std::fmt::Debug for Prober {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Prober").field("user_agent", &self.user_agent).finish_non_exhaustive()
    }
}

/// A phase's end: the earlier of its own and the probe's.
#[derive(Debug, Clone, Copy)]
struct Deadline(Instant);

impl Deadline {
    fn left(self) -> Duration {
        self.0.saturating_duration_since(monotonic())
    }
}

/// One probe under way.
struct Attempt {
    started: Instant,
    within: Duration,
    traffic: Arc<Traffic>,
    result: ProbeResult,
}

/// Where to ask.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Place {
    host: String,
    path: String,
}

/// What a probe came to.
#[derive(Debug, Clone, Copy)]
struct Verdict {
    outcome: Outcome,
    rule: RuleNumber,
}

enum Visit {
    End(Verdict),
    Redirect(Place),
}

impl Attempt {
    fn new(within: Option<Duration>) -> Self {
        let within = within.unwrap_or(PROBE_DEADLINE).min(PROBE_DEADLINE);
        let result = ProbeResult {
            outcome: Outcome::Ok,
            rule: RuleNumber::NONE,
            dns: DnsPath::Unconfirmed,
            status: 0,
            phases: [None; 4],
            total: Duration::ZERO,
            address: None,
            resumed: false,
            http_version: None,
            cname: Vec::new(),
            bytes_in: 0,
            bytes_out: 0,
            retry_after_s: None,
        };
        Self { started: monotonic(), within, traffic: Arc::default(), result }
    }

    fn deadline(&self, phase: Duration) -> Deadline {
        let now = monotonic();
        Deadline((now + phase).min(self.started + self.within))
    }

    /// Adds the time since `from` to the phase.
    fn spent(&mut self, phase: Phase, from: Instant) {
        let [dns, tcp, tls, http] = &mut self.result.phases;
        let slot = match phase {
            Phase::Dns => dns,
            Phase::Tcp => tcp,
            Phase::Tls => tls,
            Phase::Http => http,
        };
        *slot = Some(slot.unwrap_or_default() + monotonic().saturating_duration_since(from));
    }

    fn finish(mut self, verdict: Verdict) -> ProbeResult {
        self.result.outcome = verdict.outcome;
        self.result.rule = verdict.rule;
        self.result.total = monotonic().saturating_duration_since(self.started);
        self.result.bytes_in = self.traffic.received();
        self.result.bytes_out = self.traffic.sent();
        self.result
    }
}

impl Prober {
    /// A prober of these settings.
    ///
    /// # Errors
    /// When an extra root or the User-Agent cannot be used, as in [`ProbeSetupError`].
    pub fn new(settings: ProbeSettings) -> Result<Self, ProbeSetupError> {
        let ProbeSettings { source_v4, source_v6, allowed, user_agent, profile, .. } = settings;
        if ::http::HeaderValue::from_str(&user_agent).is_err() {
            return Err(ProbeSetupError::UserAgent(user_agent));
        }
        let connectors = Connectors::new(settings.extra_roots, profile)?;
        let resolver = Resolver::new(
            connectors.bare(),
            (source_v4, source_v6),
            settings.resolvers,
            settings.independent,
            allowed.clone(),
        );
        Ok(Self { resolver, connectors, source_v4, source_v6, allowed, user_agent, profile })
    }

    /// This machine is in another network now: what was learnt of the paths to name servers is of the last.
    pub fn moved(&self) {
        self.resolver.moved();
        self.connectors.moved();
    }

    /// Probes the target once over one family. Takes at most [`PROBE_DEADLINE`], and twice
    /// [`DNS_DEADLINE`] more where the name is looked at closer. Never fails: every failure is an outcome.
    pub async fn probe(&self, target: &Target, family: Family, look: Look) -> ProbeResult {
        let names = look.names;
        let mut attempt = Attempt::new(look.within);
        let mut place = Place { host: target.host.clone(), path: target.path.clone() };
        let mut redirects_left = REDIRECTS_MAX;
        loop {
            let may_follow = redirects_left > 0;
            // The name in doubt is the target's own; the time is for where it leads.
            let own = redirects_left == REDIRECTS_MAX;
            let look = Look { names: if own { look.names } else { Names::Own }, ..look };
            let visit = self.visit(&mut attempt, target, &place, family, look, may_follow);
            match visit.await {
                Ok(Visit::End(verdict)) => {
                    let mut result = attempt.finish(verdict);
                    if names == Names::Direct && result.outcome == Outcome::Ok {
                        self.look_at_name(&mut result, target, family).await;
                    }
                    return result;
                }
                Ok(Visit::Redirect(next)) => {
                    redirects_left -= 1;
                    place = next;
                }
                Err(outcome) => {
                    return attempt.finish(Verdict { outcome, rule: RuleNumber::NONE });
                }
            }
        }
    }

    /// Asks the target's own name servers after all went well, which does not count as time of the
    /// probe. Where they fail, and a walk from the roots does too, that is what was found.
    async fn look_at_name(&self, result: &mut ProbeResult, target: &Target, family: Family) {
        let mut attempt = Attempt::new(None);
        let deadline = attempt.deadline(DNS_DEADLINE);
        let asked = self.resolver.direct(&target.host, family, deadline, &attempt.traffic).await;
        if matches!(asked, DnsVerdict::Failed(outcome) if !is_made_up(outcome, family)) {
            let place = Place { host: target.host.clone(), path: target.path.clone() };
            if let Err(outcome) = self.others_resolve(&mut attempt, &place, family).await {
                (result.outcome, result.rule, result.status) = (outcome, RuleNumber::NONE, 0);
                result.dns = attempt.result.dns;
            }
        }
        result.bytes_in += attempt.traffic.received();
        result.bytes_out += attempt.traffic.sent();
    }

    /// Asks the own resolver and the independent path at the same time, and tells what they said together:
    /// which of them is at fault is known as soon as both have answered. `Unconfirmed` where both resolve, or
    /// the independent path says nothing.
    pub async fn compare_names(&self, host: &str, family: Family, within: Duration) -> DnsPath {
        let attempt = Attempt::new(Some(within));
        let deadline = attempt.deadline(within);
        let (system, independent) = tokio::join!(
            self.resolver.system(host, family, deadline, &attempt.traffic),
            self.resolver.independent(host, family, deadline, &attempt.traffic),
        );
        let may = |addresses: &[IpAddr]| !self.may_connect(addresses).is_empty();
        let own = system.is_ok_and(|resolved| may(&resolved.addresses));
        match independent {
            DnsVerdict::Resolved(resolved) if !own && may(&resolved.addresses) => {
                DnsPath::SystemOnly
            }
            DnsVerdict::Failed(_) if !own => DnsPath::Both,
            DnsVerdict::Failed(_) => DnsPath::IndependentOnly,
            _ => DnsPath::Unconfirmed,
        }
    }

    async fn visit(
        &self,
        attempt: &mut Attempt,
        target: &Target,
        place: &Place,
        family: Family,
        look: Look,
        may_follow: bool,
    ) -> Result<Visit, Outcome> {
        let from = monotonic();
        let resolved = self.resolve(attempt, place, family, look.names).await;
        attempt.spent(Phase::Dns, from);
        let addresses = resolved?;

        let from = monotonic();
        let connected = self.connect(attempt, &addresses, target.port).await;
        attempt.spent(Phase::Tcp, from);
        let stream = connected?;

        let from = monotonic();
        let left = attempt.deadline(TLS_DEADLINE).left();
        let shaken =
            timeout(left, self.connectors.handshake(stream, &place.host, look.full_handshake))
                .await;
        attempt.spent(Phase::Tls, from);
        let stream = shaken.unwrap_or(Err(Outcome::TlsTimeout))?;
        attempt.result.resumed = tls::is_resumed(stream.get_ref().1);

        let from = monotonic();
        let asked = self.ask(attempt, target, place, stream, may_follow).await;
        attempt.spent(Phase::Http, from);
        asked
    }

    /// The addresses of the host that may be connected to; at least one.
    async fn resolve(
        &self,
        attempt: &mut Attempt,
        place: &Place,
        family: Family,
        names: Names,
    ) -> Result<Vec<IpAddr>, Outcome> {
        let deadline = attempt.deadline(DNS_DEADLINE);
        let asked = self.resolver.system(&place.host, family, deadline, &attempt.traffic).await;
        let (outcome, cname) = match asked {
            Ok(resolved) => {
                let addresses = self.may_connect(&resolved.addresses);
                if !addresses.is_empty() {
                    note_cname(&mut attempt.result.cname, resolved.cname);
                    if names == Names::Walk {
                        self.others_resolve(attempt, place, family).await?;
                    }
                    return Ok(addresses);
                }
                (Outcome::DnsNonPublic, resolved.cname)
            }
            Err(failure) => failure,
        };
        note_cname(&mut attempt.result.cname, cname);
        let deadline = attempt.deadline(DNS_DEADLINE);
        let verdict =
            self.resolver.independent(&place.host, family, deadline, &attempt.traffic).await;
        attempt.result.dns = match verdict {
            DnsVerdict::Resolved(resolved) => match self.may_connect(&resolved.addresses).len() {
                0 => DnsPath::Both,
                // Who validates refuses what does not validate, and is right: the walk does not.
                _ if outcome == Outcome::DnsServfail
                    && self.others_resolve(attempt, place, family).await.is_err() =>
                {
                    DnsPath::Both
                }
                _ => DnsPath::SystemOnly,
            },
            DnsVerdict::Failed(_) => DnsPath::Both,
            DnsVerdict::NoAnswer => DnsPath::Unconfirmed,
        };
        Err(outcome)
    }

    /// Whether the name resolves beyond the own resolver: of its servers, and of resolvers that
    /// validate. The first that says no is believed; silence says nothing.
    async fn others_resolve(
        &self,
        attempt: &mut Attempt,
        place: &Place,
        family: Family,
    ) -> Result<(), Outcome> {
        let deadline = attempt.deadline(DNS_DEADLINE);
        let traffic = Arc::clone(&attempt.traffic);
        let (walked, validated) = tokio::join!(
            self.resolver.independent(&place.host, family, deadline, &traffic),
            self.resolver.validating(&place.host, family, deadline, &traffic),
        );
        // Servers that are only slow from here, or do not like to be asked by us, say nothing of the name.
        let slow = matches!(
            walked,
            DnsVerdict::Failed(Outcome::DnsTimeout | Outcome::DnsUnreachable | Outcome::DnsRefused)
        );
        let walked = match slow && !matches!(validated, DnsVerdict::Failed(_)) {
            true => DnsVerdict::NoAnswer,
            false => walked,
        };
        for said in [walked, validated] {
            if let DnsVerdict::Failed(outcome) = said
                && !is_made_up(outcome, family)
            {
                attempt.result.dns = DnsPath::IndependentOnly;
                return Err(outcome);
            }
        }
        Ok(())
    }

    /// The address to connect from.
    fn source_of(&self, to: IpAddr) -> Option<IpAddr> {
        match to {
            IpAddr::V4(_) => self.source_v4.map(IpAddr::V4),
            IpAddr::V6(_) => self.source_v6.map(IpAddr::V6),
        }
    }

    fn may_connect(&self, addresses: &[IpAddr]) -> Vec<IpAddr> {
        addresses.iter().copied().filter(|ip| self.allowed.may_connect(*ip)).collect()
    }

    /// Connects to the first address that takes it; the last failure otherwise. Where there is
    /// another address, one that is silent gets only half of the time.
    async fn connect(
        &self,
        attempt: &mut Attempt,
        addresses: &[IpAddr],
        port: u16,
    ) -> Result<tcp::Counted, Outcome> {
        let deadline = attempt.deadline(TCP_DEADLINE);
        let mut failure = Outcome::TcpTimeout;
        let mut rest = addresses.iter().take(ADDRESSES_MAX).peekable();
        while let Some(ip) = rest.next() {
            attempt.result.address = Some(*ip);
            let source = self.source_of(*ip);
            let left = deadline.left();
            let left = if rest.peek().is_some() { left / 2 } else { left };
            let connecting = tcp::connect(SocketAddr::new(*ip, port), source, &attempt.traffic);
            let connected: Result<_, io::Error> = match timeout(left, connecting).await {
                Ok(connected) => connected,
                Err(_) => Err(io::ErrorKind::TimedOut.into()),
            };
            match connected {
                Ok(stream) => return Ok(stream),
                Err(error) => failure = tcp::outcome(&error),
            }
        }
        Err(failure)
    }

    async fn ask(
        &self,
        attempt: &mut Attempt,
        target: &Target,
        place: &Place,
        stream: tokio_rustls::client::TlsStream<tcp::Counted>,
        may_follow: bool,
    ) -> Result<Visit, Outcome> {
        let deadline = attempt.deadline(FIRST_BYTE_DEADLINE);
        let opened = timeout(deadline.left(), Session::open(stream, self.profile)).await;
        let mut session = opened.unwrap_or(Err(Outcome::HttpTimeout))?;
        let ask = Ask {
            host: &place.host,
            port: target.port,
            path: &place.path,
            accept: ACCEPT_PAGE,
            user_agent: &self.user_agent,
        };
        let answer = session.get(&ask, deadline.left()).await?;
        attempt.result.status = answer.status;
        attempt.result.http_version = Some(answer.version);
        attempt.result.retry_after_s =
            quiet_for(answer.status, answer.header("retry-after"), answer.header("date"));
        let (first, wants_problem) = judge(target, place, &answer);
        let end = |verdict: classify::Verdict<'_>| {
            let rule = verdict.rule.map_or(RuleNumber::NONE, |rule| rule.number);
            Ok(Visit::End(Verdict { outcome: verdict.outcome.outcome(), rule }))
        };
        if wants_problem {
            let ask = Ask { accept: ACCEPT_PROBLEM, ..ask };
            let deadline = attempt.deadline(FIRST_BYTE_DEADLINE);
            // The first answer stands if the second does not come.
            let Ok(second) = session.get(&ask, deadline.left()).await else {
                return end(first);
            };
            let (second, _) = judge(target, place, &second);
            return end(classify::merge(first, second));
        }
        if may_follow
            && first.outcome.outcome() == Outcome::Ok
            && matches!(answer.status, 301 | 302 | 303 | 307 | 308)
            && let Some(next) = answer.header("location").and_then(|to| follow(target, place, to))
        {
            return Ok(Visit::Redirect(next));
        }
        end(first)
    }
}

/// The first host's aliases are the target's; those of a redirect's host are not.
fn note_cname(noted: &mut Vec<String>, cname: Vec<String>) {
    if noted.is_empty() {
        *noted = cname;
    }
}

/// What the answer means, and whether to ask once more for the edge's own word.
fn judge(target: &Target, place: &Place, answer: &Answer) -> (classify::Verdict<'static>, bool) {
    let headers: Vec<(&str, &str)> =
        answer.headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let response = Response {
        status: answer.status,
        headers: &headers,
        body: &answer.body,
        host: &place.host,
    };
    // However faintly an edge is known, it is enough not to take the site for one without.
    let edge = target.roles.iter().find(|role| role.role == Layer::Edge);
    let edge = edge.map(|role| role.provider.as_str());
    let verdict = classify::classify(RuleTable::builtin(), edge, &response);
    (verdict, classify::wants_problem_json(&response))
}

/// Seconds of quiet after a 429 (RFC 6585 section 4) that names none.
const TOO_MANY_QUIET_S: u32 = 600;

/// How long the site asks to be left alone: what it says, or ten minutes after a bare 429.
fn quiet_for(status: u16, header: Option<&str>, date: Option<&str>) -> Option<u32> {
    let asked = header.and_then(|text| retry_after(text, date));
    asked.or((status == 429).then_some(TOO_MANY_QUIET_S))
}

/// Seconds, or a date (RFC 9110 section 10.2.3). A date counts from the one that the same answer
/// bears, so that nobody's clock but the site's own matters; without one it is not understood.
fn retry_after(text: &str, date: Option<&str>) -> Option<u32> {
    let text = text.trim();
    if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
        return Some(text.parse().unwrap_or(RETRY_AFTER_MAX_S).min(RETRY_AFTER_MAX_S));
    }
    let until = httpdate::parse_http_date(text).ok()?;
    let now = httpdate::parse_http_date(date?.trim()).ok()?;
    let seconds = until.duration_since(now).unwrap_or_default().as_secs();
    Some(u32::try_from(seconds).unwrap_or(RETRY_AFTER_MAX_S).min(RETRY_AFTER_MAX_S))
}

/// Where a redirect leads, if it stays at the target: https, the same port, and the target's host
/// with or without `www.`. A parent domain in general may belong to another (`co.uk`).
fn follow(target: &Target, place: &Place, location: &str) -> Option<Place> {
    let location = location.split('#').next().unwrap_or_default();
    if location.starts_with('/') && !location.starts_with("//") {
        let path: ::http::uri::PathAndQuery = location.parse().ok()?;
        return Some(Place { host: place.host.clone(), path: path.to_string() });
    }
    let absolute = match location.strip_prefix("//") {
        Some(rest) => format!("https://{rest}"),
        None => location.to_owned(),
    };
    let uri: ::http::Uri = absolute.parse().ok()?;
    let host = uri.host()?.to_ascii_lowercase();
    let bare = |host: &str| host.strip_prefix("www.").unwrap_or(host).to_owned();
    let same_site = bare(&host) == bare(&target.host);
    let same_port = uri.port_u16().unwrap_or(443) == target.port;
    if uri.scheme_str() != Some("https") || !same_site || !same_port {
        return None;
    }
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    Some(Place { host, path: path.to_owned() })
}

/// Whether the own resolver may rightly know an address where there is none: it makes those of IPv6 up
/// from those of IPv4 where a network has nothing else (DNS64, RFC 6147).
fn is_made_up(outcome: Outcome, family: Family) -> bool {
    outcome == Outcome::DnsNodata && family == Family::V6
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target() -> Target {
        let text = "index = 1\nid = \"a\"\nname = \"A\"\nhost = \"www.a.test\"";
        toml::from_str(text).unwrap()
    }

    #[test]
    fn a_site_is_left_alone_as_long_as_it_asks() {
        assert_eq!(quiet_for(503, Some("30"), None), Some(30));
        assert_eq!(quiet_for(429, None, None), Some(TOO_MANY_QUIET_S));
        assert_eq!(quiet_for(429, Some("5"), None), Some(5));
        assert_eq!(quiet_for(500, None, None), None);
        let (now, later) = ("Wed, 21 Oct 2026 07:28:00 GMT", "Wed, 21 Oct 2026 07:30:00 GMT");
        assert_eq!(quiet_for(503, Some(later), Some(now)), Some(120));
        assert_eq!(quiet_for(503, Some(now), Some(later)), Some(0));
        assert_eq!(quiet_for(503, Some(later), None), None);
    }

    #[test]
    fn only_redirects_within_the_site_are_followed() {
        let place = Place { host: "www.a.test".to_owned(), path: "/".to_owned() };
        let check = |location: &str, expect: Option<(&str, &str)>| {
            let got = follow(&target(), &place, location);
            let got = got.as_ref().map(|place| (place.host.as_str(), place.path.as_str()));
            assert_eq!(got, expect, "{location}");
        };
        check("/de/?x=1#top", Some(("www.a.test", "/de/?x=1")));
        check("https://a.test", Some(("a.test", "/")));
        check("https://A.test/x", Some(("a.test", "/x")));
        check("//www.a.test/x", Some(("www.a.test", "/x")));
        check("https://a.test:443/", Some(("a.test", "/")));
        for foreign in [
            "http://a.test/",
            "https://b.test/",
            "https://a.test:8443/",
            "https://x.a.test/",
            "https://test/",
            "https://a.test.b.test/",
            "https://10.0.0.1/",
            "",
            "x",
            "https://",
            "javascript:1",
            "https://a.test@b.test/",
            "///",
            "\\\\a.test",
        ] {
            check(foreign, None);
        }
    }

    #[test]
    fn retry_after_in_seconds() {
        for (text, expect) in [
            ("120", Some(120)),
            (" 0 ", Some(0)),
            ("99999999999", Some(86_400)),
            ("-1", None),
            ("", None),
            ("Wed, 21 Oct 2026 07:28:00 GMT", None),
            ("1.5", None),
        ] {
            assert_eq!(retry_after(text, None), expect, "{text}");
        }
    }
}
