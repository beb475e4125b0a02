//! Probes of real servers on loopback: every phase, well and failing.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "the lab is part of the test: what it breaks on is a failure of the test"
)]

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use hickory_proto::{
    op::{Message, MessageType, ResponseCode},
    rr::{Name, RData, Record, RecordType, rdata},
};
use http_body_util::Full;
use hyper::{Request, Response, body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use rcgen::{CertificateParams, CertifiedIssuer, DistinguishedName, IsCa, KeyPair};
use rustls::{CipherSuite, ServerConfig, server::Acceptor};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tocsin_agent::{
    engine::{address::Allowed, planner::Names},
    probe::{
        Independent, Look, ProbeResult, ProbeSettings, Prober, PublicResolver, profile::Profile,
    },
};
use tocsin_proto::{
    catalogue::Target, implicate::DnsPath, observation::Family, outcome::Outcome,
    rules::BODY_PREFIX_BYTES,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, UdpSocket},
    task::JoinSet,
};
use tokio_rustls::{LazyConfigAcceptor, TlsAcceptor};

const HOST: &str = "site.test";

/// What a name server says to the name asked for.
type Say = Arc<dyn Fn(&Name, &mut Message) + Send + Sync>;
/// What a site answers to a request.
type Serve = Arc<dyn Fn(&Request<Incoming>) -> Response<Full<bytes::Bytes>> + Send + Sync>;

fn name(text: &str) -> Name {
    let mut name = Name::from_ascii(text).unwrap();
    name.set_fqdn(true);
    name
}

fn code(code: ResponseCode) -> Say {
    Arc::new(move |_, reply| reply.metadata.response_code = code)
}

fn a(address: Ipv4Addr) -> Say {
    Arc::new(move |asked, reply| {
        reply.add_answer(Record::from_rdata(asked.clone(), 60, RData::A(rdata::A(address))));
    })
}

struct Lab {
    tasks: JoinSet<()>,
    ca: CertifiedIssuer<'static, KeyPair>,
    settings: ProbeSettings,
}

impl Lab {
    async fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.distinguished_name = DistinguishedName::new();
        let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let settings = ProbeSettings {
            independent: Independent { roots: Vec::new(), port: 53, fallback: Vec::new() },
            extra_roots: vec![ca.der().clone()],
            allowed: Allowed(vec!["127.0.0.0/8".parse().unwrap()]),
            user_agent: "tocsin-test (+https://tocsin.invalid)".to_owned(),
            profile: Profile::Modern,
            ..ProbeSettings::default()
        };
        let mut lab = Self { tasks: JoinSet::new(), ca, settings };
        let resolver = lab.name_server(a(Ipv4Addr::LOCALHOST), "127.0.0.1:0").await;
        lab.settings.resolvers = vec![resolver];
        lab
    }

    async fn name_server(&mut self, say: Say, at: &str) -> SocketAddr {
        let socket = UdpSocket::bind(at).await.unwrap();
        let address = socket.local_addr().unwrap();
        self.tasks.spawn(async move {
            let mut buffer = [0; 1500];
            while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
                let query = Message::from_vec(&buffer[..length]).unwrap();
                let mut reply = Message::response(query.metadata.id, query.metadata.op_code);
                reply.metadata.message_type = MessageType::Response;
                reply.queries = query.queries.clone();
                say(query.queries[0].name(), &mut reply);
                socket.send_to(&reply.to_vec().unwrap(), from).await.unwrap();
            }
        });
        address
    }

    async fn tls_name_server(&mut self, name: &str, say: Say) -> SocketAddr {
        let (chain, key) = self.certificate(name, false);
        let acceptor = TlsAcceptor::from(Arc::new(Self::tls(chain, &key, &[])));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        self.tasks.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let Ok(mut stream) = acceptor.accept(stream).await else { continue };
                let Ok(length) = stream.read_u16().await else { continue };
                let mut query = vec![0; usize::from(length)];
                stream.read_exact(&mut query).await.unwrap();
                let query = Message::from_vec(&query).unwrap();
                let mut reply = Message::response(query.metadata.id, query.metadata.op_code);
                reply.metadata.message_type = MessageType::Response;
                reply.queries = query.queries.clone();
                say(query.queries[0].name(), &mut reply);
                let reply = reply.to_vec().unwrap();
                let length = u16::try_from(reply.len()).unwrap();
                stream.write_all(&[&length.to_be_bytes(), &reply[..]].concat()).await.unwrap();
                stream.shutdown().await.ok();
            }
        });
        address
    }

    fn certificate(&self, host: &str, over: bool) -> (Vec<CertificateDer<'static>>, KeyPair) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![host.to_owned()]).unwrap();
        if over {
            params.not_before = rcgen::date_time_ymd(2020, 1, 1);
            params.not_after = rcgen::date_time_ymd(2020, 2, 1);
        }
        let certificate = params.signed_by(&key, &self.ca).unwrap();
        (vec![certificate.der().clone()], key)
    }

    fn tls(chain: Vec<CertificateDer<'static>>, key: &KeyPair, alpn: &[&str]) -> ServerConfig {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .unwrap();
        config.alpn_protocols = alpn.iter().map(|p| p.as_bytes().to_vec()).collect();
        config
    }

    async fn site(&mut self, config: ServerConfig, serve: Serve) -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
        self.tasks.spawn(async move {
            let mut sessions = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, serve) = (acceptor.clone(), Arc::clone(&serve));
                sessions.spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    let service = service_fn(move |request| {
                        let answer = serve(&request);
                        async move { Ok::<_, io::Error>(answer) }
                    });
                    let builder = auto::Builder::new(TokioExecutor::new());
                    // A client that hangs up after the headers is what is tested.
                    builder.serve_connection(TokioIo::new(stream), service).await.ok();
                });
            }
        });
        port
    }

    /// A site with a good certificate.
    async fn good_site(&mut self, alpn: &[&str], serve: Serve) -> u16 {
        let (chain, key) = self.certificate(HOST, false);
        self.site(Self::tls(chain, &key, alpn), serve).await
    }

    /// A site that speaks no HTTP of its own: shakes hands, reads a request, writes the bytes.
    async fn raw_site(&mut self, bytes: &'static [u8], hold: bool) -> u16 {
        let (chain, key) = self.certificate(HOST, false);
        let config = Arc::new(Self::tls(chain, &key, &["http/1.1"]));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        self.tasks.spawn(async move {
            let acceptor = tokio_rustls::TlsAcceptor::from(config);
            let (stream, _) = listener.accept().await.unwrap();
            let mut stream = acceptor.accept(stream).await.unwrap();
            let mut buffer = [0; 4096];
            assert!(stream.read(&mut buffer).await.unwrap() > 0, "a request came");
            stream.write_all(bytes).await.unwrap();
            stream.flush().await.unwrap();
            if hold {
                std::future::pending::<()>().await;
            }
            stream.shutdown().await.unwrap();
        });
        port
    }

    fn prober(&self) -> Prober {
        Prober::new(self.settings.clone()).unwrap()
    }

    async fn probe(&self, port: u16) -> ProbeResult {
        self.prober().probe(&target(port), Family::V4, Look::default()).await
    }
}

fn target(port: u16) -> Target {
    let text = format!("index = 1\nid = \"a\"\nname = \"A\"\nhost = \"{HOST}\"\nport = {port}");
    toml::from_str(&text).unwrap()
}

fn page(status: u16, body: usize) -> Serve {
    Arc::new(move |_| {
        let body = Full::new(vec![b'x'; body].into());
        Response::builder().status(status).body(body).unwrap()
    })
}

fn check(result: &ProbeResult, outcome: Outcome, dns: DnsPath) {
    assert_eq!((result.outcome, result.dns), (outcome, dns), "{result:?}");
}

/// A server that hangs up on whoever offers TLS 1.3, as one that a bad release has broken.
#[tokio::test]
async fn what_breaks_one_profile_leaves_the_other() {
    let mut lab = Lab::new().await;
    let (chain, key) = lab.certificate(HOST, false);
    let config = Arc::new(Lab::tls(chain, &key, &["h2"]));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    lab.tasks.spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let hello = LazyConfigAcceptor::new(Acceptor::default(), stream).await.unwrap();
            let offers = |suite: &CipherSuite| *suite == CipherSuite::TLS13_AES_128_GCM_SHA256;
            if hello.client_hello().cipher_suites().iter().any(offers) {
                continue;
            }
            let stream = hello.into_stream(Arc::clone(&config)).await.unwrap();
            let service = service_fn(|_| async {
                Ok::<_, io::Error>(Response::new(Full::<bytes::Bytes>::default()))
            });
            let builder = auto::Builder::new(TokioExecutor::new());
            // A client that hangs up after the headers is as it should be.
            builder.serve_connection(TokioIo::new(stream), service).await.ok();
        }
    });
    check(&lab.probe(port).await, Outcome::TlsHandshake, DnsPath::Unconfirmed);
    lab.settings.profile = Profile::Classic;
    let result = lab.probe(port).await;
    check(&result, Outcome::Ok, DnsPath::Unconfirmed);
    assert_eq!(result.http_version, Some("h2"));
    // Any other site answers both, and sends the classic one as good as nothing of its body.
    let port = lab.good_site(&["h2"], page(200, 1 << 20)).await;
    let prober = lab.prober();
    for resumed in [false, true] {
        let result = prober.probe(&target(port), Family::V4, Look::default()).await;
        check(&result, Outcome::Ok, DnsPath::Unconfirmed);
        assert_eq!(result.resumed, resumed);
        assert!(result.bytes_in < 5_000, "{result:?}");
    }
}

#[tokio::test]
async fn ok_over_both_versions_and_resumed() {
    for (alpn, version) in [("h2", "h2"), ("http/1.1", "http/1.1")] {
        let mut lab = Lab::new().await;
        let port = lab.good_site(&[alpn], page(200, 10)).await;
        let prober = lab.prober();
        let first = prober.probe(&target(port), Family::V4, Look::default()).await;
        check(&first, Outcome::Ok, DnsPath::Unconfirmed);
        assert_eq!((first.status, first.http_version), (200, Some(version)));
        assert_eq!(first.address, Some(IpAddr::V4(Ipv4Addr::LOCALHOST)));
        assert!(first.phases.iter().all(Option::is_some) && !first.resumed);
        assert!(first.bytes_in > 500 && first.bytes_out > 300, "{first:?}");
        let second = prober.probe(&target(port), Family::V4, Look::default()).await;
        assert!(second.resumed && second.outcome == Outcome::Ok, "{second:?}");
        assert!(second.bytes_in < first.bytes_in);
        let full = prober
            .probe(&target(port), Family::V4, Look { full_handshake: true, ..Look::default() })
            .await;
        assert!(!full.resumed && full.outcome == Outcome::Ok, "{full:?}");
    }
}

#[tokio::test]
async fn a_good_answers_body_is_never_sent_over_h2() {
    let mut lab = Lab::new().await;
    let port = lab.good_site(&["h2"], page(200, 1 << 20)).await;
    let result = lab.probe(port).await;
    check(&result, Outcome::Ok, DnsPath::Unconfirmed);
    assert!(result.bytes_in < 4096, "{result:?}");
}

#[tokio::test]
async fn a_failures_body_is_read_and_bounded() {
    for alpn in ["h2", "http/1.1"] {
        let mut lab = Lab::new().await;
        let port = lab.good_site(&[alpn], page(500, 1 << 20)).await;
        let result = lab.probe(port).await;
        check(&result, Outcome::Http5xx, DnsPath::Unconfirmed);
        assert_eq!(result.status, 500);
        let (least, most) = (BODY_PREFIX_BYTES as u64, 4 * BODY_PREFIX_BYTES as u64);
        assert!((least..most).contains(&result.bytes_in), "{alpn} {result:?}");
        assert!(result.total < Duration::from_secs(2), "{result:?}");
    }
}

#[tokio::test]
async fn the_edge_is_asked_for_its_own_word_on_the_same_connection() {
    for alpn in ["h2", "http/1.1"] {
        let mut lab = Lab::new().await;
        let asked = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&asked);
        let serve: Serve = Arc::new(move |request| {
            count.fetch_add(1, Ordering::Relaxed);
            let accept = request.headers()["accept"].to_str().unwrap();
            let (media, body) = match accept.starts_with("application/problem+json") {
                true => (
                    "application/problem+json",
                    r#"{"status":502,"error_category":"cloudflare","cloudflare_error":true}"#,
                ),
                false => ("text/html", "<html>"),
            };
            let answer = Response::builder().status(502).header("server", "cloudflare");
            let answer = answer.header("cf-ray", "1-FRA").header("retry-after", "60");
            answer.header("content-type", media).body(Full::new(body.into())).unwrap()
        });
        let port = lab.good_site(&[alpn], serve).await;
        let result = lab.probe(port).await;
        check(&result, Outcome::Http5xx, DnsPath::Unconfirmed);
        assert_eq!((asked.load(Ordering::Relaxed), result.retry_after_s), (2, Some(60)));
    }
}

#[tokio::test]
async fn certificates_are_told_apart() {
    let mut lab = Lab::new().await;
    let (chain, key) = lab.certificate("other.test", false);
    let port = lab.site(Lab::tls(chain, &key, &["h2"]), page(200, 0)).await;
    check(&lab.probe(port).await, Outcome::TlsCertName, DnsPath::Unconfirmed);
    let (chain, key) = lab.certificate(HOST, true);
    let port = lab.site(Lab::tls(chain, &key, &["h2"]), page(200, 0)).await;
    check(&lab.probe(port).await, Outcome::TlsCertExpired, DnsPath::Unconfirmed);
    let port = lab.good_site(&["h2"], page(200, 0)).await;
    lab.settings.extra_roots.clear();
    check(&lab.probe(port).await, Outcome::TlsCertUntrusted, DnsPath::Unconfirmed);
}

#[tokio::test]
async fn handshakes_that_fail() {
    let mut lab = Lab::new().await;
    // No protocol in common: RFC 7301 has the server send an alert.
    let port = lab.good_site(&["other"], page(200, 0)).await;
    check(&lab.probe(port).await, Outcome::TlsAlert, DnsPath::Unconfirmed);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    lab.tasks.spawn(async move { drop(listener.accept().await) });
    check(&lab.probe(port).await, Outcome::TlsHandshake, DnsPath::Unconfirmed);
}

#[tokio::test]
async fn a_closed_port_is_refused() {
    let lab = Lab::new().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let result = lab.probe(port).await;
    check(&result, Outcome::TcpRefused, DnsPath::Unconfirmed);
    assert!(result.phases[1].is_some() && result.phases[2].is_none());
}

#[tokio::test]
async fn answers_that_are_no_http() {
    for (bytes, outcome) in [
        (&b""[..], Outcome::HttpReset),
        (b"HTTP/1.1 200 OK\r\nServ", Outcome::HttpReset),
        (b"SSH-2.0-OpenSSH_9.7\r\n\r\n", Outcome::HttpProtocol),
    ] {
        let mut lab = Lab::new().await;
        let port = lab.raw_site(bytes, false).await;
        check(&lab.probe(port).await, outcome, DnsPath::Unconfirmed);
    }
    let mut lab = Lab::new().await;
    let long = [&b"HTTP/1.1 200 OK\r\na: "[..], &[b'x'; 100_000], b"\r\n\r\n"].concat();
    let port = lab.raw_site(long.leak(), true).await;
    check(&lab.probe(port).await, Outcome::HttpTruncated, DnsPath::Unconfirmed);
}

#[tokio::test]
async fn a_silent_site_runs_out_of_time() {
    let mut lab = Lab::new().await;
    let port = lab.raw_site(b"", true).await;
    let result = lab.probe(port).await;
    check(&result, Outcome::HttpTimeout, DnsPath::Unconfirmed);
    assert!((4..6).contains(&result.total.as_secs()), "{result:?}");
}

#[tokio::test]
async fn redirects_stay_on_the_site_and_are_bounded() {
    let mut lab = Lab::new().await;
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let serve: Serve = Arc::new(move |request| {
        count.fetch_add(1, Ordering::Relaxed);
        let to = match request.uri().path() {
            "/" => "/home",
            "/home" => return Response::new(Full::default()),
            "/loop" => "/loop",
            _ => "https://elsewhere.invalid/",
        };
        Response::builder().status(302).header("location", to).body(Full::default()).unwrap()
    });
    let port = lab.good_site(&["h2"], serve).await;
    for (path, status, requests) in [("/", 200, 2), ("/loop", 302, 4), ("/away", 302, 1)] {
        asked.store(0, Ordering::Relaxed);
        let target = Target { path: path.to_owned(), ..target(port) };
        let result = lab.prober().probe(&target, Family::V4, Look::default()).await;
        assert_eq!((result.status, asked.load(Ordering::Relaxed)), (status, requests), "{path}");
    }
}

#[tokio::test]
async fn private_addresses_are_never_connected_to() {
    let mut lab = Lab::new().await;
    lab.settings.allowed = Allowed::default();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let result = lab.probe(port).await;
    check(&result, Outcome::DnsNonPublic, DnsPath::Unconfirmed);
    assert_eq!(result.address, None);
    let nobody = tokio::time::timeout(Duration::from_millis(50), listener.accept()).await;
    assert!(nobody.is_err(), "somebody connected");
}

#[tokio::test]
async fn resolver_failures_are_told_apart() {
    for (response, outcome) in [
        (ResponseCode::ServFail, Outcome::DnsServfail),
        (ResponseCode::NXDomain, Outcome::DnsNxdomain),
        (ResponseCode::Refused, Outcome::DnsRefused),
        (ResponseCode::NoError, Outcome::DnsNodata),
    ] {
        let mut lab = Lab::new().await;
        lab.settings.resolvers = vec![lab.name_server(code(response), "127.0.0.1:0").await];
        check(&lab.probe(443).await, outcome, DnsPath::Unconfirmed);
        // A pair of public resolvers decides where no root can be asked.
        let good = lab.name_server(a(Ipv4Addr::LOCALHOST), "127.0.0.1:0").await;
        let bad = lab.name_server(code(ResponseCode::ServFail), "127.0.0.1:0").await;
        let plain = |address| PublicResolver { address, tls: None };
        lab.settings.independent.fallback = vec![plain(bad), plain(good)];
        check(&lab.probe(443).await, outcome, DnsPath::SystemOnly);
        lab.settings.independent.fallback = vec![plain(bad), plain(bad)];
        check(&lab.probe(443).await, outcome, DnsPath::Both);
    }
}

#[tokio::test]
async fn a_name_that_only_the_own_resolver_keeps_is_found_out_when_names_are_doubted() {
    let mut lab = Lab::new().await;
    let port = lab.good_site(&["h2"], page(200, 10)).await;
    let plain = |address| PublicResolver { address, tls: None };
    let bad = lab.name_server(code(ResponseCode::ServFail), "127.0.0.1:0").await;
    let good = lab.name_server(a(Ipv4Addr::LOCALHOST), "127.0.0.1:0").await;
    let doubting = Look { names: Names::Walk, ..Look::default() };
    lab.settings.independent.fallback = vec![plain(bad), plain(bad)];
    check(&lab.probe(port).await, Outcome::Ok, DnsPath::Unconfirmed);
    let result = lab.prober().probe(&target(port), Family::V4, doubting).await;
    check(&result, Outcome::DnsServfail, DnsPath::IndependentOnly);
    // One that answers is enough, and silence proves nothing.
    for fallback in [vec![plain(bad), plain(good)], Vec::new()] {
        lab.settings.independent.fallback = fallback;
        let result = lab.prober().probe(&target(port), Family::V4, doubting).await;
        check(&result, Outcome::Ok, DnsPath::Unconfirmed);
    }
}

#[tokio::test]
async fn where_port_53_is_closed_public_resolvers_are_asked_over_tls() {
    let mut lab = Lab::new().await;
    let refuse = lab.name_server(code(ResponseCode::ServFail), "127.0.0.1:0").await;
    lab.settings.resolvers = vec![refuse];
    // A root that never answers, as where a firewall drops port 53.
    let silent = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let silent_at = silent.local_addr().unwrap();
    lab.settings.independent.roots = vec![silent_at.ip()];
    lab.settings.independent.port = silent_at.port();
    let secure =
        |address: SocketAddr, name: &str| PublicResolver { address, tls: Some(name.to_owned()) };
    let at = lab.tls_name_server("resolver.test", a(Ipv4Addr::LOCALHOST)).await;
    lab.settings.independent.fallback = vec![secure(at, "resolver.test")];
    check(&lab.probe(443).await, Outcome::DnsServfail, DnsPath::SystemOnly);
    // One whose certificate is another's proves nothing.
    lab.settings.independent.fallback = vec![secure(at, "other.test")];
    check(&lab.probe(443).await, Outcome::DnsServfail, DnsPath::Unconfirmed);
}

#[tokio::test]
async fn a_closed_resolver_is_unreachable_and_the_second_is_asked() {
    let mut lab = Lab::new().await;
    let good = lab.settings.resolvers[0];
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let closed = socket.local_addr().unwrap();
    drop(socket);
    lab.settings.resolvers = vec![closed];
    check(&lab.probe(443).await, Outcome::DnsUnreachable, DnsPath::Unconfirmed);
    lab.settings.resolvers = vec![closed, good];
    let port = lab.good_site(&["h2"], page(200, 0)).await;
    check(&lab.probe(port).await, Outcome::Ok, DnsPath::Unconfirmed);
}

#[tokio::test]
async fn a_truncated_answer_is_asked_for_over_tcp() {
    let mut lab = Lab::new().await;
    let cut: Say = Arc::new(|_, reply| reply.metadata.truncation = true);
    let server = lab.name_server(cut, "127.0.0.1:0").await;
    let listener = TcpListener::bind(server).await.unwrap();
    lab.tasks.spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut query = vec![0; usize::from(stream.read_u16().await.unwrap())];
        stream.read_exact(&mut query).await.unwrap();
        let query = Message::from_vec(&query).unwrap();
        let mut reply = Message::response(query.metadata.id, query.metadata.op_code);
        reply.queries = query.queries.clone();
        let alias = RData::CNAME(rdata::CNAME(name("Edge.test")));
        reply.add_answer(Record::from_rdata(query.queries[0].name().clone(), 60, alias));
        let address = RData::A(rdata::A(Ipv4Addr::LOCALHOST));
        reply.add_answer(Record::from_rdata(name("edge.test"), 60, address));
        let bytes = reply.to_vec().unwrap();
        stream.write_u16(u16::try_from(bytes.len()).unwrap()).await.unwrap();
        stream.write_all(&bytes).await.unwrap();
        std::future::pending::<()>().await;
    });
    lab.settings.resolvers = vec![server];
    let port = lab.good_site(&["h2"], page(200, 0)).await;
    let result = lab.probe(port).await;
    check(&result, Outcome::Ok, DnsPath::Unconfirmed);
    assert_eq!(result.cname, ["edge.test"]);
}

/// Roots at 127.0.0.1 refer `test` to 127.0.0.2, which answers as given; an alias is followed.
async fn iterate(last: Say, root_recurses: bool) -> ProbeResult {
    let mut lab = Lab::new().await;
    let root: Say = Arc::new(move |_, reply| {
        reply.metadata.recursion_available = root_recurses;
        let server = name("ns.test");
        let ns = RData::NS(rdata::NS(server.clone()));
        reply.add_authority(Record::from_rdata(name("test"), 60, ns));
        let glue = RData::A(rdata::A(Ipv4Addr::new(127, 0, 0, 2)));
        reply.add_additional(Record::from_rdata(server, 60, glue));
    });
    let root = lab.name_server(root, "127.0.0.1:0").await;
    lab.name_server(last, &format!("127.0.0.2:{}", root.port())).await;
    let bad = lab.name_server(code(ResponseCode::ServFail), "127.0.0.1:0").await;
    lab.settings.resolvers = vec![bad];
    lab.settings.independent =
        Independent { roots: vec![root.ip()], port: root.port(), fallback: Vec::new() };
    lab.probe(443).await
}

#[tokio::test]
async fn the_independent_path_follows_referrals_from_the_roots() {
    let authoritative: Say = Arc::new(|asked, reply| {
        reply.metadata.authoritative = true;
        assert_eq!(reply.queries[0].query_type(), RecordType::A);
        let data = match asked.eq_ignore_root(&name(HOST)) {
            true => RData::CNAME(rdata::CNAME(name("alias.test"))),
            false => RData::A(rdata::A(Ipv4Addr::LOCALHOST)),
        };
        reply.add_answer(Record::from_rdata(asked.clone(), 60, data));
    });
    let result = iterate(Arc::clone(&authoritative), false).await;
    check(&result, Outcome::DnsServfail, DnsPath::SystemOnly);
    let result = iterate(code(ResponseCode::ServFail), false).await;
    check(&result, Outcome::DnsServfail, DnsPath::Both);
    let result = iterate(code(ResponseCode::NXDomain), false).await;
    check(&result, Outcome::DnsServfail, DnsPath::Both);
    // Something that recurses in a root's place proves nothing.
    let result = iterate(authoritative, true).await;
    check(&result, Outcome::DnsServfail, DnsPath::Unconfirmed);
}

/// Roots that refer `test` to 127.0.0.2, whose server does as it is told and counts, and a resolver that
/// has kept the name.
struct Kept {
    lab: Lab,
    port: u16,
    roots_asked: Arc<AtomicUsize>,
    own_asked: Arc<AtomicUsize>,
    /// What the name's own server does: 0 answers, 1 fails, 2 speaks of the root, 3 has no authority and says that there is nothing; with 4 the roots recurse.
    mode: Arc<AtomicUsize>,
}

impl Kept {
    async fn new() -> Self {
        let mut lab = Lab::new().await;
        let port = lab.good_site(&["h2"], page(200, 10)).await;
        let [roots_asked, own_asked, mode] = [0, 0, 0].map(|n| Arc::new(AtomicUsize::new(n)));
        let (count, does) = (Arc::clone(&roots_asked), Arc::clone(&mode));
        let refer = |reply: &mut Message, zone: &str| {
            let ns = RData::NS(rdata::NS(name("ns.test")));
            reply.add_authority(Record::from_rdata(name(zone), 3_600, ns));
            let glue = RData::A(rdata::A(Ipv4Addr::new(127, 0, 0, 2)));
            reply.add_additional(Record::from_rdata(name("ns.test"), 3_600, glue));
        };
        let root: Say = Arc::new(move |_, reply| {
            count.fetch_add(1, Ordering::Relaxed);
            reply.metadata.recursion_available = does.load(Ordering::Relaxed) == 4;
            refer(reply, "test");
        });
        let root = lab.name_server(root, "127.0.0.1:0").await;
        let (count, does) = (Arc::clone(&own_asked), Arc::clone(&mode));
        let own: Say = Arc::new(move |asked, reply| {
            count.fetch_add(1, Ordering::Relaxed);
            let mode = does.load(Ordering::Relaxed);
            reply.metadata.authoritative = mode != 3;
            match mode {
                1 => reply.metadata.response_code = ResponseCode::ServFail,
                2 => {
                    reply.metadata.authoritative = false;
                    refer(reply, ".");
                }
                3 => {}
                _ => a(Ipv4Addr::LOCALHOST)(asked, reply),
            }
        });
        lab.name_server(own, &format!("127.0.0.2:{}", root.port())).await;
        lab.settings.independent =
            Independent { roots: vec![root.ip()], port: root.port(), fallback: Vec::new() };
        Self { lab, port, roots_asked, own_asked, mode }
    }

    /// Probes, and tells how often the roots and the name's own server were asked.
    async fn probe(&self, prober: &Prober) -> (ProbeResult, usize, usize) {
        let look = Look { names: Names::Direct, ..Look::default() };
        let result = prober.probe(&target(self.port), Family::V4, look).await;
        let asked = |count: &AtomicUsize| count.swap(0, Ordering::Relaxed);
        (result, asked(&self.roots_asked), asked(&self.own_asked))
    }
}

#[tokio::test]
async fn a_names_own_servers_are_asked_without_the_roots_and_their_failure_is_seen_at_once() {
    let lab = Kept::new().await;
    let prober = lab.lab.prober();
    for roots in [1, 0, 0] {
        let (result, roots_asked, own_asked) = lab.probe(&prober).await;
        check(&result, Outcome::Ok, DnsPath::Unconfirmed);
        assert_eq!((roots_asked, own_asked), (roots, 1), "the referral is kept");
    }
    lab.mode.store(1, Ordering::Relaxed);
    let (result, roots_asked, _) = lab.probe(&prober).await;
    check(&result, Outcome::DnsServfail, DnsPath::IndependentOnly);
    assert_eq!(roots_asked, 1, "what is said goes by a walk from the roots");
    lab.mode.store(0, Ordering::Relaxed);
    let (result, roots_asked, _) = lab.probe(&prober).await;
    check(&result, Outcome::Ok, DnsPath::Unconfirmed);
    assert_eq!(roots_asked, 0, "its top-level domain has not failed");
    // Who has no authority may not say that there is nothing: it fails, and so does the walk.
    lab.mode.store(3, Ordering::Relaxed);
    let (result, ..) = lab.probe(&prober).await;
    check(&result, Outcome::DnsServfail, DnsPath::IndependentOnly);
}

#[tokio::test]
async fn name_servers_do_not_speak_of_what_is_above_them() {
    let lab = Kept::new().await;
    let prober = lab.lab.prober();
    lab.mode.store(2, Ordering::Relaxed);
    let (result, _, own_asked) = lab.probe(&prober).await;
    check(&result, Outcome::DnsServfail, DnsPath::IndependentOnly);
    assert_eq!(own_asked, 2, "once directly, once by the walk, and never in a circle");
}

#[tokio::test]
async fn where_something_answers_in_the_name_servers_place_they_are_left_alone() {
    let lab = Kept::new().await;
    let prober = lab.lab.prober();
    lab.mode.store(4, Ordering::Relaxed);
    for expected in [(1, 0), (0, 0)] {
        let (result, roots_asked, own_asked) = lab.probe(&prober).await;
        check(&result, Outcome::Ok, DnsPath::Unconfirmed);
        assert_eq!((roots_asked, own_asked), expected, "for an hour");
    }
}

#[tokio::test]
async fn referrals_into_private_networks_are_not_followed() {
    let mut lab = Lab::new().await;
    lab.settings.allowed = Allowed::default();
    let root: Say = Arc::new(|_, reply| {
        let ns = RData::NS(rdata::NS(name("ns.test")));
        reply.add_authority(Record::from_rdata(name("test"), 60, ns));
        let glue = RData::A(rdata::A(Ipv4Addr::new(127, 0, 0, 2)));
        reply.add_additional(Record::from_rdata(name("ns.test"), 60, glue));
    });
    let root = lab.name_server(root, "127.0.0.1:0").await;
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let inside: Say = Arc::new(move |_, _| {
        count.fetch_add(1, Ordering::Relaxed);
    });
    lab.name_server(inside, &format!("127.0.0.2:{}", root.port())).await;
    lab.settings.resolvers =
        vec![lab.name_server(code(ResponseCode::ServFail), "127.0.0.1:0").await];
    lab.settings.independent =
        Independent { roots: vec![root.ip()], port: root.port(), fallback: Vec::new() };
    check(&lab.probe(443).await, Outcome::DnsServfail, DnsPath::Both);
    assert_eq!(asked.load(Ordering::Relaxed), 0);
}
