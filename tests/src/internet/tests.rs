//! The lab's internet over real sockets.

use std::{io, net::Ipv4Addr, sync::Arc};

use hickory_proto::{
    op::{Message, Query, ResponseCode},
    rr::{Name, RData, RecordType},
};
use http::{Request, StatusCode, Version};
use http_body_util::{BodyExt as _, Empty};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::{
    AlertDescription, ClientConfig, RootCertStore,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, ServerName, pem::PemObject as _},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream, UdpSocket},
    task::JoinSet,
};
use tokio_rustls::TlsConnector;

use super::{world::Site, *};

/// Any answer on loopback is there long before.
const PATIENCE: Duration = Duration::from_secs(5);
/// A connection that is not there by now meets a queue that is full: shorter than the second
/// after which a SYN is repeated.
const NO_ANSWER: Duration = Duration::from_millis(500);

async fn start() -> Internet {
    Internet::start(1, CancellationToken::new()).await.unwrap()
}

fn question(host: &str, kind: RecordType) -> Vec<u8> {
    let mut query = Message::query();
    query.metadata.recursion_desired = true;
    query.add_query(Query::query(Name::from_ascii(host).unwrap(), kind));
    query.to_vec().unwrap()
}

async fn ask(server: SocketAddr, host: &str, kind: RecordType) -> Message {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.connect(server).await.unwrap();
    // Noise before it: a server answers the query all the same, and the query only.
    socket.send(b"noise").await.unwrap();
    socket.send(&question(host, kind)).await.unwrap();
    let mut buffer = [0; 1232];
    let length = timeout(PATIENCE, socket.recv(&mut buffer)).await.unwrap().unwrap();
    Message::from_vec(&buffer[..length]).unwrap()
}

async fn ask_tcp(server: SocketAddr, host: &str) -> Message {
    let mut stream = TcpStream::connect(server).await.unwrap();
    let query = question(host, RecordType::A);
    stream.write_u16(query.len().try_into().unwrap()).await.unwrap();
    stream.write_all(&query).await.unwrap();
    let mut reply = vec![0; stream.read_u16().await.unwrap().into()];
    stream.read_exact(&mut reply).await.unwrap();
    Message::from_vec(&reply).unwrap()
}

fn address(message: &[hickory_proto::rr::Record]) -> IpAddr {
    message
        .iter()
        .find_map(|r| if let RData::A(a) = &r.data { Some(a.0) } else { None })
        .unwrap()
        .into()
}

/// What a visitor meets.
#[derive(Debug, PartialEq, Eq)]
enum Met {
    NoConnection,
    Alert(AlertDescription),
    Closed,
    Page(StatusCode, String),
}

struct Visitor<'a> {
    internet: &'a Internet,
    from: Ipv4Addr,
    accept: &'static str,
}

impl Visitor<'_> {
    async fn connect(&self, site: &Site) -> Option<TcpStream> {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind((self.from, 0).into()).unwrap();
        let connect = socket.connect(self.internet.edges[site.edge]);
        timeout(NO_ANSWER, connect).await.ok().map(Result::unwrap)
    }

    async fn tls(
        &self,
        site: &Site,
        stream: TcpStream,
    ) -> io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
        let mut roots = RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_slice(self.internet.ca_pem.as_bytes()).unwrap())
            .unwrap();
        let mut config =
            ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_root_certificates(roots)
                .with_no_client_auth();
        config.alpn_protocols = vec![b"h2".to_vec()];
        let name = ServerName::try_from(site.host.clone()).unwrap();
        TlsConnector::from(Arc::new(config)).connect(name, stream).await
    }

    async fn visit(&self, site: &Site) -> Met {
        let Some(stream) = self.connect(site).await else { return Met::NoConnection };
        let stream = match timeout(PATIENCE, self.tls(site, stream)).await.unwrap() {
            Ok(stream) => stream,
            Err(error) => {
                let of_tls = error.get_ref().and_then(|e| e.downcast_ref::<rustls::Error>());
                return match of_tls {
                    Some(rustls::Error::AlertReceived(alert)) => Met::Alert(*alert),
                    _ => Met::Closed,
                };
            }
        };
        let (mut send, connection) =
            http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
        let mut tasks = JoinSet::new();
        tasks.spawn(connection);
        let request = Request::get(format!("https://{}/", site.host))
            .header("accept", self.accept)
            .body(Empty::<bytes::Bytes>::new())
            .unwrap();
        let response = timeout(PATIENCE, send.send_request(request)).await.unwrap().unwrap();
        assert_eq!(response.version(), Version::HTTP_2);
        let status = response.status();
        let mut text = format!("{:?}\n", response.headers());
        let body = timeout(PATIENCE, response.into_body().collect()).await.unwrap().unwrap();
        text.push_str(std::str::from_utf8(&body.to_bytes()).unwrap());
        Met::Page(status, text)
    }
}

fn visitor(internet: &Internet) -> Visitor<'_> {
    Visitor { internet, from: internet.agents[0].source, accept: "text/html" }
}

/// Breaks it, and checks what every site then answers: what `expect` says for those it says
/// something of, a good page for the others.
async fn check(
    fault: Fault,
    expect: impl Fn(&Internet, &Site) -> Option<(u16, &'static [&'static str])>,
) {
    let internet = start().await;
    internet.break_it(fault).await.unwrap();
    let mut failing = 0;
    for site in &internet.world.sites {
        let met = visitor(&internet).visit(site).await;
        let Met::Page(status, text) = met else { panic!("{fault} {}: {met:?}", site.id) };
        let (code, marks) = expect(&internet, site).unwrap_or((200, &["All is well"]));
        failing += usize::from(code != 200);
        assert_eq!(status, code, "{fault} {}: {text}", site.id);
        for mark in marks {
            assert!(text.contains(mark), "{fault} {}: no {mark} in {text}", site.id);
        }
    }
    assert!(failing > 0 || fault == Fault::None);
    internet.heal().await.unwrap();
    let met = visitor(&internet).visit(&internet.world.sites[internet.world.unlucky.site]).await;
    assert!(matches!(met, Met::Page(StatusCode::OK, _)), "{met:?}");
    internet.stop().await;
}

#[tokio::test]
async fn names_resolve_both_ways() {
    let internet = start().await;
    for site in &internet.world.sites {
        let expect = internet.edges[site.edge].ip();
        assert_eq!(
            address(&ask(internet.resolver, &site.host, RecordType::A).await.answers),
            expect
        );
        assert_eq!(address(&ask_tcp(internet.resolver, &site.host).await.answers), expect);

        let root = SocketAddr::new(internet.roots[0], internet.dns_port);
        let referral = ask(root, &site.host, RecordType::A).await;
        assert!(referral.answers.is_empty());
        let next = SocketAddr::new(address(&referral.additionals), internet.dns_port);
        // Agents that walk there by themselves must be allowed to.
        assert!(internet.allowed.iter().any(|range| range.contains(&next.ip())), "{next}");
        let reply = ask(next, &site.host, RecordType::A).await;
        assert!(reply.metadata.authoritative);
        assert_eq!(address(&reply.answers), expect);
    }
    assert_eq!(internet.counts().dns_queries, 4 * 30);
    internet.stop().await;
}

#[tokio::test]
async fn dns_fails_at_both_ends() {
    let internet = start().await;
    internet.break_it(Fault::DnsServfail).await.unwrap();
    let unlucky = internet.world.unlucky.dns;
    for site in &internet.world.sites {
        let authority = (internet.world.dns[site.dns].servers[0].1, internet.dns_port).into();
        for server in [internet.resolver, authority] {
            let code = ask(server, &site.host, RecordType::A).await.metadata.response_code;
            assert_eq!(code == ResponseCode::ServFail, site.dns == unlucky, "{}", site.host);
        }
    }
    internet.stop().await;
}

#[tokio::test]
async fn every_site_has_a_page() {
    check(Fault::None, |internet, site| {
        Some(match internet.world.edges[site.edge].0 {
            world::Vendor::Cloudflare => (200, &["\"cf-ray\"", "\"server\": \"cloudflare\""]),
            world::Vendor::Fastly => (200, &["\"x-served-by\": \"cache-", "1.1 varnish"]),
            world::Vendor::Cloudfront => (200, &["\"x-amz-cf-id\"", "(CloudFront)"]),
        })
    })
    .await;
}

#[tokio::test]
async fn http_faults_have_their_shape() {
    check(Fault::Edge500, |_, site| {
        (site.edge == 0).then_some((500, &["Cloudflare Ray ID", "500: Internal server error"]))
    })
    .await;
    check(Fault::EdgeRefusal, |_, site| {
        (site.edge == 0).then_some((500, &["Please unblock challenges.cloudflare.com to proceed"]))
    })
    .await;
    check(Fault::EdgeHalf, |_, site| {
        (site.edge == 0 && site.place < 5).then_some((500, &["Cloudflare Ray ID"]))
    })
    .await;
    check(Fault::EdgeChallenge, |_, site| {
        (site.edge == 0).then_some((403, &["\"cf-mitigated\": \"challenge\"", "Just a moment"]))
    })
    .await;
    check(Fault::OneSite, |internet, site| {
        (site.index == internet.world.unlucky.site).then_some((500, &["<center>nginx</center>"]))
    })
    .await;
}

#[tokio::test]
async fn cloudflare_says_whose_fault_it_is() {
    let internet = start().await;
    internet.break_it(Fault::Edge500).await.unwrap();
    let accept = "application/problem+json, application/json;q=0.9";
    let met = Visitor { accept, ..visitor(&internet) }.visit(&internet.world.sites[0]).await;
    let Met::Page(status, text) = met else { panic!("{met:?}") };
    assert_eq!(status, 500);
    let body: serde_json::Value = serde_json::from_str(text.split_once('\n').unwrap().1).unwrap();
    assert_eq!(body["cloudflare_error"], true);
    assert_eq!(body["error_code"], 500);
    assert_eq!(body["error_category"], "cloudflare");
    internet.stop().await;
}

#[tokio::test]
async fn connections_fail_below_http() {
    let internet = start().await;
    let unlucky = internet.world.unlucky.edge;
    let sites: Vec<_> =
        (0..3).map(|edge| internet.world.sites_of(edge).next().unwrap().clone()).collect();
    let failed = Met::Alert(AlertDescription::HandshakeFailure);
    for (fault, expect) in [(Fault::TlsAlert, failed), (Fault::TcpTimeout, Met::NoConnection)] {
        internet.break_it(fault).await.unwrap();
        for site in &sites {
            let met = visitor(&internet).visit(site).await;
            if site.edge == unlucky {
                assert_eq!(met, expect);
            } else {
                assert!(matches!(met, Met::Page(StatusCode::OK, _)), "{fault}: {met:?}");
            }
        }
    }
    internet.heal().await.unwrap();
    let met = visitor(&internet).visit(&sites[unlucky]).await;
    assert!(matches!(met, Met::Page(StatusCode::OK, _)), "{met:?}");
    internet.stop().await;
}

#[tokio::test]
async fn a_timeout_cuts_who_is_inside() {
    let internet = start().await;
    let site = internet.world.sites_of(internet.world.unlucky.edge).next().unwrap();
    let stream = visitor(&internet).connect(site).await.unwrap();
    let mut stream = visitor(&internet).tls(site, stream).await.unwrap();
    internet.break_it(Fault::TcpTimeout).await.unwrap();
    let mut rest = Vec::new();
    // What was sent before the cut may come; then the stream ends, cleanly or not.
    drop(timeout(PATIENCE, stream.read_to_end(&mut rest)).await.unwrap());
    internet.stop().await;
}

#[tokio::test]
async fn one_network_is_dropped_by_all_edges() {
    let internet = start().await;
    internet.break_it(Fault::OneNetwork).await.unwrap();
    for agent in internet.agents.iter().take(30) {
        let of = Visitor { from: agent.source, ..visitor(&internet) };
        let met = of.visit(&internet.world.sites[usize::from(agent.source.octets()[1]) % 30]).await;
        if agent.asn == internet.world.unlucky.asn {
            assert_eq!(met, Met::Closed);
        } else {
            assert!(matches!(met, Met::Page(StatusCode::OK, _)), "{agent:?}: {met:?}");
        }
    }
    let counts = internet.counts();
    assert_eq!((counts.connections, counts.dropped), (30, 1));
    assert_eq!((counts.handshakes, counts.requests), (29, 29));
    assert!(counts.bytes > 29 * 40_000);
    internet.stop().await;
}
