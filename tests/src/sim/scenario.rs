//! Scenarios: what is broken, for whom and when, as a file says it. The grammar is closed; a name
//! that the world does not have is added to it with a stated footprint, so any file in this
//! grammar runs.

use std::{
    collections::{BTreeMap, BTreeSet},
    str::FromStr,
};

use anyhow::{Context, bail, ensure};
use serde::Deserialize;
use tocsin_proto::{
    catalogue::{Catalogue, Evidence, Provider, Role, Target},
    id::{Country, Id, TargetIndex},
    implicate::Layer,
    observation::Family,
    outcome::Outcome,
    report::ResolverClass,
    time::Timestamp,
};

use super::world::{Person, Trouble, World, network};

/// Targets of an unknown provider.
const PROVIDER_TARGETS: usize = 10;
/// Of all targets, in percent, behind a cloud's region, an unknown issuer or top-level domain.
const REGION_PERCENT: usize = 3;
const FACTOR_PERCENT: usize = 5;
/// Of the observers of its country, in percent, in a named network; and at least so many.
const ISP_PERCENT: usize = 6;
const ISP_MIN: usize = 12;
/// Of the observers, in a million, with a named client, system, version, store or resolver.
const MARKED: i64 = 100_000;

/// Who is affected, of the targets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Targets {
    /// Every one.
    All,
    /// With that provider in any role.
    Provider(String),
    /// With that provider in this role: none that the grammar of scenarios has, but one of the
    /// scorecard's.
    Role(String, Layer),
    /// In a cloud's region.
    Hosted(String),
    /// Behind both.
    Origin(String, String),
    /// One site, by its host.
    Site(String),
    /// Several sites of one owner.
    Host(String),
    /// One name.
    Name(String),
    /// Under a top-level domain.
    Tld(String),
    /// With a certificate of an authority.
    Issuer(String),
}

/// One condition on observers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Who {
    /// Every one.
    All,
    /// A single one.
    One,
    /// Of those that the rest selects, this part, in millionths.
    Share(i64),
    /// Spread over so many networks.
    Networks(u32),
    /// With a mark: `isp:rogers`, `client:firefox`, `version:B`, `fresh_keys`.
    Marked(String),
    /// Who asks this resolver; `isp` for the provider's own.
    Resolver(String),
}

/// Where.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Region {
    /// Everyone whom nothing more specific names.
    Everyone,
    /// A country.
    Country(Country),
    /// A continent, by its two letters.
    Continent([u8; 2]),
}

/// How failures fall.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// A coin for each probe.
    PerRequest,
    /// A fixed part of the targets.
    PerTarget,
    /// A part of the targets that changes every five minutes, out of step.
    PerTargetFlap,
    /// By the serving location.
    PerRegion,
    /// By the observer's network.
    PerPath,
    /// A fixed part of the observers, everything selected.
    PerAgent,
}

/// One phase.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Phase {
    /// From this time on, milliseconds after the onset.
    pub from_ms: u64,
    /// Until then.
    pub to_ms: u64,
    /// Where.
    pub region: Region,
    /// Part of the probes, targets or observers that fail, in millionths.
    pub fraction: i64,
    /// How it shows.
    pub symptom: Outcome,
    /// For whom: every one of these.
    pub who: Vec<Who>,
    /// Of what.
    pub targets: Targets,
    /// How it falls.
    pub mode: Mode,
    /// Comes on top of what else is broken.
    pub overlay: bool,
    /// Those hit cannot reach the collector either.
    pub silent: bool,
    /// Over this address family alone.
    pub family: Option<Family>,
}

/// A scenario.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scenario {
    /// Its name.
    pub id: String,
    /// When it begins.
    pub onset: Timestamp,
    /// From when times are counted, milliseconds after the onset.
    pub clock_ms: u64,
    /// The role of a provider that has to be added.
    pub layer: Layer,
    /// The best verdict.
    pub expected: String,
    /// Others that are not wrong.
    pub acceptable: Vec<String>,
    /// What is broken.
    pub phases: Vec<Phase>,
}

#[derive(Deserialize)]
struct RawFile {
    incident: Vec<RawScenario>,
}

#[derive(Deserialize)]
struct RawScenario {
    id: String,
    onset_utc: String,
    first_customer_error_utc: Option<String>,
    layer: Option<String>,
    expected: String,
    #[serde(default)]
    acceptable: Vec<String>,
    phase: Vec<RawPhase>,
}

#[derive(Deserialize)]
struct RawPhase {
    from_min: f64,
    to_min: f64,
    #[serde(default = "everywhere")]
    region: String,
    failure_fraction: f64,
    symptom: String,
    #[serde(default = "all")]
    agents: String,
    targets: String,
    mode: Mode,
    #[serde(default)]
    overlay: bool,
    #[serde(default)]
    agents_silent: bool,
}

fn everywhere() -> String {
    "*".to_owned()
}

fn all() -> String {
    "all".to_owned()
}

/// Reads a file of scenarios.
///
/// # Errors
/// With the scenario, the phase and what is wrong there.
pub fn parse(text: &str) -> anyhow::Result<Vec<Scenario>> {
    let file: RawFile = toml::from_str(text).context("this is no file of scenarios")?;
    file.incident.into_iter().map(Scenario::try_from).collect()
}

fn utc(text: &str) -> anyhow::Result<Timestamp> {
    let digits: Vec<i64> = text
        .split(['-', 'T', ':', 'Z'])
        .filter(|part| !part.is_empty())
        .map(|part| part.parse().with_context(|| format!("{text:?} is no UTC time")))
        .collect::<Result<_, _>>()?;
    let [year, month, day, hour, minute, second] = digits[..] else {
        bail!("{text:?} is no UTC time of the form 2025-11-18T11:20:00Z");
    };
    ensure!((1970..=9999).contains(&year) && (1..=12).contains(&month), "{text:?} is no date");
    // Days from the civil calendar: years begin in March, so that the leap day is the last
    // (Hinnant, chrono-Compatible Low-Level Date Algorithms).
    let (y, m) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = 365 * y + y / 4 - y / 100 + y / 400 + (153 * m + 2) / 5 + day - 1 - 719_468;
    let seconds = ((days * 24 + hour) * 60 + minute) * 60 + second;
    Ok(Timestamp::from_s(u64::try_from(seconds)?))
}

fn millionths(share: f64) -> anyhow::Result<i64> {
    ensure!((0.0..=1.0).contains(&share), "{share} is no share between 0 and 1");
    // Sixth decimals are far below what any of these numbers knows.
    Ok((share * 1e6).round() as i64)
}

fn symptom(name: &str) -> anyhow::Result<Outcome> {
    Outcome::from_field_name(name)
        .with_context(|| format!("symptom {name:?}: name an outcome, such as http_5xx"))
}

impl FromStr for Targets {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        if text == "all" {
            return Ok(Self::All);
        }
        let (kind, name) = text.split_once(':').with_context(|| {
            format!("targets {text:?}: write all, provider:NAME, hosted:CLOUD:REGION, origin:EDGE+HOST, site:HOST, host:NAME, name:HOST, tld:XX or issuer:CA")
        })?;
        let name = name.to_owned();
        Ok(match kind {
            "provider" => Self::Provider(name),
            "hosted" => Self::Hosted(name),
            "origin" => {
                let (edge, host) = name.split_once('+').context("origin:EDGE+HOST needs a '+'")?;
                Self::Origin(edge.to_owned(), host.to_owned())
            }
            "site" => Self::Site(name),
            "host" => Self::Host(name),
            "name" => Self::Name(name),
            "tld" => Self::Tld(name),
            "issuer" => Self::Issuer(name),
            other => bail!("targets {other}:... is no selector"),
        })
    }
}

fn who(text: &str) -> anyhow::Result<Vec<Who>> {
    let words = text.split([' ', '+']).filter(|word| !word.is_empty());
    words
        .map(|word| {
            Ok(match word.split_once(':') {
                None if word == "all" => Who::All,
                None if word == "one" => Who::One,
                None if word == "fresh_keys" => Who::Marked(word.to_owned()),
                Some(("share", share)) => {
                    Who::Share(millionths(share.parse().context("share:F")?)?)
                }
                Some(("networks", count)) => Who::Networks(count.parse().context("networks:N")?),
                Some(("resolver", name)) => Who::Resolver(name.to_owned()),
                Some(("isp" | "client" | "os" | "version" | "trust_store", _)) => {
                    Who::Marked(word.to_owned())
                }
                _ => bail!("agents {word:?} is no selector"),
            })
        })
        .collect()
}

impl TryFrom<RawScenario> for Scenario {
    type Error = anyhow::Error;

    fn try_from(raw: RawScenario) -> anyhow::Result<Self> {
        let id = raw.id;
        let onset = utc(&raw.onset_utc).with_context(|| format!("scenario {id}: onset_utc"))?;
        let first = raw.first_customer_error_utc.as_deref().map(utc).transpose();
        let first = first.with_context(|| format!("scenario {id}: first_customer_error_utc"))?;
        let layer = match raw.layer.as_deref() {
            Some("dns") => Layer::Dns,
            Some("hosting" | "backbone" | "site") => Layer::Hosting,
            Some("aux") => Layer::Aux,
            _ => Layer::Edge,
        };
        let phase = |raw: RawPhase| -> anyhow::Result<Phase> {
            let ms = |minutes: f64| (minutes * 60_000.0).round().max(0.0) as u64;
            let region = match raw.region.as_str() {
                "*" => Region::Everyone,
                text => match text.strip_prefix("continent:") {
                    Some(code) => Region::Continent(
                        code.as_bytes().try_into().context("a continent has two letters")?,
                    ),
                    None => Region::Country(text.parse().context("region")?),
                },
            };
            ensure!(raw.from_min < raw.to_min, "from_min must be before to_min");
            Ok(Phase {
                from_ms: ms(raw.from_min),
                to_ms: ms(raw.to_min),
                region,
                fraction: millionths(raw.failure_fraction)?,
                symptom: symptom(&raw.symptom)?,
                who: who(&raw.agents)?,
                targets: raw.targets.parse()?,
                mode: raw.mode,
                overlay: raw.overlay,
                silent: raw.agents_silent,
                family: None,
            })
        };
        let phases = (1..).zip(raw.phase).map(|(number, raw)| {
            phase(raw).with_context(|| format!("scenario {id}, phase {number}"))
        });
        let phases = phases.collect::<Result<_, _>>()?;
        let clock_ms = first.map_or(0, |first| first.since_ms(onset));
        let (expected, acceptable) = (raw.expected, raw.acceptable);
        Ok(Self { id, onset, clock_ms, layer, expected, acceptable, phases })
    }
}

/// The name of a provider as an identifier: lower case, and a dash for what may not stand in one.
#[must_use]
pub fn slug(name: &str) -> String {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '.' | '-');
    name.to_ascii_lowercase().chars().map(|c| if plain(c) { c } else { '-' }).collect()
}

/// The targets and providers of a catalogue, to be added to.
struct Draft {
    providers: Vec<Provider>,
    targets: Vec<Target>,
    version: u32,
}

impl Draft {
    fn provider(&mut self, id: &str) -> anyhow::Result<Id> {
        let id: Id = slug(id).parse()?;
        if !self.providers.iter().any(|provider| provider.id == id) {
            // A product of a known provider, by its name, is run by the same.
            let of = |known: &&Provider| id.as_str().starts_with(&format!("{}-", known.id));
            let known = self.providers.iter().filter(of).max_by_key(|p| p.id.as_str().len());
            let organisation = known.map_or_else(|| id.clone(), |p| p.organisation.clone());
            self.providers.push(Provider { organisation, ..Provider::unlisted(id.clone()) });
        }
        Ok(id)
    }

    fn role(role: Layer, provider: &Id) -> Role {
        Role { role, provider: provider.clone(), evidence: Evidence::Operator }
    }

    fn add(&mut self, id: &str, host: &str, roles: Vec<Role>) -> anyhow::Result<()> {
        let last = self.targets.iter().map(|target| target.index.0).max();
        self.targets.push(Target {
            index: TargetIndex(last.map_or(0, |last| last + 1)),
            id: slug(id).parse()?,
            name: host.to_owned(),
            host: host.to_owned(),
            port: 443,
            path: "/".to_owned(),
            category: "scenario".to_owned(),
            countries: Vec::new(),
            status_page: None,
            roles,
        });
        Ok(())
    }

    fn percent(&self, percent: usize) -> usize {
        (self.targets.len() * percent).div_ceil(100).max(3)
    }
}

impl Scenario {
    /// One that is made by a program: only what breaks, and when.
    #[must_use]
    pub const fn of(onset: Timestamp, phases: Vec<Phase>) -> Self {
        Self {
            id: String::new(),
            onset,
            clock_ms: 0,
            layer: Layer::Edge,
            expected: String::new(),
            acceptable: Vec::new(),
            phases,
        }
    }

    /// When the last phase is over, milliseconds after the onset.
    #[must_use]
    pub fn length_ms(&self) -> u64 {
        self.phases.iter().map(|phase| phase.to_ms).max().unwrap_or(0)
    }

    /// The catalogue with every name that this scenario needs.
    ///
    /// # Errors
    /// When a name cannot be one.
    pub fn catalogue(&self, of: &Catalogue, world: super::dice::Dice) -> anyhow::Result<Catalogue> {
        let mut draft = Draft {
            providers: of.providers().values().cloned().collect(),
            targets: of.targets().values().cloned().collect(),
            version: of.version(),
        };
        for phase in &self.phases {
            match &phase.targets {
                Targets::All | Targets::Role(..) => {}
                Targets::Provider(name) => {
                    let id = draft.provider(name)?;
                    let known =
                        draft.targets.iter().any(|t| t.roles.iter().any(|r| r.provider == id));
                    if !known {
                        for n in 0..PROVIDER_TARGETS {
                            let host = format!("{}-{n}.com", id.as_str().replace('.', "-"));
                            let roles = vec![Draft::role(self.layer, &id)];
                            draft.add(&format!("{id}-{n}"), &host, roles)?;
                        }
                    }
                }
                Targets::Hosted(name) => draft.hosted(name, world)?,
                Targets::Origin(edge, host) => {
                    draft.provider(edge)?;
                    draft.origin(edge, host, world)?;
                }
                Targets::Site(host) | Targets::Name(host) => {
                    if !draft.targets.iter().any(|target| target.host == *host) {
                        let own = draft.provider(&format!("{host}-own"))?;
                        draft.add(host, host, vec![Draft::role(Layer::Hosting, &own)])?;
                    }
                }
                Targets::Host(name) => {
                    let own = draft.provider(&format!("{name}-own"))?;
                    let known =
                        draft.targets.iter().any(|t| t.roles.iter().any(|r| r.provider == own));
                    for n in (0..3).filter(|_| !known) {
                        let roles = vec![Draft::role(Layer::Hosting, &own)];
                        draft.add(
                            &format!("{name}-{n}"),
                            &format!("{}-{n}.com", slug(name)),
                            roles,
                        )?;
                    }
                }
                Targets::Tld(tld) => {
                    let have = draft.targets.iter().filter(|t| t.tld() == tld).count();
                    for n in have..draft.percent(FACTOR_PERCENT).max(have) {
                        draft.add(
                            &format!("tld-{tld}-{n}"),
                            &format!("site-{n}.{tld}"),
                            Vec::new(),
                        )?;
                    }
                }
                Targets::Issuer(name) => {
                    let id = draft.provider(name)?;
                    let known = |target: &Target| target.provider(Layer::Issuer) == Some(&id);
                    let have = draft.targets.iter().filter(|target| known(target)).count();
                    let want = draft.percent(FACTOR_PERCENT).saturating_sub(have);
                    let dice = world.named(name);
                    let mut order: Vec<usize> = (0..draft.targets.len()).collect();
                    order.sort_by_key(|at| dice.of(*at as u64).throw());
                    let mut free =
                        order.into_iter().filter_map(|at| Some((at, draft.targets.get(at)?)));
                    let free = free
                        .by_ref()
                        .filter(|(_, target)| target.provider(Layer::Issuer).is_none())
                        .map(|(at, _)| at);
                    let chosen: Vec<usize> = free.take(want).collect();
                    for at in chosen {
                        if let Some(target) = draft.targets.get_mut(at) {
                            target.roles.push(Draft::role(Layer::Issuer, &id));
                        }
                    }
                }
            }
        }
        let Draft { providers, targets, version } = draft;
        Ok(Catalogue::from_parts(version, providers, targets)?)
    }

    /// Gives observers the marks that this scenario needs; adds those of networks that are too
    /// small.
    pub fn mark(&self, world: &mut World) {
        let mut done: Vec<String> = Vec::new();
        for phase in &self.phases {
            for who in &phase.who {
                let (Who::Marked(mark), false) =
                    (who, done.iter().any(|d| Who::Marked(d.clone()) == *who))
                else {
                    continue;
                };
                done.push(mark.clone());
                match mark.split_once(':') {
                    Some(("isp", _)) => isp(world, mark, phase.region),
                    // Everybody may get it; a phase says which part has it.
                    Some(("version", _)) => {
                        for person in &mut world.people {
                            person.marks.push(mark.clone());
                        }
                    }
                    None => fresh(world, mark, &phase.who),
                    // Zones with half of the people: the scorecard asks for it.
                    Some(("zones", _)) => {
                        let half = half_of_the_zones(world);
                        for person in &mut world.people {
                            if person.zone.is_some_and(|zone| half.contains(&zone)) {
                                person.marks.push(mark.clone());
                            }
                        }
                    }
                    Some(_) => {
                        let dice = world.dice.named(mark);
                        for (at, person) in (0u64..).zip(&mut world.people) {
                            if dice.of(at).happens(MARKED) {
                                person.marks.push(mark.clone());
                            }
                        }
                    }
                }
            }
        }
    }
}

impl Draft {
    /// A cloud's region: a part of the targets, first of those that the cloud hosts already.
    fn hosted(&mut self, name: &str, dice: super::dice::Dice) -> anyhow::Result<()> {
        let id = self.provider(name)?;
        if self.targets.iter().any(|t| t.roles.iter().any(|role| role.provider == id)) {
            return Ok(());
        }
        let cloud = name.split([':', '-']).next().unwrap_or(name).to_owned();
        let want = self.percent(REGION_PERCENT);
        let dice = dice.named(name);
        let mut order: Vec<usize> = (0..self.targets.len()).collect();
        let hosts =
            |target: &Target| target.provider(Layer::Hosting).is_some_and(|p| p.as_str() == cloud);
        order.sort_by_key(|at| {
            let target = self.targets.get(*at);
            (!target.is_some_and(hosts), dice.of(*at as u64).throw())
        });
        for at in order.into_iter().take(want) {
            if let Some(target) = self.targets.get_mut(at) {
                target.roles.push(Self::role(Layer::Hosting, &id));
            }
        }
        Ok(())
    }

    /// Targets behind an edge and in a cloud's region.
    fn origin(&mut self, edge: &str, host: &str, dice: super::dice::Dice) -> anyhow::Result<()> {
        let (edge, host) = (slug(edge), slug(host));
        let id = self.provider(&host)?;
        let both = |target: &Target| {
            let has = |name: &str| target.roles.iter().any(|role| role.provider.as_str() == name);
            has(&edge) && has(&host)
        };
        let have = self.targets.iter().filter(|target| both(target)).count();
        let dice = dice.named(&host);
        let mut order: Vec<usize> = (0..self.targets.len()).collect();
        order.sort_by_key(|at| dice.of(*at as u64).throw());
        let want = self.percent(REGION_PERCENT).saturating_sub(have);
        let behind = order.into_iter().filter(|at| {
            self.targets.get(*at).is_some_and(|target| {
                target.provider(Layer::Edge).is_some_and(|p| p.as_str() == edge) && !both(target)
            })
        });
        let chosen: Vec<usize> = behind.take(want).collect();
        for at in chosen {
            if let Some(target) = self.targets.get_mut(at) {
                target.roles.push(Self::role(Layer::Hosting, &id));
            }
        }
        Ok(())
    }
}

/// A named network: a part of its country's observers, each in its own prefix.
fn isp(world: &mut World, mark: &str, region: Region) {
    let country = match region {
        Region::Country(country) => country,
        _ => "US".parse().unwrap_or(Country::UNKNOWN),
    };
    let dice = world.dice.named(mark);
    let place = World::country_number(country.as_str()).unwrap_or(99);
    // Behind the networks that the country has by itself.
    let asn = network(place, 20 + usize::try_from(dice.below(60)).unwrap_or(0));
    let mut here: Vec<usize> = (0..world.people.len())
        .filter(|at| {
            world.people.get(*at).is_some_and(|p| p.country == country && p.marks.is_empty())
        })
        .collect();
    here.sort_by_key(|at| dice.of(*at as u64).throw());
    let want = (here.len() * ISP_PERCENT).div_ceil(100).max(ISP_MIN);
    let sample = world.people.first().cloned();
    for n in 0..want {
        let slot = dice.named("slot").of(n as u64).throw();
        let change = |person: &mut Person| {
            person.asn = asn;
            person.slot = slot;
            person.trouble = Trouble::None;
            person.marks.push(mark.to_owned());
        };
        match here.get(n).and_then(|at| world.people.get_mut(*at)) {
            Some(person) => change(person),
            None => {
                let Some(mut person) = sample.clone() else { return };
                person.country = country;
                person.zone = tocsin_proto::catalogue::Zones::builtin().of(country);
                person.resolver = ResolverClass::Local;
                person.resolver_name = "isp";
                person.marks.clear();
                change(&mut person);
                world.people.push(person);
            }
        }
    }
}

/// Keys that nobody knows, in few networks.
fn fresh(world: &mut World, mark: &str, who: &[Who]) {
    let dice = world.dice.named(mark);
    let share =
        who.iter().find_map(|who| if let Who::Share(share) = who { Some(*share) } else { None });
    let networks =
        who.iter().find_map(|who| if let Who::Networks(n) = who { Some(*n) } else { None });
    let (share, networks) = (share.unwrap_or(MARKED), networks.unwrap_or(3).max(1));
    // So many that they are this share of all who are there then.
    let have = world.people.len() as i64;
    let want = have * share / (1_000_000 - share).max(1);
    for n in 0..want.unsigned_abs() {
        let model = usize::try_from(dice.of(n).below(have.unsigned_abs())).unwrap_or(0);
        let Some(mut person) = world.people.get(model).cloned() else { return };
        person.asn = network(98, usize::try_from(n % u64::from(networks)).unwrap_or(0));
        person.slot = dice.named("slot").of(n % 20).throw();
        person.awake = None;
        person.trouble = Trouble::None;
        person.marks = vec![mark.to_owned()];
        person.known_days = 0;
        world.people.push(person);
    }
}

/// Zones that together have at most half of the people, and as many of them as may be: the largest that
/// still fits, and so on.
fn half_of_the_zones(world: &World) -> BTreeSet<tocsin_proto::catalogue::ZoneIndex> {
    let mut people: BTreeMap<_, usize> = BTreeMap::new();
    for zone in world.people.iter().filter_map(|person| person.zone) {
        *people.entry(zone).or_default() += 1;
    }
    let mut left = people.values().sum::<usize>() / 2;
    let mut zones: Vec<_> = people.into_iter().collect();
    zones.sort_by_key(|(zone, people)| (std::cmp::Reverse(*people), *zone));
    let fits = zones.into_iter().filter(|(_, people)| {
        let fits = *people <= left;
        left -= if fits { *people } else { 0 };
        fits
    });
    fits.map(|(zone, _)| zone).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = r#"
        [[incident]]
        id = "a"
        onset_utc = "2025-11-18T11:20:00Z"
        first_customer_error_utc = "2025-11-18T11:28:00Z"
        layer = "dns"
        expected = "global:x"
        [[incident.phase]]
        from_min = 0
        to_min = 8.5
        failure_fraction = 0.05
        symptom = "http_5xx"
        targets = "TARGETS"
        agents = "AGENTS"
        mode = "per_request"
    "#;

    fn with(targets: &str, agents: &str) -> anyhow::Result<Scenario> {
        let text = ONE.replace("TARGETS", targets).replace("AGENTS", agents);
        parse(&text).map(|mut scenarios| scenarios.remove(0))
    }

    #[test]
    fn every_selector_is_read_and_nothing_else() {
        let scenario = with("provider:x", "share:0.05 networks:3").unwrap();
        assert_eq!(scenario.onset.to_string(), "2025-11-18T11:20:00.000Z");
        assert_eq!((scenario.clock_ms, scenario.length_ms()), (480_000, 510_000));
        assert_eq!(scenario.phases[0].who, [Who::Share(50_000), Who::Networks(3)]);
        for targets in [
            "all",
            "hosted:aws:us-east-1",
            "origin:a+b",
            "site:a.b",
            "host:a",
            "name:a.b",
            "tld:de",
            "issuer:x",
        ] {
            assert!(with(targets, "all").is_ok(), "{targets}");
        }
        for agents in [
            "one",
            "isp:a",
            "isp:a+resolver:isp",
            "client:f",
            "os:o",
            "version:B share:0.3",
            "trust_store:t",
            "fresh_keys share:0.4 networks:3",
        ] {
            assert!(with("all", agents).is_ok(), "{agents}");
        }
        for (targets, agents) in
            [("everything", "all"), ("planet:x", "all"), ("all", "nobody"), ("all", "share:2")]
        {
            assert!(with(targets, agents).is_err(), "{targets} {agents}");
        }
    }

    #[test]
    fn what_the_world_lacks_is_added() {
        let dice = super::super::dice::Dice::new(1);
        let of = |targets: &str| {
            let scenario = with(targets, "all").unwrap();
            scenario.catalogue(Catalogue::builtin(), dice).unwrap()
        };
        let builtin = Catalogue::builtin().targets().len();
        let behind = |catalogue: &Catalogue, id: &str| {
            let targets = catalogue.targets().values();
            targets.filter(|t| t.roles.iter().any(|r| r.provider.as_str() == id)).count()
        };
        let added = of("provider:unheard-of");
        assert_eq!((added.targets().len(), behind(&added, "unheard-of")), (builtin + 10, 10));
        let region = of("hosted:aws:us-east-1");
        assert_eq!(region.targets().len(), builtin);
        assert_eq!(behind(&region, "aws-us-east-1"), (builtin * 3).div_ceil(100));
        assert_eq!(of("site:nobody.test").targets().len(), builtin + 1);
        let tld = of("tld:zz");
        assert!(tld.targets().values().filter(|t| t.tld() == "zz").count() >= 12);
    }
}
