//! The detector over recorded observations: of this collector's own log under other settings, or of
//! anybody's file of JSON lines. Nobody is asked back, since nobody is there: the scheduled
//! observations alone decide.
//!
//! A file may have been made at any pace. Time is compressed so that its usual observer looks as
//! often as the windows are made for, and told in the file's own time. What people wait for, ten
//! minutes of recovery, an hour until an outage is another, stays as long as it is.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io::{BufRead, BufReader, Read},
    ops::RangeInclusive,
    path::{Path, PathBuf},
    sync::Arc,
};

use serde::{Deserialize, Deserializer, de::Error as _};
use serde_json::Value;
use tocsin_proto::{
    bounded::List,
    catalogue::{Catalogue, CatalogueError, Evidence, Provider, Role, Target, Zones},
    id::{Country, Id, ObserverId, TargetIndex},
    implicate::{DnsPath, Layer},
    observation::{Cause, Failure, Family, LogMs, Observation},
    outcome::{Outcome, Phase as Step},
    report::{Health, Report, ResolverClass},
    rules::{Fault, RuleNumber, RuleTable},
    sign::sha256,
    time::Timestamp,
};

use crate::engine::{
    detector::{Changed, Detector, Record, State},
    observer::Standing,
    params::{PANEL_TICK_MS, Settings},
    plan::Plan,
};

/// Bytes of one line at most.
const LINE_MAX: u64 = 64 * 1024;
/// Malformed lines that are named; the others are counted.
const NAMED_MAX: usize = 20;
/// Milliseconds between an observer's observations that the windows are made for.
const NOMINAL_MS: u64 = 20_000;
/// Who looks at several sites at once is as one that reports once a minute: looks of a round that count.
const ROUND_LOOKS_MAX: u64 = 3;
/// Periods of an observer that are measured: some are enough, and the first are as good as any.
const PERIODS_MAX: usize = 64;
/// So many times as seldom as the usual observer, at most, does anybody look who is waited for.
const PACE_MAX: u64 = 15;
/// Observers seen within this time of the first line have been there for long, by `--tenure file`.
const OLD_HANDS_MS: u64 = 3_600_000;
const LONG_AGO_MS: u64 = 60 * 86_400_000;
/// Observations of one observer within this time of each other are one look.
const SAME_LOOK_MS: u64 = 10_000;
/// Over a gap this long only its end is played, ms.
const GAP_MS: u64 = 3_600_000;
/// The year 2100: later times are in another unit.
const LATEST: Timestamp = Timestamp::from_s(4_102_444_800);
/// And the year 2000.
const EARLIEST: Timestamp = Timestamp::from_s(946_684_800);

/// How long observers count as known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Tenure {
    /// Those of the first hour have a whole vote, later ones ramp.
    File,
    /// Everybody has a whole vote at once.
    Full,
    /// Everybody ramps.
    None,
}

/// One line.
#[derive(Debug, Deserialize)]
struct Line {
    #[serde(deserialize_with = "milliseconds")]
    received_at_ms: u64,
    #[serde(deserialize_with = "name")]
    observer: String,
    country: Option<String>,
    #[serde(default, deserialize_with = "asn")]
    asn: Option<u32>,
    prefix: Option<String>,
    target: String,
    providers: Option<Vec<Named>>,
    outcome: String,
    #[serde(default, deserialize_with = "status")]
    http_status: Option<u16>,
    rule_id: Option<String>,
    #[serde(default, deserialize_with = "truth")]
    scheduled: Option<bool>,
    agent_version: Option<Value>,
    resolver: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Named {
    role: String,
    id: String,
}

/// A whole number, as others write it too: `7`, `7.0`, `"7"`.
fn whole(value: &Value) -> Option<u64> {
    match value {
        Value::String(text) => text.trim().parse().ok(),
        Value::Number(number) => number.as_u64().or_else(|| {
            // Exact below 2^53.
            number
                .as_f64()
                .filter(|n| n.fract() == 0.0 && (0.0..9e15).contains(n))
                .map(|n| n as u64)
        }),
        _ => None,
    }
}

fn milliseconds<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
    let value = Value::deserialize(from)?;
    whole(&value).ok_or_else(|| {
        D::Error::custom(format!("received_at_ms {value} is no whole number of milliseconds"))
    })
}

/// A name, or a number that stands for one.
fn name<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    match Value::deserialize(from)? {
        Value::String(text) => Ok(text),
        Value::Number(number) => Ok(number.to_string()),
        other => Err(D::Error::custom(format!("observer {other} is no name"))),
    }
}

/// A network's number, as a number or as text: `3215`, `"AS3215"`.
fn asn<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u32>, D::Error> {
    let value = Option::<Value>::deserialize(from)?;
    Ok(value.and_then(|value| match value {
        Value::String(text) => text.trim_start_matches(['A', 'S', 'a', 's']).parse().ok(),
        other => whole(&other).and_then(|asn| u32::try_from(asn).ok()),
    }))
}

/// A status; what is none, such as `null` or an empty text, is not told.
fn status<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u16>, D::Error> {
    let value = Option::<Value>::deserialize(from)?;
    Ok(value.as_ref().and_then(whole).and_then(|status| u16::try_from(status).ok()))
}

/// Yes or no, as others write it too: `true`, `1`, `"true"`.
fn truth<'de, D: Deserializer<'de>>(from: D) -> Result<Option<bool>, D::Error> {
    let value = Option::<Value>::deserialize(from)?;
    Ok(value.and_then(|value| match &value {
        Value::Bool(is) => Some(*is),
        Value::String(text) if text.eq_ignore_ascii_case("true") => Some(true),
        Value::String(text) if text.eq_ignore_ascii_case("false") => Some(false),
        other => whole(other).map(|number| number != 0),
    }))
}

impl Line {
    /// What came of it, and the rule that tells whose fault it is: by its name, or where an edge says by the
    /// status that its origin failed (Cloudflare's 520 to 527 and 530).
    fn met(&self) -> Option<(Outcome, RuleNumber)> {
        let by_fault = |fault| {
            let rules = RuleTable::builtin().rules();
            rules.iter().find(|rule| rule.fault == fault).map_or(RuleNumber::NONE, |r| r.number)
        };
        let name = self.outcome.trim().to_ascii_lowercase();
        let (outcome, fault) = match name.as_str() {
            "edge_error" => (Outcome::Http5xx, Some(Fault::Edge)),
            "origin_error" => (Outcome::Http5xx, Some(Fault::Origin)),
            name => (Outcome::from_field_name(name)?, None),
        };
        let status = self.http_status.or_else(|| name.strip_prefix("http_")?.parse().ok());
        let of_origin = matches!(status, Some(520..=527 | 530)).then_some(Fault::Origin);
        let named = self.rule_id.as_deref().and_then(|id| RuleTable::builtin().by_id(id));
        let fault = fault.or(of_origin.filter(|_| outcome == Outcome::Http5xx));
        let rule = named.map(|rule| rule.number).or(fault.map(by_fault));
        Some((outcome, rule.unwrap_or(RuleNumber::NONE)))
    }

    /// Its agent's version as a number; 0 where none is told.
    fn version(&self) -> u16 {
        self.agent_version.as_ref().map_or(0, |version| {
            let text = version.as_str().map_or_else(|| version.to_string(), str::to_owned);
            text.parse::<u16>().unwrap_or_else(|_| 1 + (number_of(&text) % 65_521) as u16)
        })
    }
}

/// A country by its code; the United Kingdom by the one that everybody uses, too.
fn country_of(code: &str) -> Option<Country> {
    let code = code.to_ascii_uppercase();
    if code == "UK" { "GB".parse().ok() } else { code.parse().ok() }
}

/// A role by its name, or by what others call it.
fn role_of(name: &str) -> Option<Layer> {
    Some(match name.to_ascii_lowercase().as_str() {
        "edge" | "cdn" => Layer::Edge,
        "dns" => Layer::Dns,
        "hosting" | "cloud" | "origin" => Layer::Hosting,
        "aux" | "challenge" | "subresource" => Layer::Aux,
        "issuer" | "ca" | "pki" => Layer::Issuer,
        _ => return None,
    })
}

/// Why a file cannot be replayed.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// It cannot be read.
    #[error("{path} cannot be read")]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Its targets and providers are more than fit.
    #[error("the targets and providers of the file are no catalogue")]
    Catalogue(#[source] CatalogueError),
}

/// What was in the file, and how it was taken.
#[derive(Debug, Default, serde::Serialize)]
pub struct Told {
    /// Lines, empty ones left out.
    pub lines: u64,
    /// Lines that are observations.
    pub observations: u64,
    /// Lines that are not.
    pub malformed: u64,
    /// Observations of targets beyond the most that fit.
    pub left_out: u64,
    /// Lines that say again what another does: the same observer, time, target and outcome.
    pub repeated: u64,
    /// Lines that are older than one before them: they were put in order.
    pub out_of_order: u64,
    /// Roles of providers that are none, and were passed over.
    pub unknown_roles: u64,
    /// The first of the malformed, by number, with what is wrong.
    pub malformed_lines: Vec<(u64, String)>,
    /// Observers, targets and providers met.
    pub observers: usize,
    /// Networks, as far as they are told.
    pub networks: usize,
    /// Zones of the countries that are told.
    pub zones: usize,
    /// Lines that are of the schedule.
    pub scheduled: u64,
    /// Targets.
    pub targets: usize,
    /// Providers.
    pub providers: usize,
    /// Seconds between two looks, or rounds of looks, of the usual observer.
    pub period_s: f64,
    /// Sites that it looks at in a round.
    pub sites_a_round: u64,
    /// By how much time was compressed.
    pub compressed: f64,
    /// What could not be tested, and why.
    pub notes: Vec<String>,
    #[serde(skip)]
    resolvers_told: bool,
}

impl Told {
    /// Notes why nothing can be said of the world, where that is so: as many observers, networks and zones must tell as
    /// `settings` want.
    pub fn judge(&mut self, settings: &Settings, tenure: Tenure) {
        let Settings { crowd_observers, crowd_networks, crowd_zones, .. } = *settings;
        if self.observations == 0 {
            self.notes.push("insufficient evidence: no line is an observation".to_owned());
            return;
        }
        if self.scheduled == 0 {
            let why = "no line is scheduled, and what was looked at for a reason is no sample";
            self.notes.push(format!("insufficient evidence: {why}"));
        }
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let met = [count(self.observers), count(self.networks), count(self.zones)];
        if met[0] < crowd_observers || met[1] < crowd_networks || met[2] < crowd_zones {
            self.notes.push(format!(
                "insufficient evidence: {} observers in {} networks and {} zones of the world, of {crowd_observers}, \
                 {crowd_networks} and {crowd_zones} that a verdict on the world needs",
                met[0], met[1], met[2]
            ));
        }
        if tenure == Tenure::None {
            self.notes.push(format!(
                "insufficient evidence: with --tenure none nobody has a vote in the first {} hours",
                settings.tenure_hours_min
            ));
        }
    }
}

/// A file that has been looked through once.
#[derive(Debug)]
pub struct Recording {
    path: PathBuf,
    /// What is in it.
    pub told: Told,
    catalogue: Catalogue,
    by_name: BTreeMap<String, TargetIndex>,
    observers: BTreeMap<String, (u32, Timestamp)>,
    /// What the file calls providers whose names are no identifiers.
    names: BTreeMap<Id, String>,
    /// Where each line begins, in order of time; `None` where they are in order.
    order: Option<Vec<(u64, u64)>>,
    start: Timestamp,
    /// Milliseconds of the file in [`NOMINAL_MS`] of the detector.
    period_ms: u64,
    /// Milliseconds of the detector from one look, or round, of the usual observer to the next.
    look_ms: u64,
    /// Versions that were there from the beginning.
    versions: BTreeSet<u16>,
    /// Observers that look so many times as seldom as the usual one.
    paces: BTreeMap<u32, u8>,
}

/// Names that failed one after the other at one observer, and nothing between them that did not.
#[derive(Debug, Default)]
struct NamesRun {
    last: Option<TargetIndex>,
    length: u32,
    /// From when to when, ms.
    times: Option<(u64, u64)>,
}

impl NamesRun {
    /// So many names that failed running are the resolver's failures: a provider of names that half of the sites have comes to
    /// that once in sixty-four runs.
    const LENGTH_MIN: u32 = 6;

    /// Takes a look; gives when the run was that it ends, where it was the resolver.
    fn look(&mut self, at: u64, target: TargetIndex, failed: bool) -> Option<RangeInclusive<u64>> {
        if !failed {
            return self.end();
        }
        if self.last.replace(target) != Some(target) {
            self.length += 1;
        }
        let (from, _) = self.times.unwrap_or((at, at));
        self.times = Some((from, at));
        None
    }

    fn end(&mut self) -> Option<RangeInclusive<u64>> {
        let Self { length, times, .. } = std::mem::take(self);
        times.filter(|_| length >= Self::LENGTH_MIN).map(|(from, to)| from..=to)
    }
}

/// What each observer said last: of the same time, to know what is said again.
#[derive(Debug, Default)]
struct Whose(BTreeMap<String, (u64, Vec<(String, String)>)>);

impl Whose {
    /// Whether another line of this observer said the same of the same time.
    fn repeats(&mut self, line: &Line) -> bool {
        let (at, said) = self.0.entry(line.observer.clone()).or_default();
        if *at != line.received_at_ms {
            (*at, *said) = (line.received_at_ms, Vec::new());
        }
        let says = (line.target.clone(), line.outcome.clone());
        let repeats = said.contains(&says);
        if !repeats {
            said.push(says);
        }
        repeats
    }
}

/// How often one observer looks, and at how much at once.
#[derive(Debug)]
struct Pace {
    round_at: u64,
    last: u64,
    looks: u64,
    periods: Vec<u64>,
    rounds: Vec<u64>,
    /// How long the rounds took.
    lengths: Vec<u64>,
    /// Gaps within rounds: how many, and their sum.
    short: (u64, u64),
}

impl Pace {
    fn new(at: u64) -> Self {
        let (periods, rounds, lengths) = (Vec::new(), Vec::new(), Vec::new());
        Self { round_at: at, last: at, looks: 0, periods, rounds, lengths, short: (0, 0) }
    }

    fn look(&mut self, at: u64) {
        // What follows within seconds is of the same round.
        let gap = at.saturating_sub(self.last);
        if gap >= SAME_LOOK_MS && self.looks > 0 {
            if self.periods.len() < PERIODS_MAX {
                self.periods.push(at - self.round_at);
                self.rounds.push(self.looks);
                self.lengths.push(self.last - self.round_at);
            }
            (self.round_at, self.looks) = (at, 0);
        } else if self.looks > 0 {
            self.short = (self.short.0 + 1, self.short.1 + gap);
        }
        (self.last, self.looks) = (self.last.max(at), self.looks + 1);
    }

    /// Its period, ms, and how many sites it looks at in a round. Who looks all the time, but for a pause
    /// now and then, has no rounds.
    fn usual(self) -> Option<(u64, u64)> {
        let Self { short: (gaps, sum), .. } = self;
        match (middle(self.periods), middle(self.rounds), middle(self.lengths)) {
            (Some(period), Some(looks), Some(length)) if 2 * length <= period => {
                Some((period, looks))
            }
            _ => Some((sum.checked_div(gaps)?, 1)),
        }
    }
}

fn middle(mut values: Vec<u64>) -> Option<u64> {
    values.sort_unstable();
    values.get(values.len().checked_sub(1)? / 2).copied()
}

fn slug(text: &str) -> String {
    let plain =
        |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '.' | '_' | '-');
    let lower = text.to_ascii_lowercase();
    lower.chars().map(|c| if plain(c) { c } else { '-' }).take(64).collect()
}

fn number_of(text: &str) -> u64 {
    let hash = sha256(&[b"tocsin/replay/v1\0", text.as_bytes()]);
    hash.iter().take(8).fold(0, |value, byte| value << 8 | u64::from(*byte))
}

fn resolver_of(text: &str) -> ResolverClass {
    match text.to_ascii_lowercase().as_str() {
        "local" | "isp" | "system" => ResolverClass::Local,
        "cloudflare" | "1.1.1.1" | "1.0.0.1" => ResolverClass::Cloudflare,
        "google" | "8.8.8.8" | "8.8.4.4" => ResolverClass::Google,
        "quad9" | "9.9.9.9" => ResolverClass::Quad9,
        "opendns" | "208.67.222.222" => ResolverClass::OpenDns,
        _ => ResolverClass::OtherPublic,
    }
}

/// Every line of a file that is not empty, with its number and where it begins.
fn each_line(
    path: &Path,
    mut take: impl FnMut((u64, u64), Result<Line, String>),
) -> Result<(), ReplayError> {
    let failed = |source| ReplayError::Read { path: path.to_owned(), source };
    let mut reader = BufReader::new(File::open(path).map_err(failed)?);
    let mut bytes = Vec::new();
    let mut begins = 0;
    for number in 1.. {
        bytes.clear();
        let number = (number, begins);
        let read = reader.by_ref().take(LINE_MAX).read_until(b'\n', &mut bytes).map_err(failed)?;
        if read == 0 {
            break;
        }
        begins += read as u64;
        let whole = bytes.ends_with(b"\n") || (read as u64) < LINE_MAX;
        if !whole {
            take(number, Err(format!("longer than {LINE_MAX} bytes")));
            // The rest of it, up to its end, in pieces.
            loop {
                bytes.clear();
                let more =
                    reader.by_ref().take(LINE_MAX).read_until(b'\n', &mut bytes).map_err(failed)?;
                begins += more as u64;
                if more == 0 || bytes.ends_with(b"\n") {
                    break;
                }
            }
            continue;
        }
        if bytes.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        take(number, parsed(&bytes));
    }
    Ok(())
}

/// When each observation came, and where its line begins, in order of time.
fn in_order(path: &Path) -> Result<Vec<(u64, u64)>, ReplayError> {
    let mut order = Vec::new();
    each_line(path, |(_, begins), line| {
        order.extend(line.ok().map(|line| (line.received_at_ms, begins)));
    })?;
    order.sort_unstable();
    Ok(order)
}

/// The lines that begin at these places, in that order.
fn lines_at(
    path: &Path,
    order: &[(u64, u64)],
    mut take: impl FnMut(Result<Line, String>),
) -> Result<(), ReplayError> {
    let failed = |source| ReplayError::Read { path: path.to_owned(), source };
    let mut reader = BufReader::new(File::open(path).map_err(failed)?);
    let (mut bytes, mut here) = (Vec::new(), 0);
    for (_, begins) in order {
        // Most are where the last one ended: what was read ahead is kept then.
        reader.seek_relative(begins.cast_signed() - here).map_err(failed)?;
        bytes.clear();
        let read = reader.by_ref().take(LINE_MAX).read_until(b'\n', &mut bytes).map_err(failed)?;
        here = (begins + read as u64).cast_signed();
        take(parsed(&bytes));
    }
    Ok(())
}

fn parsed(bytes: &[u8]) -> Result<Line, String> {
    // Some editors begin a file with a mark of its byte order.
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    serde_json::from_slice::<Line>(bytes).map_err(|error| error.to_string()).and_then(checked)
}

fn checked(line: Line) -> Result<Line, String> {
    let at = Timestamp::from_ms(line.received_at_ms);
    if !(EARLIEST..LATEST).contains(&at) {
        let got = line.received_at_ms;
        return Err(format!("received_at_ms {got} is not between 2000 and 2100, in milliseconds"));
    }
    if line.met().is_none() {
        return Err(format!("outcome {:?} is none; see docs/PROTOCOL.md, section 9", line.outcome));
    }
    if let Some(country) = &line.country
        && country_of(country).is_none()
    {
        return Err(format!("country {country:?} is no ISO 3166-1 code of two letters"));
    }
    for (what, text) in [("observer", &line.observer), ("target", &line.target)] {
        if text.is_empty() || text.len() > 256 {
            return Err(format!("{what} has {} characters; 1 to 256 are allowed", text.len()));
        }
    }
    Ok(line)
}

impl Recording {
    /// Looks through a file: who and what is in it, and at what pace.
    ///
    /// # Errors
    /// When it cannot be read, or what is in it makes no catalogue.
    pub fn open(path: &Path, period_s: Option<u64>) -> Result<Self, ReplayError> {
        let mut told = Told::default();
        let mut names: BTreeMap<String, BTreeSet<(Layer, String)>> = BTreeMap::new();
        let mut observers: BTreeMap<String, (u32, Timestamp)> = BTreeMap::new();
        let mut paces: BTreeMap<u32, Pace> = BTreeMap::new();
        let mut versions: BTreeMap<u16, Timestamp> = BTreeMap::new();
        let (mut earliest, mut latest) = (u64::MAX, 0);
        let (mut networks, mut zones) = (BTreeSet::new(), BTreeSet::new());
        let mut whose = Whose::default();
        each_line(path, |(number, _), line| {
            told.lines += 1;
            let line = match line {
                Ok(line) => line,
                Err(why) => {
                    told.malformed += 1;
                    if told.malformed_lines.len() < NAMED_MAX {
                        told.malformed_lines.push((number, why));
                    }
                    return;
                }
            };
            if whose.repeats(&line) {
                told.repeated += 1;
                return;
            }
            told.observations += 1;
            told.scheduled += u64::from(line.scheduled.unwrap_or(true));
            networks.extend(line.asn.filter(|asn| *asn > 0));
            let country = line.country.as_deref().and_then(country_of);
            zones.extend(country.and_then(|country| Zones::builtin().of(country)));
            let at = Timestamp::from_ms(line.received_at_ms);
            told.out_of_order += u64::from(line.received_at_ms < latest);
            latest = latest.max(line.received_at_ms);
            earliest = earliest.min(line.received_at_ms);
            let since = versions.entry(line.version()).or_insert(at);
            *since = (*since).min(at);
            told.resolvers_told |= line.resolver.is_some();
            if names.len() >= tocsin_proto::limits::TARGETS_MAX && !names.contains_key(&line.target)
            {
                told.left_out += 1;
                return;
            }
            let roles = names.entry(line.target).or_default();
            for named in line.providers.unwrap_or_default() {
                match role_of(&named.role) {
                    Some(role) => drop(roles.insert((role, named.id))),
                    None => told.unknown_roles += 1,
                }
            }
            let next = u32::try_from(observers.len() + 1).unwrap_or(u32::MAX);
            let (id, seen) = observers.entry(line.observer).or_insert((next, at));
            *seen = (*seen).min(at);
            let pace = paces.entry(*id).or_insert_with(|| Pace::new(line.received_at_ms));
            pace.look(line.received_at_ms);
        })?;
        let start = Timestamp::from_ms(if told.observations == 0 { 0 } else { earliest });
        (told.networks, told.zones) = (networks.len(), zones.len());
        // Only where they are out of order is it kept where each line begins.
        let order = match told.out_of_order {
            0 => None,
            _ => Some(in_order(path)?),
        };
        if let Some(order) = &order {
            paces.clear();
            lines_at(path, order, |line| {
                let Some(line) = line.ok() else { return };
                let Some((id, _)) = observers.get(&line.observer) else { return };
                let pace = paces.entry(*id).or_insert_with(|| Pace::new(line.received_at_ms));
                pace.look(line.received_at_ms);
            })?;
        }
        let paces: BTreeMap<u32, (u64, u64)> =
            paces.into_iter().filter_map(|(id, pace)| Some((id, pace.usual()?))).collect();
        let (periods, rounds): (Vec<u64>, Vec<u64>) = paces.values().copied().unzip();
        let measured_ms = middle(periods).unwrap_or(NOMINAL_MS).max(1);
        told.sites_a_round = middle(rounds).unwrap_or(1);
        // Who says how often observers look says so of each look.
        let (period_ms, sites) = match period_s {
            Some(seconds) => (seconds * 1000, 1),
            None => (measured_ms, told.sites_a_round.clamp(1, ROUND_LOOKS_MAX)),
        };
        // Time is never stretched, so who looks more often than the windows are made for is no measure.
        let unit_ms = measured_ms.max(NOMINAL_MS);
        let slow = |(period, _): &(u64, u64)| {
            let times = ((period + unit_ms / 2) / unit_ms).min(PACE_MAX);
            u8::try_from(times).ok().filter(|times| period_s.is_none() && *times > 1)
        };
        let paces = paces.iter().filter_map(|(id, pace)| Some((*id, slow(pace)?))).collect();
        told.period_s = period_ms as f64 / 1000.0;
        // Time is never stretched: who looks more often has more to tell.
        let looks_ms = period_ms;
        let period_ms = (period_ms / sites).max(NOMINAL_MS);
        let look_ms = looks_ms * NOMINAL_MS / period_ms;
        told.compressed = period_ms as f64 / NOMINAL_MS as f64;
        let Met { catalogue, by_name, names, left_out: unknown } =
            catalogue(&names).map_err(ReplayError::Catalogue)?;
        told.observers = observers.len();
        told.targets = catalogue.targets().len();
        told.providers = catalogue.providers().len();
        if !versions.keys().any(|version| *version > 0) {
            told.notes.push("no agent_version in the file: versions are not tested".to_owned());
        }
        if !told.resolvers_told {
            told.notes.push("no resolver in the file: resolvers are not tested".to_owned());
        }
        if unknown > 0 {
            told.notes.push(format!("{unknown} providers with the fewest targets do not fit"));
        }
        let left_out = Plan::left_out(&catalogue);
        if left_out > 0 {
            told.notes.push(format!(
                "{left_out} providers and top-level domains with the fewest targets do not fit: of them \
                 only sites are named"
            ));
        }
        let hour = start.plus_ms(OLD_HANDS_MS);
        let versions = versions.into_iter().filter(|(_, at)| *at < hour).map(|(v, _)| v).collect();
        let path = path.to_owned();
        Ok(Self {
            path,
            told,
            catalogue,
            by_name,
            observers,
            names,
            order,
            start,
            period_ms,
            look_ms,
            versions,
            paces,
        })
    }

    /// What the file calls a provider.
    #[must_use]
    pub fn name_of<'a>(&'a self, provider: &'a Id) -> &'a str {
        self.names.get(provider).map_or(provider.as_str(), String::as_str)
    }

    /// Compressed time.
    fn inner(&self, at: Timestamp) -> Timestamp {
        let since = at.since_ms(self.start);
        let since = u128::from(since) * u128::from(NOMINAL_MS) / u128::from(self.period_ms);
        self.start.plus_ms(u64::try_from(since).unwrap_or(u64::MAX))
    }

    /// The file's own time.
    #[must_use]
    pub fn outer(&self, at: Timestamp) -> Timestamp {
        let since = u128::from(at.since_ms(self.start)) * u128::from(self.period_ms);
        self.start.plus_ms(u64::try_from(since / u128::from(NOMINAL_MS)).unwrap_or(u64::MAX))
    }

    /// Plays it. `tell` hears every change, with the detector as it stands then; its times are
    /// compressed, see [`Recording::outer`].
    ///
    /// # Errors
    /// When the file cannot be read a second time.
    pub fn play(
        &self,
        mut settings: Settings,
        tenure: Tenure,
        mut tell: impl FnMut(&Changed, &Detector),
    ) -> Result<Detector, ReplayError> {
        settings.ask_back = false;
        if tenure != Tenure::None {
            settings.established_versions.extend(&self.versions);
        }
        let params = Arc::make_mut(&mut settings.params);
        params.compress(self.period_ms, NOMINAL_MS);
        // As many as an observer makes in a turn, twice over.
        let turn = params.look_again_ms * 2 * self.told.sites_a_round;
        let looks = u16::try_from(turn / self.look_ms.max(1)).unwrap_or(u16::MAX);
        params.looks_turn = params.looks_turn.max(looks).min(10_000);
        // Who looks seldom at many sites can still tell of those it saw within a quarter of an hour.
        (params.lost_ms, params.seen_max_ms) = (1_200_000, params.seen_max_ms.max(1_200_000));
        // Everybody is there from the first line on.
        settings.settle_s = settings.settle_s.min(60);
        // The ramp is in the file's time too.
        let compressed = |hours: u64| (hours * NOMINAL_MS).div_ceil(self.period_ms);
        settings.tenure_hours_min = compressed(settings.tenure_hours_min);
        settings.tenure_hours_full = compressed(settings.tenure_hours_full);
        let known = match tenure {
            Tenure::Full => {
                (settings.tenure_hours_min, settings.tenure_hours_full) = (0, 0);
                BTreeMap::new()
            }
            Tenure::None => BTreeMap::new(),
            Tenure::File => self
                .observers
                .values()
                .filter(|(_, seen)| seen.since_ms(self.start) < OLD_HANDS_MS)
                .map(|(id, _)| (*id, self.start.minus_ms(LONG_AGO_MS)))
                .collect(),
        };
        let state = State::with_tenure(known).with_paces(self.paces.clone());
        let mut detector = Detector::resume(self.catalogue.clone(), settings, state);
        let mut position = 0;
        let resolvers = self.resolver_runs()?;
        let mut whose = Whose::default();
        let take = |line: Result<Line, String>| {
            let Ok(line) = line else { return };
            if whose.repeats(&line) {
                return;
            }
            let Some(record) = self.record(position + 1, line, &resolvers) else { return };
            position += 1;
            // A change is told with what is known at its moment; what lies hours ahead is a gap.
            while record.received_at.since_ms(detector.now()) > PANEL_TICK_MS
                && record.received_at.since_ms(detector.now()) < GAP_MS
            {
                let next = detector.now().plus_ms(PANEL_TICK_MS);
                for change in detector.advance(next) {
                    tell(&change, &detector);
                }
            }
            for change in detector.record(&record) {
                tell(&change, &detector);
            }
        };
        self.each_in_order(take)?;
        // What comes after the last line is not known; silence is no recovery.
        let end = detector.now().plus_ms(60_000);
        for change in detector.advance(end) {
            tell(&change, &detector);
        }
        Ok(detector)
    }

    /// Every line in order of time.
    fn each_in_order(&self, mut take: impl FnMut(Result<Line, String>)) -> Result<(), ReplayError> {
        match &self.order {
            Some(order) => lines_at(&self.path, order, take),
            None => each_line(&self.path, |_, line| take(line)),
        }
    }

    /// When every name failed at an observer, whichever it asked for: that is its resolver, from the first of them on.
    fn resolver_runs(&self) -> Result<BTreeMap<u32, Vec<RangeInclusive<u64>>>, ReplayError> {
        let mut runs: BTreeMap<u32, NamesRun> = BTreeMap::new();
        let mut whole: BTreeMap<u32, Vec<RangeInclusive<u64>>> = BTreeMap::new();
        self.each_in_order(|line| {
            let Ok(line) = line else { return };
            let Some((observer, _)) = self.observers.get(&line.observer) else { return };
            let met = line.met().zip(self.by_name.get(&line.target));
            let Some(((outcome, _), target)) = met else { return };
            let failed = outcome.phase() == Some(Step::Dns);
            let run = runs.entry(*observer).or_default();
            whole.entry(*observer).or_default().extend(run.look(
                line.received_at_ms,
                *target,
                failed,
            ));
        })?;
        for (observer, mut run) in runs {
            whole.entry(observer).or_default().extend(run.end());
        }
        Ok(whole)
    }

    fn record(
        &self,
        position: u64,
        line: Line,
        resolvers: &BTreeMap<u32, Vec<RangeInclusive<u64>>>,
    ) -> Option<Record> {
        let (observer, _) = *self.observers.get(&line.observer)?;
        let at = self.inner(Timestamp::from_ms(line.received_at_ms));
        let country: Country =
            line.country.as_deref().and_then(country_of).unwrap_or(Country::UNKNOWN);
        let (outcome, rule) = line.met()?;
        let target = *self.by_name.get(&line.target)?;
        // Whoever recorded it says that the name failed; of whom every name fails, it is the resolver.
        let names = outcome.phase() == Some(Step::Dns);
        let of_resolver = || {
            let runs = resolvers.get(&observer).map_or(&[][..], Vec::as_slice);
            let next = runs.partition_point(|run| *run.end() < line.received_at_ms);
            runs.get(next).is_some_and(|run| run.contains(&line.received_at_ms))
        };
        let path = match names {
            true if of_resolver() => DnsPath::SystemOnly,
            true => DnsPath::Both,
            false => DnsPath::Unconfirmed,
        };
        let failure = (outcome != Outcome::Ok).then(|| Failure {
            rule,
            dns: path,
            status: line.http_status.unwrap_or(0),
            phases: [LogMs(0); 4],
        });
        let version = line.version();
        let resolver = line.resolver.as_deref().map_or(ResolverClass::Unknown, resolver_of);
        let slot = line.prefix.as_deref().unwrap_or(&line.observer);
        let base_s = u32::try_from(at.as_s()).ok()?;
        let observation = Observation {
            target,
            after_ds: u16::try_from(at.as_ms() % 1000 / 100).unwrap_or(0),
            family: Family::V4,
            cause: if line.scheduled.unwrap_or(true) {
                Cause::Scheduled
            } else {
                Cause::Verification
            },
            outcome,
            latency: LogMs(0),
            failure,
        };
        let mut key = [0; 32];
        for (place, byte) in key.iter_mut().zip(u64::from(observer).to_le_bytes()) {
            *place = byte;
        }
        Some(Record {
            position,
            received_at: at,
            observer,
            key: ObserverId::from_bytes(key),
            standing: Standing {
                country,
                zone: Zones::builtin().of(country),
                // Of whom no network is told, each is in one of its own (numbers for private use, RFC 6996).
                asn: line
                    .asn
                    .filter(|asn| *asn > 0)
                    .unwrap_or(4_200_000_000 + observer % 94_000_000),
                slot: number_of(slot),
                version,
                resolver: resolver as u8,
            },
            report: Report {
                seq: position,
                base_s,
                probe_core: version,
                health: Health::default(),
                resolver,
                observations: List::new(vec![observation]).ok()?,
            },
        })
    }
}

/// What was met.
struct Met {
    catalogue: Catalogue,
    by_name: BTreeMap<String, TargetIndex>,
    /// What the file calls providers whose names are no identifiers.
    names: BTreeMap<Id, String>,
    /// Providers that do not fit.
    left_out: usize,
}

/// Identifiers for names as a file has them.
#[derive(Default)]
struct Identifiers {
    of: BTreeMap<String, Id>,
    names: BTreeMap<Id, String>,
}

impl Identifiers {
    /// The identifier of a name; where two names come to the same, the later one has a number.
    fn of(&mut self, name: &str) -> Option<Id> {
        if let Some(id) = self.of.get(name) {
            return Some(id.clone());
        }
        let slug = slug(name);
        let slug = slug.trim_matches(['-', '.', '_']);
        let slug = if slug.is_empty() { "provider" } else { slug };
        let numbered = (2..).map(|n| format!("{}-{n}", slug.chars().take(56).collect::<String>()));
        let mut ids = std::iter::once(slug.to_owned()).chain(numbered).map(|id| id.parse::<Id>());
        let id =
            ids.find(|id| id.as_ref().map_or(true, |id| !self.names.contains_key(id)))?.ok()?;
        self.of.insert(name.to_owned(), id.clone());
        self.names.insert(id.clone(), name.to_owned());
        Some(id)
    }
}

/// A catalogue of what was met: roles as the file gives them, else as the built-in one knows them.
fn catalogue(names: &BTreeMap<String, BTreeSet<(Layer, String)>>) -> Result<Met, CatalogueError> {
    let builtin = Catalogue::builtin();
    let mut providers: BTreeMap<Id, Provider> = BTreeMap::new();
    let mut add = |id: Id| {
        let known = builtin.providers().get(&id).cloned();
        providers
            .entry(id.clone())
            .or_insert_with(|| known.unwrap_or_else(|| Provider::unlisted(id)));
    };
    // Of more providers than fit, those that most targets have.
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for (_, provider) in names.values().flatten() {
        *counts.entry(provider).or_default() += 1;
    }
    let mut most: Vec<(&str, usize)> = counts.into_iter().collect();
    most.sort_by_key(|(name, count)| (std::cmp::Reverse(*count), *name));
    let room = tocsin_proto::limits::PROVIDERS_MAX.saturating_sub(builtin.providers().len());
    let left_out = most.len().saturating_sub(room);
    let most: BTreeSet<&str> = most.into_iter().take(room).map(|(name, _)| name).collect();
    let mut identifiers = Identifiers::default();
    let (mut targets, mut by_name) = (Vec::new(), BTreeMap::new());
    for (index, (name, roles)) in (0u16..).map(TargetIndex).zip(names) {
        let known = builtin.find(name);
        let mut behind: Vec<Role> = Vec::new();
        for (layer, provider) in roles {
            let served = !matches!(layer, Layer::Site | Layer::Tld | Layer::Resolver);
            if served
                && most.contains(provider.as_str())
                && let Some(id) = identifiers.of(provider)
            {
                add(id.clone());
                behind.push(Role { role: *layer, provider: id, evidence: Evidence::Operator });
            }
        }
        if let Some(known) = known.filter(|_| behind.is_empty()) {
            for role in &known.roles {
                add(role.provider.clone());
                behind.push(role.clone());
            }
        }
        behind.truncate(tocsin_proto::limits::ROLES_MAX);
        let host = slug(name);
        let numbered = format!("target-{}.invalid", index.0);
        let labels = |host: &str| {
            let good = |label: &str| !label.is_empty() && label.len() <= 63 && !label.contains('_');
            host.contains('.')
                && host.split('.').all(good)
                && !host.bytes().all(|c| c.is_ascii_digit() || c == b'.')
        };
        let host = if labels(&host) { host } else { numbered };
        targets.push(Target {
            max_total_rps: None,
            index,
            id: format!("t{}", index.0).parse().expect("a letter and digits are an identifier"),
            name: name.clone(),
            host,
            port: 443,
            path: "/".to_owned(),
            category: "replay".to_owned(),
            countries: Vec::new(),
            status_page: None,
            roles: behind,
        });
        by_name.insert(name.clone(), index);
    }
    let providers = providers.into_values().collect();
    let catalogue = Catalogue::from_parts(1, providers, targets)?;
    Ok(Met { catalogue, by_name, names: identifiers.names, left_out })
}

#[cfg(test)]
pub(crate) mod tests;
