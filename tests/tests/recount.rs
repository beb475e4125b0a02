//! The cells of the API and of the page are what anybody can count from the log. The count here
//! is its own: it shares the tables of the protocol with the collector, and no code of its engine.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::Path,
};

use serde::Deserialize;
use tocsin_collector::{
    LOG,
    clock::Clock,
    store::{LogReader, SqliteLog},
};
use tocsin_proto::{
    bounded::List,
    catalogue::{Catalogue, Zones},
    id::{Country, Id, TargetIndex},
    implicate::{DnsPath, Layer, Layers},
    message::Ack,
    observation::{Cause, Failure, Family, LogMs, Observation},
    outcome::Outcome,
    report::{Health, Report, ResolverClass},
    rules::{RuleNumber, RuleTable},
    sign::SecretKey,
    snapshot::{Cell, CellState, Region, Subject},
    time::Timestamp,
};
use tocsin_tests::peer::{PATIENCE, Peer, Programs, Serving, eventually, get};

/// Country and network of each peer: three of FR, four of DE, three that are
/// folded into one zone, and one that is alone in its zone.
const PEERS: [(&str, u32); 11] = [
    ("FR", 64_501),
    ("FR", 64_501),
    ("FR", 64_502),
    ("DE", 64_503),
    ("DE", 64_504),
    ("DE", 64_505),
    ("DE", 64_505),
    ("PL", 64_506),
    ("CZ", 64_507),
    ("HU", 64_507),
    ("JP", 64_508),
];

fn key(peer: usize) -> SecretKey {
    SecretKey::from_seed(&[u8::try_from(peer).unwrap() + 60; 32])
}

/// Peers 0 and 1 are of one /24, so of one prefix.
fn source(peer: usize) -> IpAddr {
    match peer {
        0 | 1 => Ipv4Addr::new(127, 0, 60, u8::try_from(peer).unwrap() + 1),
        _ => Ipv4Addr::new(127, 0, 60 + u8::try_from(peer).unwrap(), 1),
    }
    .into()
}

/// What a peer sees of the `n`th target: something of every row of the table.
fn observation(peer: usize, n: usize, target: TargetIndex) -> Observation {
    let rules = RuleTable::builtin();
    let all = Outcome::ALL;
    let outcome = match (peer + n) % 3 {
        0 => all[(peer * 7 + n) % all.len()],
        _ => Outcome::Ok,
    };
    let rule = RuleNumber(u16::try_from((peer * 5 + n) % 60).unwrap());
    let rule = if rules.get(rule).is_some() { rule } else { RuleNumber::default() };
    let dns = [DnsPath::Both, DnsPath::SystemOnly, DnsPath::Unconfirmed][(peer + n / 3) % 3];
    let failure = Failure { rule, dns, status: 500, phases: [LogMs(1); 4] };
    Observation {
        target,
        after_ds: 0,
        family: if n.is_multiple_of(5) { Family::V6 } else { Family::V4 },
        cause: if n.is_multiple_of(7) { Cause::Verification } else { Cause::Scheduled },
        outcome,
        latency: LogMs(9),
        failure: (outcome != Outcome::Ok).then_some(failure),
    }
}

fn report(seq: u64, at: Timestamp, observations: Vec<Observation>) -> Report {
    Report {
        seq,
        base_s: u32::try_from(at.as_s()).unwrap(),
        probe_core: 1,
        health: Health::default(),
        resolver: ResolverClass::Local,
        observations: List::new(observations).unwrap(),
    }
}

fn targets() -> Vec<TargetIndex> {
    Catalogue::builtin().targets().keys().copied().collect()
}

/// What a peer says in its `round`th report: every third target from an offset, at most 64.
fn seen(peer: usize, round: usize) -> Vec<Observation> {
    let targets = targets();
    let of = |n: usize| targets[(round * 31 + n * 3) % targets.len()];
    (0..40).map(|n| observation(peer, n + round * 11, of(n))).collect()
}

/// Writes into a log what a collector would have written in the hours before.
fn fill(dir: &Path, now: Timestamp) {
    let path = dir.join(LOG);
    drop(SqliteLog::open(&path).unwrap());
    let log = rusqlite::Connection::open(&path).unwrap();
    let mut position = 0;
    for (round, minutes) in [(1u64, 75u64), (2, 40), (3, 20), (4, 12)] {
        let at = now.minus_ms(minutes * 60_000);
        let day = at.as_ms() / 86_400_000;
        log.execute_batch(&format!(
            "CREATE TABLE IF NOT EXISTS log_{day} (
               position INTEGER PRIMARY KEY, received_at INTEGER NOT NULL,
               observer INTEGER NOT NULL, country TEXT NOT NULL, asn INTEGER NOT NULL,
               slot INTEGER NOT NULL, signature BLOB NOT NULL, body BLOB NOT NULL
             ) STRICT;
             INSERT OR IGNORE INTO segments (day, first) VALUES ({day}, {});",
            position + 1
        ))
        .unwrap();
        for (peer, (country, asn)) in PEERS.iter().enumerate() {
            let round_of = usize::try_from(round).unwrap();
            // In some rounds some are silent: regions are folded differently.
            if (peer + round_of).is_multiple_of(4) {
                continue;
            }
            position += 1;
            let signed = report(round, at, seen(peer, round_of)).sign(&key(peer));
            log.execute(
                &format!("INSERT INTO log_{day} VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)"),
                rusqlite::params![
                    position,
                    i64::try_from(at.as_ms()).unwrap(),
                    i64::try_from(peer + 1).unwrap(),
                    country,
                    asn,
                    i64::try_from(peer.max(1)).unwrap(),
                    signed.signature.0,
                    &*signed.body,
                ],
            )
            .unwrap();
        }
    }
    for peer in 0..PEERS.len() {
        log.execute(
            "INSERT INTO observers (id, key, high, bits) VALUES (?1, ?2, 4, 15)",
            rusqlite::params![i64::try_from(peer + 1).unwrap(), key(peer).public().as_bytes()],
        )
        .unwrap();
    }
}

#[derive(Debug, Deserialize)]
struct Answer {
    at: Timestamp,
    window_s: u64,
    cells: Vec<Cell>,
}

/// Each observation touches the cell of its target, and of each provider (in a role that is known
/// well, with three targets or more) that it blames or clears.
fn subjects(observation: &Observation) -> Vec<(Subject, bool)> {
    let catalogue = Catalogue::builtin();
    let Some(target) = catalogue.target(observation.target) else { return Vec::new() };
    let said = observation.implication();
    let others = Layer::ALL.iter().filter(|layer| **layer != Layer::Resolver);
    let failed = others.clone().any(|layer| said.full.has(*layer) || said.half.has(*layer));
    let own = said.full.has(Layer::Resolver) || said.half.has(Layer::Resolver);
    let fine = !failed && !own && others.clone().any(|layer| said.clears.has(*layer));
    let mut found = Vec::new();
    // The observer's own trouble is no news of the site.
    if failed || fine {
        found.push((Subject::Target(target.id.clone()), failed));
    }
    let has_edge = target.roles.iter().any(|role| role.role == Layer::Edge);
    let means = |layers: Layers, layer: Layer| {
        layers.has(layer) || (layer == Layer::Hosting && !has_edge && layers.has(Layer::Edge))
    };
    for role in target.deciding_roles() {
        let beside = catalogue.targets().values().filter(|other| {
            other.deciding_roles().any(|r| (&r.provider, r.role) == (&role.provider, role.role))
        });
        if beside.count() < 3 {
            continue;
        }
        let subject = Subject::Provider { provider: role.provider.clone(), role: role.role };
        for (layers, failing) in [(said.full, true), (said.half, true), (said.clears, false)] {
            if means(layers, role.role) {
                found.push((subject.clone(), failing));
            }
        }
    }
    found
}

#[derive(Debug, Default)]
struct Count {
    observed: u64,
    failing: u64,
    /// By observer: when it was last heard, with prefix and network.
    observers: BTreeMap<u32, (Timestamp, u64, u32)>,
}

/// Cells by region and subject, without their states: those of an incident are the detector's.
type Counted = BTreeMap<(Region, Subject), (u64, u64, u32, u32, Timestamp, bool)>;

fn recount(dir: &Path, at: Timestamp, minutes: u64) -> Counted {
    let oldest = (at.as_ms() / 60_000 + 1).saturating_sub(minutes) * 60_000;
    let mut countries: BTreeMap<(Country, Subject), Count> = BTreeMap::new();
    let log = LogReader::open(&dir.join(LOG)).unwrap();
    log.replay(0, |record, _| {
        let received = record.received_at;
        if received.as_ms() < oldest {
            return;
        }
        for (observed_at, observation) in record.report.timed() {
            if received.since_ms(observed_at) > 120_000 {
                continue;
            }
            for (subject, failing) in subjects(observation) {
                let count = countries.entry((record.standing.country, subject)).or_default();
                count.observed += 1;
                count.failing += u64::from(failing);
                let heard = (received, record.standing.slot, record.standing.asn);
                count.observers.insert(record.observer, heard);
            }
        }
    })
    .unwrap();
    let mut regions: BTreeMap<(Region, Subject), Count> = BTreeMap::new();
    for ((country, subject), count) in countries {
        let zone = || -> Option<Id> {
            let zones = Zones::builtin();
            zones.of(country).and_then(|zone| zones.id(zone)).cloned()
        };
        let region = match count.observers.len() {
            0..3 => zone().map_or(Region::Country(Country::UNKNOWN), Region::Zone),
            _ => Region::Country(country),
        };
        let sum = regions.entry((region, subject)).or_default();
        sum.observed += count.observed;
        sum.failing += count.failing;
        sum.observers.extend(count.observers);
    }
    let cell = |(place, count): ((Region, Subject), Count)| {
        let distinct = |n: usize| u32::try_from(n).unwrap();
        let prefixes: BTreeSet<u64> = count.observers.values().map(|o| o.1).collect();
        let networks: BTreeSet<u32> = count.observers.values().map(|o| o.2).collect();
        let newest = count.observers.values().map(|o| o.0).max().unwrap();
        let few = prefixes.len() < 5;
        let numbers = (count.observed, count.failing);
        let of = (distinct(prefixes.len()), distinct(networks.len()));
        (place, (numbers.0, numbers.1, of.0, of.1, newest, few))
    };
    regions.into_iter().map(cell).collect()
}

fn told(answer: &Answer) -> Counted {
    let cells = answer.cells.iter().map(|c| {
        let few = c.state == CellState::InsufficientEvidence;
        let numbers = (c.observed, c.failing, c.prefixes, c.networks, c.newest_at, few);
        ((c.region.clone(), c.subject.clone()), numbers)
    });
    let count = answer.cells.len();
    let told: Counted = cells.collect();
    assert_eq!(told.len(), count, "a cell is told twice");
    told
}

/// The numbers of a page's tables, in no order.
fn on_page(html: &str) -> Vec<String> {
    let cells = html.split("<td ").skip(1).filter_map(|cell| {
        let (_, text) =
            cell.split_once("</td>").map_or(cell, |(cell, _)| cell).split_once("<b>")?;
        Some(text.replace("</b>", " "))
    });
    let mut cells: Vec<String> = cells.collect();
    cells.sort();
    cells
}

fn as_on_page(cells: &Counted) -> Vec<String> {
    let cell =
        |(observed, failing, prefixes, networks, ..): &(u64, u64, u32, u32, Timestamp, bool)| {
            format!("{failing}/{observed} {prefixes} p {networks} n")
        };
    let mut cells: Vec<String> = cells.values().map(cell).collect();
    cells.sort();
    cells
}

async fn agrees(dir: &Path, web: SocketAddr, window: &str, minutes: u64) -> Result<usize, String> {
    let ask = async || {
        let answer = get(web, &format!("/api/v1/cells?window={window}")).await.unwrap();
        assert_eq!(answer.status, 200, "{}", answer.body);
        serde_json::from_str::<Answer>(&answer.body).unwrap()
    };
    let answer = ask().await;
    let page = get(web, &format!("/cells?window={window}")).await.unwrap().body;
    assert_eq!(answer.window_s, minutes * 60);
    let (told, counted) = (told(&answer), recount(dir, answer.at, minutes));
    let mut wrong = String::new();
    for place in told.keys().chain(counted.keys()).collect::<BTreeSet<_>>() {
        let (told, counted) = (told.get(place), counted.get(place));
        if told != counted && wrong.len() < 2_000 {
            writeln!(wrong, "{place:?}: told {told:?}, counted {counted:?}").unwrap();
        }
    }
    if wrong.is_empty() && on_page(&page) != as_on_page(&counted) {
        let (page, counted) = (on_page(&page), as_on_page(&counted));
        let odd = page.iter().zip(&counted).find(|(page, counted)| page != counted);
        let (of_page, of_count) = (page.len(), counted.len());
        wrong = format!("the page of {window} has {of_page} of {of_count} cells, first {odd:?}");
    }
    if wrong.is_empty() { Ok(told.len()) } else { Err(wrong) }
}

#[tokio::test]
async fn the_cells_are_those_of_a_recount() {
    let programs = Programs::find().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let data_dir = dir.path().join("data");
    programs.init(&data_dir).unwrap();
    fill(&data_dir, Clock.wall());
    let config = dir.path().join("collector.toml");
    let mut text = String::new();
    for (peer, (country, asn)) in PEERS.iter().enumerate() {
        let source = source(peer);
        writeln!(
            text,
            "[[location.overrides]]\ncidr = '{source}/32'\ncountry = '{country}'\nasn = {asn}"
        )
        .unwrap();
    }
    std::fs::write(&config, text).unwrap();
    let listen = SocketAddr::from(([127, 0, 0, 1], 0));
    let serving = Serving { data_dir: data_dir.clone(), listen, config: Some(config), log: "info" };
    let mut collector = programs.serve(&serving).await.unwrap();

    for peer in 0..PEERS.len() {
        let key = key(peer);
        let (mut session, ready) =
            Peer::session(&collector.line, source(peer), &key).await.unwrap();
        let now = Clock.wall();
        let mut last = ready.committed_seq;
        for round in 5..8 {
            last += 1;
            session.send(&report(last, now, seen(peer, round)).sign(&key)).await.unwrap();
        }
        // Two hours late: in the log, and in no cell.
        last += 1;
        let late = report(last, now.minus_ms(7_200_000), seen(peer, 9));
        session.send(&late.sign(&key)).await.unwrap();
        while session.message::<Ack>().await.unwrap().committed_seq < last {}
        session.close();
    }
    for (window, minutes) in [("5m", 5), ("1h", 60)] {
        let mut last = String::new();
        let looking = async || match agrees(&data_dir, collector.web, window, minutes).await {
            Ok(cells) => Some(cells),
            Err(wrong) => {
                last = wrong;
                None
            }
        };
        let cells = eventually("the cells agree", PATIENCE, looking).await;
        let cells = cells.unwrap_or_else(|error| panic!("{error}\n{last}"));
        assert!(cells > 100, "{cells} cells of {window} are too few to show anything");
    }
    // The first page has cells of the same five minutes, and no other.
    let looking = async || {
        let cells = get(collector.web, "/api/v1/cells?window=5m").await.unwrap().body;
        let told: Vec<String> = as_on_page(&told(&serde_json::from_str(&cells).unwrap()));
        let shown = on_page(&get(collector.web, "/").await.unwrap().body);
        (!shown.is_empty() && shown.iter().all(|cell| told.contains(cell))).then_some(())
    };
    eventually("the first page agrees", PATIENCE, looking).await.unwrap();
    assert!(collector.program.terminate().await.unwrap().success());
}
