//! What the scorecard measures: every cell, with how often it is played.

use std::sync::Arc;

use tocsin_proto::{catalogue::Catalogue, implicate::Layer, observation::Family};

use super::outage::{Liars, Outage, Place, id, phase};
use crate::sim::{
    scenario::{Mode, Phase, Scenario, Targets, Who},
    standard,
    world::Lie,
};

/// A part of the scorecard.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum Section {
    /// Seconds to confirm, by provider and fraction.
    Time,
    /// Where every failure is a time-out.
    TimeOuts,
    /// A fixed part of the sites.
    Subset,
    /// Every provider of the built-in catalogue.
    Providers,
    /// Two outages, one after the other.
    Pairs,
    /// At other rates of scheduled probes.
    Rates,
    /// What must not be taken for a provider's outage.
    Traps,
    /// Real outages.
    Corpus,
    /// Liars.
    Liars,
    /// Many keys in few places.
    Keys,
    /// With one rule of the detector left out.
    Guards,
    /// Days on which nothing is broken.
    Quiet,
    /// Days on which much is broken somewhere.
    Days,
}

impl Section {
    /// Every one, in the order of the page.
    pub const ALL: [Self; 13] = [
        Self::Time,
        Self::TimeOuts,
        Self::Subset,
        Self::Providers,
        Self::Pairs,
        Self::Rates,
        Self::Traps,
        Self::Corpus,
        Self::Liars,
        Self::Keys,
        Self::Guards,
        Self::Quiet,
        Self::Days,
    ];
}

/// What is played.
#[derive(Debug, Clone)]
pub enum Play {
    /// An outage or a lie.
    Outage(Box<Outage>),
    /// A scenario of the corpus.
    Scenario(Arc<Scenario>),
    /// A day of the background, with so many observers.
    Day(usize),
    /// A day of nothing, with so many.
    Quiet(usize),
}

/// One cell.
#[derive(Debug, Clone)]
pub struct Cell {
    /// Where it stands.
    pub section: Section,
    /// Its name there: words separated by `|`.
    pub name: String,
    /// How often it is played, each time from another seed.
    pub seeds: u64,
    /// What.
    pub play: Play,
}

/// How long the scorecard may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// Every cell, as often as it takes to tell: hours.
    Whole,
    /// Few cells once: minutes.
    Short,
}

const MINUTE: u64 = 60_000;

/// What a provider's outage looks like: the symptoms of its role, half of them time-outs where there
/// are connections.
fn broken(provider: &str, layer: Layer, fraction: i64) -> Vec<Phase> {
    let targets = || Targets::Role(provider.to_owned(), layer);
    match layer {
        Layer::Dns => vec![phase(targets(), fraction, "dns_servfail", Mode::PerRequest)],
        Layer::Aux => vec![phase(targets(), fraction, "http_5xx", Mode::PerRequest)],
        _ => {
            let half = fraction / 2;
            let rest = (fraction - half) * 1_000_000 / (1_000_000 - half).max(1);
            let mut second = phase(targets(), rest, "tcp_timeout", Mode::PerRequest);
            second.overlay = true;
            vec![phase(targets(), half, "tcp_reset", Mode::PerRequest), second]
        }
    }
}

fn outage(observers: usize, phases: Vec<Phase>, expected: &[&str]) -> Outage {
    Outage {
        catalogue: standard::catalogue(),
        observers,
        phases,
        watched_ms: 20 * MINUTE,
        liars: None,
        asks_back: true,
        stops: true,
        expected: expected.iter().map(ToString::to_string).collect(),
        per_minute: 3,
        sets: &[],
    }
}

/// The four that times are measured on, with their roles.
pub const MEASURED: [(&str, Layer); 4] = [
    (standard::LARGEST, Layer::Edge),
    (standard::SMALLEST, Layer::Edge),
    (standard::NAMES, Layer::Dns),
    (standard::NESTED, Layer::Aux),
];
/// Failure fractions, thousandths.
pub const FRACTIONS: [i64; 6] = [1_000, 500, 300, 200, 100, 50];
/// Observers.
pub const CROWDS: [usize; 3] = [1_000, 300, 100];

fn times(form: Form, cells: &mut Vec<Cell>) {
    let mut add = |section, name: String, seeds, play: Outage| {
        cells.push(Cell { section, name, seeds, play: Play::Outage(Box::new(play)) });
    };
    let crowds: &[usize] = if form == Form::Short { &[300] } else { &CROWDS };
    for (provider, layer) in MEASURED {
        for fraction in FRACTIONS {
            if form == Form::Short && ![1_000, 300].contains(&fraction) {
                continue;
            }
            for observers in crowds {
                let name = format!("{provider}|{fraction}|{observers}");
                let phases = broken(provider, layer, fraction * 1_000);
                let seeds = if form == Form::Short { 2 } else { 24 };
                add(Section::Time, name, seeds, outage(*observers, phases, &[provider]));
            }
            if form == Form::Whole && [1_000, 300].contains(&fraction) {
                let phases = broken(provider, layer, fraction * 1_000);
                let name = format!("{provider}|{fraction}|10000");
                add(Section::Time, name, 4, outage(10_000, phases, &[provider]));
            }
        }
    }
    if form == Form::Short {
        return;
    }
    for observers in CROWDS {
        for (provider, fraction) in [
            (standard::LARGEST, 1_000),
            (standard::LARGEST, 300),
            (standard::SMALLEST, 1_000),
            (standard::SMALLEST, 300),
        ] {
            let targets = Targets::Provider(provider.to_owned());
            let phases = vec![phase(targets, fraction * 1_000, "tcp_timeout", Mode::PerRequest)];
            let name = format!("{provider}|{fraction}|{observers}");
            add(Section::TimeOuts, name, 12, outage(observers, phases, &[provider]));
        }
        // Of the largest 34 and 24 of 120, of the second 7 and 5 of 24, of the smallest 3 and 2 of 8.
        for (provider, fraction) in [
            (standard::LARGEST, 280),
            (standard::LARGEST, 200),
            ("p1", 280),
            ("p1", 200),
            ("p2", 300),
            (standard::SMALLEST, 375),
            (standard::SMALLEST, 250),
        ] {
            let targets = Targets::Provider(provider.to_owned());
            let phases = vec![phase(targets, fraction * 1_000, "tcp_reset", Mode::PerTarget)];
            let name = format!("{provider}|{fraction}|{observers}");
            add(Section::Subset, name, 12, outage(observers, phases, &[provider]));
        }
    }
}

fn providers(form: Form, cells: &mut Vec<Cell>) {
    let catalogue = Catalogue::builtin();
    let plan = tocsin_collector::engine::plan::Plan::new(catalogue);
    for (_, entity) in plan.entities() {
        if entity.layer == Layer::Tld {
            continue;
        }
        let name = entity.provider.as_str();
        // What cannot be told apart is right under either name: the same sites behind both.
        let same = plan.entities().filter(|(_, other)| other.targets == entity.targets);
        let expected: Vec<&str> = same.map(|(_, other)| other.provider.as_str()).collect();
        let role = format!("{:?}", entity.layer).to_ascii_lowercase();
        for (fraction, seeds) in [(1_000, 3), (300, 2)] {
            let phases = match entity.layer {
                // What stands behind an edge is met through it.
                Layer::Hosting => {
                    let targets = Targets::Hosted(name.to_owned());
                    vec![phase(targets, fraction * 1_000, "tcp_reset", Mode::PerRequest)]
                }
                layer => broken(name, layer, fraction * 1_000),
            };
            // Watched for a while after it is named: nobody else is to be named besides.
            let play = Outage {
                catalogue: catalogue.clone(),
                stops: false,
                watched_ms: 8 * MINUTE,
                ..outage(1_000, phases, &expected)
            };
            cells.push(Cell {
                section: Section::Providers,
                name: format!("{name}|{role}|{fraction}"),
                seeds: if form == Form::Short { 0 } else { seeds },
                play: Play::Outage(Box::new(play)),
            });
        }
    }
}

/// The second two minutes after the first: both are to be named, and no third.
fn pairs(form: Form, cells: &mut Vec<Cell>) {
    let role = |provider: &str| match provider {
        standard::NAMES => Layer::Dns,
        standard::NESTED => Layer::Aux,
        _ => Layer::Edge,
    };
    for (first, second) in
        [("p0", "p1"), ("p0", "p5"), ("p0", "p10"), ("p10", "p0"), ("p1", "p2"), ("p0", "p9")]
    {
        let mut phases = broken(first, role(first), 1_000_000);
        let mut later = broken(second, role(second), 1_000_000);
        later.iter_mut().for_each(|phase| phase.from_ms = 2 * MINUTE);
        phases.extend(later);
        for observers in CROWDS {
            let play = Outage {
                stops: false,
                watched_ms: 14 * MINUTE,
                ..outage(observers, phases.clone(), &[first, second])
            };
            cells.push(Cell {
                section: Section::Pairs,
                name: format!("{first}, then {second}|{observers}"),
                seeds: if form == Form::Short { 0 } else { 4 },
                play: Play::Outage(Box::new(play)),
            });
        }
    }
}

/// What another rate of scheduled probes costs and gains.
fn rates(form: Form, cells: &mut Vec<Cell>) {
    for (provider, layer) in MEASURED {
        for per_minute in RATES {
            for observers in [1_000, 100] {
                let phases = broken(provider, layer, 300_000);
                let play = Outage { per_minute, ..outage(observers, phases, &[provider]) };
                cells.push(Cell {
                    section: Section::Rates,
                    name: format!("{provider}|{per_minute}|{observers}"),
                    seeds: if form == Form::Short { 0 } else { 6 },
                    play: Play::Outage(Box::new(play)),
                });
            }
        }
    }
}

/// Scheduled probes a minute that are tried.
pub const RATES: [u16; 4] = [6, 3, 2, 1];

/// A rule, the numbers that leave it out, and what happens then.
type Guard = (&'static str, &'static [(&'static str, i64)], Vec<Phase>, Option<Liars>);

/// With a rule left out, what it is there to prevent.
fn guards(form: Form, cells: &mut Vec<Cell>) {
    if form == Form::Short {
        return;
    }
    let lie = Lie { blames: vec![id("p0")], clears: Vec::new(), picks: false, from_ms: None };
    let people = Place::People { share: 300_000, zones: 0 };
    let keys = Place::Keys { keys: 3_000, prefixes: 3_000, networks: 1 };
    let p0 = || Targets::Provider(standard::LARGEST.to_owned());
    let mut half = phase(p0(), 1_000_000, "tcp_reset", Mode::PerRequest);
    half.who = vec![Who::Marked("zones:half".to_owned())];
    let rising = vec![phase(Targets::All, 200_000, "tcp_timeout", Mode::PerRequest)];
    let all: Vec<Guard> = vec![
        (
            "contrast: everything rises to 20 %",
            &[
                ("contrast_times", 1),
                ("contrast_times_high", 1),
                ("contrast_mean_times", 1),
                ("contrast_bits_q16", 1),
                ("panel_apart_bits_q16", 1),
            ],
            rising,
            None,
        ),
        (
            "zones and majority: half of the zones see the largest edge fail",
            &[("zones_share", 200_000), ("confirm", 410_000)],
            vec![half],
            None,
        ),
        (
            "majority: 30 % lie that the largest edge fails",
            &[
                ("confirm", 250_000),
                ("release", 200_000),
                ("divided", 250_000),
                ("panel_second_below", 250_000),
            ],
            Vec::new(),
            Some(Liars { place: people, lie: lie.clone() }),
        ),
        (
            "network cap: 3,000 keys in one network lie, each in a prefix of its own",
            &[("network_cap_share", 1_000_000), ("zone_cap", 1_000_000)],
            Vec::new(),
            Some(Liars { place: keys, lie }),
        ),
    ];
    for (name, sets, phases, liars) in all {
        for (state, sets) in [("on", &[][..]), ("off", sets)] {
            let play = Outage {
                sets,
                liars: liars.clone(),
                stops: false,
                ..outage(300, phases.clone(), &[])
            };
            cells.push(Cell {
                section: Section::Guards,
                name: format!("{name}|{state}"),
                seeds: 4,
                play: Play::Outage(Box::new(play)),
            });
        }
    }
}

fn traps(form: Form, cells: &mut Vec<Cell>) {
    let p0 = || Targets::Provider(standard::LARGEST.to_owned());
    let mut zones_half = phase(p0(), 1_000_000, "tcp_reset", Mode::PerRequest);
    zones_half.who = vec![Who::Marked("zones:half".to_owned())];
    let marked = |mark: &str, targets, mode| {
        let mut phase = phase(targets, 1_000_000, "tls_handshake", mode);
        phase.who = vec![Who::Marked(mark.to_owned()), Who::Share(900_000)];
        vec![phase]
    };
    let resolver = |targets, mode| {
        let mut phase = phase(targets, 1_000_000, "dns_timeout", mode);
        phase.who = vec![Who::Resolver("isp".to_owned())];
        vec![phase]
    };
    let site =
        |host: &str| phase(Targets::Site(host.to_owned()), 1_000_000, "http_5xx", Mode::PerRequest);
    let mut over_v6 = phase(p0(), 1_000_000, "tcp_timeout", Mode::PerRequest);
    over_v6.family = Some(Family::V6);
    let mut third = site("s3.fr");
    third.fraction = 333_333;
    let rising = |by| vec![phase(Targets::All, by, "tcp_timeout", Mode::PerRequest)];
    let dead = |host: &str| {
        let targets = Targets::Site(host.to_owned());
        phase(targets, 1_000_000, "http_5xx", Mode::PerTarget)
    };
    let five = ["s0.com", "s2.net", "s130.net", "s152.com", "s190.io"].map(dead);
    let customer: Vec<Phase> =
        (60..75).map(|site| dead(&format!("s{site}.{}", standard::tld(site)))).collect();
    let paths = |fraction| vec![phase(p0(), fraction, "tcp_timeout", Mode::PerPath)];
    let part = |mark: &str, share| {
        let mut phase = phase(p0(), 1_000_000, "tls_handshake", Mode::PerAgent);
        phase.who = vec![Who::Marked(mark.to_owned()), Who::Share(share)];
        vec![phase]
    };
    let mut google = phase(Targets::All, 1_000_000, "dns_timeout", Mode::PerAgent);
    google.who = vec![Who::Resolver("8.8.8.8".to_owned())];
    let mut names_of = phase(p0(), 1_000_000, "dns_timeout", Mode::PerRequest);
    names_of.who = vec![Who::Resolver("8.8.8.8".to_owned())];
    let traps: Vec<(&str, Vec<Phase>, &[&str])> = vec![
        ("one site of the largest", vec![site("s3.fr")], &["site:s3.fr"]),
        ("one site of the smallest", vec![site("s182.io")], &["site:s182.io"]),
        ("a third of the requests to one site", vec![third], &["site:s3.fr"]),
        ("the largest edge over IPv6", vec![over_v6], &["p0 over IPv6"]),
        ("everything 5 %", rising(50_000), &[]),
        ("everything 20 %", rising(200_000), &[]),
        ("everything 50 %", rising(500_000), &[]),
        ("everything 90 %", rising(900_000), &[]),
        ("release on 90 %, everything", marked("version:9", Targets::All, Mode::PerAgent), &[]),
        ("release on 90 %, largest edge", marked("version:9", p0(), Mode::PerAgent), &[]),
        ("own resolvers of half, everything", resolver(Targets::All, Mode::PerAgent), &[]),
        ("own resolvers of half, largest edge", resolver(p0(), Mode::PerRequest), &[]),
        ("half of the zones, largest edge", vec![zones_half], &[]),
        ("release on 75 %, largest edge", part("version:9", 750_000), &[]),
        ("release on 98 %, largest edge", part("version:9", 980_000), &[]),
        ("a public resolver, everything", vec![google], &["resolver-google"]),
        ("a public resolver, names of the largest", vec![names_of], &[]),
        ("a third of the paths to the largest edge", paths(333_333), &[]),
        ("five sites at once", five.to_vec(), &[]),
        ("one customer's fifteen sites of the largest edge", customer, &[]),
    ];
    for (name, phases, expected) in traps {
        for observers in CROWDS {
            let play = Outage { stops: false, ..outage(observers, phases.clone(), expected) };
            let short = u64::from(observers == 300 && !expected.is_empty());
            let seeds = if form == Form::Short { short } else { 6 };
            cells.push(Cell {
                section: Section::Traps,
                name: format!("{name}|{observers}"),
                seeds,
                play: Play::Outage(Box::new(play)),
            });
        }
    }
}

/// Shares of liars that are tried, thousandths; a tenth in the smallest crowd alone.
pub const SHARES: [i64; 5] = [100, 200, 250, 300, 350];

fn liars(form: Form, cells: &mut Vec<Cell>) {
    let lie = |blames: &[&str], clears: &[&str]| Lie {
        blames: blames.iter().map(|name| id(name)).collect(),
        clears: clears.iter().map(|name| id(name)).collect(),
        picks: false,
        from_ms: None,
    };
    let p0 = || broken(standard::LARGEST, Layer::Edge, 1_000_000);
    let mut ended = p0();
    ended.iter_mut().for_each(|phase| phase.to_ms = 20 * MINUTE);
    let hours = |h: u64| h * 60 * MINUTE;
    type Attack = (&'static str, Vec<Phase>, Lie, Vec<&'static str>, u64);
    let attacks: Vec<Attack> = vec![
        ("fabricate the largest", vec![], lie(&["p0"], &[]), vec![], hours(2)),
        ("fabricate the smallest", vec![], lie(&["p5"], &[]), vec![], hours(2)),
        (
            "cherry-pick the smallest",
            vec![],
            Lie { picks: true, ..lie(&["p5"], &[]) },
            vec![],
            hours(2),
        ),
        ("hide the largest", p0(), lie(&["none"], &["p0"]), vec!["p0"], 20 * MINUTE),
        (
            "hide the smallest at 30 %",
            broken(standard::SMALLEST, Layer::Edge, 300_000),
            lie(&["none"], &["p5"]),
            vec!["p5"],
            20 * MINUTE,
        ),
        ("frame another edge", p0(), lie(&["p1"], &["p0"]), vec!["p0"], 20 * MINUTE),
        ("frame nested names", p0(), lie(&["p9"], &["p0"]), vec!["p0"], 20 * MINUTE),
        ("frame a nested challenge", p0(), lie(&["p10"], &["p0"]), vec!["p0"], 20 * MINUTE),
        ("hold open", ended, Lie { from_ms: Some(0), ..lie(&["p0"], &[]) }, vec!["p0"], hours(4)),
        ("force panels", vec![], lie(&[], &[]), vec![], hours(4)),
        (
            "force panels while the largest fails at 30 %",
            broken(standard::LARGEST, Layer::Edge, 300_000),
            lie(&[], &["p0"]),
            vec!["p0"],
            20 * MINUTE,
        ),
    ];
    let shares: &[i64] = if form == Form::Short { &[200] } else { &SHARES };
    let crowds: &[usize] = if form == Form::Short { &[300] } else { &CROWDS };
    for (name, phases, lie, expected, watched_ms) in attacks {
        for zones in [0, 4] {
            for share in shares {
                for observers in crowds {
                    for asks_back in [true, false] {
                        if form == Form::Short && (zones > 0 || !asks_back || watched_ms > hours(1))
                        {
                            continue;
                        }
                        // Panels are forced by asking back alone; and without it fewer shares are tried.
                        if !asks_back && (name.starts_with("force") || ![200, 300].contains(share))
                        {
                            continue;
                        }
                        if *share < 200 && *observers > 100 {
                            continue;
                        }
                        let place = Place::People { share: share * 1_000, zones };
                        let liars = Liars { place, lie: lie.clone() };
                        let play = Outage {
                            watched_ms,
                            liars: Some(liars),
                            asks_back,
                            stops: matches!(watched_ms, w if w == 20 * MINUTE)
                                && !name.starts_with("frame"),
                            ..outage(*observers, phases.clone(), &expected)
                        };
                        let spread = if zones == 0 { "spread" } else { "crowded" };
                        let asks = if asks_back { "asked" } else { "overheard" };
                        cells.push(Cell {
                            section: Section::Liars,
                            name: format!("{name}|{spread}|{share}|{observers}|{asks}"),
                            seeds: match (form, asks_back) {
                                (Form::Short, _) => 1,
                                (_, true) => 4,
                                (_, false) => 1,
                            },
                            play: Play::Outage(Box::new(play)),
                        });
                    }
                }
            }
        }
    }
}

/// Ten thousand keys in few places: a prefix has one vote, a network two percent.
fn keys(form: Form, cells: &mut Vec<Cell>) {
    const KEYS: u64 = 10_000;
    if form == Form::Short {
        return;
    }
    let lie = |blames: &str, clears: &[&str]| Lie {
        blames: vec![id(blames)],
        clears: clears.iter().map(|name| id(name)).collect(),
        picks: false,
        from_ms: None,
    };
    let p0 = broken(standard::LARGEST, Layer::Edge, 1_000_000);
    for (name, phases, lie, expected) in [
        ("fabricate the largest", vec![], lie("p0", &[]), &[][..]),
        ("hide the largest", p0, lie("none", &["p0"]), &["p0"][..]),
    ] {
        for (place, prefixes, networks) in [
            ("one prefix", 1, 1),
            ("one network", KEYS, 1),
            ("20 prefixes", 20, 20),
            ("100 prefixes", 100, 100),
        ] {
            let liars =
                Liars { place: Place::Keys { keys: KEYS, prefixes, networks }, lie: lie.clone() };
            let play = Outage {
                liars: Some(liars),
                stops: !expected.is_empty(),
                ..outage(1_000, phases.clone(), expected)
            };
            cells.push(Cell {
                section: Section::Keys,
                name: format!("{name}|{place}"),
                seeds: 2,
                play: Play::Outage(Box::new(play)),
            });
        }
    }
}

/// Every cell, in the order of the page.
///
/// # Errors
/// When the corpus is no file of scenarios.
pub fn all(form: Form) -> anyhow::Result<Vec<Cell>> {
    let mut cells = Vec::new();
    times(form, &mut cells);
    providers(form, &mut cells);
    pairs(form, &mut cells);
    rates(form, &mut cells);
    traps(form, &mut cells);
    let corpus = crate::sim::scenario::parse(include_str!("../../../data/incidents.toml"))?;
    for scenario in corpus {
        let short = ["cf-2025-11-18", "telstra-dns-2020-08-02", "syn-sybil-burst"];
        let seeds = match form {
            Form::Whole => 10,
            Form::Short => u64::from(short.contains(&scenario.id.as_str())),
        };
        let name = scenario.id.clone();
        let play = Play::Scenario(Arc::new(scenario));
        cells.push(Cell { section: Section::Corpus, name, seeds, play });
    }
    liars(form, &mut cells);
    keys(form, &mut cells);
    guards(form, &mut cells);
    for (observers, days) in [(1_000, 4), (300, 6), (100, 6)] {
        let seeds = if form == Form::Short { 0 } else { days };
        let play = Play::Quiet(observers);
        cells.push(Cell { section: Section::Quiet, name: observers.to_string(), seeds, play });
    }
    for (observers, days) in [(300, 370), (100, 330), (1_000, 30)] {
        let seeds = if form == Form::Short { u64::from(observers == 300) } else { days };
        let play = Play::Day(observers);
        cells.push(Cell { section: Section::Days, name: observers.to_string(), seeds, play });
    }
    cells.retain(|cell| cell.seeds > 0);
    Ok(cells)
}
