//! What was confirmed, in the words of the scenarios, and whether that is right.

use std::collections::BTreeMap;

use serde::Serialize;
use tocsin_collector::engine::{
    detector::{Changed, Detector, Subject},
    groups::{self, Group},
    incident::{self, Incident, Reach},
};
use tocsin_proto::{
    catalogue::{Catalogue, ZoneIndex, Zones},
    implicate::Layer,
    incident::{Phase, Transition},
    time::Timestamp,
};

use super::{
    dice::Dice,
    play::{Played, Setup, play},
    scenario::{self, Region, Scenario, Targets, Who, bare, cloud, owner, slug},
    truth::Truth,
    world::{self, Person, RESOLVERS, World},
};

/// Milliseconds that a play runs before anything breaks: long enough for everybody's controls.
const LEAD_MS: u64 = 1_800_000;
/// And after everything is mended: recovering and resolved need ten and thirty minutes.
const TAIL_MS: u64 = 5_400_000;
/// Prefixes of a cell below which nothing is said of it: `insufficient_evidence` is right there.
const CELL_PREFIXES: usize = 5;

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
    /// Seconds to the first suspicion of what was confirmed; where nothing was, of anything.
    pub suspected_s: Option<f64>,
    /// Seconds to the first confirmation.
    pub confirmed_s: Option<f64>,
    /// Seconds until the last incident was resolved; none while one is open.
    pub resolved_s: Option<f64>,
    /// Observers, as many as were asked for; what the scenario needs besides is not counted.
    pub observers: usize,
    /// The seed.
    pub seed: u64,
    /// Bytes of an observer and day, probes and reports.
    pub bytes_per_observer_day: u64,
}

impl Outcome {
    /// Of a scenario that was not played: nothing was confirmed, and it has not passed.
    #[must_use]
    pub fn unplayed(
        id: String,
        expected: String,
        acceptable: Vec<String>,
        options: &Options,
    ) -> Self {
        Self {
            id,
            expected,
            acceptable,
            verdicts: Vec::new(),
            pass: false,
            incidents: 0,
            reopened: 0,
            suspected_s: None,
            confirmed_s: None,
            resolved_s: None,
            observers: options.observers,
            seed: options.seed,
            bytes_per_observer_day: 0,
        }
    }
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
    let catalogue = scenario.catalogue(&options.catalogue, Dice::new(seed))?;
    let mut world = World::new(catalogue, observers, seed);
    scenario.mark(&mut world);
    let truth = Truth::new(scenario, &world);
    let onset = scenario.onset;
    let end = onset.plus_ms(scenario.length_ms() + TAIL_MS);
    let setup = Setup { asks_back, trace, ..Setup::new(onset.minus_ms(LEAD_MS), onset, end) };
    let mut told = Told::default();
    let played = play(&world, &truth, setup, |change, detector| {
        told.note(change, detector, onset);
        true
    });
    // Whatever changed without a word since.
    for shown in played.detector.incidents() {
        let id = shown.incident.id.clone();
        told.incidents.insert(id, (shown.subject, shown.incident.clone()));
    }
    let case = Case { scenario, world: &world, truth: &truth, options, setup };
    Ok(judge(&case, &played, &told))
}

/// What was told in the course of a play: the detector forgets what has ended long ago.
#[derive(Default)]
struct Told {
    /// Every incident as it was last seen, by its name.
    incidents: BTreeMap<String, (Subject, Incident)>,
    /// The first suspicion after the onset, of anything.
    suspected: Option<Timestamp>,
}

impl Told {
    fn note(&mut self, change: &Changed, detector: &Detector, onset: Timestamp) {
        if change.phase == Phase::Suspected && change.at >= onset {
            self.suspected.get_or_insert(change.at);
        }
        let shown = detector.incidents();
        if let Some(shown) = shown.iter().find(|shown| shown.incident.id == change.incident) {
            let now = (shown.subject, shown.incident.clone());
            self.incidents.insert(change.incident.clone(), now);
        }
    }

    /// What was confirmed, and when first. What turned out to be part of another is no verdict of its
    /// own.
    fn confirmed(&self) -> impl Iterator<Item = (Subject, &Incident, Timestamp)> {
        let confirmed = |t: &&Transition| t.phase == Phase::Confirmed;
        self.incidents.values().filter_map(move |(subject, incident)| {
            let at = incident.transitions.iter().find(confirmed)?.at;
            incident.part_of.is_none().then_some((*subject, incident, at))
        })
    }
}

/// What is judged.
struct Case<'a> {
    scenario: &'a Scenario,
    world: &'a World,
    truth: &'a Truth,
    options: &'a Options,
    setup: Setup,
}

impl Case<'_> {
    /// Whether the best verdict is of a cell of which nothing can be said: those whom the phases that
    /// make it select are in too few prefixes.
    fn is_too_small(&self) -> bool {
        let Scenario { phases, expected, .. } = self.scenario;
        let failing = || phases.iter().enumerate().filter(|(_, phase)| fails(phase));
        let of_it = |phase: &scenario::Phase| match expected.split_once(':') {
            Some(("isp", _)) => {
                let own = |who: &Who| matches!(who, Who::Marked(mark) if mark == expected);
                phase.who.iter().any(own)
            }
            Some(("regional", _)) => phase.region != Region::Everyone,
            _ => true,
        };
        let prefixes = |(at, _): (usize, _)| self.truth.prefixes(self.world, at);
        let own = failing().filter(|(_, phase)| of_it(phase)).map(prefixes).max();
        let most = own.or_else(|| failing().map(prefixes).max());
        most.is_some_and(|most| most < CELL_PREFIXES)
    }
}

/// Whether what a phase does is a failure, and not only an answer that is slow or a wall.
fn fails(phase: &scenario::Phase) -> bool {
    phase.fraction > 0 && !phase.symptom.is_answer()
}

fn judge(case: &Case<'_>, played: &Played, told: &Told) -> Outcome {
    let Case { scenario, world, options, setup, .. } = case;
    let detector = &played.detector;
    let names = Names::new(scenario, world, told);
    let mut verdicts = Vec::new();
    let clock = scenario.onset.plus_ms(scenario.clock_ms);
    let seconds = |at: Timestamp| (at - clock) as f64 / 1_000.0;
    let (mut suspected, mut confirmed): (Option<Timestamp>, Option<Timestamp>) = (None, None);
    let (mut resolved, mut open, mut reopened, mut incidents) = (None, false, 0, 0);
    for (subject, incident, at) in told.confirmed() {
        incidents += 1;
        verdicts.push(names.verdict(detector, subject, incident));
        confirmed = Some(confirmed.map_or(at, |first| first.min(at)));
        if let Some(first) = incident.transitions.first() {
            suspected = Some(suspected.map_or(first.at, |before: Timestamp| before.min(first.at)));
        }
        reopened += incident.relapses;
        match incident.phase() {
            Phase::Resolved => resolved = resolved.max(Some(incident.since())),
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
        true => none_is_right || case.is_too_small(),
        false => verdicts.iter().all(wanted),
    };
    let days_ms = setup.end.since_ms(setup.start).max(1);
    let bytes = u128::from(played.bytes + played.report_bytes) * 86_400_000;
    let per = u128::from(days_ms) * played.observers.max(1) as u128;
    Outcome {
        verdicts,
        pass,
        incidents,
        reopened,
        suspected_s: suspected.or(told.suspected).map(seconds),
        confirmed_s: confirmed.map(seconds),
        resolved_s: resolved.filter(|_| !open).map(seconds),
        bytes_per_observer_day: u64::try_from(bytes / per).unwrap_or(u64::MAX),
        ..Outcome::unplayed(
            scenario.id.clone(),
            scenario.expected.clone(),
            scenario.acceptable.clone(),
            options,
        )
    }
}

/// What the scenario calls by other names than the detector. A verdict is the same whatever it is
/// called, so each has all its names, the likeliest first, and the scenario's is taken where it is one of
/// them. None of this changes what a verdict is about.
struct Names<'a> {
    scenario: &'a Scenario,
    world: &'a World,
    /// How the scenario writes providers, by their identifiers: `aws-us-east-1` is its `aws:us-east-1`.
    providers: BTreeMap<String, Vec<String>>,
    /// And certificate authorities.
    issuers: BTreeMap<String, Vec<String>>,
    /// A network by its number.
    networks: BTreeMap<u32, String>,
    /// Countries and zones that were cut off: of a continent the zones are told of one by one.
    cut: Vec<incident::Region>,
}

impl<'a> Names<'a> {
    fn new(scenario: &'a Scenario, world: &'a World, told: &Told) -> Self {
        let mut providers: BTreeMap<String, Vec<String>> = BTreeMap::new();
        let mut issuers: BTreeMap<String, Vec<String>> = BTreeMap::new();
        let mut called = |id: String, names: Vec<String>| {
            providers.entry(id).or_default().extend(names);
        };
        for phase in &scenario.phases {
            match &phase.targets {
                Targets::Provider(name) => called(slug(name), vec![name.clone()]),
                Targets::Hosted(name) => called(slug(name), regions_of_clouds(name)),
                Targets::Origin(edge, host) => {
                    called(slug(edge), vec![edge.clone()]);
                    called(slug(host), regions_of_clouds(host));
                }
                Targets::Host(name) => called(owner(name), vec![name.clone()]),
                Targets::Issuer(name) => {
                    issuers.entry(slug(name)).or_default().push(name.clone());
                }
                _ => {}
            }
        }
        let networks = world.people.iter().filter_map(|person| {
            let mark = person.marks.iter().find(|mark| mark.starts_with("isp:"))?;
            Some((person.asn, mark.clone()))
        });
        let networks = networks.collect();
        let cut = told.confirmed().filter_map(|(subject, ..)| match subject {
            Subject::Group(group) => part(group),
            Subject::Entity(_) | Subject::Site(_) => None,
        });
        let cut = cut.collect();
        Self { scenario, world, providers, issuers, networks, cut }
    }

    fn wanted(&self) -> impl Iterator<Item = &String> {
        std::iter::once(&self.scenario.expected).chain(&self.scenario.acceptable)
    }

    fn verdict(&self, detector: &Detector, subject: Subject, incident: &Incident) -> String {
        let forms = match subject {
            Subject::Site(target) => {
                let host = detector.catalogue().target(target).map(|target| target.host.as_str());
                let host = bare(host.unwrap_or_default());
                vec![format!("site:{host}"), format!("site:www.{host}")]
            }
            Subject::Group(group) => self.group(group),
            Subject::Entity(entity) => {
                let entity = detector.plan().entity(entity);
                self.entity(entity.layer, entity.provider.as_str(), &incident.reach)
            }
        };
        let same = |want: &&String| forms.iter().any(|form| form.eq_ignore_ascii_case(want));
        let wanted = self.wanted().find(same).cloned();
        wanted.or_else(|| forms.first().cloned()).unwrap_or_default()
    }

    /// Every name of a verdict on a provider in a role.
    fn entity(&self, layer: Layer, id: &str, reach: &Reach) -> Vec<String> {
        let factors = self.factors(layer, id);
        let of = |scope: &str, end: &str| -> Vec<String> {
            factors.iter().map(|factor| format!("{scope}:{factor}{end}")).collect()
        };
        match reach {
            Reach::Regional(regions) => {
                let mut words = self.words(regions, &factors);
                words.push(own_name(regions));
                words.iter().flat_map(|word| of("regional", &format!(":{word}"))).collect()
            }
            Reach::Over(family) => of("family", &format!(":{}", family.name())),
            _ => {
                // A cloud's region that fails for everybody is that cloud's in that region.
                let regional = factors.iter().filter(|_| layer == Layer::Hosting);
                let regional = regional.filter(|factor| factor.contains(':'));
                let regional: Vec<String> =
                    regional.map(|factor| format!("regional:{factor}")).collect();
                of("global", "").into_iter().chain(regional).collect()
            }
        }
    }

    fn factors(&self, layer: Layer, id: &str) -> Vec<String> {
        let known = |names: &BTreeMap<String, Vec<String>>| names.get(id).cloned();
        let mut factors: Vec<String> = match layer {
            Layer::Tld => {
                // What is under two labels is of the last one's domain too.
                let own = self.scenario.phases.iter().filter_map(|phase| match &phase.targets {
                    Targets::Tld(tld) if tld.rsplit('.').next() == Some(id) => Some(tld),
                    _ => None,
                });
                own.map(|tld| format!("tld:{tld}")).chain([format!("tld:{id}")]).collect()
            }
            Layer::Issuer => {
                let mut own = known(&self.issuers).unwrap_or_default();
                own.push(id.to_owned());
                own.iter().map(|name| format!("issuer:{name}")).collect()
            }
            _ => Vec::new(),
        };
        if layer != Layer::Tld {
            factors.extend(known(&self.providers).unwrap_or_default());
        }
        if factors.is_empty() {
            factors.push(id.to_owned());
        }
        factors
    }

    fn group(&self, group: Group) -> Vec<String> {
        match group {
            Group::Network(asn) | Group::OwnResolver(asn) => {
                vec![self.networks.get(&asn).cloned().unwrap_or_else(|| format!("isp:AS{asn}"))]
            }
            Group::Country(_) | Group::Zone(_) => {
                let own: Vec<incident::Region> = part(group).into_iter().collect();
                let all = ["all".to_owned()];
                let mut words = self.words(&own, &all);
                // Of parts that are cut off together, each is of what they are together: where it is one of them.
                if self.of(&own).is_mostly(&self.affected()) {
                    words.extend(self.words(&self.cut, &all));
                }
                words.push(own_name(&own));
                words.iter().map(|word| format!("regional:all:{word}")).collect()
            }
            Group::Resolver(class) => {
                let class = groups::resolver(class);
                let known = RESOLVERS.iter().find(|(_, of, _)| of.name() == class);
                let known = known.map(|(known, ..)| *known);
                let whos = self.scenario.phases.iter().flat_map(|phase| &phase.who);
                let own = whos.filter_map(|who| match who {
                    Who::Resolver(name) => world::resolver(name)
                        .is_some_and(|(of, _)| Some(of) == known)
                        .then(|| name.clone()),
                    _ => None,
                });
                let others = known.into_iter().flat_map(world::also_called);
                let others = known.into_iter().chain(others).chain([class]).map(str::to_owned);
                own.chain(others).map(|name| format!("global:resolver:{name}")).collect()
            }
            Group::Version(version) => vec![format!("global:version:{version}")],
        }
    }

    /// What the scenario calls the parts of the world that the detector names: words of its phases, or of
    /// its verdicts on one of these factors. The detector knows zones and countries, and says zone where
    /// the rest of it cannot tell; scenarios know countries and continents. A word is one for what was
    /// named when both are, counted by observers, mostly the same; or when what was named is mostly what
    /// the scenario's regions are together, of which the word is one.
    fn words(&self, named: &[incident::Region], factors: &[String]) -> Vec<String> {
        let failing = || self.scenario.phases.iter().filter(|phase| fails(phase));
        let mut words: Vec<String> = Vec::new();
        for phase in failing() {
            match phase.region {
                Region::Everyone => {}
                Region::Country(country) => words.push(country.to_string()),
                Region::Continent(code) => {
                    let code = String::from_utf8_lossy(&code);
                    words.extend([format!("continent:{code}"), code.into_owned()]);
                }
            }
        }
        for verdict in self.wanted().filter_map(|verdict| verdict.strip_prefix("regional:")) {
            let word = |factor: &String| verdict.strip_prefix(factor.as_str())?.strip_prefix(':');
            words.extend(factors.iter().filter_map(word).map(str::to_owned));
        }
        let (named, affected) = (self.of(named), self.affected());
        words.retain(|word| {
            self.meant(word).iter().any(|meant| {
                let of_them = named.is_mostly(&affected) && affected.has_half_of(meant);
                named.has_half_of(meant) && (named.is_mostly(meant) || of_them)
            })
        });
        words
    }

    /// Who lives in parts of the world.
    fn of(&self, parts: &[incident::Region]) -> Crowd {
        self.crowd(|person| {
            parts.iter().any(|region| match region {
                incident::Region::Country(country) => person.country == *country,
                incident::Region::Zone(zone) => person.zone == Some(ZoneIndex(*zone)),
            })
        })
    }

    /// Who lives where the scenario says that something fails.
    fn affected(&self) -> Crowd {
        let failing = self.scenario.phases.iter().filter(|phase| fails(phase));
        let near: Vec<_> = failing.filter(|phase| phase.region != Region::Everyone).collect();
        self.crowd(|person| near.iter().any(|phase| phase.region.has(person.country)))
    }

    /// Whom a word for a part of the world may mean: two letters are a country, or a continent.
    fn meant(&self, word: &str) -> [Crowd; 2] {
        let zones: Vec<ZoneIndex> = word.split('+').filter_map(zone).collect();
        ["", "continent:"].map(|prefix| {
            let regions = word.split('+').filter_map(|part| format!("{prefix}{part}").parse().ok());
            let regions: Vec<Region> = regions.collect();
            self.crowd(|person| {
                regions.iter().any(|region| region.has(person.country))
                    || person.zone.is_some_and(|zone| zones.contains(&zone))
            })
        })
    }

    fn crowd(&self, is: impl Fn(&Person) -> bool) -> Crowd {
        Crowd(self.world.people.iter().map(|person| !person.is_fresh() && is(person)).collect())
    }
}

/// Some of the observers.
struct Crowd(Vec<bool>);

impl Crowd {
    fn count(&self) -> usize {
        self.0.iter().filter(|is| **is).count()
    }

    fn shared(&self, other: &Self) -> usize {
        self.0.iter().zip(&other.0).filter(|(own, other)| **own && **other).count()
    }

    /// Whether at least half of those are in it, and anybody.
    fn has_half_of(&self, other: &Self) -> bool {
        let shared = self.shared(other);
        shared > 0 && 2 * shared >= other.count()
    }

    /// Whether it holds little else: half of those, and of its own no more than a third are others.
    fn is_mostly(&self, other: &Self) -> bool {
        self.has_half_of(other) && 3 * self.shared(other) >= 2 * self.count()
    }
}

/// The zone of a name.
fn zone(name: &str) -> Option<ZoneIndex> {
    let mut zones = (0u8..).take(Zones::builtin().count()).map(ZoneIndex);
    zones.find(|zone| Zones::builtin().id(*zone).is_some_and(|id| id.as_str() == name))
}

/// The part of the world that a group is.
const fn part(group: Group) -> Option<incident::Region> {
    match group {
        Group::Country(country) => Some(incident::Region::Country(country)),
        Group::Zone(zone) => Some(incident::Region::Zone(zone)),
        _ => None,
    }
}

/// What the detector calls parts of the world.
fn own_name(regions: &[incident::Region]) -> String {
    regions.iter().map(Detector::region_name).collect::<Vec<_>>().join("+")
}

/// How a cloud's region may be written: first as `hosted:` has it. Without a colon it is that of a cloud
/// that is known, if of any; what is a provider of its own is itself.
fn regions_of_clouds(name: &str) -> Vec<String> {
    if name.contains(':') {
        return vec![name.to_owned(), name.replace(':', "-")];
    }
    let id = slug(name);
    let known = Catalogue::builtin().providers();
    let region = cloud(&id, known.keys()).filter(|_| !known.contains_key(id.as_str()));
    let region = region.and_then(|cloud| {
        let rest = id.strip_prefix(cloud.as_str())?.strip_prefix('-')?;
        Some(format!("{cloud}:{rest}"))
    });
    region.into_iter().chain([name.to_owned()]).collect()
}

#[cfg(test)]
mod tests {
    use tocsin_proto::incident::{Confidence, LiarBound};

    use super::*;
    use tocsin_collector::engine::{incident::Grounds, seen::SeenBy};

    /// A scenario of phases that each say where, who and what.
    fn scenario(expected: &str, phases: &[(&str, &str, &str)]) -> Scenario {
        let mut text = format!(
            "[[incident]]\nid = \"a\"\nonset_utc = \"2026-01-01T12:00:00Z\"\nexpected = \"{expected}\"\n"
        );
        for (region, agents, targets) in phases {
            text += &format!(
                "[[incident.phase]]\nfrom_min = 0\nto_min = 10\nfailure_fraction = 0.9\n\
                 symptom = \"tcp_timeout\"\nmode = \"per_request\"\nregion = \"{region}\"\n\
                 agents = \"{agents}\"\ntargets = \"{targets}\"\n"
            );
        }
        scenario::parse(&text).unwrap().remove(0)
    }

    fn world(scenario: &Scenario) -> World {
        let catalogue = scenario.catalogue(Catalogue::builtin(), Dice::new(1)).unwrap();
        let mut world = World::new(catalogue, 1_000, 1);
        scenario.mark(&mut world);
        world
    }

    fn regions(names: &[&str]) -> Vec<incident::Region> {
        let region = |name: &&str| match zone(name) {
            Some(zone) => incident::Region::Zone(zone.0),
            None => incident::Region::Country(name.parse().unwrap()),
        };
        names.iter().map(region).collect()
    }

    /// The name of a verdict on a provider of some regions.
    fn regional(expected: &str, phases: &[&str], named: &[&str]) -> String {
        let phases: Vec<_> = phases.iter().map(|p| (*p, "all", "provider:fastly")).collect();
        let scenario = scenario(expected, &phases);
        let world = world(&scenario);
        let names = Names::new(&scenario, &world, &Told::default());
        let forms = names.entity(Layer::Edge, "fastly", &Reach::Regional(regions(named)));
        let wanted = forms.iter().find(|form| **form == expected);
        wanted.unwrap_or(&forms[0]).clone()
    }

    #[test]
    fn regions_are_named_as_the_scenario_names_them_where_they_are_the_same() {
        let cases: &[(&str, &[&str], &[&str], bool)] = &[
            ("regional:fastly:GB", &["GB"], &["GB"], true),
            // Ireland has few: of the zone the country is most.
            ("regional:fastly:GB", &["GB"], &["britain-ireland"], true),
            ("regional:fastly:ES", &["ES"], &["southern-europe"], false),
            ("regional:fastly:ES", &["ES"], &["ES", "GB"], false),
            ("regional:fastly:continent:SA", &["continent:SA"], &["south-america"], true),
            ("regional:fastly:SA", &["continent:SA"], &["south-america"], true),
            ("regional:fastly:continent:SA", &["BR", "AR"], &["BR", "AR"], true),
            ("regional:fastly:FR", &["FR", "BE", "NL"], &["france-benelux"], true),
            ("regional:fastly:FR", &["FR"], &["DE"], false),
            ("regional:fastly:US", &["US", "GB", "DE"], &["GB"], false),
            ("regional:fastly:BR+AR", &["BR", "AR"], &["AR", "BR"], true),
        ];
        for (expected, phases, named, right) in cases {
            let name = regional(expected, phases, named);
            assert_eq!(name == *expected, *right, "{expected}: {named:?} is {name}");
        }
        // What the scenario does not know keeps the detector's name.
        let name = regional("regional:fastly:ES", &["ES"], &["southern-europe"]);
        assert_eq!(name, "regional:fastly:southern-europe");
    }

    #[test]
    fn factors_are_named_as_the_selectors_name_them() {
        let check = |targets: &str, layer: Layer, id: &str, first: &str| {
            let scenario = scenario("none", &[("*", "all", targets)]);
            let world = world(&scenario);
            let names = Names::new(&scenario, &world, &Told::default());
            let forms = names.entity(layer, id, &Reach::Global);
            assert_eq!(forms[0], first, "{targets}: {forms:?}");
            forms
        };
        let hosting = Layer::Hosting;
        let region =
            check("hosted:aws:eu-west-1", hosting, "aws-eu-west-1", "global:aws:eu-west-1");
        assert!(region.contains(&"regional:aws:eu-west-1".to_owned()));
        for host in ["aws-us-east-1", "aws:us-east-1"] {
            let origin = format!("origin:cloudflare+{host}");
            check(&origin, hosting, "aws-us-east-1", "global:aws:us-east-1");
        }
        check("provider:google-cloud", hosting, "google-cloud", "global:google-cloud");
        check("origin:fastly+google-cloud", hosting, "google-cloud", "global:google-cloud");
        for host in ["google-cloud:us-central1", "google-cloud-us-central1"] {
            let id = "google-cloud-us-central1";
            let first = "global:google-cloud:us-central1";
            check(&format!("origin:fastly+{host}"), hosting, id, first);
        }
        check("host:shared-fr", hosting, "shared-fr-own", "global:shared-fr");
        check("tld:co.uk", Layer::Tld, "uk", "global:tld:co.uk");
        check("tld:DE", Layer::Tld, "de", "global:tld:de");
        check("issuer:ZeroSSL", Layer::Issuer, "zerossl", "global:issuer:ZeroSSL");
        // Who was not selected has the catalogue's name.
        check("provider:fastly", Layer::Edge, "cloudflare", "global:cloudflare");
    }

    fn incident(reach: Reach) -> Incident {
        let grounds = Grounds {
            reasons: Vec::new(),
            ruled_out: Vec::new(),
            liar_bound: LiarBound::default(),
            confidence: Confidence::Low,
            seen: SeenBy::default(),
        };
        let now = Timestamp::from_s(1_800_000_000);
        Incident::open("x".to_owned(), now, now, Phase::Confirmed, reach, grounds)
    }

    #[test]
    fn sites_networks_and_resolvers_are_named_as_the_scenario_names_them() {
        let check = |expected: &str, agents: &str, subject: &dyn Fn(&World) -> Subject| {
            let scenario = scenario(expected, &[("FR", agents, "site:canva.com")]);
            let world = world(&scenario);
            let detector = Detector::new(world.catalogue.as_ref().clone(), Default::default());
            let names = Names::new(&scenario, &world, &Told::default());
            let subject = subject(&world);
            let name = names.verdict(&detector, subject, &incident(Reach::Observers));
            assert_eq!(name, expected, "{agents}");
        };
        let site = |world: &World| {
            Subject::Site(world.catalogue.find("canva.com").map(|target| target.index).unwrap())
        };
        check("site:canva.com", "all", &site);
        check("site:www.canva.com", "all", &site);
        let network = |world: &World| {
            let member = world.people.iter().find(|p| p.marks.contains(&"isp:free".to_owned()));
            Subject::Group(Group::Network(member.unwrap().asn))
        };
        check("isp:free", "isp:free", &network);
        let class = |name: &str| world::resolver(name).unwrap().1 as u8;
        for name in ["google", "8.8.8.8", "8.8.4.4"] {
            let resolver = |_: &World| Subject::Group(Group::Resolver(class("google")));
            check(&format!("global:resolver:{name}"), &format!("resolver:{name}"), &resolver);
        }
        let country = |_: &World| Subject::Group(Group::Country("FR".parse().unwrap()));
        check("regional:all:FR", "all", &country);
    }

    #[test]
    fn a_line_of_json_has_its_keys_in_their_order() {
        let options = Options::new(100, 7);
        let line = Outcome::unplayed("a".into(), "none".into(), vec!["global:x".into()], &options);
        assert_eq!(
            serde_json::to_string(&line).unwrap(),
            "{\"id\":\"a\",\"expected\":\"none\",\"acceptable\":[\"global:x\"],\"verdicts\":[],\
             \"pass\":false,\"incidents\":0,\"reopened\":0,\"suspected_s\":null,\
             \"confirmed_s\":null,\"resolved_s\":null,\"observers\":100,\"seed\":7,\
             \"bytes_per_observer_day\":0}"
        );
    }

    #[test]
    fn of_a_cell_of_few_prefixes_nothing_can_be_said() {
        let check = |expected: &str, agents: &str| {
            let scenario = scenario(expected, &[("FR", agents, "all")]);
            let world = world(&scenario);
            let truth = Truth::new(&scenario, &world);
            let options = Options::new(1_000, 1);
            let (from, to) = (scenario.onset, scenario.onset.plus_ms(1));
            let setup = Setup::new(from, from, to);
            let (world, truth, options) = (&world, &truth, &options);
            Case { scenario: &scenario, world, truth, options, setup }.is_too_small()
        };
        assert!(check("isp:free", "isp:free share:0.3"));
        assert!(!check("isp:free", "isp:free"));
        assert!(check("regional:all:FR", "one"));
        assert!(!check("regional:all:FR", "all"));
    }
}
