//! What holds whatever is reported: properties of the whole detector, over arbitrary logs.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet, VecDeque};

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
    let observation = observation(look.site, look.outcome, Cause::Scheduled);
    report(position, received_at, seen_at, look.who, vec![observation])
}

fn observation(site: u16, outcome: Outcome, cause: Cause) -> Observation {
    let failure = (outcome != Outcome::Ok).then_some(Failure {
        rule: RuleNumber::NONE,
        dns: if outcome == Outcome::DnsServfail { DnsPath::Both } else { DnsPath::Unconfirmed },
        status: 0,
        phases: [LogMs(0); 4],
    });
    Observation {
        target: TargetIndex(site),
        after_ds: 0,
        family: Family::V4,
        cause,
        outcome,
        latency: LogMs(50),
        failure,
    }
}

fn report(
    position: u64,
    received_at: Timestamp,
    seen_at: Timestamp,
    who: u32,
    observations: Vec<Observation>,
) -> Record {
    Record {
        position,
        received_at,
        observer: who,
        key: ObserverId::from_bytes([who as u8; 32]),
        standing: standing(who),
        report: Report {
            seq: position,
            base_s: u32::try_from(seen_at.as_s()).unwrap(),
            probe_core: 1,
            health: Health::default(),
            resolver: ResolverClass::Local,
            observations: List::new(observations).unwrap(),
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

/// A world that answers when it is asked, a second later: what each observer meets at each site.
struct World<F> {
    detector: Detector,
    meets: F,
    position: u64,
    /// Answers on their way, each with its time.
    answers: VecDeque<Record>,
    /// How many were asked.
    asked: usize,
}

impl<F: Fn(Timestamp, u32, u16) -> Outcome> World<F> {
    fn new(meets: F) -> Self {
        let settings = Settings { ask_back: true, ..settings() };
        let detector = Detector::new(catalogue(NAMES), settings);
        Self { detector, meets, position: 0, answers: VecDeque::new(), asked: 0 }
    }

    fn take(&mut self, mut record: Record) -> Vec<Changed> {
        self.position += 1;
        (record.position, record.report.seq) = (self.position, self.position);
        self.detector.record(&record)
    }

    /// Lets time pass, second by second: whoever is asked answers.
    fn advance(&mut self, to: Timestamp) -> Vec<Changed> {
        let mut changed = Vec::new();
        loop {
            let second = Timestamp::from_ms((self.detector.now().as_ms() / 1_000 + 1) * 1_000);
            let come = |a: &Record| a.received_at <= second.min(to);
            while self.answers.front().is_some_and(come)
                && let Some(answer) = self.answers.pop_front()
            {
                changed.extend(self.take(answer));
            }
            if second > to || self.detector.now() == Timestamp::EPOCH {
                break;
            }
            changed.extend(self.detector.advance(second));
            for ask in self.detector.take_asks() {
                self.asked += 1;
                let look = |target: &TargetIndex| {
                    let outcome = (self.meets)(second, ask.observer, target.0);
                    observation(target.0, outcome, Cause::Asked { nonce: ask.nonce })
                };
                let looks = ask.targets.iter().map(look).collect();
                let at = second.plus_ms(1_000);
                self.answers.push_back(report(0, at, second, ask.observer, looks));
            }
        }
        changed
    }

    /// A scheduled look.
    fn look(&mut self, at: Timestamp, who: u32, site: u16) -> Vec<Changed> {
        let mut changed = self.advance(at);
        let outcome = (self.meets)(at, who, site);
        changed.extend(self.take(record(0, at, at, &Look { who, site, outcome, after_ms: 0 })));
        changed
    }

    /// Everybody looks at whatever comes, four a second, for so long.
    fn live(&mut self, from: Timestamp, for_ms: u64, seed: u64) -> Vec<Changed> {
        let looks = (0..for_ms / 250).flat_map(|n| {
            let throw = dice(seed, n);
            let (who, site) = (throw % u64::from(PEOPLE), throw / 64 % u64::from(SITES));
            self.look(from.plus_ms(n * 250), who as u32, site as u16)
        });
        looks.collect()
    }
}

/// The same number for the same numbers.
fn dice(seed: u64, n: u64) -> u64 {
    let hash = sha256(&[&seed.to_le_bytes(), &n.to_le_bytes()]);
    hash.iter().take(6).fold(0, |number, byte| number << 8 | u64::from(*byte))
}

fn words(changed: &[Changed]) -> Vec<(Timestamp, Phase, String)> {
    changed.iter().map(|c| (c.at, c.phase, c.incident.clone())).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

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
            prop_assert!(observer.vote.weight <= i64::from(observer.within));
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
    fn phases_keep_to_the_table_and_a_verdict_to_its_conditions(
        seed in any::<u64>(),
        ask_back in any::<bool>(),
        part in 500_000i64..=1_000_000,
    ) {
        let begin = START.plus_ms(120_000);
        let mut world = World::new(|at: Timestamp, who, site| {
            let fails = (dice(seed ^ at.as_ms(), u64::from(who) << 16 | u64::from(site)) % 1_000_000) as i64;
            if at >= begin && site < 8 && fails < part { Outcome::TcpReset } else { Outcome::Ok }
        });
        if !ask_back {
            world.detector = detector();
        }
        let mut phases: BTreeMap<String, Phase> = BTreeMap::new();
        let mut at = START;
        for n in 0..2_000 {
            at = at.plus_ms(250);
            let throw = dice(seed, n);
            for change in world.look(at, (throw % 30) as u32, (throw / 64 % 24) as u16) {
                let before = phases.insert(change.incident.clone(), change.phase);
                let stays = before == Some(change.phase);
                prop_assert!(stays || TRANSITIONS.contains(&(before, change.phase)), "{:?}", change);
                let incidents = world.detector.incidents();
                let shown = incidents.iter().find(|shown| shown.incident.id == change.incident);
                let incident = shown.expect("what changed is there").incident;
                if change.phase == Phase::Confirmed {
                    let grounds = &incident.grounds;
                    prop_assert!(!grounds.reasons.is_empty());
                    prop_assert!(grounds.reasons.iter().all(|r: &Reason| r.held) || incident.reach != Reach::Global);
                    prop_assert!(grounds.ruled_out.iter().all(|r: &Reason| r.held));
                    // Whoever it says could tell is somebody, and no more see it than can tell.
                    let seen = &grounds.seen;
                    prop_assert!(seen.countries.values().all(|of| of.failing <= of.observed));
                    let sees: u32 = seen.networks.values().map(|of| of.failing).sum();
                    prop_assert!(sees >= grounds.liar_bound.prefixes.min(1), "{:?}", grounds);
                    if incident.reach == Reach::Global {
                        prop_assert!(grounds.liar_bound.zones as usize >= P.zones_min);
                        prop_assert!(grounds.liar_bound.prefixes >= 4);
                        let observed: u32 = seen.countries.values().map(|of| of.observed).sum();
                        prop_assert!(2 * sees >= observed, "{} of {}", sees, observed);
                    }
                }
                let open = incidents.iter().filter(|shown| shown.incident.phase().is_open());
                let subjects: Vec<_> = open.map(|shown| shown.subject).collect();
                let distinct: BTreeSet<_> = subjects.iter().copied().collect();
                prop_assert_eq!(subjects.len(), distinct.len(), "one open incident each");
            }
        }
        let named: Vec<_> = phases.keys().filter(|id| id.contains("edge-edge")).collect();
        prop_assert!(named.iter().all(|id| id.contains("a-edge")), "{:?}", named);
        prop_assert!(!named.is_empty(), "half of the requests and nobody says so: {:?}", phases);
        prop_assert_eq!(world.asked > 0, ask_back);
    }

    // 5: nothing that those say who are too few is confirmed, whoever is asked.
    #[test]
    fn too_few_liars_confirm_nothing(seed in any::<u64>(), liars in 1u32..=8, site in 0u16..SITES) {
        let mut world = World::new(|_, who, at| {
            let lies = who * 11 % PEOPLE < liars && (at / 8 == site / 8 || at == site);
            if lies { Outcome::TcpReset } else { Outcome::Ok }
        });
        let changed = world.live(START, 600_000, seed);
        let confirmed: Vec<_> = changed.iter().filter(|c| c.phase == Phase::Confirmed).collect();
        prop_assert!(confirmed.is_empty(), "{} of {}: {:?}", liars, PEOPLE, confirmed);
    }

    // 10: in the whole, with everybody asked who is worth it.
    #[test]
    fn what_fails_everywhere_alike_is_nobodys_fault_and_nobodys_site(
        seed in any::<u64>(),
        share in 0i64..=1_000_000,
    ) {
        let mut world = World::new(|at: Timestamp, who, site| {
            let throw = dice(seed ^ at.as_ms(), u64::from(who) << 16 | u64::from(site));
            let fails = at > START.plus_ms(120_000) && ((throw % 1_000_000) as i64) < share;
            if fails { Outcome::TcpReset } else { Outcome::Ok }
        });
        let changed = world.live(START, 420_000, seed);
        let confirmed = changed.iter().filter(|c| c.phase == Phase::Confirmed);
        // That everybody is cut off is said, of the observers.
        let named: Vec<_> = confirmed.filter(|c| c.incident.contains("edge") || c.incident.contains("dns")).collect();
        prop_assert!(named.is_empty(), "{}: {:?}", share, named);
    }

    // 8
    #[test]
    fn what_is_late_changes_no_verdict(
        looks in outage(),
        late in prop::collection::vec(look(any_outcome()), 1..60),
    ) {
        let records = log(&looks);
        let end = records.last().map_or(START, |record| record.received_at);
        let meets = |at: Timestamp, _: u32, site: u16| {
            if at > START.plus_ms(90_000) && site < 8 { Outcome::TcpReset } else { Outcome::Ok }
        };
        for ask_back in [false, true] {
            let mut worlds = [World::new(meets), World::new(meets)];
            for world in &mut worlds {
                if !ask_back {
                    world.detector = detector();
                }
                for record in &records {
                    world.advance(record.received_at);
                    world.take(record.clone());
                }
            }
            let [with, without] = &mut worlds;
            for (n, look) in (1u64..).zip(&late) {
                let seen_at = end.minus_ms(200_000 + n * 1_000);
                with.take(record(0, end, seen_at, look));
            }
            let later = end.plus_ms(30_000);
            prop_assert_eq!(words(&with.advance(later)), words(&without.advance(later)));
            for (entity, _) in with.detector.plan().entities() {
                prop_assert_eq!(with.detector.shares(entity), without.detector.shares(entity));
            }
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
        let asked = |records: &[Record]| {
            let mut world = World::new(|at: Timestamp, _, site| {
                if at > START.plus_ms(90_000) && site < 8 { Outcome::TcpReset } else { Outcome::Ok }
            });
            let mut changed = Vec::new();
            for record in records {
                changed.extend(world.advance(record.received_at));
                changed.extend(world.take(record.clone()));
            }
            changed.extend(world.advance(world.detector.now().plus_ms(60_000)));
            words(&changed)
        };
        prop_assert_eq!(asked(&records), asked(&turned));
    }

    // 11
    #[test]
    fn other_names_give_other_names_and_nothing_else(looks in outage()) {
        let renamed = ["z-edge", "y-edge", "x-edge", "w-dns", "v-dns"];
        let mut one = detector();
        let mut other = Detector::new(catalogue(renamed), settings());
        let records = log(&looks);
        // Who is who, by the old names; in the order of time.
        let told = |detector: &Detector, changed: Vec<Changed>, names: [&str; 5]| {
            let old = |text: &str| {
                names.iter().zip(NAMES).fold(text.to_owned(), |text, (new, old)| text.replace(new, old))
            };
            let mut phases: Vec<_> =
                changed.iter().map(|c| (c.at, c.phase, old(&c.incident))).collect();
            phases.sort_unstable();
            let mut verdicts: Vec<_> = detector
                .incidents()
                .iter()
                .map(|shown| {
                    let incident = shown.incident;
                    let grounds = &incident.grounds;
                    let mut rules: Vec<String> = grounds
                        .reasons
                        .iter()
                        .chain(&grounds.ruled_out)
                        .map(|r| old(&format!("{} {} {} {}", r.rule, r.held, r.found, r.needed)))
                        .collect();
                    rules.sort_unstable();
                    (old(&incident.id), incident.peak, grounds.liar_bound, rules)
                })
                .collect();
            verdicts.sort_unstable_by(|a, b| a.0.cmp(&b.0));
            (phases, verdicts)
        };
        let (first, second) = (play(&mut one, &records), play(&mut other, &records));
        prop_assert_eq!(told(&one, first, NAMES), told(&other, second, renamed));
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
            // Few observers, so that they have something to flag.
            let few: Vec<Look> = looks.iter().map(|l| Look { who: l.who % 4, ..*l }).collect();
            for record in &log(&few) {
                detector.record(record);
            }
            let entities: Vec<_> = detector.plan().entities().map(|(entity, _)| entity).collect();
            let votes: Vec<_> = detector.online().map(|o| (o.flags(P), o.vote)).collect();
            (entities, votes)
        };
        let ((entities, worse), (_, better)) = (flags(&looks), flags(&better));
        prop_assert_eq!(worse.len(), better.len());
        for ((worse, _), (better, _)) in worse.iter().zip(&better) {
            prop_assert_eq!(better.0 & !worse.0, 0, "a flag more for an answer more");
        }
        // So no entity has more votes against it, of those who could tell before.
        for entity in entities {
            let against = |flags: &mut dyn Iterator<Item = bool>| flags.filter(|flag| *flag).count();
            let could = |at: usize| worse[at].1.eligible.has(entity);
            let before = against(&mut (0..worse.len()).map(|at| could(at) && worse[at].1.flags.has(entity)));
            let after = against(&mut (0..worse.len()).map(|at| could(at) && better[at].1.flags.has(entity)));
            prop_assert!(after <= before, "{} votes became {}", before, after);
        }
    }

    // 5
    #[test]
    fn liars_are_worth_their_weight(
        zones in prop::collection::vec((1i64..60, 0i64..60, 0i64..=1_000_000), 3..12),
    ) {
        // Each zone: honest weight, liars, and the share of the honest who see it.
        let shares = |flagging: &dyn Fn(i64, i64) -> i64| {
            let tallies = zones.iter().zip(0u8..).map(|((honest, liars, sees), zone)| {
                let flagging = flagging(scale(honest * ONE, *sees), liars * ONE);
                (zone, Tally { eligible: (honest + liars) * ONE, flagging })
            });
            Shares::new(P, tallies, i64::MAX).share
        };
        let all = shares(&|seeing, lying| seeing + lying);
        // F, and (1 - F) times what the honest see: of the same weights, capped by zone.
        let (honest, liars) = (shares(&|seeing, _| seeing), shares(&|_, lying| lying));
        let most = zones.iter().map(|(_, _, sees)| *sees).max().unwrap_or(0);
        prop_assert!(all <= liars + honest + 2 * zones.len() as i64, "{} > {} + {}", all, liars, honest);
        prop_assert!(honest <= scale(ONE - liars, most) + 2 * zones.len() as i64);
    }

    // 12
    #[test]
    fn who_fails_everywhere_says_nothing_after_six_edges(
        sites in prop::collection::vec(0..SITES, 1..60),
    ) {
        let mut detector = detector();
        let (mut changes, mut last) = (0, None);
        for (n, site) in (1u64..).zip(&sites) {
            let at = START.plus_ms(n * 3_000);
            let look = Look { who: 3, site: *site, outcome: Outcome::TcpReset, after_ms: 0 };
            detector.record(&record(n, at, at, &look));
            let edge = site / 8;
            changes += u32::from(last.replace(edge) != Some(edge));
            let observer = detector.online().next().expect("it is there");
            if changes >= u32::from(P.streak_max) {
                prop_assert!(!observer.is_healthy(P) && observer.vote.eligible.0 == 0);
            }
            // Before as well, it has no three sites elsewhere that vouch for its line.
            prop_assert_eq!(observer.vote.eligible.0, 0);
        }
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

/// What a log comes to: what was said, how many were asked, and the digests of a detector that played it whole and of one
/// that was taken up from a snapshot on the way.
struct Golden {
    said: Vec<Changed>,
    asked: usize,
    /// Observers that flag something at its end.
    flagging: usize,
    whole: String,
    resumed: String,
}

/// Two looks a second by so many observers, who are asked and answer; the first edge fails from then on.
fn golden(looks: u64, end_ms: u64, fails_from_ms: u64, observers: u64) -> Golden {
    let meets = |at: Timestamp, _: u32, site: u16| {
        let fails = at > START.plus_ms(fails_from_ms) && site < 8;
        if fails { Outcome::TcpReset } else { Outcome::Ok }
    };
    let end = START.plus_ms(end_ms);
    let mut whole = World::new(meets);
    let mut one = World::new(meets);
    let (mut said, mut resumed_said) = (Vec::new(), Vec::new());
    for n in 0..looks {
        let throw = dice(1, n);
        let at = START.plus_ms(n * 500);
        let (who, site) = ((throw % observers) as u32, (throw / 64 % 24) as u16);
        said.extend(whole.look(at, who, site));
        resumed_said.extend(one.look(at, who, site));
        if n == looks * 2 / 3 {
            let snapshot = wire::encode(one.detector.state());
            let state: State = wire::decode_own_file(&snapshot).unwrap();
            let settings = one.detector.settings().clone();
            one.detector = Detector::resume(catalogue(NAMES), settings, state);
        }
    }
    said.extend(whole.advance(end));
    resumed_said.extend(one.advance(end));
    let asked = whole.asked;
    let flagging = whole.detector.online().filter(|o| o.flags(P).0 != 0).count();
    let (whole, resumed) = (digest(&whole.detector, &said), digest(&one.detector, &resumed_said));
    Golden { said, asked, flagging, whole, resumed }
}

// The same log, the same bytes: in debug and in release, from a snapshot taken on the way, on every
// machine. The number changes with the rules, and with nothing else.
#[test]
fn a_golden_log_tells_the_same_everywhere() {
    let Golden { said, asked, whole, resumed, .. } = golden(300, 180_000, 90_000, 30);
    assert!(said.iter().any(|change| change.phase == Phase::Confirmed), "{said:?}");
    assert!(asked > 20, "{asked} were asked");
    assert_eq!(whole, resumed);
    assert_eq!(whole, "719421e30c50333e");
}

// And a short one under Miri too (`tests/miri`), which takes some thousand times as long: an edge fails from its second
// second on, and observers flag it.
#[test]
fn a_short_golden_log_tells_the_same_under_miri() {
    let Golden { flagging, whole, resumed, .. } = golden(24, 13_000, 2_000, 4);
    assert!(flagging > 0, "nobody saw it");
    assert_eq!(whole, resumed);
    assert_eq!(whole, "edc7bd7f523e6d2d");
}

// 7: an outage within the hour after the last is that one come back; later it is another.
#[test]
fn an_incident_has_its_name_until_an_hour_after_it_is_resolved() {
    for (pause_ms, same) in [(P.reopen_ms - 300_000, true), (P.reopen_ms + 60_000, false)] {
        let first = (START.plus_ms(180_000), START.plus_ms(900_000));
        let again = std::cell::Cell::new(None);
        let mut world = World::new(|at: Timestamp, _, site| {
            let fails =
                (first.0..first.1).contains(&at) || again.get().is_some_and(|from| at >= from);
            if fails && site < 8 { Outcome::TcpReset } else { Outcome::Ok }
        });
        let (mut at, mut resolved, mut names) = (START, None, BTreeSet::new());
        while at < START.plus_ms(5 * 3_600_000) && names.len() < 2 {
            for change in world.live(at, 60_000, at.as_ms()) {
                match change.phase {
                    Phase::Confirmed => drop(names.insert(change.incident.clone())),
                    Phase::Resolved if resolved.is_none() => {
                        resolved = Some(change.at);
                        again.set(Some(change.at.plus_ms(pause_ms)));
                    }
                    _ => {}
                }
                if change.phase == Phase::Confirmed && resolved.is_some() {
                    assert_eq!(names.len(), if same { 1 } else { 2 }, "{names:?}");
                    resolved = None;
                }
            }
            at = at.plus_ms(60_000);
            if again.get().is_some() && resolved.is_none() {
                break;
            }
        }
        assert!(again.get().is_some_and(|from| at > from), "it came back");
        assert_eq!(names.len(), if same { 1 } else { 2 }, "{names:?}");
    }
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
