//! The DNS phase: a stub resolver of its own, so that every way of failing is seen apart, and an
//! independent path that tells a broken name from a broken resolver.
//!
//! The stub asks the system's resolvers. The independent path asks the root servers and follows
//! their referrals; where port 53 is closed or something answers in the roots' place, it asks
//! public resolvers over TLS. No answer is kept, only referrals, and DNSSEC is not validated here.
//! Address rules are the caller's for the addresses found, and the walk's for the name servers that
//! referrals name.

mod walk;

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use hickory_proto::{
    op::{Edns, Message, MessageType, Query, ResponseCode},
    rr::{Name, RData, Record, RecordType, rdata::opt::EdnsCode, rdata::opt::EdnsOption},
};
use rustls_pki_types::ServerName;
use tocsin_proto::{observation::Family, outcome::Outcome};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::UdpSocket,
    time::timeout,
};
use tokio_rustls::TlsConnector;

use self::walk::{Delegations, Walk};
use super::{
    Deadline, Independent, PublicResolver,
    tcp::{self, Traffic},
};
use crate::engine::address::Allowed;

/// When the system's resolver is asked again: half of the phase's 2 s.
const RETRANSMIT_AFTER: Duration = Duration::from_secs(1);
/// Aliases followed; BIND follows 16 too.
const ALIASES_MAX: usize = 16;
/// What we announce to take over UDP: DNS flag day 2020, below any common path's fragmentation.
const UDP_PAYLOAD_BYTES: u16 = 1232;
/// The EDNS option code of extended errors (RFC 8914).
const EXTENDED_ERROR: u16 = 15;

/// A name's addresses, and the aliases on the way there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Resolved {
    pub(super) addresses: Vec<IpAddr>,
    pub(super) cname: Vec<String>,
}

/// What the independent path said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The name resolves.
    Resolved(Resolved),
    /// Its own servers, or those above them, fail.
    Failed(Outcome),
    /// The path itself was closed, or its bounds were reached: nothing is proved.
    NoAnswer,
}

/// Where queries come from, and what they may reach.
pub(super) struct Resolver {
    /// Carries queries to public resolvers.
    tls: TlsConnector,
    source_v4: Option<Ipv4Addr>,
    source_v6: Option<Ipv6Addr>,
    system: Vec<SocketAddr>,
    independent: Independent,
    allowed: Allowed,
    /// Turns the lists of roots and fallback resolvers, so that no one of them bears the load.
    turn: AtomicUsize,
    delegations: Delegations,
}

impl Resolver {
    pub(super) fn new(
        tls: TlsConnector,
        sources: (Option<Ipv4Addr>, Option<Ipv6Addr>),
        system: Vec<SocketAddr>,
        independent: Independent,
        allowed: Allowed,
    ) -> Self {
        let (source_v4, source_v6) = sources;
        let (turn, delegations) = (AtomicUsize::new(0), Delegations::default());
        Self { tls, source_v4, source_v6, system, independent, allowed, turn, delegations }
    }

    /// Asks the system's resolvers.
    pub(super) async fn system(
        &self,
        host: &str,
        family: Family,
        deadline: Deadline,
        traffic: &Arc<Traffic>,
    ) -> Result<Resolved, (Outcome, Vec<String>)> {
        let name = absolute(host).ok_or((Outcome::DnsNxdomain, Vec::new()))?;
        let servers = match self.system.is_empty() {
            true => resolv_conf().await,
            false => self.system.clone(),
        };
        let Some(first) = servers.first().copied() else {
            return Err((Outcome::DnsUnreachable, Vec::new()));
        };
        let query = query(&name, record_type(family), true);
        let wait = if servers.len() > 1 { RETRANSMIT_AFTER } else { deadline.left() };
        let asked = timeout(deadline.left().min(wait), self.exchange(first, &query, traffic, true));
        let failure = match asked.await {
            Err(_) => (Outcome::DnsTimeout, Vec::new()),
            Ok(Err(error)) => (unreachable(&error), Vec::new()),
            Ok(Ok(reply)) => match judge(&reply, &name, family) {
                Ok(resolved) => return Ok(resolved),
                // The name's own state is the same whoever is asked.
                Err(failure @ (Outcome::DnsNxdomain | Outcome::DnsNodata, _)) => {
                    return Err(failure);
                }
                Err(failure) => failure,
            },
        };
        let Some(second) = servers.get(1).copied() else { return Err(failure) };
        match timeout(deadline.left(), self.exchange(second, &query, traffic, false)).await {
            Ok(Ok(reply)) => judge(&reply, &name, family),
            Ok(Err(_)) | Err(_) => Err(failure),
        }
    }

    /// Asks past the system's resolvers.
    pub(super) async fn independent(
        &self,
        host: &str,
        family: Family,
        deadline: Deadline,
        traffic: &Arc<Traffic>,
    ) -> Verdict {
        let Some(name) = absolute(host) else { return Verdict::NoAnswer };
        match Walk::from_roots(self, deadline, traffic).run(&name, family).await {
            Verdict::NoAnswer => self.fallback(&name, family, deadline, traffic).await,
            verdict => verdict,
        }
    }

    /// This is another network.
    pub(super) fn moved(&self) {
        self.delegations.moved();
    }

    /// Asks the name's own servers, by what is known of where they are. A failure is no proof: only that
    /// of a walk from the roots is.
    pub(super) async fn direct(
        &self,
        host: &str,
        family: Family,
        deadline: Deadline,
        traffic: &Arc<Traffic>,
    ) -> Verdict {
        match (absolute(host), Walk::direct(self, deadline, traffic)) {
            (Some(name), Some(walk)) => walk.run(&name, family).await,
            (None, _) | (_, None) => Verdict::NoAnswer,
        }
    }

    /// What a pair of public resolvers says, which validate: a name whose chain of signatures is
    /// broken (RFC 4035, section 5.5) fails there, and resolves for all who do not look.
    pub(super) async fn validating(
        &self,
        host: &str,
        family: Family,
        deadline: Deadline,
        traffic: &Arc<Traffic>,
    ) -> Verdict {
        match absolute(host) {
            Some(name) => self.fallback(&name, family, deadline, traffic).await,
            None => Verdict::NoAnswer,
        }
    }

    async fn fallback(
        &self,
        name: &Name,
        family: Family,
        deadline: Deadline,
        traffic: &Arc<Traffic>,
    ) -> Verdict {
        let query = query(name, record_type(family), true);
        // A pair, so that one such resolver's own trouble is not taken for the name's, and one over the
        // other family; at once, since there is time for one round alone.
        let list: Vec<PublicResolver> = self.turned(&self.independent.fallback).collect();
        let of = |v4: bool| list.iter().filter(move |server| server.address.is_ipv4() == v4);
        let asked = [of(true).next(), of(true).nth(1), of(false).next()];
        let ask = async |server: Option<&PublicResolver>| {
            let asked = self.exchange_public(server?, &query, traffic);
            let reply = timeout(deadline.left(), asked).await.ok()?.ok()?;
            Some(judge(&reply, name, family))
        };
        let [first, second, third] = asked;
        let (first, second, third) = tokio::join!(ask(first), ask(second), ask(third));
        let mut verdict = Verdict::NoAnswer;
        for said in [first, second, third].into_iter().flatten() {
            match said {
                Ok(resolved) => return Verdict::Resolved(resolved),
                Err((outcome, _)) => verdict = Verdict::Failed(outcome),
            }
        }
        verdict
    }

    async fn exchange_public(
        &self,
        server: &PublicResolver,
        query: &Message,
        traffic: &Arc<Traffic>,
    ) -> io::Result<Message> {
        let Some(name) = &server.tls else {
            return self.exchange(server.address, query, traffic, false).await;
        };
        let source = self.source(server.address.ip());
        let stream = tcp::connect(server.address, source, traffic).await?;
        let name = ServerName::try_from(name.clone()).map_err(io::Error::other)?;
        exchange_stream(self.tls.connect(name, stream).await?, query).await
    }

    /// The list from another beginning each time, the families in turn.
    fn turned<T: Clone>(&self, list: &[T]) -> impl Iterator<Item = T> + use<T> {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let start = turn.checked_rem(list.len()).unwrap_or(0);
        let list = list.to_vec();
        let length = list.len();
        list.into_iter().cycle().skip(start).take(length)
    }

    fn source(&self, to: IpAddr) -> Option<IpAddr> {
        let source = match to {
            IpAddr::V4(_) => self.source_v4.map(IpAddr::V4),
            IpAddr::V6(_) => self.source_v6.map(IpAddr::V6),
        };
        // A resolver on this very host hears loopback senders alone.
        source.filter(|source| !to.is_loopback() || source.is_loopback())
    }

    /// One question to one server: over UDP, then TCP if the answer did not fit. Replies that do
    /// not belong to the question are passed over. The caller keeps the deadline.
    async fn exchange(
        &self,
        server: SocketAddr,
        query: &Message,
        traffic: &Arc<Traffic>,
        retransmit: bool,
    ) -> io::Result<Message> {
        let bytes = query.to_vec().map_err(io::Error::other)?;
        let any: IpAddr = match server {
            SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let source = self.source(server.ip());
        let socket = UdpSocket::bind(SocketAddr::new(source.unwrap_or(any), 0)).await?;
        // Connected, so that the kernel drops what others send and hands over ICMP errors.
        socket.connect(server).await?;
        socket.send(&bytes).await?;
        traffic.add_sent(bytes.len());
        let mut buffer = [0; UDP_PAYLOAD_BYTES as usize];
        let mut resend = retransmit;
        loop {
            let length = if resend {
                match timeout(RETRANSMIT_AFTER, socket.recv(&mut buffer)).await {
                    Ok(length) => length?,
                    Err(_) => {
                        resend = false;
                        socket.send(&bytes).await?;
                        traffic.add_sent(bytes.len());
                        continue;
                    }
                }
            } else {
                socket.recv(&mut buffer).await?
            };
            traffic.add_received(length);
            let reply = buffer.get(..length).and_then(|bytes| Message::from_vec(bytes).ok());
            match reply.filter(|reply| belongs(reply, query)) {
                Some(reply) if reply.metadata.truncation => break,
                Some(reply) => return Ok(reply),
                None => {}
            }
        }
        exchange_stream(tcp::connect(server, source, traffic).await?, query).await
    }
}

/// One question over a stream, each message behind its length (RFC 1035 section 4.2.2).
async fn exchange_stream(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    query: &Message,
) -> io::Result<Message> {
    let bytes = query.to_vec().map_err(io::Error::other)?;
    let length = u16::try_from(bytes.len()).map_err(io::Error::other)?;
    stream.write_all(&[&length.to_be_bytes(), bytes.as_slice()].concat()).await?;
    stream.flush().await?;
    let mut reply = vec![0; usize::from(stream.read_u16().await?)];
    stream.read_exact(&mut reply).await?;
    let reply = Message::from_vec(&reply).map_err(io::Error::other)?;
    match belongs(&reply, query) {
        true => Ok(reply),
        false => Err(io::ErrorKind::InvalidData.into()),
    }
}

fn address(record: &Record) -> Option<IpAddr> {
    match &record.data {
        RData::A(a) => Some(IpAddr::V4(a.0)),
        RData::AAAA(aaaa) => Some(IpAddr::V6(aaaa.0)),
        _ => None,
    }
}

/// A reply's addresses for the name along its aliases, or the failure it tells of with the
/// aliases seen.
fn judge(reply: &Message, name: &Name, family: Family) -> Result<Resolved, (Outcome, Vec<String>)> {
    let mut resolved = Resolved::default();
    let mut name = name.clone();
    for _ in 0..ALIASES_MAX {
        let own = || reply.answers.iter().filter(|record| record.name.eq_ignore_root(&name));
        let wanted = own().filter(|record| record.record_type() == record_type(family));
        resolved.addresses = wanted.filter_map(address).collect();
        if !resolved.addresses.is_empty() {
            break;
        }
        let alias = own().find_map(|record| match &record.data {
            RData::CNAME(target) => Some(target.0.clone()),
            _ => None,
        });
        let Some(target) = alias else { break };
        resolved.cname.push(target.to_ascii().trim_end_matches('.').to_ascii_lowercase());
        name = target;
    }
    let failure = match reply.metadata.response_code {
        ResponseCode::NoError if resolved.addresses.is_empty() => Outcome::DnsNodata,
        ResponseCode::NoError => return Ok(resolved),
        ResponseCode::NXDomain => Outcome::DnsNxdomain,
        ResponseCode::Refused => Outcome::DnsRefused,
        _ if is_bogus(reply) => Outcome::DnsBogus,
        _ => Outcome::DnsServfail,
    };
    Err((failure, resolved.cname))
}

/// Whether the resolver says that DNSSEC validation failed: RFC 8914 sections 4.7 to 4.13, the
/// extended errors 6 to 12.
fn is_bogus(reply: &Message) -> bool {
    let Some(edns) = &reply.edns else { return false };
    edns.options().get_all(EdnsCode::Unknown(EXTENDED_ERROR)).iter().any(|option| match option {
        EdnsOption::Unknown(_, data) => matches!(data.as_slice(), [0, 6..=12, ..]),
        _ => false,
    })
}

fn belongs(reply: &Message, query: &Message) -> bool {
    let (Some(asked), [answered]) = (query.queries.first(), reply.queries.as_slice()) else {
        return false;
    };
    reply.metadata.id == query.metadata.id
        && reply.metadata.message_type == MessageType::Response
        && answered.query_type() == asked.query_type()
        && answered.query_class() == asked.query_class()
        && answered.name().eq_ignore_root(asked.name())
}

fn query(name: &Name, record_type: RecordType, recursion: bool) -> Message {
    // A random id; the source port, which the kernel picks, is random too.
    let mut message = Message::query();
    message.metadata.recursion_desired = recursion;
    message.add_query(Query::query(name.clone(), record_type));
    let mut edns = Edns::new();
    edns.set_max_payload(UDP_PAYLOAD_BYTES).set_version(0);
    message.set_edns(edns);
    message
}

fn absolute(host: &str) -> Option<Name> {
    let mut name = Name::from_ascii(host).ok()?;
    name.set_fqdn(true);
    Some(name)
}

const fn record_type(family: Family) -> RecordType {
    match family {
        Family::V4 => RecordType::A,
        Family::V6 => RecordType::AAAA,
    }
}

fn unreachable(error: &io::Error) -> Outcome {
    match error.kind() {
        io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof | io::ErrorKind::Other => {
            Outcome::DnsServfail
        }
        io::ErrorKind::TimedOut => Outcome::DnsTimeout,
        _ => Outcome::DnsUnreachable,
    }
}

/// Read at each probe, since it changes with the network. Without any, the local host is asked,
/// as resolv.conf(5) has it.
async fn resolv_conf() -> Vec<SocketAddr> {
    let text = tokio::fs::read_to_string("/etc/resolv.conf").await.unwrap_or_default();
    let servers = nameservers(&text);
    if servers.is_empty() { vec![(Ipv4Addr::LOCALHOST, 53).into()] } else { servers }
}

fn nameservers(text: &str) -> Vec<SocketAddr> {
    let lines = text.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        (words.next() == Some("nameserver")).then(|| words.next()).flatten()
    });
    lines.filter_map(|word| Some(SocketAddr::new(word.parse().ok()?, 53))).take(3).collect()
}

#[cfg(test)]
mod tests {
    use hickory_proto::rr::rdata::{A, CNAME};

    use super::*;

    fn reply(code: ResponseCode, answers: &[(&str, RData)]) -> Message {
        let mut message = query(&absolute("a.test").unwrap(), RecordType::A, true);
        message.metadata.message_type = MessageType::Response;
        message.metadata.response_code = code;
        for (name, data) in answers {
            message.add_answer(Record::from_rdata(absolute(name).unwrap(), 60, data.clone()));
        }
        message
    }

    fn check(reply: &Message, expect: Result<&[&str], Outcome>) {
        let got = judge(reply, &absolute("a.test").unwrap(), Family::V4);
        let got = got.map(|r| r.addresses.iter().map(ToString::to_string).collect::<Vec<_>>());
        let expect = expect.map(|e| e.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>());
        assert_eq!(got.map_err(|(outcome, _)| outcome), expect);
    }

    #[test]
    fn replies_are_judged() {
        let a = || RData::A(A(Ipv4Addr::new(9, 9, 9, 9)));
        let cname = |to: &str| RData::CNAME(CNAME(absolute(to).unwrap()));
        let ok = ResponseCode::NoError;
        check(&reply(ok, &[("A.test", a())]), Ok(&["9.9.9.9"]));
        check(&reply(ok, &[("x.test", a()), ("a.test", cname("x.test"))]), Ok(&["9.9.9.9"]));
        check(&reply(ok, &[("other.test", a())]), Err(Outcome::DnsNodata));
        check(&reply(ok, &[("a.test", cname("a.test"))]), Err(Outcome::DnsNodata));
        check(&reply(ResponseCode::NXDomain, &[]), Err(Outcome::DnsNxdomain));
        check(&reply(ResponseCode::Refused, &[]), Err(Outcome::DnsRefused));
        check(&reply(ResponseCode::ServFail, &[]), Err(Outcome::DnsServfail));
        let mut bogus = reply(ResponseCode::ServFail, &[]);
        let option = EdnsOption::Unknown(EXTENDED_ERROR, vec![0, 6, b'x']);
        bogus.edns.as_mut().unwrap().options_mut().insert(option);
        let bogus = Message::from_vec(&bogus.to_vec().unwrap()).unwrap();
        check(&bogus, Err(Outcome::DnsBogus));
    }

    #[test]
    fn foreign_replies_are_passed_over() {
        let query = query(&absolute("a.test").unwrap(), RecordType::A, true);
        let mut good = reply(ResponseCode::NoError, &[]);
        good.metadata.id = query.metadata.id;
        assert!(belongs(&good, &query));
        let mut bad = good.clone();
        bad.metadata.id ^= 1;
        assert!(!belongs(&bad, &query));
        let mut bad = good.clone();
        bad.metadata.message_type = MessageType::Query;
        assert!(!belongs(&bad, &query));
        let mut bad = good;
        bad.queries = vec![Query::query(absolute("b.test").unwrap(), RecordType::A)];
        assert!(!belongs(&bad, &query));
    }

    #[test]
    fn resolv_conf_is_read() {
        let text =
            "# x\nnameserver 9.9.9.9\n nameserver\t2620:fe::9\nnameserver fe80::1%eth0\nsearch a\n";
        let expect: Vec<SocketAddr> =
            vec!["9.9.9.9:53".parse().unwrap(), "[2620:fe::9]:53".parse().unwrap()];
        assert_eq!(nameservers(text), expect);
    }
}
