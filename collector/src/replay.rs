//! The detector over recorded observations: of this collector's own log under other settings, or of
//! anybody's file of JSON lines. Nobody is asked back, since nobody is there: the scheduled
//! observations alone decide.
//!
//! A file may have been made at any pace. Time is compressed so that its usual observer looks as
//! often as the windows are made for, and told in the file's own time.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io::{BufRead, BufReader, Read},
    path::{Path, PathBuf},
};

use serde::Deserialize;
use tocsin_proto::{
    bounded::List,
    catalogue::{Catalogue, CatalogueError, Evidence, Provider, Role, Target, Zones},
    id::{Country, Id, ObserverId, TargetIndex},
    implicate::{DnsPath, Layer},
    observation::{Cause, Failure, Family, LogMs, Observation},
    outcome::{Outcome, Phase as Step},
    report::{Health, Report, ResolverClass},
    rules::{RuleNumber, RuleTable},
    sign::sha256,
    time::Timestamp,
};

use crate::engine::{
    detector::{Changed, Detector, Record, State},
    observer::Standing,
    params::Settings,
};

/// Bytes of one line at most.
const LINE_MAX: u64 = 64 * 1024;
/// Malformed lines that are named; the others are counted.
const NAMED_MAX: usize = 20;
/// Milliseconds between an observer's observations that the windows are made for.
const NOMINAL_MS: u64 = 20_000;
/// Observers seen within this time of the first line have been there for long, by `--tenure file`.
const OLD_HANDS_MS: u64 = 3_600_000;
const LONG_AGO_MS: u64 = 60 * 86_400_000;
/// Observations of one observer within this time of each other are one look.
const SAME_LOOK_MS: u64 = 10_000;
/// Lines may be this much older than the first one.
const BEFORE_MAX_MS: u64 = 3_600_000;
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
    received_at_ms: u64,
    observer: String,
    country: Option<String>,
    #[serde(default)]
    asn: u32,
    prefix: Option<String>,
    target: String,
    providers: Option<Vec<Named>>,
    outcome: String,
    http_status: Option<u16>,
    rule_id: Option<String>,
    #[serde(default = "yes")]
    scheduled: bool,
    agent_version: Option<serde_json::Value>,
    resolver: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Named {
    role: Layer,
    id: String,
}

const fn yes() -> bool {
    true
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
    /// There is nothing in it.
    #[error("{0} has no line that is an observation; see the malformed ones above")]
    Empty(PathBuf),
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
    /// The first of the malformed, by number, with what is wrong.
    pub malformed_lines: Vec<(u64, String)>,
    /// Observers, targets and providers met.
    pub observers: usize,
    /// Targets.
    pub targets: usize,
    /// Providers.
    pub providers: usize,
    /// Seconds between two observations of the usual observer.
    pub period_s: f64,
    /// By how much time was compressed.
    pub compressed: f64,
    /// What could not be tested, and why.
    pub notes: Vec<String>,
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
    start: Timestamp,
    period_ms: u64,
    versions: bool,
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

/// Every line of a file that is not empty, with its number.
fn each_line(
    path: &Path,
    mut take: impl FnMut(u64, Result<Line, String>),
) -> Result<(), ReplayError> {
    let failed = |source| ReplayError::Read { path: path.to_owned(), source };
    let mut reader = BufReader::new(File::open(path).map_err(failed)?);
    let mut bytes = Vec::new();
    for number in 1.. {
        bytes.clear();
        let read = reader.by_ref().take(LINE_MAX).read_until(b'\n', &mut bytes).map_err(failed)?;
        if read == 0 {
            break;
        }
        let whole = bytes.ends_with(b"\n") || (read as u64) < LINE_MAX;
        if !whole {
            take(number, Err(format!("longer than {LINE_MAX} bytes")));
            // The rest of it, up to its end, in pieces.
            loop {
                bytes.clear();
                let more =
                    reader.by_ref().take(LINE_MAX).read_until(b'\n', &mut bytes).map_err(failed)?;
                if more == 0 || bytes.ends_with(b"\n") {
                    break;
                }
            }
            continue;
        }
        if bytes.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        let line = serde_json::from_slice::<Line>(&bytes).map_err(|error| error.to_string());
        take(number, line.and_then(checked));
    }
    Ok(())
}

fn plausible(line: Line, start: Option<Timestamp>) -> Result<Line, String> {
    let at = Timestamp::from_ms(line.received_at_ms);
    if !(EARLIEST..LATEST).contains(&at) {
        let got = line.received_at_ms;
        return Err(format!("received_at_ms {got} is not between 2000 and 2100, in milliseconds"));
    }
    match start {
        Some(start) if start.since_ms(at) > BEFORE_MAX_MS => {
            Err(format!("{at} is long before the first line, {start}"))
        }
        _ => Ok(line),
    }
}

fn checked(line: Line) -> Result<Line, String> {
    if Outcome::from_field_name(&line.outcome).is_none() {
        return Err(format!("outcome {:?} is none; see docs/PROTOCOL.md, section 9", line.outcome));
    }
    if let Some(country) = &line.country
        && country.parse::<Country>().is_err()
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
    /// When it cannot be read, or nothing in it is an observation.
    pub fn open(path: &Path, period_s: Option<u64>) -> Result<Self, ReplayError> {
        let mut told = Told::default();
        let mut names: BTreeMap<String, BTreeSet<(Layer, String)>> = BTreeMap::new();
        let mut observers: BTreeMap<String, (u32, Timestamp)> = BTreeMap::new();
        let mut gaps: BTreeMap<u32, (u64, Vec<u64>)> = BTreeMap::new();
        let (mut start, mut versions, mut resolvers) = (None, false, false);
        each_line(path, |number, line| {
            told.lines += 1;
            let line = line.and_then(|line| plausible(line, start));
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
            told.observations += 1;
            let at = Timestamp::from_ms(line.received_at_ms);
            start.get_or_insert(at);
            versions |= line.agent_version.is_some();
            resolvers |= line.resolver.is_some();
            if names.len() >= tocsin_proto::limits::TARGETS_MAX && !names.contains_key(&line.target)
            {
                told.left_out += 1;
                return;
            }
            let roles = names.entry(line.target).or_default();
            for named in line.providers.unwrap_or_default() {
                roles.insert((named.role, named.id));
            }
            let next = u32::try_from(observers.len() + 1).unwrap_or(u32::MAX);
            let (id, seen) = observers.entry(line.observer).or_insert((next, at));
            *seen = (*seen).min(at);
            let (last, gaps) = gaps.entry(*id).or_insert((line.received_at_ms, Vec::new()));
            let gap = line.received_at_ms.saturating_sub(*last);
            *last = (*last).max(line.received_at_ms);
            // Some are enough, and the first ones are as good as any.
            // A round of many sites at once is one look.
            if gap >= SAME_LOOK_MS && gaps.len() < 64 {
                gaps.push(gap);
            }
        })?;
        let start = start.ok_or_else(|| ReplayError::Empty(path.to_owned()))?;
        let middle = |mut values: Vec<u64>| {
            values.sort_unstable();
            values.get(values.len().checked_sub(1)? / 2).copied()
        };
        let periods = gaps.into_values().filter_map(|(_, gaps)| middle(gaps)).collect();
        let period_ms = match period_s {
            Some(seconds) => seconds * 1000,
            None => middle(periods).unwrap_or(NOMINAL_MS),
        };
        let period_ms = period_ms.max(NOMINAL_MS);
        let (catalogue, by_name) = catalogue(&names).map_err(ReplayError::Catalogue)?;
        told.observers = observers.len();
        told.targets = catalogue.targets().len();
        told.providers = catalogue.providers().len();
        told.period_s = period_ms as f64 / 1000.0;
        told.compressed = period_ms as f64 / NOMINAL_MS as f64;
        if !versions {
            told.notes.push("no agent_version in the file: versions are not tested".to_owned());
        }
        if !resolvers {
            told.notes.push("no resolver in the file: resolvers are not tested".to_owned());
        }
        let path = path.to_owned();
        Ok(Self { path, told, catalogue, by_name, observers, start, period_ms, versions })
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
        if !self.versions {
            settings.established_versions = vec![0];
        }
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
        let state = State::with_tenure(known);
        let mut detector = Detector::resume(self.catalogue.clone(), settings, state);
        let mut position = 0;
        each_line(&self.path, |_, line| {
            let line = line.and_then(|line| plausible(line, Some(self.start)));
            let Some(record) = line.ok().and_then(|line| self.record(position + 1, line)) else {
                return;
            };
            position += 1;
            for change in detector.record(&record) {
                tell(&change, &detector);
            }
        })?;
        // What comes after the last line is not known; silence is no recovery.
        let end = detector.now().plus_ms(60_000);
        for change in detector.advance(end) {
            tell(&change, &detector);
        }
        Ok(detector)
    }

    fn record(&self, position: u64, line: Line) -> Option<Record> {
        let (observer, _) = *self.observers.get(&line.observer)?;
        let at = self.inner(Timestamp::from_ms(line.received_at_ms));
        let country: Country =
            line.country.as_deref().and_then(|code| code.parse().ok()).unwrap_or(Country::UNKNOWN);
        let outcome = Outcome::from_field_name(&line.outcome)?;
        let rule = line.rule_id.as_deref().and_then(|id| RuleTable::builtin().by_id(id));
        let failure = (outcome != Outcome::Ok).then(|| Failure {
            rule: rule.map_or(RuleNumber::NONE, |rule| rule.number),
            // Whoever recorded it says that the name failed, and not only a resolver.
            dns: if outcome.phase() == Some(Step::Dns) {
                DnsPath::Both
            } else {
                DnsPath::Unconfirmed
            },
            status: line.http_status.unwrap_or(0),
            phases: [LogMs(0); 4],
        });
        let version = line.agent_version.map_or(0, |version| {
            let text = version.as_str().map_or_else(|| version.to_string(), str::to_owned);
            text.parse::<u16>().unwrap_or_else(|_| (number_of(&text) % 65_521) as u16)
        });
        let resolver = line.resolver.as_deref().map_or(ResolverClass::Unknown, resolver_of);
        let slot = line.prefix.as_deref().unwrap_or(&line.observer);
        let base_s = u32::try_from(at.as_s()).ok()?;
        let observation = Observation {
            target: *self.by_name.get(&line.target)?,
            after_ds: u16::try_from(at.as_ms() % 1000 / 100).unwrap_or(0),
            family: Family::V4,
            cause: if line.scheduled { Cause::Scheduled } else { Cause::Verification },
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
                asn: line.asn,
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

type Names = BTreeMap<String, TargetIndex>;

/// A catalogue of what was met: roles as the file gives them, else as the built-in one knows them.
fn catalogue(
    names: &BTreeMap<String, BTreeSet<(Layer, String)>>,
) -> Result<(Catalogue, Names), CatalogueError> {
    let builtin = Catalogue::builtin();
    let mut providers: BTreeMap<Id, Provider> = BTreeMap::new();
    let mut add = |id: Id| {
        let known = builtin.providers().get(&id).cloned();
        providers
            .entry(id.clone())
            .or_insert_with(|| known.unwrap_or_else(|| Provider::unlisted(id)));
    };
    let (mut met, mut providers_met) = (BTreeSet::new(), 0);
    let (mut targets, mut by_name) = (Vec::new(), BTreeMap::new());
    for (index, (name, roles)) in (0u16..).map(TargetIndex).zip(names) {
        let known = builtin.find(name);
        let mut behind: Vec<Role> = Vec::new();
        for (layer, provider) in roles {
            let served = !matches!(layer, Layer::Site | Layer::Tld | Layer::Resolver);
            let room = providers_met < tocsin_proto::limits::PROVIDERS_MAX;
            if let Ok(id) = slug(provider).parse::<Id>()
                && served
                && room
            {
                providers_met = met.len() + usize::from(met.insert(id.clone()));
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
    Ok((Catalogue::from_parts(1, providers, targets)?, by_name))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use tocsin_proto::incident::Phase;

    /// Eighty observers in forty networks and eight countries look at thirty sites, ten of them
    /// behind one edge, each every five minutes; from the second hour on that edge fails.
    pub(crate) fn file(dir: &Path, extra: &str) -> PathBuf {
        use std::fmt::Write;
        let countries = ["US", "GB", "FR", "DE", "IT", "SE", "PL", "JP"];
        let mut text = String::new();
        for step in 0..48u64 {
            for observer in 0..80u64 {
                for look in 0..4u64 {
                    let site = (step * 7 + observer * 11 + look * 13) % 30;
                    let at = 1_763_460_000_000 + step * 300_000 + observer * 3_000 + look * 75_000;
                    let broken = site < 10 && (24..36).contains(&step);
                    let edge = if site < 10 { "acme" } else { "other" };
                    let outcome = if broken { "tcp_timeout" } else { "ok" };
                    let country = countries[observer as usize % 8];
                    let asn = 64_500 + observer / 2;
                    let target = format!("site{site}.example.com");
                    writeln!(
                        text,
                        r#"{{"received_at_ms":{at},"observer":"o{observer}","country":"{country}","asn":{asn},"target":"{target}","providers":[{{"role":"edge","id":"{edge}"}}],"outcome":"{outcome}"}}"#
                    )
                    .unwrap();
                }
            }
        }
        let path = dir.join("observations.jsonl");
        std::fs::write(&path, text + extra).unwrap();
        path
    }

    #[test]
    fn an_outage_in_a_file_is_found_in_its_own_time() {
        let dir = tempfile::tempdir().unwrap();
        let path = file(dir.path(), "\nnonsense\n{\"received_at_ms\":1}\n");
        let recording = Recording::open(&path, None).unwrap();
        assert_eq!((recording.told.malformed, recording.told.observers), (2, 80));
        assert_eq!(recording.told.period_s, 75.0);
        assert_eq!(recording.told.notes.len(), 2);
        let mut phases = Vec::new();
        recording
            .play(Settings::default(), Tenure::File, |change, _| {
                let minutes = recording.outer(change.at).since_ms(recording.start) / 60_000;
                phases.push((change.phase, minutes));
            })
            .unwrap();
        let confirmed = phases.iter().find(|(phase, _)| *phase == Phase::Confirmed);
        // It broke after two hours.
        assert!(confirmed.is_some_and(|(_, minutes)| (120..135).contains(minutes)), "{phases:?}");
        // It recovers; that it is over for good, the rest of the file is too short to tell.
        assert_eq!(phases.last().map(|(phase, _)| *phase), Some(Phase::Recovering), "{phases:?}");
        let young = recording.play(Settings::default(), Tenure::None, |change, _| {
            assert_ne!(change.phase, Phase::Confirmed, "nobody has a vote yet");
        });
        assert!(young.is_ok());
    }

    #[test]
    fn a_file_of_nothing_is_said_to_be_so() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        std::fs::write(&path, "\n\n[]\n").unwrap();
        assert!(matches!(Recording::open(&path, None), Err(ReplayError::Empty(_))));
        std::fs::write(&path, vec![b'x'; 200_000]).unwrap();
        assert!(matches!(Recording::open(&path, None), Err(ReplayError::Empty(_))));
        let missing = Recording::open(&dir.path().join("none"), None);
        assert!(matches!(missing, Err(ReplayError::Read { .. })));
    }
}
