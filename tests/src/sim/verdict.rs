//! What was confirmed, in the words of the scenarios, and whether that is right.

use std::collections::BTreeMap;

use serde::Serialize;
use tocsin_collector::engine::{
    detector::{Detector, Subject},
    groups::{self, Group},
    incident::{Incident, Reach},
};
use tocsin_proto::{catalogue::Catalogue, implicate::Layer, incident::Phase, time::Timestamp};

use super::{
    play::{Played, Setup, play},
    scenario::{Scenario, Targets, slug},
    truth::Truth,
    world::{RESOLVERS, World},
};

/// Milliseconds that a play runs before anything breaks: long enough for everybody's controls.
const LEAD_MS: u64 = 1_800_000;
/// And after everything is mended: recovering and resolved need ten and thirty minutes.
const TAIL_MS: u64 = 5_400_000;

/// What came of one scenario, as `--json` prints it.
#[derive(Debug, Clone, Serialize)]
pub struct Outcome {
    /// The scenario.
    pub id: String,
    /// The best verdict.
    pub expected: String,
    /// Others that are not wrong.
    pub acceptable: Vec<String>,
    /// What was confirmed.
    pub verdicts: Vec<String>,
    /// Whether that is right.
    pub pass: bool,
    /// Incidents that were confirmed.
    pub incidents: usize,
    /// How often one came back.
    pub reopened: u32,
    /// Seconds to the first suspicion of what was confirmed.
    pub suspected_s: Option<f64>,
    /// Seconds to the first confirmation.
    pub confirmed_s: Option<f64>,
    /// Seconds until the last incident was resolved; none while one is open.
    pub resolved_s: Option<f64>,
    /// Observers in the world.
    pub observers: usize,
    /// The seed.
    pub seed: u64,
    /// Bytes of an observer and day, probes and reports.
    pub bytes_per_observer_day: u64,
}

/// How a scenario is played.
#[derive(Debug, Clone)]
pub struct Options {
    /// Observers.
    pub observers: usize,
    /// Decides everything that is left to chance.
    pub seed: u64,
    /// Whether the collector asks back.
    pub asks_back: bool,
    /// Whether panels and changes are told of on stderr.
    pub trace: bool,
    /// What is probed, to which the names of the scenario are added.
    pub catalogue: Catalogue,
}

impl Options {
    /// The usual ones, with the built-in catalogue.
    #[must_use]
    pub fn new(observers: usize, seed: u64) -> Self {
        let catalogue = Catalogue::builtin().clone();
        Self { observers, seed, asks_back: true, trace: false, catalogue }
    }
}

/// Plays a scenario.
///
/// # Errors
/// When the scenario needs a name that cannot be one.
pub fn run(scenario: &Scenario, options: &Options) -> anyhow::Result<Outcome> {
    let Options { observers, seed, asks_back, trace, .. } = *options;
    let dice = super::dice::Dice::new(seed);
    let catalogue = scenario.catalogue(&options.catalogue, dice)?;
    let mut world = World::new(catalogue, observers, seed);
    scenario.mark(&mut world);
    let truth = Truth::new(scenario, &world);
    let onset = scenario.onset;
    let end = onset.plus_ms(scenario.length_ms() + TAIL_MS);
    let setup = Setup { asks_back, trace, ..Setup::new(onset.minus_ms(LEAD_MS), onset, end) };
    let played = play(&world, &truth, setup, |_, _| true);
    Ok(judge(scenario, &world, &played, setup, seed))
}

fn confirmed_at(incident: &Incident) -> Option<Timestamp> {
    let confirmed = |t: &&tocsin_proto::incident::Transition| t.phase == Phase::Confirmed;
    incident.transitions.iter().find(confirmed).map(|t| t.at)
}

fn judge(scenario: &Scenario, world: &World, played: &Played, setup: Setup, seed: u64) -> Outcome {
    let detector = &played.detector;
    let names = Names::new(scenario, world);
    let mut verdicts = Vec::new();
    let clock = scenario.onset.plus_ms(scenario.clock_ms);
    let seconds = |at: Timestamp| (at - clock) as f64 / 1_000.0;
    let (mut suspected, mut confirmed): (Option<Timestamp>, Option<Timestamp>) = (None, None);
    let (mut resolved, mut open, mut reopened, mut incidents) = (None, false, 0, 0);
    for shown in detector.incidents() {
        let Some(at) = confirmed_at(shown.incident) else { continue };
        // What turned out to be part of another is no verdict of its own.
        if shown.incident.part_of.is_some() {
            continue;
        }
        incidents += 1;
        verdicts.push(verdict(detector, shown.subject, shown.incident, &names));
        confirmed = Some(confirmed.map_or(at, |first| first.min(at)));
        if let Some(first) = shown.incident.transitions.first() {
            suspected = Some(suspected.map_or(first.at, |before: Timestamp| before.min(first.at)));
        }
        reopened += shown.incident.relapses;
        match shown.incident.phase() {
            Phase::Resolved => resolved = resolved.max(Some(shown.incident.since())),
            _ => open = true,
        }
    }
    verdicts.sort();
    verdicts.dedup();
    let wanted =
        |verdict: &String| *verdict == scenario.expected || scenario.acceptable.contains(verdict);
    let none_is_right =
        scenario.expected == "none" || scenario.acceptable.iter().any(|a| a == "none");
    let pass = match verdicts.is_empty() {
        true => none_is_right,
        false => verdicts.iter().all(wanted),
    };
    let days_ms = setup.end.since_ms(setup.start).max(1);
    let bytes = u128::from(played.bytes + played.report_bytes) * 86_400_000;
    let per = u128::from(days_ms) * played.observers.max(1) as u128;
    Outcome {
        id: scenario.id.clone(),
        expected: scenario.expected.clone(),
        acceptable: scenario.acceptable.clone(),
        verdicts,
        pass,
        incidents,
        reopened,
        suspected_s: suspected.map(seconds),
        confirmed_s: confirmed.map(seconds),
        resolved_s: resolved.filter(|_| !open).map(seconds),
        observers: played.observers,
        seed,
        bytes_per_observer_day: u64::try_from(bytes / per).unwrap_or(u64::MAX),
    }
}

/// What the scenario calls by other names than the collector.
struct Names {
    /// `aws-us-east-1` is its `aws:us-east-1`.
    factors: BTreeMap<String, String>,
    /// A network by its number.
    networks: BTreeMap<u32, String>,
}

impl Names {
    fn new(scenario: &Scenario, world: &World) -> Self {
        let mut factors = BTreeMap::new();
        for phase in &scenario.phases {
            match &phase.targets {
                Targets::Provider(name) | Targets::Hosted(name) | Targets::Issuer(name) => {
                    factors.insert(slug(name), name.to_owned());
                }
                Targets::Origin(_, host) => {
                    // As a region of a cloud is named in verdicts.
                    let cloud =
                        host.split_once('-').map(|(cloud, region)| format!("{cloud}:{region}"));
                    factors.insert(slug(host), cloud.unwrap_or_else(|| host.clone()));
                }
                _ => {}
            }
        }
        let networks = world.people.iter().filter_map(|person| {
            let mark = person.marks.iter().find(|mark| mark.starts_with("isp:"))?;
            Some((person.asn, mark.clone()))
        });
        Self { factors, networks: networks.collect() }
    }

    fn network(&self, asn: u32) -> String {
        self.networks.get(&asn).cloned().unwrap_or_else(|| format!("isp:AS{asn}"))
    }

    fn group(&self, group: Group) -> String {
        match group {
            Group::Network(asn) | Group::OwnResolver(asn) => self.network(asn),
            Group::Country(country) => format!("regional:all:{country}"),
            Group::Zone(zone) => {
                let zone = Detector::zone_name(zone).map(ToString::to_string);
                format!("regional:all:{}", zone.unwrap_or_default())
            }
            Group::Resolver(class) => {
                let name = groups::resolver(class);
                let address = RESOLVERS.iter().find(|(_, of, _)| of.name() == name);
                format!("global:resolver:{}", address.map_or(name, |(address, ..)| *address))
            }
            Group::Version(version) => format!("global:version:{version}"),
        }
    }
}

fn verdict(detector: &Detector, subject: Subject, incident: &Incident, names: &Names) -> String {
    match subject {
        Subject::Site(target) => {
            let host = detector.catalogue().target(target).map(|target| target.host.clone());
            let host = host.unwrap_or_default();
            format!("site:{}", host.strip_prefix("www.").unwrap_or(&host))
        }
        Subject::Group(group) => names.group(group),
        Subject::Entity(entity) => {
            let entity = detector.plan().entity(entity);
            let id = entity.provider.to_string();
            let factor = match entity.layer {
                Layer::Tld => format!("tld:{id}"),
                Layer::Issuer => format!("issuer:{}", names.factors.get(&id).unwrap_or(&id)),
                _ => names.factors.get(&id).cloned().unwrap_or(id),
            };
            match &incident.reach {
                Reach::Regional(regions) => {
                    let names: Vec<String> = regions.iter().map(Detector::region_name).collect();
                    format!("regional:{factor}:{}", names.join("+"))
                }
                Reach::Over(family) => format!("family:{factor}:{}", family.name()),
                _ => format!("global:{factor}"),
            }
        }
    }
}
