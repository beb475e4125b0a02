//! What the agent will not do to a target or to its user's line, whatever anybody says.
//!
//! Every probe passes [`Courtesy::admit`] before it starts; [`Courtesy::spent`] says afterwards
//! what it cost. Nothing here chooses what to probe. The history outlives the process: the shell
//! keeps every [`Start`], [`Quiet`] and [`Fill`], and gives them back to [`Courtesy::restore`].

use std::collections::{BTreeMap, VecDeque};

pub use tocsin_proto::limits::{TARGET_HOUR_MAX, TARGET_MINUTE_MAX};
use tocsin_proto::{id::TargetIndex, time::Timestamp};

/// Probes in any minute, of all targets.
pub const MINUTE_MAX: usize = 60;
/// Asked probes in any day outside confirmed incidents.
pub const ASKED_DAY_MAX: usize = 900;
/// Asked probes in any day, those about confirmed incidents among them. Whether one is confirmed is the
/// collector's word: so this is what a hostile one can have.
pub const ASKED_DAY_ALL_MAX: usize = 2_000;
/// Longest `Retry-After` that is honoured as it stands, seconds. More is cut to this: a day of
/// silence towards one target is as polite as anybody can ask.
pub const RETRY_AFTER_S_MAX: u32 = 86_400;
/// While the bucket is nearly full: milliseconds between scheduled probes.
pub const TRICKLE_MS: u64 = 300_000;

/// Headers of a connection's opening and closing: seven packets of IPv4 and TCP with timestamps
/// (RFC 9293, RFC 7323: 52 bytes each).
const OPEN_CLOSE_BYTES: u64 = 7 * 52;
/// Of every 2,896 bytes of payload: two segments' headers and one acknowledgement.
const HEADERS_PER_PAIR: u64 = 3 * 52;
const PAIR_BYTES: u64 = 2 * 1448;
/// What a server may still push of a page over HTTP/1.1 after we stopped reading: ten segments, the
/// usual initial window (RFC 6928). Over HTTP/2 a window of zero keeps it back.
const IN_FLIGHT_BYTES: u64 = 10 * 1460;

/// What a probe cost on the wire, from the payload that was counted.
#[must_use]
pub const fn wire_bytes(payload: u64, http1: bool) -> u64 {
    let in_flight = if http1 { IN_FLIGHT_BYTES } else { 0 };
    let payload = payload.saturating_add(in_flight);
    payload.saturating_add(OPEN_CLOSE_BYTES + (payload / PAIR_BYTES + 1) * HEADERS_PER_PAIR)
}

const MINUTE_MS: u64 = 60_000;
const HOUR_MS: u64 = 3_600_000;
const DAY_MS: u64 = 86_400_000;

/// Why a probe may not start now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The target has been probed [`TARGET_MINUTE_MAX`] times in a minute.
    #[error("this target was probed {TARGET_MINUTE_MAX} times in the last minute")]
    TargetMinute,
    /// The target has been probed [`TARGET_HOUR_MAX`] times in an hour.
    #[error("this target was probed {TARGET_HOUR_MAX} times in the last hour")]
    TargetHour,
    /// It had its scheduled probe in this minute.
    #[error("this target had its scheduled probe in the last minute")]
    TargetScheduled,
    /// [`MINUTE_MAX`] probes have started in a minute.
    #[error("{MINUTE_MAX} probes were started in the last minute")]
    Minute,
    /// [`ASKED_DAY_MAX`] probes have been asked in a day outside incidents, or [`ASKED_DAY_ALL_MAX`] in all.
    #[error(
        "{ASKED_DAY_MAX} probes were made for collectors in the last day, or {ASKED_DAY_ALL_MAX} with \
         those about incidents"
    )]
    AskedDay,
    /// The target asked to be left alone until then.
    #[error("the target asked for no requests until {0}")]
    RetryAfter(Timestamp),
    /// The budget of bytes is used up for this cause.
    #[error("the byte budget is used up for now; raise day_bytes_max to allow more")]
    Budget,
}

/// What a probe is made for, as far as the caps tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Use {
    /// The schedule.
    Scheduled,
    /// A closer look at a failure.
    Verification,
    /// A collector's question.
    Asked {
        /// About a confirmed incident.
        standing: bool,
    },
}

/// A probe that was started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Start {
    /// When.
    pub at: Timestamp,
    /// Of what.
    pub target: TargetIndex,
    /// What for.
    pub of: Use,
}

/// A target that asked to be left alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quiet {
    /// Which.
    pub target: TargetIndex,
    /// Until when.
    pub until: Timestamp,
}

/// How full the byte budget is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fill {
    /// Bytes that have not leaked away yet.
    pub bytes: u64,
    /// When that was so.
    pub at: Timestamp,
}

/// What another process of this agent did.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Others {
    /// Probes that it started.
    pub starts: Vec<Start>,
    /// Bytes that they cost.
    pub bytes: u64,
    /// Targets that asked to be left alone.
    pub quiets: Vec<Quiet>,
}

#[derive(Debug, Default)]
struct PerTarget {
    /// Starts within the last hour, oldest first.
    starts: VecDeque<Timestamp>,
    scheduled: Option<Timestamp>,
    quiet_until: Option<Timestamp>,
}

/// The bookkeeping behind every cap.
#[derive(Debug)]
pub struct Courtesy {
    targets: BTreeMap<TargetIndex, PerTarget>,
    starts: VecDeque<Timestamp>,
    /// By collectors, in all.
    asked: VecDeque<Timestamp>,
    /// And outside confirmed incidents.
    doubted: VecDeque<Timestamp>,
    scheduled: Option<Timestamp>,
    bucket: Bucket,
}

/// A leaky bucket: a quarter of the day's bytes deep, leaking three quarters a day. So no rolling
/// day passes the whole, and steady (scheduled) use gets at most 75 %.
#[derive(Debug)]
struct Bucket {
    day_bytes_max: u64,
    /// Bytes times [`DAY_MS`], so that the leak is exact in integers.
    level: u128,
    at: Timestamp,
}

impl Bucket {
    fn leak(&mut self, now: Timestamp) {
        self.level = self.level_at(now);
        self.at = self.at.max(now);
    }

    fn level_at(&self, now: Timestamp) -> u128 {
        let leaked = u128::from(now.since_ms(self.at)) * u128::from(self.day_bytes_max) * 3 / 4;
        self.level.saturating_sub(leaked)
    }

    /// Fill in percent.
    fn percent(&self, now: Timestamp) -> u64 {
        let depth = (u128::from(self.day_bytes_max) * u128::from(DAY_MS) / 4).max(1);
        u64::try_from(self.level_at(now) * 100 / depth).unwrap_or(u64::MAX)
    }
}

fn within(starts: &VecDeque<Timestamp>, now: Timestamp, span_ms: u64) -> usize {
    // They are in order, and the older ones are mostly gone already.
    let old = |start: &Timestamp| now.since_ms(*start) >= span_ms;
    match starts.front().is_some_and(old) {
        true => starts.len() - starts.partition_point(old),
        false => starts.len(),
    }
}

/// In order of time: another process's start may be told late.
fn insert(starts: &mut VecDeque<Timestamp>, at: Timestamp) {
    let place = starts.partition_point(|other| *other <= at);
    starts.insert(place, at);
}

fn prune(starts: &mut VecDeque<Timestamp>, now: Timestamp, span_ms: u64) {
    while starts.front().is_some_and(|start| now.since_ms(*start) >= span_ms) {
        starts.pop_front();
    }
}

impl Courtesy {
    /// With an empty history.
    #[must_use]
    pub const fn new(day_bytes_max: u64) -> Self {
        Self {
            targets: BTreeMap::new(),
            starts: VecDeque::new(),
            asked: VecDeque::new(),
            doubted: VecDeque::new(),
            scheduled: None,
            bucket: Bucket { day_bytes_max, level: 0, at: Timestamp::EPOCH },
        }
    }

    /// Takes up a history. What lies ahead of `now`, because the wall clock was set back between
    /// two starts, counts as of now: it may hold a probe back for one span, not for ever.
    pub fn restore(
        &mut self,
        now: Timestamp,
        starts: impl IntoIterator<Item = Start>,
        quiets: impl IntoIterator<Item = Quiet>,
        fill: Option<Fill>,
    ) {
        for start in starts {
            self.started(Start { at: start.at.min(now), ..start });
        }
        for quiet in quiets {
            self.leave_alone(now, quiet);
        }
        if let Some(Fill { bytes, at }) = fill {
            self.bucket.at = at.min(now);
            self.bucket.level = u128::from(bytes) * u128::from(DAY_MS);
        }
    }

    /// A target is to be left alone; at most for the longest time that is honoured.
    pub fn leave_alone(&mut self, now: Timestamp, Quiet { target, until }: Quiet) {
        let until = until.min(now.plus_ms(u64::from(RETRY_AFTER_S_MAX) * 1000));
        let of = self.targets.entry(target).or_default();
        of.quiet_until = of.quiet_until.max(Some(until));
    }

    /// How full the byte budget is now.
    #[must_use]
    pub fn fill(&self, now: Timestamp) -> Fill {
        let bytes = self.bucket.level_at(now).div_ceil(u128::from(DAY_MS));
        Fill { bytes: u64::try_from(bytes).unwrap_or(u64::MAX), at: now }
    }

    /// Until when a target is left alone, if it asked for that.
    #[must_use]
    pub fn quiet(&self, target: TargetIndex) -> Option<Quiet> {
        let until = self.targets.get(&target)?.quiet_until?;
        Some(Quiet { target, until })
    }

    /// Whether a probe may start now.
    ///
    /// # Errors
    /// With the cap that forbids it.
    pub fn may(&self, now: Timestamp, target: TargetIndex, of: Use) -> Result<(), Refusal> {
        if within(&self.starts, now, MINUTE_MS) >= MINUTE_MAX {
            return Err(Refusal::Minute);
        }
        if let Use::Asked { standing } = of {
            let doubted = if standing { 0 } else { within(&self.doubted, now, DAY_MS) };
            if doubted >= ASKED_DAY_MAX || within(&self.asked, now, DAY_MS) >= ASKED_DAY_ALL_MAX {
                return Err(Refusal::AskedDay);
            }
        }
        if let Some(own) = self.targets.get(&target) {
            if let Some(until) = own.quiet_until.filter(|until| now < *until) {
                return Err(Refusal::RetryAfter(until));
            }
            if within(&own.starts, now, MINUTE_MS) >= TARGET_MINUTE_MAX {
                return Err(Refusal::TargetMinute);
            }
            if within(&own.starts, now, HOUR_MS) >= TARGET_HOUR_MAX {
                return Err(Refusal::TargetHour);
            }
            let recent = own.scheduled.is_some_and(|at| now.since_ms(at) < MINUTE_MS);
            if of == Use::Scheduled && recent {
                return Err(Refusal::TargetScheduled);
            }
        }
        self.may_spend(now, of)
    }

    /// The last tenth of the bucket is for the trickle of scheduled probes, which costs less than
    /// leaks: so the schedule thins but never stops.
    fn may_spend(&self, now: Timestamp, of: Use) -> Result<(), Refusal> {
        let percent = self.bucket.percent(now);
        let trickle = self.scheduled.is_none_or(|at| now.since_ms(at) >= TRICKLE_MS);
        let good = match of {
            Use::Scheduled => percent < 80 || (percent < 100 && trickle),
            Use::Verification | Use::Asked { .. } => percent < 90,
        };
        if good { Ok(()) } else { Err(Refusal::Budget) }
    }

    /// As [`Courtesy::may`]; when it may, the start is counted.
    ///
    /// # Errors
    /// With the cap that forbids it.
    pub fn admit(&mut self, now: Timestamp, target: TargetIndex, of: Use) -> Result<(), Refusal> {
        self.may(now, target, of)?;
        self.started(Start { at: now, target, of });
        Ok(())
    }

    /// Counts a start that was admitted: here, in an earlier run, or by another process.
    pub fn started(&mut self, Start { at, target, of }: Start) {
        let own = self.targets.entry(target).or_default();
        prune(&mut own.starts, at, HOUR_MS);
        prune(&mut self.starts, at, MINUTE_MS);
        prune(&mut self.asked, at, DAY_MS);
        prune(&mut self.doubted, at, DAY_MS);
        insert(&mut own.starts, at);
        insert(&mut self.starts, at);
        match of {
            Use::Scheduled => {
                own.scheduled = own.scheduled.max(Some(at));
                self.scheduled = self.scheduled.max(Some(at));
            }
            Use::Asked { standing } => {
                insert(&mut self.asked, at);
                if !standing {
                    insert(&mut self.doubted, at);
                }
            }
            Use::Verification => {}
        }
    }

    /// A probe has ended and cost so many bytes, both ways.
    pub fn spent(&mut self, now: Timestamp, bytes: u64) {
        self.bucket.leak(now);
        self.bucket.level += u128::from(bytes) * u128::from(DAY_MS);
    }

    /// The target said when to come back (429, `Retry-After`).
    pub fn retry_after(&mut self, now: Timestamp, target: TargetIndex, seconds: u32) {
        let until = now.plus_ms(u64::from(seconds) * 1000);
        self.leave_alone(now, Quiet { target, until });
    }

    /// Of how many scheduled slots one is used: 1 with room in the budget, more as it fills.
    #[must_use]
    pub fn stretch(&self, now: Timestamp) -> u64 {
        match self.bucket.percent(now) {
            0..40 => 1,
            40..60 => 2,
            60..80 => 4,
            _ => 1, // Here the trickle rule spaces them.
        }
    }

    /// Whether the schedule is thinner than asked, for want of budget.
    #[must_use]
    pub fn thinned(&self, now: Timestamp) -> bool {
        self.bucket.percent(now) >= 40
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_probe_costs_more_than_its_payload() {
        assert_eq!(super::wire_bytes(0, false), 520);
        assert_eq!(super::wire_bytes(5_792, false), 5_792 + 364 + 3 * 156);
        assert!(super::wire_bytes(5_000, true) > 19_600, "HTTP/1.1 is dear");
    }

    use super::*;
    use proptest::prelude::*;

    fn use_of(kind: u8) -> Use {
        match kind {
            0 => Use::Scheduled,
            1 => Use::Verification,
            kind => Use::Asked { standing: kind == 3 },
        }
    }

    proptest! {
        #[test]
        fn no_sequence_breaks_a_cap(
            events in proptest::collection::vec((0u64..20_000, 0u16..6, 0u8..4, 0u64..60_000, 0u32..40), 1..600),
        ) {
            const BUDGET: u64 = 4_000_000;
            let mut courtesy = Courtesy::new(BUDGET);
            let mut now = Timestamp::from_s(1_800_000_000);
            let mut log: Vec<(Timestamp, u16, Use)> = Vec::new();
            let mut quiet: BTreeMap<u16, Timestamp> = BTreeMap::new();
            for (wait, target, kind, bytes, retry) in events {
                now = now.plus_ms(wait);
                let of = use_of(kind);
                if courtesy.admit(now, TargetIndex(target), of).is_err() {
                    continue;
                }
                prop_assert!(quiet.get(&target).is_none_or(|until| now >= *until));
                log.push((now, target, of));
                courtesy.spent(now, bytes);
                if retry > 35 {
                    courtesy.retry_after(now, TargetIndex(target), retry);
                    let until = now.plus_ms(u64::from(retry) * 1000);
                    let until = quiet.get(&target).map_or(until, |before| until.max(*before));
                    quiet.insert(target, until);
                }
                let count = |span: u64, f: &dyn Fn(&(Timestamp, u16, Use)) -> bool| {
                    log.iter().filter(|e| now.since_ms(e.0) < span && f(e)).count()
                };
                prop_assert!(count(60_000, &|e| e.1 == target) <= 5);
                prop_assert!(count(3_600_000, &|e| e.1 == target) <= 40);
                prop_assert!(count(60_000, &|e| e.1 == target && e.2 == Use::Scheduled) <= 1);
                prop_assert!(count(60_000, &|_| true) <= 60);
            }
        }

        #[test]
        fn the_day_stays_in_its_budget_and_the_schedule_never_stops(
            bytes in 1_000u64..40_000, kinds in proptest::collection::vec(0u8..4, 50),
        ) {
            const BUDGET: u64 = 5_000_000;
            let mut courtesy = Courtesy::new(BUDGET);
            let start = Timestamp::from_s(1_800_000_000);
            let (mut spent, mut last_scheduled) = (0, start);
            for tick in 0..17_280u64 {
                let now = start.plus_ms(tick * 5_000);
                let of = use_of(kinds[tick as usize % kinds.len()]);
                let target = TargetIndex((tick % 200) as u16);
                for of in [of, Use::Scheduled] {
                    if courtesy.admit(now, target, of).is_ok() {
                        courtesy.spent(now, bytes);
                        spent += bytes;
                        if of == Use::Scheduled { last_scheduled = now; }
                    }
                }
                // A probe of 40 kB leaks away in 921 s of this small budget.
                prop_assert!(now.since_ms(last_scheduled) < 1_300_000);
            }
            prop_assert!(spent <= BUDGET + 2 * bytes, "{spent}");
        }
    }

    proptest! {
        #[test]
        fn a_restart_forgets_nothing(
            events in proptest::collection::vec((0u64..9_000, 0u16..4, 0u8..4, 0u64..60_000), 1..300),
            after in 0u64..4_000_000,
        ) {
            let mut courtesy = Courtesy::new(3_000_000);
            let mut now = Timestamp::from_s(1_800_000_000);
            let mut starts = Vec::new();
            for (wait, target, kind, bytes) in events {
                now = now.plus_ms(wait);
                let (target, of) = (TargetIndex(target), use_of(kind));
                if courtesy.admit(now, target, of).is_ok() {
                    starts.push(Start { at: now, target, of });
                    courtesy.spent(now, bytes);
                }
            }
            courtesy.retry_after(now, TargetIndex(0), 1_000);
            let quiets = (0..4).filter_map(|target| courtesy.quiet(TargetIndex(target)));
            let mut again = Courtesy::new(3_000_000);
            again.restore(now, starts, quiets, Some(courtesy.fill(now)));
            now = now.plus_ms(after);
            for (target, kind) in (0..4).flat_map(|target| (0..4).map(move |kind| (target, kind))) {
                let (target, of) = (TargetIndex(target), use_of(kind));
                // What is kept is a byte more at most, so that nothing more is ever allowed.
                let (was, now) = (courtesy.may(now, target, of), again.may(now, target, of));
                prop_assert!(was == now || (was.is_ok() && now == Err(Refusal::Budget)), "{was:?} {now:?}");
            }
        }
    }

    #[test]
    fn a_history_from_ahead_holds_back_for_one_span_only() {
        let now = Timestamp::from_s(1_800_000_000);
        let ahead = now.plus_ms(400 * DAY_MS);
        let target = TargetIndex(1);
        let start = Start { at: ahead, target, of: Use::Scheduled };
        let mut courtesy = Courtesy::new(1 << 30);
        let fill = Fill { bytes: 1 << 20, at: ahead };
        courtesy.restore(now, [start], [Quiet { target, until: ahead }], Some(fill));
        assert!(courtesy.may(now, target, Use::Scheduled).is_err());
        assert!(courtesy.may(now.plus_ms(DAY_MS), target, Use::Scheduled).is_ok());
        assert!(courtesy.fill(now.plus_ms(DAY_MS)).bytes == 0);
    }

    #[test]
    fn a_day_has_room_for_incidents_beside_suspicions_and_an_end() {
        let mut courtesy = Courtesy::new(1 << 40);
        let now = Timestamp::from_s(1_800_000_000);
        let mut admitted = |standing, from_s: u64| {
            let ask = |n: u64| {
                let target = TargetIndex((n % 500) as u16);
                let at = now.plus_ms((from_s + n * 2) * 1_000);
                courtesy.admit(at, target, Use::Asked { standing }).is_ok()
            };
            (0..5_000).map(ask).filter(|may| *may).count()
        };
        assert_eq!(admitted(false, 0), ASKED_DAY_MAX);
        assert_eq!(admitted(true, 10_000), ASKED_DAY_ALL_MAX - ASKED_DAY_MAX);
        assert_eq!(admitted(false, 20_000), 0);
        assert_eq!(admitted(true, 86_400 + 21_000), ASKED_DAY_ALL_MAX, "the next day");
    }

    #[test]
    fn a_target_that_asks_for_rest_gets_it() {
        let mut courtesy = Courtesy::new(1 << 30);
        let now = Timestamp::from_s(1_800_000_000);
        courtesy.retry_after(now, TargetIndex(1), 120);
        let may = |s: u64| courtesy.may(now.plus_ms(s * 1000), TargetIndex(1), Use::Scheduled);
        assert!(matches!(may(119), Err(Refusal::RetryAfter(_))));
        assert_eq!(may(120), Ok(()));
    }

    #[test]
    fn it_thins_as_the_bucket_fills() {
        let mut courtesy = Courtesy::new(1_000_000);
        let now = Timestamp::from_s(1_800_000_000);
        courtesy.spent(now, 150_000);
        assert!(courtesy.thinned(now) && courtesy.stretch(now) == 4);
        assert!(!courtesy.thinned(now.plus_ms(DAY_MS)));
    }
}
