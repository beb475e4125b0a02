//! How long a target usually takes, as this agent sees it. An answer that takes over five times as
//! long is `slow`: shown, and never held against anybody.

use std::collections::BTreeMap;

use tocsin_proto::{id::TargetIndex, observation::Family};

/// Times the usual at which an answer is slow.
const TIMES: u64 = 5;
/// An answer within this many milliseconds is never slow, whatever is usual: nobody notices.
const FLOOR_MS: u64 = 1_000;
/// Answers before anything is usual.
const ANSWERS_MIN: u8 = 8;
/// Weight of the newest answer: 1/16, so that a day of slowness becomes usual and an hour does not.
const SHIFT: u32 = 4;

#[derive(Debug, Clone, Copy, Default)]
struct Time {
    /// Milliseconds times 16.
    scaled_ms: u64,
    answers: u8,
}

/// The usual times.
#[derive(Debug, Default)]
pub struct Usual(BTreeMap<(TargetIndex, Family), Time>);

impl Usual {
    /// Takes the time of an answer, and says whether it was slow.
    pub fn is_slow(&mut self, target: TargetIndex, family: Family, ms: u64) -> bool {
        let time = self.0.entry((target, family)).or_default();
        let ms = ms.min(u64::from(u32::MAX));
        let slow = time.answers >= ANSWERS_MIN
            && ms > FLOOR_MS
            && ms << SHIFT > time.scaled_ms.saturating_mul(TIMES);
        time.scaled_ms = match time.answers {
            0 => ms << SHIFT,
            _ => time.scaled_ms - (time.scaled_ms >> SHIFT) + ms,
        };
        time.answers = time.answers.saturating_add(1).min(ANSWERS_MIN);
        slow
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slow_is_five_times_the_usual() {
        let mut usual = Usual::default();
        let mut take = |ms| usual.is_slow(TargetIndex(1), Family::V4, ms);
        assert!(!take(9_000), "nothing is usual yet");
        for _ in 0..400 {
            assert!(!take(300));
        }
        assert!(!take(1_400));
        assert!(take(2_000));
        for _ in 0..100 {
            take(2_000);
        }
        assert!(!take(2_000), "what lasts becomes usual");
    }

    #[test]
    fn what_nobody_notices_is_not_slow() {
        let mut usual = Usual::default();
        let mut take = |ms| usual.is_slow(TargetIndex(1), Family::V4, ms);
        for _ in 0..20 {
            assert!(!take(2));
        }
        assert!(!take(900));
    }
}
