use tocsin_proto::message::Query;

use super::*;
use std::net::SocketAddr;

use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tocsin_proto::{
    bounded::{Fixed, List},
    delegation::Delegation,
    id::TargetIndex,
    limits::{ALPN, EXPORTER_LABEL, FRAME_TO_COLLECTOR_MAX},
    message::{Ack, Greeting, Message, Prove, Ready, Transcript},
    report::{Health, Report, ResolverClass, SignedReport},
    sign::SecretKey,
    time::Timestamp,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpListener,
};

async fn next(recv: &mut (impl AsyncRead + Unpin), deframer: &mut Deframer) -> Frame {
    let mut buffer = [0; 2048];
    loop {
        if let Some(frame) = deframer.next_frame().unwrap() {
            return frame;
        }
        let length = recv.read(&mut buffer).await.unwrap();
        assert!(length > 0, "the agent left");
        deframer.push(&buffer[..length]);
    }
}

async fn say(send: &mut (impl AsyncWrite + Unpin), frame: &Frame) {
    send.write_all(&frame.to_bytes()).await.unwrap();
    send.flush().await.unwrap();
}

/// A collector that greets, checks the proof, asks once, takes one report and acks it.
async fn collector(
    recv: &mut (impl AsyncRead + Unpin),
    send: &mut (impl AsyncWrite + Unpin),
    exporter: [u8; 32],
    operator: SecretKey,
) -> SignedReport {
    let mut deframer = Deframer::new(FRAME_TO_COLLECTOR_MAX);
    let hello = next(recv, &mut deframer).await;
    let now = crate::clock::wall();
    let delegation = Delegation {
        role: KeyRole::Transport,
        key: transport().1,
        serial: 1,
        not_after: now.plus_ms(86_400_000),
    };
    let greeting = Greeting {
        version: 1,
        country: Country::UNKNOWN,
        asn: 0,
        collector_time: now.plus_ms(5_000),
        nonce: Fixed([1; 16]),
        pow_bits: 4,
        delegations: List::new(vec![delegation.sign(&operator)]).unwrap(),
    }
    .to_frame();
    say(send, &greeting).await;
    let prove = Prove::from_body(&next(recv, &mut deframer).await.body).unwrap();
    let transcript = Transcript::new(exporter, &hello, &greeting, Fixed([1; 16]));
    assert_eq!(transcript.verify(&prove), Ok(()));
    assert!(transcript.work_bits(&prove.observer, prove.work) >= 4);
    let ready = Ready { committed_seq: 0, schedule: Schedule::default() };
    say(send, &ready.to_frame()).await;
    let targets = List::new(vec![TargetIndex(7)]).unwrap();
    let ask = AskBack { nonce: 9, targets, layer: 1, standing: false };
    say(send, &ask.to_frame()).await;
    // What it asks is told when it may be.
    let report = loop {
        let frame = next(recv, &mut deframer).await;
        if frame.tag != Query::TAG as u8 {
            break SignedReport::from_body(&frame.body).unwrap();
        }
    };
    report.open(&prove.observer.verifier().unwrap()).unwrap();
    let ack = Ack { committed_seq: 1, ..Ack::default() };
    say(send, &ack.to_frame()).await;
    report
}

async fn over_quic(endpoint: quinn::Endpoint, operator: SecretKey) -> SignedReport {
    let connection = endpoint.accept().await.unwrap().await.unwrap();
    let (mut send, mut recv) = connection.accept_bi().await.unwrap();
    let mut exporter = [0; 32];
    connection.export_keying_material(&mut exporter, EXPORTER_LABEL, b"").unwrap();
    let report = collector(&mut recv, &mut send, exporter, operator).await;
    connection.closed().await;
    report
}

async fn over_tcp(listener: TcpListener, operator: SecretKey) -> SignedReport {
    let (stream, _) = listener.accept().await.unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(server_tls()));
    let stream = acceptor.accept(stream).await.unwrap();
    let (_, tls) = stream.get_ref();
    assert_eq!(tls.alpn_protocol(), Some(ALPN));
    assert_eq!(tls.server_name(), None);
    let context = Some(b"".as_slice());
    let exporter = tls.export_keying_material([0u8; 32], EXPORTER_LABEL, context).unwrap();
    let (mut recv, mut send) = tokio::io::split(stream);
    let report = collector(&mut recv, &mut send, exporter, operator).await;
    // The agent leaves with a goodbye, and not by breaking off.
    let mut rest = Vec::new();
    recv.read_to_end(&mut rest).await.unwrap();
    assert!(rest.is_empty() || rest == Query::Snapshot.to_frame().to_bytes(), "{rest:?}");
    report
}

thread_local! {
    static TRANSPORT: rcgen::KeyPair =
        rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
}

/// The collector's key as PKCS#8, and its public half; one for each test.
fn transport() -> (Vec<u8>, PublicKey) {
    TRANSPORT.with(|pair| {
        let key = PublicKey::from_bytes(pair.public_key_raw().try_into().unwrap());
        (pair.serialize_der(), key)
    })
}

fn server_tls() -> rustls::ServerConfig {
    let certificate = TRANSPORT.with(|pair| {
        rcgen::CertificateParams::new(vec!["x".to_owned()]).unwrap().self_signed(pair).unwrap()
    });
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(transport().0));
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut tls = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key)
        .unwrap();
    tls.alpn_protocols = vec![ALPN.to_vec()];
    tls
}

fn server() -> quinn::Endpoint {
    let tls = quinn::crypto::rustls::QuicServerConfig::try_from(server_tls()).unwrap();
    let config = quinn::ServerConfig::with_crypto(Arc::new(tls));
    quinn::Endpoint::server(config, "127.0.0.1:0".parse().unwrap()).unwrap()
}

/// An uplink, and where it passes asks on.
fn uplink(
    dir: &std::path::Path,
    operator: PublicKey,
    address: SocketAddr,
) -> (Uplink, mpsc::Receiver<AskBack>) {
    let identity = Arc::new(crate::identity::Identity::open(dir).unwrap());
    let spool = Arc::new(Mutex::new(Spool::open(dir, 1 << 20).unwrap()));
    let (asks, asked) = mpsc::channel(1);
    let uplink = Uplink {
        line: CollectorLine { operator, addresses: vec![address] },
        transport: Transport::Auto,
        pace: Pace::default(),
        voice: Arc::new(Voice::new(
            operator,
            identity,
            spool,
            Some("home".to_owned()),
            crate::probe::profile::Profile::Modern,
        )),
        clock: Clock::start(),
        sources: vec!["127.0.0.1".parse().unwrap()],
        catalogue_version: 1,
        asks,
        status: watch::channel(Status::default()).0,
    };
    (uplink, asked)
}

/// An agent with one report, until a collector has acked it: that report, and the way it went.
async fn delivered(
    address: SocketAddr,
    operator: &SecretKey,
    collector: impl Future<Output = SignedReport>,
) -> (SignedReport, Status) {
    let dir = tempfile::tempdir().unwrap();
    let (uplink, mut asked) = uplink(dir.path(), operator.public(), address);
    let (voice, mut status) = (Arc::clone(&uplink.voice), uplink.status.subscribe());
    let identity = crate::identity::Identity::open(dir.path()).unwrap();
    let key = identity.observer_key(&operator.public(), "home");
    let shutdown = CancellationToken::new();
    let report = |seq| Report {
        seq,
        base_s: 1_800_000_000,
        probe_core: 1,
        health: Health::default(),
        resolver: ResolverClass::Local,
        observations: List::default(),
    };
    let waiting = || voice.spool().unsent(&key.public(), 0, 9).unwrap().len();
    let drive = async {
        let sign = |seq| report(seq).sign(&key);
        voice.spool().push(&key.public(), Timestamp::from_s(1), true, sign).unwrap();
        voice.wake().notify_one();
        assert_eq!(asked.recv().await.unwrap().nonce, 9);
        let found = *status.wait_for(|status| status.connected.is_some()).await.unwrap();
        while waiting() > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        shutdown.cancel();
        found
    };
    let all = async { tokio::join!(uplink.run(shutdown.clone()), collector, drive) };
    let (ended, got, found) = timeout(Duration::from_secs(20), all).await.unwrap();
    assert!(ended.is_ok());
    (got, found)
}

#[tokio::test]
async fn a_report_arrives_and_its_ack_empties_the_spool() {
    let (endpoint, operator) = (server(), SecretKey::from_seed(&[1; 32]));
    let address = endpoint.local_addr().unwrap();
    let collector = over_quic(endpoint, SecretKey::from_seed(&[1; 32]));
    let (report, status) = delivered(address, &operator, collector).await;
    assert_eq!(report.peek_seq(), Ok(1));
    assert_eq!((status.connected, status.udp), (Some(Way { via: Via::Quic, address }), Some(true)));
}

#[tokio::test]
async fn where_udp_is_swallowed_it_goes_over_tcp() {
    let operator = SecretKey::from_seed(&[1; 32]);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    // Held, and never read from. Where the port is taken nobody answers QUIC either.
    let _swallowing = std::net::UdpSocket::bind(address);
    let collector = over_tcp(listener, SecretKey::from_seed(&[1; 32]));
    let (report, status) = delivered(address, &operator, collector).await;
    assert_eq!(report.peek_seq(), Ok(1));
    assert_eq!((status.connected, status.udp), (Some(Way { via: Via::Tcp, address }), Some(false)));
}

#[tokio::test]
async fn another_operator_is_told_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let pinned = SecretKey::from_seed(&[2; 32]).public();
    let other = || SecretKey::from_seed(&[1; 32]);
    let endpoint = server();
    let address = endpoint.local_addr().unwrap();
    let (uplink, _asked) = self::uplink(dir.path(), pinned, address);
    let error = tokio::select! {
        checked = uplink.check(Way { via: Via::Quic, address }) => checked.unwrap_err(),
        _ = over_quic(endpoint, other()) => panic!("a proof was sent"),
    };
    assert!(matches!(error, UplinkError::Session(SessionError::Delegation(_))));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let error = tokio::select! {
        checked = uplink.check(Way { via: Via::Tcp, address }) => checked.unwrap_err(),
        _ = over_tcp(listener, other()) => panic!("a proof was sent"),
    };
    assert!(matches!(error, UplinkError::Session(SessionError::Delegation(_))));
}
