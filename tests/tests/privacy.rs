//! What a collector keeps, logs and publishes of those who report to it: no address, and in the log
//! lines and documents no key.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::Path,
};

use tocsin_collector::clock::Clock;
use tocsin_proto::{
    bounded::List,
    catalogue::Catalogue,
    message::{Ack, GoAway, Query, SignedSnapshot},
    observation::{Cause, Family, LogMs, Observation},
    outcome::Outcome,
    report::{Health, Report, ResolverClass},
    sign::SecretKey,
};
use tocsin_tests::peer::{Peer, Programs, Serving, get};

/// Four bytes that stand nowhere by chance.
const OCTETS: [u8; 4] = [127, 203, 171, 89];

fn contains(bytes: &[u8], what: &[u8]) -> bool {
    bytes.windows(what.len()).any(|window| window == what)
}

/// The address in every form in which it could slip through.
fn traces() -> Vec<(&'static str, Vec<u8>)> {
    let ip = Ipv4Addr::from(OCTETS);
    let [a, b, c, d] = OCTETS;
    vec![
        ("the address as text", ip.to_string().into_bytes()),
        ("its prefix as text", format!("{a}.{b}.{c}.").into_bytes()),
        ("the mapped address as text", ip.to_ipv6_mapped().to_string().into_bytes()),
        ("the address as bytes", OCTETS.to_vec()),
        ("the address as a reversed number", vec![d, c, b, a]),
    ]
}

fn files(dir: &Path) -> Vec<std::path::PathBuf> {
    std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect()
}

#[tokio::test]
async fn no_address_is_kept_logged_or_published() {
    let (programs, dir) = (Programs::find().unwrap(), tempfile::tempdir().unwrap());
    programs.init(dir.path()).unwrap();
    let listen = SocketAddr::from(([127, 0, 0, 1], 0));
    let data_dir = dir.path().to_owned();
    let serving = Serving { data_dir, listen, config: None, log: "trace" };
    let mut collector = programs.serve(&serving).await.unwrap();
    let (source, key) = (IpAddr::from(OCTETS), SecretKey::from_seed(&[1; 32]));
    let target = *Catalogue::builtin().targets().keys().next().unwrap();
    let seen = |outcome| Observation {
        target,
        after_ds: 0,
        family: Family::V4,
        cause: Cause::Scheduled,
        outcome,
        latency: LogMs(9),
        failure: None,
    };
    let report = |seq| Report {
        seq,
        base_s: u32::try_from(Clock.wall().as_s()).unwrap(),
        probe_core: 1,
        health: Health::default(),
        resolver: ResolverClass::Local,
        observations: List::new(vec![seen(Outcome::Ok)]).unwrap(),
    };

    let (mut peer, _) = Peer::session(&collector.line, source, &key).await.unwrap();
    for seq in 1..=3 {
        peer.send(&report(seq).sign(&key)).await.unwrap();
        peer.message::<Ack>().await.unwrap();
    }
    // What is refused must leave no more behind than what is taken.
    peer.send(&report(4).sign(&SecretKey::from_seed(&[2; 32]))).await.unwrap();
    peer.message::<Ack>().await.unwrap();
    peer.send(&Query::Snapshot).await.unwrap();
    let snapshot: SignedSnapshot = peer.message().await.unwrap();
    peer.send_bytes(&[1, 252, 0, 0, 0, 0x80]).await.unwrap();
    peer.message::<GoAway>().await.unwrap();
    let mut published = vec![("the snapshot", snapshot.document.to_vec())];
    for path in ["/", "/cells", "/api/v1/snapshot", "/api/v1/incidents", "/api/v1/cells"] {
        published.push((path, get(collector.web, path).await.unwrap().body.into_bytes()));
    }
    for path in ["/metrics", "/readyz"] {
        published.push((path, get(collector.operator, path).await.unwrap().body.into_bytes()));
    }
    collector.program.terminate().await.unwrap();

    let log = std::fs::read_to_string(dir.path().join("collector.log")).unwrap();
    assert!(log.contains("stopping"), "the log was written: {log}");
    let observer = key.public().to_string();
    for (name, bytes) in &published {
        assert!(!bytes.is_empty(), "{name}");
        assert!(!contains(bytes, observer.as_bytes()), "{name} names an observer");
    }
    assert!(!log.contains(&observer), "the log names an observer");
    let kept = files(dir.path());
    assert!(kept.iter().any(|path| path.ends_with("log.sqlite")));
    let kept = kept.into_iter().map(|path| {
        let bytes = std::fs::read(&path).unwrap();
        (path.display().to_string(), bytes)
    });
    let published = published.into_iter().map(|(name, bytes)| (name.to_owned(), bytes));
    for (name, bytes) in kept.chain(published) {
        for (what, trace) in traces() {
            assert!(!contains(&bytes, &trace), "{name} has {what}");
        }
    }
}

#[test]
fn the_traces_are_found_where_they_are() {
    for (what, trace) in traces() {
        let text = [b"x".as_slice(), &trace, b"y"].concat();
        assert!(contains(&text, &trace), "{what}");
        assert!(!contains(b"127.0.0.1 ::ffff:127.0.0.1", &trace), "{what}");
    }
}
