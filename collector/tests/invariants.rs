//! What holds whatever is reported: properties of the whole detector, over arbitrary logs.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use tocsin_proto::{
    bounded::List,
    catalogue::{Catalogue, Zones},
    id::{Country, ObserverId, TargetIndex},
    implicate::{DnsPath, Layer},
    incident::{Phase, Reason},
    observation::{Cause, Failure, Family, LogMs, Observation},
    outcome::Outcome,
    report::{Health, Report, ResolverClass},
    rules::RuleNumber,
    sign::sha256,
    time::Timestamp,
    wire,
};

use tocsin_collector::engine::{
    attribute::attribute,
    detector::{Changed, Detector, Record, State},
    fixed::{ONE, scale},
    incident::{Reach, TRANSITIONS},
    judge::{Divided, Shares, majority},
    observer::Standing,
    params::{Params, Settings},
    plan::{EntityIndex, Plan},
    tally::Tally,
    window::{Counts, Windows},
};

const P: &Params = &Params::DEFAULT;
const START: Timestamp = Timestamp::from_s(1_800_000_000);
const SITES: u16 = 24;
const PEOPLE: u32 = 30;

/// Three edges of eight sites each; every site's name by one of two providers. With other names the
/// same shape.
fn catalogue(names: [&str; 5]) -> Catalogue {
    let mut text = "schema = 1\nversion = 1\n".to_owned();
    for id in names {
        text += &format!("[[provider]]\nid = \"{id}\"\nname = \"{id}\"\norganisation = \"{id}\"\n");
    }
    for at in 0..SITES {
        let edge = names[usize::from(at / 8)];
        let dns = names[3 + usize::from(at % 2)];
        text += &format!(
            "[[target]]\nindex = {at}\nid = \"{edge}-{at}\"\nname = \"t\"\nhost = \"s{at}.test\"\n\
             roles = [{{ role = \"edge\", provider = \"{edge}\", evidence = \"operator\" }}, \
             {{ role = \"dns\", provider = \"{dns}\", evidence = \"operator\" }}]\n"
        );
    }
    Catalogue::parse(&text).unwrap()
}

fn settings() -> Settings {
    Settings {
        tenure_hours_min: 0,
        tenure_hours_full: 0,
        established_versions: vec![1],
        crowd_observers: 10,
        crowd_networks: 5,
        settle_s: 60,
        ask_back: false,
        ..Settings::default()
    }
}

/// One look: who, at what, what came of it, and how long after the one before.
#[derive(Debug, Clone, Copy)]
struct Look {
    who: u32,
    site: u16,
    outcome: Outcome,
    after_ms: u64,
}

fn look(outcomes: impl Strategy<Value = Outcome>) -> impl Strategy<Value = Look> {
    (0..PEOPLE, 0..SITES, outcomes, 0u64..600).prop_map(|(who, site, outcome, after_ms)| Look {
        who,
        site,
        outcome,
        after_ms,
    })
}

fn any_outcome() -> impl Strategy<Value = Outcome> {
    prop_oneof![
        6 => Just(Outcome::Ok),
        2 => Just(Outcome::TcpTimeout),
        1 => Just(Outcome::Http5xx),
        1 => Just(Outcome::DnsServfail),
    ]
}

/// In a time like that of an outage of the first edge.
fn outage() -> impl Strategy<Value = Vec<Look>> {
    prop::collection::vec(look(Just(Outcome::Ok)), 800..1_600).prop_map(|mut looks| {
        for look in looks.iter_mut().skip(300).filter(|look| look.site < 8) {
            look.outcome = Outcome::TcpReset;
        }
        looks
    })
}

fn standing(who: u32) -> Standing {
    let countries = ["FR", "DE", "GB", "US", "JP"];
    let country: Country = countries[who as usize % countries.len()].parse().unwrap();
    Standing {
        country,
        zone: Zones::builtin().of(country),
        asn: 64_500 + who / 2,
        slot: u64::from(who),
        version: 1,
        resolver: ResolverClass::Local as u8,
    }
}

fn record(position: u64, received_at: Timestamp, seen_at: Timestamp, look: &Look) -> Record {
    let failure = (look.outcome != Outcome::Ok).then_some(Failure {
        rule: RuleNumber::NONE,
        dns: if look.outcome == Outcome::DnsServfail {
            DnsPath::Both
        } else {
            DnsPath::Unconfirmed
        },
        status: 0,
        phases: [LogMs(0); 4],
    });
    let observation = Observation {
        target: TargetIndex(look.site),
        after_ds: 0,
        family: Family::V4,
        cause: Cause::Scheduled,
        outcome: look.outcome,
        latency: LogMs(50),
        failure,
    };
    Record {
        position,
        received_at,
        observer: look.who,
        key: ObserverId::from_bytes([look.who as u8; 32]),
        standing: standing(look.who),
        report: Report {
            seq: position,
            base_s: u32::try_from(seen_at.as_s()).unwrap(),
            probe_core: 1,
            health: Health::default(),
            resolver: ResolverClass::Local,
            observations: List::new(vec![observation]).unwrap(),
        },
    }
}

/// A log of looks, each told of at once.
fn log(looks: &[Look]) -> Vec<Record> {
    let mut at = START;
    let number = |(position, look): (u64, &Look)| {
        at = at.plus_ms(look.after_ms);
        record(position, at, at, look)
    };
    (1..).zip(looks).map(number).collect()
}

const NAMES: [&str; 5] = ["a-edge", "b-edge", "c-edge", "d-dns", "e-dns"];

fn detector() -> Detector {
    Detector::new(catalogue(NAMES), settings())
}

/// Plays a log and a quarter of an hour of silence behind it.
fn play(detector: &mut Detector, records: &[Record]) -> Vec<Changed> {
    let mut changed = Vec::new();
    for record in records {
        changed.extend(detector.record(record));
    }
    let end = detector.now().plus_ms(900_000);
    changed.extend(detector.advance(end));
    changed
}

fn words(changed: &[Changed]) -> Vec<(Timestamp, Phase, String)> {
    changed.iter().map(|c| (c.at, c.phase, c.incident.clone())).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    // 1, 4, 12
    #[test]
    fn sums_are_those_of_the_rows_and_nobody_has_more_than_one_vote(
        looks in prop::collection::vec(look(any_outcome()), 0..400),
    ) {
        let mut detector = detector();
        for record in &log(&looks) {
            detector.record(record);
            prop_assert!(detector.tallies_are_consistent());
        }
        detector.advance(detector.now().plus_ms(60_000));
        prop_assert!(detector.tallies_are_consistent());
        for observer in detector.online() {
            prop_assert!((0..=ONE).contains(&observer.vote.weight));
            prop_assert!(observer.vote.weight <= observer.within);
            if !observer.is_healthy(P) {
                prop_assert_eq!(observer.vote.eligible.0, 0, "who fails everywhere says nothing");
            }
        }
        for (entity, _) in detector.plan().entities() {
            for tally in detector.shares(entity).zones.values() {
                prop_assert!(0 <= tally.flagging && tally.flagging <= tally.eligible);
            }
        }
    }

    // 6, 7
    #[test]
    fn phases_keep_to_the_table_and_a_verdict_to_its_conditions(looks in outage()) {
        let mut detector = detector();
        let mut phases: BTreeMap<String, Phase> = BTreeMap::new();
        for record in &log(&looks) {
            for change in detector.record(record) {
                let before = phases.insert(change.incident.clone(), change.phase);
                prop_assert!(TRANSITIONS.contains(&(before, change.phase)), "{:?}", change);
                let incidents = detector.incidents();
                let shown = incidents.iter().find(|shown| shown.incident.id == change.incident);
                let incident = shown.expect("what changed is there").incident;
                if change.phase == Phase::Confirmed && incident.reach == Reach::Global {
                    prop_assert!(incident.grounds.reasons.iter().all(|reason: &Reason| reason.held));
                }
                let subjects: Vec<_> = incidents
                    .iter()
                    .filter(|shown| shown.incident.phase().is_open())
                    .map(|shown| shown.subject)
                    .collect();
                let distinct: BTreeSet<_> = subjects.iter().copied().collect();
                prop_assert_eq!(subjects.len(), distinct.len(), "one open incident each");
            }
        }
        let named: Vec<_> = phases.keys().filter(|id| id.contains("edge-edge")).collect();
        prop_assert!(named.iter().all(|id| id.contains("a-edge")), "{:?}", named);
    }

    // 8
    #[test]
    fn what_is_late_changes_no_verdict(
        looks in outage(),
        late in prop::collection::vec(look(any_outcome()), 1..60),
    ) {
        let records = log(&looks);
        let end = records.last().map_or(START, |record| record.received_at);
        let (mut with, mut without) = (detector(), detector());
        for record in &records {
            with.record(record);
            without.record(record);
        }
        for (n, look) in (1u64..).zip(&late) {
            let seen_at = end.minus_ms(200_000 + n * 1_000);
            with.record(&record(1_000_000 + n, end, seen_at, look));
        }
        let later = end.plus_ms(30_000);
        prop_assert_eq!(words(&with.advance(later)), words(&without.advance(later)));
        for (entity, _) in with.plan().entities() {
            prop_assert_eq!(with.shares(entity), without.shares(entity));
        }
    }

    // 9
    #[test]
    fn the_order_of_different_observers_within_a_tick_is_of_no_matter(looks in outage(), turn in 1u64..7) {
        // All of one tick arrive at its end; then each tick's are turned round.
        let grid = |record: Record| {
            let at = Timestamp::from_ms(record.received_at.as_ms() / 5_000 * 5_000 + 2_500);
            Record { received_at: at, ..record }
        };
        let records: Vec<Record> = log(&looks).into_iter().map(grid).collect();
        let mut turned = records.clone();
        // By observer first: what one observer saw stays in its order.
        turned.sort_by_key(|record| {
            (record.received_at, u64::from(record.observer).wrapping_mul(turn * 2 + 1) % 31)
        });
        let (mut one, mut other) = (detector(), detector());
        let phases = |detector: &mut Detector, records: &[Record]| {
            words(&play(detector, records))
        };
        prop_assert_eq!(phases(&mut one, &records), phases(&mut other, &turned));
    }

    // 11
    #[test]
    fn other_names_give_other_names_and_nothing_else(looks in outage()) {
        let renamed = ["z-edge", "y-edge", "x-edge", "w-dns", "v-dns"];
        let mut one = detector();
        let mut other = Detector::new(catalogue(renamed), settings());
        let records = log(&looks);
        let phases = |changed: Vec<Changed>| -> Vec<(Timestamp, Phase)> {
            let mut phases: Vec<_> = changed.iter().map(|c| (c.at, c.phase)).collect();
            phases.sort_unstable();
            phases
        };
        prop_assert_eq!(phases(play(&mut one, &records)), phases(play(&mut other, &records)));
    }

    // 3
    #[test]
    fn an_answer_in_the_place_of_a_failure_raises_no_flag(
        looks in prop::collection::vec(look(any_outcome()), 1..120),
        at in 0usize..120,
    ) {
        let at = at % looks.len();
        let mut better = looks.clone();
        better[at].outcome = Outcome::Ok;
        let flags = |looks: &[Look]| {
            let mut detector = detector();
            for record in &log(looks) {
                detector.record(record);
            }
            let flags: Vec<_> = detector.online().map(|o| (o.standing.slot, o.flags(P))).collect();
            flags
        };
        for ((who, worse), (same, better)) in flags(&looks).into_iter().zip(flags(&better)) {
            prop_assert_eq!(who, same);
            prop_assert_eq!(better.0 & !worse.0, 0, "a flag more for an answer more");
        }
    }

    // 5
    #[test]
    fn liars_are_worth_their_weight(
        zones in prop::collection::vec((1i64..60, 0i64..60, 0i64..=1_000_000), 3..12),
    ) {
        // Each zone: honest weight, liars, and the share of the honest who see it. B is a mean over zones of
        // F + (1 - F) times what the honest see there, so never above the worst of them.
        let tallies = zones.iter().zip(0u8..).map(|((honest, liars, sees), zone)| {
            let seeing = scale(honest * ONE, *sees);
            let tally =
                Tally { eligible: (honest + liars) * ONE, flagging: seeing + liars * ONE };
            (zone, tally)
        });
        let shares = Shares::new(P, tallies, i64::MAX);
        let most = zones.iter().map(|(honest, liars, sees)| {
            let all = honest + liars;
            *liars * ONE / all.max(1) + scale(honest * ONE / all.max(1), *sees)
        }).max().unwrap_or(0);
        prop_assert!(shares.share <= most + 2, "no more than the worst zone: {} {}", shares.share, most);
    }

    // 6
    #[test]
    fn the_conditions_are_what_they_say(
        zones in prop::collection::vec((0i64..40, 0i64..40), 0..14),
        online in 0i64..600,
    ) {
        let tallies = zones.iter().zip(0u8..).map(|((n, a), zone)| {
            (zone, Tally { eligible: n.max(a) * ONE, flagging: n.min(a) * ONE })
        });
        let shares = Shares::new(P, tallies, online * ONE);
        let seeing = shares.zones.values().filter(|tally| tally.share() > P.zone_share).count();
        if shares.geography(P).held {
            prop_assert!(shares.zones.len() >= P.zones_min && seeing >= P.zones_min);
            prop_assert!(2 * seeing >= shares.zones.len());
        }
        if shares.coverage(P).held {
            prop_assert!(shares.all.eligible >= scale(online * ONE, P.coverage));
        }
        let c1 = majority(P, shares.share, shares.all, &Divided::default());
        prop_assert_eq!(c1.held, shares.share >= P.confirm);
    }

    // 10
    #[test]
    fn what_rises_everywhere_is_nobodys_fault(
        by in 0i64..900_000,
        noise in prop::collection::vec(-60_000i64..60_000, usize::from(SITES)),
    ) {
        let plan = Plan::new(&catalogue(NAMES));
        let all: Vec<EntityIndex> = plan.entities().map(|(entity, _)| entity).collect();
        let mut windows = Windows::default();
        for (site, noise) in (0..SITES).zip(noise) {
            for zone in 0..4 {
                let weight = 10 * ONE;
                let failed = scale(weight, (by + noise).clamp(0, ONE));
                let mut counts = Counts::of(weight, false);
                counts.failed = failed;
                counts.implicate(Layer::Edge, failed);
                windows.count(TargetIndex(site), zone, &counts);
            }
        }
        let of = (&windows, &windows);
        let (picks, _) = attribute(P, &plan, of, &all, &[], &BTreeMap::new(), &BTreeSet::new());
        prop_assert!(picks.is_empty(), "{:?}", picks);
    }
}

/// Ten minutes of looks, of which the last seven and a half are an outage of the first edge.
fn golden_looks() -> Vec<Look> {
    let look = |n: u32| {
        let throw = n.wrapping_mul(2_654_435_761) >> 8;
        let site = (throw % u32::from(SITES)) as u16;
        let failed = n > 600 && site < 8;
        let outcome = if failed { Outcome::TcpReset } else { Outcome::Ok };
        Look { who: throw / 64 % PEOPLE, site, outcome, after_ms: 250 }
    };
    (0..2_400).map(look).collect()
}

/// Everything the detector is and has said, as one number.
fn digest(detector: &Detector, changed: &[Changed]) -> String {
    let said = format!("{:?}", words(changed));
    let hash = sha256(&[&wire::encode(detector.state()), said.as_bytes()]);
    hash.iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

// The same log, the same bytes: in debug and in release, from a snapshot taken on the way, on every
// machine, and under Miri (`tests/miri`). The number changes with the rules, and with nothing else.
#[test]
fn a_golden_log_tells_the_same_everywhere() {
    // Miri takes a thousand times as long: no more than it needs.
    let mut looks = golden_looks();
    looks.truncate(1_500);
    let records = log(&looks);
    let settings = Settings { ask_back: true, ..settings() };
    let play = |detector: &mut Detector, records: &[Record]| -> Vec<Changed> {
        let mut changed: Vec<_> =
            records.iter().flat_map(|record| detector.record(record)).collect();
        changed.extend(detector.advance(detector.now().plus_ms(20_000)));
        changed
    };
    let mut whole = Detector::new(catalogue(NAMES), settings.clone());
    let said = play(&mut whole, &records);
    assert!(said.iter().any(|change| change.phase == Phase::Confirmed), "{said:?}");
    let (first, rest) = records.split_at(records.len() / 2);
    let mut one = Detector::new(catalogue(NAMES), settings.clone());
    let mut resumed_said: Vec<Changed> =
        first.iter().flat_map(|record| one.record(record)).collect();
    let snapshot = wire::encode(one.state());
    let state: State = wire::decode_own_file(&snapshot).unwrap();
    let mut resumed = Detector::resume(catalogue(NAMES), settings, state);
    resumed_said.extend(play(&mut resumed, rest));
    assert_eq!(digest(&whole, &said), digest(&resumed, &resumed_said));
    assert_eq!(digest(&whole, &said), "0441b4642d62798c");
}

// So that the properties above are not of nothing.
#[test]
fn such_an_outage_is_confirmed() {
    let mut detector = detector();
    let phases = words(&play(&mut detector, &log(&golden_looks())));
    assert!(
        phases.iter().any(|(_, phase, id)| *phase == Phase::Confirmed && id.contains("a-edge")),
        "{phases:?}"
    );
}

// 2 stands in `observer`: the same site failing again is no more evidence. Here that a single site,
// failing for everybody in every way, flags nothing.
#[test]
fn one_site_flags_nobody() {
    for outcome in [Outcome::TcpReset, Outcome::Http5xx, Outcome::DnsServfail] {
        let mut detector = detector();
        let looks: Vec<Look> = (0..600)
            .map(|n| Look {
                who: n % PEOPLE,
                site: if n % 2 == 0 { 3 } else { (n % 23) as u16 + 1 },
                outcome: Outcome::Ok,
                after_ms: 100,
            })
            .map(|look| Look {
                outcome: if look.site == 3 { outcome } else { Outcome::Ok },
                ..look
            })
            .collect();
        for record in &log(&looks) {
            detector.record(record);
        }
        assert!(detector.online().all(|observer| observer.flags(P).0 == 0), "{outcome}");
    }
}
