//! One row per observer: what it lately saw, as one bit per entity, and whether that bit counts.
//!
//! The bit is a CUSUM (Page 1954) in small integers: a failure that implicates an entity adds 12,
//! an answer subtracts 1, and the same target failing again never takes it above 12, so that a
//! flag (18) always needs two sites. The observer is its own control: its bit counts only while it
//! reaches things that do not depend on the suspect.

use serde::{Deserialize, Serialize};
use tocsin_proto::{
    catalogue::ZoneIndex,
    id::{Country, TargetIndex},
    implicate::{Implication, Says},
    report::ResolverClass,
    time::Timestamp,
};

use super::{
    fixed::{ONE, Ppm, scale, smooth},
    line::Line,
    params::{Params, RING},
    plan::{Behind, ENTITIES_MAX, Entities, EntityIndex, Plan},
    tally::{NOWHERE, Vote},
};

/// Where an observer stands, as the collector saw it when the report came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing {
    /// Country of its address.
    pub country: Country,
    /// Zone of that country.
    pub zone: Option<ZoneIndex>,
    /// Network of its address.
    pub asn: u32,
    /// A number that stands for its prefix today, and says nothing of it.
    pub slot: u64,
    /// Probe-core version.
    pub version: u16,
    /// Resolver class, as its number on the wire.
    pub resolver: u8,
}

impl Standing {
    /// The resolver class.
    #[must_use]
    pub fn resolver_class(&self) -> ResolverClass {
        ResolverClass::ALL.get(usize::from(self.resolver)).copied().unwrap_or_default()
    }
}

/// One of the last probes.
#[derive(Debug, Clone, Copy)]
struct Probe {
    target: TargetIndex,
    answered: bool,
    /// Seconds since the Unix epoch: eligibility goes by minutes.
    at_s: u32,
}

/// The last probes, in place: an observer is one piece of memory, and of a million of them there is
/// one each. Times are kept as seconds before the newest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
struct Ring {
    targets: [TargetIndex; RING],
    at: [u16; RING],
    /// Which of them were answered, as bits.
    answered: u32,
    /// When the newest was, and what its place in `at` stands for, seconds since the Unix epoch.
    newest_s: u32,
    next: u8,
    length: u8,
}

const _: () = assert!(RING <= 32, "the answers of a ring are the bits of one number");

impl Ring {
    /// How far back a ring reaches, s: nine hours, half of what the times can tell apart.
    const SPAN_S: u32 = (1 << 15) - 1;

    /// Takes a probe, and gives the one whose place it takes.
    fn push(&mut self, Probe { target, answered, at_s }: Probe) -> Option<Probe> {
        let gap = at_s.saturating_sub(self.newest_s);
        if gap > Self::SPAN_S {
            *self = Self::default();
        }
        let place = usize::from(self.next);
        let lost = self.iter().next().filter(|_| self.len() == RING);
        if let (Some(of), Some(at)) = (self.targets.get_mut(place), self.at.get_mut(place)) {
            // The lower half of the time: the upper one is that of the newest.
            (*of, *at) = (target, at_s as u16);
        }
        self.answered = self.answered & !(1 << place) | u32::from(answered) << place;
        self.newest_s = self.newest_s.max(at_s);
        self.next = (self.next + 1) % RING as u8;
        self.length = (self.length + 1).min(RING as u8);
        while self.iter().next().is_some_and(|o| self.newest_s - o.at_s > Self::SPAN_S) {
            self.answered &= !(1 << self.oldest());
            self.length -= 1;
        }
        lost
    }

    fn oldest(&self) -> usize {
        (usize::from(self.next) + RING - usize::from(self.length)) % RING
    }

    /// Oldest first.
    fn iter(&self) -> impl Iterator<Item = Probe> {
        let first = self.oldest();
        (0..usize::from(self.length)).filter_map(move |n| {
            let place = if first + n < RING { first + n } else { first + n - RING };
            let back = (self.newest_s as u16).wrapping_sub(*self.at.get(place)?);
            Some(Probe {
                target: *self.targets.get(place)?,
                answered: self.answered >> place & 1 == 1,
                at_s: self.newest_s - u32::from(back),
            })
        })
    }

    fn len(&self) -> usize {
        usize::from(self.length)
    }

    const fn answered(&self) -> usize {
        self.answered.count_ones() as usize
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Cusum {
    entity: EntityIndex,
    level: u8,
    last: TargetIndex,
}

/// What of an observer is in the tallies, so that it can be taken out again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Bits {
    /// Entities on which its vote counts.
    pub eligible: Entities,
    /// Entities that it flags.
    pub flags: Entities,
    /// When the next of these bits may change by time alone.
    pub due: Option<Timestamp>,
}

/// How an entity shows in the last probes.
#[derive(Debug, Clone, Copy, Default)]
struct Touch {
    count: u16,
    answered: u16,
    last_s: u32,
}

/// What of an observer is not at rest.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
struct Unrest {
    /// Entities that failed lately, in order.
    cusums: Vec<Cusum>,
    /// Entities that it flagged within days, and for which part of the time.
    chron: Vec<(EntityIndex, Ppm)>,
    /// Entities of probes that the ring has lost while they still counted, each with when it was touched last,
    /// seconds since the Unix epoch: of who looks more often than the ring is long.
    lost: Vec<(EntityIndex, u32)>,
}

impl Unrest {
    const fn is_over(&self) -> bool {
        self.cusums.is_empty() && self.chron.is_empty() && self.lost.is_empty()
    }
}

/// An observer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Observer {
    /// When its first report came, s.
    first_s: u32,
    /// When its last report came.
    pub last_seen: Timestamp,
    /// For how many minutes it was heard: between reports that followed on each other; 45 days at most.
    present_min: u16,
    /// Where it stands.
    pub standing: Standing,
    /// Whether the operator vouches for it.
    pub anchor: bool,
    /// How many times as long as others it is silent between two reports: 1 but in recordings, where it is
    /// measured. Its windows are as many times as long.
    pace: u8,
    ring: Ring,
    /// `None` while everything is at rest.
    unrest: Option<Box<Unrest>>,
    /// Share of its probes that fail, over a day, in millionths.
    sick: u32,
    streak: u8,
    streak_edge: Option<EntityIndex>,
    /// Whether anything answers it at all.
    pub line: Line,
    /// What of it is in the sums.
    pub vote: Vote,
    /// Its weight, online or not.
    pub weight: i64,
    /// Its weight within its network, millionths.
    pub within: u32,
    /// The tick from which its bits may change by time alone.
    pub due: u32,
    /// The tick at which that is to be looked at, where it is planned, else 0.
    pub check_at: u32,
    /// Looks that the windows took in this turn of `look_again_ms`, in the lower half, below its number.
    counted: u32,
    /// At which targets, as bits by their numbers: two may share one.
    looked: u32,
}

impl Observer {
    /// A new one.
    #[must_use]
    pub fn new(now: Timestamp, first_seen: Timestamp, standing: Standing, anchor: bool) -> Self {
        Self {
            first_s: u32::try_from(first_seen.as_s()).unwrap_or(u32::MAX),
            last_seen: now,
            // What is known of it from before this log it was there for.
            present_min: u16::try_from(now.since_ms(first_seen) / 60_000).unwrap_or(u16::MAX),
            standing,
            anchor,
            pace: 1,
            ring: Ring::default(),
            unrest: None,
            sick: 0,
            streak: 0,
            streak_edge: None,
            line: Line::default(),
            vote: Vote::default(),
            weight: 0,
            within: 0,
            due: 0,
            check_at: 0,
            counted: 0,
            looked: 0,
        }
    }

    /// The same one, that reports so many times as seldom as others.
    #[must_use]
    pub fn with_pace(self, pace: u8) -> Self {
        Self { pace: pace.max(1), ..self }
    }

    /// When it counts as gone, unless it reports before.
    #[must_use]
    pub const fn offline_at(&self, p: &Params) -> Timestamp {
        self.last_seen.plus_ms(p.online_ms * self.pace as u64)
    }

    /// Whether it is there.
    #[must_use]
    pub fn is_online(&self, p: &Params, now: Timestamp) -> bool {
        now < self.offline_at(p)
    }

    /// Takes one observation. `excused` is what the target does not fail by: it is down by itself.
    pub fn observe(
        &mut self,
        p: &Params,
        now: Timestamp,
        plan: &Plan,
        (behind, target, excused): (&Behind, TargetIndex, Entities),
        implication: &Implication,
    ) {
        // What says nothing of the target speaks against the observer's own line.
        let failed = implication.says() != Says::Answers;
        let at_s = u32::try_from(now.as_s()).unwrap_or(u32::MAX);
        if let Some(lost) = self.ring.push(Probe { target, answered: !failed, at_s }) {
            self.lose(p, plan, at_s, lost);
        }
        for entity in behind.blamed(implication).filter(|entity| !excused.has(*entity)) {
            self.raise(p, entity, target, p.cusum_up);
        }
        for entity in behind.half_blamed(implication).filter(|entity| !excused.has(*entity)) {
            self.raise(p, entity, target, p.cusum_half);
        }
        for entity in behind.cleared(implication) {
            self.lower(entity);
        }
        if !failed {
            (self.streak, self.streak_edge) = (0, None);
        } else if self.streak == 0 || behind.edge() != self.streak_edge {
            self.streak = self.streak.saturating_add(1);
            self.streak_edge = behind.edge();
        }
    }

    /// Whether a target answered it when it last looked, if it did since then.
    #[must_use]
    pub fn last_look(&self, target: TargetIndex, since: Timestamp) -> Option<bool> {
        let looks = self.ring.iter().filter(|look| look.target == target);
        let last = looks.last().filter(|look| u64::from(look.at_s) >= since.as_s())?;
        Some(last.answered)
    }

    /// Takes where it stands now. What one release of our program saw is not the word of another.
    pub fn stand(&mut self, standing: Standing) {
        if self.standing.version != standing.version
            && let Some(unrest) = &mut self.unrest
        {
            unrest.cusums.clear();
            self.unrest.take_if(|unrest| unrest.is_over());
        }
        self.standing = standing;
    }

    /// What was touched so lately that it still counts is kept beside the ring.
    fn lose(&mut self, p: &Params, plan: &Plan, now_s: u32, lost: Probe) {
        let fresh = |at_s: u32| u64::from(now_s.saturating_sub(at_s)) * 1_000 < p.lost_ms;
        if let Some(unrest) = &mut self.unrest {
            unrest.lost.retain(|(_, at_s)| fresh(*at_s));
            self.unrest.take_if(|unrest| unrest.is_over());
        }
        let Some(behind) = plan.behind(lost.target).filter(|_| fresh(lost.at_s)) else { return };
        let kept = &mut self.unrest.get_or_insert_default().lost;
        for entity in behind.set().iter() {
            match kept.iter_mut().find(|(of, _)| *of == entity) {
                Some((_, at_s)) => *at_s = lost.at_s,
                None => kept.push((entity, lost.at_s)),
            }
        }
    }

    fn cusums(&self) -> &[Cusum] {
        self.unrest.as_ref().map_or(&[], |unrest| &unrest.cusums)
    }

    fn chron(&self) -> &[(EntityIndex, Ppm)] {
        self.unrest.as_ref().map_or(&[], |unrest| &unrest.chron)
    }

    fn raise(&mut self, p: &Params, entity: EntityIndex, target: TargetIndex, step: u8) {
        let cusums = &mut self.unrest.get_or_insert_default().cusums;
        match cusums.binary_search_by_key(&entity, |c| c.entity) {
            Ok(at) => {
                if let Some(cusum) = cusums.get_mut(at) {
                    cusum.level = if cusum.last == target {
                        cusum.level.max(step)
                    } else {
                        cusum.level.saturating_add(step).min(p.cusum_cap)
                    };
                    cusum.last = target;
                }
            }
            Err(at) => cusums.insert(at, Cusum { entity, level: step, last: target }),
        }
    }

    fn lower(&mut self, entity: EntityIndex) {
        let Some(unrest) = &mut self.unrest else { return };
        if let Ok(at) = unrest.cusums.binary_search_by_key(&entity, |c| c.entity)
            && let Some(cusum) = unrest.cusums.get_mut(at)
        {
            cusum.level -= 1;
            if cusum.level == 0 {
                unrest.cusums.remove(at);
            }
        }
        self.unrest.take_if(|unrest| unrest.is_over());
    }

    /// The slow averages: how much of the day it flagged an entity, and how much it fails at all.
    /// `frozen` are entities with an open incident, and `excused` is who stands in one of a group's:
    /// an outage is not the observer's habit.
    pub fn age(&mut self, p: &Params, now: Timestamp, frozen: Entities, excused: bool) {
        let elapsed = now.since_ms(self.last_seen);
        if elapsed <= p.online_ms * u64::from(self.pace) {
            // Whole minutes, of which the parts add up from report to report.
            let minutes = now.as_s() / 60 - self.last_seen.as_s() / 60;
            self.present_min = self.present_min.saturating_add(minutes as u16);
        }
        self.last_seen = now;
        let ratio = ratio(self.ring.len() - self.ring.answered(), self.ring.len());
        let flags = self.flags(p);
        // Who meets what stands for everybody is not ill by that.
        if flags.and(frozen).is_empty() && !excused {
            let sick = smooth(self.sick.into(), ratio, elapsed, p.slow_ms);
            self.sick = u32::try_from(sick).unwrap_or(u32::MAX);
        }
        let Some(Unrest { chron, .. }) = self.unrest.as_deref_mut() else { return };
        for (entity, chron) in chron.iter_mut() {
            if !frozen.has(*entity) {
                let towards = if flags.has(*entity) { ONE } else { 0 };
                *chron = smooth(*chron, towards, elapsed, p.slow_ms);
            }
        }
        chron.retain(|(entity, chron)| *chron > 0 || flags.has(*entity));
        for entity in flags.iter() {
            if !frozen.has(entity) && !chron.iter().any(|(e, _)| *e == entity) {
                chron.push((entity, smooth(0, ONE, elapsed, p.slow_ms)));
            }
        }
    }

    /// When its first report came.
    #[must_use]
    pub fn first_seen(&self) -> Timestamp {
        Timestamp::from_s(self.first_s.into())
    }

    /// Since when it is known, as far as it was there, ms: a key that is kept in reserve earns nothing.
    #[must_use]
    pub fn tenure_ms(&self, p: &Params, now: Timestamp) -> u64 {
        let present_ms = u64::from(self.present_min) * 60_000;
        let most = scale(present_ms.cast_signed(), p.presence_times).cast_unsigned();
        now.since_ms(self.first_seen()).min(most)
    }

    /// The entities it flags.
    #[must_use]
    pub fn flags(&self, p: &Params) -> Entities {
        let mut flags = Entities::default();
        for cusum in self.cusums().iter().filter(|c| c.level >= p.cusum_flag) {
            flags.insert(cusum.entity);
        }
        flags
    }

    /// Counts a scheduled probe. Tells whether the windows take it: `looks_turn` in a turn of `look_again_ms`,
    /// and each target once. Of 32 bits two targets may share one, which loses three honest looks in a
    /// hundred where three come at once; a recording with more looks than bits is only counted.
    pub fn may_count(&mut self, p: &Params, now: Timestamp, target: TargetIndex) -> bool {
        let turn = (now.as_ms() / p.look_again_ms) as u32 & 0xffff;
        if self.counted >> 16 != turn {
            (self.counted, self.looked) = (turn << 16, 0);
        }
        let bit = 1 << (target.0 % 32);
        let again = p.looks_turn <= 32 && self.looked & bit != 0;
        let counts = self.counted & 0xffff < u32::from(p.looks_turn) && !again;
        self.counted += u32::from(counts);
        self.looked |= bit;
        counts
    }

    /// Votes that one observer can have in so long of a target's window.
    #[must_use]
    pub const fn looks_max(p: &Params, within_ms: u64) -> i64 {
        (within_ms.div_ceil(p.look_again_ms) + 1).cast_signed()
    }

    /// Whether two of the entity's sites have failed here lately.
    #[must_use]
    pub fn sees_now(&self, p: &Params, now: Timestamp, plan: &Plan, entity: EntityIndex) -> bool {
        let mut first = None;
        let since_s = now.minus_ms(p.alert_fresh_ms).as_s();
        self.ring.iter().any(|probe| {
            let counts = !probe.answered
                && u64::from(probe.at_s) >= since_s
                && plan.behind(probe.target).is_some_and(|behind| behind.has(entity));
            counts && first.replace(probe.target).is_some_and(|other| other != probe.target)
        })
    }

    /// Whether it fails for so much of the day that it says nothing of anything.
    #[must_use]
    pub const fn is_sick(&self, p: &Params) -> bool {
        self.sick as Ppm > p.sick_max
    }

    /// Whether it is to be believed on anything at all.
    #[must_use]
    pub fn is_healthy(&self, p: &Params) -> bool {
        self.streak < p.streak_max && !self.is_sick(p) && self.ring.answered() >= p.controls_min
    }

    /// Whether it has flagged one of these for most of the day: blocked there, not out.
    #[must_use]
    pub fn is_chronic(&self, p: &Params, entity: EntityIndex) -> bool {
        self.chron().iter().any(|(e, chron)| *e == entity && *chron > p.chron_max)
    }

    /// Whether it takes part in the windows for a target.
    #[must_use]
    pub fn counts_for(&self, p: &Params, behind: &Behind) -> bool {
        self.is_healthy(p) && !behind.entities().iter().any(|(_, e)| self.is_chronic(p, *e))
    }

    /// Its bits now.
    #[must_use]
    pub fn bits(&self, p: &Params, now: Timestamp, plan: &Plan) -> Bits {
        let mut bits = Bits { flags: self.flags(p), ..Bits::default() };
        if !self.is_healthy(p) {
            return bits;
        }
        let mut touches = [Touch::default(); ENTITIES_MAX];
        let answered = self.ring.answered();
        let mut touched = Entities::default();
        let (mut first, mut newest) = (None, 0);
        for probe in self.ring.iter() {
            first = first.or(Some(probe.at_s));
            newest = probe.at_s;
            let Some(behind) = plan.behind(probe.target) else { continue };
            touched = touched.or(behind.set());
            for (_, entity) in behind.entities() {
                let Some(touch) = touches.get_mut(usize::from(entity.0)) else { continue };
                touch.count += 1;
                touch.answered += u16::from(probe.answered);
                touch.last_s = probe.at_s;
            }
        }
        // In 32 bits: a ring reaches over nine hours, and a division of 64 takes several times as long.
        let span_ms = newest.saturating_sub(first.unwrap_or(newest)) * 1_000;
        let base = Timestamp::from_s(first.unwrap_or(newest).into());
        let now_ms = u32::try_from(now.since_ms(base)).unwrap_or(u32::MAX);
        let mut due_ms = u32::MAX;
        for entity in touched.iter() {
            let Some(touch) = touches.get(usize::from(entity.0)) else { continue };
            // Three of its own touch periods, whatever its rate.
            let patience_ms = (3 * span_ms / u32::from(touch.count.max(1)))
                .clamp(p.seen_min_ms as u32, p.seen_max_ms as u32 * u32::from(self.pace));
            let last_ms = (touch.last_s - first.unwrap_or(newest)) * 1_000;
            let until_ms = last_ms + patience_ms;
            let controls = answered - usize::from(touch.answered);
            if now_ms > until_ms || controls < p.controls_min || self.is_chronic(p, entity) {
                continue;
            }
            bits.eligible.insert(entity);
            due_ms = due_ms.min(until_ms + 1);
        }
        // What the ring has lost already was no failure of a control either.
        let lost = self.unrest.as_ref().map_or(&[][..], |unrest| &unrest.lost);
        for (entity, at_s) in lost.iter().filter(|(entity, _)| !touched.has(*entity)) {
            let until = Timestamp::from_s((*at_s).into()).plus_ms(p.lost_ms);
            if now > until || answered < p.controls_min || self.is_chronic(p, *entity) {
                continue;
            }
            bits.eligible.insert(*entity);
            let left = u32::try_from(until.since_ms(base) + 1).unwrap_or(u32::MAX);
            due_ms = due_ms.min(left);
        }
        bits.due = (due_ms != u32::MAX).then(|| base.plus_ms(due_ms.into()));
        bits
    }

    /// What it adds to the sums: nothing while it is offline.
    #[must_use]
    pub fn vote_of(&self, bits: Bits, online: bool) -> Vote {
        Vote {
            weight: if online { self.weight } else { 0 },
            zone: self.standing.zone.map_or(NOWHERE, |zone| zone.0),
            version: self.standing.version,
            resolver: self.standing.resolver,
            eligible: bits.eligible,
            flags: bits.flags,
        }
    }

    #[cfg(test)]
    fn level(&self, entity: EntityIndex) -> u8 {
        self.cusums().iter().find(|c| c.entity == entity).map_or(0, |c| c.level)
    }
}

fn ratio(part: usize, whole: usize) -> Ppm {
    super::fixed::share(
        i64::try_from(part).unwrap_or(i64::MAX),
        i64::try_from(whole).unwrap_or(i64::MAX),
    )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tocsin_proto::{
        catalogue::Catalogue,
        implicate::{DnsPath, implication},
        outcome::Outcome,
        rules::Fault,
    };

    use super::*;

    const P: &Params = &Params::DEFAULT;

    /// Eight targets behind one edge, four behind another.
    fn plan() -> Plan {
        let mut text = "schema = 1\nversion = 1\n".to_owned();
        for id in ["p5", "q"] {
            text +=
                &format!("[[provider]]\nid = \"{id}\"\nname = \"{id}\"\norganisation = \"{id}\"\n");
        }
        for at in 0..12 {
            let provider = if at < 8 { "p5" } else { "q" };
            text += &format!(
                "[[target]]\nindex = {at}\nid = \"t{at}\"\nname = \"t\"\nhost = \"t{at}.test\"\n\
                 roles = [{{ role = \"edge\", provider = \"{provider}\", evidence = \
                 \"operator\" }}]\n"
            );
        }
        Plan::new(&Catalogue::parse(&text).unwrap())
    }

    fn standing() -> Standing {
        Standing { country: Country::UNKNOWN, zone: None, asn: 1, slot: 1, version: 1, resolver: 0 }
    }

    const P5: EntityIndex = EntityIndex(0);

    fn see(observer: &mut Observer, plan: &Plan, at_s: u64, target: u16, ok: bool) {
        let outcome = if ok { Outcome::Ok } else { Outcome::Http5xx };
        let implication = implication(outcome, Some(Fault::Edge), DnsPath::Unconfirmed);
        let behind = plan.behind(TargetIndex(target)).unwrap();
        let now = Timestamp::from_s(1_000_000 + at_s);
        let of = (behind, TargetIndex(target), Entities::default());
        observer.observe(P, now, plan, of, implication);
    }

    #[test]
    fn an_observer_at_rest_is_one_piece_of_memory_and_small() {
        // With its place among the others and in the plan of checks: 320 at most.
        assert!(size_of::<Observer>() <= 256, "{}", size_of::<Observer>());
        assert_eq!(
            Observer::new(Timestamp::EPOCH, Timestamp::EPOCH, standing(), false).unrest,
            None
        );
    }

    #[test]
    fn a_ring_tells_times_over_nine_hours_and_no_more() {
        let mut ring = Ring::default();
        let hours = |ring: &Ring| ring.iter().map(|p| p.at_s / 3_600).collect::<Vec<_>>();
        for hour in 0..12 {
            let answered = hour % 2 == 0;
            let target = TargetIndex(hour as u16);
            ring.push(Probe { target, answered, at_s: hour * 3_600 });
            let kept = hour.saturating_sub(9)..=hour;
            assert_eq!(hours(&ring), kept.clone().collect::<Vec<_>>());
            assert_eq!(ring.answered(), kept.filter(|hour| hour % 2 == 0).count());
        }
        let target = TargetIndex(0);
        ring.push(Probe { target, answered: false, at_s: 100 * 3_600 });
        assert_eq!((hours(&ring), ring.answered()), (vec![100], 0));
    }

    #[test]
    fn the_worked_example() {
        let plan = plan();
        let mut observer = Observer::new(Timestamp::EPOCH, Timestamp::EPOCH, standing(), false);
        let mut at = 0;
        let mut check = |target, ok, level| {
            at += 1;
            see(&mut observer, &plan, at, target, ok);
            assert_eq!(observer.level(P5), level, "probe {at}");
            observer.flags(P).has(P5)
        };
        assert!(!check(0, false, 12));
        assert!(!check(0, false, 12), "the same site again is no more evidence");
        assert!(check(1, false, 24));
        check(2, true, 23);
        check(3, true, 22);
        assert!(check(4, false, 34));
        let mut flagged = true;
        for n in 1..=17 {
            flagged = check(5, true, 34 - n);
        }
        assert!(!flagged, "17 answers clear the flag");
    }

    #[test]
    fn an_observer_is_its_own_control() {
        let plan = plan();
        let mut observer = Observer::new(Timestamp::EPOCH, Timestamp::EPOCH, standing(), false);
        let now = |s: u64| Timestamp::from_s(1_000_000 + s);
        see(&mut observer, &plan, 1, 0, false);
        see(&mut observer, &plan, 2, 1, false);
        let bits = observer.bits(P, now(3), &plan);
        assert!(bits.flags.has(P5) && !bits.eligible.has(P5), "nothing else was reached yet");
        for at in 3..6 {
            see(&mut observer, &plan, at, 8 + at as u16 - 3, true);
        }
        assert!(observer.bits(P, now(6), &plan).eligible.has(P5));
        assert!(!observer.bits(P, now(200), &plan).eligible.has(P5), "too long ago");
    }

    #[test]
    fn who_looks_at_more_than_the_ring_holds_is_still_eligible_on_all_of_it() {
        let plan = plan();
        let mut observer = Observer::new(Timestamp::EPOCH, Timestamp::EPOCH, standing(), false);
        // A round over the one edge, and a longer one over the other: the ring holds the latter alone.
        (0..8).for_each(|target| see(&mut observer, &plan, 0, target, true));
        (0..30).for_each(|n| see(&mut observer, &plan, 1, 8 + n % 4, true));
        let at = |s: u64| observer.bits(P, Timestamp::from_s(1_000_000 + s), &plan);
        assert!(at(60).eligible.has(P5));
        assert!(!at(91).eligible.has(P5), "a minute and a half is long ago");
    }

    #[test]
    fn the_windows_take_a_target_once_in_half_a_minute_and_no_more_looks_than_are_asked_for() {
        let mut observer = Observer::new(Timestamp::EPOCH, Timestamp::EPOCH, standing(), false);
        let mut counts = |s: u64, target: u16| {
            observer.may_count(P, Timestamp::from_s(1_000_020 + s), TargetIndex(target))
        };
        assert!(counts(0, 8) && !counts(20, 8) && counts(30, 8));
        let taken = (0..60).filter(|n| counts(60 + n / 30, *n as u16)).count();
        assert_eq!(taken, usize::from(P.looks_turn));
        assert_eq!(Observer::looks_max(P, 120_000), 5);
    }

    #[test]
    fn what_one_release_saw_is_not_the_word_of_the_next() {
        let plan = plan();
        let mut observer = Observer::new(Timestamp::EPOCH, Timestamp::EPOCH, standing(), false);
        see(&mut observer, &plan, 10, 0, false);
        see(&mut observer, &plan, 20, 1, false);
        observer.stand(standing());
        assert_ne!(observer.flags(P), Entities::default());
        observer.stand(Standing { version: 9, ..standing() });
        assert_eq!((observer.flags(P), observer.standing.version), (Entities::default(), 9));
    }

    #[test]
    fn a_site_that_is_down_by_itself_raises_nothing_behind_it() {
        let plan = plan();
        let mut observer = Observer::new(Timestamp::EPOCH, Timestamp::EPOCH, standing(), false);
        let failed = implication(Outcome::TcpTimeout, None, DnsPath::Both);
        for at in [0, 1, 2] {
            let (target, now) = (TargetIndex(at), Timestamp::from_s(10 + u64::from(at)));
            let behind = plan.behind(target).unwrap();
            observer.observe(P, now, &plan, (behind, target, behind.set()), failed);
            let looked = |since| observer.last_look(target, since);
            assert_eq!((looked(now), looked(now.plus_ms(1_000))), (Some(false), None));
        }
        assert_eq!(observer.flags(P), Entities::default());
    }

    #[test]
    fn one_that_fails_everywhere_silences_itself() {
        let plan = plan();
        let mut observer = Observer::new(Timestamp::EPOCH, Timestamp::EPOCH, standing(), false);
        for at in 0..6 {
            see(&mut observer, &plan, at, 8 + (at % 4) as u16, true);
        }
        for at in 6..18 {
            see(&mut observer, &plan, at, if at % 2 == 0 { 0 } else { 8 }, false);
        }
        let bits = observer.bits(P, Timestamp::from_s(1_000_018), &plan);
        assert_eq!(bits.eligible, Entities::default());
    }

    proptest! {
        #[test]
        fn levels_stay_in_bounds_and_one_site_never_flags(
            probes in prop::collection::vec((0u16..12, any::<bool>()), 0..200),
            alone in any::<bool>(),
        ) {
            let plan = plan();
            let mut observer = Observer::new(Timestamp::EPOCH, Timestamp::EPOCH, standing(), false);
            for (at, (target, ok)) in (0..).zip(probes) {
                // Alone: of the first provider only target 0 ever fails.
                let ok = ok || (alone && (1..8).contains(&target));
                see(&mut observer, &plan, at, target, ok);
                prop_assert!(observer.level(P5) <= P.cusum_cap);
                if alone {
                    prop_assert!(observer.level(P5) <= P.cusum_up);
                }
            }
        }
    }
}
