//! Admission: whether a report is taken. Answers at once, with a reason.

use tocsin_proto::{
    catalogue::Catalogue,
    limits::{AGE_MAX_MS, FUTURE_TOLERANCE_MS, LATE_AFTER_MS, SEQ_WINDOW},
    message::Rejection,
    observation::Cause,
    report::{OpenError, Report, SignedReport},
    sign::Verifier,
    time::Timestamp,
};

/// Scheduled probes that an agent may make in a minute, over all targets (the agent's own cap).
const SCHEDULED_PER_MINUTE_MAX: u64 = 60;

/// A report whose signature fits its observer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified(Report);

impl Verified {
    /// By its signature.
    ///
    /// # Errors
    /// When the signature does not fit, or the body is none.
    pub fn signed(observer: &Verifier, signed: &SignedReport) -> Result<Self, Rejection> {
        signed.open(observer).map(Self).map_err(|error| match error {
            OpenError::Signature(_) => Rejection::Signature,
            OpenError::Body(_) => Rejection::Malformed,
        })
    }

    /// Without one, where the caller made the report itself: a simulation, whose signatures the
    /// end-to-end suites cover.
    #[must_use]
    pub const fn assumed(report: Report) -> Self {
        Self(report)
    }
}

/// Opens a report and checks everything about it that needs no history.
///
/// # Errors
/// Each refusal is a [`Rejection`]: it is counted, and told in the ack.
pub fn admit(
    now: Timestamp,
    observer: &Verifier,
    catalogue: &Catalogue,
    signed: &SignedReport,
) -> Result<Report, Rejection> {
    check(now, catalogue, Verified::signed(observer, signed)?)
}

/// Checks everything about a verified report that needs no history.
///
/// # Errors
/// As [`admit`].
pub fn check(
    now: Timestamp,
    catalogue: &Catalogue,
    Verified(report): Verified,
) -> Result<Report, Rejection> {
    if report.observations.is_empty() || report.seq == 0 {
        return Err(Rejection::Malformed);
    }
    let last = report.last_at();
    if last > now.plus_ms(FUTURE_TOLERANCE_MS) {
        return Err(Rejection::Future);
    }
    if now.since_ms(report.base()) > AGE_MAX_MS {
        return Err(Rejection::TooOld);
    }
    if report.observations.iter().any(|o| catalogue.target(o.target).is_none()) {
        return Err(Rejection::UnknownTarget);
    }
    let scheduled = report.observations.iter().filter(|o| o.cause == Cause::Scheduled).count();
    let minutes = last.since_ms(report.base()) / 60_000 + 1;
    if scheduled as u64 > SCHEDULED_PER_MINUTE_MAX * minutes {
        return Err(Rejection::Implausible);
    }
    Ok(report)
}

/// Whether an observation is too old to be in any live window.
#[must_use]
pub fn is_late(received_at: Timestamp, observed_at: Timestamp) -> bool {
    received_at.since_ms(observed_at) > LATE_AFTER_MS
}

/// Which numbers of one observer have been taken: the highest, and a bit for each of the 64
/// numbers up to it. Persisted with every commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SeqWindow {
    /// The highest number taken; 0 before the first.
    pub high: u64,
    /// Bit `n` is set when `high - n` was taken.
    pub bits: u64,
}

/// What a number is to a window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    /// Not taken before; it is now.
    New,
    /// Taken before.
    Duplicate,
    /// So far behind that nobody can tell.
    Stale,
}

impl SeqWindow {
    /// Takes a number, unless it was taken.
    pub const fn take(&mut self, seq: u64) -> Seen {
        if seq > self.high {
            let ahead = seq - self.high;
            self.bits = if ahead < SEQ_WINDOW { self.bits << ahead | 1 } else { 1 };
            self.high = seq;
            return Seen::New;
        }
        let behind = self.high - seq;
        if behind >= SEQ_WINDOW {
            return Seen::Stale;
        }
        let bit = 1 << behind;
        if self.bits & bit != 0 {
            return Seen::Duplicate;
        }
        self.bits |= bit;
        Seen::New
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tocsin_proto::{
        bounded::List,
        id::TargetIndex,
        observation::{Family, LogMs, Observation},
        outcome::Outcome,
        report::{Health, ResolverClass},
        sign::SecretKey,
    };

    use super::*;

    const NOW: Timestamp = Timestamp::from_s(1_800_000_000);

    fn report(base_s: u32, after_ds: u16, target: u16) -> Report {
        let observation = Observation {
            target: TargetIndex(target),
            after_ds,
            family: Family::V4,
            cause: Cause::Scheduled,
            outcome: Outcome::Ok,
            latency: LogMs(9),
            failure: None,
        };
        Report {
            seq: 1,
            base_s,
            probe_core: 1,
            health: Health::default(),
            resolver: ResolverClass::Local,
            observations: List::new(vec![observation]).unwrap(),
        }
    }

    fn check(report: &Report) -> Result<(), Rejection> {
        let key = SecretKey::from_seed(&[1; 32]);
        let verifier = key.public().verifier().unwrap();
        admit(NOW, &verifier, Catalogue::builtin(), &report.sign(&key)).map(|_| ())
    }

    #[test]
    fn each_refusal_has_its_reason() {
        let now = 1_800_000_000;
        assert_eq!(check(&report(now, 0, 0)), Ok(()));
        assert_eq!(check(&report(now - 7200, 0, 0)), Ok(()), "late, but taken");
        assert_eq!(check(&report(now, 310, 0)), Err(Rejection::Future));
        assert_eq!(check(&report(now - 8 * 86_400, 0, 0)), Err(Rejection::TooOld));
        assert_eq!(check(&report(now, 0, 60_000)), Err(Rejection::UnknownTarget));
        let empty = Report { observations: List::default(), ..report(now, 0, 0) };
        assert_eq!(check(&empty), Err(Rejection::Malformed));
        let many = vec![report(now, 0, 0).observations[0]; 61];
        let many = Report { observations: List::new(many).unwrap(), ..report(now, 0, 0) };
        assert_eq!(check(&many), Err(Rejection::Implausible));
        let other = SecretKey::from_seed(&[2; 32]).public().verifier().unwrap();
        let signed = report(now, 0, 0).sign(&SecretKey::from_seed(&[1; 32]));
        let refused = admit(NOW, &other, Catalogue::builtin(), &signed);
        assert_eq!(refused, Err(Rejection::Signature));
    }

    proptest! {
        #[test]
        fn a_number_is_taken_once(seqs in prop::collection::vec(1u64..200, 1..200)) {
            let mut window = SeqWindow::default();
            let mut taken = std::collections::BTreeSet::new();
            for seq in seqs {
                let high = window.high;
                match window.take(seq) {
                    Seen::New => prop_assert!(taken.insert(seq)),
                    Seen::Duplicate => prop_assert!(taken.contains(&seq)),
                    Seen::Stale => prop_assert!(seq + SEQ_WINDOW <= high),
                }
            }
        }
    }
}
