//! Turns observations into reports: when to send, and what goes together. Numbers, keys and disk
//! are the caller's.

use tocsin_proto::{
    bounded::List,
    id::TargetIndex,
    limits::{REPORT_INTERVAL_S_MAX, REPORT_OBSERVATIONS_MAX},
    observation::{Cause, Failure, Family, LogMs, Observation},
    outcome::Outcome,
    report::{Health, Report, ResolverClass},
    time::Timestamp,
};

/// What one probe saw, and when by the agent's own clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// When the probe began.
    pub at: Timestamp,
    /// Which target.
    pub target: TargetIndex,
    /// The address family.
    pub family: Family,
    /// Why it was probed.
    pub cause: Cause,
    /// What came of it.
    pub outcome: Outcome,
    /// The whole probe's time.
    pub latency: LogMs,
    /// Present exactly when the outcome is not `ok`.
    pub failure: Option<Failure>,
}

/// Observations of one report, in order of time; never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch(Vec<Seen>);

/// What a report says besides its observations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// Number of the report.
    pub seq: u64,
    /// The collector's clock minus the agent's, milliseconds.
    pub offset_ms: i64,
    /// Build of the probing code.
    pub probe_core: u16,
    /// The own line.
    pub health: Health,
    /// The system's resolver.
    pub resolver: ResolverClass,
}

impl Batch {
    /// Whether it holds a failure.
    #[must_use]
    pub fn has_failure(&self) -> bool {
        self.0.iter().any(|seen| !seen.outcome.is_answer())
    }

    /// What it holds.
    #[must_use]
    pub fn seen(&self) -> &[Seen] {
        &self.0
    }

    /// The report, in the collector's time.
    ///
    /// # Panics
    /// Never: batches are cut to the bound of a report.
    #[must_use]
    pub fn report(&self, stamp: Stamp) -> Report {
        let tenths = |at: Timestamp| at.as_ms().saturating_add_signed(stamp.offset_ms) / 100;
        let base_s = self.0.first().map_or(0, |first| tenths(first.at) / 10);
        let base_s = u32::try_from(base_s).unwrap_or(u32::MAX);
        let mut before = u64::from(base_s) * 10;
        let observations = self.0.iter().map(|seen| {
            let at = tenths(seen.at).max(before);
            let after_ds = u16::try_from(at - before).unwrap_or(u16::MAX);
            before = at;
            let Seen { target, family, cause, outcome, latency, failure, .. } = *seen;
            Observation { target, after_ds, family, cause, outcome, latency, failure }
        });
        Report {
            seq: stamp.seq,
            base_s,
            probe_core: stamp.probe_core,
            health: stamp.health,
            resolver: stamp.resolver,
            observations: List::new(observations.collect())
                .expect("a batch holds no more than a report may"),
        }
    }
}

/// Gap between two observations of one report, at most: what `after_ds` holds, less the base's
/// rounding. Milliseconds.
const GAP_MAX_MS: u64 = 6_550_000;

/// How long an answer to an ask waits for the others, milliseconds.
const ASKED_WAIT_MS: u64 = 700;

/// Observations that wait for their report.
#[derive(Debug)]
pub struct Outbox {
    waiting: Vec<Seen>,
    interval_ms: u64,
    oldest_since: Option<Timestamp>,
    /// When the first answer to an ask came that waits.
    asked_since: Option<Timestamp>,
}

impl Outbox {
    /// Empty.
    #[must_use]
    pub fn new(report_interval_s: u16) -> Self {
        let mut outbox =
            Self { waiting: Vec::new(), interval_ms: 0, oldest_since: None, asked_since: None };
        outbox.interval(report_interval_s);
        outbox
    }

    /// Sets the seconds between reports when all is well; cut to 1 to 170.
    pub fn interval(&mut self, report_interval_s: u16) {
        self.interval_ms = u64::from(report_interval_s.clamp(1, REPORT_INTERVAL_S_MAX)) * 1000;
    }

    /// Takes an observation. A failure is due at once, with every ok that waits: none of them is
    /// older than the interval, so they are its controls.
    #[must_use]
    pub fn push(&mut self, now: Timestamp, seen: Seen) -> Vec<Batch> {
        let at = self.waiting.partition_point(|other| other.at <= seen.at);
        self.waiting.insert(at, seen);
        self.oldest_since.get_or_insert(now);
        let asked = matches!(seen.cause, Cause::Asked { .. });
        if asked {
            self.asked_since.get_or_insert(now);
        }
        let full = self.waiting.len() >= REPORT_OBSERVATIONS_MAX;
        // The dozen answers to an ask come together, failures too: a report each would cost more
        // than the second that it saves.
        let urgent = !seen.outcome.is_answer() && !asked;
        if full || urgent { self.flush() } else { self.due(now) }
    }

    /// What is due by now.
    #[must_use]
    pub fn due(&mut self, now: Timestamp) -> Vec<Batch> {
        if self.next_deadline().is_some_and(|at| at <= now) { self.flush() } else { Vec::new() }
    }

    /// When something is due.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Timestamp> {
        let plain = self.oldest_since.map(|since| since.plus_ms(self.interval_ms));
        let asked = self.asked_since.map(|since| since.plus_ms(ASKED_WAIT_MS));
        plain.into_iter().chain(asked).min()
    }

    /// What waits, as the report that it would be now; `None` when nothing does, or more than one
    /// report holds.
    #[must_use]
    pub fn waiting(&self) -> Option<Batch> {
        let fit = !self.waiting.is_empty() && self.waiting.len() <= REPORT_OBSERVATIONS_MAX;
        fit.then(|| Batch(self.waiting.clone()))
    }

    /// Everything, now.
    #[must_use]
    pub fn flush(&mut self) -> Vec<Batch> {
        self.oldest_since = None;
        self.asked_since = None;
        let mut batches: Vec<Batch> = Vec::new();
        for seen in std::mem::take(&mut self.waiting) {
            match batches.last_mut() {
                Some(Batch(last)) if fits(last, &seen) => last.push(seen),
                _ => batches.push(Batch(vec![seen])),
            }
        }
        batches
    }
}

fn fits(batch: &[Seen], seen: &Seen) -> bool {
    batch.len() < REPORT_OBSERVATIONS_MAX
        && batch.last().is_some_and(|last| seen.at.since_ms(last.at) <= GAP_MAX_MS)
}

/// The class of a resolver by its address.
#[must_use]
pub fn resolver_class(resolvers: &[std::net::SocketAddr]) -> ResolverClass {
    let Some(first) = resolvers.first() else { return ResolverClass::Unknown };
    match first.ip().to_canonical().to_string().as_str() {
        "1.1.1.1"
        | "1.0.0.1"
        | "1.1.1.2"
        | "1.1.1.3"
        | "2606:4700:4700::1111"
        | "2606:4700:4700::1001" => ResolverClass::Cloudflare,
        "8.8.8.8" | "8.8.4.4" | "2001:4860:4860::8888" | "2001:4860:4860::8844" => {
            ResolverClass::Google
        }
        "9.9.9.9" | "9.9.9.10" | "9.9.9.11" | "149.112.112.112" | "2620:fe::fe" | "2620:fe::9" => {
            ResolverClass::Quad9
        }
        "208.67.222.222" | "208.67.220.220" | "2620:119:35::35" | "2620:119:53::53" => {
            ResolverClass::OpenDns
        }
        "4.2.2.1" | "4.2.2.2" | "94.140.14.14" | "94.140.15.15" | "185.222.222.222"
        | "76.76.2.0" | "77.88.8.8" => ResolverClass::OtherPublic,
        _ => ResolverClass::Local,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use tocsin_proto::{implicate::DnsPath, rules::RuleNumber};

    const START: Timestamp = Timestamp::from_s(1_800_000_000);

    fn seen(ms: u64, outcome: Outcome) -> Seen {
        let failure = (outcome != Outcome::Ok).then_some(Failure {
            rule: RuleNumber::NONE,
            dns: DnsPath::Unconfirmed,
            status: 0,
            phases: [LogMs(0); 4],
        });
        Seen {
            at: START.plus_ms(ms),
            target: TargetIndex(1),
            family: Family::V4,
            cause: Cause::Scheduled,
            outcome,
            latency: LogMs(7),
            failure,
        }
    }

    fn stamp(offset_ms: i64) -> Stamp {
        let (health, resolver) = (Health::default(), ResolverClass::Local);
        Stamp { seq: 1, offset_ms, probe_core: 1, health, resolver }
    }

    #[test]
    fn oks_wait_and_a_failure_takes_them_along() {
        let mut outbox = Outbox::new(60);
        assert!(outbox.push(START, seen(0, Outcome::Ok)).is_empty());
        assert!(outbox.push(START.plus_ms(20_000), seen(20_000, Outcome::Ok)).is_empty());
        let batches = outbox.push(START.plus_ms(40_000), seen(40_000, Outcome::TcpTimeout));
        assert_eq!(batches.len(), 1);
        assert!(batches[0].has_failure() && batches[0].seen().len() == 3);
        assert_eq!(outbox.next_deadline(), None);
        let _waits = outbox.push(START.plus_ms(50_000), seen(50_000, Outcome::Challenged));
        assert!(outbox.due(START.plus_ms(109_999)).is_empty());
        assert_eq!(outbox.due(START.plus_ms(110_000)).len(), 1);
    }

    #[test]
    fn a_class_is_known_by_its_address() {
        let check = |text: &str, class| {
            assert_eq!(resolver_class(&[text.parse().unwrap()]), class, "{text}");
        };
        check("8.8.4.4:53", ResolverClass::Google);
        check("[::ffff:1.1.1.1]:53", ResolverClass::Cloudflare);
        check("192.168.1.1:53", ResolverClass::Local);
        assert_eq!(resolver_class(&[]), ResolverClass::Unknown);
    }

    proptest! {
        #[test]
        fn nothing_is_lost_and_times_come_back(
            gaps in proptest::collection::vec((0u64..10_000_000, any::<bool>()), 1..200),
            offset in -100_000i64..100_000,
        ) {
            let mut outbox = Outbox::new(170);
            let (mut at, mut batches, mut sent) = (0, Vec::new(), Vec::new());
            for (gap, fails) in gaps {
                at += gap;
                let seen = seen(at, if fails { Outcome::TcpReset } else { Outcome::Ok });
                sent.push(seen);
                batches.extend(outbox.push(START.plus_ms(at), seen));
            }
            batches.extend(outbox.flush());
            let got: Vec<Seen> = batches.iter().flat_map(|b| b.seen().to_vec()).collect();
            prop_assert_eq!(&got, &sent);
            for batch in &batches {
                let report = batch.report(stamp(offset));
                prop_assert!(!report.observations.is_empty());
                for ((time, _), seen) in report.timed().zip(batch.seen()) {
                    let expect = seen.at.as_ms().saturating_add_signed(offset);
                    prop_assert!(time.as_ms() <= expect && expect - time.as_ms() < 100);
                }
            }
        }
    }
}
