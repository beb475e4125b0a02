//! The only file that reads a clock.

use tocsin_proto::time::Timestamp;

/// Wall time.
#[derive(Debug, Clone, Copy, Default)]
pub struct Clock;

impl Clock {
    /// Now.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "this is the file that reads the clock")]
    pub fn wall(self) -> Timestamp {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let ms = since.map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX));
        Timestamp::from_ms(ms)
    }
}
