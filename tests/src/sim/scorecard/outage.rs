//! One outage, or one lie, in a world of its own: who was named, and when.

use std::collections::BTreeMap;

use tocsin_proto::{catalogue::Catalogue, id::Id, incident::Phase as Stage, time::Timestamp};

use super::said::Said;
use crate::sim::{
    dice::Dice,
    play::{Setup, play},
    scenario::{Mode, Phase, Region, Scenario, Targets},
    truth::Truth,
    world::{Lie, World},
};

/// Before anything breaks, ms: long enough for everybody's controls.
const LEAD_MS: u64 = 1_500_000;
/// Numbers of networks of which keys that lie are: for private use (RFC 6996), so nobody's in the world.
const KEYS_NETWORK: u32 = 64_512;
/// Days after which nobody is new.
const LONG_DAYS: u64 = 365;
/// When everything begins: a working day, noon in Europe.
const ONSET: Timestamp = Timestamp::from_s(1_790_000_000);

/// What is broken, and who lies.
#[derive(Debug, Clone)]
pub struct Outage {
    /// What is probed.
    pub catalogue: Catalogue,
    /// Observers.
    pub observers: usize,
    /// What breaks.
    pub phases: Vec<Phase>,
    /// For how long it is watched, ms after the onset.
    pub watched_ms: u64,
    /// Who lies.
    pub liars: Option<Liars>,
    /// Whether the collector asks back.
    pub asks_back: bool,
    /// Whether it is over once the first of these is confirmed.
    pub stops: bool,
    /// What may be named, as [`Said`] is written.
    pub expected: Vec<String>,
    /// Scheduled probes a minute and agent.
    pub per_minute: u16,
    /// Numbers of the detector that are not the defaults.
    pub sets: &'static [(&'static str, i64)],
}

/// Who lies, and what.
#[derive(Debug, Clone)]
pub struct Liars {
    /// How many, and where.
    pub place: Place,
    /// What they tell.
    pub lie: Lie,
}

/// How many lie, and where they are.
#[derive(Debug, Clone, Copy)]
pub enum Place {
    /// A part of the observers, each in a prefix of its own.
    People {
        /// Millionths.
        share: i64,
        /// Crowded into so many of the thinnest zones; 0 is everywhere.
        zones: usize,
    },
    /// Keys beside the observers.
    Keys {
        /// How many.
        keys: u64,
        /// In so many prefixes,
        prefixes: u64,
        /// of so many networks, all over the world.
        networks: u64,
    },
}

/// What came of it.
#[derive(Debug, Clone, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Came {
    /// Seconds to the first suspicion of what is expected.
    pub suspected_s: Option<f64>,
    /// Seconds to its confirmation.
    pub confirmed_s: Option<f64>,
    /// Seconds until it was resolved.
    pub resolved_s: Option<f64>,
    /// Whatever else was confirmed.
    pub wrong: Vec<Said>,
    /// Asked probes of an agent and day, over the time that was watched.
    pub asked_per_agent_day: f64,
    /// Megabytes of an agent and day, probes and reports, over the same.
    #[serde(default)]
    pub megabytes_per_agent_day: f64,
    /// Seconds to the confirmation of each that was expected.
    #[serde(default)]
    pub each_s: BTreeMap<String, f64>,
}

/// A phase over everybody, from the onset to the end.
#[must_use]
pub fn phase(targets: Targets, fraction: i64, symptom: &str, mode: Mode) -> Phase {
    Phase {
        from_ms: 0,
        to_ms: u64::MAX,
        region: Region::Everyone,
        fraction,
        symptom: tocsin_proto::outcome::Outcome::from_field_name(symptom)
            .expect("the scorecard names outcomes"),
        who: vec![crate::sim::scenario::Who::All],
        targets,
        mode,
        overlay: false,
        silent: false,
        family: None,
    }
}

/// Makes some of the people liars, or adds keys that lie: always awake, and known for long.
pub fn corrupt(world: &mut World, liars: &Liars) {
    match liars.place {
        Place::People { share, zones } => turn(world, share, zones, &liars.lie),
        Place::Keys { keys, prefixes, networks } => {
            let dice = world.dice.named("keys");
            let people = world.people.len() as u64;
            for key in 0..keys {
                let prefix = key % prefixes;
                let network = prefix % networks;
                let home = dice.named("home").of(network).below(people) as usize;
                let Some(mut person) = world.people.get(home).cloned() else { continue };
                person.asn = KEYS_NETWORK + network as u32;
                person.slot = dice.named("slot").of(prefix).throw();
                person.awake = None;
                person.trouble = crate::sim::world::Trouble::None;
                person.known_days = LONG_DAYS;
                person.lie = Some(liars.lie.clone());
                world.people.push(person);
            }
        }
    }
}

/// These many, drawn by chance, where they are or in the thinnest zones, each in a prefix of its own.
fn turn(world: &mut World, share: i64, zones_wanted: usize, lie: &Lie) {
    let dice = world.dice.named("liars");
    let count = (world.people.len() as i64 * share / 1_000_000).unsigned_abs() as usize;
    let mut order: Vec<usize> = (0..world.people.len()).collect();
    order.sort_by_key(|at| dice.of(*at as u64).throw());
    let mut zones = std::collections::BTreeMap::new();
    for person in &world.people {
        if let Some(zone) = person.zone {
            *zones.entry(zone).or_insert(0usize) += 1;
        }
    }
    let mut thin: Vec<_> = zones.into_iter().collect();
    thin.sort_by_key(|(_, people)| *people);
    thin.truncate(zones_wanted);
    let homes: Vec<_> = world
        .people
        .iter()
        .filter(|person| thin.iter().any(|(zone, _)| person.zone == Some(*zone)))
        .map(|person| (person.country, person.zone, person.asn))
        .collect();
    for (n, at) in (0u64..).zip(order.into_iter().take(count)) {
        let Some(person) = world.people.get_mut(at) else { continue };
        let home = dice.named("home").of(n).below(homes.len() as u64) as usize;
        if let Some((country, zone, asn)) = homes.get(home) {
            (person.country, person.zone, person.asn) = (*country, *zone, *asn);
        }
        person.slot = dice.named("slot").of(n).throw();
        person.awake = None;
        person.trouble = crate::sim::world::Trouble::None;
        person.lie = Some(lie.clone());
    }
}

/// Plays it; with `trace`, what panels came to is told of on stderr.
///
/// # Panics
/// When a phase names what cannot be an identifier.
#[must_use]
pub fn run(outage: &Outage, seed: u64, trace: bool) -> Came {
    let scenario = Scenario::of(ONSET, outage.phases.clone());
    let catalogue = scenario.catalogue(&outage.catalogue, Dice::new(seed));
    let catalogue = catalogue.expect("the scorecard names what can be added");
    let mut world = World::new(catalogue, outage.observers, seed);
    scenario.mark(&mut world);
    if let Some(liars) = &outage.liars {
        corrupt(&mut world, liars);
    }
    let truth = Truth::new(&scenario, &world);
    let end = ONSET.plus_ms(outage.watched_ms);
    let setup = Setup {
        asks_back: outage.asks_back,
        trace,
        per_minute: outage.per_minute,
        sets: outage.sets,
        ..Setup::new(ONSET.minus_ms(LEAD_MS), ONSET, end)
    };
    let catalogue = &world.catalogue;
    // A site of those that fail is named rightly, though it is not what is waited for.
    let dead: Vec<String> = truth
        .dead()
        .into_iter()
        .filter_map(|target| Some(format!("site:{}", catalogue.target(target)?.host)))
        .collect();
    let mut came = Came::default();
    let played = play(&world, &truth, setup, |change, detector| {
        let incidents = detector.incidents();
        let shown = incidents.iter().find(|shown| shown.incident.id == change.incident);
        let Some(said) = shown.map(|shown| Said::of(detector, shown)) else { return true };
        let name = said.to_string();
        let seconds = (change.at - ONSET) as f64 / 1_000.0;
        let right = outage.expected.contains(&name);
        match change.phase {
            Stage::Suspected if right && change.at >= ONSET => {
                came.suspected_s.get_or_insert(seconds);
            }
            Stage::Confirmed if right && change.at >= ONSET => {
                came.suspected_s.get_or_insert(seconds);
                came.resolved_s = None;
                came.confirmed_s.get_or_insert(seconds);
                came.each_s.entry(name).or_insert(seconds);
                return !outage.stops;
            }
            Stage::Resolved if right => came.resolved_s = Some(seconds),
            Stage::Confirmed if !came.wrong.contains(&said) && !dead.contains(&name) => {
                came.wrong.push(said);
            }
            _ => {}
        }
        true
    });
    let last = played.detector.now().since_ms(setup.start).max(1);
    let days = last as f64 / 86_400_000.0;
    let per = |count: u64| count as f64 / days / played.observers as f64;
    came.asked_per_agent_day = per(played.asked);
    came.megabytes_per_agent_day = per(played.bytes + played.report_bytes) / 1e6;
    came
}

/// An identifier of the standard catalogue.
#[must_use]
pub fn id(name: &str) -> Id {
    name.parse().expect("the scorecard names providers")
}
