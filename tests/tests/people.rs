//! What people say, through the real programs: it counts once a person, is a suspicion where many say it, outlives a
//! restart, and is gone when its author asks for it.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

use std::{
    fmt::Write,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::Path,
    process::{Command, Stdio},
};

use serde_json::Value;
use tempfile::TempDir;
use tocsin_collector::clock::Clock;
use tocsin_proto::{
    catalogue::{Catalogue, Target},
    human::{Heard, Hearing, HumanReport, Trouble},
    line::CollectorLine,
    sign::SecretKey,
    time::Timestamp,
};
use tocsin_tests::peer::{
    CollectorProgram, PATIENCE, Peer, Program, Programs, Serving, eventually, get,
};

/// Networks, and prefixes in each.
const NETWORKS: u8 = 5;
const PREFIXES: u8 = 3;

fn key(n: u8) -> SecretKey {
    SecretKey::from_seed(&[n; 32])
}

/// A person of one prefix of one network.
fn at(network: u8, prefix: u8) -> IpAddr {
    Ipv4Addr::new(127, 10 + network, prefix, 1).into()
}

fn site() -> &'static Target {
    Catalogue::builtin().find("github.com").unwrap()
}

async fn serve(dir: &Path, port: u16) -> CollectorProgram {
    let mut config = String::new();
    for n in 0..NETWORKS {
        let (net, asn) = (10 + n, 64_500 + u32::from(n));
        writeln!(
            config,
            "[[location.overrides]]\ncidr = '127.{net}.0.0/16'\ncountry = 'FR'\nasn = {asn}"
        )
        .unwrap();
    }
    let file = dir.join("collector.toml");
    std::fs::write(&file, config).unwrap();
    let listen = SocketAddr::from(([127, 0, 0, 1], port));
    let data_dir = dir.join("collector");
    let serving = Serving { data_dir, listen, config: Some(file), log: "info" };
    Programs::find().unwrap().serve(&serving).await.unwrap()
}

async fn collector() -> (CollectorProgram, TempDir) {
    let dir = tempfile::tempdir().unwrap();
    Programs::find().unwrap().init(&dir.path().join("collector")).unwrap();
    (serve(dir.path(), 0).await, dir)
}

async fn say(peer: &mut Peer, key: &SecretKey, at: Timestamp) -> Hearing {
    let said = HumanReport { at, target: site().index, trouble: Trouble::SignIn };
    peer.send(&said.sign(key)).await.unwrap();
    let heard: Heard = peer.message().await.unwrap();
    assert_eq!(heard.target, site().index);
    heard.hearing
}

async fn told(collector: &CollectorProgram) -> Value {
    let page = get(collector.web, "/api/v1/people").await.unwrap();
    assert_eq!(page.status, 200);
    serde_json::from_str(&page.body).unwrap()
}

fn tocsin(dir: &Path, line: &CollectorLine) -> Command {
    let state = dir.join("state");
    let programs = Programs::find().unwrap();
    let mut command = programs.agent();
    command.arg("--state-dir").arg(state).arg("--collector").arg(line.to_string());
    command.args(["--json", "--lang", "en"]).stdin(Stdio::null()).stderr(Stdio::null());
    command
}

fn run(mut command: Command, args: &[&str]) -> (Option<i32>, Value) {
    let output = command.args(args).output().unwrap();
    (output.status.code(), serde_json::from_slice(&output.stdout).unwrap_or_default())
}

#[tokio::test]
async fn many_who_say_so_are_a_suspicion_and_no_incident() {
    let (collector, dir) = collector().await;
    let now = || Clock.wall();
    let mut n = 0;
    for network in 0..NETWORKS {
        for prefix in 0..PREFIXES {
            n += 1;
            let (mut peer, _) =
                Peer::session(&collector.line, at(network, prefix), &key(n)).await.unwrap();
            assert_eq!(say(&mut peer, &key(n), now()).await, Hearing::Counted);
            assert_eq!(say(&mut peer, &key(n), now()).await, Hearing::Again);
        }
    }
    let (mut peer, _) = Peer::session(&collector.line, at(0, 9), &key(99)).await.unwrap();
    let old = now().minus_ms(3_600_000);
    assert_eq!(say(&mut peer, &key(99), old).await, Hearing::Clock);
    let raised = async || {
        let told = told(&collector).await;
        (told["raised"][0]["prefixes"] == u32::from(NETWORKS * PREFIXES)).then_some(told)
    };
    let heard = eventually("it is told of", PATIENCE, raised).await.unwrap();
    let first = &heard["raised"][0];
    assert_eq!(first["target"], site().id.as_str());
    assert_eq!((&first["networks"], &first["countries"]), (&NETWORKS.into(), &1.into()));
    assert_eq!(first["trouble"], "sign_in");
    // Where five minutes end in between, a point of a few is not told of.
    let points = heard["curves"][0]["points"].as_array().unwrap();
    let voices: u64 = points.iter().map(|point| point[1].as_u64().unwrap()).sum();
    assert!((8..=u64::from(NETWORKS * PREFIXES)).contains(&voices), "{heard}");
    // Hearsay makes no incident, however much of it there is.
    let incidents = get(collector.web, "/api/v1/incidents").await.unwrap();
    let incidents: Value = serde_json::from_str(&incidents.body).unwrap();
    assert_eq!(incidents["incidents"].as_array().map(Vec::len), Some(0));
    // It is in the log, and comes back with it.
    let port = collector.line.addresses[0].port();
    collector.stop().await.unwrap();
    let collector = serve(dir.path(), port).await;
    let again = told(&collector).await;
    assert_eq!(again["raised"][0]["prefixes"], first["prefixes"]);
    collector.stop().await.unwrap();
}

#[tokio::test]
async fn a_signature_of_another_key_ends_the_session() {
    let (collector, _dir) = collector().await;
    let (mut peer, _) = Peer::session(&collector.line, at(0, 0), &key(1)).await.unwrap();
    let said = HumanReport { at: Clock.wall(), target: site().index, trouble: Trouble::Down };
    peer.send(&said.sign(&key(2))).await.unwrap();
    assert!(peer.message::<Heard>().await.is_err());
    collector.stop().await.unwrap();
}

#[tokio::test]
async fn who_said_it_can_take_it_back() {
    let (collector, dir) = collector().await;
    let line = collector.line.clone();
    let tocsin = || tocsin(dir.path(), &line);
    let report = ["report", "https://github.com/somewhere", "--trouble", "slow"];
    let (code, said) = run(tocsin(), &report);
    assert_eq!((code, &said["told"][0]["hearing"]), (Some(0), &"counted".into()), "{said}");
    assert_eq!((&said["target"], &said["trouble"]), (&site().id.as_str().into(), &"slow".into()));
    let (code, said) = run(tocsin(), &report);
    assert_eq!((code, &said["told"][0]["hearing"]), (Some(0), &"again".into()));
    // What nobody watches is told kindly, and nothing is sent.
    let (code, said) = run(tocsin(), &["report", "example.org"]);
    assert_eq!(code, Some(3));
    assert!(said["error"].as_str().unwrap().contains("tocsin why example.org"), "{said}");
    let metric = "tocsin_human_reports_total{reason=\"counted\"}";
    assert_eq!(collector.metric(metric).await.unwrap(), 1);
    let (code, forgotten) = run(tocsin(), &["forget"]);
    assert_eq!((code, &forgotten["forgotten"][0]["reports"]), (Some(0), &1.into()), "{forgotten}");
    collector.stop().await.unwrap();
    // Without a collector nothing is counted, and that is said.
    let (code, said) = run(tocsin(), &["report", "github.com"]);
    assert_eq!((code, &said["ok"]), (Some(3), &false.into()), "{said}");
}

#[tokio::test]
async fn who_rotates_is_another_observer() {
    let (collector, dir) = collector().await;
    let line = collector.line.clone();
    let tocsin = || tocsin(dir.path(), &line);
    // A context that this test names: there may be no gateway here.
    let config = dir.path().join("agent.toml");
    std::fs::write(&config, "context = 'home'\n").unwrap();
    let observer = || {
        let mut command = tocsin();
        command.arg("--config").arg(&config);
        run(command, &["identity"]).1["observers"][0]["observer"].clone()
    };
    let before = observer();
    assert!(before.is_string());
    assert_eq!(run(tocsin(), &["report", "github.com"]).0, Some(0));
    // What is held of it could not be deleted any more: that is to be said.
    assert_eq!(run(tocsin(), &["identity", "rotate"]).0, Some(1));
    assert_eq!(observer(), before);
    assert_eq!(run(tocsin(), &["identity", "rotate", "--leave"]).0, Some(0));
    assert_ne!(observer(), before);
    // To the collector it is nobody that it knows: the same is said again, and counts.
    let (_, said) = run(tocsin(), &["report", "github.com"]);
    assert_eq!(said["told"][0]["hearing"], "counted", "{said}");
    assert_eq!(run(tocsin(), &["forget"]).0, Some(0));
    assert_eq!(run(tocsin(), &["identity", "rotate"]).0, Some(0), "now there is nothing to leave");
    collector.stop().await.unwrap();
}

#[tokio::test]
async fn who_reports_leaves_the_running_agent_where_it_is() {
    let (collector, dir) = collector().await;
    let line = collector.line.clone();
    // A fixed network, so that the agent and its user would have the same key if they were the same observer.
    let config = dir.path().join("agent.toml");
    let text = "context = 'home'\nfamilies = ['v4']\nresolvers = ['127.0.0.1:9']\nindependent_roots = ['127.0.0.1']\n\
                independent_port = 9\naccept = 1\n";
    std::fs::write(&config, text).unwrap();
    let tocsin = || {
        let mut command = tocsin(dir.path(), &line);
        command.arg("--config").arg(&config);
        command
    };
    let mut command = tocsin();
    command.arg("run").stdout(Stdio::null());
    let mut running = Program::start(command).unwrap();
    let sessions = async || {
        let open = "tocsin_sessions{transport=\"quic\"}";
        (collector.metric(open).await.ok()? == 1).then_some(())
    };
    eventually("the agent has its session", PATIENCE * 2, sessions).await.unwrap();
    let (code, said) = run(tocsin(), &["report", "github.com"]);
    assert_eq!((code, &said["told"][0]["hearing"]), (Some(0), &"counted".into()), "{said}");
    let replaced = "tocsin_sessions_ended_total{reason=\"replaced\"}";
    assert_eq!(collector.metric(replaced).await.unwrap(), 0);
    eventually("its session stands", PATIENCE, sessions).await.unwrap();
    assert_eq!(running.terminate().await.unwrap().code(), Some(0));
    collector.stop().await.unwrap();
}
