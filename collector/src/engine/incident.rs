//! The phases of an incident, and the one table of legal transitions. Enter at a majority, leave
//! well below it and only after a while: one incident per outage, however much it flaps.

use serde::{Deserialize, Serialize};
use tocsin_proto::{
    catalogue::Zones,
    id::Country,
    incident::{Confidence, LiarBound, Phase, Reason, Transition},
    observation::Family,
    time::Timestamp,
};

use super::{
    fixed::{Ppm, scale, smooth},
    params::Params,
    seen::SeenBy,
};

/// Legal changes of phase; `None` is before the first.
pub const TRANSITIONS: &[(Option<Phase>, Phase)] = &[
    (None, Phase::Suspected),
    // A site or a group of observers is confirmed at once: its rule already asks for two rounds.
    (None, Phase::Confirmed),
    (Some(Phase::Suspected), Phase::Confirmed),
    (Some(Phase::Suspected), Phase::Retracted),
    (Some(Phase::Confirmed), Phase::Recovering),
    (Some(Phase::Recovering), Phase::Confirmed),
    (Some(Phase::Recovering), Phase::Resolved),
    // A site is resolved at once: its rule already asks for ten quiet minutes. So is what was
    // reported late, when it was over.
    (Some(Phase::Confirmed), Phase::Resolved),
    // A new outage within the hour is the old one come back.
    (Some(Phase::Resolved), Phase::Confirmed),
];

/// A part of the world.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Region {
    /// A zone, by its number.
    Zone(u8),
    /// A country.
    Country(Country),
}

/// How far an incident reaches, in the engine's numbers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reach {
    /// Most zones.
    Global,
    /// These zones and countries.
    Regional(Vec<Region>),
    /// Most zones, over one address family alone.
    Over(Family),
    /// One site.
    Site,
    /// The observers that have the culprit in common.
    Observers,
}

impl Reach {
    /// As far as the one or the other.
    fn or(self, other: Self) -> Self {
        match (self, other) {
            (Self::Regional(mut regions), Self::Regional(more)) => {
                regions.extend(more);
                regions.sort_unstable();
                regions.dedup();
                // A zone has its countries in it.
                let zones: Vec<u8> = regions
                    .iter()
                    .filter_map(|region| match region {
                        Region::Zone(zone) => Some(*zone),
                        Region::Country(_) => None,
                    })
                    .collect();
                regions.retain(|region| match region {
                    Region::Zone(_) => true,
                    Region::Country(country) => {
                        let zone = Zones::builtin().of(*country);
                        !zone.is_some_and(|zone| zones.contains(&zone.0))
                    }
                });
                Self::Regional(regions)
            }
            (Self::Over(one), Self::Over(other)) if one != other => Self::Global,
            (Self::Over(family), Self::Over(_) | Self::Regional(_)) => Self::Over(family),
            (Self::Regional(_) | Self::Over(_), wider) => wider,
            (wide, _) => wide,
        }
    }
}

/// What a verdict rested on, when it was last confirmed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grounds {
    /// Every rule that was asked.
    pub reasons: Vec<Reason>,
    /// What else it could have been.
    pub ruled_out: Vec<Reason>,
    /// What liars it would take.
    pub liar_bound: LiarBound,
    /// How sure a reader may be.
    pub confidence: Confidence,
    /// Who could tell, and who saw it.
    pub seen: SeenBy,
}

/// What an evaluation found of one entity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Reading {
    /// Share of the votes that see it.
    pub share: Ppm,
    /// Failure rate over its targets in the last two minutes.
    pub rate: Ppm,
    /// Failure rate of those who told it over what has nothing to do with it; 0 where that is not known.
    pub usual: Ppm,
    /// Whether the conditions for a suspicion hold.
    pub suspect: bool,
    /// Whether the conditions for a verdict hold, global or regional.
    pub confirm: bool,
    /// Whether they hold but for the second round of attribution: enough for a relapse.
    pub relapse: bool,
    /// Whether the share is that of observers who were asked just now.
    pub asked: bool,
    /// Whether enough can tell for a low share to mean something: silence is no recovery.
    pub known: bool,
    /// Whether another role of the same organisation still fails: then it is not over.
    pub goes_on: bool,
}

/// What a round found of a group of observers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GroupReading {
    /// Share of it that is cut off now.
    pub share: Ppm,
    /// Whether it can tell: most of it is not silent.
    pub known: bool,
    /// Whether the conditions for a verdict hold now.
    pub holds: bool,
}

/// An incident and its clocks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Incident {
    /// Stable identifier.
    pub id: String,
    /// First evidence.
    pub started_at: Timestamp,
    /// Every change of phase.
    pub transitions: Vec<Transition>,
    /// How far it reaches.
    pub reach: Reach,
    /// How often it came back.
    pub relapses: u32,
    /// The worst failure rate.
    pub peak: Ppm,
    /// What it rests on.
    pub grounds: Grounds,
    /// The incident that it is part of: of a provider behind it, or of another role of the same
    /// organisation.
    pub part_of: Option<String>,
    /// It was over before anybody could tell of it.
    pub late: bool,
    confirm_run: u8,
    low_since: Option<Timestamp>,
    /// Times at which it was low for a while and came back before that was told of.
    flaps: u8,
    quiet_since: Option<Timestamp>,
    below_since: Option<Timestamp>,
    slow_rate: Ppm,
    slow_share: Ppm,
    /// Slower still: whether a recovery holds is a matter of hours.
    held_share: Ppm,
    evaluated_at: Timestamp,
    /// When anybody could last tell of it.
    known_at: Timestamp,
}

impl Incident {
    /// Opens one.
    #[must_use]
    pub fn open(
        id: String,
        now: Timestamp,
        started_at: Timestamp,
        phase: Phase,
        reach: Reach,
        grounds: Grounds,
    ) -> Self {
        let mut incident = Self {
            id,
            started_at: started_at.min(now),
            transitions: Vec::new(),
            reach,
            relapses: 0,
            peak: 0,
            grounds,
            part_of: None,
            late: false,
            confirm_run: 0,
            low_since: None,
            flaps: 0,
            quiet_since: None,
            below_since: None,
            slow_rate: 0,
            slow_share: 0,
            held_share: 0,
            evaluated_at: now,
            known_at: now,
        };
        incident.enter(now, phase);
        incident
    }

    /// The phase it is in.
    #[must_use]
    pub fn phase(&self) -> Phase {
        self.transitions.last().map_or(Phase::Suspected, |t| t.phase)
    }

    /// When it entered that phase.
    #[must_use]
    pub fn since(&self) -> Timestamp {
        self.transitions.last().map_or(self.started_at, |t| t.at)
    }

    fn enter(&mut self, now: Timestamp, phase: Phase) {
        let from = self.transitions.last().map(|t| t.phase);
        assert!(TRANSITIONS.contains(&(from, phase)), "{from:?} to {phase:?} is not in the table");
        self.transitions.push(Transition { at: now, phase });
        (self.confirm_run, self.low_since) = (0, None);
        (self.quiet_since, self.below_since) = (None, None);
    }

    /// Whether a new outage now is this one come back.
    #[must_use]
    pub fn may_reopen(&self, p: &Params, now: Timestamp) -> bool {
        self.phase() == Phase::Resolved
            && self.part_of.is_none()
            && now.since_ms(self.since()) < p.reopen_ms
    }

    /// Whether it is this one that comes back: what was worldwide and is confirmed of some regions now is
    /// another, of those.
    #[must_use]
    pub fn comes_back_as(&self, p: &Params, now: Timestamp, reach: &Reach) -> bool {
        let narrower = matches!((&self.reach, reach), (Reach::Global, Reach::Regional(_)));
        self.may_reopen(p, now) && !narrower
    }

    /// Turns out to be part of another, which goes on.
    pub fn merge(&mut self, now: Timestamp, into: String) {
        self.part_of = Some(into);
        self.enter(now, Phase::Resolved);
    }

    /// Is confirmed by a panel, which asks its own conditions twice.
    pub fn confirm(&mut self, now: Timestamp, reach: Reach, grounds: Grounds, rate: Ppm) {
        self.reach = reach;
        self.grounds = grounds;
        self.peak = self.peak.max(rate);
        self.enter(now, Phase::Confirmed);
    }

    /// A panel has seen more of it than is said. Tells whether that changes how far it reaches.
    pub fn widen(&mut self, reach: Reach, grounds: Grounds) -> bool {
        let before = self.reach.clone();
        self.reach = before.clone().or(reach);
        self.grounds = grounds;
        self.reach != before
    }

    /// A suspicion comes to nothing.
    pub fn retract(&mut self, now: Timestamp) {
        self.enter(now, Phase::Retracted);
    }

    /// It is over already: those who met it could not tell before.
    pub fn reported_late(&mut self, now: Timestamp) {
        self.late = true;
        self.enter(now, Phase::Resolved);
    }

    /// Comes back after it was resolved.
    pub fn reopen(&mut self, now: Timestamp, grounds: Grounds) {
        self.relapses += 1;
        self.grounds = grounds;
        self.enter(now, Phase::Confirmed);
    }

    /// One evaluation of a provider's incident. Tells the phase that was entered, if one was.
    pub fn step(
        &mut self,
        p: &Params,
        now: Timestamp,
        reading: &Reading,
        baseline: Ppm,
        grounds: impl FnOnce() -> (Reach, Grounds),
    ) -> Option<Phase> {
        let elapsed = now.since_ms(self.evaluated_at);
        self.evaluated_at = now;
        // While nobody can tell nothing gets better; a new verdict still counts. In the end it is closed.
        if reading.known {
            self.known_at = now;
        }
        if !reading.known
            && !reading.confirm
            && !reading.relapse
            && self.phase() != Phase::Suspected
        {
            (self.low_since, self.quiet_since, self.below_since) = (None, None, None);
            return (now.since_ms(self.known_at) >= p.unseen_ms).then(|| {
                self.enter(now, Phase::Resolved);
                Phase::Resolved
            });
        }
        self.slow_rate = smooth(self.slow_rate, reading.rate, elapsed, p.slow_share_ms);
        // One observer more or less in a small panel is no relapse.
        self.slow_share = smooth(self.slow_share, reading.share, elapsed, p.slow_share_ms);
        self.held_share = smooth(self.held_share, reading.share, elapsed, p.held_share_ms);
        let phase = self.phase();
        if matches!(phase, Phase::Confirmed | Phase::Suspected) {
            self.peak = self.peak.max(reading.rate);
        }
        let next = match phase {
            Phase::Suspected => {
                self.confirm_run = if reading.confirm { self.confirm_run + 1 } else { 0 };
                let clear = held(&mut self.quiet_since, now, reading.share < p.clear, p.retract_ms);
                if self.confirm_run >= p.hold {
                    Some(Phase::Confirmed)
                } else {
                    clear.then_some(Phase::Retracted)
                }
            }
            Phase::Confirmed => {
                let few = reading.share < p.release
                    || (self.low_since.is_some() && self.slow_share < p.release);
                let few = few && !reading.confirm;
                // While a majority of those asked sees it, it is there, however few of its sites fail still. What
                // is overheard is remembered for too long to say so.
                let seen = reading.asked && reading.share >= p.confirm;
                // Where much fails at any time a quarter of the worst is never reached: then what is usual is.
                // But not while its conditions hold: of a region this rate is the world's.
                let usual = if reading.confirm { 0 } else { 2 * baseline.max(reading.usual) };
                let faint = scale(self.peak, p.low_part).max(usual.min(self.peak / 2));
                let faint = !seen && reading.rate <= faint;
                let low = few || faint;
                let lasted = self.low_since.map_or(0, |since| now.since_ms(since));
                if !low && lasted >= p.flap_ms {
                    self.flaps = self.flaps.saturating_add(1);
                }
                // What has come back before it was told of may well do so again.
                let wait = p.recover_ms << self.relapses.min(2).max(u32::from(self.flaps > 0));
                held(&mut self.low_since, now, low, wait).then_some(Phase::Recovering)
            }
            Phase::Recovering => {
                let quiet_rate = (2 * baseline).max(2 * reading.usual).max(p.quiet_rate);
                let quiet =
                    self.slow_share < p.clear && self.slow_rate <= quiet_rate && !reading.goes_on;
                let quiet = held(&mut self.quiet_since, now, quiet, p.resolve_ms);
                // Panels are small: one of them is no reason to begin anew, or a quarter that lies could
                // hold it open by luck.
                let below = reading.share < p.release
                    || (self.below_since.is_some() && self.held_share < p.release);
                let below = below && !reading.goes_on;
                let below = held(&mut self.below_since, now, below, p.resolve_held_ms)
                    && self.slow_share < p.release;
                if reading.relapse && reading.rate >= scale(self.peak, p.relapse_part) {
                    self.relapses += 1;
                    Some(Phase::Confirmed)
                } else {
                    (quiet || below).then_some(Phase::Resolved)
                }
            }
            Phase::Resolved | Phase::Retracted => None,
        };
        if next == Some(Phase::Confirmed) || (phase == Phase::Confirmed && reading.confirm) {
            let (reach, grounds) = grounds();
            // A scope only widens until it is over.
            self.reach = match phase {
                Phase::Suspected => reach,
                _ => std::mem::replace(&mut self.reach, reach.clone()).or(reach),
            };
            self.grounds = grounds;
        }
        if let Some(next) = next {
            self.held_share = self.slow_share;
            self.enter(now, next);
        }
        next
    }

    /// One round of a site's incident. Where the evidence runs out it ends too, later: nobody is
    /// there any more who could say that it goes on.
    pub fn step_site(
        &mut self,
        p: &Params,
        now: Timestamp,
        rate: Ppm,
        evidence: bool,
    ) -> Option<Phase> {
        if evidence {
            self.peak = self.peak.max(rate);
        }
        let up = held(&mut self.quiet_since, now, evidence && rate < p.site_up, p.site_resolve_ms);
        let unseen = held(&mut self.below_since, now, !evidence, p.resolve_ms);
        (up || unseen).then(|| {
            self.enter(now, Phase::Resolved);
            Phase::Resolved
        })
    }
}

impl Incident {
    /// One round of a group's incident. While most of it is silent nothing is known, and nothing
    /// changes.
    pub fn step_group(
        &mut self,
        p: &Params,
        now: Timestamp,
        reading: &GroupReading,
    ) -> Option<Phase> {
        let GroupReading { share, known, holds } = *reading;
        let next = match self.phase() {
            Phase::Confirmed => {
                self.peak = self.peak.max(share);
                let low = known && !holds && share <= scale(self.peak, p.relapse_part);
                let wait = p.recover_ms << self.relapses.min(2);
                held(&mut self.low_since, now, low, wait).then_some(Phase::Recovering)
            }
            Phase::Recovering if holds => {
                self.relapses += 1;
                Some(Phase::Confirmed)
            }
            Phase::Recovering => {
                let well = known && share < p.group_well;
                let quiet = held(&mut self.quiet_since, now, well, p.resolve_ms);
                let below = held(&mut self.below_since, now, known, p.resolve_held_ms);
                (quiet || below).then_some(Phase::Resolved)
            }
            Phase::Suspected | Phase::Resolved | Phase::Retracted => None,
        }?;
        self.enter(now, next);
        Some(next)
    }
}

/// Whether something has held for so long; forgets when it does not hold.
fn held(since: &mut Option<Timestamp>, now: Timestamp, holds: bool, for_ms: u64) -> bool {
    if !holds {
        *since = None;
        return false;
    }
    now.since_ms(*since.get_or_insert(now)) >= for_ms
}

/// Whether a share is that of a suspicion.
#[must_use]
pub const fn is_suspect(p: &Params, share: Ppm) -> bool {
    share >= p.suspect
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::fixed::ONE;

    const P: &Params = &Params::DEFAULT;

    fn grounds() -> Grounds {
        Grounds {
            reasons: vec![],
            ruled_out: vec![],
            liar_bound: LiarBound::default(),
            confidence: Confidence::Medium,
            seen: SeenBy::default(),
        }
    }

    /// Plays readings of five seconds each and tells the phases entered, with minutes.
    fn play(minutes: &[(u64, bool)]) -> Vec<(u64, Phase)> {
        let start = Timestamp::from_s(1_000_000);
        let mut now = start;
        let mut incident =
            Incident::open("x".to_owned(), now, now, Phase::Suspected, Reach::Global, grounds());
        let mut seen = Vec::new();
        for (minutes, bad) in minutes {
            for _ in 0..minutes * 12 {
                now = now.plus_ms(5_000);
                let reading = Reading {
                    usual: 0,
                    share: if *bad { 900_000 } else { 0 },
                    rate: if *bad { 800_000 } else { 5_000 },
                    suspect: *bad,
                    confirm: *bad,
                    relapse: *bad,
                    asked: true,
                    known: true,
                    goes_on: false,
                };
                if incident.phase().is_open()
                    && let Some(phase) =
                        incident.step(P, now, &reading, 5_000, || (Reach::Global, grounds()))
                {
                    seen.push((now.since_ms(start) / 60_000, phase));
                }
            }
        }
        seen
    }

    #[test]
    fn flapping_every_five_minutes_is_one_incident() {
        let mut minutes = [(5, true), (5, false)].repeat(10);
        minutes.extend([(70, true), (60, false)]);
        let expect = [(0, Phase::Confirmed), (200, Phase::Recovering)];
        assert_eq!(play(&minutes), expect);
    }

    #[test]
    fn a_relapse_is_the_same_incident_and_then_waits_longer() {
        let seen = play(&[(5, true), (17, false), (5, true), (35, false), (30, false)]);
        let expect = [
            (0, Phase::Confirmed),
            (20, Phase::Recovering),
            (22, Phase::Confirmed),
            (57, Phase::Recovering),
            (87, Phase::Resolved),
        ];
        assert_eq!(seen, expect);
    }

    #[test]
    fn what_came_back_before_is_waited_for_longer() {
        let seen = play(&[(5, true), (10, false), (5, true), (31, false)]);
        assert_eq!(seen, [(0, Phase::Confirmed), (50, Phase::Recovering)]);
    }

    #[test]
    fn a_suspicion_that_comes_to_nothing_is_retracted() {
        assert_eq!(play(&[(6, false)]), [(5, Phase::Retracted)]);
    }

    #[test]
    fn a_site_that_nobody_sees_any_more_does_not_stay_down_for_ever() {
        let now = Timestamp::from_s(1_000_000);
        let open =
            || Incident::open("x".into(), now, now, Phase::Confirmed, Reach::Site, grounds());
        let minute = |m: u64| now.plus_ms(m * 60_000);
        let mut incident = open();
        let mut step = |m, evidence| incident.step_site(P, minute(m), 900_000, evidence);
        assert_eq!((step(0, true), step(1, false), step(30, false)), (None, None, None));
        assert_eq!((step(30, true), step(31, false), step(60, false)), (None, None, None));
        assert_eq!(step(61, false), Some(Phase::Resolved));
        let mut incident = open();
        let mut step = |m, rate| incident.step_site(P, minute(m), rate, true);
        assert_eq!((step(0, 0), step(10, 0)), (None, Some(Phase::Resolved)));
    }

    #[test]
    fn silence_is_no_recovery() {
        let now = Timestamp::from_s(1_000_000);
        let mut incident =
            Incident::open("x".into(), now, now, Phase::Confirmed, Reach::Global, grounds());
        incident.peak = ONE;
        let minute = |m: u64| now.plus_ms(m * 60_000);
        let mut step = |m, known| {
            let reading = Reading { known, ..Reading::default() };
            incident.step(P, minute(m), &reading, 0, || (Reach::Global, grounds()))
        };
        assert_eq!((step(0, true), step(5, false), step(600, false)), (None, None, None));
        assert_eq!(
            (step(601, true), step(615, true)),
            (None, None),
            "a quarter of an hour from then on"
        );
        assert_eq!(step(616, true), Some(Phase::Recovering));
        assert_eq!((step(617, false), step(900, false)), (None, None));
        assert_eq!((step(901, true), step(931, true)), (None, Some(Phase::Resolved)));
        let mut incident =
            Incident::open("x".into(), now, now, Phase::Confirmed, Reach::Global, grounds());
        let mut silent =
            |m| incident.step(P, minute(m), &Reading::default(), 0, || (Reach::Global, grounds()));
        assert_eq!((silent(1), silent(719)), (None, None));
        assert_eq!(silent(720), Some(Phase::Resolved), "half a day later nobody knows of it");
    }

    #[test]
    fn a_held_share_cannot_keep_it_open_for_ever() {
        let now = Timestamp::from_s(1_000_000);
        let mut incident =
            Incident::open("x".into(), now, now, Phase::Confirmed, Reach::Global, grounds());
        incident.peak = ONE;
        let reading = Reading { share: 300_000, rate: 200_000, known: true, ..Reading::default() };
        let minute = |m: u64| now.plus_ms(m * 60_000);
        let mut step = |m| incident.step(P, minute(m), &reading, 0, || (Reach::Global, grounds()));
        assert_eq!((step(0), step(15)), (None, Some(Phase::Recovering)));
        assert_eq!((step(16), step(135), step(136)), (None, None, Some(Phase::Resolved)));
    }
}
