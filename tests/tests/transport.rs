//! The fallback: where UDP is blocked everything goes over TCP, soon and whole; when UDP passes
//! again it goes over QUIC; and who comes over TCP with something else is dropped and counted.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use tempfile::TempDir;
use tocsin_agent::{
    clock::Clock as AgentClock,
    identity::Identity,
    probe::profile::Profile,
    spool::Spool,
    uplink::{
        Status, Uplink, UplinkError,
        way::{Pace, Transport, Via, Way},
    },
    voice::Voice,
};
use tocsin_collector::{
    Addresses, Collector, LOG, RunError,
    clock::Clock,
    config::{Config, RawConfig},
    ingest::living::Living,
    keys::Keys,
    metrics::Metrics,
    store::LogReader,
};
use tocsin_proto::{
    bounded::List,
    catalogue::Catalogue,
    id::TargetIndex,
    limits::ALPN,
    line::CollectorLine,
    message::{Ack, AskBack, GoAwayReason, Message, Ready, Tag},
    observation::{Cause, Family, LogMs, Observation},
    outcome::Outcome,
    report::{Health, Report, ResolverClass},
    sign::SecretKey,
};
use tocsin_tests::{
    peer::{Away, PATIENCE, Peer, Programs, eventually, hello},
    relay::Relay,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::{mpsc, watch},
    task::JoinSet,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

/// Within this time of its start an agent whose UDP is blocked has a session.
const SOON: Duration = Duration::from_secs(5);
/// Reports that are said while the transport changes.
const SAID_MAX: usize = 200;

const SOURCE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

fn source(n: u8) -> IpAddr {
    Ipv4Addr::new(127, 0, 100 + n, 1).into()
}

fn key(n: u8) -> SecretKey {
    SecretKey::from_seed(&[n; 32])
}

fn target() -> TargetIndex {
    *Catalogue::builtin().targets().keys().next().unwrap()
}

fn report(seq: u64, cause: Cause) -> Report {
    let observation = Observation {
        target: target(),
        after_ds: 0,
        family: Family::V4,
        cause,
        outcome: Outcome::Ok,
        latency: LogMs(9),
        failure: None,
    };
    Report {
        seq,
        base_s: u32::try_from(Clock.wall().as_s()).unwrap(),
        probe_core: 1,
        health: Health::default(),
        resolver: ResolverClass::Local,
        observations: List::new(vec![observation]).unwrap(),
    }
}

/// A collector in this process.
struct World {
    addresses: Addresses,
    metrics: Arc<Metrics>,
    living: Living,
    shutdown: CancellationToken,
    serving: JoinSet<Result<(), RunError>>,
    dir: TempDir,
}

async fn world(change: impl FnOnce(&mut RawConfig)) -> World {
    let dir = tempfile::tempdir().unwrap();
    let data_dir = dir.path().join("data");
    Keys::init(&data_dir, Clock.wall()).unwrap();
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let mut raw = RawConfig {
        data_dir,
        listen: vec![any],
        web_listen: any,
        operator_listen: any,
        ..RawConfig::default()
    };
    change(&mut raw);
    let collector = Collector::bind(Config::try_from(raw).unwrap()).await.unwrap();
    let (addresses, metrics) = (collector.addresses().clone(), collector.metrics());
    let (living, shutdown) = (collector.living(), CancellationToken::new());
    let mut serving = JoinSet::new();
    serving.spawn(collector.serve(shutdown.clone()));
    World { addresses, metrics, living, shutdown, serving, dir }
}

impl World {
    fn address(&self) -> SocketAddr {
        self.addresses.line.addresses[0]
    }

    /// The line that leads here over a relay.
    fn line_over(&self, relay: &Relay) -> CollectorLine {
        CollectorLine { addresses: vec![relay.address()], ..self.addresses.line.clone() }
    }

    fn metric(&self, name: &str) -> u64 {
        let text = self.metrics.text();
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value.map_or(0, |value| value.parse().unwrap())
    }

    fn sessions(&self, transport: &str) -> u64 {
        self.metric(&format!("tocsin_sessions{{transport=\"{transport}\"}}"))
    }

    fn refused(&self, reason: &str) -> u64 {
        self.metric(&format!("tocsin_connections_refused_total{{reason=\"{reason}\"}}"))
    }

    fn logged(&self) -> Vec<Report> {
        let mut found = Vec::new();
        let log = LogReader::open(&self.dir.path().join("data").join(LOG)).unwrap();
        log.replay(0, |record, _| found.push(record.report)).unwrap();
        found
    }

    async fn stop(mut self) {
        self.shutdown.cancel();
        timeout(PATIENCE, self.serving.join_next()).await.unwrap().unwrap().unwrap().unwrap();
    }
}

/// The uplink of an agent, with its outbox.
struct Agent {
    voice: Arc<Voice>,
    key: SecretKey,
    asked: mpsc::Receiver<AskBack>,
    status: watch::Receiver<Status>,
    shutdown: CancellationToken,
    running: JoinSet<Result<(), UplinkError>>,
    _dir: TempDir,
}

fn agent(line: &CollectorLine, transport: Transport, pace: Pace) -> Agent {
    let dir = tempfile::tempdir().unwrap();
    let identity = Arc::new(Identity::open(dir.path()).unwrap());
    let spool = Arc::new(Mutex::new(Spool::open(dir.path(), 1 << 20).unwrap()));
    let key = identity.observer_key(&line.operator, "home");
    let named = Some("home".to_owned());
    let voice = Arc::new(Voice::new(line.operator, identity, spool, named, Profile::Modern));
    let (asks, asked) = mpsc::channel(4);
    let (sender, status) = watch::channel(Status::default());
    let uplink = Uplink {
        line: line.clone(),
        transport,
        pace,
        voice: Arc::clone(&voice),
        clock: AgentClock::start(),
        sources: vec![SOURCE],
        catalogue_version: 1,
        asks,
        status: sender,
    };
    let shutdown = CancellationToken::new();
    let mut running = JoinSet::new();
    running.spawn(uplink.run(shutdown.clone()));
    Agent { voice, key, asked, status, shutdown, running, _dir: dir }
}

impl Agent {
    fn say(&self, cause: Cause) {
        let sign = |seq| report(seq, cause).sign(&self.key);
        self.voice.spool().push(&self.key.public(), Clock.wall(), true, sign).unwrap();
        self.voice.wake().notify_one();
    }

    fn is_all_acked(&self) -> bool {
        self.voice.spool().unsent(&self.key.public(), 0, 1).unwrap().is_empty()
    }

    async fn acked(&self, within: Duration) {
        let acked = async || self.is_all_acked().then_some(());
        eventually("every report is acked", within, acked).await.unwrap();
    }

    fn way(&self) -> Option<Way> {
        self.status.borrow().connected
    }

    async fn stop(mut self) {
        self.shutdown.cancel();
        timeout(PATIENCE, self.running.join_next()).await.unwrap().unwrap().unwrap().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn where_udp_is_blocked_a_report_is_acked_over_tcp_soon() {
    let world = world(|_| ()).await;
    let relay = Relay::start(world.address(), false).await.unwrap();
    let agent = agent(&world.line_over(&relay), Transport::Auto, Pace::default());
    agent.say(Cause::Scheduled);
    agent.acked(SOON).await;
    assert_eq!(agent.way(), Some(Way { via: Via::Tcp, address: relay.address() }));
    assert_eq!(agent.status.borrow().udp, Some(false));
    assert_eq!((world.sessions("tcp"), world.sessions("quic")), (1, 0));
    assert_eq!(world.metric("tocsin_sessions_tcp_permille"), 1_000);
    assert_eq!(world.logged().len(), 1);

    // The collector says goodbye, and the agent too: nothing breaks off.
    agent.stop().await;
    let left = async || (world.sessions("tcp") == 0).then_some(());
    eventually("the agent has left", PATIENCE, left).await.unwrap();
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn when_udp_passes_again_it_goes_back_and_nothing_is_lost_or_said_twice() {
    let world = world(|_| ()).await;
    let relay = Relay::start(world.address(), false).await.unwrap();
    let back_after = Duration::from_millis(200);
    let pace = Pace { back_after, back_after_max: back_after, ..Pace::default() };
    let agent = agent(&world.line_over(&relay), Transport::Auto, pace);
    agent.say(Cause::Scheduled);
    agent.acked(PATIENCE).await;
    assert_eq!(agent.way().map(|way| way.via), Some(Via::Tcp));

    relay.let_udp_pass(true);
    let mut said = 1;
    let back = async || {
        // Reports keep coming while it changes.
        if said < SAID_MAX {
            agent.say(Cause::Scheduled);
            said += 1;
        }
        (agent.way()?.via == Via::Quic).then_some(())
    };
    eventually("it goes back to QUIC", PATIENCE, back).await.unwrap();
    assert_eq!(agent.status.borrow().udp, Some(true));
    agent.say(Cause::Scheduled);
    agent.acked(PATIENCE).await;
    let mut logged: BTreeMap<u64, usize> = BTreeMap::new();
    for report in world.logged() {
        *logged.entry(report.seq).or_default() += 1;
    }
    let each_once: BTreeMap<u64, usize> = (1..=said as u64 + 1).map(|seq| (seq, 1)).collect();
    assert_eq!(logged, each_once);
    let alone = async || (world.sessions("tcp") == 0 && world.sessions("quic") == 1).then_some(());
    eventually("the session over TCP has ended", PATIENCE, alone).await.unwrap();
    assert_eq!(world.metric("tocsin_sessions_tcp_permille"), 0);
    agent.stop().await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ask_arrives_over_tcp_and_is_answered() {
    let world = world(|_| ()).await;
    // UDP would pass, and is not used.
    let mut agent = agent(&world.addresses.line, Transport::Tcp, Pace::default());
    let targets = List::new(vec![target()]).unwrap();
    let ask = AskBack { nonce: 77, targets, layer: 1, standing: false };
    let asking = async || world.living.ask(&agent.key.public(), ask.clone()).then_some(());
    eventually("the observer can be asked", PATIENCE, asking).await.unwrap();
    let got = timeout(PATIENCE, agent.asked.recv()).await.unwrap().unwrap();
    assert_eq!(got, ask);
    agent.say(Cause::Asked { nonce: got.nonce });
    agent.acked(PATIENCE).await;
    let causes: Vec<Cause> = world
        .logged()
        .iter()
        .flat_map(|report| report.observations.iter().map(|o| o.cause))
        .collect();
    assert_eq!(causes, [Cause::Asked { nonce: 77 }]);
    assert_eq!(agent.way(), Some(Way { via: Via::Tcp, address: world.address() }));
    assert_eq!(agent.status.borrow().udp, None, "nobody tried");
    assert_eq!((world.sessions("tcp"), world.sessions("quic")), (1, 0));
    agent.stop().await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_without_tcp_is_reached_over_quic_alone() {
    let world = world(|raw| raw.tcp = false).await;
    assert!(TcpStream::connect(world.address()).await.is_err());
    let agent = agent(&world.addresses.line, Transport::Auto, Pace::default());
    agent.say(Cause::Scheduled);
    agent.acked(PATIENCE).await;
    assert_eq!(agent.way(), Some(Way { via: Via::Quic, address: world.address() }));
    assert_eq!(agent.status.borrow().udp, Some(true));
    agent.stop().await;
    world.stop().await;
}

/// Why the other side ends the session.
async fn goodbye(peer: &mut Peer) -> GoAwayReason {
    let error = peer.message::<Ready>().await.unwrap_err();
    match error.downcast::<Away>() {
        Ok(Away(away)) => away.reason,
        Err(error) => panic!("no goodbye: {error:#}"),
    }
}

/// Reads until the other side has closed, whatever it says before.
async fn closed(stream: &mut TcpStream) {
    let reading = async {
        let mut piece = [0; 1024];
        while stream.read(&mut piece).await.is_ok_and(|read| read > 0) {}
    };
    timeout(PATIENCE, reading).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn who_comes_over_tcp_with_something_else_is_dropped_and_counted() {
    let world = world(|_| ()).await;
    let address = world.address();
    let connect = async || Peer::connect_tcp(address, SOURCE, ALPN).await.unwrap();

    // Says nothing, before TLS and after it: the deadlines end both, while the others go on.
    let mut silent = TcpStream::connect(address).await.unwrap();
    let mut mute = connect().await;
    let mut stalled = connect().await;
    let bytes = hello().unwrap().to_frame().to_bytes();
    stalled.send_bytes(&bytes[..bytes.len() - 1]).await.unwrap();

    let request = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec();
    for bytes in [request, vec![0x16; 3_000], vec![0; 70_000]] {
        let mut garbage = TcpStream::connect(address).await.unwrap();
        // It may be closed before all of it is written.
        garbage.write_all(&bytes).await.ok();
        closed(&mut garbage).await;
    }
    assert!(Peer::connect_tcp(address, SOURCE, b"h2").await.is_err(), "another ALPN");
    let mut nameless = Peer::connect_tcp(address, SOURCE, b"").await.unwrap();
    assert!(nameless.greet().await.is_err(), "no ALPN");

    let mut long = connect().await;
    long.send_bytes(&[Tag::Hello as u8, 252, 0, 0, 0, 0x80]).await.unwrap();
    assert_eq!(goodbye(&mut long).await, GoAwayReason::Frame, "2^31 bytes are announced");
    let mut flood = connect().await;
    flood.prove(&key(1)).await.unwrap();
    let mut bytes = vec![Tag::Report as u8, 251, 0xff, 0xff];
    bytes.resize(60_000, 7);
    // It may stop reading before all of it is written.
    flood.send_bytes(&bytes).await.ok();
    assert_eq!(goodbye(&mut flood).await, GoAwayReason::Frame, "64 KiB of report");

    // A proof is of its connection alone: one for QUIC is none for TCP.
    let mut quic = Peer::connect(&world.addresses.line, SOURCE).await.unwrap();
    let of_quic = quic.greet().await.unwrap();
    let mut tcp = connect().await;
    tcp.greet().await.unwrap();
    tcp.send(&of_quic.prove(&key(2), 0)).await.unwrap();
    assert_eq!(goodbye(&mut tcp).await, GoAwayReason::Proof, "a proof of another connection");
    quic.close();

    let mut good = Peer::connect_tcp(address, source(3), ALPN).await.unwrap();
    assert_eq!(good.prove(&key(3)).await.unwrap().committed_seq, 0);
    good.send(&report(1, Cause::Scheduled).sign(&key(3))).await.unwrap();
    assert_eq!(good.message::<Ack>().await.unwrap().committed_seq, 1);
    drop(good);

    assert_eq!(goodbye(&mut mute).await, GoAwayReason::Idle, "nothing after TLS");
    assert_eq!(goodbye(&mut stalled).await, GoAwayReason::Idle, "half a frame");
    closed(&mut silent).await;
    let counted = async || (world.refused("handshake") == 6).then_some(());
    eventually("silence, garbage and wrong ALPNs are counted", PATIENCE, counted).await.unwrap();
    let left = async || (world.sessions("tcp") == 0).then_some(());
    eventually("nobody is left", PATIENCE, left).await.unwrap();
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_places_of_a_prefix_are_those_of_both_transports() {
    let world = world(|raw| raw.sessions_per_prefix_max = 2).await;
    let address = world.address();
    let mut quic = Peer::connect(&world.addresses.line, SOURCE).await.unwrap();
    quic.greet().await.unwrap();
    let silent = TcpStream::connect(address).await.unwrap();
    let mut third = TcpStream::connect(address).await.unwrap();
    closed(&mut third).await;
    assert_eq!(world.refused("prefix"), 1);
    // Another prefix has places of its own, and these come back.
    Peer::connect_tcp(address, source(1), ALPN).await.unwrap().prove(&key(1)).await.unwrap();
    drop(silent);
    let again = async || {
        let mut peer = Peer::connect_tcp(address, SOURCE, ALPN).await.ok()?;
        peer.prove(&key(2)).await.ok()
    };
    eventually("a place is free again", PATIENCE, again).await.unwrap();
    quic.close();
    world.stop().await;
}

/// What `doctor` says of a line, and its exit code.
async fn doctor(dir: &Path, line: &CollectorLine, setting: &str) -> (serde_json::Value, i32) {
    let config = dir.join("agent.toml");
    std::fs::write(&config, setting).unwrap();
    let mut command = Programs::find().unwrap().agent();
    command.arg("--config").arg(&config).arg("--state-dir").arg(dir.join("state"));
    command.arg("--collector").arg(line.to_string()).args(["--json", "doctor"]);
    let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
    (serde_json::from_slice(&output.stdout).unwrap(), output.status.code().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn doctor_says_which_transport_works() {
    let world = world(|_| ()).await;
    let relay = Relay::start(world.address(), false).await.unwrap();
    let (line, dir) = (world.line_over(&relay), tempfile::tempdir().unwrap());
    let found = |(json, code): (serde_json::Value, i32)| {
        let checks = json["collectors"].as_array().unwrap();
        let of = |check: &serde_json::Value| {
            (check["via"].as_str().unwrap().to_owned(), check["ok"].as_bool().unwrap())
        };
        (checks.iter().map(of).collect::<Vec<_>>(), json["ok"].as_bool().unwrap(), code)
    };
    let of = |via: &str, ok| (via.to_owned(), ok);
    // One transport is enough; where it is not allowed it is not tried.
    let checked = found(doctor(dir.path(), &line, "").await);
    assert_eq!(checked, (vec![of("quic", false), of("tcp", true)], true, 0));
    let checked = found(doctor(dir.path(), &line, "transport = 'quic'\n").await);
    assert_eq!(checked, (vec![of("quic", false)], false, 1));
    relay.let_udp_pass(true);
    let checked = found(doctor(dir.path(), &line, "transport = 'auto'\n").await);
    assert_eq!(checked, (vec![of("quic", true), of("tcp", true)], true, 0));
    let checked = found(doctor(dir.path(), &line, "transport = 'tcp'\n").await);
    assert_eq!(checked, (vec![of("tcp", true)], true, 0));
    world.stop().await;
}
