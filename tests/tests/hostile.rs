//! Peers that do it wrong, against the real programs: each is refused for its own reason, counted,
//! and changes nothing for the others.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::Path,
    process::{Command, Stdio},
};

use serde::Serialize;
use tempfile::TempDir;
use tocsin_collector::{LOG, clock::Clock, store::LogReader};
use tocsin_proto::{
    bounded::{Bytes, List},
    catalogue::Catalogue,
    id::TargetIndex,
    line::CollectorLine,
    message::{
        Ack, GoAwayReason, Greeting, Hello, Message, Prove, Query, Ready, Rejection, Schedule,
        SignedSnapshot, Tag, Transcript,
    },
    observation::{Cause, Family, LogMs, Observation},
    outcome::Outcome,
    report::{Health, Report, ResolverClass, SignedReport},
    sign::{Domain, SecretKey, Signature},
    snapshot::{Cell, Subject},
    wire::{self, Frame},
};
use tocsin_tests::peer::{
    Away, CollectorProgram, FakeCollector, PATIENCE, Peer, Program, Programs, Serving, eventually,
    get, hello,
};

fn key(n: u8) -> SecretKey {
    SecretKey::from_seed(&[n; 32])
}

fn source(n: u8) -> IpAddr {
    Ipv4Addr::new(127, 0, 100 + n, 1).into()
}

const SOURCE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

async fn collector() -> (CollectorProgram, TempDir) {
    let (programs, dir) = (Programs::find().unwrap(), tempfile::tempdir().unwrap());
    programs.init(dir.path()).unwrap();
    (serve(&programs, dir.path(), 0).await, dir)
}

async fn serve(programs: &Programs, dir: &Path, port: u16) -> CollectorProgram {
    let listen = SocketAddr::from(([127, 0, 0, 1], port));
    let serving = Serving { data_dir: dir.to_owned(), listen, config: None, log: "info" };
    programs.serve(&serving).await.unwrap()
}

fn report(seq: u64, late_s: i64, target: TargetIndex) -> Report {
    let observation = Observation {
        target,
        after_ds: 0,
        family: Family::V4,
        cause: Cause::Scheduled,
        outcome: Outcome::Ok,
        latency: LogMs(9),
        failure: None,
    };
    let base_s = Clock.wall().as_s().checked_add_signed(-late_s).unwrap();
    Report {
        seq,
        base_s: u32::try_from(base_s).unwrap(),
        probe_core: 1,
        health: Health::default(),
        resolver: ResolverClass::Local,
        observations: List::new(vec![observation]).unwrap(),
    }
}

fn target() -> TargetIndex {
    *Catalogue::builtin().targets().keys().next().unwrap()
}

/// Sends a report; what the collector makes of it.
async fn offer(peer: &mut Peer, signed: &SignedReport) -> Result<(), Rejection> {
    let seq = signed.peek_seq().unwrap();
    peer.send(signed).await.unwrap();
    loop {
        let ack: Ack = peer.message().await.unwrap();
        if let Some(refused) = ack.rejected.iter().find(|refused| refused.seq == seq) {
            return Err(refused.reason);
        }
        if ack.committed_seq >= seq {
            return Ok(());
        }
    }
}

/// Why the other side ends the session.
async fn goodbye(peer: &mut Peer) -> GoAwayReason {
    let error = peer.message::<Ready>().await.unwrap_err();
    match error.downcast::<Away>() {
        Ok(Away(away)) => away.reason,
        Err(error) => panic!("no goodbye: {error:#}"),
    }
}

/// A new key is served from the handshake to the ack, and a page answers.
async fn all_is_well(collector: &CollectorProgram, n: u8) {
    for address in [collector.web, collector.operator] {
        assert_eq!(get(address, "/healthz").await.unwrap().status, 200);
    }
    assert_eq!(get(collector.operator, "/readyz").await.unwrap().status, 200);
    assert_eq!(get(collector.web, "/").await.unwrap().status, 200);
    let (mut good, ready) = Peer::session(&collector.line, source(n), &key(n)).await.unwrap();
    assert_eq!(ready.committed_seq, 0);
    assert_eq!(offer(&mut good, &report(1, 0, target()).sign(&key(n))).await, Ok(()));
    good.send(&Query::Snapshot).await.unwrap();
    let snapshot: SignedSnapshot = good.message().await.unwrap();
    assert!(!snapshot.document.is_empty());
    good.close();
}

fn logged(dir: &Path) -> Vec<Report> {
    let mut found = Vec::new();
    let log = LogReader::open(&dir.join(LOG)).unwrap();
    log.replay(0, |record, _| found.push(record.report)).unwrap();
    found
}

async fn stop(collector: CollectorProgram) {
    collector.stop().await.unwrap();
}

#[tokio::test]
async fn garbage_and_strange_handshakes_end_alone() {
    let (collector, _dir) = collector().await;
    let address = collector.line.addresses[0];

    let socket = tokio::net::UdpSocket::bind((SOURCE, 0)).await.unwrap();
    let mut state = 0x9e37_79b9_u32;
    for n in 0..3_000usize {
        let mut bytes = vec![0; n % 1_400];
        for byte in &mut bytes {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            *byte = (state >> 24) as u8;
        }
        // Some look like the first packet of a connection, of this version and of none.
        if let Some(head) = bytes.get_mut(..5).filter(|_| n.is_multiple_of(3)) {
            head.copy_from_slice(&[0xc3, 0, 0, 0, (n % 2) as u8]);
        }
        // A full buffer of our own is no concern here.
        socket.send_to(&bytes, address).await.ok();
    }
    assert!(Peer::connect_as(address, SOURCE, b"h3").await.is_err(), "another ALPN is refused");

    // Half a frame, and then nothing: the deadline of the handshake ends it.
    let mut stalled = Peer::connect(&collector.line, SOURCE).await.unwrap();
    let bytes = hello().unwrap().to_frame().to_bytes();
    stalled.send_bytes(&bytes[..bytes.len() - 1]).await.unwrap();
    all_is_well(&collector, 1).await;

    let mut long = Peer::connect(&collector.line, SOURCE).await.unwrap();
    long.send_bytes(&[Tag::Hello as u8, 252, 0, 0, 0, 0x80]).await.unwrap();
    assert_eq!(goodbye(&mut long).await, GoAwayReason::Frame, "2^31 bytes are announced");
    let mut wide = Peer::connect(&collector.line, SOURCE).await.unwrap();
    wide.send_bytes(&[Tag::Hello as u8, 253, 1, 0, 0, 0, 0, 0, 0, 0]).await.unwrap();
    assert_eq!(goodbye(&mut wide).await, GoAwayReason::Frame, "a length of eight bytes");

    let mut early = Peer::connect(&collector.line, SOURCE).await.unwrap();
    early.send(&report(1, 0, target()).sign(&key(2))).await.unwrap();
    assert_eq!(goodbye(&mut early).await, GoAwayReason::Order, "a report before the hello");
    let mut twice = Peer::connect(&collector.line, SOURCE).await.unwrap();
    twice.greet().await.unwrap();
    twice.send(&hello().unwrap()).await.unwrap();
    assert_eq!(goodbye(&mut twice).await, GoAwayReason::Order, "a second hello");
    let (mut again, _) = Peer::session(&collector.line, SOURCE, &key(3)).await.unwrap();
    again.send(&hello().unwrap()).await.unwrap();
    assert_eq!(goodbye(&mut again).await, GoAwayReason::Order, "a hello in a session");

    let mut future = Peer::connect(&collector.line, SOURCE).await.unwrap();
    let versions = List::new(vec![7, 9]).unwrap();
    future.send(&Hello { versions, ..hello().unwrap() }).await.unwrap();
    assert_eq!(goodbye(&mut future).await, GoAwayReason::Version);

    // A proof is of its connection and its key alone.
    let mut one = Peer::connect(&collector.line, SOURCE).await.unwrap();
    let of_one = one.greet().await.unwrap();
    let mut other = Peer::connect(&collector.line, SOURCE).await.unwrap();
    other.greet().await.unwrap();
    other.send(&of_one.prove(&key(4), 0)).await.unwrap();
    assert_eq!(goodbye(&mut other).await, GoAwayReason::Proof, "a proof of another connection");
    let stolen = Prove { observer: key(5).public(), ..of_one.prove(&key(4), 0) };
    one.send(&stolen).await.unwrap();
    assert_eq!(goodbye(&mut one).await, GoAwayReason::Proof, "a proof under another key");
    // Same hello, same greeting, another exporter: what one in the middle would have.
    let mut middle = Peer::connect(&collector.line, SOURCE).await.unwrap();
    let hello_frame = hello().unwrap().to_frame();
    middle.send_bytes(&hello_frame.to_bytes()).await.unwrap();
    let frame = middle.frame(PATIENCE).await.unwrap();
    let nonce = Greeting::from_body(&frame.body).unwrap().nonce;
    let relayed = Transcript::new([0; 32], &hello_frame, &frame, nonce);
    middle.send(&relayed.prove(&key(4), 0)).await.unwrap();
    assert_eq!(goodbye(&mut middle).await, GoAwayReason::Proof, "a proof of another exporter");

    // Unknown tags are skipped wherever they come.
    let unknown = Frame { tag: 0x7e, body: vec![9; 300] }.to_bytes();
    let mut newer = Peer::connect(&collector.line, SOURCE).await.unwrap();
    newer.send_bytes(&unknown).await.unwrap();
    let transcript = newer.greet().await.unwrap();
    newer.send_bytes(&unknown).await.unwrap();
    newer.send(&transcript.prove(&key(6), 0)).await.unwrap();
    newer.message::<Ready>().await.unwrap();
    newer.send_bytes(&unknown).await.unwrap();
    assert_eq!(offer(&mut newer, &report(1, 0, target()).sign(&key(6))).await, Ok(()));

    assert_eq!(goodbye(&mut stalled).await, GoAwayReason::Idle, "a stalled frame");
    for (reason, at_least) in
        [("order", 3), ("proof", 3), ("frame", 2), ("version", 1), ("idle", 1)]
    {
        let name = format!("tocsin_sessions_ended_total{{reason=\"{reason}\"}}");
        assert!(collector.metric(&name).await.unwrap() >= at_least, "{reason} is not counted");
    }
    all_is_well(&collector, 7).await;
    stop(collector).await;
}

#[tokio::test]
async fn each_wrong_report_is_refused_for_its_reason() {
    let (collector, dir) = collector().await;
    let rejected = async |reason: Rejection| {
        let name = format!("tocsin_reports_rejected_total{{reason=\"{reason}\"}}");
        collector.metric(&name).await.unwrap()
    };
    let (mine, theirs) = (key(1), key(2));
    let (mut session, _) = Peer::session(&collector.line, source(1), &mine).await.unwrap();

    let forged = report(1, 0, target()).sign(&theirs);
    assert_eq!(offer(&mut session, &forged).await, Err(Rejection::Signature));
    assert_eq!(rejected(Rejection::Signature).await, 1);
    let first = report(1, 0, target()).sign(&mine);
    let mut altered = first.clone();
    let mut body = altered.body.to_vec();
    *body.last_mut().unwrap() ^= 1;
    altered.body = Bytes::new(body).unwrap();
    assert_eq!(offer(&mut session, &altered).await, Err(Rejection::Signature));
    assert_eq!(offer(&mut session, &first).await, Ok(()));

    // The same bytes again: in the session, in another one of the key, and of another key.
    assert_eq!(offer(&mut session, &first).await, Ok(()));
    let (mut second, ready) = Peer::session(&collector.line, source(2), &mine).await.unwrap();
    assert_eq!(ready.committed_seq, 1);
    assert_eq!(goodbye(&mut session).await, GoAwayReason::Replaced, "one session a key");
    assert_eq!(offer(&mut second, &first).await, Ok(()));
    assert_eq!(collector.metric("tocsin_reports_duplicate_total").await.unwrap(), 2);
    let (mut foreign, _) = Peer::session(&collector.line, source(3), &theirs).await.unwrap();
    assert_eq!(offer(&mut foreign, &first).await, Err(Rejection::Signature));
    assert_eq!(rejected(Rejection::Signature).await, 3);

    let mut session = second;
    let mut refused = async |seq: u64, late_s: i64, target: TargetIndex, why: Rejection| {
        let signed = report(seq, late_s, target).sign(&mine);
        assert_eq!(offer(&mut session, &signed).await, Err(why));
        assert_eq!(rejected(why).await, 1, "{why} is not counted");
    };
    refused(2, -3_600, target(), Rejection::Future).await;
    refused(3, 8 * 86_400, target(), Rejection::TooOld).await;
    refused(4, 0, TargetIndex(60_000), Rejection::UnknownTarget).await;
    let empty = Report { observations: List::default(), ..report(5, 0, target()) }.sign(&mine);
    assert_eq!(offer(&mut session, &empty).await, Err(Rejection::Malformed));
    let wide = wide(6);
    assert_eq!(offer(&mut session, &wide).await, Err(Rejection::Malformed));
    assert_eq!(rejected(Rejection::Malformed).await, 2);
    // Two hours late, of another target than the others: kept, and in no cell.
    let last = *Catalogue::builtin().targets().keys().next_back().unwrap();
    assert_eq!(offer(&mut session, &report(7, 7_200, last).sign(&mine)).await, Ok(()));

    // Longer than a report may be, and then longer than a frame may be.
    #[derive(Serialize)]
    struct Long {
        signature: Signature,
        body: Bytes<20_000>,
    }
    for length in [4_097, 17_000] {
        let (mut session, _) = Peer::session(&collector.line, source(4), &key(4)).await.unwrap();
        let body = Bytes::new(vec![1; length]).unwrap();
        let signature = key(4).sign(Domain::Report, &body);
        let frame = Frame { tag: Tag::Report as u8, body: wire::encode(&Long { signature, body }) };
        // It may stop reading before all of it is written.
        session.send_bytes(&frame.to_bytes()).await.ok();
        assert_eq!(goodbye(&mut session).await, GoAwayReason::Frame, "a body of {length}");
    }
    all_is_well(&collector, 9).await;

    let found = logged(dir.path());
    let mut seqs: BTreeMap<u64, usize> = BTreeMap::new();
    for report in &found {
        *seqs.entry(report.seq).or_default() += 1;
    }
    assert_eq!(seqs, BTreeMap::from([(1, 2), (7, 1)]), "seq 1 is of two keys");
    let id = |target| Subject::Target(Catalogue::builtin().target(target).unwrap().id.clone());
    let observed = async |target| {
        let body = get(collector.web, "/api/v1/cells?window=1h").await.unwrap().body;
        let json: serde_json::Value = serde_json::from_str(&body).unwrap();
        let cells: Vec<Cell> = serde_json::from_value(json["cells"].clone()).unwrap();
        cells
            .iter()
            .filter(|cell| cell.subject == id(target))
            .map(|cell| cell.observed)
            .sum::<u64>()
    };
    let looking = async || (observed(target()).await == 2).then_some(());
    eventually("the cells have both of the first target", PATIENCE, looking).await.unwrap();
    assert_eq!(collector.metric("tocsin_log_position").await.unwrap(), 3);
    assert_eq!(observed(last).await, 0, "a late observation is in no cell");
    stop(collector).await;
}

/// A report of more observations than any may have, well signed.
fn wide(seq: u64) -> SignedReport {
    #[derive(Serialize)]
    struct Wide {
        seq: u64,
        base_s: u32,
        probe_core: u16,
        health: Health,
        resolver: ResolverClass,
        observations: List<Observation, 200>,
    }
    let Report { base_s, probe_core, health, resolver, observations, .. } =
        report(seq, 0, target());
    let observations = List::new(vec![observations[0]; 65]).unwrap();
    let wide = Wide { seq, base_s, probe_core, health, resolver, observations };
    let body = Bytes::new(wire::encode(&wide)).unwrap();
    SignedReport { signature: key(1).sign(Domain::Report, &body), body }
}

/// An agent's configuration: six targets that resolve nowhere, and resolvers that are not there.
fn agent(dir: &Path, line: &CollectorLine) -> Command {
    agent_of(dir, line, 6)
}

/// One whose catalogue has so many sites, none of which resolves.
fn agent_of(dir: &Path, line: &CollectorLine, sites: u16) -> Command {
    let mut catalogue = "schema = 1\nversion = 1\n".to_owned();
    for n in 0..sites {
        catalogue += &format!(
            "[[target]]\nindex = {n}\nid = 'nowhere-{n}'\nname = 'Nowhere {n}'\n\
             host = 'nowhere-{n}.test'\n"
        );
    }
    let file = dir.join("catalogue.toml");
    std::fs::write(&file, catalogue).unwrap();
    let state = dir.join("state");
    let config = dir.join("agent.toml");
    let text = format!(
        "state_dir = '{}'\ncollectors = ['{line}']\ncatalogue_file = '{}'\nfamilies = ['v4']\n\
         source_address = ['127.0.0.1']\nresolvers = ['127.0.0.1:9']\n\
         independent_roots = ['127.0.0.1']\nindependent_port = 9\ncontext = 'test'\n",
        state.display(),
        file.display()
    );
    std::fs::write(&config, text).unwrap();
    let programs = Programs::find().unwrap();
    programs.agree(&state).unwrap();
    let mut command = programs.agent();
    let log = std::fs::File::options().append(true).create(true).open(dir.join("agent.log"));
    command.arg("--config").arg(&config);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log.unwrap());
    command
}

fn run(dir: &Path, line: &CollectorLine) -> Program {
    let mut command = agent(dir, line);
    command.arg("run");
    Program::start(command).unwrap()
}

#[tokio::test]
async fn an_agent_that_was_there_first_delivers_when_its_collector_comes() {
    let (programs, dir) = (Programs::find().unwrap(), tempfile::tempdir().unwrap());
    let data = dir.path().join("collector");
    let operator = programs.init(&data).unwrap().operator;
    // A port that nobody has until the collector comes.
    let free = std::net::UdpSocket::bind((SOURCE, 0)).unwrap().local_addr().unwrap();
    let line = CollectorLine { operator, addresses: vec![free] };
    let mut agent = run(dir.path(), &line);
    let show = async || {
        let mut command = self::agent(dir.path(), &line);
        let output = command.args(["show", "--json"]).stdout(Stdio::piped()).output().unwrap();
        (output.status.success() && !output.stdout.is_empty()).then_some(())
    };
    eventually("a report waits in the outbox", PATIENCE * 2, show).await.unwrap();

    // The catalogue of its agents is the collector's too.
    let config = dir.path().join("collector.toml");
    let catalogue = dir.path().join("catalogue.toml");
    std::fs::write(&config, format!("catalogue_file = '{}'\n", catalogue.display())).unwrap();
    let serving =
        Serving { data_dir: data.clone(), listen: free, config: Some(config), log: "info" };
    let collector = programs.serve(&serving).await.unwrap();
    let arrived =
        async || (collector.metric("tocsin_reports_accepted_total").await.ok()? > 0).then_some(());
    eventually("a report arrives", PATIENCE * 3, arrived).await.unwrap();
    assert_eq!(agent.terminate().await.unwrap().code(), Some(0), "SIGTERM ends the agent well");
    stop(collector).await;
    let reports = logged(&data);
    let seen = reports.iter().flat_map(|report| report.observations.iter());
    assert!(seen.clone().count() > 0);
    for observation in seen {
        assert!(observation.outcome.name().starts_with("dns_"), "{observation:?}");
    }
}

/// A collector whose catalogue is that of [`agent`].
async fn collector_of_agents(more: &str) -> (CollectorProgram, TempDir) {
    let (programs, dir) = (Programs::find().unwrap(), tempfile::tempdir().unwrap());
    let data_dir = dir.path().join("collector");
    let line = programs.init(&data_dir).unwrap();
    // It writes the catalogue.
    drop(agent(dir.path(), &line));
    let config = dir.path().join("collector.toml");
    let catalogue = dir.path().join("catalogue.toml");
    std::fs::write(&config, format!("catalogue_file = '{}'\n{more}", catalogue.display())).unwrap();
    let listen = SocketAddr::from(([127, 0, 0, 1], 0));
    let serving = Serving { data_dir, listen, config: Some(config), log: "info" };
    (programs.serve(&serving).await.unwrap(), dir)
}

#[tokio::test]
async fn who_asks_to_be_forgotten_is() {
    let (collector, dir) = collector_of_agents("").await;
    let line = collector.line.clone();
    let forget = || {
        let mut command = agent(dir.path(), &line);
        command.args(["forget", "--json"]).stdout(Stdio::piped()).output().unwrap()
    };
    let told = |output: &std::process::Output| -> serde_json::Value {
        serde_json::from_slice(&output.stdout).unwrap()
    };
    let mut running = run(dir.path(), &line);
    let arrived =
        async || (collector.metric("tocsin_reports_accepted_total").await.ok()? > 1).then_some(());
    eventually("reports arrive", PATIENCE * 3, arrived).await.unwrap();
    // While it runs it would go on.
    assert_eq!(forget().status.code(), Some(3));
    assert_eq!(running.terminate().await.unwrap().code(), Some(0));
    let log = dir.path().join("collector").join(LOG);
    let before = LogReader::open(&log).unwrap();
    let (last, key) =
        (before.last_position().unwrap(), *before.keys().unwrap().values().next().unwrap());
    let output = forget();
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(told(&output)["forgotten"][0]["reports"], last);
    // Places and times stay, and nothing else; nor is it in the bytes of the file.
    let after = LogReader::open(&log).unwrap();
    assert_eq!(after.last_position().unwrap(), last);
    let mut left = 0;
    after.replay(0, |_, _| left += 1).unwrap();
    assert_eq!(left, 0);
    assert!(after.keys().unwrap().values().all(|other| *other != key));
    drop((before, after));
    for name in [LOG.to_owned(), format!("{LOG}-wal")] {
        let bytes = std::fs::read(dir.path().join("collector").join(name)).unwrap_or_default();
        assert!(!bytes.windows(32).any(|window| window == key.as_bytes()), "the key is there");
    }
    assert_eq!(collector.metric("tocsin_reports_forgotten_total").await.unwrap(), last);
    // Here nothing is left either, and there is nothing more to forget.
    let state = dir.path().join("state");
    assert_eq!(std::fs::read_dir(&state).unwrap().count(), 0);
    // (To write the agent's files is to agree again; a seed comes with that, and nothing was reported since.)
    let output = forget();
    assert_eq!(told(&output)["forgotten"].as_array().map(Vec::len), Some(0));
    stop(collector).await;
}

#[tokio::test]
async fn metrics_have_the_names_that_dashboards_know() {
    let dir = tempfile::tempdir().unwrap();
    let line = CollectorLine {
        operator: key(1).public(),
        addresses: vec!["127.0.0.1:9".parse().unwrap()],
    };
    let free = std::net::TcpListener::bind((SOURCE, 0)).unwrap().local_addr().unwrap();
    let mut command = agent(dir.path(), &line);
    command.args(["run", "--metrics", &free.to_string()]);
    let mut running = Program::start(command).unwrap();
    let served = async || get(free, "/metrics").await.ok().filter(|page| page.status == 200);
    eventually("metrics are served", PATIENCE, served).await.unwrap();
    // A look that nobody made yet is made, in bounds, and only at what the catalogue has.
    let probe =
        get(free, "/probe?target=https%3A%2F%2Fnowhere-1.test%2F&module=http_2xx").await.unwrap();
    assert_eq!(probe.status, 200);
    for name in [
        "probe_success 0",
        "probe_ip_protocol 4",
        "probe_http_status_code 0",
        "# TYPE probe_duration_seconds gauge",
        "probe_http_duration_seconds{phase=\"resolve\"} ",
        "probe_http_duration_seconds{phase=\"processing\"} 0",
        "tocsin_probe_outcome{outcome=\"dns_",
    ] {
        assert!(probe.body.contains(name), "{name} in {}", probe.body);
    }
    assert_eq!(get(free, "/probe?target=169.254.169.254").await.unwrap().status, 400);
    assert_eq!(get(free, "/probe").await.unwrap().status, 400);
    assert_eq!(get(free, "/else").await.unwrap().status, 404);
    // Nor does whoever scrapes every moment make it look more often than its caps allow.
    for _ in 0..20 {
        get(free, "/probe?target=nowhere-1.test").await.unwrap();
    }
    let page = get(free, "/metrics").await.unwrap().body;
    let count = |line: &str| line.rsplit(' ').next().and_then(|n| n.parse::<f64>().ok());
    let all: f64 =
        page.lines().filter(|l| l.starts_with("tocsin_probes_total{")).filter_map(count).sum();
    assert!((1.0..=8.0).contains(&all), "{page}");
    assert!(
        page.contains("probe_success{target=\"nowhere-1.test\",ip_protocol=\"4\"} 0"),
        "{page}"
    );
    assert_eq!(running.terminate().await.unwrap().code(), Some(0));
    // Where it cannot be served that is said, and nothing runs.
    let taken = std::net::TcpListener::bind((SOURCE, 0)).unwrap();
    let mut command = agent(dir.path(), &line);
    command.args(["run", "--metrics", &taken.local_addr().unwrap().to_string()]);
    assert_eq!(command.status().unwrap().code(), Some(3));
}

#[tokio::test]
async fn who_scrapes_everything_at_once_has_no_more_looks_than_the_caps() {
    const SITES: u16 = 75;
    let dir = tempfile::tempdir().unwrap();
    let nobody = "127.0.0.1:9".parse().unwrap();
    let line = CollectorLine { operator: key(1).public(), addresses: vec![nobody] };
    let free = std::net::TcpListener::bind((SOURCE, 0)).unwrap().local_addr().unwrap();
    let mut command = agent_of(dir.path(), &line, SITES);
    command.args(["run", "--metrics", &free.to_string()]);
    let mut running = Program::start(command).unwrap();
    let served = async || get(free, "/metrics").await.ok().filter(|page| page.status == 200);
    eventually("metrics are served", PATIENCE, served).await.unwrap();
    let began = Clock.wall();
    let mut refused = 0;
    for n in 0..SITES {
        let page = get(free, &format!("/probe?target=nowhere-{n}.test")).await.unwrap();
        assert!([200, 503].contains(&page.status), "{}", page.body);
        refused += u16::from(page.status == 503);
    }
    // Sixty in a minute; what was not looked at is not said to be down.
    let in_a_minute = Clock.wall().since_ms(began) < 55_000;
    assert!(!in_a_minute || refused >= SITES - 60, "{refused} were refused");
    assert_eq!(running.terminate().await.unwrap().code(), Some(0));
}

#[tokio::test]
async fn a_site_whose_owner_wants_no_probes_is_left_alone() {
    let wish = "[public]\ncontact = 'mailto:ops@outages.example'\n\
                left_alone = ['Nowhere-0.test']\n";
    let (collector, dir) = collector_of_agents(wish).await;
    let mut running = run(dir.path(), &collector.line);
    let status = || {
        let mut command = agent(dir.path(), &collector.line);
        let output = command.args(["status", "--json"]).stdout(Stdio::piped()).output().unwrap();
        serde_json::from_slice::<serde_json::Value>(&output.stdout).unwrap()
    };
    let left = async || {
        let left = status()["state"]["left_alone"].clone();
        left.as_array().is_some_and(|left| !left.is_empty()).then_some(left)
    };
    let left = eventually("the wish arrives", PATIENCE, left).await.unwrap();
    assert_eq!(left, serde_json::json!(["nowhere-0.test"]));
    // From here on nobody looks at it.
    let accepted = async || collector.metric("tocsin_reports_accepted_total").await.unwrap();
    let before = accepted().await;
    let more = async || (accepted().await > before + 2).then_some(());
    eventually("reports arrive", PATIENCE * 6, more).await.unwrap();
    assert_eq!(running.terminate().await.unwrap().code(), Some(0));
    let page = get(collector.web, "/probes").await.unwrap();
    assert_eq!(page.status, 200);
    for said in ["nowhere-0.test", "mailto:ops@outages.example", "5 times in a minute"] {
        assert!(page.body.contains(said), "{said}");
    }
    let data = dir.path().join("collector");
    stop(collector).await;
    let reports = logged(&data);
    let late = reports.iter().skip(usize::try_from(before).unwrap() + 1);
    let observed = late.flat_map(|report| report.observations.iter().map(|o| o.target));
    assert!(observed.clone().count() > 0);
    assert!(observed.clone().all(|target| target != TargetIndex(0)));
}

#[tokio::test]
async fn what_no_collector_has_forgotten_is_kept() {
    let (collector, dir) = collector_of_agents("").await;
    let line = collector.line.clone();
    let mut running = run(dir.path(), &line);
    let arrived =
        async || (collector.metric("tocsin_reports_accepted_total").await.ok()? > 0).then_some(());
    eventually("reports arrive", PATIENCE * 3, arrived).await.unwrap();
    assert_eq!(running.terminate().await.unwrap().code(), Some(0));
    stop(collector).await;
    let output = agent(dir.path(), &line).arg("forget").stdout(Stdio::piped()).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    // Nor where its line is not set any more.
    let state = dir.path().join("state");
    let mut alone = Programs::find().unwrap().agent();
    alone.arg("--state-dir").arg(&state).args(["forget"]).stdout(Stdio::null());
    assert_eq!(alone.status().unwrap().code(), Some(1));
    assert!(dir.path().join("state").join("seed").exists());
}

/// Nothing comes from a greeted agent but the end of its connection.
async fn tells_nothing(peer: &mut Peer) {
    if let Ok(frame) = peer.frame(PATIENCE).await {
        panic!("the agent went on with tag {}", frame.tag);
    }
    assert!(peer.is_closed(), "the agent did not leave");
}

#[tokio::test]
async fn an_agent_proves_itself_to_its_operators_collector_alone() {
    let dir = tempfile::tempdir().unwrap();
    let (operator, other) = (key(11), key(12));
    let fake = FakeCollector::bind().unwrap();
    let mut agent = run(dir.path(), &fake.line(operator.public()).unwrap());
    let now = || Clock.wall();

    let (mut peer, _) = fake.greet(&other, 9, now()).await.unwrap();
    tells_nothing(&mut peer).await;
    // The right operator, at serial 5; then the same, at 4: it was replaced.
    let (mut peer, transcript) = fake.greet(&operator, 5, now()).await.unwrap();
    let ready = Ready { committed_seq: 0, schedule: Schedule::default() };
    fake.admit(&mut peer, &transcript, &ready).await.unwrap();
    peer.close();
    let (mut peer, _) = fake.greet(&operator, 4, now()).await.unwrap();
    tells_nothing(&mut peer).await;
    // After a restart too.
    assert_eq!(agent.terminate().await.unwrap().code(), Some(0));
    let mut agent = run(dir.path(), &fake.line(operator.public()).unwrap());
    let (mut peer, _) = fake.greet(&operator, 4, now()).await.unwrap();
    tells_nothing(&mut peer).await;
    let (mut peer, transcript) = fake.greet(&operator, 6, now()).await.unwrap();
    fake.admit(&mut peer, &transcript, &ready).await.unwrap();
    assert_eq!(agent.terminate().await.unwrap().code(), Some(0));
}

#[tokio::test]
async fn doctor_tells_by_its_exit_code() {
    let (collector, dir) = collector().await;
    let doctor = |line: &CollectorLine| {
        let status = agent(dir.path(), line).arg("doctor").status().unwrap();
        status.code()
    };
    assert_eq!(doctor(&collector.line), Some(0));
    let wrong = CollectorLine { operator: key(12).public(), ..collector.line.clone() };
    assert_eq!(doctor(&wrong), Some(1), "a wrong pin");
    let nobody = std::net::UdpSocket::bind((SOURCE, 0)).unwrap();
    let silent = vec![nobody.local_addr().unwrap()];
    assert_eq!(doctor(&CollectorLine { addresses: silent, ..collector.line.clone() }), Some(1));
    let usage = agent(dir.path(), &collector.line).arg("doktor").status().unwrap();
    assert_eq!(usage.code(), Some(3), "wrong usage");
    let mut broken = agent(dir.path(), &collector.line);
    std::fs::write(dir.path().join("agent.toml"), "colour = 1\n").unwrap();
    assert_eq!(broken.arg("doctor").status().unwrap().code(), Some(3), "a wrong configuration");
    stop(collector).await;
}
