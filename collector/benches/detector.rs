//! What the detector costs: CPU per observation, memory per observer, CPU per evaluation, with a
//! million observers, 500 targets and some sixty entities, beside a table in SQLite that the same
//! observations are inserted into and counted from, which is what one would write in an afternoon.
//!
//! `cargo bench --package tocsin-collector --bench detector [-- OBSERVERS]`

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::indexing_slicing,
    reason = "a benchmark fails by panicking and tells by printing"
)]

use std::time::Duration;

use tocsin_collector::engine::{
    detector::{Detector, Record},
    observer::Standing,
    params::Settings,
};
use tocsin_proto::{
    bounded::List,
    catalogue::{Catalogue, Zones},
    id::{Country, ObserverId, TargetIndex},
    implicate::DnsPath,
    observation::{Cause, Failure, Family, LogMs, Observation},
    outcome::Outcome,
    report::{Health, Report, ResolverClass},
    rules::RuleNumber,
    time::Timestamp,
};

const START: Timestamp = Timestamp::from_s(1_800_000_000);
const TARGETS: u16 = 500;
/// Observations of a report: three a minute, told of each minute, and a busy one.
const SIZES: [usize; 2] = [3, 10];

/// A catalogue in which the largest of a kind stands behind a fifth of the sites and each next one
/// behind somewhat fewer (Zipf), with every kind at half of the sites or more.
fn catalogue(dice: &mut Dice) -> Catalogue {
    let mut text = "schema = 1\nversion = 1\n".to_owned();
    let kinds = [("edge", 20), ("hosting", 12), ("dns", 18), ("aux", 10)];
    for (kind, count) in kinds {
        for n in 0..count {
            let id = format!("{kind}-{n}");
            text +=
                &format!("[[provider]]\nid = \"{id}\"\nname = \"{id}\"\norganisation = \"{id}\"\n");
        }
    }
    for at in 0..TARGETS {
        let mut roles = Vec::new();
        for (kind, count) in kinds.into_iter().filter(|(kind, _)| *kind != "aux" || at % 2 == 0) {
            let whole: u64 = (0..count).map(|n| 1_000 / (n + 3)).sum();
            let mut lot = dice.below(whole);
            let drawn = (0..count).find(|n| {
                let part = 1_000 / (n + 3);
                let here = lot < part;
                lot = lot.saturating_sub(part);
                here
            });
            roles.push(format!(
                "{{ role = \"{kind}\", provider = \"{kind}-{}\", evidence = \"operator\" }}",
                drawn.unwrap()
            ));
        }
        let tld = ["com", "org", "net", "io"][usize::from(at) % 4];
        text += &format!(
            "[[target]]\nindex = {at}\nid = \"t{at}\"\nname = \"t\"\nhost = \"s{at}.example.{tld}\"\n\
             roles = [{}]\n",
            roles.join(", ")
        );
    }
    Catalogue::parse(&text).unwrap()
}

fn settings() -> Settings {
    Settings { tenure_hours_min: 0, tenure_hours_full: 0, ..Settings::default() }
}

/// A small generator (splitmix64, Steele et al. 2014): a benchmark must repeat.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % n
    }
}

fn observation(dice: &mut Dice) -> Observation {
    // One look in a hundred fails.
    let fails = dice.below(100) == 0;
    let failure = fails.then_some(Failure {
        rule: RuleNumber::NONE,
        dns: DnsPath::Unconfirmed,
        status: 0,
        phases: [LogMs(0); 4],
    });
    Observation {
        target: TargetIndex(dice.below(TARGETS.into()) as u16),
        after_ds: 0,
        family: Family::V4,
        cause: Cause::Scheduled,
        outcome: if fails { Outcome::TcpTimeout } else { Outcome::Ok },
        latency: LogMs(50),
        failure,
    }
}

/// Reports to choose from, so that making them is not what is measured.
fn reports(dice: &mut Dice, size: usize) -> Vec<Record> {
    let countries = ["FR", "DE", "GB", "US", "JP", "BR", "IN", "ZA", "AU", "CA"];
    let record = |_| {
        let country: Country = countries[dice.below(10) as usize].parse().unwrap();
        Record {
            position: 0,
            received_at: START,
            observer: 0,
            key: ObserverId::from_bytes([0; 32]),
            standing: Standing {
                country,
                zone: Zones::builtin().of(country),
                asn: 0,
                slot: 0,
                version: 1,
                resolver: ResolverClass::Local as u8,
            },
            report: Report {
                seq: 0,
                base_s: 0,
                probe_core: 1,
                health: Health::default(),
                resolver: ResolverClass::Local,
                observations: List::new((0..size).map(|_| observation(dice)).collect()).unwrap(),
            },
        }
    };
    (0..4_096).map(record).collect()
}

/// CPU time of this process.
fn cpu() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec as u32)
}

/// Resident memory of this process, bytes (proc(5), statm).
fn resident() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: u64 = text.split_ascii_whitespace().nth(1).unwrap().parse().unwrap();
    pages * rustix::param::page_size() as u64
}

/// Every observer in turn says a report, in the given time; returns CPU per observation. `who` runs
/// through them all, in an order that no cache likes.
fn round(
    detector: &mut Detector,
    pool: &mut [Record],
    observers: u32,
    at: &mut Timestamp,
    length_ms: u64,
) -> Duration {
    let stride = (611_953 % observers.max(2)) | 1;
    let began = *at;
    let start = cpu();
    let mut who = 0u32;
    let length = pool.len();
    let mut told = 0u32;
    for n in 0..observers {
        who = (who + stride) % observers;
        let record = &mut pool[n as usize % length];
        record.position += 1;
        record.observer = who;
        record.standing.asn = who % 60_000;
        record.standing.slot = u64::from(who / 2);
        record.received_at = began.plus_ms(length_ms * u64::from(n) / u64::from(observers));
        record.report.base_s = record.received_at.as_s() as u32;
        detector.record(record);
        told += record.report.observations.len() as u32;
    }
    *at = began.plus_ms(length_ms);
    (cpu() - start) / told
}

/// The same question put to a database: each observation a row, the failures of the last two minutes
/// counted by target at each evaluation, what is older deleted. CPU per observation.
fn database(dice: &mut Dice, observers: u32) -> Duration {
    let db = rusqlite::Connection::open_in_memory().unwrap();
    db.execute_batch(
        "CREATE TABLE seen (at INTEGER, observer INTEGER, target INTEGER, failed INTEGER);
         CREATE INDEX seen_at ON seen (at);",
    )
    .unwrap();
    let evaluations = 36;
    let each = observers * 3 / 12;
    let looks: Vec<Observation> = (0..4_096).map(|_| observation(dice)).collect();
    let (mut start, mut counted) = (cpu(), 0);
    for tick in 0..evaluations {
        // The first two minutes fill the table.
        if tick == 24 {
            (start, counted) = (cpu(), 0);
        }
        let at = 5 * i64::from(tick);
        db.execute_batch("BEGIN").unwrap();
        for n in 0..each {
            let look = &looks[(n as usize * 31 + tick as usize) % looks.len()];
            db.prepare_cached("INSERT INTO seen VALUES (?1, ?2, ?3, ?4)")
                .unwrap()
                .execute((at, n, look.target.0, look.failure.is_some()))
                .unwrap();
            counted += 1;
        }
        db.prepare_cached("DELETE FROM seen WHERE at < ?1").unwrap().execute([at - 120]).unwrap();
        let mut count = db
            .prepare_cached("SELECT target, count(*), sum(failed) FROM seen GROUP BY target")
            .unwrap();
        let rows = count.query_map([], |row| row.get::<_, i64>(1)).unwrap();
        assert_eq!(rows.count(), usize::from(TARGETS));
        db.execute_batch("COMMIT").unwrap();
    }
    (cpu() - start) / counted
}

fn main() {
    let observers: u32 =
        std::env::args().skip(1).find_map(|arg| arg.parse().ok()).unwrap_or(1_000_000);
    let mut dice = Dice(1);
    let catalogue = catalogue(&mut dice);
    let entities = Detector::new(catalogue.clone(), settings()).plan().len();
    println!("{TARGETS} targets, {entities} entities; CPU of one thread");
    // What a first detector left is used again by a second: the largest crowd first.
    for observers in [observers, 1_000] {
        for size in SIZES {
            let measured = measure(&catalogue, &mut dice, observers, size);
            println!("{observers} observers, reports of {size}: {measured}");
        }
    }
    let each = database(&mut dice, 50_000);
    println!("50000 observers, SQLite in memory: {} ns an observation", each.as_nanos());
}

fn measure(catalogue: &Catalogue, dice: &mut Dice, observers: u32, size: usize) -> String {
    let mut pool = reports(dice, size);
    let mut detector = Detector::new(catalogue.clone(), settings());
    let before = resident();
    let mut at = START;
    // Until every row is full.
    for _ in 0..(24usize.div_ceil(size) + 1) {
        round(&mut detector, &mut pool, observers, &mut at, 60_000);
    }
    let bytes = (resident() - before) / u64::from(observers);
    let minutes = 10;
    let each = (0..minutes)
        .map(|_| round(&mut detector, &mut pool, observers, &mut at, 60_000))
        .sum::<Duration>()
        / minutes;
    // A minute's evaluations, in which nobody reports.
    let start = cpu();
    at = at.plus_ms(60_000);
    detector.advance(at);
    let evaluation = (cpu() - start) / 12;
    // A small or a second crowd finds memory that was used before.
    let memory = if observers > 100_000 && size == SIZES[0] {
        format!("{bytes} bytes an observer, ")
    } else {
        String::new()
    };
    format!(
        "{} ns an observation, {memory}{} us an evaluation",
        each.as_nanos(),
        evaluation.as_micros()
    )
}
