//! What people say of sites: a curve of its own, beside what probes measured. More than usual is a suspicion, told
//! as what it is; the detector never hears of it, so that nothing is confirmed by hearsay.
//!
//! A person has one voice for a site in half an hour, a prefix one in a window, and a network at most a third of
//! them, as votes of observers have. Integers only: the same log, the same curve.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use tocsin_proto::{
    human::{HUMAN_AGAIN_MS, Hearing, HumanReport, Trouble},
    id::{Country, TargetIndex},
    sign::PublicKey,
    time::Timestamp,
};

use super::fixed::{ONE, log2_q16, share};

/// Width of a point of the curve, ms.
pub const BUCKET_MS: u64 = 300_000;
/// Points that the last quarter of an hour is made of.
const WINDOW: u64 = 3;
/// How long points are kept for curves, in points: a day.
const SHOWN: u64 = 288;
/// How far back the usual is looked for, in points: a week.
const USUAL: u64 = 7 * SHOWN;
/// The newest two hours are not of the usual: what begins slowly would hide itself.
const RECENT: u64 = 24;
/// Voices are not needed for longer, ms.
pub const KEPT_MS: u64 = (USUAL + RECENT) * BUCKET_MS;
/// Prefixes and networks without which nothing is suspected, whatever is usual.
const PREFIXES_MIN: u32 = 5;
const NETWORKS_MIN: usize = 3;
/// The least that is taken for usual in a quarter of an hour, millionths: some twenty voices a day.
const USUAL_MIN: i64 = 200_000;
/// The busiest hours have at most so many times the voices of the mean: an allowance of ours, on the safe side.
const PEAK: i64 = 2;
/// Bits of surprise from which it is a suspicion, 1/65536ths: at 500 sites and 96 windows a day, chance alone raises
/// one in three weeks (`500 * 96 * 2^-20 = 0.046` a day).
const SURPRISE_Q16: i64 = 20 << 16;
/// Binary logarithm of e, 1/65536ths.
const LOG2_E_Q16: i64 = 94_548;
/// Prefixes that one point of one curve tells apart at most: more say nothing more.
const PREFIXES_MAX: usize = 10_000;
/// Voices of one prefix in an hour at most, over all sites.
const HOURLY: u16 = 20;
/// Voices that [`Door`] remembers at most: over that it hears nobody new until some are half an hour old.
const REMEMBERED: usize = 100_000;

/// A voice that counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Voice {
    /// When it was heard, by the log's clock.
    pub at: Timestamp,
    /// What was said.
    pub said: HumanReport,
    /// From which country.
    pub country: Country,
    /// From which network; 0 when unknown.
    pub asn: u32,
    /// From which prefix, as a keyed number.
    pub slot: u64,
}

/// Who said what within the half hour: nobody is heard twice.
#[derive(Debug, Default)]
pub struct Door {
    said: BTreeSet<(PublicKey, TargetIndex)>,
    /// The same, oldest first.
    order: VecDeque<(Timestamp, PublicKey, TargetIndex)>,
    hourly: BTreeMap<u64, u16>,
    hour: u64,
}

impl Door {
    /// Whether this one is to be kept. Times do not go back.
    ///
    /// # Errors
    /// Why not.
    pub fn knock(
        &mut self,
        observer: PublicKey,
        Voice { at, said, slot, .. }: &Voice,
    ) -> Result<(), Hearing> {
        let hour = at.as_ms() / 3_600_000;
        if hour != self.hour {
            self.hour = hour;
            self.hourly.clear();
        }
        while let Some((before, who, of)) = self.order.front()
            && at.since_ms(*before) >= HUMAN_AGAIN_MS
        {
            self.said.remove(&(*who, *of));
            self.order.pop_front();
        }
        if self.said.contains(&(observer, said.target)) {
            return Err(Hearing::Again);
        }
        let of_prefix = self.hourly.entry(*slot).or_default();
        if *of_prefix >= HOURLY || self.order.len() >= REMEMBERED {
            return Err(Hearing::Enough);
        }
        *of_prefix += 1;
        self.said.insert((observer, said.target));
        self.order.push_back((*at, observer, said.target));
        Ok(())
    }

    /// What was not kept after all may be said again.
    pub fn unsay(&mut self, observer: PublicKey, target: TargetIndex) {
        self.said.remove(&(observer, target));
    }
}

/// One point of one curve.
#[derive(Debug, Default)]
struct Point {
    prefixes: BTreeMap<u64, (u32, Country)>,
    troubles: BTreeMap<u8, u32>,
}

#[derive(Debug, Default)]
struct Curve {
    /// The last quarter of an hour, by number of the point; empty ones are left out.
    points: BTreeMap<u64, Point>,
    /// How many prefixes were in each point of the last week.
    counts: BTreeMap<u64, u32>,
    /// Since when it is more than usual.
    since: Option<Timestamp>,
}

/// What was said of one site in the last quarter of an hour.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heard {
    /// Of which.
    pub target: TargetIndex,
    /// Since when it is more than usual; `None` where it is not.
    pub since: Option<Timestamp>,
    /// Prefixes.
    pub prefixes: u32,
    /// Networks.
    pub networks: u32,
    /// Countries.
    pub countries: u32,
    /// What is usual, thousandths of a prefix.
    pub usual_permille: u32,
    /// What is said most.
    pub trouble: Trouble,
}

/// Every curve.
#[derive(Debug, Default)]
pub struct People {
    curves: BTreeMap<TargetIndex, Curve>,
    /// Since when it listens: the first of what was heard.
    begun: Option<u64>,
    now: u64,
}

const fn point(at: Timestamp) -> u64 {
    at.as_ms() / BUCKET_MS
}

/// Whether `votes` are too many where `usual` millionths are expected: Chernoff's bound of the tail of a Poisson
/// distribution, `P(X >= k) <= e^-l (e l / k)^k` (Mitzenmacher and Upfal, Probability and Computing, theorem 5.4).
fn surprises(votes: u32, usual: i64) -> bool {
    let votes = i64::from(votes) * ONE;
    if votes <= usual {
        return false;
    }
    let times = share(votes, usual);
    let bits =
        |millionths: i64, of: i64| (i128::from(millionths) * i128::from(of)) / i128::from(ONE);
    bits(votes, log2_q16(times)) - bits(votes - usual, LOG2_E_Q16) >= i128::from(SURPRISE_Q16)
}

impl Curve {
    fn window(&self, now: u64) -> impl Iterator<Item = &Point> {
        self.points.range(now.saturating_sub(WINDOW - 1)..=now).map(|(_, point)| point)
    }

    /// Prefixes of the window, with where they are.
    fn prefixes(&self, now: u64) -> BTreeMap<u64, (u32, Country)> {
        self.window(now).flat_map(|point| &point.prefixes).map(|(slot, of)| (*slot, *of)).collect()
    }

    /// Prefixes in a quarter of an hour, as a rule and at its busiest, millionths.
    fn usual(&self, now: u64, begun: u64) -> i64 {
        let until = now.saturating_sub(RECENT);
        let from = until.saturating_sub(USUAL).max(begun).min(until);
        let heard: u32 = self.counts.range(from..until).map(|(_, count)| count).sum();
        // Who has not listened for a day does not know the day.
        let points = until.saturating_sub(from).max(SHOWN);
        let mean = share(i64::from(heard), i64::try_from(points).unwrap_or(i64::MAX));
        (mean * WINDOW.cast_signed() * PEAK).max(USUAL_MIN)
    }

    fn judge(&mut self, now: u64, begun: u64) {
        let prefixes = self.prefixes(now);
        let mut networks: BTreeMap<u32, u32> = BTreeMap::new();
        prefixes.values().for_each(|(asn, _)| *networks.entry(*asn).or_default() += 1);
        let all = u32::try_from(prefixes.len()).unwrap_or(u32::MAX);
        let third = all.div_ceil(3);
        let votes: u32 = networks.values().map(|of_network| (*of_network).min(third)).sum();
        let usual = self.usual(now, begun);
        // What is raised stays so until half of it would not be.
        let votes = if self.since.is_some() { votes.saturating_mul(2) } else { votes };
        let raised =
            votes >= PREFIXES_MIN && networks.len() >= NETWORKS_MIN && surprises(votes, usual);
        let now = Timestamp::from_ms(now * BUCKET_MS);
        self.since = raised.then(|| self.since.unwrap_or(now));
    }
}

impl People {
    /// Takes a voice. Those of one log come in its order.
    pub fn hear(&mut self, voice: &Voice) {
        let Voice { at, said, country, asn, slot } = *voice;
        self.advance(at);
        let begun = *self.begun.get_or_insert(self.now);
        let curve = self.curves.entry(said.target).or_default();
        let point = curve.points.entry(self.now).or_default();
        if point.prefixes.len() < PREFIXES_MAX
            && point.prefixes.insert(slot, (asn, country)).is_none()
        {
            *curve.counts.entry(self.now).or_default() += 1;
        }
        *point.troubles.entry(said.trouble.code()).or_default() += 1;
        // What is raised is looked at again when the point ends.
        if curve.since.is_none() {
            curve.judge(self.now, begun);
        }
    }

    /// Time goes on. Does little where no point has ended.
    pub fn advance(&mut self, now: Timestamp) {
        let now = point(now);
        if now <= self.now {
            return;
        }
        self.now = now;
        let begun = self.begun.unwrap_or(now);
        for curve in self.curves.values_mut() {
            curve.points = curve.points.split_off(&now.saturating_sub(WINDOW));
            curve.counts = curve.counts.split_off(&now.saturating_sub(USUAL + RECENT));
            curve.judge(now, begun);
        }
        self.curves.retain(|_, curve| !curve.counts.is_empty());
    }

    /// What is said of one.
    #[must_use]
    pub fn of(&self, target: TargetIndex) -> Option<Heard> {
        let curve = self.curves.get(&target)?;
        let prefixes = curve.prefixes(self.now);
        let networks: BTreeSet<u32> = prefixes.values().map(|(asn, _)| *asn).collect();
        let countries: BTreeSet<Country> = prefixes.values().map(|(_, country)| *country).collect();
        let mut troubles: BTreeMap<u8, u32> = BTreeMap::new();
        for (trouble, count) in curve.window(self.now).flat_map(|point| &point.troubles) {
            *troubles.entry(*trouble).or_default() += count;
        }
        let most = troubles.iter().max_by_key(|(_, count)| **count).map_or(0, |(code, _)| *code);
        let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        let usual = curve.usual(self.now, self.begun.unwrap_or(self.now)) / 1_000;
        Some(Heard {
            target,
            since: curve.since,
            prefixes: count(prefixes.len()),
            networks: count(networks.len()),
            countries: count(countries.len()),
            usual_permille: u32::try_from(usual).unwrap_or(u32::MAX),
            trouble: Trouble::from(most),
        })
    }

    /// Those of which more is said than usual, most prefixes first.
    #[must_use]
    pub fn raised(&self) -> Vec<Heard> {
        let raised = self.curves.iter().filter(|(_, curve)| curve.since.is_some());
        let mut raised: Vec<Heard> = raised.filter_map(|(target, _)| self.of(*target)).collect();
        raised.sort_by_key(|heard| (u32::MAX - heard.prefixes, heard.target));
        raised
    }

    /// Prefixes in each five minutes of the last day, of every site of which anything was said in them.
    pub fn curves(&self) -> impl Iterator<Item = (TargetIndex, Vec<(Timestamp, u32)>)> {
        self.curves.iter().map(|(target, curve)| {
            let shown = curve.counts.range(self.now.saturating_sub(SHOWN)..);
            let of = |(at, count): (&u64, &u32)| (Timestamp::from_ms(at * BUCKET_MS), *count);
            (*target, shown.map(of).collect())
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const START: Timestamp = Timestamp::from_s(1_700_000_000);
    const SITE: TargetIndex = TargetIndex(7);

    fn voice(at: Timestamp, slot: u64, asn: u32) -> Voice {
        let said = HumanReport { at, target: SITE, trouble: Trouble::Down };
        Voice { at, said, country: Country::UNKNOWN, asn, slot }
    }

    fn hear(people: &mut People, at: Timestamp, prefixes: std::ops::Range<u64>, networks: u64) {
        for slot in prefixes {
            let asn = u32::try_from(slot % networks).unwrap();
            people.hear(&voice(at, slot, asn + 1));
        }
    }

    #[test]
    fn a_handful_from_everywhere_is_a_suspicion_and_silence_ends_it() {
        let mut people = People::default();
        hear(&mut people, START, 0..5, 5);
        assert_eq!(people.raised(), [], "five may be chance");
        hear(&mut people, START, 5..7, 7);
        let raised = people.raised();
        assert_eq!(raised.len(), 1);
        assert_eq!((raised[0].prefixes, raised[0].networks), (7, 7));
        assert!(raised[0].since.is_some());
        people.advance(START.plus_ms(4 * BUCKET_MS));
        assert_eq!(people.raised(), []);
        let curve: Vec<_> = people.curves().collect();
        assert_eq!(curve[0].1.iter().map(|(_, count)| count).sum::<u32>(), 7, "the curve stays");
    }

    #[test]
    fn one_network_is_no_crowd() {
        let mut people = People::default();
        hear(&mut people, START, 0..1_000, 1);
        assert_eq!(people.raised(), []);
        hear(&mut people, START, 0..1_000, 2);
        assert_eq!(people.raised(), [], "nor are two");
    }

    #[test]
    fn one_prefix_has_one_voice() {
        let mut people = People::default();
        for n in 0..1_000 {
            people.hear(&voice(START, n % 4, n as u32));
        }
        assert_eq!(people.raised(), []);
        assert_eq!(people.of(SITE).unwrap().prefixes, 4);
    }

    #[test]
    fn what_is_said_every_day_is_usual() {
        let mut people = People::default();
        let day = |people: &mut People, n: u64| {
            for hour in 0..24 {
                let at = START.plus_ms((n * 24 + hour) * 3_600_000);
                hear(people, at, 0..10, 10);
            }
        };
        // Ten voices an hour, once it has been so for days, surprise nobody.
        for n in 0..5 {
            day(&mut people, n);
        }
        let at = START.plus_ms(5 * 24 * 3_600_000);
        hear(&mut people, at, 0..10, 10);
        assert_eq!(people.of(SITE).unwrap().since, None);
        hear(&mut people, at, 10..60, 10);
        assert!(people.of(SITE).unwrap().since.is_some());
    }

    #[test]
    fn the_door_hears_a_person_once_in_half_an_hour_and_a_prefix_twenty_times_an_hour() {
        let mut door = Door::default();
        let key = |n: u8| PublicKey::from_bytes([n; 32]);
        let at = |ms| START.plus_ms(ms);
        assert_eq!(door.knock(key(0), &voice(at(0), 1, 1)), Ok(()));
        assert_eq!(door.knock(key(0), &voice(at(HUMAN_AGAIN_MS - 1), 1, 1)), Err(Hearing::Again));
        assert_eq!(door.knock(key(0), &voice(at(HUMAN_AGAIN_MS), 1, 1)), Ok(()));
        door.unsay(key(0), SITE);
        let heard =
            (1..=40).filter(|n| door.knock(key(*n), &voice(at(HUMAN_AGAIN_MS), 1, 1)).is_ok());
        assert!(heard.count() <= usize::from(HOURLY));
        assert_eq!(door.knock(key(50), &voice(at(HUMAN_AGAIN_MS), 2, 1)), Ok(()));
    }

    proptest! {
        // Chernoff's bound is never under the tail itself, so chance raises no more than is said.
        #[test]
        fn the_bound_bounds_the_tail(usual in USUAL_MIN..20_000_000, votes in 5u32..200) {
            if surprises(votes, usual) {
                let mean = usual as f64 / ONE as f64;
                let term = |k: u32| (1..=k).fold(-mean, |log, n| log + mean.ln() - f64::from(n).ln());
                let tail: f64 = (votes..votes + 400).map(|k| term(k).exp()).sum();
                prop_assert!(tail <= 2f64.powi(-20) * 1.001, "{tail} at {votes} of {mean}");
            }
        }

        // Nobody who leaves makes it louder, and who comes does not make it quieter.
        #[test]
        fn more_voices_are_no_less(slots in proptest::collection::vec((0u64..40, 0u32..9), 1..60)) {
            let mut people = People::default();
            let mut before = 0;
            for (slot, asn) in slots {
                people.hear(&voice(START, slot, asn));
                let now = people.of(SITE).unwrap().prefixes;
                prop_assert!(now >= before);
                before = now;
            }
        }
    }
}
