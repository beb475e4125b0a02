//! The collector is killed in the middle of a load, again and again: what it acked is in its log
//! once, whatever happens, and its detector comes to the same state as one that reads the log from
//! the beginning.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use tocsin_collector::{
    LOG, STATE,
    clock::Clock,
    engine::{detector::Detector, params::Settings},
    pipeline,
    store::LogReader,
};
use tocsin_proto::{
    bounded::List,
    catalogue::Catalogue,
    id::TargetIndex,
    limits::REPORTS_IN_FLIGHT_MAX,
    message::Ack,
    observation::{Cause, Family, LogMs, Observation},
    outcome::Outcome,
    report::{Health, Report, ResolverClass, SignedReport},
    sign::SecretKey,
};
use tocsin_tests::peer::{PATIENCE, Peer, Programs, Serving, eventually};
use tokio::{sync::watch, task::JoinSet};

const PEERS: u8 = 20;
const REPORTS: u64 = 400;

fn key(peer: u8) -> SecretKey {
    SecretKey::from_seed(&[peer + 1; 32])
}

fn source(peer: u8) -> IpAddr {
    Ipv4Addr::new(127, 0, 10 + peer, 1).into()
}

fn report(peer: u8, seq: u64) -> SignedReport {
    let targets: Vec<TargetIndex> = Catalogue::builtin().targets().keys().copied().collect();
    let at = usize::try_from(seq).unwrap() * 7 + usize::from(peer);
    let observation = Observation {
        target: targets[at % targets.len()],
        after_ds: 0,
        family: Family::V4,
        cause: Cause::Scheduled,
        outcome: Outcome::Ok,
        latency: LogMs(9),
        failure: None,
    };
    let now = Clock.wall();
    let report = Report {
        seq,
        base_s: u32::try_from(now.as_s()).unwrap(),
        probe_core: 1,
        health: Health::default(),
        resolver: ResolverClass::Local,
        observations: List::new(vec![observation]).unwrap(),
    };
    report.sign(&key(peer))
}

/// For each peer, up to which number the collector has acked.
type Acked = Arc<Mutex<BTreeMap<u8, u64>>>;

fn raise(acked: &Acked, peer: u8, committed: u64) -> u64 {
    let mut acked = acked.lock().unwrap();
    let known = acked.entry(peer).or_default();
    assert!(committed <= REPORTS, "peer {peer}: {committed} was acked and never sent");
    *known = (*known).max(committed);
    *known
}

/// Sends until all is acked, from session to session, as fast as the acks allow.
async fn drive(
    peer: u8,
    mut line: watch::Receiver<tocsin_proto::line::CollectorLine>,
    acked: Acked,
) {
    // As an agent's outbox: a report is signed once, and its bytes are sent until acked.
    let outbox: BTreeMap<u64, SignedReport> =
        (1..=REPORTS).map(|seq| (seq, report(peer, seq))).collect();
    let key = key(peer);
    loop {
        let to = line.borrow_and_update().clone();
        let ended: anyhow::Result<()> = async {
            let (mut session, ready) = Peer::session(&to, source(peer), &key).await?;
            let before = acked.lock().unwrap().get(&peer).copied().unwrap_or(0);
            assert!(ready.committed_seq >= before, "peer {peer}: a restart forgot an ack");
            let mut committed = raise(&acked, peer, ready.committed_seq);
            let mut sent = committed;
            while committed < REPORTS {
                while sent < REPORTS && sent - committed < REPORTS_IN_FLIGHT_MAX as u64 {
                    sent += 1;
                    session.send(&outbox[&sent]).await?;
                }
                // Killed, the collector says nothing more: its successor has another connection.
                let ack: Ack = tokio::select! {
                    ack = session.message() => ack?,
                    _ = line.changed() => anyhow::bail!("another collector runs now"),
                };
                assert!(ack.rejected.is_empty() && ack.later.is_empty(), "{ack:?}");
                committed = raise(&acked, peer, ack.committed_seq);
            }
            session.close();
            Ok(())
        }
        .await;
        if ended.is_ok() {
            return;
        }
    }
}

/// How often each report stands in the log.
fn logged(dir: &Path) -> BTreeMap<(u8, u64), usize> {
    let verifiers: Vec<_> = (0..PEERS).map(|p| (p, key(p).public().verifier().unwrap())).collect();
    let mut found = BTreeMap::new();
    let mut peers: BTreeMap<u32, u8> = BTreeMap::new();
    let mut position = 0;
    let log = LogReader::open(&dir.join(LOG)).unwrap();
    log.replay(0, |record, signed| {
        position += 1;
        assert_eq!(record.position, position, "positions have no gaps");
        let peer = *peers.entry(record.observer).or_insert_with(|| {
            let signer = verifiers.iter().find(|(_, verifier)| signed.open(verifier).is_ok());
            signer.expect("an observer is one of ours").0
        });
        assert_eq!(signed.open(&verifiers[usize::from(peer)].1).unwrap(), record.report);
        *found.entry((peer, record.report.seq)).or_default() += 1;
    })
    .unwrap();
    found
}

fn check_acked(dir: &Path, acked: &Acked) -> u64 {
    // Acks are read before the log: what came in between may stand there, and need not.
    let acked = acked.lock().unwrap().clone();
    let found = logged(dir);
    for (peer, committed) in &acked {
        for seq in 1..=*committed {
            let times = found.get(&(*peer, seq)).copied().unwrap_or(0);
            assert_eq!(times, 1, "report {seq} of peer {peer} was acked and stands {times} times");
        }
    }
    assert!(found.values().all(|times| *times == 1), "a report stands twice");
    acked.values().sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_under_load_it_keeps_what_it_acked_once() {
    let programs = Programs::find().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let data_dir = dir.path().join("data");
    programs.init(&data_dir).unwrap();
    let listen = SocketAddr::from(([127, 0, 0, 1], 0));
    let mut serving = Serving { data_dir: data_dir.clone(), listen, config: None, log: "info" };
    let mut collector = programs.serve(&serving).await.unwrap();
    serving.listen = collector.line.addresses[0];
    let (lines, line) = watch::channel(collector.line.clone());

    let acked = Acked::default();
    let mut peers = JoinSet::new();
    for peer in 0..PEERS {
        peers.spawn(drive(peer, line.clone(), Arc::clone(&acked)));
    }
    let all = u64::from(PEERS) * REPORTS;
    let mut seen = Vec::new();
    for kill in 1..=4 {
        let from = all * kill / 6;
        let looking = async || (acked.lock().unwrap().values().sum::<u64>() >= from).then_some(());
        eventually("acks come", PATIENCE * 2, looking).await.unwrap();
        collector.program.kill().unwrap();
        seen.push(check_acked(&data_dir, &acked));
        collector = programs.serve(&serving).await.unwrap();
        lines.send_replace(collector.line.clone());
    }
    while let Some(ended) = tokio::time::timeout(PATIENCE * 2, peers.join_next()).await.unwrap() {
        ended.unwrap();
    }
    assert!(seen[0] < all && seen[1] < all, "it was killed after the load: {seen:?} of {all}");
    assert_eq!(check_acked(&data_dir, &acked), all);
    assert_eq!(logged(&data_dir).len() as u64, all);

    // The detector has followed: its position is the log's, and nothing is counted twice.
    let followed =
        async || (collector.metric("tocsin_log_position").await.ok()? == all).then_some(());
    eventually("the detector follows", PATIENCE, followed).await.unwrap();
    assert!(collector.program.terminate().await.unwrap().success());
    let (catalogue, settings) = (Catalogue::builtin(), Settings::default());
    let log = LogReader::open(&data_dir.join(LOG)).unwrap();
    let kept = pipeline::resume(catalogue, &settings, &data_dir.join(STATE), &log).unwrap();
    let mut again = Detector::new(catalogue.clone(), settings);
    log.replay(0, |record, _| drop(again.record(&record))).unwrap();
    drop(again.advance(kept.detector.now()));
    assert_eq!(kept.detector.state().position, all);
    assert!(kept.detector.tallies_are_consistent());
    assert!(
        kept.detector.state() == again.state(),
        "the state kept is not that of the log read anew"
    );
}

/// Reports beyond a session's burst: at four a second, five seconds' worth.
const BEYOND_BURST: u64 = 532;

#[tokio::test]
async fn who_is_too_fast_waits_and_loses_nothing() {
    let programs = Programs::find().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let data_dir = dir.path().join("data");
    programs.init(&data_dir).unwrap();
    let listen = SocketAddr::from(([127, 0, 0, 1], 0));
    let serving = Serving { data_dir: data_dir.clone(), listen, config: None, log: "info" };
    let collector = programs.serve(&serving).await.unwrap();

    let (mut session, _) = Peer::session(&collector.line, source(0), &key(0)).await.unwrap();
    let all = async {
        let (mut sent, mut committed) = (0, 0);
        while committed < BEYOND_BURST {
            while sent < BEYOND_BURST && sent - committed < REPORTS_IN_FLIGHT_MAX as u64 {
                sent += 1;
                session.send(&report(0, sent)).await.unwrap();
            }
            let ack: Ack = session.message().await.unwrap();
            assert!(ack.later.is_empty() && ack.rejected.is_empty(), "{ack:?}");
            assert!(ack.committed_seq >= committed, "an ack takes nothing back");
            committed = ack.committed_seq;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), all).await.unwrap();
    assert_eq!(logged(&data_dir).len() as u64, BEYOND_BURST);
}
