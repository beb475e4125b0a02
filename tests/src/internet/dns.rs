//! The names of the lab: a resolver, a root, and two authoritative servers per DNS provider, each
//! on its own address and all on one port, over UDP and TCP. What is answered is a pure function
//! of the query, the world and the board of faults. No DNSSEC, no zone transfers.

use std::{
    io,
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
    time::Duration,
};

use anyhow::bail;
use hickory_proto::{
    op::{Edns, Message, MessageType, Metadata, OpCode, ResponseCode},
    rr::{
        DNSClass, Name, RData, Record, RecordType,
        rdata::{A, AAAA, NS, SOA},
    },
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream, UdpSocket},
    time::timeout,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    counters::Counters,
    fault::FaultBoard,
    world::{DnsProvider, Site, World},
};

/// Time to live of every record, seconds: a fault is felt within it.
const TTL_S: u32 = 5;
/// Bytes of a UDP answer that we announce (DNS flag day 2020). All answers are shorter.
const UDP_PAYLOAD: u16 = 1232;
/// Tries to find a port that is free on every address. One nearly always does.
const PORT_TRIES: usize = 50;
/// How long a TCP client may take over one message.
const TCP_PATIENCE: Duration = Duration::from_secs(5);

/// What a server is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    /// The resolver that agents have from their system.
    Resolver,
    /// The root: it knows who answers for each site.
    Root,
    /// A server of one of [`World::dns`].
    Authority(usize),
}

/// Servers bound to their sockets.
#[derive(Debug)]
pub(super) struct DnsServers {
    port: u16,
    bound: Vec<(Part, UdpSocket, TcpListener)>,
}

/// What all servers share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) world: Arc<World>,
    pub(super) board: Arc<FaultBoard>,
    pub(super) counters: Arc<Counters>,
    pub(super) tasks: TaskTracker,
    pub(super) shutdown: CancellationToken,
}

impl DnsServers {
    /// Binds all servers of a world to one port.
    pub(super) async fn bind(world: &World) -> anyhow::Result<Self> {
        let mut places = vec![
            (Part::Resolver, IpAddr::from(world.resolver)),
            (Part::Root, IpAddr::from(world.root)),
        ];
        for (at, provider) in world.dns.iter().enumerate() {
            places
                .extend(provider.servers.iter().map(|(_, ip)| (Part::Authority(at), (*ip).into())));
        }
        let v6 = world.ground.v6_of(world.resolver);
        places.extend(v6.map(|address| (Part::Resolver, address.into())));
        let mut last = None;
        for _ in 0..PORT_TRIES {
            match bind_all(&places, world.ground.dns_port).await {
                Ok(servers) => return Ok(servers),
                Err(error) => last = Some(error),
            }
        }
        bail!("no port is free on all of the lab's DNS addresses: {last:?}")
    }

    /// The port of all servers.
    pub(super) const fn port(&self) -> u16 {
        self.port
    }

    /// Starts to answer.
    pub(super) fn serve(self, shared: &Arc<Shared>) {
        for (part, udp, tcp) in self.bound {
            shared.tasks.spawn(serve_udp(Arc::clone(shared), part, udp));
            shared.tasks.spawn(serve_tcp(Arc::clone(shared), part, tcp));
        }
    }
}

async fn bind_all(places: &[(Part, IpAddr)], port: u16) -> io::Result<DnsServers> {
    let mut servers = DnsServers { port, bound: Vec::new() };
    for (part, address) in places {
        let tcp = TcpListener::bind((*address, servers.port)).await?;
        servers.port = tcp.local_addr()?.port();
        let udp = UdpSocket::bind((*address, servers.port)).await?;
        servers.bound.push((*part, udp, tcp));
    }
    Ok(servers)
}

async fn serve_udp(shared: Arc<Shared>, part: Part, socket: UdpSocket) {
    let mut buffer = vec![0; usize::from(u16::MAX)];
    loop {
        let received = tokio::select! {
            received = socket.recv_from(&mut buffer) => received,
            () = shared.shutdown.cancelled() => return,
        };
        // Errors here are about earlier answers that met a closed port; nothing to do about them.
        let Ok((length, peer)) = received else { continue };
        let reply = buffer.get(..length).and_then(|query| shared.answer(part, query));
        if let Some(reply) = reply
            && let Err(error) = socket.send_to(&reply, peer).await
        {
            tracing::debug!(%error, "a DNS answer was not sent");
        }
    }
}

async fn serve_tcp(shared: Arc<Shared>, part: Part, listener: TcpListener) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = shared.shutdown.cancelled() => return,
        };
        let Ok((stream, peer)) = accepted else { continue };
        let of_it = Arc::clone(&shared);
        shared.tasks.spawn(async move {
            let talk = async {
                tokio::select! {
                    ended = converse(&of_it, part, stream) => ended,
                    () = of_it.shutdown.cancelled() => Ok(()),
                }
            };
            if let Err(error) = talk.await {
                tracing::debug!(%error, %peer, "a DNS connection ended");
            }
        });
    }
}

/// Length-prefixed messages (RFC 1035 section 4.2.2) until the client ends or dawdles.
async fn converse(shared: &Shared, part: Part, mut stream: TcpStream) -> io::Result<()> {
    loop {
        let message = async {
            let length = stream.read_u16().await?;
            let mut query = vec![0; usize::from(length)];
            stream.read_exact(&mut query).await?;
            Ok::<_, io::Error>(query)
        };
        let query = timeout(TCP_PATIENCE, message).await??;
        let Some(reply) = shared.answer(part, &query) else { return Ok(()) };
        let length = u16::try_from(reply.len()).map_err(io::Error::other)?;
        let framed = [&length.to_be_bytes()[..], &reply].concat();
        timeout(TCP_PATIENCE, stream.write_all(&framed)).await??;
    }
}

impl Shared {
    fn answer(&self, part: Part, query: &[u8]) -> Option<Vec<u8>> {
        let reply = answer(&self.world, &self.board, part, query)?.to_vec().ok()?;
        self.counters.dns_query();
        Some(reply)
    }
}

/// The answer to a query; none to what is no query.
fn answer(world: &World, board: &FaultBoard, part: Part, query: &[u8]) -> Option<Message> {
    let query = Message::from_vec(query).ok()?;
    let [question] = query.queries.as_slice() else { return None };
    if query.metadata.message_type != MessageType::Query {
        return None;
    }
    let mut reply = Message::new(query.metadata.id, MessageType::Response, query.metadata.op_code);
    reply.metadata = Metadata::response_from_request(&query.metadata);
    reply.metadata.recursion_available = part == Part::Resolver;
    reply.add_query(question.clone());
    if query.edns.is_some() {
        let mut edns = Edns::new();
        edns.set_max_payload(UDP_PAYLOAD);
        reply.set_edns(edns);
    }
    if query.metadata.op_code != OpCode::Query {
        reply.metadata.response_code = ResponseCode::NotImp;
        return Some(reply);
    }
    if question.query_class() != DNSClass::IN {
        reply.metadata.response_code = ResponseCode::Refused;
        return Some(reply);
    }
    let asked = Asked { world, board, name: question.name().clone(), kind: question.query_type() };
    match part {
        Part::Resolver => asked.of_resolver(&mut reply),
        Part::Root => asked.of_root(&mut reply),
        Part::Authority(provider) => asked.of_authority(provider, &mut reply),
    }
    Some(reply)
}

/// One question, and what it is answered from.
struct Asked<'a> {
    world: &'a World,
    board: &'a FaultBoard,
    /// As it was spelt: answers repeat the case.
    name: Name,
    kind: RecordType,
}

impl<'a> Asked<'a> {
    fn of_resolver(&self, reply: &mut Message) {
        if let Some(address) = self.name_server() {
            return self.address(reply, address, &Name::root());
        }
        match self.zone() {
            None => no_such_name(reply, &Name::root()),
            Some((site, _)) if self.board.dns_servfail(site.dns) => {
                reply.metadata.response_code = ResponseCode::ServFail;
            }
            Some((site, zone)) => self.in_zone(reply, site, &zone),
        }
    }

    fn of_root(&self, reply: &mut Message) {
        if let Some(address) = self.name_server() {
            reply.metadata.authoritative = true;
            return self.address(reply, address, &Name::root());
        }
        if let Some((site, zone)) = self.zone() {
            if let Some(provider) = self.world.dns.get(site.dns) {
                refer(reply, &zone, provider);
            }
            return;
        }
        reply.metadata.authoritative = true;
        let above = |zone: Name| self.name.zone_of(&zone);
        if self.world.sites.iter().filter_map(|site| fqdn(&site.host)).any(above) {
            no_data(reply, &Name::root());
        } else {
            no_such_name(reply, &Name::root());
        }
    }

    fn of_authority(&self, provider: usize, reply: &mut Message) {
        if self.board.dns_servfail(provider) {
            reply.metadata.response_code = ResponseCode::ServFail;
            return;
        }
        match self.zone() {
            Some((site, zone)) if site.dns == provider => {
                reply.metadata.authoritative = true;
                self.in_zone(reply, site, &zone);
            }
            _ => reply.metadata.response_code = ResponseCode::Refused,
        }
    }

    /// The site in whose zone the name is, and the zone.
    fn zone(&self) -> Option<(&'a Site, Name)> {
        let zones = self.world.sites.iter().filter_map(|site| Some((site, fqdn(&site.host)?)));
        zones.into_iter().find(|(_, zone)| zone.zone_of(&self.name))
    }

    /// The address of the name server that the name is of.
    fn name_server(&self) -> Option<Ipv4Addr> {
        let mut servers = self.world.dns.iter().flat_map(|provider| &provider.servers);
        servers.find(|(name, _)| fqdn(name).as_ref() == Some(&self.name)).map(|(_, ip)| *ip)
    }

    fn in_zone(&self, reply: &mut Message, site: &Site, zone: &Name) {
        if *zone != self.name {
            return no_such_name(reply, zone);
        }
        match self.kind {
            RecordType::NS => {
                let servers = self.world.dns.get(site.dns).map(|provider| &provider.servers);
                for name in servers.into_iter().flatten().filter_map(|(name, _)| fqdn(name)) {
                    reply.add_answer(record(&self.name, RData::NS(NS(name))));
                }
            }
            RecordType::SOA => {
                reply.add_answer(soa(zone));
            }
            _ => match self.world.edges.get(site.edge) {
                Some((_, address)) => self.address(reply, *address, zone),
                None => no_data(reply, zone),
            },
        }
    }

    fn address(&self, reply: &mut Message, address: Ipv4Addr, zone: &Name) {
        match (self.kind, self.world.ground.v6_of(address)) {
            (RecordType::A, _) => {
                reply.add_answer(record(&self.name, RData::A(A(address))));
            }
            // Name servers are reached over IPv4 alone.
            (RecordType::AAAA, Some(address)) if self.name_server().is_none() => {
                reply.add_answer(record(&self.name, RData::AAAA(AAAA(address))));
            }
            _ => no_data(reply, zone),
        }
    }
}

fn refer(reply: &mut Message, zone: &Name, provider: &DnsProvider) {
    for (name, address) in &provider.servers {
        if let Some(name) = fqdn(name) {
            reply.add_additional(record(&name, RData::A(A(*address))));
            reply.add_authority(record(zone, RData::NS(NS(name))));
        }
    }
}

fn no_data(reply: &mut Message, zone: &Name) {
    reply.add_authority(soa(zone));
}

fn no_such_name(reply: &mut Message, zone: &Name) {
    reply.metadata.response_code = ResponseCode::NXDomain;
    reply.add_authority(soa(zone));
}

fn soa(zone: &Name) -> Record {
    let lab = || fqdn("lab.internal").unwrap_or_default();
    record(zone, RData::SOA(SOA::new(lab(), lab(), 1, 3600, 600, 86_400, TTL_S)))
}

fn record(name: &Name, data: RData) -> Record {
    Record::from_rdata(name.clone(), TTL_S, data)
}

fn fqdn(host: &str) -> Option<Name> {
    let mut name = Name::from_ascii(host).ok()?;
    name.set_fqdn(true);
    Some(name)
}

#[cfg(test)]
mod tests {
    use hickory_proto::op::Query;

    use super::*;
    use crate::internet::Fault;

    fn ask(part: Part, host: &str, kind: RecordType, fault: Fault) -> Message {
        let world = World::new(1);
        let board = FaultBoard::new(&world);
        board.set(&world, fault);
        let mut query = Message::query();
        query.metadata.recursion_desired = true;
        query.add_query(Query::query(fqdn(host).unwrap(), kind));
        answer(&world, &board, part, &query.to_vec().unwrap()).unwrap()
    }

    #[test]
    fn ignores_what_is_no_query() {
        let world = World::new(1);
        let board = FaultBoard::new(&world);
        let reply = ask(Part::Root, "bakery.test", RecordType::A, Fault::None).to_vec().unwrap();
        for noise in [&[][..], &[0; 11], &[0xFF; 40], b"GET / HTTP/1.1\r\n\r\n", &reply] {
            assert!(answer(&world, &board, Part::Resolver, noise).is_none());
        }
    }

    #[test]
    fn answers_as_the_part_does() {
        let world = World::new(1);
        let site = &world.sites[0];
        let (host, dns) = (site.host.as_str(), site.dns);
        let code =
            |part, host: &str, kind| ask(part, host, kind, Fault::None).metadata.response_code;
        for part in [Part::Resolver, Part::Authority(dns)] {
            let reply = ask(part, &host.to_uppercase(), RecordType::A, Fault::None);
            assert_eq!(reply.answers.len(), 1);
            assert_eq!(reply.answers[0].name.to_ascii(), host.to_uppercase() + ".");
            assert_eq!(reply.answers[0].ttl, TTL_S);
            let empty = ask(part, host, RecordType::AAAA, Fault::None);
            assert!(empty.answers.is_empty());
            assert_eq!(empty.authorities[0].record_type(), RecordType::SOA);
            assert_eq!(empty.metadata.response_code, ResponseCode::NoError);
            assert_eq!(code(part, &format!("no.{host}"), RecordType::A), ResponseCode::NXDomain);
        }
        assert_eq!(code(Part::Resolver, "no.test", RecordType::A), ResponseCode::NXDomain);
        assert_eq!(code(Part::Root, "no.test", RecordType::A), ResponseCode::NXDomain);
        assert_eq!(code(Part::Root, "test", RecordType::NS), ResponseCode::NoError);
        let other = Part::Authority((dns + 1) % 3);
        assert_eq!(code(other, host, RecordType::A), ResponseCode::Refused);
        let referral = ask(Part::Root, host, RecordType::A, Fault::None);
        assert!(referral.answers.is_empty() && !referral.metadata.authoritative);
        assert_eq!((referral.authorities.len(), referral.additionals.len()), (2, 2));
    }

    #[test]
    fn servfail_is_of_one_provider() {
        let world = World::new(1);
        let broken = world.unlucky.dns;
        for site in &world.sites {
            for part in [Part::Resolver, Part::Authority(site.dns)] {
                let reply = ask(part, &site.host, RecordType::A, Fault::DnsServfail);
                let failed = reply.metadata.response_code == ResponseCode::ServFail;
                assert_eq!(failed, site.dns == broken, "{}", site.host);
            }
        }
    }
}
