//! The detector: a function of the log. Records and ticks go in, in order; changes of phase come
//! out, and a view of everything can be asked for at any time.
//!
//! Time enters with each record and each tick, and never goes back. Between two inputs the
//! detector passes every evaluation (5 s) and round (10 s) that lies between them, so a replay of
//! the same records takes the same steps, however the ticks fell.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use serde::{Deserialize, Serialize};
use tocsin_proto::{
    catalogue::{Catalogue, Zones},
    id::{ObserverId, TargetIndex},
    implicate::{Layer, Layers, Says},
    incident::{Confidence, Phase, Reason},
    observation::Cause,
    outcome::Outcome,
    report::Report,
    rules::{RuleNumber, RuleTable},
    time::Timestamp,
};

use super::{
    admit::is_late,
    alert::Alerts,
    attribute::{Pick, Rejected, attribute, class, mean_rate},
    fixed::{ONE, Ppm, percent, share, smooth},
    groups::{self, Census, Cut, Group, Groups},
    incident::{Grounds, Incident, Reach, Reading, Region, is_suspect},
    judge::{Participants, Shares, Strata, strata},
    line::{Line, Spell},
    observer::{Observer, Standing},
    panel::{self, Ask, Candidate, Kind, Panel, Step},
    params::{PANEL_TICK_MS, Params, ROUND_MS, Settings, TICK_MS},
    plan::{Behind, Entities, EntityIndex, Plan},
    second_look::{self, SecondLooks},
    seen::SeenBy,
    sites::{Down, Scene, Sites, is_worth_a_look, seems_down},
    tally::{NOWHERE, Tallies, Tally, Vote},
    weigh::{Voter, weigh},
    window::{COUNTED, Counts, Windows},
};

mod asking;
mod regions;
mod side;
mod together;

use asking::Call;
pub use asking::PanelNote;
pub use regions::Regional;
pub(crate) use regions::{Countries, Here, Voice, divided};
use together::Together;

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

/// Ended incidents stay in the state, and so on the page, for this long.
const KEEP_ENDED_MS: u64 = 7 * 86_400_000;
/// Suspicions that came to nothing, for this long.
const KEEP_RETRACTED_MS: u64 = 86_400_000;

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
    panel: Option<Panel>,
    /// When the last tracking panel was begun.
    track_at: Timestamp,
    /// It has passed, but all its sites are behind another that is suspected too: whose panel is
    /// awaited, until when, and what was found.
    held: Option<(EntityIndex, Timestamp, panel::Finding)>,
    tracked: Option<Tracked>,
    /// When a full panel last came to nothing, and whether it was answered.
    asked: Option<(Timestamp, bool)>,
    /// How often running one did that what is overheard had called.
    fruitless: u8,
    /// Who could tell, and when that was counted.
    participants: Option<(Timestamp, Participants)>,
    /// What is seen in each country, where that matters, and when that was counted.
    countries: Option<(Timestamp, Countries)>,
    /// When who sees it was last counted for a verdict.
    seen_at: Timestamp,
    /// That so many of its sites went down together.
    together: Option<Together>,
}

impl Suspect {
    /// How long what a full panel came to is good, ms: longer each time that what is overheard has
    /// called one in vain.
    fn asked_for_ms(&self, p: &Params) -> u64 {
        p.asked_good_ms << self.fruitless.saturating_sub(1)
    }
}

/// What the last tracking panel, or the one that confirmed, found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Tracked {
    at: Timestamp,
    share: Ppm,
    /// Failure rate over the suspect's asked sites, and over the controls.
    rate: Ppm,
    usual: Ppm,
    /// How often running its conditions held.
    passes: u8,
}

/// Everything the detector remembers. A snapshot of it and the log behind it are the detector.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct State {
    /// Position of the last record taken.
    pub position: u64,
    now: Timestamp,
    /// By number, which the log gives in order; `None` where one was forgotten.
    observers: Vec<Option<Box<Observer>>>,
    /// When bits may change by time alone, by tick. An observer stands here never later than its bits
    /// are due; what is no longer the tick it plans for is passed over.
    checks: BTreeMap<u32, Vec<u32>>,
    tallies: Tallies,
    windows: Windows,
    /// The same over six times the time.
    slow: Windows,
    suspects: BTreeMap<EntityIndex, Suspect>,
    sites: Sites,
    looks: SecondLooks,
    groups: Groups,
    census: Census,
    /// Whom nothing answers, or lately did not.
    cut: BTreeSet<u32>,
    /// Who fell silent in the last minutes.
    lost: BTreeMap<u32, Timestamp>,
    alerts: Alerts,
    /// Entities whose incident stands.
    frozen: Entities,
    /// And stands of the whole world: what else fails alike is explained by it. What is said of a part of it
    /// explains nothing elsewhere.
    worldwide: Entities,
    ended: Vec<(Subject, Incident, Symptoms)>,
    rejected: Vec<(EntityIndex, String)>,
    /// Since when observers are known from before this log, by number.
    tenure: BTreeMap<u32, Timestamp>,
    /// And how many times as seldom as others they report, where that is known.
    paces: BTreeMap<u32, u8>,
    /// Observers that were not forgotten, when that was last counted: numbers are never given again.
    present: u64,
    /// Since when there is somebody to be heard, and when the last was.
    awake_since: Timestamp,
    heard_at: Timestamp,
    weighed_at: Timestamp,
    unweighed: bool,
    /// The weight that is usually online, as a mean over an hour.
    usual_online: i64,
    majority_version: Option<(u16, Timestamp)>,
}

/// What an incident is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Subject {
    /// A provider in a role.
    Entity(EntityIndex),
    /// A site.
    Site(TargetIndex),
    /// What observers have in common.
    Group(Group),
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
    /// Asks that are to go out.
    asks: Vec<Ask>,
    /// What panels came to.
    panels: Vec<PanelNote>,
    /// Whether the past is read anew: nobody can be asked about it.
    mute: bool,
}

impl State {
    /// An empty one, in which observers, by number, have been there since these times.
    #[must_use]
    pub fn with_tenure(tenure: BTreeMap<u32, Timestamp>) -> Self {
        Self { tenure, ..Self::default() }
    }

    /// The same, in which observers, by number, report so many times as seldom as the others.
    #[must_use]
    pub fn with_paces(self, paces: BTreeMap<u32, u8>) -> Self {
        Self { paces, ..self }
    }

    /// Since when observers are known, by number.
    #[must_use]
    pub fn tenure(&self) -> BTreeMap<u32, Timestamp> {
        let observers = (0u32..).zip(&self.observers);
        let mut tenure = self.tenure.clone();
        tenure.extend(observers.filter_map(|(id, o)| Some((id, o.as_ref()?.first_seen()))));
        tenure
    }
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
        Self { catalogue, plan, settings, state, asks: Vec::new(), panels: Vec::new(), mute: false }
    }

    /// Applies the settings' anchors to observers that are known already, by their keys.
    pub fn vouch(&mut self, keys: &BTreeMap<u32, ObserverId>) {
        for (id, observer) in (0u32..).zip(&mut self.state.observers) {
            if let Some(observer) = observer {
                let key = keys.get(&id);
                let anchor = key.is_some_and(|key| self.settings.anchors.contains(key));
                self.state.unweighed |= anchor != observer.anchor;
                observer.anchor = anchor;
            }
        }
    }

    /// While the past is read anew without the state of then nobody is asked: no answer in the log
    /// would fit, and who raised an alarm would be struck for it.
    pub const fn mute(&mut self, mute: bool) {
        self.mute = mute;
    }

    /// Who is to be asked what, since the last call.
    pub fn take_asks(&mut self) -> Vec<Ask> {
        std::mem::take(&mut self.asks)
    }

    /// What panels came to since the last call; of more than fit, the first.
    pub fn take_panels(&mut self) -> Vec<PanelNote> {
        std::mem::take(&mut self.panels)
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

    /// The time it has reached.
    #[must_use]
    pub const fn now(&self) -> Timestamp {
        self.state.now
    }

    /// Takes one record.
    pub fn record(&mut self, record: &Record) -> Vec<Changed> {
        let p = &Arc::clone(&self.settings.params);
        let changed = self.advance(record.received_at);
        self.state.position = record.position;
        let now = self.state.now;
        if now.since_ms(self.state.heard_at) > p.online_ms {
            self.state.awake_since = now;
        }
        self.state.heard_at = now;
        let Record { observer: id, key, standing, report, .. } = record;
        let State {
            observers,
            windows,
            suspects,
            sites,
            unweighed,
            frozen,
            worldwide,
            tenure,
            paces,
            alerts,
            groups,
            cut,
            looks,
            ..
        } = &mut self.state;
        let place = *id as usize;
        if observers.len() <= place {
            observers.resize_with(place + 1, || None);
        }
        let Some(place) = observers.get_mut(place) else { return changed };
        let observer = place.get_or_insert_with(|| {
            *unweighed = true;
            let anchor = self.settings.anchors.contains(key);
            let since = tenure.remove(id).unwrap_or(now);
            let pace = paces.get(id).copied().unwrap_or(1);
            Box::new(Observer::new(now, since, *standing, anchor).with_pace(pace))
        });
        if (observer.standing.slot, observer.standing.asn) != (standing.slot, standing.asn) {
            *unweighed = true;
        }
        // Where it was cut off is not where it tells of it.
        if observer.standing.asn != standing.asn {
            observer.line = Line::default();
        }
        // Who was away so long had no weight.
        *unweighed |= now.since_ms(observer.last_seen) > p.forget_ms;
        observer.stand(*standing);
        let zone = standing.zone.map_or(NOWHERE, |zone| zone.0);
        for (observed_at, observation) in report.timed() {
            let (target, implication) = (observation.target, observation.implication());
            let scheduled = observation.cause == Cause::Scheduled;
            let says = implication.says();
            let rule = observation.failure.map(|failure| failure.rule).unwrap_or_default();
            let known = RuleTable::builtin().get(rule).is_some();
            let met = (observation.outcome, if known { rule } else { RuleNumber::NONE });
            if scheduled {
                let answered = says == Says::Answers;
                let own_resolver = implication.full.has(Layer::Resolver);
                observer.line.observe(p, now, observed_at, answered, own_resolver);
                if !answered && observer.weight > 0 && observer.line.current().is_some() {
                    groups.met(standing, met);
                }
            }
            // Of what is late, only who was cut off when is of use.
            if is_late(record.received_at, observed_at) {
                continue;
            }
            let Some(behind) = self.plan.behind(target) else { continue };
            let counts = scheduled && observer.may_count(p, now, target);
            let excused = match says {
                Says::Fails => sites.excused(p, now, &self.plan, target),
                _ => Entities::default(),
            };
            observer.observe(p, now, &self.plan, (behind, target, excused), implication);
            if counts
                && says != Says::Nothing
                && observer.weight > 0
                && observer.counts_for(p, behind)
            {
                let full = behind.layers(implication.full);
                let half = behind.layers(implication.half);
                let counts = window_counts(full, half, observer.weight);
                windows.count(target, zone, &counts);
            }
            if let Cause::Asked { nonce } = observation.cause {
                let (full, half) = (implication.full, implication.half);
                for suspect in suspects.values_mut() {
                    let Some(panel) = &mut suspect.panel else { continue };
                    let layer = self.plan.entity(panel.entity).layer;
                    let blames = behind.has(panel.entity)
                        && (behind.layers(full).has(layer) || behind.layers(half).has(layer));
                    let who = (*id, standing);
                    let says = (says != Says::Answers, blames);
                    panel.answer(who, nonce, target, says, observation.family);
                }
                // What is the observer's own says nothing of a site.
                if says != Says::Nothing {
                    looks.answer((*id, standing), nonce, target, says == Says::Fails);
                }
            } else if says == Says::Fails && observer.weight > 0 && observer.is_healthy(p) {
                let explained = |entity: EntityIndex| {
                    let own = class(self.plan.entity(entity).layer);
                    behind.entities().iter().any(|(layer, other)| {
                        *other != entity && worldwide.has(*other) && class(*layer) == own
                    })
                };
                for entity in behind.blamed(implication).chain(behind.half_blamed(implication)) {
                    if observer.flags(p).has(entity)
                        && !excused.has(entity)
                        && !observer.is_chronic(p, entity)
                        && !explained(entity)
                        && observer.sees_now(p, now, &self.plan, entity)
                    {
                        alerts.flag(now, entity, standing.slot, standing.asn, zone);
                    }
                }
            }
            // Who has no vote leaves no trace in what is published.
            if says == Says::Fails && observer.weight > 0 {
                for entity in behind.blamed(implication).chain(behind.half_blamed(implication)) {
                    let suspect = suspects.entry(entity).or_default();
                    suspect.first_failure.get_or_insert(observed_at);
                    *suspect.symptoms.entry(met).or_default() += 1;
                }
                sites.failed(target, observed_at, met);
            }
        }
        if observer.line.current().or(observer.line.past()).is_some() {
            cut.insert(*id);
        }
        observer.age(p, now, *frozen, groups.excuse(standing));
        self.refresh(*id);
        changed
    }

    /// Whether everybody who is there has had the time to be heard.
    #[must_use]
    pub const fn is_settled(&self) -> bool {
        self.state.now.since_ms(self.state.awake_since) >= self.settings.settle_s * 1_000
    }

    /// Lets time pass, up to and including `now`.
    pub fn advance(&mut self, now: Timestamp) -> Vec<Changed> {
        let p = &Arc::clone(&self.settings.params);
        let mut changed = Vec::new();
        if self.state.now == Timestamp::EPOCH {
            self.state.now = now;
            return changed;
        }
        // Over a long gap nothing can happen that one window of silence does not bring about.
        let gap = now.since_ms(self.state.now);
        if gap > 4 * p.forget_ms {
            self.state.now = now.minus_ms(p.forget_ms);
        }
        loop {
            let next =
                Timestamp::from_ms((self.state.now.as_ms() / PANEL_TICK_MS + 1) * PANEL_TICK_MS);
            if next > now {
                break;
            }
            self.state.now = next;
            if next.as_ms().is_multiple_of(TICK_MS) {
                self.evaluate(&mut changed);
            }
            self.ask_back(&mut changed);
        }
        self.state.now = self.state.now.max(now);
        changed
    }

    /// Puts an observer as it is now in the place of what is in the sums of it.
    fn refresh(&mut self, id: u32) {
        let p = &Arc::clone(&self.settings.params);
        let now = self.state.now;
        let State { observers, tallies, checks, lost, .. } = &mut self.state;
        let Some(Some(observer)) = observers.get_mut(id as usize) else { return };
        let bits = observer.bits(p, now, &self.plan);
        let offline_at = observer.offline_at(p);
        let online = now < offline_at;
        let vote = observer.vote_of(bits, online);
        if observer.vote.weight > 0 && !online {
            lost.insert(id, now);
        }
        tallies.replace(&observer.vote, &vote);
        observer.vote = vote;
        let due = bits.due.filter(|_| online).unwrap_or(offline_at).min(offline_at);
        // A check that comes too early is only a look too many.
        let tick = u32::try_from(due.as_ms().div_ceil(TICK_MS)).unwrap_or(u32::MAX);
        observer.due = tick;
        if online && (observer.check_at == 0 || tick < observer.check_at) {
            checks.entry(tick).or_default().push(id);
            observer.check_at = tick;
        }
    }

    fn evaluate(&mut self, changed: &mut Vec<Changed>) {
        let p = &Arc::clone(&self.settings.params);
        let now = self.state.now;
        while let Some(due) = self.state.checks.first_entry()
            && u64::from(*due.key()) * TICK_MS <= now.as_ms()
        {
            let (tick, planned) = due.remove_entry();
            for id in planned {
                let Some(Some(observer)) = self.state.observers.get_mut(id as usize) else {
                    continue;
                };
                if observer.check_at != tick {
                    continue;
                }
                // Who has reported since is looked at when that runs out.
                if observer.due > tick {
                    observer.check_at = observer.due;
                    self.state.checks.entry(observer.due).or_default().push(id);
                    continue;
                }
                observer.check_at = 0;
                self.refresh(id);
            }
        }
        let since_ms = now.since_ms(self.state.weighed_at);
        if since_ms >= p.weigh_ms || (self.state.unweighed && since_ms >= self.pause_ms()) {
            self.reweigh();
        }
        let round = now.as_ms().is_multiple_of(ROUND_MS);
        if round {
            let State { windows, slow, .. } = &mut self.state;
            slow.rotate(now.minus_ms(ROUND_MS).as_ms() / (6 * ROUND_MS));
            slow.take_present(windows);
            windows.rotate(now.as_ms() / ROUND_MS);
            if now.as_ms().is_multiple_of(60_000) {
                self.forget();
            }
        }
        let shares: BTreeMap<EntityIndex, Shares> =
            self.plan.entities().map(|(entity, _)| (entity, self.shares(entity))).collect();
        self.look_by_country(&shares);
        let regional: BTreeMap<EntityIndex, Regional> = shares
            .iter()
            .map(|(entity, shares)| (*entity, self.regions(*entity, shares)))
            .filter(|(_, regional)| !regional.is_empty())
            .collect();
        let none = Regional::default();
        if round {
            self.attribute(&shares, &regional);
            if self.is_settled() {
                self.judge_sites(changed);
                self.look_at_sites_together();
                self.judge_groups(changed);
            }
            let online = self.state.tallies.online();
            let usual = smooth(self.state.usual_online, online, ROUND_MS, p.usual_online_ms);
            self.state.usual_online = usual.max(online);
            let State { alerts, suspects, tallies, .. } = &mut self.state;
            alerts.rest(p, now, ROUND_MS, tallies.online(), |entity| {
                suspects.get(&entity).is_none_or(|s| s.open.is_none() && s.panel.is_none())
            });
        }
        for (entity, shares) in &shares {
            let regional = regional.get(entity).unwrap_or(&none);
            self.judge(*entity, shares, regional, changed);
        }
        self.note_standing();
    }

    /// Notes which entities' incidents stand, and how far.
    fn note_standing(&mut self) {
        let State { suspects, frozen, worldwide, .. } = &mut self.state;
        (*frozen, *worldwide) = (Entities::default(), Entities::default());
        for (entity, suspect) in suspects {
            let open = suspect.open.as_ref().filter(|open| open.phase() != Phase::Suspected);
            let Some(open) = open else { continue };
            frozen.insert(*entity);
            if open.reach == Reach::Global {
                worldwide.insert(*entity);
            }
        }
    }

    /// How long what goes through everybody is good for, ms: it takes about a microsecond an observer,
    /// and is to take no more than one part in fifty of the time.
    fn pause_ms(&self) -> u64 {
        self.state.present / 20
    }

    fn reweigh(&mut self) {
        let p = &Arc::clone(&self.settings.params);
        let now = self.state.now;
        (self.state.unweighed, self.state.weighed_at) = (false, now);
        // Who was not heard for an hour takes no part, and takes nobody's share.
        let tenure = |observer: &Observer| {
            if now.since_ms(observer.last_seen) > p.forget_ms {
                return 0;
            }
            if observer.anchor {
                return ONE;
            }
            self.settings.tenure(observer.tenure_ms(p, now))
        };
        let voters: Vec<Voter> = self
            .observers()
            .map(|(_, observer)| Voter {
                tenure: tenure(observer),
                slot: observer.standing.slot,
                asn: observer.standing.asn,
            })
            .collect();
        let State { observers, tallies, census, .. } = &mut self.state;
        let mut versions: BTreeMap<u16, i64> = BTreeMap::new();
        *census = Census::default();
        for (observer, weight) in observers.iter_mut().flatten().zip(weigh(p, &voters)) {
            let online = observer.is_online(p, now);
            observer.weight = weight.vote;
            observer.within = u32::try_from(weight.within).unwrap_or(u32::MAX);
            let vote = Vote { weight: if online { weight.vote } else { 0 }, ..observer.vote };
            tallies.replace(&observer.vote, &vote);
            observer.vote = vote;
            if online {
                *versions.entry(observer.standing.version).or_default() += weight.vote;
            }
            if weight.within > 0 && !observer.is_sick(p) {
                census.add(&observer.standing, weight.within);
            }
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
        let p = &Arc::clone(&self.settings.params);
        let now = self.state.now;
        self.state.alerts.forget(now);
        self.state.looks.forget(p, now);
        let State { observers, tallies, .. } = &mut self.state;
        let mut present = 0;
        for place in observers {
            // Tenure is kept for those who have some; a passer-by is dropped.
            let gone = place.take_if(|observer| {
                let present = observer.last_seen.since_ms(observer.first_seen());
                now.since_ms(observer.last_seen) > p.forget_ms.max(present / 2)
            });
            if let Some(observer) = gone {
                tallies.replace(&observer.vote, &Vote::default());
            }
            present += u64::from(place.is_some());
        }
        self.state.present = present;
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
        let p = &*self.settings.params;
        Shares::new(p, self.state.tallies.zones(entity), self.state.tallies.online())
    }

    fn attribute(
        &mut self,
        shares: &BTreeMap<EntityIndex, Shares>,
        regional: &BTreeMap<EntityIndex, Regional>,
    ) {
        let p = &Arc::clone(&self.settings.params);
        let now = self.state.now;
        let candidates: Vec<EntityIndex> = shares
            .iter()
            .filter(|(entity, shares)| {
                let zones = shares.zones.len();
                let seeing =
                    shares.zones.values().filter(|tally| is_suspect(p, tally.share())).count();
                let wide = shares.share >= p.candidate && 2 * seeing >= zones && zones > 0;
                (wide && shares.coverage(p).held) || regional.contains_key(entity)
            })
            .map(|(entity, _)| *entity)
            .collect();
        let standing: Vec<EntityIndex> = self
            .plan
            .entities()
            .map(|(entity, _)| entity)
            .filter(|entity| self.state.worldwide.has(*entity))
            .collect();
        let (picks, rejected) = if candidates.is_empty() && standing.is_empty() {
            (Vec::new(), BTreeMap::new())
        } else {
            let dead = self.state.sites.dead();
            let zones = regional
                .iter()
                .filter(|(entity, _)| !shares.get(entity).is_some_and(|s| s.geography(p).held))
                .map(|(entity, regional)| {
                    let zones = regional.regions.iter().filter_map(|region| match region {
                        Region::Zone(zone) => Some(*zone),
                        Region::Country(country) => Zones::builtin().of(*country).map(|z| z.0),
                    });
                    (*entity, zones.collect())
                })
                .collect();
            let windows = (&self.state.windows, &self.state.slow);
            attribute(p, &self.plan, windows, &candidates, &standing, &zones, &dead)
        };
        let quiet: Vec<EntityIndex> = shares
            .iter()
            .filter(|(_, shares)| shares.share < p.candidate)
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
                let usual = smooth(suspect.baseline, rate, ROUND_MS, p.baseline_ms);
                suspect.baseline = usual.min(p.baseline_max);
            }
        }
    }

    /// The incident of another role of the same organisation that stands: for the reader it is one, where
    /// they began together and the other reaches as far.
    fn lead(&self, entity: EntityIndex, reach: &Reach) -> Option<String> {
        let p = &*self.settings.params;
        let now = self.state.now;
        let began =
            self.state.suspects.get(&entity).and_then(|s| Some(s.open.as_ref()?.started_at));
        let began = began.unwrap_or(now);
        let local = |reach: &Reach| matches!(reach, Reach::Regional(_));
        let organisation = |entity| self.catalogue.organisation(&self.plan.entity(entity).provider);
        let own = organisation(entity);
        self.state.suspects.iter().find_map(|(other, suspect)| {
            let open = suspect.open.as_ref()?;
            let stands = open.phase() != Phase::Suspected && open.part_of.is_none();
            let of_it = *other != entity && organisation(*other) == own;
            let together = began.as_ms().abs_diff(open.started_at.as_ms()) <= p.lead_ms;
            let as_far = local(reach) || !local(&open.reach);
            (stands && of_it && together && as_far).then(|| open.id.clone())
        })
    }

    /// Whether an open incident is part of this one, and reaches as far: what a region says of another
    /// role of a provider does not keep an incident of the world open.
    fn has_parts(&self, whole: &Incident) -> bool {
        let open = self.state.suspects.values().filter_map(|suspect| suspect.open.as_ref());
        let local = |reach: &Reach| matches!(reach, Reach::Regional(_));
        open.into_iter().any(|open| {
            open.part_of.as_deref() == Some(whole.id.as_str())
                && (local(&whole.reach) || !local(&open.reach))
        })
    }

    /// Who can tell of an entity.
    fn participants(&mut self, entity: EntityIndex) -> Participants {
        let now = self.state.now;
        let known = self.state.suspects.get(&entity).and_then(|suspect| suspect.participants);
        if let Some((at, known)) = known
            && now.since_ms(at) < self.pause_ms()
        {
            return known;
        }
        let (mut prefixes, mut networks, mut zones) = (Vec::new(), Vec::new(), Vec::new());
        for (_, observer) in self.observers() {
            if observer.vote.weight > 0 && observer.vote.eligible.has(entity) {
                prefixes.push(observer.standing.slot);
                networks.push(observer.standing.asn);
                zones.extend(observer.standing.zone);
            }
        }
        let observers = u32::try_from(prefixes.len()).unwrap_or(u32::MAX);
        let found = Participants {
            observers,
            prefixes: distinct(prefixes),
            networks: distinct(networks),
            zones: distinct(zones),
        };
        self.state.suspects.entry(entity).or_default().participants = Some((now, found));
        found
    }

    /// How much fails of what an entity is not behind.
    fn rest_rate(&self, entity: EntityIndex) -> Ppm {
        let mut rest = Counts::default();
        for (target, behind) in self.plan.targets() {
            if !behind.has(entity) {
                rest.add(&self.state.windows.of(target));
            }
        }
        rest.failure_rate()
    }

    fn strata(&self, entity: EntityIndex, share: Ppm) -> (Strata, Strata) {
        let p = &*self.settings.params;
        let versions = self.state.tallies.versions(entity).collect();
        let resolvers = self.state.tallies.resolvers(entity).collect();
        (
            strata(p, "c4.versions", "probe-core version", &versions, share, self.is_established()),
            strata(p, "c4.resolvers", "resolver class", &resolvers, share, |_| true),
        )
    }

    fn judge(
        &mut self,
        entity: EntityIndex,
        shares: &Shares,
        regional: &Regional,
        changed: &mut Vec<Changed>,
    ) {
        let p = &Arc::clone(&self.settings.params);
        let now = self.state.now;
        let open = self.state.suspects.get(&entity).is_some_and(|s| s.open.is_some());
        let suspect = self.state.suspects.get(&entity);
        let together = suspect.and_then(|suspect| suspect.together.clone());
        if !open && shares.share < p.candidate && regional.is_empty() && together.is_none() {
            if let Some(suspect) = self.state.suspects.get_mut(&entity) {
                suspect.suspect_run = 0;
            }
            return;
        }
        let (versions, resolvers) = self.strata(entity, shares.share);
        let participants = self.participants(entity);
        let rate = mean_rate(&self.plan, &self.state.windows, entity);
        let Some(suspect) = self.state.suspects.get(&entity) else { return };
        let asking = suspect.panel.as_ref().is_some_and(|panel| panel.kind == Kind::Full);
        let recent = suspect.picked_at.is_some_and(|at| now.since_ms(at) <= p.pick_recent_ms);
        let twice = recent && suspect.picks_run >= p.hold;
        let strata_hold = versions.holds && resolvers.holds;
        let attributed = Reason {
            rule: "c5.attributed".to_owned(),
            held: twice,
            found: format!("named as the culprit in {} rounds running", suspect.picks_run),
            needed: format!("{}, the last within {} s", p.hold, p.pick_recent_ms / 1000),
        };
        let reasons = vec![
            participants.enough(&self.settings),
            self.majority(entity, shares),
            shares.geography(p),
            shares.coverage(p),
            versions.reason.clone(),
            resolvers.reason.clone(),
            attributed,
        ];
        let global = reasons.iter().all(|reason| reason.held);
        let others = |but: &str| reasons.iter().filter(|r| r.rule != but).all(|r| r.held);
        // The strata of a part of the world are among its own rules.
        let local = !regional.is_empty() && twice;
        // A regional incident stands or falls with its own zones.
        let zones = suspect.open.as_ref().map(|incident| &incident.reach);
        let share = match zones {
            Some(Reach::Regional(regions)) => self.regional_share(entity, regions),
            _ => shares.share,
        };
        // A panel that was asked a moment ago knows better than what is overheard.
        let tracked = suspect.tracked.filter(|t| now.since_ms(t.at) < p.panel_track_good_ms);
        let passes = tracked.map_or(0, |tracked| tracked.passes);
        let (share, rate, usual) =
            tracked.map_or((share, rate, 0), |of| (of.share, of.rate, of.usual));
        // Where observers can be asked, what is volunteered only raises suspicion; it decides where
        // those who were asked did not answer, and where nobody can be.
        let heard = match suspect.asked {
            _ if !self.can_ask() => true,
            _ if tracked.is_some() || suspect.panel.is_some() || suspect.held.is_some() => false,
            Some((at, answered)) if now.since_ms(at) < suspect.asked_for_ms(p) => {
                !answered && self.rest_rate(entity) < p.heard_noise
            }
            _ => false,
        };
        // Of what stands in a part of the world, the rest is asked about too.
        let narrow = matches!(zones, Some(Reach::Regional(_) | Reach::Over(_)));
        let to_ask = global
            && self.can_ask()
            && self.is_settled()
            && (tracked.is_none() || narrow)
            && suspect.panel.is_none()
            && suspect.held.is_none()
            && suspect.asked.is_none_or(|(at, _)| now.since_ms(at) >= suspect.asked_for_ms(p));
        let crowd = participants.enough(&self.settings);
        let together = together.filter(|_| crowd.held);
        let global = global && heard;
        // What stands of the world goes on while the world sees it: regions have incidents of their own.
        let worldwide = suspect.open.as_ref().is_some_and(|open| {
            open.phase() != Phase::Suspected && !matches!(open.reach, Reach::Regional(_))
        });
        let local = local && !worldwide;
        let reading = Reading {
            share: if together.is_some() { share.max(p.confirm) } else { share },
            rate,
            usual,
            suspect: recent && (is_suspect(p, shares.share) && strata_hold || !regional.is_empty())
                || together.is_some(),
            // While a full panel is out, nothing narrower than the world is said in its place.
            confirm: self.is_settled() && (global || (local && !asking) || together.is_some()),
            relapse: passes >= p.hold
                || together.is_some()
                || recent
                    && ((heard && others("c5.attributed")) || (!regional.is_empty() && !worldwide)),
            asked: tracked.is_some(),
            known: tracked.is_some()
                || together.is_some()
                || match zones {
                    Some(Reach::Regional(regions)) => self.are_told(entity, regions),
                    _ => self.is_crowd_whole() && shares.is_told(p),
                },
            goes_on: suspect.open.as_ref().is_some_and(|open| self.has_parts(open)),
        };
        let ruled_out = self.ruled_out(entity);
        let (reach, liar_bound, reasons, confidence) = if !global
            && let Some((reason, bound)) = together
        {
            (Reach::Global, bound, vec![crowd, reason], Confidence::Medium)
        } else if global || regional.is_empty() {
            let least = shares.zones.values().map(|tally| tally.share()).min().unwrap_or(0);
            let confidence = p.confidence(participants.prefixes, least);
            (Reach::Global, shares.liar_bound(p), reasons, confidence)
        } else {
            let Regional { regions, liar_bound, reasons: own, observers, share } = regional.clone();
            let attributed = reasons.into_iter().filter(|r| r.rule == "c5.attributed");
            let reasons = own.into_iter().chain(attributed).collect();
            (Reach::Regional(regions), liar_bound, reasons, p.confidence(observers, share))
        };
        // It is counted by going through everybody: only for what may be published as a verdict, and now and then.
        let open = suspect.open.as_ref().filter(|open| open.phase() == Phase::Confirmed);
        let fresh = open.filter(|_| now.since_ms(suspect.seen_at) < self.pause_ms());
        let (seen, seen_at) = match fresh {
            _ if !reading.confirm && !reading.relapse => (SeenBy::default(), suspect.seen_at),
            Some(open) => (open.grounds.seen.clone(), suspect.seen_at),
            None => (self.seen_by(Subject::Entity(entity)), now),
        };
        let lead = self.lead(entity, &reach);
        let grounds = || (reach, Grounds { reasons, ruled_out, liar_bound, confidence, seen });
        if to_ask {
            if let Some(suspect) = self.state.suspects.get_mut(&entity) {
                suspect.fruitless = (suspect.fruitless + 1).min(p.asked_doublings);
            }
            self.call(entity, Kind::Full, Call { forced: true, ..Call::default() });
        }
        let Some(suspect) = self.state.suspects.get_mut(&entity) else { return };
        suspect.seen_at = seen_at;
        let baseline = suspect.baseline;
        if let Some(incident) = &mut suspect.open {
            let (before, reach) = (incident.phase(), incident.reach.clone());
            let entered = incident.step(p, now, &reading, baseline, grounds);
            // How far it reaches is news, as a phase is.
            if entered.is_none() && incident.reach != reach {
                let (incident, phase) = (incident.id.clone(), incident.phase());
                changed.push(Changed { incident, at: now, phase });
            }
            let Some(phase) = entered else { return };
            // What was resolved within the hour has come back: that incident goes on.
            if (before, phase) == (Phase::Suspected, Phase::Confirmed)
                && let Some(mut last) =
                    suspect.last.take_if(|last| last.comes_back_as(p, now, &incident.reach))
            {
                last.reopen(now, incident.grounds.clone());
                last.widen(incident.reach.clone(), incident.grounds.clone());
                self.state.ended.retain(|(_, ended, _)| ended.id != last.id);
                *incident = last;
            }
            let id = incident.id.clone();
            if phase == Phase::Confirmed && incident.part_of.is_none() {
                incident.part_of = lead;
            }
            changed.push(Changed { incident: id, at: now, phase });
            if !phase.is_open()
                && let Some(ended) = suspect.open.take()
            {
                let symptoms = std::mem::take(&mut suspect.symptoms);
                suspect.first_failure = None;
                if phase == Phase::Resolved {
                    suspect.last = Some(ended.clone());
                }
                let over = ended.id.clone();
                self.state.ended.push((Subject::Entity(entity), ended, symptoms));
                // What was part of it and goes on stands by itself.
                let others = self.state.suspects.values_mut();
                for open in others.filter_map(|suspect| suspect.open.as_mut()) {
                    open.part_of.take_if(|whole| *whole == over);
                }
            }
            return;
        }
        suspect.suspect_run = if reading.suspect { suspect.suspect_run + 1 } else { 0 };
        if suspect.suspect_run >= p.hold {
            suspect.suspect_run = 0;
            let started = suspect.first_failure.unwrap_or(now);
            let id = id_of(&self.plan, entity, now);
            let (reach, grounds) = grounds();
            changed.push(Changed { incident: id.clone(), at: now, phase: Phase::Suspected });
            suspect.open = Some(Incident::open(id, now, started, Phase::Suspected, reach, grounds));
        }
    }

    /// Whether no large part of the crowd fell silent within the last hour: what the others say then is not
    /// what all would say.
    fn is_crowd_whole(&self) -> bool {
        let State { tallies, usual_online, .. } = &self.state;
        tallies.online() > 0
            && share(tallies.online(), *usual_online) >= self.settings.params.coverage
    }

    /// Whether there is a crowd that can be asked.
    fn can_ask(&self) -> bool {
        let p = &*self.settings.params;
        self.settings.ask_back && !self.mute && self.state.tallies.voters() >= p.panel_online_min
    }

    /// Tells which probe-core versions are established.
    fn is_established(&self) -> impl Fn(u16) -> bool + use<> {
        let vouched = self.settings.established_versions.clone();
        let now = self.state.now;
        let established_ms = self.settings.params.established_ms;
        let majority = self.state.majority_version;
        move |version: u16| {
            vouched.contains(&version)
                || majority.is_some_and(|(known, since)| {
                    known == version && now.since_ms(since) >= established_ms
                })
        }
    }

    fn ruled_out(&self, entity: EntityIndex) -> Vec<Reason> {
        self.state
            .rejected
            .iter()
            .filter(|(other, _)| *other != entity)
            .map(|(other, why)| Reason {
                rule: self.plan.entity(*other).not(),
                held: true,
                found: why.clone(),
                needed: "to explain the failures better than what is named".to_owned(),
            })
            .collect()
    }

    /// What the rules for sites look at.
    fn sites_scene(&self) -> Scene<'_, impl Fn(EntityIndex) -> bool> {
        let p = &*self.settings.params;
        let State { windows, slow, suspects, now, worldwide, looks, .. } = &self.state;
        Scene {
            now: *now,
            plan: &self.plan,
            catalogue: &self.catalogue,
            windows,
            slow,
            looks: self.can_ask().then_some(looks),
            standing: worldwide
                .iter()
                .filter_map(|entity| {
                    let open = suspects.get(&entity)?.open.as_ref()?;
                    let provider = &self.plan.entity(entity).provider;
                    let organisation = self.catalogue.organisation(provider);
                    Some((organisation, (open.id.as_str(), open.started_at)))
                })
                .collect(),
            named: |entity| {
                let Some(suspect) = suspects.get(&entity) else { return false };
                // While its incident stands it explains its sites, also in a quiet minute of it.
                let stands = |open: &Incident| {
                    open.phase() != Phase::Suspected && open.reach == Reach::Global
                };
                suspect.open.as_ref().is_some_and(stands)
                    || suspect.picked_at.is_some_and(|at| now.since_ms(at) <= p.pick_recent_ms)
            },
        }
    }

    /// C4 for a site, by what each observer saw of it last in so many ms.
    fn site_strata(&self, target: TargetIndex, within_ms: u64) -> [Reason; 2] {
        let p = &*self.settings.params;
        let since = self.state.now.minus_ms(within_ms);
        let (mut all, mut versions, mut resolvers) =
            (Tally::default(), BTreeMap::<u16, Tally>::new(), BTreeMap::<u8, Tally>::new());
        for observer in self.online().filter(|observer| observer.weight > 0) {
            let Some(answered) = observer.last_look(target, since) else { continue };
            let flagging = if answered { 0 } else { observer.weight };
            let look = Tally { eligible: observer.weight, flagging };
            let standing = &observer.standing;
            all = all.plus(look);
            for of in [
                versions.entry(standing.version).or_default(),
                resolvers.entry(standing.resolver).or_default(),
            ] {
                *of = of.plus(look);
            }
        }
        let share = all.share();
        let of = "probe-core version";
        let versions = strata(p, "c4.versions", of, &versions, share, self.is_established());
        let resolvers = strata(p, "c4.resolvers", "resolver class", &resolvers, share, |_| true);
        [versions.reason, resolvers.reason]
    }

    fn judge_sites(&mut self, changed: &mut Vec<Changed>) {
        let p = &Arc::clone(&self.settings.params);
        let mut sites = std::mem::take(&mut self.state.sites);
        let mut reopened = Vec::new();
        let strata = |target, within_ms| self.site_strata(target, within_ms);
        let over = sites.judge(p, &self.sites_scene(), strata, changed, &mut reopened);
        let State { ended, .. } = &mut self.state;
        ended.retain(|(_, incident, _)| !reopened.contains(&incident.id));
        ended.extend(over.into_iter().map(|(target, i, met)| (Subject::Site(target), i, met)));
        self.state.sites = sites;
    }

    /// Every incident that is open or ended lately, newest first; suspicions too.
    #[must_use]
    pub fn incidents(&self) -> Vec<Shown<'_>> {
        let providers = self.state.suspects.iter().filter_map(|(entity, suspect)| {
            let incident = suspect.open.as_ref()?;
            let subject = Subject::Entity(*entity);
            Some(Shown { subject, incident, symptoms: &suspect.symptoms })
        });
        let sites = self.state.sites.open().map(|(target, incident, symptoms)| Shown {
            subject: Subject::Site(target),
            incident,
            symptoms,
        });
        let groups = self.state.groups.open().map(|(group, incident, symptoms)| Shown {
            subject: Subject::Group(group),
            incident,
            symptoms,
        });
        let open: Vec<_> = providers.chain(sites).chain(groups).collect();
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

    fn observers(&self) -> impl Iterator<Item = (u32, &Observer)> {
        let observers = (0u32..).zip(&self.state.observers);
        observers.filter_map(|(id, observer)| Some((id, observer.as_deref()?)))
    }

    /// Observers that are online, each with its vote.
    pub fn online(&self) -> impl Iterator<Item = &Observer> {
        let p = &*self.settings.params;
        let now = self.state.now;
        self.observers().map(|(_, observer)| observer).filter(move |o| o.is_online(p, now))
    }

    /// Who can tell of a subject now, and who of them sees it.
    #[must_use]
    pub fn seen_by(&self, subject: Subject) -> SeenBy {
        let mut seen = SeenBy::default();
        let mut site = |target: TargetIndex, layer: Option<Layer>| {
            let counts = self.window(target);
            let failing = layer.map_or(counts.failed, |layer| counts.implicating(layer));
            seen.votes(target, &counts, failing);
        };
        match subject {
            Subject::Entity(entity) => {
                let suspect = self.plan.entity(entity);
                suspect.targets.iter().for_each(|target| site(*target, Some(suspect.layer)));
                seen.observers(self.online().filter_map(|observer| {
                    let vote = observer.vote;
                    let can_tell = vote.weight > 0 && vote.eligible.has(entity);
                    can_tell.then(|| (observer.standing, vote.flags.has(entity)))
                }));
            }
            Subject::Site(target) => site(target, None),
            Subject::Group(group) => seen.observers(self.members(group)),
        }
        seen
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

    /// The region's name: a zone's, or a country's code.
    #[must_use]
    pub fn region_name(region: &Region) -> String {
        match region {
            Region::Zone(zone) => Self::zone_name(*zone).map(ToString::to_string),
            Region::Country(country) => Some(country.to_string()),
        }
        .unwrap_or_default()
    }

    /// Whether every tally equals the sum over its observers, counted anew: an invariant.
    #[must_use]
    pub fn tallies_are_consistent(&self) -> bool {
        let mut anew = Tallies::default();
        for (_, observer) in self.observers() {
            anew.replace(&Vote::default(), &observer.vote);
        }
        let kept = &self.state.tallies;
        anew.online() == kept.online()
            && self.plan.entities().all(|(entity, _)| {
                anew.zones(entity).eq(kept.zones(entity))
                    && anew.versions(entity).eq(kept.versions(entity))
                    && anew.resolvers(entity).eq(kept.resolvers(entity))
            })
    }
}

fn distinct<T: Ord>(mut values: Vec<T>) -> u32 {
    values.sort_unstable();
    values.dedup();
    u32::try_from(values.len()).unwrap_or(u32::MAX)
}

/// The name of an incident.
fn id_of(plan: &Plan, entity: EntityIndex, now: Timestamp) -> String {
    let culprit = plan.entity(entity);
    let layer = format!("{:?}", culprit.layer).to_ascii_lowercase();
    format!("{}-{}-{layer}", stamp(now), culprit.provider)
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
#[must_use]
pub fn stamp(at: Timestamp) -> String {
    let text = at.to_string();
    let compact: String = text.chars().filter(char::is_ascii_alphanumeric).collect();
    compact.get(..15).unwrap_or(&compact).to_ascii_lowercase()
}
