//! Chance without a stream: every throw is a hash of a seed and of what it is about, so that no
//! throw depends on how many others were made before it.

/// A source of throws.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dice(u64);

/// The finalizer of SplitMix64 (Steele, Lea and Flood, Fast Splittable Pseudorandom Number
/// Generators, OOPSLA 2014, with the constants of Stafford's variant 13).
const fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// The increment of SplitMix64: the odd number nearest to 2^64 over the golden ratio.
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

impl Dice {
    /// From a seed.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self(mix(seed.wrapping_add(GOLDEN)))
    }

    /// Dice for one thing: another one gives other throws.
    #[must_use]
    pub const fn of(self, what: u64) -> Self {
        Self(mix(self.0.wrapping_add(GOLDEN).wrapping_add(mix(what))))
    }

    /// Dice for something that has a name (FNV-1a over its bytes).
    #[must_use]
    pub fn named(self, what: &str) -> Self {
        let hash = what.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
        });
        self.of(hash)
    }

    /// A number.
    #[must_use]
    pub const fn throw(self) -> u64 {
        mix(self.0 ^ GOLDEN)
    }

    /// A number below `end`; 0 when that is 0.
    #[must_use]
    pub const fn below(self, end: u64) -> u64 {
        ((self.throw() as u128 * end as u128) >> 64) as u64
    }

    /// Whether something of this chance, in millionths, happens.
    #[must_use]
    pub const fn happens(self, ppm: i64) -> bool {
        (self.below(1_000_000) as i64) < ppm
    }

    /// One of some weights, by its place; 0 when there are none.
    #[must_use]
    pub fn pick(self, weights: &[u32]) -> usize {
        let mut left = self.below(weights.iter().map(|weight| u64::from(*weight)).sum());
        for (at, weight) in weights.iter().enumerate() {
            match left.checked_sub(u64::from(*weight)) {
                Some(less) => left = less,
                None => return at,
            }
        }
        0
    }

    /// A number of mean 0 and deviation 1, in thousandths: the sum of twelve even ones less six
    /// (Irwin-Hall).
    #[must_use]
    pub fn normal_milli(self) -> i64 {
        let sum: u64 = (0..12).map(|n| self.of(n).below(1_000)).sum();
        i64::try_from(sum).unwrap_or(0) - 6_000
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn throws_are_even_and_repeat() {
        let dice = Dice::new(7);
        let hits = (0..100_000).filter(|n| dice.of(*n).happens(250_000)).count();
        assert!((24_500..25_500).contains(&hits), "{hits}");
        assert_eq!(dice.of(3).throw(), Dice::new(7).of(3).throw());
        assert_ne!(dice.of(3).throw(), dice.of(4).throw());
        let picked = (0..90_000).filter(|n| dice.of(*n).pick(&[1, 2, 6]) == 2).count();
        assert!((59_000..61_000).contains(&picked), "{picked}");
        let mean: i64 = (0..10_000).map(|n| dice.of(n).normal_milli()).sum::<i64>() / 10_000;
        assert!(mean.abs() < 40, "{mean}");
    }
}
