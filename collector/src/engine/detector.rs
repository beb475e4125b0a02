//! The detector: a function of the log. Records and ticks go in, in order; changes of phase come
//! out, and a view of everything can be asked for at any time.
//!
//! Time enters with each record and each tick, and never goes back. Between two inputs the
//! detector passes every evaluation (5 s) and round (10 s) that lies between them, so a replay of
//! the same records takes the same steps, however the ticks fell.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use tocsin_proto::{
    catalogue::{Catalogue, Zones},
    id::{ObserverId, TargetIndex},
    implicate::{Layer, Layers},
    incident::{Confidence, Phase, Reason},
    observation::Cause,
    outcome::Outcome,
    report::Report,
    rules::RuleNumber,
    time::Timestamp,
};

use super::{
    admit::is_late,
    attribute::{Pick, Rejected, attribute, mean_rate},
    cells::{Cells, touched},
    fixed::{ONE, Ppm, median, smooth},
    incident::{Grounds, Incident, Reach, Reading, is_suspect},
    judge::{Participants, Shares, Strata, Tally, strata},
    observer::{Bits, Observer, Standing},
    params::{
        CANDIDATE, CONFIRM, FORGET_MS, HOLD, ONLINE_MS, PICK_RECENT_MS, ROUND_MS, SITE_DOWN,
        SITE_SIBLINGS, SITE_WEIGHT, SITE_ZONE_WEIGHT, Settings, TICK_MS, WEIGH_MS, ZONES_MIN,
    },
    plan::{Entities, EntityIndex, Plan},
    weigh::{Voter, weigh},
    window::{COUNTED, Counts, Windows},
};

/// The zone number of observers whose zone is not known.
pub const NOWHERE: u8 = u8::MAX;

/// An accepted report as it stands in the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Position in the log.
    pub position: u64,
    /// When it was committed.
    pub received_at: Timestamp,
    /// Number of the observer in this log.
    pub observer: u32,
    /// Its key.
    pub key: ObserverId,
    /// Where the observer stood.
    pub standing: Standing,
    /// What it said.
    pub report: Report,
}

/// A change of phase, for whoever publishes or notifies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changed {
    /// The incident.
    pub incident: String,
    /// When.
    pub at: Timestamp,
    /// The phase it entered.
    pub phase: Phase,
}

/// Whether a version has been in the field for long enough to be trusted by itself.
const ESTABLISHED_MS: u64 = 86_400_000;
/// Ended incidents stay in the state, and so on the page, for this long.
const KEEP_ENDED_MS: u64 = 7 * 86_400_000;
/// Suspicions that came to nothing, for this long.
const KEEP_RETRACTED_MS: u64 = 86_400_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
struct Counted {
    weight: i64,
    online: bool,
    zone: u8,
    version: u16,
    resolver: u8,
    bits: Bits,
    check_at: Option<Timestamp>,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
struct Groups {
    online: i64,
    zones: BTreeMap<(EntityIndex, u8), Tally>,
    versions: BTreeMap<(EntityIndex, u16), Tally>,
    resolvers: BTreeMap<(EntityIndex, u8), Tally>,
}

fn add<K: Ord>(map: &mut BTreeMap<K, Tally>, key: K, eligible: i64, flagging: i64) {
    let tally = map.entry(key).or_default();
    tally.eligible += eligible;
    tally.flagging += flagging;
}

fn of<K: Copy + Ord>(
    map: &BTreeMap<(EntityIndex, K), Tally>,
    entity: EntityIndex,
) -> BTreeMap<K, Tally> {
    map.iter().filter(|((e, _), _)| *e == entity).map(|((_, key), tally)| (*key, *tally)).collect()
}

impl Groups {
    fn apply(&mut self, plan: &Plan, counted: &Counted, sign: i64) {
        if !counted.online {
            return;
        }
        let weight = counted.weight * sign;
        self.online += weight;
        for (entity, _) in plan.entities() {
            if counted.bits.eligible.has(entity) {
                let flagging = if counted.bits.flags.has(entity) { weight } else { 0 };
                add(&mut self.zones, (entity, counted.zone), weight, flagging);
                add(&mut self.versions, (entity, counted.version), weight, flagging);
                add(&mut self.resolvers, (entity, counted.resolver), weight, flagging);
            }
        }
    }
}

/// What the probes met: outcome, rule, and how often.
pub type Symptoms = BTreeMap<(Outcome, RuleNumber), u64>;

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
struct Suspect {
    suspect_run: u8,
    picks_run: u8,
    picked_at: Option<Timestamp>,
    baseline: Ppm,
    first_failure: Option<Timestamp>,
    symptoms: Symptoms,
    open: Option<Incident>,
    last: Option<Incident>,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
struct SiteState {
    run: u8,
    first_failure: Option<Timestamp>,
    symptoms: Symptoms,
    open: Option<Incident>,
    last: Option<Incident>,
}

/// Everything the detector remembers. A snapshot of it and the log behind it are the detector.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct State {
    /// Position of the last record taken.
    pub position: u64,
    now: Timestamp,
    observers: BTreeMap<u32, Observer>,
    counted: BTreeMap<u32, Counted>,
    checks: BTreeSet<(Timestamp, u32)>,
    groups: Groups,
    windows: Windows,
    cells: Cells,
    suspects: BTreeMap<EntityIndex, Suspect>,
    sites: BTreeMap<TargetIndex, SiteState>,
    ended: Vec<(Subject, Incident, Symptoms)>,
    rejected: Vec<(EntityIndex, String)>,
    weighed_at: Timestamp,
    unweighed: bool,
    majority_version: Option<(u16, Timestamp)>,
}

/// What an incident is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Subject {
    /// A provider in a role.
    Entity(EntityIndex),
    /// A site.
    Site(TargetIndex),
}

/// An incident with what is known of it besides, for the view.
#[derive(Debug, Clone, Copy)]
pub struct Shown<'a> {
    /// What it is about.
    pub subject: Subject,
    /// Its phases and grounds.
    pub incident: &'a Incident,
    /// What the probes met: outcome, rule, and how often.
    pub symptoms: &'a Symptoms,
}

/// The detector.
#[derive(Debug)]
pub struct Detector {
    catalogue: Catalogue,
    plan: Plan,
    settings: Settings,
    state: State,
}

impl Detector {
    /// An empty one.
    #[must_use]
    pub fn new(catalogue: Catalogue, settings: Settings) -> Self {
        Self::resume(catalogue, settings, State::default())
    }

    /// One that goes on from a state. The state must be of the same catalogue and settings; the
    /// caller keeps it together with them.
    #[must_use]
    pub fn resume(catalogue: Catalogue, settings: Settings, state: State) -> Self {
        let plan = Plan::new(&catalogue);
        Self { catalogue, plan, settings, state }
    }

    /// Its state, to be kept.
    #[must_use]
    pub const fn state(&self) -> &State {
        &self.state
    }

    /// The catalogue.
    #[must_use]
    pub const fn catalogue(&self) -> &Catalogue {
        &self.catalogue
    }

    /// The entities.
    #[must_use]
    pub const fn plan(&self) -> &Plan {
        &self.plan
    }

    /// The settings in force.
    #[must_use]
    pub const fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Counts for display.
    #[must_use]
    pub const fn cells(&self) -> &Cells {
        &self.state.cells
    }

    /// The time it has reached.
    #[must_use]
    pub const fn now(&self) -> Timestamp {
        self.state.now
    }

    /// Takes one record.
    pub fn record(&mut self, record: &Record) -> Vec<Changed> {
        let changed = self.advance(record.received_at);
        self.state.position = record.position;
        let now = self.state.now;
        let frozen = self.frozen();
        let Record { observer: id, key, standing, report, .. } = record;
        let observer = self.state.observers.entry(*id).or_insert_with(|| {
            self.state.unweighed = true;
            Observer::new(now, *standing, self.settings.anchors.contains(key))
        });
        if (observer.standing.slot, observer.standing.asn) != (standing.slot, standing.asn) {
            self.state.unweighed = true;
        }
        observer.standing = *standing;
        for (observed_at, observation) in report.timed() {
            if is_late(record.received_at, observed_at) {
                continue;
            }
            let (target, implication) = (observation.target, observation.implication());
            let Some(behind) = self.plan.behind(target) else { continue };
            let Some(observer) = self.state.observers.get_mut(id) else { continue };
            observer.observe(now, behind, target, implication);
            let counts_here = observer.counts_for(behind);
            let touches = touched(&self.plan, target, implication);
            self.state.cells.count(now, *id, standing, touches);
            let weight = self.state.counted.get(id).map_or(0, |counted| counted.weight);
            if counts_here && observation.cause == Cause::Scheduled && weight > 0 {
                let counts = window_counts(
                    behind.layers(implication.full),
                    behind.layers(implication.half),
                    weight,
                );
                let zone = standing.zone.map_or(NOWHERE, |zone| zone.0);
                self.state.windows.count(target, zone, &counts);
            }
            if !(implication.full.is_empty() && implication.half.is_empty()) {
                let rule = observation.failure.map(|failure| failure.rule).unwrap_or_default();
                let met = (observation.outcome, rule);
                for entity in behind.blamed(implication) {
                    let suspect = self.state.suspects.entry(entity).or_default();
                    suspect.first_failure.get_or_insert(observed_at);
                    *suspect.symptoms.entry(met).or_default() += 1;
                }
                let site = self.state.sites.entry(target).or_default();
                site.first_failure.get_or_insert(observed_at);
                *site.symptoms.entry(met).or_default() += 1;
            }
        }
        if let Some(observer) = self.state.observers.get_mut(id) {
            observer.age(now, frozen);
        }
        self.refresh(*id);
        changed
    }

    /// Lets time pass, up to and including `now`.
    pub fn advance(&mut self, now: Timestamp) -> Vec<Changed> {
        let mut changed = Vec::new();
        if self.state.now == Timestamp::EPOCH {
            self.state.now = now;
            return changed;
        }
        // Over a long gap nothing can happen that one window of silence does not bring about.
        let gap = now.since_ms(self.state.now);
        if gap > 4 * FORGET_MS {
            self.state.now = now.minus_ms(FORGET_MS);
        }
        loop {
            let next = Timestamp::from_ms((self.state.now.as_ms() / TICK_MS + 1) * TICK_MS);
            if next > now {
                break;
            }
            self.state.now = next;
            self.evaluate(&mut changed);
        }
        self.state.now = self.state.now.max(now);
        changed
    }

    fn frozen(&self) -> Entities {
        let mut frozen = Entities::default();
        for (entity, suspect) in &self.state.suspects {
            let standing = suspect.open.as_ref().is_some_and(|i| i.phase() != Phase::Suspected);
            if standing {
                frozen.insert(*entity);
            }
        }
        frozen
    }

    /// Takes an observer out of the tallies and puts it in again as it is now.
    fn refresh(&mut self, id: u32) {
        let now = self.state.now;
        let old = self.state.counted.remove(&id);
        if let Some(old) = &old {
            self.state.groups.apply(&self.plan, old, -1);
            if let Some(at) = old.check_at {
                self.state.checks.remove(&(at, id));
            }
        }
        let Some(observer) = self.state.observers.get(&id) else { return };
        let bits = observer.bits(now, &self.plan);
        let offline_at = observer.last_seen.plus_ms(ONLINE_MS);
        let online = now < offline_at;
        let check_at = match bits.due {
            Some(due) if online => Some(due.min(offline_at)),
            _ if online => Some(offline_at),
            _ => None,
        };
        let counted = Counted {
            weight: old.map_or(0, |old| old.weight),
            online,
            zone: observer.standing.zone.map_or(NOWHERE, |zone| zone.0),
            version: observer.standing.version,
            resolver: observer.standing.resolver,
            bits,
            check_at,
        };
        self.state.groups.apply(&self.plan, &counted, 1);
        if let Some(at) = check_at {
            self.state.checks.insert((at, id));
        }
        self.state.counted.insert(id, counted);
    }

    fn evaluate(&mut self, changed: &mut Vec<Changed>) {
        let now = self.state.now;
        while let Some((at, id)) = self.state.checks.first().copied() {
            if at > now {
                break;
            }
            self.refresh(id);
        }
        if self.state.unweighed || now.since_ms(self.state.weighed_at) >= WEIGH_MS {
            self.reweigh();
        }
        let round = now.as_ms().is_multiple_of(ROUND_MS);
        if round {
            self.state.windows.rotate(now.as_ms() / ROUND_MS);
            if now.as_ms().is_multiple_of(60_000) {
                self.forget();
            }
        }
        let shares: BTreeMap<EntityIndex, Shares> =
            self.plan.entities().map(|(entity, _)| (entity, self.shares(entity))).collect();
        if round {
            self.attribute(&shares);
            self.judge_sites(changed);
        }
        for (entity, shares) in &shares {
            self.judge(*entity, shares, changed);
        }
    }

    fn reweigh(&mut self) {
        let now = self.state.now;
        (self.state.unweighed, self.state.weighed_at) = (false, now);
        let ids: Vec<u32> = self.state.observers.keys().copied().collect();
        // Who was not heard for an hour takes no part, and takes nobody's share.
        let tenure = |observer: &Observer| {
            if now.since_ms(observer.last_seen) > FORGET_MS {
                return 0;
            }
            if observer.anchor {
                return ONE;
            }
            self.settings.tenure(now.since_ms(observer.first_seen))
        };
        let voters: Vec<Voter> = self
            .state
            .observers
            .values()
            .map(|observer| Voter {
                tenure: tenure(observer),
                slot: observer.standing.slot,
                asn: observer.standing.asn,
            })
            .collect();
        for (id, weight) in ids.into_iter().zip(weigh(&voters)) {
            if let Some(counted) = self.state.counted.get_mut(&id)
                && counted.weight != weight
            {
                self.state.groups.apply(&self.plan, counted, -1);
                counted.weight = weight;
                self.state.groups.apply(&self.plan, counted, 1);
            }
        }
        let mut versions: BTreeMap<u16, i64> = BTreeMap::new();
        for counted in self.state.counted.values().filter(|counted| counted.online) {
            *versions.entry(counted.version).or_default() += counted.weight;
        }
        let total: i64 = versions.values().sum();
        let most = versions.into_iter().find(|(_, weight)| 2 * weight > total);
        self.state.majority_version = match (most, self.state.majority_version) {
            (Some((version, _)), Some((same, since))) if version == same => Some((same, since)),
            (Some((version, _)), _) => Some((version, now)),
            (None, _) => None,
        };
    }

    fn forget(&mut self) {
        let now = self.state.now;
        self.state.cells.forget(now);
        let gone: Vec<u32> = self
            .state
            .observers
            .iter()
            .filter(|(_, observer)| {
                // Tenure is kept for those who have some; a passer-by is dropped.
                let present = observer.last_seen.since_ms(observer.first_seen);
                now.since_ms(observer.last_seen) > FORGET_MS.max(present / 2)
            })
            .map(|(id, _)| *id)
            .collect();
        for id in gone {
            self.state.observers.remove(&id);
            self.refresh(id);
        }
        self.state.ended.retain(|(_, incident, _)| {
            let keep_ms = match incident.phase() {
                Phase::Retracted => KEEP_RETRACTED_MS,
                _ => KEEP_ENDED_MS,
            };
            now.since_ms(incident.since()) < keep_ms
        });
    }

    /// The shares for one entity.
    #[must_use]
    pub fn shares(&self, entity: EntityIndex) -> Shares {
        Shares::new(&of(&self.state.groups.zones, entity), self.state.groups.online)
    }

    fn attribute(&mut self, shares: &BTreeMap<EntityIndex, Shares>) {
        let now = self.state.now;
        let candidates: Vec<EntityIndex> = shares
            .iter()
            .filter(|(_, shares)| {
                let zones = shares.zones.len();
                let seeing =
                    shares.zones.values().filter(|tally| is_suspect(tally.share())).count();
                let wide = shares.share >= CANDIDATE && 2 * seeing >= zones && zones > 0;
                (wide && shares.coverage().held) || shares.regional().next().is_some()
            })
            .map(|(entity, _)| *entity)
            .collect();
        let standing: Vec<EntityIndex> = self
            .plan
            .entities()
            .map(|(entity, _)| entity)
            .filter(|entity| self.frozen().has(*entity))
            .collect();
        let (picks, rejected) = if candidates.is_empty() && standing.is_empty() {
            (Vec::new(), BTreeMap::new())
        } else {
            let dead = self.dead_sites();
            let regional = shares
                .iter()
                .filter(|(_, shares)| shares.regional().next().is_some())
                .map(|(entity, _)| *entity)
                .collect();
            let windows = &self.state.windows;
            attribute(&self.plan, windows, &candidates, &standing, &regional, &dead)
        };
        let quiet: Vec<EntityIndex> = shares
            .iter()
            .filter(|(_, shares)| shares.share < CANDIDATE)
            .map(|(entity, _)| *entity)
            .collect();
        self.state.rejected = rejected
            .iter()
            .filter(|(entity, _)| candidates.contains(entity))
            .map(|(entity, why): (_, &Rejected)| (*entity, why.words(&self.plan)))
            .collect();
        for (entity, _) in self.plan.entities() {
            let rate = mean_rate(&self.plan, &self.state.windows, entity);
            let suspect = self.state.suspects.entry(entity).or_default();
            if picks.iter().any(|pick: &Pick| pick.entity == entity) {
                suspect.picks_run = suspect.picks_run.saturating_add(1);
                suspect.picked_at = Some(now);
            } else {
                suspect.picks_run = 0;
            }
            if suspect.open.is_none() && quiet.contains(&entity) {
                // Evidence of an outage begins where the quiet ended.
                suspect.first_failure = None;
                suspect.symptoms.clear();
                suspect.baseline = smooth(suspect.baseline, rate, ROUND_MS, 21_600_000).min(50_000);
            }
        }
    }

    fn dead_sites(&self) -> BTreeSet<TargetIndex> {
        let dead = |site: &SiteState| site.open.is_some();
        self.state.sites.iter().filter(|(_, site)| dead(site)).map(|(target, _)| *target).collect()
    }

    fn participants(&self, entity: EntityIndex) -> Participants {
        let (mut prefixes, mut networks, mut zones) =
            (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
        let mut observers = 0;
        for (id, counted) in &self.state.counted {
            if counted.online && counted.weight > 0 && counted.bits.eligible.has(entity) {
                let Some(observer) = self.state.observers.get(id) else { continue };
                observers += 1;
                prefixes.insert(observer.standing.slot);
                networks.insert(observer.standing.asn);
                zones.extend(observer.standing.zone);
            }
        }
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        Participants {
            observers,
            prefixes: count(prefixes.len()),
            networks: count(networks.len()),
            zones: count(zones.len()),
        }
    }

    fn strata(&self, entity: EntityIndex, share: Ppm) -> (Strata, Strata) {
        let established = |version: u16| {
            self.settings.established_versions.contains(&version)
                || self.state.majority_version.is_some_and(|(known, since)| {
                    known == version && self.state.now.since_ms(since) >= ESTABLISHED_MS
                })
        };
        let versions = of(&self.state.groups.versions, entity);
        let resolvers = of(&self.state.groups.resolvers, entity);
        (
            strata("c4.versions", "probe-core version", &versions, share, established),
            strata("c4.resolvers", "resolver class", &resolvers, share, |_| true),
        )
    }

    fn judge(&mut self, entity: EntityIndex, shares: &Shares, changed: &mut Vec<Changed>) {
        let now = self.state.now;
        let open = self.state.suspects.get(&entity).is_some_and(|s| s.open.is_some());
        let regional: Vec<u8> = shares.regional().collect();
        if !open && shares.share < CANDIDATE && regional.is_empty() {
            if let Some(suspect) = self.state.suspects.get_mut(&entity) {
                suspect.suspect_run = 0;
            }
            return;
        }
        let (versions, resolvers) = self.strata(entity, shares.share);
        let participants = self.participants(entity);
        let rate = mean_rate(&self.plan, &self.state.windows, entity);
        let Some(suspect) = self.state.suspects.get(&entity) else { return };
        let recent = suspect.picked_at.is_some_and(|at| now.since_ms(at) <= PICK_RECENT_MS);
        let twice = recent && suspect.picks_run >= HOLD;
        let strata_hold = versions.holds && resolvers.holds;
        let attributed = Reason {
            rule: "c5.attributed".to_owned(),
            held: twice,
            found: format!("named as the culprit in {} rounds running", suspect.picks_run),
            needed: format!("{HOLD}, the last within {} s", PICK_RECENT_MS / 1000),
        };
        let reasons = vec![
            participants.enough(&self.settings),
            shares.majority(),
            shares.geography(),
            shares.coverage(),
            versions.reason.clone(),
            resolvers.reason.clone(),
            attributed,
        ];
        let global = reasons.iter().all(|reason| reason.held);
        let others = |but: &str| reasons.iter().filter(|r| r.rule != but).all(|r| r.held);
        let local = !regional.is_empty() && twice && strata_hold && !versions.unproved;
        // A regional incident stands or falls with its own zones.
        let zones = suspect.open.as_ref().map(|incident| &incident.reach);
        let share = match zones {
            Some(Reach::Regional(zones)) => zones
                .iter()
                .filter_map(|zone| shares.zones.get(zone))
                .map(|tally| tally.share())
                .max()
                .unwrap_or(shares.share),
            _ => shares.share,
        };
        let reading = Reading {
            share,
            rate,
            suspect: (is_suspect(shares.share) || !regional.is_empty()) && strata_hold && recent,
            confirm: global || local,
            relapse: recent
                && (others("c5.attributed")
                    || (!regional.is_empty() && strata_hold && !versions.unproved)),
        };
        let by_far = shares.zones.values().all(|tally| tally.share() >= 750_000);
        let confidence = if participants.prefixes < 100 {
            Confidence::Low
        } else if by_far {
            Confidence::High
        } else {
            Confidence::Medium
        };
        let ruled_out = self.ruled_out(entity);
        let grounds = || {
            let reach = if global || regional.is_empty() {
                Reach::Global
            } else {
                Reach::Regional(regional.clone())
            };
            let liar_bound = shares.liar_bound();
            (reach, Grounds { reasons, ruled_out, liar_bound, confidence })
        };
        let Some(suspect) = self.state.suspects.get_mut(&entity) else { return };
        let baseline = suspect.baseline;
        if let Some(incident) = &mut suspect.open {
            let before = incident.phase();
            let entered = incident.step(now, &reading, baseline, grounds);
            let Some(phase) = entered else { return };
            // What was resolved within the hour has come back: that incident goes on.
            if (before, phase) == (Phase::Suspected, Phase::Confirmed)
                && let Some(mut last) = suspect.last.take_if(|last| last.may_reopen(now))
            {
                last.reopen(now, incident.grounds.clone());
                self.state.ended.retain(|(_, ended, _)| ended.id != last.id);
                *incident = last;
            }
            changed.push(Changed { incident: incident.id.clone(), at: now, phase });
            if !phase.is_open()
                && let Some(ended) = suspect.open.take()
            {
                let symptoms = std::mem::take(&mut suspect.symptoms);
                suspect.first_failure = None;
                if phase == Phase::Resolved {
                    suspect.last = Some(ended.clone());
                }
                self.state.ended.push((Subject::Entity(entity), ended, symptoms));
            }
            return;
        }
        suspect.suspect_run = if reading.suspect { suspect.suspect_run + 1 } else { 0 };
        if suspect.suspect_run >= HOLD {
            suspect.suspect_run = 0;
            let started = suspect.first_failure.unwrap_or(now);
            let culprit = self.plan.entity(entity);
            let layer = format!("{:?}", culprit.layer).to_ascii_lowercase();
            let id = format!("{}-{}-{layer}", stamp(now), culprit.provider);
            let (reach, grounds) = grounds();
            changed.push(Changed { incident: id.clone(), at: now, phase: Phase::Suspected });
            suspect.open = Some(Incident::open(id, now, started, Phase::Suspected, reach, grounds));
        }
    }

    fn ruled_out(&self, entity: EntityIndex) -> Vec<Reason> {
        self.state
            .rejected
            .iter()
            .filter(|(other, _)| *other != entity)
            .map(|(other, why)| {
                let suspect = self.plan.entity(*other);
                let layer = format!("{:?}", suspect.layer).to_ascii_lowercase();
                Reason {
                    rule: format!("not.{}.{layer}", suspect.provider),
                    held: true,
                    found: why.clone(),
                    needed: "to explain the failures better than what is named".to_owned(),
                }
            })
            .collect()
    }

    fn judge_sites(&mut self, changed: &mut Vec<Changed>) {
        let now = self.state.now;
        let targets: Vec<TargetIndex> = self.state.sites.keys().copied().collect();
        for target in targets {
            let total = self.state.windows.of(target);
            let rate = total.failure_rate();
            let down = self.site_is_down(target, &total);
            let Some(site) = self.state.sites.get_mut(&target) else { continue };
            if let Some(incident) = &mut site.open {
                if let Some(phase) = incident.step_site(now, rate, total.observed >= SITE_WEIGHT) {
                    changed.push(Changed { incident: incident.id.clone(), at: now, phase });
                    if let Some(ended) = site.open.take() {
                        let symptoms = std::mem::take(&mut site.symptoms);
                        site.first_failure = None;
                        site.last = Some(ended.clone());
                        self.state.ended.push((Subject::Site(target), ended, symptoms));
                    }
                }
                continue;
            }
            let Ok(grounds) = down else {
                site.run = 0;
                if rate < SITE_SIBLINGS {
                    site.first_failure = None;
                    site.symptoms.clear();
                }
                continue;
            };
            site.run += 1;
            if site.run >= HOLD {
                site.run = 0;
                let started = site.first_failure.unwrap_or(now);
                let Some(entry) = self.catalogue.target(target) else { continue };
                let incident = match site.last.take_if(|last| last.may_reopen(now)) {
                    Some(mut last) => {
                        last.reopen(now, grounds);
                        self.state.ended.retain(|(_, ended, _)| ended.id != last.id);
                        last
                    }
                    None => {
                        let id = format!("{}-site-{}", stamp(now), entry.id);
                        Incident::open(id, now, started, Phase::Confirmed, Reach::Site, grounds)
                    }
                };
                let id = incident.id.clone();
                changed.push(Changed { incident: id, at: now, phase: Phase::Confirmed });
                site.open = Some(incident);
            }
        }
    }

    /// The rule for a site: it fails in most zones, and neither a provider behind it nor its
    /// siblings explain that.
    fn site_is_down(&self, target: TargetIndex, total: &Counts) -> Result<Grounds, Reason> {
        let rate = total.failure_rate();
        let reason = |rule: &str, held, found: String, needed: String| {
            let reason = Reason { rule: rule.to_owned(), held, found, needed };
            if held { Ok(reason) } else { Err(reason) }
        };
        let percent = super::fixed::percent;
        let votes = super::fixed::votes;
        let share = reason(
            "site.rate",
            total.observed >= SITE_WEIGHT && rate >= SITE_DOWN,
            format!("{} of {} votes fail", percent(rate), votes(total.observed)),
            format!("{} of at least {}", percent(SITE_DOWN), votes(SITE_WEIGHT)),
        )?;
        let zones: Vec<_> = self
            .state
            .windows
            .by_zone(target)
            .into_iter()
            .filter(|(zone, counts)| *zone != NOWHERE && counts.observed >= SITE_ZONE_WEIGHT)
            .collect();
        let seeing = zones.iter().filter(|(_, c)| c.failure_rate() >= SITE_DOWN).count();
        let needed = (zones.len() * 3).div_ceil(5).max(ZONES_MIN);
        let geography = reason(
            "site.geography",
            zones.len() >= ZONES_MIN && seeing >= needed,
            format!("{seeing} of {} zones with enough votes see it", zones.len()),
            format!("{needed} of at least {ZONES_MIN}"),
        )?;
        let mut unexplained = Vec::new();
        for (_, entity) in self.plan.behind(target).into_iter().flat_map(|b| b.entities()) {
            let provider = self.plan.entity(*entity);
            let picked = self
                .state
                .suspects
                .get(entity)
                .and_then(|suspect| suspect.picked_at)
                .is_some_and(|at| self.state.now.since_ms(at) <= PICK_RECENT_MS);
            let siblings = provider.targets.iter().filter(|sibling| **sibling != target);
            let rates: Vec<Ppm> = siblings
                .map(|sibling| self.state.windows.of(*sibling))
                .filter(|counts| counts.observed > 0)
                .map(|counts| counts.failure_rate())
                .collect();
            let middle = median(rates).unwrap_or(0);
            unexplained.push(reason(
                "site.alone",
                !picked && middle < SITE_SIBLINGS,
                format!("the other sites of {} fail at {}", provider.provider, percent(middle)),
                format!("under {}, and no suspicion of it", percent(SITE_SIBLINGS)),
            )?);
        }
        let needed = super::fixed::scale(total.observed, CONFIRM);
        Ok(Grounds {
            reasons: vec![share, geography],
            ruled_out: unexplained,
            liar_bound: tocsin_proto::incident::LiarBound {
                prefixes: u32::try_from((needed + ONE - 1) / ONE).unwrap_or(u32::MAX),
                networks: u32::try_from(needed / super::params::NETWORK_CAP_MIN + 1)
                    .unwrap_or(u32::MAX),
                zones: u32::try_from(seeing).unwrap_or(u32::MAX),
            },
            confidence: Confidence::Medium,
        })
    }

    /// Every incident that is open or ended lately, newest first; suspicions too.
    #[must_use]
    pub fn incidents(&self) -> Vec<Shown<'_>> {
        let providers = self.state.suspects.iter().filter_map(|(entity, suspect)| {
            let incident = suspect.open.as_ref()?;
            let subject = Subject::Entity(*entity);
            Some(Shown { subject, incident, symptoms: &suspect.symptoms })
        });
        let sites = self.state.sites.iter().filter_map(|(target, site)| {
            let incident = site.open.as_ref()?;
            Some(Shown { subject: Subject::Site(*target), incident, symptoms: &site.symptoms })
        });
        let open: Vec<_> = providers.chain(sites).collect();
        let ended = self
            .state
            .ended
            .iter()
            .filter(|(_, ended, _)| open.iter().all(|shown| shown.incident.id != ended.id))
            .map(|(subject, incident, symptoms)| Shown { subject: *subject, incident, symptoms });
        let mut all: Vec<_> = open.iter().copied().chain(ended).collect();
        all.sort_by(|a, b| {
            (b.incident.started_at, &b.incident.id).cmp(&(a.incident.started_at, &a.incident.id))
        });
        all
    }

    /// Observers that are online, with their vote and their bits.
    pub fn online(&self) -> impl Iterator<Item = (&Observer, i64, &Bits)> {
        self.state.counted.iter().filter(|(_, counted)| counted.online).filter_map(
            |(id, counted)| Some((self.state.observers.get(id)?, counted.weight, &counted.bits)),
        )
    }

    /// Counts of the last two minutes for a target.
    #[must_use]
    pub fn window(&self, target: TargetIndex) -> Counts {
        self.state.windows.of(target)
    }

    /// The zone's name.
    #[must_use]
    pub fn zone_name(zone: u8) -> Option<&'static tocsin_proto::id::Id> {
        Zones::builtin().id(tocsin_proto::catalogue::ZoneIndex(zone))
    }

    /// Whether every tally equals the sum over its observers, counted anew: an invariant.
    #[must_use]
    pub fn tallies_are_consistent(&self) -> bool {
        let mut groups = Groups::default();
        for counted in self.state.counted.values() {
            groups.apply(&self.plan, counted, 1);
        }
        let trim = |groups: &Groups| {
            let mut groups = groups.clone();
            let none = |tally: &Tally| *tally != Tally::default();
            groups.zones.retain(|_, tally| none(tally));
            groups.versions.retain(|_, tally| none(tally));
            groups.resolvers.retain(|_, tally| none(tally));
            groups
        };
        trim(&groups) == trim(&self.state.groups)
    }
}

fn window_counts(full: Layers, half: Layers, weight: i64) -> Counts {
    let failed = !(full.is_empty() && half.is_empty());
    let mut counts = Counts::of(weight, failed);
    for layer in COUNTED {
        if full.has(layer) {
            counts.implicate(layer, weight);
        } else if half.has(layer) && layer != Layer::Site {
            counts.implicate(layer, weight / 2);
        }
    }
    counts
}

/// A time as it stands in an incident's name: `20251118t112812`.
fn stamp(at: Timestamp) -> String {
    let text = at.to_string();
    let compact: String = text.chars().filter(char::is_ascii_alphanumeric).collect();
    compact.get(..15).unwrap_or(&compact).to_ascii_lowercase()
}
