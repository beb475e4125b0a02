//! Scenarios: what is broken, for whom and when, as a file says it. The grammar is closed; a name
//! that the world does not have is added to it with a stated footprint, so any file in this
//! grammar runs.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    str::FromStr,
};

use anyhow::{Context, bail, ensure};
use serde::Deserialize;
use tocsin_collector::engine::plan::ENTITY_TARGETS_MIN;
use tocsin_proto::{
    catalogue::{Catalogue, Evidence, Provider, Role, Target},
    id::{Country, Id, TargetIndex},
    implicate::Layer,
    observation::Family,
    outcome::{Outcome, Phase as Step},
    report::ResolverClass,
    time::Timestamp,
};

use super::{
    dice::Dice,
    world::{self, FRESH, Person, Trouble, World, continent, network},
};

/// Targets of an unknown provider.
const PROVIDER_TARGETS: usize = 10;
/// Of all targets, in percent, behind a cloud's region, an unknown issuer or top-level domain.
const REGION_PERCENT: usize = 3;
const FACTOR_PERCENT: usize = 5;
/// Of the observers of its country, in percent, in a named network; and at least so many.
const ISP_PERCENT: usize = 6;
const ISP_MIN: usize = 12;
/// Numbers of the networks that are named, behind those of any country.
const ISP_PLACE: usize = 2_000;
/// Observers of a country, at least, that is named.
const REGION_MIN: usize = 12;
/// Of the observers, in a million, with a named client, system, version, store or resolver.
const MARKED: i64 = 100_000;
/// Of all keys, in a million, that are fresh at most, and so many: beyond it the play would take
/// hours, and be of nothing else.
const FRESH_SHARE_MAX: i64 = 900_000;
const FRESH_MAX: usize = 20_000;
/// Where they are: so many prefixes, in networks that no country has, three where nothing is said.
const FRESH_PREFIXES: u64 = 20;
const FRESH_PLACE: usize = 98;
const FRESH_NETWORKS: u32 = 3;

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
    /// Of those that the rest selects, those in so many networks.
    Networks(u32),
    /// With a mark: `isp:rogers`, `client:firefox`, `version:B`, `fresh_keys`.
    Marked(String),
    /// Who asks this resolver; `isp` for the provider's own.
    Resolver(String),
}

impl Who {
    /// Whether it is a part of everybody, whose size a scenario may give: a share right behind it is
    /// that size.
    fn is_part(&self) -> bool {
        match self {
            Self::Marked(mark) => {
                let kind = mark.split_once(':').map_or(mark.as_str(), |(kind, _)| kind);
                matches!(kind, "client" | "os" | "version" | "trust_store" | FRESH)
            }
            Self::Resolver(name) => name != "validating" && world::resolver(name).is_none(),
            Self::All | Self::One | Self::Share(_) | Self::Networks(_) => false,
        }
    }

    /// The mark of a named network.
    fn isp(&self) -> Option<&str> {
        match self {
            Self::Marked(mark) if mark.starts_with("isp:") => Some(mark),
            _ => None,
        }
    }
}

/// The conditions one by one, each with the size of its own where it is a part of everybody.
pub(super) fn conditions(who: &[Who]) -> impl Iterator<Item = (&Who, Option<i64>)> {
    who.iter().enumerate().filter_map(move |(at, one)| {
        let before = at.checked_sub(1).and_then(|before| who.get(before));
        let of_another = matches!(one, Who::Share(_)) && before.is_some_and(Who::is_part);
        let own = match who.get(at + 1) {
            Some(Who::Share(share)) if one.is_part() => Some(*share),
            _ => None,
        };
        (!of_another).then_some((one, own))
    })
}

/// In how many networks those are whom a phase selects, where it says that.
pub(super) fn networks(who: &[Who]) -> Option<u32> {
    let networks = |who: &Who| if let Who::Networks(n) = who { Some(*n) } else { None };
    who.iter().find_map(networks)
}

/// How many keys are fresh when they are this share of all, in millionths.
pub(super) fn fresh_keys(established: usize, share: i64) -> usize {
    let share = share.clamp(0, FRESH_SHARE_MAX);
    let keys = established as i64 * share / (1_000_000 - share);
    usize::try_from(keys).unwrap_or(0).min(FRESH_MAX)
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

impl Region {
    /// Whether a country is in it.
    #[must_use]
    pub fn has(self, country: Country) -> bool {
        match self {
            Self::Everyone => true,
            Self::Country(own) => own == country,
            Self::Continent(code) => continent(country) == Some(code),
        }
    }

    /// How closely it names somebody: of phases that differ in it the closest holds.
    #[must_use]
    pub const fn specificity(self) -> u8 {
        match self {
            Self::Everyone => 0,
            Self::Continent(_) => 1,
            Self::Country(_) => 2,
        }
    }

    /// The country of it where most of this world's people are, or of any other's.
    fn home(self, world: &World) -> Option<Country> {
        if let Self::Country(country) = self {
            return Some(country);
        }
        let mut people: BTreeMap<Country, usize> = BTreeMap::new();
        for person in world.people.iter().filter(|person| self.has(person.country)) {
            *people.entry(person.country).or_default() += 1;
        }
        let most = people.into_iter().max_by_key(|(country, people)| (*people, Reverse(*country)));
        most.map(|(country, _)| country).or_else(|| world::densest(|country| self.has(country)))
    }
}

impl FromStr for Region {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        let text = text.to_ascii_uppercase();
        if text == "*" {
            return Ok(Self::Everyone);
        }
        if let Some(code) = text.strip_prefix("CONTINENT:") {
            let code: [u8; 2] =
                code.as_bytes().try_into().context("a continent has two letters")?;
            return Ok(Self::Continent(code));
        }
        // By these names they are known to those who do not know ISO 3166.
        let code = match text.as_str() {
            "UK" => "GB",
            "EL" => "GR",
            other => other,
        };
        Ok(Self::Country(code.parse().context("region")?))
    }
}

/// Whose page a server error is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Page {
    /// The edge's own: it failed.
    Edge,
    /// The edge's, who says that what stands behind it failed; the site's own where there is no edge.
    Origin,
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
    /// Whose page the server errors of a phase are, by its place, where the scenario says it; else it
    /// follows from what the phase selects.
    pub pages: BTreeMap<usize, Page>,
}

/// A scenario of a file: what it says of itself, and what was read.
#[derive(Debug)]
pub struct Entry {
    /// Its name, or its place in the file.
    pub id: String,
    /// The best verdict; empty where that cannot be read.
    pub expected: String,
    /// Others that are not wrong.
    pub acceptable: Vec<String>,
    /// The scenario, or why there is none.
    pub scenario: anyhow::Result<Scenario>,
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
/// With the scenario, the phase and what is wrong there: of the first that cannot be read.
pub fn parse(text: &str) -> anyhow::Result<Vec<Scenario>> {
    read(text)?.into_iter().map(|entry| entry.scenario).collect()
}

/// Reads a file of scenarios one by one: what is wrong with one is no other's concern.
///
/// # Errors
/// When there is no scenario in it.
pub fn read(text: &str) -> anyhow::Result<Vec<Entry>> {
    let entries: Vec<Entry> = match toml::from_str::<toml::Table>(text) {
        Ok(mut file) => match file.remove("incident") {
            Some(toml::Value::Array(incidents)) => {
                (1..).zip(incidents).map(|(number, raw)| Entry::new(number, raw)).collect()
            }
            _ => Vec::new(),
        },
        Err(_) => (1..).zip(pieces(text)).map(|(number, raw)| Entry::cut(number, &raw)).collect(),
    };
    ensure!(!entries.is_empty(), "this is no file of scenarios: it has no [[incident]]");
    Ok(entries)
}

/// The text of each scenario; what stands before the first is of none.
fn pieces(text: &str) -> Vec<String> {
    let mut pieces: Vec<String> = Vec::new();
    for line in text.lines() {
        if line.trim_start().starts_with("[[incident]]") {
            pieces.push(String::new());
        }
        if let Some(piece) = pieces.last_mut() {
            piece.push_str(line);
            piece.push('\n');
        }
    }
    pieces
}

impl Entry {
    fn new(number: usize, raw: toml::Value) -> Self {
        let text = |key: &str| raw.get(key).and_then(toml::Value::as_str).map(str::to_owned);
        let id = text("id").unwrap_or_else(|| format!("#{number}"));
        let expected = text("expected").unwrap_or_default();
        let acceptable = raw.get("acceptable").and_then(toml::Value::as_array);
        let acceptable = acceptable.into_iter().flatten();
        let acceptable =
            acceptable.filter_map(|verdict| verdict.as_str().map(str::to_owned)).collect();
        let read: Result<RawScenario, _> = raw.try_into();
        let scenario = read
            .with_context(|| format!("scenario {id} cannot be read"))
            .and_then(Scenario::try_from);
        Self { id, expected, acceptable, scenario }
    }

    /// One of a file that is no TOML as a whole: what is wrong is in this piece, or in another.
    fn cut(number: usize, piece: &str) -> Self {
        let field = |key: &str| {
            let of = |line: &str| {
                let (name, value) = line.split_once('=')?;
                (name.trim() == key).then(|| value.trim().trim_matches('"').to_owned())
            };
            piece.lines().find_map(of)
        };
        let error = match toml::from_str::<toml::Table>(piece) {
            Ok(mut file) => {
                if let Some(toml::Value::Array(incidents)) = file.remove("incident")
                    && let Some(raw) = incidents.into_iter().next()
                {
                    return Self::new(number, raw);
                }
                anyhow::anyhow!("there is nothing in it")
            }
            Err(error) => anyhow::Error::new(error),
        };
        let id = field("id").unwrap_or_else(|| format!("#{number}"));
        let scenario = Err(error.context(format!("scenario {id} is no TOML")));
        Self { id, expected: field("expected").unwrap_or_default(), acceptable: vec![], scenario }
    }
}

/// A time of RFC 3339: with fractions of seconds, and with any offset from UTC.
fn utc(text: &str) -> anyhow::Result<Timestamp> {
    let wrong = || format!("{text:?} is no time of the form 2025-11-18T11:20:00Z");
    let number = |part: &str| -> anyhow::Result<i64> {
        ensure!(!part.is_empty() && part.bytes().all(|c| c.is_ascii_digit()), wrong());
        part.parse().with_context(wrong)
    };
    let numbers = |part: &str, by: char| -> anyhow::Result<[i64; 3]> {
        let parts: Vec<i64> = part.split(by).map(number).collect::<Result<_, _>>()?;
        parts.try_into().ok().with_context(wrong)
    };
    let (date, rest) = text.trim().split_once(['T', 't', ' ']).with_context(wrong)?;
    let (clock, offset_s) = match rest.strip_suffix(['Z', 'z']) {
        Some(clock) => (clock, 0),
        None => {
            let (clock, offset) = rest.split_at(rest.rfind(['+', '-']).with_context(wrong)?);
            let (sign, offset) = offset.split_at(1);
            let (hours, minutes) = offset.split_once(':').with_context(wrong)?;
            let seconds = (number(hours)? * 60 + number(minutes)?) * 60;
            (clock, if sign == "-" { -seconds } else { seconds })
        }
    };
    let (clock, fraction) = clock.split_once('.').unwrap_or((clock, "0"));
    let [year, month, day] = numbers(date, '-')?;
    let [hour, minute, second] = numbers(clock, ':')?;
    number(fraction)?;
    let ms = number(format!("{fraction:0<3}").get(..3).with_context(wrong)?)?;
    ensure!(
        (1970..=9999).contains(&year)
            && (1..=12).contains(&month)
            && (1..=31).contains(&day)
            && hour < 24
            && minute < 60
            && second <= 60,
        wrong()
    );
    // Days from the civil calendar: years begin in March, so that the leap day is the last
    // (Hinnant, chrono-Compatible Low-Level Date Algorithms).
    let (y, m) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = 365 * y + y / 4 - y / 100 + y / 400 + (153 * m + 2) / 5 + day - 1 - 719_468;
    let seconds = ((days * 24 + hour) * 60 + minute) * 60 + second - offset_s;
    Ok(Timestamp::from_ms(u64::try_from(seconds * 1_000 + ms)?))
}

fn millionths(share: f64) -> anyhow::Result<i64> {
    ensure!((0.0..=1.0).contains(&share), "{share} is no share between 0 and 1");
    // Sixth decimals are far below what any of these numbers knows.
    Ok((share * 1e6).round() as i64)
}

fn symptom(name: &str) -> anyhow::Result<(Outcome, Option<Page>)> {
    let page = match name {
        "edge_error" => Some(Page::Edge),
        "origin_error" => Some(Page::Origin),
        _ => None,
    };
    let outcome = Outcome::from_field_name(name)
        .with_context(|| format!("symptom {name:?}: name an outcome, such as http_5xx"))?;
    Ok((outcome, page))
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
            // Names are the same in any case.
            "site" => Self::Site(name.to_ascii_lowercase()),
            "host" => Self::Host(name),
            "name" => Self::Name(name.to_ascii_lowercase()),
            "tld" => Self::Tld(name.trim_start_matches('.').to_ascii_lowercase()),
            "issuer" => Self::Issuer(name),
            other => bail!("targets {other}:... is no selector"),
        })
    }
}

fn who(text: &str) -> anyhow::Result<Vec<Who>> {
    let words = text.split([' ', '+']).filter(|word| !word.is_empty());
    let words = words
        .map(|word| {
            Ok(match word.split_once(':') {
                None if word == "all" => Who::All,
                None if word == "one" => Who::One,
                None if word == FRESH => Who::Marked(word.to_owned()),
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
        .collect::<anyhow::Result<Vec<Who>>>()?;
    ensure!(!words.is_empty(), "agents: write all, one, share:F, isp:NAME or another selector");
    Ok(with_shares(words))
}

/// Puts a share right behind the part of everybody that it refines: the last before it, or else the
/// first. A part of which nothing is said has the usual size.
fn with_shares(words: Vec<Who>) -> Vec<Who> {
    let parts = || words.iter().enumerate().filter(|(_, who)| who.is_part()).map(|(at, _)| at);
    let mut shares: BTreeMap<usize, i64> = parts().map(|part| (part, MARKED)).collect();
    for (at, who) in words.iter().enumerate() {
        let part = parts().take_while(|part| *part < at).last().or_else(|| parts().next());
        if let (Who::Share(share), Some(part)) = (who, part) {
            shares.insert(part, *share);
        }
    }
    let mut sorted = Vec::with_capacity(words.len() + shares.len());
    for (at, who) in words.into_iter().enumerate() {
        if shares.is_empty() || !matches!(who, Who::Share(_)) {
            sorted.push(who);
            sorted.extend(shares.get(&at).map(|share| Who::Share(*share)));
        }
    }
    sorted
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
            Some("pki" | "issuer") => Layer::Issuer,
            _ => Layer::Edge,
        };
        let phase = |raw: RawPhase| -> anyhow::Result<(Phase, Option<Page>)> {
            let ms = |minutes: f64| (minutes * 60_000.0).round().max(0.0) as u64;
            ensure!(raw.from_min < raw.to_min, "from_min must be before to_min");
            let (symptom, page) = symptom(raw.symptom.trim())?;
            let phase = Phase {
                from_ms: ms(raw.from_min),
                to_ms: ms(raw.to_min),
                region: raw.region.trim().parse()?,
                fraction: millionths(raw.failure_fraction)?,
                symptom,
                who: who(&raw.agents)?,
                targets: raw.targets.parse()?,
                mode: raw.mode,
                overlay: raw.overlay,
                silent: raw.agents_silent,
                family: None,
            };
            Ok((phase, page))
        };
        let (mut phases, mut pages) = (Vec::new(), BTreeMap::new());
        for (at, raw) in raw.phase.into_iter().enumerate() {
            let read = phase(raw)
                .with_context(|| format!("scenario {id}, phase {number}", number = at + 1));
            let (phase, page) = read?;
            phases.push(phase);
            pages.extend(page.map(|page| (at, page)));
        }
        let clock_ms = first.map_or(0, |first| first.since_ms(onset));
        let (expected, acceptable) = (raw.expected, raw.acceptable);
        Ok(Self { id, onset, clock_ms, layer, expected, acceptable, phases, pages })
    }
}

/// The name of a provider as an identifier: lower case, and a dash for what may not stand in one.
#[must_use]
pub fn slug(name: &str) -> String {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '.' | '-');
    let slug: String =
        name.to_ascii_lowercase().chars().map(|c| if plain(c) { c } else { '-' }).collect();
    slug.trim_start_matches(['-', '.']).to_owned()
}

/// The identifier of who runs the sites of one owner.
pub(super) fn owner(name: &str) -> String {
    slug(&format!("{name}-own"))
}

/// A site's host without `www`: both are the same site.
pub(super) fn bare(host: &str) -> &str {
    host.strip_prefix("www.").unwrap_or(host)
}

/// Whether a host is under a domain, which may have several labels.
pub(super) fn is_under(host: &str, domain: &str) -> bool {
    host.strip_suffix(domain).is_some_and(|rest| rest.ends_with('.'))
}

/// The cloud of a region that is written without a colon, such as `aws-us-east-1`: of the providers
/// that are known the one with the longest name.
pub(super) fn cloud<'a>(name: &str, known: impl Iterator<Item = &'a Id>) -> Option<&'a Id> {
    let of = |id: &&Id| name.strip_prefix(id.as_str()).is_some_and(|rest| rest.starts_with('-'));
    known.filter(of).max_by_key(|id| id.as_str().len())
}

/// The roles of which a provider needs one for a symptom of its sites to be laid at its door.
const fn shown_in(symptom: Outcome) -> &'static [Layer] {
    match symptom {
        // Of its issuer, whoever serves it: no other role shows it.
        Outcome::TlsCertExpired | Outcome::TlsCertName | Outcome::TlsCertUntrusted => Layer::ALL,
        _ => match symptom.phase() {
            Some(Step::Dns) => &[Layer::Dns],
            Some(Step::Tcp | Step::Tls | Step::Http) => &[Layer::Edge, Layer::Hosting, Layer::Aux],
            None => Layer::ALL,
        },
    }
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
            max_total_rps: None,
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
        (self.targets.len() * percent).div_ceil(100).max(ENTITY_TARGETS_MIN)
    }

    /// Targets behind a provider in a role, as far as that decides something.
    fn deciding(&self, provider: &Id, layer: Layer) -> usize {
        let of = |role: &Role| role.role == layer && role.provider == *provider;
        self.targets.iter().filter(|target| target.deciding_roles().any(of)).count()
    }

    /// So many targets of somebody's own.
    fn own(&mut self, name: &str, count: usize, roles: &[(Layer, &Id)]) -> anyhow::Result<()> {
        let roles: Vec<Role> = roles.iter().map(|(role, id)| Self::role(*role, id)).collect();
        let mut added = 0;
        for n in 0.. {
            let id = slug(&format!("{name}-{n}"));
            if added == count {
                break;
            }
            if self.targets.iter().all(|target| target.id.as_str() != id) {
                let host = format!("{}-{n}.com", slug(name).replace('.', "-"));
                self.add(&id, &host, roles.clone())?;
                added += 1;
            }
        }
        Ok(())
    }

    /// A provider whose sites show these symptoms. Of one that is unknown, or known in no role in
    /// which they would show, there are targets of its own in the scenario's role and in that.
    fn behind(&mut self, name: &str, layer: Layer, symptoms: &[Outcome]) -> anyhow::Result<()> {
        let id = self.provider(name)?;
        let mut roles: BTreeSet<Layer> = BTreeSet::new();
        for symptom in symptoms {
            let shown = shown_in(*symptom);
            if shown.iter().all(|layer| self.deciding(&id, *layer) < ENTITY_TARGETS_MIN) {
                roles.extend(shown.iter().find(|role| **role == layer).or(shown.first()));
            }
        }
        let have = roles.iter().map(|role| self.deciding(&id, *role)).max();
        let Some(have) = have else { return Ok(()) };
        roles.insert(layer);
        let roles: Vec<(Layer, &Id)> = roles.into_iter().map(|role| (role, &id)).collect();
        self.own(id.as_str(), PROVIDER_TARGETS - have, &roles)
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
            pages: BTreeMap::new(),
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
    pub fn catalogue(&self, of: &Catalogue, world: Dice) -> anyhow::Result<Catalogue> {
        let mut draft = Draft {
            providers: of.providers().values().cloned().collect(),
            targets: of.targets().values().cloned().collect(),
            version: of.version(),
        };
        for phase in &self.phases {
            match &phase.targets {
                Targets::All | Targets::Role(..) => {}
                Targets::Provider(name) => {
                    let same = self.phases.iter().filter(|other| other.targets == phase.targets);
                    let symptoms: Vec<Outcome> = same.map(|other| other.symptom).collect();
                    draft.behind(name, self.layer, &symptoms)?;
                }
                Targets::Hosted(name) => draft.hosted(name, world)?,
                Targets::Origin(edge, host) => draft.origin(edge, host, world)?,
                Targets::Site(host) | Targets::Name(host) => {
                    if !draft.targets.iter().any(|target| bare(&target.host) == bare(host)) {
                        let own = draft.provider(&owner(host))?;
                        draft.add(host, host, vec![Draft::role(Layer::Hosting, &own)])?;
                    }
                }
                Targets::Host(name) => {
                    let own = draft.provider(&owner(name))?;
                    let have = draft.deciding(&own, Layer::Hosting);
                    let roles = [(Layer::Hosting, &own)];
                    draft.own(name, ENTITY_TARGETS_MIN.saturating_sub(have), &roles)?;
                }
                Targets::Tld(tld) => {
                    let have = draft.targets.iter().filter(|t| is_under(&t.host, tld)).count();
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

    /// Gives observers the marks that this scenario needs; adds those whom countries, networks and
    /// keys lack.
    pub fn mark(&self, world: &mut World) {
        for phase in &self.phases {
            settle(world, phase.region);
        }
        for (number, (mark, country)) in self.isps(world).into_iter().enumerate() {
            isp(world, &mark, country, network(ISP_PLACE + number, 0));
        }
        for phase in &self.phases {
            ask_it(world, phase);
        }
        for (mark, share) in self.parts() {
            let dice = world.dice.named(&mark);
            for (_, person) in
                (0u64..).zip(&mut world.people).filter(|(at, _)| dice.of(*at).happens(share))
            {
                if mark.starts_with("resolver:") {
                    (person.resolver, person.resolver_name) = (ResolverClass::OtherPublic, "other");
                }
                person.marks.push(mark.clone());
            }
        }
        // Zones with half of the people: the scorecard asks for it.
        let zones = |who: &&Who| matches!(who, Who::Marked(mark) if mark.starts_with("zones:"));
        if let Some(Who::Marked(mark)) = self.phases.iter().flat_map(|p| &p.who).find(zones) {
            let half = half_of_the_zones(world);
            for person in &mut world.people {
                if person.zone.is_some_and(|zone| half.contains(&zone)) {
                    person.marks.push(mark.clone());
                }
            }
        }
        // Last, for they are a share of all who are there.
        for phase in &self.phases {
            fresh(world, phase);
        }
    }

    /// Named networks and the countries where they are: those that phases name, and where one names
    /// nothing closer, the country of its region where most people are.
    fn isps(&self, world: &World) -> Vec<(String, Country)> {
        let mut named: Vec<(&str, Vec<Region>)> = Vec::new();
        for phase in &self.phases {
            for mark in phase.who.iter().filter_map(Who::isp) {
                match named.iter_mut().find(|(known, _)| *known == mark) {
                    Some((_, regions)) => regions.push(phase.region),
                    None => named.push((mark, vec![phase.region])),
                }
            }
        }
        let mut isps = Vec::new();
        for (mark, mut regions) in named {
            regions.sort_by_key(|region| Reverse(region.specificity()));
            let mut countries: Vec<Country> = Vec::new();
            for region in regions {
                if !countries.iter().any(|country| region.has(*country)) {
                    countries.extend(region.home(world));
                }
            }
            isps.extend(countries.into_iter().map(|country| (mark.to_owned(), country)));
        }
        isps
    }

    /// Marks of which some observers have each, with the largest share that a phase gives it. The
    /// share of a phase is of the same order, so a smaller one is among a larger.
    fn parts(&self) -> BTreeMap<String, i64> {
        let mut parts: BTreeMap<String, i64> = BTreeMap::new();
        for phase in &self.phases {
            for (who, share) in conditions(&phase.who).filter(|(who, _)| who.is_part()) {
                let mark = match who {
                    Who::Marked(mark) if mark != FRESH => mark.clone(),
                    Who::Resolver(name) => format!("resolver:{name}"),
                    _ => continue,
                };
                // Who is confined to networks is found there.
                let confined = networks(&phase.who).is_some() && matches!(who, Who::Marked(_));
                let share = if confined { 1_000_000 } else { share.unwrap_or(MARKED) };
                let most = parts.entry(mark).or_default();
                *most = share.max(*most);
            }
        }
        parts
    }
}

impl Draft {
    /// A cloud's region: a part of the targets, first of those that the cloud hosts already. Of those
    /// half at most, or the region could not be told from the cloud; then of those of which no host is
    /// known.
    fn hosted(&mut self, name: &str, dice: Dice) -> anyhow::Result<()> {
        let id = self.provider(name)?;
        if self.deciding(&id, Layer::Hosting) >= ENTITY_TARGETS_MIN {
            return Ok(());
        }
        let known = || self.providers.iter().map(|provider| &provider.id);
        let cloud = match name.split_once(':') {
            Some((cloud, _)) => cloud.to_owned(),
            None => cloud(id.as_str(), known()).map_or(String::new(), ToString::to_string),
        };
        let want = self.percent(REGION_PERCENT);
        let dice = dice.named(name);
        let host = |at: &usize| self.targets.get(*at).and_then(|t| t.provider(Layer::Hosting));
        let is_of_cloud = |at: &usize| host(at).is_some_and(|host| host.as_str() == cloud);
        let throw = |at: &usize| dice.of(*at as u64).throw();
        let all = 0..self.targets.len();
        let (mut own, mut others): (Vec<usize>, Vec<usize>) = all.partition(is_of_cloud);
        own.sort_by_key(throw);
        own.truncate((own.len() / 2).min(want));
        others.sort_by_key(|at| (host(at).is_some(), throw(at)));
        own.extend(others.into_iter().take(want - own.len()));
        for at in own {
            if let Some(target) = self.targets.get_mut(at) {
                target.roles.push(Self::role(Layer::Hosting, &id));
            }
        }
        Ok(())
    }

    /// Targets behind an edge and in a cloud's region: of those that are behind the edge already, and
    /// where there are too few, some of their own.
    fn origin(&mut self, edge: &str, host: &str, dice: Dice) -> anyhow::Result<()> {
        let edge = self.provider(edge)?;
        let id = self.provider(host)?;
        let both = |target: &Target| {
            let has = |id: &Id| target.deciding_roles().any(|role| role.provider == *id);
            has(&edge) && has(&id)
        };
        let have = self.targets.iter().filter(|target| both(target)).count();
        let dice = dice.named(id.as_str());
        let mut order: Vec<usize> = (0..self.targets.len()).collect();
        order.sort_by_key(|at| dice.of(*at as u64).throw());
        let want = self.percent(REGION_PERCENT).saturating_sub(have);
        let behind = order.into_iter().filter(|at| {
            self.targets
                .get(*at)
                .is_some_and(|target| target.provider(Layer::Edge) == Some(&edge) && !both(target))
        });
        let chosen: Vec<usize> = behind.take(want).collect();
        let have = have + chosen.len();
        for at in chosen {
            if let Some(target) = self.targets.get_mut(at) {
                target.roles.push(Self::role(Layer::Hosting, &id));
            }
        }
        if have < ENTITY_TARGETS_MIN {
            let roles = [(Layer::Edge, &edge), (Layer::Hosting, &id)];
            self.own(&format!("{edge}-{id}"), PROVIDER_TARGETS - have, &roles)?;
        }
        Ok(())
    }
}

/// Whom a region that is named lacks, so that there is somebody to tell of it.
fn settle(world: &mut World, region: Region) {
    let have = world.people.iter().filter(|person| region.has(person.country)).count();
    let Some(home) = region.home(world).filter(|_| region != Region::Everyone) else { return };
    for _ in have..REGION_MIN {
        world.add(home);
    }
}

/// A named network: a part of its country's observers, each in its own prefix. It takes half of them
/// at most, and has others besides: there are others in the country too.
fn isp(world: &mut World, mark: &str, country: Country, asn: u32) {
    let dice = world.dice.named(mark);
    let free = |person: &Person| !person.marks.iter().any(|mark| mark.starts_with("isp:"));
    let mut members: Vec<usize> = (0..world.people.len())
        .filter(|at| world.people.get(*at).is_some_and(|p| p.country == country && free(p)))
        .collect();
    members.sort_by_key(|at| dice.of(*at as u64).throw());
    let want = (members.len() * ISP_PERCENT).div_ceil(100).max(ISP_MIN);
    members.truncate(want.min(members.len() / 2));
    while members.len() < want {
        members.push(world.add(country));
    }
    let slots = dice.named("slot").named(country.as_str());
    for (n, at) in (0u64..).zip(members) {
        let Some(person) = world.people.get_mut(at) else { continue };
        person.asn = asn;
        person.slot = slots.of(n).throw();
        person.trouble = Trouble::None;
        person.marks.push(mark.to_owned());
    }
}

/// Of a network that fails for those who ask a resolver, half ask it at least: that is why it is told
/// of.
fn ask_it(world: &mut World, phase: &Phase) {
    let mark = phase.who.iter().find_map(Who::isp);
    let asked = phase.who.iter().find_map(|who| match who {
        Who::Resolver(name) => world::resolver(name),
        _ => None,
    });
    let (Some(mark), Some((name, class))) = (mark, asked) else { return };
    let is_member = |person: &&mut Person| {
        phase.region.has(person.country) && person.marks.iter().any(|own| own == mark)
    };
    let (asking, others): (Vec<&mut Person>, Vec<&mut Person>) =
        world.people.iter_mut().filter(is_member).partition(|p| p.resolver_name == name);
    let missing = others.len().saturating_sub(asking.len()).div_ceil(2);
    for person in others.into_iter().take(missing) {
        (person.resolver, person.resolver_name) = (class, name);
    }
}

/// Keys that nobody knows, in few networks: so many that they are this share of all who are there
/// then. A larger share in a later phase adds to them.
fn fresh(world: &mut World, phase: &Phase) {
    let share = conditions(&phase.who).find_map(|(who, share)| match who {
        Who::Marked(mark) if mark == FRESH => Some(share.unwrap_or(MARKED)),
        _ => None,
    });
    let Some(share) = share else { return };
    let networks = u64::from(networks(&phase.who).unwrap_or(FRESH_NETWORKS).max(1));
    let dice = world.dice.named(FRESH);
    let here = world.people.iter().enumerate().filter(|(_, p)| phase.region.has(p.country));
    let (fresh, known): (Vec<usize>, Vec<usize>) =
        here.map(|(at, _)| at).partition(|at| world.people.get(*at).is_some_and(Person::is_fresh));
    for n in fresh.len() as u64..fresh_keys(known.len(), share) as u64 {
        let model = known.get(dice.of(n).below(known.len() as u64) as usize);
        let Some(mut person) = model.and_then(|at| world.people.get(*at)).cloned() else { return };
        let prefix = n % networks.max(FRESH_PREFIXES);
        person.asn = network(FRESH_PLACE, usize::try_from(prefix % networks).unwrap_or(0));
        person.slot = dice.named("slot").of(prefix).throw();
        person.awake = None;
        person.trouble = Trouble::None;
        person.marks = vec![FRESH.to_owned()];
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
    zones.sort_by_key(|(zone, people)| (Reverse(*people), *zone));
    let fits = zones.into_iter().filter(|(_, people)| {
        let fits = *people <= left;
        left -= if fits { *people } else { 0 };
        fits
    });
    fits.map(|(zone, _)| zone).collect()
}

#[cfg(test)]
mod tests;
