//! What failed lately, by target and zone: rings of twelve buckets of ten seconds. Only scheduled
//! observations enter, so nobody can weigh more by probing more.

use serde::{Deserialize, Serialize};
use tocsin_proto::{id::TargetIndex, implicate::Layer};

use super::{
    fixed::{Ppm, share},
    params::WINDOW_BUCKETS,
    tally::{NOWHERE, ZONES_MAX},
};

/// Layers that are counted apart.
pub const COUNTED: [Layer; 7] =
    [Layer::Dns, Layer::Tld, Layer::Edge, Layer::Hosting, Layer::Aux, Layer::Site, Layer::Issuer];

/// Weight of observations, of failures, and of failures that implicate each layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Counts {
    /// Observed.
    pub observed: i64,
    /// Failed, in whatever way.
    pub failed: i64,
    /// Failed so that the layer is implicated, in the order of [`COUNTED`].
    by_layer: [i64; COUNTED.len()],
}

impl Counts {
    /// One observation of this weight.
    #[must_use]
    pub fn of(weight: i64, failed: bool) -> Self {
        Self {
            observed: weight,
            failed: if failed { weight } else { 0 },
            by_layer: [0; COUNTED.len()],
        }
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

    /// Takes away what was added.
    pub fn subtract(&mut self, other: &Self) {
        self.observed -= other.observed;
        self.failed -= other.failed;
        for (sum, less) in self.by_layer.iter_mut().zip(other.by_layer) {
            *sum -= less;
        }
    }
}

type Ring = [Counts; WINDOW_BUCKETS];

/// One target in one zone: the buckets, and their sum.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
struct Window {
    ring: Ring,
    sum: Counts,
}

/// One target: its windows by the zone's number, the last of them for no zone, and their sum.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
struct Row {
    zones: Vec<Window>,
    sum: Counts,
}

impl Row {
    fn zones(&self) -> impl Iterator<Item = (u8, &Window)> {
        let zone =
            |place: usize| u8::try_from(place).ok().filter(|zone| usize::from(*zone) < ZONES_MAX);
        let numbered = (0..).zip(&self.zones);
        numbered.map(move |(place, window)| (zone(place).unwrap_or(NOWHERE), window))
    }
}

/// The windows of all targets, by target number. Zones are numbers; [`super::tally::NOWHERE`] is
/// no zone.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Windows {
    round: u64,
    targets: Vec<Row>,
}

impl Windows {
    /// Moves to a later round: buckets older than the window are emptied.
    pub fn rotate(&mut self, round: u64) {
        let ahead = round.saturating_sub(self.round).min(WINDOW_BUCKETS as u64);
        self.round = self.round.max(round);
        for step in 0..ahead {
            let at = slot(self.round - step);
            for row in &mut self.targets {
                for window in &mut row.zones {
                    if let Some(bucket) = window.ring.get_mut(at).filter(|b| b.observed != 0) {
                        window.sum.subtract(bucket);
                        row.sum.subtract(bucket);
                        *bucket = Counts::default();
                    }
                }
            }
        }
    }

    /// Counts one observation in the present bucket.
    pub fn count(&mut self, target: TargetIndex, zone: u8, counts: &Counts) {
        let (at, index) = (slot(self.round), usize::from(target.0));
        if self.targets.len() <= index {
            self.targets.resize_with(index + 1, Row::default);
        }
        let Some(row) = self.targets.get_mut(index) else { return };
        let place = usize::from(zone).min(ZONES_MAX);
        if row.zones.len() <= place {
            row.zones.resize_with(place + 1, Window::default);
        }
        row.sum.add(counts);
        if let Some(window) = row.zones.get_mut(place) {
            window.sum.add(counts);
            if let Some(bucket) = window.ring.get_mut(at) {
                bucket.add(counts);
            }
        }
    }

    /// Counts what another has in its present bucket.
    pub fn take_present(&mut self, other: &Self) {
        let at = slot(other.round);
        for (target, row) in (0u16..).map(TargetIndex).zip(&other.targets) {
            for (zone, window) in row.zones() {
                if let Some(counts) = window.ring.get(at).filter(|counts| counts.observed != 0) {
                    self.count(target, zone, counts);
                }
            }
        }
    }

    /// A target's sums by zone; zones without observations are left out.
    pub fn by_zone(&self, target: TargetIndex) -> impl Iterator<Item = (u8, Counts)> {
        let zones = self.targets.get(usize::from(target.0)).into_iter().flat_map(Row::zones);
        zones.filter(|(_, window)| window.sum.observed != 0).map(|(zone, w)| (zone, w.sum))
    }

    /// A target's sums.
    #[must_use]
    pub fn of(&self, target: TargetIndex) -> Counts {
        self.targets.get(usize::from(target.0)).map_or_else(Counts::default, |row| row.sum)
    }
}

fn slot(round: u64) -> usize {
    usize::try_from(round % WINDOW_BUCKETS as u64).unwrap_or(0)
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
        assert_eq!(windows.by_zone(TargetIndex(3)).count(), 2);
        windows.rotate(112);
        assert_eq!(windows.of(TargetIndex(3)), one);
        windows.rotate(400);
        assert_eq!(windows.of(TargetIndex(3)), Counts::default());
    }
}
