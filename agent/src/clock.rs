//! The only file that reads a clock. Engines take time as an argument.

use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};
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

/// Time since the machine was started, with that in which it was suspended.
fn since_boot() -> Duration {
    #[cfg(any(target_os = "linux", target_os = "android", target_os = "fuchsia"))]
    const CLOCK: ClockId = ClockId::Boottime;
    // Here the monotonic clock goes on in suspend, or nothing better is to be had.
    #[cfg(not(any(target_os = "linux", target_os = "android", target_os = "fuchsia")))]
    const CLOCK: ClockId = ClockId::Monotonic;
    let time = clock_gettime(CLOCK);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    Duration::new(seconds, u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// The time that engines are given: the wall clock at the start plus the time since, so it never
/// goes back, whatever is done to the wall clock, and goes on while the machine is suspended.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    wall: Timestamp,
    started: Duration,
}

impl Clock {
    /// A clock that starts now.
    #[must_use]
    pub fn start() -> Self {
        Self { wall: wall(), started: since_boot() }
    }

    /// The time.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        let since = since_boot().saturating_sub(self.started).as_millis();
        self.wall.plus_ms(u64::try_from(since).unwrap_or(u64::MAX))
    }

    /// When it will be `at`, on the monotonic clock, unless the machine is suspended before.
    #[must_use]
    pub fn instant(&self, at: Timestamp) -> Instant {
        monotonic() + Duration::from_millis(at.since_ms(self.now()))
    }
}
