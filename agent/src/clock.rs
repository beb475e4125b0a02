//! The only file that reads a clock. Engines take time as an argument.

use std::time::Instant;

use tocsin_proto::time::Timestamp;

/// The monotonic clock, for durations and deadlines.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "this is the one place that reads it")]
pub fn monotonic() -> Instant {
    Instant::now()
}

/// The wall clock; the epoch when it stands before it.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "this is the one place that reads it")]
pub fn wall() -> Timestamp {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    Timestamp::from_ms(
        since.map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX)),
    )
}

/// The time that engines are given: the wall clock at the start plus monotonic time since, so it
/// never goes back, whatever is done to the wall clock.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    wall: Timestamp,
    started: Instant,
}

impl Clock {
    /// A clock that starts now.
    #[must_use]
    pub fn start() -> Self {
        Self { wall: wall(), started: monotonic() }
    }

    /// The time.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        let since = monotonic().saturating_duration_since(self.started).as_millis();
        self.wall.plus_ms(u64::try_from(since).unwrap_or(u64::MAX))
    }

    /// When it will be `at`, on the monotonic clock.
    #[must_use]
    pub fn instant(&self, at: Timestamp) -> Instant {
        self.started + std::time::Duration::from_millis(at.since_ms(self.wall))
    }
}
