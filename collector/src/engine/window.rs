//! What failed lately, by target and zone: rings of twelve buckets of ten seconds. Only scheduled
//! observations enter, so nobody can weigh more by probing more.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use tocsin_proto::{id::TargetIndex, implicate::Layer};

use super::{
    fixed::{Ppm, share},
    params::WINDOW_BUCKETS,
};

/// Layers that are counted apart.
pub const COUNTED: [Layer; 5] = [Layer::Dns, Layer::Edge, Layer::Hosting, Layer::Aux, Layer::Site];

/// Weight of observations, of failures, and of failures that implicate each layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Counts {
    /// Observed.
    pub observed: i64,
    /// Failed, in whatever way.
    pub failed: i64,
    /// Failed so that the layer is implicated, in the order of [`COUNTED`].
    by_layer: [i64; 5],
}

impl Counts {
    /// One observation of this weight.
    #[must_use]
    pub fn of(weight: i64, failed: bool) -> Self {
        Self { observed: weight, failed: if failed { weight } else { 0 }, by_layer: [0; 5] }
    }

    /// Weight of failures that implicate a layer.
    #[must_use]
    pub fn implicating(&self, layer: Layer) -> i64 {
        COUNTED.iter().zip(self.by_layer).find(|(l, _)| **l == layer).map_or(0, |(_, sum)| sum)
    }

    /// Adds to a layer.
    pub fn implicate(&mut self, layer: Layer, weight: i64) {
        for (counted, sum) in COUNTED.iter().zip(&mut self.by_layer) {
            if *counted == layer {
                *sum += weight;
            }
        }
    }

    /// Rate of failures that implicate a layer.
    #[must_use]
    pub fn rate(&self, layer: Layer) -> Ppm {
        share(self.implicating(layer), self.observed)
    }

    /// Rate of failures of any kind.
    #[must_use]
    pub const fn failure_rate(&self) -> Ppm {
        share(self.failed, self.observed)
    }

    /// Adds other counts.
    pub fn add(&mut self, other: &Self) {
        self.observed += other.observed;
        self.failed += other.failed;
        for (sum, more) in self.by_layer.iter_mut().zip(other.by_layer) {
            *sum += more;
        }
    }
}

type Ring = [Counts; WINDOW_BUCKETS];

/// The windows of all targets. Zones are numbers; [`super::detector::NOWHERE`] is no zone.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Windows {
    round: u64,
    targets: BTreeMap<TargetIndex, BTreeMap<u8, Ring>>,
}

impl Windows {
    /// Moves to a later round: buckets older than the window are emptied.
    pub fn rotate(&mut self, round: u64) {
        let ahead = round.saturating_sub(self.round).min(WINDOW_BUCKETS as u64);
        self.round = self.round.max(round);
        for step in 0..ahead {
            let at = slot(self.round - step);
            for zones in self.targets.values_mut() {
                for ring in zones.values_mut() {
                    if let Some(bucket) = ring.get_mut(at) {
                        *bucket = Counts::default();
                    }
                }
            }
        }
        self.targets.retain(|_, zones| {
            zones.retain(|_, ring| ring.iter().any(|bucket| bucket.observed != 0));
            !zones.is_empty()
        });
    }

    /// Counts one observation in the present bucket.
    pub fn count(&mut self, target: TargetIndex, zone: u8, counts: &Counts) {
        let at = slot(self.round);
        let ring = self.targets.entry(target).or_default().entry(zone).or_default();
        if let Some(bucket) = ring.get_mut(at) {
            bucket.add(counts);
        }
    }

    /// A target's sums by zone.
    #[must_use]
    pub fn by_zone(&self, target: TargetIndex) -> BTreeMap<u8, Counts> {
        let Some(zones) = self.targets.get(&target) else { return BTreeMap::new() };
        zones.iter().map(|(zone, ring)| (*zone, total(ring.iter()))).collect()
    }

    /// A target's sums.
    #[must_use]
    pub fn of(&self, target: TargetIndex) -> Counts {
        let zones = self.targets.get(&target).into_iter().flat_map(BTreeMap::values);
        total(zones.flatten())
    }
}

fn slot(round: u64) -> usize {
    usize::try_from(round % WINDOW_BUCKETS as u64).unwrap_or(0)
}

fn total<'a>(buckets: impl Iterator<Item = &'a Counts>) -> Counts {
    let mut sum = Counts::default();
    for bucket in buckets {
        sum.add(bucket);
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_forgets_after_twelve_rounds() {
        let mut windows = Windows::default();
        windows.rotate(100);
        let mut one = Counts::of(2, false);
        one.failed = 1;
        one.implicate(Layer::Edge, 1);
        windows.count(TargetIndex(3), 1, &one);
        windows.rotate(105);
        windows.count(TargetIndex(3), 2, &one);
        let sum = windows.of(TargetIndex(3));
        assert_eq!((sum.observed, sum.rate(Layer::Edge), sum.rate(Layer::Dns)), (4, 500_000, 0));
        windows.rotate(111);
        assert_eq!(windows.by_zone(TargetIndex(3)).len(), 2);
        windows.rotate(112);
        assert_eq!(windows.of(TargetIndex(3)), one);
        windows.rotate(400);
        assert_eq!(windows.of(TargetIndex(3)), Counts::default());
    }
}
