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
    fixed::{ONE, Ppm, smooth},
    line::Line,
    params::{
        ALERT_FRESH_MS, CHRON_MAX, CONTROLS_MIN, CUSUM_CAP, CUSUM_FLAG, CUSUM_HALF, CUSUM_UP,
        LOOK_AGAIN_MS, RING, SEEN_MAX_MS, SEEN_MIN_MS, SICK_MAX, SLOW_MS, STREAK_MAX,
    },
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

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
struct Probe {
    target: TargetIndex,
    answered: bool,
    /// Seconds since the Unix epoch: eligibility goes by minutes.
    at_s: u32,
}

/// The last probes, in place: an observer is one piece of memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
struct Ring {
    probes: [Probe; RING],
    next: u8,
    length: u8,
}

impl Ring {
    fn push(&mut self, probe: Probe) {
        if let Some(place) = self.probes.get_mut(usize::from(self.next)) {
            *place = probe;
        }
        self.next = (self.next + 1) % RING as u8;
        self.length = (self.length + 1).min(RING as u8);
    }

    /// Oldest first.
    fn iter(&self) -> impl Iterator<Item = &Probe> {
        let (head, tail) = self.probes.split_at(usize::from(self.next));
        let full = usize::from(self.length) == RING;
        let tail = if full { tail } else { Default::default() };
        tail.iter().chain(head)
    }

    fn len(&self) -> usize {
        usize::from(self.length)
    }

    fn answered(&self) -> usize {
        self.iter().filter(|probe| probe.answered).count()
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

/// An observer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Observer {
    /// When its first report came.
    pub first_seen: Timestamp,
    /// When its last report came.
    pub last_seen: Timestamp,
    /// Where it stands.
    pub standing: Standing,
    /// Whether the operator vouches for it.
    pub anchor: bool,
    ring: Ring,
    /// Entities that are not at rest, in order.
    cusums: Vec<Cusum>,
    chron: Vec<(EntityIndex, Ppm)>,
    sick: Ppm,
    streak: u8,
    streak_edge: Option<EntityIndex>,
    /// Whether anything answers it at all.
    pub line: Line,
    /// What of it is in the sums.
    pub vote: Vote,
    /// Its weight, online or not.
    pub weight: i64,
    /// Its weight within its network.
    pub within: i64,
    /// When its bits are to be looked at again, where that is planned.
    pub check_at: Option<Timestamp>,
}

impl Observer {
    /// A new one.
    #[must_use]
    pub fn new(now: Timestamp, first_seen: Timestamp, standing: Standing, anchor: bool) -> Self {
        Self {
            first_seen,
            last_seen: now,
            standing,
            anchor,
            ring: Ring::default(),
            cusums: Vec::new(),
            chron: Vec::new(),
            sick: 0,
            streak: 0,
            streak_edge: None,
            line: Line::default(),
            vote: Vote::default(),
            weight: 0,
            within: 0,
            check_at: None,
        }
    }

    /// Takes one observation.
    pub fn observe(
        &mut self,
        now: Timestamp,
        behind: &Behind,
        target: TargetIndex,
        implication: &Implication,
    ) {
        // What says nothing of the target speaks against the observer's own line.
        let failed = implication.says() != Says::Answers;
        let at_s = u32::try_from(now.as_s()).unwrap_or(u32::MAX);
        self.ring.push(Probe { target, answered: !failed, at_s });
        for entity in behind.blamed(implication) {
            self.raise(entity, target, CUSUM_UP);
        }
        for entity in behind.half_blamed(implication) {
            self.raise(entity, target, CUSUM_HALF);
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

    fn raise(&mut self, entity: EntityIndex, target: TargetIndex, step: u8) {
        match self.cusums.binary_search_by_key(&entity, |c| c.entity) {
            Ok(at) => {
                if let Some(cusum) = self.cusums.get_mut(at) {
                    cusum.level = if cusum.last == target {
                        cusum.level.max(step)
                    } else {
                        (cusum.level + step).min(CUSUM_CAP)
                    };
                    cusum.last = target;
                }
            }
            Err(at) => self.cusums.insert(at, Cusum { entity, level: step, last: target }),
        }
    }

    fn lower(&mut self, entity: EntityIndex) {
        if let Ok(at) = self.cusums.binary_search_by_key(&entity, |c| c.entity)
            && let Some(cusum) = self.cusums.get_mut(at)
        {
            cusum.level -= 1;
            if cusum.level == 0 {
                self.cusums.remove(at);
            }
        }
    }

    /// The slow averages: how much of the day it flagged an entity, and how much it fails at all.
    /// `frozen` are entities with an open incident, and `excused` is who stands in one of a group's:
    /// an outage is not the observer's habit.
    pub fn age(&mut self, now: Timestamp, frozen: Entities, excused: bool) {
        let elapsed = now.since_ms(self.last_seen);
        self.last_seen = now;
        let ratio = ratio(self.ring.len() - self.ring.answered(), self.ring.len());
        if frozen == Entities::default() && !excused {
            self.sick = smooth(self.sick, ratio, elapsed, SLOW_MS);
        }
        let flags = self.flags();
        for (entity, chron) in &mut self.chron {
            if !frozen.has(*entity) {
                let towards = if flags.has(*entity) { ONE } else { 0 };
                *chron = smooth(*chron, towards, elapsed, SLOW_MS);
            }
        }
        self.chron.retain(|(entity, chron)| *chron > 0 || flags.has(*entity));
        for entity in flags.iter() {
            if !frozen.has(entity) && !self.chron.iter().any(|(e, _)| *e == entity) {
                self.chron.push((entity, smooth(0, ONE, elapsed, SLOW_MS)));
            }
        }
    }

    /// The entities it flags.
    #[must_use]
    pub fn flags(&self) -> Entities {
        let mut flags = Entities::default();
        for cusum in self.cusums.iter().filter(|c| c.level >= CUSUM_FLAG) {
            flags.insert(cusum.entity);
        }
        flags
    }

    /// Whether it looked at the target within the last minute, by its last probes.
    #[must_use]
    pub fn looked_at(&self, now: Timestamp, target: TargetIndex) -> bool {
        let since_s = now.minus_ms(LOOK_AGAIN_MS).as_s();
        self.ring.iter().any(|probe| probe.target == target && u64::from(probe.at_s) > since_s)
    }

    /// Whether two of the entity's sites have failed here lately.
    #[must_use]
    pub fn sees_now(&self, now: Timestamp, plan: &Plan, entity: EntityIndex) -> bool {
        let mut first = None;
        let since_s = now.minus_ms(ALERT_FRESH_MS).as_s();
        self.ring.iter().any(|probe| {
            let counts = !probe.answered
                && u64::from(probe.at_s) >= since_s
                && plan.behind(probe.target).is_some_and(|behind| behind.has(entity));
            counts && first.replace(probe.target).is_some_and(|other| other != probe.target)
        })
    }

    /// Whether it fails for so much of the day that it says nothing of anything.
    #[must_use]
    pub const fn is_sick(&self) -> bool {
        self.sick > SICK_MAX
    }

    /// Whether it is to be believed on anything at all.
    #[must_use]
    pub fn is_healthy(&self) -> bool {
        self.streak < STREAK_MAX && !self.is_sick() && self.ring.answered() >= CONTROLS_MIN
    }

    /// Whether it has flagged one of these for most of the day: blocked there, not out.
    #[must_use]
    pub fn is_chronic(&self, entity: EntityIndex) -> bool {
        self.chron.iter().any(|(e, chron)| *e == entity && *chron > CHRON_MAX)
    }

    /// Whether it takes part in the windows for a target.
    #[must_use]
    pub fn counts_for(&self, behind: &Behind) -> bool {
        self.is_healthy() && !behind.entities().iter().any(|(_, e)| self.is_chronic(*e))
    }

    /// Its bits now.
    #[must_use]
    pub fn bits(&self, now: Timestamp, plan: &Plan) -> Bits {
        let mut bits = Bits { flags: self.flags(), ..Bits::default() };
        if !self.is_healthy() {
            return bits;
        }
        let mut touches = [0u8; ENTITIES_MAX];
        let mut answered_behind = [0u8; ENTITIES_MAX];
        let mut last_s = [0u32; ENTITIES_MAX];
        let (mut answered, mut touched) = (0, Entities::default());
        let (mut first, mut newest) = (None, 0);
        for probe in self.ring.iter() {
            first = first.or(Some(probe.at_s));
            newest = probe.at_s;
            answered += u8::from(probe.answered);
            for (_, entity) in plan.behind(probe.target).map_or(&[][..], Behind::entities) {
                let at = usize::from(entity.0);
                let (Some(touches), Some(behind), Some(last)) =
                    (touches.get_mut(at), answered_behind.get_mut(at), last_s.get_mut(at))
                else {
                    continue;
                };
                touched.insert(*entity);
                *touches += 1;
                *behind += u8::from(probe.answered);
                *last = probe.at_s;
            }
        }
        let span_ms = u64::from(newest.saturating_sub(first.unwrap_or(newest))) * 1000;
        for entity in touched.iter() {
            let at = usize::from(entity.0);
            let of = |values: &[u8; ENTITIES_MAX]| values.get(at).copied().unwrap_or(0);
            // Three of its own touch periods, whatever its rate.
            let patience =
                (3 * span_ms / u64::from(of(&touches).max(1))).clamp(SEEN_MIN_MS, SEEN_MAX_MS);
            let last = last_s.get(at).copied().unwrap_or(0);
            let until = Timestamp::from_s(last.into()).plus_ms(patience);
            let controls = usize::from(answered - of(&answered_behind));
            if now > until || controls < CONTROLS_MIN || self.is_chronic(entity) {
                continue;
            }
            bits.eligible.insert(entity);
            let due = until.plus_ms(1);
            bits.due = Some(bits.due.map_or(due, |other| other.min(due)));
        }
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
        self.cusums.iter().find(|c| c.entity == entity).map_or(0, |c| c.level)
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
        observer.observe(now, behind, TargetIndex(target), implication);
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
            observer.flags().has(P5)
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
        let bits = observer.bits(now(3), &plan);
        assert!(bits.flags.has(P5) && !bits.eligible.has(P5), "nothing else was reached yet");
        for at in 3..6 {
            see(&mut observer, &plan, at, 8 + at as u16 - 3, true);
        }
        assert!(observer.bits(now(6), &plan).eligible.has(P5));
        assert!(!observer.bits(now(200), &plan).eligible.has(P5), "too long ago");
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
        let bits = observer.bits(Timestamp::from_s(1_000_018), &plan);
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
                prop_assert!(observer.level(P5) <= CUSUM_CAP);
                if alone {
                    prop_assert!(observer.level(P5) <= CUSUM_UP);
                }
            }
        }
    }
}
