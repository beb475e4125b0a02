//! A day in which much is broken somewhere, and nothing everywhere: networks, countries, zones,
//! resolvers, releases and sites go down as they do, and lines get worse together. A provider that is
//! confirmed down worldwide on such a day is a false alarm.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use tocsin_collector::engine::{
    detector::{Changed, Detector, Subject},
    groups::Group,
    incident::{Reach, Region as Part},
    plan::Plan,
};
use tocsin_proto::{
    catalogue::{Catalogue, Zones},
    id::Country,
    implicate::Layer,
    incident::Phase as Stage,
    outcome::Outcome,
    time::Timestamp,
};

use crate::sim::{
    dice::Dice,
    play::{Setup, play},
    scenario::{Mode, Phase, Region, Scenario, Targets, Who},
    truth::Truth,
    world::World,
};

const LEAD_MS: u64 = 1_800_000;
const DAY_MS: u64 = 86_400_000;
/// A verdict this long after the end of what it is about is still about it, ms.
const AFTER_MS: u64 = 1_800_000;
/// A site that is down for less is not expected to be found, ms.
const SITE_MIN_MS: u64 = 600_000;
/// A network that is down for less, or has fewer prefixes, neither.
const NETWORK_PREFIXES: usize = 5;

/// Kinds of events, how many there are in ten days, and how long they last at most, in minutes.
/// The mix is that of what networks and sites do every day; the rates are assumptions.
const KINDS: &[(Kind, u32, u64)] = &[
    (Kind::Network, 60, 60),
    (Kind::NetworkProvider, 60, 60),
    (Kind::Country, 5, 120),
    (Kind::ZoneProvider, 30, 60),
    (Kind::ZonesProvider, 10, 60),
    (Kind::Zone, 2, 30),
    (Kind::Site, 200, 120),
    (Kind::Resolver, 10, 60),
    (Kind::ResolverNames, 10, 60),
    (Kind::Release, 3, 240),
    (Kind::ReleaseProvider, 3, 240),
    (Kind::Noise, 30, 30),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Network,
    NetworkProvider,
    Country,
    ZoneProvider,
    ZonesProvider,
    Zone,
    Site,
    Resolver,
    ResolverNames,
    Release,
    ReleaseProvider,
    Noise,
}

/// What happened, for telling right from wrong.
struct Happened {
    kind: Kind,
    name: String,
    countries: BTreeSet<Country>,
    network: u32,
    networks: BTreeSet<u32>,
    from_ms: u64,
    to_ms: u64,
    counts: bool,
    found: bool,
}

/// What came of a day.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Day {
    /// Events of any kind.
    pub events: usize,
    /// Probes made.
    pub probes: u64,
    /// Providers confirmed worldwide: false.
    pub false_global: Vec<String>,
    /// Suspicions opened.
    pub suspected: usize,
    /// Regional verdicts on providers: right and wrong.
    pub regional: (usize, usize),
    /// Sites: confirmed and down, confirmed and not down.
    pub sites: (usize, usize),
    /// Sites that were down for long enough: found, and all.
    pub sites_down: (usize, usize),
    /// Networks, countries and resolvers: right and wrong.
    pub groups: (usize, usize),
    /// Networks of some size that were down: found, and all.
    pub networks_down: (usize, usize),
    /// What was wrong, by name.
    pub wrong: Vec<String>,
    /// Panels called.
    pub panels: u64,
    /// Asked probes of an agent.
    pub asked_per_agent: f64,
    /// Megabytes of an agent.
    pub megabytes_per_agent: f64,
}

fn event(
    kind: Kind,
    n: u64,
    dice: Dice,
    world: &mut World,
    at: (u64, u64),
) -> (Vec<Phase>, Happened) {
    let (from_ms, to_ms) = at;
    // Those of which the detector can tell: providers of enough sites, in whatever role.
    let plan = Plan::new(&world.catalogue);
    let providers: BTreeSet<String> = plan
        .entities()
        .filter(|(_, entity)| entity.layer != Layer::Tld)
        .map(|(_, entity)| entity.provider.to_string())
        .collect();
    let providers: Vec<String> = providers.into_iter().collect();
    let one_of = |what: &str, of: usize| dice.named(what).below(of as u64) as usize;
    let provider = providers.get(one_of("provider", providers.len())).cloned().unwrap_or_default();
    let fractions = [1_000_000, 600_000, 300_000];
    let fraction = fractions.get(one_of("fraction", 3)).copied().unwrap_or(1_000_000);
    let mark = format!("event:{n}");
    let symptoms =
        [Outcome::TcpTimeout, Outcome::TcpReset, Outcome::TlsHandshake, Outcome::HttpTimeout];
    let symptom = symptoms.get(one_of("symptom", 4)).copied().unwrap_or(Outcome::TcpTimeout);
    let mut phase = Phase {
        from_ms,
        to_ms,
        region: Region::Everyone,
        fraction,
        symptom,
        who: vec![Who::Marked(mark.clone())],
        targets: Targets::Provider(provider.clone()),
        mode: Mode::PerRequest,
        overlay: true,
        silent: false,
        family: None,
    };
    let mut happened = Happened {
        kind,
        name: provider,
        countries: BTreeSet::new(),
        network: 0,
        networks: BTreeSet::new(),
        from_ms,
        to_ms,
        counts: false,
        found: false,
    };
    let someone = one_of("someone", world.people.len());
    let (country, zone, asn) = world
        .people
        .get(someone)
        .map_or((Country::UNKNOWN, None, 0), |person| (person.country, person.zone, person.asn));
    let mut zones: BTreeSet<_> = zone.into_iter().collect();
    match kind {
        Kind::Network | Kind::NetworkProvider => {
            let mut slots = BTreeSet::new();
            for person in world.people.iter_mut().filter(|person| person.asn == asn) {
                slots.insert(person.slot);
                happened.countries.insert(person.country);
                person.marks.push(mark.clone());
            }
            happened.network = asn;
            happened.counts = kind == Kind::Network
                && slots.len() >= NETWORK_PREFIXES
                && to_ms - from_ms >= SITE_MIN_MS
                && fraction > 500_000;
            if kind == Kind::Network {
                (phase.targets, phase.mode) = (Targets::All, Mode::PerAgent);
                phase.silent = dice.named("silent").happens(500_000);
            }
        }
        Kind::Country | Kind::Zone => {
            let here = |person: &crate::sim::world::Person| match kind {
                Kind::Country => person.country == country,
                _ => person.zone == zone,
            };
            for person in world.people.iter_mut().filter(|person| here(person)) {
                happened.countries.insert(person.country);
                happened.networks.insert(person.asn);
                person.marks.push(mark.clone());
            }
            (phase.targets, phase.mode) = (Targets::All, Mode::PerAgent);
            phase.silent = dice.named("silent").happens(500_000);
        }
        Kind::ZoneProvider | Kind::ZonesProvider => {
            if kind == Kind::ZonesProvider {
                let more = 1 + dice.named("zones").below(3);
                for n in 0..more {
                    let other = dice.named("zone").of(n).below(world.people.len() as u64);
                    zones.extend(world.people.get(other as usize).and_then(|p| p.zone));
                }
            }
            for person in &mut world.people {
                if person.zone.is_some_and(|zone| zones.contains(&zone)) {
                    happened.countries.insert(person.country);
                    person.marks.push(mark.clone());
                }
            }
        }
        Kind::Site => {
            let hosts: Vec<String> =
                world.catalogue.targets().values().map(|t| t.host.clone()).collect();
            let host = hosts.get(one_of("site", hosts.len())).cloned().unwrap_or_default();
            phase.targets = Targets::Site(host.clone());
            (phase.who, phase.symptom) = (vec![Who::All], Outcome::Http5xx);
            happened.name = host;
            happened.counts = to_ms - from_ms >= SITE_MIN_MS && fraction > 500_000;
        }
        Kind::Resolver | Kind::ResolverNames => {
            let names = ["1.1.1.1", "8.8.8.8", "9.9.9.9", "opendns"];
            let name = names.get(one_of("resolver", 4)).copied().unwrap_or("1.1.1.1");
            phase.who = vec![Who::Resolver(name.to_owned())];
            phase.symptom = Outcome::DnsTimeout;
            if kind == Kind::Resolver {
                (phase.targets, phase.mode) = (Targets::All, Mode::PerAgent);
            }
        }
        Kind::Release | Kind::ReleaseProvider => {
            let part = [50_000, 300_000, 750_000];
            let part = part.get(one_of("part", 3)).copied().unwrap_or(50_000);
            let mark = format!("version:{n}");
            for (at, person) in (0u64..).zip(&mut world.people) {
                if dice.named("release").of(at).happens(part) {
                    person.marks.push(mark.clone());
                }
            }
            (phase.who, phase.symptom) = (vec![Who::Marked(mark)], Outcome::TlsHandshake);
            if kind == Kind::Release {
                (phase.targets, phase.mode) = (Targets::All, Mode::PerAgent);
            }
        }
        Kind::Noise => {
            phase.who = vec![Who::All];
            phase.targets = Targets::All;
            phase.fraction = 30_000 + dice.named("rise").below(270_000) as i64;
        }
    }
    (vec![phase], happened)
}

/// Plays a day; with `trace`, what happens and what is said of it is told of on stderr.
#[must_use]
pub fn run(catalogue: &Catalogue, observers: usize, seed: u64, trace: bool) -> Day {
    let mut world = World::new(catalogue.clone(), observers, seed);
    let dice = world.dice.named("background");
    let (mut phases, mut happened) = (Vec::new(), Vec::new());
    for (kind, in_ten_days, longest_min) in KINDS {
        // A coin in each quarter of an hour: near enough to Poisson.
        for quarter in 0..96u64 {
            let own = dice.named(&format!("{kind:?}")).of(quarter);
            if !own.happens(i64::from(*in_ten_days) * 1_000_000 / 960) {
                continue;
            }
            let from_ms = quarter * 900_000 + own.named("from").below(900_000);
            let to_ms =
                from_ms + 300_000 + own.named("length").below(longest_min * 60_000 - 300_000);
            let n = happened.len() as u64;
            let (phase, what) = event(*kind, n, own, &mut world, (from_ms, to_ms));
            phases.extend(phase);
            happened.push(what);
        }
    }
    let start = Timestamp::from_s(1_790_000_000);
    let onset = start.plus_ms(LEAD_MS);
    let scenario = Scenario::of(onset, phases);
    let truth = Truth::new(&scenario, &world);
    let setup = Setup { trace, ..Setup::new(start, onset, onset.plus_ms(DAY_MS)) };
    for what in happened.iter().filter(|_| trace) {
        let [from, to] = [what.from_ms, what.to_ms].map(|ms| onset.plus_ms(ms));
        eprintln!("{from}  to {to}: {:?} {}", what.kind, what.name);
    }
    let mut day = Day { events: happened.len(), ..Day::default() };
    let played = play(&world, &truth, setup, |change, detector| {
        match change.phase {
            Stage::Suspected => day.suspected += 1,
            Stage::Confirmed => told(&mut day, &mut happened, change, detector, onset),
            _ => {}
        }
        true
    });
    for what in happened.iter().filter(|what| what.counts) {
        match what.kind {
            Kind::Site => {
                day.sites_down.1 += 1;
                day.sites_down.0 += usize::from(what.found);
            }
            Kind::Network => {
                day.networks_down.1 += 1;
                day.networks_down.0 += usize::from(what.found);
            }
            _ => {}
        }
    }
    day.probes = played.probes;
    day.panels = played.panels;
    day.asked_per_agent = played.asked as f64 / observers as f64;
    day.megabytes_per_agent = (played.bytes + played.report_bytes) as f64 / observers as f64 / 1e6;
    day
}

fn told(
    day: &mut Day,
    happened: &mut [Happened],
    change: &Changed,
    detector: &Detector,
    onset: Timestamp,
) {
    let at = change.at.since_ms(onset);
    let incidents = detector.incidents();
    let Some(shown) = incidents.iter().find(|shown| shown.incident.id == change.incident) else {
        return;
    };
    if shown.incident.part_of.is_some() {
        return;
    }
    let began = shown.incident.started_at.since_ms(onset);
    // What it is about went on when the evidence began, or goes on now.
    let is_on = |what: &Happened| {
        (what.from_ms <= at && at <= what.to_ms + AFTER_MS)
            || (what.from_ms <= began + AFTER_MS && began <= what.to_ms)
    };
    let mut right = false;
    let mut mark = |what: &mut Happened| {
        what.found = true;
        right = true;
    };
    match shown.subject {
        Subject::Entity(entity) => {
            let name = detector.plan().entity(entity).provider.to_string();
            if matches!(shown.incident.reach, Reach::Global | Reach::Over(_)) {
                let on = happened.iter().filter(|what| is_on(what));
                let on: Vec<String> =
                    on.map(|what| format!("{:?} {}", what.kind, what.name)).collect();
                let minutes = at / 60_000;
                day.false_global.push(format!("{name} at {minutes} min (on: {})", on.join(", ")));
                return;
            }
            // Where it fails, by all that is on of this provider; of what is named no part may be well.
            let own = |what: &Happened| {
                let regional = matches!(what.kind, Kind::ZoneProvider | Kind::ZonesProvider);
                regional && is_on(what) && what.name == name
            };
            let failing: BTreeSet<Country> = happened
                .iter()
                .filter(|what| own(what))
                .flat_map(|w| w.countries.clone())
                .collect();
            let zone_of = |country: &Country| Zones::builtin().of(*country).map(|zone| zone.0);
            let fails = |region: &Part| match region {
                Part::Country(country) => failing.contains(country),
                Part::Zone(zone) => failing.iter().any(|country| zone_of(country) == Some(*zone)),
            };
            if let Reach::Regional(regions) = &shown.incident.reach
                && regions.iter().all(fails)
            {
                happened.iter_mut().filter(|what| own(what)).for_each(&mut mark);
            }
            day.regional.0 += usize::from(right);
            day.regional.1 += usize::from(!right);
        }
        Subject::Site(target) => {
            let host = detector.catalogue().target(target).map(|target| target.host.clone());
            for what in happened.iter_mut().filter(|what| is_on(what)) {
                if what.kind == Kind::Site && Some(&what.name) == host.as_ref() {
                    mark(what);
                }
            }
            day.sites.0 += usize::from(right);
            day.sites.1 += usize::from(!right);
        }
        Subject::Group(group) => {
            for what in happened.iter_mut().filter(|what| is_on(what)) {
                let fits = match (group, what.kind) {
                    (Group::Network(asn) | Group::OwnResolver(asn), Kind::Network) => {
                        asn == what.network
                    }
                    // Of a country or zone that is down, each network is.
                    (Group::Network(asn) | Group::OwnResolver(asn), Kind::Country | Kind::Zone) => {
                        what.networks.contains(&asn)
                    }
                    (Group::Country(country), Kind::Country | Kind::Zone) => {
                        what.countries.contains(&country)
                    }
                    (Group::Zone(zone), Kind::Zone) => what
                        .countries
                        .iter()
                        .any(|c| Zones::builtin().of(*c).is_some_and(|z| z.0 == zone)),
                    (Group::Resolver(_), Kind::Resolver) => true,
                    _ => false,
                };
                if fits {
                    mark(what);
                }
            }
            day.groups.0 += usize::from(right);
            day.groups.1 += usize::from(!right);
        }
    }
    if !right {
        day.wrong.push(format!("{} at {} min", change.incident, at / 60_000));
    }
}
